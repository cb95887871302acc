// Fuzzing: any bytes, cut anywhere, through the state machine. For a long run:
//
//	go test -run - -fuzz FuzzText -fuzztime 1h

package main

import (
	"bytes"
	"flag"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// A fuzzer's mode is a set of these.
const (
	fuzzSmallChunks = 1 << iota // values are chunked from 1 KB on
	fuzzNoEvict
	fuzzNoCas
	fuzzAuth       // -Y or -S, as fits the protocol
	fuzzDeaf       // the client reads only after the server has read its request
	fuzzHalfClosed // the client closes its half and waits for the server's
	fuzzLimits     // limits on memory for read buffers and replies
	fuzzVerbose
)

var devNull, _ = os.OpenFile(os.DevNull, os.O_WRONLY, 0)

// quiet discards what mc9 prints in this process until the test ends.
func quiet(t testing.TB) {
	stderr := os.Stderr
	os.Stderr = devNull
	t.Cleanup(func() { os.Stderr = stderr })
}

// fuzzAdd adds the conversations to a corpus.
func fuzzAdd(f *testing.F, pattern string, binary bool) {
	files, _ := filepath.Glob(pattern)
	if len(files) == 0 {
		f.Fatal("no conversations")
	}
	for i, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		var in strings.Builder
		isBinary := false
		for line := range strings.Lines(string(text)) {
			line = strings.TrimSuffix(line, "\n")
			if len(expand(line)) > 5000 {
				continue // fuzzing is slow with large inputs
			}
			switch {
			case line == "% binary" || line == "% text":
				isBinary = line == "% binary"
			case line == "" || strings.ContainsAny(line[:1], "\t#%") || isBinary != binary:
			case binary:
				packet, err := parsePacket(expand(line))
				if err != nil {
					f.Fatal(file, err)
				}
				in.WriteString(packet)
			default:
				in.WriteString(expand(line) + "\r\n")
			}
			if in.Len() > 2000 {
				f.Add([]byte(in.String()), uint16(i), uint8(i))
				in.Reset()
			}
		}
		f.Add([]byte(in.String()), uint16(i), uint8(i))
	}
}

// fuzzInit makes an empty store and a worker that does not run.
func fuzzInit(t testing.TB, mode uint8) *thread {
	storeInit(t, 4, func() {
		settings.hashpowerInit = 12
		settings.lru.crawler.Store(false)
		settings.evictToFree = mode&fuzzNoEvict == 0
		settings.useCas = mode&fuzzNoCas == 0
		if mode&fuzzSmallChunks != 0 {
			settings.slab.chunkSizeMax = 1024
		}
		if mode&fuzzVerbose != 0 {
			settings.verbose.Store(3)
			t.Cleanup(func() { settings.verbose.Store(0) })
			quiet(t)
		}
		if mode&fuzzAuth != 0 {
			settings.auth.sasl = true
			settings.auth.file = "testdata/authfile"
			if problem := authfileLoad(settings.auth.file); problem != "" {
				t.Fatal(problem)
			}
		}
	})
	th := threads[0]
	th.bufs.rbufLimit, th.bufs.respLimit = 0, 0
	if mode&fuzzLimits != 0 {
		th.bufs.rbufLimit, th.bufs.respLimit = 1, 20
	}
	return th
}

// fuzzStart sets up what all inputs share.
func fuzzStart(f testing.TB) {
	before := threads
	f.Cleanup(func() { threads = before })
	settingsInit()
	connInit()
	threads = []*thread{new(thread)}
	setupThread(threads[0])
	extInit(f, false)
	fuzzStorage, extStorage = extStorage, nil
	fuzzRuns, fuzzHeap = 0, 0 // with the race detector extstore's buffers are on the heap
}

// fuzzWrite writes all that it can to extstore.
func fuzzWrite() {
	for id := storageMinClass(); extStorage != nil && id <= largestClsid; id++ {
		for lruPullTail(id, hotLru, 0, 0, 0, nil) > 0 || lruPullTail(id, warmLru, 0, 0, 0, nil) > 0 || storageWrite(id, 0) {
		}
	}
}

// fuzzCheck checks what must hold when no connection is open.
func fuzzCheck(t testing.TB, th *thread, c *conn) {
	if c.val.item != nil || c.resp != nil || c.in.rbuf != nil && c.transport != udpTransport {
		t.Fatalf("still held: item %v, resp %v, %d bytes of rbuf", c.val.item, c.resp, len(c.in.rbuf))
	}
	rbufTrim(th)
	if len(th.bufs.rbufCache) != th.bufs.rbufs {
		t.Fatalf("%d read buffers were made and %d are back", th.bufs.rbufs, len(th.bufs.rbufCache))
	}
	if th.ext.ios != 0 || th.ext.ioQueue != nil || c.respsSuspended.Load() != 0 {
		t.Fatal("a read from extstore is left")
	}
	if th.bufs.respCount != 0 {
		t.Fatalf("%d replies are not freed", th.bufs.respCount)
	}
	if !locksFree() {
		t.Fatal("a lock is held")
	}
	checkStore(t)
	if fuzzRuns++; fuzzRuns%50 == 0 {
		heap := heapAlloc()
		if fuzzHeap == 0 {
			fuzzHeap = heap
		}
		limit := uint64(8 << 20)
		if flag.Lookup("test.fuzzworker").Value.String() == "true" {
			limit = 64 << 20 // the fuzzer itself needs memory, too
		}
		if heap > fuzzHeap+limit {
			t.Fatalf("%d MB on the heap, %d at first", heap>>20, fuzzHeap>>20)
		}
	}
}

var (
	fuzzStorage *storeEngine // in use where extStorage is not nil

	fuzzRuns int
	fuzzHeap uint64 // bytes after the first 50 inputs
)

// fuzzSkip skips inputs that start or need threads.
func fuzzSkip(t *testing.T, in []byte) {
	for _, word := range []string{"crawl ", "dump", "watch"} {
		if bytes.Contains(in, []byte(word)) {
			t.Skip(word)
		}
	}
}

// fuzzConn sends in, cut at random places, to a server that speaks protocol, and
// then hangs up.
func fuzzConn(t *testing.T, in []byte, cut uint16, mode uint8, bproto protocol) {
	fuzzSkip(t, in)
	th := fuzzInit(t, mode)
	if extStorage = nil; cut&2 != 0 {
		extStorage = fuzzStorage
		extStorage.noNowait.Store(cut&1 != 0)
		settings.ext.itemSize.Store(100)
		settings.ext.recacheRate.Store(uint32(cut >> 2 & 3))
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	client := fds[1]
	defer unix.Close(client)
	c := connNew(fds[0], connNewCmd, localTransport, th, bproto)

	var buf [64 << 10]byte
	// serve has the server do everything it can without further input.
	serve := func(deaf bool) {
		for c.state != connClosed {
			waiting, _ := unix.IoctlGetInt(fds[0], unix.TIOCINQ)
			state, before := c.state, waiting+c.in.rbytes
			fuzzWrite()
			drive(c)
			if len(c.in.rbuf) > 2*(len(in)+readBufferSize) {
				t.Fatalf("a read buffer of %d bytes for %d", len(c.in.rbuf), len(in))
			}
			n := 0
			if !deaf {
				n, _ = unix.Read(client, buf[:])
			}
			if c.state == connClosed {
				return
			}
			waiting, _ = unix.IoctlGetInt(fds[0], unix.TIOCINQ)
			if n <= 0 && waiting+c.in.rbytes == before && c.state == state {
				return
			}
		}
	}
	r := rand.New(rand.NewPCG(uint64(cut), 0))
	for rest := in; len(rest) > 0 && c.state != connClosed; {
		piece := rest
		if cut != 0 {
			piece = rest[:min(len(rest), 1+r.IntN(1<<r.IntN(13)))]
		}
		n, err := unix.Write(client, piece)
		rest = rest[max(n, 0):]
		serve(mode&fuzzDeaf != 0 && err == nil)
	}
	if mode&fuzzHalfClosed != 0 {
		unix.Shutdown(client, unix.SHUT_WR)
		serve(false)
	} else {
		unix.Shutdown(client, unix.SHUT_RDWR)
		serve(true)
	}
	if c.state != connClosed {
		t.Fatalf("the client has hung up, but the state is %v", stateText(c.state))
	}
	fuzzCheck(t, th, c)
}

func FuzzText(f *testing.F) {
	fuzzStart(f)
	fuzzAdd(f, "testdata/[!m]*.mc", false)
	f.Fuzz(func(t *testing.T, in []byte, cut uint16, mode uint8) {
		fuzzConn(t, in, cut, mode, asciiProt)
	})
}

func FuzzMeta(f *testing.F) {
	fuzzStart(f)
	fuzzAdd(f, "testdata/meta*.mc", false)
	f.Fuzz(func(t *testing.T, in []byte, cut uint16, mode uint8) {
		// The first command is one of these, then anything may follow.
		cmd := []string{"mg", "ms", "md", "ma", "mn", "me"}[int(cut)%6]
		fuzzConn(t, append([]byte(cmd+" "), in...), cut, mode, negotiatingProt)
	})
}

func FuzzBinary(f *testing.F) {
	fuzzStart(f)
	fuzzAdd(f, "testdata/binary*.mc", true)
	fuzzAdd(f, "testdata/sasl*.mc", true)
	f.Fuzz(func(t *testing.T, in []byte, cut uint16, mode uint8) {
		fuzzConn(t, in, cut, mode, binaryProt)
	})
}

// If cut is odd, FuzzUdp's datagrams have a valid header.
func FuzzUdp(f *testing.F) {
	fuzzStart(f)
	fuzzAdd(f, "testdata/[a-g]*.mc", false)
	fuzzAdd(f, "testdata/binary*.mc", true)
	socket := func() (fd int, sa unix.Sockaddr) {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			f.Fatal(err)
		}
		unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}})
		sa, err = unix.Getsockname(fd)
		if err != nil {
			f.Fatal(err)
		}
		return fd, sa
	}
	client, _ := socket()
	server, sa := socket()
	f.Fuzz(func(t *testing.T, in []byte, cut uint16, mode uint8) {
		th := fuzzInit(t, mode&^fuzzAuth)
		c := connNew(server, connRead, udpTransport, th, negotiatingProt)
		defer pollDel(&th.poll, server)
		var buf [64 << 10]byte
		r := rand.New(rand.NewPCG(uint64(cut), 0))
		for rest := in; len(rest) > 0; {
			n := 1 + r.IntN(min(len(rest), 1<<(6+r.IntN(8))))
			datagram := rest[:n]
			rest = rest[n:]
			if cut&1 != 0 {
				datagram = append([]byte{0, 1, 0, 0, 0, 1, 0, 0}, datagram...)
			}
			unix.Sendto(client, datagram, 0, sa)
			for drive(c); c.inRound; drive(c) {
			}
			for {
				n, err := unix.Read(client, buf[:])
				if err != nil {
					break
				}
				if n < udpHeaderSize || n > udpMaxPayloadSize {
					t.Fatalf("a datagram of %d bytes", n)
				}
			}
		}
		drive(c) // send what did not fit
		if c.state != connRead {
			t.Fatal(stateText(c.state))
		}
		fuzzCheck(t, th, c)
	})
}

// FuzzHttp: any bytes, arriving one by one, at the port of --metrics.
func FuzzHttp(f *testing.F) {
	for _, s := range []string{"GET /metrics HTTP/1.1\r\n\r\n", "HEAD /?a HTTP/1.0\n\n", "POST / HTTP/1.1\r\nA: b\r\n\r\n", "get a\r\n", "\x16\x03\x01"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		if bytes.Contains(in, []byte("/healthz")) {
			return // would ask the workers
		}
		for n := range in {
			method, path, ok := httpRequest(in[:n+1], n+1 == len(in))
			if !ok {
				continue
			}
			if b := httpAnswer(nil, method, path); !bytes.HasPrefix(b, []byte("HTTP/1.1 ")) {
				t.Fatalf("%q: %q", in[:n+1], b)
			}
			return
		}
		if len(in) > 0 {
			t.Fatalf("%q: no reply", in)
		}
	})
}

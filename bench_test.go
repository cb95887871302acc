// Benchmarks: a request of each kind through the state machine, and the store.
// default.pgo is made from them; see the README.

package main

import (
	"fmt"
	"math/bits"
	"math/rand/v2"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// A benchRequest is sent to a server that holds 100 bytes under key k, 1 MB under
// c and a number under n. Only the length of the reply is checked.
var benchRequests = []struct{ name, request, reply string }{
	{"get", "get k\r\n", "VALUE k 0 100\r\n{100}\r\nEND\r\n"},
	{"gets", "gets k\r\n", "VALUE k 0 100 1\r\n{100}\r\nEND\r\n"},
	{"miss", "get missing\r\n", "END\r\n"},
	{"mget100", "get" + strings.Repeat(" k", 100) + "\r\n", strings.Repeat("VALUE k 0 100\r\n{100}\r\n", 100) + "END\r\n"},
	{"pipe16", strings.Repeat("get k\r\n", 16), strings.Repeat("VALUE k 0 100\r\n{100}\r\nEND\r\n", 16)},
	{"chunked", "get c\r\n", "VALUE c 0 1000000\r\n{1000000}\r\nEND\r\n"},
	{"gat", "gat 0 k\r\n", "VALUE k 0 100\r\n{100}\r\nEND\r\n"},
	{"set", "set s 0 0 100\r\n{100}\r\n", "STORED\r\n"},
	{"pipe16set", strings.Repeat("set s 0 0 100\r\n{100}\r\n", 16), strings.Repeat("STORED\r\n", 16)},
	{"add", "add k 0 0 100\r\n{100}\r\n", "NOT_STORED\r\n"},
	{"replace", "replace s 0 0 100\r\n{100}\r\n", "STORED\r\n"},
	{"append", "set a 0 0 1\r\n1\r\nappend a 0 0 1\r\n2\r\n", "STORED\r\nSTORED\r\n"},
	{"cas", "cas k 0 0 1 99\r\n1\r\n", "EXISTS\r\n"},
	{"incr", "incr n 1\r\n", "{10}\r\n"},
	{"delete", "set d 0 0 1\r\n1\r\ndelete d\r\n", "STORED\r\nDELETED\r\n"},
	{"touch", "touch k 0\r\n", "TOUCHED\r\n"},
	{"mg", "mg k t f v\r\n", "VA 100 t-1 f0\r\n{100}\r\n"},
	{"pipe16mg", strings.Repeat("mg k v\r\n", 16), strings.Repeat("VA 100\r\n{100}\r\n", 16)},
	{"ms", "ms s 100 T0\r\n{100}\r\n", "HD\r\n"},
	{"pipe16ms", strings.Repeat("ms s 100\r\n{100}\r\n", 16), strings.Repeat("HD\r\n", 16)},
	{"md", "md missing\r\n", "NF\r\n"},
	{"ma", "ma n\r\n", "HD\r\n"},
	{"mn", "mn\r\n", "MN\r\n"},
	{"binget", "\x80\x00\x00\x01{4 0}\x00\x00\x00\x01{12 0}k", "{24}{4}{100}"},
	{"binset", "\x80\x01\x00\x01\x08{3 0}\x00\x00\x00\x6d{12 0}{8 0}s{100}", "{24}"},
}

// benchText expands "{n}" to n letters and "{n 0}" to n zero bytes.
func benchText(s string) string {
	var b strings.Builder
	for {
		before, rest, found := strings.Cut(s, "{")
		b.WriteString(before)
		if !found {
			return b.String()
		}
		run, after, _ := strings.Cut(rest, "}")
		letter := "x"
		if strings.HasSuffix(run, " 0") {
			letter = "\x00"
		}
		n := atoi(strings.TrimSuffix(run, " 0"))
		b.WriteString(strings.Repeat(letter, n))
		s = after
	}
}

// benchConn returns a connection whose worker does not run, and the client's end
// of it.
func benchConn(tb testing.TB) (c *conn, client int) {
	connInit()
	t := new(thread)
	setupThread(t)
	c, client = benchPair(tb, t)
	drive(c)
	return c, client
}

// drive runs one round of c's worker, with an event for c only, and waits for
// its reads from extstore.
func drive(c *conn) {
	roundAdd(c.thread, c)
	roundServe(c.thread)
	for c.thread.ext.ios > 0 {
		threadIoQueueSubmit(c.thread)
		threadLibeventProcess(c.thread)
		roundServe(c.thread)
		runtime.Gosched()
	}
}

// benchPair opens a connection served by worker t.
func benchPair(tb testing.TB, t *thread) (c *conn, client int) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		tb.Fatal(err)
	}
	unix.SetNonblock(fds[0], true)
	for _, fd := range fds {
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, 4<<20)
	}
	c = connNew(fds[0], connNewCmd, localTransport, t, negotiatingProt)
	tb.Cleanup(func() {
		unix.Close(fds[1])
		drive(c)
	})
	return c, fds[1]
}

// benchStore makes the store that the benchRequests need.
func benchStore(tb testing.TB) {
	storeInit(tb, 64, nil)
	th := testThread()
	set(th, nreadSet, "k", strings.Repeat("x", 100), 0)
	set(th, nreadSet, "c", strings.Repeat("x", 1e6), 0)
	set(th, nreadSet, "n", "1000000000", 0)
}

// benchAsk sends request and reads len(reply) bytes.
func benchAsk(tb testing.TB, c *conn, client int, request, reply []byte) {
	rawWrite(client, request)
	for got := 0; got < len(reply); {
		drive(c)
		n, e := rawRead(client, reply[got:])
		if e != 0 && e != unix.EINTR {
			tb.Fatal(e)
		}
		got += max(n, 0)
	}
}

func BenchmarkRequest(b *testing.B) {
	benchStore(b)
	for _, r := range benchRequests {
		b.Run(r.name, func(b *testing.B) {
			c, client := benchConn(b)
			request, reply := []byte(benchText(r.request)), make([]byte, len(benchText(r.reply)))
			b.ReportAllocs()
			for b.Loop() {
				benchAsk(b, c, client, request, reply)
			}
		})
	}
}

func TestRequestAllocs(t *testing.T) {
	benchStore(t)
	for _, r := range benchRequests {
		c, client := benchConn(t)
		request, reply := []byte(benchText(r.request)), make([]byte, len(benchText(r.reply)))
		if n := testing.AllocsPerRun(10, func() { benchAsk(t, c, client, request, reply) }); n != 0 {
			t.Errorf("%s: %v allocations", r.name, n)
		}
	}
}

func BenchmarkAccept(b *testing.B) {
	storeInit(b, 64, nil)
	connInit()
	mainPoll = poll{}
	if err := pollInit(&mainPoll); err != nil {
		b.Fatal(err)
	}
	lfd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0)
	if err == nil {
		err = unix.Bind(lfd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}})
	}
	if err == nil {
		err = unix.Listen(lfd, 1024)
	}
	if err != nil {
		b.Fatal(err)
	}
	addr, _ := unix.Getsockname(lfd)
	t := new(thread)
	setupThread(t)
	threads, lastThread = []*thread{t}, -1
	listening := connNew(lfd, connListening, tcpTransport, nil, negotiatingProt)
	defer connClose(listening)
	b.ReportAllocs()
	for b.Loop() {
		fd, _ := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
		if err := unix.Connect(fd, addr); err != nil {
			b.Fatal(err)
		}
		unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}) // no TIME_WAIT
		driveListening(listening)
		sfd := t.evQueue.head.sfd
		threadLibeventProcess(t)
		unix.Close(fd)
		connClose(conns[sfd].Load())
	}
}

// benchmarkFill makes a store of n items, and returns their keys.
func benchmarkFill(b *testing.B, megs, items int) [][]byte {
	storeInit(b, megs, func() { settings.hashpowerInit = bits.Len(uint(items)) })
	th := testThread()
	keys := make([][]byte, items)
	value := pattern(100, 0)
	for i := range keys {
		keys[i] = fmt.Appendf(nil, "benchmark:%d", i)
		set(th, nreadSet, string(keys[i]), value, 0)
	}
	rand.Shuffle(len(keys), func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
	b.ReportAllocs()
	b.ResetTimer()
	return keys
}

// benchGet does what a request for an existing key does to the store.
func benchGet(th *thread, key []byte) {
	hv := hash(key)
	itemLock(hv)
	if it := doItemGet(key, hv, th, doUpdate); it != nil {
		doItemRemove(it)
	}
	itemUnlock(hv)
}

func BenchmarkLookup(b *testing.B) {
	keys := benchmarkFill(b, 512, 1<<20)
	th := testThread()
	b.Run("one", func(b *testing.B) {
		b.ReportAllocs()
		for i := range b.N {
			benchGet(th, keys[i%len(keys)])
		}
	})
	b.Run("batch", func(b *testing.B) {
		b.ReportAllocs()
		for i := range b.N {
			i %= len(keys)
			if i%assocBatch == 0 {
				assocPrefetch(keys[i:i+assocBatch], 0)
			}
			benchGet(th, keys[i])
		}
	})
}

// BenchmarkItems shows how a lookup's time depends on the number of items: only
// through the share of them in the processor's caches.
func BenchmarkItems(b *testing.B) {
	for _, n := range []int{1e4, 1e5, 1e6, 1e7} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			var info unix.Sysinfo_t
			unix.Sysinfo(&info)
			if need := uint64(n) * 400; info.Freeram*uint64(info.Unit) < need {
				b.Skipf("needs %d MB of memory", need>>20)
			}
			benchmarkFill(b, 64+n*200>>20, n)
			th := testThread()
			key := append(make([]byte, 0, 32), "benchmark:"...)
			for i := 0; b.Loop(); i++ {
				benchGet(th, strconv.AppendInt(key, int64(i*2654435761%n), 10))
			}
		})
	}
}

// BenchmarkConns is a get, by epoll, from one of a worker's many connections.
func BenchmarkConns(b *testing.B) {
	benchStore(b)
	for _, n := range []int{10, 1000, 8000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			var limit unix.Rlimit
			unix.Getrlimit(unix.RLIMIT_NOFILE, &limit)
			if need := uint64(2*n + 100); limit.Cur < need {
				b.Skipf("needs %d descriptors", need)
			}
			settings.net.maxconns = int(limit.Cur)
			connInit()
			th := new(thread)
			setupThread(th)
			clients := make([]int, n)
			for i := range clients {
				var c *conn
				c, clients[i] = benchPair(b, th)
				drive(c)
			}
			request, reply := []byte(benchRequests[0].request), make([]byte, 1000)
			for b.Loop() {
				client := clients[rand.IntN(n)]
				rawWrite(client, request)
				events, _ := pollWait(&th.poll, 0)
				for i := range events {
					eventHandler(th, int(events[i].Fd))
				}
				roundServe(th)
				rawRead(client, reply)
			}
		})
	}
}

// BenchmarkWorkers has several workers get the same key, or keys some of which
// are more popular than others.
func BenchmarkWorkers(b *testing.B) {
	keys := benchmarkFill(b, 512, 1e6)
	for _, kind := range []string{"hot", "zipf"} {
		for _, n := range []int{1, 2, 4, 8} {
			b.Run(fmt.Sprintf("%s/%d", kind, n), func(b *testing.B) {
				b.SetParallelism(max(n/runtime.GOMAXPROCS(0), 1))
				b.RunParallel(func(pb *testing.PB) {
					th := testThread()
					r := rand.New(rand.NewPCG(1, 2))
					zipf := rand.NewZipf(r, 1.01, 1, uint64(len(keys)-1))
					order := make([]uint32, 1<<16) // all 0 for the hot key
					if kind == "zipf" {
						for i := range order {
							order[i] = uint32(zipf.Uint64())
						}
					}
					for i := 0; pb.Next(); i++ {
						benchGet(th, keys[order[i%len(order)]])
					}
				})
			})
		}
	}
}

func benchSet(b *testing.B, th *thread, keys [][]byte, value []byte, i int) {
	it := itemAlloc(keys[i%len(keys)], 0, 0, len(value))
	if it == nil {
		b.Fatal("no memory")
	}
	copy(it.data(), value)
	storeItem(it, nreadSet, th, nil, nil, getCasId(), false)
	itemRemove(it)
}

func BenchmarkSet(b *testing.B) {
	keys := benchmarkFill(b, 512, 1e6)
	value := []byte(pattern(100, 1) + "\r\n")
	b.RunParallel(func(pb *testing.PB) {
		th := testThread()
		for i := rand.IntN(len(keys)); pb.Next(); i++ {
			benchSet(b, th, keys, value, i)
		}
	})
}

func BenchmarkSetEvict(b *testing.B) {
	keys := benchmarkFill(b, 64, 1e6)
	th := testThread()
	value := []byte(pattern(100, 1) + "\r\n")
	for i := range b.N {
		benchSet(b, th, keys, value, i)
	}
}

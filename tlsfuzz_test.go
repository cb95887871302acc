//go:build tls

// Fuzzing of TLS: handshakes and records, cut and damaged anywhere. For a long
// run:
//
//	go test -tags tls -run - -fuzz FuzzTlsRecords -fuzztime 1h

package main

import (
	"bytes"
	"crypto/tls"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A fuzzClient is the client's end of a connection, below crypto/tls.
type fuzzClient struct {
	net.Conn        // nil
	fd       int    // nonblocking
	wire     []byte // bytes written, for fuzzSend to send
	damage   int    // bytes to go before the one to damage; negative for none
	wait     int    // milliseconds that Read waits; if not 0, writes are sent at once
}

func (f *fuzzClient) Write(b []byte) (int, error) {
	i := len(f.wire)
	f.wire = append(f.wire, b...)
	if f.damage >= 0 && f.damage < len(b) {
		f.wire[i+f.damage] ^= 1 << (f.damage % 8)
	}
	f.damage -= len(b)
	for f.wait > 0 && len(f.wire) > 0 {
		n, err := unix.Write(f.fd, f.wire[:1+len(f.wire)/2])
		if err != nil {
			return 0, err
		}
		f.wire = f.wire[n:]
	}
	return len(b), nil
}

func (f *fuzzClient) Read(b []byte) (int, error) {
	for {
		n, err := unix.Read(f.fd, b)
		switch {
		case err == nil && n == 0:
			return 0, io.EOF
		case err == unix.EAGAIN && f.wait > 0:
			if n, _ := unix.Poll([]unix.PollFd{{Fd: int32(f.fd), Events: unix.POLLIN}}, f.wait); n == 0 {
				return 0, io.EOF
			}
		case err != unix.EINTR:
			return max(n, 0), err
		}
	}
}

func (f *fuzzClient) SetWriteDeadline(time.Time) error { return nil }

// fuzzEvents runs one round of a worker whose thread does not run. It returns
// false if there was nothing to do within msec milliseconds.
func fuzzEvents(th *thread, msec int) bool {
	runtime.Gosched() // for the goroutines, and for the collector
	events, _ := pollWait(&th.poll, msec)
	for i := range events {
		if fd := int(events[i].Fd); fd != th.notifyReceiveFd {
			eventHandler(th, fd)
		}
	}
	did := len(events)+len(th.round.ready) > 0
	roundServe(th)
	threadLibeventProcess(th)
	roundServe(th)
	statsFold(th)
	return did
}

// fuzzTlsStart opens a TLS connection; the handshake is still to come.
func fuzzTlsStart(t *testing.T, th *thread, bproto protocol) (*conn, *fuzzClient) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	c := connNew(fds[0], connWatch, localTransport, th, bproto)
	sslInitConn(c, sslEnabledDefault)
	return c, &fuzzClient{fd: fds[1], damage: -1}
}

// fuzzTlsEnd hangs up and checks that nothing is left.
func fuzzTlsEnd(t *testing.T, th *thread, c *conn, client *fuzzClient) {
	unix.Close(client.fd)
	for end := time.Now().Add(patience); c.state != connClosed; fuzzEvents(th, 1) {
		if time.Now().After(end) {
			t.Fatalf("the client has hung up, but the state is %v", stateText(c.state))
		}
	}
	if c.ssl != nil || sslTurns.free != sslThreads() {
		t.Fatal("the connection's TLS state is still there")
	}
	fuzzCheck(t, th, c)
}

// fuzzTlsInit sets up what all inputs share.
func fuzzTlsInit(f testing.TB) {
	fuzzStart(f)
	cert := makeCert(f, "localhost", nil)
	f.Cleanup(func() { settings.ssl.enabled = false })
	settings.ssl.enabled = true
	settings.ssl.chainCert, settings.ssl.key = cert.pem, cert.key
	sslInit()
}

// fuzzTlsSettings redoes the settings that fuzzInit has reset.
func fuzzTlsSettings(mode uint8) *tls.Config {
	settings.ssl.enabled = true
	settings.ssl.wbufSize = 1 << (10 + mode%8)
	return &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12 + uint16(mode>>3&1)}
}

// FuzzTlsRecords sends in to a server as FuzzText does, in records of any length.
// They arrive cut anywhere, and sometimes damaged.
func FuzzTlsRecords(f *testing.F) {
	fuzzTlsInit(f)
	fuzzAdd(f, "testdata/[gbp]*.mc", false)
	f.Fuzz(func(t *testing.T, in []byte, cut uint16, mode uint8) {
		fuzzSkip(t, in)
		th := fuzzInit(t, mode)
		config := fuzzTlsSettings(mode)
		c, client := fuzzTlsStart(t, th, negotiatingProt)
		client.wait = int(patience / time.Millisecond)
		conn := tls.Client(client, config)
		shaken := make(chan error)
		go func() { shaken <- conn.Handshake() }()
		for done := false; !done; fuzzEvents(th, 1) {
			select {
			case err := <-shaken:
				if err != nil {
					t.Fatal(err)
				}
				done = true
			default:
			}
		}
		client.wait = 0
		if cut%4 == 3 {
			client.damage = int(cut / 4)
		}
		damaged := client.damage >= 0

		r := rand.New(rand.NewPCG(uint64(cut), uint64(mode)))
		hear := func() {
			var buf [16 << 10]byte
			for {
				n, err := conn.Read(buf[:])
				if err != nil && err != io.EOF && err != unix.EAGAIN && !damaged {
					t.Fatal("a record of the reply: ", err)
				}
				if n == 0 {
					return
				}
			}
		}
		for rest := in; len(rest) > 0; {
			n := min(len(rest), 1+r.IntN(1<<r.IntN(15)))
			conn.Write(rest[:n])
			rest = rest[n:]
		}
		if mode&fuzzHalfClosed != 0 {
			conn.CloseWrite()
		}
		for len(client.wire) > 0 && c.state != connClosed {
			piece := client.wire[:min(len(client.wire), 1+r.IntN(1<<r.IntN(16)))]
			n, err := unix.Write(client.fd, piece)
			client.wire = client.wire[max(n, 0):]
			for fuzzEvents(th, 0) {
				if mode&fuzzDeaf == 0 {
					hear()
				}
			}
			if err != nil {
				hear()
			}
		}
		if mode&fuzzHalfClosed != 0 && !damaged {
			for c.state != connClosed {
				hear()
				fuzzEvents(th, 0)
			}
		}
		fuzzTlsEnd(t, th, c, client)
	})
}

// FuzzTlsHandshake sends in, cut anywhere, instead of a handshake; or, if in is
// empty, does a handshake with one byte damaged.
func FuzzTlsHandshake(f *testing.F) {
	fuzzTlsInit(f)
	var hello bytes.Buffer
	for _, version := range []uint16{tls.VersionTLS10, tls.VersionTLS12, tls.VersionTLS13} {
		first := &fuzzClient{fd: -1, damage: -1}
		tls.Client(first, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS10, MaxVersion: version}).Handshake()
		for _, n := range []int{1, 5, 6, 11, 50, len(first.wire) - 1, len(first.wire)} {
			f.Add(first.wire[:n], uint16(n), uint8(version))
		}
		hello.Write(first.wire)
		f.Add(hello.Bytes(), uint16(3), uint8(8))
	}
	f.Add([]byte("get foo\r\n"), uint16(0), uint8(0))
	f.Add([]byte("\x80\x2e\x01\x03\x01\x00\x15\x00\x00\x00\x10"), uint16(0), uint8(0))
	for i := range 40 {
		f.Add([]byte(nil), uint16(i*23), uint8(i%2*8))
	}
	f.Fuzz(func(t *testing.T, in []byte, cut uint16, mode uint8) {
		th := fuzzInit(t, mode&^fuzzAuth)
		config := fuzzTlsSettings(mode)
		before := runtime.NumGoroutine()
		c, client := fuzzTlsStart(t, th, asciiProt)
		if len(in) == 0 {
			client.wait, client.damage = 20, int(cut)
			done := make(chan bool)
			go func() {
				conn := tls.Client(client, config)
				if conn.Handshake() == nil {
					conn.Write([]byte("get foo\r\nquit\r\n"))
					io.Copy(io.Discard, conn)
				}
				// The server may be waiting for the rest of a record.
				unix.Shutdown(client.fd, unix.SHUT_WR)
				done <- true
			}()
			for waiting := true; waiting; fuzzEvents(th, 1) {
				select {
				case <-done:
					waiting = false
				default:
				}
			}
		}
		r := rand.New(rand.NewPCG(uint64(cut), uint64(mode)))
		for rest := in; len(rest) > 0 && c.state != connClosed; fuzzEvents(th, 0) {
			n, _ := unix.Write(client.fd, rest[:min(len(rest), 1+r.IntN(1<<r.IntN(10)))])
			rest = rest[max(n, 0):]
		}
		fuzzTlsEnd(t, th, c, client)
		eventually(t, "no goroutine is left", func() bool { return runtime.NumGoroutine() <= before+1 })
	})
}

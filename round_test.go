// A worker's turn: what becomes of new connections, and of replies that do not
// fit or do not leave.

package main

import (
	"fmt"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// roundConns returns n connections of a worker that does not run, and the clients'
// ends of them.
func roundConns(t *testing.T, n int) (th *thread, cs []*conn, clients []int) {
	connInit()
	th = new(thread)
	setupThread(th)
	for range n {
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		unix.SetsockoptInt(fds[0], unix.SOL_SOCKET, unix.SO_SNDBUF, 1<<20)
		notifyWorker(th, &cqItem{mode: queueNewConn, sfd: fds[0], initState: connNewCmd, transport: localTransport, bproto: negotiatingProt})
		driveRound(th)
		c := conns[fds[0]].Load()
		if c == nil || c.state != connRead {
			t.Fatalf("a new connection: %+v", c)
		}
		cs, clients = append(cs, c), append(clients, fds[1])
	}
	t.Cleanup(func() {
		for i, c := range cs {
			unix.Close(clients[i])
			eventually(t, "the close", func() bool { driveRound(th); return c.state == connClosed })
		}
	})
	return th, cs, clients
}

// roundRead returns what has come for a client.
func roundRead(client int) string {
	b := make([]byte, 8<<20)
	n, _ := rawRecvNow(client, b)
	return string(b[:max(n, 0)])
}

func rawRecvNow(fd int, b []byte) (n int, err error) {
	for {
		m, _, err := unix.Recvfrom(fd, b[n:], unix.MSG_DONTWAIT)
		if m <= 0 || err != nil {
			return n, err
		}
		n += m
	}
}

// A new connection waits in conn_read after the turn in which it came (roundConns
// checks that): its first event is its first request.
func TestRoundNewConn(t *testing.T) {
	storeInit(t, 64, nil)
	th, _, clients := roundConns(t, 1)
	unix.Write(clients[0], []byte("version\r\n"))
	driveRound(th)
	if have := roundRead(clients[0]); !strings.HasPrefix(have, "VERSION ") {
		t.Errorf("have %q", have)
	}
}

// Replies that are more than the worker's buffer holds leave without making it
// grow, and each client gets its own.
func TestRoundReplies(t *testing.T) {
	storeInit(t, 64, nil)
	const n, keys = 12, 50 // of 600 KB
	th, cs, clients := roundConns(t, n)
	var get, want [n]string
	for i := range n {
		get[i] = "get"
		for j := range keys {
			key := fmt.Sprintf("%d-%d", i, j)
			value := strings.Repeat(key[:1], 1000)
			set(th, nreadSet, key, value, 0)
			get[i] += " " + key
			want[i] += fmt.Sprintf("VALUE %s 0 1000\r\n%s\r\n", key, value)
		}
		get[i] += "\r\n"
		want[i] += "END\r\n"
	}
	buf := &th.bufs.round.wbuf[:1][0]
	for range 3 {
		for i, c := range cs {
			unix.Write(clients[i], []byte(strings.Repeat(get[i], 3)))
			roundAdd(th, c)
		}
		for len(th.round.ready) > 0 {
			roundServe(th)
		}
		for i, client := range clients {
			if have := roundRead(client); have != strings.Repeat(want[i], 3) {
				t.Fatalf("client %d has %d bytes, want %d", i, len(have), 3*len(want[i]))
			}
		}
	}
	if &th.bufs.round.wbuf[:1][0] != buf {
		t.Error("the worker's buffer is another")
	}
}

// A client that has left before its reply is sent takes none of the others' with it.
func TestRoundHangup(t *testing.T) {
	storeInit(t, 64, nil)
	th, cs, clients := roundConns(t, 3)
	set(th, nreadSet, "large", strings.Repeat("x", 10000), 0)
	for i, c := range cs {
		unix.Write(clients[i], []byte("get large\r\nversion\r\n"))
		roundAdd(th, c)
	}
	unix.Close(clients[1])
	clients[1] = -1
	roundServe(th)
	if cs[1].state != connClosed {
		t.Errorf("the client has left, but: %s", stateText(cs[1].state))
	}
	for _, i := range []int{0, 2} {
		if have := roundRead(clients[i]); !strings.Contains(have, "xx\r\nEND\r\nVERSION ") {
			t.Errorf("client %d: %q", i, have)
		}
	}
	checkStore(t)
}

// While one client has the only read buffer the next is turned away, and counted
// once; then a buffer goes round.
func TestRoundReadBuffers(t *testing.T) {
	storeInit(t, 64, nil)
	th, cs, clients := roundConns(t, 4)
	th.bufs.rbufLimit, th.bufs.rbufCache, th.bufs.rbufs = 1, nil, 0
	unix.Write(clients[0], []byte("versi"))
	driveRound(th)
	unix.Write(clients[1], []byte("version\r\n"))
	driveRound(th)
	if n := th.stats.total.n[statReadBufOom]; cs[1].state != connClosed || n != 1 {
		t.Errorf("%s, counted %d times", stateText(cs[1].state), n)
	}
	unix.Write(clients[0], []byte("on\r\n"))
	unix.Write(clients[2], []byte("version\r\n"))
	unix.Write(clients[3], []byte("version\r\n"))
	driveRound(th)
	for _, i := range []int{0, 2, 3} {
		if have := roundRead(clients[i]); !strings.HasPrefix(have, "VERSION ") {
			t.Errorf("client %d: %q", i, have)
		}
	}
}

// After a reply that was larger than the worker's buffer, the buffer is as large
// as before.
func TestRoundLarge(t *testing.T) {
	storeInit(t, 64, nil)
	th, cs, clients := roundConns(t, 2)
	for i := range 15000 {
		set(th, nreadSet, fmt.Sprintf("%0100d", i), "x", 0)
	}
	id := 1
	for lrus[id|hotLru].head == 0 {
		id++
	}
	for lruPullTail(id, hotLru, 0, 0, 0, nil) > 0 {
	}
	unix.Write(clients[0], fmt.Appendf(nil, "stats cachedump %d 0\r\n", id))
	unix.Write(clients[1], []byte("get "+strings.Repeat("0", 100)+"\r\n"))
	roundAdd(th, cs[0])
	roundAdd(th, cs[1])
	roundServe(th)
	if n := len(roundRead(clients[0])); n < 2*roundBufs*wbufSize {
		t.Fatalf("a dump of only %d bytes", n)
	}
	if have, want := roundRead(clients[1]), "VALUE "+strings.Repeat("0", 100)+" 1 1\r\nx\r\nEND\r\n"; have != want {
		t.Errorf("have %q", have)
	}
	if n := cap(th.bufs.round.wbuf); n != roundBufs*wbufSize {
		t.Errorf("the buffer has %d bytes", n)
	}
}

// A client that is to go while extstore still reads for it, and one that takes
// nothing, keep their replies apart from those of the others.
func TestRoundKeep(t *testing.T) {
	storeInit(t, 64, nil)
	extInit(t, true)
	th, cs, clients := roundConns(t, 3)
	settings.ext.itemSize.Store(100)
	for i := range 1200 { // two write buffers
		set(th, nreadSet, fmt.Sprint("ext", i), strings.Repeat("x", 4000), 0)
	}
	fuzzWrite()
	p := &extStorage.pages[0]
	eventually(t, "all is in the file", func() bool {
		p.mutex.Lock()
		defer p.mutex.Unlock()
		return p.flushing == nil
	})
	large := strings.Repeat("y", 100000)
	set(th, nreadSet, "large", large, 0)
	reply := "VALUE large 0 100000\r\n" + large + "\r\nEND\r\n"

	th.bufs.respLimit = 2
	unix.Write(clients[0], []byte("get ext0\r\nget large\r\nversion\r\n"))
	roundAdd(th, cs[0])
	roundServe(th)
	if cs[0].state != connClosing || cs[0].resp == nil {
		t.Fatalf("with too many replies: %s", stateText(cs[0].state))
	}
	if n := len(th.bufs.round.wbuf) + len(th.bufs.round.iov); n != 0 {
		t.Errorf("%d bytes and pieces are left in the worker's buffers", n)
	}
	th.bufs.respLimit = 0

	unix.Write(clients[1], []byte("get large\r\n"))
	unix.Write(clients[2], []byte(strings.Repeat("get large\r\n", 100)))
	roundAdd(th, cs[1])
	roundAdd(th, cs[2])
	roundServe(th)
	if have := roundRead(clients[1]); have != reply {
		t.Errorf("have %d bytes, want %d", len(have), len(reply))
	}
	got := 0
	eventually(t, "all replies and the close", func() bool {
		driveRound(th)
		got += len(roundRead(clients[2]))
		return got >= 100*len(reply) && cs[0].state == connClosed
	})
	if got != 100*len(reply) {
		t.Errorf("have %d bytes, want %d", got, 100*len(reply))
	}
	for len(th.round.ready) > 0 {
		roundServe(th)
	}
	checkStore(t)
}

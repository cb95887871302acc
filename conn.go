// Connections: the table of them, how they begin and how they end. From
// memcached.c: conn_init, conn_new .. conn_close, conn_close_idle,
// conn_timeout_thread, rbuf_*.

package main

import (
	"fmt"
	"os"
	"slices"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

type transport uint8

const (
	localTransport transport = iota // Unix socket
	tcpTransport
	udpTransport
	metricsTransport // HTTP, see metrics.go; never a conn's
)

type closeReasons uint8

const (
	errorClose closeReasons = iota
	normalClose
	idleTimeoutClose
	shutdownClose
)

// A conn belongs to its worker, a listening one to the main thread. Other
// threads may only read sfd and seen.
type conn struct {
	sfd             int
	seen            atomic.Uint64 // see connPublish
	thread          *thread       // nil for a listening conn
	ssl             *sslConn      // nil without TLS; tls.go
	next            *conn         // in the list of listenConn
	sslEnabled      sslMode       // of a listening conn: the TLS mode for its clients
	state           connState
	protocol        protocol
	transport       transport
	closeReason     closeReasons
	authenticated   bool // by -Y or -S
	noreply         bool // of the command being served
	closeAfterWrite bool
	inRound         bool // c is in its worker's next round
	getRest         bool // the line at rcurr is the rest of a get; see processGetKeys
	evFlags         uint32
	lastCmdTime     relTime

	// What has been received.
	in struct {
		rbuf        []byte // read buffer; nil while c has none
		rcurr       int    // start of the unparsed part of rbuf
		rbytes      int    // length of that part
		rlooked     int    // bytes of that part already searched for a line end
		lookedAhead int    // how far lookAhead has looked in rbuf
		rbufGrows   bool   // rbuf may grow: a long get is arriving
	}

	// The value being read.
	val struct {
		item    *item
		rchunk  *itemChunk // the chunk being filled if the item is chunked
		rlbytes int        // bytes still to come
		rtail   int        // bytes that the item has room for after them
		meta    metaReply  // how to answer once the value is stored
		sbytes  int        // bytes to swallow, of a value that is refused
		refusal []byte     // the answer to its command, held back
	}

	// The binary protocol.
	bin struct {
		header      protocolBinaryRequestHeader // of the command being served
		saslStarted bool                        // the first half of the authentication is done
	}

	resp *resp // replies not sent yet; nil while there are none

	respsSuspended atomic.Int32 // reads from extstore that resp waits for; other threads may look
	recacheCounter uint32       // fetches counted by recacheOrFree

	nreqs int // commands left in its turn (-R)
	outq  int // bytes last seen in the full socket (-o idle_timeout)

	cmd int    // nreadSet and the like, or a binary opcode; -1 for none
	cas uint64 // text: for the item to store, 0 for a new one; binary: of the reply

	get getRequest // the get whose remaining keys getRest announces
	udp *udpConn   // nil but over UDP
}

// conns has a slot for every descriptor that the process can have. A conn stays
// in its slot and serves the next connection on that descriptor.
var (
	conns      []atomic.Pointer[conn]
	listenConn *conn // first of the listening ones

	allowNewConns atomic.Bool // a connection was closed since driveListening last began
)

// A connSight is what other threads may know of a conn.
type connSight struct {
	state       connState
	transport   transport
	threadId    int  // index in threads
	owes        bool // it has replies that the client is not taking; see connOwes
	lastCmdTime relTime
}

// connTimeoutThread finds connections that have been idle for longer than
// -o idle_timeout and notifies their workers. It never ends. Unlike in C, a
// client that does not take its replies is also idle.
func connTimeoutThread() {
	const connsPerSlice = 100
	nslices := len(conns) / connsPerSlice
	if nslices == 0 {
		nslices = connsPerSlice
	}
	slice := 1000000 / nslices // microseconds
	for {
		verbosef(3, "idle timeout thread at top of connection list")
		now := currentTime.Load()
		oldest := now
		for fd := range conns {
			if fd%connsPerSlice == 0 {
				usleep(slice)
			}
			c := conns[fd].Load()
			if c == nil {
				continue
			}
			s := connSeen(c)
			if s.transport != tcpTransport || s.state != connNewCmd && s.state != connRead && !s.owes {
				continue
			}
			if now-s.lastCmdTime > settings.net.idleTimeout && int32(now-s.lastCmdTime) > 0 {
				notifyWorkerFd(threads[s.threadId], fd, queueTimeout)
			} else if s.lastCmdTime < oldest {
				oldest = s.lastCmdTime
			}
		}
		// No connection can time out before then.
		sleep := int(settings.net.idleTimeout) - int(currentTime.Load()-oldest) + 1
		sleep = max(sleep, 1)
		verbosef(3, "idle timeout thread finished pass, sleeping for %ds", sleep)
		usleep(sleep * 1000000)
	}
}

func startConnTimeoutThread() {
	if settings.net.idleTimeout != 0 {
		go connTimeoutThread()
	}
}

// rbufRelease gives the read buffer back to the worker if it is empty.
func rbufRelease(c *conn) {
	if c.in.rbuf == nil || c.in.rbytes != 0 || c.transport == udpTransport {
		return
	}
	t := c.thread
	if n := len(c.in.rbuf); n == readBufferSize {
		t.bufs.rbufCache = append(t.bufs.rbufCache, c.in.rbuf)
	} else if t.bufs.rbufLimit == 0 && t.bufs.longFree+n <= rbufKeep {
		t.bufs.longBufs = append(t.bufs.longBufs, c.in.rbuf)
		t.bufs.longFree += n
	} else {
		bufFree(c.in.rbuf)
		t.bufs.rbufs -= n / readBufferSize
	}
	c.in.rbufGrows = false
	c.in.rbuf = nil
	c.in.rcurr = 0
	c.in.rlooked = 0
}

// rbufAvailable reports whether rbufAlloc can lend c a buffer.
func rbufAvailable(c *conn) bool {
	t := c.thread
	return c.in.rbuf != nil || len(t.bufs.rbufCache) > 0 || t.bufs.rbufLimit == 0 || t.bufs.rbufs < t.bufs.rbufLimit
}

// rbufAlloc lends c a read buffer of its worker. It returns false if that would
// exceed -o read_buf_mem_limit.
func rbufAlloc(c *conn) bool {
	if c.in.rbuf != nil {
		return true
	}
	t := c.thread
	if n := len(t.bufs.rbufCache); n > 0 {
		c.in.rbuf = t.bufs.rbufCache[n-1]
		t.bufs.rbufCache = t.bufs.rbufCache[:n-1]
	} else if t.bufs.rbufLimit != 0 && t.bufs.rbufs >= t.bufs.rbufLimit {
		t.stats.pending.n[statReadBufOom]++
		return false
	} else {
		c.in.rbuf = make([]byte, readBufferSize)
		t.bufs.rbufs++
	}
	c.in.rcurr = 0
	return true
}

const (
	maxGetLine = 64 << 20  // longest line of a get that we accept, in bytes; C has no limit
	rbufKeep   = 256 << 10 // bytes of long read buffers that a worker keeps for the next lines
)

// rbufSwitchToMalloc gives c a read buffer of at least twice the size, for a get
// with more keys than the old buffer can hold. It returns false if the line is
// too long, or if that would exceed -o read_buf_mem_limit.
func rbufSwitchToMalloc(c *conn) bool {
	n := 2 * len(c.in.rbuf)
	if n > maxGetLine {
		return false
	}
	b := rbufLong(c.thread, n)
	if b == nil {
		return false
	}
	n = copy(b, c.in.rbuf[c.in.rcurr:c.in.rcurr+c.in.rbytes])
	c.in.rbytes = 0
	rbufRelease(c)
	c.in.rbuf, c.in.rbytes, c.in.rbufGrows = b, n, true
	return true
}

// rbufLong returns a buffer of at least n bytes, or nil.
func rbufLong(t *thread, n int) []byte {
	for i, b := range t.bufs.longBufs {
		if len(b) >= n {
			t.bufs.longBufs = slices.Delete(t.bufs.longBufs, i, i+1)
			t.bufs.longFree -= len(b)
			return b
		}
	}
	if t.bufs.rbufLimit != 0 {
		for t.bufs.rbufs+n/readBufferSize > t.bufs.rbufLimit && len(t.bufs.rbufCache) > 0 {
			t.bufs.rbufCache = slices.Delete(t.bufs.rbufCache, 0, 1)
			t.bufs.rbufs--
		}
		if t.bufs.rbufs+n/readBufferSize > t.bufs.rbufLimit {
			return nil
		}
	}
	b, err := bufAlloc(n)
	if err != nil {
		return nil
	}
	t.bufs.rbufs += n / readBufferSize
	return b
}

// rbufTrim returns the memory that t keeps for long lines to the system. It is
// called when t has nothing to do.
func rbufTrim(t *thread) {
	for _, b := range t.bufs.longBufs {
		bufFree(b)
	}
	t.bufs.rbufs -= t.bufs.longFree / readBufferSize
	t.bufs.longBufs, t.bufs.longFree = t.bufs.longBufs[:0], 0
}

// connInit makes the table. Its size is -c: limitFiles has made sure that all
// descriptors are below that.
func connInit() { conns = make([]atomic.Pointer[conn], settings.net.maxconns) }

func protText(p protocol) string {
	return [...]string{asciiProt: "ascii", binaryProt: "binary", negotiatingProt: "auto-negotiate"}[p]
}

// connPublish lets other threads see c as it is now. A worker calls it whenever
// it leaves c.
func connPublish(c *conn) {
	s := uint64(c.lastCmdTime)<<32 | uint64(c.state)<<8 | uint64(c.transport)
	if c.thread != nil {
		s |= uint64(c.thread.id) << 16
	}
	if connOwes(c) {
		s |= 1 << 31
	}
	c.seen.Store(s)
}

func connSeen(c *conn) connSight {
	s := c.seen.Load()
	return connSight{connState(s >> 8 & 0xff), transport(s & 0xff), int(s >> 16 & 0x7fff), s>>31&1 != 0, relTime(s >> 32)}
}

// connOwes reports whether c waits until the client takes more of its replies.
func connOwes(c *conn) bool {
	return c.resp != nil && (c.state == connMwrite || c.state == connNread || c.state == connSwallow)
}

// socketOutq returns how many bytes in the socket the client has not taken yet.
func socketOutq(sfd int) int {
	n, _ := unix.IoctlGetInt(sfd, unix.SIOCOUTQ)
	return n
}

// connCloseIdle closes the connection on sfd if it is still t's and still
// idle: either may have changed since the timeout thread looked.
func connCloseIdle(t *thread, sfd int) {
	c := conns[sfd].Load()
	if s := connSeen(c); s.threadId != t.id || s.state == connClosed {
		return
	}
	if settings.net.idleTimeout == 0 || currentTime.Load()-c.lastCmdTime <= settings.net.idleTimeout {
		return
	}
	if c.state != connNewCmd && c.state != connRead && !connOwes(c) {
		if settings.verbose.Load() > 1 {
			fmt.Fprintf(os.Stderr, "fd %d wants to timeout, but isn't in read state", c.sfd)
		}
		return
	}
	if n := socketOutq(sfd); connOwes(c) && n < c.outq {
		c.outq = n // the client is taking them, but slowly
		c.lastCmdTime = currentTime.Load()
		connPublish(c)
		return
	}
	verbosef(2, "Closing idle fd %d", c.sfd)
	t.stats.pending.n[statIdleKicks]++
	c.closeReason = idleTimeoutClose
	connSetState(c, connClosing)
	roundAdd(t, c)
}

// connHandOver lends c to a side thread, which writes to it. What the client
// sends meanwhile waits in the socket.
func connHandOver(c *conn) {
	respRelease(c)
	rbufRelease(c)
	connEventDel(c)
	connSetState(c, connWatch)
	connPublish(c)
}

// sidethreadWrite is send(2) for the side thread that has c.
func sidethreadWrite(c *conn, b []byte) (int, unix.Errno) {
	return connSend(c, &resp{respBufs: &respBufs{wbuf: b}, end: len(b)})
}

// connEventReadd makes epoll watch c for input. If that fails, c begins to close.
// Epoll still watches c after a TLS handshake; else c has been taken off.
func connEventReadd(c *conn) {
	op := unix.EPOLL_CTL_ADD
	if tlsBuild && c.evFlags != 0 {
		op = unix.EPOLL_CTL_MOD
	}
	c.evFlags = evRead
	if err := pollCtl(&c.thread.poll, op, c.sfd, evRead); err != nil {
		perror("event_add", err)
		c.evFlags = 0
		connSetState(c, connClosing)
	}
}

// connEventDel takes c off its worker's epoll.
func connEventDel(c *conn) {
	if c.evFlags != 0 {
		pollDel(&c.thread.poll, c.sfd)
		c.evFlags = 0
	}
}

// connWorkerReadd takes c back from a side thread, or goes on with c when all
// its reads from extstore have come back.
func connWorkerReadd(c *conn) {
	switch c.state {
	case connIoPending:
		connSetState(c, connIoResume)
		connEventReadd(c)
	case connIoQueue:
		connSetState(c, connIoResume)
	case connWatch:
		connSetState(c, connNewCmd)
		connEventReadd(c)
	default:
		// c is reading a value, or will close.
	}
	roundAdd(c.thread, c)
}

// connNew begins the connection on sfd in the given state: on worker t, or
// on the main thread if t is nil. It returns nil if sfd cannot be watched.
func connNew(sfd int, initState connState, transport transport, t *thread, bproto protocol) *conn {
	c := conns[sfd].Load()
	if c == nil {
		c = &conn{sfd: sfd}
		statsState.connStructs.Add(1)
	}
	c.seen.Load() // acquire, pairs with connClose: see all that the previous worker wrote
	c.transport = transport
	c.protocol = bproto
	if settings.verbose.Load() > 1 {
		switch {
		case initState == connListening:
			fmt.Fprintf(os.Stderr, "<%d server listening (%s)\n", sfd, protText(c.protocol))
		case transport == udpTransport:
			fmt.Fprintf(os.Stderr, "<%d server listening (udp)\n", sfd)
		case c.protocol == negotiatingProt:
			fmt.Fprintf(os.Stderr, "<%d new auto-negotiating client connection\n", sfd)
		case c.protocol == asciiProt:
			fmt.Fprintf(os.Stderr, "<%d new ascii client connection.\n", sfd)
		case c.protocol == binaryProt:
			fmt.Fprintf(os.Stderr, "<%d new binary client connection.\n", sfd)
		}
	}
	c.state = initState
	c.thread = t
	c.cmd = -1
	c.in.rbytes = 0
	c.in.rcurr = 0
	c.closeAfterWrite = false
	c.getRest = false
	c.recacheCounter = 0
	c.authenticated = false
	c.bin.saslStarted = false
	c.lastCmdTime = currentTime.Load()
	if initState == connNewCmd && loggerEflags.Load()&logConnevents != 0 {
		loggerLogConnEvent(c, loggerConnectionNew)
	}
	if transport == udpTransport {
		c.udp = new(udpConn)
		c.in.rbuf = make([]byte, udpReadBufferSize)
	}
	c.evFlags = evRead
	if tlsBuild && initState == connWatch {
		c.evFlags |= unix.EPOLLONESHOT // see sslAccept
	}
	p := &mainPoll
	if t != nil {
		p = &t.poll
	}
	if err := pollAdd(p, sfd, c.evFlags); err != nil {
		perror("event_add", err)
		return nil
	}
	connPublish(c)
	conns[sfd].Store(c)
	statsState.currConns.Add(1)
	stats.totalConns.Add(1)
	return c
}

// connReleaseItems drops a value half read and replies not sent.
func connReleaseItems(c *conn) {
	if c.val.item != nil {
		itemRemove(c.val.item)
		c.val.item = nil
	}
	respRelease(c)
}

// connCleanup drops what c has read and what it has to send. A UDP conn then
// goes on with the next datagram.
func connCleanup(c *conn) {
	connReleaseItems(c)
	c.in.rbytes = 0
	c.getRest = false
	if c.transport == udpTransport {
		c.closeAfterWrite = false
		connSetState(c, connRead)
	}
}

// connClose closes the connection; c stays in conns for the next one.
func connClose(c *conn) {
	if loggerEflags.Load()&logConnevents != 0 {
		loggerLogConnEvent(c, loggerConnectionClose)
	}
	if settings.verbose.Load() > 1 {
		fmt.Fprintf(os.Stderr, "<%d connection closed.\n", c.sfd)
	}
	connCleanup(c)
	rbufRelease(c)
	sslConnClose(c)
	connSetState(c, connClosed)
	c.closeReason = errorClose
	if c.thread != nil {
		statsFold(c.thread) // a client that sees the close finds its commands counted
	}
	connPublish(c)
	statsState.currConns.Add(-1)
	// From here on c may serve a new connection, on another worker.
	rawClose(c.sfd)
	allowNewConns.Store(true)
}

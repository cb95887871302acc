// Connections: the table of them, their beginning and their end. From
// memcached.c: conn_init, conn_new .. conn_close, conn_close_idle,
// conn_timeout_thread, rbuf_*.

package main

import (
	"fmt"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

type transport uint8

const (
	localTransport transport = iota // Unix socket
	tcpTransport
	udpTransport
)

type closeReasons uint8

const (
	errorClose closeReasons = iota
	normalClose
	idleTimeoutClose
	shutdownClose
)

// A conn belongs to its worker, a listening one to the main thread. Others
// may only look at sfd and seen.
type conn struct {
	sfd             int
	seen            atomic.Uint64 // see connPublish
	thread          *thread       // nil for a listening conn
	ssl             *sslConn      // nil without TLS; tls.go
	next            *conn         // of listenConn
	sslEnabled      sslMode       // of a listening conn: for the clients
	state           connState
	protocol        protocol
	transport       transport
	closeReason     closeReasons
	authenticated   bool // by -Y or -S
	saslStarted     bool // half way there
	noreply         bool // of the command being served
	closeAfterWrite bool
	rbufMalloced    bool // rbuf has grown for a long get; it is not from the cache
	yielded         bool // is on the worker's list
	getRest         bool // the line at rcurr is what is left of a get; see processGetCommand
	evFlags         uint32
	lastCmdTime     relTime

	rbuf    []byte // input; nil while there is none
	rcurr   int    // where in rbuf what is not parsed yet begins
	rbytes  int    // and its length
	rlooked int    // bytes of it in which no end of a long get was found

	resp *resp // output not sent yet; nil while there is none

	nreqs int      // commands left of its turn (-R)
	io    ioResult // of the receive or send that the round has made for it

	// A value being read: the item, the chunk that is filled if it is
	// chunked, how many bytes are to come, and how many the item has room
	// for behind them.
	item    *item
	rchunk  *itemChunk
	rlbytes int
	rtail   int

	outq    int    // bytes in the socket when it took no more, with -o idle_timeout
	sbytes  int    // bytes to swallow
	refusal []byte // the answer to the command that they belong to

	cmd int    // nreadSet and such
	cas uint64 // unique that the stored item gets, 0 for the next

	meta metaReply  // how to answer when the value is stored
	get  getRequest // what getRest is the rest of
	udp  *udpConn

	binaryHeader protocolBinaryRequestHeader // of the command being served
}

// conns has a place for every descriptor that the process can have. A conn
// stays in its place and serves the next connection of that number.
var (
	conns      []atomic.Pointer[conn]
	listenConn *conn // list of the listening ones

	allowNewConns atomic.Bool // a descriptor came free since we stopped listening
)

// A connSight is what others may know of a conn.
type connSight struct {
	state       connState
	transport   transport
	threadId    int  // index in threads
	owes        bool // some of a reply, which the client does not take
	lastCmdTime relTime
}

// connTimeoutThread finds connections that have been idle for longer than
// -o idle_timeout and tells their workers. It never ends. Not as in C, a client
// that takes nothing of its replies is idle, too.
func connTimeoutThread() {
	const connsPerSlice = 100
	slices := len(conns) / connsPerSlice
	if slices == 0 {
		slices = connsPerSlice
	}
	slice := 1000000 / slices // microseconds
	for {
		if settings.verbose.Load() > 2 {
			fmt.Fprintf(os.Stderr, "idle timeout thread at top of connection list\n")
		}
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
			if now-s.lastCmdTime > settings.idleTimeout && int32(now-s.lastCmdTime) > 0 {
				notifyWorkerFd(threads[s.threadId], fd, queueTimeout)
			} else if s.lastCmdTime < oldest {
				oldest = s.lastCmdTime
			}
		}
		// No other connection can time out sooner.
		sleep := int(settings.idleTimeout) - int(currentTime.Load()-oldest) + 1
		sleep = max(sleep, 1)
		if settings.verbose.Load() > 2 {
			fmt.Fprintf(os.Stderr, "idle timeout thread finished pass, sleeping for %ds\n", sleep)
		}
		usleep(sleep * 1000000)
	}
}

func startConnTimeoutThread() {
	if settings.idleTimeout != 0 {
		go connTimeoutThread()
	}
}

// rbufRelease gives the read buffer back if there is nothing in it.
func rbufRelease(c *conn) {
	if c.rbuf == nil || c.rbytes != 0 || c.transport == udpTransport {
		return
	}
	if !c.rbufMalloced {
		c.thread.rbufCache = append(c.thread.rbufCache, c.rbuf)
	}
	c.rbufMalloced = false
	c.rbuf = nil
	c.rcurr = 0
	c.rlooked = 0
}

// rbufAvailable tells whether rbufAlloc can lend c a buffer.
func rbufAvailable(c *conn) bool {
	t := c.thread
	return c.rbuf != nil || len(t.rbufCache) > 0 || t.rbufLimit == 0 || t.rbufs < t.rbufLimit
}

// rbufAlloc lends c a read buffer of its worker. It fails if that would
// pass the limit of -o read_buf_mem_limit.
func rbufAlloc(c *conn) bool {
	if c.rbuf != nil {
		return true
	}
	t := c.thread
	if n := len(t.rbufCache); n > 0 {
		c.rbuf = t.rbufCache[n-1]
		t.rbufCache = t.rbufCache[:n-1]
	} else if t.rbufLimit != 0 && t.rbufs >= t.rbufLimit {
		t.stats.pending.n[statReadBufOom]++
		return false
	} else {
		c.rbuf = make([]byte, readBufferSize)
		t.rbufs++
	}
	c.rcurr = 0
	return true
}

// rbufSwitchToMalloc gives c a buffer that can grow, for a get with more
// keys than the usual one holds.
func rbufSwitchToMalloc(c *conn) {
	b := make([]byte, 2*len(c.rbuf))
	copy(b, c.rbuf[c.rcurr:c.rcurr+c.rbytes])
	n := c.rbytes
	c.rbytes = 0
	rbufRelease(c)
	c.rbuf, c.rcurr, c.rbytes, c.rbufMalloced = b, 0, n, true
}

// connInit makes the table: limitFiles has seen to it that no descriptor has
// a number of -c or more.
func connInit() { conns = make([]atomic.Pointer[conn], settings.maxconns) }

func protText(p protocol) string {
	switch p {
	case asciiProt:
		return "ascii"
	case binaryProt:
		return "binary"
	case negotiatingProt:
		return "auto-negotiate"
	}
	return "unknown"
}

// connPublish shows c to other threads as it is now. A worker does so when
// it turns away from c.
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

// connOwes tells whether c waits until the client takes more of its replies.
func connOwes(c *conn) bool {
	return c.resp != nil && (c.state == connMwrite || c.state == connNread || c.state == connSwallow)
}

// socketOutq returns how many bytes the socket holds that the client has not
// taken.
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
	if settings.idleTimeout == 0 || currentTime.Load()-c.lastCmdTime <= settings.idleTimeout {
		return
	}
	if c.state != connNewCmd && c.state != connRead && !connOwes(c) {
		if settings.verbose.Load() > 1 {
			fmt.Fprintf(os.Stderr, "fd %d wants to timeout, but isn't in read state", c.sfd)
		}
		return
	}
	if n := socketOutq(sfd); connOwes(c) && n < c.outq {
		c.outq = n // the client takes it, but slowly
		c.lastCmdTime = currentTime.Load()
		connPublish(c)
		return
	}
	if settings.verbose.Load() > 1 {
		fmt.Fprintf(os.Stderr, "Closing idle fd %d\n", c.sfd)
	}
	t.stats.pending.n[statIdleKicks]++
	c.closeReason = idleTimeoutClose
	connSetState(c, connClosing)
	driveMachine(c)
}

// connHandOver takes c off its worker, for a side thread to write to. What
// the client sends meanwhile waits in the socket.
func connHandOver(c *conn) {
	respRelease(c)
	rbufRelease(c)
	pollDel(&c.thread.poll, c.sfd)
	c.evFlags = 0
	connSetState(c, connWatch)
	connPublish(c)
}

// sidethreadWrite is write(2) for the side thread that has c.
func sidethreadWrite(c *conn, b []byte) (int, error) {
	if tlsBuild && c.ssl != nil {
		if n, e := sslWrite(c, b); e != 0 {
			return n, e
		} else {
			return n, nil
		}
	}
	return unix.Write(c.sfd, b)
}

// connWorkerReadd takes c back from a side thread. Epoll has watched it during
// a handshake alone.
func connWorkerReadd(c *conn) {
	watch := pollAdd
	if c.evFlags != 0 {
		watch = pollMod
	}
	c.evFlags = evRead
	if err := watch(&c.thread.poll, c.sfd, evRead); err != nil {
		perror("event_add", err)
		connSetState(c, connClosing)
	} else {
		connSetState(c, connNewCmd)
	}
	driveConn(c)
}

// connNew begins the connection on sfd in the given state: on worker t, or
// on the main thread if t is nil. It returns nil if sfd cannot be watched.
func connNew(sfd int, initState connState, transport transport, t *thread, bproto protocol) *conn {
	c := conns[sfd].Load()
	if c == nil {
		c = &conn{sfd: sfd}
		statsLock.Lock()
		statsState.connStructs++
		statsLock.Unlock()
	}
	c.seen.Load() // pairs with connClose: what the last worker did to c is done
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
	c.io.done = false
	c.rbytes = 0
	c.rcurr = 0
	c.closeAfterWrite = false
	c.getRest = false
	c.authenticated = false
	c.saslStarted = false
	c.lastCmdTime = currentTime.Load()
	if initState == connNewCmd && loggerEflags.Load()&logConnevents != 0 {
		loggerLogConnEvent(c, loggerConnectionNew)
	}
	if transport == udpTransport {
		c.udp = new(udpConn)
		c.rbuf = make([]byte, udpReadBufferSize)
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
	statsLock.Lock()
	statsState.currConns++
	stats.totalConns++
	statsLock.Unlock()
	return c
}

// connReleaseItems lets go of a value half read and of replies not sent.
func connReleaseItems(c *conn) {
	if c.item != nil {
		itemRemove(c.item)
		c.item = nil
	}
	respRelease(c)
}

func connCleanup(c *conn) {
	connReleaseItems(c)
	c.rbytes = 0
	c.getRest = false
	if c.transport == udpTransport {
		c.closeAfterWrite = false
		connSetState(c, connRead)
	}
}

func connClose(c *conn) {
	if loggerEflags.Load()&logConnevents != 0 {
		loggerLogConnEvent(c, loggerConnectionClose)
	}
	if settings.verbose.Load() > 1 {
		fmt.Fprintf(os.Stderr, "<%d connection closed.\n", c.sfd)
	}
	connCleanup(c)
	rbufRelease(c)
	if tlsBuild && c.ssl != nil {
		sslConnClose(c)
	}
	connUnyield(c)
	connSetState(c, connClosed)
	c.closeReason = errorClose
	if c.thread != nil {
		statsFold(c.thread) // who sees the end finds counted what led to it
	}
	connPublish(c)
	statsLock.Lock()
	statsState.currConns--
	statsLock.Unlock()
	// From here on c may begin to serve another connection, of another worker.
	rawClose(c.sfd)
	allowNewConns.Store(true)
}

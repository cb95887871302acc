// Worker threads and the connection queue. From thread.c; libevent is poll.go.

package main

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// Why a worker was woken: the byte written to its pipe says the same.
type cqMode byte

const (
	queueNewConn    cqMode = 'c' // a connection to serve
	queueRedispatch cqMode = 'r' // a connection comes back from a side thread
	queuePause      cqMode = 'p' // report in, then hang until resumed
	queueTimeout    cqMode = 't' // a client has been idle for too long
	queueClose      cqMode = 'x' // a side thread is done with a connection
)

// A cqItem is an entry of a worker's queue.
type cqItem struct {
	mode      cqMode
	sfd       int
	initState connState
	transport transport
	bproto    protocol
	ssl       sslMode
	next      *cqItem
}

// A connQueue hands entries to a worker in the order of their coming.
type connQueue struct {
	lock       sync.Mutex
	head, tail *cqItem
	free       *cqItem // used before; the queue does not make garbage
}

// A thread is a worker (LIBEVENT_THREAD). All but the queue and what lies
// behind a lock is its own.
type thread struct {
	id              int
	napiId          int // receive queue that this worker serves; main thread only
	poll            poll
	notifyReceiveFd int // pipe: one byte for each item in evQueue
	notifySendFd    int
	evQueue         connQueue

	stats   threadStats
	curSfd  int         // the client being served, for log lines
	l       *logger     // logger.go
	bumpBuf *lruBumpBuf // lru.go

	rbufCache [][]byte // read buffers not lent to a connection
	rbufs     int      // read buffers made
	rbufLimit int      // most that may be made, 0 for no limit
	respCount int      // replies gathered and not sent, and their limit
	respLimit int

	ring    *ring   // nil if there is none
	round   []*conn // to be served in this round
	recvs   []*conn // to be received for in it
	sends   []*conn // have come to connMwrite in it
	sending []*conn // those of them that are being sent to
	yielded []*conn // have input left but had their turn (-R); for the next round

	wbuf      []byte       // replies of the round, one after the other; see respLend
	riov      []respIov    // and their pieces
	lastLent  *resp        // whose replies come last in these, and may grow
	respsLent int          // resps that lie in these
	resps     []*resp      // not lent
	iov       []unix.Iovec // for transmit
	sslWbuf   []byte       // for sslSendmsg

	pr          parser // the line being parsed
	lookedAhead int    // how far lookAhead has come in the read buffer
}

var (
	threads    []*thread
	lastThread = -1 // which one got a connection most recently; main thread only

	// Held to make the workers hang when they have reported in.
	workerHangLock sync.Mutex

	initLock  sync.Mutex
	initCond  = sync.NewCond(&initLock)
	initCount int // workers that have reported in and hang
)

type pauseThreadTypes int

const (
	pauseWorkerThreads pauseThreadTypes = iota
	pauseAllThreads
	resumeAllThreads
	resumeWorkerThreads
)

// waitForThreadRegistration expects initLock.
func waitForThreadRegistration(nthreads int) {
	for initCount < nthreads {
		initCond.Wait()
	}
}

func registerThreadInitialized() {
	initLock.Lock()
	initCount++
	initCond.Signal()
	initLock.Unlock()
	// Pile up here if someone wants us to.
	workerHangLock.Lock()
	initLock.Lock()
	initCount--
	initLock.Unlock()
	workerHangLock.Unlock()
}

// pauseThreads stops the workers, and with pauseAllThreads the background
// threads too, or lets them go on. The caller holds no lock but maintenanceLock. When it
// returns from a pause none of them holds a lock or looks at an item.
func pauseThreads(kind pauseThreadTypes) {
	switch kind {
	case pauseAllThreads:
		slabMaintenancePause()
		lruMaintainerPause()
		lruCrawlerPause()
		fallthrough
	case pauseWorkerThreads:
		workerHangLock.Lock()
	case resumeAllThreads:
		slabMaintenanceResume()
		lruMaintainerResume()
		lruCrawlerResume()
		fallthrough
	case resumeWorkerThreads:
		workerHangLock.Unlock()
		return
	}
	initLock.Lock()
	for _, t := range threads {
		notifyWorkerFd(t, 0, queuePause)
	}
	waitForThreadRegistration(len(threads))
	initLock.Unlock()
}

// cqPop returns nil if there is nothing in the queue.
func cqPop(cq *connQueue) *cqItem {
	cq.lock.Lock()
	item := cq.head
	if item != nil {
		cq.head = item.next
	}
	cq.lock.Unlock()
	return item
}

func cqPush(cq *connQueue, item *cqItem) {
	item.next = nil
	cq.lock.Lock()
	if cq.head == nil {
		cq.head = item
	} else {
		cq.tail.next = item
	}
	cq.tail = item
	cq.lock.Unlock()
}

// cqiNew returns a fresh item.
func cqiNew(cq *connQueue) *cqItem {
	cq.lock.Lock()
	item := cq.free
	if item != nil {
		cq.free = item.next
	}
	cq.lock.Unlock()
	if item == nil {
		item = new(cqItem)
	}
	return item
}

func cqiFree(cq *connQueue, item *cqItem) {
	cq.lock.Lock()
	item.next = cq.free
	cq.free = item
	cq.lock.Unlock()
}

// notifyWorker passes the item to t and wakes it up.
func notifyWorker(t *thread, item *cqItem) {
	b := [1]byte{byte(item.mode)}
	cqPush(&t.evQueue, item)
	_, e := rawWrite(t.notifySendFd, b[:])
	for e == unix.EINTR || e == unix.EAGAIN { // the pipe is full
		runtime.Gosched() // the collector may wait for us, and the worker for it
		_, e = rawWrite(t.notifySendFd, b[:])
	}
	if e != 0 {
		perror("Failed writing to notify pipe", e)
	}
}

func notifyWorkerFd(t *thread, sfd int, mode cqMode) {
	item := cqiNew(&t.evQueue)
	*item = cqItem{mode: mode, sfd: sfd}
	notifyWorker(t, item)
}

// setupThread makes what me waits with. It ends the process if it cannot.
func setupThread(me *thread) {
	if err := pollInit(&me.poll); err != nil {
		sysfatal(1, "Can't allocate event base")
	}
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		sysfatal(1, "Can't create notify pipe: %v", err)
	}
	me.notifyReceiveFd, me.notifySendFd = fds[0], fds[1]
	if err := pollAdd(&me.poll, me.notifyReceiveFd, evRead); err != nil {
		sysfatal(1, "Can't monitor libevent notify pipe")
	}
	if limit := settings.readBufMemLimit; limit != 0 {
		me.rbufLimit = max(limit/settings.numThreads/readBufferSize, 1)
		me.respLimit = me.rbufLimit * respPerBuffer
	}
	me.wbuf = make([]byte, 0, roundBufs*wbufSize)
	me.riov = make([]respIov, 0, 2*respIovMax)
	me.l = loggerCreate()
	me.bumpBuf = itemLruBumpBufCreate()
}

// workerLibevent is the life of a worker: rounds of waiting for events and
// serving them.
func workerLibevent(me *thread) {
	runtime.LockOSThread()
	blockPreemptSignal()
	if settings.ioUring {
		me.ring = ringInit() // here, as only this thread may use it
	}
	registerThreadInitialized()
	for {
		msec := -1
		if len(me.yielded) > 0 {
			msec = 0
		}
		events, err := pollWait(&me.poll, msec)
		if err != nil {
			panic(fmt.Sprintf("epoll_wait: %v", err))
		}
		notified := false
		for i := range events {
			fd := int(events[i].Fd)
			if fd == me.notifyReceiveFd {
				notified = true
				continue
			}
			eventHandler(me, fd)
		}
		driveRound(me)
		// The pipe comes last: a connection closed or begun there may have
		// the number of a descriptor that one of the events above is for.
		if notified {
			threadLibeventProcess(me)
		}
		if me.stats.dirty != 0 || me.stats.pending.n != [numThreadStats]uint64{} {
			statsFold(me)
		}
	}
}

// Connections that are received for, served and sent to at a time. More take
// turns within the round.
const roundMax = 64

// driveRound serves the connections of a round: those with events, and those
// that have yielded in the round before. It receives for all, serves all, then
// sends for all, so that clients wake up together.
func driveRound(me *thread) {
	for _, c := range me.yielded {
		if c != nil { // connUnyield may have come before
			c.yielded = false
			me.round = append(me.round, c)
		}
	}
	me.yielded = me.yielded[:0]
	for rest := me.round; len(rest) > 0; {
		n := roundReceive(me, rest)
		for _, c := range rest[:n] {
			if roundFull(me) {
				roundSend(me)
			}
			driveConn(c)
		}
		roundSend(me)
		rest = rest[n:]
	}
	me.round = me.round[:0]
}

// roundReceive receives for the connections that can be read, and returns how
// many of conns can be served now: as many as there are read buffers for.
func roundReceive(me *thread, conns []*conn) int {
	conns = conns[:min(len(conns), roundMax)]
	me.recvs = me.recvs[:0]
	for i, c := range conns {
		if c.state != connRead || c.transport == udpTransport {
			continue // driveMachine knows what it waits for
		}
		if i > 0 && !rbufAvailable(c) {
			conns = conns[:i]
			break
		}
		if rbufAlloc(c) && readRoom(c) != nil {
			me.recvs = append(me.recvs, c)
		}
	}
	if r := me.ring; r != nil && len(me.recvs) >= ringLeast {
		for _, c := range me.recvs {
			ringPrep(r, ioringOpRecv, c, readRoom(c))
		}
		ringSubmit(r)
		for _, c := range me.recvs {
			me.stats.pending.n[statBytesRead] += uint64(max(c.io.n, 0))
		}
	} else {
		for _, c := range me.recvs {
			c.io.n, c.io.e = readFd(c, readRoom(c))
		}
	}
	for _, c := range me.recvs {
		c.io.done = true
	}
	return len(conns)
}

// driveConn gives c a turn.
func driveConn(c *conn) {
	c.nreqs = settings.reqsPerEvent
	c.thread.lookedAhead = 0
	driveMachine(c)
}

// roundFull tells whether there is no room for another connection's replies,
// or they would not be within the limit of -o read_buf_mem_limit.
func roundFull(me *thread) bool {
	return cap(me.wbuf)-len(me.wbuf) < wbufSize || cap(me.riov)-len(me.riov) < respIovMax ||
		me.respLimit != 0 && len(me.sends) > 0
}

// roundSend sends for the connections that have come to connMwrite, and goes
// on with each, until none of them has more to send.
func roundSend(me *thread) {
	for len(me.sends) > 0 {
		me.sends, me.sending = me.sending[:0], me.sends
		for _, c := range me.sending {
			transmitCount(c)
		}
		statsFold(me) // whoever reads a reply finds it counted
		for _, c := range me.sending {
			r := c.resp
			if me.ring != nil && len(me.sending) >= ringLeast && len(r.iov) == 0 && c.io.want > 0 {
				ringPrep(me.ring, ioringOpSend, c, r.wbuf[r.done:])
				c.io.done = true
			} else {
				transmitStart(c)
			}
		}
		if me.ring != nil {
			ringSubmit(me.ring)
		}
		for _, c := range me.sending {
			driveMachine(c)
		}
	}
}

// connYield puts c on its worker's list of those that go on when the others
// have had their turn.
func connYield(c *conn) {
	if !c.yielded {
		c.yielded = true
		c.thread.yielded = append(c.thread.yielded, c)
	}
}

// connUnyield takes c off that list.
func connUnyield(c *conn) {
	if c.yielded {
		c.yielded = false
		yielded := c.thread.yielded
		yielded[slices.Index(yielded, c)] = nil
	}
}

// threadLibeventProcess serves the entries that the pipe announces, at most
// as many as one read of it tells.
func threadLibeventProcess(me *thread) {
	var buf [32]byte
	n, e := rawRead(me.notifyReceiveFd, buf[:])
	if e != 0 {
		if e != unix.EINTR && settings.verbose.Load() > 0 {
			fmt.Fprintf(os.Stderr, "Can't read from libevent pipe\n")
		}
		return
	}
	for range n {
		item := cqPop(&me.evQueue)
		if item == nil {
			return
		}
		switch item.mode {
		case queueNewConn:
			c := connNew(item.sfd, item.initState, item.transport, me, item.bproto)
			if c == nil {
				if settings.verbose.Load() > 0 {
					fmt.Fprintf(os.Stderr, "Can't listen for events on fd %d\n", item.sfd)
				}
				unix.Close(item.sfd)
			} else if tlsBuild && item.ssl != sslDisabled {
				sslInitConn(c, item.ssl)
			}
		case queuePause:
			for stopMainLoop.Load() == int32(graceStop) && len(me.yielded) > 0 {
				driveRound(me) // what was read is answered
			}
			registerThreadInitialized()
		case queueTimeout:
			connCloseIdle(me, item.sfd)
		case queueRedispatch:
			connWorkerReadd(conns[item.sfd].Load())
		case queueClose:
			c := conns[item.sfd].Load()
			connSetState(c, connClosing)
			driveMachine(c)
		}
		roundSend(me)
		cqiFree(&me.evQueue, item)
	}
}

func selectThreadRoundRobin() *thread {
	lastThread = (lastThread + 1) % len(threads)
	return threads[lastThread]
}

// selectThreadByNapiId gives all connections that come in by one receive
// queue of a network card to one worker (-N).
func selectThreadByNapiId(sfd int) *thread {
	id, err := unix.GetsockoptInt(sfd, unix.SOL_SOCKET, unix.SO_INCOMING_NAPI_ID)
	if err != nil || id == 0 {
		statsLock.Lock()
		stats.roundRobinFallback++
		statsLock.Unlock()
		return selectThreadRoundRobin()
	}
	for _, t := range threads {
		if t.napiId == 0 || t.napiId == id {
			t.napiId = id
			return t
		}
	}
	// More queues than workers: forget them all and begin again.
	statsLock.Lock()
	stats.unexpectedNapiIds++
	statsLock.Unlock()
	for _, t := range threads {
		t.napiId = 0
	}
	threads[0].napiId = id
	return threads[0]
}

// dispatchConnNew passes a new connection to a worker. Only the main thread
// calls it, at start for UDP and for each client that it accepts.
func dispatchConnNew(sfd int, initState connState, transport transport, bproto protocol, ssl sslMode) {
	var t *thread
	if settings.numNapiIds == 0 {
		t = selectThreadRoundRobin()
	} else {
		t = selectThreadByNapiId(sfd)
	}
	item := cqiNew(&t.evQueue)
	*item = cqItem{mode: queueNewConn, sfd: sfd, initState: initState, transport: transport, bproto: bproto, ssl: ssl}
	notifyWorker(t, item)
}

// redispatchConn gives a connection back to its worker from a side thread
// that has borrowed it.
func redispatchConn(c *conn) {
	notifyWorkerFd(c.thread, c.sfd, queueRedispatch)
}

// sidethreadConnClose is redispatchConn for a connection that is to end.
func sidethreadConnClose(c *conn) {
	if settings.verbose.Load() > 1 {
		fmt.Fprintf(os.Stderr, "<%d connection closing from side thread.\n", c.sfd)
	}
	notifyWorkerFd(c.thread, c.sfd, queueClose)
}

// memcachedThreadInit starts the workers and waits until all have begun.
func memcachedThreadInit(nthreads int) {
	itemLocksInit(nthreads)
	threads = make([]*thread, nthreads)
	for i := range threads {
		threads[i] = &thread{id: i}
		setupThread(threads[i])
		statsState.reservedFds += 5 // two of epoll, the ends of the pipe, the ring
	}
	workerHangLock.Lock()
	for _, t := range threads {
		go workerLibevent(t)
	}
	initLock.Lock()
	waitForThreadRegistration(nthreads)
	initLock.Unlock()
	workerHangLock.Unlock()
	if settings.verbose.Load() > 0 {
		what := "off"
		if threads[0].ring != nil {
			what = "on"
		}
		fmt.Fprintf(os.Stderr, "io_uring is %s\n", what)
	}
}

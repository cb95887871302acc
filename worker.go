// Worker threads and the connection queue. From thread.c; poll.go stands in for
// libevent.

package main

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Why a worker is woken. The byte written to its pipe says the same.
type cqMode byte

const (
	queueNewConn    cqMode = 'c' // a connection to serve
	queueRedispatch cqMode = 'r' // a connection comes back from a side thread
	queuePause      cqMode = 'p' // report in, then hang until resumed
	queueTimeout    cqMode = 't' // a client has been idle for too long
	queueClose      cqMode = 'x' // a side thread wants a connection closed
	queueIo         cqMode = 'i' // reads from extstore have come back
	queueHealth     cqMode = 'h' // clear asked, to show that the worker runs
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

// A connQueue passes entries to a worker, first in, first out.
type connQueue struct {
	lock       sync.Mutex
	head, tail *cqItem
	free       *cqItem // used entries, for reuse: the queue makes no garbage
}

// A thread is a worker (LIBEVENT_THREAD). Only the worker touches its fields,
// except for napiId, the queue, whatever a lock guards, and what is set once
// at the start.
type thread struct {
	id              int
	napiId          int // NIC receive queue that it serves, 0 for none; main thread only
	poll            poll
	asked           atomic.Bool // queueHealth is on its way
	notifyReceiveFd int         // pipe: one byte for each entry of evQueue
	notifySendFd    int
	evQueue         connQueue

	stats   threadStats
	curSfd  int         // the client being served, for log lines
	l       *logger     // logger.go
	bumpBuf *lruBumpBuf // lru.go

	rbufCache [][]byte // read buffers not lent to a connection
	rbufs     int      // read buffers allocated
	rbufLimit int      // maximum of rbufs, 0 for no limit
	respCount int      // replies gathered and not sent
	respLimit int      // maximum of respCount, 0 for no limit

	ring    *ring   // nil if there is none
	round   []*conn // conns to serve in this round
	recvs   []*conn // those to receive for before that
	sends   []*conn // those that have reached connMwrite
	sending []*conn // those that roundSend is sending to
	yielded []*conn // used up their turn (-R) with input left; for the next round

	wbuf      []byte       // replies of the round, back to back; see respLend
	riov      []respIov    // their pieces, likewise
	lastLent  *resp        // the last resp in both, which may still grow
	respsLent int          // resps lent and not returned
	resps     []*resp      // free ones
	iov       []unix.Iovec // scratch of transmitPre

	sslThread //lint:ignore U1000 used with -tags tls

	pr          parser // the line being parsed
	lookedAhead int    // how far lookAhead has looked in the read buffer

	ioQueue       *objIo // reads from extstore to be submitted
	ioQueueTail   *objIo
	connsTosubmit int        // connections that have added to ioQueue
	ioCache       *ioPending // free ones
	ios           int        // reads that have not come back

	ionLock          sync.Mutex // guards the following
	ionHead, ionTail *ioPending // reads that have come back
}

var (
	threads    []*thread
	lastThread = -1 // index of the one that got the latest connection; main thread only

	// While it is held, workers that have reported in hang.
	workerHangLock sync.Mutex

	initLock  sync.Mutex
	initCond  = sync.NewCond(&initLock)
	initCount int // workers that have reported in and hang; guarded by initLock
)

type pauseThreadTypes int

const (
	pauseWorkerThreads pauseThreadTypes = iota
	pauseAllThreads
	resumeAllThreads
	resumeWorkerThreads
)

// waitForThreadRegistration waits until nthreads workers have reported in. The
// caller holds initLock.
func waitForThreadRegistration(nthreads int) {
	for initCount < nthreads {
		initCond.Wait()
	}
}

// registerThreadInitialized reports a worker in, which then hangs for as long
// as workerHangLock is held.
func registerThreadInitialized() {
	initLock.Lock()
	initCount++
	initCond.Broadcast()
	initLock.Unlock()
	// Hang here while pauseThreads, or the start, holds the lock.
	workerHangLock.Lock()
	initLock.Lock()
	initCount--
	initCond.Broadcast()
	initLock.Unlock()
	workerHangLock.Unlock()
}

// pauseThreads pauses or resumes the workers, and with pauseAllThreads and
// resumeAllThreads the background threads too. The caller may hold
// maintenanceLock but no other lock. While paused, none of these threads holds
// a lock or looks at an item.
func pauseThreads(kind pauseThreadTypes) {
	switch kind {
	case pauseAllThreads:
		slabMaintenancePause()
		lruMaintainerPause()
		lruCrawlerPause()
		storageCompactPause()
		storageWritePause()
		fallthrough
	case pauseWorkerThreads:
		workerHangLock.Lock()
	case resumeAllThreads:
		slabMaintenanceResume()
		lruMaintainerResume()
		lruCrawlerResume()
		storageCompactResume()
		storageWriteResume()
		fallthrough
	case resumeWorkerThreads:
		workerHangLock.Unlock()
		return
	}
	initLock.Lock()
	for initCount > 0 { // workers have yet to leave the pause before; not as in C
		workerHangLock.Unlock()
		initCond.Wait()
		initLock.Unlock()
		workerHangLock.Lock()
		initLock.Lock()
	}
	for _, t := range threads {
		notifyWorkerFd(t, 0, queuePause)
	}
	waitForThreadRegistration(len(threads))
	initLock.Unlock()
}

// cqPop takes the first entry off the queue. It returns nil if there is none.
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

// cqiNew returns an entry, new or used before, for the caller to overwrite.
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

// notifyWorker queues item for t and wakes t.
func notifyWorker(t *thread, item *cqItem) {
	b := [1]byte{byte(item.mode)}
	cqPush(&t.evQueue, item)
	_, e := rawWrite(t.notifySendFd, b[:])
	for e == unix.EINTR || e == unix.EAGAIN { // the pipe is full
		runtime.Gosched() // the collector may wait for us, and the worker for the collector
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

// setupThread gives me its epoll, its pipe and its buffers, before its goroutine
// starts. On failure it ends the process.
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
	me.iov = make([]unix.Iovec, 0, 16)
	me.l = loggerCreate()
	me.bumpBuf = itemLruBumpBufCreate()
}

// workerLibevent is the loop of a worker: each round waits for events, then
// serves them.
func workerLibevent(me *thread) {
	runtime.LockOSThread()
	blockPreemptSignal()
	if settings.ioUring {
		me.ring = ringInit() // here: only the thread that makes a ring may use it
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
		// The pipe comes last: what it asks for may close or begin a connection
		// on a descriptor that one of the events above is for.
		if notified {
			threadLibeventProcess(me)
		}
		threadIoQueueSubmit(me)
		if me.stats.dirty != 0 || me.stats.pending.n != [numThreadStats]uint64{} {
			statsFold(me)
		}
		if extStorage != nil {
			pollYield(&me.poll)
		}
	}
}

// How many connections are received for, served and sent to together. If there
// are more, they take turns within the round.
const roundMax = 64

// driveRound serves the connections of a round: those with events, and those
// that yielded in the previous round. It receives for all, serves all, then
// sends to all, so that clients wake up together.
func driveRound(me *thread) {
	for _, c := range me.yielded {
		if c != nil { // connUnyield leaves nil
			c.yielded = false
			me.round = append(me.round, c)
		}
	}
	me.yielded = me.yielded[:0]
	for _, c := range me.round {
		c.inRound = false
	}
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

// roundReceive receives for those of conns that wait for a command. It returns
// how many of conns to serve now: at most roundMax, and no more than there are
// read buffers for.
func roundReceive(me *thread, conns []*conn) int {
	conns = conns[:min(len(conns), roundMax)]
	me.recvs = me.recvs[:0]
	for i, c := range conns {
		if c.state != connRead || c.transport == udpTransport {
			continue // driveMachine reads for it, or sends
		}
		if !rbufAvailable(c) {
			if i == 0 {
				continue // driveMachine closes it
			}
			conns = conns[:i]
			break
		}
		switch {
		case !rbufAlloc(c) || readRoom(c) == nil: // tryReadNetwork refuses the line
		case tlsBuild && c.ssl != nil: // not in the ring
			c.io.n, c.io.e = readFd(c, readRoom(c))
			c.io.done = true
		default:
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

// driveConn gives c a turn of up to -R commands.
func driveConn(c *conn) {
	c.nreqs = settings.reqsPerEvent
	c.thread.lookedAhead = 0
	driveMachine(c)
}

// roundFull tells whether to send before another connection is served: its
// replies may not fit or, with -o read_buf_mem_limit, replies are waiting. The
// connection served last gets no more room.
func roundFull(me *thread) bool {
	respClose(me)
	return cap(me.wbuf)-len(me.wbuf) < wbufSize || cap(me.riov)-len(me.riov) < respIovMax ||
		me.respLimit != 0 && len(me.sends) > 0
}

// roundSend sends to the connections that have reached connMwrite, then runs
// each on, until none reaches connMwrite again.
func roundSend(me *thread) {
	for len(me.sends) > 0 {
		me.sends, me.sending = me.sending[:0], me.sends
		for _, c := range me.sending {
			transmitCount(c)
		}
		me.poll.replies += len(me.sending)
		statsFold(me) // whoever reads a reply finds it counted
		for _, c := range me.sending {
			r := c.resp
			if me.ring == nil || len(me.sending) < ringLeast || len(r.iov) > 0 || c.io.want == 0 || tlsBuild && c.ssl != nil {
				transmitStart(c)
				continue
			}
			ringPrep(me.ring, ioringOpSend, c, r.wbuf[r.done:])
			c.io.done = true
		}
		if me.ring != nil {
			ringSubmit(me.ring)
		}
		for _, c := range me.sending {
			driveMachine(c)
		}
	}
}

// connYield puts c on its worker's list of conns that go on once the others
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

// threadLibeventIonotify goes on with the connections whose reads from extstore
// have come back.
func threadLibeventIonotify(me *thread) {
	me.ionLock.Lock()
	p := me.ionHead
	me.ionHead = nil
	me.ionLock.Unlock()
	for p != nil {
		next := p.next
		if roundFull(me) {
			roundSend(me)
		}
		storageReturnCb(p)
		p = next
	}
}

// threadLibeventProcess serves one queue entry for each byte that a single read
// of the pipe returns.
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
			for stopMainLoop.Load() == int32(graceStop) && (len(me.yielded) > 0 || me.ios > 0) {
				// Answer what has been read.
				driveRound(me)
				threadIoQueueSubmit(me)
				usleep(100)
				threadLibeventIonotify(me)
				roundSend(me)
			}
			registerThreadInitialized()
		case queueTimeout:
			connCloseIdle(me, item.sfd)
		case queueIo:
			threadLibeventIonotify(me)
		case queueHealth:
			me.asked.Store(false)
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

// selectThreadByNapiId picks the worker so that all connections from one
// receive queue of a network card share a worker (-N).
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

// redispatchConn gives c back to its worker, from the side thread that has
// borrowed c.
func redispatchConn(c *conn) {
	notifyWorkerFd(c.thread, c.sfd, queueRedispatch)
}

// sidethreadConnClose is redispatchConn for a connection that is to be closed.
func sidethreadConnClose(c *conn) {
	if settings.verbose.Load() > 1 {
		fmt.Fprintf(os.Stderr, "<%d connection closing from side thread.\n", c.sfd)
	}
	notifyWorkerFd(c.thread, c.sfd, queueClose)
}

// returnIoPending gives a read back to its worker. It wakes the worker up unless
// other reads wait for it already.
func returnIoPending(p *ioPending) {
	t := p.thread
	p.next = nil
	t.ionLock.Lock()
	doNotify := t.ionHead == nil
	if doNotify {
		t.ionHead = p
	} else {
		t.ionTail.next = p
	}
	t.ionTail = p
	t.ionLock.Unlock()
	if doNotify {
		notifyWorkerFd(t, 0, queueIo)
	}
}

// memcachedThreadInit starts the workers and waits until all have reported in.
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

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

	resp        resp         // replies being gathered, lent to one conn at a time
	iov         []unix.Iovec // for transmit
	pr          parser       // the line being parsed
	lookedAhead int          // how far lookAhead has come in the read buffer
	yielded     []*conn      // have input left but had their turn (-R)
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
	me.resp.wbuf = make([]byte, 0, wbufSize)
	me.l = loggerCreate()
	me.bumpBuf = itemLruBumpBufCreate()
}

// workerLibevent is the life of a worker: wait for events, serve them.
func workerLibevent(me *thread) {
	runtime.LockOSThread()
	blockPreemptSignal()
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
		yielded := len(me.yielded) // from the round before
		notified := false
		for i := range events {
			fd := int(events[i].Fd)
			if fd == me.notifyReceiveFd {
				notified = true
				continue
			}
			eventHandler(me, fd)
		}
		driveYielded(me, yielded)
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

// driveYielded gives the first n connections that have yielded their turn.
func driveYielded(me *thread, n int) {
	for _, c := range me.yielded[:n] {
		if c != nil { // connUnyield may have come before
			c.yielded = false
			driveMachine(c)
		}
	}
	me.yielded = append(me.yielded[:0], me.yielded[n:]...)
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
			}
		case queuePause:
			for stopMainLoop.Load() == int32(graceStop) && len(me.yielded) > 0 {
				driveYielded(me, len(me.yielded)) // what was read is answered
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
func dispatchConnNew(sfd int, initState connState, transport transport, bproto protocol) {
	var t *thread
	if settings.numNapiIds == 0 {
		t = selectThreadRoundRobin()
	} else {
		t = selectThreadByNapiId(sfd)
	}
	item := cqiNew(&t.evQueue)
	*item = cqItem{mode: queueNewConn, sfd: sfd, initState: initState, transport: transport, bproto: bproto}
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
		statsState.reservedFds += 3 // epoll and the two ends of the pipe
	}
	workerHangLock.Lock()
	for _, t := range threads {
		go workerLibevent(t)
	}
	initLock.Lock()
	waitForThreadRegistration(nthreads)
	initLock.Unlock()
	workerHangLock.Unlock()
}

// Worker threads and the connection queue. From thread.c; poll.go stands in for
// libevent.

package main

import (
	"fmt"
	"os"
	"runtime"
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
// except for napiId, the queue, the fields that a lock guards, and the fields
// that are set once at the start.
type thread struct {
	id              int
	napiId          int // NIC receive queue that it serves, 0 for none; main thread only
	poll            poll
	asked           atomic.Bool // queueHealth is on its way
	notifyReceiveFd int         // pipe: one byte for each entry of evQueue
	notifySendFd    int
	evQueue         connQueue

	stats  threadStats
	curSfd int     // the client being served, for log lines
	l      *logger // logger.go

	// The conns of this round and of the next.
	round struct {
		ready  []*conn // to be served next: those with events, and those left over
		served []*conn // those that roundServe serves
		sends  []*conn // the conns of these that have reached connMwrite
		sent   []*conn // conns that go on, as their replies are sent or cannot be
		goOn   []*conn // scratch of roundServe
	}

	// Read and reply buffers.
	bufs struct {
		rbufCache [][]byte // read buffers not lent to a connection
		rbufs     int      // read buffers allocated; a long one counts as several
		rbufLimit int      // maximum of rbufs, 0 for no limit
		longBufs  [][]byte // long read buffers not lent to a connection
		longFree  int      // bytes of these

		round     respBufs     // replies of the round, back to back
		resps     []*resp      // free ones
		own       []*respBufs  // free ones for connections
		respCount int          // replies gathered and not sent
		respLimit int          // maximum of respCount, 0 for no limit
		iov       []unix.Iovec // scratch of transmitPre
	}

	sslThread //lint:ignore U1000 used with -tags tls

	pr parser // the line being parsed

	// Reads from extstore.
	ext struct {
		ioQueue       *objIo // to be submitted
		ioQueueTail   *objIo
		connsTosubmit int        // connections that have added to ioQueue
		ioCache       *ioPending // free ones
		ios           int        // reads that have not come back

		ionLock          sync.Mutex // guards the following
		ionHead, ionTail *ioPending // reads that have come back
	}
}

var (
	threads    []*thread
	lastThread = -1 // index of the worker that got the latest connection; main thread only

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

// pauseThreads pauses or resumes the workers; with pauseAllThreads and
// resumeAllThreads also the background threads. The caller may hold
// maintenanceLock but no other lock. While paused, none of these threads holds
// a lock or looks at an item.
func pauseThreads(kind pauseThreadTypes) {
	switch kind {
	case pauseAllThreads:
		slabMaintenancePause()
		lruMaintainerPause()
		lruCrawlerPause()
		storageCompactPlock.Lock()
		storageWritePlock.Lock()
		fallthrough
	case pauseWorkerThreads:
		workerHangLock.Lock()
	case resumeAllThreads:
		slabMaintenanceResume()
		lruMaintainerResume()
		lruCrawlerResume()
		storageCompactPlock.Unlock()
		storageWritePlock.Unlock()
		fallthrough
	case resumeWorkerThreads:
		workerHangLock.Unlock()
		return
	}
	initLock.Lock()
	for initCount > 0 { // unlike C: workers have yet to leave the previous pause
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
	if limit := settings.net.readBufMemLimit; limit != 0 {
		me.bufs.rbufLimit = max(limit/settings.numThreads/readBufferSize, 1)
		me.bufs.respLimit = me.bufs.rbufLimit * respPerBuffer
	}
	respBufsReset(me)
	me.bufs.iov = make([]unix.Iovec, 0, 16)
	me.l = loggerCreate()
}

// workerLibevent is the loop of a worker.
func workerLibevent(me *thread) {
	runtime.LockOSThread()
	blockPreemptSignal()
	registerThreadInitialized()
	for {
		driveRound(me)
	}
}

// threadLibeventIonotify adds to the round each connection whose reads from
// extstore have all come back.
func threadLibeventIonotify(me *thread) {
	me.ext.ionLock.Lock()
	p := me.ext.ionHead
	me.ext.ionHead = nil
	me.ext.ionLock.Unlock()
	for p != nil {
		next := p.next
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
				verbosef(1, "Can't listen for events on fd %d", item.sfd)
				unix.Close(item.sfd)
			} else if tlsBuild && item.ssl != sslDisabled {
				sslInitConn(c, item.ssl)
			} else {
				roundAdd(me, c) // at once: C waits for an event, and then for a second
			}
		case queuePause:
			for stopMainLoop.Load() == int32(graceStop) && (len(me.round.ready) > 0 || me.ext.ios > 0) {
				// Answer what has been read.
				roundServe(me)
				threadIoQueueSubmit(me)
				usleep(100)
				threadLibeventIonotify(me)
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
			roundAdd(me, c)
		}
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
		stats.roundRobinFallback.Add(1)
		return selectThreadRoundRobin()
	}
	for _, t := range threads {
		if t.napiId == 0 || t.napiId == id {
			t.napiId = id
			return t
		}
	}
	// More queues than workers: forget them all and begin again.
	stats.unexpectedNapiIds.Add(1)
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
	if settings.net.numNapiIds == 0 {
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

// sidethreadConnClose is redispatchConn for a connection that must be closed.
func sidethreadConnClose(c *conn) {
	verbosef(2, "<%d connection closing from side thread.", c.sfd)
	notifyWorkerFd(c.thread, c.sfd, queueClose)
}

// returnIoPending gives a read back to its worker. It wakes the worker up unless
// other reads wait for it already.
func returnIoPending(p *ioPending) {
	t := p.thread
	p.next = nil
	t.ext.ionLock.Lock()
	doNotify := t.ext.ionHead == nil
	if doNotify {
		t.ext.ionHead = p
	} else {
		t.ext.ionTail.next = p
	}
	t.ext.ionTail = p
	t.ext.ionLock.Unlock()
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

// The main thread: it waits for connections, accepts them and hands them to
// the workers, and keeps the clock. From memcached.c: conn_listening of
// drive_machine, do_accept_new_conns, maxconns_handler, clock_handler, the
// event loop of main.

package main

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

type stopReasons int32

const (
	notStop stopReasons = iota
	graceStop
	exitNormally
)

var (
	mainPoll     poll
	stopMainLoop atomic.Int32 // a stopReasons
	stopSendFd   int          // a byte written here wakes the main thread

	currentTime    atomic.Uint32 // relTime; written by the main thread once a second, with flushLock held
	processStarted int64         // Unix time of relTime 0, seconds
	clockBase      time.Time     // the same moment by the monotonic clock
	clockTick      relTime       // last second that clockHandler saw

	clockLock  sync.Mutex
	clockCond  = sync.NewCond(&clockLock)
	clockTicks int // ticks so far, one a second; guarded by clockLock

	maxconnsEntered time.Time // when we last stopped listening
	maxconnsPolling bool      // we have stopped listening; see maxconnsHandler
)

// Most connections accepted for one event of a listening socket. The others wait
// for the next round, behind the other sockets and the clock.
const acceptsPerEvent = 64

// When to collect Go's garbage: when the heap has doubled. A collection stops
// the world, and would have to wait for each worker that is in epoll_wait; so
// the workers are paused first.
var gcDue uint64 // bytes of heap; 0 leaves it to Go

const gcLeast = 16 << 20 // bytes of heap below which there is no collection

// maxconnsHandler runs every 10 ms while we have stopped listening, and starts
// again once a connection has been closed.
func maxconnsHandler() {
	if allowNewConns.Load() {
		acceptNewConns(true)
	}
}

// acceptNewConns starts or stops listening for new connections.
func acceptNewConns(doAccept bool) {
	backlog, events := 0, uint32(0)
	if doAccept {
		backlog, events = settings.backlog, evRead
	}
	for c := listenConn; c != nil; c = c.next {
		updateEvent(c, events)
		if err := unix.Listen(c.sfd, backlog); err != nil {
			perror("listen", err)
		}
	}
	statsLock.Lock()
	statsState.acceptingConns = doAccept
	if doAccept {
		stats.timeInListenDisabledUs += uint64(time.Since(maxconnsEntered) / time.Microsecond)
	} else {
		maxconnsEntered = time.Now()
		stats.listenDisabledNum++
	}
	statsLock.Unlock()
	maxconnsPolling = !doAccept
}

// driveListening accepts connections on c, a listening socket, until none is
// left or it has accepted acceptsPerEvent.
func driveListening(c *conn) {
	allowNewConns.Store(false) // whoever closes from now on makes room
	for range acceptsPerEvent {
		sfd, e := rawAccept4(c.sfd, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		switch e {
		case 0:
		case unix.EINTR, unix.ECONNABORTED:
			continue
		case unix.EAGAIN:
			return
		case unix.EMFILE, unix.ENFILE:
			if settings.verbose.Load() > 0 {
				fmt.Fprintf(os.Stderr, "Too many open connections\n")
			}
			acceptNewConns(false)
			return
		default:
			perror("accept()", e)
			return
		}
		if settings.maxconnsFast && sfd >= settings.maxconns-1 {
			statsLock.Lock()
			stats.rejectedConns++
			statsLock.Unlock()
			unix.Write(sfd, []byte("ERROR Too many open connections\r\n"))
			unix.Close(sfd)
			continue
		}
		state := connNewCmd
		if tlsBuild && c.sslEnabled != sslDisabled {
			state = connWatch // the handshake comes first
		}
		dispatchConnNew(sfd, state, c.transport, c.protocol, c.sslEnabled)
	}
}

// clockHandler advances the clock and does the work due once a second. It goes
// by the monotonic clock: items do not expire because somebody sets the
// machine's time.
func clockHandler() {
	now := relTime(time.Since(clockBase) / time.Second)
	if now == clockTick {
		return
	}
	clockTick = now
	_, currItems, _ := itemStatsCurr()
	assocStartExpand(currItems)
	clockSet(clockAdjust(now))
	gcHandler()
	clockLock.Lock()
	clockTicks++
	clockCond.Broadcast()
	clockLock.Unlock()
	if slabRebal.resting.Load() {
		slabMaintenanceWake()
	}
}

// clockSet sets the clock, and flushes all items if that has been asked for at a
// time that has come.
func clockSet(now relTime) {
	flushLock.Lock()
	last := currentTime.Swap(now)
	if oldest := settings.oldestLive.Load(); last <= oldest && oldest < now {
		doItemFlush()
	}
	flushLock.Unlock()
}

// clockWait waits for n ticks of the clock, one a second. Background threads use
// it while they have nothing to do.
func clockWait(n int) {
	clockLock.Lock()
	for until := clockTicks + n; clockTicks < until; {
		clockCond.Wait()
	}
	clockLock.Unlock()
}

// gcInit turns Go's own collections off, unless GOGC is set in the environment
// or there is TLS, which makes garbage with each record. A memory limit remains:
// it makes Go collect if the heap grows too fast for gcHandler.
func gcInit() {
	if os.Getenv("GOGC") != "" || sslThreads() > 0 {
		pollRawMsec = 2 // a collection waits for so long
		return
	}
	debug.SetGCPercent(-1)
	gcLimit(0)
}

// gcLimit sets when to collect next, after a collection that left live bytes.
func gcLimit(live uint64) {
	gcDue = max(2*live, gcLeast)
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(int64(4*gcDue + 64<<20))
	}
}

// gcHandler collects garbage if a collection is due. The main thread calls it
// once a second.
func gcHandler() {
	if gcDue == 0 {
		return
	}
	heap := [1]metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(heap[:])
	if heap[0].Value.Uint64() < gcDue || !maintenanceLock.TryLock() {
		return
	}
	pauseThreads(pauseWorkerThreads)
	runtime.GC()
	pauseThreads(resumeWorkerThreads)
	maintenanceLock.Unlock()
	metrics.Read(heap[:])
	gcLimit(heap[0].Value.Uint64())
}

// mainInit makes the main thread's epoll and its pipe. On failure it ends the
// process.
func mainInit() {
	var fds [2]int
	if pollInit(&mainPoll) != nil || unix.Pipe2(fds[:], unix.O_CLOEXEC) != nil ||
		pollAdd(&mainPoll, fds[0], evRead) != nil {
		sysfatal(1, "Can't allocate event base")
	}
	stopSendFd = fds[1]
}

// clockBegin is where relTime begins: high enough that now less
// itemUpdateInterval is not below 0 (doItemUpdate), that 1 is always in the past
// (realtime), and that the previous second is never 0, which to
// settings.oldestLive and others means none.
const clockBegin = itemUpdateInterval + 2

// clockInit starts the clock at begin. Its seconds begin with those of the wall
// clock, so that a date expires on time.
func clockInit(begin relTime) {
	now := time.Now()
	processStarted = now.Unix() - int64(begin)
	clockBase = now.Add(-time.Duration(begin)*time.Second - time.Duration(now.Nanosecond()))
	currentTime.Store(begin)
	flushes.Store(0)
	flushedTime.Store(0)
}

// acceptorLoop is the main thread's event loop. It returns when acceptorStop
// has been called, with the reason.
func acceptorLoop() stopReasons {
	for {
		msec := 1000 - int(time.Since(clockBase)%time.Second/time.Millisecond) // to the next second
		if maxconnsPolling {
			msec = min(msec, 10)
		}
		events, err := pollWait(&mainPoll, msec)
		if err != nil {
			panic(fmt.Sprintf("epoll_wait: %v", err))
		}
		for i := range events {
			if c := conns[events[i].Fd].Load(); c != nil {
				driveMachine(c)
			}
		}
		clockHandler()
		if maxconnsPolling {
			maxconnsHandler()
		}
		if reason := stopReasons(stopMainLoop.Load()); reason != notStop {
			return reason
		}
	}
}

// acceptorStop makes acceptorLoop return. Any thread may call it.
func acceptorStop(reason stopReasons) {
	stopMainLoop.Store(int32(reason))
	unix.Write(stopSendFd, []byte{'s'})
}

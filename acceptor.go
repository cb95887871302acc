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

	currentTime    atomic.Uint32 // relTime; written by the main thread once a second
	processStarted int64         // Unix time of relTime 0, seconds
	clockBase      time.Time     // the same moment by the monotonic clock
	clockTick      relTime       // last second that clockHandler saw

	clockLock  sync.Mutex
	clockCond  = sync.NewCond(&clockLock)
	clockTicks int // one a second

	maxconnsEntered time.Time // when listening was last given up
	maxconnsPolling bool      // it is given up; see maxconnsHandler
)

// Connections accepted for one event of a listening socket. The rest waits
// for the next round, behind the other sockets and the clock.
const acceptsPerEvent = 64

// Go's heap. A collection stops the world, and waits for workers that wait; so
// the workers are paused before it. It is due when the heap has doubled.
var gcDue uint64 // bytes

const gcLeast = 16 << 20 // bytes of heap; with less there is no collection

// maxconnsHandler looks, every 10 ms while listening is given up, whether a
// descriptor has come free.
func maxconnsHandler() {
	if allowNewConns.Load() {
		acceptNewConns(true)
	}
}

// acceptNewConns sets whether we listen for new connections.
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

// driveListening accepts what has come to the listening c.
func driveListening(c *conn) {
	allowNewConns.Store(false) // who closes from now on makes room for us
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

// clockHandler advances the clock, and does what is to be done once a
// second. It goes by the monotonic clock: items do not expire because
// somebody sets the machine's time.
func clockHandler() {
	now := relTime(time.Since(clockBase) / time.Second)
	if now == clockTick {
		return
	}
	clockTick = now
	_, currItems, _ := itemStatsCurr()
	assocStartExpand(currItems)
	currentTime.Store(clockAdjust(now))
	gcHandler()
	clockLock.Lock()
	clockTicks++
	clockCond.Broadcast()
	clockLock.Unlock()
	if slabRebal.resting.Load() {
		slabMaintenanceWake()
	}
}

// clockWait waits for n ticks of the clock. Background threads that have nothing
// to do wait so.
func clockWait(n int) {
	clockLock.Lock()
	for until := clockTicks + n; clockTicks < until; {
		clockCond.Wait()
	}
	clockLock.Unlock()
}

// gcInit turns Go's own collections off, unless the environment's GOGC asks for
// them. It leaves a limit, so that what grows within a second is collected.
func gcInit() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(-1)
		gcLimit(0)
	}
}

// gcLimit sets when to collect next, after a collection that left live bytes.
func gcLimit(live uint64) {
	gcDue = max(2*live, gcLeast)
	debug.SetMemoryLimit(int64(2*gcDue + 64<<20))
}

// gcHandler collects garbage if that is due. The main thread calls it once a
// second.
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

// mainInit makes what the main thread waits with.
func mainInit() {
	var fds [2]int
	if pollInit(&mainPoll) != nil || unix.Pipe2(fds[:], unix.O_CLOEXEC) != nil ||
		pollAdd(&mainPoll, fds[0], evRead) != nil {
		sysfatal(1, "Can't allocate event base")
	}
	stopSendFd = fds[1]
}

// clockBegin is where relTime begins: late enough that an update interval before
// now is not below 0 (doItemUpdate), that 1 is always past (realtime), and that
// the last second is never 0, which for settings.oldestLive and others means
// none.
const clockBegin = itemUpdateInterval + 2

// clockInit starts the clock at begin. Its seconds begin with those of the wall
// clock, so that a date is over when it says.
func clockInit(begin relTime) {
	now := time.Now()
	processStarted = now.Unix() - int64(begin)
	clockBase = now.Add(-time.Duration(begin)*time.Second - time.Duration(now.Nanosecond()))
	currentTime.Store(begin)
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

// The clock, which advances once a second, and how background threads wait.
// From memcached.c: clock_handler.

package main

import (
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

var (
	currentTime    atomic.Uint32 // relTime; written by the main thread once a second, with flushLock held
	processStarted int64         // Unix time of relTime 0, seconds
	clockBase      time.Time     // the same moment by the monotonic clock
	clockTick      relTime       // last second that clockHandler saw

	// No client has done anything since the tick before the last one. The LRU
	// maintainer and extstore's write thread then wake up once a second only.
	atRest atomic.Bool

	clockLock  sync.Mutex
	clockCond  = sync.NewCond(&clockLock)
	clockTicks int // ticks so far, one a second; guarded by clockLock
)

// clockBegin is the first relTime. It is high enough that now minus
// itemUpdateInterval is not negative (doItemUpdate), that 1 is always in the past
// (realtime), and that the previous second is never 0, which stands for "none" in
// settings.oldestLive and others.
const clockBegin = itemUpdateInterval + 2

// clockInit starts the clock at begin. Its seconds start when those of the wall
// clock do, so that an item with an absolute expiry time expires on time.
func clockInit(begin relTime) {
	now := time.Now()
	processStarted = now.Unix() - int64(begin)
	clockBase = now.Add(-time.Duration(begin)*time.Second - time.Duration(now.Nanosecond()))
	currentTime.Store(begin)
	flushes.Store(0)
	flushedTime.Store(0)
}

// clockHandler advances the clock and does the work due once a second. It follows
// the monotonic clock: items do not expire because somebody sets the machine's
// time.
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
	atRest.Store(workersParked())
	wakeUp(lruMaintainer.wake)
	wakeUp(slabRebal.wake)
}

// clockSet sets the clock, and flushes all items if a delayed flush_all is due.
func clockSet(now relTime) {
	flushLock.Lock()
	last := currentTime.Swap(now)
	oldest := settings.oldestLive.Load()
	flush := last <= oldest && oldest < now
	if flush {
		doItemFlush()
	}
	flushLock.Unlock()
	if flush {
		lruForget()
	}
}

// wakeUp wakes the thread that waits for wake, a channel with room for one wake-up, or
// will wait for it.
func wakeUp(wake chan struct{}) {
	select {
	case wake <- struct{}{}:
	default: // a wake-up is pending
	}
}

// waitWakeUp waits for a wake-up, at most for d, and reports whether one came. Short
// waits are usleep's, which no wake-up ends.
func waitWakeUp(wake chan struct{}, d time.Duration) bool {
	if d < sleepTimer {
		usleep(int(d / time.Microsecond))
		return false
	}
	select {
	case <-wake:
		return true
	case <-time.After(d):
		return false
	}
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

const sleepTimer = 10 * time.Millisecond // the shortest sleep that uses a timer of Go's

// usleep is usleep(3), for background threads. A sleep below sleepTimer is a system
// call: for time.Sleep the scheduler would wake a second thread to run the timer.
// A signal ends that system call early, and it is not resumed, because the signal
// may be the collector's request to stop this thread. A sleep of a second or more
// waits for ticks of the clock, because each of Go's timers costs some ten context
// switches.
func usleep(usec int) {
	switch {
	case usec >= 1000000:
		clockWait(usec / 1000000)
	case usec >= int(sleepTimer/time.Microsecond):
		time.Sleep(time.Duration(usec) * time.Microsecond)
	default:
		ts := unix.NsecToTimespec(int64(usec) * 1000)
		rawNanosleep(&ts)
	}
}

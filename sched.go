// What depends on Go's runtime: how a thread waits, and when garbage is collected.
// Not in C.
//
// How a thread waits decides what Go's scheduler does in the meantime. To run Go
// code a thread must hold one of the GOMAXPROCS tokens that Go calls Ps. sysmon, a
// thread of the runtime, takes Ps away from threads that stay in a system call,
// and asks goroutines that have run for 10 ms to yield. While any P is in use
// sysmon keeps polling: every 20 microseconds at first, and every 10 ms after some
// 60 polls that found nothing to take. Each poll is a context switch. When all Ps
// are idle sysmon sleeps. There are three ways to wait:
//
//   - In an ordinary system call. The thread keeps its P until sysmon has seen
//     the call last for 10 ms, or less if other goroutines need a P or if this
//     one has had its P for 10 ms. sysmon returns to 20 microseconds whenever it
//     has taken a P, or when a thread that enters or leaves such a call wakes it.
//     A server with only occasional requests spends most of its time on that:
//     some 60 polls for each wait.
//   - In a raw system call, which the scheduler does not see: the goroutine
//     seems to run. This costs only the call itself, but every 10 ms sysmon asks
//     the goroutine to yield. If the thread is locked to its goroutine, yielding
//     takes six futex calls. So the thread is pinned to its P for the call, and
//     drops the request after it; see askedToYield.
//   - Parked, as goroutines wait for files. The P is free at once, sysmon can
//     sleep, and one thread of Go's own waits on behalf of all parked goroutines.
//     Parking and being woken costs some ten context switches.
//
// So a thread waits raw as long as there is occasional work, and parks once
// nothing has happened for pollRawMsec.
//
// The collector stops the world twice for each collection, and in between waits
// until every P has reached a safe point. A thread in a raw call holds it up until
// that call ends, and its request to stop looks like sysmon's request, which the
// thread drops. So Go never collects by itself: gcThread does, at the times that
// GOGC and GOMEMLIMIT ask for. It first sets gcRunning and wakes the workers. While
// gcRunning is set, workers wait in ordinary system calls, which do not delay the
// collector, and they drop no request. Other threads need no wake-up: the runtime's
// signal, which only workers block, ends their raw calls.

package main

import (
	"math"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

const pollRawMsec = 100

// maxprocs sets GOMAXPROCS: a P for each worker, since workers keep theirs while
// they wait raw, and enough for the other threads.
func maxprocs(workers, others int) {
	runtime.GOMAXPROCS(workers + min(spareThreads(), max(runtime.GOMAXPROCS(0)-workers, others)))
}

// askedToYield makes a pinned thread drop a request to yield. The request makes the
// next check for stack space fail, which calls the runtime; the runtime drops it
// because the thread is pinned. Functions check on entry, except small ones that
// call no other function: hence the frame and the call to keep. The runtime may
// repeat the request when the thread next allocates or waits for a lock.
//
//go:noinline
func askedToYield() {
	var frame [256]byte
	keep(&frame)
}

//go:noinline
func keep(*[256]byte) {}

// wakePoller makes sure that some Go thread polls for the parked goroutines. The
// polling thread stops polling to run a goroutine whose descriptor is ready, such
// as the caller. If that goroutine then waits raw, it seems to the scheduler to
// run; polling is left to sysmon, which may sleep for 100 ms. A new goroutine wakes
// another thread, which polls when it has nothing left to run.
func wakePoller() { go func() {}() }

// blockPreemptSignal blocks the signal by which sysmon asks this thread to yield,
// up to a hundred times a second: the signal would interrupt waits, and costs as
// much as serving a request. The thread still sees sysmon's request at its next
// function call.
func blockPreemptSignal() {
	var set unix.Sigset_t
	set.Val[0] = 1 << (unix.SIGURG - 1)
	if err := unix.PthreadSigmask(unix.SIG_BLOCK, &set, nil); err != nil {
		perror("pthread_sigmask", err)
	}
}

const gcLeast = 16 << 20 // bytes; a smaller heap is never collected

var (
	gcPercent int         // GOGC: how much garbage to allow, relative to what is in use; -1 for any
	gcMemory  uint64      // GOMEMLIMIT: soft limit on the memory that Go uses, bytes
	gcRunning atomic.Bool // stopsWorld runs: the world may be stopped at any time

	gcDue  atomic.Uint64            // bytes of heap at which to collect
	gcMade atomic.Int64             // bytes that gcAllocated has counted since it last called gcHandler
	gcWake = make(chan struct{}, 1) // wakes gcThread
	gcLock sync.Mutex               // held while gcRunning is set
)

// gcInit turns Go's own collections off.
func gcInit() {
	gcPercent = debug.SetGCPercent(-1)
	gcMemory = uint64(debug.SetMemoryLimit(-1))
	gcLimit()
}

// gcLimit sets when to collect next. Go keeps a memory limit, far above that: if the
// heap grows much too fast for gcThread, Go collects by itself, however long that
// takes.
func gcLimit() {
	live := gcRead("/gc/heap/live:bytes")[0] // after the last collection
	due := uint64(math.MaxInt64)
	if gcPercent >= 0 {
		due = max(live+live*uint64(gcPercent)/100, gcLeast)
	}
	if gcMemory < math.MaxInt64 {
		// The heap may have whatever the rest of Go's memory leaves of the limit.
		m := gcRead("/memory/classes/total:bytes", "/memory/classes/heap/released:bytes",
			"/memory/classes/heap/free:bytes", "/memory/classes/heap/objects:bytes")
		rest := m[0] - m[1] - m[2] - m[3]
		due = min(due, max(gcMemory-min(rest, gcMemory), live+gcLeast/4))
	}
	gcDue.Store(due)
	if due < math.MaxInt64/8 {
		debug.SetMemoryLimit(int64(4*due + 64<<20))
	}
}

// gcRead returns the values of these runtime metrics.
func gcRead(names ...string) []uint64 {
	samples := make([]metrics.Sample, len(names))
	for i := range samples {
		samples[i].Name = names[i]
	}
	metrics.Read(samples)
	values := make([]uint64, len(names))
	for i := range values {
		values[i] = samples[i].Value.Uint64()
	}
	return values
}

func gcIsDue() bool { return gcRead("/memory/classes/heap/objects:bytes")[0] >= gcDue.Load() }

// gcHandler wakes gcThread if a collection is due. The main thread calls it once a
// second.
func gcHandler() {
	if gcIsDue() {
		wakeUp(gcWake)
	}
}

// gcAllocated counts n bytes that will soon be garbage. Code that may make much
// garbage within a second calls it.
func gcAllocated(n int) {
	if gcMade.Add(int64(n)) >= gcLeast/4 {
		gcMade.Store(0)
		gcHandler()
	}
}

// gcThread collects garbage when it is due. It never ends.
func gcThread() {
	for range gcWake {
		if gcIsDue() {
			gcCollect()
		}
	}
}

// gcCollect collects garbage. After a burst it also returns the free memory to the
// system, which Go does only for collections that it starts itself.
func gcCollect() {
	stopsWorld(runtime.GC)
	gcLimit()
	if gcRead("/memory/classes/heap/free:bytes")[0] > gcDue.Load() {
		stopsWorld(debug.FreeOSMemory)
	}
}

// stopsWorld calls f, which stops the world.
func stopsWorld(f func()) {
	gcLock.Lock()
	gcRunning.Store(true)
	for _, t := range threads {
		rawWrite(t.notifySendFd, []byte{'g'}) // without an entry in the queue
	}
	f()
	gcRunning.Store(false)
	gcLock.Unlock()
}

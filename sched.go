// What depends on Go's runtime: how a thread waits, and when garbage is collected.
// Not in C.
//
// How a thread waits decides what Go's scheduler does meanwhile. To run Go code a
// thread must hold one of the GOMAXPROCS tokens that Go calls Ps. sysmon, a
// thread of the runtime, takes Ps away from threads that stay in a system call,
// and asks goroutines that have run for 10 ms to yield. While any P is in use
// sysmon keeps looking: every 20 microseconds at first, and every 10 ms after
// some 60 looks that found nothing to take. Each look is a context switch. With
// all Ps idle it sleeps. There are three ways to wait:
//
//   - In an ordinary system call. The thread keeps its P until sysmon has seen
//     the call last for 10 ms; for less if other goroutines need a P, or if this
//     one has had its P for 10 ms. sysmon starts again at 20 microseconds
//     whenever it has taken a P, or is woken by a thread that enters or leaves
//     such a call. A server with a request now and then spends most of its time
//     on that: some 60 looks for each wait.
//   - In a raw system call, which the scheduler does not see: the goroutine
//     seems to run. This costs the call and no more, but sysmon looks every 10 ms
//     and asks the goroutine to yield. For a thread that is locked to its
//     goroutine yielding takes six futex calls. So the thread is pinned to its P
//     for the call, and drops the request after it; see askedToYield.
//   - Parked, as goroutines wait for files. The P is free at once, sysmon can
//     sleep, and one thread of Go's own waits for all that are parked. To park
//     and to be woken costs some ten context switches.
//
// So a thread waits raw while there is work now and then, and parks once nothing
// has happened for pollRawMsec.
//
// A collector must stop the world twice for each collection, and in between wait
// until each P has been looked at. It waits for a thread in a raw call until the
// call ends, and its request to stop looks like sysmon's, which is dropped. So Go
// never collects by itself: gcThread does, at the times that GOGC and GOMEMLIMIT
// ask for. It first sets gcRunning and wakes the workers. While that is set they
// wait in ordinary system calls, which the collector need not wait for, and drop no
// request. The other threads need not be told: the runtime's signal, which workers
// block, ends their raw calls.

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

// maxprocs sets GOMAXPROCS so that there is a P for each worker, which keeps it
// while it waits raw, and enough for the other threads.
func maxprocs(workers, others int) {
	runtime.GOMAXPROCS(workers + min(spareThreads(), max(runtime.GOMAXPROCS(0)-workers, others)))
}

// askedToYield makes a pinned thread drop a request to yield. A request makes the
// next check for stack space fail, so that the runtime is called. Functions check
// on entry, but not small ones that call no other: hence the frame and the call.
// The runtime may repeat the request when the thread next allocates or waits for
// a lock.
//
//go:noinline
func askedToYield() {
	var frame [256]byte
	keep(&frame)
}

//go:noinline
func keep(*[256]byte) {}

// wakePoller makes sure that a thread of Go's polls for all that are parked. That
// thread ends its wait to run the goroutine whose descriptor is ready. If this one
// then waits raw, the scheduler, to which it seems to run, leaves the others to
// sysmon, which may be asleep for 100 ms. A new goroutine wakes another thread,
// which goes on to wait.
func wakePoller() { go func() {}() }

// blockPreemptSignal blocks the signal with which sysmon asks this thread, up to
// a hundred times a second, to yield: it would interrupt waits, and costs as
// much as a request. The thread still sees the request at its next function
// call.
func blockPreemptSignal() {
	var set unix.Sigset_t
	set.Val[0] = 1 << (unix.SIGURG - 1)
	if err := unix.PthreadSigmask(unix.SIG_BLOCK, &set, nil); err != nil {
		perror("pthread_sigmask", err)
	}
}

const gcLeast = 16 << 20 // bytes of heap below which there is no collection

var (
	gcPercent int         // GOGC: how much garbage to allow, relative to what is in use; -1 for any
	gcMemory  uint64      // GOMEMLIMIT: how much memory Go is to use at most
	gcRunning atomic.Bool // the world is being stopped now and then

	gcDue  atomic.Uint64            // bytes of heap at which to collect
	gcMade atomic.Int64             // bytes allocated, as far as gcAllocated was told, since gcHandler last looked
	gcWake = make(chan struct{}, 1) // wakes gcThread
	gcLock sync.Mutex               // held while the world is being stopped
)

// gcInit turns Go's own collections off.
func gcInit() {
	gcPercent = debug.SetGCPercent(-1)
	gcMemory = uint64(debug.SetMemoryLimit(-1))
	gcLimit()
}

// gcLimit sets when to collect next. A limit for Go remains: it makes Go collect by
// itself, however long that takes, if the heap grows much too fast for gcThread.
func gcLimit() {
	live := gcRead("/gc/heap/live:bytes")[0] // what the last collection has left
	due := uint64(math.MaxInt64)
	if gcPercent >= 0 {
		due = max(live+live*uint64(gcPercent)/100, gcLeast)
	}
	if gcMemory < math.MaxInt64 {
		// The heap may have what the rest of Go's memory leaves of it.
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

// gcRead returns these metrics of the runtime.
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
		select {
		case gcWake <- struct{}{}:
		default: // a wake-up is in flight
		}
	}
}

// gcAllocated is told of n bytes of garbage to be by code that may make much of it
// in a second.
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

// gcCollect collects garbage. What a burst has left is returned to the system: Go
// itself does that only if it collects by itself.
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

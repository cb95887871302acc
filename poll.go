// Waiting for descriptors: raw epoll, level triggered. What libevent did for
// memcached: event_add, event_del, event_base_loop.
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
//     for the call, and drops the request after it; see askedToYield. A collector
//     that stops the world waits until the call is over; see gcHandler.
//   - Parked, as goroutines wait for files. The P is free at once, sysmon can
//     sleep, and one thread of Go's own waits for all that are parked. To park
//     and to be woken costs some ten context switches.
//
// So a thread waits raw while there is work now and then, and parks once nothing
// has happened for pollRawMsec.

package main

import (
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	evRead  = unix.EPOLLIN  // EV_READ | EV_PERSIST
	evWrite = unix.EPOLLOUT // EV_WRITE | EV_PERSIST
)

var pollRawMsec = 100 // less where Go's collector runs by itself, see gcInit

// Of all workers together: a long yield adds 8 to the score, a short one takes 1
// away.
var longYields struct {
	second atomic.Uint32 // that the score is for
	score  atomic.Int32
}

type poll struct {
	epfd   int
	idle   bool     // nothing has happened for pollRawMsec: so park
	parkFd int      // an epoll descriptor that watches epfd while this thread parks
	park   *os.File // the same, watched by Go's own poller
	raw    syscall.RawConn
	events [128]unix.EpollEvent

	replies int // sent since pollYield last yielded, or a client went
}

func pollInit(p *poll) (err error) {
	if p.epfd, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return err
	}
	if p.parkFd, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return err
	}
	rawEpollCtl(p.parkFd, unix.EPOLL_CTL_ADD, p.epfd, unix.EpollEvent{})
	if err = unix.SetNonblock(p.parkFd, true); err == nil { // or Go's poller would not take it
		p.park = os.NewFile(uintptr(p.parkFd), "epoll")
		p.raw, err = p.park.SyscallConn()
	}
	return err
}

// pollAdd begins to watch fd. With events 0 only hang-ups and errors are
// reported.
func pollAdd(p *poll, fd int, events uint32) error {
	return pollCtl(p, unix.EPOLL_CTL_ADD, fd, events)
}

func pollMod(p *poll, fd int, events uint32) error {
	return pollCtl(p, unix.EPOLL_CTL_MOD, fd, events)
}

func pollDel(p *poll, fd int) error { return pollCtl(p, unix.EPOLL_CTL_DEL, fd, 0) }

func pollCtl(p *poll, op, fd int, events uint32) error {
	if e := rawEpollCtl(p.epfd, op, fd, unix.EpollEvent{Events: events, Fd: int32(fd)}); e != 0 {
		return e
	}
	return nil
}

// pollWait waits until a descriptor is ready, for at most msec milliseconds; -1
// sets no limit. It may return earlier, without events.
func pollWait(p *poll, msec int) ([]unix.EpollEvent, error) {
	if p.idle && msec != 0 {
		n, err := pollPark(p, msec)
		if p.idle = n == 0; !p.idle {
			wakePoller()
		}
		return p.events[:max(n, 0)], err
	}
	if msec < 0 || msec > pollRawMsec {
		msec = pollRawMsec
	}
	procPin()
	n, e := rawEpollWait(p.epfd, p.events[:], msec)
	askedToYield()
	procUnpin()
	// sysmon's signal ends such a wait of the main thread after 10 ms.
	if p.idle = n <= 0 && msec == pollRawMsec; p.idle {
		wakePoller()
	}
	if e != 0 && e != unix.EINTR {
		return nil, e
	}
	return p.events[:max(n, 0)], nil
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

// wakePoller sees to it that a thread of Go's waits for all that are parked. That
// thread ends its wait to run the goroutine whose descriptor is ready. If this one
// then waits raw, the scheduler, to which it seems to run, leaves the others to
// sysmon, which may be asleep for 100 ms. A new goroutine wakes another thread,
// which goes on to wait.
func wakePoller() { go func() {}() }

// pollPark waits parked. parkFd watches epfd only meanwhile: otherwise each
// event would wake Go's poller.
func pollPark(p *poll, msec int) (n int, err error) {
	e := rawEpollCtl(p.parkFd, unix.EPOLL_CTL_MOD, p.epfd, unix.EpollEvent{Events: evRead})
	if e != 0 {
		return 0, e
	}
	deadline := time.Time{}
	if msec > 0 {
		deadline = time.Now().Add(time.Duration(msec) * time.Millisecond)
	}
	if err := p.park.SetReadDeadline(deadline); err != nil {
		return 0, err
	}
	err = p.raw.Read(func(uintptr) bool {
		n, e = rawEpollWait(p.epfd, p.events[:], 0)
		return n > 0 || e != 0 && e != unix.EINTR
	})
	rawEpollCtl(p.parkFd, unix.EPOLL_CTL_MOD, p.epfd, unix.EpollEvent{})
	switch {
	case e != 0 && e != unix.EINTR:
		return 0, e
	case os.IsTimeout(err):
		err = nil
	}
	return max(n, 0), err
}

// pollYield lets other threads run on this processor. Workers that share one take
// turns of a round each by it, in place of the system's slices of some
// milliseconds. When all are busy the 99th percentile of latency so falls to a
// fourth, but half of the clients, those whose worker has the processor, wait three
// times longer. It is for extstore, where reads that come back from the I/O threads
// have waited already. But another program may keep the processor for a whole
// slice: then the workers stop to yield for the rest of the second.
func pollYield(p *poll) {
	const (
		pays = 4                    // replies since the last time
		long = 2 * time.Millisecond // workers seldom take that long
		most = 4 * 8                // of the score: four long ones in a row
	)
	if p.replies < pays {
		return
	}
	p.replies = 0
	if now := currentTime.Load(); longYields.second.Load() != now {
		longYields.second.Store(now)
		longYields.score.Store(0)
	}
	score := longYields.score.Load()
	if score >= most {
		return
	}
	start := time.Now()
	rawSchedYield()
	if time.Since(start) > long {
		longYields.score.Add(8)
	} else if score > 0 {
		longYields.score.Add(-1)
	}
}

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

// usleep is usleep(3), for background threads. A sleep below 10 ms is a system
// call: for time.Sleep the scheduler would wake a second thread to keep the
// time. A signal ends that sleep early, and it is not resumed: the signal may be
// the collector's, which wants this thread to stop. A sleep of a second or more
// waits for ticks of the clock: each timer of Go's costs some ten context
// switches.
func usleep(usec int) {
	switch {
	case usec >= 1000000:
		clockWait(usec / 1000000)
	case usec >= 10000:
		time.Sleep(time.Duration(usec) * time.Microsecond)
	default:
		ts := unix.NsecToTimespec(int64(usec) * 1000)
		rawNanosleep(&ts)
	}
}

// Waiting for descriptors: raw epoll, level triggered. What libevent did for
// memcached: event_add, event_del, event_base_loop.
//
// How a thread waits decides what Go's scheduler does meanwhile. A goroutine
// needs a P to run; sysmon is the thread that takes a P away from one that is
// in a system call or runs for too long. There are three ways to wait:
//
//   - By an ordinary system call. The P stays with the thread until sysmon sees,
//     after 10 ms, that it is not back. For that sysmon looks every 20
//     microseconds at first: some 60 times a wait, each a switch of context. If
//     all else is idle the thread that comes back wakes sysmon up again. A
//     server with a request now and then spends most of its time so.
//   - By a raw system call, of which the scheduler knows nothing. It costs the
//     call and no more, but as long as one thread waits so sysmon looks every 10
//     ms; it then asks the thread to let others run, which for a thread that
//     has a goroutine of its own takes six futex calls. A thread that is pinned
//     forgets that it was asked. A collector that stops the world waits until
//     the call is over; see gcHandler.
//   - Parked, as goroutines wait for files: the P is free at once, sysmon sleeps,
//     and one thread of Go's own waits for all that are parked. To park and to
//     be woken costs some ten switches.
//
// So a thread waits raw as long as there is work now and then, and parks when
// nothing has happened for pollRawMsec.

package main

import (
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	evRead  = unix.EPOLLIN  // EV_READ | EV_PERSIST
	evWrite = unix.EPOLLOUT // EV_WRITE | EV_PERSIST
)

const pollRawMsec = 100

type poll struct {
	epfd   int
	idle   bool     // the last wait was a raw one and brought nothing
	parkFd int      // an epoll descriptor that watches epfd while this thread parks
	park   *os.File // the same, watched by Go's own poller
	raw    syscall.RawConn
	events [128]unix.EpollEvent
}

func pollInit(p *poll) (err error) {
	if p.epfd, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return err
	}
	if p.parkFd, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return err
	}
	rawEpollCtl(p.parkFd, unix.EPOLL_CTL_ADD, p.epfd, unix.EpollEvent{Events: unix.EPOLLONESHOT})
	if err = unix.SetNonblock(p.parkFd, true); err == nil { // else Go's poller does not take it
		p.park = os.NewFile(uintptr(p.parkFd), "epoll")
		p.raw, err = p.park.SyscallConn()
	}
	return err
}

// pollAdd begins to watch fd. With events 0 only hang-ups are reported.
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

// pollWait waits until a descriptor is ready, at most msec milliseconds, -1
// for ever. It may return before that with no events.
func pollWait(p *poll, msec int) ([]unix.EpollEvent, error) {
	if p.idle && msec != 0 {
		n, err := pollPark(p, msec)
		p.idle = n == 0
		return p.events[:max(n, 0)], err
	}
	if msec < 0 || msec > pollRawMsec {
		msec = pollRawMsec
	}
	procPin()
	n, e := rawEpollWait(p.epfd, p.events[:], msec)
	askedToYield()
	procUnpin()
	p.idle = n == 0 && msec == pollRawMsec
	if e != 0 && e != unix.EINTR {
		return nil, e
	}
	return p.events[:max(n, 0)], nil
}

// askedToYield makes a pinned thread forget that it was asked to let others run.
// It is asked when it calls a function with a frame of some size.
//
//go:noinline
func askedToYield() {
	var frame [256]byte
	keep(&frame)
}

//go:noinline
func keep(*[256]byte) {}

// pollPark waits parked. Only meanwhile does parkFd watch epfd, or Go's poller
// would be woken by each event.
func pollPark(p *poll, msec int) (n int, err error) {
	e := rawEpollCtl(p.parkFd, unix.EPOLL_CTL_MOD, p.epfd, unix.EpollEvent{Events: evRead | unix.EPOLLONESHOT})
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
	switch {
	case e != 0 && e != unix.EINTR:
		return 0, e
	case os.IsTimeout(err):
		err = nil
	}
	return max(n, 0), err
}

// blockPreemptSignal keeps the signal away with which the scheduler asks this
// thread, a hundred times a second, to let others run: it would end waits and
// cost as much as a request. The thread is asked at each call of a function,
// too.
func blockPreemptSignal() {
	var set unix.Sigset_t
	set.Val[0] = 1 << (unix.SIGURG - 1)
	if err := unix.PthreadSigmask(unix.SIG_BLOCK, &set, nil); err != nil {
		perror("pthread_sigmask", err)
	}
}

// usleep is usleep(3), for background threads. Not time.Sleep where it is
// short: for that the scheduler must wake a second thread to keep the time.
// A second or more ends with a tick of the clock, as each timer of Go's costs
// some ten switches of context. A short sleep ends with a signal, as that may
// come from a collector that wants this thread to stop.
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

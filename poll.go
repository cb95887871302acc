// Waiting for descriptors: raw epoll, level triggered. What libevent did for
// memcached: event_add, event_del, event_base_loop. sched.go says why there are
// three ways to wait.

package main

import (
	"os"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	evRead  = unix.EPOLLIN  // EV_READ | EV_PERSIST
	evWrite = unix.EPOLLOUT // EV_WRITE | EV_PERSIST
)

type poll struct {
	epfd    int
	idle    bool     // nothing has happened for pollRawMsec; the next wait parks
	parkFd  int      // an epoll descriptor that watches epfd while this thread parks
	park    *os.File // parkFd, as Go's own poller sees it
	raw     syscall.RawConn
	timerFd int // of the main thread: ends a limited wait while it parks
	events  [128]unix.EpollEvent

	parks     atomic.Uint32 // how often this thread has parked or ceased to: odd while it parks
	lastParks uint32        // parks at the last call of workersParked
}

func pollInit(p *poll) (err error) {
	if p.epfd, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return err
	}
	if p.parkFd, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return err
	}
	rawEpollCtl(p.parkFd, unix.EPOLL_CTL_ADD, p.epfd, unix.EpollEvent{})
	if err = unix.SetNonblock(p.parkFd, true); err == nil { // Go's poller takes only these
		p.park = os.NewFile(uintptr(p.parkFd), "epoll")
		p.raw, err = p.park.SyscallConn()
	}
	return err
}

// pollAddTimer allows p to park for a limited time, as only the main thread does. One
// of Go's timers would cost several context switches each time.
func pollAddTimer(p *poll) (err error) {
	if p.timerFd, err = unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_CLOEXEC); err != nil {
		return err
	}
	return unix.EpollCtl(p.parkFd, unix.EPOLL_CTL_ADD, p.timerFd, &unix.EpollEvent{Events: evRead})
}

// pollAdd starts watching fd. With events 0 it reports only hang-ups and errors.
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
// means no limit. It may return early, without events.
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
	var n int
	var e unix.Errno
	if gcRunning.Load() {
		n, e = epollWait(p.epfd, p.events[:], msec)
	} else {
		procPin()
		n, e = rawEpollWait(p.epfd, p.events[:], msec)
		if !gcRunning.Load() {
			askedToYield()
		}
		procUnpin()
	}
	// The main thread does not block sysmon's signal, which ends its wait after 10
	// ms: n is then -1.
	if p.idle = n <= 0 && msec == pollRawMsec; p.idle {
		wakePoller()
	}
	if e != 0 && e != unix.EINTR {
		return nil, e
	}
	return p.events[:max(n, 0)], nil
}

// workersParked reports whether all workers have been parked since the last call.
// Only the main thread calls it.
func workersParked() bool {
	parked := true
	for _, t := range threads {
		p := &t.poll
		n := p.parks.Load()
		parked = parked && n%2 == 1 && n == p.lastParks
		p.lastParks = n
	}
	return parked
}

// pollPark waits with the goroutine parked. parkFd watches epfd only during that
// wait: otherwise each event would wake Go's poller.
func pollPark(p *poll, msec int) (n int, err error) {
	e := rawEpollCtl(p.parkFd, unix.EPOLL_CTL_MOD, p.epfd, unix.EpollEvent{Events: evRead})
	if e != 0 {
		return 0, e
	}
	if msec > 0 {
		t := unix.ItimerSpec{Value: unix.NsecToTimespec(int64(msec) * 1e6)}
		if err := unix.TimerfdSettime(p.timerFd, 0, &t, nil); err != nil {
			return 0, err
		}
	}
	p.parks.Add(1)
	parked := false
	err = p.raw.Read(func(uintptr) bool {
		n, e = rawEpollWait(p.epfd, p.events[:], 0)
		done := parked || n > 0
		parked = true
		return done
	})
	p.parks.Add(1)
	rawEpollCtl(p.parkFd, unix.EPOLL_CTL_MOD, p.epfd, unix.EpollEvent{})
	if e != 0 && e != unix.EINTR {
		err = e
	}
	return max(n, 0), err
}

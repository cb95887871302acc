// Waiting for descriptors: raw epoll, level triggered. What libevent did for
// memcached: event_add, event_del, event_base_loop. sched.go says why there are
// three ways to wait.

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

type poll struct {
	epfd   int
	idle   bool     // nothing has happened for pollRawMsec; the next wait parks
	parkFd int      // an epoll descriptor that watches epfd while this thread parks
	park   *os.File // parkFd, as Go's own poller sees it
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
	rawEpollCtl(p.parkFd, unix.EPOLL_CTL_ADD, p.epfd, unix.EpollEvent{})
	if err = unix.SetNonblock(p.parkFd, true); err == nil { // Go's poller takes only these
		p.park = os.NewFile(uintptr(p.parkFd), "epoll")
		p.raw, err = p.park.SyscallConn()
	}
	return err
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

// pollPark waits with the goroutine parked. parkFd watches epfd only during that
// wait: otherwise each event would wake Go's poller.
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

// Waiting for descriptors: raw epoll, level triggered. What libevent did for
// memcached: event_add, event_del, event_base_loop.

package main

import (
	"time"

	"golang.org/x/sys/unix"
)

const (
	evRead  = unix.EPOLLIN  // EV_READ | EV_PERSIST
	evWrite = unix.EPOLLOUT // EV_WRITE | EV_PERSIST
)

type poll struct {
	epfd   int
	idle   int // waits in a row that brought nothing
	events [128]unix.EpollEvent
}

// A worker waits without telling Go's scheduler. If it did, the scheduler's
// sysmon thread would wake up every 20 microseconds to see whether the worker
// is back, and cost a tenth of a busy server's time. Only when nothing has
// happened pollIdleWaits times in a row, for pollRawMsec milliseconds each or
// until a signal, is the scheduler told, so that it can sleep, too. The price:
// a collector that stops the world waits up to pollRawMsec for such a thread.
const (
	pollRawMsec   = 10
	pollIdleWaits = 10
)

func pollInit(p *poll) (err error) {
	p.epfd, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC)
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
	var n int
	var err error
	if p.idle < pollIdleWaits {
		raw := pollRawMsec
		if 0 <= msec && msec < raw {
			raw = msec
		}
		var e unix.Errno
		if n, e = rawEpollWait(p.epfd, p.events[:], raw); e != 0 {
			err = e
		}
	} else {
		n, err = unix.EpollWait(p.epfd, p.events[:], msec)
	}
	if n > 0 {
		p.idle = 0
		return p.events[:n], nil
	}
	p.idle++
	if err == unix.EINTR {
		err = nil
	}
	return nil, err
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
// Not nanosleep(2) where it is long: see pollWait. A short sleep ends with a
// signal, as that may come from a collector who wants this thread to stop.
func usleep(usec int) {
	if usec >= pollRawMsec*1000 {
		time.Sleep(time.Duration(usec) * time.Microsecond)
		return
	}
	ts := unix.NsecToTimespec(int64(usec) * 1000)
	rawNanosleep(&ts)
}

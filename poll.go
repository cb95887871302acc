// Waiting for descriptors: raw epoll, level triggered. What libevent did for
// memcached: event_add, event_del, event_base_loop.

package main

import "golang.org/x/sys/unix"

const (
	evRead  = unix.EPOLLIN  // EV_READ | EV_PERSIST
	evWrite = unix.EPOLLOUT // EV_WRITE | EV_PERSIST
)

type poll struct {
	epfd   int
	events [128]unix.EpollEvent
}

func pollInit(p *poll) (err error) {
	p.epfd, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	return err
}

// pollAdd begins to watch fd. With events 0 only hang-ups are reported.
func pollAdd(p *poll, fd int, events uint32) error {
	return unix.EpollCtl(p.epfd, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: events, Fd: int32(fd)})
}

func pollMod(p *poll, fd int, events uint32) error {
	return unix.EpollCtl(p.epfd, unix.EPOLL_CTL_MOD, fd, &unix.EpollEvent{Events: events, Fd: int32(fd)})
}

func pollDel(p *poll, fd int) error {
	return unix.EpollCtl(p.epfd, unix.EPOLL_CTL_DEL, fd, nil)
}

// Milliseconds for which a worker waits without telling Go's scheduler. If
// it were told, its sysmon thread would soon wake up every 20 microseconds
// to see whether the worker is back, and cost a tenth of a busy server's
// time. While it is not told, the collector must wait for this worker.
const pollRawMsec = 1

// pollWait waits until a descriptor is ready, at most msec milliseconds, -1
// for ever. A signal ends the wait early, with no events.
func pollWait(p *poll, msec int) ([]unix.EpollEvent, error) {
	raw := pollRawMsec
	if msec >= 0 {
		raw = min(msec, raw)
	}
	n, e := rawEpollWait(p.epfd, p.events[:], raw)
	if n > 0 || n == 0 && raw == msec {
		return p.events[:n], nil
	}
	if e != 0 && e != unix.EINTR {
		return nil, e
	}
	n, err := unix.EpollWait(p.epfd, p.events[:], msec)
	if err == unix.EINTR {
		return nil, nil
	}
	return p.events[:max(n, 0)], err
}

// usleep is usleep(3), for background threads. Not time.Sleep, for which the
// scheduler must wake a second thread to keep the time.
func usleep(usec int) {
	ts := unix.NsecToTimespec(int64(usec) * 1000)
	for ts.Nano() > 0 && unix.Nanosleep(&ts, &ts) == unix.EINTR {
		// The rest of it.
	}
}

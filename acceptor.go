// The main thread: it accepts connections, hands them to the workers, and advances
// the clock. From memcached.c: conn_listening of
// drive_machine, do_accept_new_conns, maxconns_handler, the event loop of main.

package main

import (
	"fmt"
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

	maxconnsEntered time.Time // when we last stopped listening
	maxconnsPolling bool      // we have stopped listening; see maxconnsHandler
)

// Maximum number of connections accepted for one event of a listening socket. The
// others wait until the other sockets and the clock have had their turn.
const acceptsPerEvent = 64

// maxconnsHandler runs every 10 ms while we have stopped listening, and starts
// again once a connection has been closed.
func maxconnsHandler() {
	if allowNewConns.Load() {
		acceptNewConns(true)
	}
}

// acceptNewConns starts or stops listening for new connections.
func acceptNewConns(doAccept bool) {
	backlog, events := 0, uint32(0)
	if doAccept {
		backlog, events = settings.net.backlog, evRead
	}
	for c := listenConn; c != nil; c = c.next {
		updateEvent(c, events)
		if err := unix.Listen(c.sfd, backlog); err != nil {
			perror("listen", err)
		}
	}
	statsState.acceptingConns.Store(doAccept)
	if doAccept {
		stats.timeInListenDisabledUs.Add(uint64(time.Since(maxconnsEntered) / time.Microsecond))
	} else {
		maxconnsEntered = time.Now()
		stats.listenDisabledNum.Add(1)
	}
	maxconnsPolling = !doAccept
}

// driveListening accepts connections on c, a listening socket, until none is
// left or it has accepted acceptsPerEvent.
func driveListening(c *conn) {
	allowNewConns.Store(false) // set again by code that closes a connection from now on
	for range acceptsPerEvent {
		sfd, e := rawAccept4(c.sfd, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		switch e {
		case 0:
		case unix.EINTR, unix.ECONNABORTED:
			continue
		case unix.EAGAIN:
			return
		case unix.EMFILE, unix.ENFILE:
			verbosef(1, "Too many open connections")
			acceptNewConns(false)
			return
		default:
			perror("accept()", e)
			return
		}
		if settings.net.maxconnsFast && sfd >= settings.net.maxconns-1 {
			stats.rejectedConns.Add(1)
			unix.Write(sfd, []byte("ERROR Too many open connections\r\n"))
			unix.Close(sfd)
			continue
		}
		state := connNewCmd
		if tlsBuild && c.sslEnabled != sslDisabled {
			state = connWatch // wait for the handshake
		}
		dispatchConnNew(sfd, state, c.transport, c.protocol, c.sslEnabled)
	}
}

// mainInit makes the main thread's epoll and its pipe. On failure it ends the
// process.
func mainInit() {
	var fds [2]int
	if pollInit(&mainPoll) != nil || pollAddTimer(&mainPoll) != nil || unix.Pipe2(fds[:], unix.O_CLOEXEC) != nil ||
		pollAdd(&mainPoll, fds[0], evRead) != nil {
		sysfatal(1, "Can't allocate event base")
	}
	stopSendFd = fds[1]
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

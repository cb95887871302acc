// The state machine of a connection. From memcached.h: conn_states;
// memcached.c: conn_set_state, try_read_network, update_event,
// drive_machine. drive_machine's longer states are functions of their own here.

package main

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

type connState uint8

const (
	connListening connState = iota // the socket that listens for connections
	connNewCmd                     // prepare for the next command
	connWaiting                    // wait for a readable socket
	connRead                       // read a command line
	connParseCmd                   // try to find a command in what was read
	connWrite                      // unused, as in 1.6; see connMwrite
	connNread                      // read a value of known length
	connSwallow                    // read and discard the value of a refused command
	connClosing                    // close this connection
	connMwrite                     // write gathered replies
	connClosed                     // the connection is closed
	connWatch                      // lent to a side thread: logger, crawler or TLS handshake
	connIoQueue                    // wait for reads from extstore
	connIoResume                   // they have come back
	connIoPending                  // the client has sent something while we wait for them
)

func stateText(state connState) string {
	return [...]string{"conn_listening", "conn_new_cmd", "conn_waiting", "conn_read",
		"conn_parse_cmd", "conn_write", "conn_nread", "conn_swallow", "conn_closing",
		"conn_mwrite", "conn_closed", "conn_watch", "conn_io_queue", "conn_io_resume", "conn_io_pending"}[state]
}

func connSetState(c *conn, state connState) {
	if state == c.state {
		return
	}
	if settings.verbose.Load() > 2 {
		fmt.Fprintf(os.Stderr, "%d: going from %s to %s\n", c.sfd, stateText(c.state), stateText(state))
	}
	c.state = state
}

// resetCmdHandler readies c for its next command: c parses what has been read,
// or else sends its replies, or else waits.
func resetCmdHandler(c *conn) {
	c.cmd = -1
	if c.val.item != nil {
		itemRemove(c.val.item)
		c.val.item = nil
	}
	switch {
	case c.in.rbytes > 0:
		connSetState(c, connParseCmd)
	case c.resp != nil:
		connSetState(c, connMwrite)
	default:
		connSetState(c, connWaiting)
	}
}

// tryReadCommand serves one command from the read buffer. It returns false
// if the buffer holds no complete one.
func tryReadCommand(c *conn) bool {
	if c.protocol == negotiatingProt || c.transport == udpTransport {
		tryReadCommandNegotiate(c)
	}
	switch {
	case c.protocol == binaryProt:
		return tryReadCommandBinary(c)
	case settings.auth.file != "" && !c.authenticated:
		return tryReadCommandAsciiauth(c)
	}
	return tryReadCommandAscii(c)
}

// tryReadCommandNegotiate tells the protocol from the first byte of a
// connection or of a datagram. With -Y or -S it is never called: each of them
// allows only one protocol.
func tryReadCommandNegotiate(c *conn) {
	first := c.in.rbuf[c.in.rcurr]
	if c.transport == udpTransport {
		first = c.in.rbuf[udpHeaderSize]
	}
	c.protocol = asciiProt
	if first == protocolBinaryReq {
		c.protocol = binaryProt
	}
	if settings.verbose.Load() > 1 && c.transport != udpTransport {
		fmt.Fprintf(os.Stderr, "%d: Client using the %s protocol\n", c.sfd, protText(c.protocol))
	}
}

// connRecv is recv(2), retried if a signal interrupts it. It returns 0 and no
// error at the end of the stream.
func connRecv(c *conn, b []byte) (int, unix.Errno) {
	if c.transport == udpTransport {
		return -1, unix.EAGAIN // a command ends with its datagram
	}
	n, e := -1, unix.EINTR
	for e == unix.EINTR {
		if tlsBuild && c.ssl != nil {
			n, e = sslRead(c, b)
		} else {
			n, e = rawRecv(c.sfd, b)
		}
	}
	if n > 0 {
		c.thread.stats.pending.n[statBytesRead] += uint64(n)
	}
	return n, e
}

// readRoom moves what is left of the last read to the front of c's read buffer,
// and returns the part behind it, for the next bytes. It returns nil if a line
// has become too long.
func readRoom(c *conn) []byte {
	if c.in.rcurr != 0 {
		copy(c.in.rbuf, c.in.rbuf[c.in.rcurr:c.in.rcurr+c.in.rbytes])
		c.in.rcurr = 0
	}
	if c.in.rbytes == len(c.in.rbuf) && c.in.rbufGrows && !rbufSwitchToMalloc(c) {
		return nil
	}
	return c.in.rbuf[c.in.rbytes:]
}

// tryReadNetwork receives once for c.
func tryReadNetwork(c *conn) {
	if !rbufAlloc(c) {
		connSetState(c, connClosing)
		return
	}
	room := readRoom(c)
	if room == nil {
		stats.mallocFails.Add(1)
		c.in.rbytes = 0
		respStart(c)
		outErrstring(c, "SERVER_ERROR out of memory reading request")
		c.closeAfterWrite = true
		return
	}
	n, e := connRecv(c, room)
	connReceived(c, n, e)
}

// connReceived leads c on from connRead, by the result of a receive into readRoom.
func connReceived(c *conn, n int, e unix.Errno) {
	switch {
	case n > 0:
		c.in.rbytes += n
		c.in.lookedAhead = 0
		connSetState(c, connParseCmd)
	case e == unix.EAGAIN:
		connSetState(c, connWaiting)
	default:
		if e == 0 {
			c.closeReason = normalClose
		}
		connSetState(c, connClosing)
	}
}

// connSent leads c on from connMwrite, by the result of a send. It returns false
// if c must wait.
func connSent(c *conn, res transmitResult) bool {
	switch res {
	case transmitComplete:
		connReleaseItems(c)
		connSetState(c, connNewCmd)
		if c.closeAfterWrite {
			connSetState(c, connClosing)
		}
	case transmitSoftError:
		return !updateEvent(c, evWrite)
	case transmitHardError:
		connSetState(c, connClosing)
	}
	return true
}

// updateEvent makes epoll watch c for events. On failure it sets connClosing
// and returns false.
func updateEvent(c *conn, events uint32) bool {
	if c.evFlags == events {
		return true
	}
	p := &mainPoll
	if c.thread != nil {
		p = &c.thread.poll
	}
	if err := pollMod(p, c.sfd, events); err != nil {
		verbosef(1, "Couldn't update event")
		connSetState(c, connClosing)
		return false
	}
	c.evFlags = events
	return true
}

// readIntoItem copies the value's bytes from the read buffer into the item
// (C: read_into_chunked_item). It returns false if there is no memory for
// another chunk.
func readIntoItem(c *conn) bool {
	for c.in.rbytes > 0 && c.val.rlbytes > 0 {
		room, ok := nreadRoom(c)
		if !ok {
			return false
		}
		n := copy(room, c.in.rbuf[c.in.rcurr:c.in.rcurr+c.in.rbytes])
		c.in.rcurr += n
		c.in.rbytes -= n
		nreadAdvance(c, n)
	}
	return true
}

// nreadRoom returns the part of the item for the next bytes of the value. It
// returns false if there is no memory for another chunk.
func nreadRoom(c *conn) ([]byte, bool) {
	left := c.val.rlbytes + c.val.rtail
	if c.val.rchunk == nil {
		b := c.val.item.data()
		return b[len(b)-left:][:c.val.rlbytes], true
	}
	ch := c.val.rchunk
	if ch.used == ch.size {
		if ch = doItemAllocChunk(ch, left, true); ch == nil {
			return nil, false
		}
		c.val.rchunk = ch
	}
	room := ch.data()[ch.used:]
	return room[:min(len(room), c.val.rlbytes)], true
}

// nreadAdvance notes that n bytes of the value were put into nreadRoom's slice.
func nreadAdvance(c *conn, n int) {
	if c.val.rchunk != nil {
		c.val.rchunk.used += int32(n)
	}
	c.val.rlbytes -= n
}

// driveMachine runs c until it must wait: for the network, or for the round to
// send its replies.
func driveMachine(c *conn) {
	for stop := false; !stop; {
		switch c.state {
		case connListening:
			driveListening(c) // acceptor.go
			stop = true

		case connWaiting:
			rbufRelease(c)
			if sslPending(c) || c.transport == udpTransport && c.udp.more && c.nreqs > 0 {
				connSetState(c, connRead)
			} else if updateEvent(c, evRead) {
				connSetState(c, connRead)
				stop = true
			}

		case connRead:
			if c.transport == udpTransport {
				tryReadUdp(c)
			} else {
				tryReadNetwork(c)
			}

		case connParseCmd:
			if !tryReadCommand(c) {
				if c.resp != nil {
					// Unlike 1.5.12, send the replies so far in the meantime.
					connSetState(c, connMwrite)
				} else {
					connSetState(c, connWaiting)
				}
			}

		case connNewCmd:
			stop = driveNewCmd(c)

		case connNread:
			stop = driveNread(c)

		case connSwallow:
			stop = driveSwallow(c)

		case connWrite, connMwrite:
			switch {
			case c.respsSuspended.Load() > 0:
				park(c)
				stop = true
			case c.resp == nil:
				connSent(c, transmitComplete)
			case c.transport == udpTransport:
				stop = !connSent(c, transmitUdp(c))
			default:
				r := c.resp // ends here: others follow it in the worker's buffers
				r.end, r.iovEnd = len(r.wbuf), len(r.iov)
				c.thread.round.sends = append(c.thread.round.sends, c)
				return // c goes on when roundSend has sent
			}

		case connClosing:
			if c.respsSuspended.Load() > 0 {
				// An I/O thread writes to what its replies refer to.
				respKeep(c)
				connEventDel(c)
			} else if c.transport == udpTransport {
				connCleanup(c)
			} else {
				connClose(c)
				return
			}
			stop = true

		case connClosed:
			panic("driveMachine: conn is closed")

		case connWatch:
			// c belongs to a side thread now: do not touch it. A TLS
			// handshake begins, or goes on, with this event.
			sslWake(c.ssl)
			return

		case connIoQueue:
			// An event, but the reads that we wait for have not come back.
			connEventDel(c)
			connSetState(c, connIoPending)
			stop = true

		case connIoResume:
			connSetState(c, connMwrite)

		case connIoPending:
			panic("driveMachine: nobody watches conn")
		}
	}
	connPublish(c)
}

// driveNewCmd readies c for its next command or, once -R commands have been served,
// sends its replies and lets the others have their turn. It returns true if c must
// wait.
func driveNewCmd(c *conn) bool {
	c.nreqs--
	switch {
	case c.nreqs >= 0 && !respFull(c):
		resetCmdHandler(c)
		return false
	case c.resp != nil:
		connSetState(c, connMwrite)
		return false
	}
	c.thread.stats.pending.n[statConnYields]++
	if c.in.rbytes > 0 || sslPending(c) {
		// C waits until the socket is writable instead. Epoll does not report
		// input that we have read already.
		roundAdd(c.thread, c)
		return true
	}
	connSetState(c, connWaiting)
	return false
}

// driveNread reads the remaining c.val.rlbytes bytes of a value, then runs its
// command. It returns true if c must wait.
func driveNread(c *conn) bool {
	switch {
	case c.val.rlbytes == 0 && c.protocol == binaryProt:
		completeNreadBinary(c)
		return false
	case c.val.rlbytes == 0:
		completeNreadAscii(c)
		return false
	case c.in.rbytes > 0:
		if !readIntoItem(c) {
			driveNreadError(c)
		}
		return false
	}
	room, ok := nreadRoom(c)
	if !ok {
		driveNreadError(c)
		return false
	}
	n, e := connRecv(c, room)
	if n > 0 {
		nreadAdvance(c, n)
		// A short read has emptied the socket: do not read again.
		return n < len(room) && !sslPending(c) && waitForValue(c)
	}
	return driveReadNothing(c, e)
}

// waitForValue makes c wait for more of a value. Earlier replies are sent now:
// the client may want to see them before it sends the rest. It returns false if
// c must close instead.
func waitForValue(c *conn) bool {
	if c.transport == udpTransport {
		// The rest of the value will not come in another datagram.
		connSetState(c, connClosing)
		return false
	}
	rbufRelease(c)
	if c.respsSuspended.Load() > 0 {
		respKeep(c) // they leave when the reads have come back
		return updateEvent(c, evRead)
	}
	if c.resp != nil {
		transmitCount(c)
		statsFold(c.thread)
		switch transmit(c) {
		case transmitSoftError:
			return updateEvent(c, evRead|evWrite)
		case transmitHardError:
			connSetState(c, connClosing)
			return false
		}
	}
	return updateEvent(c, evRead)
}

// driveReadNothing handles a read that returned no bytes. It returns true if c
// must wait for more.
func driveReadNothing(c *conn, e unix.Errno) bool {
	switch e {
	case 0:
		c.closeReason = normalClose
		connSetState(c, connClosing)
	case unix.EAGAIN:
		return waitForValue(c)
	default:
		if settings.verbose.Load() > 0 {
			fmt.Fprintf(os.Stderr, "Failed to read, and not due to blocking:\nerrno: %d %s \n", int(e), strerror(e))
		}
		connSetState(c, connClosing)
	}
	return false
}

// driveNreadError answers that there is no memory for the rest of a chunked
// item, and makes c discard that rest.
func driveNreadError(c *conn) {
	if c.resp == nil && !respStart(c) {
		return
	}
	outOfMemory(c, errNoMemoryRead)
	connSwallowValue(c, c.val.rlbytes)
}

// connSwallowValue makes c discard the next n bytes, the value of a refused
// command. The refusal is held back until they have come: a proxy that gets an
// answer while it is still sending the request takes it for a stray one.
func connSwallowValue(c *conn, n int) {
	c.val.refusal = append(c.val.refusal[:0], c.resp.wbuf[c.resp.mark.wbuf:]...)
	respReset(c)
	c.val.sbytes = n
	connSetState(c, connSwallow)
}

// driveSwallow discards c.val.sbytes bytes, or what is left of a datagram, then
// gives the answer held back. It returns true if c must wait.
func driveSwallow(c *conn) bool {
	if c.val.sbytes <= 0 || c.in.rbytes == 0 && c.transport == udpTransport {
		c.val.sbytes = 0
		if c.resp == nil && !respStart(c) {
			return false
		}
		c.resp.wbuf = append(c.resp.wbuf, c.val.refusal...)
		connSetState(c, connNewCmd)
		return false
	}
	if c.in.rbytes > 0 {
		n := min(c.in.rbytes, c.val.sbytes)
		c.val.sbytes -= n
		c.in.rcurr += n
		c.in.rbytes -= n
		return false
	}
	if !rbufAlloc(c) {
		connSetState(c, connClosing)
		return false
	}
	n, e := connRecv(c, c.in.rbuf[:min(len(c.in.rbuf), c.val.sbytes)])
	if n > 0 {
		c.val.sbytes -= n
		return false
	}
	return driveReadNothing(c, e)
}

// park makes c, and its replies, wait for reads from extstore.
func park(c *conn) {
	respKeep(c)
	rbufRelease(c)
	connSetState(c, connIoQueue)
	t := c.thread
	if t.ext.connsTosubmit++; t.ext.connsTosubmit > 20 {
		threadIoQueueSubmit(t) // else when the others have been served
	}
}

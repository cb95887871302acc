// A worker's turn is a round, which serves all events that one wait returns. C serves
// one event after the other. From memcached.c: event_handler; the rest replaces
// libevent's loop.

package main

import "fmt"

// Maximum number of connections in a batch: received for, served and sent to
// together.
const roundMax = 64

// driveRound runs one round of worker me.
func driveRound(me *thread) {
	// Wait, unless the last round left conns to serve.
	msec := -1
	if len(me.round.ready) > 0 {
		msec = 0
	}
	events, err := pollWait(&me.poll, msec)
	if err != nil {
		panic(fmt.Sprintf("epoll_wait: %v", err))
	}

	if me.poll.idle {
		rbufTrim(me)
	}

	// Receive for, serve and send to the conns with events.
	notified := false
	for i := range events {
		if fd := int(events[i].Fd); fd == me.notifyReceiveFd {
			notified = true
		} else {
			eventHandler(me, fd)
		}
	}
	roundServe(me)

	// The pipe comes last: its messages may close or open a connection on the
	// descriptor of one of the events above.
	if notified {
		threadLibeventProcess(me)
		roundServe(me)
	}

	// Finally: reads from extstore, statistics.
	threadIoQueueSubmit(me)
	if me.stats.dirty != 0 || me.stats.pending.n != [numThreadStats]uint64{} {
		statsFold(me)
	}
}

// eventHandler adds the connection on fd, for which t's epoll has reported an
// event, to the round.
func eventHandler(t *thread, fd int) {
	c := conns[fd].Load()
	// The event may be stale. Unlike in C, no event_del precedes close(2), and
	// epoll drops a socket only when its last user is done: "stats conns" on
	// another worker may still be in getpeername(2). By then fd may belong to
	// another connection, of another worker or of this one.
	if s := connSeen(c); s.threadId == t.id && s.state != connClosed {
		roundAdd(t, c)
	}
}

// roundAdd adds c to the conns of t's next round.
func roundAdd(t *thread, c *conn) {
	if !c.inRound {
		c.inRound = true
		t.round.ready = append(t.round.ready, c)
	}
}

// roundServe serves the conns of the round, one batch at a time. It receives for
// the whole batch, serves it, then sends to all of it, so that clients wake up
// together.
func roundServe(me *thread) {
	me.round.served, me.round.ready = me.round.ready, me.round.served[:0]
	for _, c := range me.round.served {
		c.inRound = false
		c.nreqs = settings.net.reqsPerEvent
	}
	for rest := me.round.served; len(rest) > 0; {
		batch := rest[:roundReceive(me, rest)]
		rest = rest[len(batch):]
		for len(batch) > 0 { // again for conns with more to do once their replies are sent
			for i, c := range batch {
				if i%assocBatch == 0 {
					lookAheadRound(batch[i:min(i+assocBatch, len(batch))])
				}
				if roundFull(me) {
					roundSend(me)
				}
				me.curSfd = c.sfd
				driveMachine(c)
			}
			roundSend(me)
			me.round.sent, me.round.goOn = me.round.goOn[:0], me.round.sent
			batch = me.round.goOn
		}
	}
}

// roundReceive receives for the conns that wait for a command. It returns how many
// of conns to serve now: at most roundMax, and no more than there are read buffers
// for.
func roundReceive(me *thread, conns []*conn) int {
	for i, c := range conns {
		switch {
		case i == roundMax:
			return i
		case c.state != connRead || c.transport == udpTransport:
			continue // driveMachine reads or sends for it
		case rbufAvailable(c):
			rbufAlloc(c)
		case i > 0:
			return i
		default:
			continue // driveMachine closes it
		}
		if room := readRoom(c); room != nil { // otherwise driveMachine refuses the line
			n, e := connRecv(c, room)
			connReceived(c, n, e)
		}
	}
	return len(conns)
}

// roundFull reports whether to send before serving another connection: its replies
// might not fit or, with -o read_buf_mem_limit, some replies are waiting.
func roundFull(me *thread) bool {
	b := &me.bufs.round
	return cap(b.wbuf)-len(b.wbuf) < wbufSize || cap(b.iov)-len(b.iov) < respIovMax ||
		me.bufs.respLimit != 0 && len(me.round.sends) > 0
}

// roundSend sends to the connections that have reached connMwrite.
func roundSend(me *thread) {
	if len(me.round.sends) == 0 {
		return
	}
	for _, c := range me.round.sends {
		transmitCount(c)
	}
	statsFold(me) // before sending: a client that has read a reply finds it counted
	for _, c := range me.round.sends {
		if connSent(c, transmit(c)) {
			me.round.sent = append(me.round.sent, c)
		} else {
			connPublish(c)
		}
	}
	me.round.sends = me.round.sends[:0]
	respBufsReset(me)
}

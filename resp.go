// Replies: gathering them and sending them. From memcached.c: resp_*,
// out_string, transmit. Not as in C, where each reply is an object with a
// buffer of its own: all that is answered to one read is one resp.

package main

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	wbufSize  = 64 << 10 // bytes of replies to one connection, after which they leave
	roundBufs = 4        // times that, for the replies of a round

	// A value of at most this many bytes is copied into the reply while its
	// item is locked. A larger one leaves from its slab, which costs another
	// two turns of the lock.
	respCopyMax = 2048

	// Replies that count as one read buffer against -o read_buf_mem_limit,
	// which is what they take in C.
	respPerBuffer = 13

	respIovMax = 256  // pieces of replies to one connection, after which they leave
	iovMax     = 1024 // of writev(2)
)

// Errors that clients are told in more than one place.
const (
	errBadFormat       = "CLIENT_ERROR bad command line format"
	errBadExptime      = "CLIENT_ERROR invalid exptime argument"
	errNonNumeric      = "CLIENT_ERROR cannot increment or decrement non-numeric value"
	errOpaqueTooLong   = "CLIENT_ERROR opaque token too long"
	errCrawlerDisabled = "CLIENT_ERROR lru crawler disabled"
	errUnauthenticated = "CLIENT_ERROR unauthenticated"
	errUnhandledStore  = "SERVER_ERROR Unhandled storage type."
	errNoMemory        = "SERVER_ERROR out of memory"
	errNoMemoryNewItem = "SERVER_ERROR Out of memory allocating new item"
	errNoMemoryRead    = "SERVER_ERROR Out of memory during read"
)

// A resp is what a client is to be sent: the pieces of iov in order, then
// wbuf from done on.
type resp struct {
	lent  bool // wbuf and iov lie in the worker's; otherwise they are its own
	wbuf  []byte
	done  int       // bytes of wbuf that were sent or are part of iov
	iov   []respIov // pieces not sent yet
	count int       // replies in it
	mark  respMark  // where the reply to the current command begins
}

// A respIov is n bytes at off: of the value of an item, or of wbuf if it is
// nil.
type respIov struct {
	it     *item      // with a reference, but without its lock, so:
	data   []byte     // its value,
	chunk  *itemChunk // or the first chunk of it
	off, n int
}

type respMark struct{ wbuf, iov, done, count int }

type transmitResult int

const (
	transmitComplete   transmitResult = iota // all is written
	transmitIncomplete                       // there is more to write
	transmitSoftError                        // no more can be written now
	transmitHardError                        // the state is set to connClosing
)

// respReset drops what the current command has answered, and is not sent.
func respReset(c *conn) {
	r := c.resp
	for i := r.mark.iov; i < len(r.iov); i++ {
		if it := r.iov[i].it; it != nil {
			itemRemove(it)
		}
	}
	r.iov = r.iov[:r.mark.iov]
	r.wbuf = r.wbuf[:r.mark.wbuf]
	r.done = r.mark.done
	c.thread.respCount -= r.count - r.mark.count
	r.count = r.mark.count
}

// respAddItem appends the first n bytes of an item's value, and takes over
// the caller's reference to it. The item is locked.
func respAddItem(c *conn, it *item, n int) {
	r := c.resp
	if len(r.wbuf) > r.done {
		r.iov = append(r.iov, respIov{off: r.done, n: len(r.wbuf) - r.done})
		r.done = len(r.wbuf)
	}
	v := respIov{it: it, n: n}
	if it.itFlags&itemChunked == 0 {
		v.data = it.data()
	} else {
		v.chunk = it.schunk()
	}
	r.iov = append(r.iov, v)
}

// respAddValue appends the first n bytes of an item's value, which it either
// copies or keeps the caller's reference for. The item is locked.
func respAddValue(c *conn, it *item, n int) {
	if it.nbytes > respCopyMax || it.itFlags&itemChunked != 0 {
		respAddItem(c, it, n)
		return
	}
	c.resp.wbuf = append(c.resp.wbuf, it.data()[:n]...)
	doItemRemove(it)
}

// respFull tells whether what is gathered should leave before there is more.
func respFull(c *conn) bool {
	r := c.resp
	return r != nil && (len(r.wbuf) > wbufSize-2*respCopyMax || len(r.iov) > respIovMax-2 || c.transport == udpTransport)
}

// respLend returns a resp whose buffers begin where those of the one lent
// before end: all replies of a round lie in one piece of memory.
func respLend(t *thread) *resp {
	respClose(t)
	var r *resp
	if n := len(t.resps); n > 0 {
		r, t.resps = t.resps[n-1], t.resps[:n-1]
	} else {
		r = new(resp)
	}
	*r = resp{lent: true, wbuf: t.wbuf[len(t.wbuf):], iov: t.riov[len(t.riov):]}
	t.lastLent = r
	t.respsLent++
	return r
}

// respClose ends what was lent last: if it grows still, it moves elsewhere.
func respClose(t *thread) {
	r := t.lastLent
	if r == nil {
		return
	}
	t.lastLent = nil
	n := len(t.wbuf)
	if m := n + len(r.wbuf); len(r.wbuf) > 0 && m <= cap(t.wbuf) && &r.wbuf[0] == &t.wbuf[:m][n] {
		t.wbuf = t.wbuf[:m]
		r.wbuf = slices.Clip(r.wbuf)
	}
	n = len(t.riov)
	if m := n + len(r.iov); len(r.iov) > 0 && m <= cap(t.riov) && &r.iov[0] == &t.riov[:m][n] {
		t.riov = t.riov[:m]
		r.iov = slices.Clip(r.iov)
	}
}

// respReturn undoes respLend. When the last one comes back the worker's buffers
// are empty again.
func respReturn(t *thread, r *resp) {
	if t.lastLent == r {
		t.lastLent = nil
	}
	t.resps = append(t.resps, r)
	if t.respsLent--; t.respsLent == 0 {
		t.wbuf = t.wbuf[:0]
		t.riov = t.riov[:0]
	}
}

// respKeep gives c a resp of its own, since it must wait before all is sent;
// the worker's buffers are for the next round.
func respKeep(c *conn) {
	r := c.resp
	if !r.lent {
		return
	}
	own := &resp{count: r.count, iov: append([]respIov(nil), r.iov...)}
	// Only what is not sent is kept.
	skip := len(r.wbuf)
	for _, v := range own.iov {
		if v.it == nil {
			skip = min(skip, v.off)
		}
	}
	skip = min(skip, r.done)
	own.wbuf = append([]byte(nil), r.wbuf[skip:]...)
	own.done = r.done - skip
	for i := range own.iov {
		if own.iov[i].it == nil {
			own.iov[i].off -= skip
		}
	}
	respSetMark(own)
	respReturn(c.thread, r)
	c.resp = own
}

// respStart begins the reply to a command. It fails if too many replies wait
// to be sent already.
func respStart(c *conn) bool {
	if c.resp == nil {
		c.resp = respLend(c.thread)
	}
	ok := respCount(c)
	respSetMark(c.resp)
	return ok
}

func respSetMark(r *resp) { r.mark = respMark{len(r.wbuf), len(r.iov), r.done, r.count} }

// respCount counts another reply, as each key of a get is one, too.
func respCount(c *conn) bool {
	t := c.thread
	if t.respLimit != 0 && t.respCount >= t.respLimit {
		t.stats.pending.n[statResponseObjOom]++
		return false
	}
	c.resp.count++
	t.respCount++
	return true
}

// respRelease ends c's resp, with all references that it holds.
func respRelease(c *conn) {
	r := c.resp
	if r == nil {
		return
	}
	for _, v := range r.iov {
		if v.it != nil {
			itemRemove(v.it)
		}
	}
	c.thread.respCount -= r.count
	if r.lent {
		respReturn(c.thread, r)
	}
	c.resp = nil
}

// outString answers one line, in place of what the command has answered so
// far, or nothing at all with noreply.
func outString[T string | []byte](c *conn, str T) {
	respReset(c)
	if c.noreply {
		if settings.verbose.Load() > 1 {
			fmt.Fprintf(os.Stderr, ">%d NOREPLY %s\n", c.sfd, string(str))
		}
	} else {
		if settings.verbose.Load() > 1 {
			fmt.Fprintf(os.Stderr, ">%d %s\n", c.sfd, string(str))
		}
		c.resp.wbuf = append(append(c.resp.wbuf, str...), "\r\n"...)
	}
	connSetState(c, connNewCmd)
}

// outErrstring is outString for errors that are told even with noreply.
func outErrstring(c *conn, str string) {
	c.noreply = false
	outString(c, str)
}

// outOfMemory answers an error in the terms of c's protocol.
func outOfMemory(c *conn, asciiError string) {
	if c.protocol == binaryProt {
		writeBinError(c, protocolBinaryResponseEnomem, strings.TrimPrefix(asciiError, "SERVER_ERROR "), 0)
		return
	}
	outString(c, asciiError)
}

// transmitPre fills t.iov with as much of r as writev takes, and returns its
// length in bytes.
func transmitPre(t *thread, r *resp) int {
	t.iov = t.iov[:0]
	total := 0
	add := func(b []byte) {
		iov := unix.Iovec{Base: &b[0]}
		iov.SetLen(len(b))
		t.iov = append(t.iov, iov)
		total += len(b)
	}
	for _, v := range r.iov {
		if len(t.iov) == iovMax {
			return total
		}
		switch {
		case v.it == nil:
			add(r.wbuf[v.off : v.off+v.n])
		case v.chunk == nil:
			add(v.data[v.off : v.off+v.n])
		default:
			off, n := v.off, v.n
			for ch := v.chunk; ch != nil && n > 0; ch = ch.next.chunk() {
				used := int(ch.used)
				if off >= used {
					off -= used
					continue
				}
				if len(t.iov) == iovMax {
					return total
				}
				b := ch.data()[off:min(used, off+n)]
				add(b)
				n -= len(b)
				off = 0
			}
		}
	}
	if r.done < len(r.wbuf) && len(t.iov) < iovMax {
		add(r.wbuf[r.done:])
	}
	return total
}

// transmitPost strikes n bytes off what is to be sent. It returns true if
// nothing is left.
func transmitPost(r *resp, n int) bool {
	i := 0
	for i < len(r.iov) {
		v := &r.iov[i]
		if n < v.n {
			v.off += n
			v.n -= n
			n = 0
			break
		}
		n -= v.n
		if v.it != nil {
			itemRemove(v.it)
		}
		i++
	}
	r.iov = r.iov[:copy(r.iov, r.iov[i:])]
	if len(r.iov) > 0 {
		return false
	}
	r.done += n
	return r.done == len(r.wbuf)
}

// An ioResult is what came of a system call that was made for a connection
// before its state machine asks for it.
type ioResult struct {
	done bool // and not asked for yet
	n    int  // bytes, of
	want int  // which is only for sending
	e    unix.Errno
}

// transmitCount counts all of c's replies as written, so that whoever reads
// them finds them counted. What the socket does not take is taken back.
func transmitCount(c *conn) {
	r := c.resp
	c.io.want = len(r.wbuf) - r.done
	for i := range r.iov {
		c.io.want += r.iov[i].n
	}
	c.thread.stats.pending.n[statBytesWritten] += uint64(c.io.want)
}

// transmitStart makes the system call for what transmitCount has counted.
func transmitStart(c *conn) {
	r, t := c.resp, c.thread
	c.io.done = true
	c.io.n, c.io.e = 0, 0
	switch {
	case c.io.want == 0:
	case tlsBuild && c.ssl != nil:
		b := sslSendmsg(t, r)
		t.stats.pending.n[statBytesWritten] -= uint64(c.io.want - len(b))
		c.io.want = len(b)
		c.io.n, c.io.e = sslWrite(c, b)
	case len(r.iov) > 0:
		total := transmitPre(t, r)
		t.stats.pending.n[statBytesWritten] -= uint64(c.io.want - total)
		c.io.want = total
		c.io.n, c.io.e = rawWritev(c.sfd, t.iov)
	default:
		c.io.n, c.io.e = rawSend(c.sfd, r.wbuf[r.done:])
	}
}

// transmit sees what came of transmitStart. What the current command has
// answered by now stays: respReset can no longer take it back.
func transmit(c *conn) transmitResult {
	r, t := c.resp, c.thread
	n, e, want := c.io.n, c.io.e, c.io.want
	c.io.done = false
	if n < want {
		t.stats.pending.n[statBytesWritten] -= uint64(want - max(n, 0))
	}
	switch {
	case n >= 0:
		if transmitPost(r, n) {
			respRelease(c)
			return transmitComplete
		}
		respSetMark(r)
		c.lastCmdTime = currentTime.Load() // it is not idle
		if n == want {
			return transmitIncomplete
		}
	case e == unix.EINTR:
		return transmitIncomplete
	case e != unix.EAGAIN:
		// A real error, on which we close the connection.
		if settings.verbose.Load() > 0 {
			perror("Failed to write, and not due to blocking", e)
		}
		connSetState(c, connClosing)
		return transmitHardError
	}
	respKeep(c)
	if settings.idleTimeout != 0 {
		c.outq = socketOutq(c.sfd)
	}
	if !updateEvent(c, evWrite) {
		return transmitHardError
	}
	return transmitSoftError
}

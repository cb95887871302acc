// Replies: gathering them and sending them. From memcached.c: resp_*,
// out_string, transmit. Not as in C, where each reply is an object with a
// buffer of its own: all that is answered to one read is one resp.

package main

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	wbufSize = 64 << 10 // of a worker's resp, bytes

	// A value of at most this many bytes is copied into the reply while its
	// item is locked. A larger one leaves from its slab, which costs another
	// two turns of the lock.
	respCopyMax = 2048

	// Replies that count as one read buffer against -o read_buf_mem_limit,
	// which is what they take in C.
	respPerBuffer = 13

	iovMax = 1024 // of writev(2)
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
	return r != nil && (len(r.wbuf) > wbufSize-2*respCopyMax || len(r.iov) > iovMax-2 || c.transport == udpTransport)
}

// respKeep gives c a resp of its own, since it must wait before all is sent;
// the worker's is wanted by others.
func respKeep(c *conn) {
	r := c.resp
	if r != &c.thread.resp {
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
	respRecycle(r)
	c.resp = own
}

func respRecycle(r *resp) {
	if cap(r.wbuf) > wbufSize {
		r.wbuf = make([]byte, 0, wbufSize)
	}
	*r = resp{wbuf: r.wbuf[:0], iov: r.iov[:0]}
}

// respStart begins the reply to a command. It fails if too many replies wait
// to be sent already.
func respStart(c *conn) bool {
	r := c.resp
	if r == nil {
		r = &c.thread.resp
		c.resp = r
	}
	ok := respCount(c)
	respSetMark(r)
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
	respRecycle(r)
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

// transmit sends what of c's replies the socket takes. What the current
// command has answered by now stays: respReset can no longer take it back.
func transmit(c *conn) transmitResult {
	r := c.resp
	t := c.thread
	b := r.wbuf[r.done:]
	total := len(b)
	if len(r.iov) > 0 {
		total = transmitPre(t, r) // b is part of it
	}
	if total == 0 {
		respRelease(c)
		return transmitComplete
	}
	t.stats.pending.n[statBytesWritten] += uint64(total)
	statsFold(t) // who reads the reply finds it counted
	var n int
	var e unix.Errno
	if len(r.iov) > 0 {
		n, e = rawWritev(c.sfd, t.iov)
	} else {
		n, e = rawSend(c.sfd, b)
	}
	if n < total {
		t.stats.pending.n[statBytesWritten] -= uint64(total - max(n, 0))
	}
	switch {
	case n >= 0:
		if transmitPost(r, n) {
			respRelease(c)
			return transmitComplete
		}
		respSetMark(r)
		c.lastCmdTime = currentTime.Load() // it is not idle
		if n == total {
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

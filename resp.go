// Replies: gathering them and sending them. From memcached.c: resp_*,
// out_string, transmit. Not as in C, where each reply is an object with a
// buffer of its own: all replies to one read form one resp.

package main

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	wbufSize  = 64 << 10 // most bytes gathered for one connection before they are sent
	roundBufs = 4        // times wbufSize, for the replies of a round

	// A value of at most this many bytes is copied into the reply while its
	// item is locked. A larger one is sent from its slab, which costs locking
	// the item once more.
	respCopyMax = 2048

	// How many replies count as one read buffer against -o read_buf_mem_limit:
	// in C they take as much memory.
	respPerBuffer = 13

	respIovMax  = 256     // most pieces gathered for one connection before they are sent
	respReadMax = 4 << 20 // and bytes that are read for it from extstore
	iovMax      = 1024    // most pieces that writev(2) takes
)

// Errors that are sent from more than one place.
const (
	errBadFormat       = "CLIENT_ERROR bad command line format"
	errBadKey          = errBadFormat + "\r\n" // in a get; followed by an empty line, as in C
	errBadExptime      = "CLIENT_ERROR invalid exptime argument"
	errNonNumeric      = "CLIENT_ERROR cannot increment or decrement non-numeric value"
	errOpaqueTooLong   = "CLIENT_ERROR opaque token too long"
	errCrawlerDisabled = "CLIENT_ERROR lru crawler disabled"
	errUnauthenticated = "CLIENT_ERROR unauthenticated"
	errUnhandledStore  = "SERVER_ERROR Unhandled storage type."
	errNoMemory        = "SERVER_ERROR out of memory"
	errNoMemoryNewItem = "SERVER_ERROR Out of memory allocating new item"
	errNoMemoryRead    = "SERVER_ERROR Out of memory during read"
	errNoMemoryGet     = "SERVER_ERROR out of memory writing get response"
)

// A resp is what is to be sent to a client: the pieces of iov in order, then
// wbuf[done:].
type resp struct {
	lent  bool // wbuf and iov are parts of the worker's; otherwise they are its own
	wbuf  []byte
	done  int       // bytes of wbuf that are sent, or that iov covers
	iov   []respIov // pieces not sent yet
	count int       // replies in it
	mark  respMark  // where the reply to the current command begins
	read  int       // bytes of memory for values from extstore
}

// A respIov is n bytes, maybe 0, at offset off of an item's value, or of wbuf if
// there is no item.
type respIov struct {
	it     *item      // holds a reference but not the lock; nil for wbuf
	data   []byte     // the value of an item that is not chunked
	chunk  *itemChunk // the first chunk of one that is
	off, n int
	io     *ioPending // the read that is to fill it; while there is one nothing is sent
}

type respMark struct{ wbuf, iov, done, count int }

type transmitResult int

const (
	transmitComplete   transmitResult = iota // all is sent
	transmitIncomplete                       // there is more to send
	transmitSoftError                        // the socket takes no more for now
	transmitHardError                        // the state is set to connClosing
)

// respReset drops the current command's reply, except what has been sent of it.
func respReset(c *conn) {
	r := c.resp
	for _, v := range r.iov[r.mark.iov:] {
		respIovFree(v)
	}
	r.iov = r.iov[:r.mark.iov]
	r.wbuf = r.wbuf[:r.mark.wbuf]
	r.done = r.mark.done
	c.thread.respCount -= r.count - r.mark.count
	r.count = r.mark.count
}

// respIovFree drops what a piece holds.
func respIovFree(v respIov) {
	switch {
	case v.io != nil:
		storageAbort(v.io)
	case v.it != nil:
		itemRemove(v.it)
	}
}

// respCut makes a piece of what wbuf has up to end, as far as iov does not cover
// it.
func respCut(r *resp, end int) {
	if end > r.done {
		r.iov = append(r.iov, respIov{off: r.done, n: end - r.done})
		r.done = end
	}
}

// respAddItem appends the first n bytes of an item's value and takes over the
// caller's reference. The caller holds the item's lock.
func respAddItem(c *conn, it *item, n int) {
	r := c.resp
	respCut(r, len(r.wbuf))
	v := respIov{it: it, n: n}
	if it.itFlags&itemChunked == 0 {
		v.data = it.data()
	} else {
		v.chunk = it.schunk()
	}
	r.iov = append(r.iov, v)
}

// respAddValue appends the first n bytes of an item's value. It copies a small
// value and drops the caller's reference; for a large one it keeps the
// reference until the value is sent. The caller holds the item's lock.
//
// For head, miss and the result see storageGetItem.
func respAddValue(c *conn, it *item, hv uint32, n, head int, miss []byte) bool {
	switch {
	case it.nbytes <= respCopyMax && it.itFlags&(itemChunked|itemHdr) == 0:
		c.resp.wbuf = append(c.resp.wbuf, it.data()[:n]...)
		doItemRemove(it)
	case it.itFlags&itemHdr != 0:
		return storageGetItem(c, it, hv, n, head, miss)
	default:
		respAddItem(c, it, n)
	}
	return true
}

// respAddIo appends the first n bytes of the value that p is to read. respFillIo
// completes it.
func respAddIo(c *conn, p *ioPending, n, head int, miss []byte) {
	r := c.resp
	respCut(r, head)
	p.iov = len(r.iov)
	respAddItem(c, p.it, n)
	r.iov[p.iov+1].io = p
	p.nmiss = len(miss)
	r.iov = append(r.iov, respIov{off: r.done})
	r.wbuf = append(r.wbuf, miss...)
	r.done = len(r.wbuf)
}

// respFillIo completes what respAddIo has begun: p has come back.
func respFillIo(c *conn, p *ioPending) {
	iov := c.resp.iov[p.iov:]
	iov[1].io = nil
	if p.miss {
		iov[0].n = 0
		respIovFree(iov[1])
		iov[1] = respIov{}
		iov[2].n = p.nmiss
	}
}

// respFull tells whether to send what is gathered before more is added.
func respFull(c *conn) bool {
	r := c.resp
	return r != nil && (len(r.wbuf) > wbufSize-2*respCopyMax || len(r.iov) > respIovMax-4 || r.read > respReadMax || c.transport == udpTransport)
}

// respLend returns an empty resp whose buffers begin where those of the resp
// lent before end: all replies of a round lie back to back.
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

// respClose ends the room of the resp lent last: if that still grows, append
// moves it elsewhere. It is elsewhere already if it does not begin where the
// worker's buffers end.
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

// respReturn takes back a lent resp. With the last one, the worker's buffers
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

// respKeep moves c's replies to buffers of their own, as c must wait before all
// are sent: the next round needs the worker's buffers.
func respKeep(c *conn) {
	r := c.resp
	if !r.lent {
		return
	}
	own := &resp{count: r.count, read: r.read, iov: append([]respIov(nil), r.iov...)}
	// Keep only what is not sent.
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

// respStart begins the reply to a command. It returns false if too many replies
// are waiting to be sent.
func respStart(c *conn) bool {
	if c.resp == nil {
		c.resp = respLend(c.thread)
	}
	ok := respCount(c)
	respSetMark(c.resp)
	return ok
}

func respSetMark(r *resp) { r.mark = respMark{len(r.wbuf), len(r.iov), r.done, r.count} }

// respCount counts one more reply; each key of a get is one, too. It returns
// false at the limit.
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

// respRelease drops c's resp and all references that it holds.
func respRelease(c *conn) {
	r := c.resp
	if r == nil {
		return
	}
	for _, v := range r.iov {
		respIovFree(v)
	}
	c.thread.respCount -= r.count
	if r.lent {
		respReturn(c.thread, r)
	}
	c.resp = nil
}

// outString makes one line the whole reply to the command; with noreply there
// is none.
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

// outErrstring is outString for errors that are sent even with noreply.
func outErrstring(c *conn, str string) {
	c.noreply = false
	outString(c, str)
}

// outOfMemory answers asciiError, or its counterpart in the binary protocol.
func outOfMemory(c *conn, asciiError string) {
	if c.protocol == binaryProt {
		writeBinError(c, protocolBinaryResponseEnomem, strings.TrimPrefix(asciiError, "SERVER_ERROR "), 0)
		return
	}
	outString(c, asciiError)
}

// transmitPre fills t.iov with as much of r as one writev takes, and returns
// how many bytes that is.
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
		case v.n == 0:
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

// transmitPost removes the n bytes just sent from r. It returns true if nothing
// is left.
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
		respIovFree(*v)
		i++
	}
	r.iov = r.iov[:copy(r.iov, r.iov[i:])]
	if len(r.iov) > 0 {
		return false
	}
	r.done += n
	return r.done == len(r.wbuf)
}

// An ioResult is the result of a receive or send that was made for a connection
// before its state machine needs it.
type ioResult struct {
	done bool // made, and the result not used yet
	n    int  // bytes moved, or -1
	want int  // bytes to send; only for a send
	e    unix.Errno
}

// transmitCount counts all of c's replies as written, in advance, so that
// whoever reads them finds them counted. What is not sent is subtracted later.
func transmitCount(c *conn) {
	r := c.resp
	c.io.want = len(r.wbuf) - r.done
	for i := range r.iov {
		c.io.want += r.iov[i].n
	}
	c.thread.stats.pending.n[statBytesWritten] += uint64(c.io.want)
}

// transmitStart sends what transmitCount has counted, with one system call.
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

// transmit handles the result of the send. If some is left, respReset can no
// longer drop what the current command has answered so far.
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
		c.lastCmdTime = currentTime.Load() // c is not idle
		if n == want {
			return transmitIncomplete
		}
	case e == unix.EINTR:
		return transmitIncomplete
	case e != unix.EAGAIN:
		// Any other error closes the connection.
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

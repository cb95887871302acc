// Replies: gathering them and sending them. From memcached.c: resp_*,
// out_string, transmit. In C each reply is an object with a buffer of its own;
// here all replies to one read form one resp, and all replies of a round lie
// back to back in the worker's buffers.

package main

import (
	"fmt"
	"math"
	"os"
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

	bufsOwnMax = 16 // how many respBufs a worker keeps for connections

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

// respBufs hold the replies of a worker's round, or of one connection that waits
// until it can send them.
type respBufs struct {
	wbuf []byte
	iov  []respIov
}

// A resp is what must still be sent to a client: the pieces iov[iovs:iovEnd] in
// order, then wbuf[done:end].
type resp struct {
	*respBufs             // t.bufs.round, or its own; see respKeep
	off          int      // where it begins in wbuf
	done         int      // the part of wbuf before it is sent, or covered by pieces
	end          int      // respGrows while it is the last in wbuf
	iovs, iovEnd int      // pieces not sent yet; iovEnd as end
	count        int      // replies in it
	mark         respMark // where the reply to the current command begins
	read         int      // bytes of memory for values from extstore
}

const respGrows = math.MaxInt

// A respIov is n bytes, maybe 0, at offset off of an item's value, or of wbuf if
// there is no item.
type respIov struct {
	it     *item // holds a reference but not the lock; nil for wbuf
	value  itemParts
	off, n int
	io     *ioPending // the read that will fill it; until that is done nothing is sent
}

type respMark struct{ wbuf, iov, done, count int }

type transmitResult int

const (
	transmitComplete  transmitResult = iota // all is sent
	transmitSoftError                       // the socket takes no more for now
	transmitHardError                       // c must close
)

// respPieces returns the pieces of r that are not sent yet.
func respPieces(r *resp) []respIov { return r.iov[r.iovs:min(r.iovEnd, len(r.iov))] }

// respTail returns what follows the pieces.
func respTail(r *resp) []byte { return r.wbuf[r.done:min(r.end, len(r.wbuf))] }

// parts calls yield with each part of r that is not sent yet, until yield returns
// false.
func (r *resp) parts(yield func([]byte) bool) {
	for _, v := range respPieces(r) {
		value := v.value
		if v.it == nil {
			value.data = r.wbuf
		}
		if !value.parts(v.off, v.n, yield) {
			return
		}
	}
	if b := respTail(r); len(b) > 0 {
		yield(b)
	}
}

// respLen returns how many bytes of r are not sent yet.
func respLen(r *resp) int {
	n := len(respTail(r))
	for _, v := range respPieces(r) {
		n += v.n
	}
	return n
}

// respReset drops the current command's reply, except what has been sent of it.
func respReset(c *conn) {
	r := c.resp
	for _, v := range r.iov[r.mark.iov:] {
		respIovFree(v)
	}
	r.iov = r.iov[:r.mark.iov]
	r.wbuf = r.wbuf[:r.mark.wbuf]
	r.done = r.mark.done
	c.thread.bufs.respCount -= r.count - r.mark.count
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

// respCut makes a piece of the bytes of wbuf up to end that no piece covers yet.
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
	r.iov = append(r.iov, respIov{it: it, value: it.value(), n: n})
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

// respAddIo appends the first n bytes of the value that p will read. respFillIo
// completes it.
func respAddIo(c *conn, p *ioPending, n, head int, miss []byte) {
	r := c.resp
	respCut(r, head)
	p.iov = len(r.iov) - r.iovs
	respAddItem(c, p.it, n)
	r.iov[len(r.iov)-1].io = p
	p.nmiss = len(miss)
	r.iov = append(r.iov, respIov{off: r.done})
	r.wbuf = append(r.wbuf, miss...)
	r.done = len(r.wbuf)
}

// respFillIo completes what respAddIo has begun, once p has come back.
func respFillIo(c *conn, p *ioPending) {
	iov := respPieces(c.resp)[p.iov:]
	iov[1].io = nil
	if p.miss {
		iov[0].n = 0
		respIovFree(iov[1])
		iov[1] = respIov{}
		iov[2].n = p.nmiss
	}
}

// respFull reports whether c must send its replies before it adds more.
func respFull(c *conn) bool {
	r := c.resp
	return r != nil && (len(r.wbuf)-r.off > wbufSize-2*respCopyMax || len(r.iov)-r.iovs > respIovMax-4 ||
		r.read > respReadMax || c.transport == udpTransport)
}

// respLend returns an empty resp at the end of t's buffers.
func respLend(t *thread) *resp {
	var r *resp
	if n := len(t.bufs.resps); n > 0 {
		r, t.bufs.resps = t.bufs.resps[n-1], t.bufs.resps[:n-1]
	} else {
		r = new(resp)
	}
	n := len(t.bufs.round.wbuf)
	*r = resp{respBufs: &t.bufs.round, off: n, done: n, end: respGrows, iovs: len(t.bufs.round.iov), iovEnd: respGrows}
	return r
}

// respBufsReset empties t's buffers. It replaces buffers that a large reply
// has made grow.
func respBufsReset(t *thread) {
	t.bufs.round = respBufs{t.bufs.round.wbuf[:0], t.bufs.round.iov[:0]}
	if cap(t.bufs.round.wbuf) != roundBufs*wbufSize {
		gcAllocated(2 * cap(t.bufs.round.wbuf))
		t.bufs.round.wbuf = make([]byte, 0, roundBufs*wbufSize)
	}
	if cap(t.bufs.round.iov) != 2*respIovMax {
		t.bufs.round.iov = make([]respIov, 0, 2*respIovMax)
	}
}

// respLeave frees r's part of t's buffers, if it is the last.
func respLeave(t *thread, r *resp) {
	if r.respBufs == &t.bufs.round && r.end == respGrows {
		t.bufs.round = respBufs{t.bufs.round.wbuf[:r.off], t.bufs.round.iov[:r.iovs]}
	}
}

// respKeep moves c's replies to buffers of their own, if c must wait before all
// are sent: the next round needs the worker's buffers.
func respKeep(c *conn) {
	r := c.resp
	if r.respBufs != &c.thread.bufs.round {
		return
	}
	var own *respBufs
	if free := c.thread.bufs.own; len(free) > 0 {
		own, c.thread.bufs.own = free[len(free)-1], free[:len(free)-1]
	} else {
		own = new(respBufs)
	}
	own.iov = append(own.iov, respPieces(r)...)
	// Keep only what is not sent.
	skip := r.done
	for _, v := range own.iov {
		if v.it == nil {
			skip = min(skip, v.off)
		}
	}
	for i := range own.iov {
		if own.iov[i].it == nil {
			own.iov[i].off -= skip
		}
	}
	own.wbuf = append(own.wbuf, r.wbuf[skip:r.done+len(respTail(r))]...)
	respLeave(c.thread, r)
	*r = resp{respBufs: own, done: r.done - skip, end: respGrows, iovEnd: respGrows, count: r.count, read: r.read}
	respSetMark(r)
}

// respStart begins the reply to a command. If too many replies are waiting to be
// sent, it makes c close and returns false.
func respStart(c *conn) bool {
	if c.resp == nil {
		c.resp = respLend(c.thread)
	}
	ok := respCount(c)
	if !ok {
		connSetState(c, connClosing)
	}
	respSetMark(c.resp)
	return ok
}

func respSetMark(r *resp) { r.mark = respMark{len(r.wbuf), len(r.iov), r.done, r.count} }

// respCount counts one more reply; each key of a get is one. It returns
// false at the limit.
func respCount(c *conn) bool {
	t := c.thread
	if t.bufs.respLimit != 0 && t.bufs.respCount >= t.bufs.respLimit {
		t.stats.pending.n[statResponseObjOom]++
		return false
	}
	c.resp.count++
	t.bufs.respCount++
	return true
}

// respRelease drops c's resp and all references that it holds.
func respRelease(c *conn) {
	r, t := c.resp, c.thread
	if r == nil {
		return
	}
	for _, v := range respPieces(r) {
		respIovFree(v)
	}
	t.bufs.respCount -= r.count
	respLeave(t, r)
	switch b := r.respBufs; {
	case b == &t.bufs.round:
	case len(t.bufs.own) < bufsOwnMax && cap(b.wbuf) <= 2*wbufSize:
		*b = respBufs{b.wbuf[:0], b.iov[:0]}
		t.bufs.own = append(t.bufs.own, b)
	default: // left to the collector
		gcAllocated(cap(b.wbuf))
	}
	r.respBufs = nil
	t.bufs.resps = append(t.bufs.resps, r)
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

// transmitPre fills t.bufs.iov with as much of r as one writev takes, and returns
// how many bytes that is.
func transmitPre(t *thread, r *resp) (total int) {
	t.bufs.iov = t.bufs.iov[:0]
	for b := range r.parts {
		if len(t.bufs.iov) == iovMax {
			break
		}
		t.bufs.iov = append(t.bufs.iov, unix.Iovec{Base: &b[0]})
		t.bufs.iov[len(t.bufs.iov)-1].SetLen(len(b))
		total += len(b)
	}
	return total
}

// transmitPost removes the n bytes just sent from r. It returns true if nothing
// is left.
func transmitPost(r *resp, n int) bool {
	for pieces := respPieces(r); len(pieces) > 0; pieces = pieces[1:] {
		v := &pieces[0]
		if n < v.n {
			v.off += n
			v.n -= n
			return false
		}
		n -= v.n
		respIovFree(*v)
		r.iovs++
	}
	r.done += n
	return len(respTail(r)) == 0
}

// transmitCount counts all of c's replies as written, in advance, so that a
// client that reads them finds them counted. What is not sent is subtracted later.
func transmitCount(c *conn) {
	c.thread.stats.pending.n[statBytesWritten] += uint64(respLen(c.resp))
}

// connSend sends as much of r as one system call takes. If the socket takes less,
// the error is EAGAIN.
func connSend(c *conn, r *resp) (n int, e unix.Errno) {
	var want int
	switch t := c.thread; {
	case respLen(r) == 0:
		return 0, 0
	case tlsBuild && c.ssl != nil:
		return sslSendmsg(c, r)
	case len(respPieces(r)) > 0:
		want = transmitPre(t, r)
		n, e = rawWritev(c.sfd, t.bufs.iov)
	default:
		want = len(respTail(r))
		n, e = rawSend(c.sfd, respTail(r))
	}
	if n >= 0 && n < want {
		e = unix.EAGAIN
	}
	return max(n, 0), e
}

// transmit sends what transmitCount has counted. If some is left, respReset can
// no longer drop what the current command has answered so far, and c gets
// buffers of its own.
func transmit(c *conn) transmitResult {
	r, t := c.resp, c.thread
	for {
		n, e := connSend(c, r)
		if transmitPost(r, n) {
			respRelease(c)
			return transmitComplete
		}
		if n > 0 {
			respSetMark(r)
			c.lastCmdTime = currentTime.Load() // c is not idle
		}
		if e == 0 || e == unix.EINTR {
			continue
		}
		t.stats.pending.n[statBytesWritten] -= uint64(respLen(r))
		if e != unix.EAGAIN {
			respRelease(c)
			if settings.verbose.Load() > 0 {
				perror("Failed to write, and not due to blocking", e)
			}
			return transmitHardError
		}
		respKeep(c)
		if settings.net.idleTimeout != 0 {
			c.outq = socketOutq(c.sfd)
		}
		return transmitSoftError
	}
}

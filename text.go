// The text protocol, except the commands that touch items (parser.go), the meta
// commands (meta.go) and those of administrators (admin.go). From proto_text.c.

package main

import (
	"bytes"
	"fmt"
	"os"
)

// For -R a get counts as one command more after every getKeysPerTurn keys, and
// whenever its reply is full. In C other connections wait for all of its keys.
const getKeysPerTurn = 1000

// A getRequest is a get with keys still to be looked up.
type getRequest struct {
	returnCas   bool
	shouldTouch bool
	exptime     relTime
	unchecked   bool // no part of the reply was sent, and longer keys may follow
	found       bool // some value
	oom         bool // no memory to read some value from extstore
}

// completeNreadAscii stores the item whose value has been read, and answers.
func completeNreadAscii(c *conn) {
	it := c.val.item
	c.val.item = nil
	if c.resp == nil && !respStart(c) { // earlier replies have been sent
		itemRemove(it)
		return
	}
	hv := hash(it.key())
	if !valueEnds(c, it) {
		if c.val.meta.mset {
			c.noreply = false
		}
		outString(c, "CLIENT_ERROR bad data chunk")
		itemRemove(it)
		return
	}
	itemLock(hv)
	cas := c.cas
	if cas == 0 {
		cas = getCasId() // under the lock, so that the item's unique only grows
	}
	c.cas = 0
	nbytes := int(it.nbytes)
	ret := doStoreItem(it, c.cmd, c.thread, hv, &nbytes, &cas, cas, c.val.meta.setStale)
	if c.val.meta.mset {
		finalizeMset(c, it.key(), it.itFlags&itemKeyBinary != 0, nbytes, ret, cas)
	} else {
		outString(c, storedText(ret))
	}
	doItemRemove(it)
	itemUnlock(hv)
}

// valueEnds reports whether the value just read ends with \r\n.
func valueEnds(c *conn, it *item) bool {
	ch := c.val.rchunk
	if ch == nil {
		return bytes.HasSuffix(it.data(), []byte("\r\n"))
	}
	b := ch.data()[:ch.used]
	if len(b) == 1 && b[0] == '\n' {
		// \r and \n may be in two chunks.
		ch = ch.prev.chunk()
		return ch.data()[ch.used-1] == '\r'
	}
	return bytes.HasSuffix(b, []byte("\r\n"))
}

func storedText(ret storeItemType) string {
	switch ret {
	case stored:
		return "STORED"
	case exists:
		return "EXISTS"
	case notFound:
		return "NOT_FOUND"
	case notStored:
		return "NOT_STORED"
	}
	return errUnhandledStore
}

// tryReadCommandAscii serves one line. It returns false if the line is not
// complete.
func tryReadCommandAscii(c *conn) bool {
	if c.in.rbytes == 0 {
		return false
	}
	line := c.in.rbuf[c.in.rcurr : c.in.rcurr+c.in.rbytes]
	el := bytes.IndexByte(line[c.in.rlooked:], '\n')
	if el < 0 {
		if c.in.rbytes > 2048 {
			return tooLongLine(c, line)
		}
		return false
	}
	line = line[:c.in.rlooked+el+1]
	c.in.rlooked = 0
	if c.getRest {
		processGetKeys(c, line)
		return true
	}
	if c.in.rbytes > len(line) && c.in.rcurr >= c.in.lookedAhead {
		lookAhead(c)
	}
	c.in.rcurr += len(line)
	c.in.rbytes -= len(line)
	c.lastCmdTime = currentTime.Load()
	processCommandAscii(c, line)
	return true
}

// tooLongLine handles more than 2048 bytes without a line end: it returns false
// to wait for the rest if the command is a get of many keys. Otherwise it
// closes the connection.
func tooLongLine(c *conn, line []byte) bool {
	cmd := bytes.TrimLeft(line, " ") // as in C, of at most 100 spaces
	word := firstWord(cmd)
	if len(line)-len(cmd) > 100 || len(word) == len(cmd) || !isGet(word) {
		closeAfterReplies(c)
		return true
	}
	if c.transport == udpTransport {
		return false // a datagram has no rest to wait for
	}
	c.in.rbufGrows = true
	// C searches from the start of the line each time; but the rest may arrive
	// byte by byte.
	c.in.rlooked = len(line)
	return false
}

// isGet reports whether cmd takes any number of keys. C does not count gat among
// these: it hangs up on a long one.
func isGet(cmd []byte) bool {
	switch string(cmd) {
	case "get", "gets", "gat", "gats":
		return true
	}
	return false
}

// processGetCommand serves get, gets, gat and gats. The keys stay in the read
// buffer, so that the later ones can wait until the client has taken the values
// of the first.
func processGetCommand(c *conn, pr *parser, returnCas, shouldTouch bool) {
	c.get = getRequest{returnCas: returnCas, shouldTouch: shouldTouch}
	if shouldTouch {
		exptime, ok := tokto64(pr.token(1))
		if !ok {
			outString(c, errBadExptime)
			return
		}
		c.get.exptime = realtime(exptime)
	}
	keys := pr.request[pr.tokens[pr.keytoken].start:]
	// With extstore processGetCmd checks each key when it comes to it, as in C:
	// reads for the keys before a bad one are aborted, and counted.
	c.get.unchecked = extStorage != nil
	if !c.get.unchecked && !keysOk(lineText(keys)) {
		outString(c, errBadKey)
		return
	}
	c.in.rcurr -= len(keys)
	c.in.rbytes += len(keys)
	c.getRest = true
	processGetKeys(c, keys)
}

// keysOk reports whether no key is too long. All are checked before the first is
// answered.
func keysOk(keys []byte) bool {
	for len(keys) > keyMaxLength {
		end := bytes.LastIndexByte(keys[:keyMaxLength+1], ' ')
		if end < 0 {
			return false
		}
		keys = keys[end+1:]
	}
	return true
}

// processGetKeys answers keys of the line, up to getKeysPerTurn or a full
// reply. If it returns with c.getRest set, the rest of the line is still in the
// read buffer, at rcurr.
func processGetKeys(c *conn, line []byte) {
	if c.resp == nil && !respStart(c) {
		return
	}
	keys := lineText(line)
	prefetched := 0 // bytes of keys
	errstr := ""
	for i, n := 0, 0; errstr == "" && i < len(keys); {
		if keys[i] == ' ' {
			i++
			continue
		}
		if n++; (n > getKeysPerTurn || respFull(c)) && c.transport != udpTransport {
			if c.get.unchecked && !keysOk(keys[i:]) {
				errstr = errBadKey
				break
			}
			c.get.unchecked = false
			getLater(c, line, i)
			return
		}
		if i >= prefetched {
			prefetched = i + prefetchKeys(keys[i:])
		}
		end := i
		for end < len(keys) && keys[end] != ' ' {
			end++
		}
		errstr = processGetCmd(c, keys[i:end])
		i = end
		if errstr == "" && i < len(keys) && !respCount(c) {
			errstr = errNoMemoryGet
		}
	}
	c.getRest = false
	c.in.rcurr += len(line)
	c.in.rbytes -= len(line)
	if c.get.oom && !c.get.found {
		errstr = errNoMemoryGet
	}
	if errstr != "" {
		outString(c, errstr)
		return
	}
	if settings.verbose.Load() > 1 {
		fmt.Fprintf(os.Stderr, ">%d END\n", c.sfd)
	}
	c.resp.wbuf = append(c.resp.wbuf, "END\r\n"...)
	connSetState(c, connNewCmd)
}

// getLater leaves the rest of the line, from i on, until the replies so far
// have been sent.
func getLater(c *conn, line []byte, i int) {
	c.in.rcurr += i
	c.in.rbytes -= i
	c.in.rlooked = len(line) - i - 1
	c.lastCmdTime = currentTime.Load() // c is not idle
	connSetState(c, connMwrite)
}

// processUpdateCommand begins to read the value of a storage command.
func processUpdateCommand(c *conn, pr *parser, comm int, handleCas bool) {
	it, ok := processUpdateCmdStart(c, pr, comm, handleCas)
	switch {
	case !ok:
		connSwallowValue(c, pr.vlen)
	case it != nil:
		connReadValue(c, it, comm)
	}
}

// connStoreInPlace is storeInPlace for the value of the command just parsed, vlen
// bytes with its \r\n, if all of it has been received.
func connStoreInPlace(c *conn, comm int, key []byte, flags uint32, exptime relTime, vlen int, itFlags uint16, cas uint64) (it *item, hv uint32) {
	in := c.in.rbuf[c.in.rcurr : c.in.rcurr+c.in.rbytes]
	n := vlen - 2
	if c.protocol == binaryProt {
		vlen = n // binary values end without \r\n
	}
	if len(in) < vlen || string(in[n:vlen]) != "\r\n"[:vlen-n] {
		return nil, 0
	}
	if it, hv = storeInPlace(c.thread, comm, key, in[:n], flags, exptime, itFlags, cas); it != nil {
		c.in.rcurr += vlen
		c.in.rbytes -= vlen
	}
	return it, hv
}

// connReadValue makes c read the value of an item, to be stored as comm says.
func connReadValue(c *conn, it *item, comm int) {
	c.val.item = it
	c.cmd = comm
	c.val.rtail = 0
	if c.protocol == binaryProt {
		c.val.rtail = 2 // binary values end without \r\n; see binValueEnd
	}
	c.val.rlbytes = int(it.nbytes) - c.val.rtail
	c.val.rchunk = nil
	if it.itFlags&itemChunked != 0 {
		c.val.rchunk = it.schunk()
	}
	connSetState(c, connNread)
}

func processFlushAllCommand(c *conn, pr *parser) {
	c.thread.stats.pending.n[statFlushCmds]++
	if !settings.flushEnabled {
		outString(c, "CLIENT_ERROR flush_all not allowed")
		return
	}
	var exptime int64
	if pr.ntokens != 1+btoi(c.noreply) {
		var ok bool
		if exptime, ok = tokto64(pr.token(1)); !ok {
			outString(c, errBadExptime)
			return
		}
	}
	flushAll(exptime)
	outString(c, "OK")
}

// flushAll flushes all items now or, if exptime is in the future, then. An
// earlier flush that is still to come is cancelled, as in C.
func flushAll(exptime int64) {
	flushLock.Lock()
	now := currentTime.Load()
	at := realtime(exptime)
	if at > now {
		settings.oldestLive.Store(at - 1) // for clockSet
		flushLock.Unlock()
		return
	}
	settings.oldestLive.Store(now - 1)
	flushed := doItemFlush()
	flushLock.Unlock()
	itemFlushExpired(flushed)
	lruForget()
}

// closeAfterReplies closes the connection once its replies have been sent.
func closeAfterReplies(c *conn) {
	c.closeAfterWrite = true
	connSetState(c, connMwrite)
}

// processCommandAscii serves one line.
func processCommandAscii(c *conn, line []byte) {
	if !respStart(c) {
		return
	}
	if settings.verbose.Load() > 1 {
		fmt.Fprintf(os.Stderr, "<%d %s\n", c.sfd, lineText(line))
	}
	t := c.thread
	pr := &t.pr
	pr.request = line
	pr.ntokens = 0
	pr.noreply = false
	c.noreply = false
	if len(line) < 4 || !processRequest(c, pr) {
		outString(c, errBadFormat)
	}
}

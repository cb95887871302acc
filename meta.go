// The meta commands: mg, ms, md, ma, mn and me. From proto_parser.c: struct
// _meta_flags, process_mget_cmd .. process_marithmetic_cmd; proto_text.c:
// _finalize_mset, process_meta_command, process_mset_command; base64.c.

package main

import (
	"cmp"
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"
)

const (
	mflagMaxOptLength    = 20 // words on a line
	mflagMaxOpaqueLength = 32 // bytes, with the O before it
)

// msetFlags are the flags that ms returns. Each comes once at most: see
// metaFlagPreparse.
const msetFlags = "Okcs"

// metaFlags holds the flags of a command, and their arguments.
type metaFlags struct {
	seen           uint64  // see has
	value          bool    // v: return the value
	itFlags        uint16  // for an item that the command creates (in C only if ms does)
	mode           byte    // of M, 0 for none
	clientFlags    uint32  // of F
	exptime        relTime // of T
	autovivExptime relTime // of N
	recacheTime    relTime // of R
	key            []byte
	reqCasId       uint64 // of C: what the item's unique must be
	casIdIn        uint64 // of E: the item's new unique
	delta, initial uint64 // of D and J
}

// A metaReply holds what ms keeps until its value has been read.
type metaReply struct {
	mset     bool // the command is an ms
	setStale bool // the value may be stored as stale
	nflags   uint8
	nopaque  uint8
	flags    [len(msetFlags)]byte // to return, in this order
	opaque   [mflagMaxOpaqueLength]byte
}

// A marithmeticResult is the outcome of ma: an item, a return code, or the text
// of an error.
type marithmeticResult struct {
	it      *item                   // with a reference
	num     [incrMaxStorageLen]byte // its value without the \r\n
	n       int                     // length of num
	created bool                    // with N
	code    string
	errstr  string
}

const notBase64 = 1 << 7

var base64Value = func() (values [256]uint8) {
	for i := range values {
		values[i] = notBase64
	}
	for i, ch := range "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/" {
		values[ch] = uint8(i)
	}
	values['='] = 0
	return values
}()

// metaFlagBit returns the bit of a letter in metaFlags.seen, and 0 for a digit.
func metaFlagBit(flag byte) uint64 { return 1 << (flag - 'A') }

// has reports whether the command has the flag, which is a letter.
func (of *metaFlags) has(flag byte) bool { return of.seen&metaFlagBit(flag) != 0 }

// casIn returns the unique for an item that the command changes: that of E, or
// else a new one.
func (of *metaFlags) casIn() uint64 {
	if of.has('E') {
		return of.casIdIn
	}
	return getCasId()
}

// metaFlagPreparse reads the flags, from word start on. It returns the text of
// an error, or "". A base64 key is decoded in place.
func metaFlagPreparse(pr *parser, start int, of *metaFlags) string {
	of.key = pr.key()
	if len(of.key) > keyMaxLength {
		return errBadFormat
	}
	if pr.ntokens > mflagMaxOptLength {
		return "CLIENT_ERROR options flags are too long"
	}
	// A duplicate or unknown flag is an error at once. Of bad arguments the
	// last one is reported, after the loop; those of F and O only if no other is bad.
	const badToken = "CLIENT_ERROR bad token in command line format"
	errstr := ""
	for i := start; i < pr.ntokens; i++ {
		tok := pr.token(i)
		o, arg := tok[0], tok[1:]
		if of.has(o) {
			return "CLIENT_ERROR duplicate flag"
		}
		of.seen |= metaFlagBit(o)
		ok, what := true, badToken
		switch o {
		case 'b':
			of.key = base64Decode(of.key)
			of.itFlags = itemKeyBinary // so that replies show the key as the client gave it
			ok, what = of.key != nil, "CLIENT_ERROR error decoding key"
		case 'N':
			of.autovivExptime, ok = metaExptime(arg)
		case 'T':
			of.exptime, ok = metaExptime(arg)
		case 'R':
			of.recacheTime, ok = metaExptime(arg)
		case 'P', 'L', 'k', 's', 't', 'c', 'f', 'l', 'h', 'u', 'q', 'x', 'I':
			// Valid, but there is nothing to do yet.
		case 'O':
			ok, what = len(tok) <= mflagMaxOpaqueLength, cmp.Or(errstr, errOpaqueTooLong)
		case 'v':
			of.value = true
		case 'F':
			of.clientFlags, ok = toktou32(arg)
			what = cmp.Or(errstr, errBadFormat)
		case 'C':
			of.reqCasId, ok = toktou64(arg)
		case 'E':
			of.casIdIn, ok = toktou64(arg)
		case 'M':
			// Only the byte after M counts, which may be a space or the
			// line's end.
			of.mode = pr.request[pr.tokens[i].start+1]
		case 'J':
			of.initial, ok = toktou64(arg)
			what = "CLIENT_ERROR invalid numeric initial value"
		case 'D':
			of.delta, ok = toktou64(arg)
			what = "CLIENT_ERROR invalid numeric delta value"
		default:
			return "CLIENT_ERROR invalid flag"
		}
		if !ok {
			errstr = what
		}
	}
	return errstr
}

// metaExptime reads an expiry time, the argument of a flag.
func metaExptime(arg []byte) (relTime, bool) {
	exptime, ok := tokto64(arg)
	return realtime(exptime), ok
}

// Each of the following appends a part of a reply to b.

// metaCode appends the code of a hit, and the size of the value if that follows.
func metaCode(b []byte, of *metaFlags, size int) []byte {
	if !of.value {
		return append(b, "HD"...)
	}
	return strconv.AppendUint(append(b, "VA "...), uint64(size), 10)
}

func metaKey(b, key []byte, binary bool) []byte {
	b = append(b, " k"...)
	if !binary {
		return append(b, key...)
	}
	return append(base64.StdEncoding.AppendEncode(b, key), " b"...)
}

func metaOpaque(b, tok []byte) []byte { return append(append(b, ' '), tok...) }

func metaUint(b []byte, flag byte, n uint64) []byte {
	return strconv.AppendUint(append(b, ' ', flag), n, 10)
}

// metaTtl appends the seconds left, not a date, since clocks may differ.
func metaTtl(b []byte, it *item) []byte {
	if it.exptime == 0 {
		return append(b, " t-1"...)
	}
	return metaUint(b, 't', uint64(it.exptime-currentTime.Load()))
}

// metaNoItem appends the opaque and the key, all that can be returned without
// an item.
func metaNoItem(b []byte, pr *parser, of *metaFlags) []byte {
	for i := keyToken + 1; i < pr.ntokens; i++ {
		switch tok := pr.token(i); tok[0] {
		case 'O':
			b = metaOpaque(b, tok)
		case 'k':
			b = metaKey(b, of.key, of.has('b'))
		}
	}
	return b
}

// metaFinish makes b and a \r\n the reply. With quiet there is no reply.
func metaFinish(c *conn, b []byte, quiet bool) {
	if !quiet {
		c.resp.wbuf = append(b, "\r\n"...)
	}
	connSetState(c, connNewCmd)
}

// processMgetCmd serves mg. The item stays locked until its value is in the reply;
// C locks it for some flags only.
func processMgetCmd(c *conn, pr *parser) {
	var of metaFlags
	if errstr := metaFlagPreparse(pr, 2, &of); errstr != "" {
		outErrstring(c, errstr)
		return
	}
	t := c.thread
	n := &t.stats.pending.n
	it, hv, overflow := limitedGetLocked(of.key, t, dontUpdate)
	if overflow {
		// Not treated as a miss, which might vivify.
		outErrstring(c, "SERVER_ERROR refcount overflow during fetch")
		return
	}
	itemCreated := false
	if it == nil && of.has('N') {
		it = doItemAlloc(of.key, hv, 0, 0, 2) // mgetReply sets its expiry time
		if it != nil {
			copy(it.data(), "\r\n")
			it.itFlags |= of.itFlags
			doItemLink(it, hv, of.casIn())
			itemCreated = true
		}
	}
	if it == nil {
		itemUnlock(hv)
		n[statGetCmds]++
		n[statGetMisses]++
		metaFinish(c, metaNoItem(append(c.resp.wbuf, "EN"...), pr, &of), of.has('q'))
		return
	}
	if of.has('C') && it.cas() == of.reqCasId {
		of.value = false // the client has it
	}
	head := len(c.resp.wbuf)
	c.resp.wbuf = mgetReply(c.resp.wbuf, pr, &of, it, itemCreated)
	if !of.has('u') {
		doItemBump(it) // not earlier: h and l report the state before
	}
	if of.has('T') {
		n[statTouchCmds]++
		t.stats.slab(it, slabTouchHits)
	} else {
		n[statGetCmds]++
		t.stats.lruHit(it)
	}
	if of.value {
		var miss []byte
		if it.itFlags&itemHdr != 0 && !of.has('q') {
			miss = metaNoItem(append(make([]byte, 0, 64), "EN"...), pr, &of)
			miss = append(miss, "\r\n"...)
		}
		if !respAddValue(c, it, hv, int(it.nbytes), head, miss) {
			c.resp.wbuf = append(c.resp.wbuf, miss...)
		}
	} else {
		doItemRemove(it)
	}
	itemUnlock(hv)
	connSetState(c, connNewCmd)
}

// mgetReply appends the reply line of mg for an item, and makes the changes to
// the item that the flags ask for, in their order.
func mgetReply(b []byte, pr *parser, of *metaFlags, it *item, itemCreated bool) []byte {
	wonToken := false
	b = metaCode(b, of, int(it.nbytes-2))
	for i := keyToken + 1; i < pr.ntokens; i++ {
		switch tok := pr.token(i); tok[0] {
		case 'T':
			it.exptime = of.exptime
			if of.has('E') { // in C mg obeys E only with N
				it.setCas(of.casIdIn)
			}
		case 'N':
			if itemCreated {
				it.exptime = of.autovivExptime
				wonToken = true
			}
		case 'R':
			// Less time is left than R asks for.
			if it.itFlags&itemTokenSent == 0 && !itemCreated &&
				it.exptime != 0 && it.exptime < of.recacheTime {
				wonToken = true
			}
		case 's':
			b = metaUint(b, 's', uint64(it.nbytes-2))
		case 't':
			b = metaTtl(b, it)
		case 'c':
			b = metaUint(b, 'c', it.cas())
		case 'f':
			b = metaUint(b, 'f', uint64(it.clientFlags()))
		case 'l':
			b = metaUint(b, 'l', uint64(itemAge(it)))
		case 'h':
			b = metaUint(b, 'h', uint64(btoi(it.itFlags&itemFetched != 0)))
		case 'O':
			b = metaOpaque(b, tok)
		case 'k':
			b = metaKey(b, it.key(), it.itFlags&itemKeyBinary != 0)
		}
	}
	// Check for Z first, so that no client is told both W and Z.
	if it.itFlags&itemTokenSent != 0 {
		b = append(b, " Z"...)
	}
	if it.itFlags&itemStale != 0 {
		b = append(b, " X"...)
		if it.itFlags&itemTokenSent == 0 {
			wonToken = true
		}
	}
	if wonToken {
		b = append(b, " W"...)
		it.itFlags |= itemTokenSent
	}
	return append(b, "\r\n"...)
}

// processMsetCmdStart returns an item to read the value into and how to store it, or
// nil if the value is stored already. It returns false after answering with an error.
func processMsetCmdStart(c *conn, pr *parser) (it *item, comm int, ok bool) {
	t := c.thread
	var of metaFlags
	if errstr := metaFlagPreparse(pr, 3, &of); errstr != "" {
		outErrstring(c, errstr)
		return nil, 0, false
	}
	exptime := of.exptime
	comm = nreadSet
	switch of.mode {
	case 0, 'S':
	case 'E':
		comm = nreadAdd
	case 'A':
		comm = nreadAppend
		if of.has('N') {
			comm = nreadAppendviv
			exptime = of.autovivExptime
		}
	case 'P':
		comm = nreadPrepend
		if of.has('N') {
			comm = nreadPrependviv
			exptime = of.autovivExptime
		}
	case 'R':
		comm = nreadReplace
	default:
		outErrstring(c, "CLIENT_ERROR invalid mode for ms M token")
		return nil, 0, false
	}
	// A set or replace with a unique is a cas. Append and prepend check the
	// unique themselves.
	if of.has('C') && (comm == nreadSet || comm == nreadReplace) {
		comm = nreadCas
	}
	c.val.meta = metaReply{mset: true, setStale: of.has('I') && comm == nreadCas}
	msetNote(&c.val.meta, pr)
	if !of.has('C') {
		it, hv := connStoreInPlace(c, comm, of.key, of.clientFlags, exptime, pr.vlen, of.itFlags, of.casIdIn)
		if it != nil {
			c.noreply = of.has('q')
			finalizeMset(c, of.key, of.has('b'), int(it.nbytes), stored, it.cas())
			itemUnlock(hv)
			return nil, comm, true
		}
	}
	it = itemAlloc(of.key, of.clientFlags, exptime, pr.vlen)
	if it == nil {
		outRefused(c, comm, of.key, of.clientFlags, pr.vlen)
		itemForget(of.key, t)
		return nil, 0, false
	}
	it.setCas(of.reqCasId)
	it.itFlags |= of.itFlags
	t.stats.slab(it, slabSetCmds)
	c.noreply = of.has('q')
	c.cas = of.casIdIn // 0 without E: then a new one when the value is stored
	return it, comm, true
}

// processMdeleteCmd serves md.
func processMdeleteCmd(c *conn, pr *parser) {
	var of metaFlags
	if errstr := metaFlagPreparse(pr, 2, &of); errstr != "" {
		outErrstring(c, errstr)
		return
	}
	t := c.thread
	n := &t.stats.pending.n
	b := metaNoItem(append(c.resp.wbuf, "HD"...), pr, &of)
	code := b[len(c.resp.wbuf):]
	quiet := false
	it, hv := itemGetLocked(of.key, t, dontUpdate)
	switch {
	case it == nil:
		n[statDeleteMisses]++
		copy(code, "NF")
	case of.has('C') && it.cas() != of.reqCasId:
		n[statDeleteMisses]++
		copy(code, "EX")
	default:
		quiet = of.has('q')
		if of.has('x') {
			newIt := mdeleteValue(it, hv, t, &of)
			doItemRemove(it)
			if newIt == nil {
				itemUnlock(hv)
				outErrstring(c, errNoMemory)
				return
			}
			it = newIt
		}
		if of.has('I') {
			if of.has('T') {
				it.exptime = of.exptime
			}
			it.itFlags |= itemStale
			it.itFlags &^= itemTokenSent // so that the next client can win
			it.setCas(of.casIn())
		} else {
			t.stats.slab(it, slabDeleteHits)
			if loggerEflags.Load()&logDeletions != 0 {
				loggerLogItemDeleted(t, it, logTypeMetaDelete)
			}
			if !of.has('x') {
				doItemUnlink(it, hv)
			}
		}
	}
	if it != nil {
		doItemRemove(it)
	}
	itemUnlock(hv)
	metaFinish(c, b, quiet)
}

// mdeleteValue replaces an item with an empty one, and returns that with a
// reference, or nil if there is no memory.
func mdeleteValue(it *item, hv uint32, t *thread, of *metaFlags) *item {
	newIt := doItemAlloc(of.key, hv, of.clientFlags, of.exptime, 2)
	if newIt == nil {
		return nil
	}
	copy(newIt.data(), "\r\n")
	newIt.itFlags |= it.itFlags & itemKeyBinary
	cas := it.cas()
	if of.has('E') {
		cas = of.casIdIn
	}
	doStoreItem(newIt, nreadSet, t, hv, nil, nil, cas, false)
	return newIt
}

// processMarithmeticCmd serves ma.
func processMarithmeticCmd(c *conn, pr *parser) {
	of := metaFlags{delta: 1}
	if errstr := metaFlagPreparse(pr, 2, &of); errstr != "" {
		if errstr != errOpaqueTooLong {
			errstr = "CLIENT_ERROR invalid or duplicate flag"
		}
		outErrstring(c, errstr)
		return
	}
	incr := true
	switch of.mode {
	case 0, 'I', '+':
	case 'D', '-':
		incr = false
	default:
		outErrstring(c, "CLIENT_ERROR invalid mode for ma M token")
		return
	}
	hv := hash(of.key)
	itemLock(hv)
	var r marithmeticResult
	marithmeticItem(&r, c.thread, &of, hv, incr)
	switch {
	case r.errstr != "":
		outErrstring(c, r.errstr)
	case r.it != nil:
		metaFinish(c, marithmeticReply(c.resp.wbuf, pr, &of, &r), of.has('q'))
		doItemRemove(r.it)
	default:
		metaFinish(c, metaNoItem(append(c.resp.wbuf, r.code...), pr, &of), false)
	}
	itemUnlock(hv)
}

// marithmeticItem increments, decrements or creates the item for ma. The item
// lock is held.
func marithmeticItem(r *marithmeticResult, t *thread, of *metaFlags, hv uint32, incr bool) {
	cas := of.reqCasId
	var ret deltaResultType
	r.n, ret = doAddDelta(t, of.key, incr, of.delta, r.num[:], &cas, hv, &r.it)
	switch ret {
	case deltaOk:
		if of.has('E') {
			r.it.setCas(of.casIdIn)
		}
	case nonNumeric:
		r.errstr = errNonNumeric
	case eom:
		r.errstr = errNoMemory
	case deltaItemNotFound:
		if !of.has('N') {
			t.stats.deltaMiss(incr)
			r.code = "NF"
			break
		}
		num := strconv.AppendUint(r.num[:0], of.initial, 10)
		r.n = len(num)
		r.it = doItemAlloc(of.key, hv, 0, 0, len(num)+2) // marithmeticReply sets its expiry time
		if r.it == nil {
			r.errstr = errNoMemoryNewItem
			break
		}
		copy(r.it.data(), num)
		copy(r.it.data()[len(num):], "\r\n")
		r.it.itFlags |= of.itFlags
		doStoreItem(r.it, nreadAdd, t, hv, nil, nil, of.casIn(), false)
		r.created = true
	case deltaItemCasMismatch:
		r.code = "EX"
	}
}

// marithmeticReply appends the reply to ma for an item, without the last \r\n.
func marithmeticReply(b []byte, pr *parser, of *metaFlags, r *marithmeticResult) []byte {
	b = metaCode(b, of, r.n)
	for i := keyToken + 1; i < pr.ntokens; i++ {
		switch tok := pr.token(i); tok[0] {
		case 'c':
			b = metaUint(b, 'c', r.it.cas())
		case 't':
			b = metaTtl(b, r.it)
		case 'T':
			r.it.exptime = of.exptime
		case 'N':
			if r.created {
				r.it.exptime = of.autovivExptime
			}
		case 'O':
			b = metaOpaque(b, tok)
		case 'k':
			b = metaKey(b, of.key, of.has('b'))
		}
	}
	if of.value {
		b = append(append(b, "\r\n"...), r.num[:r.n]...)
	}
	return b
}

// finalizeMset answers ms, with ret from storing its value.
func finalizeMset(c *conn, key []byte, keyBinary bool, nbytes int, ret storeItemType, cas uint64) {
	code := [...]string{stored: "HD", exists: "EX", notFound: "NF", notStored: "NS", noMemory: ""}[ret]
	if code == "" {
		outErrstring(c, errUnhandledStore)
		return
	}
	b := append(c.resp.wbuf, code...)
	if ret != stored {
		cas = 0
	}
	m := &c.val.meta
	for _, f := range m.flags[:m.nflags] {
		switch f {
		case 'O':
			b = metaOpaque(b, m.opaque[:m.nopaque])
		case 'k':
			b = metaKey(b, key, keyBinary)
		case 'c':
			b = metaUint(b, 'c', cas)
		case 's':
			b = metaUint(b, 's', uint64(nbytes-2))
		}
	}
	metaFinish(c, b, ret == stored && c.noreply)
}

// processMetaCommand serves me, which describes an item.
func processMetaCommand(c *conn, pr *parser) {
	key := pr.key()
	if len(key) > keyMaxLength {
		outString(c, errBadFormat)
		return
	}
	// As in C, b counts only if another word follows it.
	if pr.ntokens >= 4 && string(pr.token(2)) == "b" {
		if key = base64Decode(key); key == nil {
			outString(c, errBadFormat)
			return
		}
	}
	it, hv, overflow := limitedGetLocked(key, c.thread, dontUpdate)
	if it != nil {
		b := append(c.resp.wbuf, "ME "...)
		if it.itFlags&itemKeyBinary != 0 {
			b = base64.StdEncoding.AppendEncode(b, it.key())
		} else {
			b = append(b, it.key()...)
		}
		exp := int64(-1)
		if it.exptime != 0 {
			exp = int64(it.exptime) - int64(currentTime.Load())
		}
		c.resp.wbuf = fmt.Appendf(b, " exp=%d la=%d cas=%d fetch=%s cls=%d size=%d\r\n",
			exp, itemAge(it), it.cas(), yesno(it.itFlags&itemFetched != 0), it.clsid(), it.ntotal())
		doItemRemove(it)
		connSetState(c, connNewCmd)
	} else {
		outString(c, "EN")
	}
	if !overflow {
		itemUnlock(hv)
	}
	c.thread.stats.pending.n[statMetaCmds]++
}

// processMsetCommand begins to read the value of ms.
func processMsetCommand(c *conn, pr *parser) {
	it, comm, ok := processMsetCmdStart(c, pr)
	switch {
	case !ok:
		connSwallowValue(c, pr.vlen)
	case it != nil:
		connReadValue(c, it, comm)
	}
}

// msetNote stores in m the flags to return.
func msetNote(m *metaReply, pr *parser) {
	for i := 3; i < pr.ntokens; i++ {
		tok := pr.token(i)
		if strings.IndexByte(msetFlags, tok[0]) < 0 {
			continue
		}
		if tok[0] == 'O' {
			m.nopaque = uint8(copy(m.opaque[:], tok))
		}
		m.flags[m.nflags] = tok[0]
		m.nflags++
	}
}

// base64Decode decodes b in place, or returns nil. It is as lenient as C: bytes
// that are no base64 digits are skipped, and after the first four digits with
// padding among them nothing is decoded.
func base64Decode(b []byte) []byte {
	n, count, pad := 0, 0, 0
	ended := false
	var block uint32
	for _, ch := range b {
		v := base64Value[ch]
		if v == notBase64 {
			continue
		}
		count++
		if ended {
			continue
		}
		block = block<<6 | uint32(v)
		if ch == '=' {
			pad++
		}
		if count%4 == 0 {
			b[n], b[n+1], b[n+2] = byte(block>>16), byte(block>>8), byte(block)
			n += 3 - pad
			ended = pad > 0
		}
	}
	if count == 0 || count%4 != 0 || pad > 2 {
		return nil
	}
	return b[:n]
}

// The binary protocol. From protocol_binary.h and proto_bin.c; its SASL
// commands are in auth.go.

package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"strconv"
)

// The first byte of a packet.
const (
	protocolBinaryReq = 0x80
	protocolBinaryRes = 0x81
)

type protocolBinaryResponseStatus uint16

const (
	protocolBinaryResponseSuccess        protocolBinaryResponseStatus = 0x00
	protocolBinaryResponseKeyEnoent      protocolBinaryResponseStatus = 0x01
	protocolBinaryResponseKeyEexists     protocolBinaryResponseStatus = 0x02
	protocolBinaryResponseE2big          protocolBinaryResponseStatus = 0x03
	protocolBinaryResponseEinval         protocolBinaryResponseStatus = 0x04
	protocolBinaryResponseNotStored      protocolBinaryResponseStatus = 0x05
	protocolBinaryResponseDeltaBadval    protocolBinaryResponseStatus = 0x06
	protocolBinaryResponseAuthError      protocolBinaryResponseStatus = 0x20
	protocolBinaryResponseAuthContinue   protocolBinaryResponseStatus = 0x21
	protocolBinaryResponseUnknownCommand protocolBinaryResponseStatus = 0x81
	protocolBinaryResponseEnomem         protocolBinaryResponseStatus = 0x82
)

const (
	protocolBinaryCmdGet           = 0x00
	protocolBinaryCmdSet           = 0x01
	protocolBinaryCmdAdd           = 0x02
	protocolBinaryCmdReplace       = 0x03
	protocolBinaryCmdDelete        = 0x04
	protocolBinaryCmdIncrement     = 0x05
	protocolBinaryCmdDecrement     = 0x06
	protocolBinaryCmdQuit          = 0x07
	protocolBinaryCmdFlush         = 0x08
	protocolBinaryCmdNoop          = 0x0a
	protocolBinaryCmdVersion       = 0x0b
	protocolBinaryCmdGetk          = 0x0c
	protocolBinaryCmdAppend        = 0x0e
	protocolBinaryCmdPrepend       = 0x0f
	protocolBinaryCmdStat          = 0x10
	protocolBinaryCmdVerbosity     = 0x1b // in the specification, but not in C
	protocolBinaryCmdTouch         = 0x1c
	protocolBinaryCmdGat           = 0x1d
	protocolBinaryCmdSaslListMechs = 0x20
	protocolBinaryCmdSaslAuth      = 0x21
	protocolBinaryCmdSaslStep      = 0x22
	protocolBinaryCmdGatk          = 0x23
)

// What follows the header of a request and its extras.
type binBody uint8

const (
	binNothing binBody = 1 + iota
	binKey
	binMayKey
	binKeyValue // the value may be empty
)

// A binCommand says what an opcode stands for. Unknown opcodes have body 0.
type binCommand struct {
	cmd    uint8 // the form that is not quiet
	quiet  bool
	extlen int // bytes of extras
	body   binBody
}

var binCommands = func() (all [256]binCommand) {
	for _, row := range [...]struct {
		cmd, quiet uint8 // quiet is 0 for commands without such a form
		extlen     int
		body       binBody
	}{
		{protocolBinaryCmdGet, 0x09, 0, binKey},
		{protocolBinaryCmdSet, 0x11, 8, binKeyValue},
		{protocolBinaryCmdAdd, 0x12, 8, binKeyValue},
		{protocolBinaryCmdReplace, 0x13, 8, binKeyValue},
		{protocolBinaryCmdDelete, 0x14, 0, binKey},
		{protocolBinaryCmdIncrement, 0x15, 20, binKey},
		{protocolBinaryCmdDecrement, 0x16, 20, binKey},
		{protocolBinaryCmdQuit, 0x17, 0, binNothing},
		{protocolBinaryCmdFlush, 0x18, 4, binNothing}, // or no extras
		{protocolBinaryCmdNoop, 0, 0, binNothing},
		{protocolBinaryCmdVersion, 0, 0, binNothing},
		{protocolBinaryCmdGetk, 0x0d, 0, binKey},
		{protocolBinaryCmdAppend, 0x19, 0, binKeyValue},
		{protocolBinaryCmdPrepend, 0x1a, 0, binKeyValue},
		{protocolBinaryCmdStat, 0, 0, binMayKey},
		{protocolBinaryCmdVerbosity, 0, 4, binNothing},
		{protocolBinaryCmdTouch, 0, 4, binKey},
		{protocolBinaryCmdGat, 0x1e, 4, binKey},
		{protocolBinaryCmdSaslListMechs, 0, 0, binNothing},
		{protocolBinaryCmdSaslAuth, 0, 0, binKeyValue},
		{protocolBinaryCmdSaslStep, 0, 0, binKeyValue},
		{protocolBinaryCmdGatk, 0x24, 4, binKey},
	} {
		all[row.cmd] = binCommand{row.cmd, false, row.extlen, row.body}
		if row.quiet != 0 {
			all[row.quiet] = binCommand{row.cmd, true, row.extlen, row.body}
		}
	}
	return all
}()

const (
	binHeaderSize         = 24      // bytes
	itemSizeMaxUpperLimit = 1 << 30 // bytes of a body
	binIncrDontCreate     = 0xffffffff
)

// The header of the request being served.
type protocolBinaryRequestHeader struct {
	opcode  uint8
	extlen  uint8
	keylen  uint16
	bodylen uint32 // extras, key and value
	opaque  uint32
	cas     uint64
}

// completeNreadBinary stores the item, whose value has been read, and
// replies.
func completeNreadBinary(c *conn) {
	it := c.val.item
	ended := binValueEnd(c)
	c.val.item = nil
	if c.resp == nil && !respStart(c) { // nil if earlier replies were sent meanwhile
		itemRemove(it)
		return
	}
	t := c.thread
	t.stats.slab(it, slabSetCmds)
	if !ended {
		outOfMemory(c, errNoMemoryRead)
		itemRemove(it)
		return
	}
	hv := hash(it.key())
	itemLock(hv)
	switch ret := doStoreItem(it, c.cmd, t, hv, nil, &c.cas, getCasId(), false); {
	case ret == stored:
		writeBinResponse(c, "")
	case ret == exists, ret == notStored && c.cmd == nreadAdd:
		writeBinError(c, protocolBinaryResponseKeyEexists, "", 0)
	case ret == notFound, ret == notStored && c.cmd == nreadReplace:
		writeBinError(c, protocolBinaryResponseKeyEnoent, "", 0)
	default:
		writeBinError(c, protocolBinaryResponseNotStored, "", 0)
	}
	doItemRemove(it)
	itemUnlock(hv)
}

// binValueEnd appends the \r\n that the binary protocol does not send with a
// value. It returns false if that takes another chunk and there is no memory.
func binValueEnd(c *conn) bool {
	c.val.rlbytes, c.val.rtail = c.val.rtail, 0
	for c.val.rlbytes > 0 {
		room, ok := nreadRoom(c)
		if !ok {
			return false
		}
		nreadAdvance(c, copy(room, "\r\n"[2-c.val.rlbytes:]))
	}
	return true
}

// tryReadCommandBinary serves one packet, except for its value. It returns
// false if header, extras and key are not all in the buffer yet.
func tryReadCommandBinary(c *conn) bool {
	if c.in.rbytes < binHeaderSize {
		return false
	}
	in := c.in.rbuf[c.in.rcurr : c.in.rcurr+c.in.rbytes]
	if settings.verbose.Load() > 1 {
		printBinHeader(c, '<', "Read binary protocol data:", in)
	}
	if in[0] != protocolBinaryReq {
		if settings.verbose.Load() > 0 {
			fmt.Fprintf(os.Stderr, "Invalid magic:  %x\n", in[0])
		}
		closeAfterReplies(c)
		return true
	}
	h := &c.bin.header
	*h = protocolBinaryRequestHeader{
		opcode:  in[1],
		keylen:  binary.BigEndian.Uint16(in[2:]),
		extlen:  in[4],
		bodylen: binary.BigEndian.Uint32(in[8:]),
		opaque:  binary.BigEndian.Uint32(in[12:]),
		cas:     binary.BigEndian.Uint64(in[16:]),
	}
	size := binHeaderSize + int(h.extlen) + int(h.keylen)
	need := size
	if h.opcode == protocolBinaryCmdSaslAuth || h.opcode == protocolBinaryCmdSaslStep {
		// Wait for the value as well, if the buffer can hold it; see
		// processBinSaslAuth.
		if n := binHeaderSize + int(h.bodylen); n <= len(c.in.rbuf) {
			need = max(size, n)
		}
	}
	// Extras and key that the buffer cannot hold are not waited for:
	// dispatchBinCommand refuses them.
	if c.in.rbytes < min(need, len(c.in.rbuf)) {
		return false
	}
	if c.in.rbytes > need && c.in.rcurr >= c.in.lookedAhead {
		lookAhead(c)
	}
	if !respStart(c) {
		return true
	}
	c.cas = 0
	c.lastCmdTime = currentTime.Load()
	size = min(size, len(in))
	c.in.rcurr += size
	c.in.rbytes -= size
	dispatchBinCommand(c, in[binHeaderSize:][:h.extlen])
	return true
}

// printBinHeader prints a header, four bytes per line.
func printBinHeader(c *conn, dir byte, what string, hdr []byte) {
	out := fmt.Appendf(nil, "%c%d %s", dir, c.sfd, what)
	indent := "   "
	if dir == '>' {
		indent = "  "
	}
	for i := 0; i < binHeaderSize; i += 4 {
		out = fmt.Appendf(out, "\n%c%d%s % #x", dir, c.sfd, indent, hdr[i:i+4])
	}
	os.Stderr.Write(append(out, '\n'))
}

// binaryGetKey returns the request's key, a part of the read buffer.
func binaryGetKey(c *conn) []byte {
	return c.in.rbuf[c.in.rcurr-int(c.bin.header.keylen) : c.in.rcurr]
}

// addBinHeader begins a reply, dropping what the command has replied so far.
// The caller appends the body of bodyLen bytes: hdrLen bytes of extras, the
// key, and the value.
func addBinHeader(c *conn, err protocolBinaryResponseStatus, hdrLen, keyLen, bodyLen int) {
	respReset(c)
	start := len(c.resp.wbuf)
	c.resp.wbuf = appendBinHeader(c.resp.wbuf, c.bin.header.opcode, err, hdrLen, keyLen, bodyLen, c.bin.header.opaque, c.cas)
	if settings.verbose.Load() > 1 {
		printBinHeader(c, '>', "Writing bin response:", c.resp.wbuf[start:])
	}
}

func appendBinHeader(b []byte, opcode uint8, err protocolBinaryResponseStatus, hdrLen, keyLen, bodyLen int, opaque uint32, cas uint64) []byte {
	b = append(b, protocolBinaryRes, opcode)
	b = binary.BigEndian.AppendUint16(b, uint16(keyLen))
	b = append(b, uint8(hdrLen), 0)
	b = binary.BigEndian.AppendUint16(b, uint16(err))
	b = binary.BigEndian.AppendUint32(b, uint32(bodyLen))
	b = binary.BigEndian.AppendUint32(b, opaque)
	return binary.BigEndian.AppendUint64(b, cas)
}

// The usual texts of errors.
var binErrorTexts = [...]string{
	protocolBinaryResponseEnomem:         "Out of memory",
	protocolBinaryResponseUnknownCommand: "Unknown command",
	protocolBinaryResponseKeyEnoent:      "Not found",
	protocolBinaryResponseEinval:         "Invalid arguments",
	protocolBinaryResponseKeyEexists:     "Data exists for key.",
	protocolBinaryResponseE2big:          "Too large.",
	protocolBinaryResponseDeltaBadval:    "Non-numeric server-side value for incr or decr",
	protocolBinaryResponseNotStored:      "Not stored.",
	protocolBinaryResponseAuthError:      "Auth failure.",
}

// writeBinError replies with an error, even to a quiet command, and makes c
// discard the next swallow bytes of input. An errstr of "" stands for the
// usual text.
func writeBinError(c *conn, err protocolBinaryResponseStatus, errstr string, swallow int) {
	if errstr == "" {
		errstr = binErrorTexts[err]
	}
	if settings.verbose.Load() > 1 {
		fmt.Fprintf(os.Stderr, ">%d Writing an error: %s\n", c.sfd, errstr)
	}
	addBinHeader(c, err, 0, 0, len(errstr))
	c.resp.wbuf = append(c.resp.wbuf, errstr...)
	if swallow > 0 {
		connSwallowValue(c, swallow)
	} else {
		connSetState(c, connMwrite)
	}
}

// binErrorClose replies with an error and hangs up: the next packet cannot be
// found, or must not be served.
func binErrorClose(c *conn, err protocolBinaryResponseStatus) {
	writeBinError(c, err, "", 0)
	c.closeAfterWrite = true
}

// handleBinaryProtocolError refuses a packet that has the wrong parts, or
// parts of the wrong length.
func handleBinaryProtocolError(c *conn) {
	binErrorClose(c, protocolBinaryResponseEinval)
	if settings.verbose.Load() > 0 {
		fmt.Fprintf(os.Stderr, "Protocol error (opcode %02x), close connection %d\n", c.bin.header.opcode, c.sfd)
	}
}

// writeBinResponse replies with success and the value d, which may be empty.
func writeBinResponse[T string | []byte](c *conn, d T) {
	if !c.noreply {
		addBinHeader(c, protocolBinaryResponseSuccess, 0, 0, len(d))
		c.resp.wbuf = append(c.resp.wbuf, d...)
	}
	connSetState(c, connNewCmd)
}

// completeIncrBin serves increment and decrement.
func completeIncrBin(c *conn, ext []byte) {
	key := binaryGetKey(c)
	delta := binary.BigEndian.Uint64(ext)
	initial := binary.BigEndian.Uint64(ext[8:])
	expiration := binary.BigEndian.Uint32(ext[16:])
	if settings.verbose.Load() > 1 {
		fmt.Fprintf(os.Stderr, "incr %s %d, %d, %d\n", key, int64(delta), initial, int32(expiration))
	}
	incr := c.cmd == protocolBinaryCmdIncrement
	cas := c.bin.header.cas
	var buf [incrMaxStorageLen]byte
	n, ret := addDelta(c.thread, key, incr, delta, buf[:], &cas)
	switch ret {
	case deltaOk:
		value, _ := toktou64(buf[:n])
		c.cas = cas
		writeBinNumber(c, value)
	case nonNumeric:
		writeBinError(c, protocolBinaryResponseDeltaBadval, "", 0)
	case eom:
		outOfMemory(c, "SERVER_ERROR Out of memory incrementing value")
	case deltaItemCasMismatch:
		writeBinError(c, protocolBinaryResponseKeyEexists, "", 0)
	case deltaItemNotFound:
		if expiration != binIncrDontCreate {
			incrBinCreate(c, key, initial, expiration)
			return
		}
		c.thread.stats.deltaMiss(incr)
		writeBinError(c, protocolBinaryResponseKeyEnoent, "", 0)
	}
}

func writeBinNumber(c *conn, n uint64) {
	var body [8]byte
	binary.BigEndian.PutUint64(body[:], n)
	writeBinResponse(c, body[:])
}

// incrBinCreate adds the missing item with the initial value.
func incrBinCreate(c *conn, key []byte, initial uint64, expiration uint32) {
	var buf [incrMaxStorageLen]byte
	num := strconv.AppendUint(buf[:0], initial, 10)
	it := itemAlloc(key, 0, realtime(int64(expiration)), len(num)+2)
	if it == nil {
		outOfMemory(c, errNoMemoryNewItem)
		return
	}
	copy(it.data(), num)
	copy(it.data()[len(num):], "\r\n")
	if storeItem(it, nreadAdd, c.thread, nil, &c.cas, getCasId(), false) == stored {
		writeBinNumber(c, initial)
	} else { // another worker added one first
		writeBinError(c, protocolBinaryResponseNotStored, "", 0)
	}
	itemRemove(it)
}

// writeBinMissResponse replies that there is no such item, with the key
// unless it is nil.
func writeBinMissResponse(c *conn, key []byte) {
	if key == nil {
		writeBinError(c, protocolBinaryResponseKeyEnoent, "", 0)
		return
	}
	addBinHeader(c, protocolBinaryResponseKeyEnoent, 0, len(key), len(key))
	c.resp.wbuf = append(c.resp.wbuf, key...)
	connSetState(c, connNewCmd)
}

// processBinGetOrTouch serves get, getk, touch, gat and gatk.
func processBinGetOrTouch(c *conn, ext []byte) {
	key := binaryGetKey(c)
	shouldTouch := len(ext) > 0
	var keyBack []byte
	if c.cmd == protocolBinaryCmdGetk || c.cmd == protocolBinaryCmdGatk {
		keyBack = key
	}
	if settings.verbose.Load() > 1 {
		name := "GET"
		if shouldTouch {
			name = "TOUCH"
		}
		fmt.Fprintf(os.Stderr, "<%d %s %s\n", c.sfd, name, key)
	}
	var exptime relTime
	if shouldTouch {
		exptime = realtime(int64(binary.BigEndian.Uint32(ext)))
	}
	it, hv := limitedGet(key, c.thread, exptime, shouldTouch)
	found := it != nil && writeBinItem(c, it, hv, keyBack)
	itemUnlock(hv)
	if settings.detailEnabled.Load() {
		statsPrefixRecordGet(key, it != nil)
	}
	if found || c.noreply {
		connSetState(c, connNewCmd)
	} else {
		writeBinMissResponse(c, keyBack)
	}
}

// writeBinItem replies with a locked item, and takes over the caller's
// reference. It returns false, with nothing in the reply, if there is no memory
// to read the value into.
func writeBinItem(c *conn, it *item, hv uint32, key []byte) bool {
	const hdrLen = 4 // the flags
	n := 0
	if c.cmd != protocolBinaryCmdTouch {
		n = int(it.nbytes) - 2
	}
	c.cas = it.cas()
	head := len(c.resp.wbuf)
	addBinHeader(c, protocolBinaryResponseSuccess, hdrLen, len(key), hdrLen+len(key)+n)
	b := binary.BigEndian.AppendUint32(c.resp.wbuf, it.clientFlags())
	c.resp.wbuf = append(b, key...)
	if n > 0 {
		var miss []byte
		if it.itFlags&itemHdr != 0 && !c.noreply {
			miss = binMiss(c, key)
		}
		return respAddValue(c, it, hv, n, head, miss)
	}
	doItemRemove(it)
	return true
}

// binMiss returns the reply to a get of a value that is gone.
func binMiss(c *conn, key []byte) []byte {
	text := binErrorTexts[protocolBinaryResponseKeyEnoent]
	if key != nil {
		text = string(key)
	}
	b := appendBinHeader(nil, c.bin.header.opcode, protocolBinaryResponseKeyEnoent,
		0, len(key), len(text), c.bin.header.opaque, 0)
	return append(b, text...)
}

// processBinStat serves stat. The key says which statistics.
func processBinStat(c *conn) {
	key := binaryGetKey(c)
	if settings.verbose.Load() > 1 {
		fmt.Fprintf(os.Stderr, "<%d STATS %s\n", c.sfd, key)
	}
	statsFold(c.thread)
	switch {
	case len(key) == 0:
		serverStats(c)
		getStats(c, "")
	case bytes.HasPrefix(key, []byte("reset")):
		statsReset()
	case bytes.HasPrefix(key, []byte("settings")):
		processStatSettings(c)
	case bytes.HasPrefix(key, []byte("detail")):
		if !processBinDetail(c, key[len("detail"):]) {
			writeBinError(c, protocolBinaryResponseKeyEnoent, "", 0)
			return
		}
	case getStats(c, string(key)):
	default:
		writeBinError(c, protocolBinaryResponseKeyEnoent, "", 0)
		return
	}
	appendStatsEnd(c)
	connSetState(c, connNewCmd)
}

// processBinDetail serves "detail dump", "detail on" and "detail off". It
// returns false if sub is none of these, or if they are not allowed.
func processBinDetail(c *conn, sub []byte) bool {
	switch {
	case !settings.dumpEnabled:
		return false
	case bytes.HasPrefix(sub, []byte(" dump")):
		appendStat(c, "detailed", "%s", statsPrefixDump(nil))
	case bytes.HasPrefix(sub, []byte(" on")):
		settings.detailEnabled.Store(true)
	case bytes.HasPrefix(sub, []byte(" off")):
		settings.detailEnabled.Store(false)
	default:
		return false
	}
	return true
}

// dispatchBinCommand checks a packet's header and serves its command.
func dispatchBinCommand(c *conn, ext []byte) {
	h := &c.bin.header
	b := &binCommands[h.opcode]
	extlen, keylen := int(h.extlen), int(h.keylen)
	vlen := int(h.bodylen) - extlen - keylen
	c.cmd = int(b.cmd)
	c.noreply = b.quiet
	switch {
	case vlen < 0:
		binErrorClose(c, protocolBinaryResponseUnknownCommand)
		return
	case h.bodylen > itemSizeMaxUpperLimit:
		binErrorClose(c, protocolBinaryResponseEinval)
		return
	case settings.auth.sasl && !authenticated(c):
		binErrorClose(c, protocolBinaryResponseAuthError)
		return
	case keylen > keyMaxLength:
		handleBinaryProtocolError(c)
		return
	case b.body == 0, c.cmd == protocolBinaryCmdVerbosity && extlen != b.extlen:
		// C swallows the key and the extras twice.
		writeBinError(c, protocolBinaryResponseUnknownCommand, "", vlen)
		return
	case extlen != b.extlen && !(c.cmd == protocolBinaryCmdFlush && extlen == 0),
		keylen == 0 && (b.body == binKey || b.body == binKeyValue),
		keylen != 0 && b.body == binNothing,
		vlen != 0 && b.body != binKeyValue: // C takes the value of a stat or touch for the next packet
		handleBinaryProtocolError(c)
		return
	}
	switch c.cmd {
	case protocolBinaryCmdVersion:
		writeBinResponse(c, version)
	case protocolBinaryCmdFlush:
		processBinFlush(c, ext)
	case protocolBinaryCmdNoop:
		writeBinResponse(c, "")
		connSetState(c, connMwrite) // send the gathered replies now
	case protocolBinaryCmdSet, protocolBinaryCmdAdd, protocolBinaryCmdReplace,
		protocolBinaryCmdAppend, protocolBinaryCmdPrepend:
		processBinUpdate(c, ext, vlen)
	case protocolBinaryCmdGet, protocolBinaryCmdGetk,
		protocolBinaryCmdTouch, protocolBinaryCmdGat, protocolBinaryCmdGatk:
		processBinGetOrTouch(c, ext)
	case protocolBinaryCmdDelete:
		processBinDelete(c)
	case protocolBinaryCmdIncrement, protocolBinaryCmdDecrement:
		completeIncrBin(c, ext)
	case protocolBinaryCmdStat:
		processBinStat(c)
	case protocolBinaryCmdVerbosity:
		settings.verbose.Store(int32(min(binary.BigEndian.Uint32(ext), maxVerbosityLevel)))
		writeBinResponse(c, "")
	case protocolBinaryCmdQuit:
		writeBinResponse(c, "")
		c.closeReason = normalClose
		closeAfterReplies(c)
	case protocolBinaryCmdSaslListMechs:
		binListSaslMechs(c)
	case protocolBinaryCmdSaslAuth, protocolBinaryCmdSaslStep:
		processBinSaslAuth(c, vlen)
	}
}

var binUpdates = [...]struct {
	name string
	comm int
}{
	protocolBinaryCmdSet:     {"SET", nreadSet},
	protocolBinaryCmdAdd:     {"ADD", nreadAdd},
	protocolBinaryCmdReplace: {"REPLACE", nreadReplace},
	protocolBinaryCmdAppend:  {"APPEND", nreadAppend},
	protocolBinaryCmdPrepend: {"PREPEND", nreadPrepend},
}

// processBinUpdate starts to read the value of set, add, replace, append and
// prepend.
func processBinUpdate(c *conn, ext []byte, vlen int) {
	key := binaryGetKey(c)
	var flags, expiration uint32
	if len(ext) > 0 { // append and prepend have none
		flags = binary.BigEndian.Uint32(ext)
		expiration = binary.BigEndian.Uint32(ext[4:])
	}
	comm := binUpdates[c.cmd].comm
	if settings.verbose.Load() > 1 {
		fmt.Fprintf(os.Stderr, "<%d %s %s Value len is %d\n", c.sfd, binUpdates[c.cmd].name, key, vlen)
	}
	if settings.detailEnabled.Load() {
		statsPrefixRecordSet(key)
	}
	if c.bin.header.cas == 0 {
		it, hv := connStoreInPlace(c, comm, key, flags, realtime(int64(expiration)), vlen+2, 0, 0)
		if it != nil {
			c.cas = it.cas()
			itemUnlock(hv)
			writeBinResponse(c, "")
			return
		}
	}
	it := itemAlloc(key, flags, realtime(int64(expiration)), vlen+2)
	if it == nil {
		if storeRefused(c.thread, comm, key, flags, vlen+2) == tooLarge {
			writeBinError(c, protocolBinaryResponseE2big, "", 0)
		} else {
			outOfMemory(c, "SERVER_ERROR Out of memory allocating item")
		}
		if comm == nreadSet {
			itemForget(key, c.thread)
		}
		connSwallowValue(c, vlen)
		return
	}
	it.setCas(c.bin.header.cas)
	if it.cas() != 0 && comm != nreadAppend && comm != nreadPrepend {
		comm = nreadCas
	}
	connReadValue(c, it, comm)
}

func processBinFlush(c *conn, ext []byte) {
	if !settings.flushEnabled {
		writeBinError(c, protocolBinaryResponseAuthError, "", 0)
		return
	}
	var exptime uint32
	if len(ext) > 0 {
		exptime = binary.BigEndian.Uint32(ext)
	}
	flushAll(int64(exptime))
	c.thread.stats.pending.n[statFlushCmds]++
	writeBinResponse(c, "")
}

func processBinDelete(c *conn) {
	key := binaryGetKey(c)
	if settings.verbose.Load() > 1 {
		fmt.Fprintf(os.Stderr, "Deleting %s\n", key)
	}
	if settings.detailEnabled.Load() {
		statsPrefixRecordDelete(key)
	}
	t := c.thread
	it, hv := itemGetLocked(key, t, dontUpdate)
	cas := c.bin.header.cas
	switch {
	case it == nil:
		t.stats.pending.n[statDeleteMisses]++
		writeBinError(c, protocolBinaryResponseKeyEnoent, "", 0)
	case cas == 0 || cas == it.cas():
		t.stats.slab(it, slabDeleteHits)
		doItemUnlink(it, hv)
		writeBinResponse(c, "")
	default:
		writeBinError(c, protocolBinaryResponseKeyEexists, "", 0)
	}
	if it != nil {
		doItemRemove(it)
	}
	itemUnlock(hv)
}

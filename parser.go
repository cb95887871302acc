// Parsing a line of text, and the commands that touch items, except the meta
// commands. From proto_parser.c; vendor/mcmc: the tokenizer.

package main

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
)

const maxTokens = 23 // on a line; more are ignored

// Positions of words on a line.
const (
	commandToken    = 0
	subcommandToken = 1
	keyToken        = 1
)

// A parser holds a line of text split into words (mcp_parser_t).
type parser struct {
	request  []byte // the line with its \r\n or \n
	ntokens  int
	tokens   [maxTokens]struct{ start, end int }
	keytoken int
	vlen     int // bytes of value to come, \r\n included
	noreply  bool
}

const noMeta = maxTokens // mstart for commands without flags

// token returns word i, or nil if there are fewer.
func (pr *parser) token(i int) []byte {
	if i >= pr.ntokens {
		return nil
	}
	return pr.request[pr.tokens[i].start:pr.tokens[i].end]
}

// tokenizeCommand splits the line at spaces. Words from mstart on are flags of
// a meta command; if one can't be a flag, the line is left with no words.
func tokenizeCommand(pr *parser, mstart int) {
	line := lineText(pr.request)
	pr.ntokens = 0
	n := 0
	for i := 0; i < len(line); {
		if line[i] == ' ' {
			i++
			continue
		}
		if n == maxTokens {
			break
		}
		if ch := line[i]; n >= mstart && (ch <= 64 || ch >= 123) && (ch < '0' || ch > '9') {
			return
		}
		pr.tokens[n].start = i
		for i < len(line) && line[i] != ' ' {
			i++
		}
		pr.tokens[n].end = i
		n++
	}
	pr.ntokens = n
}

// lineText is the line without its \r\n or \n.
func lineText(line []byte) []byte {
	line = line[:len(line)-1]
	if n := len(line); n > 0 && line[n-1] == '\r' {
		line = line[:n-1]
	}
	return line
}

// firstWord is the line up to its first space.
func firstWord(line []byte) []byte {
	if i := bytes.IndexByte(line, ' '); i >= 0 {
		return line[:i]
	}
	return line
}

// tokto64 reads a decimal number strictly: digits, with an optional minus
// before them. A lone minus is 0.
func tokto64(tok []byte) (int64, bool) {
	if len(tok) > 0 && tok[0] == '-' {
		n, ok := toktou64(tok[1:])
		return -int64(n), ok && n <= 1<<63 || len(tok) == 1
	}
	n, ok := toktou64(tok)
	return int64(n), ok && n < 1<<63
}

func toktou64(tok []byte) (uint64, bool) {
	if len(tok) == 0 || len(tok) > 22 {
		return 0, false
	}
	var n uint64
	for _, ch := range tok {
		d := uint64(ch - '0')
		if d > 9 || n > (1<<64-1-d)/10 {
			return 0, false
		}
		n = n*10 + d
	}
	return n, true
}

func (pr *parser) key() []byte { return pr.token(pr.keytoken) }

// Each function with a line of syntax parses the request as that kind of command,
// and returns false if it is malformed.

// processRequestMeta: <cmd> <key> <flags>*
func processRequestMeta(pr *parser) bool {
	tokenizeCommand(pr, 2)
	pr.keytoken = keyToken
	return pr.ntokens >= 2
}

// processRequestMset: ms <key> <datalen> <flags>*
func processRequestMset(pr *parser) bool {
	tokenizeCommand(pr, 3)
	pr.keytoken = keyToken
	return pr.ntokens >= 3 && processRequestVlen(pr, 2)
}

// processRequestVlen reads word i, the length of the value to come. It returns
// false if that is malformed.
func processRequestVlen(pr *parser, i int) bool {
	vlen, ok := tokto32(pr.token(i))
	if !ok || vlen < 0 || vlen > 1<<31-1-2 {
		return false
	}
	pr.vlen = int(vlen) + 2
	return true
}

// processRequestGat: gat[s] <exptime> <key>*
func processRequestGat(pr *parser) bool {
	tokenizeCommand(pr, noMeta)
	pr.keytoken = 2
	return pr.ntokens >= 3
}

func processRequestNoreply(pr *parser) {
	pr.noreply = pr.ntokens > 0 && string(pr.token(pr.ntokens-1)) == "noreply"
}

// processRequestStorage: <cmd> <key> <flags> <exptime> <bytes> [noreply]
func processRequestStorage(pr *parser) bool {
	tokenizeCommand(pr, noMeta)
	pr.keytoken = keyToken
	if pr.ntokens < 5 || !processRequestVlen(pr, 4) {
		return false
	}
	processRequestNoreply(pr)
	return true
}

// processRequestSimple: <cmd> <key> <args>*, at least min words in all.
func processRequestSimple(pr *parser, min int) bool {
	tokenizeCommand(pr, noMeta)
	pr.keytoken = keyToken
	if pr.ntokens < min {
		return false
	}
	processRequestNoreply(pr)
	return true
}

// processRequest identifies the command and serves it. It returns false if the
// words after it are wrong in number or kind.
func processRequest(c *conn, pr *parser) bool {
	cmd := firstWord(lineText(pr.request))
	switch string(cmd) {
	case "ma":
		if !processRequestMeta(pr) {
			return false
		}
		processMarithmeticCmd(c, pr)
	case "md":
		if !processRequestMeta(pr) {
			return false
		}
		processMdeleteCmd(c, pr)
	case "mg":
		if !processRequestMeta(pr) {
			return false
		}
		processMgetCmd(c, pr)
	case "mn":
		outString(c, "MN")
		connSetState(c, connMwrite) // send the replies gathered so far
	case "ms":
		if !processRequestMset(pr) {
			return false
		}
		processMsetCommand(c, pr)
	case "me":
		if !processRequestMeta(pr) {
			return false
		}
		processMetaCommand(c, pr)
	case "get", "gets":
		if !processRequestSimple(pr, 2) {
			return false
		}
		processGetCommand(c, pr, len(cmd) == 4, false)
	case "gat", "gats":
		if !processRequestGat(pr) {
			return false
		}
		processGetCommand(c, pr, len(cmd) == 4, true)
	case "set":
		return processRequestUpdate(c, pr, nreadSet)
	case "add":
		return processRequestUpdate(c, pr, nreadAdd)
	case "replace":
		return processRequestUpdate(c, pr, nreadReplace)
	case "append":
		return processRequestUpdate(c, pr, nreadAppend)
	case "prepend":
		return processRequestUpdate(c, pr, nreadPrepend)
	case "cas":
		return processRequestUpdate(c, pr, nreadCas)
	case "incr", "decr":
		if !processRequestSimple(pr, 3) {
			return false
		}
		c.noreply = pr.noreply
		processArithmeticCmd(c, pr, cmd[0] == 'i')
	case "delete":
		if !processRequestSimple(pr, 2) {
			return false
		}
		c.noreply = pr.noreply
		processDeleteCmd(c, pr)
	case "touch":
		if !processRequestSimple(pr, 3) {
			return false
		}
		c.noreply = pr.noreply
		processTouchCmd(c, pr)
	case "quit":
		c.closeReason = normalClose
		closeAfterReplies(c)
	case "version":
		outString(c, "VERSION "+version)
	case "stats":
		tokenizeCommand(pr, noMeta)
		processStat(c, pr)
	case "watch":
		tokenizeCommand(pr, noMeta)
		processWatchCommand(c, pr)
	default:
		tokenizeCommand(pr, noMeta)
		processRequestNoreply(pr)
		c.noreply = pr.noreply
		processAdminCommand(c, pr)
	}
	return true
}

// processRequestUpdate serves a storage command.
func processRequestUpdate(c *conn, pr *parser, comm int) bool {
	if !processRequestStorage(pr) {
		return false
	}
	c.noreply = pr.noreply
	processUpdateCommand(c, pr, comm, comm == nreadCas)
	return true
}

// prcmp reports whether word i is s or a prefix of s: C compares only as many
// bytes as the word has.
func (pr *parser) prcmp(i int, s string) bool {
	tok := pr.token(i)
	return tok != nil && strings.HasPrefix(s, string(tok))
}

func toktou32(tok []byte) (uint32, bool) {
	n, ok := toktou64(tok)
	return uint32(n), ok && n == uint64(uint32(n)) && len(tok) <= 11
}

func tokto32(tok []byte) (int32, bool) {
	n, ok := tokto64(tok)
	return int32(n), ok && n == int64(int32(n)) && len(tok) <= 11
}

func toktod(tok []byte) (float64, bool) {
	if len(tok) > 31 {
		return 0, false
	}
	f, err := strconv.ParseFloat(string(tok), 64)
	return f, err == nil
}

// processGetCmd answers one key of a get. It returns what is wrong, or "".
func processGetCmd(c *conn, key []byte) string {
	if len(key) > keyMaxLength { // see processGetCommand
		return errBadKey
	}
	it, hv := limitedGet(key, c.thread, c.get.exptime, c.get.shouldTouch)
	if settings.detailEnabled.Load() {
		statsPrefixRecordGet(key, it != nil)
	}
	if it == nil {
		itemUnlock(hv)
		return ""
	}
	b := append(c.resp.wbuf, "VALUE "...)
	b = append(b, key...)
	b = append(b, ' ')
	b = strconv.AppendUint(b, uint64(it.clientFlags()), 10)
	b = append(b, ' ')
	b = strconv.AppendUint(b, uint64(it.nbytes-2), 10)
	if c.get.returnCas {
		b = append(b, ' ')
		b = strconv.AppendUint(b, it.cas(), 10)
	}
	head := len(c.resp.wbuf)
	c.resp.wbuf = append(b, "\r\n"...)
	ok := respAddValue(c, it, hv, int(it.nbytes), head, nil)
	itemUnlock(hv)
	c.get.found = c.get.found || ok
	c.get.oom = c.get.oom || !ok
	if ok && settings.verbose.Load() > 1 {
		fmt.Fprintf(os.Stderr, ">%d sending key %s\n", c.sfd, key)
	}
	return ""
}

// processUpdateCmdStart returns an item to read the value into, or nil if the value is
// stored already. It returns false after answering with an error.
func processUpdateCmdStart(c *conn, pr *parser, comm int, handleCas bool) (it *item, ok bool) {
	t := c.thread
	key := pr.key()
	flags, ok := safeStrtoul(pr.request[pr.tokens[2].start:])
	exptime, ok2 := safeStrtoll(pr.request[pr.tokens[3].start:])
	if len(key) > keyMaxLength || !ok || !ok2 {
		outString(c, errBadFormat)
		return nil, false
	}
	var reqCasId uint64
	if handleCas {
		if reqCasId, ok = toktou64(pr.token(5)); !ok {
			outString(c, errBadFormat)
			return nil, false
		}
	}
	if settings.detailEnabled.Load() {
		statsPrefixRecordSet(key)
	}
	if it, hv := connStoreInPlace(c, comm, key, flags, realtime(exptime), pr.vlen, 0, 0); it != nil {
		itemUnlock(hv)
		outString(c, storedText(stored))
		return nil, true
	}
	it = itemAlloc(key, flags, realtime(exptime), pr.vlen)
	if it == nil {
		outRefused(c, comm, key, flags, pr.vlen)
		if comm == nreadSet {
			itemForget(key, t)
		}
		return nil, false
	}
	it.setCas(reqCasId)
	t.stats.slab(it, slabSetCmds)
	c.cas = 0
	c.val.meta = metaReply{}
	return it, true
}

// outRefused answers why no item could be allocated for a value of vlen bytes.
func outRefused(c *conn, comm int, key []byte, flags uint32, vlen int) {
	t := c.thread
	if storeRefused(t, comm, key, flags, vlen) == tooLarge {
		outString(c, "SERVER_ERROR object too large for cache")
		t.stats.pending.n[statStoreTooLarge]++
	} else {
		outString(c, "SERVER_ERROR out of memory storing object")
		t.stats.pending.n[statStoreNoMemory]++
	}
}

// storeRefused returns why no item could be allocated for a value of vlen
// bytes, and logs it.
func storeRefused(t *thread, comm int, key []byte, flags uint32, vlen int) storeItemType {
	status := noMemory
	if !itemSizeOk(len(key), flags, vlen) {
		status = tooLarge
	}
	if loggerEflags.Load()&logMutations != 0 {
		loggerLogItemStore(t, status, comm, key, nil)
	}
	return status
}

func processArithmeticCmd(c *conn, pr *parser, incr bool) {
	key := pr.key()
	if len(key) > keyMaxLength {
		outString(c, errBadFormat)
		return
	}
	delta, ok := toktou64(pr.token(2))
	if !ok {
		outString(c, "CLIENT_ERROR invalid numeric delta argument")
		return
	}
	var buf [incrMaxStorageLen]byte
	n, ret := addDelta(c.thread, key, incr, delta, buf[:], nil)
	switch ret {
	case deltaOk:
		outString(c, buf[:n])
	case nonNumeric:
		outString(c, errNonNumeric)
	case eom:
		outString(c, errNoMemory)
	case deltaItemNotFound:
		c.thread.stats.deltaMiss(incr)
		outString(c, "NOT_FOUND")
	}
}

func processDeleteCmd(c *conn, pr *parser) {
	key := pr.key()
	if len(key) > keyMaxLength {
		outString(c, errBadFormat)
		return
	}
	if settings.detailEnabled.Load() {
		statsPrefixRecordDelete(key)
	}
	t := c.thread
	it, hv := itemGetLocked(key, t, dontUpdate)
	if it != nil {
		t.stats.slab(it, slabDeleteHits)
		if loggerEflags.Load()&logDeletions != 0 {
			loggerLogItemDeleted(t, it, logTypeDelete)
		}
		doItemUnlink(it, hv)
		doItemRemove(it)
		outString(c, "DELETED")
	} else {
		t.stats.pending.n[statDeleteMisses]++
		outString(c, "NOT_FOUND")
	}
	itemUnlock(hv)
}

func processTouchCmd(c *conn, pr *parser) {
	key := pr.key()
	if len(key) > keyMaxLength {
		outString(c, errBadFormat)
		return
	}
	exptime, ok := tokto64(pr.token(2))
	if !ok {
		outString(c, errBadExptime)
		return
	}
	it, hv := limitedGet(key, c.thread, realtime(exptime), true)
	if it != nil {
		outString(c, "TOUCHED")
		doItemRemove(it)
	} else {
		outString(c, "NOT_FOUND")
	}
	itemUnlock(hv)
}

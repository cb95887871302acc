// The text protocol, except the commands that touch items (parser.go) and the
// meta commands (meta.go). From proto_text.c.

package main

import (
	"bytes"
	"fmt"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// For -R a get counts as one command more after every getKeysPerTurn keys, and
// whenever its reply is full. Not as in C, where other connections wait for all
// of its keys.
const getKeysPerTurn = 1000

// A getRequest is a get with keys still to be looked up.
type getRequest struct {
	returnCas   bool
	shouldTouch bool
	exptime     relTime
}

// completeNreadAscii stores the item whose value has been read, and answers.
func completeNreadAscii(c *conn) {
	it := c.item
	c.item = nil
	if c.resp == nil && !respStart(c) { // earlier replies have been sent
		itemRemove(it)
		connSetState(c, connClosing)
		return
	}
	hv := hash(it.key())
	if !valueEnds(c, it) {
		if c.meta.mset {
			c.noreply = false
		}
		outString(c, "CLIENT_ERROR bad data chunk")
		itemRemove(it)
		return
	}
	c.thread.curSfd = c.sfd
	itemLock(hv)
	cas := c.cas
	if cas == 0 {
		cas = getCasId() // under the lock, so that the item's unique only grows
	}
	c.cas = 0
	var nbytes int
	ret := doStoreItem(it, c.cmd, c.thread, hv, &nbytes, &cas, cas, c.meta.setStale)
	if c.meta.mset {
		finalizeMset(c, it, nbytes, ret, cas)
	} else {
		outString(c, storedText(ret))
	}
	doItemRemove(it)
	itemUnlock(hv)
}

// valueEnds tells whether the value just read ends with \r\n.
func valueEnds(c *conn, it *item) bool {
	ch := c.rchunk
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
	if c.rbytes == 0 {
		return false
	}
	line := c.rbuf[c.rcurr : c.rcurr+c.rbytes]
	el := bytes.IndexByte(line[c.rlooked:], '\n')
	if el < 0 {
		if c.rbytes > 2048 {
			return tooLongLine(c, line)
		}
		return false
	}
	line = line[:c.rlooked+el+1]
	c.rlooked = 0
	if c.getRest {
		processGetKeys(c, line)
		return true
	}
	if c.rbytes > len(line) && c.rcurr >= c.thread.lookedAhead {
		lookAhead(c)
	}
	c.rcurr += len(line)
	c.rbytes -= len(line)
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
	if !c.rbufMalloced {
		rbufSwitchToMalloc(c)
	}
	// Not as in C, which searches from the start of the line each time: the
	// rest may arrive byte by byte.
	c.rlooked = len(line)
	return false
}

// isGet tells whether cmd takes any number of keys. Not as in C, which hangs up
// on a long gat.
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
		c.get.exptime = realtime(exptimeToPositiveTime(exptime))
	}
	keys := pr.request[pr.tokens[pr.keytoken].start:]
	// With extstore processGetCmd checks each key in its turn, as in C: reads
	// for those before are aborted, and counted.
	if extStorage == nil && !keysOk(lineText(keys)) {
		outString(c, errBadKey)
		return
	}
	c.rcurr -= len(keys)
	c.rbytes += len(keys)
	c.getRest = true
	processGetKeys(c, keys)
}

// keysOk tells whether no key is too long. All are checked before the first is
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
		connSetState(c, connClosing)
		return
	}
	keys := lineText(line)
	prefetched := 0 // bytes of keys
	errstr := ""
	c.thread.curSfd = c.sfd
	for i, n := 0, 0; errstr == "" && i < len(keys); {
		if keys[i] == ' ' {
			i++
			continue
		}
		if n++; (n > getKeysPerTurn || respFull(c)) && c.transport != udpTransport {
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
	c.rcurr += len(line)
	c.rbytes -= len(line)
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
	c.rcurr += i
	c.rbytes -= i
	c.rlooked = len(line) - i - 1
	c.lastCmdTime = currentTime.Load() // c is not idle
	connSetState(c, connMwrite)
}

// prefetchKeys prefetches items for the next keys of a get, unless there is
// only one. It returns how many bytes of the line these keys take.
func prefetchKeys(line []byte) int {
	var keys [assocBatch][]byte
	n, i := 0, 0
	for n < assocBatch && i < len(line) {
		key := firstWord(line[i:])
		keys[n] = key
		n++
		i += len(key) + 1
	}
	if n > 1 {
		assocPrefetch(keys[:n], 0)
	}
	return i
}

// processUpdateCommand begins to read the value of a storage command.
func processUpdateCommand(c *conn, pr *parser, comm int, handleCas bool) {
	it := processUpdateCmdStart(c, pr, comm, handleCas)
	if it == nil {
		connSwallowValue(c, pr.vlen)
		return
	}
	connReadValue(c, it, comm)
}

// connReadValue makes c read the value of an item, to be stored as comm says.
func connReadValue(c *conn, it *item, comm int) {
	c.item = it
	c.cmd = comm
	c.rtail = 0
	if c.protocol == binaryProt {
		c.rtail = 2 // binary values end without \r\n; see binValueEnd
	}
	c.rlbytes = int(it.nbytes) - c.rtail
	if it.itFlags&itemChunked != 0 {
		c.rchunk = it.schunk()
	} else {
		c.rchunk = nil
	}
	connSetState(c, connNread)
}

func processVerbosityCommand(c *conn, pr *parser) {
	level, ok := toktou32(pr.token(1))
	if !ok {
		outString(c, errBadFormat)
		return
	}
	settings.verbose.Store(int32(min(level, maxVerbosityLevel)))
	outString(c, "OK")
}

// processSlabsAutomoveCommand: slabs automove 0|1|2, or ratio, freeratio or
// window with a number.
func processSlabsAutomoveCommand(c *conn, pr *parser) {
	switch {
	case pr.prcmp(2, "ratio"):
		processAutomoveRatio(c, pr, &settings.slabAutomoveRatio)
	case pr.prcmp(2, "freeratio"):
		processAutomoveRatio(c, pr, &settings.slabAutomoveFreeratio)
	case pr.prcmp(2, "window"):
		window, ok := toktou32(pr.token(3))
		switch {
		case !ok:
			outString(c, errBadFormat)
		case window < 3 || window > 1800:
			outString(c, "CLIENT_ERROR automove window too low or too high")
		default:
			settings.tuneLock.Lock()
			settings.slabAutomoveWindow = window
			settings.slabAutomoveVersion++
			settings.tuneLock.Unlock()
			outString(c, "OK")
		}
	default:
		level, ok := toktou32(pr.token(2))
		switch {
		case !ok:
			outString(c, errBadFormat)
		case level > 2:
			outString(c, "ERROR")
		default:
			settings.slabAutomove.Store(int32(level))
			outString(c, "OK")
		}
	}
}

// processAutomoveRatio sets one of the automover's two ratios.
func processAutomoveRatio(c *conn, pr *parser, ratio *float64) {
	f, ok := toktod(pr.token(3))
	if !ok {
		outString(c, "ERROR")
		return
	}
	settings.tuneLock.Lock()
	*ratio = f
	settings.slabAutomoveVersion++
	settings.tuneLock.Unlock()
	outString(c, "OK")
}

func processMemlimitCommand(c *conn, pr *parser) {
	memlimit, ok := toksize(pr.token(1), 1<<20)
	switch {
	case !ok:
		outString(c, "ERROR")
	case memlimit < 8<<20:
		outString(c, "MEMLIMIT_TOO_SMALL cannot set maxbytes to less than 8m")
	case memlimit > 1000000000<<20:
		outString(c, "MEMLIMIT_ADJUST_FAILED input value is megabytes not bytes")
	case slabsAdjustMemLimit(memlimit):
		if settings.verbose.Load() > 0 {
			fmt.Fprintf(os.Stderr, "maxbytes adjusted to %dm\n", memlimit>>20)
		}
		outString(c, "OK")
	default:
		outString(c, "MEMLIMIT_ADJUST_FAILED out of bounds or unable to adjust")
	}
}

func processLruCommand(c *conn, pr *parser) {
	switch {
	case pr.prcmp(subcommandToken, "tune") && pr.ntokens >= 6:
		processLruTune(c, pr)
	case pr.prcmp(subcommandToken, "mode") && pr.ntokens >= 3 && settings.lruMaintainerThread:
		switch {
		case pr.prcmp(2, "flat"):
			settings.lruSegmented.Store(false)
			outString(c, "OK")
		case pr.prcmp(2, "segmented"):
			settings.lruSegmented.Store(true)
			outString(c, "OK")
		default:
			outString(c, "ERROR")
		}
	case pr.prcmp(subcommandToken, "temp_ttl") && pr.ntokens >= 3 && settings.lruMaintainerThread:
		ttl, ok := tokto32(pr.token(2))
		if !ok {
			outString(c, "ERROR")
			return
		}
		if ttl >= 0 {
			settings.temporaryTtl.Store(uint32(ttl))
		}
		settings.tempLru.Store(ttl >= 0)
		outString(c, "OK")
	default:
		outString(c, "ERROR")
	}
}

// processLruTune: lru tune <hot %> <warm %> <hot age factor> <warm age factor>
func processLruTune(c *conn, pr *parser) {
	pctHot, ok := toktou32(pr.token(2))
	pctWarm, ok2 := toktou32(pr.token(3))
	hotFactor, ok3 := toktod(pr.token(4))
	factor, ok4 := toktod(pr.token(5))
	switch {
	case !ok || !ok2 || !ok3 || !ok4:
		outString(c, "ERROR")
	case uint64(pctHot)+uint64(pctWarm) > 80:
		outString(c, "ERROR hot and warm pcts must not exceed 80")
	case !(factor > 0) || !(hotFactor > 0):
		outString(c, "ERROR hot/warm age factors must be greater than 0")
	default:
		settings.hotLruPct.Store(int32(pctHot))
		settings.warmLruPct.Store(int32(pctWarm))
		settings.tuneLock.Lock()
		settings.hotMaxFactor = hotFactor
		settings.warmMaxFactor = factor
		settings.tuneLock.Unlock()
		outString(c, "OK")
	}
}

// processExtstoreCommand: extstore <setting> <value>
func processExtstoreCommand(c *conn, pr *parser) {
	number := func(v *atomic.Uint32) bool {
		n, ok := toktou32(pr.token(2))
		if ok {
			v.Store(n)
		}
		return ok
	}
	sub := subcommandToken
	ok := false
	switch {
	case pr.ntokens < 3:
	case pr.prcmp(sub, "free_memchunks") && pr.ntokens > 3:
		// A setting of old: known, and ignored.
		clsid, ok1 := toktou32(pr.token(2))
		_, ok2 := toktou32(pr.token(3))
		ok = ok1 && ok2 && clsid < maxNumberOfSlabClasses
	case pr.prcmp(sub, "item_size"):
		if ok = number(&settings.extItemSize); ok {
			settings.tuneLock.Lock()
			settings.slabAutomoveVersion++
			settings.tuneLock.Unlock()
		}
	case pr.prcmp(sub, "item_age"):
		ok = number(&settings.extItemAge)
	case pr.prcmp(sub, "low_ttl"):
		ok = number(&settings.extLowTtl)
	case pr.prcmp(sub, "recache_rate"):
		ok = number(&settings.extRecacheRate)
	case pr.prcmp(sub, "compact_under"):
		ok = number(&settings.extCompactUnder)
	case pr.prcmp(sub, "drop_under"):
		ok = number(&settings.extDropUnder)
	case pr.prcmp(sub, "max_sleep"):
		ok = number(&settings.extMaxSleep)
	case pr.prcmp(sub, "max_frag"):
		var f float64
		if f, ok = toktod(pr.token(2)); ok {
			settings.tuneLock.Lock()
			settings.extMaxFrag = f
			settings.tuneLock.Unlock()
		}
	case pr.prcmp(sub, "drop_unread"):
		var n uint32
		if n, ok = toktou32(pr.token(2)); ok {
			settings.extDropUnread.Store(n != 0)
		}
	}
	if ok {
		outString(c, "OK")
	} else {
		outString(c, "ERROR")
	}
}

func processFlushAllCommand(c *conn, pr *parser) {
	c.thread.stats.pending.n[statFlushCmds]++
	if !settings.flushEnabled {
		outString(c, "CLIENT_ERROR flush_all not allowed")
		return
	}
	var exptime int64
	words := 1
	if c.noreply {
		words = 2
	}
	if pr.ntokens != words {
		var ok bool
		if exptime, ok = tokto64(pr.token(1)); !ok {
			outString(c, errBadExptime)
			return
		}
	}
	flushAll(exptime)
	outString(c, "OK")
}

// flushAll flushes all items stored before the time exptime, or before now if
// exptime is not positive. Items set later in the same second survive.
func flushAll(exptime int64) {
	oldest := currentTime.Load() - 1
	if exptime > 0 {
		oldest = realtime(exptime) - 1
	}
	settings.oldestLive.Store(oldest)
	itemFlushExpired()
	lruForget()
}

// closeAfterReplies closes the connection once its replies have been sent.
func closeAfterReplies(c *conn) {
	c.closeAfterWrite = true
	connSetState(c, connMwrite)
}

func processShutdownCommand(c *conn, pr *parser) {
	sig := unix.SIGINT
	switch {
	case !settings.shutdownCommand:
		outString(c, "SERVER_ERROR: shutdown not enabled")
		return
	case pr.ntokens == 1:
	case pr.ntokens == 2 && pr.prcmp(subcommandToken, "graceful"):
		sig = unix.SIGUSR1
	default:
		outString(c, "CLIENT_ERROR invalid shutdown mode")
		return
	}
	c.closeReason = shutdownClose
	connSetState(c, connClosing)
	unix.Kill(os.Getpid(), sig)
}

func processSlabsCommand(c *conn, pr *parser) {
	switch {
	case pr.ntokens == 4 && pr.prcmp(subcommandToken, "reassign"):
		if !settings.slabReassign {
			outString(c, "CLIENT_ERROR slab reassignment disabled")
			return
		}
		src, ok := tokto32(pr.token(2))
		dst, ok2 := tokto32(pr.token(3))
		if !ok || !ok2 {
			outString(c, errBadFormat)
			return
		}
		switch slabsReassign(int(src), int(dst), slabsReassignAllowEvictions) {
		case reassignOk:
			outString(c, "OK")
		case reassignRunning:
			outString(c, "BUSY currently processing reassign request")
		case reassignBadclass:
			outString(c, "BADCLASS invalid src or dst class id")
		case reassignNospare:
			outString(c, "NOSPARE source class has no spare pages")
		case reassignSrcDstSame:
			outString(c, "SAME src and dst class are identical")
		}
	case pr.ntokens >= 3 && pr.prcmp(subcommandToken, "automove"):
		processSlabsAutomoveCommand(c, pr)
	default:
		outString(c, "ERROR")
	}
}

func processLruCrawlerCommand(c *conn, pr *parser) {
	sub := subcommandToken
	switch {
	case pr.ntokens == 3 && pr.prcmp(sub, "crawl"):
		if !settings.lruCrawler.Load() {
			outString(c, errCrawlerDisabled)
			return
		}
		outCrawl(c, lruCrawlerCrawl(string(pr.token(2)), crawlerExpired, nil, settings.lruCrawlerTocrawl.Load()))
	case pr.ntokens == 3 && pr.prcmp(sub, "metadump"):
		processLruCrawlerDump(c, pr, crawlerMetadump, "metadump")
	case pr.ntokens == 3 && pr.prcmp(sub, "mgdump"):
		processLruCrawlerDump(c, pr, crawlerMgdump, "mgdump")
	case pr.ntokens == 3 && pr.prcmp(sub, "tocrawl"):
		tocrawl, ok := toktou32(pr.token(2))
		if !ok {
			outString(c, errBadFormat)
			return
		}
		settings.lruCrawlerTocrawl.Store(tocrawl)
		outString(c, "OK")
	case pr.ntokens == 3 && pr.prcmp(sub, "sleep"):
		tosleep, ok := toktou32(pr.token(2))
		switch {
		case !ok:
			outString(c, errBadFormat)
		case tosleep > 1000000:
			outString(c, "CLIENT_ERROR sleep must be one second or less")
		default:
			settings.lruCrawlerSleep.Store(int32(tosleep))
			outString(c, "OK")
		}
	case pr.ntokens == 2 && pr.prcmp(sub, "enable"):
		if startItemCrawlerThread() == 0 {
			outString(c, "OK")
		} else {
			outString(c, "ERROR failed to start lru crawler thread")
		}
	case pr.ntokens == 2 && pr.prcmp(sub, "disable"):
		stopItemCrawlerThread()
		outString(c, "OK")
	default:
		outString(c, "ERROR")
	}
}

// processLruCrawlerDump hands c to the crawler thread, which owns c until the
// dump is done.
func processLruCrawlerDump(c *conn, pr *parser, kind crawlerRunType, name string) {
	switch {
	case !settings.lruCrawler.Load():
		outString(c, errCrawlerDisabled)
		return
	case !settings.dumpEnabled && kind == crawlerMgdump:
		outString(c, "ERROR key dump not allowed")
		return
	case !settings.dumpEnabled:
		outString(c, "ERROR metadump not allowed")
		return
	case c.resp.count > 1:
		outString(c, "ERROR cannot pipeline other commands before "+name)
		return
	}
	res := lruCrawlerCrawl(string(pr.token(2)), kind, c, lruCrawlerCapRemaining)
	if res != crawlerOk {
		outCrawl(c, res)
		return
	}
	connHandOver(c)
}

// outCrawl answers with the result of a request to the crawler.
func outCrawl(c *conn, res crawlerResultType) {
	switch res {
	case crawlerOk:
		outString(c, "OK")
	case crawlerRunning:
		outString(c, "BUSY currently processing crawler request")
	case crawlerBadclass:
		outString(c, "BADCLASS invalid class id")
	case crawlerNotstarted:
		outString(c, "NOTSTARTED no items to crawl")
	default:
		outString(c, "ERROR an unknown error happened")
	}
}

// processAdminCommand serves the rare commands. Unlike the common ones they may
// have spaces before them. (C: text_cmd_entries)
func processAdminCommand(c *conn, pr *parser) {
	switch string(pr.token(commandToken)) {
	case "shutdown":
		processShutdownCommand(c, pr)
	case "slabs":
		processSlabsCommand(c, pr)
	case "cache_memlimit":
		processMemlimitCommand(c, pr)
	case "flush_all":
		processFlushAllCommand(c, pr)
	case "lru_crawler":
		processLruCrawlerCommand(c, pr)
	case "verbosity":
		processVerbosityCommand(c, pr)
	case "lru":
		processLruCommand(c, pr)
	case "extstore":
		processExtstoreCommand(c, pr)
	default:
		if processDebugCommand(c, pr) || processRefreshCertsCommand(c, pr) {
			return
		}
		if pr.ntokens > 1 && bytes.HasPrefix(pr.token(pr.ntokens-1), []byte("HTTP/")) {
			closeAfterReplies(c)
			return
		}
		outString(c, "ERROR")
	}
}

// processCommandAscii serves one line.
func processCommandAscii(c *conn, line []byte) {
	if !respStart(c) {
		connSetState(c, connClosing)
		return
	}
	if settings.verbose.Load() > 1 {
		fmt.Fprintf(os.Stderr, "<%d %s\n", c.sfd, lineText(line))
	}
	t := c.thread
	t.curSfd = c.sfd
	pr := &t.pr
	pr.request = line
	pr.ntokens = 0
	pr.noreply = false
	c.noreply = false
	if len(line) < 4 {
		outString(c, errBadFormat)
		return
	}
	if !processRequest(c, pr) {
		outString(c, errBadFormat)
	}
}

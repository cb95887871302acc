// Commands for administrators. From proto_text.c.

package main

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// An adminNumber is a command that only sets a number: its words, then the number.
type adminNumber struct {
	words    [3]string
	v        any // atomic
	min, max uint32
	bad      string // the answer if that is not a number
	limit    string // the answer if it is out of range
}

const noLimit = math.MaxUint32

var adminNumbers = [...]adminNumber{
	{[3]string{"slabs", "automove", "ratio"}, &settings.slab.automoveRatio, 0, 0, "ERROR", ""},
	{[3]string{"slabs", "automove", "freeratio"}, &settings.slab.automoveFreeratio, 0, 0, "ERROR", ""},
	{[3]string{"slabs", "automove", "window"}, &settings.slab.automoveWindow, 3, 1800,
		errBadFormat, "CLIENT_ERROR automove window too low or too high"},
	{[3]string{"slabs", "automove"}, &settings.slab.automove, 0, 2, errBadFormat, "ERROR"},
	{[3]string{"lru_crawler", "tocrawl"}, &settings.lru.crawlerTocrawl, 0, noLimit, errBadFormat, ""},
	{[3]string{"lru_crawler", "sleep"}, &settings.lru.crawlerSleep, 0, 1000000,
		errBadFormat, "CLIENT_ERROR sleep must be one second or less"},
	{[3]string{"extstore", "item_size"}, &settings.ext.itemSize, 0, noLimit, "ERROR", ""},
	{[3]string{"extstore", "item_age"}, &settings.ext.itemAge, 0, noLimit, "ERROR", ""},
	{[3]string{"extstore", "low_ttl"}, &settings.ext.lowTtl, 0, noLimit, "ERROR", ""},
	{[3]string{"extstore", "recache_rate"}, &settings.ext.recacheRate, 0, noLimit, "ERROR", ""},
	{[3]string{"extstore", "compact_under"}, &settings.ext.compactUnder, 0, noLimit, "ERROR", ""},
	{[3]string{"extstore", "drop_under"}, &settings.ext.dropUnder, 0, noLimit, "ERROR", ""},
	{[3]string{"extstore", "max_sleep"}, &settings.ext.maxSleep, 0, noLimit, "ERROR", ""},
	{[3]string{"extstore", "max_frag"}, &settings.ext.maxFrag, 0, 0, "ERROR", ""},
	{[3]string{"extstore", "drop_unread"}, &settings.ext.dropUnread, 0, noLimit, "ERROR", ""},
}

// processNumber serves the commands of adminNumbers.
func processNumber(c *conn, pr *parser) {
	for i := range adminNumbers {
		if n := &adminNumbers[i]; n.match(pr) {
			outString(c, n.set(pr))
			return
		}
	}
	outString(c, "ERROR")
}

// match reports whether the line begins with n's words. All but the first may be
// abbreviated.
func (n *adminNumber) match(pr *parser) bool {
	if pr.ntokens < 3 || string(pr.token(commandToken)) != n.words[0] {
		return false
	}
	for i, word := range n.words[1:] {
		if word != "" && !pr.prcmp(i+1, word) {
			return false
		}
	}
	return true
}

// set takes the number from the line and returns the answer.
func (n *adminNumber) set(pr *parser) string {
	at := 2
	if n.words[2] != "" {
		at = 3
	}
	if v, ok := n.v.(*atomicFloat); ok {
		f, ok := toktod(pr.token(at))
		if !ok {
			return n.bad
		}
		v.Store(f)
		return "OK"
	}
	number, ok := toktou32(pr.token(at))
	switch {
	case !ok:
		return n.bad
	case number < n.min || number > n.max:
		return n.limit
	}
	switch v := n.v.(type) {
	case *atomic.Uint32:
		v.Store(number)
	case *atomic.Int32:
		v.Store(int32(number))
	case *atomic.Bool:
		v.Store(number != 0)
	default:
		panic("adminNumbers: " + n.words[1])
	}
	return "OK"
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
	case pr.prcmp(subcommandToken, "mode") && pr.ntokens >= 3 && settings.lru.maintainerThread:
		switch {
		case pr.prcmp(2, "flat"):
			settings.lru.segmented.Store(false)
			outString(c, "OK")
		case pr.prcmp(2, "segmented"):
			settings.lru.segmented.Store(true)
			outString(c, "OK")
		default:
			outString(c, "ERROR")
		}
	case pr.prcmp(subcommandToken, "temp_ttl") && pr.ntokens >= 3 && settings.lru.maintainerThread:
		ttl, ok := tokto32(pr.token(2))
		if !ok {
			outString(c, "ERROR")
			return
		}
		if ttl >= 0 {
			settings.lru.temporaryTtl.Store(uint32(ttl))
		}
		settings.lru.tempLru.Store(ttl >= 0)
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
		settings.lru.hotLruPct.Store(int32(pctHot))
		settings.lru.warmLruPct.Store(int32(pctWarm))
		settings.lru.hotMaxFactor.Store(hotFactor)
		settings.lru.warmMaxFactor.Store(factor)
		outString(c, "OK")
	}
}

// processExtstoreCommand: extstore <setting> <value>
func processExtstoreCommand(c *conn, pr *parser) {
	if pr.ntokens > 3 && pr.prcmp(subcommandToken, "free_memchunks") {
		// A setting of former versions, which is ignored.
		clsid, ok := toktou32(pr.token(2))
		if _, ok2 := toktou32(pr.token(3)); ok && ok2 && clsid < maxNumberOfSlabClasses {
			outString(c, "OK")
			return
		}
	}
	processNumber(c, pr)
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
		if !settings.slab.reassign {
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
	default: // slabs automove; C: process_slabs_automove_command
		processNumber(c, pr)
	}
}

func processLruCrawlerCommand(c *conn, pr *parser) {
	sub := subcommandToken
	switch {
	case pr.ntokens == 3 && pr.prcmp(sub, "crawl"):
		if !settings.lru.crawler.Load() {
			outString(c, errCrawlerDisabled)
			return
		}
		outCrawl(c, lruCrawlerCrawl(string(pr.token(2)), crawlerExpired, nil, settings.lru.crawlerTocrawl.Load()))
	case pr.ntokens == 3 && pr.prcmp(sub, "metadump"):
		processLruCrawlerDump(c, pr, crawlerMetadump, "metadump")
	case pr.ntokens == 3 && pr.prcmp(sub, "mgdump"):
		processLruCrawlerDump(c, pr, crawlerMgdump, "mgdump")
	case pr.ntokens == 3:
		processNumber(c, pr)
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
	case !settings.lru.crawler.Load():
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

// processAdminCommand serves the rare commands. Unlike the common ones, they may
// follow spaces. (C: text_cmd_entries)
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

// Commands for administrators. From proto_text.c.

package main

import (
	"bytes"
	"cmp"
	"os"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// An adminNumber is a command that only sets a number: its words, then the number.
type adminNumber struct {
	words    string
	v        any    // atomic
	bad      string // the answer if that is not a number; "" for ERROR
	min, max uint32 // a max of 0 is no limit
	limit    string // the answer if it is out of range
}

var adminNumbers = [...]adminNumber{
	{words: "slabs automove ratio", v: &settings.slab.automoveRatio},
	{words: "slabs automove freeratio", v: &settings.slab.automoveFreeratio},
	{"slabs automove window", &settings.slab.automoveWindow, errBadFormat, 3, 1800, "CLIENT_ERROR automove window too low or too high"},
	{"slabs automove", &settings.slab.automove, errBadFormat, 0, 2, "ERROR"},
	{words: "lru_crawler tocrawl", v: &settings.lru.crawlerTocrawl, bad: errBadFormat},
	{"lru_crawler sleep", &settings.lru.crawlerSleep, errBadFormat, 0, 1000000, "CLIENT_ERROR sleep must be one second or less"},
	{words: "extstore item_size", v: &settings.ext.itemSize},
	{words: "extstore item_age", v: &settings.ext.itemAge},
	{words: "extstore low_ttl", v: &settings.ext.lowTtl},
	{words: "extstore recache_rate", v: &settings.ext.recacheRate},
	{words: "extstore compact_under", v: &settings.ext.compactUnder},
	{words: "extstore drop_under", v: &settings.ext.dropUnder},
	{words: "extstore max_sleep", v: &settings.ext.maxSleep},
	{words: "extstore max_frag", v: &settings.ext.maxFrag},
	{words: "extstore drop_unread", v: &settings.ext.dropUnread},
}

// processNumber serves the commands of adminNumbers. All their words but the first
// may be abbreviated.
func processNumber(pr *parser) string {
	for _, n := range adminNumbers {
		words := strings.Fields(n.words)
		matches := pr.ntokens >= 3 && string(pr.token(commandToken)) == words[0]
		for i := 1; i < len(words) && matches; i++ {
			matches = pr.prcmp(i, words[i])
		}
		if matches {
			return n.set(pr.token(len(words)))
		}
	}
	return "ERROR"
}

// set takes the number and returns the answer.
func (n *adminNumber) set(tok []byte) string {
	if f, ok := n.v.(*atomicFloat); ok {
		number, ok := toktod(tok)
		if !ok {
			return "ERROR"
		}
		f.Store(number)
		return "OK"
	}
	number, ok := toktou32(tok)
	switch {
	case !ok:
		return cmp.Or(n.bad, "ERROR")
	case number < n.min || n.max != 0 && number > n.max:
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
		panic("adminNumbers: " + n.words)
	}
	return "OK"
}

func processVerbosityCommand(c *conn, pr *parser) string {
	level, ok := toktou32(pr.token(1))
	if !ok {
		return errBadFormat
	}
	settings.verbose.Store(int32(min(level, maxVerbosityLevel)))
	return "OK"
}

func processMemlimitCommand(c *conn, pr *parser) string {
	memlimit, ok := toksize(pr.token(1), 1<<20)
	switch {
	case !ok:
		return "ERROR"
	case memlimit < 8<<20:
		return "MEMLIMIT_TOO_SMALL cannot set maxbytes to less than 8m"
	case memlimit > 1000000000<<20:
		return "MEMLIMIT_ADJUST_FAILED input value is megabytes not bytes"
	case !slabsAdjustMemLimit(memlimit):
		return "MEMLIMIT_ADJUST_FAILED out of bounds or unable to adjust"
	}
	verbosef(1, "maxbytes adjusted to %dm", memlimit>>20)
	return "OK"
}

func processLruCommand(c *conn, pr *parser) string {
	switch sub := subcommandToken; {
	case pr.prcmp(sub, "tune") && pr.ntokens >= 6:
		return processLruTune(pr)
	case pr.ntokens < 3 || !settings.lru.maintainerThread:
	case pr.prcmp(sub, "mode") && pr.prcmp(2, "flat"):
		settings.lru.segmented.Store(false)
		return "OK"
	case pr.prcmp(sub, "mode") && pr.prcmp(2, "segmented"):
		settings.lru.segmented.Store(true)
		return "OK"
	case pr.prcmp(sub, "temp_ttl"):
		ttl, ok := tokto32(pr.token(2))
		if !ok {
			break
		}
		if ttl >= 0 {
			settings.lru.temporaryTtl.Store(uint32(ttl))
		}
		settings.lru.tempLru.Store(ttl >= 0)
		return "OK"
	}
	return "ERROR"
}

// processLruTune: lru tune <hot %> <warm %> <hot age factor> <warm age factor>
func processLruTune(pr *parser) string {
	pctHot, ok := toktou32(pr.token(2))
	pctWarm, ok2 := toktou32(pr.token(3))
	hotFactor, ok3 := toktod(pr.token(4))
	factor, ok4 := toktod(pr.token(5))
	switch {
	case !ok || !ok2 || !ok3 || !ok4:
		return "ERROR"
	case uint64(pctHot)+uint64(pctWarm) > 80:
		return "ERROR hot and warm pcts must not exceed 80"
	case !(factor > 0) || !(hotFactor > 0):
		return "ERROR hot/warm age factors must be greater than 0"
	}
	settings.lru.hotLruPct.Store(int32(pctHot))
	settings.lru.warmLruPct.Store(int32(pctWarm))
	settings.lru.hotMaxFactor.Store(hotFactor)
	settings.lru.warmMaxFactor.Store(factor)
	return "OK"
}

// processExtstoreCommand: extstore <setting> <value>
func processExtstoreCommand(c *conn, pr *parser) string {
	if pr.ntokens > 3 && pr.prcmp(subcommandToken, "free_memchunks") {
		// A setting of former versions, which is ignored.
		clsid, ok := toktou32(pr.token(2))
		if _, ok2 := toktou32(pr.token(3)); ok && ok2 && clsid < maxNumberOfSlabClasses {
			return "OK"
		}
	}
	return processNumber(pr)
}

func processShutdownCommand(c *conn, pr *parser) string {
	sig := unix.SIGINT
	switch {
	case !settings.shutdownCommand:
		return "SERVER_ERROR: shutdown not enabled"
	case pr.ntokens == 1:
	case pr.ntokens == 2 && pr.prcmp(subcommandToken, "graceful"):
		sig = unix.SIGUSR1
	default:
		return "CLIENT_ERROR invalid shutdown mode"
	}
	c.closeReason = shutdownClose
	connSetState(c, connClosing)
	unix.Kill(os.Getpid(), sig)
	return ""
}

var reassignTexts = [...]string{
	reassignOk:         "OK",
	reassignRunning:    "BUSY currently processing reassign request",
	reassignBadclass:   "BADCLASS invalid src or dst class id",
	reassignNospare:    "NOSPARE source class has no spare pages",
	reassignSrcDstSame: "SAME src and dst class are identical",
}

// processSlabsCommand: slabs reassign <from> <to>, or slabs automove, which is C's
// process_slabs_automove_command.
func processSlabsCommand(c *conn, pr *parser) string {
	if pr.ntokens != 4 || !pr.prcmp(subcommandToken, "reassign") {
		return processNumber(pr)
	}
	if !settings.slab.reassign {
		return "CLIENT_ERROR slab reassignment disabled"
	}
	src, ok := tokto32(pr.token(2))
	dst, ok2 := tokto32(pr.token(3))
	if !ok || !ok2 {
		return errBadFormat
	}
	return reassignTexts[slabsReassign(int(src), int(dst), slabsReassignAllowEvictions)]
}

func processLruCrawlerCommand(c *conn, pr *parser) string {
	switch sub := subcommandToken; {
	case pr.ntokens == 3 && pr.prcmp(sub, "crawl"):
		if !settings.lru.crawler.Load() {
			return errCrawlerDisabled
		}
		return crawlTexts[lruCrawlerCrawl(string(pr.token(2)), crawlerExpired, nil, settings.lru.crawlerTocrawl.Load())]
	case pr.ntokens == 3 && pr.prcmp(sub, "metadump"):
		return processLruCrawlerDump(c, pr, crawlerMetadump, "metadump", "metadump")
	case pr.ntokens == 3 && pr.prcmp(sub, "mgdump"):
		return processLruCrawlerDump(c, pr, crawlerMgdump, "mgdump", "key dump")
	case pr.ntokens == 3:
		return processNumber(pr)
	case pr.ntokens == 2 && pr.prcmp(sub, "enable"):
		if startItemCrawlerThread() != 0 {
			return "ERROR failed to start lru crawler thread"
		}
		return "OK"
	case pr.ntokens == 2 && pr.prcmp(sub, "disable"):
		stopItemCrawlerThread()
		return "OK"
	}
	return "ERROR"
}

// processLruCrawlerDump hands c to the crawler thread, which owns c until the
// dump is done. what is the dump's name in a refusal.
func processLruCrawlerDump(c *conn, pr *parser, kind crawlerRunType, name, what string) string {
	switch {
	case !settings.lru.crawler.Load():
		return errCrawlerDisabled
	case !settings.dumpEnabled:
		return "ERROR " + what + " not allowed"
	case c.resp.count > 1:
		return "ERROR cannot pipeline other commands before " + name
	}
	res := lruCrawlerCrawl(string(pr.token(2)), kind, c, lruCrawlerCapRemaining)
	if res != crawlerOk {
		return crawlTexts[res]
	}
	connHandOver(c)
	return ""
}

// The answers to a request to the crawler.
var crawlTexts = [...]string{
	crawlerOk:         "OK",
	crawlerRunning:    "BUSY currently processing crawler request",
	crawlerBadclass:   "BADCLASS invalid class id",
	crawlerNotstarted: "NOTSTARTED no items to crawl",
	crawlerError:      "ERROR an unknown error happened",
}

// An adminCommand returns its answer, or "" if c gets none or already has it.
type adminCommand struct {
	name    string
	process func(c *conn, pr *parser) string
}

var adminCommands = []adminCommand{
	{"shutdown", processShutdownCommand},
	{"slabs", processSlabsCommand},
	{"cache_memlimit", processMemlimitCommand},
	{"lru_crawler", processLruCrawlerCommand},
	{"verbosity", processVerbosityCommand},
	{"lru", processLruCommand},
	{"extstore", processExtstoreCommand},
}

// processAdminCommand serves the rare commands. Unlike the common ones, they may
// follow spaces. (C: text_cmd_entries)
func processAdminCommand(c *conn, pr *parser) {
	name := string(pr.token(commandToken))
	for _, table := range [...][]adminCommand{adminCommands, debugCommands} {
		for _, a := range table {
			if a.name == name {
				if answer := a.process(c, pr); answer != "" {
					outString(c, answer)
				}
				return
			}
		}
	}
	switch {
	case name == "flush_all":
		processFlushAllCommand(c, pr)
	case processRefreshCertsCommand(c, pr):
	case pr.ntokens > 1 && bytes.HasPrefix(pr.token(pr.ntokens-1), []byte("HTTP/")):
		closeAfterReplies(c)
	default:
		outString(c, "ERROR")
	}
}

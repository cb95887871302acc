// The LRU crawler: a thread that walks LRUs or the hash table, to reclaim
// expired items or to dump all. From crawler.c; its scheduling,
// lru_maintainer_crawler_check, is from items.c.

package main

import (
	"encoding/base64"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

type crawlerRunType int

const (
	crawlerAutoexpire crawlerRunType = iota
	crawlerExpired
	crawlerMetadump
	crawlerMgdump
)

// dumps reports whether a crawl of this kind is for a client. Other crawls look at
// items with the LRU locked.
func (kind crawlerRunType) dumps() bool { return kind >= crawlerMetadump }

type crawlerResultType int

const (
	crawlerOk crawlerResultType = iota
	crawlerRunning
	crawlerBadclass
	crawlerNotstarted
	crawlerError
)

const (
	// Stands for the size of the LRU at the start of the crawl.
	lruCrawlerCapRemaining = 1<<32 - 1

	// Bytes of buffer that hold the line of any item.
	lruCrawlerMinbufspace = 8192

	// A client that has read nothing for this many seconds counts as stalled, or is
	// dropped.
	lruCrawlerStall    = 10
	lruCrawlerPatience = 1800

	crawlsPersleep = 1000 // items between two sleeps

	// Every LRU is crawled at least once per hour.
	maxMaintcrawlWait = 60 * 60 // seconds
)

// What a crawl for expired items found in one LRU.
type crawlerstatsT struct {
	histo              [60]uint64 // live items, by minutes until they expire
	noexp              uint64     // items that never expire
	reclaimed          uint64
	seen               uint64
	startTime, endTime relTime
	runComplete        bool // the crawl is complete, and the maintainer has not seen it yet
}

type crawlerExpiredData struct {
	lock         sync.Mutex
	crawlerstats [powerLargest]crawlerstatsT
}

// A crawlerClient receives a dump. While the crawler has c, only the crawler writes
// to the socket; the fields of c still belong to the worker.
type crawlerClient struct {
	c   *conn // nil if there is no client, or it was dropped
	buf []byte
	mem []byte // where buf begins, for bufFree
}

// The crawl in progress.
type crawlerModule struct {
	running bool
	kind    crawlerRunType
	hash    bool // walk the hash table, not LRUs
	data    *crawlerExpiredData
	c       crawlerClient
}

// A crawler walks one LRU, from the tail. Its place there is crawlerItem.
type crawler struct {
	remaining                     uint32 // items left plus one; 0 for no limit
	reclaimed, unfetched, checked uint64
}

// The crawler's thread. It owns mod and the active crawlers.
var lruCrawler struct {
	// Held by the thread while it reads items. C uses lru_crawler_lock for this:
	// there a worker that needs the lock waits for the whole crawl, or for ever if
	// pause_threads holds the lock and waits for the worker.
	moves sync.Mutex

	// The client is stalled. Crawlers then do not block lruPullTail, and the dump
	// misses items that lruPullTail moves past them.
	stalled atomic.Bool

	lock         sync.Mutex // guards the rest; comes before an LRU's
	cond         sync.Cond
	mod          crawlerModule
	crawlers     [powerLargest]crawler
	crawling     []int // LRUs with an active crawler
	blockAeUntil relTime
	runThread    bool
}

// For each LRU: when the maintainer starts the next crawl, and how many seconds
// beyond the minimum it waits between crawls.
var crawlSchedule struct{ next, wait [powerLargest]relTime }

// lruCrawlerReleaseClient gives the conn back to its worker: by redispatchConn, or by
// sidethreadConnClose to be closed.
func lruCrawlerReleaseClient(c *crawlerClient, give func(c *conn)) {
	give(c.c)
	bufFree(c.mem)
	*c = crawlerClient{}
}

func crawlerExpiredInit(cm *crawlerModule) {
	if cm.data == nil {
		cm.data = new(crawlerExpiredData)
	}
	d := cm.data
	d.lock.Lock()
	for i := range d.crawlerstats {
		d.crawlerstats[i] = crawlerstatsT{startTime: currentTime.Load()}
	}
	d.lock.Unlock()
}

func crawlerExpiredDoneclass(cm *crawlerModule, i int) {
	d := cm.data
	d.lock.Lock()
	d.crawlerstats[i].endTime = currentTime.Load()
	d.crawlerstats[i].runComplete = true
	d.lock.Unlock()
}

func crawlerExpiredEval(cm *crawlerModule, it *item, i int) {
	d := cm.data
	now := currentTime.Load()
	isFlushed := itemIsFlushed(it)
	isValid := it.itFlags&itemHdr == 0 || storageValidateItem(it)
	d.lock.Lock()
	s := &d.crawlerstats[i]
	if itemIsExpired(it, now) || isFlushed || !isValid {
		lruCrawler.crawlers[i].reclaimed++
		s.reclaimed++
		if settings.verbose.Load() > 1 {
			fmt.Fprintf(os.Stderr, "LRU crawler found an expired item (flags: %d, slab: %d): %s\n",
				it.itFlags, it.slabsClsid, it.key())
		}
		if it.itFlags&itemFetched == 0 && !isFlushed {
			lruCrawler.crawlers[i].unfetched++
		}
		doItemUnlinkNolock(it, hash(it.key()))
	} else {
		s.seen++
		if it.exptime == 0 {
			s.noexp++
		} else if minute := int(it.exptime-now) / 60; minute < len(s.histo) {
			s.histo[minute]++
		}
	}
	d.lock.Unlock()
}

func crawlerMetadumpInit(cm *crawlerModule) {
	cm.c.mem, _ = bufAlloc(16 * lruCrawlerMinbufspace)
	cm.c.buf = append(cm.c.mem[:0], "OK\r\n"...)
}

func crawlerMetadumpEval(cm *crawlerModule, it *item) {
	// Ignore expired content.
	if itemIsExpired(it, currentTime.Load()) || itemIsFlushed(it) ||
		it.itFlags&itemHdr != 0 && !storageValidateItem(it) {
		return
	}
	b := append(cm.c.buf, "key="...)
	b = uriencode(b, it.key())
	exp := int64(-1)
	if it.exptime != 0 {
		exp = int64(it.exptime) + processStarted
	}
	b = logNumber(b, " exp=", exp)
	b = logNumber(b, " la=", int64(currentTime.Load()-itemAge(it))+processStarted)
	b = strconv.AppendUint(append(b, " cas="...), it.cas(), 10)
	b = logText(b, " fetch=", yesno(it.itFlags&itemFetched != 0))
	b = logNumber(b, " cls=", int64(it.clsid()))
	b = logNumber(b, " size=", int64(it.ntotal()))
	b = logNumber(b, " flags=", int64(it.clientFlags()))
	if it.itFlags&itemHdr != 0 {
		b = logNumber(b, " ext_page=", int64(it.hdr().pageId))
		b = logNumber(b, " ext_offset=", int64(it.hdr().offset))
	}
	cm.c.buf = append(b, " \n"...)
}

func crawlerMgdumpEval(cm *crawlerModule, it *item) {
	// Ignore expired content.
	if itemIsExpired(it, currentTime.Load()) || itemIsFlushed(it) {
		return
	}
	b := append(cm.c.buf, "mg "...)
	if it.itFlags&itemKeyBinary != 0 {
		b = append(base64.StdEncoding.AppendEncode(b, it.key()), " b"...)
	} else {
		b = append(b, it.key()...)
	}
	cm.c.buf = append(b, "\r\n"...)
}

// crawlerFinalize ends a dump.
func crawlerFinalize(cm *crawlerModule) {
	switch cm.kind {
	case crawlerMetadump:
		cm.c.buf = append(cm.c.buf, "END\r\n"...)
	case crawlerMgdump:
		cm.c.buf = append(cm.c.buf, "EN\r\n"...)
	}
}

// crawlerEval looks at an item of LRU i. The item is locked.
func crawlerEval(cm *crawlerModule, it *item, i int) {
	switch cm.kind {
	case crawlerMetadump:
		crawlerMetadumpEval(cm, it)
	case crawlerMgdump:
		crawlerMgdumpEval(cm, it)
	default:
		crawlerExpiredEval(cm, it, i)
	}
}

// lruCrawlerSend sends as much as the socket accepts at once. It returns false if
// some is left.
func lruCrawlerSend(c *crawlerClient) bool {
	for c.c != nil && len(c.buf) > 0 {
		n, e := sidethreadWrite(c.c, c.buf)
		switch {
		case n > 0:
			c.buf = c.buf[:copy(c.buf, c.buf[n:])]
		case e == unix.EAGAIN:
			return false
		case e != unix.EINTR:
			lruCrawlerReleaseClient(c, sidethreadConnClose)
		}
	}
	return true
}

// lruCrawlerPoll waits until the socket is writable or has an error. It drops a
// client that reads nothing for lruCrawlerPatience seconds.
func lruCrawlerPoll(c *crawlerClient) {
	defer lruCrawler.stalled.Store(false)
	for sec := 0; sec < lruCrawlerPatience; {
		fds := [1]unix.PollFd{{Fd: int32(c.c.sfd), Events: unix.POLLOUT}}
		n, err := unix.Poll(fds[:], 1000)
		switch {
		case n > 0:
			return
		case err == nil:
			sec++
			lruCrawler.stalled.Store(sec >= lruCrawlerStall)
		case err != unix.EINTR:
			sec = lruCrawlerPatience
		}
	}
	lruCrawlerReleaseClient(c, sidethreadConnClose)
}

// lruCrawlerRoom makes room for a line in the buffer. It sends all that is in it, and
// releases lruCrawler.moves while it waits for the client. It returns false if the
// client of a dump is gone.
func lruCrawlerRoom(cm *crawlerModule) bool {
	c := &cm.c
	if c.c != nil && cap(c.buf)-len(c.buf) < lruCrawlerMinbufspace {
		for !lruCrawlerSend(c) {
			lruCrawler.moves.Unlock()
			lruCrawlerPoll(c)
			lruCrawler.moves.Lock()
		}
	}
	return c.c != nil || !cm.kind.dumps()
}

// lruCrawlerRest briefly releases lruCrawler.moves for other threads: on every call
// if lru_crawler_sleep is 0; otherwise it sleeps meanwhile, once crawls has run down
// to 0. It returns the number of items until the next sleep.
func lruCrawlerRest(crawls int) int {
	sleep := settings.lru.crawlerSleep.Load()
	if sleep != 0 && crawls > 0 {
		return crawls
	}
	lruCrawler.moves.Unlock()
	if sleep != 0 {
		usleep(int(sleep))
	}
	lruCrawler.moves.Lock()
	return crawlsPersleep
}

// itemCrawlHash walks the hash table. It waits for the client only between
// buckets, so the buffer grows if the items of one bucket do not fit. Unlike in C,
// the table may grow during the walk.
func itemCrawlHash(cm *crawlerModule) {
	crawls := crawlsPersleep
	for pos, more := uint32(0), true; more && lruCrawlerRoom(cm); more = pos != 0 {
		pos = assocWalk(pos, func(it *item) {
			crawlerEval(cm, it, 0)
			crawls--
		})
		crawls = lruCrawlerRest(crawls)
	}
	cm.hash = false
}

// itemCrawlLrus moves the active crawlers past one item each, in turn, until
// all are done.
func itemCrawlLrus(cm *crawlerModule) {
	crawls := crawlsPersleep
	lruCrawler.lock.Lock()
	for n := 0; len(lruCrawler.crawling) > 0; {
		n %= len(lruCrawler.crawling)
		i := lruCrawler.crawling[n]
		lruCrawler.lock.Unlock()
		done := itemCrawlLru(cm, i)
		crawls = lruCrawlerRest(crawls - 1)
		lruCrawler.lock.Lock()
		if done {
			lruCrawler.crawling = slices.Delete(lruCrawler.crawling, n, n+1)
		} else {
			n++
		}
	}
	lruCrawler.lock.Unlock()
}

// itemCrawlLru moves crawler i past one item. It returns true if the crawler
// is done (C: lru_crawler_class_done).
func itemCrawlLru(cm *crawlerModule, i int) bool {
	wanted := lruCrawlerRoom(cm)
	cr := &lruCrawler.crawlers[i]
	l := &lrus[i]
	l.lock.Lock()
	it := crawlerItem(i).prev.item()
	if it == nil || cr.remaining == 1 || !wanted {
		verbosef(3, "Nothing left to crawl for %d", i)
		doItemUnlinktailQ(crawlerItem(i))
		doItemStatsAddCrawl(i, cr.reclaimed, cr.unfetched, cr.checked)
		l.lock.Unlock()
		if !cm.kind.dumps() {
			crawlerExpiredDoneclass(cm, i)
		}
		return true
	}
	lock := uint32(it.lock)
	hold := itemTrylock(lock)
	if hold == nil && cm.kind.dumps() {
		// Unlike C, wait for a locked item: a dump should not miss it.
		l.lock.Unlock()
		itemLock(lock)
		itemUnlock(lock)
		return false
	}
	doItemCrawlQ(crawlerItem(i))
	if cr.remaining > 0 {
		cr.remaining--
	}
	if cm.kind.dumps() {
		l.lock.Unlock()
	}
	// A crawl for expired items skips one that is locked or referenced.
	if cm.kind.dumps() || hold != nil && it.refcount == 1 {
		cr.checked++
		crawlerEval(cm, it, i)
	}
	if !cm.kind.dumps() {
		l.lock.Unlock()
	}
	if hold != nil {
		itemTrylockUnlock(hold)
	}
	return false
}

func itemCrawlerThread() {
	verbosef(3, "Starting LRU crawler background thread")
	cm := &lruCrawler.mod
	lruCrawler.lock.Lock()
	for lruCrawler.runThread || cm.running {
		switch {
		case !cm.running:
			lruCrawler.cond.Wait()

		case cm.hash || len(lruCrawler.crawling) > 0:
			lruCrawler.lock.Unlock()
			lruCrawler.moves.Lock()
			if cm.hash {
				itemCrawlHash(cm)
			} else {
				itemCrawlLrus(cm)
			}
			lruCrawler.moves.Unlock()
			crawlerFinalize(cm)
			lruCrawler.lock.Lock()

		case !lruCrawlerSend(&cm.c):
			lruCrawler.lock.Unlock()
			lruCrawlerPoll(&cm.c)
			lruCrawler.lock.Lock()

		default:
			// lruCrawler.lock is held until the module is cleared, so that a
			// client that has read the end of its dump finds the crawler idle.
			verbosef(3, "LRU crawler thread sleeping")
			statsState.lruCrawlerRunning.Store(false)
			if cm.c.c != nil {
				lruCrawlerReleaseClient(&cm.c, redispatchConn)
			}
			*cm = crawlerModule{}
		}
	}
	settings.lru.crawler.Store(false)
	lruCrawler.lock.Unlock()
	verbosef(3, "LRU crawler thread stopping")
}

// stopItemCrawlerThread makes the thread end after the crawl in progress.
func stopItemCrawlerThread() {
	lruCrawler.lock.Lock()
	lruCrawler.runThread = false
	lruCrawler.cond.Signal()
	lruCrawler.lock.Unlock()
}

// startItemCrawlerThread returns -1 if the thread is running. If a thread is about
// to stop, it continues instead.
func startItemCrawlerThread() int {
	lruCrawler.lock.Lock()
	defer lruCrawler.lock.Unlock()
	if lruCrawler.runThread {
		return -1
	}
	lruCrawler.runThread = true
	if !settings.lru.crawler.Load() {
		settings.lru.crawler.Store(true)
		lruCrawler.cond.L = &lruCrawler.lock
		go itemCrawlerThread()
	}
	return 0
}

// doLruCrawlerStart starts the crawler of LRU sid, unless it is active. It
// returns the number of crawlers started, 0 or 1.
func doLruCrawlerStart(sid int, remaining uint32) int {
	if slices.Contains(lruCrawler.crawling, sid) {
		return 0
	}
	verbosef(3, "Kicking LRU crawler off for LRU %d", sid)
	l := &lrus[sid]
	l.lock.Lock()
	if remaining == lruCrawlerCapRemaining {
		remaining = uint32(doGetLruSize(sid))
	}
	it := crawlerItem(sid)
	it.slabsClsid = uint8(sid)
	doItemLinktailQ(it)
	l.lock.Unlock()
	if remaining > 0 {
		remaining++
	}
	lruCrawler.crawlers[sid] = crawler{remaining: remaining}
	lruCrawler.crawling = append(lruCrawler.crawling, sid)
	return 1
}

// lruCrawlerStart starts a crawl of the LRUs in ids, or of the hash table if
// ids is nil. It visits up to remaining items of each LRU, or all if remaining is
// 0. data is for crawlerAutoexpire, c for a dump.
func lruCrawlerStart(ids *[powerLargest]bool, remaining uint32, kind crawlerRunType, data *crawlerExpiredData, c *conn) crawlerResultType {
	lruCrawler.lock.Lock()
	defer lruCrawler.lock.Unlock()
	if !lruCrawler.runThread {
		return crawlerError
	}
	cm := &lruCrawler.mod
	now := currentTime.Load()
	// The maintainer may restart LRUs before all are done.
	if cm.running && !(kind == crawlerAutoexpire && cm.kind == crawlerAutoexpire) {
		lruCrawler.blockAeUntil = now + 60
		return crawlerRunning
	}
	if kind == crawlerAutoexpire && lruCrawler.blockAeUntil > now {
		return crawlerRunning
	}
	if kind.dumps() && c.transport == udpTransport || // no connection to write to
		!kind.dumps() && ids == nil { // crawlerExpiredEval needs an LRU to lock
		return crawlerError
	}

	if ids != nil {
		starts := 0
		for sid := powerSmallest; sid < powerLargest; sid++ {
			if ids[sid] {
				starts += doLruCrawlerStart(sid, remaining)
			}
		}
		if starts == 0 {
			return crawlerNotstarted
		}
	}
	if !cm.running {
		*cm = crawlerModule{running: true, kind: kind, hash: ids == nil, data: data, c: crawlerClient{c: c}}
		if kind.dumps() {
			crawlerMetadumpInit(cm)
		} else {
			crawlerExpiredInit(cm)
		}
	}
	statsState.lruCrawlerRunning.Store(true)
	stats.lruCrawlerStarts.Add(1)
	lruCrawler.cond.Signal()
	return crawlerOk
}

// lruCrawlerCrawl starts a crawl for a client. slabs is a list of slab
// classes, "all", or "hash". If it returns crawlerOk for a dump, the worker
// must hand c over.
func lruCrawlerCrawl(slabs string, kind crawlerRunType, c *conn, remaining uint32) crawlerResultType {
	var tocrawl [powerLargest]bool
	switch slabs {
	case "all":
		for sid := range tocrawl {
			tocrawl[sid] = true
		}
	case "hash":
		return lruCrawlerStart(nil, remaining, kind, nil, c)
	default:
		for p := range strings.SplitSeq(slabs, ",") {
			if p == "" {
				continue
			}
			sid, ok := safeStrtoul([]byte(p))
			if !ok || sid < powerSmallest || sid >= maxNumberOfSlabClasses {
				return crawlerBadclass
			}
			for _, lruType := range lruTypeMap {
				tocrawl[int(sid)|lruType] = true
			}
		}
	}
	return lruCrawlerStart(&tocrawl, remaining, kind, nil, c)
}

// Between lruCrawlerPause and lruCrawlerResume the crawler does not move.
func lruCrawlerPause() { lruCrawler.moves.Lock() }

func lruCrawlerResume() { lruCrawler.moves.Unlock() }

// lruMaintainerCrawlerCheck starts the crawlers that are due. It is called
// once a second.
//
// A crawl counts how many items will expire in each minute of the next hour.
// After each crawl the wait until the LRU's next crawl moves one minute towards the
// minute by which more than 1% of the items that can expire will have expired. If
// no item will expire within the hour it grows by a minute, up to an hour. It starts
// at 0, so that a new server crawls often at first.
func lruMaintainerCrawlerCheck(cdata *crawlerExpiredData) {
	now := currentTime.Load()
	var todo [powerLargest]bool
	doRun := false
	tocrawlLimit := uint32(0)
	for i := powerSmallest; i < powerLargest; i++ {
		cdata.lock.Lock()
		if s := &cdata.crawlerstats[i]; s.runComplete {
			scheduleCrawl(i, s, now)
			s.runComplete = false // until the next crawl ends
		}
		cdata.lock.Unlock()
		if now > crawlSchedule.next[i] {
			l := &lrus[i]
			l.lock.Lock()
			tocrawlLimit = max(tocrawlLimit, uint32(doGetLruSize(i)))
			l.lock.Unlock()
			todo[i] = true
			doRun = true
			crawlSchedule.next[i] = now + 5 // minimum retry wait
		}
	}
	if doRun {
		if tocrawl := settings.lru.crawlerTocrawl.Load(); tocrawl != 0 {
			tocrawlLimit = min(tocrawlLimit, tocrawl)
		}
		lruCrawlerStart(&todo, tocrawlLimit, crawlerAutoexpire, cdata, nil)
	}
}

// scheduleCrawl decides when LRU i is crawled again, from what the last crawl found.
func scheduleCrawl(i int, s *crawlerstatsT, now relTime) {
	wait := crawlSchedule.wait[i]
	possibleReclaims := s.seen - s.noexp
	availableReclaims := uint64(0)
	// The next crawl should free at least 1% of them.
	lowWatermark := possibleReclaims/100 + 1
	for x, n := range s.histo {
		availableReclaims += n
		if availableReclaims > lowWatermark {
			if wait < relTime(x*60) {
				wait += 60
			} else if wait >= 60 {
				wait -= 60
			}
			break
		}
	}
	if availableReclaims == 0 {
		wait += 60
	}
	crawlSchedule.wait[i] = min(wait, maxMaintcrawlWait)
	crawlSchedule.next[i] = now + crawlSchedule.wait[i] + 5
	lruName := [...]string{"hot", "warm", "cold", "temp"}[i>>6]
	loggerLogText(loggerCrawlerStatus, i&^(3<<6), lruName, lowWatermark, availableReclaims,
		now-s.endTime, crawlSchedule.wait[i]+5, s.endTime-s.startTime, s.seen, s.reclaimed)
}

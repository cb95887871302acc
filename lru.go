// The LRUs: pulling their tails, the maintainer thread and its bump buffers,
// and the links of the crawlers. From items.c, lru_pull_tail to the end, and
// the static variables at its head.

package main

import (
	"fmt"
	"math"
	"os"
	"sync"
)

const powerLargest = 256 // number of LRUs; an item's slabsClsid is the index of its own

// The four LRUs of a slab class.
const (
	hotLru  = 0
	warmLru = 64
	coldLru = 128
	tempLru = 192
)

var lruTypeMap = [4]int{hotLru, warmLru, coldLru, tempLru}

// Flags of lruPullTail.
const (
	lruPullEvict       = 1
	lruPullCrawlBlocks = 2
	lruPullReturnItem  = 4
)

// Counters of an LRU (itemstats_t), in the order of stats items.
const (
	itemsTotal = iota // ever linked; for total_items
	itemsEvicted
	itemsEvictedNonzero
	itemsEvictedTime // not a counter: seconds since last access, of the item evicted last
	itemsOutofmemory
	itemsTailrepairs
	itemsReclaimed
	itemsExpiredUnfetched // reclaimed but never touched
	itemsEvictedUnfetched // evicted but never touched
	itemsEvictedActive    // evicted although active
	itemsCrawlerReclaimed
	itemsCrawlerItemsChecked
	itemsLrutailReflocked
	itemsMovesToCold
	itemsMovesToWarm
	itemsMovesWithinLru
	itemsDirectReclaims
	numItemstats
)

// Not as in C, which has an array for each field and one for the locks: what
// linking an item touches lies together.
type lru struct {
	lock       sync.Mutex // guards all of it, and next and prev of its items
	head, tail ref
	size       int    // items (sizes)
	sizeBytes  uint64 // bytes of all items (sizes_bytes)
	n          [numItemstats]uint64
	_          [24]byte // pads to a multiple of a cache line
}

var lrus [powerLargest]lru

// What doPullItem did to an item.
type pullResult int

const (
	pullNothing pullResult = iota // it stays; the search ends
	pullSkipped                   // tail repair, not counted; the search goes on
	pullRemoved                   // no longer at the tail; the search goes on
	pullMoved                     // unlinked; the caller links it into another LRU
	pullEvicted
)

// Hits to items in COLD are handled asynchronously: the worker queues them in
// its own ring, and the maintainer moves the items to WARM.
const lruBumpBufSize = 8192 // entries

// An entry holds a reference to the item.
type lruBumpEntry struct {
	it ref
	hv uint32
}

type lruBumpBuf struct {
	mutex   sync.Mutex
	head    int // the oldest entry
	used    int // entries
	dropped uint64
	ring    [lruBumpBufSize]lruBumpEntry
}

var (
	bumpBufLock sync.Mutex
	bumpBufs    []*lruBumpBuf // one per worker
)

// Microseconds.
const (
	maxLruMaintainerSleep = 1000000 - 1
	minLruMaintainerSleep = 5000 // 1000 in C; each sleep costs a wake-up
)

// The LRU maintainer's thread.
var lruMaintainer struct {
	lock      sync.Mutex // held by the thread while it is awake
	runThread bool
	done      chan struct{} // closed when the thread has ended
}

// A juggler says when its slab class is juggled next. Each has its own sleep,
// to avoid hammering locks.
type juggler struct{ next, backoff int } // microseconds

// crawlerItem returns the item that marks the crawler's place in LRU i. It is
// guarded by that LRU's lock.
func crawlerItem(i int) *item { return memItem((i + 1) * memAlign(itemSize)) }

// isCrawler reports whether it, found in an LRU, is a crawler's. It uses the
// address alone: before an item is locked, only its links and its lock field
// may be read.
func isCrawler(it *item) bool { return memOff(it) < slabsStart }

// doTailAge returns the seconds since the last access to the LRU's last item.
// The LRU is locked, but not the item.
func doTailAge(l *lru) relTime {
	it := l.tail.item()
	for it != nil && isCrawler(it) {
		it = it.prev.item()
	}
	if it == nil {
		return 0
	}
	return itemAge(it)
}

// lruPullTail looks at the last items of an LRU: it removes the expired ones,
// and moves one to where it belongs or evicts it. It returns the number of
// items removed or moved. Background threads may call it, and workers, which
// may hold the lock of another item. totalBytes is the size of the class's
// HOT, WARM and COLD; items of HOT and WARM unused for more than maxAge
// seconds go to COLD. With lruPullEvict it evicts one from any LRU, past those in
// use, and returns -1 if it could not since items were locked. With
// lruPullReturnItem the last item of COLD stays there, and is returned in retIt,
// locked and with a reference.
func lruPullTail(origId, curLru int, totalBytes uint64, flags int, maxAge relTime, retIt **item) int {
	if origId == 0 {
		return 0
	}
	l := &lrus[origId|curLru]
	removed, locked := 0, false
	var next *item
	l.lock.Lock()
	// Look at up to 5 items: go on past locked and expired ones.
	for tries, it := 5, l.tail.item(); tries > 0 && it != nil; tries, it = tries-1, next {
		next = it.prev.item() // it might be relinked
		if isCrawler(it) {
			if flags&lruPullCrawlBlocks != 0 && !lruCrawler.stalled.Load() {
				break
			}
			tries++
			continue
		}
		// The lock order is inverted, so only try. The caller itself may hold
		// this lock.
		hold := itemTrylock(uint32(it.lock))
		if hold == nil {
			locked = true
			continue
		}
		it.refcount++
		res := doPullItem(l, it, curLru, totalBytes, flags, maxAge)
		if res != pullNothing && res != pullSkipped {
			removed++
		}
		if res == pullSkipped || res == pullRemoved {
			doItemRemove(it)
			itemTrylockUnlock(hold)
			continue
		}
		l.lock.Unlock()
		if flags&lruPullReturnItem != 0 {
			*retIt = it
			return removed
		}
		if res == pullMoved {
			itemLinkQ(it)
		}
		doItemRemove(it)
		itemTrylockUnlock(hold)
		if res == pullEvicted && settings.slab.automove.Load() == 2 {
			slabsReassign(-1, origId, slabsReassignAllowEvictions)
		}
		return removed
	}
	l.lock.Unlock()
	if removed == 0 && locked && flags&lruPullEvict != 0 {
		return -1
	}
	return removed
}

// doPullItem is lruPullTail for one item. l and the item are locked, and the
// caller has a reference.
func doPullItem(l *lru, it *item, curLru int, totalBytes uint64, flags int, maxAge relTime) pullResult {
	now := currentTime.Load()
	if it.refcount != 2 {
		// Someone else has a reference: the item can be unlinked, but its
		// memory is not free yet.
		l.n[itemsLrutailReflocked]++
		// Not as in C, which resets refcount: memory with a leaked reference
		// is not reused.
		if settings.lru.tailRepairTime != 0 && itemAge(it) > settings.lru.tailRepairTime {
			l.n[itemsTailrepairs]++
			doItemUnlinkNolock(it, hash(it.key()))
			return pullSkipped
		}
	}
	if itemIsExpired(it, now) || itemIsFlushed(it) {
		l.n[itemsReclaimed]++
		if it.itFlags&itemFetched == 0 {
			l.n[itemsExpiredUnfetched]++
		}
		doItemUnlinkNolock(it, hash(it.key()))
		return pullRemoved
	}
	if flags&lruPullEvict != 0 {
		switch {
		case !settings.evictToFree:
			return pullNothing
		case it.refcount == 2:
			doPullEvict(l, it)
			return pullEvicted
		}
		return pullAside(l, it, curLru) // not as in C: its memory would not become free
	}
	switch curLru {
	case hotLru, warmLru:
		pct := settings.lru.warmLruPct.Load()
		if curLru == hotLru {
			pct = settings.lru.hotLruPct.Load()
		}
		switch {
		case it.itFlags&itemActive != 0:
			// Active items do not go to COLD.
			return pullAside(l, it, curLru)
		case l.sizeBytes > totalBytes*uint64(pct)/100 || itemAge(it) > maxAge:
			l.n[itemsMovesToCold]++
			if curLru == warmLru {
				it.itFlags |= itemCooled
			}
			return pullMove(it, coldLru)
		}
	case coldLru:
		if flags&lruPullReturnItem != 0 {
			return pullNothing
		} else if it.itFlags&itemActive != 0 && settings.lru.segmented.Load() {
			return pullAside(l, it, curLru)
		}
	}
	return pullNothing
}

// pullAside moves an item that is in use to the head of WARM or, if it can't be
// there, of its own LRU.
func pullAside(l *lru, it *item, curLru int) pullResult {
	it.itFlags &^= itemActive
	if curLru == hotLru || curLru == coldLru && settings.lru.segmented.Load() {
		l.n[itemsMovesToWarm]++
		return pullMove(it, warmLru)
	}
	l.n[itemsMovesWithinLru]++
	doItemUnlinkQ(it)
	doItemLinkQ(it)
	return pullRemoved
}

// pullMove unlinks an item from its LRU, and assigns it to another one of its
// class.
func pullMove(it *item, toLru uint8) pullResult {
	doItemUnlinkQ(it)
	it.slabsClsid = it.clsid() | toLru
	return pullMoved
}

func doPullEvict(l *lru, it *item) {
	l.n[itemsEvicted]++
	l.n[itemsEvictedTime] = uint64(itemAge(it))
	if it.exptime != 0 {
		l.n[itemsEvictedNonzero]++
	}
	if it.itFlags&itemFetched == 0 {
		l.n[itemsEvictedUnfetched]++
	}
	if it.itFlags&itemActive != 0 {
		l.n[itemsEvictedActive]++
	}
	if loggerEflags.Load()&logEvictions != 0 {
		loggerLogEvictions(it)
	}
	doItemUnlinkNolock(it, hash(it.key()))
}

// lruClassSize returns the bytes and the number of the items in HOT, WARM and
// COLD of a class.
func lruClassSize(id int) (bytes uint64, items int) {
	for _, lru := range [...]int{hotLru, warmLru, coldLru} {
		l := &lrus[id|lru]
		l.lock.Lock()
		bytes += l.sizeBytes
		items += l.size
		l.lock.Unlock()
	}
	return bytes, items
}

// lruMakeRoom makes memory of class id free, or moves items so that the next
// try finds more. It returns false if it could do neither. It evicts the last
// item of COLD that is not in use. If there is none it does what the maintainer
// would have done: items go from HOT and WARM to COLD. Items of HOT and WARM are
// evicted only after ten tries, as those left are active.
func lruMakeRoom(id, try int) bool {
	if try < 10 && storageMakeRoom(id) {
		return true
	}
	res := lruPullTail(id, coldLru, 0, lruPullEvict, 0, nil)
	if res == 0 && try < 10 && settings.lru.segmented.Load() {
		total, _ := lruClassSize(id)
		for _, l := range [...]int{hotLru, warmLru} {
			res += lruPullTail(id, l, total, 0, math.MaxUint32, nil)
		}
	}
	for _, l := range [...]int{hotLru, warmLru, tempLru} {
		if res == 0 {
			res = lruPullTail(id, l, 0, lruPullEvict, 0, nil)
		}
	}
	if res < 0 {
		usleep(1) // the locks are held for a moment
	}
	return res != 0
}

func itemLruBumpBufCreate() *lruBumpBuf {
	b := new(lruBumpBuf)
	bumpBufLock.Lock()
	bumpBufs = append(bumpBufs, b)
	bumpBufLock.Unlock()
	return b
}

// lruBumpAsync queues a bump of the item, which is locked. It returns false
// if the ring is full.
func lruBumpAsync(b *lruBumpBuf, it *item, hv uint32) bool {
	b.mutex.Lock()
	ok := b.used < lruBumpBufSize
	if ok {
		it.refcount++
		b.ring[(b.head+b.used)%lruBumpBufSize] = lruBumpEntry{it.ref(), hv}
		b.used++
	} else {
		b.dropped++
	}
	b.mutex.Unlock()
	return ok
}

// lruMaintainerBumps does the bumps that the workers queued. It returns
// whether there were any.
func lruMaintainerBumps() bool {
	bumped := false
	bumpBufLock.Lock()
	for _, b := range bumpBufs {
		b.mutex.Lock()
		head, todo := b.head, b.used
		b.mutex.Unlock()
		if todo == 0 {
			continue
		}
		bumped = true
		// The worker writes only after these entries, so they need no lock.
		for i := range todo {
			if i%assocBatch == 0 {
				lruBumpPrefetch(b, head+i, min(todo-i, assocBatch))
			}
			be := b.ring[(head+i)%lruBumpBufSize]
			it := be.it.item()
			itemLock(be.hv)
			doItemUpdate(it)
			doItemRemove(it)
			itemUnlock(be.hv)
		}
		b.mutex.Lock()
		b.head = (head + todo) % lruBumpBufSize
		b.used -= todo
		b.mutex.Unlock()
	}
	bumpBufLock.Unlock()
	return bumped
}

func lruTotalBumpsDropped() uint64 {
	var total uint64
	bumpBufLock.Lock()
	for _, b := range bumpBufs {
		b.mutex.Lock()
		total += b.dropped
		b.mutex.Unlock()
	}
	bumpBufLock.Unlock()
	return total
}

// lruMaintainerJuggle balances the LRUs of a slab class: the excess of HOT
// and WARM goes to COLD, active items of COLD go to WARM. It returns the
// number of rounds that moved something. lruMaintainer.lock is held.
func lruMaintainerJuggle(clsid int) int {
	didMoves := 0
	if settings.lru.tempLru.Load() {
		// Only reclaims. Comes before the LRUs' sizes are summed up.
		for didMoves < 500 && lruPullTail(clsid, tempLru, 0, 0, 0, nil) > 0 {
			didMoves++
		}
	}
	// If the LRU is in flat mode, force items to drain into COLD via an age
	// of 0.
	var hotAge, warmAge relTime
	var totalBytes uint64
	segmented := settings.lru.segmented.Load()
	if segmented {
		totalBytes, _ = lruClassSize(clsid)
		l := &lrus[clsid|coldLru]
		l.lock.Lock()
		coldAge := float64(doTailAge(l))
		l.lock.Unlock()
		hotAge = relTime(min(coldAge*settings.lru.hotMaxFactor.Load(), math.MaxInt32))
		warmAge = relTime(min(coldAge*settings.lru.warmMaxFactor.Load(), math.MaxInt32))
	}
	for range 500 {
		doMore := lruPullTail(clsid, hotLru, totalBytes, lruPullCrawlBlocks, hotAge, nil)
		if doMore == 0 {
			doMore = lruPullTail(clsid, warmLru, totalBytes, lruPullCrawlBlocks, warmAge, nil)
		}
		if segmented {
			doMore += lruPullTail(clsid, coldLru, totalBytes, lruPullCrawlBlocks, 0, nil)
		}
		if doMore == 0 {
			break
		}
		didMoves++
	}
	return didMoves
}

// jugglerRun juggles the class if it is due, or nearly so: then one wake-up
// serves several classes. slept is the time since the last call, in
// microseconds.
func jugglerRun(j *juggler, clsid, slept int) {
	if j.next = max(j.next-slept, 0); j.next > j.backoff/4 {
		return
	}
	if lruMaintainerJuggle(clsid) == 0 {
		if j.backoff != 0 {
			j.backoff += j.backoff / 8
		} else {
			j.backoff = minLruMaintainerSleep
		}
		j.backoff = min(j.backoff, maxLruMaintainerSleep)
	} else if j.backoff /= 2; j.backoff < minLruMaintainerSleep {
		j.backoff = 0
	}
	j.next = j.backoff
}

func lruMaintainerThread() {
	var jugglers [maxNumberOfSlabClasses]juggler
	toSleep := minLruMaintainerSleep
	lastCrawlerCheck := relTime(0)
	cdata := new(crawlerExpiredData)
	lruMaintainer.lock.Lock()
	if settings.verbose.Load() > 2 {
		fmt.Fprintf(os.Stderr, "Starting LRU maintainer background thread\n")
	}
	for lruMaintainer.runThread {
		lruMaintainer.lock.Unlock()
		if toSleep > 0 {
			usleep(toSleep)
		}
		lruMaintainer.lock.Lock()
		// A sleep of 0 counts as 1 ms.
		slept := max(toSleep, 1000)
		toSleep = maxLruMaintainerSleep

		stats.lruMaintainerJuggles.Add(1)

		for i := powerSmallest; i < maxNumberOfSlabClasses; i++ {
			jugglerRun(&jugglers[i], i, slept)
			toSleep = min(toSleep, jugglers[i].next)
		}

		// After bumps sleep no longer than that. Unlike in C, the rings are emptied
		// in flat mode as well: they hold items.
		if lruMaintainerBumps() {
			toSleep = min(toSleep, minLruMaintainerSleep)
		}

		// At most once per second.
		if now := currentTime.Load(); settings.lru.crawler.Load() && now != lastCrawlerCheck {
			lruMaintainerCrawlerCheck(cdata)
			lastCrawlerCheck = now
		}
	}
	lruMaintainer.lock.Unlock()
	if settings.verbose.Load() > 2 {
		fmt.Fprintf(os.Stderr, "LRU maintainer thread stopping\n")
	}
	close(lruMaintainer.done)
}

// stopLruMaintainerThread waits for the thread to end, which takes up to a
// second.
func stopLruMaintainerThread() {
	lruMaintainer.lock.Lock()
	lruMaintainer.runThread = false
	lruMaintainer.lock.Unlock()
	<-lruMaintainer.done
	settings.lru.maintainerThread = false
}

func startLruMaintainerThread() {
	lruMaintainer.lock.Lock()
	lruMaintainer.runThread = true
	settings.lru.maintainerThread = true
	lruMaintainer.done = make(chan struct{})
	lruMaintainer.lock.Unlock()
	go lruMaintainerThread()
}

// Between lruMaintainerPause and lruMaintainerResume the maintainer does
// nothing.
func lruMaintainerPause() { lruMaintainer.lock.Lock() }

func lruMaintainerResume() { lruMaintainer.lock.Unlock() }

// doItemLinktailQ makes a crawler the new tail of its LRU, which is locked.
// It does not count as an item.
func doItemLinktailQ(it *item) {
	l := &lrus[it.slabsClsid]
	it.prev = l.tail
	it.next = 0
	if it.prev != 0 {
		it.prev.item().next = it.ref()
	} else {
		l.head = it.ref()
	}
	l.tail = it.ref()
}

// doItemUnlinktailQ takes a crawler, or an item, off the list.
func doItemUnlinktailQ(it *item) {
	l := &lrus[it.slabsClsid]
	if it.prev != 0 {
		it.prev.item().next = it.next
	} else {
		l.head = it.next
	}
	if it.next != 0 {
		it.next.item().prev = it.prev
	} else {
		l.tail = it.prev
	}
}

// doItemCrawlQ moves a crawler past the item before it and returns that item,
// or nil at the head. Its LRU is locked.
func doItemCrawlQ(it *item) *item {
	r := it.prev
	if r == 0 {
		return nil
	}
	passed := r.item()
	doItemUnlinktailQ(it)
	it.next = r
	it.prev = passed.prev
	passed.prev = it.ref()
	if it.prev != 0 {
		it.prev.item().next = it.ref()
	} else {
		lrus[it.slabsClsid].head = it.ref()
	}
	return passed
}

// The LRUs: pulling their tails, the maintainer thread, and the links of the
// crawlers. From items.c, lru_pull_tail to the end, the static variables at its
// head, and do_item_alloc_pull, do_item_bump and do_item_update, as the whole
// policy is here.

package main

import (
	"cmp"
	"math"
	"sync"
	"sync/atomic"
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
	lruPullSpare       = 8 // with lruPullEvict: active items go to WARM
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

// C has an array for each field and one for the locks. Here all that linking an
// item touches lies together.
type lru struct {
	lock       sync.Mutex // guards all of it, and next and prev of its items
	head, tail ref
	size       int    // items (sizes)
	sizeBytes  uint64 // bytes of all items (sizes_bytes)
	extra      uint64 // of WARM: bytes that it may have beyond its share, unless the user sets that
	n          [numItemstats]uint64
	_          [16]byte // pads to a multiple of a cache line
}

var lrus = new([powerLargest]lru) // so large that Go puts it at the start of a page

// What doPullItem did to an item.
type pullResult int

const (
	pullNothing pullResult = iota // it stays; the search ends
	pullSkipped                   // tail repair, not counted; the search goes on
	pullRemoved                   // no longer at the tail; the search goes on
	pullMoved                     // unlinked; the caller links it into another LRU
	pullEvicted
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
	wake      chan struct{} // holds one wake-up
	done      chan struct{} // closed when the thread has ended

	evicted [maxNumberOfSlabClasses]uint64 // items of each class that had been evicted when it was juggled last
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
// seconds go to COLD. With lruPullEvict it evicts one item from any LRU, skipping
// items in use, and returns -1 if it could not since items were locked. With
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
		if flags&lruPullReturnItem != 0 && res == pullNothing {
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
		// C resets refcount; but memory with a leaked reference must not be
		// reused.
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
		if !settings.evictToFree {
			return pullNothing
		}
		if it.refcount != 2 || flags&lruPullSpare != 0 && it.itFlags&itemActive != 0 {
			return pullAside(l, it, curLru) // unlike C: its memory would not become free
		}
		doPullEvict(l, it)
		return pullEvicted
	}
	switch curLru {
	case hotLru, warmLru:
		pct, warmPct := lruPcts()
		extra := uint64(0)
		if curLru == warmLru {
			pct = warmPct
			if lruHasMemory() && settings.lru.warmLruPct.Load() < 0 {
				extra = min(l.extra, l.sizeBytes/2)
			}
		}
		switch {
		case it.itFlags&itemActive != 0 && (curLru == warmLru || !lruHasMemory()):
			// Active items do not go to COLD; but see doItemBump.
			return pullAside(l, it, curLru)
		case l.sizeBytes > totalBytes*uint64(pct)/100+extra || itemAge(it) > maxAge:
			l.n[itemsMovesToCold]++
			it.itFlags &^= itemActive
			return pullMove(it, coldLru)
		}
	case coldLru:
		if it.itFlags&itemActive != 0 && settings.lru.segmented.Load() {
			return pullAside(l, it, curLru)
		}
	}
	return pullNothing
}

// pullAside moves an item that is in use to the head of WARM or, if it can't be
// there, of its own LRU. An item that is already in WARM loses one hit.
func pullAside(l *lru, it *item, curLru int) pullResult {
	if curLru == hotLru || curLru == coldLru && settings.lru.segmented.Load() {
		l.n[itemsMovesToWarm]++
		it.itFlags &^= itemActive
		return pullMove(it, warmLru)
	}
	if it.itFlags&itemActive != 0 {
		it.itFlags -= itemHit
		l.extra = min(l.extra+uint64(it.memTotal()), l.sizeBytes/2)
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
	hv := hash(it.key())
	lruRemember(hv)
	doItemUnlinkNolock(it, hv)
}

// These functions make the eviction policy:
//
//	doItemBump, doItemUpdate       what a hit does
//	doItemRewrite                  what a new value does that is written in place
//	lruRemembers, doItemReplace    where a new item starts
//	doPullItem                     what happens to the last item of each LRU
//	lruPcts, lruMaxFactors         how large and how old LRUs may become
//	lruMaintainerJuggle            when they are cut back to that
//	lruMakeRoom                    which item is evicted
//	lruRemember                    what remains of an evicted item

// doItemBump marks a hit. Separate from doItemGet, so that mg can show the item
// before bumping it.
//
// Hits are counted up to 3, and what they are worth is decided when the item comes
// to the tail of its LRU. C queues items of COLD for the maintainer, which moves
// them to WARM. In HOT hits do not matter: they say that the item is new, not that it
// will be used again. There the second hit sets the time, as in C.
//
// Without the memory hits count as in C: in each LRU, once, and not the first in
// the item's life.
func doItemBump(it *item) {
	first, most := it.itFlags&itemFetched == 0, uint16(itemActive)
	it.itFlags |= itemFetched
	if !settings.lru.segmented.Load() {
		doItemUpdate(it)
		return
	}
	if !lruHasMemory() || it.lruid() == hotLru {
		if first {
			return
		}
		most = itemHit
	}
	if first || it.itFlags&itemActive == 0 {
		atomic.StoreUint32(&it.time, itemAccess(it)) // doTailAge reads it unlocked
	}
	if it.itFlags&itemActive < most {
		it.itFlags += itemHit
	}
}

// doItemRewrite marks an item that gets a new value in its place, which counts as a
// hit.
func doItemRewrite(it *item) {
	if it.lruid() == hotLru {
		it.itFlags &^= itemActive // as if no hit had set the time
	} else if it.itFlags&itemActive < itemActive {
		it.itFlags += itemHit
	}
	doItemUpdate(it)
}

// doItemUpdate sets the time of last access. Without segments it also moves the item
// to the head of its LRU, at most once per itemUpdateInterval.
func doItemUpdate(it *item) {
	now := itemAccess(it)
	switch {
	case it.itFlags&itemLinked == 0:
	case settings.lru.segmented.Load():
		atomic.StoreUint32(&it.time, now) // doTailAge reads it unlocked
	case it.time < now-itemUpdateInterval:
		itemUnlinkQ(it)
		it.time = now
		itemLinkQ(it)
	}
}

// lruClassSize returns the bytes and the number of the items in HOT, WARM and
// COLD of a class, and how many have been evicted from there.
func lruClassSize(id int) (bytes uint64, items int, evicted uint64) {
	for _, lru := range [...]int{hotLru, warmLru, coldLru} {
		l := &lrus[id|lru]
		l.lock.Lock()
		bytes += l.sizeBytes
		items += l.size
		evicted += l.n[itemsEvicted]
		l.lock.Unlock()
	}
	return bytes, items, evicted
}

// doItemAllocPull allocates a chunk of class id, evicting if need be. hv is
// as for slabsAlloc. The caller may hold an item lock, but no LRU's. C stops
// after ten tries; here it fails only if every item of the class is in use, or
// with -M. With must it does not fail even then: it evicts chunked items as well,
// whose parts may fill the class, and takes a page beyond the limit.
//
// The work is bounded: after ten tries there is one for each item at most, and
// so many only if all are in use. A try looks at five items of each LRU of the
// class, and no lock is held from one to the next.
func doItemAllocPull(id int, hv uint32, must bool) *item {
	if !settings.lru.segmented.Load() {
		lruPullTail(id, coldLru, 0, 0, 0, nil) // try to reclaim memory first
	}
	it := slabsAlloc(id, hv, 0)
	i := 0
	for limit := 10; it == nil && i < limit; i++ {
		if !lruMakeRoom(id, i) && !(must && lruMakeRoom(largestClsid, i)) {
			break
		}
		it = slabsAlloc(id, hv, 0)
		if it == nil && i == 9 && settings.evictToFree {
			_, n, _ := lruClassSize(id)
			_, chunked, _ := lruClassSize(largestClsid)
			limit += n + chunked
		}
	}
	if it == nil && must && settings.evictToFree {
		it = slabsAlloc(id, hv, slabsAllocBeyond)
	}
	if i > 0 {
		l := &lrus[id]
		l.lock.Lock()
		l.n[itemsDirectReclaims] += uint64(i)
		l.lock.Unlock()
	}
	return it
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
	spare, evict := try < 10 && settings.lru.segmented.Load(), lruPullEvict
	if spare {
		evict |= lruPullSpare
	}
	res := lruPullTail(id, coldLru, 0, evict, 0, nil)
	if res == 0 && spare {
		total, _, _ := lruClassSize(id)
		for _, l := range [...]int{warmLru, hotLru} {
			if res == 0 {
				res = lruPullTail(id, l, total, 0, math.MaxUint32, nil)
			}
		}
	}
	for _, l := range [...]int{hotLru, warmLru, tempLru} {
		if res == 0 || res < 0 && try >= 10 { // locked for long: maybe by the caller
			res = cmp.Or(lruPullTail(id, l, 0, lruPullEvict, 0, nil), res)
		}
	}
	if res < 0 && try < 50 {
		usleep(1) // others hold the locks for a moment, the caller for longer
		return true
	}
	return res > 0
}

// The keys evicted last, so that an item that comes back is known. Each leaves a
// fingerprint of 16 bits in the word of its hash; a word has room for four, of
// which the newest is the lowest. So an item is forgotten after some four
// evictions for each word. Half as many fingerprints as items work best.
//
// There is no lock: a thread that reads a word while another writes it, or reads
// a table that has just been replaced, misses a fingerprint.
var lruMemory struct {
	table      atomic.Pointer[[]uint64] // a power of 2; nil before the first evictions
	remembered atomic.Uint64            // new items whose key was there
}

const (
	lruMemoryMin = 16 // words
	lruMemoryPer = 10 // items for a word, before the table grows
)

// lruHasMemory reports whether evicted items are remembered. With -M none are
// evicted. With extstore items go to a file from COLD, which is as large as in C.
func lruHasMemory() bool {
	return settings.lru.memory && settings.lru.segmented.Load() && extStorage == nil && settings.evictToFree
}

// lruFingerprint returns the word of table for hv's fingerprint, and the fingerprint.
func lruFingerprint(table []uint64, hv uint32) (*uint64, uint64) {
	h := uint64(hv) * 0x9e3779b97f4a7c15
	return &table[h>>32&uint64(len(table)-1)], h>>16&0xffff | 1
}

// lruRemember notes that the item with this hash is evicted.
func lruRemember(hv uint32) {
	if t := lruMemory.table.Load(); t != nil {
		w, f := lruFingerprint(*t, hv)
		atomic.StoreUint64(w, atomic.LoadUint64(w)<<16|f)
	}
}

// lruRemembers reports whether an item with this hash was evicted lately.
func lruRemembers(hv uint32) bool {
	t := lruMemory.table.Load()
	if t == nil {
		return false
	}
	w, f := lruFingerprint(*t, hv)
	for v := atomic.LoadUint64(w); v != 0; v >>= 16 {
		if v&0xffff == f {
			lruMemory.remembered.Add(1)
			return true
		}
	}
	return false
}

// lruComesBack takes bytes off what WARM of class id may have beyond its share, as
// an item of this size had been evicted too early. Each item that is in use at
// WARM's tail adds its own size: see pullAside. So WARM grows, from 40 % of the
// class up to 80, while its items go on being used and those evicted do not come back.
func lruComesBack(id, bytes int) {
	l := &lrus[id|warmLru]
	l.lock.Lock()
	l.extra -= min(l.extra, uint64(bytes))
	l.lock.Unlock()
}

// lruForget forgets all evicted items.
func lruForget() {
	if t := lruMemory.table.Load(); t != nil {
		for i := range *t {
			atomic.StoreUint64(&(*t)[i], 0)
		}
	}
}

// lruMemoryGrow makes the table large enough for that many items in memory. The
// old table is not unmapped, as it may be in use, but its memory is returned.
func lruMemoryGrow(items int) {
	old, n := lruMemory.table.Load(), lruMemoryMin
	if old != nil {
		n = len(*old)
	}
	for n*lruMemoryPer < items {
		n *= 2
	}
	if old != nil && n == len(*old) {
		return
	}
	t, err := tableAlloc[uint64](n)
	if err != nil {
		return // with what there is, if any
	}
	for i := 0; old != nil && i < n; i++ {
		t[i] = atomic.LoadUint64(&(*old)[i%len(*old)])
	}
	lruMemory.table.Store(&t)
	if old != nil {
		tableDiscard(*old)
	}
}

// lruPcts returns the shares of HOT and WARM in percent: as the user says, or
// else as they are in C, except that with the memory HOT needs little.
func lruPcts() (hot, warm int32) {
	hot, warm = settings.lru.hotLruPct.Load(), settings.lru.warmLruPct.Load()
	if hot < 0 {
		hot = 20
		if warm < 0 && lruHasMemory() {
			hot = 5
		}
	}
	if warm < 0 {
		warm = 40
	}
	return hot, warm
}

// lruMaxFactors returns how much older than COLD's tail an item may become in
// HOT, and in WARM: as the user says, or else as in C. With the memory it is 0,
// and ages do not matter.
func lruMaxFactors() (hot, warm float64) {
	hot, warm = settings.lru.hotMaxFactor.Load(), settings.lru.warmMaxFactor.Load()
	if hot == 0 && !lruHasMemory() {
		hot = 0.2
	}
	if warm == 0 && !lruHasMemory() {
		warm = 2.0
	}
	return hot, warm
}

// lruMaxAge is coldAge times a factor of lruMaxFactors.
func lruMaxAge(coldAge relTime, factor float64) relTime {
	if factor == 0 {
		return math.MaxUint32
	}
	return relTime(min(float64(coldAge)*factor, math.MaxUint32))
}

// lruMaintainerJuggle balances the LRUs of a slab class: the excess of HOT
// and WARM goes to COLD, active items of COLD go to WARM. It returns the
// number of rounds that moved something. lruMaintainer.lock is held.
//
// Unlike in C, WARM keeps what it has as long as the class evicts nothing:
// otherwise popular items would go to COLD and back all the time.
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
	segmented := settings.lru.segmented.Load()
	totalBytes, _, evicted := lruClassSize(clsid)
	evicting := evicted != lruMaintainer.evicted[clsid]
	lruMaintainer.evicted[clsid] = evicted
	if segmented {
		// First, as an item that was hit at COLD's tail says nothing about COLD's age.
		for didMoves < 500 && lruPullTail(clsid, coldLru, totalBytes, lruPullCrawlBlocks, 0, nil) > 0 {
			didMoves++
		}
		l := &lrus[clsid|coldLru]
		l.lock.Lock()
		coldAge := doTailAge(l)
		l.lock.Unlock()
		hot, warm := lruMaxFactors()
		hotAge, warmAge = lruMaxAge(coldAge, hot), lruMaxAge(coldAge, warm)
		if evicting && lruHasMemory() {
			lruMemoryGrow(slabsUsedChunks())
		}
	} else {
		totalBytes = 0
	}
	cool := evicting || !segmented || extStorage != nil
	for range 500 {
		doMore := 0
		if cool {
			doMore = lruPullTail(clsid, warmLru, totalBytes, lruPullCrawlBlocks, warmAge, nil)
		}
		if doMore == 0 {
			doMore = lruPullTail(clsid, hotLru, totalBytes, lruPullCrawlBlocks, hotAge, nil)
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
	verbosef(3, "Starting LRU maintainer background thread")
	for lruMaintainer.runThread {
		lruMaintainer.lock.Unlock()
		switch {
		case toSleep == 0:
		case toSleep == maxLruMaintainerSleep || atRest.Load(): // nothing comes that could be juggled
			toSleep = maxLruMaintainerSleep
			<-lruMaintainer.wake // until a tick of the clock
		default:
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

		// At most once per second.
		if now := currentTime.Load(); settings.lru.crawler.Load() && now != lastCrawlerCheck {
			lruMaintainerCrawlerCheck(cdata)
			lastCrawlerCheck = now
		}
	}
	lruMaintainer.lock.Unlock()
	verbosef(3, "LRU maintainer thread stopping")
	close(lruMaintainer.done)
}

// stopLruMaintainerThread waits for the thread to end, which takes up to a
// second.
func stopLruMaintainerThread() {
	lruMaintainer.lock.Lock()
	lruMaintainer.runThread = false
	lruMaintainer.lock.Unlock()
	wakeUp(lruMaintainer.wake)
	<-lruMaintainer.done
	settings.lru.maintainerThread = false
}

func startLruMaintainerThread() {
	lruMaintainer.lock.Lock()
	lruMaintainer.runThread = true
	settings.lru.maintainerThread = true
	lruMaintainer.wake = make(chan struct{}, 1)
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

// Items: allocating, linking, finding, and their statistics. From items.c up
// to the LRU maintenance, which is lru.go.

package main

import (
	"fmt"
	"os"
	"sync/atomic"
)

// doUpdate or dontUpdate: whether a fetch counts as one for the LRU.
const (
	doUpdate   = true
	dontUpdate = false
)

// Not as in C, there is no count of items and bytes that each link and
// unlink would take a lock for: itemStatsCurr sums up the LRUs'.
var (
	casId atomic.Uint64

	// Items by size, in steps of 32 bytes. nil unless -o track_sizes.
	statsSizesHist []atomic.Uint32
)

// What the automover wants to know of a class.
type itemStatsAutomove struct {
	evicted     uint64
	outofmemory uint64
	age         relTime
}

// The counters as stats prints them. Those marked so are shown only if there
// is an LRU maintainer.
var itemstatsDesc = [numItemstats]struct {
	name       string
	maintainer bool
}{
	itemsEvicted:             {"evicted", false},
	itemsEvictedNonzero:      {"evicted_nonzero", false},
	itemsEvictedTime:         {"evicted_time", false},
	itemsOutofmemory:         {"outofmemory", false},
	itemsTailrepairs:         {"tailrepairs", false},
	itemsReclaimed:           {"reclaimed", false},
	itemsExpiredUnfetched:    {"expired_unfetched", false},
	itemsEvictedUnfetched:    {"evicted_unfetched", false},
	itemsEvictedActive:       {"evicted_active", true},
	itemsCrawlerReclaimed:    {"crawler_reclaimed", false},
	itemsCrawlerItemsChecked: {"crawler_items_checked", false},
	itemsLrutailReflocked:    {"lrutail_reflocked", false},
	itemsMovesToCold:         {"moves_to_cold", true},
	itemsMovesToWarm:         {"moves_to_warm", true},
	itemsMovesWithinLru:      {"moves_within_lru", true},
	itemsDirectReclaims:      {"direct_reclaims", true},
}

// What became of a lookup, for the log.
const (
	itemNotFound = iota
	itemFound
	itemFoundFlushed
	itemFoundExpired
)

func itemStatsReset() {
	for i := range lrus {
		l := &lrus[i]
		l.lock.Lock()
		l.n = [numItemstats]uint64{}
		l.lock.Unlock()
	}
}

// doItemStatsAddCrawl expects the lock of LRU i.
func doItemStatsAddCrawl(i int, reclaimed, unfetched, checked uint64) {
	l := &lrus[i]
	l.n[itemsCrawlerReclaimed] += reclaimed
	l.n[itemsExpiredUnfetched] += unfetched
	l.n[itemsCrawlerItemsChecked] += checked
}

// getCasId returns the next unique for a new item. The first is 2.
func getCasId() uint64 { return casId.Add(1) + 1 }

// itemIsExpired tells whether the time of an item is over at the time now. Not
// as in C, it lasts until the second after exptime: of a time of n seconds the
// first is not whole.
func itemIsExpired(it *item, now relTime) bool {
	return it.exptime != 0 && it.exptime < now+clockWhole()
}

// itemIsFlushed expects the item's lock.
func itemIsFlushed(it *item) bool {
	oldestLive := settings.oldestLive.Load()
	return it.time <= oldestLive && oldestLive <= currentTime.Load()
}

// doGetLruSize expects the LRU's lock.
func doGetLruSize(id int) int { return lrus[id].size }

// itemMakeHeader returns the size in bytes of an item with all that follows
// its header but a unique, and what of it the client flags take.
func itemMakeHeader(nkey int, flags uint32, nbytes int) (ntotal, nsuffix int) {
	if flags != 0 {
		nsuffix = 4
	}
	return itemSize + nkey + nsuffix + nbytes, nsuffix
}

// doItemAllocPull allocates a chunk of class id, if need be by evicting. hv
// is as for slabsAlloc. The caller may hold the lock of an item, but none of
// an LRU.
func doItemAllocPull(id int, hv uint32) *item {
	segmented := settings.lruSegmented.Load()
	var it *item
	i := 0
	// Locked items on the tail are left to fall out and to cause an OOM now
	// and then, rather than being worked around.
	for ; i < 10; i++ {
		// Try to reclaim memory first.
		if !segmented {
			lruPullTail(id, coldLru, 0, 0, 0)
		}
		if it = slabsAlloc(id, hv, 0); it != nil {
			break
		}
		if lruPullTail(id, coldLru, 0, lruPullEvict, 0) <= 0 {
			if !segmented {
				break
			}
			lruPullTail(id, hotLru, 0, 0, 0)
		}
	}
	if i > 0 {
		l := &lrus[id]
		l.lock.Lock()
		l.n[itemsDirectReclaims] += uint64(i)
		l.lock.Unlock()
	}
	return it
}

// doItemAllocChunk chains another chunk onto this one, for bytesRemain more
// bytes of value or as many as fit. It returns nil if there is no memory.
func doItemAllocChunk(ch *itemChunk, bytesRemain int) *itemChunk {
	size := min(bytesRemain+itemChunkSize, slabChunkMax)
	id := slabsClsid(size)
	it := doItemAllocPull(id, 0)
	if it == nil {
		// The last chunk is from a class that fits. If that has no memory a
		// large one is taken instead.
		if size == slabChunkMax {
			return nil
		}
		size = slabChunkMax
		id = slabsClsid(size)
		if it = doItemAllocPull(id, 0); it == nil {
			return nil
		}
	}
	nch := it.chunk()
	slabsMlock() // for the mover
	*nch = itemChunk{
		head:       ch.head,
		prev:       ch.ref(),
		size:       int32(size - itemChunkSize),
		refcount:   1,
		slabsClsid: uint8(id),
		lock:       lockChunk,
	}
	ch.next = nch.ref()
	slabsMunlock()
	return nch
}

// doItemAlloc returns an item that is not linked yet, with one reference. Of
// a large one only the header is allocated; its chunks come while the value
// is read. nil means too large, or no memory.
func doItemAlloc(key []byte, hv uint32, flags uint32, exptime relTime, nbytes int) *item {
	if nbytes < 2 {
		return nil
	}
	ntotal, nsuffix := itemMakeHeader(len(key)+1, flags, nbytes)
	var itFlags uint16
	if settings.useCas {
		ntotal += 8
		itFlags |= itemCas
	}
	if nsuffix != 0 {
		itFlags |= itemCflags
	}
	id := slabsClsid(ntotal)
	if id == 0 {
		return nil
	}
	hdrId := id
	if ntotal > slabChunkMax {
		// It is linked into an LRU of the largest class all the same.
		itFlags |= itemChunked
		hdrId = slabsClsid(memAlign(ntotal-nbytes) + itemChunkSize)
	}
	it := doItemAllocPull(hdrId, hv)
	if it == nil {
		l := &lrus[id]
		l.lock.Lock()
		l.n[itemsOutofmemory]++
		l.lock.Unlock()
		return nil
	}

	it.next, it.prev, it.hNext = 0, 0, 0
	switch {
	case settings.tempLru.Load() && exptime-currentTime.Load() <= settings.temporaryTtl.Load():
		id |= tempLru
	case settings.lruSegmented.Load():
		id |= hotLru
	default:
		id |= coldLru // there is only COLD in compat mode
	}
	it.slabsClsid = uint8(id)
	it.itFlags = itFlags
	it.nkey = uint8(len(key))
	it.nbytes = int32(nbytes)
	it.exptime = exptime
	it.setKey(key)
	it.setCas(0)
	it.setClientFlags(flags)
	if itFlags&itemChunked != 0 {
		*it.schunk() = itemChunk{head: it.ref(), origClsid: uint8(hdrId)}
	}
	return it
}

func itemFree(it *item) {
	if it.itFlags&itemLinked != 0 || it.refcount != 0 {
		panic("itemFree: item in use")
	}
	slabsFree(it, int(it.clsid()))
}

// itemSizeOk returns whether an item will fit in the cache.
func itemSizeOk(nkey int, flags uint32, nbytes int) bool {
	if nbytes < 2 {
		return false
	}
	ntotal, _ := itemMakeHeader(nkey+1, flags, nbytes)
	if settings.useCas {
		ntotal += 8
	}
	return slabsClsid(ntotal) != 0
}

// doItemLinkQ makes the item the head of its LRU, which is locked.
func doItemLinkQ(it *item) {
	l := &lrus[it.slabsClsid]
	it.prev = 0
	it.next = l.head
	if it.next != 0 {
		it.next.item().prev = it.ref()
	} else {
		l.tail = it.ref()
	}
	l.head = it.ref()
	l.size++
	l.sizeBytes += uint64(it.ntotal())
}

func itemLinkQ(it *item) {
	l := &lrus[it.slabsClsid]
	l.lock.Lock()
	doItemLinkQ(it)
	l.lock.Unlock()
}

func itemLinkQWarm(it *item) {
	l := &lrus[it.slabsClsid]
	l.lock.Lock()
	doItemLinkQ(it)
	l.n[itemsMovesToWarm]++
	l.lock.Unlock()
}

// doItemUnlinkQ takes the item off its LRU, which is locked.
func doItemUnlinkQ(it *item) {
	l := &lrus[it.slabsClsid]
	doItemUnlinktailQ(it)
	l.size--
	l.sizeBytes -= uint64(it.ntotal())
}

func itemUnlinkQ(it *item) {
	l := &lrus[it.slabsClsid]
	l.lock.Lock()
	doItemUnlinkQ(it)
	l.lock.Unlock()
}

// doItemLink makes the item public: in the hash table and its LRU. From now
// on it belongs to who holds its lock, as the caller does.
func doItemLink(it *item, hv uint32, cas uint64) {
	if it.itFlags&itemLinked != 0 {
		panic("doItemLink: item is linked")
	}
	it.itFlags |= itemLinked
	it.time = currentTime.Load()
	it.setCas(cas)
	assocInsert(it, hv)
	l := &lrus[it.slabsClsid]
	l.lock.Lock()
	doItemLinkQ(it)
	l.n[itemsTotal]++
	l.lock.Unlock()
	it.refcount++
	itemStatsSizesAdd(it)
}

func doItemUnlink(it *item, hv uint32) {
	if it.itFlags&itemLinked != 0 {
		it.itFlags &^= itemLinked
		itemStatsSizesRemove(it)
		assocDelete(it, hv)
		itemUnlinkQ(it)
		doItemRemove(it)
	}
}

// doItemUnlinkNolock is doItemUnlink for who has locked the item's LRU.
func doItemUnlinkNolock(it *item, hv uint32) {
	if it.itFlags&itemLinked != 0 {
		it.itFlags &^= itemLinked
		itemStatsSizesRemove(it)
		assocDelete(it, hv)
		doItemUnlinkQ(it)
		doItemRemove(it)
	}
}

// doItemRemove drops a reference.
func doItemRemove(it *item) {
	if it.refcount == 0 {
		panic("doItemRemove: no reference")
	}
	it.refcount--
	if it.refcount == 0 {
		itemFree(it)
	}
}

// doItemUpdate bumps the time of last access, and relinks the item where
// that calls for it.
func doItemUpdate(it *item) {
	now := currentTime.Load()
	linked := it.itFlags&itemLinked != 0
	if settings.lruSegmented.Load() {
		if !linked {
			return
		}
		// Hits to COLD immediately move to WARM.
		if it.lruid() == coldLru && it.itFlags&itemActive != 0 {
			itemUnlinkQ(it)
			it.time = now
			it.slabsClsid = it.clsid() | warmLru
			it.itFlags &^= itemActive
			itemLinkQWarm(it)
		} else {
			atomic.StoreUint32(&it.time, now) // for doTailAge
		}
	} else if linked && it.time < now-itemUpdateInterval {
		itemUnlinkQ(it)
		it.time = now
		itemLinkQ(it)
	}
}

func doItemReplace(it, newIt *item, hv uint32, cas uint64) {
	doItemUnlink(it, hv)
	doItemLink(newIt, hv, cas)
}

// itemFlushExpired unlinks what is younger than settings.oldestLive. Older
// items expire by it when they are found. The caller holds no locks.
func itemFlushExpired() {
	oldestLive := settings.oldestLive.Load()
	if oldestLive == 0 {
		return
	}
	for i := range lrus {
		l := &lrus[i]
		l.lock.Lock()
		// The LRU is sorted in decreasing time order, and an item's time
		// stamp is never newer than its last access: walk back until we hit
		// an item older than oldestLive.
		var next *item
		for it, done := l.head.item(), false; it != nil && !done; it = next {
			next = it.next.item()
			if isCrawler(it) {
				continue
			}
			// The order of locks is inverted: if it is held, give up.
			hold := itemTrylock(uint32(it.lock))
			if hold == nil {
				continue
			}
			if it.time >= oldestLive {
				doItemUnlinkNolock(it, hash(it.key()))
			} else {
				done = true
			}
			itemTrylockUnlock(hold)
		}
		l.lock.Unlock()
	}
}

// itemCachedump lists items of a class's COLD LRU, all or the first limit,
// ended by END. Not as in C, an item that is locked just now is left out.
func itemCachedump(clsid, limit uint32) []byte {
	const memlimit = 2 << 20 // max response size, bytes
	var buf []byte
	shown := uint32(0)
	l := &lrus[clsid|coldLru]
	l.lock.Lock()
	for it := l.head.item(); it != nil && (limit == 0 || shown < limit); it = it.next.item() {
		if isCrawler(it) {
			continue
		}
		hold := itemTrylock(uint32(it.lock))
		if hold == nil {
			continue
		}
		n := len(buf)
		if it.itFlags&itemKeyBinary == 0 { // don't print binary keys
			exptime := int64(0)
			if it.exptime != 0 {
				exptime = int64(it.exptime) + processStarted
			}
			buf = fmt.Appendf(buf, "ITEM %s [%d b; %d s]\r\n", it.key(), it.nbytes-2, exptime)
			shown++
		}
		itemTrylockUnlock(hold)
		if len(buf)+len("END\r\n\x00") > memlimit {
			buf = buf[:n]
			break
		}
	}
	l.lock.Unlock()
	return append(buf, "END\r\n"...)
}

func fillItemStatsAutomove(am *[maxNumberOfSlabClasses]itemStatsAutomove) {
	for n := range am {
		cur := &am[n]

		// outofmemory records into HOT
		l := &lrus[n|hotLru]
		l.lock.Lock()
		cur.outofmemory = l.n[itemsOutofmemory]
		l.lock.Unlock()

		// evictions and tail age are from COLD
		l = &lrus[n|coldLru]
		l.lock.Lock()
		cur.evicted = l.n[itemsEvicted]
		cur.age = doTailAge(l)
		l.lock.Unlock()
	}
}

// itemStatsCurr returns how many items and bytes of items there are now, and
// how many items have been linked in all.
func itemStatsCurr() (currBytes, currItems, totalItems uint64) {
	for i := range lrus {
		l := &lrus[i]
		l.lock.Lock()
		currBytes += l.sizeBytes
		currItems += uint64(l.size)
		totalItems += l.n[itemsTotal]
		l.lock.Unlock()
	}
	return currBytes, currItems, totalItems
}

// itemStatsTotals appends the sums over all LRUs to the reply to stats.
func itemStatsTotals(c *conn) {
	var totals [numItemstats]uint64
	for i := range lrus {
		l := &lrus[i]
		l.lock.Lock()
		for j, n := range l.n {
			totals[j] += n
		}
		l.lock.Unlock()
	}
	stat := func(i int, name string) {
		if settings.lruMaintainerThread || !itemstatsDesc[i].maintainer {
			appendStat(c, name, "%d", totals[i])
		}
	}
	for i := itemsExpiredUnfetched; i < numItemstats; i++ {
		stat(i, itemstatsDesc[i].name)
		if i == itemsEvictedActive {
			stat(itemsEvicted, "evictions")
			stat(itemsReclaimed, "reclaimed")
		}
	}
	if settings.lruMaintainerThread {
		appendStat(c, "lru_bumps_dropped", "%d", lruTotalBumpsDropped())
	}
}

// itemStats answers stats items.
func itemStats(c *conn) {
	threadStats := threadlocalStatsAggregate()
	for n := range maxNumberOfSlabClasses {
		itemStatsClass(c, n, &threadStats)
	}
	appendStats(c, "", "")
}

func itemStatsClass(c *conn, n int, threadStats *threadCounts) {
	var (
		totals    [numItemstats]uint64
		requested uint64
		size      int
		sizes     [4]int // by place in lruTypeMap, as the next
		ages      [4]relTime
	)
	for x, lruType := range lruTypeMap {
		l := &lrus[n|lruType]
		l.lock.Lock()
		for i, v := range l.n {
			totals[i] += v
		}
		if lruType != coldLru {
			totals[itemsEvictedTime] -= l.n[itemsEvictedTime] // COLD's alone
		}
		requested += l.sizeBytes
		size += l.size
		sizes[x] = l.size
		ages[x] = doTailAge(l)
		l.lock.Unlock()
	}
	if size == 0 {
		return
	}
	stat := func(name string, v any) {
		appendStat(c, fmt.Sprintf("items:%d:%s", n, name), "%d", v)
	}
	stat("number", size)
	if settings.lruMaintainerThread {
		stat("number_hot", sizes[0])
		stat("number_warm", sizes[1])
		stat("number_cold", sizes[2])
		if settings.tempLru.Load() {
			stat("number_temp", sizes[3])
		}
		stat("age_hot", ages[0])
		stat("age_warm", ages[1])
	}
	stat("age", ages[2])
	stat("mem_requested", requested)
	for i := itemsEvicted; i < numItemstats; i++ {
		if settings.lruMaintainerThread || !itemstatsDesc[i].maintainer {
			stat(itemstatsDesc[i].name, totals[i])
		}
	}
	if settings.lruMaintainerThread {
		hits := &threadStats.lruHits
		stat("hits_to_hot", hits[n|hotLru])
		stat("hits_to_warm", hits[n|warmLru])
		stat("hits_to_cold", hits[n|coldLru])
		stat("hits_to_temp", hits[n|tempLru])
	}
}

func itemStatsSizesStatus() bool { return statsSizesHist != nil }

// itemStatsSizesInit is for the start, if at all.
func itemStatsSizesInit() {
	if statsSizesHist == nil {
		statsSizesHist = make([]atomic.Uint32, settings.itemSizeMax/32+1)
	}
}

// sizesBucket is the item's place in statsSizesHist, or nil.
func sizesBucket(it *item) *atomic.Uint32 {
	if i := (it.ntotal() + 31) / 32; i < len(statsSizesHist) {
		return &statsSizesHist[i]
	}
	return nil
}

func itemStatsSizesAdd(it *item) {
	if b := sizesBucket(it); b != nil {
		b.Add(1)
	}
}

func itemStatsSizesRemove(it *item) {
	if b := sizesBucket(it); b != nil {
		b.Add(^uint32(0))
	}
}

// itemStatsSizes answers stats sizes: how many items of each size, with
// granularity of 32 bytes.
func itemStatsSizes(c *conn) {
	if statsSizesHist == nil {
		appendStat(c, "sizes_status", "%s", "disabled")
	}
	for i := range statsSizesHist {
		if n := statsSizesHist[i].Load(); n != 0 {
			appendStat(c, fmt.Sprint(i*32), "%d", n)
		}
	}
	appendStats(c, "", "")
}

// doItemGet wraps assocFind with the lazy expiration logic.
func doItemGet(key []byte, hv uint32, t *thread, doUpdate bool) *item {
	it := assocFind(key, hv)
	wasFound := itemNotFound
	if it != nil {
		wasFound = itemFound
		it.refcount++
		if itemIsFlushed(it) {
			wasFound = itemFoundFlushed
		} else if itemIsExpired(it, currentTime.Load()) {
			wasFound = itemFoundExpired
		}
	}
	switch {
	case wasFound > itemFound:
		doItemUnlink(it, hv)
		doItemRemove(it)
		it = nil
		if t != nil && wasFound == itemFoundFlushed {
			t.stats.pending.n[statGetFlushed]++
		} else if t != nil {
			t.stats.pending.n[statGetExpired]++
		}
	case wasFound == itemFound && doUpdate:
		doItemBump(t, it, hv)
	}
	if settings.verbose.Load() > 2 {
		itemGetPrint(key, wasFound)
	}
	if loggerEflags.Load()&logFetchers != 0 {
		loggerLogItemGet(t, wasFound, key, it)
	}
	return it
}

func itemGetPrint(key []byte, wasFound int) {
	s := "> FOUND KEY "
	after := ""
	switch wasFound {
	case itemNotFound:
		s = "> NOT FOUND "
	case itemFoundFlushed:
		after = " -removed by flush"
	case itemFoundExpired:
		after = " -removed by expire"
	}
	fmt.Fprintf(os.Stderr, "%s%s%s\n", s, key, after)
}

// doItemBump marks a hit. An item needs to be hit twice overall to be
// considered ACTIVE, but only a single hit to maintain activity afterward.
// FETCHED tells if an item has ever been hit. Apart from doItemGet so that
// who wants to see the item as it was before can call it later.
func doItemBump(t *thread, it *item, hv uint32) {
	if !settings.lruSegmented.Load() {
		it.itFlags |= itemFetched
		doItemUpdate(it)
		return
	}
	if it.itFlags&itemActive != 0 {
		return
	}
	if it.itFlags&itemFetched == 0 {
		it.itFlags |= itemFetched
		return
	}
	it.itFlags |= itemActive
	if it.lruid() != coldLru {
		atomic.StoreUint32(&it.time, currentTime.Load()) // for doTailAge
	} else if t == nil || !lruBumpAsync(t.bumpBuf, it, hv) {
		it.itFlags &^= itemActive
	}
}

func doItemTouch(key []byte, exptime relTime, hv uint32, t *thread) *item {
	it := doItemGet(key, hv, t, doUpdate)
	if it != nil {
		it.exptime = exptime
	}
	return it
}

// Items: allocating, linking, finding, and their statistics. From items.c up
// to the LRU maintenance, which is in lru.go.

package main

import (
	"fmt"
	"math"
	"os"
	"sync"
	"sync/atomic"
)

// Whether a fetch counts as a hit for the LRU.
const (
	doUpdate   = true
	dontUpdate = false
)

// Unlike C, we keep no global count of items and bytes, for which each link and
// unlink would take a lock: itemStatsCurr sums up the counts of the LRUs.
var (
	// Each set changes it, so nothing that other requests read may share its cache
	// line.
	casId struct {
		_ [64]byte
		atomic.Uint64
		_ [56]byte
	}

	flushLock   sync.Mutex    // held to change currentTime and what follows
	flushes     atomic.Uint32 // since the start; see itemTime
	flushedTime atomic.Uint32 // items with a time up to this are flushed

	// Items by size, in steps of 32 bytes. nil unless -o track_sizes.
	statsSizesHist []atomic.Uint32
)

// What the automover needs to know of a class.
type itemStatsAutomove struct {
	evicted     uint64
	outofmemory uint64
	age         relTime
}

// The counters' names in stats. Those marked maintainer are shown only if the
// LRU maintainer runs.
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

// The outcome of a lookup, for the log.
const (
	itemNotFound = iota
	itemFound
	itemFoundFlushed
	itemFoundExpired
)

func itemStatsReset() {
	lruMemory.remembered.Store(0)
	for i := range lrus {
		l := &lrus[i]
		l.lock.Lock()
		l.n = [numItemstats]uint64{}
		l.lock.Unlock()
	}
}

// doItemStatsAddCrawl is called with LRU i locked.
func doItemStatsAddCrawl(i int, reclaimed, unfetched, checked uint64) {
	l := &lrus[i]
	l.n[itemsCrawlerReclaimed] += reclaimed
	l.n[itemsExpiredUnfetched] += unfetched
	l.n[itemsCrawlerItemsChecked] += checked
}

// getCasId returns the next CAS unique. The first is 2.
func getCasId() uint64 { return casId.Add(1) + 1 }

// setCasId sets what getCasId returned last.
func setCasId(newCas uint64) { casId.Store(newCas - 1) }

// itemIsExpired reports whether an item has expired at the time now.
func itemIsExpired(it *item, now relTime) bool {
	return it.exptime != 0 && it.exptime <= now
}

// itemTime returns the current time on the clock of item.time. Unlike C's, that
// advances by one with each flush, as well as once a second. So the item stored
// last before a flush and the first one after it never have the same time.
func itemTime() relTime { return currentTime.Load() + flushes.Load() }

// itemAge returns the seconds since the last access to an item that is not
// flushed. The item need not be locked.
func itemAge(it *item) relTime { return itemTime() - atomic.LoadUint32(&it.time) }

// itemAccess returns the time of an access to the item, which is locked; but if
// the item is flushed, the time it has, so that no access revives it. An item
// that replaces it gets the same time: a flush between looking up an item and
// replacing it must cover both.
func itemAccess(it *item) relTime {
	now := itemTime() // first: if a flush comes in between, now is not later than that
	if itemIsFlushed(it) {
		return it.time
	}
	return now
}

// itemIsFlushed is called with the item locked.
func itemIsFlushed(it *item) bool { return it.time <= flushedTime.Load() }

// doItemFlush flushes all items, and returns the latest time that they can have.
// flushLock is held, so the clock stands still.
func doItemFlush() relTime {
	now := itemTime()
	flushedTime.Store(now)
	// Only now may the clock advance. After a billion flushes it does not:
	// items set later in the same second are then flushed as well.
	if flushes.Load() < math.MaxUint32/4 {
		flushes.Add(1)
	}
	return now
}

// doGetLruSize is called with the LRU locked.
func doGetLruSize(id int) int { return lrus[id].size }

// itemMakeHeader returns an item's size in bytes without its CAS unique, and
// how much of it the client flags take. nkey counts the blank after the key.
func itemMakeHeader(nkey int, flags uint32, nbytes int) (ntotal, nsuffix int) {
	if flags != 0 {
		nsuffix = 4
	}
	return itemSize + nkey + nsuffix + nbytes, nsuffix
}

// doItemAllocChunk chains another chunk to ch, for bytesRemain more bytes of
// value or as many as fit. It returns nil if there is no memory. For must see
// doItemAllocPull.
func doItemAllocChunk(ch *itemChunk, bytesRemain int, must bool) *itemChunk {
	size := min(bytesRemain+itemChunkSize, slabChunkMax)
	id := slabsClsid(size)
	it := doItemAllocPull(id, 0, must && size == slabChunkMax)
	if it == nil && size < slabChunkMax {
		// The last chunk is of the smallest class that fits. If that class
		// has no memory, take a chunk of the largest.
		size = slabChunkMax
		id = slabsClsid(size)
		it = doItemAllocPull(id, 0, must)
	}
	if it == nil {
		return nil
	}
	nch := it.chunk()
	slabsMlock() // the mover must not see half of this
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

// doItemAlloc returns an unlinked item with one reference, or nil if it is
// too large or there is no memory. For a large item only the header is
// allocated; its chunks follow as the value is read.
func doItemAlloc(key []byte, hv uint32, flags uint32, exptime relTime, nbytes int) *item {
	return doItemAllocFor(key, hv, flags, exptime, nbytes, true)
}

// doItemAllocFor is doItemAlloc; for must see doItemAllocPull.
func doItemAllocFor(key []byte, hv uint32, flags uint32, exptime relTime, nbytes int, must bool) *item {
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
		// It still goes into an LRU of the largest class.
		itFlags |= itemChunked
		hdrId = slabsClsid(memAlign(ntotal-nbytes) + itemChunkSize)
	}
	it := doItemAllocPull(hdrId, hv, must)
	if it == nil {
		l := &lrus[id]
		l.lock.Lock()
		l.n[itemsOutofmemory]++
		l.lock.Unlock()
		return nil
	}

	it.next, it.prev, it.hNext = 0, 0, 0
	switch {
	case settings.lru.tempLru.Load() && exptime-currentTime.Load() <= settings.lru.temporaryTtl.Load():
		id |= tempLru
	case !settings.lru.segmented.Load():
		id |= coldLru // without segments there is only COLD
	case lruRemembers(hv):
		lruComesBack(id, ntotal)
		id |= warmLru
	default:
		id |= hotLru
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

// itemSizeOk reports whether an item of this size fits in the cache.
func itemSizeOk(nkey int, flags uint32, nbytes int) bool {
	return nbytes >= 2 && itemClsid(nkey, flags, nbytes) != 0
}

// itemClsid returns the slab class of an item, or 0 if it is too large.
func itemClsid(nkey int, flags uint32, nbytes int) int {
	ntotal, _ := itemMakeHeader(nkey+1, flags, nbytes)
	if settings.useCas {
		ntotal += 8
	}
	return slabsClsid(ntotal)
}

// itemResize changes the size of the value of a linked item, within its chunk. The
// item is locked.
func itemResize(it *item, nbytes int) {
	if int(it.nbytes) == nbytes {
		return
	}
	itemStatsSizesRemove(it)
	l := &lrus[it.slabsClsid]
	l.lock.Lock()
	l.sizeBytes += uint64(nbytes) - uint64(it.nbytes)
	it.nbytes = int32(nbytes)
	l.lock.Unlock()
	itemStatsSizesAdd(it)
}

// doItemLinkFixup makes an item public again after a restart. It returns false
// if there is another with its key. Several processors may call it at once, each
// with its own w, while nobody else uses the store.
func doItemLinkFixup(it *item, hv64 uint64, w *restartWork) bool {
	it.lock = uint16(hv64 & lockMask)
	it.refcount = 1
	if !assocInsertOnce(w.table, it, hv64) {
		return false
	}
	age := min(restartItemTime-it.time, restartStopped-1)
	it.time = restartStopped - age
	if !settings.lru.segmented.Load() || it.lruid() == tempLru && !settings.lru.tempLru.Load() {
		it.slabsClsid = it.clsid() | coldLru // where they are looked for
	}
	i := it.slabsClsid
	if w.lrus[i] == nil {
		w.lrus[i] = new([restartAges]restartList)
	}
	restartPush(&w.lrus[i][restartAge(age)], it)
	w.bytes[i] += uint64(it.ntotal())
	itemStatsSizesAdd(it)
	return true
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
	l.sizeBytes += uint64(it.memTotal())
}

func itemLinkQ(it *item) {
	l := &lrus[it.slabsClsid]
	l.lock.Lock()
	doItemLinkQ(it)
	l.lock.Unlock()
}

// doItemUnlinkQ takes the item off its LRU, which is locked.
func doItemUnlinkQ(it *item) {
	l := &lrus[it.slabsClsid]
	doItemUnlinktailQ(it)
	l.size--
	l.sizeBytes -= uint64(it.memTotal())
}

func itemUnlinkQ(it *item) {
	l := &lrus[it.slabsClsid]
	l.lock.Lock()
	doItemUnlinkQ(it)
	l.lock.Unlock()
}

// doItemLink publishes the item in the hash table and its LRU. From now on it
// is guarded by its item lock, which the caller holds.
func doItemLink(it *item, hv uint32, cas uint64) { linkItem(it, hv, cas, itemTime()) }

// linkItem links an item that was last accessed at the given time.
func linkItem(it *item, hv uint32, cas uint64, time relTime) {
	if it.itFlags&itemLinked != 0 {
		panic("doItemLink: item is linked")
	}
	it.itFlags |= itemLinked
	it.time = time
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

// doItemUnlink takes the item out of the cache. Unlike in C, a value in a file
// goes with it, without the caller's doing.
func doItemUnlink(it *item, hv uint32) { unlinkWithValue(it, hv, itemUnlinkQ) }

// doItemUnlinkNolock is doItemUnlink for callers that have locked the item's
// LRU.
func doItemUnlinkNolock(it *item, hv uint32) { unlinkWithValue(it, hv, doItemUnlinkQ) }

func unlinkWithValue(it *item, hv uint32, unlinkQ func(*item)) {
	if it.itFlags&itemLinked != 0 {
		if it.itFlags&itemHdr != 0 {
			storageDelete(it)
		}
		unlinkItem(it, hv, unlinkQ)
	}
}

// unlinkItem unlinks an item. A value in a file stays there.
func unlinkItem(it *item, hv uint32, unlinkQ func(*item)) {
	it.itFlags &^= itemLinked
	itemStatsSizesRemove(it)
	assocDelete(it, hv)
	unlinkQ(it)
	doItemRemove(it)
}

// doItemRemove drops a reference, and frees the item if it was the last.
func doItemRemove(it *item) {
	if it.refcount == 0 {
		panic("doItemRemove: no reference")
	}
	it.refcount--
	if it.refcount == 0 {
		itemFree(it)
	}
}

// doItemReplace puts newIt in the place of it, which is linked. A value in a
// file stays there, as newIt may also refer to it.
func doItemReplace(it, newIt *item, hv uint32, cas uint64) {
	time := itemAccess(it)
	if newIt.lruid() == hotLru && it.lruid() == warmLru && it.itFlags&itemActive != 0 {
		newIt.slabsClsid = newIt.clsid() | warmLru // unlike in C, as it is in use
	}
	unlinkItem(it, hv, itemUnlinkQ)
	linkItem(newIt, hv, cas, time)
}

// itemFlushExpired unlinks the flushed items that were last accessed in the
// second, or so, before the flush: they are at the heads of the LRUs. The others
// are unlinked when they are found: see itemIsFlushed. flushed is doItemFlush's
// result. The caller holds no locks.
func itemFlushExpired(flushed relTime) {
	for i := range lrus {
		l := &lrus[i]
		l.lock.Lock()
		// The LRU is more or less sorted in decreasing time order: walk back
		// until we hit an older item.
		var next *item
		for it, done := l.head.item(), false; it != nil && !done; it = next {
			next = it.next.item()
			if isCrawler(it) {
				continue
			}
			// The lock order is inverted, so only try; a locked item is
			// skipped.
			hold := itemTrylock(uint32(it.lock))
			if hold == nil {
				continue
			}
			if done = it.time+1 < flushed; !done && itemIsFlushed(it) {
				doItemUnlinkNolock(it, hash(it.key()))
			}
			itemTrylockUnlock(hold)
		}
		l.lock.Unlock()
	}
}

// itemCachedump lists the items of a class's COLD LRU, at most limit unless
// that is 0, followed by END. Unlike C, it skips items that are locked.
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
	gcAllocated(2 * cap(buf))
	return append(buf, "END\r\n"...)
}

func fillItemStatsAutomove(am *[maxNumberOfSlabClasses]itemStatsAutomove) {
	for n := range am {
		cur := &am[n]

		// outofmemory is counted in HOT
		l := &lrus[n|hotLru]
		l.lock.Lock()
		cur.outofmemory = l.n[itemsOutofmemory]
		l.lock.Unlock()

		// The tail's age is that of COLD, or WARM or HOT if COLD is empty. C
		// counts only COLD's evictions.
		cur.evicted, cur.age = 0, 0
		for _, lru := range [...]int{coldLru, warmLru, hotLru} {
			l = &lrus[n|lru]
			l.lock.Lock()
			cur.evicted += l.n[itemsEvicted]
			if cur.age == 0 {
				cur.age = doTailAge(l)
			}
			l.lock.Unlock()
		}
	}
}

// itemStatsCurr returns the bytes and number of the items there are now, and
// the number of items ever linked.
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
		if settings.lru.maintainerThread || !itemstatsDesc[i].maintainer {
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
	if settings.lru.maintainerThread {
		appendStat(c, "lru_bumps_dropped", "0")
		appendStat(c, "lru_remembered", "%d", lruMemory.remembered.Load())
	}
}

// itemStats serves stats items.
func itemStats(c *conn) {
	threadStats := threadlocalStatsAggregate()
	for n := range maxNumberOfSlabClasses {
		itemStatsClass(c, n, &threadStats)
	}
}

func itemStatsClass(c *conn, n int, threadStats *statSums) {
	var (
		totals    [numItemstats]uint64
		requested uint64
		size      int
		sizes     [4]int // by index in lruTypeMap, as are ages
		ages      [4]relTime
	)
	for x, lruType := range lruTypeMap {
		l := &lrus[n|lruType]
		l.lock.Lock()
		for i, v := range l.n {
			totals[i] += v
		}
		if lruType != coldLru {
			totals[itemsEvictedTime] -= l.n[itemsEvictedTime] // only COLD's counts
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
	if settings.lru.maintainerThread {
		stat("number_hot", sizes[0])
		stat("number_warm", sizes[1])
		stat("number_cold", sizes[2])
		if settings.lru.tempLru.Load() {
			stat("number_temp", sizes[3])
		}
		stat("age_hot", ages[0])
		stat("age_warm", ages[1])
	}
	stat("age", ages[2])
	stat("mem_requested", requested)
	for i := itemsEvicted; i < numItemstats; i++ {
		if settings.lru.maintainerThread || !itemstatsDesc[i].maintainer {
			stat(itemstatsDesc[i].name, totals[i])
		}
	}
	if settings.lru.maintainerThread {
		hits := &threadStats.lruHits
		stat("hits_to_hot", hits[n|hotLru])
		stat("hits_to_warm", hits[n|warmLru])
		stat("hits_to_cold", hits[n|coldLru])
		stat("hits_to_temp", hits[n|tempLru])
	}
}

func itemStatsSizesStatus() bool { return statsSizesHist != nil }

// itemStatsSizesInit turns on the counts of -o track_sizes, at start.
func itemStatsSizesInit() {
	if statsSizesHist == nil {
		statsSizesHist = make([]atomic.Uint32, settings.itemSizeMax/32+1)
	}
}

// sizesBucket returns the item's counter in statsSizesHist, or nil.
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

// itemStatsSizes serves stats sizes: the number of items of each size, in
// steps of 32 bytes.
func itemStatsSizes(c *conn) {
	if statsSizesHist == nil {
		appendStat(c, "sizes_status", "%s", "disabled")
	}
	for i := range statsSizesHist {
		if n := statsSizesHist[i].Load(); n != 0 {
			appendStat(c, fmt.Sprint(i*32), "%d", n)
		}
	}
}

// doItemGet is assocFind with lazy expiration. It returns the item with a
// reference, or nil.
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
		doItemBump(it)
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

func doItemTouch(key []byte, exptime relTime, hv uint32, t *thread) *item {
	it := doItemGet(key, hv, t, doUpdate)
	if it != nil {
		it.exptime = exptime
	}
	return it
}

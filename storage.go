// From items to the files of extstore.go and back. From storage.h and
// storage.c.
//
// The write thread takes items off the tails of their LRUs and writes them to a
// file as they lie in memory. It replaces each with an item of the same key whose
// value is the location in the file (itemHdr). A get of such an item leaves a gap
// in the reply and submits a read to an I/O thread; the connection is parked until
// the gap is filled. The compaction thread reads pages with few live values and
// moves these to another page.

package main

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// What pages are used for.
const (
	pageBucketDefault     = iota
	pageBucketCompact     // values that compaction moved
	pageBucketChunked     // chunked items
	pageBucketLowttl      // values that expire soon (ext_low_ttl)
	pageBucketColdcompact // values that compaction moved, not read lately
	pageBucketOld         // live values of the oldest pages
	pageBucketCount
)

const (
	iosCached = 1024 // ioPendings that a worker keeps for reuse

	// Largest value that a worker reads itself, if that does not block; and
	// largest value that it reads right into the reply.
	storageNowMax  = 64 << 10
	storageCopyMax = 8 << 10

	writeSleepMin          = 200  // microseconds
	minStorageCompactSleep = 1000 // microseconds
	compactWait            = 1000 // microseconds
	compactMaxWaits        = 5000 // waits for each buffer read, before its values are dropped
)

var pageBucketNames = [pageBucketCount]string{"default", "compact", "chunked", "lowttl", "coldcompact", "old"}

// An ioPending is a read that a reply waits for (io_pending_t and
// io_pending_storage_t). It belongs to the worker, except between threadIoQueueSubmit
// and returnIoPending, when it belongs to an I/O thread.
type ioPending struct {
	next   *ioPending // in the worker's cache, or among the completed reads
	thread *thread
	c      *conn
	iov    int   // index in c's reply of three pieces: header, value, and miss,
	nmiss  int   // of this length, which replaces both if the value is gone
	hdrIt  *item // holds a reference
	it     *item // to read into; not linked; the reply holds the reference
	miss   bool
	badcrc bool
	ioCtx  objIo
	vec    [2][]byte
	hdr    [itemSize + 8 + keyMaxLength + 2 + 4]byte // receives the record up to its value
}

// A storageBuk sums up the pages of one bucket.
type storageBuk struct {
	low        extstorePageData // the page with the most holes; version 0 if none has enough
	lowest     extstorePageData // the oldest, or version 0
	pagesFree  int
	pagesTotal int
}

// A storageCompactWrap is the compaction of a page.
type storageCompactWrap struct {
	pageId      int
	pageVersion uint32
	waits       int  // left for this part
	stalled     bool // failing files leave no room
	unsaved     bool // part of the page is damaged or unreadable

	rescues, lost, skipped int // values of this part
	referenced             int // of the rescues, those whose header others hold (rescues_realloc)

	dropUnread, hasColdcompact, useOld bool // see storageCompactCheck
}

// storageConf holds the options of the command line.
var storageConf struct {
	file []*extstoreConfFile // in reverse order of the options; empty without ext_path
	ext  extstoreConf
}

var (
	extStorage *storeEngine // nil without ext_path

	storageWritePlock   sync.Mutex // held by the write thread while it is awake, or to pause it
	storageCompactPlock sync.Mutex // the same for the compaction thread
	storageCompactCond  = sync.NewCond(&storageCompactPlock)
)

// storageLen is the size of an item's record in a page. Records begin at
// multiples of 8.
func storageLen(it *item) int { return (it.ntotal() + 7) &^ 7 }

// storageValidateItem reports whether the value of an item with itemHdr still
// exists.
func storageValidateItem(it *item) bool { return extstoreCheck(extStorage, it.hdr()) }

// storageDelete notes that the value of an item with itemHdr is dead.
func storageDelete(it *item) { extstoreDelete(extStorage, it.hdr(), storageLen(it)) }

// processExtstoreStats answers "stats extstore": the state of each page.
func processExtstoreStats(c *conn) {
	if extStorage == nil {
		return
	}
	for i, d := range extstoreGetPageData(extStorage) {
		name := strconv.Itoa(i)
		appendStat(c, name+":version", "%d", d.version)
		appendStat(c, name+":bytes", "%d", d.bytesUsed)
		appendStat(c, name+":bucket", "%d", d.bucket)
		appendStat(c, name+":free_bucket", "%d", d.freeBucket)
		if d.failed {
			appendStat(c, name+":failed", "1")
		}
	}
}

// storageStats appends the part of "stats" about extstore's files. (The rest of
// C's storage_stats is in statLines.)
func storageStats(c *conn) {
	if extStorage == nil {
		return
	}
	for i, n := range extstoreGetStats(extStorage) {
		appendStat(c, "extstore_"+extStatNames[i], "%d", n)
	}
}

// ioPendingNew returns an ioPending for one of t's connections (C: do_cache_alloc).
func ioPendingNew(t *thread) *ioPending {
	p := t.ext.ioCache
	if p == nil {
		p = new(ioPending)
	} else {
		t.ext.ioCache = p.next
	}
	p.next = nil
	p.thread = t
	t.ext.ios++
	return p
}

func ioPendingFree(p *ioPending) {
	t := p.thread
	t.ext.ios--
	*p = ioPending{}
	if t.ext.ios < iosCached {
		p.next = t.ext.ioCache
		t.ext.ioCache = p
	}
}

// storageGetItemCb runs on the I/O thread when a read completes.
func storageGetItemCb(_ *storeEngine, io *objIo, ret int) {
	p := io.data.(*ioPending)
	storageCheckItem(p, ret)
	returnIoPending(p)
}

// storageCheckItem checks the result of a read, and sets p.miss and p.badcrc.
func storageCheckItem(p *ioPending, ret int) {
	io := &p.ioCtx
	if ret != io.len {
		p.miss = true
		return
	}
	crc := crc32.Update(io.pageVersion, castagnoli, io.iov[0][storeOffset:])
	for _, b := range io.iov[1:] {
		crc = crc32.Update(crc, castagnoli, b)
	}
	if crc != bufItem(p.hdr[:]).exptime {
		p.miss, p.badcrc = true, true
	}
}

// storageGetItem adds the first n bytes of the value of an item with itemHdr to
// the reply. The item is locked; its reference passes to storageGetItem. The
// value's header starts at head in the reply; if the value turns out to be gone,
// miss replaces both. If the memory limit leaves nothing to read into, storageGetItem
// removes the header and returns false; callers then answer with a miss. C ends a get
// with an error; mc9 does so only if the get found nothing else.
func storageGetItem(c *conn, it *item, hv uint32, n, head int, miss []byte) bool {
	t := c.thread
	p := ioPendingNew(t)
	p.c, p.hdrIt = c, it
	io := &p.ioCtx
	*io = objIo{itemHdrT: it.hdr(), data: p, len: it.ntotal(), cb: storageGetItemCb}
	at := len(c.resp.wbuf)
	end := at + int(it.nbytes)
	if it.nbytes <= storageCopyMax && end <= cap(c.resp.wbuf) {
		p.vec = [2][]byte{p.hdr[:it.dataOff()], c.resp.wbuf[at:end]}
		io.iov = p.vec[:]
		if storageGetNow(c, p, n, head, miss) {
			return true
		}
	}
	p.it = doItemAllocFor(it.key(), hv, it.clientFlags(), it.exptime, int(it.nbytes), false)
	if p.it == nil || !storageIov(p) {
		if p.it != nil {
			doItemRemove(p.it)
		}
		ioPendingFree(p)
		doItemRemove(it)
		c.resp.wbuf = c.resp.wbuf[:head]
		t.stats.pending.n[statGetOomExtstore]++
		return false
	}
	c.resp.read += io.len
	if it.nbytes > storageCopyMax && storageGetNow(c, p, n, head, miss) {
		return true
	}
	extstoreHold(extStorage, io)
	respAddIo(c, p, n, head, miss)
	c.respsSuspended.Add(1)
	if t.ext.ioQueue == nil {
		t.ext.ioQueue = io
	} else {
		t.ext.ioQueueTail.next = io
	}
	t.ext.ioQueueTail = io
	t.stats.pending.n[statGetExtstore]++
	return true
}

// storageGetNow answers at once if the value is small and in a write buffer or the
// page cache. Unlike C, where I/O threads do all reads.
func storageGetNow(c *conn, p *ioPending, n, head int, miss []byte) bool {
	r := c.resp
	if p.ioCtx.len > storageNowMax {
		return false
	}
	ret := extstoreRead(extStorage, &p.ioCtx, p.thread.bufs.iov[:0])
	if ret == readAgain {
		return false
	}
	storageCheckItem(p, ret)
	recacheOrFree(p)
	switch {
	case p.miss:
		r.wbuf = append(r.wbuf[:head], miss...)
		if p.it != nil {
			doItemRemove(p.it)
		}
	case p.it == nil:
		r.wbuf = r.wbuf[:len(r.wbuf)+n]
	default:
		respAddItem(c, p.it, n)
	}
	p.thread.stats.pending.n[statGetExtstore]++
	ioPendingFree(p)
	return true
}

// storageIov sets up p's buffers: the value goes to p.it, all before it to p.hdr.
// It returns false if there is no memory for chunks. Unlike in C, the header of an
// item in memory never comes from a file.
func storageIov(p *ioPending) bool {
	it := p.it
	p.vec[0] = p.hdr[:it.dataOff()]
	if it.itFlags&itemChunked == 0 {
		p.vec[1] = it.data()
		p.ioCtx.iov = p.vec[:]
		return true
	}
	iov := [][]byte{p.vec[0]}
	ch := it.schunk()
	for remain := int(it.nbytes); remain > 0; {
		if ch = doItemAllocChunk(ch, remain, false); ch == nil {
			return false
		}
		b := ch.data()
		b = b[:min(len(b), remain)]
		ch.used = int32(len(b))
		remain -= len(b)
		iov = append(iov, b)
	}
	p.ioCtx.iov = iov
	return true
}

// threadIoQueueSubmit submits the reads that t's connections wait for.
func threadIoQueueSubmit(t *thread) {
	t.ext.connsTosubmit = 0
	if t.ext.ioQueue != nil {
		extstoreSubmit(&extStorage.reads, t.ext.ioQueue)
		t.ext.ioQueue, t.ext.ioQueueTail = nil, nil
	}
}

// storageAbort discards a read that was not submitted, as its reply is dropped.
func storageAbort(p *ioPending) {
	t := p.thread
	var prev *objIo
	at := &t.ext.ioQueue
	for ; *at != &p.ioCtx; at = &prev.next {
		prev = *at
	}
	*at = p.ioCtx.next
	if t.ext.ioQueueTail == &p.ioCtx {
		t.ext.ioQueueTail = prev
	}
	extstoreRelease(extStorage, &p.ioCtx)
	p.c.respsSuspended.Add(-1)
	t.stats.pending.n[statGetAbortedExtstore]++
	itemRemove(p.hdrIt)
	itemRemove(p.it)
	ioPendingFree(p)
}

// recacheOrFree drops p's reference to the item that was read, which is locked. It
// unlinks the item if its value is gone. One time in extRecacheRate it moves the
// value of a popular item back to memory. C does this after the reply has been
// sent, mc9 when the read completes.
func recacheOrFree(p *ioPending) {
	n := &p.thread.stats.pending.n
	hdrIt := p.hdrIt
	if p.miss {
		if hdrIt.hdr() == p.ioCtx.itemHdrT {
			doItemUnlink(hdrIt, hash(hdrIt.key())) // else compaction has rescued it
		}
		n[statMissFromExtstore]++
		if p.badcrc {
			n[statBadcrcFromExtstore]++
		}
	} else if rate := settings.ext.recacheRate.Load(); rate != 0 {
		// The item was hit at least twice lately.
		const flags = itemLinked | itemFetched
		if hdrIt.itFlags&flags == flags && hdrIt.itFlags&itemActive != 0 && itemAge(hdrIt) < itemUpdateInterval {
			if p.c.recacheCounter%rate == 0 {
				recache(p)
			}
			p.c.recacheCounter++
		}
	}
	doItemRemove(hdrIt)
}

// recache replaces p's item with one that has the value in memory.
func recache(p *ioPending) {
	it, hdrIt := p.it, p.hdrIt
	hv := hash(hdrIt.key())
	if it == nil {
		// The value is in the reply.
		if it = doItemAlloc(hdrIt.key(), hv, hdrIt.clientFlags(), 0, int(hdrIt.nbytes)); it == nil {
			return
		}
		defer doItemRemove(it)
		if it.itFlags&itemChunked == 0 {
			copy(it.data(), p.vec[1])
		} else if ch := it.schunk(); !storeItemCopyBytes(&ch, p.vec[1], 0) {
			return
		}
	}
	it.exptime = hdrIt.exptime // may have changed since the read began
	it.itFlags |= hdrIt.itFlags & itemPreserveFlags
	it.slabsClsid = it.clsid() | coldLru
	storageDelete(hdrIt)
	doItemReplace(hdrIt, it, hv, hdrIt.cas())
	p.thread.stats.pending.n[statRecacheFromExtstore]++
}

// storageReturnCb runs on the worker when a read has come back.
func storageReturnCb(p *ioPending) {
	c := p.c
	lock := uint32(p.hdrIt.lock)
	itemLock(lock)
	recacheOrFree(p)
	itemUnlock(lock)
	respFillIo(c, p)
	ioPendingFree(p)
	if c.respsSuspended.Add(-1) == 0 {
		connWorkerReadd(c)
	}
}

// The write thread.

// storageWrite writes the item at the tail of the class's LRU if it was not used
// for more than age seconds; an age of 0 means any item. It reports
// whether it wrote one.
func storageWrite(clsid int, age uint32) bool {
	var it *item
	for it == nil && lruPullTail(clsid, coldLru, 0, lruPullReturnItem, 0, &it) > 0 {
		// it was active or expired
	}
	if it == nil {
		return false
	}
	lock := uint32(it.lock)
	did := it.itFlags&itemHdr == 0 && (age == 0 || itemAge(it) > age) &&
		storageWriteItem(it, hash(it.key()))
	doItemRemove(it)
	itemUnlock(lock)
	return did
}

// storageWriteItem writes a locked item and replaces it with one that points to
// the file. It returns false if there is no memory, or no room in a page for now.
func storageWriteItem(it *item, hv uint32) bool {
	hdrIt := doItemAlloc(it.key(), hv, it.clientFlags(), it.exptime, itemHdrSize)
	if hdrIt == nil {
		return false
	}
	bucket := pageBucketDefault
	if it.itFlags&itemChunked != 0 {
		bucket = pageBucketChunked
	}
	if it.exptime-currentTime.Load() < settings.ext.lowTtl.Load() { // not if it never expires
		bucket = pageBucketLowttl
	}
	io := objIo{len: storageLen(it)}
	if !extstoreWriteRequest(extStorage, bucket, &io) {
		doItemRemove(hdrIt)
		return false
	}
	storageFill(io.buf, it, hv)
	storageSum(io.buf, io.pageVersion)
	extstoreWrite(extStorage, &io)
	hdrIt.itFlags |= itemHdr | it.itFlags&itemPreserveFlags
	hdrIt.setHdr(io.itemHdrT)
	hdrIt.nbytes = it.nbytes // of the value in the file
	doItemReplace(it, hdrIt, hv, it.cas())
	doItemRemove(hdrIt)
	if loggerEflags.Load()&logEvictions != 0 {
		loggerLogExtWrite(it, bucket)
	}
	return true
}

// storageFill makes b, of storageLen bytes, the record of an item, without its
// links and checksum. The key's hash takes the place of the time field.
func storageFill(b []byte, it *item, hv uint32) {
	off, n := it.dataOff(), it.ntotal()
	clear(b[:storeOffset])
	copy(b[storeOffset:], it.offset(storeOffset, off-storeOffset))
	storeItemCopyOut(b[off:n], it)
	clear(b[n:])
	rec := bufItem(b)
	rec.itFlags &^= itemLinked
	rec.time = hv
}

// storageSum puts the checksum of a record in place of its exptime field. The sum
// is seeded with the page's version: if the disk loses a write, a stale record from
// an earlier use of the page has a wrong sum.
func storageSum(b []byte, pageVersion uint32) {
	rec := bufItem(b)
	rec.exptime = crc32.Update(pageVersion, castagnoli, b[storeOffset:rec.ntotal()])
}

// storageMinClass returns the smallest class whose items are written.
func storageMinClass() int {
	size := int(settings.ext.itemSize.Load()) - itemSaved
	id := slabsClsid(size)
	if id == 0 && size > 0 {
		return maxNumberOfSlabClasses // nothing is so large
	}
	return id
}

// storageMakeRoom tries to write an item of the class, so that none must be
// evicted. Not in C, which evicts when the write thread is late.
func storageMakeRoom(clsid int) bool {
	return extStorage != nil && clsid >= storageMinClass() && storageWrite(clsid, 0)
}

// storageStalled reports whether failing files leave some bucket no room. The
// caller should evict instead of waiting for the write thread.
func storageStalled() bool {
	for bucket := range pageBucketCount {
		if extstoreStalled(extStorage, bucket) {
			return true
		}
	}
	return false
}

// storageWriteTarget returns how many chunks of a class, perpage in each page, to
// keep free when targetPages pages are missing from the pool; less than 1 if none is.
// It is limited for small values, whose headers take much of the memory gained.
func storageWriteTarget(perpage, targetPages int) int {
	switch size := settings.slab.pageSize / perpage; {
	case size < 500:
		targetPages = min(targetPages, 3)
	case size < 1000:
		targetPages = min(targetPages, 4)
	case size < 2000:
		targetPages = min(targetPages, 5)
	}
	return perpage * targetPages
}

// storageWriteThread writes old items, and recent ones when memory is short. It
// never returns.
func storageWriteThread() {
	var backoff [maxNumberOfSlabClasses]int // rounds to skip a class
	toSleep := writeSleepMin
	lastWrite := relTime(0)
	// Wake the compaction thread once for each slab page written.
	checkCompact := settings.slab.pageSize
	kick := func(n int) {
		if checkCompact -= n; checkCompact < 0 {
			storageCompactCond.Signal()
			checkCompact = settings.slab.pageSize
		}
	}
	storageWritePlock.Lock()
	for counter := 1; ; counter++ {
		extstoreRetry(extStorage)
		minClass := storageMinClass()
		globalPages, _ := globalPagePoolSize()
		targetPages := int(settings.ext.globalPoolMin.Load()) - globalPages
		if targetPages == 0 {
			targetPages = 1 // a little early, to help the page mover
		}
		doSleep := true
		toSleep = min(toSleep, int(settings.ext.maxSleep.Load()))

		// Largest first: the larger a value, the smaller the share of its header.
		for x := maxNumberOfSlabClasses - 1; x > 0 && x >= minClass; x-- {
			if counter%(backoff[x]+1) != 0 {
				continue
			}
			free, perpage := slabsAvailableChunks(x)
			if perpage == 0 {
				continue
			}
			target := storageWriteTarget(perpage, targetPages)
			backoff[x]++
			for {
				itemAge := settings.ext.itemAge.Load()
				if free < target {
					itemAge = 0
				}
				// This also fails when the write buffer is full.
				if !storageWrite(x, itemAge) {
					break
				}
				free++
				kick(settings.slab.pageSize / perpage)
				backoff[x] = 0
				doSleep = false
				lastWrite = currentTime.Load()
				toSleep = max(toSleep/2, writeSleepMin)
			}
		}

		storageWritePlock.Unlock() // a chance to pause us
		if doSleep {
			clear(backoff[:])
			nap := toSleep
			if atRest.Load() && currentTime.Load() > lastWrite+1 { // nothing new comes, nothing waits for a buffer
				nap = min(1000000, int(settings.ext.maxSleep.Load()))
			}
			kick(nap * 10)
			usleep(nap)
			toSleep++
		}
		storageWritePlock.Lock()
	}
}

// The compaction thread.

// storageCompactFill sums up the pages of each bucket. A page has enough holes if
// fewer than fragLimit bytes are used.
func storageCompactFill(fragLimit int64) (buckets [pageBucketCount]storageBuk) {
	for _, d := range extstoreGetPageData(extStorage) {
		buk := &buckets[d.freeBucket]
		buk.pagesTotal++
		switch {
		case !d.usable:
			continue // nothing would be gained by freeing it
		case d.version == 0:
			buk.pagesFree++
			continue
		case d.active:
			continue
		}
		if buk.lowest.version == 0 || d.version < buk.lowest.version {
			buk.lowest = d
		}
		if d.bytesUsed < fragLimit && (buk.low.version == 0 || d.bytesUsed < buk.low.bytesUsed) {
			buk.low = d
		}
	}
	return buckets
}

// storageCompactCheck chooses the page to compact next. It returns false if there is
// none.
func storageCompactCheck(wrap *storageCompactWrap) bool {
	if extstoreStalled(extStorage, pageBucketCompact) {
		return false
	}
	maxFrag := settings.ext.maxFrag.Load()
	fragLimit := int64(float64(extStorage.pageSize) * min(max(maxFrag, 0), 1))
	loggerLogText(loggerCompactFraginfo, maxFrag, fragLimit)
	buckets := storageCompactFill(fragLimit)
	wrap.dropUnread, wrap.useOld = false, false
	wrap.hasColdcompact = buckets[pageBucketColdcompact].pagesTotal > 0
	hasOld := buckets[pageBucketOld].pagesTotal > 0

	// These two must always have a free page.
	for _, x := range [...]int{pageBucketColdcompact, pageBucketOld} {
		buk := &buckets[x]
		if buk.pagesFree == 0 && buk.lowest.version != 0 {
			extstoreClosePage(extStorage, buk.lowest.id, buk.lowest.version, true)
			return false
		}
	}

	for x := range buckets {
		buk := &buckets[x]
		// Only buckets with pages of their own.
		if buk.pagesTotal == 0 || x == pageBucketLowttl || buk.pagesFree >= int(settings.ext.compactUnder.Load()) {
			continue
		}
		page := buk.low
		if page.version == 0 {
			if x == pageBucketColdcompact || x == pageBucketOld || buk.pagesFree >= int(settings.ext.dropUnder.Load()) {
				continue
			}
			// No page has enough holes. Compact the oldest: values that were not
			// read are dropped or move to COLDCOMPACT, or all move to OLD.
			page = buk.lowest
			dropUnread := settings.ext.dropUnread.Load()
			if page.version == 0 || !dropUnread && !wrap.hasColdcompact && !hasOld {
				continue
			}
			wrap.dropUnread, wrap.useOld = dropUnread, hasOld
		}
		wrap.pageId, wrap.pageVersion = page.id, page.version
		return true
	}
	return false
}

// storageCompactRescue moves the record rec, at offset of the page, to another
// page if its value is live. The item's lock is held. It returns false if there is
// no room yet. The old location is deleted after the value has moved, not before
// as in C: callers release the lock between attempts, so others may delete it. Only
// the last value of a page is deleted first, since that page may be all the room
// there is; to delete it again does nothing.
func storageCompactRescue(wrap *storageCompactWrap, rec *item, hv uint32, offset int) bool {
	hdrIt := assocFind(rec.key(), hv)
	if hdrIt == nil || hdrIt.itFlags&itemHdr == 0 || itemIsFlushed(hdrIt) || itemIsExpired(hdrIt, currentTime.Load()) {
		return true
	}
	loc := itemHdrT{wrap.pageVersion, uint32(offset), uint16(wrap.pageId)}
	if hdrIt.hdr() != loc {
		return true
	}
	bucket := pageBucketCompact
	if wrap.useOld {
		bucket = pageBucketOld
	}
	if hdrIt.lruid() == coldLru {
		if wrap.hasColdcompact {
			bucket = pageBucketColdcompact
		} else if wrap.dropUnread {
			wrap.skipped++
			return true
		}
	}
	n := storageLen(rec)
	if extstoreLast(extStorage, loc) {
		extstoreDelete(extStorage, loc, n)
	}
	io := objIo{len: n}
	if !extstoreWriteRequest(extStorage, bucket, &io) {
		wrap.stalled = extstoreStalled(extStorage, bucket)
		return false
	}
	copy(io.buf, rec.offset(0, n))
	storageSum(io.buf, io.pageVersion)
	extstoreWrite(extStorage, &io)
	// Even if others hold references, as they read the old location: unlike in C, they
	// use the header only with the item locked.
	hdrIt.setHdr(io.itemHdrT)
	extstoreDelete(extStorage, loc, n)
	wrap.rescues++
	if hdrIt.refcount > 1 {
		wrap.referenced++
	}
	switch bucket {
	case pageBucketColdcompact:
		stats.extstoreCompactRescCold.Add(1)
	case pageBucketOld:
		stats.extstoreCompactRescOld.Add(1)
	}
	return true
}

// storageRecord returns the record at the start of b, or nil if there is none; ok
// reports whether it is intact. A record is recognized by the hash of its key,
// which clients cannot know, so a value that looks like a record is not taken for
// one.
func storageRecord(b []byte, pageVersion uint32) (rec *item, ok bool) {
	if len(b) < itemSize {
		return nil, false
	}
	rec = bufItem(b)
	if rec.nkey == 0 || rec.nbytes < 2 || rec.itFlags&itemHdr != 0 || rec.dataOff() > len(b) || rec.time != hash(rec.key()) {
		return nil, false
	}
	return rec, storageLen(rec) <= len(b) &&
		rec.exptime == crc32.Update(pageVersion, castagnoli, b[storeOffset:rec.ntotal()])
}

// storageNextRecord returns the first intact record at or after offset, with its
// offset, or nil. It counts the damaged records that it skips: as their lengths may
// be wrong, it tries every place where a record may begin. After the last record
// there are zeroes.
func storageNextRecord(wrap *storageCompactWrap, buf []byte, offset int) (int, *item) {
	lost := false // offset is inside a damaged record
	for ; offset+8 <= len(buf); offset += 8 {
		rec, ok := storageRecord(buf[offset:], wrap.pageVersion)
		if ok {
			return offset, rec
		}
		if rec != nil || !lost && binary.LittleEndian.Uint64(buf[offset:]) != 0 {
			lost, wrap.unsaved = true, true
			stats.extstoreCompactBadcrc.Add(1)
		}
	}
	return offset, nil
}

// storageCompactReadback rescues the live values of a part of a page. It returns
// false if failing files leave no room.
func storageCompactReadback(wrap *storageCompactWrap, readbackBuf []byte, pageOffset int) bool {
	wrap.waits = compactMaxWaits
	wrap.stalled = false
	wrap.rescues, wrap.referenced, wrap.lost, wrap.skipped = 0, 0, 0, 0
	offset, rec := storageNextRecord(wrap, readbackBuf, 0)
	for rec != nil && !wrap.stalled {
		hv := rec.time
		most := max(wrap.waits, 10)
		for tries := 0; ; tries++ {
			itemLock(hv)
			done := storageCompactRescue(wrap, rec, hv, pageOffset+offset)
			itemUnlock(hv)
			if done || wrap.stalled {
				break
			}
			if tries == most {
				wrap.lost++
				break
			}
			// Unlike C, do not wait with the item locked.
			wrap.waits--
			storageCompactPlock.Unlock()
			usleep(compactWait)
			storageCompactPlock.Lock()
		}
		offset, rec = storageNextRecord(wrap, readbackBuf, offset+storageLen(rec))
	}
	stats.extstoreCompactLost.Add(uint64(wrap.lost))
	stats.extstoreCompactRescues.Add(uint64(wrap.rescues))
	stats.extstoreCompactSkipped.Add(uint64(wrap.skipped))
	loggerLogText(loggerCompactReadEnd, wrap.pageId, offset, wrap.rescues, wrap.referenced, wrap.lost, 0, wrap.skipped)
	return !wrap.stalled
}

// storageCompactPage reads a page, rescues its live values and frees it. It
// returns false if the page was freed meanwhile, or there is no room for values.
func storageCompactPage(wrap *storageCompactWrap, readbackBuf []byte) bool {
	wrap.unsaved = false
	iov := [][]byte{readbackBuf}
	for off := 0; off < extStorage.pageSize; off += len(readbackBuf) {
		io := objIo{itemHdrT: itemHdrT{wrap.pageVersion, uint32(off), uint16(wrap.pageId)}, iov: iov, len: len(readbackBuf)}
		ret := extstoreRead(extStorage, &io, nil) // in C an I/O thread reads
		if ret == readGone {
			if off > 0 && extstoreCheck(extStorage, itemHdrT{wrap.pageVersion, 0, io.pageId}) {
				break // a write failed here, so the page has no more values
			}
			return false
		}
		if ret < len(readbackBuf) {
			wrap.unsaved = true
		}
		loggerLogText(loggerCompactReadStart, wrap.pageId, off)
		if !storageCompactReadback(wrap, readbackBuf[:max(ret, 0)], off) {
			return false
		}
		storageCompactPlock.Unlock() // a chance to pause us
		storageCompactPlock.Lock()
	}
	extstoreClosePage(extStorage, wrap.pageId, wrap.pageVersion, wrap.unsaved)
	return true
}

// storageCompactThread compacts pages as long as there are pages to compact, then
// waits for a signal from storageWriteThread. It never returns.
func storageCompactThread() {
	readbackBuf, err := bufAlloc(storageConf.ext.wbufSize)
	if err != nil {
		readbackBuf = make([]byte, storageConf.ext.wbufSize)
	}
	wrap := new(storageCompactWrap)
	storageCompactPlock.Lock()
	for {
		if !storageCompactCheck(wrap) {
			storageCompactCond.Wait()
			continue
		}
		loggerLogText(loggerCompactStart, wrap.pageId, wrap.pageVersion)
		if !storageCompactPage(wrap, readbackBuf) {
			loggerLogText(loggerCompactAbort, wrap.pageId)
			storageCompactCond.Wait()
			continue
		}
		loggerLogText(loggerCompactEnd, wrap.pageId)
		storageCompactPlock.Unlock()
		usleep(minStorageCompactSleep)
		storageCompactPlock.Lock()
	}
}

// The options.

// storageConfParse reads the value of ext_path: FILE:SIZE[:BUCKET]
func storageConfParse(arg string) *extstoreConfFile {
	words := strings.FieldsFunc(arg, func(r rune) bool { return r == ':' })
	if len(words) == 0 {
		return nil
	}
	cf := &extstoreConfFile{file: words[0]}
	size, unit := "", -1
	if len(words) > 1 {
		size = words[1]
		unit = strings.IndexByte("mgtp", size[len(size)-1]|0x20)
	}
	if unit < 0 {
		fmt.Fprintf(os.Stderr, "must supply size to ext_path, ie: ext_path=/f/e:64m (M|G|T|P supported)\n")
		return nil
	}
	shift := 20 + 10*unit
	n := uint64(max(atoi(size[:len(size)-1]), 0))
	cf.totalSize = min(n, math.MaxUint64>>shift) << shift
	if len(words) > 2 {
		if cf.freeBucket = slices.Index(pageBucketNames[:], words[2]); cf.freeBucket < 0 {
			fmt.Fprintf(os.Stderr, "Unknown extstore bucket: %s\n", words[2])
			return nil
		}
	}
	return cf
}

func storageInitConfig() {
	settings.ext.itemSize.Store(512)
	settings.ext.itemAge.Store(math.MaxUint32)
	settings.ext.lowTtl.Store(0)
	settings.ext.recacheRate.Store(2000)
	settings.ext.maxFrag.Store(0.8)
	settings.ext.dropUnread.Store(false)
	settings.ext.compactUnder.Store(0)
	settings.ext.dropUnder.Store(0)
	settings.ext.maxSleep.Store(1000000)
	settings.slab.automoveFreeratio.Store(0.01)
	storageConf.file = nil
	storageConf.ext = extstoreConf{
		pageSize:      64 << 20,
		wbufSize:      4 << 20,
		ioThreadcount: 1,
		ioDepth:       1,
		pageBuckets:   pageBucketCount,
		wbufCount:     2 * pageBucketCount, // one to fill and one in flight for each
	}
}

// storageOptions are the suboptions of extstore (C: storage_read_config).
func storageOptions() []option {
	ext := &storageConf.ext
	count := func(p *int) func(uint32) { return func(n uint32) { *p = int(n) } }
	part := func(name, help string, store func(float64)) option {
		return option{name, missingArgument, help, func(value string) {
			f, err := strconv.ParseFloat(value, 64)
			refuse(err != nil || !(f >= 0 && f < math.MaxInt32), 1, "could not parse argument to %s", name)
			store(f)
		}}
	}
	return []option{
		{"ext_path", "missing argument to %s, ie: ext_path=/d/file:5G", `file to move values to when memory is short, and its size, as in
/mnt/d1/extstore:64g; another colon and default, compact,
chunked, lowttl, coldcompact or old say what its pages are for;
may be repeated`, func(value string) {
			cf := storageConfParse(value)
			refuse(cf == nil, 1, "failed to parse ext_path argument")
			storageConf.file = slices.Insert(storageConf.file, 0, cf)
		}},
		numberOption("ext_page_size", "megabytes per page of these files (default: 64)",
			func(n uint32) { ext.pageSize = int(n) << 20 }),
		numberOption("ext_wbuf_size", "megabytes per write buffer; no less than -I (default: 4)",
			func(n uint32) { ext.wbufSize = int(n) << 20 }),
		numberOption("ext_threads", "threads that read (default: 1)", count(&ext.ioThreadcount)),
		numberOption("ext_io_depth", "reads that a thread takes from its queue at a time (default: 1)", count(&ext.ioDepth)),
		numberOption("ext_item_size", "smallest item to move, in bytes (default: 512)", settings.ext.itemSize.Store),
		numberOption("ext_item_age", `seconds without access after which to move an item even if
memory is not short (default: never)`, settings.ext.itemAge.Store),
		numberOption("ext_low_ttl", `items that expire sooner go to pages of their own (in seconds;
default: 0)`, settings.ext.lowTtl.Store),
		numberOption("ext_recache_rate", `move a value back to memory on one fetch in so many, 0 for never
(default: 2000)`, settings.ext.recacheRate.Store),
		part("ext_max_frag", `compact a page if less than this part of it is in use
(default: 0.80)`, settings.ext.maxFrag.Store),
		numberOption("ext_compact_under", `compact when fewer pages than this are free
(default: 1 percent)`, settings.ext.compactUnder.Store),
		numberOption("ext_drop_under", `when fewer than this are free, and none has holes, drop or move
cold items of the oldest page (default: 1 percent)`, settings.ext.dropUnder.Store),
		{"ext_drop_unread", "", "drop them, rather than compact or evict", func(string) { settings.ext.dropUnread.Store(true) }},
		numberOption("ext_max_sleep", `longest sleep of the thread that writes, in microseconds
(default: 1000000)`, settings.ext.maxSleep.Store),
		part("slab_automove_freeratio", "part of memory to keep free with ext_path (default: 0.010)",
			settings.slab.automoveFreeratio.Store),
	}
}

// storageCheckConfig exits if the options contradict each other.
func storageCheckConfig() {
	ext := &storageConf.ext
	if len(storageConf.file) == 0 {
		return
	}
	const pageSizeMax = 4 << 30 // bytes; offsets have 32 bits
	refuse(ext.pageSize == 0 || ext.wbufSize == 0 || ext.pageSize > pageSizeMax,
		exUsage, "ext_page_size and ext_wbuf_size must be from 2 to %d", pageSizeMax>>20)
	refuse(ext.ioThreadcount < 1 || ext.ioThreadcount > extThreadsMax, exUsage, "ext_threads must be from 1 to %d", extThreadsMax)
	refuse(settings.itemSizeMax > ext.wbufSize,
		exUsage, "-I (item_size_max: %d) cannot be larger than ext_wbuf_size: %d", settings.itemSizeMax, ext.wbufSize)
	refuse(settings.net.udpport != 0, exUsage, "Cannot use UDP with extstore enabled (-U 0 to disable)")
	for _, f := range storageConf.file {
		pages := f.totalSize / uint64(ext.pageSize)
		refuse(pages == 0, exUsage, "supplied ext_path has zero size, cannot use")
		f.pageCount = int(min(pages, math.MaxUint16)) // extstoreInit refuses that many
		checkPath("ext_path ", f.file)
	}
}

// storageMemory returns the bytes of all write buffers and of compaction's read
// buffer.
func storageMemory() uint64 {
	if len(storageConf.file) == 0 {
		return 0
	}
	return uint64((storageConf.ext.wbufCount + 1) * storageConf.ext.wbufSize)
}

// storageThreads is the number of extstore's threads: the write thread, the compaction
// thread, an I/O thread for writes, and the I/O threads for reads.
func storageThreads() int {
	if extStorage == nil {
		return 0
	}
	return 3 + storageConf.ext.ioThreadcount
}

// storageInit opens the files.
func storageInit() {
	if settings.ext.compactUnder.Load() == 0 {
		// -h mentions this fraction.
		under := uint32(max(storageConf.file[0].pageCount/100, 1))
		settings.ext.compactUnder.Store(under)
		settings.ext.dropUnder.Store(under)
	}
	settings.ext.globalPoolMin.Store(0)
	e, err := extstoreInit(storageConf.file, &storageConf.ext)
	refuse(err != nil, 1, "Failed to initialize external storage: %v", err)
	extStorage = e
}

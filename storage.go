// From items to the files of extstore.go and back. From storage.h and
// storage.c.
//
// A thread takes items off the tails of their LRUs and writes them to a file,
// as they lie in memory. In their place it puts items with the same key but,
// for a value, the place in the file. A get of such an item leaves a gap in the
// reply, and a request with an I/O thread to fill it; until it has the
// connection is parked. Another thread compacts: it reads pages of which
// little is still wanted, and writes that to another page.

package main

import (
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
	pageBucketCompact     // what was moved here from another page
	pageBucketChunked     // chunked items
	pageBucketLowttl      // what expires soon (ext_low_ttl)
	pageBucketColdcompact // as Compact, if nobody has asked for it
	pageBucketOld         // the rest of the oldest pages
	pageBucketCount
)

const (
	iosCached = 1024 // reads that a worker keeps for the next time

	// Bytes of a value up to which a worker reads it, if that need not wait, and
	// up to which it does so into the reply.
	storageNowMax  = 64 << 10
	storageCopyMax = 8 << 10

	writeSleepMin          = 200  // microseconds
	minStorageCompactSleep = 1000 // microseconds
	compactWait            = 1000 // microseconds
	compactMaxWaits        = 5000 // of these for a buffer, before we lose our patience

	noVersion = math.MaxUint64
)

var pageBucketNames = [pageBucketCount]string{"default", "compact", "chunked", "lowttl", "coldcompact", "old"}

// An ioPending is a read that a reply waits for (io_pending_t and
// io_pending_storage_t). It belongs to the worker, but from storageSubmitCb to
// returnIoPending to an I/O thread.
type ioPending struct {
	next      *ioPending // free ones, or those that have come back
	thread    *thread
	c         *conn
	iov       int   // the pieces of c's reply: its head, the value, and
	nmiss     int   // what is sent instead of these two, of this length
	hdrIt     *item // with a reference
	it        *item // what is read into, not linked; the reply has a reference
	submitted bool
	miss      bool
	badcrc    bool
	ioCtx     objIo
	vec       [2][]byte
	hdr       [itemSize + 8 + keyMaxLength + 2 + 4]byte // of what was written: all but the value
}

// A storageBuk is what there is of pages for one use.
type storageBuk struct {
	lowPage         int // with the most holes
	lowVersion      uint64
	lowestPage      int // the oldest
	lowestVersion   uint64
	pagesFree       int
	pagesTotal      int
	bytesFragmented uint64 // of lowPage
}

type compactFlags struct {
	dropUnread     bool
	hasColdcompact bool
	hasOld         bool
	useOld         bool
}

// A storageCompactWrap is a page that is being compacted, and what has come of
// it.
type storageCompactWrap struct {
	io          objIo
	done        chan int
	pageId      int
	pageVersion uint32
	flags       compactFlags
	waits       int // left for this buffer

	rescues        int
	rescuesRealloc int // that took another header
	lost           int
	lostOom        int // for want of memory for that
	skipped        int
	rescueCold     int
	rescueOld      int
}

// storageConf is what the command line asks for.
var storageConf struct {
	file []*extstoreConfFile // empty without ext_path; the last one given first
	ext  extstoreConf
}

var (
	extStorage *storeEngine // nil without ext_path

	storageWritePlock   sync.Mutex // held by the write thread while it is awake
	storageCompactPlock sync.Mutex // held by the compaction thread while it is awake
	storageCompactCond  = sync.NewCond(&storageCompactPlock)
)

// storageLen is the number of bytes that an item takes in a page, where each
// begins at a multiple of 8.
func storageLen(it *item) int { return (it.ntotal() + 7) &^ 7 }

// storageValidateItem tells whether the value of an item with itemHdr is still
// there.
func storageValidateItem(it *item) bool {
	hdr := it.hdr()
	return extstoreCheck(extStorage, int(hdr.pageId), hdr.pageVersion)
}

// storageDelete notes that the value of an item with itemHdr is wanted no
// more.
func storageDelete(it *item) {
	hdr := it.hdr()
	extstoreDelete(extStorage, int(hdr.pageId), hdr.pageVersion, 1, uint64(storageLen(it)))
}

// processExtstoreStats answers stats extstore: what is in each page.
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
	}
}

// storageStats appends what stats has to say of extstore.
func storageStats(c *conn) {
	if extStorage == nil {
		return
	}
	statsLock.Lock()
	appendStat(c, "extstore_memory_pressure", "%.2f", statsState.extstoreMemoryPressure)
	appendStat(c, "extstore_compact_lost", "%d", stats.extstoreCompactLost)
	appendStat(c, "extstore_compact_rescues", "%d", stats.extstoreCompactRescues)
	appendStat(c, "extstore_compact_resc_cold", "%d", stats.extstoreCompactRescCold)
	appendStat(c, "extstore_compact_resc_old", "%d", stats.extstoreCompactRescOld)
	appendStat(c, "extstore_compact_skipped", "%d", stats.extstoreCompactSkipped)
	statsLock.Unlock()
	st := extstoreGetStats(extStorage)
	appendStat(c, "extstore_page_allocs", "%d", st.pageAllocs)
	appendStat(c, "extstore_page_evictions", "%d", st.pageEvictions)
	appendStat(c, "extstore_page_reclaims", "%d", st.pageReclaims)
	appendStat(c, "extstore_pages_free", "%d", st.pagesFree)
	appendStat(c, "extstore_pages_used", "%d", st.pagesUsed)
	appendStat(c, "extstore_objects_evicted", "%d", st.objectsEvicted)
	appendStat(c, "extstore_objects_read", "%d", st.objectsRead)
	appendStat(c, "extstore_objects_written", "%d", st.objectsWritten)
	appendStat(c, "extstore_objects_used", "%d", st.objectsUsed)
	appendStat(c, "extstore_bytes_evicted", "%d", st.bytesEvicted)
	appendStat(c, "extstore_bytes_written", "%d", st.bytesWritten)
	appendStat(c, "extstore_bytes_read", "%d", st.bytesRead)
	appendStat(c, "extstore_bytes_used", "%d", st.bytesUsed)
	appendStat(c, "extstore_bytes_fragmented", "%d", st.bytesFragmented)
	appendStat(c, "extstore_limit_maxbytes", "%d", st.pageCount*st.pageSize)
	appendStat(c, "extstore_io_queue", "%d", st.ioQueue)
}

// ioPendingNew returns a read for one of t's connections (C: do_cache_alloc).
func ioPendingNew(t *thread) *ioPending {
	p := t.ioCache
	if p == nil {
		p = new(ioPending)
	} else {
		t.ioCache = p.next
	}
	p.next = nil
	p.thread = t
	t.ios++
	return p
}

func ioPendingFree(p *ioPending) {
	t := p.thread
	t.ios--
	*p = ioPending{}
	if t.ios < iosCached {
		p.next = t.ioCache
		t.ioCache = p
	}
}

// storageGetItemCb has a read in an I/O thread.
func storageGetItemCb(_ *storeEngine, io *objIo, ret int) {
	p := io.data.(*ioPending)
	storageCheckItem(p, ret)
	returnIoPending(p)
}

// storageCheckItem looks at what was read.
func storageCheckItem(p *ioPending, ret int) {
	io := &p.ioCtx
	if ret != io.len {
		p.miss = true
		return
	}
	crc := crc32.Update(0, castagnoli, io.iov[0][storeOffset:])
	for _, b := range io.iov[1:] {
		crc = crc32.Update(crc, castagnoli, b)
	}
	if crc != bufItem(p.hdr[:]).exptime {
		p.miss, p.badcrc = true, true
	}
}

// storageGetItem answers with the first n bytes of the value of an item with
// itemHdr, whose lock is held and whose reference it takes over. What is said
// before the value is in the reply from head on; if there turns out to be no
// value any more, miss is said instead of both. It returns false, with
// nothing said, if there is no memory to read into.
func storageGetItem(c *conn, it *item, hv uint32, n, head int, miss []byte) bool {
	t := c.thread
	hdr := it.hdr()
	p := ioPendingNew(t)
	p.c = c
	p.hdrIt = it
	io := &p.ioCtx
	io.mode = objIoRead
	io.data = p
	io.pageVersion = hdr.pageVersion
	io.pageId = int(hdr.pageId)
	io.offset = int(hdr.offset)
	io.len = it.ntotal()
	io.cb = storageGetItemCb
	at := len(c.resp.wbuf)
	end := at + int(it.nbytes)
	if it.nbytes <= storageCopyMax && end <= cap(c.resp.wbuf) {
		p.vec = [2][]byte{p.hdr[:it.dataOff()], c.resp.wbuf[at:end]}
		io.iov = p.vec[:]
		if storageGetNow(c, p, n, head, miss) {
			return true
		}
	}
	p.it = doItemAlloc(it.key(), hv, it.clientFlags(), it.exptime, int(it.nbytes))
	if p.it == nil || !storageIov(p) {
		if p.it != nil {
			doItemRemove(p.it)
		}
		extstoreRelease(extStorage, io)
		ioPendingFree(p)
		doItemRemove(it)
		c.resp.wbuf = c.resp.wbuf[:head]
		t.stats.pending.n[statGetOomExtstore]++
		return false
	}
	if it.nbytes > storageCopyMax && storageGetNow(c, p, n, head, miss) {
		return true
	}
	extstoreHold(extStorage, io)
	respAddIo(c, p, n, head, miss)
	connRespSuspend(c)
	if t.ioQueue == nil {
		t.ioQueue = io
	} else {
		t.ioQueueTail.next = io
	}
	t.ioQueueTail = io
	t.stats.pending.n[statGetExtstore]++
	return true
}

// storageGetNow answers at once if it can: if the value is not large, and in a
// write buffer or the system's cache. Not as in C, which leaves all reads to its
// I/O threads.
func storageGetNow(c *conn, p *ioPending, n, head int, miss []byte) bool {
	r := c.resp
	if p.ioCtx.len > storageNowMax {
		return false
	}
	ret := extstoreRead(extStorage, &p.ioCtx, p.thread.iov[:0])
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

// storageIov says where p reads to: what is not the value to p.hdr, the value
// to p.it. It returns false if there is no memory for its chunks. Not as in C,
// what is in memory of an item never comes from a file.
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
		if ch = doItemAllocChunk(ch, remain); ch == nil {
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

// storageSubmitCb passes the reads that t's connections wait for to an I/O
// thread.
func storageSubmitCb(t *thread) {
	for io := t.ioQueue; io != nil; io = io.next {
		io.data.(*ioPending).submitted = true
	}
	extstoreSubmit(extStorage, t.ioQueue)
	t.ioQueue, t.ioQueueTail = nil, nil
}

// storageAbort forgets a read that was not submitted, with the reply that was
// to have it.
func storageAbort(p *ioPending) {
	if p.submitted {
		panic("storageAbort: the read is under way")
	}
	t := p.thread
	var prev *objIo
	for io := t.ioQueue; io != &p.ioCtx; io = io.next {
		prev = io
	}
	if prev == nil {
		t.ioQueue = p.ioCtx.next
	} else {
		prev.next = p.ioCtx.next
	}
	if t.ioQueueTail == &p.ioCtx {
		t.ioQueueTail = prev
	}
	extstoreRelease(extStorage, &p.ioCtx)
	p.c.respsSuspended.Add(-1)
	t.stats.pending.n[statGetAbortedExtstore]++
	itemRemove(p.hdrIt)
	itemRemove(p.it)
	ioPendingFree(p)
}

// recacheOrFree lets go of the item that a read was for, which is locked. If
// it is gone from the file that ends its life; if it is in demand what was read
// takes its place, and is in memory again. Not as in C, this is when the read
// has come back, not when the reply has been sent.
func recacheOrFree(p *ioPending) {
	n := &p.thread.stats.pending.n
	hdrIt := p.hdrIt
	if p.miss {
		doItemUnlink(hdrIt, hash(hdrIt.key()))
		n[statMissFromExtstore]++
		if p.badcrc {
			n[statBadcrcFromExtstore]++
		}
	} else if rate := settings.extRecacheRate.Load(); rate != 0 {
		// It must have been hit twice lately.
		const flags = itemLinked | itemFetched
		if hdrIt.itFlags&flags == flags && hdrIt.itFlags&itemActive != 0 && hdrIt.time+itemUpdateInterval > currentTime.Load() {
			if p.c.recacheCounter%rate == 0 {
				recache(p)
			}
			p.c.recacheCounter++
		}
	}
	doItemRemove(hdrIt)
}

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
	it.exptime = hdrIt.exptime // it may have changed
	it.itFlags |= hdrIt.itFlags & itemPreserveFlags
	it.slabsClsid = it.clsid() | coldLru
	storageDelete(hdrIt)
	doItemReplace(hdrIt, it, hv, hdrIt.cas())
	p.thread.stats.pending.n[statRecacheFromExtstore]++
}

// storageReturnCb has a read that has come back, in the worker.
func storageReturnCb(p *ioPending) {
	c := p.c
	lock := uint32(p.hdrIt.lock)
	itemLock(lock)
	recacheOrFree(p)
	itemUnlock(lock)
	respFillIo(c, p)
	ioPendingFree(p)
	connRespUnsuspend(c)
}

// The write thread.

// storageWrite writes the last item of the class, if it has not been used for
// more than itemAge seconds, or that is 0. It returns whether it has.
func storageWrite(clsid int, itemAge uint32) bool {
	var it *item
	lruPullTail(clsid, coldLru, 0, lruPullReturnItem, 0, &it)
	if it == nil {
		return false
	}
	lock := uint32(it.lock)
	did := it.itFlags&itemHdr == 0 && (itemAge == 0 || currentTime.Load()-it.time > itemAge) &&
		storageWriteItem(it, hash(it.key()))
	doItemRemove(it)
	itemUnlock(lock)
	return did
}

// storageWriteItem writes an item, which is locked, and puts one that says
// where it is into its place. It fails if there is no room just now.
func storageWriteItem(it *item, hv uint32) bool {
	hdrIt := doItemAlloc(it.key(), hv, it.clientFlags(), it.exptime, itemHdrSize)
	if hdrIt == nil {
		return false
	}
	bucket := pageBucketDefault
	if it.itFlags&itemChunked != 0 {
		bucket = pageBucketChunked
	}
	if it.exptime-currentTime.Load() < settings.extLowTtl.Load() { // not if it never expires
		bucket = pageBucketLowttl
	}
	io := objIo{mode: objIoWrite, len: storageLen(it)}
	if !extstoreWriteRequest(extStorage, bucket, bucket, &io) {
		doItemRemove(hdrIt)
		return false
	}
	storageFill(io.buf, it, hv)
	extstoreWrite(extStorage, &io)
	hdrIt.itFlags |= itemHdr | it.itFlags&itemPreserveFlags
	hdrIt.setHdr(itemHdrT{pageVersion: io.pageVersion, offset: uint32(io.offset), pageId: uint16(io.pageId)})
	hdrIt.nbytes = it.nbytes // of the value in the file
	doItemReplace(it, hdrIt, hv, it.cas())
	doItemRemove(hdrIt)
	if loggerEflags.Load()&logEvictions != 0 {
		loggerLogExtWrite(it, bucket)
	}
	return true
}

// storageFill copies an item to b, which has storageLen bytes. Where its times
// were are the hash of its key and a checksum of all behind them; pointers are
// left out.
func storageFill(b []byte, it *item, hv uint32) {
	off, n := it.dataOff(), it.ntotal()
	clear(b[:storeOffset])
	copy(b[storeOffset:], it.offset(storeOffset, off-storeOffset))
	storeItemCopyOut(b[off:n], it)
	clear(b[n:])
	rec := bufItem(b)
	rec.itFlags &^= itemLinked
	rec.time = hv
	rec.exptime = crc32.Checksum(b[storeOffset:n], castagnoli)
}

// storageMinClass returns the first class whose items are written.
func storageMinClass() int {
	size := int(settings.extItemSize.Load()) - itemSaved
	id := slabsClsid(size)
	if id == 0 && size > 0 {
		return maxNumberOfSlabClasses // nothing is so large
	}
	return id
}

// storageMakeRoom writes an item of the class, if it can, so that none need be
// evicted. Not in C, which evicts where the write thread is late.
func storageMakeRoom(clsid int) bool {
	return extStorage != nil && clsid >= storageMinClass() && storageWrite(clsid, 0)
}

// storageWriteTarget is how many free chunks a class should have, of which
// perpage are in a page, if targetPages should be free in all. The headers of
// small values are so large that too many must not be written.
func storageWriteTarget(perpage, targetPages int) int {
	switch size := settings.slabPageSize / perpage; {
	case size < 500:
		targetPages = min(targetPages, 3)
	case size < 1000:
		targetPages = min(targetPages, 4)
	case size < 2000:
		targetPages = min(targetPages, 5)
	}
	return perpage * targetPages
}

// storageWriteThread writes what is old, and if there is not enough free
// memory what is not. It never ends.
func storageWriteThread() {
	var backoff [maxNumberOfSlabClasses]int
	toSleep := writeSleepMin
	// Compaction is to be thought of once for each slab page that is written.
	checkCompact := settings.slabPageSize
	kick := func(n int) {
		if checkCompact -= n; checkCompact < 0 {
			storageCompactCond.Signal()
			checkCompact = settings.slabPageSize
		}
	}
	storageWritePlock.Lock()
	for counter := 1; ; counter++ {
		minClass := storageMinClass()
		globalPages, _ := globalPagePoolSize()
		doSleep := true
		targetPages := 0
		if poolMin := int(settings.extGlobalPoolMin.Load()); globalPages < poolMin {
			targetPages = poolMin - globalPages
		} else if globalPages == poolMin {
			targetPages = 1 // a little early, to help the page mover
		}
		toSleep = min(toSleep, int(settings.extMaxSleep.Load()))

		// The larger a value the less there is of a header.
		for x := maxNumberOfSlabClasses - 1; x > 0 && x >= minClass; x-- {
			if backoff[x] != 0 && counter%backoff[x] != 0 {
				continue
			}
			free, perpage := slabsAvailableChunks(x)
			if perpage == 0 {
				continue
			}
			target := storageWriteTarget(perpage, targetPages)
			didMove := false
			for {
				itemAge := settings.extItemAge.Load()
				if free < target {
					itemAge = 0
				}
				// This fails when the write buffer is full, too.
				if !storageWrite(x, itemAge) {
					break
				}
				free++
				kick(settings.slabPageSize / perpage)
				didMove = true
				doSleep = false
				toSleep = max(toSleep/2, writeSleepMin)
			}
			if didMove {
				backoff[x] = 1
			} else {
				backoff[x]++
			}
		}

		storageWritePlock.Unlock() // so that we can be paused
		if doSleep {
			for x := range backoff {
				backoff[x] = 1
			}
			kick(toSleep * 10)
			usleep(toSleep)
			toSleep++
		}
		storageWritePlock.Lock()
	}
}

// While the lock is held the thread can't wake up or write.
func storageWritePause() { storageWritePlock.Lock() }

func storageWriteResume() { storageWritePlock.Unlock() }

func startStorageWriteThread() { go storageWriteThread() }

// The compaction thread.

// storageCompactFill sums up the pages by what they may be used for.
func storageCompactFill(st *extstoreStats, fragLimit uint64) (buckets [pageBucketCount]storageBuk) {
	for x := range buckets {
		buckets[x].lowVersion = noVersion
		buckets[x].lowestVersion = noVersion
	}
	for x, d := range extstoreGetPageData(extStorage) {
		buk := &buckets[d.freeBucket]
		buk.pagesTotal++
		if d.version == 0 {
			buk.pagesFree++
		}
		if d.version == 0 || d.active {
			continue
		}
		if d.version < buk.lowestVersion {
			buk.lowestPage, buk.lowestVersion = x, d.version
		}
		frag := uint64(st.pageSize) - d.bytesUsed
		if d.bytesUsed < fragLimit && frag > buk.bytesFragmented {
			buk.lowPage, buk.lowVersion = x, d.version
			buk.bytesFragmented = frag
		}
	}
	return buckets
}

// storageCompactCheck decides whether a page should be compacted, and which.
func storageCompactCheck() (pageId int, pageVersion uint32, flags compactFlags, ok bool) {
	st := extstoreGetStats(extStorage)
	if st.pagesUsed == 0 || extStorage.failing.Load() > 0 {
		return 0, 0, flags, false
	}
	settings.tuneLock.Lock()
	maxFrag := settings.extMaxFrag
	settings.tuneLock.Unlock()
	fragLimit := uint64(max(float64(st.pageSize)*maxFrag, 0))
	if loggerEflags.Load()&logSysevents != 0 {
		loggerLogText(loggerCompactFraginfo, maxFrag, fragLimit)
	}
	buckets := storageCompactFill(&st, fragLimit)

	// Of these two there is always to be a free page.
	for _, x := range [...]int{pageBucketColdcompact, pageBucketOld} {
		buk := &buckets[x]
		if buk.pagesTotal == 0 {
			continue
		}
		if x == pageBucketOld {
			flags.hasOld = true
		} else {
			flags.hasColdcompact = true
		}
		if buk.pagesFree == 0 && buk.lowestVersion != noVersion {
			extstoreEvictPage(extStorage, buk.lowestPage, uint32(buk.lowestVersion))
			return 0, 0, flags, false
		}
	}

	for x := range buckets {
		buk := &buckets[x]
		// Only those that have pages of their own.
		if buk.pagesTotal == 0 || x == pageBucketLowttl || buk.pagesFree >= int(settings.extCompactUnder.Load()) {
			continue
		}
		if buk.lowVersion != noVersion {
			return buk.lowPage, uint32(buk.lowVersion), flags, true
		}
		if x == pageBucketColdcompact || x == pageBucketOld ||
			buk.pagesFree >= int(settings.extDropUnder.Load()) || buk.lowestVersion == noVersion {
			continue
		}
		// No page has enough holes. The oldest can still be parted: what was
		// not asked for is dropped, or goes elsewhere; or all goes to OLD.
		flags.dropUnread = settings.extDropUnread.Load()
		if flags.dropUnread || flags.hasColdcompact || flags.hasOld {
			flags.useOld = flags.hasOld
			return buk.lowestPage, uint32(buk.lowestVersion), flags, true
		}
	}
	return 0, 0, flags, false
}

// storageCompactRescue writes the value rec, which is at offset of the page,
// elsewhere if it is still wanted. The lock of its item is held. It returns
// false if there is no room yet. At the first try it strikes the value off its
// page, which becomes free with the last one, maybe to be the room for it.
func storageCompactRescue(wrap *storageCompactWrap, rec *item, hv uint32, offset int, first bool) bool {
	hdrIt := assocFind(rec.key(), hv)
	if hdrIt == nil || hdrIt.itFlags&itemHdr == 0 || itemIsFlushed(hdrIt) || itemIsExpired(hdrIt, currentTime.Load()) {
		return true
	}
	hdr := hdrIt.hdr()
	if int(hdr.pageId) != wrap.pageId || hdr.pageVersion != wrap.pageVersion || int(hdr.offset) != offset {
		return true
	}
	n := storageLen(rec)
	if first {
		extstoreDelete(extStorage, wrap.pageId, wrap.pageVersion, 1, uint64(n))
	}
	bucket := pageBucketCompact
	if wrap.flags.useOld {
		bucket = pageBucketOld
	}
	if hdrIt.lruid() == coldLru {
		if wrap.flags.hasColdcompact {
			bucket = pageBucketColdcompact
		} else if wrap.flags.dropUnread {
			wrap.skipped++
			return true
		}
	}
	io := objIo{mode: objIoWrite, len: n}
	if !extstoreWriteRequest(extStorage, bucket, bucket, &io) {
		return false
	}
	copy(io.buf, rec.offset(0, n))
	extstoreWrite(extStorage, &io)
	newHdr := itemHdrT{pageVersion: io.pageVersion, offset: uint32(io.offset), pageId: uint16(io.pageId)}
	hdrIt.refcount++
	if !storageCompactHeader(wrap, hdrIt, hv, newHdr) {
		extstoreDelete(extStorage, io.pageId, io.pageVersion, 1, uint64(n))
		wrap.lost++
		wrap.lostOom++
	} else {
		wrap.rescues++
		switch bucket {
		case pageBucketColdcompact:
			wrap.rescueCold++
		case pageBucketOld:
			wrap.rescueOld++
		}
	}
	doItemRemove(hdrIt)
	return true
}

// storageCompactHeader makes an item, to which we have a reference, say where
// its value is now. If somebody is about to read the value from where it was
// another item takes its place. It returns false if there is no memory.
func storageCompactHeader(wrap *storageCompactWrap, hdrIt *item, hv uint32, hdr itemHdrT) bool {
	if hdrIt.refcount == 2 {
		hdrIt.setHdr(hdr)
		return true
	}
	newIt := doItemAlloc(hdrIt.key(), hv, hdrIt.clientFlags(), hdrIt.exptime, itemHdrSize)
	if newIt == nil {
		return false
	}
	newIt.itFlags = hdrIt.itFlags &^ itemLinked
	newIt.setHdr(hdr)
	newIt.nbytes = hdrIt.nbytes
	doItemReplace(hdrIt, newIt, hv, hdrIt.cas())
	doItemRemove(newIt)
	wrap.rescuesRealloc++
	return true
}

// storageRecord returns the item that is written at the front of b, or nil if
// there is none or it is damaged.
func storageRecord(b []byte) *item {
	if len(b) < itemSize {
		return nil
	}
	rec := bufItem(b)
	if rec.nkey == 0 || rec.nbytes < 2 || rec.itFlags&itemHdr != 0 || rec.ntotal() > len(b) || storageLen(rec) > len(b) ||
		rec.exptime != crc32.Checksum(b[storeOffset:rec.ntotal()], castagnoli) {
		return nil
	}
	return rec
}

// storageCompactReadback rescues what is wanted of a part of a page. It
// returns false if it must give up, as nothing can be written.
func storageCompactReadback(wrap *storageCompactWrap, readbackBuf []byte, pageOffset int) bool {
	wrap.waits = compactMaxWaits
	offset := 0
	ok := true
	for ok {
		rec := storageRecord(readbackBuf[offset:])
		if rec == nil {
			break
		}
		hv := rec.time
		most := max(wrap.waits, 10)
		for tries := 0; ; tries++ {
			itemLock(hv)
			done := storageCompactRescue(wrap, rec, hv, pageOffset+offset, tries == 0)
			itemUnlock(hv)
			if ok = extStorage.failing.Load() == 0; done || !ok {
				break
			}
			if tries == most {
				wrap.lost++
				break
			}
			// Not as in C, which waits with the item locked.
			wrap.waits--
			storageCompactPlock.Unlock()
			usleep(compactWait)
			storageCompactPlock.Lock()
		}
		offset += storageLen(rec)
	}
	statsLock.Lock()
	stats.extstoreCompactLost += uint64(wrap.lost)
	stats.extstoreCompactRescues += uint64(wrap.rescues)
	stats.extstoreCompactSkipped += uint64(wrap.skipped)
	stats.extstoreCompactRescCold += uint64(wrap.rescueCold)
	stats.extstoreCompactRescOld += uint64(wrap.rescueOld)
	statsLock.Unlock()
	if loggerEflags.Load()&logSysevents != 0 {
		loggerLogText(loggerCompactReadEnd, wrap.pageId, offset, wrap.rescues, wrap.rescuesRealloc, wrap.lost, wrap.lostOom, wrap.skipped)
	}
	wrap.rescues, wrap.rescuesRealloc, wrap.lost, wrap.lostOom, wrap.skipped, wrap.rescueCold, wrap.rescueOld = 0, 0, 0, 0, 0, 0, 0
	return ok
}

func storageCompactCb(_ *storeEngine, io *objIo, ret int) { io.data.(*storageCompactWrap).done <- ret }

// storageCompactPage reads a page and rescues what is wanted. It returns false
// if the page is another meanwhile, or could not be read to its end.
func storageCompactPage(wrap *storageCompactWrap, readbackBuf []byte) bool {
	for off := 0; off < extStorage.pageSize; off += len(readbackBuf) {
		wrap.io = objIo{
			mode:        objIoRead,
			data:        wrap,
			buf:         readbackBuf,
			len:         len(readbackBuf),
			pageId:      wrap.pageId,
			pageVersion: wrap.pageVersion,
			offset:      off,
			cb:          storageCompactCb,
		}
		extstoreSubmitBg(extStorage, &wrap.io)
		if ret := <-wrap.done; ret < 1 {
			return false
		}
		if loggerEflags.Load()&logSysevents != 0 {
			loggerLogText(loggerCompactReadStart, wrap.pageId, off)
		}
		if !storageCompactReadback(wrap, readbackBuf, off) {
			return false
		}
		storageCompactPlock.Unlock() // so that we can be paused
		storageCompactPlock.Lock()
	}
	return true
}

// storageCompactThread compacts pages while that is needed, and then waits for
// storageWriteThread to have it look again. It never ends.
func storageCompactThread() {
	readbackBuf, err := bufAlloc(settings.extWbufSize)
	if err != nil {
		readbackBuf = make([]byte, settings.extWbufSize)
	}
	wrap := &storageCompactWrap{done: make(chan int, 1)}
	storageCompactPlock.Lock()
	for {
		var ok bool
		wrap.pageId, wrap.pageVersion, wrap.flags, ok = storageCompactCheck()
		if !ok {
			storageCompactCond.Wait()
			continue
		}
		logs := func(event logEntryType, args ...any) {
			if loggerEflags.Load()&logSysevents != 0 {
				loggerLogText(event, args...)
			}
		}
		logs(loggerCompactStart, wrap.pageId, wrap.pageVersion)
		if !storageCompactPage(wrap, readbackBuf) {
			logs(loggerCompactAbort, wrap.pageId)
			storageCompactCond.Wait()
			continue
		}
		extstoreClosePage(extStorage, wrap.pageId, wrap.pageVersion)
		logs(loggerCompactEnd, wrap.pageId)
		storageCompactPlock.Unlock()
		usleep(minStorageCompactSleep)
		storageCompactPlock.Lock()
	}
}

// While the lock is held the thread can't wake up or compact.
func storageCompactPause() { storageCompactPlock.Lock() }

func storageCompactResume() { storageCompactPlock.Unlock() }

func startStorageCompactThread() { go storageCompactThread() }

// The options.

// storageConfParse reads the value of ext_path: FILE:SIZE[:BUCKET]
func storageConfParse(arg string) *extstoreConfFile {
	words := slices.DeleteFunc(strings.Split(arg, ":"), func(s string) bool { return s == "" })
	if len(words) == 0 {
		return nil
	}
	cf := &extstoreConfFile{file: words[0]}
	if len(words) < 2 {
		fmt.Fprintf(os.Stderr, "must supply size to ext_path, ie: ext_path=/f/e:64m (M|G|T|P supported)\n")
		return nil
	}
	size := words[1]
	unit := strings.IndexByte("mgtp", size[len(size)-1]|0x20)
	if unit < 0 {
		fmt.Fprintf(os.Stderr, "must supply size to ext_path, ie: ext_path=/f/e:64m (m|g|t|p supported)\n")
		return nil
	}
	cf.totalSize = uint64(max(atoi(size[:len(size)-1]), 0)) << (20 + 10*unit)
	if len(words) > 2 {
		if cf.freeBucket = slices.Index(pageBucketNames[:], words[2]); cf.freeBucket < 0 {
			fmt.Fprintf(os.Stderr, "Unknown extstore bucket: %s\n", words[2])
			return nil
		}
	}
	return cf
}

func storageInitConfig() {
	settings.extItemSize.Store(512)
	settings.extItemAge.Store(math.MaxUint32)
	settings.extLowTtl.Store(0)
	settings.extRecacheRate.Store(2000)
	settings.extMaxFrag = 0.8
	settings.extDropUnread.Store(false)
	settings.extWbufSize = 4 << 20
	settings.extCompactUnder.Store(0)
	settings.extDropUnder.Store(0)
	settings.extMaxSleep.Store(1000000)
	settings.slabAutomoveFreeratio = 0.01
	storageConf.file = nil
	storageConf.ext = extstoreConf{
		pageSize:      64 << 20,
		wbufSize:      settings.extWbufSize,
		ioThreadcount: 1,
		ioDepth:       1,
		pageBuckets:   pageBucketCount,
		wbufCount:     2 * pageBucketCount, // for each to be filled and written at a time
	}
}

// storageReadConfig is one round of the loop for -o, with an option of
// extstore. It returns false if it is none.
func storageReadConfig(name, value string, given bool) bool {
	number := func() int {
		n, err := strconv.ParseUint(value, 10, 32)
		if err != nil {
			sysfatal(1, "could not parse argument to %s", name)
		}
		return int(n)
	}
	fraction := func() float64 {
		f, err := strconv.ParseFloat(value, 64)
		if err != nil {
			sysfatal(1, "could not parse argument to %s", name)
		}
		return f
	}
	switch name {
	case "ext_path", "ext_drop_unread":
	case "ext_page_size", "ext_wbuf_size", "ext_threads", "ext_io_depth", "ext_item_size", "ext_item_age",
		"ext_low_ttl", "ext_recache_rate", "ext_compact_under", "ext_drop_under", "ext_max_sleep",
		"ext_max_frag", "slab_automove_freeratio":
		if !given {
			sysfatal(1, "Missing %s argument", name)
		}
	}
	ext := &storageConf.ext
	switch name {
	case "ext_page_size":
		ext.pageSize = number() << 20
	case "ext_wbuf_size":
		ext.wbufSize = number() << 20
		settings.extWbufSize = ext.wbufSize
	case "ext_threads":
		ext.ioThreadcount = number()
	case "ext_io_depth":
		ext.ioDepth = number()
	case "ext_item_size":
		settings.extItemSize.Store(uint32(number()))
	case "ext_item_age":
		settings.extItemAge.Store(uint32(number()))
	case "ext_low_ttl":
		settings.extLowTtl.Store(uint32(number()))
	case "ext_recache_rate":
		settings.extRecacheRate.Store(uint32(number()))
	case "ext_compact_under":
		settings.extCompactUnder.Store(uint32(number()))
	case "ext_drop_under":
		settings.extDropUnder.Store(uint32(number()))
	case "ext_max_sleep":
		settings.extMaxSleep.Store(uint32(number()))
	case "ext_max_frag":
		settings.extMaxFrag = fraction()
	case "slab_automove_freeratio":
		settings.slabAutomoveFreeratio = fraction()
	case "ext_drop_unread":
		settings.extDropUnread.Store(true)
	case "ext_path":
		if !given {
			sysfatal(1, "missing argument to ext_path, ie: ext_path=/d/file:5G")
		}
		cf := storageConfParse(value)
		if cf == nil {
			sysfatal(1, "failed to parse ext_path argument")
		}
		storageConf.file = slices.Insert(storageConf.file, 0, cf)
	default:
		return false
	}
	return true
}

// storageCheckConfig ends the process if the options do not fit each other.
func storageCheckConfig() {
	ext := &storageConf.ext
	if len(storageConf.file) == 0 {
		return
	}
	const pageSizeMax = 4 << 30 // bytes; offsets have 32 bits
	switch {
	case ext.pageSize == 0 || ext.wbufSize == 0 || ext.pageSize > pageSizeMax:
		sysfatal(exUsage, "ext_page_size and ext_wbuf_size must be from 2 to %d", pageSizeMax>>20)
	case ext.ioThreadcount < 1 || ext.ioThreadcount > extThreadsMax:
		sysfatal(exUsage, "ext_threads must be from 1 to %d", extThreadsMax)
	case settings.itemSizeMax > ext.wbufSize:
		sysfatal(exUsage, "-I (item_size_max: %d) cannot be larger than ext_wbuf_size: %d", settings.itemSizeMax, ext.wbufSize)
	case settings.udpport != 0:
		sysfatal(exUsage, "Cannot use UDP with extstore enabled (-U 0 to disable)")
	}
	for _, f := range storageConf.file {
		pages := f.totalSize / uint64(ext.pageSize)
		if pages == 0 {
			sysfatal(exUsage, "supplied ext_path has zero size, cannot use")
		}
		f.pageCount = int(min(pages, math.MaxUint16)) // which is too many
		if options.daemonize && !options.maxcore && !strings.HasPrefix(f.file, "/") {
			sysfatal(exUsage, "-d goes to /: ext_path %s must be a whole path", f.file)
		}
	}
}

// storageInit opens the files.
func storageInit() {
	if settings.extCompactUnder.Load() == 0 {
		// The help text knows this fraction, too.
		under := uint32(max(storageConf.file[0].pageCount/100, 1))
		settings.extCompactUnder.Store(under)
		settings.extDropUnder.Store(under)
	}
	settings.extGlobalPoolMin.Store(0)
	e, err := extstoreInit(storageConf.file, &storageConf.ext)
	if err != nil {
		sysfatal(1, "Failed to initialize external storage: %v", err)
	}
	extStorage = e
}

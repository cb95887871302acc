// Slab memory: pages of 1 MB, cut into chunks of the size of their class.
// From slabs.c. The arena itself and the hash tables are in mem_mmap.go.
//
// slabsLock guards all variables here, the links of free chunks, and the lock
// field of every chunk, free or not. That field tells the page mover, which
// finds a chunk by its page and not by a key, what the chunk is and which
// lock its item has. In C bits of it_flags say what a chunk is.

package main

import (
	"fmt"
	"math"
	"os"
	"slices"
	"strconv"
	"sync"
)

const (
	maxNumberOfSlabClasses = 63 + 1
	powerSmallest          = 1
	slabGlobalPagePool     = 0 // class of the pages that belong to no other class
	chunkAlignBytes        = 8

	// Bytes by which an item and an itemChunk are smaller than in C.
	itemSaved = 48 - itemSize

	// Bytes at the front of the arena, before the first page. ref 0 is C's
	// NULL, and the crawlers' items lie there.
	slabsStart = 2 << 20

	// Flags of slabsAlloc.
	slabsAllocNoNewpage = 1
	slabsAllocBeyond    = 2 // a new page may be beyond the limit

	// Size in bytes of the largest item that slabsClsid looks up in a table.
	clsidTableMax = 8 << 10
)

// Values of a chunk's lock field. While a chunk is allocated for an item, the
// field is the low bits of the hash of the item's key, enough to find the
// item lock. But holding that lock gives access to the item only once it has been
// linked. Until then its time field is 0, which may be read under slabsLock and the
// item lock.
const (
	lockMask  = 0x7fff
	lockFree  = 0xffff // the chunk is on its class's free list
	lockChunk = 0xfffe // the chunk is an itemChunk, of the item at head
)

type slabclassT struct {
	size    int // bytes of a chunk
	perslab int // chunks in a page

	slots  ref // free list
	slCurr int // chunks on it

	slabList []int // the pages, bytes from the start of the arena
}

var (
	slabsLock sync.Mutex

	slabclass    [maxNumberOfSlabClasses]slabclassT
	largestClsid int // power_largest
	slabChunkMax int // bytes; larger items are chunked (settings.slab.chunkSizeMax less itemSaved)
	clsidTable   [clsidTableMax/chunkAlignBytes + 1]uint8

	memLimit      int   // bytes, 0 for none
	memMalloced   int   // bytes
	memBeyond     int   // pages taken beyond the limit since memory was last within it
	memPrealloced bool  // with -L or -e: the limit is fixed from the start
	memCurrent    int   // the next new page, bytes from the start of the arena
	memReleased   []int // pages returned to the system
	lastPicked    int   // class; for slabsPickAnyForReassign
)

// The largest arena that refs in units of 512 bytes can address. With larger
// units the header of a chunked item might not fit in the largest chunk, nor
// the crawlers' items in slabsStart.
const arenaMax = 2<<40 - slabsStart

const arenaMin = 16 << 20 // bytes; mc9 does not start with less

// What the automover needs to know about a class.
type slabStatsAutomove struct {
	chunksPerPage int
	chunkSize     int
	freeChunks    int
	totalPages    int
}

// slabsClsid returns the class for an item or chunk of size bytes, or 0 if it
// is too large.
func slabsClsid(size int) int {
	if size <= 0 || size+itemSaved > settings.itemSizeMax {
		return 0
	}
	res := int(clsidTable[min(size+chunkAlignBytes-1, clsidTableMax)/chunkAlignBytes])
	for size > slabclass[res].size && res < largestClsid {
		res++
	}
	return res
}

func slabsClassCheck(id int) bool { return id >= slabGlobalPagePool && id <= largestClsid }

// arenaSize returns how many bytes of arena the limit asks for, and the
// refShift that reaches them.
func arenaSize(limit int) (need int, shift uint) {
	// Each class may have one page beyond the limit.
	need = slabsStart + limit + (maxNumberOfSlabClasses+2)*settings.slab.pageSize
	need = min((need+slabsStart-1)/slabsStart*slabsStart, arenaMax)
	shift = 3
	for need>>shift > math.MaxUint32 {
		shift++
	}
	return need, shift
}

// slabsReserve reserves the arena. Normally it reserves all that refs in units of 8
// bytes can address, so that cache_memlimit can raise the limit later; if address
// space is limited, as much as possible.
func slabsReserve(limit int) {
	var need int
	need, refShift = arenaSize(limit)
	if options.lockMemory || memReserve(max(need, memRoom)) != nil {
		size, err := need, memReserve(need)
		for ; err != nil && size > arenaMin; err = memReserve(size) {
			size -= max(size/16, slabsStart)
		}
		if err != nil {
			sysfatal(1, "Failed to reserve %d bytes of address space: %v (ulimit -v should leave 1400 MB beside -m)", arenaMin, err)
		}
		if size < slabsStart+limit {
			fmt.Fprintf(os.Stderr, "WARNING: the address space limit leaves %d MB for items (ulimit -v should leave 1400 MB beside -m)\n", size>>20)
		}
	}
	if err := memOpenTo(slabsStart); err != nil { // for the crawlers' items
		sysfatal(1, "Failed to allocate memory: %v", err)
	}
}

// slabsFixup puts a chunk of class id on the free list of w.
func slabsFixup(it *item, id int, w *restartWork) {
	it.itFlags = 0
	it.slabsClsid = uint8(id)
	it.lock = lockFree
	restartPush(&w.free[id], it)
}

// slabsInit sets the chunk sizes: from slabSizes unless that is nil, else
// from factor. limit is in bytes. The sizes are first computed as in C, so
// that an item is in the same class as in C. With reuseMem the classes have no pages
// yet; restartFixup adds them.
func slabsInit(limit int, factor float64, prealloc bool, slabSizes []int, reuseMem bool) {
	memCurrent = slabsStart
	slabsReserve(limit)
	memLimit = limit
	memMalloced = 0
	memBeyond = 0
	memReleased = nil
	memPrealloced = prealloc || memFd >= 0
	if prealloc && memFd < 0 {
		if memOpenTo(slabsStart+limit) != nil {
			fmt.Fprintf(os.Stderr, "Warning: Failed to allocate requested memory in"+
				" one large chunk.\nWill allocate in smaller chunks\n")
			memPrealloced = false
		}
		memHugeTo(slabsStart + limit)
	}

	slabclass = [maxNumberOfSlabClasses]slabclassT{}
	slabChunkMax = settings.slab.chunkSizeMax - itemSaved
	size := itemSize + itemSaved + settings.slab.chunkSize
	i := powerSmallest
	for ; i < maxNumberOfSlabClasses-1; i++ {
		if slabSizes != nil {
			if i > len(slabSizes) {
				break
			}
			size = slabSizes[i-1]
		} else if float64(size) >= float64(settings.slab.chunkSizeMax)/factor {
			break
		}
		size = (size + chunkAlignBytes - 1) &^ (chunkAlignBytes - 1)
		slabclassInit(i, size)
		if slabSizes == nil {
			size = int(float64(size) * factor)
		}
	}
	largestClsid = i
	if i == maxNumberOfSlabClasses-1 && float64(size) < float64(settings.slab.chunkSizeMax)/factor && slabSizes == nil {
		fmt.Fprintf(os.Stderr, "WARNING: with -f %g there are not enough slab classes: items of more than %d bytes take %d each\n",
			factor, slabclass[i-1].size, memAlign(settings.slab.chunkSizeMax-itemSaved))
	}
	slabclassInit(i, settings.slab.chunkSizeMax)

	id := powerSmallest
	for i := range clsidTable {
		for i*chunkAlignBytes > slabclass[id].size && id < largestClsid {
			id++
		}
		clsidTable[i] = uint8(id)
	}

	// For memcached's test suite: pretend that this much was allocated.
	if n, err := strconv.Atoi(os.Getenv("T_MEMD_INITIAL_MALLOC")); err == nil {
		memMalloced = n
	}
	if memPrealloced && !reuseMem {
		slabsPreallocate(largestClsid)
	}
}

// slabclassInit sets up class i. size is that of C's chunks, in bytes.
func slabclassInit(i, size int) {
	p := &slabclass[i]
	p.size = memAlign(max(size-itemSaved, itemSize))
	p.perslab = settings.slab.pageSize / p.size
	verbosef(2, "slab class %3d: chunk size %9d perslab %7d", i, p.size, p.perslab)
}

// slabsPrefillGlobal puts all memory into the pool.
func slabsPrefillGlobal() {
	p := &slabclass[slabGlobalPagePool]
	for memMalloced < memLimit {
		page := memoryAllocate(settings.slab.pageSize)
		if page == 0 {
			break
		}
		p.slabList = append(p.slabList, page)
	}
	slices.Reverse(p.slabList) // for memHugeTo: the last is taken first
}

// slabsPreallocate gives each class a page, so that no class is out of memory while
// others have some.
func slabsPreallocate(maxslabs int) {
	for i := powerSmallest; i <= maxslabs; i++ {
		if !doSlabsNewslab(i, 0) {
			if memLimit < int(settings.maxbytes.Load()) {
				os.Exit(1) // memoryAllocate has said that the disk is full
			}
			fmt.Fprintf(os.Stderr, "Error while preallocating slab memory!\n"+
				"If using -L or other prealloc options, max memory must be "+
				"at least %d megabytes.\n", largestClsid)
			os.Exit(1)
		}
	}
}

func splitSlabPageIntoFreelist(page, id int) {
	p := &slabclass[id]
	for x := range p.perslab {
		doChunkFree(memItem(page+x*p.size), id)
	}
}

// getPageFromGlobalPool returns a page, or 0 if there is none.
func getPageFromGlobalPool() int {
	p := &slabclass[slabGlobalPagePool]
	n := len(p.slabList)
	if n < 1 {
		return 0
	}
	page := p.slabList[n-1]
	p.slabList = p.slabList[:n-1]
	return page
}

// doSlabsNewslab gives the class another page. The first page of a class may be
// beyond the limit. Unlike C, so may any page if flags is slabsAllocBeyond, as long
// as there are fewer such pages than classes.
func doSlabsNewslab(id, flags int) bool {
	p := &slabclass[id]
	g := &slabclass[slabGlobalPagePool]
	n := settings.slab.pageSize
	if !settings.slab.reassign && settings.slab.chunkSizeMax == settings.slab.pageSize && memFd < 0 {
		n = p.size * p.perslab
	}
	switch {
	case memLimit == 0 || memMalloced+n <= memLimit:
		memBeyond = 0
	case len(p.slabList) == 0 || len(g.slabList) > 0:
	case flags == slabsAllocBeyond && memBeyond < largestClsid:
		memBeyond++
	default:
		return false
	}
	page := getPageFromGlobalPool()
	if page != 0 {
		clear(memBytes(page, n))
	} else if page = memoryAllocate(n); page == 0 {
		return false
	}
	memHugeTo(page)
	splitSlabPageIntoFreelist(page, id)
	p.slabList = append(p.slabList, page)
	return true
}

// doSlabsAlloc returns a chunk of the class, or nil. hv is the hash of the
// item's key.
func doSlabsAlloc(id int, hv uint32, flags int) *item {
	if id < powerSmallest || id > largestClsid {
		return nil
	}
	p := &slabclass[id]
	if p.slots == 0 && (flags == slabsAllocNoNewpage || !doSlabsNewslab(id, flags)) {
		return nil
	}
	it := p.slots.item()
	p.slots = it.next // prev of the first free chunk is never read
	p.slCurr--
	// From now on the mover may look at the chunk.
	it.lock = uint16(hv & lockMask)
	it.time = 0
	it.refcount = 1
	return it
}

// doChunkFree puts one chunk on the free list of its class.
func doChunkFree(it *item, id int) {
	p := &slabclass[id]
	it.itFlags = 0
	it.slabsClsid = uint8(id)
	it.lock = lockFree
	it.prev = 0
	it.next = p.slots
	if p.slots != 0 {
		p.slots.item().prev = it.ref()
	}
	p.slots = it.ref()
	p.slCurr++
}

// doSlabsFreeChunked frees a chunked item, whose header is of class
// origClsid, and all its chunks.
func doSlabsFreeChunked(it *item) {
	first := it.schunk()
	ch := first.next.chunk()
	doChunkFree(it, int(first.origClsid))
	for ch != nil {
		next := ch.next.chunk()
		doChunkFree(ch.item(), int(ch.slabsClsid))
		ch = next
	}
}

func doSlabsFree(it *item, id int) {
	if it.itFlags&itemChunked == 0 {
		doChunkFree(it, id)
	} else {
		doSlabsFreeChunked(it)
	}
}

func fillSlabStatsAutomove(am *[maxNumberOfSlabClasses]slabStatsAutomove) {
	slabsLock.Lock()
	for n := range slabclass {
		p := &slabclass[n]
		am[n] = slabStatsAutomove{p.perslab, p.size, p.slCurr, len(p.slabList)}
	}
	slabsLock.Unlock()
}

// globalPagePoolSize returns the number of pages in the pool, and whether
// the memory limit is reached.
func globalPagePoolSize() (n int, memFlag bool) {
	slabsLock.Lock()
	n = len(slabclass[slabGlobalPagePool].slabList)
	memFlag = memMalloced >= memLimit
	slabsLock.Unlock()
	return n, memFlag
}

func doSlabsStats(c *conn, threadStats *statSums) {
	total := 0
	for i := powerSmallest; i <= largestClsid; i++ {
		slabsLock.Lock() // not held while the lines are formatted
		p := slabclass[i]
		slabs := len(p.slabList)
		slabsLock.Unlock()
		if slabs == 0 {
			continue
		}
		stat := func(name string, v any) {
			appendStat(c, fmt.Sprintf("%d:%s", i, name), "%d", v)
		}
		n := &threadStats.slab[i]
		stat("chunk_size", p.size)
		stat("chunks_per_page", p.perslab)
		stat("total_pages", slabs)
		stat("total_chunks", slabs*p.perslab)
		stat("used_chunks", slabs*p.perslab-p.slCurr)
		stat("free_chunks", p.slCurr)
		stat("free_chunks_end", 0) // dead
		stat("get_hits", n[slabGetHits])
		stat("cmd_set", n[slabSetCmds])
		stat("delete_hits", n[slabDeleteHits])
		stat("incr_hits", n[slabIncrHits])
		stat("decr_hits", n[slabDecrHits])
		stat("cas_hits", n[slabCasHits])
		stat("cas_badval", n[slabCasBadval])
		stat("touch_hits", n[slabTouchHits])
		total++
	}
	appendStat(c, "active_slabs", "%d", total)
	slabsLock.Lock()
	malloced := memMalloced
	slabsLock.Unlock()
	appendStat(c, "total_malloced", "%d", malloced)
}

// memoryAllocate returns the place in the arena of n zeroed bytes, or 0 if
// there is no memory. It does not touch them.
func memoryAllocate(n int) int {
	off := memCurrent
	if last := len(memReleased) - 1; last >= 0 {
		off = memReleased[last] // each is a whole page
		memReleased = memReleased[:last]
	} else {
		end := memCurrent + memAlign(n)
		if memPrealloced && memCurrent+n > slabsStart+memLimit {
			return 0
		}
		if err := memOpenTo(end); err != nil {
			if memFd >= 0 { // from now on memory is limited to what the file has
				perror("failed to allocate memory in "+settings.memoryFile, err)
				memLimit = memCurrent - slabsStart
			}
			return 0
		}
		memCurrent = end
	}
	memMalloced += n
	return off
}

// memoryRelease returns pages of the global pool to the system until memory is
// within the limit.
func memoryRelease() {
	if memPrealloced || !settings.slab.reassign {
		return
	}
	for memMalloced > memLimit {
		page := getPageFromGlobalPool()
		if page == 0 {
			return
		}
		memDiscard(memBytes(page, settings.slab.pageSize))
		memReleased = append(memReleased, page)
		memMalloced -= settings.slab.pageSize
	}
}

// slabsAlloc returns a chunk of the class, or nil if there is no memory. hv
// is the hash of the item's key; for an itemChunk it does not matter.
func slabsAlloc(id int, hv uint32, flags int) *item {
	slabsLock.Lock()
	it := doSlabsAlloc(id, hv, flags)
	slabsLock.Unlock()
	return it
}

func slabsFree(it *item, id int) {
	slabsLock.Lock()
	doSlabsFree(it, id)
	slabsLock.Unlock()
}

func slabsStats(c *conn) {
	threadStats := threadlocalStatsAggregate()
	doSlabsStats(c, &threadStats)
}

func doSlabsAdjustMemLimit(n int) bool {
	if memPrealloced {
		return false
	}
	settings.maxbytes.Store(uint64(n))
	memLimit = n
	memoryRelease() // free what might already be in the global pool
	return true
}

// slabsAdjustMemLimit sets the limit to n bytes. It returns false if memory
// was preallocated.
func slabsAdjustMemLimit(n int) bool {
	slabsLock.Lock()
	ret := doSlabsAdjustMemLimit(n)
	slabsLock.Unlock()
	return ret
}

// slabsAvailableChunks returns the number of free chunks of the class, and of
// chunks in a page, which is 0 if there is no such class.
func slabsAvailableChunks(id int) (n, perslab int) {
	slabsLock.Lock()
	p := &slabclass[id]
	n, perslab = p.slCurr, p.perslab
	slabsLock.Unlock()
	return n, perslab
}

// slabsUsedChunks returns how many chunks of all classes are not free.
func slabsUsedChunks() (n int) {
	slabsLock.Lock()
	for i := range slabclass {
		p := &slabclass[i]
		n += len(p.slabList)*p.perslab - p.slCurr
	}
	slabsLock.Unlock()
	return n
}

// slabsPeekPage returns the first page of the class, and the size and number
// of its chunks; or 0 if the class has fewer than two pages.
func slabsPeekPage(id int) (page, size, perslab int) {
	if id > largestClsid {
		return 0, 0, 0
	}
	slabsLock.Lock()
	p := &slabclass[id]
	if len(p.slabList) >= 2 {
		page, size, perslab = p.slabList[0], p.size, p.perslab
	}
	slabsLock.Unlock()
	return page, size, perslab
}

// doSlabsUnlinkFreeChunk takes a chunk off the free list, for the mover.
// slabsLock is held.
func doSlabsUnlinkFreeChunk(id int, it *item) {
	p := &slabclass[id]
	if p.slots == it.ref() {
		p.slots = it.next
	} else {
		it.prev.item().next = it.next
	}
	if it.next != 0 {
		it.next.item().prev = it.prev
	}
	p.slCurr--
}

// slabsFinalizePageMove passes the first page of class sid, now empty, on to
// class did. It returns false if page is no longer the first: a page of the
// global pool may have been taken meanwhile.
func slabsFinalizePageMove(sid, did, page int) bool {
	slabsLock.Lock()
	defer slabsLock.Unlock()
	src := &slabclass[sid]
	if len(src.slabList) == 0 || src.slabList[0] != page {
		return false
	}
	src.slabList = append(src.slabList[:0], src.slabList[1:]...)
	dst := &slabclass[did]
	dst.slabList = append(dst.slabList, page)
	if did > slabGlobalPagePool {
		clear(memBytes(page, settings.slab.pageSize))
		splitSlabPageIntoFreelist(page, did)
	} else {
		memoryRelease() // memMalloced might be higher than memLimit
	}
	return true
}

// slabsReturnPage ends a move without success: page, the first of class id, stays in
// the class, and the chunks that the mover had taken are free again. The page becomes
// the last, so the next move takes another.
func slabsReturnPage(id, page int, taken []bool) {
	slabsLock.Lock()
	p := &slabclass[id]
	for x := range taken {
		if taken[x] {
			doChunkFree(memItem(page+x*p.size), id)
		}
	}
	copy(p.slabList, p.slabList[1:])
	p.slabList[len(p.slabList)-1] = page
	slabsLock.Unlock()
}

// slabsPickAnyForReassign goes round the classes and returns the next one,
// other than did, that has a page to spare; -1 if there is none.
func slabsPickAnyForReassign(did int) int {
	slabsLock.Lock()
	ret := -1
	for tries := maxNumberOfSlabClasses - powerSmallest + 1; tries > 0 && ret < 0; tries-- {
		lastPicked++
		if lastPicked >= maxNumberOfSlabClasses {
			lastPicked = powerSmallest
		}
		if lastPicked != did && len(slabclass[lastPicked].slabList) > 1 {
			ret = lastPicked
		}
	}
	slabsLock.Unlock()
	return ret
}

func slabsPageCount(id int) int {
	slabsLock.Lock()
	n := len(slabclass[id].slabList)
	slabsLock.Unlock()
	return n
}

// slabsMlock is for code that sets a chunk's lock field, or during which no
// chunk may be allocated or freed.
func slabsMlock() { slabsLock.Lock() }

func slabsMunlock() { slabsLock.Unlock() }

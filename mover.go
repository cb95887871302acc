// The page mover, which takes a page from one slab class to give it to
// another or to the global pool, and the automover, which decides when. From
// slabs_mover.c and slab_automove.c.
//
// A page is emptied chunk by chunk while everybody goes on using its items.
// What is free is taken off the free list; what has expired is unlinked; what
// is in use is copied to another chunk of the class, and the copy takes its
// place in the cache. A chunk that can't be had yet is busy: the mover goes
// over the page again and again, until none is left. A chunk that it has got
// is marked in completed. Nobody else can come to it any more: it is on no
// free list, in no LRU and no bucket, and all references to it are gone.
//
// The mover comes to a chunk from its page, not from a key, and does not know
// what it is. So this is who may look at what, step by step:
//
//   - Under slabsLock it may look at the lock field, which tells a free chunk,
//     an itemChunk, and an item with its item lock. A free chunk can be taken
//     at once. The head of an itemChunk is set together with its lock field,
//     and later by nobody but the mover. As an item is freed together with all
//     its chunks, it leads to an item that is not free.
//   - Still under slabsLock it tries the item's lock. (It comes before slabsLock,
//     so the mover must not wait for it.) That lock does not say yet that the item may be looked
//     at: one that was never linked is written to without any, by whoever
//     allocated it. But its time may. slabsAlloc sets it to 0, under slabsLock;
//     doItemLink is the first to set it to something else, under the item
//     lock. Without slabsLock the chunk might just now become an itemChunk,
//     with its size where the time is.
//   - If time is not 0 the item has been linked: all of it but next and prev
//     belongs to who holds its lock, the mover. Nor can it be freed, as nobody
//     can drop a reference. So slabsLock is let go, and the LRU's lock can be
//     taken to unlink the item.
//   - A reply under way reads a value without lock, but it has a reference,
//     which it got, and will drop, under the lock. So with two references,
//     that of the cache and the mover's own, nobody reads it, and nobody will.
//   - With more, the value can be copied all the same: it is changed in place
//     only where there is no other reader (doReplaceValue). The original is
//     unlinked and becomes free with its last reference. But chunks have no
//     references of their own, and a reply follows their links, so a chunked
//     item has to be left as it is until all let go of it.
//
// Who holds a reference may thus find that his item is no more the one in the
// cache. He must expect that anyway: it may be replaced or deleted.

package main

import (
	"sync"
	"sync/atomic"
	"time"
)

type reassignResultType int

const (
	reassignOk reassignResultType = iota
	reassignRunning
	reassignBadclass
	reassignNospare
	reassignSrcDstSame
)

const slabsReassignAllowEvictions = 1 // flag of slabsReassign

// What the mover finds a chunk to be. C has a few more, for what it sees when
// it looks at an item before it has the lock.
type moveStatus int

const (
	moveNone         moveStatus = iota
	moveFromSlab                // it was free
	moveFromLru                 // it is a linked item's, or a part of one
	moveBusyActive              // as well, but there are other references
	moveBusyFloating            // its item is not linked yet, or no more
	moveLocked                  // its item is locked by somebody
)

var moveStatusText = [...]string{"none", "from_slab", "from_lru", "busy_active", "busy_floating", "locked"}

// A slabRebalance is the move of one page.
type slabRebalance struct {
	sClsid, dClsid int
	slabStart      int    // the page, bytes from the start of the arena
	slabPos        int    // the next chunk to look at, by its number
	clsSize        int    // bytes of a chunk
	completed      []bool // the chunks that are ours
	done           bool   // all of them

	// It may evict to get memory: all is in use, or somebody has asked for
	// this move.
	allowEvictions bool

	busyLoops      int // times that it went over the page
	busyItems      int // chunks that were busy this time
	lastBusyStatus moveStatus

	rescues       int
	chunkRescues  int
	inlineReclaim int
	busyNomem     int
	busyDeletes   int
}

// The mover (struct slab_rebal_thread).
var slabRebal struct {
	lock      sync.Mutex // held by the thread while it is awake; for all that follows
	runThread bool
	wake      chan struct{} // with room for one
	done      chan struct{} // closed when the thread has ended
	newIt     *item         // memory for the next item to rescue
	amLast    int64         // Unix time when the automover last moved a page to a class
	am        *slabAutomove
	rebal     slabRebalance // none if sClsid and dClsid are the same

	resting atomic.Bool // the thread waits for the clock, or to be woken
}

// Times over a page after which the mover loses its patience. It sleeps in
// between, at most slabMoveMaxSleep.
const (
	slabMoveMaxLoops = 5000
	slabMoveMaxSleep = 5 * time.Millisecond
)

// What slabsLockedCb has found.
type lockedSt struct {
	it       *item       // the item that the chunk is, or is a part of
	ch       *itemChunk  // the chunk, if it is a part
	holdLock *sync.Mutex // of it, to be unlocked
}

// What slabRebalanceMove has come to.
const (
	moveInPage   = iota // there is more to look at
	movePageBusy        // to be gone over again
	movePageDone
)

// The automover. It looks at each class once a round and remembers the last
// rounds, the window.
const (
	minPagesForSource  = 2
	minPagesForReclaim = 2.5
)

// What a round, or a sum of them, has seen of a class.
type windowData struct {
	age          uint64 // of the tail of COLD, seconds
	dirty        uint64 // evictions, no memory, or new pages
	evictedRatio float64
	evictedSeen  uint64 // any evictions at all
}

type slabAutomove struct {
	version     uint32 // of the settings that it was made from
	window      [][maxNumberOfSlabClasses]windowData
	windowCur   int // rounds so far
	maxAgeRatio float64

	iamBefore, iamAfter [maxNumberOfSlabClasses]itemStatsAutomove
	samBefore, samAfter [maxNumberOfSlabClasses]slabStatsAutomove
}

// slabRebalanceStart begins with the first page of the class, which is
// likely to contain the oldest items.
func slabRebalanceStart() bool {
	r := &slabRebal.rebal
	// Nobody else puts memory into the pool, so this stays as it is for the
	// whole move, unless somebody changes the limit.
	if n, memLimitReached := globalPagePoolSize(); memLimitReached && n == 0 {
		r.allowEvictions = true
	}
	page, size, perslab := slabsPeekPage(r.sClsid)
	if page == 0 {
		return false
	}
	r.slabStart = page
	r.clsSize = size
	r.completed = make([]bool, perslab)
	r.done = r.sClsid == slabGlobalPagePool // there is nothing in it
	statsLock.Lock()
	statsState.slabReassignRunning = true
	statsLock.Unlock()
	return true
}

// slabRebalanceAlloc returns a free chunk that is not in the page to be
// emptied. Those that are it takes for good. It returns nil if there is none.
func slabRebalanceAlloc(id, flags int) *item {
	r := &slabRebal.rebal
	for {
		newIt := slabsAlloc(id, 0, flags)
		if newIt == nil {
			return nil
		}
		off := memOff(newIt) - r.slabStart
		if off < 0 || off >= len(r.completed)*r.clsSize {
			return newIt
		}
		r.completed[off/r.clsSize] = true
		r.inlineReclaim++
	}
}

// slabRebalancePrep gets memory for the next rescue, if it can.
func slabRebalancePrep() {
	t, r := &slabRebal, &slabRebal.rebal
	if t.newIt != nil {
		return
	}
	if t.newIt = slabRebalanceAlloc(r.sClsid, slabsAllocNoNewpage); t.newIt != nil {
		return
	}
	if !r.allowEvictions && r.busyLoops > slabMoveMaxLoops {
		// We are stuck. Memory may have become full since the start; if not
		// it makes no sense to evict: get a page to give one away.
		if _, memLimitReached := globalPagePoolSize(); memLimitReached {
			r.allowEvictions = true
		} else if t.newIt = slabRebalanceAlloc(r.sClsid, 0); t.newIt != nil {
			return
		}
	}
	for x := 0; r.allowEvictions && x < 10 && t.newIt == nil; x++ {
		if lruPullTail(r.sClsid, coldLru, 0, lruPullEvict, 0) <= 0 && settings.lruSegmented.Load() {
			lruPullTail(r.sClsid, hotLru, 0, 0, 0)
		}
		t.newIt = slabRebalanceAlloc(r.sClsid, slabsAllocNoNewpage)
	}
}

// slabsLockedCb finds out what a.it is, with slabsLock held. With moveFromLru
// and moveBusyActive the item is locked and has a reference of ours.
func slabsLockedCb(a *lockedSt) moveStatus {
	switch a.it.lock {
	case lockFree:
		doSlabsUnlinkFreeChunk(slabRebal.rebal.sClsid, a.it)
		return moveFromSlab
	case lockChunk:
		a.ch = a.it.chunk()
		a.it = a.ch.head.item()
	}
	if a.holdLock = itemTrylock(uint32(a.it.lock)); a.holdLock == nil {
		return moveLocked
	}
	if a.it.time == 0 || a.it.itFlags&itemLinked == 0 {
		itemTrylockUnlock(a.holdLock)
		return moveBusyFloating
	}
	a.it.refcount++
	if a.it.refcount == 2 {
		return moveFromLru
	}
	return moveBusyActive
}

// slabRebalanceReplace puts a copy of it into its place in the cache.
func slabRebalanceReplace(it *item) {
	t, r := &slabRebal, &slabRebal.rebal
	newIt := t.newIt
	t.newIt = nil
	// All but next and prev. That includes the lock field, though without
	// slabsLock: only the mover looks at it from the page.
	n := r.clsSize - 2*refSize
	copy(newIt.offset(2*refSize, n), it.offset(2*refSize, n))
	newIt.hNext = 0
	newIt.itFlags &^= itemLinked
	newIt.refcount = 0
	doItemReplace(it, newIt, hash(it.key()), it.cas())
	if newIt.itFlags&itemChunked != 0 {
		first := newIt.schunk()
		first.next.chunk().prev = first.ref()
		for ch := first; ch != nil; ch = ch.next.chunk() {
			ch.head = newIt.ref()
		}
	}
	r.rescues++
}

// slabRebalanceRescue moves an item, or the chunk ch of it, that nobody else
// has a reference to.
func slabRebalanceRescue(it *item, ch *itemChunk) {
	t := &slabRebal
	if ch == nil {
		slabRebalanceReplace(it)
		return
	}
	nch := t.newIt.chunk()
	t.newIt = nil
	*nch = *ch
	copy(nch.data(), ch.data()[:ch.used])
	ch.prev.chunk().next = nch.ref() // the first is in the item, so there is one
	if ch.next != 0 {
		ch.next.chunk().prev = nch.ref()
	}
	t.rebal.chunkRescues++
}

// slabRebalanceActiveRescue is for an item that others have references to.
// Its memory must wait for them, but if we have waited for too long for a
// chunked one it is not to be found any more.
func slabRebalanceActiveRescue(it *item) {
	r := &slabRebal.rebal
	if it.itFlags&itemChunked == 0 {
		slabRebalanceReplace(it)
	} else if r.busyLoops > slabMoveMaxLoops {
		if loggerEflags.Load()&logEvictions != 0 {
			loggerLogEvictions(it)
		}
		doItemUnlink(it, hash(it.key()))
		r.busyDeletes++
	}
}

// slabRebalanceItem tries to get the memory of a linked item, or of the chunk
// ch of it, and returns whether it has. The item is locked, and has a
// reference of ours to be dropped.
func slabRebalanceItem(it *item, ch *itemChunk) bool {
	t, r := &slabRebal, &slabRebal.rebal
	switch {
	case itemIsExpired(it, currentTime.Load()) || itemIsFlushed(it):
		doItemUnlink(it, hash(it.key()))
		if it.refcount == 1 && it.itFlags&itemChunked == 0 {
			return true
		}
		// Of a chunked one all becomes free, for the next time.
	case t.newIt == nil:
		r.busyNomem++
		if r.allowEvictions && r.busyLoops > slabMoveMaxLoops && settings.evictToFree {
			// Not as in C, which goes on for ever: the class may be full of
			// chunks of items that are in the LRU of another.
			l := &lrus[it.slabsClsid]
			l.lock.Lock()
			doPullEvict(l, it)
			l.lock.Unlock()
		}
	case it.refcount == 2:
		slabRebalanceRescue(it, ch)
		if ch != nil {
			doItemRemove(it)
		}
		return true
	default:
		slabRebalanceActiveRescue(it)
	}
	doItemRemove(it)
	return false
}

// slabRebalanceMove tries to free up one chunk of memory, if it is not free
// already. Without memory for a rescue it still gets what is free or has
// expired.
func slabRebalanceMove() int {
	r := &slabRebal.rebal
	x := r.slabPos
	if !r.completed[x] {
		a := lockedSt{it: memItem(r.slabStart + x*r.clsSize)}
		slabsMlock()
		status := slabsLockedCb(&a)
		slabsMunlock()
		switch status {
		case moveFromSlab:
			r.completed[x] = true
		case moveFromLru, moveBusyActive:
			r.completed[x] = slabRebalanceItem(a.it, a.ch)
			itemTrylockUnlock(a.holdLock)
		}
		if !r.completed[x] {
			r.busyItems++
		}
		r.lastBusyStatus = status
	}
	r.slabPos++
	if r.slabPos < len(r.completed) {
		return moveInPage
	}
	if r.busyItems == 0 {
		r.done = true
		return movePageDone
	}
	statsLock.Lock()
	stats.slabReassignBusyItems += uint64(r.busyItems)
	stats.slabReassignLastBusyStatus = moveStatusText[r.lastBusyStatus]
	statsLock.Unlock()
	r.slabPos = 0
	r.busyItems = 0
	r.busyLoops++
	return movePageBusy
}

// slabRebalanceFinish passes the page on, which is completely clear now.
func slabRebalanceFinish() {
	t, r := &slabRebal, &slabRebal.rebal
	if t.newIt != nil {
		slabsFree(t.newIt, r.sClsid)
		t.newIt = nil
	}
	moved := slabsFinalizePageMove(r.sClsid, r.dClsid, r.slabStart)
	statsLock.Lock()
	if moved {
		stats.slabsMoved++
	}
	stats.slabReassignRescues += uint64(r.rescues)
	stats.slabReassignChunkRescues += uint64(r.chunkRescues)
	stats.slabReassignInlineReclaim += uint64(r.inlineReclaim)
	stats.slabReassignBusyNomem += uint64(r.busyNomem)
	stats.slabReassignBusyDeletes += uint64(r.busyDeletes)
	statsState.slabReassignRunning = false
	statsLock.Unlock()
	*r = slabRebalance{}
}

// slabRebalanceCheckAutomove asks the automover, which may begin a move. It
// returns whether it has.
func slabRebalanceCheckAutomove() bool {
	t := &slabRebal
	now := time.Now().Unix()
	if settings.slabAutomove.Load() == 0 || t.amLast == now {
		return false
	}
	settings.tuneLock.Lock()
	version := settings.slabAutomoveVersion
	settings.tuneLock.Unlock()
	if version != t.am.version {
		t.am = slabAutomoveInit()
	}
	src, dst := slabAutomoveRun(t.am)
	if src == -1 || dst == -1 {
		return false
	}
	ret := doSlabsReassign(src, dst, 0)
	if loggerEflags.Load()&logSysevents != 0 {
		state := "ok"
		if ret != reassignOk {
			state = "fail"
		}
		loggerLogText(loggerSlabMove, src, dst, state)
	}
	if dst != slabGlobalPagePool {
		t.amLast = now // not more than one a second
	}
	return true
}

// slabRebalanceStep takes the move under way one step further, and returns
// what slabRebalanceMove does.
func slabRebalanceStep() int {
	r := &slabRebal.rebal
	switch {
	case r.slabStart == 0 && !slabRebalanceStart():
		*r = slabRebalance{}
	case r.done:
		slabRebalanceFinish()
	default:
		slabRebalancePrep()
		return slabRebalanceMove()
	}
	return moveInPage
}

// slabRebalanceThread moves pages, and waits for a reason to do so. It
// finishes a page before it ends.
func slabRebalanceThread() {
	t, r := &slabRebal, &slabRebal.rebal
	backoff := time.Microsecond
	idle := 0 // times that there was nothing to do
	t.lock.Lock()
	for t.runThread || r.sClsid != r.dClsid {
		wait := time.Duration(0)
		if r.sClsid != r.dClsid {
			switch slabRebalanceStep() {
			case movePageBusy:
				wait = backoff
				backoff = min(2*backoff, slabMoveMaxSleep)
			case movePageDone:
				backoff = time.Microsecond
			}
		} else if slabRebalanceCheckAutomove() {
			idle = 0
		} else if idle++; idle <= 11 {
			wait = 100 * time.Millisecond
		} else {
			wait = time.Second
		}
		if wait > 0 {
			// Not as in C, which waits for a busy page with the lock held:
			// a client that does not read its reply must not keep those
			// waiting who want all threads to pause.
			t.lock.Unlock()
			if wait == time.Second { // which ends with a tick of the clock
				t.resting.Store(true)
				<-t.wake
				t.resting.Store(false)
			} else {
				select {
				case <-t.wake:
				case <-time.After(wait):
				}
			}
			t.lock.Lock()
		}
	}
	t.lock.Unlock()
	close(t.done)
}

func doSlabsReassign(src, dst, flags int) reassignResultType {
	r := &slabRebal.rebal
	if src == dst {
		return reassignSrcDstSame
	}
	if src == -1 { // we are to choose
		src = slabsPickAnyForReassign(dst)
	}
	if !slabsClassCheck(src) || !slabsClassCheck(dst) {
		return reassignBadclass
	}
	if slabsPageCount(src) < 2 {
		return reassignNospare
	}
	r.sClsid = src
	r.dClsid = dst
	r.allowEvictions = flags&slabsReassignAllowEvictions != 0
	return reassignOk
}

// slabsReassign has the mover take a page from class src, -1 for any, to
// class dst. It does not wait for anything.
func slabsReassign(src, dst, flags int) reassignResultType {
	t := &slabRebal
	if !t.lock.TryLock() {
		return reassignRunning
	}
	ret := reassignRunning
	if t.runThread && t.rebal.sClsid == t.rebal.dClsid {
		ret = doSlabsReassign(src, dst, flags)
	}
	t.lock.Unlock()
	if ret == reassignOk {
		slabMaintenanceWake()
	}
	return ret
}

func slabMaintenanceWake() {
	select {
	case slabRebal.wake <- struct{}{}:
	default: // it is about to be
	}
}

// While the lock is held the mover can't wake up or move.
func slabMaintenancePause() { slabRebal.lock.Lock() }

func slabMaintenanceResume() { slabRebal.lock.Unlock() }

func startSlabMaintenanceThread() {
	t := &slabRebal
	t.lock.Lock()
	t.runThread = true
	t.wake = make(chan struct{}, 1)
	t.done = make(chan struct{})
	t.am = slabAutomoveInit()
	t.lock.Unlock()
	go slabRebalanceThread()
}

func stopSlabMaintenanceThread() {
	t := &slabRebal
	t.lock.Lock()
	t.runThread = false
	t.lock.Unlock()
	slabMaintenanceWake()
	<-t.done
}

func slabAutomoveInit() *slabAutomove {
	settings.tuneLock.Lock()
	a := &slabAutomove{
		version:     settings.slabAutomoveVersion,
		window:      make([][maxNumberOfSlabClasses]windowData, settings.slabAutomoveWindow),
		maxAgeRatio: settings.slabAutomoveRatio,
	}
	settings.tuneLock.Unlock()
	fillItemStatsAutomove(&a.iamBefore)
	fillSlabStatsAutomove(&a.samBefore)
	return a
}

// windowSum sums up what the window shows of class n.
func windowSum(a *slabAutomove, n int) (w windowData) {
	for x := range a.window {
		d := &a.window[x][n]
		w.age += d.age
		w.dirty += d.dirty
		w.evictedRatio += d.evictedRatio
		w.evictedSeen += d.evictedSeen
	}
	return w
}

// windowFill notes what this round shows of class n.
func windowFill(a *slabAutomove, n int, evictedTotal uint64) *windowData {
	wd := &a.window[a.windowCur%len(a.window)][n]
	*wd = windowData{age: uint64(a.iamAfter[n].age)}
	if evicted := a.iamAfter[n].evicted - a.iamBefore[n].evicted; evicted > 0 {
		wd.evictedRatio = float64(evicted) / float64(evictedTotal)
		wd.evictedSeen = 1
		wd.dirty = 1
	}
	if a.iamAfter[n].outofmemory != a.iamBefore[n].outofmemory ||
		a.samAfter[n].totalPages > a.samBefore[n].totalPages {
		wd.dirty = 1
	}
	return wd
}

// slabAutomoveRun is one round. It returns from where to where a page should
// be moved, or -1: to the pool, from a class with much free memory; or else
// from the class with the oldest items to the one that evicts the youngest.
func slabAutomoveRun(a *slabAutomove) (src, dst int) {
	_, memLimitReached := globalPagePoolSize()
	fillItemStatsAutomove(&a.iamAfter)
	fillSlabStatsAutomove(&a.samAfter)
	evictedTotal := uint64(0)
	for n := powerSmallest; n < maxNumberOfSlabClasses; n++ {
		evictedTotal += a.iamAfter[n].evicted - a.iamBefore[n].evicted
	}
	a.windowCur++

	src, dst = -1, -1
	size := uint64(len(a.window))
	oldest, oldestAge := -1, uint64(0)
	youngest, youngestAge, youngestEvicting := -1, ^uint64(0), false
	for n := powerSmallest; n < maxNumberOfSlabClasses; n++ {
		wd := windowFill(a, n, evictedTotal)
		sum := windowSum(a, n)
		age := sum.age / size
		sam := &a.samAfter[n]

		if float64(sam.freeChunks) > float64(sam.chunksPerPage)*minPagesForReclaim &&
			memLimitReached && sum.dirty == 0 {
			src, dst = n, slabGlobalPagePool
			youngest, oldest = -1, -1
			break
		}
		if age > oldestAge && sam.totalPages > minPagesForSource {
			oldest, oldestAge = n, age
		}
		// It evicts in more than half of the window, or has more than a
		// quarter of all evictions in it.
		if age < youngestAge && (sum.evictedSeen > size/2 || sum.evictedRatio/float64(size) > 0.25) {
			youngest, youngestAge, youngestEvicting = n, age, wd.evictedSeen != 0
		}
	}
	a.iamBefore = a.iamAfter
	a.samBefore = a.samAfter
	// Only when the window has been filled once.
	if youngest != -1 && oldest != -1 && a.windowCur > len(a.window) &&
		float64(youngestAge) < float64(oldestAge)*a.maxAgeRatio && youngestEvicting {
		src, dst = oldest, youngest
	}
	return src, dst
}

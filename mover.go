// The page mover, which takes a page from one slab class and gives it to
// another or to the global pool, and the automover, which decides when. From
// slabs_mover.c, slab_automove.c and slab_automove_extstore.c.
//
// A page is emptied chunk by chunk while its items stay in use. A free chunk is
// taken off the free list; an expired item is unlinked; an item in use is
// copied to another chunk of the class, and the copy replaces it in the cache.
// A chunk that can't be taken yet is busy: the mover goes over the page again
// and again, until no chunk is busy, or it has waited for too long. It marks the
// chunks that it has taken in completed. Nobody else can reach them any more: they
// are on no free list, in no LRU and no bucket, and all references to them are gone.
//
// The mover finds a chunk by its page, not by a key, and does not know what the
// chunk is. These are the rules on what it may read, step by step:
//
//   - Under slabsLock it may read the lock field. That says whether the chunk
//     is free, an itemChunk, or an item, and which lock the item has. A free
//     chunk can be taken at once. The head of an itemChunk is set together with
//     its lock field, and after that only the mover sets it. An item is freed
//     together with all its chunks, so head points to an item that is not free.
//   - Still under slabsLock it tries the item's lock. (Item locks come before
//     slabsLock in the lock order, so the mover must not wait.) Holding the item's
//     lock does not yet allow reading the item: code that allocates an item writes
//     it without any lock until it is linked. Its time field, however, may be read.
//     slabsAlloc sets time to 0, under slabsLock; linkItem is the first to set it
//     to anything else, under the item lock. Without slabsLock the chunk could be
//     turning into an itemChunk, whose size field is at the offset of an item's
//     time.
//   - If time is not 0 the item has been linked: all of it except next and prev is
//     guarded by its lock, which the mover holds. Nor can the item be freed, as
//     nobody else can drop a reference. So the mover can release slabsLock, and
//     acquire the LRU's lock to unlink the item.
//   - A reply in flight reads a value without the lock, but with a reference,
//     which is acquired and dropped under the lock. So if there are two references,
//     the cache's and the mover's own, nobody reads the value, and nobody will.
//   - If there are more references the value can still be copied: it is changed in
//     place only if it has no other reader (doReplaceValue, storeInPlace). The
//     original is unlinked, and freed with its last reference. But chunks have no
//     references of their own, and a reply follows their links, so a chunked item
//     must be left as it is until the other references are dropped.
//
// So code that holds a reference may find that its item is no longer the one in the
// cache. That is nothing new: the item may also be replaced or deleted.

package main

import (
	"sync"
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

// What the mover has found a chunk to be. C has a few more values, since it looks at
// an item before it has the lock.
type moveStatus int

const (
	moveNone         moveStatus = iota
	moveFromSlab                // it was free
	moveFromLru                 // it is a linked item, or a part of one
	moveBusyActive              // the same, but others hold references
	moveBusyFloating            // its item is not linked yet, or not any more
	moveLocked                  // somebody else holds its item's lock
)

var moveStatusText = [...]string{"none", "from_slab", "from_lru", "busy_active", "busy_floating", "locked"}

// A slabRebalance is the move of one page.
type slabRebalance struct {
	sClsid, dClsid int
	slabStart      int    // the page, in bytes from the start of the arena
	slabPos        int    // number of the next chunk to try
	clsSize        int    // bytes of a chunk
	completed      []bool // chunks that the mover has taken
	done           bool   // it has taken all of them

	// It may evict to get memory: all memory is in use, or the caller of
	// slabsReassign allows it.
	allowEvictions bool

	busyItems      int // busy chunks in this pass
	lastBusyItems  int // and in the pass before it
	lastBusyStatus moveStatus

	// C counts passes instead of time.
	wait   time.Duration // until the next pass over the page
	waited time.Duration // since the number of busy chunks last changed
	stuck  bool          // it has waited for slabMovePatience, without success

	rescues       int
	chunkRescues  int
	inlineReclaim int
	busyNomem     int
	busyDeletes   int
}

// The mover (struct slab_rebal_thread).
var slabRebal struct {
	lock      sync.Mutex // held by the thread while it is awake; guards all that follows
	runThread bool
	wake      chan struct{} // holds one wake-up
	done      chan struct{} // closed when the thread has ended
	newIt     *item         // memory for the next rescue
	amLast    int64         // Unix time when the automover last moved a page to a class
	am        *slabAutomove
	rebal     slabRebalance // no move if sClsid and dClsid are the same
}

// Between passes over a page the mover sleeps, at most slabMoveMaxSleep. After
// slabMovePatience without progress it starts evicting items; after as long again,
// it returns the page to its class.
const (
	slabMovePatience = 10 * time.Second
	slabMoveMaxSleep = 5 * time.Millisecond

	// After slabMoveBrisk without progress it sleeps for slabMoveRestSleep.
	slabMoveBrisk     = 3 * time.Second
	slabMoveRestSleep = 250 * time.Millisecond
)

// The chunk that slabsLockedCb examines, and its findings.
type lockedSt struct {
	it       *item       // the chunk; after the call, the item it is or belongs to
	ch       *itemChunk  // the chunk, if it is part of a chunked item
	holdLock *sync.Mutex // the item's lock, for the caller to unlock
}

// The results of slabRebalanceMove.
const (
	moveInPage   = iota // more chunks to look at
	movePageBusy        // the page needs another pass
	movePageDone        // all are taken, or the page was returned to its class
)

// The automover. It examines each class once a round, and remembers the last
// rounds: its window.
const (
	minPagesForSource  = 2
	minPagesForReclaim = 2.5

	// Unlike C's, it does not wait until its window is full if a class evicts for
	// automoveBrisk seconds beside one that is hardly used: it had no more requests in
	// a second than a page has chunks, divided by automoveIdle.
	automoveBrisk = 5
	automoveIdle  = 64
)

// What one round, or the sum of several, has seen of a class.
type windowData struct {
	age          uint64 // of the tail of COLD, seconds
	dirty        uint64 // rounds with evictions, failed allocations or new pages
	evictedRatio float64
	evictedSeen  uint64 // rounds with evictions
	excessFree   uint64 // rounds with more free chunks than the class needs; extstore only
}

// What slabAutomoveHurry knows of a class.
type hurryData struct {
	uses, evicted  uint64 // requests and evictions so far
	idle, evicting int    // seconds for which it is hardly used, or evicts
}

type slabAutomove struct {
	tune      automoveTune
	window    [][maxNumberOfSlabClasses]windowData
	windowCur int // rounds so far

	hurry [maxNumberOfSlabClasses]hurryData
	last  relTime // when hurry was updated

	// With extstore only.
	globalPoolWatermark int // pages that the pool should have

	iamBefore, iamAfter [maxNumberOfSlabClasses]itemStatsAutomove
	samBefore, samAfter [maxNumberOfSlabClasses]slabStatsAutomove
}

// The settings that an automover is made from. If a setting changes, a new automover
// is made.
type automoveTune struct {
	maxAgeRatio float64
	window      uint32 // seconds
	freeRatio   float64
	itemSize    int // bytes of the smallest item that extstore takes
}

func automoveTuneNow() automoveTune {
	return automoveTune{settings.slab.automoveRatio.Load(), settings.slab.automoveWindow.Load(),
		settings.slab.automoveFreeratio.Load(), int(settings.ext.itemSize.Load())}
}

// slabRebalanceStart picks the first page of the class, which is likely to hold
// the oldest items. It returns false if the class has no page to spare.
func slabRebalanceStart() bool {
	r := &slabRebal.rebal
	// Only the mover puts pages into the pool, so this stays true for the whole
	// move, unless somebody changes the limit.
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
	r.done = r.sClsid == slabGlobalPagePool // pages in the pool are empty
	statsState.slabReassignRunning.Store(true)
	return true
}

// slabRebalanceAlloc returns a free chunk outside the page being emptied, or
// nil. Free chunks that it meets inside that page are marked as taken.
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

// slabRebalancePrep allocates memory for the next rescue, if it can.
func slabRebalancePrep() {
	t, r := &slabRebal, &slabRebal.rebal
	if t.newIt != nil {
		return
	}
	if t.newIt = slabRebalanceAlloc(r.sClsid, slabsAllocNoNewpage); t.newIt != nil {
		return
	}
	if !r.allowEvictions && r.stuck {
		// Stuck. Memory may have become full since the start of the move. If it has
		// not, do not evict; take a new page so that the old one can go.
		if _, memLimitReached := globalPagePoolSize(); memLimitReached {
			r.allowEvictions = true
		} else if t.newIt = slabRebalanceAlloc(r.sClsid, 0); t.newIt != nil {
			return
		}
	}
	for x := 0; r.allowEvictions && x < 10 && t.newIt == nil; x++ {
		if storageMakeRoom(r.sClsid) {
			// An item's value has moved to extstore.
		} else if extStorage != nil && r.sClsid >= storageMinClass() && !r.stuck && !storageStalled() {
			return // a value will soon
		} else {
			lruMakeRoom(r.sClsid, x)
		}
		t.newIt = slabRebalanceAlloc(r.sClsid, slabsAllocNoNewpage)
	}
}

// slabsLockedCb finds out what the chunk a.it is. slabsLock is held. If it returns
// moveFromLru or moveBusyActive, the item is locked, and the mover holds a reference
// to it.
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

// slabRebalanceReplace replaces an item in the cache with a copy in t.newIt.
func slabRebalanceReplace(it *item) {
	t, r := &slabRebal, &slabRebal.rebal
	newIt := t.newIt
	t.newIt = nil
	// Copy all but next and prev. This writes the lock field without slabsLock, but
	// nobody reads it yet: the copy is not linked, and only the mover finds chunks
	// by their page.
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

// slabRebalanceRescue moves an item to t.newIt or, if ch is not nil, only that
// chunk of the item. Nobody else holds a reference to the item.
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
	ch.prev.chunk().next = nch.ref() // the first chunk lies in the item, so ch has a prev
	if ch.next != 0 {
		ch.next.chunk().prev = nch.ref()
	}
	t.rebal.chunkRescues++
}

// slabRebalanceActiveRescue is for an item that others hold references to: its
// memory becomes free when they drop them. A copy replaces the item in the cache. A
// chunked item can't be copied, and is deleted once the mover is stuck.
func slabRebalanceActiveRescue(it *item) {
	r := &slabRebal.rebal
	if it.itFlags&itemChunked == 0 {
		slabRebalanceReplace(it)
	} else if r.stuck {
		if loggerEflags.Load()&logEvictions != 0 {
			loggerLogEvictions(it)
		}
		doItemUnlink(it, hash(it.key()))
		r.busyDeletes++
	}
}

// slabRebalanceItem tries to take the memory of a linked item or, if ch is not
// nil, of that chunk of the item, and reports whether it could. The item is
// locked. The mover's reference to it is dropped.
func slabRebalanceItem(it *item, ch *itemChunk) bool {
	t, r := &slabRebal, &slabRebal.rebal
	switch {
	case itemIsExpired(it, currentTime.Load()) || itemIsFlushed(it):
		doItemUnlink(it, hash(it.key()))
		if it.refcount == 1 && it.itFlags&itemChunked == 0 {
			return true
		}
		// A chunked item is freed with all its chunks; the next pass takes them.
	case t.newIt == nil:
		r.busyNomem++
		if r.allowEvictions && r.stuck && settings.evictToFree {
			// Unlike C, which tries for ever, evict this very item: the class may
			// be full of chunks whose items are in the LRU of another class.
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

// slabRebalanceMove tries to take the next chunk of the page, unless that is already
// taken. Without memory for a rescue it can still take free chunks and expired
// items.
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
	stats.slabReassignBusyItems.Add(uint64(r.busyItems))
	stats.slabReassignLastBusyStatus.Store(uint64(r.lastBusyStatus))
	return slabRebalanceBusy()
}

// slabRebalanceBusy starts another pass, unless there has been no progress for too
// long. Its results are those of slabRebalanceMove.
func slabRebalanceBusy() int {
	r := &slabRebal.rebal
	if r.busyItems != r.lastBusyItems {
		r.wait, r.waited = 0, 0
	}
	if r.wait = min(max(2*r.wait, time.Microsecond), slabMoveMaxSleep); r.waited > slabMoveBrisk || r.stuck {
		r.wait = slabMoveRestSleep
	}
	r.waited += r.wait
	r.lastBusyItems = r.busyItems
	r.slabPos = 0
	r.busyItems = 0
	if r.waited <= slabMovePatience {
		return movePageBusy
	}
	if r.stuck {
		slabRebalanceFinish()
		return movePageDone
	}
	r.stuck = true
	r.waited = 0
	return movePageBusy
}

// slabRebalanceFinish passes on the page if it is empty; otherwise it returns the
// page to its class.
func slabRebalanceFinish() {
	t, r := &slabRebal, &slabRebal.rebal
	if t.newIt != nil {
		slabsFree(t.newIt, r.sClsid)
		t.newIt = nil
	}
	moved := false
	if r.done {
		moved = slabsFinalizePageMove(r.sClsid, r.dClsid, r.slabStart)
	} else {
		slabsReturnPage(r.sClsid, r.slabStart, r.completed)
	}
	if moved {
		stats.slabsMoved.Add(1)
	}
	if !r.done {
		stats.slabReassignBusyReturns.Add(1)
	}
	stats.slabReassignRescues.Add(uint64(r.rescues))
	stats.slabReassignChunkRescues.Add(uint64(r.chunkRescues))
	stats.slabReassignInlineReclaim.Add(uint64(r.inlineReclaim))
	stats.slabReassignBusyNomem.Add(uint64(r.busyNomem))
	stats.slabReassignBusyDeletes.Add(uint64(r.busyDeletes))
	statsState.slabReassignRunning.Store(false)
	*r = slabRebalance{}
}

// slabRebalanceCheckAutomove runs a round of the automover, and reports whether
// that started a move.
func slabRebalanceCheckAutomove() bool {
	t := &slabRebal
	now := time.Now().Unix()
	if settings.slab.automove.Load() == 0 || t.amLast == now {
		return false
	}
	if t.am.tune != automoveTuneNow() {
		t.am = slabAutomoveInit()
	}
	var src, dst int
	if extStorage == nil {
		src, dst = slabAutomoveRun(t.am)
	} else {
		src, dst = slabAutomoveExtstoreRun(t.am)
	}
	if src == -1 || dst == -1 {
		return false
	}
	ret := doSlabsReassign(src, dst, 0)
	state := "ok"
	if ret != reassignOk {
		state = "fail"
	}
	loggerLogText(loggerSlabMove, src, dst, state)
	if dst != slabGlobalPagePool {
		t.amLast = now // at most one a second
	}
	return true
}

// slabRebalanceStep takes the current move one step further. Its results are those
// of slabRebalanceMove.
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

// slabRebalanceThread waits for moves and makes them. Before it ends it finishes the
// move in progress, or returns the page to its class.
func slabRebalanceThread() {
	t, r := &slabRebal, &slabRebal.rebal
	idle := 0 // rounds with nothing to do
	t.lock.Lock()
	for t.runThread || r.sClsid != r.dClsid {
		wait := time.Duration(0)
		if r.sClsid != r.dClsid {
			if slabRebalanceStep() == movePageBusy {
				wait = r.wait
			}
		} else if slabRebalanceCheckAutomove() {
			idle = 0
		} else if idle++; idle <= 11 {
			wait = 100 * time.Millisecond
		} else {
			wait = time.Second
		}
		if wait > 0 {
			// Unlike C, which waits for a busy page with the lock held, release
			// it: a client that does not read its reply must not block callers
			// that pause all threads.
			t.lock.Unlock()
			if wait == time.Second {
				<-t.wake // until a tick of the clock
			} else {
				waitWakeUp(t.wake, wait)
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
	if src == -1 { // any class
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

// slabsReassign asks the mover to move a page from class src, or any class if src
// is -1, to class dst. It does not wait for the mover.
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
		wakeUp(slabRebal.wake)
	}
	return ret
}

// While the lock is held the mover stays asleep.
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
	wakeUp(slabRebal.wake)
	<-t.done
}

func slabAutomoveInit() *slabAutomove {
	a := &slabAutomove{tune: automoveTuneNow()}
	a.window = make([][maxNumberOfSlabClasses]windowData, a.tune.window)
	fillItemStatsAutomove(&a.iamBefore)
	fillSlabStatsAutomove(&a.samBefore)
	return a
}

// windowSum adds up what all rounds of the window saw of class n.
func windowSum(a *slabAutomove, n int) (w windowData) {
	for x := range a.window {
		d := &a.window[x][n]
		w.age += d.age
		w.dirty += d.dirty
		w.evictedRatio += d.evictedRatio
		w.evictedSeen += d.evictedSeen
		w.excessFree += d.excessFree
	}
	return w
}

// windowFill records what this round sees of class n.
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

// slabAutomoveRun is one round. It returns the classes that a page should move
// between: from a class with much free memory to the pool; or else from the class
// with the oldest items to the class that evicts the youngest; or else what
// slabAutomoveHurry says.
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
		// The class evicted in more than half of the window's rounds, or made more
		// than a quarter of a round's evictions on average.
		if age < youngestAge && (sum.evictedSeen > size/2 || sum.evictedRatio/float64(size) > 0.25) {
			youngest, youngestAge, youngestEvicting = n, age, wd.evictedSeen != 0
		}
	}
	idle, hungry := slabAutomoveHurry(a)
	a.iamBefore = a.iamAfter
	a.samBefore = a.samAfter
	// Wait until the window has been filled once.
	if youngest != -1 && oldest != -1 && a.windowCur > len(a.window) &&
		float64(youngestAge) < float64(oldestAge)*a.tune.maxAgeRatio && youngestEvicting {
		src, dst = oldest, youngest
	}
	if src == -1 {
		src, dst = idle, hungry
	}
	return src, dst
}

// slabAutomoveHurry finds the class that has been hardly used for longest, and the
// class that evicts the youngest items all the time. It returns -1 and -1 unless
// the first has been so for so long that its items are older.
func slabAutomoveHurry(a *slabAutomove) (src, dst int) {
	src, dst = -1, -1
	if a.last == currentTime.Load() {
		return src, dst
	}
	a.last = currentTime.Load()
	sums := threadlocalStatsAggregate()
	for n := powerSmallest; n < maxNumberOfSlabClasses; n++ {
		h, was := &a.hurry[n], a.hurry[n]
		*h = hurryData{evicted: a.iamAfter[n].evicted}
		for _, u := range sums.slab[n] {
			h.uses += u
		}
		if h.uses-was.uses <= uint64(a.samAfter[n].chunksPerPage/automoveIdle) {
			h.idle = was.idle + 1
		}
		if h.evicted != was.evicted {
			h.evicting = was.evicting + 1
		}
		if h.evicting >= automoveBrisk { // it may be hardly used, but has no page to spare
			if dst == -1 || a.iamAfter[n].age < a.iamAfter[dst].age {
				dst = n
			}
		} else if a.samAfter[n].totalPages > 1 && (src == -1 || h.idle > a.hurry[src].idle) {
			src = n
		}
	}
	if src == -1 || dst == -1 || a.hurry[src].idle < automoveBrisk+2*int(a.iamAfter[dst].age) {
		return -1, -1
	}
	return src, dst
}

// The automover for extstore. It keeps a part of memory free: free chunks in each
// class, and pages in the pool. So when many values come at once there is time to
// write others to a file, and a class that runs short takes pages from the pool.

// globalPoolCheck returns how many pages are in the pool, and whether they are too
// few.
func globalPoolCheck(a *slabAutomove) (count int, low bool) {
	count, memLimitReached := globalPagePoolSize()
	return count, memLimitReached && count < a.globalPoolWatermark
}

// memcheck sets how many pages the pool should have.
func memcheck(a *slabAutomove) {
	totalPages := 0
	for n := range a.samAfter {
		totalPages += a.samAfter[n].totalPages
	}
	a.globalPoolWatermark = max(int(float64(totalPages)*a.tune.freeRatio), 2)
}

// windowFillExtstore records what this round sees of class n. Only a class of small
// items, whose values do not move to extstore, becomes dirty by evicting or growing.
func windowFillExtstore(a *slabAutomove, n int, smallSlab bool) {
	iamBefore, iamAfter := &a.iamBefore[n], &a.iamAfter[n]
	wd := &a.window[a.windowCur%len(a.window)][n]
	*wd = windowData{age: uint64(iamAfter.age)}
	if smallSlab && (iamAfter.evicted != iamBefore.evicted || iamAfter.outofmemory != iamBefore.outofmemory ||
		a.samAfter[n].totalPages > a.samBefore[n].totalPages) {
		wd.dirty = 1
	}
	if a.samAfter[n].freeChunks > a.samAfter[n].chunksPerPage*minPagesForSource {
		wd.excessFree = 1
	}
}

// slabAutomoveExtstoreRun is slabAutomoveRun for extstore: it moves pages only to
// the pool, from a class with much free memory or, if the pool has too few, from the
// class with the oldest items among those whose values can move to extstore.
func slabAutomoveExtstoreRun(a *slabAutomove) (src, dst int) {
	globalCount, globalLow := globalPoolCheck(a)
	fillItemStatsAutomove(&a.iamAfter)
	fillSlabStatsAutomove(&a.samAfter)
	a.windowCur++
	memcheck(a)

	src, dst = -1, -1
	oldest, oldestAge := -1, uint64(0)
	lowPages, highPages := 0, 0 // of classes of small items, and of the others
	for n := powerSmallest; n < maxNumberOfSlabClasses; n++ {
		sam := &a.samAfter[n]
		smallSlab := a.samBefore[n].chunkSize+itemSaved < a.tune.itemSize
		if smallSlab {
			lowPages += sam.totalPages
		} else if sam.totalPages > minPagesForSource {
			highPages += sam.totalPages
		}
		windowFillExtstore(a, n, smallSlab)
		sum := windowSum(a, n)
		if sum.dirty != 0 && globalCount != 0 {
			continue
		}
		if sum.excessFree >= uint64(len(a.window)) {
			src, dst = n, slabGlobalPagePool
		}
		age := uint64(a.iamAfter[n].age)
		if !smallSlab && sam.totalPages > minPagesForSource && (age > oldestAge || oldest == -1) {
			oldest, oldestAge = n, age
		}
	}
	if total := lowPages + highPages + globalCount; total > 0 {
		statsState.extstoreMemoryPressure.Store(int64(lowPages) * 10000 / int64(total))
	}
	a.iamBefore = a.iamAfter
	a.samBefore = a.samAfter
	// Wait until the window has been filled once.
	if a.windowCur < len(a.window) {
		return -1, -1
	}
	settings.ext.globalPoolMin.Store(uint32(a.globalPoolWatermark))
	if src == -1 && globalLow && oldest != -1 {
		src, dst = oldest, slabGlobalPagePool
	}
	return src, dst
}

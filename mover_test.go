// Tests of the page mover: how it handles each kind of chunk, one step at a time;
// what the automover decides; and page moves while many goroutines use the items
// in the pages.

package main

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// moverInit is storeInit with the mover's counters reset.
func moverInit(t testing.TB, megs int, conf func()) *thread {
	t.Helper()
	storeInit(t, megs, conf)
	statsReset()
	return testThread()
}

// moverStep lets the current move make up to that many passes over its page, and
// returns whether the move is done.
func moverStep(loops int) bool {
	r := &slabRebal.rebal
	for r.sClsid != r.dClsid {
		if slabRebalanceStep() == movePageBusy {
			if loops--; loops == 0 {
				return false
			}
		}
	}
	return true
}

func reassign(t testing.TB, src, dst int) {
	t.Helper()
	if ret := doSlabsReassign(src, dst, 0); ret != reassignOk {
		t.Fatalf("from %d to %d: %v", src, dst, ret)
	}
}

func pages(id int) int { return len(slabclass[id].slabList) }

func evictions() (n uint64) {
	for i := range lrus {
		lrus[i].lock.Lock()
		n += lrus[i].n[itemsEvicted]
		lrus[i].lock.Unlock()
	}
	return n
}

// TestRescue takes from each class in turn all the pages it can. No item may
// change.
func TestRescue(t *testing.T) {
	th := moverInit(t, 64, func() { settings.slab.chunkSizeMax = 16 << 10 })
	type model struct {
		value   string
		cas     uint64
		exptime relTime
	}
	items := make(map[string]model)
	for i, size := range []int{20, 500, 9000, 13000, 20000, 50000, 200000} {
		for k := range 4 << 20 / (size + 60) {
			key := fmt.Sprintf("key%d-%d", i, k)
			m := model{pattern(size+k%10, k), casId.Load() + 2, relTime(5000 * (k % 2))}
			if set(th, nreadSet, key, m.value, m.exptime) != stored {
				t.Fatal("no memory")
			}
			items[key] = m
		}
	}
	for i, key := range slices.Sorted(maps.Keys(items)) {
		if i%2 == 0 {
			unlink(key)
			delete(items, key)
		}
	}
	moved := 0
	for id := powerSmallest; id <= largestClsid; id++ {
		for slabclass[id].slCurr >= slabclass[id].perslab && pages(id) > 1 {
			reassign(t, id, slabGlobalPagePool)
			if !moverStep(1) {
				t.Fatalf("class %d is busy: %s", id, moveStatusText[slabRebal.rebal.lastBusyStatus])
			}
			moved++
		}
	}
	if n, _ := globalPagePoolSize(); n != moved || int(stats.slabsMoved.Load()) != moved || moved < 10 {
		t.Errorf("%d pages in the pool, %d moved, want %d", n, stats.slabsMoved.Load(), moved)
	}
	if stats.slabReassignRescues.Load() == 0 || stats.slabReassignChunkRescues.Load() == 0 || statsState.slabReassignRunning.Load() {
		t.Errorf("%+v", &stats)
	}
	checkStore(t)
	for key, m := range items {
		wantValue(t, th, key, m.value)
		it := itemGet([]byte(key), th, dontUpdate)
		if it.cas() != m.cas || it.exptime != m.exptime || it.clientFlags() != uint32(len(m.value)%2) {
			t.Errorf("%s: unique %d, exptime %d, flags %d; want %+v", key, it.cas(), it.exptime, it.clientFlags(), m)
		}
		itemRemove(it)
	}
	if n := evictions(); n != 0 {
		t.Errorf("%d evictions", n)
	}
	// Pages above the lowered limit go back to the system, now and later.
	malloced := memMalloced
	slabsAdjustMemLimit(malloced - 3<<20)
	if n, _ := globalPagePoolSize(); n != moved-3 || memMalloced != malloced-3<<20 {
		t.Errorf("%d pages in the pool, %d bytes", n, memMalloced)
	}
	checkStore(t)
}

// TestBusy has the mover meet an item that it cannot move, in a class with one
// used and one empty page.
func TestBusy(t *testing.T) {
	const id = 4 // class of the items, or of the header if chunked
	small := pattern(50, 1)
	for _, tt := range []struct {
		name   string
		value  string
		hold   func(key []byte) (release func())
		status moveStatus // last busy status in the end
		want   string     // the item's value meanwhile
		loops  int        // passes over the page before that
	}{
		{"referenced", small, func(key []byte) func() {
			it := itemGet(key, nil, dontUpdate)
			data := it.data()
			return func() {
				if string(data) != small+"\r\n" {
					t.Errorf("value has become %q", data)
				}
				itemRemove(it)
			}
		}, moveBusyFloating, small, 1},
		{"unlinked", small, func(key []byte) func() {
			it := itemGet(key, nil, dontUpdate)
			itemForget(key, nil)
			return func() { itemRemove(it) }
		}, moveBusyFloating, "", 1},
		{"expired", small, func(key []byte) func() {
			it, hv := limitedGet(key, testThread(), 999, true)
			itemUnlock(hv)
			return func() { itemRemove(it) }
		}, moveBusyFloating, "", 1},
		{"locked", small, func(key []byte) func() {
			hv := hash(key)
			itemLock(hv)
			return func() { itemUnlock(hv) }
		}, moveLocked, "", 1},
		{"chunked", pattern(50000, 1), func(key []byte) func() {
			it := itemGet(key, nil, dontUpdate)
			return func() { itemRemove(it) }
		}, moveBusyActive, pattern(50000, 1), 1},
		{"chunked, for long", pattern(50000, 1), func(key []byte) func() {
			it := itemGet(key, nil, dontUpdate)
			slabRebal.rebal.stuck = true
			return func() { itemRemove(it) }
		}, moveBusyFloating, "", 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			th := moverInit(t, 64, func() { settings.slab.chunkSizeMax = 16 << 10 })
			// The key's length puts the item, or its header, in class id.
			key := bytes.Repeat([]byte("k"), 81)
			if len(tt.value) == len(small) {
				key = key[:61]
			}
			set(th, nreadSet, string(key), tt.value, 0)
			var fill []*item
			for pages(id) < 2 {
				fill = append(fill, itemAlloc([]byte("fill"), 0, 0, slabclass[id].size-itemSize-8-5))
			}
			for _, it := range fill {
				itemRemove(it)
			}
			if slabclass[id].slCurr != 2*slabclass[id].perslab-1 {
				t.Fatalf("%d free chunks", slabclass[id].slCurr)
			}

			reassign(t, id, slabGlobalPagePool)
			release := tt.hold(key)
			if moverStep(tt.loops) {
				t.Fatal("the move is done")
			}
			moverStep(2)
			if s := slabRebal.rebal.lastBusyStatus; s != tt.status || !statsState.slabReassignRunning.Load() {
				t.Errorf("%s, want %s", moveStatusText[s], moveStatusText[tt.status])
			}
			if tt.status != moveLocked {
				if v, ok := get(th, string(key)); v != tt.want || ok != (tt.want != "") {
					t.Errorf("value is %.40q, %v", v, ok)
				}
			}
			release()
			if !moverStep(3) {
				t.Errorf("still busy: %s", moveStatusText[slabRebal.rebal.lastBusyStatus])
			}
			if stats.slabsMoved.Load() != 1 || stats.slabReassignBusyItems.Load() == 0 || evictions() != 0 ||
				stats.slabReassignBusyDeletes.Load() != uint64(tt.loops-1) {
				t.Errorf("%+v", &stats)
			}
			if tt.status == moveLocked {
				wantValue(t, th, string(key), tt.value)
			}
			checkStore(t)
		})
	}
}

// TestUploading moves pages whose items are being filled.
func TestUploading(t *testing.T) {
	th := moverInit(t, 64, func() { settings.slab.chunkSizeMax = 16 << 10 })
	values := []string{pattern(100, 1), pattern(10000, 1), pattern(100000, 1)}
	var its []*item
	for i, v := range values {
		its = append(its, itemAlloc(fmt.Append(nil, "key", i), 0, 0, len(v)+2))
		itemFill(its[i], []byte(v[:len(v)/2]))
	}
	// Give each class two pages, one of them with these items.
	used := 0
	for id := powerSmallest; id <= largestClsid; id++ {
		if pages(id) == 0 {
			continue
		}
		slabsMlock()
		doSlabsNewslab(id, 0)
		slabsMunlock()
		used++
		reassign(t, id, slabGlobalPagePool)
		if moverStep(3) || slabRebal.rebal.lastBusyStatus != moveBusyFloating {
			t.Fatalf("class %d: %s", id, moveStatusText[slabRebal.rebal.lastBusyStatus])
		}
		slabRebalanceFinish()
	}
	if used < 3 {
		t.Errorf("%d classes in use", used)
	}
	for i, v := range values {
		if its[i].itFlags&itemChunked == 0 {
			itemFill(its[i], []byte(v+"\r\n"))
		} else {
			ch := its[i].schunk()
			for ch.next != 0 {
				ch = ch.next.chunk()
			}
			storeItemCopyBytes(&ch, []byte(v[len(v)/2:]+"\r\n"), 0)
		}
		storeItem(its[i], nreadSet, th, nil, nil, getCasId(), false)
		itemRemove(its[i])
		wantValue(t, th, fmt.Sprint("key", i), v)
	}
	checkStore(t)
}

// TestMoveEvict moves pages while memory is full.
func TestMoveEvict(t *testing.T) {
	th := moverInit(t, 4, nil)
	n := 0
	for ; evictions() == 0; n++ {
		set(th, nreadSet, fmt.Sprint("key", n), pattern(10000, n), 0)
	}
	id := slabsClsid(10100)
	before := pages(id)
	reassign(t, id, 1) // the mover finds out itself that it must evict
	if !moverStep(10) || pages(id) != before-1 || pages(1) != 1 {
		t.Fatalf("%d pages of %d, %d moved", pages(id), before, pages(1))
	}
	if evictions() < 2 || stats.slabReassignInlineReclaim.Load() == 0 {
		t.Errorf("%d evictions, %+v", evictions(), &stats)
	}
	checkStore(t)
	for i := range n { // the items left have their values
		if v, ok := get(th, fmt.Sprint("key", i)); ok && v != pattern(10000, i) {
			t.Errorf("key%d is %.40q", i, v)
		}
	}
}

// TestMoveFull moves a page of a class full of chunks whose items are in another
// class's LRU.
func TestMoveFull(t *testing.T) {
	th := moverInit(t, 8, func() { settings.slab.chunkSizeMax = 16 << 10 })
	// Two chunks of the largest size, and a smaller one.
	value := pattern(2*(slabChunkMax-itemChunkSize)+9000, 1)
	for i := 0; evictions() == 0; i++ {
		set(th, nreadSet, fmt.Sprint("key", i), value, 0)
	}
	id := slabsClsid(9000 + itemChunkSize)
	reassign(t, id, slabGlobalPagePool)
	if !slabRebalanceStart() {
		t.Fatal("one page only")
	}
	var held []*item // the free chunks of other pages
	for {
		it := slabRebalanceAlloc(id, slabsAllocNoNewpage)
		if it == nil {
			break
		}
		held = append(held, it)
	}
	if moverStep(10) {
		t.Fatal("the move is done, though there was no free memory")
	}
	slabRebal.rebal.stuck = true
	n := evictions()
	if !moverStep(10) || evictions() == n || stats.slabReassignBusyNomem.Load() == 0 {
		t.Errorf("%d evictions, %+v", evictions()-n, &stats)
	}
	for _, it := range held {
		slabsFree(it, id)
	}
	checkStore(t)
}

// TestMoveBack gives a page back whose items somebody holds for too long, and
// takes another one next.
func TestMoveBack(t *testing.T) {
	for _, size := range []int{50, 50000} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			th := moverInit(t, 64, func() { settings.slab.chunkSizeMax = 16 << 10 })
			var held []*item
			id := 0
			for n := 0; id == 0 || pages(id) < 2; n++ {
				key := fmt.Sprint("key", n)
				set(th, nreadSet, key, pattern(size, n), 0)
				it := itemGet([]byte(key), th, dontUpdate)
				if id == 0 {
					id = slabsClsid(itemSize + 8 + len(key) + 1 + size + 2)
					if it.itFlags&itemChunked != 0 {
						id = int(it.schunk().next.chunk().slabsClsid)
					}
				}
				if n == 0 {
					held = append(held, it)
				} else {
					itemRemove(it)
				}
			}
			first := slabclass[id].slabList[0]
			reassign(t, id, slabGlobalPagePool)
			passes, waited := 0, time.Duration(0)
			for r := &slabRebal.rebal; r.sClsid != r.dClsid; {
				if slabRebalanceStep() == movePageBusy {
					passes++
					waited += r.wait
				}
			}
			if stats.slabReassignBusyReturns.Load() != 1 || stats.slabsMoved.Load() != 0 || pages(id) < 2 || statsState.slabReassignRunning.Load() {
				t.Errorf("%d pages, %+v", pages(id), &stats)
			}
			if waited < 2*slabMovePatience || waited > 2*slabMovePatience+time.Second || passes > 800 {
				t.Errorf("%d passes in %v", passes, waited)
			}
			for _, it := range held {
				itemRemove(it)
			}
			checkStore(t)
			reassign(t, id, slabGlobalPagePool)
			if slabclass[id].slabList[0] == first || !moverStep(10) || stats.slabsMoved.Load() != 1 {
				t.Errorf("the next move: %+v", &stats)
			}
			checkStore(t)
		})
	}
}

// TestPool moves pages out of the global pool, while others may take them.
func TestPool(t *testing.T) {
	th := moverInit(t, 64, nil)
	const id = 20
	slabsMlock()
	for range 4 {
		doSlabsNewslab(id, 0)
	}
	slabsMunlock()
	for range 3 {
		reassign(t, id, slabGlobalPagePool)
		moverStep(1)
	}
	reassign(t, slabGlobalPagePool, 1)
	if !moverStep(1) || pages(slabGlobalPagePool) != 2 || pages(1) != 1 || pages(id) != 1 {
		t.Errorf("pages %d %d %d", pages(slabGlobalPagePool), pages(1), pages(id))
	}
	checkStore(t)
	// The pool may be empty when the move begins.
	moved := stats.slabsMoved.Load()
	reassign(t, slabGlobalPagePool, 1)
	set(th, nreadSet, "c", pattern(20000, 1), 0)
	set(th, nreadSet, "d", pattern(40000, 1), 0)
	if !moverStep(1) || pages(slabGlobalPagePool) != 0 || stats.slabsMoved.Load() != moved || statsState.slabReassignRunning.Load() {
		t.Errorf("%d pages, %+v", pages(slabGlobalPagePool), &stats)
	}
	checkStore(t)
	for _, take := range []func(){
		func() { set(th, nreadSet, "a", pattern(5000, 1), 0); set(th, nreadSet, "b", pattern(9000, 1), 0) },
		func() { slabsAdjustMemLimit(1) },
	} {
		slabsMlock()
		for range 4 {
			doSlabsNewslab(id, 0)
		}
		slabsMunlock()
		for pages(slabGlobalPagePool) < 2 {
			reassign(t, id, slabGlobalPagePool)
			moverStep(1)
		}
		moved := stats.slabsMoved.Load()
		reassign(t, slabGlobalPagePool, 1)
		if !slabRebalanceStart() {
			t.Error("does not start")
		}
		take()
		if !moverStep(1) || stats.slabsMoved.Load() != moved || statsState.slabReassignRunning.Load() || pages(1) != 1 {
			t.Errorf("moved a page that was not there: %+v", &stats)
		}
		checkStore(t)
	}
}

// TestMoverPause pauses the mover while it waits for an item.
func TestMoverPause(t *testing.T) {
	moverInit(t, 64, func() { settings.slab.automove.Store(0) })
	const id = 20
	it := itemAlloc([]byte("key"), 0, 0, slabclass[id].size-itemSize-8-4)
	slabsMlock()
	doSlabsNewslab(id, 0)
	slabsMunlock()
	startSlabMaintenanceThread()
	for slabsReassign(id, slabGlobalPagePool, 0) != reassignOk {
		runtime.Gosched() // the thread is still checking for work
	}
	for range 10 {
		slabMaintenancePause()
		if pages(id) != 2 {
			t.Error("the page is gone")
		}
		slabMaintenanceResume()
		if ret := slabsReassign(id, slabGlobalPagePool, 0); ret != reassignRunning {
			t.Errorf("another move: %v", ret)
		}
	}
	itemRemove(it)
	stopSlabMaintenanceThread()
	if pages(id) != 1 || stats.slabsMoved.Load() != 1 {
		t.Errorf("%d pages, %+v", pages(id), &stats)
	}
	checkStore(t)
}

// TestAutomove follows the automover's decisions from round to round.
func TestAutomove(t *testing.T) {
	th := moverInit(t, 12, func() { settings.slab.automoveWindow.Store(3) })
	run := func(a *slabAutomove, wantSrc, wantDst int) {
		t.Helper()
		if src, dst := slabAutomoveRun(a); src != wantSrc || dst != wantDst {
			t.Errorf("from %d to %d, want from %d to %d", src, dst, wantSrc, wantDst)
		}
	}
	old, young := slabsClsid(20100), slabsClsid(10100)
	for i := range 200 { // 4 pages
		set(th, nreadSet, fmt.Sprint("old", i), pattern(20000, i), 0)
	}
	lruMaintainerJuggle(old)
	currentTime.Add(100)
	young1 := 0
	more := func(n int) {
		for range n {
			set(th, nreadSet, fmt.Sprint("young", young1), pattern(10000, young1), 0)
			young1++
		}
	}
	for evictions() == 0 {
		more(1)
	}
	a := slabAutomoveInit()
	for range 3 { // the window is not full yet
		more(1)
		run(a, -1, -1)
	}
	more(1)
	run(a, old, young)
	more(1)
	run(a, old, young)
	run(a, -1, -1) // no evictions now
	more(1)
	run(a, old, young)

	// Now all items of one class are free.
	for i := range young1 {
		unlink(fmt.Sprint("young", i))
	}
	run(a, -1, -1)
	run(a, -1, -1)
	for pages(young) > 2 { // once the window has no evictions
		run(a, young, slabGlobalPagePool)
		reassign(t, young, slabGlobalPagePool)
		moverStep(1)
	}
	run(a, -1, -1) // 2 pages are few enough to keep
	slabsAdjustMemLimit(64 << 20)
	for i := range 200 {
		unlink(fmt.Sprint("old", i))
	}
	run(a, -1, -1) // there is memory left for all
	checkStore(t)

	// When settings change, the thread makes a new automover.
	slabRebal.am = a
	settings.slab.automoveWindow.Store(5)
	settings.slab.automove.Store(0)
	if slabRebalanceCheckAutomove() || slabRebal.am != a {
		t.Error("the automover ran although it is off")
	}
	settings.slab.automove.Store(1)
	if slabRebalanceCheckAutomove() || len(slabRebal.am.window) != 5 {
		t.Errorf("window is %d", len(slabRebal.am.window))
	}
}

// TestAutomoveHurry: a class that evicts in each round gets the pages, but for one, of
// a class that is not used, at once, and none of a class that is.
func TestAutomoveHurry(t *testing.T) {
	th := moverInit(t, 12, func() { settings.slab.automoveWindow.Store(100) })
	before := threads
	threads = []*thread{th}
	defer func() { threads = before }()
	idle, used, hungry := slabsClsid(20100), slabsClsid(5100), slabsClsid(10100)
	store := func(id, size, n int) {
		for range n {
			set(th, nreadSet, fmt.Sprint("key", rand.Uint64()), pattern(size, 0), 0)
		}
		th.stats.total.slab[id][slabSetCmds] += uint64(n)
	}
	store(idle, 20000, 200)
	store(used, 5000, 600)
	a := slabAutomoveInit()
	moved, rounds := 0, 0
	for ; pages(idle) > 1 && rounds < 50; rounds++ {
		store(hungry, 10000, 400)
		store(used, 5000, 10)
		currentTime.Add(1)
		src, dst := slabAutomoveRun(a)
		if src == -1 {
			continue
		}
		if src != idle || dst != hungry || rounds < automoveBrisk-1 {
			t.Fatalf("round %d: from %d to %d", rounds, src, dst)
		}
		reassign(t, src, dst)
		if !moverStep(10) {
			t.Fatal("the page is busy")
		}
		moved++
	}
	if moved < 3 || rounds > 20 {
		t.Errorf("%d pages in %d rounds", moved, rounds)
	}
	for range 10 {
		store(hungry, 10000, 400)
		store(used, 5000, 10)
		currentTime.Add(1)
		if src, dst := slabAutomoveRun(a); src != -1 {
			t.Errorf("from %d to %d", src, dst)
		}
	}
	checkStore(t)
}

// A class that evicts gives no pages, even if it is hardly used itself.
func TestAutomoveHurryIdle(t *testing.T) {
	storeInit(t, 1, nil)
	a := new(slabAutomove)
	for _, n := range []int{1, 2, 3} {
		a.samAfter[n] = slabStatsAutomove{chunksPerPage: 1000, totalPages: 3}
	}
	a.iamAfter[1].age = 3
	src, dst := -1, -1
	for range automoveBrisk + 2*3 {
		a.iamAfter[1].evicted++
		currentTime.Add(1)
		if src, dst = slabAutomoveHurry(a); src == dst && src != -1 {
			t.Fatalf("from %d to %d", src, dst)
		}
	}
	if src != 2 || dst != 1 {
		t.Errorf("from %d to %d", src, dst)
	}
}

// TestMover has several goroutines use all classes while pages move between them,
// the limit goes up and down, the maintainer juggles and the hash table grows. In
// one case memory never fills up, so no item may get lost.
func TestMover(t *testing.T) {
	for _, tt := range []struct {
		name  string
		roomy bool
		moves uint64
		conf  func()
	}{
		{"roomy", true, 20, nil},
		{"tight", false, 25, nil},
		{"flat", false, 15, func() { settings.lru.segmented.Store(false); settings.slab.automove.Store(2) }},
		{"small chunks", false, 15, func() { settings.slab.chunkSizeMax = 4 << 10 }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			megs := 12
			if tt.roomy {
				megs = 180
			}
			moverInit(t, megs, func() {
				settings.hashpowerInit = 11
				settings.slab.factor = 2 // 9 classes
				settings.itemSizeMax = 128 << 10
				settings.slab.chunkSizeMax = 16 << 10
				if tt.conf != nil {
					tt.conf()
				}
			})
			moverHammer(t, tt.roomy, tt.moves)
			checkStore(t)
		})
	}
}

func moverHammer(t *testing.T, roomy bool, moves uint64) {
	// pause replaces pauseThreads, since these goroutines are not workers.
	var pause sync.RWMutex
	var wg sync.WaitGroup
	var stop atomic.Bool
	enough := make(chan struct{})
	movers := make([]*moverWorker, 4)
	startLruMaintainerThread()
	startSlabMaintenanceThread()
	for w := range movers {
		m := &moverWorker{
			name:  fmt.Sprint("own", w, "-"),
			th:    testThread(),
			r:     rand.New(rand.NewPCG(uint64(w), 9)),
			roomy: roomy,
			model: make(map[int]string),
		}
		movers[w] = m
		wg.Add(1)
		go func() {
			defer wg.Done()
			signal := w == 0
			for i := 0; !stop.Load(); i++ {
				pause.RLock()
				if err := moverOne(m, i); err != nil {
					t.Error(err)
					stop.Store(true)
				}
				pause.RUnlock()
				n := stats.slabsMoved.Load()
				rescued := stats.slabReassignRescues.Load() > 0 && stats.slabReassignChunkRescues.Load() > 0
				if signal && (n >= moves && rescued || n >= 100*moves || stop.Load()) {
					close(enough)
					signal = false
				}
			}
			moverRelease(m, 0)
		}()
	}
	for hashpower < 16 {
		pause.Lock()
		slabMaintenancePause()
		lruMaintainerPause()
		assocExpand(assocNewTable())
		lruMaintainerResume()
		slabMaintenanceResume()
		pause.Unlock()
		for expanding {
			assocMoveBucket()
		}
	}
	<-enough
	stopSlabMaintenanceThread() // while the others are still at work
	stop.Store(true)
	wg.Wait()
	stopLruMaintainerThread()

	for _, m := range movers {
		for k := range m.model {
			if err := moverGet(m, k); err != nil {
				t.Error(err)
			}
		}
	}
	if roomy && evictions() != 0 {
		t.Errorf("%d evictions", evictions())
	}
	if stats.slabReassignRescues.Load() == 0 || stats.slabReassignChunkRescues.Load() == 0 {
		t.Errorf("no rescues: %+v", &stats)
	}
	t.Logf("%+v, %d evictions", &stats, evictions())
}

// A moverWorker has keys that only it writes, so it knows their values.
type moverWorker struct {
	name  string
	th    *thread
	r     *rand.Rand
	roomy bool           // nothing is ever evicted
	model map[int]string // values of its keys
	held  []moverRef     // replies in flight
}

type moverRef struct {
	it   *item
	data [][]byte
	want string
}

func (m *moverWorker) key(k int) string { return m.name + fmt.Sprint(k) }

// moverOne runs one command, or gives the mover something to do.
func moverOne(m *moverWorker, i int) error {
	r := m.r
	switch op := r.IntN(100); {
	case op < 6:
		currentTime.Add(uint32(r.IntN(2)))
		if m.roomy {
			slabsReassign(r.IntN(largestClsid+2)-1, r.IntN(largestClsid+1), 0)
			return nil
		}
		slabsReassign(r.IntN(largestClsid+2)-1, r.IntN(largestClsid+1), slabsReassignAllowEvictions)
		if r.IntN(4) == 0 {
			slabsAdjustMemLimit((9 + r.IntN(6)) << 20)
		}
	case op < 40:
		var counted [10]uint64
		return hammerOne(m.th, r, i, 3000, 20, counted[:])
	case op < 45:
		moverRelease(m, 4)
		return moverHold(m, r.IntN(400))
	default:
		return moverOwn(m, r.IntN(400))
	}
	return nil
}

// moverValues are values, to be cut to the length needed.
var moverValues = sync.OnceValue(func() (v [26]string) {
	for i := range v {
		v[i] = pattern(60<<10, i)
	}
	return v
})

// moverOwn does something to one of m's own keys. Even keys hold numbers.
func moverOwn(m *moverWorker, k int) error {
	r, key := m.r, m.key(k)
	old, there := m.model[k]
	value := fmt.Sprint(r.IntN(1000))
	if k%2 == 1 {
		n := r.IntN(3000)
		if r.IntN(10) == 0 {
			n = r.IntN(60 << 10)
		}
		value = moverValues()[r.IntN(26)][:n]
	}
	if err := moverGet(m, k); err != nil {
		return err
	}
	switch op := r.IntN(10); {
	case op < 5 || !there:
		if set(m.th, nreadSet, key, value, 0) == stored {
			m.model[k] = value
		}
	case op < 7:
		it, hv := itemGetLocked([]byte(key), m.th, dontUpdate)
		if it != nil {
			doItemUnlink(it, hv)
			doItemRemove(it)
		}
		itemUnlock(hv)
		delete(m.model, k)
	case k%2 == 0:
		var buf [incrMaxStorageLen]byte
		n, ret := addDelta(m.th, []byte(key), true, uint64(r.IntN(1000)), buf[:], nil)
		if ret == deltaOk {
			m.model[k] = string(buf[:n])
		} else if m.roomy {
			return fmt.Errorf("incr %s: %v", key, ret)
		}
	case len(old)+len(value) < 100<<10:
		ret := set(m.th, nreadAppend, key, value, 0)
		if ret == stored {
			m.model[k] = old + value
		} else if m.roomy {
			return fmt.Errorf("append %s: %v", key, ret)
		}
	}
	return moverGet(m, k)
}

// moverGet compares the cache's value for one of m's own keys with the model.
func moverGet(m *moverWorker, k int) error {
	v, ok := get(m.th, m.key(k))
	want, there := m.model[k]
	switch {
	case ok && there && v == want:
	case !ok && !there:
	case !ok && !m.roomy:
		delete(m.model, k) // it was evicted
	default:
		return fmt.Errorf("%s is %v, %d bytes %.40q; want %v, %d bytes %.40q", m.key(k), ok, len(v), v, there, len(want), want)
	}
	return nil
}

// moverHold takes a reference to a value, as resp.go does to send it.
func moverHold(m *moverWorker, k int) error {
	it, hv := itemGetLocked([]byte(m.key(k)), m.th, doUpdate)
	defer itemUnlock(hv)
	if it == nil {
		return nil
	}
	ref := moverRef{it: it, want: m.model[k] + "\r\n"}
	if it.itFlags&itemChunked == 0 {
		ref.data = [][]byte{it.data()}
	} else {
		for ch := it.schunk(); ch != nil; ch = ch.next.chunk() {
			ref.data = append(ref.data, ch.data()[:ch.used])
		}
	}
	m.held = append(m.held, ref)
	return nil
}

// moverRelease releases all but the n latest values. They must be unchanged.
func moverRelease(m *moverWorker, n int) {
	for len(m.held) > n {
		ref := m.held[0]
		m.held = m.held[1:]
		if v := string(bytes.Join(ref.data, nil)); v != ref.want {
			panic(fmt.Sprintf("referenced value has become %.40q; want %.40q", v, ref.want))
		}
		itemRemove(ref.it)
	}
}

// Tests of the store: the invariants of its structures at rest, and access by many
// goroutines.

package main

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// checkAssoc, checkLru and checkSlabs walk everything and return the first broken
// invariant. Nothing else may use the store meanwhile.

// checkAssoc returns the number of items in the hash table.
func checkAssoc() (int, error) {
	items := 0
	chain := func(table []ref, b int) error {
		seen := make(map[string]bool)
		for it := table[b].item(); it != nil; it = it.hNext.item() {
			key := string(it.key())
			hv := hash(it.key())
			switch {
			case it.itFlags&itemLinked == 0:
				return fmt.Errorf("%q in the hash table is not linked", key)
			case int(hv)&(len(table)-1) != b:
				return fmt.Errorf("%q is in bucket %d, not %d", key, b, int(hv)&(len(table)-1))
			case uint32(it.lock) != hv&lockMask:
				return fmt.Errorf("%q has lock %#x, not %#x", key, it.lock, hv&lockMask)
			case seen[key]:
				return fmt.Errorf("%q is twice in the hash table", key)
			}
			seen[key] = true
			items++
		}
		return nil
	}
	if len(primaryHashtable) != hashsize(hashpower) {
		return 0, fmt.Errorf("%d buckets with hashpower %d", len(primaryHashtable), hashpower)
	}
	done := int(expandBucket.Load())
	if expanding != (oldHashtable != nil) || !expanding && done != len(primaryHashtable)/2 {
		return 0, fmt.Errorf("expanding %v with an old table of %d and expandBucket %d", expanding, len(oldHashtable), done)
	}
	for b := range oldHashtable {
		if b < done && oldHashtable[b] != 0 {
			return 0, fmt.Errorf("old bucket %d is moved and not empty", b)
		}
		if err := chain(oldHashtable, b); err != nil {
			return 0, err
		}
	}
	for b := range primaryHashtable {
		if expanding && b&(len(oldHashtable)-1) >= done && primaryHashtable[b] != 0 {
			return 0, fmt.Errorf("bucket %d is not moved and not empty", b)
		}
		if err := chain(primaryHashtable, b); err != nil {
			return 0, err
		}
	}
	return items, nil
}

// checkLru returns the items of all LRUs.
func checkLru() (map[*item]bool, error) {
	items := make(map[*item]bool)
	for id := range lrus {
		l := &lrus[id]
		size, sizeBytes := 0, uint64(0)
		var prev ref
		for r := l.head; r != 0; r = r.item().next {
			it := r.item()
			if it.prev != prev {
				return nil, fmt.Errorf("LRU %d: prev of %#x is %#x, not %#x", id, r, it.prev, prev)
			}
			prev = r
			if isCrawler(it) {
				continue
			}
			switch {
			case items[it]:
				return nil, fmt.Errorf("LRU %d: %q is there twice", id, it.key())
			case int(it.slabsClsid) != id:
				return nil, fmt.Errorf("LRU %d: %q is of LRU %d", id, it.key(), it.slabsClsid)
			case it.itFlags&itemLinked == 0 || it.time == 0:
				return nil, fmt.Errorf("LRU %d: %q is not linked", id, it.key())
			case it.refcount != 1:
				return nil, fmt.Errorf("LRU %d: %q has %d references", id, it.key(), it.refcount)
			}
			found := assocFind(it.key(), hash(it.key()))
			if found != it {
				return nil, fmt.Errorf("LRU %d: the hash table has %#x for %q, not %#x", id, found.ref(), it.key(), r)
			}
			if err := checkChunks(it); err != nil {
				return nil, fmt.Errorf("LRU %d: %q: %v", id, it.key(), err)
			}
			items[it] = true
			size++
			sizeBytes += uint64(it.memTotal())
		}
		if l.tail != prev {
			return nil, fmt.Errorf("LRU %d: tail is %#x, not %#x", id, l.tail, prev)
		}
		if l.size != size || l.sizeBytes != sizeBytes {
			return nil, fmt.Errorf("LRU %d: %d items, %d bytes; counted %d, %d", id, l.size, l.sizeBytes, size, sizeBytes)
		}
	}
	return items, nil
}

// checkChunks checks an item's chunks, if it has any.
func checkChunks(it *item) error {
	if it.itFlags&itemChunked == 0 {
		return nil
	}
	n := 0
	var prev ref
	for ch := it.schunk(); ch != nil; ch = ch.next.chunk() {
		switch {
		case ch.head != it.ref():
			return fmt.Errorf("chunk of item %#x", ch.head)
		case ch.prev != prev:
			return fmt.Errorf("prev of chunk is %#x, not %#x", ch.prev, prev)
		case ch.used > ch.size:
			return fmt.Errorf("chunk of %d bytes has %d", ch.size, ch.used)
		case prev != 0 && ch.lock != lockChunk:
			return fmt.Errorf("chunk has lock %#x", ch.lock)
		case prev != 0 && int(ch.size)+itemChunkSize > slabclass[ch.slabsClsid].size:
			return fmt.Errorf("%d bytes in a chunk of class %d", ch.size, ch.slabsClsid)
		}
		n += int(ch.used)
		prev = ch.ref()
	}
	if n != int(it.nbytes) {
		return fmt.Errorf("%d bytes in chunks, not %d", n, it.nbytes)
	}
	return nil
}

// checkSlabs expects items to be all the allocated items.
func checkSlabs(items map[*item]bool) error {
	used := make(map[int]bool) // pages, by offset
	page := func(p int) error {
		if used[p] || p < slabsStart || p+settings.slab.pageSize > memCurrent || (p-slabsStart)%settings.slab.pageSize != 0 {
			return fmt.Errorf("page %#x occurs twice or is no page", p)
		}
		used[p] = true
		return nil
	}
	for id := range slabclass {
		p := &slabclass[id]
		free := make(map[*item]bool)
		var prev ref
		for r := p.slots; r != 0; r = r.item().next {
			it := r.item()
			if free[it] || it.lock != lockFree || int(it.slabsClsid) != id || prev != 0 && it.prev != prev {
				return fmt.Errorf("class %d: free chunk %#x: lock %#x class %d prev %#x", id, r, it.lock, it.slabsClsid, it.prev)
			}
			free[it] = true
			prev = r
		}
		if len(free) != p.slCurr {
			return fmt.Errorf("class %d: %d free chunks; counted %d", id, p.slCurr, len(free))
		}
		for _, off := range p.slabList {
			if err := page(off); err != nil {
				return fmt.Errorf("class %d: %v", id, err)
			}
			if id == slabGlobalPagePool {
				continue
			}
			for x := range p.perslab {
				it := memItem(off + x*p.size)
				if free[it] {
					delete(free, it)
					continue
				}
				switch {
				case it.lock == lockFree:
					return fmt.Errorf("class %d: chunk %#x is free, but not on the free list", id, it.ref())
				case it.lock == lockChunk:
					if head := it.chunk().head; !items[head.item()] || head.item().itFlags&itemChunked == 0 {
						return fmt.Errorf("class %d: chunk %#x belongs to %#x, which is no chunked item", id, it.ref(), head)
					}
				case !items[it]:
					return fmt.Errorf("class %d: item %#x is in no LRU and has %d references", id, it.ref(), it.refcount)
				}
			}
		}
		if len(free) != 0 {
			return fmt.Errorf("class %d: %d free chunks are in no page", id, len(free))
		}
	}
	if n := len(used) * settings.slab.pageSize; n != memMalloced {
		return fmt.Errorf("memMalloced %d; counted %d", memMalloced, n)
	}
	for _, off := range memReleased {
		if err := page(off); err != nil {
			return fmt.Errorf("released: %v", err)
		}
	}
	if n := slabsStart + len(used)*settings.slab.pageSize; n != memCurrent || memCurrent > memOpen {
		return fmt.Errorf("memCurrent %d, memOpen %d; counted %d", memCurrent, memOpen, n)
	}
	return nil
}

// checkStore checks everything. No item may still be referenced.
func checkStore(t testing.TB) {
	t.Helper()
	n, err := checkAssoc()
	if err != nil {
		t.Fatal(err)
	}
	items, err := checkLru()
	if err != nil {
		t.Fatal(err)
	}
	if len(items) != n {
		t.Fatalf("%d items in the hash table, %d in the LRUs", n, len(items))
	}
	if err := checkSlabs(items); err != nil {
		t.Fatal(err)
	}
}

// locksFree reports whether no item lock is held.
func locksFree() bool {
	for hv := range itemLocks {
		lock := itemTrylock(uint32(hv))
		if lock == nil {
			return false
		}
		itemTrylockUnlock(lock)
	}
	return true
}

// storeInit makes an empty store of that many megabytes, after conf has changed
// the settings.
func storeInit(t testing.TB, megs int, conf func()) {
	t.Helper()
	settingsInit()
	settings.lru.tempLru.Store(false)
	settings.oldestLive.Store(0)
	settings.maxbytes.Store(uint64(megs) << 20)
	if conf != nil {
		conf()
	}
	storeAgain()
	processStarted = 1e9
	currentTime.Store(1000)
}

// storeAgain makes a store with the current settings, restored from the memory
// file if there is one.
func storeAgain() {
	lrus = new([powerLargest]lru)
	lruMaintainer.evicted = [maxNumberOfSlabClasses]uint64{}
	lruMemory.table.Store(nil)
	slabRebal.rebal, slabRebal.newIt = slabRebalance{}, nil
	memoryInit()
	itemLocksInit(2)
}

func testThread() *thread { return new(thread) }

// itemFill fills in an item's value, chunked or not, from the start.
func itemFill(it *item, value ...[]byte) bool {
	b := slices.Concat(value...)
	if it.itFlags&itemChunked == 0 {
		copy(it.data(), b)
		return true
	}
	ch := it.schunk()
	return storeItemCopyBytes(&ch, b, 0)
}

// set stores key with comm, and returns noMemory if there is no memory.
func set(th *thread, comm int, key, value string, exptime relTime) storeItemType {
	it := itemAlloc([]byte(key), uint32(len(value)%2), exptime, len(value)+2)
	if it == nil {
		return noMemory
	}
	ret := noMemory
	if itemFill(it, []byte(value), []byte("\r\n")) {
		ret = storeItem(it, comm, th, nil, nil, getCasId(), false)
	}
	itemRemove(it)
	return ret
}

// setInPlace is set for an item that can be written in place. It returns false if
// the item cannot.
func setInPlace(th *thread, comm int, key, value string, exptime relTime) bool {
	it, hv := storeInPlace(th, comm, []byte(key), []byte(value), uint32(len(value)%2), exptime, 0, 0)
	if it != nil {
		itemUnlock(hv)
	}
	return it != nil
}

// itemValue returns the whole value of an item. The caller holds its lock.
func itemValue(it *item) []byte {
	if it.itFlags&itemChunked == 0 {
		return it.data()
	}
	var b []byte
	for ch := it.schunk(); ch != nil; ch = ch.next.chunk() {
		b = append(b, ch.data()[:ch.used]...)
	}
	return b
}

// get returns the value of key.
func get(th *thread, key string) (value string, ok bool) {
	it, hv := itemGetLocked([]byte(key), th, doUpdate)
	if it != nil {
		value, ok = string(bytes.TrimSuffix(itemValue(it), []byte("\r\n"))), true
		if len(value)+2 != int(it.nbytes) || it.clientFlags()|1 != 1 {
			value = "broken: " + value
		}
		doItemRemove(it)
	}
	itemUnlock(hv)
	return value, ok
}

func unlink(key string) bool {
	it := itemGet([]byte(key), nil, dontUpdate)
	if it == nil {
		return false
	}
	itemForget([]byte(key), nil)
	itemRemove(it)
	return true
}

func touch(th *thread, key string, exptime relTime) {
	it, hv := limitedGet([]byte(key), th, exptime, true)
	if it != nil {
		doItemRemove(it)
	}
	itemUnlock(hv)
}

func wantValue(t testing.TB, th *thread, key, want string) {
	t.Helper()
	if v, ok := get(th, key); !ok || v != want {
		t.Fatalf("%s is %.40q (%d bytes), %v; want %.40q (%d bytes)", key, v, len(v), ok, want, len(want))
	}
}

// The chunk sizes of memcached 1.6.45 without options.
var chunkSizes = []int{96, 120, 152, 192, 240, 304, 384, 480, 600, 752, 944,
	1184, 1480, 1856, 2320, 2904, 3632, 4544, 5680, 7104, 8880, 11104, 13880,
	17352, 21696, 27120, 33904, 42384, 52984, 66232, 82792, 103496, 129376,
	161720, 202152, 252696, 315872, 394840, 524288}

func TestSlabsClsid(t *testing.T) {
	storeInit(t, 64, nil)
	if largestClsid != len(chunkSizes) {
		t.Fatalf("%d classes, want %d", largestClsid, len(chunkSizes))
	}
	for i, size := range chunkSizes {
		if got := slabclass[i+1].size; got != size-16 {
			t.Errorf("class %d: %d bytes, want %d", i+1, got, size-16)
		}
	}
	id := 1
	for size := 1; size <= settings.itemSizeMax+100; size++ { // C's size
		if id < len(chunkSizes) && size > chunkSizes[id-1] {
			id++
		}
		want := id
		if size > settings.itemSizeMax {
			want = 0
		}
		if got := slabsClsid(size - 16); got != want && size > 16 {
			t.Fatalf("size %d: class %d, want %d", size, got, want)
		}
	}

	slabsInit(64<<20, 1.25, false, []int{100, 200, 1001}, false)
	if got := []int{slabclass[1].size, slabclass[2].size, slabclass[3].size, slabclass[4].size}; !slices.Equal(got, []int{88, 184, 992, 524272}) {
		t.Errorf("with slab_sizes: %v", got)
	}
	slabsInit(64<<20, 1.25, true, nil, false)
	if memMalloced != len(chunkSizes)<<20 || slabsAdjustMemLimit(1<<30) {
		t.Errorf("with -L: %d bytes, or the limit can be changed", memMalloced)
	}
}

// TestStoreItem runs each command on an existing item, on a missing one, and on
// one with another unique.
func TestStoreItem(t *testing.T) {
	storeInit(t, 64, nil)
	th := testThread()
	for _, tt := range []struct {
		comm             int
		there, ok, stale storeItemType
		value            string
		missing          storeItemType
	}{
		{nreadAdd, notStored, notStored, notStored, "old", stored},
		{nreadSet, stored, stored, stored, "new", stored},
		{nreadReplace, stored, stored, stored, "new", notStored},
		{nreadAppend, stored, stored, exists, "oldnew", notStored},
		{nreadPrepend, stored, stored, exists, "newold", notStored},
		{nreadCas, exists, stored, exists, "new", notFound},
		{nreadAppendviv, stored, stored, exists, "oldnew", stored},
		{nreadPrependviv, stored, stored, exists, "newold", stored},
	} {
		try := func(cas uint64, want storeItemType, value string) {
			t.Helper()
			it := itemAlloc([]byte("k"), 0, 0, 5)
			itemFill(it, []byte("new\r\n"))
			it.setCas(cas)
			var newCas uint64
			if got := storeItem(it, tt.comm, th, nil, &newCas, 77, false); got != want {
				t.Errorf("command %d: %v, want %v", tt.comm, got, want)
			}
			if (newCas == 77) != (want == stored) {
				t.Errorf("command %d: unique %d", tt.comm, newCas)
			}
			itemRemove(it)
			if value != "" {
				wantValue(t, th, "k", value)
			}
		}
		old := func() uint64 {
			unlink("k")
			set(th, nreadSet, "k", "old", 0)
			return casId.Load() + 1
		}
		valueIf := func(res storeItemType) string {
			if res == stored {
				return tt.value
			}
			return "old"
		}
		old()
		try(0, tt.there, valueIf(tt.there))
		try(old(), tt.ok, valueIf(tt.ok))
		try(old()+1000, tt.stale, valueIf(tt.stale))
		unlink("k")
		try(0, tt.missing, "")
	}
	checkStore(t)
}

// A value written in place makes the item that a new item would be.
func TestStoreInPlace(t *testing.T) {
	storeInit(t, 64, func() { settings.slab.chunkSizeMax = 16 << 10; statsSizesHist = nil; itemStatsSizesInit() })
	t.Cleanup(func() { statsSizesHist = nil })
	th, r := testThread(), rand.New(rand.NewPCG(1, 2))
	size := func() int { return r.IntN(40) + r.IntN(2)*r.IntN(200) + r.IntN(20)/19*r.IntN(20<<10) }
	set(th, nreadSet, "in place", "1", 0)
	set(th, nreadSet, "replaced", "1", 0)
	inPlace, hits := 0, 0
	for i := range 20000 {
		if i%100 == 0 {
			currentTime.Add(1)
		}
		comm := []int{nreadSet, nreadReplace, nreadAppend, nreadPrepend, nreadAppendviv, nreadPrependviv}[r.IntN(6)]
		if r.IntN(10) == 0 {
			comm = nreadSet // so that no value grows too large
		}
		value, exptime := pattern(size(), i), relTime(r.IntN(2)*5000)
		was := itemGet([]byte("in place"), th, dontUpdate)
		itemRemove(was)
		if setInPlace(th, comm, "in place", value, exptime) {
			inPlace++
		} else {
			set(th, comm, "in place", value, exptime)
		}
		set(th, comm, "replaced", value, exptime)
		a, b := itemGet([]byte("in place"), th, dontUpdate), itemGet([]byte("replaced"), th, dontUpdate)
		mask := uint16(itemFlagsEnd-1) &^ itemActive
		if !bytes.Equal(itemValue(a), itemValue(b)) || a.itFlags&mask != b.itFlags&mask || a.clsid() != b.clsid() ||
			a.clientFlags() != b.clientFlags() || a.exptime != b.exptime || a.time != b.time || a.cas()+1 != b.cas() {
			t.Fatalf("command %d of %d bytes: %+v, %.50q; want %+v, %.50q", comm, len(value), *a, itemValue(a), *b, itemValue(b))
		}
		// A reader keeps the old value.
		old := string(itemValue(a))
		if setInPlace(th, nreadSet, "in place", value, exptime) || string(itemValue(a)) != old {
			t.Fatalf("%d: %.50q, was %.50q", i, itemValue(a), old)
		}
		itemRemove(a)
		itemRemove(b)
		for _, it := range []*item{a, b} {
			it.itFlags |= itemTokenSent | itemStale
		}
		if r.IntN(3) == 0 {
			get(th, "in place")
			get(th, "replaced")
			hits++
		}
	}
	if inPlace < 4000 || hits < 1000 {
		t.Errorf("%d in place, %d hits", inPlace, hits)
	}
	if n := th.stats.pending.n[statStoredInPlace]; int(n) != inPlace {
		t.Errorf("%d counted, want %d", n, inPlace)
	}
	sizes := 0
	for i := range statsSizesHist {
		sizes += int(statsSizesHist[i].Load())
	}
	if sizes != 2 {
		t.Errorf("%d items by size, want 2", sizes)
	}
	checkStore(t)

	// An item that is flushed, expired or missing is not written to.
	for _, f := range []func(){func() { flushAll(0) }, func() { currentTime.Add(6000) }, func() { unlink("k") }} {
		set(th, nreadSet, "k", "v", realtime(5000))
		if !setInPlace(th, nreadSet, "k", "w", realtime(5000)) {
			t.Error("not in place")
		}
		f()
		if setInPlace(th, nreadSet, "k", "x", 0) {
			t.Error("in place")
		}
	}
	for _, conf := range []func(){
		func() { settings.lru.tempLru.Store(true) }, func() { settings.lru.memory = false },
		func() { settings.lru.segmented.Store(false) }, func() { settings.evictToFree = false },
	} {
		storeInit(t, 64, conf)
		set(th, nreadSet, "k", "v", 0)
		if setInPlace(th, nreadSet, "k", "w", 0) {
			t.Error("in place, and not at the head of its LRU")
		}
	}
}

func TestCasStale(t *testing.T) {
	storeInit(t, 64, nil)
	th := testThread()
	set(th, nreadSet, "k", "old", 5000)
	it := itemAlloc([]byte("k"), 0, 0, 5)
	itemFill(it, []byte("new\r\n"))
	it.setCas(1)
	if ret := storeItem(it, nreadCas, th, nil, nil, getCasId(), true); ret != stored || it.itFlags&itemStale == 0 || it.exptime != 5000 {
		t.Errorf("%v, flags %#x, exptime %d", ret, it.itFlags, it.exptime)
	}
	itemRemove(it)
	checkStore(t)
}

func TestDelta(t *testing.T) {
	storeInit(t, 64, nil)
	th := testThread()
	var buf [incrMaxStorageLen]byte
	for _, tt := range []struct {
		value string
		incr  bool
		delta uint64
		ret   deltaResultType
		want  string
	}{
		{"5", true, 3, deltaOk, "8"},
		{"9", true, 3, deltaOk, "12"},
		{"10", false, 3, deltaOk, "7 "},
		{"10", false, 11, deltaOk, "0 "},
		{"18446744073709551615", true, 2, deltaOk, "1                   "},
		{"18446744073709551616", true, 2, nonNumeric, "18446744073709551616"},
		{" 12 apes", true, 1, deltaOk, "13      "},
		{"12apes", true, 1, nonNumeric, "12apes"},
		{"12\x00apes", true, 1, deltaOk, "13     "},
		{"", true, 1, nonNumeric, ""},
		{"+5", true, 1, deltaOk, "6 "},
		{"-5", true, 1, nonNumeric, "-5"},
		{"-18446744073709551615", true, 1, nonNumeric, "-18446744073709551615"},
		{"-", true, 1, nonNumeric, "-"},
		{string(bytes.Repeat([]byte("0"), 600<<10)), true, 1, nonNumeric, string(bytes.Repeat([]byte("0"), 600<<10))},
	} {
		set(th, nreadSet, "n", tt.value, 0)
		if _, ret := addDelta(th, []byte("n"), tt.incr, tt.delta, buf[:], nil); ret != tt.ret {
			t.Errorf("%.40q by %d: %v, want %v", tt.value, tt.delta, ret, tt.ret)
		}
		wantValue(t, th, "n", tt.want)
	}
	set(th, nreadSet, "n", "99", 0)
	cas := casId.Load() + 1
	it := itemGet([]byte("n"), th, dontUpdate) // a reader keeps the old value
	if n, ret := addDelta(th, []byte("n"), false, 90, buf[:], &cas); ret != deltaOk || string(buf[:n]) != "9" || cas != casId.Load()+1 {
		t.Errorf("%v %q unique %d", ret, buf[:n], cas)
	}
	if got := string(it.data()); got != "99\r\n" {
		t.Errorf("a referenced value has changed to %q", got)
	}
	itemRemove(it)
	wantValue(t, th, "n", "9")
	cas = 1
	if _, ret := addDelta(th, []byte("n"), false, 90, buf[:], &cas); ret != deltaItemCasMismatch {
		t.Errorf("wrong unique: %v", ret)
	}
	if _, ret := addDelta(th, []byte("none"), false, 90, buf[:], nil); ret != deltaItemNotFound {
		t.Errorf("no item: %v", ret)
	}
	checkStore(t)
}

func TestExpire(t *testing.T) {
	storeInit(t, 64, nil)
	th := testThread()
	set(th, nreadSet, "a", "1", realtime(10))
	set(th, nreadSet, "b", "2", realtime(processStarted+1020))
	set(th, nreadSet, "c", "3", realtime(processStarted-5))
	set(th, nreadSet, "d", "4", 0)
	if _, ok := get(th, "c"); ok {
		t.Error("c has not expired")
	}
	currentTime.Store(1009)
	wantValue(t, th, "a", "1")
	currentTime.Store(1010)
	if _, ok := get(th, "a"); ok {
		t.Error("a has not expired")
	}
	wantValue(t, th, "b", "2")
	touch(th, "b", realtime(100))
	currentTime.Store(1050)
	wantValue(t, th, "b", "2")

	// A flush removes older items when they are found, and those of this second at
	// once; but none that are set after it.
	set(th, nreadSet, "e", "5", 0)
	flushAll(0)
	if _, items, _ := itemStatsCurr(); items != 2 {
		t.Errorf("%d items, want 2", items)
	}
	set(th, nreadSet, "f", "6", 0)
	for _, key := range []string{"b", "d", "e"} {
		if _, ok := get(th, key); ok {
			t.Errorf("%s has outlived the flush", key)
		}
	}
	wantValue(t, th, "f", "6")
	if n := th.stats.pending.n; n[statGetExpired] != 2 || n[statGetFlushed] != 2 {
		t.Errorf("%d expired, %d flushed; want 2, 2", n[statGetExpired], n[statGetFlushed])
	}
	checkStore(t)
}

// An item is never used later than its seconds after it was stored, whenever in
// a second that was.
func TestExpireOnTime(t *testing.T) {
	storeInit(t, 64, nil)
	th := testThread()
	clockInit(clockBegin)
	pass := func(d time.Duration) {
		clockBase = clockBase.Add(-d)
		clockHandler()
	}
	for range 100 {
		n := 1 + rand.IntN(3)
		set(th, nreadSet, "k", "v", realtime(int64(n)))
		pass(time.Duration(n) * time.Second)
		if v, ok := get(th, "k"); ok {
			t.Fatalf("%s after %d seconds", v, n)
		}
		pass(time.Duration(rand.IntN(1e9)))
	}
	for _, tt := range []struct {
		exptime int64
		lives   bool
	}{
		{0, true}, {-1, false}, {2, true}, {60 * 60 * 24 * 30, true}, {60*60*24*30 + 1, false},
		{processStarted + int64(currentTime.Load()), false}, {processStarted + int64(currentTime.Load()) + 2, true},
		{1 << 31, true}, {1<<32 - 60*60*24*30 - 1, true}, {1<<32 - 60*60*24*30, false}, {1<<32 - 1, false}, {1 << 32, true},
		{math.MaxInt64, true}, {math.MinInt64, false},
	} {
		set(th, nreadSet, "k", "v", realtime(tt.exptime))
		if _, ok := get(th, "k"); ok != tt.lives {
			t.Errorf("an item with time %d lives: %v", tt.exptime, ok)
		}
	}
}

// After a flush nothing is left of what was there, whatever is in progress: uses
// of an item, changes of its value, its move to another LRU or page, a tick of the
// clock. And nothing is flushed that is stored after it.
func TestFlushRace(t *testing.T) {
	for _, tt := range []struct {
		name           string
		segmented, cas bool
	}{{"segmented", true, true}, {"flat", false, true}, {"no cas", true, false}} {
		t.Run(tt.name, func(t *testing.T) {
			moverInit(t, 64, func() {
				settings.lru.segmented.Store(tt.segmented)
				settings.useCas = tt.cas
				settings.slab.chunkSizeMax = 16 << 10
			})
			th, ths := testThread(), []*thread{testThread(), testThread()}
			var keys []string
			for i := range 16 {
				keys = append(keys, fmt.Sprint("key", i))
			}
			big := pattern(20000, 0)
			for round := range 100 {
				for i, key := range keys {
					if i == 0 {
						set(th, nreadSet, key, big, 0)
					} else {
						set(th, nreadSet, key, "99", 0)
					}
				}
				var stop atomic.Bool
				var all sync.WaitGroup
				use := func(th *thread, f func(th *thread, r *rand.Rand)) {
					r := rand.New(rand.NewPCG(rand.Uint64(), 0))
					all.Add(1)
					go func() {
						defer all.Done()
						for !stop.Load() {
							f(th, r)
						}
					}()
				}
				for _, th := range ths {
					use(th, func(th *thread, r *rand.Rand) { flushRaceUse(th, r, keys[r.IntN(len(keys))]) })
				}
				use(nil, func(_ *thread, r *rand.Rand) {
					clockSet(currentTime.Load() + 1)
					lruMaintainerJuggle(slabsClsid(itemSize + 20))
					flushRaceMove(keys[r.IntN(len(keys))])
				})
				for range rand.IntN(20) {
					runtime.Gosched()
				}
				flushAll(0)
				set(th, nreadSet, "new", fmt.Sprint(round), 0)
				look := func() {
					for _, key := range keys {
						if v, ok := get(th, key); ok {
							t.Errorf("%s is %.20q after the flush", key, v)
						}
					}
					if v, _ := get(th, "new"); v != fmt.Sprint(round) {
						t.Errorf("what was stored after flush %d is %q", round, v)
					}
				}
				look()
				stop.Store(true)
				all.Wait()
				look()
				unlink("new")
				if t.Failed() {
					return
				}
			}
			checkStore(t)
		})
	}
}

// flushRaceUse uses or changes an item, but makes none.
func flushRaceUse(th *thread, r *rand.Rand, key string) {
	var buf [incrMaxStorageLen]byte
	switch r.IntN(5) {
	case 0:
		get(th, key)
	case 1:
		addDelta(th, []byte(key), true, uint64(r.IntN(1000)), buf[:], nil)
	case 2:
		set(th, nreadAppend, key, "1", 0)
	case 3:
		set(th, nreadReplace, key, "7", 0)
	case 4:
		touch(th, key, realtime(1000))
	}
}

// flushRaceMove moves an item to other memory, as the page mover does.
func flushRaceMove(key string) {
	hv := hash([]byte(key))
	itemLock(hv)
	defer itemUnlock(hv)
	it := assocFind([]byte(key), hv)
	if it == nil || it.itFlags&itemChunked != 0 || itemIsFlushed(it) {
		return
	}
	newIt := doItemAlloc(it.key(), hv, it.clientFlags(), it.exptime, int(it.nbytes))
	copy(newIt.data(), it.data())
	doItemReplace(it, newIt, hv, it.cas())
	doItemRemove(newIt)
}

// A flush does not wait for an item that is locked, and no item is too old, too
// large, or flushed too late.
func TestFlush(t *testing.T) {
	storeInit(t, 64, func() { settings.slab.chunkSizeMax = 16 << 10 })
	th := testThread()
	gone := func(keys ...string) {
		t.Helper()
		for _, key := range keys {
			if v, ok := get(th, key); ok {
				t.Errorf("%s is %.20q after the flush", key, v)
			}
		}
	}
	fill := func(value string) {
		set(th, nreadSet, "n", value, 0)
		set(th, nreadSet, "big", pattern(20000, 0), 0)
		clockSet(currentTime.Load() + 2)
		set(th, nreadSet, "other", "v", 0)
		clockSet(currentTime.Load() + 2)
	}
	var buf [incrMaxStorageLen]byte
	fill("1")
	addDelta(th, []byte("n"), true, 1, buf[:], nil)
	flushAll(0)
	gone("n", "big", "other")

	fill("1")
	hv := hash([]byte("n"))
	itemLock(hv)
	flushAll(0)
	itemUnlock(hv)
	gone("n", "big", "other")

	// Often in a second.
	for i := range 1000 {
		set(th, nreadSet, "n", fmt.Sprint(i), 0)
		wantValue(t, th, "n", fmt.Sprint(i))
		flushAll(0)
		gone("n")
	}
	if age := itemAge(&item{time: itemTime()}); age != 0 {
		t.Errorf("age %d", age)
	}

	// With a delay; a later one, or one that is due now, takes its place.
	fill("1")
	flushAll(2)
	clockSet(currentTime.Load() + 1)
	touch(th, "n", 0)
	addDelta(th, []byte("n"), true, 1, buf[:], nil)
	wantValue(t, th, "n", "2")
	flushAll(2)
	clockSet(currentTime.Load() + 1)
	wantValue(t, th, "n", "2")
	clockSet(currentTime.Load() + 5)
	gone("n", "big", "other")
	set(th, nreadSet, "n", "3", 0)
	flushAll(processStarted + int64(currentTime.Load()) + 2)
	flushAll(0)
	gone("n")
	set(th, nreadSet, "n", "4", 0)
	flushAll(4)
	wantValue(t, th, "n", "4")
	clockSet(currentTime.Load() + 3)
	wantValue(t, th, "n", "4")
	clockSet(currentTime.Load() + 1)
	gone("n")

	// A date that has passed is now.
	set(th, nreadSet, "n", "5", 0)
	flushAll(processStarted + int64(currentTime.Load()) - 10)
	gone("n")
	set(th, nreadSet, "n", "6", 0)
	wantValue(t, th, "n", "6")

	// After too many flushes nothing of the old comes back, either.
	flushes.Store(math.MaxUint32 / 4)
	for range 2 {
		set(th, nreadSet, "n", "7", 0)
		wantValue(t, th, "n", "7")
		flushAll(0)
		gone("n")
		clockSet(currentTime.Load() + 1)
	}
	checkStore(t)
}

func pattern(n, seed int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte('a' + (i*7+i/26+seed)%26)
	}
	return string(b)
}

// TestChunked stores items of all sizes around those where the class or the number
// of chunks changes, and appends and prepends to them.
func TestChunked(t *testing.T) {
	for _, max := range []int{1 << 10, 16 << 10, 512 << 10, 1 << 20} {
		t.Run(strconv.Itoa(max), func(t *testing.T) {
			storeInit(t, 64, func() { settings.slab.chunkSizeMax = max })
			th := testThread()
			borders := []int{settings.itemSizeMax - 16}
			for id := powerSmallest; id <= largestClsid; id++ {
				borders = append(borders, slabclass[id].size)
			}
			for n := 1; n <= 4 && (n+1)*max < settings.itemSizeMax; n++ {
				borders = append(borders, n*(slabChunkMax-itemChunkSize)+itemSize+12, n*(slabChunkMax-itemChunkSize)+itemSize+12+slabclass[3].size)
			}
			for _, border := range borders {
				for size := border - 24; size <= border+24; size += 1 + border>>14 {
					// 8 bytes of unique, "key", a NUL and \r\n; client flags if n is odd
					n := size - itemSize - 8 - 4 - 2
					if n <= 0 {
						continue
					}
					v := pattern(n, size)
					fits := n+n%2*4+8+4+2+48 <= settings.itemSizeMax
					if ret := set(th, nreadSet, "key", v, 0); (ret == stored) != fits {
						t.Fatalf("%d bytes: %v, fits %v", n, ret, fits)
					}
					if itemSizeOk(3, uint32(n%2), n+2) != fits {
						t.Fatalf("%d bytes: itemSizeOk is wrong", n)
					}
					if !fits {
						unlink("key")
						continue
					}
					wantValue(t, th, "key", v)
					// The item that it is prepended to has no flags, so less room is needed.
					set(th, nreadSet, "key", "", 0)
					set(th, nreadPrepend, "key", v, 0)
					wantValue(t, th, "key", v)
					for _, add := range []int{1, 100, n} {
						if len(v)+add+8+4+4+2+48 > settings.itemSizeMax {
							continue
						}
						a := pattern(add, 3)
						set(th, nreadAppend, "key", a, 0)
						set(th, nreadPrepend, "key", a, 0)
						if len(v)+2*add+8+4+4+2+48 > settings.itemSizeMax {
							wantValue(t, th, "key", v+a)
							break
						}
						v = a + v + a
						wantValue(t, th, "key", v)
					}
				}
				checkStore(t)
			}
		})
	}
}

// TestReserve tries arenas of all sizes, which determine a ref's unit.
func TestReserve(t *testing.T) {
	if !memPeek {
		t.Skip("the arena is on the heap")
	}
	for limit := 64 << 20; limit <= 64<<40; limit *= 2 {
		storeInit(t, 64, func() { settings.slab.chunkSizeMax = 1 << 10 })
		slabsInit(limit, 1.25, false, nil, false)
		th := testThread()
		for _, key := range []string{"key", pattern(keyMaxLength, 1)} {
			set(th, nreadSet, key, pattern(2001, 1), 0)
			wantValue(t, th, key, pattern(2001, 1))
		}
		if !isCrawler(crawlerItem(powerLargest - 1)) {
			t.Errorf("%d bytes: a crawler lies in a page", limit)
		}
		checkStore(t)
	}
}

// However many items there are, hash chains stay short: the table grows with
// them.
func TestLinear(t *testing.T) {
	storeInit(t, 64, func() { settings.hashpowerInit = 12 })
	th := testThread()
	startAssocMaintenanceThread()
	for n, end := range []int{10000, 100000, 300000} {
		for i := range end {
			if set(th, nreadSet, fmt.Sprintf("key%d-%d", n, i), "", 0) != stored {
				t.Fatal("no memory")
			}
		}
		eventually(t, "the table has grown", func() bool {
			_, items, _ := itemStatsCurr()
			assocStartExpand(items)
			maintenanceLock.Lock()
			defer maintenanceLock.Unlock()
			return !expanding && int(items) <= hashsize(hashpower)*3/2
		})
		longest := 0
		for _, r := range primaryHashtable {
			length := 0
			for ; r != 0; r = r.item().hNext {
				length++
			}
			longest = max(longest, length)
		}
		if longest > 20 {
			t.Errorf("%d items: a chain of %d", end, longest)
		}
	}
	stopAssocMaintenanceThread()
}

// TestEvict fills a tiny cache over and over, in both LRU modes.
func TestEvict(t *testing.T) {
	for _, segmented := range []bool{true, false} {
		t.Run(fmt.Sprint("segmented=", segmented), func(t *testing.T) {
			storeInit(t, 2, func() { settings.lru.segmented.Store(segmented); settings.slab.chunkSizeMax = 16 << 10 })
			th := testThread()
			r := rand.New(rand.NewPCG(1, 2))
			for i := range 20000 {
				key := fmt.Sprint("key", i)
				v := pattern(r.IntN(200), i)
				if i%50 == 0 {
					v = pattern(r.IntN(60<<10), i)
				}
				if ret := set(th, nreadSet, key, v, 0); ret != stored {
					t.Fatalf("%s of %d bytes: %v", key, len(v), ret)
				}
				wantValue(t, th, key, v)
				currentTime.Store(relTime(1000 + i/100))
			}
			var evicted uint64
			for i := range lrus {
				evicted += lrus[i].n[itemsEvicted]
			}
			_, currItems, totalItems := itemStatsCurr()
			if evicted == 0 || currItems+evicted != totalItems || totalItems != 20000 {
				t.Errorf("%d items of %d, %d evicted", currItems, totalItems, evicted)
			}
			checkStore(t)
		})
	}
}

// As long as an item of the class is not in use there is memory, whichever LRU
// that is in and however active it is; after that as much as there are classes.
func TestMemoryIsFound(t *testing.T) {
	for _, size := range []int{10000, 300000, 700000} {
		for _, lru := range []int{hotLru, warmLru, coldLru, tempLru} {
			t.Run(fmt.Sprint(size, " ", lru), func(t *testing.T) {
				storeInit(t, 1, func() { settings.lru.segmented.Store(lru == hotLru || lru == warmLru) })
				th := testThread()
				value := pattern(size, 0)
				var its []*item
				var gone string
				n := 0
				fill := func() {
					t.Helper()
					if ret := set(th, nreadSet, fmt.Sprint("key", n), value, 0); ret != stored {
						t.Fatalf("item %d: %v", n, ret)
					}
					n++
				}
				for _, curr, _ := itemStatsCurr(); int(curr) == n; _, curr, _ = itemStatsCurr() {
					fill()
				}
				for i := range n { // all are in that LRU, and active
					if it := itemGet(fmt.Append(nil, "key", i), th, dontUpdate); it != nil {
						itemUnlinkQ(it)
						it.slabsClsid = it.clsid() | uint8(lru)
						it.itFlags |= itemFetched | itemActive
						itemLinkQ(it)
						its = append(its, it)
					}
				}
				for i, it := range its {
					if i != len(its)/2 { // that one is not in use
						defer itemRemove(it)
					} else {
						itemRemove(it)
						gone = string(it.key())
					}
				}
				malloced := memMalloced
				fill()
				if _, ok := get(th, gone); ok {
					t.Errorf("%s is still there", gone)
				}
				if memMalloced != malloced {
					t.Errorf("%d bytes after %d", memMalloced, malloced)
				}
				// All are in use.
				defer itemRemove(itemGet(fmt.Append(nil, "key", n-1), th, dontUpdate))
				ok := 0
				for ; ok < 10000; ok++ {
					it := itemAlloc([]byte("other"), 0, 0, size)
					if it == nil {
						break
					}
					full := itemFill(it, []byte(value))
					defer itemRemove(it)
					if !full {
						break
					}
				}
				if most := malloced + largestClsid<<20; ok < 2 || memMalloced > most || memMalloced <= most-2<<20 {
					t.Errorf("%d more items in %d bytes of %d", ok, memMalloced, most)
				}
			})
		}
	}
}

// An append finds memory even if nothing but the item that it replaces, whose lock it
// holds, is in COLD.
func TestAppendFindsMemory(t *testing.T) {
	for _, lru := range []int{hotLru, warmLru, tempLru} {
		storeInit(t, 1, nil)
		th := testThread()
		value := pattern(300000, 0)
		set(th, nreadSet, "small", "x", 0)
		n := 0
		for _, curr, _ := itemStatsCurr(); int(curr) == n+1; _, curr, _ = itemStatsCurr() {
			set(th, nreadSet, fmt.Sprint("key", n), value, 0)
			n++
		}
		for i := range n {
			if it := itemGet(fmt.Append(nil, "key", i), th, dontUpdate); it != nil {
				itemUnlinkQ(it)
				it.slabsClsid = it.clsid() | uint8(lru)
				if i == n-1 {
					it.slabsClsid = it.clsid() | coldLru
				}
				itemLinkQ(it)
				itemRemove(it)
			}
		}
		malloced, before := memMalloced, evictions()
		if ret := set(th, nreadAppend, fmt.Sprint("key", n-1), "xy", 0); ret != stored {
			t.Errorf("LRU %d: %v", lru, ret)
		}
		wantValue(t, th, fmt.Sprint("key", n-1), value+"xy")
		if memMalloced != malloced || evictions() != before+1 {
			t.Errorf("LRU %d: %d bytes after %d, %d evictions after %d", lru, memMalloced, malloced, evictions(), before)
		}
		checkStore(t)
	}
}

// With -M new items are refused, and the existing ones stay.
func TestNoEvict(t *testing.T) {
	storeInit(t, 2, func() { settings.evictToFree = false })
	th := testThread()
	n := 0
	for set(th, nreadSet, fmt.Sprint("key", n), pattern(20000, n), 0) == stored {
		n++
	}
	if n < 50 {
		t.Errorf("%d items of 20000 bytes in 2 MB", n)
	}
	for i := range n {
		wantValue(t, th, fmt.Sprint("key", i), pattern(20000, i))
	}
	id := slabsClsid(20000)
	if lrus[id].n[itemsOutofmemory] != 1 {
		t.Errorf("outofmemory is %d", lrus[id].n[itemsOutofmemory])
	}
	unlink("key0")
	if ret := set(th, nreadSet, "other", pattern(20000, 0), 0); ret != stored {
		t.Errorf("after a delete: %v", ret)
	}
	checkStore(t)
}

// TestPages moves free pages through the pool, and releases and reuses them.
func TestPages(t *testing.T) {
	storeInit(t, 4, nil)
	th := testThread()
	n := 0
	for memMalloced < 4<<20 {
		set(th, nreadSet, fmt.Sprint("key", n), pattern(10000, n), 0)
		n++
	}
	for i := range n {
		unlink(fmt.Sprint("key", i))
	}
	id := slabsClsid(10100)
	emptyPage := func() {
		page, size, perslab := slabsPeekPage(id)
		slabsMlock()
		for x := range perslab {
			doSlabsUnlinkFreeChunk(id, memItem(page+x*size))
		}
		slabsMunlock()
		slabsFinalizePageMove(id, slabGlobalPagePool, page)
		checkStore(t)
	}
	emptyPage()
	emptyPage()
	if n, full := globalPagePoolSize(); n != 2 || !full {
		t.Fatalf("%d pages in the pool, at the limit %v", n, full)
	}
	slabsAdjustMemLimit(2 << 20)
	emptyPage()
	checkStore(t)
	if n, _ := globalPagePoolSize(); n != 1 || len(memReleased) != 2 || memMalloced != 2<<20 {
		t.Errorf("%d pages in the pool, %d released", n, len(memReleased))
	}
	slabsAdjustMemLimit(6 << 20)
	for i := range 20 * n {
		v := pattern(10000, i)
		if i%3 == 0 {
			v = pattern(100, i)
		}
		set(th, nreadSet, fmt.Sprint("key", i), v, 0)
		wantValue(t, th, fmt.Sprint("key", i), v)
	}
	if memMalloced != 6<<20 || len(memReleased) != 0 {
		t.Errorf("%d bytes, %d pages released", memMalloced, len(memReleased))
	}
	checkStore(t)
}

// An item that was just hit, at COLD's tail, does not make COLD young, and thus all of HOT
// too old for HOT.
func TestMaintainerAge(t *testing.T) {
	storeInit(t, 64, func() { settings.lru.memory = false })
	th := testThread()
	const id = 1
	fill := func(from, to int) {
		for i := range to - from {
			set(th, nreadSet, fmt.Sprint("key", from+i), "value", 0)
		}
		lruMaintainerJuggle(id)
	}
	fill(0, 100) // 80 go to COLD
	currentTime.Add(100)
	fill(100, 110)
	currentTime.Add(10)
	for i := range 3 { // COLD's tail
		get(th, fmt.Sprint("key", i))
		get(th, fmt.Sprint("key", i))
	}
	lruMaintainerJuggle(id) // HOT's items may be 0.2 times as old as the other items of COLD
	if hot, warm := lrus[id|hotLru].size, lrus[id|warmLru].size; hot != 10 || warm != 3 {
		t.Errorf("%d items in HOT, %d in WARM", hot, warm)
	}
}

// TestMaintainer follows items through the LRUs of a class, as they are in C.
func TestMaintainer(t *testing.T) {
	storeInit(t, 64, func() {
		settings.lru.tempLru.Store(true)
		settings.lru.memory = false
	})
	th := testThread()
	const id = 1
	for i := range 100 {
		set(th, nreadSet, fmt.Sprintf("key%02d", i), "value", 0)
	}
	set(th, nreadSet, "temp", "value", 1010)
	sizes := func(hot, warm, cold, temp int) {
		t.Helper()
		checkStore(t)
		got := [4]int{lrus[id|hotLru].size, lrus[id|warmLru].size, lrus[id|coldLru].size, lrus[id|tempLru].size}
		if want := [4]int{hot, warm, cold, temp}; got != want {
			t.Errorf("sizes %v, want %v", got, want)
		}
	}
	sizes(100, 0, 0, 1)
	get(th, "key00")
	get(th, "key00") // now it is active
	get(th, "key50")
	lruMaintainerJuggle(id) // HOT keeps 20%
	sizes(20, 1, 79, 1)
	get(th, "key50") // active in COLD, for when it comes to the tail
	get(th, "key01")
	get(th, "key01") // active at the tail
	lruMaintainerJuggle(id)
	sizes(20, 2, 78, 1)
	c := crawlerItem(id | coldLru)
	c.slabsClsid = id | coldLru
	doItemLinktailQ(c)
	currentTime.Store(1011)
	lruMaintainerJuggle(id) // HOT's items may be at most 0.2 times as old as COLD's
	sizes(0, 2, 98, 0)
	for passed := 0; ; passed++ {
		if doItemCrawlQ(c) == nil {
			if passed != 98 || lrus[id|coldLru].head != c.ref() {
				t.Errorf("the crawler passed %d items", passed)
			}
			break
		}
		checkStore(t)
	}
	doItemUnlinktailQ(c)
	sizes(0, 2, 98, 0)
	if n := &lrus[id|tempLru].n; n[itemsReclaimed] != 1 || n[itemsExpiredUnfetched] != 1 {
		t.Errorf("TEMP: %d reclaimed", n[itemsReclaimed])
	}
}

// What decides where an item is: in HOT hits do not matter, one in COLD moves it to
// WARM when it comes to the tail, in WARM they are counted, and the tail goes round
// as often. WARM keeps what it has unless the class evicts. An evicted item comes
// back to WARM.
func TestPolicy(t *testing.T) {
	storeInit(t, 2, nil)
	th := testThread()
	value := pattern(9000, 0)
	id := slabsClsid(9100)
	where := func(key string) int {
		if it := itemGet([]byte(key), th, dontUpdate); it != nil {
			defer itemRemove(it)
			return int(it.lruid())
		}
		return -1
	}
	want := func(key string, lru int) {
		t.Helper()
		if got := where(key); got != lru {
			t.Fatalf("%s is in %d, want %d", key, got, lru)
		}
	}
	n := 0
	fill := func(items int) {
		for range items {
			set(th, nreadSet, fmt.Sprint("key", n), value, 0)
			n++
			lruMaintainerJuggle(id)
		}
	}
	set(th, nreadSet, "hot", value, 0)
	for range 5 {
		get(th, "hot")
	}
	want("hot", hotLru)
	fill(50)
	want("hot", coldLru)
	set(th, nreadSet, "warm", value, 0)
	fill(50)
	for _, it := range []string{"hot", "warm"} {
		want(it, coldLru)
		get(th, it)
		for where(it) == coldLru {
			fill(1)
		}
		want(it, warmLru)
	}
	get(th, "warm")
	get(th, "warm")
	settings.lru.warmLruPct.Store(1)
	settings.lru.hotLruPct.Store(10)
	lruMaintainerJuggle(id)
	want("hot", warmLru) // although WARM has more than its share
	for n := lrus[id|coldLru].n[itemsEvicted]; lrus[id|coldLru].n[itemsEvicted] == n; {
		fill(1)
	}
	want("warm", warmLru)
	want("hot", coldLru)

	// The table is there now.
	set(th, nreadSet, "back", value, 0)
	fill(1000)
	want("back", -1)
	set(th, nreadSet, "back", value, 0)
	want("back", hotLru) // it has been too long
	for where("back") >= 0 {
		fill(1)
	}
	set(th, nreadSet, "back", value, 0)
	want("back", warmLru)
	if n := lruMemory.remembered.Load(); n == 0 {
		t.Error("nothing was remembered")
	}
	for where("back") >= 0 {
		fill(1)
	}
	flushAll(0)
	set(th, nreadSet, "back", value, 0)
	want("back", hotLru)

	// WARM grows beyond its share while its items are used, and shrinks when evicted
	// items come back.
	settings.lru.warmLruPct.Store(-1)
	warm := &lrus[id|warmLru]
	most := uint64(0)
	for i := range 4000 {
		key := fmt.Sprint("used", i%120) // more than half of the class
		if _, ok := get(th, key); !ok {
			set(th, nreadSet, key, value, 0)
		}
		fill(1)
		most = max(most, warm.sizeBytes)
	}
	total, _, _ := lruClassSize(id)
	if most*100 < 50*total || warm.extra == 0 {
		t.Errorf("WARM had %d bytes of %d, now %d beyond its share", most, total, warm.extra)
	}
	settings.lru.warmLruPct.Store(30) // the user's share is kept to
	fill(600)
	if warm.extra == 0 || warm.sizeBytes*100 > 31*total {
		t.Errorf("with 30 %%, WARM has %d bytes of %d, %d beyond its share", warm.sizeBytes, total, warm.extra)
	}
	settings.lru.warmLruPct.Store(-1)
	for i := 0; warm.extra > 0; i++ {
		key := fmt.Sprint("back", i%140)
		if _, ok := get(th, key); !ok {
			set(th, nreadSet, key, value, 0)
		}
		if i == 100000 {
			t.Fatalf("%d bytes beyond its share", warm.extra)
		}
		lruMaintainerJuggle(id)
	}

	// A new value of an item in use takes its place.
	fill(1000)
	set(th, nreadSet, "back", value, 0)
	itemLinkTo := func(key string, lru int) {
		it := itemGet([]byte(key), th, dontUpdate)
		defer itemRemove(it)
		itemUnlinkQ(it)
		it.slabsClsid = it.clsid() | uint8(lru)
		itemLinkQ(it)
	}
	itemLinkTo("back", warmLru)
	get(th, "back")
	set(th, nreadSet, "back", value, 0)
	want("back", warmLru)
	set(th, nreadSet, "back", value, 0)
	want("back", hotLru) // as nobody has read it since

	// A value written in place counts as a hit.
	for _, lru := range []int{hotLru, coldLru, warmLru} {
		itemLinkTo("back", lru)
		if !setInPlace(th, nreadSet, "back", value, 0) {
			t.Error("not in place")
		}
		want("back", lru)
	}
	if it := itemGet([]byte("back"), th, dontUpdate); it.itFlags&(itemActive|itemFetched) != 2*itemHit {
		t.Errorf("flags %#x", it.itFlags)
	} else {
		itemRemove(it)
	}
	checkStore(t)
}

// The LRU with its memory has 3 % more hits than memcached's, and scans that pass
// by do not matter; at whatever speed requests come, as ages are seconds.
func TestHits(t *testing.T) {
	play := func(memory, scan bool, perSecond int) (hits int) {
		storeInit(t, 2, func() { settings.lru.memory = memory })
		th := testThread()
		value := pattern(1000, 0)
		r := rand.New(rand.NewPCG(1, 1))
		z := rand.NewZipf(r, 1.01, 20, 20000)
		const requests = 80000
		for i := range requests {
			if i%perSecond == 0 {
				currentTime.Add(1)
			}
			key := fmt.Sprint("key", z.Uint64())
			if scan && i%4 == 0 {
				key = fmt.Sprint("scan", i)
			}
			if _, ok := get(th, key); !ok {
				set(th, nreadSet, key, value, 0)
			} else if i > requests/4 {
				hits++
			}
			if i%32 == 0 {
				lruMaintainerJuggle(slabsClsid(1060))
			}
		}
		return hits
	}
	for _, scan := range []bool{false, true} {
		fast, slow := play(true, scan, 40000), play(true, scan, 400)
		old := max(play(false, scan, 40000), play(false, scan, 400))
		t.Logf("scan %v: %d hits, slowly %d, memcached's LRU %d", scan, fast, slow, old)
		if float64(min(fast, slow)) < 1.03*float64(old) || float64(slow) < .99*float64(fast) {
			t.Error("too few hits")
		}
	}
}

// The table grows with the items, takes at most 2 % of the memory of items of 100
// bytes, and forgets nothing when it grows.
func TestLruMemoryGrow(t *testing.T) {
	storeInit(t, 2, nil)
	last := 0
	for items := 1; items < 1<<20; items += items/3 + 1 {
		lruMemoryGrow(items)
		lruRemember(uint32(items * 7919))
		if last > 0 && !lruRemembers(uint32(last*7919)) {
			t.Errorf("forgot the last of %d items", last)
		}
		last = items
		if n := 8 * len(*lruMemory.table.Load()); n > max(items*100/50, 8*lruMemoryMin) {
			t.Errorf("%d bytes for %d items", n, items)
		}
	}
	for _, delay := range []relTime{0, 10} {
		lruRemember(1)
		flushAll(int64(delay))
		if delay > 0 && !lruRemembers(1) {
			t.Error("forgotten too early")
		}
		clockSet(currentTime.Load() + delay)
		if lruRemembers(1) || lruRemembers(uint32(last*7919)) {
			t.Errorf("not forgotten, with delay %d", delay)
		}
	}
}

// The maintainer moves items between the LRUs while they are touched.
func TestTouchMoving(t *testing.T) {
	storeInit(t, 4, func() {
		settings.lru.hotLruPct.Store(0)
		settings.lru.warmLruPct.Store(0)
	})
	c := testConn()
	const id = 1
	for i := range 100 {
		serve(c, fmt.Appendf(nil, "set key%d 0 0 5\r\nvalue\r\n", i))
	}
	var done atomic.Bool
	var wg sync.WaitGroup
	wg.Add(1)
	go func() {
		defer wg.Done()
		for !done.Load() {
			lruMaintainerJuggle(id)
		}
	}()
	for i := range 10000 {
		serve(c, fmt.Appendf(nil, "touch key%d 0\r\n", i%100))
	}
	done.Store(true)
	wg.Wait()
	if n := c.thread.stats.pending.slab[id][slabTouchHits]; n != 10000 {
		t.Errorf("%d hits", n)
	}
	checkStore(t)
}

// A walk sees each item once, even if the table grows meanwhile.
func TestAssocWalk(t *testing.T) {
	for grow := range 8 {
		storeInit(t, 64, func() { settings.hashpowerInit = 12 })
		th := testThread()
		for i := range 5000 {
			set(th, nreadSet, fmt.Sprint("key", i), "value", 0)
		}
		seen := map[string]int{}
		pos, n := uint32(0), 0
		for {
			pos = assocWalk(pos, func(it *item) { seen[string(it.key())]++ })
			if pos == 0 {
				break
			}
			n++
			if grow > 0 && n%(500*grow) == 0 && !expanding && hashpower < 15 {
				assocExpand(assocNewTable())
			}
			if n%3 == 0 && expanding {
				assocMoveBucket()
				if grow > 4 && expanding {
					assocMoveBucket()
					assocMoveBucket()
				}
			}
		}
		if len(seen) != 5000 {
			t.Errorf("saw %d", len(seen))
		}
		for k, v := range seen {
			if v != 1 {
				t.Fatalf("%s %d times", k, v)
			}
		}
		t.Log(grow, hashpower, expanding, n)
		for expanding {
			assocMoveBucket()
		}
	}
}

// A value in TestHammer consists of records, which append and prepend add:
// KEY,LENGTH,SEED; and a pattern. Any mix-up of values shows.
func record(key string, n, seed int) string {
	return fmt.Sprintf("%s,%d,%d;", key, n, seed) + pattern(n, seed)
}

func checkRecords(key, value string) error {
	for rest := value; rest != ""; {
		var n, seed int
		head, tail, _ := bytes.Cut([]byte(rest), []byte(";"))
		if _, err := fmt.Sscanf(string(head), key+",%d,%d", &n, &seed); err != nil || len(tail) < n || string(tail[:n]) != pattern(n, seed) {
			return fmt.Errorf("value of %s is broken at %d of %d: %.40q", key, len(value)-len(rest), len(value), rest)
		}
		rest = string(tail[n:])
	}
	return nil
}

// TestHammer has several goroutines use the same keys, while the hash table grows
// and the maintainer juggles; once with plenty of memory and once with little.
func TestHammer(t *testing.T) {
	for _, tt := range []struct {
		name            string
		megs, bigPerMil int
		conf            func()
	}{
		{"roomy", 64, 20, func() { settings.slab.chunkSizeMax = 16 << 10; settings.itemSizeMax = 128 << 10 }},
		{"tight", 3, 30, func() { settings.slab.chunkSizeMax = 16 << 10; settings.itemSizeMax = 128 << 10 }},
		{"flat", 3, 10, func() { settings.lru.segmented.Store(false) }},
		{"noevict", 3, 30, func() { settings.evictToFree = false; settings.slab.chunkSizeMax = 8 << 10 }},
		{"temp", 3, 30, func() { settings.lru.tempLru.Store(true) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			storeInit(t, tt.megs, func() { settings.hashpowerInit = 11; tt.conf() })
			hammer(t, tt.bigPerMil)
			checkStore(t)
		})
	}
}

func hammer(t *testing.T, bigPerMil int) {
	const (
		nthreads = 4
		nops     = 8000
		nkeys    = 4000
		ncounts  = 10
	)
	// pause replaces pauseThreads, since these goroutines are not workers.
	var pause sync.RWMutex
	var wg, others sync.WaitGroup
	var counted [nthreads][ncounts]uint64
	startLruMaintainerThread()
	for w := range nthreads {
		th := testThread()
		wg.Add(1)
		go func() {
			defer wg.Done()
			r := rand.New(rand.NewPCG(uint64(w), 7))
			for i := range nops {
				pause.RLock()
				if err := hammerOne(th, r, i, nkeys, bigPerMil, counted[w][:]); err != nil {
					t.Error(err)
				}
				pause.RUnlock()
				if i%1000 == 999 {
					currentTime.Add(1)
				}
			}
		}()
	}
	var done atomic.Bool
	others.Add(2)
	go func() {
		defer others.Done()
		for hashpower < 16 && !done.Load() {
			pause.Lock()
			lruMaintainerPause()
			assocExpand(assocNewTable())
			lruMaintainerResume()
			pause.Unlock()
			for expanding {
				assocMoveBucket()
				runtime.Gosched() // so that the expansion takes long
			}
		}
	}()
	go func() {
		defer others.Done()
		r := rand.New(rand.NewPCG(8, 9))
		for !done.Load() {
			pause.RLock()
			if err := peekPages(r); err != nil {
				t.Error(err)
			}
			pause.RUnlock()
		}
	}()
	wg.Wait()
	done.Store(true)
	others.Wait()
	stopLruMaintainerThread()

	th := testThread()
	for i := range ncounts {
		var want uint64
		for w := range nthreads {
			want += counted[w][i]
		}
		v, ok := get(th, fmt.Sprint("count", i))
		if got, _ := strconv.ParseUint(string(bytes.TrimRight([]byte(v), " ")), 10, 64); ok && got > want {
			t.Errorf("count%d is %d, want %d", i, got, want)
		} else if ok && got != want && settings.maxbytes.Load() == 64<<20 {
			t.Errorf("count%d is %d, want %d", i, got, want)
		}
	}
}

// peekPages looks at a chunk as the page mover does: it finds the chunk in its
// page, and learns from the lock field how to lock the item.
func peekPages(r *rand.Rand) error {
	slabsMlock()
	p := &slabclass[1+r.IntN(largestClsid)]
	if len(p.slabList) == 0 {
		slabsMunlock()
		return nil
	}
	it := memItem(p.slabList[r.IntN(len(p.slabList))] + r.IntN(p.perslab)*p.size)
	if it.lock == lockChunk {
		it = it.chunk().head.item()
	}
	if it.lock > lockMask {
		slabsMunlock()
		return nil // free
	}
	hold := itemTrylock(uint32(it.lock))
	mine := hold != nil && it.time != 0 // time is 0 until the first link; after it, only the holder of the item lock frees the item
	slabsMunlock()
	if hold == nil {
		return nil
	}
	defer itemTrylockUnlock(hold)
	if !mine {
		return nil
	}
	if linked := it.itFlags&itemLinked != 0; linked && hash(it.key())&lockMask != uint32(it.lock) {
		return fmt.Errorf("%q has lock %#x", it.key(), it.lock)
	} else if linked {
		it.refcount++
		doItemRemove(it)
	}
	return nil
}

// hammerOne runs one command.
func hammerOne(th *thread, r *rand.Rand, i, nkeys, bigPerMil int, counted []uint64) error {
	if r.IntN(3) == 0 {
		nkeys = 10 // popular keys
	}
	key := fmt.Sprint("key", r.IntN(nkeys))
	n := r.IntN(300)
	if r.IntN(1000) < bigPerMil {
		n = r.IntN(60 << 10)
	}
	exptime := relTime(0)
	if r.IntN(3) == 0 {
		exptime = realtime(int64(1 + r.IntN(5)))
	}
	switch op := r.IntN(100); {
	case op < 30:
		if v, ok := get(th, key); ok {
			return checkRecords(key, v)
		}
	case op < 55:
		if op%2 == 0 || !setInPlace(th, nreadSet, key, record(key, n, i), exptime) {
			set(th, nreadSet, key, record(key, n, i), exptime)
		}
	case op < 60:
		set(th, nreadAdd, key, record(key, n, i), exptime)
	case op < 70:
		comm := nreadAppend
		if op >= 65 {
			comm = nreadPrepend
		}
		if op%2 == 0 || !setInPlace(th, comm, key, record(key, n/4, i), 0) {
			set(th, comm, key, record(key, n/4, i), 0)
		}
	case op < 80:
		unlink(key)
	case op < 92:
		// Read the value with only a reference, as when it is sent from the
		// slab.
		it, hv := itemGetLocked([]byte(key), th, doUpdate)
		if it == nil {
			itemUnlock(hv)
			return nil
		}
		var v []byte
		if it.itFlags&itemChunked == 0 {
			data := it.data()
			itemUnlock(hv)
			v = bytes.Clone(data)
		} else {
			ch := it.schunk()
			itemUnlock(hv)
			for ; ch != nil; ch = ch.next.chunk() {
				v = append(v, ch.data()[:ch.used]...)
			}
		}
		err := checkRecords(key, string(bytes.TrimSuffix(v, []byte("\r\n"))))
		itemRemove(it)
		return err
	case op < 93:
		touch(th, key, exptime)
	default:
		i := r.IntN(len(counted))
		name := []byte(fmt.Sprint("count", i))
		var buf [incrMaxStorageLen]byte
		delta := uint64(r.IntN(1000))
		_, ret := addDelta(th, name, true, delta, buf[:], nil)
		if ret == deltaItemNotFound {
			if set(th, nreadAdd, string(name), "0", 0) != stored {
				return nil
			}
			_, ret = addDelta(th, name, true, delta, buf[:], nil)
		}
		if ret == deltaOk {
			counted[i] += delta
		}
	}
	return nil
}

// TestMaintenanceThread has the thread itself grow the table. There are no workers
// to pause.
func TestMaintenanceThread(t *testing.T) {
	storeInit(t, 64, func() { settings.hashpowerInit = 11 })
	th := testThread()
	for i := range 8000 {
		set(th, nreadSet, fmt.Sprint("key", i), "value", 0)
	}
	startAssocMaintenanceThread()
	for {
		_, n, _ := itemStatsCurr()
		assocStartExpand(n)
		if maintenanceLock.TryLock() {
			power := hashpower
			maintenanceLock.Unlock()
			if power == 13 {
				break
			}
		}
	}
	stopAssocMaintenanceThread()
	checkStore(t)
	if statsState.hashIsExpanding.Load() || statsState.hashBytes.Load() != int64(refSize<<13) {
		t.Errorf("hashBytes %d, expanding %v", statsState.hashBytes.Load(), statsState.hashIsExpanding.Load())
	}
}

func TestStoreAllocs(t *testing.T) {
	storeInit(t, 2, nil)
	th := testThread()
	key, num := []byte("key"), []byte("num")
	set(th, nreadSet, "num", "1", 0)
	var buf [incrMaxStorageLen]byte
	n := testing.AllocsPerRun(100, func() {
		it := itemAlloc(key, 0, 0, 102)
		storeItem(it, nreadSet, th, nil, nil, getCasId(), false)
		itemRemove(it)
		itemRemove(itemGet(key, th, doUpdate))
		setInPlace(th, nreadSet, "key", "value", 0)
		addDelta(th, num, true, 12345, buf[:], nil)
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
}

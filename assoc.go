// The hash table of items, and the thread that grows it. From assoc.c; hash
// is hash.c.

package main

import (
	"bytes"
	"fmt"
	"hash/maphash"
	"math/bits"
	"os"
	"sync"
	"sync/atomic"
)

const (
	hashpowerDefault = 16
	hashpowerMax     = 32
)

// A bucket belongs to who holds the item lock of its number, the tables to
// all as long as no pauseThreads(pauseAllThreads) is in force.
var (
	hashpower        int // log2 of the number of buckets
	primaryHashtable []ref

	// The table grows with bucket granularity: from bucket expandBucket on,
	// up to the half of the buckets that there were before, chains still
	// hang in oldHashtable. At rest all of it lies behind expandBucket.
	oldHashtable []ref
	expandBucket atomic.Uint32

	hashSeed maphash.Seed
)

// Held by the maintenance thread except while it has nothing to do. Who
// iterates over the table holds lruCrawler.moves instead, which keeps
// pauseThreads off.
var (
	maintenanceLock        sync.Mutex
	maintenanceCond        = sync.NewCond(&maintenanceLock)
	expanding              bool
	doRunMaintenanceThread bool
	maintenanceDone        chan struct{} // closed when the thread has ended
)

const assocBatch = 16 // keys for assocPrefetch

// hash is seeded at start, so that nobody can choose keys that collide.
func hash(key []byte) uint32 { return uint32(maphash.Bytes(hashSeed, key)) }

func hashsize(n int) int { return 1 << n }

// assocInit makes an empty table of 1<<power buckets; of the default size if
// power is 0.
func assocInit(power int) {
	if power == 0 {
		power = hashpowerDefault
	}
	if primaryHashtable != nil {
		refsFree(primaryHashtable)
	}
	if oldHashtable != nil {
		refsFree(oldHashtable)
		oldHashtable = nil
	}
	t, err := refsAlloc(hashsize(power))
	if err != nil {
		fmt.Fprintf(os.Stderr, "Failed to init hashtable.\n")
		os.Exit(1)
	}
	hashpower = power
	primaryHashtable = t
	expanding = false
	expandBucket.Store(uint32(hashsize(power) / 2))
	hashSeed = maphash.MakeSeed()
	statsLock.Lock()
	statsState.hashPowerLevel = uint64(power)
	statsState.hashBytes = uint64(len(t) * refSize)
	statsState.hashIsExpanding = false
	statsLock.Unlock()
}

// hashBucket is where the chain of hv hangs. An expandBucket that has become
// stale is harmless: it can't pass the bucket whose lock the caller holds.
func hashBucket(hv uint32) *ref {
	mask := uint32(len(primaryHashtable) - 1)
	if b := hv & (mask >> 1); b >= expandBucket.Load() {
		return &oldHashtable[b]
	}
	return &primaryHashtable[hv&mask]
}

func assocFind(key []byte, hv uint32) *item {
	it := hashBucket(hv).item()
	for it != nil {
		if int(it.nkey) == len(key) && bytes.Equal(it.key(), key) {
			return it
		}
		it = it.hNext.item()
	}
	return nil
}

// assocPrefetch has the processor fetch what will be looked at for these
// keys, at most assocBatch of them: buckets, items, and the beginnings of
// their values. So it waits for memory once for all of them, not for one after
// the other. With links the items are about to be taken out of their LRUs: it
// fetches their neighbours, too. It takes no lock: what it finds may be wrong,
// but nothing comes of it. The result keeps the compiler from leaving it all
// out.
//
//go:noinline
func assocPrefetch(keys [][]byte, links bool) (sum byte) {
	if !memPeek {
		return 0
	}
	var refs [assocBatch]ref
	for i, key := range keys {
		refs[i] = ref(hash(key) & uint32(len(primaryHashtable)-1))
	}
	for i := range keys {
		refs[i] = primaryHashtable[refs[i]]
	}
	for i, key := range keys {
		it := refs[i].item()
		for n := 0; n < 4 && it != nil; n++ {
			if int(it.nkey) == len(key) && bytes.Equal(it.key(), key) {
				sum += it.peek()
				if links {
					sum += it.peekLinks()
				}
				break
			}
			r := it.hNext
			if !r.inArena() {
				break
			}
			it = r.item()
		}
	}
	return sum
}

// assocExpand begins to grow the table to the next power of 2. All threads
// are paused.
func assocExpand() {
	t, err := refsAlloc(hashsize(hashpower + 1))
	if err != nil {
		return // bad news, but we can keep running
	}
	if settings.verbose.Load() > 1 {
		fmt.Fprintf(os.Stderr, "Hash table expansion starting\n")
	}
	oldHashtable = primaryHashtable
	primaryHashtable = t
	hashpower++
	expanding = true
	expandBucket.Store(0)
	statsLock.Lock()
	statsState.hashPowerLevel = uint64(hashpower)
	statsState.hashBytes += uint64(len(t) * refSize)
	statsState.hashIsExpanding = true
	statsLock.Unlock()
}

// assocStartExpand has the table grown if that many items are too many for
// it. If the maintenance thread is busy the caller asks again later.
func assocStartExpand(currItems uint64) {
	if maintenanceLock.TryLock() {
		if currItems > uint64(hashsize(hashpower))*3/2 && hashpower < hashpowerMax {
			maintenanceCond.Signal()
		}
		maintenanceLock.Unlock()
	}
}

// assocInsert expects that the key is not there yet.
func assocInsert(it *item, hv uint32) {
	pos := hashBucket(hv)
	it.hNext = *pos
	*pos = it.ref()
}

// assocDelete expects that the item is there. Not as in C, it looks for the
// item, not for its key.
func assocDelete(it *item, hv uint32) {
	r := it.ref()
	pos := hashBucket(hv)
	for *pos != r {
		pos = &(*pos).item().hNext
	}
	*pos = it.hNext
	it.hNext = 0
}

// assocMoveBucket moves the chain of one bucket to the new table. The
// numbers of buckets and of item locks are the low bits of the hash, and
// there are fewer locks: one lock covers the bucket in both tables.
// Not as in C, it waits for that lock; there it sleeps 10 ms if it is held.
func assocMoveBucket() {
	b := expandBucket.Load()
	itemLock(b)
	var next *item
	for it := oldHashtable[b].item(); it != nil; it = next {
		next = it.hNext.item()
		pos := &primaryHashtable[hash(it.key())&uint32(len(primaryHashtable)-1)]
		it.hNext = *pos
		*pos = it.ref()
	}
	oldHashtable[b] = 0
	expandBucket.Store(b + 1)
	itemUnlock(b)
	if int(b)+1 == len(oldHashtable) {
		assocExpandDone()
	}
}

func assocExpandDone() {
	expanding = false
	statsLock.Lock()
	statsState.hashBytes -= uint64(len(oldHashtable) * refSize)
	statsState.hashIsExpanding = false
	statsLock.Unlock()
	refsFree(oldHashtable)
	oldHashtable = nil
	if settings.verbose.Load() > 1 {
		fmt.Fprintf(os.Stderr, "Hash table expansion done\n")
	}
}

func assocMaintenanceThread() {
	maintenanceLock.Lock()
	for doRunMaintenanceThread {
		for expanding {
			assocMoveBucket()
		}
		// assocExpand swaps the table, so nobody may hold a reference into
		// it meanwhile.
		maintenanceCond.Wait()
		if doRunMaintenanceThread {
			pauseThreads(pauseAllThreads)
			assocExpand()
			pauseThreads(resumeAllThreads)
		}
	}
	maintenanceLock.Unlock()
	close(maintenanceDone)
}

func startAssocMaintenanceThread() {
	maintenanceLock.Lock()
	doRunMaintenanceThread = true
	maintenanceDone = make(chan struct{})
	maintenanceLock.Unlock()
	go assocMaintenanceThread()
}

func stopAssocMaintenanceThread() {
	maintenanceLock.Lock()
	doRunMaintenanceThread = false
	maintenanceCond.Signal()
	maintenanceLock.Unlock()
	<-maintenanceDone
}

// assocWalk calls f for the items of one bucket, with their lock held, and
// returns the place of the next bucket; the first and the end are 0. The
// caller holds pauseThreads off during the call. A place is the number of the
// bucket with its bits backwards, at the top of 32: if the table has grown
// from one call to the next, the same items are behind us as were before.
func assocWalk(pos uint32, f func(it *item)) uint32 {
	hv := bits.Reverse32(pos)
	itemLock(hv)
	step := uint32(1) << (32 - hashpower)
	if hv&uint32(hashsize(hashpower-1)-1) >= expandBucket.Load() {
		step <<= 1 // not moved yet: two buckets are one
	}
	for it := hashBucket(hv).item(); it != nil; it = it.hNext.item() {
		f(it)
	}
	itemUnlock(hv)
	return pos + step
}

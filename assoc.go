// The hash table of items, and the thread that grows it. From assoc.c; hash
// is from hash.c.

package main

import (
	"bytes"
	"fmt"
	"hash/maphash"
	"math"
	"math/bits"
	"os"
	"sync"
	"sync/atomic"
)

const (
	hashpowerDefault = 16
	hashpowerMax     = 32
)

// A bucket is guarded by the item lock of its number. The tables are swapped
// only under pauseThreads(pauseAllThreads).
var (
	hashpower        int // log2 of the number of buckets
	primaryHashtable []ref

	// The table grows bucket by bucket: the chains of the old buckets from
	// expandBucket on are still in oldHashtable. While the table is not growing,
	// expandBucket is half the number of buckets: all chains are in
	// primaryHashtable.
	oldHashtable []ref
	expandBucket atomic.Uint32

	hashSeed maphash.Seed
)

// The maintenance thread holds maintenanceLock except while it waits for
// work. Code that walks the table does not take that lock: it holds
// lruCrawler.moves, which blocks pauseThreads.
var (
	maintenanceLock        sync.Mutex
	maintenanceCond        = sync.NewCond(&maintenanceLock)
	expanding              bool
	doRunMaintenanceThread bool
	maintenanceDone        chan struct{} // closed when the thread has ended
)

// hash has a random seed, set at start, so that nobody can choose keys that
// collide.
func hash(key []byte) uint32 { return uint32(hash64(key)) }

func hash64(key []byte) uint64 { return maphash.Bytes(hashSeed, key) }

func hashsize(n int) int { return 1 << n }

// assocInit makes an empty table of 1<<power buckets, or of the default size
// if power is 0.
func assocInit(power int) {
	if power == 0 {
		power = hashpowerDefault
	}
	if primaryHashtable != nil {
		tableFree(primaryHashtable)
	}
	if oldHashtable != nil {
		tableFree(oldHashtable)
		oldHashtable = nil
	}
	t, err := tableAlloc[ref](hashsize(power))
	if err != nil {
		fmt.Fprintf(os.Stderr, "Failed to init hashtable.\n")
		os.Exit(1)
	}
	hashpower = power
	primaryHashtable = t
	expanding = false
	expandBucket.Store(uint32(hashsize(power) / 2))
	hashSeed = maphash.MakeSeed()
	statsState.hashPowerLevel.Store(int64(power))
	statsState.hashBytes.Store(int64(len(t) * refSize))
	statsState.hashIsExpanding.Store(false)
}

// hashBucket returns the head of hv's chain. A stale expandBucket is
// harmless: it cannot pass the bucket whose lock the caller holds.
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

// assocNewTable returns a table of twice the size, or nil if there is no memory; the
// old table then stays in use, with longer chains.
func assocNewTable() []ref {
	t, err := tableAlloc[ref](hashsize(hashpower + 1))
	if err != nil {
		return nil
	}
	tableTouch(t) // otherwise workers would fault its pages in, one by one
	return t
}

// assocExpand starts growing the table into t. All threads are paused.
func assocExpand(t []ref) {
	verbosef(2, "Hash table expansion starting")
	oldHashtable = primaryHashtable
	primaryHashtable = t
	hashpower++
	expanding = true
	expandBucket.Store(0)
	statsState.hashPowerLevel.Store(int64(hashpower))
	statsState.hashBytes.Add(int64(len(t) * refSize))
	statsState.hashIsExpanding.Store(true)
}

// assocStartExpand wakes the maintenance thread if the table is too small for
// currItems. If the thread is busy it does nothing; the caller asks again
// later.
func assocStartExpand(currItems uint64) {
	if maintenanceLock.TryLock() {
		if currItems > uint64(hashsize(hashpower))*3/2 && hashpower < hashpowerMax {
			maintenanceCond.Signal()
		}
		maintenanceLock.Unlock()
	}
}

// assocInsert requires that the key is not in the table.
func assocInsert(it *item, hv uint32) {
	pos := hashBucket(hv)
	it.hNext = *pos
	*pos = it.ref()
}

// An assocFixup is the hash table while several threads rebuild it after a restart.
// The lower 32 bits of an entry are the head of the chain, the upper 32 a Bloom
// filter of the keys in the chain.
type assocFixup []uint64

// assocFixupBits returns a key's three bits in the Bloom filter, chosen by the upper
// half of its hash.
func assocFixupBits(hv64 uint64) uint64 {
	return (1<<(hv64>>32&31) | 1<<(hv64>>37&31) | 1<<(hv64>>42&31)) << 32
}

// assocInsertOnce inserts the item into t. It returns false if the key is already
// there.
func assocInsertOnce(t assocFixup, it *item, hv64 uint64) bool {
	bucket := &t[uint32(hv64)&uint32(len(t)-1)]
	bits := assocFixupBits(hv64)
	for {
		old := atomic.LoadUint64(bucket)
		if old&bits == bits {
			for x := ref(old).item(); x != nil; x = x.hNext.item() {
				if x.nkey == it.nkey && bytes.Equal(x.key(), it.key()) {
					return false
				}
			}
		}
		it.hNext = ref(old)
		if atomic.CompareAndSwapUint64(bucket, old, old&^math.MaxUint32|bits|uint64(it.ref())) {
			return true
		}
	}
}

func assocFixupInit() assocFixup {
	t, err := tableAlloc[uint64](len(primaryHashtable))
	if err != nil {
		sysfatal(1, "Failed to init hashtable.")
	}
	return t
}

// assocFixupDone makes t the table.
func assocFixupDone(t assocFixup) {
	for i, v := range t {
		primaryHashtable[i] = ref(v)
	}
	tableFree(t)
}

// assocDelete requires that the item is in the table. Unlike C, it compares refs,
// not keys.
func assocDelete(it *item, hv uint32) {
	r := it.ref()
	pos := hashBucket(hv)
	for *pos != r {
		pos = &(*pos).item().hNext
	}
	*pos = it.hNext
	it.hNext = 0
}

// assocMoveBucket moves the chain of one bucket to the new table. Buckets and
// item locks are both numbered by the low bits of the hash, and there are
// fewer locks than buckets: one lock covers a bucket in both tables. If that lock is
// held, C sleeps 10 ms; assocMoveBucket waits for the lock.
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
	statsState.hashBytes.Add(-int64(len(oldHashtable) * refSize))
	statsState.hashIsExpanding.Store(false)
	tableFree(oldHashtable)
	oldHashtable = nil
	verbosef(2, "Hash table expansion done")
}

func assocMaintenanceThread() {
	maintenanceLock.Lock()
	for doRunMaintenanceThread {
		for expanding {
			assocMoveBucket()
		}
		maintenanceCond.Wait()
		if !doRunMaintenanceThread {
			break
		}
		if t := assocNewTable(); t != nil {
			// No other thread may be using the tables while they are swapped.
			pauseThreads(pauseAllThreads)
			assocExpand(t)
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

// assocWalk calls f for each item of the bucket at pos, with the bucket's
// item lock held, and returns the next position; 0 is both the first position
// and the end. The caller blocks pauseThreads during the call. A position is
// the bucket's number with its 32 bits reversed: if the table grows between
// two calls, the items already visited are still those before pos.
func assocWalk(pos uint32, f func(it *item)) uint32 {
	hv := bits.Reverse32(pos)
	itemLock(hv)
	step := uint32(1) << (32 - hashpower)
	if hv&uint32(hashsize(hashpower-1)-1) >= expandBucket.Load() {
		step <<= 1 // not moved yet: one old bucket stands for two
	}
	for it := hashBucket(hv).item(); it != nil; it = it.hNext.item() {
		f(it)
	}
	itemUnlock(hv)
	return pos + step
}

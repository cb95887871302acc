// Access to items by key: item locks, and storing under them. From thread.c,
// ITEM ACCESS and item_lock; memcached.c: realtime, do_store_item,
// limited_get, do_add_delta.

package main

import (
	"fmt"
	"math"
	"os"
	"strconv"
	"sync"
)

// Commands that store an item.
const (
	nreadAdd = 1 + iota
	nreadSet
	nreadReplace
	nreadAppend
	nreadPrepend
	nreadCas
	nreadAppendviv  // specific to meta
	nreadPrependviv // specific to meta
)

type storeItemType int

const (
	notStored storeItemType = iota
	stored
	exists
	notFound
	tooLarge
	noMemory
)

type deltaResultType int

const (
	deltaOk deltaResultType = iota
	nonNumeric
	eom
	deltaItemNotFound
	deltaItemCasMismatch
)

const incrMaxStorageLen = 24 // bytes of buf for addDelta

// An item's lock, itemLock, must be held to modify the item or its hash bucket.
// The order of locks is
//
//	maintenanceLock
//	slabRebal.lock
//	lruMaintainer.lock
//	lruCrawler.moves
//	storageCompactPlock
//	storageWritePlock
//	workerHangLock
//	initLock (pauseThreads takes all down to here)
//	lruCrawler.lock
//	item lock
//	lock of an LRU
//	lock of crawlerExpiredData
//	locks of extstore, see there
//	slabsLock
//	statsLock, flushLock, or the lock of a logger, of a worker's
//	stats, or of a connQueue
//
// and nobody waits for a second lock on the same line. loggerStack.lock is
// taken with no other lock held; under it only those of the last line are
// taken.
//
// To modify an LRU hold both the item lock and the LRU's. Code arriving at an item
// from an LRU or a page already holds a later lock, so it only tries:
// itemTrylock with the item's lock field, which does not change while the item
// is allocated. Until that succeeds it may read nothing but that field and the
// links. While an LRU is locked, items on it can't be freed.
//
// An item that is not linked yet belongs to the thread that allocated it. A
// reference keeps a linked item from being freed, and its key and value from being
// changed, so both may be read without the lock. Every other field needs the
// lock, even itFlags and refcount; so do calls of data() and schunk(), but what
// these return stays valid while a reference is held.
var itemLocks []sync.Mutex

// The results of casCompare.
type casResult int

const (
	casNone casResult = iota // the client gave no unique
	casMatch
	casBadval
	casStaleval // older, but may be stored as stale
)

// An item with more references than this is not handed out: refcount has 16
// bits.
const itRefcountLimit = 60000

func itemLock(hv uint32) { itemLocks[hv&uint32(len(itemLocks)-1)].Lock() }

// itemTrylock acquires the lock and returns it, or nil if somebody holds it.
func itemTrylock(hv uint32) *sync.Mutex {
	lock := &itemLocks[hv&uint32(len(itemLocks)-1)]
	if lock.TryLock() {
		return lock
	}
	return nil
}

func itemTrylockUnlock(lock *sync.Mutex) { lock.Unlock() }

func itemUnlock(hv uint32) { itemLocks[hv&uint32(len(itemLocks)-1)].Unlock() }

// itemLocksInit makes the item locks, more of them for more workers. The hash
// table must have more buckets than there are locks.
func itemLocksInit(nthreads int) {
	// Enough locks that workers seldom collide, without wasting memory.
	power := 15 // just under the default of hashpower
	switch {
	case nthreads < 3:
		power = 10
	case nthreads < 4:
		power = 11
	case nthreads < 5:
		power = 12
	case nthreads <= 10:
		power = 13
	case nthreads <= 20:
		power = 14
	}
	if power >= hashpower {
		fmt.Fprintf(os.Stderr, "Hash table power size (%d) cannot be equal to or less than item lock table (%d)\n", hashpower, power)
		fmt.Fprintf(os.Stderr, "Item lock table grows with `-t N` (worker threadcount)\n")
		fmt.Fprintf(os.Stderr, "Hash table grows with `-o hashpower=N` \n")
		os.Exit(1)
	}
	itemLocks = make([]sync.Mutex, hashsize(power))
}

// itemAlloc allocates an item. No lock need be held.
func itemAlloc(key []byte, flags uint32, exptime relTime, nbytes int) *item {
	return doItemAlloc(key, hash(key), flags, exptime, nbytes)
}

// itemGet returns an item with a reference, or nil if it is missing or expired.
func itemGet(key []byte, t *thread, doUpdate bool) *item {
	hv := hash(key)
	itemLock(hv)
	it := doItemGet(key, hv, t, doUpdate)
	itemUnlock(hv)
	return it
}

// itemGetLocked is itemGet, but returns with the item lock held, even if there
// is no item, so that the caller can store one.
func itemGetLocked(key []byte, t *thread, doUpdate bool) (it *item, hv uint32) {
	hv = hash(key)
	itemLock(hv)
	return doItemGet(key, hv, t, doUpdate), hv
}

// itemRemove drops a reference, and frees the item if it was the last.
func itemRemove(it *item) {
	lock := uint32(it.lock)
	itemLock(lock)
	doItemRemove(it)
	itemUnlock(lock)
}

// itemForget unlinks the item of a key, if there is one, so that a failed set
// leaves no stale value behind.
func itemForget(key []byte, t *thread) {
	it, hv := itemGetLocked(key, t, dontUpdate)
	if it != nil {
		doItemUnlink(it, hv)
		doItemRemove(it)
	}
	itemUnlock(hv)
}

// addDelta adds to or subtracts from a numeric value, and writes the new one
// into buf, n digits.
func addDelta(t *thread, key []byte, incr bool, delta uint64, buf []byte, cas *uint64) (n int, ret deltaResultType) {
	hv := hash(key)
	itemLock(hv)
	n, ret = doAddDelta(t, key, incr, delta, buf, cas, hv, nil)
	itemUnlock(hv)
	return n, ret
}

// storeItem stores an item as comm says. The caller keeps its reference.
func storeItem(it *item, comm int, t *thread, nbytes *int, cas *uint64, casIn uint64, casStale bool) storeItemType {
	hv := hash(it.key())
	itemLock(hv)
	ret := doStoreItem(it, comm, t, hv, nbytes, cas, casIn, casStale)
	itemUnlock(hv)
	return ret
}

// realtime converts an expiry time to relTime. Up to realtimeMaxdelta it is
// seconds from now, above that a Unix time. 0, never, stays 0. A negative time,
// or a date before the server started, becomes 1, which has passed. A date too
// late for relTime becomes the latest one. Unlike in C, the last 30 days that 32
// bits can count are negative times that the client has made unsigned.
func realtime(exptime int64) relTime {
	switch {
	case exptime == 0:
		return 0
	case exptime < 0, exptime >= 1<<32-realtimeMaxdelta && exptime < 1<<32:
		return 1
	case exptime <= realtimeMaxdelta:
		return relTime(exptime) + currentTime.Load()
	case exptime <= processStarted:
		return 1
	}
	return relTime(min(exptime-processStarted, math.MaxUint32))
}

// storeItemCopyChunks appends the first n bytes of sIt's value to that of dIt,
// which is chunked. It returns false if there is no memory.
func storeItemCopyChunks(dIt, sIt *item, n int) bool {
	dch := dIt.schunk()
	for dch.size == dch.used && dch.next != 0 {
		dch = dch.next.chunk()
	}
	return sIt.value().parts(0, n, func(b []byte) bool {
		n -= len(b)
		return storeItemCopyBytes(&dch, b, n)
	})
}

// storeItemCopyBytes appends b to the chunk *dch. When that is full it chains a
// new one, sized for the rest of b and remain more bytes, and sets *dch to it.
// It returns false if there is no memory.
func storeItemCopyBytes(dch **itemChunk, b []byte, remain int) bool {
	for len(b) > 0 {
		ch := *dch
		if ch.used == ch.size {
			if ch = doItemAllocChunk(ch, len(b)+remain, true); ch == nil {
				return false
			}
			*dch = ch
		}
		n := copy(ch.data()[ch.used:], b)
		ch.used += int32(n)
		b = b[n:]
	}
	return true
}

// storeItemCopyData fills newIt with the values of oldIt and addIt, in the
// order that comm implies; the \r\n of the first is dropped.
func storeItemCopyData(comm int, oldIt, newIt, addIt *item) bool {
	first, second := oldIt, addIt
	if comm == nreadPrepend || comm == nreadPrependviv {
		first, second = addIt, oldIt
	}
	n := int(first.nbytes) - 2
	if newIt.itFlags&itemChunked != 0 {
		return storeItemCopyChunks(newIt, first, n) &&
			storeItemCopyChunks(newIt, second, int(second.nbytes))
	}
	storeItemCopyOut(newIt.data()[:n], first)
	storeItemCopyOut(newIt.data()[n:], second)
	return true
}

// storeItemCopyOut fills b from an item. That may be chunked even though the
// result of the append is not: the result takes its flags from the old item;
// with none it is 4 bytes smaller.
func storeItemCopyOut(b []byte, it *item) {
	it.value().parts(0, len(b), func(part []byte) bool {
		b = b[copy(b, part):]
		return true
	})
}

// doStoreItem stores an item as comm says. A unique that the item already has is
// the one that the client expects; casIn becomes its new one. *nbytes is set to
// the value size after an append or prepend, *cas to the unique of the stored item;
// both pointers may be nil.
func doStoreItem(it *item, comm int, t *thread, hv uint32, nbytes *int, cas *uint64, casIn uint64, casStale bool) storeItemType {
	oldIt := doItemGet(it.key(), hv, t, dontUpdate)
	ret := notStored
	var newIt *item
	if oldIt != nil {
		ret, newIt = doStoreOver(it, oldIt, comm, t, hv, casStale)
		if newIt != nil {
			it = newIt
			if nbytes != nil {
				*nbytes = int(it.nbytes)
			}
		}
		if ret == stored {
			if oldIt.itFlags&itemHdr != 0 {
				storageDelete(oldIt)
			}
			doItemReplace(oldIt, it, hv, casIn)
		}
		doItemRemove(oldIt) // release our reference
	} else {
		switch comm {
		case nreadAdd, nreadSet, nreadAppendviv, nreadPrependviv:
			doItemLink(it, hv, casIn)
			ret = stored
		case nreadCas:
			ret = notFound // expired or evicted, for example
			t.stats.pending.n[statCasMisses]++
		case nreadReplace, nreadAppend, nreadPrepend:
			// Requires an existing item.
		}
	}
	if ret == stored && cas != nil {
		*cas = it.cas()
	}
	if loggerEflags.Load()&logMutations != 0 {
		loggerLogItemStore(t, ret, comm, it.key(), it)
	}
	if newIt != nil {
		doItemRemove(newIt) // it is linked: the cache has its own reference
	}
	return ret
}

// storeInPlace stores a value, given without its \r\n, as comm says: it writes the
// value over that of the key's item, which costs no more than a get, instead of
// replacing the item by a new one. It returns the item, locked; or nil if it has done
// nothing, because
//
//   - there is no item, or it has expired
//   - the command depends on more than that: an add or a cas
//   - another thread may be reading the value: the item has more than one
//     reference, that of the cache
//   - a new item would not lie in such a chunk: it is of another class, or chunked,
//     or has client flags and the old one has not
//   - a new item would go to TEMP or, without lruMemory, to the head of its LRU
//   - somebody watches, and might miss what happens to the new item.
//
// Clients see the item that doStoreItem would have made. cas is its unique, 0 for a
// new one.
func storeInPlace(t *thread, comm int, key, value []byte, flags uint32, exptime relTime, itFlags uint16, cas uint64) (it *item, hv uint32) {
	if comm == nreadAdd || comm == nreadCas || !lruHasMemory() || settings.lru.tempLru.Load() ||
		loggerEflags.Load() != 0 || settings.verbose.Load() > 2 {
		return nil, 0
	}
	hv = hash(key)
	itemLock(hv)
	it = assocFind(key, hv)
	if it == nil || !doStoreInPlace(t, it, comm, value, flags, exptime, itFlags) {
		itemUnlock(hv)
		return nil, 0
	}
	if cas == 0 {
		cas = getCasId()
	}
	it.setCas(cas)
	return it, hv
}

// doStoreInPlace is storeInPlace for an item, but for its unique.
func doStoreInPlace(t *thread, it *item, comm int, value []byte, flags uint32, exptime relTime, itFlags uint16) bool {
	if it.refcount != 1 || it.itFlags&(itemChunked|itemHdr) != 0 || it.lruid() == tempLru ||
		itemIsExpired(it, currentTime.Load()) || itemIsFlushed(it) {
		return false
	}
	add := itemClsid(int(it.nkey), flags, len(value)+2) // of the item that doStoreItem would get
	old, n := int(it.nbytes)-2, len(value)
	switch comm {
	case nreadSet, nreadReplace:
		if (flags != 0) != (it.itFlags&itemCflags != 0) {
			return false
		}
	default:
		flags, exptime, itFlags = it.clientFlags(), it.exptime, it.itFlags&itemKeyBinary
		n += old
	}
	if total := it.dataOff() + n + 2; total > slabChunkMax || slabsClsid(total) != int(it.clsid()) {
		return false
	}
	doItemRewrite(it)
	t.stats.slabClass(add, slabSetCmds)
	itemResize(it, n+2)
	data := it.data()
	switch comm {
	case nreadSet, nreadReplace:
		copy(data, value)
	case nreadAppend, nreadAppendviv:
		copy(data[old:], value)
	case nreadPrepend, nreadPrependviv:
		copy(data[len(value):], data[:old])
		copy(data, value)
	}
	copy(data[n:], "\r\n")
	it.itFlags = it.itFlags&^(itemFetched|itemTokenSent|itemStale|itemKeyBinary) | itFlags
	it.exptime = exptime
	it.setClientFlags(flags)
	t.stats.pending.n[statStoredInPlace]++
	return true
}

func casCompare(it, oldIt *item, casStale bool) casResult {
	itCas, oldCas := it.cas(), oldIt.cas()
	switch {
	case itCas == 0:
		return casNone
	case itCas == oldCas:
		return casMatch
	case casStale && itCas < oldCas:
		return casStaleval
	}
	return casBadval
}

// doStoreOver is the part of doStoreItem for a key that exists. It returns
// stored if the caller must replace oldIt: after an append or prepend by newIt,
// otherwise by it.
func doStoreOver(it, oldIt *item, comm int, t *thread, hv uint32, casStale bool) (ret storeItemType, newIt *item) {
	res := casCompare(it, oldIt, casStale)
	switch comm {
	case nreadAdd:
		// The key exists: nothing is added, but its item is bumped.
		doItemUpdate(oldIt)
		return notStored, nil

	case nreadCas:
		switch res {
		case casMatch:
			// The two may be of different classes: the class of the old one
			// counts the hit.
			t.stats.slab(oldIt, slabCasHits)
			return stored, nil
		case casStaleval:
			// Replace the value, but keep the TTL and the marks.
			it.exptime = oldIt.exptime
			it.itFlags |= itemStale | oldIt.itFlags&itemTokenSent
			t.stats.slab(oldIt, slabCasHits)
			return stored, nil
		}
		t.stats.slab(oldIt, slabCasBadval)
		if settings.verbose.Load() > 1 {
			fmt.Fprintf(os.Stderr, "CAS:  failure: expected %d, got %d\n", oldIt.cas(), it.cas())
		}
		return exists, nil

	case nreadAppend, nreadPrepend, nreadAppendviv, nreadPrependviv:
		if res != casNone && res != casMatch {
			return exists, nil
		}
		if oldIt.itFlags&itemHdr != 0 {
			return notStored, nil // the value would have to be read first
		}
		newIt = doItemAlloc(it.key(), hv, oldIt.clientFlags(), oldIt.exptime, int(it.nbytes)+int(oldIt.nbytes)-2)
		if newIt == nil {
			return notStored, nil
		}
		newIt.itFlags |= oldIt.itFlags & itemKeyBinary
		if !storeItemCopyData(comm, oldIt, newIt, it) {
			doItemRemove(newIt)
			return notStored, nil
		}
		return stored, newIt
	}
	return stored, nil // set, replace
}

// limitedGet looks up an item for a get, or for a touch that sets its expiry
// time to exptime, and counts the hit or miss. It returns with the item lock
// held, even if there is no item. An item with too many references is a miss.
func limitedGet(key []byte, t *thread, exptime relTime, shouldTouch bool) (it *item, hv uint32) {
	hv = hash(key)
	n := &t.stats.pending.n
	itemLock(hv)
	if shouldTouch {
		it = doItemTouch(key, exptime, hv, t)
		n[statTouchCmds]++
	} else {
		it = doItemGet(key, hv, t, doUpdate)
		n[statGetCmds]++
	}
	if it != nil && it.refcount > itRefcountLimit {
		doItemRemove(it)
		it = nil
	}
	switch {
	case it == nil && shouldTouch:
		n[statTouchMisses]++
	case it == nil:
		n[statGetMisses]++
	case shouldTouch:
		t.stats.slab(it, slabTouchHits)
	default:
		t.stats.lruHit(it)
	}
	return it, hv
}

// limitedGetLocked is itemGetLocked, but if the item has too many references it
// returns overflow, and the lock is not held.
func limitedGetLocked(key []byte, t *thread, doUpdate bool) (it *item, hv uint32, overflow bool) {
	it, hv = itemGetLocked(key, t, doUpdate)
	if it != nil && it.refcount > itRefcountLimit {
		doItemRemove(it)
		itemUnlock(hv)
		return nil, hv, true
	}
	return it, hv, false
}

// doAddDelta adds delta to a numeric value, or subtracts it, and writes the new
// one into buf, n digits. A *cas other than 0 must equal the item's unique; it
// is set to the new one. *itRet is set to the item, with a reference. Both
// pointers may be nil.
func doAddDelta(t *thread, key []byte, incr bool, delta uint64, buf []byte, cas *uint64, hv uint32, itRet **item) (n int, ret deltaResultType) {
	it := doItemGet(key, hv, t, dontUpdate)
	if it == nil {
		return 0, deltaItemNotFound
	}
	// An empty value, just \r\n, is no number; one that is chunked, or in
	// extstore, is too large for a number.
	if it.nbytes <= 2 || it.itFlags&(itemChunked|itemHdr) != 0 {
		doItemRemove(it)
		return 0, nonNumeric
	}
	if cas != nil && *cas != 0 && it.cas() != *cas {
		doItemRemove(it)
		return 0, deltaItemCasMismatch
	}
	value, ok := safeStrtoull(it.data())
	if !ok {
		doItemRemove(it)
		return 0, nonNumeric
	}
	if incr {
		value += delta
		t.stats.slab(it, slabIncrHits)
	} else {
		value -= min(delta, value)
		t.stats.slab(it, slabDecrHits)
	}
	digits := strconv.AppendUint(buf[:0], value, 10)
	newIt := doReplaceValue(it, hv, digits)
	if newIt == nil {
		doItemRemove(it)
		return 0, eom
	}
	it = newIt
	if cas != nil {
		*cas = it.cas()
	}
	if itRet != nil {
		*itRet = it
	} else {
		doItemRemove(it)
	}
	return len(digits), deltaOk
}

// doReplaceValue sets the value of an item to these digits, and gives it a new
// unique. If the digits do not fit or somebody else holds a reference, a new
// item replaces it. The item that has the value now is returned, with the
// caller's reference moved to it; or nil if there is no memory.
func doReplaceValue(it *item, hv uint32, digits []byte) *item {
	cas := uint64(0)
	if settings.useCas {
		cas = getCasId()
	}
	res := len(digits)
	// refcount 2: the cache's reference and the caller's, no others.
	if res+2 <= int(it.nbytes) && it.refcount == 2 {
		it.setCas(cas)
		data := it.data()[:it.nbytes-2]
		copy(data, digits)
		for i := res; i < len(data); i++ {
			data[i] = ' '
		}
		doItemUpdate(it)
		return it
	}
	newIt := doItemAlloc(it.key(), hv, it.clientFlags(), it.exptime, res+2)
	if newIt == nil {
		return nil
	}
	newIt.itFlags |= it.itFlags & itemKeyBinary
	copy(newIt.data(), digits)
	copy(newIt.data()[res:], "\r\n")
	doItemReplace(it, newIt, hv, cas)
	doItemRemove(it)
	return newIt
}

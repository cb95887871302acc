// Items by their keys: the locks and the commands that store. From thread.c,
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

// itemLock must be held for an item before any modification of its hash
// bucket, or of the item itself. The order of locks is
//
//	maintenanceLock
//	slabRebal.lock
//	lruMaintainer.lock
//	lruCrawler.moves
//	workerHangLock, then initLock: pauseThreads takes all of these
//	lruCrawler.lock, or bumpBufLock
//	item lock
//	lock of an LRU, or of a bump buffer
//	lock of crawlerExpiredData
//	slabsLock
//	statsLock, tuneLock, or the lock of a logger, of a worker's stats, or of a
//	connQueue
//
// and nobody waits for a second lock on the same line. loggerStack.lock is
// taken with no other held, and only those of the last line within.
//
// LRU modifications must hold the item lock, and the LRU's. Who comes to an
// item from an LRU, or from a page, has the later lock already: itemTrylock
// with the item's lock field (which does not change while it is allocated),
// before looking at anything but its links. While the LRU is locked an item
// on it can't be freed.
//
// An item that is not linked yet belongs to who allocated it. A reference
// keeps a linked one from being freed, and its key and value from being
// changed, so those may be read without the lock. All else changes as ever,
// itFlags too: data() and schunk() are for who has the lock, what they return
// for who has a reference. refcount itself is under the item lock.
var itemLocks []sync.Mutex

// What comparing uniques comes to.
type casResult int

const (
	casNone casResult = iota // the client does not ask
	casMatch
	casBadval
	casStaleval // too old, but may be stored as stale
)

// More references than this to one item are refused, since they are counted
// in 16 bits.
const itRefcountLimit = 60000

func itemLock(hv uint32) { itemLocks[hv&uint32(len(itemLocks)-1)].Lock() }

// itemTrylock returns the lock, or nil if it is held.
func itemTrylock(hv uint32) *sync.Mutex {
	lock := &itemLocks[hv&uint32(len(itemLocks)-1)]
	if lock.TryLock() {
		return lock
	}
	return nil
}

func itemTrylockUnlock(lock *sync.Mutex) { lock.Unlock() }

func itemUnlock(hv uint32) { itemLocks[hv&uint32(len(itemLocks)-1)].Unlock() }

// itemLocksInit makes locks for that many workers. The hash table must have
// more buckets.
func itemLocksInit(nthreads int) {
	// Want a wide lock table, but don't waste memory.
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

// itemAlloc allocates an item. It takes its own locks.
func itemAlloc(key []byte, flags uint32, exptime relTime, nbytes int) *item {
	return doItemAlloc(key, hash(key), flags, exptime, nbytes)
}

// itemGet returns an item with a reference if it hasn't expired.
func itemGet(key []byte, t *thread, doUpdate bool) *item {
	hv := hash(key)
	itemLock(hv)
	it := doItemGet(key, hv, t, doUpdate)
	itemUnlock(hv)
	return it
}

// itemGetLocked returns with the item lock held, even if there is no item,
// so that the caller can put one there.
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

// itemForget takes the item of a key, if there is one, out of the cache: a
// set that fails leaves nothing stale behind.
func itemForget(key []byte, t *thread) {
	it, hv := itemGetLocked(key, t, dontUpdate)
	if it != nil {
		doItemUnlink(it, hv)
		doItemRemove(it)
	}
	itemUnlock(hv)
}

// addDelta does arithmetic on a numeric value. It writes the new one into
// buf, n digits.
func addDelta(t *thread, key []byte, incr bool, delta uint64, buf []byte, cas *uint64) (n int, ret deltaResultType) {
	hv := hash(key)
	itemLock(hv)
	n, ret = doAddDelta(t, key, incr, delta, buf, cas, hv, nil)
	itemUnlock(hv)
	return n, ret
}

// storeItem stores an item with the semantics of comm. The caller keeps its
// reference.
func storeItem(it *item, comm int, t *thread, nbytes *int, cas *uint64, casIn uint64, casStale bool) storeItemType {
	hv := hash(it.key())
	itemLock(hv)
	ret := doStoreItem(it, comm, t, hv, nbytes, cas, casIn, casStale)
	itemUnlock(hv)
	return ret
}

// realtime converts a date, or a number of seconds of up to a month, to
// relTime. 0 stays 0: never. A date before the server started becomes 1, which
// has passed, too, and so has this second's. One later than relTime can say
// becomes the latest.
func realtime(exptime int64) relTime {
	now := currentTime.Load()
	switch {
	case exptime == 0:
		return 0
	case exptime <= realtimeMaxdelta:
		return relTime(exptime) + now
	case exptime <= processStarted:
		return 1
	case exptime == processStarted+int64(now):
		return now - 1
	}
	return relTime(min(exptime-processStarted, math.MaxUint32))
}

// exptimeToPositiveTime makes times that have passed expire at once, even
// those which would wrap.
func exptimeToPositiveTime(exptime int64) int64 {
	if exptime < 0 {
		return realtimeMaxdelta + 1
	}
	return exptime
}

// storeItemCopyChunks appends the first n bytes of sIt's value to dIt's,
// which is chunked. It fails if there is no memory.
func storeItemCopyChunks(dIt, sIt *item, n int) bool {
	dch := dIt.schunk()
	for dch.size == dch.used && dch.next != 0 {
		dch = dch.next.chunk()
	}
	if sIt.itFlags&itemChunked == 0 {
		return storeItemCopyBytes(&dch, sIt.data()[:n], 0)
	}
	for sch := sIt.schunk(); n > 0; sch = sch.next.chunk() {
		b := sch.data()[:min(int(sch.used), n)]
		n -= len(b)
		if !storeItemCopyBytes(&dch, b, n) {
			return false
		}
	}
	return true
}

// storeItemCopyBytes fills chunks from *dch on to capacity with b. When it
// chains another it makes it large enough for remain more bytes.
func storeItemCopyBytes(dch **itemChunk, b []byte, remain int) bool {
	for len(b) > 0 {
		ch := *dch
		if ch.used == ch.size {
			if ch = doItemAllocChunk(ch, len(b)+remain); ch == nil {
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
// order that comm asks for; the \r\n of the first is dropped.
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

// storeItemCopyOut fills b from it, which may be chunked even if the item
// that b is of is not: that has the flags of the old one, and so no room for
// them if they are 0.
func storeItemCopyOut(b []byte, it *item) {
	if it.itFlags&itemChunked == 0 {
		copy(b, it.data())
		return
	}
	for ch := it.schunk(); len(b) > 0; ch = ch.next.chunk() {
		b = b[copy(b, ch.data()[:ch.used]):]
	}
}

// doStoreItem stores it as comm says. If the item has a unique set it is
// what the client expects; casIn becomes the new one. *nbytes is set to the
// size that an append or prepend results in, *cas to the unique of what is
// stored; both may be nil.
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
			doItemReplace(oldIt, it, hv, casIn)
		}
		doItemRemove(oldIt) // release our reference
	} else {
		switch comm {
		case nreadAdd, nreadSet, nreadAppendviv, nreadPrependviv:
			doItemLink(it, hv, casIn)
			ret = stored
		case nreadCas:
			ret = notFound // LRU expired
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
		doItemRemove(newIt) // linked by now
	}
	return ret
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

// doStoreOver is the part of doStoreItem for a key that is there: it returns
// stored if it is to replace oldIt. An append or prepend returns the item to
// do it with.
func doStoreOver(it, oldIt *item, comm int, t *thread, hv uint32, casStale bool) (ret storeItemType, newIt *item) {
	res := casCompare(it, oldIt, casStale)
	switch comm {
	case nreadAdd:
		// add only adds a nonexistent item, but promote to head of LRU
		doItemUpdate(oldIt)
		return notStored, nil

	case nreadCas:
		switch res {
		case casMatch:
			// They may belong to different classes: the statistics are for
			// the one that's getting pushed out.
			t.stats.slab(oldIt, slabCasHits)
			return stored, nil
		case casStaleval:
			// The value is replaced, but TTL and marks are preserved.
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

// limitedGet looks for an item, on behalf of a get or of a touch that sets
// its time to exptime, and counts that. It returns with the item lock held,
// even if there is no item. One with too many references is not there.
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

// limitedGetLocked is itemGetLocked, but with too many references to the item
// it returns overflow and no lock.
func limitedGetLocked(key []byte, t *thread, doUpdate bool) (it *item, hv uint32, overflow bool) {
	it, hv = itemGetLocked(key, t, doUpdate)
	if it != nil && it.refcount > itRefcountLimit {
		doItemRemove(it)
		itemUnlock(hv)
		return nil, hv, true
	}
	return it, hv, false
}

// doAddDelta adds delta to a numeric value, or subtracts it. If *cas is not 0
// it must be the item's unique; it is set to the new one. The digits of the
// new value go to buf. With itRet the caller gets the item with a reference.
func doAddDelta(t *thread, key []byte, incr bool, delta uint64, buf []byte, cas *uint64, hv uint32, itRet **item) (n int, ret deltaResultType) {
	it := doItemGet(key, hv, t, dontUpdate)
	if it == nil {
		return 0, deltaItemNotFound
	}
	// Can't delta zero byte values. 2-byte are the "\r\n". Also can't delta
	// for chunked items: too large to be a number.
	if it.nbytes <= 2 || it.itFlags&itemChunked != 0 {
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

// doReplaceValue sets the value of an item to these digits, and gives it a
// new unique: in place, or by putting another in its place if there is no
// room or someone else holds a reference. It returns the item that has the
// value now, to which the caller's reference has moved, or nil if there is no
// memory.
func doReplaceValue(it *item, hv uint32, digits []byte) *item {
	cas := uint64(0)
	if settings.useCas {
		cas = getCasId()
	}
	res := len(digits)
	// refcount 2 means that it is linked, and we are the only ones.
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

// The item and the chunk as they lie in the arena, and the refs that link
// them. From memcached.h: struct _stritem, struct _strchunk and the ITEM_
// macros. Only mem*.go and raw.go import unsafe.

package main

import (
	"encoding/binary"
	"unsafe"
)

// A ref is the place of an item or chunk in the arena, in units of
// 1<<refShift bytes from memBase; 0 is C's NULL. Not as in C: half the size
// of a pointer, and nothing that the collector would follow.
type ref uint32

const refSize = int(unsafe.Sizeof(ref(0)))

// The arena. Set once at start, before there is a second thread.
var (
	memBase  unsafe.Pointer
	memSize  int      // bytes reserved
	memOpen  int      // bytes at the front that may be used; slabsLock
	refShift uint = 3 // log2 of the unit, as is the alignment of all chunks
)

// Seconds since processStarted.
type relTime = uint32

// Flags of an item.
const (
	itemLinked    = 1 << iota // in the hash table and an LRU
	itemCas                   // has the 8 bytes of a unique
	itemSlabbed               // C's mark of a free chunk; here its lock field says so
	itemFetched               // fetched at least once in its life
	itemActive                // fetched again since; cleared by the LRU's shuffling
	itemChunked               // the value is in a chain of chunks
	itemChunk_                // C's mark of an itemChunk; here its lock field says so
	itemHdr                   // C's mark of a value in extstore; never set here
	itemCflags                // has the 4 bytes of client flags
	itemTokenSent             // some client was told to recache it
	itemTokenReserved
	itemStale     // marked stale by a meta command
	itemKeyBinary // the key came in base64
)

// An item is followed by: 8 bytes of unique if itemCas, the key and a blank,
// 4 bytes of client flags if itemCflags, and the value with its \r\n, or an
// itemChunk if itemChunked.
type item struct {
	next, prev ref // LRU, or free list; the lock of that LRU, or slabsLock
	// The rest belongs to who holds the item's lock.
	hNext      ref     // hash chain
	time       relTime // of the last access
	exptime    relTime // 0 for never
	nbytes     int32   // size of the value, \r\n included
	refcount   uint16
	itFlags    uint16
	slabsClsid uint8 // slab class, and which of its LRUs in the two high bits
	nkey       uint8
	lock       uint16 // which item lock; slabsLock. See slabs.go
}

// An itemChunk is the header of one piece of a chunked item's value. The
// fields from refcount on lie where item has them.
type itemChunk struct {
	next, prev ref   // the item's chain; the first chunk lies inside the item
	head       ref   // the item
	size       int32 // bytes of room
	used       int32
	_          int32
	refcount   uint16
	itFlags    uint16
	slabsClsid uint8
	origClsid  uint8 // in the first chunk: the class that the item itself is from
	lock       uint16
}

const (
	itemSize      = int(unsafe.Sizeof(item{}))
	itemChunkSize = int(unsafe.Sizeof(itemChunk{}))
)

func (r ref) item() *item {
	if r == 0 {
		return nil
	}
	return (*item)(unsafe.Add(memBase, uintptr(r)<<refShift))
}

func (r ref) chunk() *itemChunk {
	if r == 0 {
		return nil
	}
	return (*itemChunk)(unsafe.Add(memBase, uintptr(r)<<refShift))
}

// inArena tells whether r, which may have been read from what has made way for
// a value, can be looked at.
func (r ref) inArena() bool { return r != 0 && uintptr(r)<<refShift < uintptr(memSize) }

func (it *item) ref() ref {
	if it == nil {
		return 0
	}
	return ref((uintptr(unsafe.Pointer(it)) - uintptr(memBase)) >> refShift)
}

func (ch *itemChunk) ref() ref { return ch.item().ref() }

// item views a chunk as the item that it is to the slab allocator.
func (ch *itemChunk) item() *item { return (*item)(unsafe.Pointer(ch)) }

// chunk views an item as the chunk that it is once it is flagged so.
func (it *item) chunk() *itemChunk { return (*itemChunk)(unsafe.Pointer(it)) }

// offset returns the n bytes at off from the start of the item.
func (it *item) offset(off, n int) []byte {
	return unsafe.Slice((*byte)(unsafe.Add(unsafe.Pointer(it), off)), n)
}

// keyOff, flagsOff and dataOff are the distances in bytes from the start of
// the item to what follows its header. All items have a unique or none has,
// so the key can be found without looking at itFlags, and so without lock.
func (it *item) keyOff() int {
	if settings.useCas {
		return itemSize + 8
	}
	return itemSize
}

func (it *item) flagsOff() int { return it.keyOff() + int(it.nkey) + 1 }

func (it *item) dataOff() int {
	if it.itFlags&itemCflags != 0 {
		return it.flagsOff() + 4
	}
	return it.flagsOff()
}

func (it *item) key() []byte { return it.offset(it.keyOff(), int(it.nkey)) }

func (it *item) setKey(key []byte) {
	b := it.offset(it.keyOff(), len(key)+1)
	copy(b, key)
	b[len(key)] = ' '
}

// data is the value with its \r\n; not for a chunked item.
func (it *item) data() []byte { return it.offset(it.dataOff(), int(it.nbytes)) }

// peek looks at the second to the fourth cache line of the item.
func (it *item) peek() byte {
	const cacheLine = 64
	b := it.offset(0, 4*cacheLine)
	return b[cacheLine] + b[2*cacheLine] + b[3*cacheLine]
}

// peekLinks looks at the neighbours in the LRU.
func (it *item) peekLinks() (sum byte) {
	for _, r := range [2]ref{it.prev, it.next} {
		if r.inArena() {
			sum += r.item().nkey
		}
	}
	return sum
}

func (it *item) cas() uint64 {
	if it.itFlags&itemCas == 0 {
		return 0
	}
	return *(*uint64)(unsafe.Add(unsafe.Pointer(it), itemSize))
}

func (it *item) setCas(v uint64) {
	if it.itFlags&itemCas != 0 {
		*(*uint64)(unsafe.Add(unsafe.Pointer(it), itemSize)) = v
	}
}

// clientFlags is FLAGS_CONV.
func (it *item) clientFlags() uint32 {
	if it.itFlags&itemCflags == 0 {
		return 0
	}
	return binary.LittleEndian.Uint32(it.offset(it.flagsOff(), 4))
}

func (it *item) setClientFlags(v uint32) {
	if it.itFlags&itemCflags != 0 {
		binary.LittleEndian.PutUint32(it.offset(it.flagsOff(), 4), v)
	}
}

// ntotal is the size in bytes of the item with all that follows it, as if
// the value were not chunked.
func (it *item) ntotal() int { return it.dataOff() + int(it.nbytes) }

func (it *item) clsid() uint8 { return it.slabsClsid &^ (3 << 6) }

func (it *item) lruid() uint8 { return it.slabsClsid & (3 << 6) }

// schunk is the first chunk of a chunked item, inside the item itself.
func (it *item) schunk() *itemChunk {
	return (*itemChunk)(unsafe.Add(unsafe.Pointer(it), memAlign(it.dataOff())))
}

// data is the room of the chunk, of which the first used bytes are filled.
func (ch *itemChunk) data() []byte {
	return unsafe.Slice((*byte)(unsafe.Add(unsafe.Pointer(ch), itemChunkSize)), int(ch.size))
}

// memAlign rounds n up to the unit of refs.
func memAlign(n int) int {
	unit := 1 << refShift
	return (n + unit - 1) &^ (unit - 1)
}

// memBytes is the n bytes of the arena at off.
func memBytes(off, n int) []byte {
	return unsafe.Slice((*byte)(unsafe.Add(memBase, off)), n)
}

// memItem is the item that starts off bytes into the arena.
func memItem(off int) *item { return (*item)(unsafe.Add(memBase, off)) }

// memOff undoes memItem.
func memOff(it *item) int { return int(uintptr(unsafe.Pointer(it)) - uintptr(memBase)) }

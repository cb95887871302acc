// The layout of items and chunks in the arena, and the refs that link them.
// From memcached.h: struct _stritem, struct _strchunk and the ITEM_ macros.
// Outside the tests only mem*.go and raw.go import unsafe.

package main

import (
	"encoding/binary"
	"unsafe"
)

// A ref locates an item or chunk in the arena: its distance from memBase in
// units of 1<<refShift bytes; 0 is C's NULL. It is half the size of C's pointer, and
// the collector does not follow it.
type ref uint32

const hugePage = 2 << 20 // bytes; the arena grows in steps of this size

const refSize = int(unsafe.Sizeof(ref(0)))

// The arena. All but memOpen are set once at start, before there is a second
// thread.
var (
	memBase  unsafe.Pointer
	memSize  int       // bytes reserved
	memOpen  int       // bytes at the front that are usable; guarded by slabsLock
	refShift uint = 3  // log2 of the unit of refs, to which all chunks are aligned
	memFd         = -1 // the file of -e
)

// Seconds since processStarted.
type relTime = uint32

// Flags of an item.
const (
	itemLinked    = 1 << iota // in the hash table and an LRU
	itemCas                   // has a CAS unique, 8 bytes
	itemSlabbed               // a free chunk in C; here the lock field says so
	itemFetched               // fetched at least once in its life
	itemHit                   // the low bit of itemActive
	_                         // and the high one
	itemChunked               // the value is in a chain of chunks
	itemChunk_                // an itemChunk in C; here the lock field says so
	itemHdr                   // the value is in extstore; an itemHdrT locates it
	itemCflags                // has client flags, 4 bytes
	itemTokenSent             // a client has been told to recache it
	itemTokenReserved
	itemStale     // marked stale by a meta command
	itemKeyBinary // the key came in base64
	itemFlagsEnd
)

// itemActive is the number of hits since the item came to its LRU, counted up to 3.
const itemActive = 3 * itemHit

// Flags that an item may have if its value is in memory.
const itemMemoryFlags = (itemFlagsEnd - 1) &^ (itemSlabbed | itemChunk_ | itemHdr | itemTokenReserved)

// Flags that an item keeps when its value goes to extstore and comes back: all but
// the flags that say how it is stored or how much it was used.
const itemPreserveFlags = (itemFlagsEnd - 1) &^
	(itemLinked | itemCas | itemSlabbed | itemActive | itemChunked | itemChunk_ | itemHdr | itemCflags | itemTokenReserved)

// An itemHdrT locates a value in extstore.
type itemHdrT struct {
	pageVersion uint32
	offset      uint32
	pageId      uint16
}

const itemHdrSize = 10 // bytes of an itemHdrT in an item

// An item is followed by its CAS unique if itemCas, the key and a space, the
// client flags if itemCflags, and the value with its \r\n, or an itemChunk if
// itemChunked, or an itemHdrT if itemHdr.
type item struct {
	next, prev ref // of the LRU or free list; guarded by that LRU's lock, or by slabsLock when free
	// The rest, except lock, is guarded by the item lock.
	hNext      ref     // hash chain
	time       relTime // of the last access; see itemTime
	exptime    relTime // 0 for never
	nbytes     int32   // size of the value with its \r\n, in memory or in extstore
	refcount   uint16
	itFlags    uint16
	slabsClsid uint8 // slab class; the two high bits select one of its LRUs
	nkey       uint8
	lock       uint16 // number of the item lock; guarded by slabsLock, see slabs.go
}

// An itemChunk is the header of one piece of a chunked item's value. Its fields from
// refcount on are at the same offsets as in item.
type itemChunk struct {
	next, prev ref   // in the item's chain, whose first chunk lies inside the item
	head       ref   // the item
	size       int32 // capacity in bytes
	used       int32 // bytes filled
	_          int32
	refcount   uint16
	itFlags    uint16
	slabsClsid uint8
	origClsid  uint8 // in the first chunk: the slab class of the item itself
	lock       uint16
}

const (
	itemSize      = int(unsafe.Sizeof(item{}))
	itemChunkSize = int(unsafe.Sizeof(itemChunk{}))

	// Where the part of an item that is written to extstore, and checksummed, starts:
	// after the links and times. In bytes.
	storeOffset = int(unsafe.Offsetof(item{}.nbytes))
)

func (r ref) item() *item {
	if r == 0 {
		return nil
	}
	return (*item)(unsafe.Add(memBase, uintptr(r)<<refShift))
}

func (r ref) chunk() *itemChunk { return r.item().chunk() }

// inArena reports whether r can be followed. r may be garbage: a racy read of a
// chunk that was reused for a value.
func (r ref) inArena() bool { return r != 0 && uintptr(r)<<refShift < uintptr(memSize) }

func (it *item) ref() ref {
	if it == nil {
		return 0
	}
	return ref((uintptr(unsafe.Pointer(it)) - uintptr(memBase)) >> refShift)
}

func (ch *itemChunk) ref() ref { return ch.item().ref() }

// item views a chunk as an item, as slabs.go does with every chunk.
func (ch *itemChunk) item() *item { return (*item)(unsafe.Pointer(ch)) }

// chunk undoes itemChunk.item.
func (it *item) chunk() *itemChunk { return (*itemChunk)(unsafe.Pointer(it)) }

// offset returns the n bytes that begin off bytes into the item.
func (it *item) offset(off, n int) []byte {
	return unsafe.Slice((*byte)(unsafe.Add(unsafe.Pointer(it), off)), n)
}

// keyOff, flagsOff and dataOff are offsets in bytes from the start of the
// item. Either all items have a CAS unique or none has, so the key can be
// found without reading itFlags, and thus without the lock.
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

// data is the value with its \r\n; not for chunked items, nor with itemHdr.
func (it *item) data() []byte { return it.offset(it.dataOff(), int(it.nbytes)) }

// peek prefetches the item's second to fourth cache lines by reading a byte
// of each.
func (it *item) peek() byte {
	const cacheLine = 64
	b := it.offset(0, 4*cacheLine)
	return b[cacheLine] + b[2*cacheLine] + b[3*cacheLine]
}

// peekLinks prefetches the item's neighbours in its LRU.
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

// clientFlags is C's FLAGS_CONV.
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

// hdr locates the value of an item with itemHdr.
func (it *item) hdr() itemHdrT {
	b := it.offset(it.dataOff(), itemHdrSize)
	le := binary.LittleEndian
	return itemHdrT{le.Uint32(b), le.Uint32(b[4:]), le.Uint16(b[8:])}
}

func (it *item) setHdr(hdr itemHdrT) {
	b := it.offset(it.dataOff(), itemHdrSize)
	le := binary.LittleEndian
	le.PutUint32(b, hdr.pageVersion)
	le.PutUint32(b[4:], hdr.offset)
	le.PutUint16(b[8:], hdr.pageId)
}

// ntotal is the size in bytes of the item and all that follows it, as if the
// value were neither chunked nor in extstore.
func (it *item) ntotal() int { return it.dataOff() + int(it.nbytes) }

// memTotal is ntotal without a value that is in extstore.
func (it *item) memTotal() int {
	if it.itFlags&itemHdr != 0 {
		return it.dataOff() + itemHdrSize
	}
	return it.ntotal()
}

func (it *item) clsid() uint8 { return it.slabsClsid &^ (3 << 6) }

func (it *item) lruid() uint8 { return it.slabsClsid & (3 << 6) }

// schunk is the first chunk of a chunked item, inside the item itself.
func (it *item) schunk() *itemChunk {
	return (*itemChunk)(unsafe.Add(unsafe.Pointer(it), memAlign(it.dataOff())))
}

// itemParts locates the value of an item in memory, for readers without its lock.
type itemParts struct {
	data  []byte     // if the item is not chunked
	chunk *itemChunk // the first chunk if it is
}

func (it *item) value() itemParts {
	if it.itFlags&itemChunked == 0 {
		return itemParts{data: it.data()}
	}
	return itemParts{chunk: it.schunk()}
}

// parts calls yield for each part of the n bytes of the value that start at off. If
// yield returns false, parts stops and returns false.
func (v itemParts) parts(off, n int, yield func([]byte) bool) bool {
	if v.chunk == nil {
		return n == 0 || yield(v.data[off:off+n])
	}
	for ch := v.chunk; ch != nil && n > 0; ch = ch.next.chunk() {
		used := int(ch.used)
		if off < used {
			b := ch.data()[off:min(used, off+n)]
			if !yield(b) {
				return false
			}
			n -= len(b)
		}
		off = max(0, off-used)
	}
	return true
}

// data is the chunk's whole capacity; the first used bytes are filled.
func (ch *itemChunk) data() []byte {
	return unsafe.Slice((*byte)(unsafe.Add(unsafe.Pointer(ch), itemChunkSize)), int(ch.size))
}

// memAlign rounds n up to the unit of refs.
func memAlign(n int) int {
	unit := 1 << refShift
	return (n + unit - 1) &^ (unit - 1)
}

// memBytes returns the n bytes that begin off bytes into the arena.
func memBytes(off, n int) []byte {
	return unsafe.Slice((*byte)(unsafe.Add(memBase, off)), n)
}

// memItem returns the item that starts off bytes into the arena.
func memItem(off int) *item { return (*item)(unsafe.Add(memBase, off)) }

// memOff undoes memItem.
func memOff(it *item) int { return int(uintptr(unsafe.Pointer(it)) - uintptr(memBase)) }

// bufItem views the start of a record of extstore as the item that was written
// there.
func bufItem(b []byte) *item { return (*item)(unsafe.Pointer(&b[0])) }

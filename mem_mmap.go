//go:build !race

// Where memory comes from: the arena of slab pages and the hash tables are
// mapped outside Go's heap, where the collector never looks. With -e the file's
// bytes from slabsStart on are those of the arena.

package main

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	memRoom  = 32 << 30 // least number of bytes to reserve, if possible
	memSpare = 80 << 20 // bytes of address space to leave for Go's heap, which grows by 64 MB
)

// memPeek: a prefetch may read unlocked memory; the value is discarded.
const memPeek = true

var (
	arena   []byte // the whole mapping
	memHuge int    // bytes at the front of the arena that may have huge pages
)

// memReserve unmaps any earlier arena and reserves size bytes of address space
// for a new one, none of it writable yet. Address space costs nothing: size may
// be many times what will be used. For memPeek the arena and at least one page
// after it are readable; a stale ref may point further. Once memBase is set,
// nothing in the arena moves.
func memReserve(size int) error {
	if arena != nil {
		unix.Munmap(arena)
		arena = nil
	}
	reserve := func(size int) ([]byte, error) {
		return unix.Mmap(-1, 0, size, unix.PROT_READ, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_NORESERVE)
	}
	spare, err := reserve(memSpare)
	if err != nil {
		return err
	}
	b, err := reserve(size + hugePage)
	unix.Munmap(spare)
	if err != nil {
		return err
	}
	arena = b
	skip := -uintptr(unsafe.Pointer(&b[0])) & (hugePage - 1)
	memBase = unsafe.Pointer(&b[skip])
	memSize = size
	memOpen, memHuge = 0, hugePage
	return nil
}

// memOpenTo makes the first n bytes of the arena writable. It fails if that is
// more than was reserved, or if the system refuses. slabsLock is held, except
// at start.
func memOpenTo(n int) error {
	if n > memSize {
		return unix.ENOMEM
	}
	if n <= memOpen {
		return nil
	}
	n = (n + hugePage - 1) &^ (hugePage - 1)
	b := memBytes(memOpen, n-memOpen)
	err := error(nil)
	if memFd >= 0 && memOpen >= slabsStart {
		err = memMapFile(b, memOpen)
	} else {
		err = unix.Mprotect(b, unix.PROT_READ|unix.PROT_WRITE)
	}
	if err != nil {
		return err
	}
	memOpen = n
	return nil
}

// memHugeTo allows huge pages in the first n bytes of the arena, which are in use.
// Memory is new with small pages, because zeroing a huge one can take milliseconds: in
// virtual machines whose memory is given when it is touched. The kernel merges them
// into huge pages later, in the background. The first huge page stays small: it holds
// little but the crawlers' items. slabsLock is held, except at start.
func memHugeTo(n int) {
	if n = min(n, memSize) &^ (hugePage - 1); memHuge < n {
		unix.Madvise(memBytes(memHuge, n-memHuge), unix.MADV_HUGEPAGE)
		memHuge = n
	}
}

// memMapFile maps the file's bytes at off to b. It first allocates all of them:
// touching a page that a full disk has no room for would end the process.
func memMapFile(b []byte, off int) error {
	if data, err := unix.Seek(memFd, int64(off), unix.SEEK_HOLE); err != nil || data < int64(off+len(b)) {
		if err := fallocate(memFd, 0, off, len(b)); err != nil {
			return err
		}
	}
	_, err := unix.MmapPtr(memFd, int64(off), unsafe.Pointer(&b[0]), uintptr(len(b)),
		unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_FIXED)
	return err
}

// memFromFile puts the first n bytes of the file into the arena.
func memFromFile(n int) error { return memOpenTo(n) }

// memToFile makes sure that the file has the first n bytes of the arena. The mapping
// has put them there. C waits until a disk has them as well; here checksums show
// whether all of it is there when the file is restored.
func memToFile(n int) error { return nil }

// memPopulate prefaults b, to make reading all of it quicker.
func memPopulate(b []byte) { unix.Madvise(b, unix.MADV_POPULATE_READ) }

// memDiscard returns the memory of b to the system; b then reads as zeroes.
func memDiscard(b []byte) {
	if unix.Madvise(b, unix.MADV_DONTNEED) != nil {
		clear(b) // locked memory (-k) cannot be returned
	}
}

// tableAlloc returns a hash table of n zeroes.
func tableAlloc[T ref | uint64](n int) ([]T, error) {
	b, err := bufAlloc(n * int(unsafe.Sizeof(T(0))))
	if err != nil {
		return nil, err
	}
	if len(b) >= hugePage {
		unix.Madvise(b, unix.MADV_HUGEPAGE)
	}
	return unsafe.Slice((*T)(unsafe.Pointer(&b[0])), n), nil
}

func tableBytes[T ref | uint64](t []T) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(&t[0])), len(t)*int(unsafe.Sizeof(t[0])))
}

// tableTouch prefaults t for writing.
func tableTouch(t []ref) { unix.Madvise(tableBytes(t), unix.MADV_POPULATE_WRITE) }

// tableFree undoes tableAlloc.
func tableFree[T ref | uint64](t []T) { bufFree(tableBytes(t)) }

// tableDiscard returns the memory of a table that may still be in use.
func tableDiscard(t []uint64) { unix.Madvise(tableBytes(t), unix.MADV_DONTNEED) }

// bufAlloc returns n zero bytes, aligned to a page, outside Go's heap. bufFree
// frees them.
func bufAlloc(n int) ([]byte, error) {
	return unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
}

// bufFree undoes bufAlloc. It does nothing if b is nil.
func bufFree(b []byte) { unix.Munmap(b) }

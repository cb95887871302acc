//go:build !race

// Where memory comes from: the arena of slab pages and the hash tables are
// mapped outside Go's heap, where the collector never looks.

package main

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	hugePage = 2 << 20  // bytes; the arena grows in steps of this size
	memRoom  = 32 << 30 // bytes to reserve at least, if possible
	memSpare = 80 << 20 // bytes of address space to leave for Go's heap, which grows by 64 MB
)

// memPeek: a prefetch may read unlocked memory; the value is discarded.
const memPeek = true

var arena []byte // the whole mapping

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
	memOpen = 0
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
	if err := unix.Mprotect(b, unix.PROT_READ|unix.PROT_WRITE); err != nil {
		return err
	}
	if memOpen > 0 {
		// Not for the first huge page: it holds little but the crawlers' items.
		unix.Madvise(b, unix.MADV_HUGEPAGE)
	}
	memOpen = n
	return nil
}

// memDiscard returns the memory of b to the system; b then reads as zeroes.
func memDiscard(b []byte) {
	if unix.Madvise(b, unix.MADV_DONTNEED) != nil {
		clear(b) // locked memory (-k) cannot be returned
	}
}

// refsAlloc returns n zero refs, for a hash table.
func refsAlloc(n int) ([]ref, error) {
	b, err := unix.Mmap(-1, 0, n*refSize, unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return nil, err
	}
	if len(b) >= hugePage {
		unix.Madvise(b, unix.MADV_HUGEPAGE)
	}
	return unsafe.Slice((*ref)(unsafe.Pointer(&b[0])), n), nil
}

// refsFree undoes refsAlloc.
func refsFree(r []ref) {
	unix.Munmap(unsafe.Slice((*byte)(unsafe.Pointer(&r[0])), len(r)*refSize))
}

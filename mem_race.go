//go:build race

// The arena and the hash tables on Go's heap, where the race detector sees
// them. Stands in for mem_mmap.go.

package main

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

const memRoom = 192 << 20 // bytes to reserve at least

const memPeek = false

// memReserve allocates the whole arena at once, so callers ask for little.
func memReserve(size int) error {
	b := make([]uint64, (size+7)/8)
	memBase = unsafe.Pointer(&b[0])
	memSize = size
	memOpen = size
	return nil
}

func memOpenTo(n int) error {
	if n > memSize {
		return unix.ENOMEM
	}
	return nil
}

func memDiscard(b []byte) { clear(b) }

func refsAlloc(n int) ([]ref, error) { return make([]ref, n), nil }

func refsFree(r []ref) {}

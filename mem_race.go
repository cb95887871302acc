//go:build race

// The arena and the hash tables on Go's heap, where the race detector sees
// them. Stands in for mem_mmap.go. The file of -e is read at the start and
// written at the end.

package main

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

const memRoom = 192 << 20 // least number of bytes to reserve

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

func memHugeTo(n int) {}

// memFromFile reads what mem_mmap.go would map.
func memFromFile(n int) error {
	if n > memSize {
		return unix.ENOMEM
	}
	for off := slabsStart; off < n; {
		got, err := unix.Pread(memFd, memBytes(off, n-off), int64(off))
		if err == nil && got == 0 {
			err = unix.EIO
		}
		if err != nil {
			return err
		}
		off += got
	}
	return nil
}

func memToFile(n int) error {
	for off := slabsStart; off < n; {
		wrote, err := unix.Pwrite(memFd, memBytes(off, n-off), int64(off))
		if err != nil {
			return err
		}
		off += wrote
	}
	return nil
}

func memPopulate(b []byte) {}

func memDiscard(b []byte) { clear(b) }

func tableAlloc[T ref | uint64](n int) ([]T, error) { return make([]T, n), nil }

func tableTouch(t []ref) {}

func tableFree[T ref | uint64](t []T) {}

func tableDiscard(t []uint64) {}

func bufAlloc(n int) ([]byte, error) { return make([]byte, n), nil }

func bufFree(b []byte) {}

// io_uring: all receives of a round in one system call, and all sends in
// another. epoll still says which sockets are ready, so that nothing in the ring
// ever waits. Where the kernel refuses a ring, or with -o no_io_uring, plain
// calls do the same. Not in C.

package main

import (
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// From linux/io_uring.h.
const (
	ioringSetupClamp     = 1 << 4
	ioringSetupRDisabled = 1 << 6 // disabled until ioringRegisterEnableRings
	ioringFeatSingleMmap = 1 << 0
	ioringOffSqes        = 0x10000000
	ioringEnterGetevents = 1 << 0
	ioringOpSend         = 26
	ioringOpRecv         = 27

	ioringRegisterRestrictions = 11
	ioringRegisterEnableRings  = 12
	ioringRestrictionSqeOp     = 1
)

// struct io_uring_restriction, here an operation that is allowed.
type ioUringRestriction struct {
	opcode uint16
	sqeOp  uint8
	_      [13]uint8
}

// struct io_uring_sqe, a submission.
type ioUringSqe struct {
	opcode   uint8
	flags    uint8
	ioprio   uint16
	fd       int32
	off      uint64
	addr     uint64
	len      uint32
	msgFlags uint32
	userData uint64
	_        [3]uint64
}

// struct io_uring_cqe, a completion.
type ioUringCqe struct {
	userData uint64
	res      int32
	flags    uint32
}

// struct io_uring_params.
type ioUringParams struct {
	sqEntries, cqEntries, flags, sqThreadCpu, sqThreadIdle, features, wqFd uint32

	_     [3]uint32
	sqOff struct {
		head, tail, ringMask, ringEntries, flags, dropped, array, _ uint32
		_                                                           uint64
	}
	cqOff struct {
		head, tail, ringMask, ringEntries, overflow, cqes, flags, _ uint32
		_                                                           uint64
	}
}

// A ring belongs to one worker. Only that worker's thread touches it.
type ring struct {
	fd    int
	conns []*conn // of the prepared operations, in order; userData is the index

	sqTail         *uint32
	sqMask         uint32
	sqes           []ioUringSqe
	cqHead, cqTail *uint32
	cqMask         uint32
	cqes           []ioUringCqe
}

// For fewer connections in a round, plain calls are as fast. To register the
// ring has been tried and gained nothing.
const ringLeast = 2

// ringInit makes a ring with room for a round. It returns nil if the kernel
// refuses.
func ringInit() *ring {
	p := ioUringParams{flags: ioringSetupClamp | ioringSetupRDisabled}
	fd, _, e := unix.RawSyscall(unix.SYS_IO_URING_SETUP, roundMax, uintptr(unsafe.Pointer(&p)), 0)
	if e != 0 {
		return nil
	}
	if !ringRestrict(int(fd)) {
		unix.Close(int(fd))
		return nil
	}
	r := &ring{fd: int(fd), conns: make([]*conn, 0, roundMax)}
	size := max(p.sqOff.array+4*p.sqEntries, p.cqOff.cqes+uint32(unsafe.Sizeof(ioUringCqe{}))*p.cqEntries)
	rings, err := unix.Mmap(r.fd, 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err == nil && p.features&ioringFeatSingleMmap == 0 { // before Linux 5.4
		err = unix.ENOSYS
	}
	var sqes []byte
	if err == nil {
		sqes, err = unix.Mmap(r.fd, ioringOffSqes, int(p.sqEntries)*int(unsafe.Sizeof(ioUringSqe{})),
			unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	}
	if err != nil {
		unix.Munmap(rings)
		unix.Close(r.fd)
		return nil
	}
	word := func(off uint32) *uint32 { return (*uint32)(unsafe.Pointer(&rings[off])) }
	r.sqTail, r.sqMask = word(p.sqOff.tail), *word(p.sqOff.ringMask)
	r.cqHead, r.cqTail, r.cqMask = word(p.cqOff.head), word(p.cqOff.tail), *word(p.cqOff.ringMask)
	r.sqes = unsafe.Slice((*ioUringSqe)(unsafe.Pointer(&sqes[0])), p.sqEntries)
	r.cqes = unsafe.Slice((*ioUringCqe)(unsafe.Pointer(&rings[p.cqOff.cqes])), p.cqEntries)
	for i := range p.sqEntries { // entry i of the queue always stands for sqe i
		*word(p.sqOff.array + 4*i) = i
	}
	// A filter of system calls may allow the ring to be made but not to be used.
	if _, e := ringEnter(r, 0, 0); e != 0 {
		unix.Munmap(sqes)
		unix.Munmap(rings)
		unix.Close(r.fd)
		return nil
	}
	return r
}

// ringRestrict allows only receives and sends on the ring: system call filters
// (priv.go) do not see what a ring does. It returns false before Linux 5.10.
func ringRestrict(fd int) bool {
	allowed := [...]ioUringRestriction{
		{opcode: ioringRestrictionSqeOp, sqeOp: ioringOpSend},
		{opcode: ioringRestrictionSqeOp, sqeOp: ioringOpRecv},
	}
	_, _, e := unix.RawSyscall6(unix.SYS_IO_URING_REGISTER, uintptr(fd), ioringRegisterRestrictions,
		uintptr(unsafe.Pointer(&allowed)), uintptr(len(allowed)), 0, 0)
	if e == 0 {
		_, _, e = unix.RawSyscall6(unix.SYS_IO_URING_REGISTER, uintptr(fd), ioringRegisterEnableRings, 0, 0, 0, 0)
	}
	return e == 0
}

// ringPrep prepares one operation for c: to receive into b, or to send b.
func ringPrep(r *ring, op uint8, c *conn, b []byte) {
	tail := *r.sqTail
	r.sqes[tail&r.sqMask] = ioUringSqe{
		opcode:   op,
		fd:       int32(c.sfd),
		addr:     uint64(uintptr(unsafe.Pointer(&b[0]))), // it stays there: Go's collector moves nothing
		len:      uint32(len(b)),
		msgFlags: unix.MSG_DONTWAIT,
		userData: uint64(len(r.conns)),
	}
	atomic.StoreUint32(r.sqTail, tail+1)
	c.io.n, c.io.e = -1, unix.EIO // unless a completion says otherwise
	r.conns = append(r.conns, c)
}

// ringEnter submits so many operations, and waits until so many completions are
// there.
func ringEnter(r *ring, submit, complete int) (int, unix.Errno) {
	flags := uintptr(0)
	if complete > 0 {
		flags = ioringEnterGetevents
	}
	n, _, e := unix.RawSyscall6(unix.SYS_IO_URING_ENTER, uintptr(r.fd), uintptr(submit), uintptr(complete), flags, 0, 0)
	return int(n), e
}

// ringSubmit runs all prepared operations and leaves each result in its conn's
// io. As none may wait, all are complete once they are submitted.
func ringSubmit(r *ring) {
	submit, left := len(r.conns), len(r.conns)
	for wait := 0; left > 0; wait = left {
		n, e := ringEnter(r, submit, wait)
		switch e {
		case 0:
			submit -= n
		case unix.EINTR, unix.EAGAIN, unix.EBUSY:
		default:
			left = 0 // conns without a completion are closed
		}
		head := *r.cqHead
		for ; head != atomic.LoadUint32(r.cqTail); head++ {
			cqe := &r.cqes[head&r.cqMask]
			io := &r.conns[cqe.userData].io
			if io.n, io.e = int(cqe.res), 0; cqe.res < 0 {
				io.n, io.e = -1, unix.Errno(-cqe.res)
			}
			left--
		}
		atomic.StoreUint32(r.cqHead, head)
	}
	clear(r.conns)
	r.conns = r.conns[:0]
}

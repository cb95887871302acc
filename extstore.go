// Files that hold values: pages, write buffers, and the threads that read and
// write. From extstore.h and extstore.c. Nothing here knows what an item is; that
// is storage.go.
//
// Each file is divided into pages. A page is a log: it is filled from front to
// end and not written again until it is free; a deleted value leaves a hole. New
// values gather in the page's write buffer, and are read from there until the
// buffer is in the file.
//
// A write that fails is tried again a few times. From the first failure on the
// page takes no more values; after the last it keeps what is in the file, and the
// values in its buffers are evicted. All other pages go on, but for some time no
// new page of the file is filled: see storeFile.

package main

import (
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Results of extstoreRead besides a number of bytes.
const (
	readFailed = -1
	readGone   = -2 // the page no longer has the value
	readAgain  = -3 // the read would block
)

const (
	writeTries  = 5 // of a buffer, a second apart
	restLongest = 6 // a file is left alone for at most 1<<restLongest seconds
)

// What callers need to know of a page to choose one to compact. The index in
// the slice is the page's id.
type extstorePageData struct {
	version    uint64 // 0 if it is free
	bytesUsed  uint64
	bucket     int
	freeBucket int
	active     bool // still being filled: not to be evicted or compacted
	failed     bool // a write failed in its current or latest use
	usable     bool // can be filled once it is free: its file is not left alone
}

// Deleted values leave holes in a page, which stay unused until the whole page
// is free. bytesFragmented is the sum of these holes and of the unfilled parts.
type extstoreStats struct {
	pageAllocs      uint64
	pageCount       int
	pageEvictions   uint64
	pageReclaims    uint64
	pageSize        int // bytes
	pagesFree       int
	pagesUsed       int
	objectsEvicted  uint64
	objectsRead     uint64
	objectsWritten  uint64
	objectsUsed     uint64
	bytesEvicted    uint64
	bytesWritten    uint64
	bytesRead       uint64
	bytesUsed       uint64
	bytesFragmented uint64
	writeErrors     uint64
	pagesFailed     int // a write failed in their current or latest use
	filesFailing    int // their latest page of either kind failed
	ioQueue         int
}

type extstoreConf struct {
	pageSize      int // bytes
	pageBuckets   int // pages that can be filled at the same time
	wbufSize      int // bytes; divides pageSize
	wbufCount     int
	ioThreadcount int
	ioDepth       int // requests that a thread takes from its queue at a time
}

type extstoreConfFile struct {
	file       string
	totalSize  uint64 // bytes
	pageCount  int
	freeBucket int // what its pages are for; 0 for anything

	fd     int
	offset int64 // of the next page to set up
}

// A storeFile is one of the files, with the recent failures of its two kinds of
// pages: 0 for pages that were not written to the end in their previous use, or
// had none; 1 for pages that were. A full disk fails the first kind, a broken disk
// both. A failed kind is left alone for 2 seconds, 4, 8 and so on between attempts.
type storeFile struct {
	name  string
	fd    int
	fails [2]atomic.Uint32 // failed pages in a row
	tryAt [2]atomic.Uint32 // no page is opened before this time
}

type objIoMode uint8

const (
	objIoRead objIoMode = iota
	objIoWrite
)

// An objIo is one read or write. From submission until cb is called, it and its
// memory belong to an I/O thread.
type objIo struct {
	next        *objIo
	data        any      // the caller's
	buf         []byte   // to read into, or to write
	iov         [][]byte // to read into, in place of buf
	pageVersion uint32
	len         int // bytes
	offset      int // in the page
	pageId      int
	mode        objIoMode
	held        bool  // counted in the page's refcount
	tries       int   // failed writes
	err         error // of the latest

	// Called by the I/O thread with the number of bytes moved; less than 1 if
	// the page no longer has the value or the system call failed.
	cb func(e *storeEngine, io *objIo, ret int)
}

// A write buffer.
type storeWbuf struct {
	next    *storeWbuf // in the engine's free list, or in the page's flushing list
	buf     []byte
	pos     int // bytes filled
	offset  int // of its first byte in the page
	flushed bool

	objCount, bytesUsed uint64 // its share of the page's counts
}

// A storePage is guarded by its mutex.
type storePage struct {
	mutex      sync.Mutex
	objCount   uint64 // live values
	bytesUsed  uint64 // their size
	offset     int64  // in the file
	version    uint32 // changes with each use; 0 while the page is free
	refcount   int    // reads that are in flight or hold the page
	allocated  int    // bytes that write buffers were allocated for so far
	written    int    // bytes in the file
	bucket     int    // what it is used for
	freeBucket int    // what it may be used for; 0 for anything
	file       *storeFile
	id         int
	active     bool // being filled, or its buffers are in flight
	filled     bool // was written to the end in its previous use
	failed     bool // a write failed: it takes no more values
	lost       bool // its write buffers were discarded
	closed     bool // to be freed once no read is in flight
	free       bool
	wbuf       *storeWbuf // being filled
	flushing   *storeWbuf // being written, oldest first
	next       *storePage // in its bucket or in the free list; guarded by the engine's mutex
}

type storeIoThread struct {
	mutex     sync.Mutex // guards the queue
	cond      sync.Cond
	queue     *objIo
	queueTail *objIo
	depth     atomic.Int64 // length of the queue; read without the mutex
}

// A storeEngine is all files together. Locks are taken in this order: maint, a
// page's mutex, mutex, then statsMutex or an I/O thread's mutex.
type storeEngine struct {
	mutex           sync.Mutex // guards the fields that name no other lock and change
	pages           []storePage
	wbufStack       *storeWbuf   // free write buffers
	ioStack         *objIo       // as many, to write them with
	pageBuckets     []*storePage // by bucket: the page being filled, then the older ones
	freePageBuckets []*storePage
	version         uint32 // of the next page
	pageFree        int

	pageSize  int
	ioThreads []storeIoThread
	bgThread  *storeIoThread // writes, and reads for compaction
	ioDepth   int

	statsMutex sync.Mutex
	stats      extstoreStats

	maint sync.Mutex // held while all pages are visited

	noNowait atomic.Bool // the system does not support RWF_NOWAIT for our files

	files     []*storeFile
	stalled   []atomic.Uint32 // by bucket: failing files leave it no room until this time
	retry     *objIo          // failed writes that will be tried again
	lastRetry relTime
}

func wbufNew(size int) (*storeWbuf, error) {
	buf, err := bufAlloc(size)
	return &storeWbuf{buf: buf}, err
}

// getIoThread returns the thread with the shortest queue.
func getIoThread(e *storeEngine) *storeIoThread {
	t := &e.ioThreads[0]
	low := t.depth.Load()
	for x := 1; x < len(e.ioThreads) && low > 0; x++ {
		if n := e.ioThreads[x].depth.Load(); n < low {
			t, low = &e.ioThreads[x], n
		}
	}
	return t
}

// nextVersion requires the engine's mutex. It skips 0, the version of a free page.
func nextVersion(e *storeEngine) uint32 {
	if e.version++; e.version == 0 {
		e.version++
	}
	return e.version
}

func extstoreGetStats(e *storeEngine) (st extstoreStats) {
	e.statsMutex.Lock()
	st = e.stats
	e.statsMutex.Unlock()
	for _, f := range e.files {
		if f.fails[0].Load()+f.fails[1].Load() > 0 {
			st.filesFailing++
		}
	}
	e.mutex.Lock()
	st.pagesFree = e.pageFree
	st.pagesUsed = len(e.pages) - e.pageFree
	e.mutex.Unlock()
	for x := range e.ioThreads {
		st.ioQueue += int(e.ioThreads[x].depth.Load())
	}
	// Pages that are open or not full count as fragmented.
	st.bytesFragmented = uint64(st.pagesUsed*e.pageSize) - st.bytesUsed
	return st
}

// extstoreGetPageData visits all pages. It frees those without live values and
// reads.
func extstoreGetPageData(e *storeEngine) []extstorePageData {
	pd := make([]extstorePageData, len(e.pages))
	e.maint.Lock()
	for i := range e.pages {
		p := &e.pages[i]
		p.mutex.Lock()
		d := &pd[i]
		d.freeBucket = p.freeBucket
		d.version = uint64(p.version)
		d.bytesUsed = p.bytesUsed
		d.active = p.active
		d.failed = p.failed
		d.usable = pageUsable(p)
		if !p.active && !p.free {
			if p.objCount > 0 && !p.closed {
				d.bucket = p.bucket
			}
			if (p.objCount == 0 || p.closed) && p.refcount == 0 {
				freePage(e, p)
			}
		}
		p.mutex.Unlock()
	}
	e.maint.Unlock()
	return pd
}

// extstoreCheckConf returns an error if cf is invalid.
func extstoreCheckConf(cf *extstoreConf) error {
	const erase = 2 << 20 // bytes
	switch {
	case cf.wbufSize <= 0 || cf.pageSize <= 0 || cf.pageSize%cf.wbufSize != 0:
		return errors.New("page_size must be divisible by wbuf_size")
	case cf.pageBuckets > cf.wbufCount:
		return errors.New("wbuf_count must be >= page_buckets")
	case cf.pageBuckets < 1:
		return errors.New("page_buckets must be > 0")
	case cf.pageSize%erase != 0 || cf.wbufSize%erase != 0:
		return errors.New("page_size and wbuf_size must be divisible by 1024*1024*2")
	}
	return nil
}

// extstoreOpen opens, locks and empties a file. Unlike C, it refuses everything
// but a regular file with one name.
func extstoreOpen(file string) (fd int, err error) {
	fd, err = unix.Open(file, unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0600)
	if err != nil {
		return -1, err
	}
	var st unix.Stat_t
	if err = unix.Fstat(fd, &st); err == nil {
		switch {
		case st.Mode&unix.S_IFMT != unix.S_IFREG:
			err = errors.New("not a regular file")
		case st.Nlink > 1:
			err = errors.New("the file has other names")
		default:
			err = unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB)
			if err == unix.EWOULDBLOCK {
				err = errors.New("the file is in use")
			}
		}
	}
	if err == nil {
		err = unix.Fchmod(fd, 0600)
	}
	if err == nil {
		err = unix.Ftruncate(fd, 0)
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// extstoreInit opens the files and starts the I/O threads.
func extstoreInit(fh []*extstoreConfFile, cf *extstoreConf) (*storeEngine, error) {
	if err := extstoreCheckConf(cf); err != nil {
		return nil, err
	}
	count := 0
	for _, f := range fh {
		if f.pageCount >= math.MaxUint16-count {
			return nil, errors.New("page_count must total to < 65536. Increase page_size or lower path sizes")
		}
		count += f.pageCount
	}
	for _, f := range fh {
		fd, err := extstoreOpen(f.file)
		if err != nil {
			return nil, fmt.Errorf("failed to open file %s: %s", f.file, strerror(err))
		}
		f.fd = fd
		f.offset = 0
	}
	e := &storeEngine{
		pages:           make([]storePage, count),
		stalled:         make([]atomic.Uint32, cf.pageBuckets),
		pageSize:        cf.pageSize,
		pageFree:        count,
		pageBuckets:     make([]*storePage, cf.pageBuckets),
		freePageBuckets: make([]*storePage, cf.pageBuckets),
		stats:           extstoreStats{pageCount: count, pageSize: cf.pageSize},
		ioDepth:         max(cf.ioDepth, 1),
		ioThreads:       make([]storeIoThread, max(cf.ioThreadcount, 1)),
		bgThread:        new(storeIoThread),
	}
	extstorePages(e, fh)
	for range cf.wbufCount {
		w, err := wbufNew(cf.wbufSize)
		if err != nil {
			return nil, errors.New("failed calloc for engine")
		}
		w.next, e.wbufStack = e.wbufStack, w
		e.ioStack = &objIo{next: e.ioStack}
	}
	for i := range e.ioThreads {
		t := &e.ioThreads[i]
		t.cond.L = &t.mutex
		go extstoreIoThread(e, t)
	}
	e.bgThread.cond.L = &e.bgThread.mutex
	go extstoreIoThread(e, e.bgThread)
	return e, nil
}

// extstorePages sets up the pages, alternating between the files.
func extstorePages(e *storeEngine, fh []*extstoreConfFile) {
	left := make([]int, len(fh))
	for x, f := range fh {
		left[x] = f.pageCount
		e.files = append(e.files, &storeFile{name: f.file, fd: f.fd})
	}
	x := 0
	for i := range e.pages {
		for left[x] == 0 {
			x = (x + 1) % len(fh)
		}
		f := fh[x]
		p := &e.pages[i]
		p.id, p.file, p.offset, p.freeBucket, p.free = i, e.files[x], f.offset, f.freeBucket, true
		f.offset += int64(e.pageSize)
		left[x]--
		x = (x + 1) % len(fh)
	}
	for i := len(e.pages) - 1; i >= 0; i-- {
		p := &e.pages[i]
		p.next = e.freePageBuckets[p.freeBucket]
		e.freePageBuckets[p.freeBucket] = p
	}
}

// pageKind returns the kind of p: see storeFile.
func pageKind(p *storePage) int { return btoi(p.filled) }

// pageUsable reports whether p can be filled once it is free. p must be locked
// or free.
func pageUsable(p *storePage) bool {
	return currentTime.Load() >= p.file.tryAt[pageKind(p)].Load()
}

// fileRest leaves one kind of f's pages alone, longer with each failure in a row.
func fileRest(f *storeFile, kind int) {
	f.tryAt[kind].Store(currentTime.Load() + 1<<min(f.fails[kind].Load(), restLongest))
}

// extstoreStalled reports whether failing files leave the bucket no room.
func extstoreStalled(e *storeEngine, bucket int) bool {
	return currentTime.Load() < e.stalled[bucket].Load()
}

// evictPage evicts the oldest page that could serve the bucket, unless a page has
// become free. If only pages of files left alone could serve it, the bucket is
// stalled for a second. evictPage is slow; the caller holds no lock.
func evictPage(e *storeEngine, freeBucket int) {
	const none = math.MaxUint64
	lowVersion, lowPage := uint64(none), 0
	stalled := false
	for i, d := range extstoreGetPageData(e) {
		switch {
		case d.freeBucket != 0 && d.freeBucket != freeBucket:
		case !d.usable:
			stalled = true
		case d.version == 0:
			return
		case !d.active && d.version < lowVersion:
			lowPage, lowVersion = i, d.version
		}
	}
	if lowVersion != none {
		extstoreEvictPage(e, lowPage, uint32(lowVersion))
	} else if stalled {
		e.stalled[freeBucket].Store(currentTime.Load() + 1)
	}
}

// takeFree removes the first usable page from a free list and returns it, or nil.
// The engine's mutex is held.
func takeFree(head **storePage) *storePage {
	for at := head; *at != nil; at = &(*at).next {
		if p := *at; pageUsable(p) {
			*at = p.next
			return p
		}
	}
	return nil
}

// allocatePage opens a free page for the bucket and returns it. full is the
// bucket's full page, or nil; if another caller has already replaced it,
// allocatePage returns the bucket's current page. It returns nil if no page is free.
func allocatePage(e *storeEngine, bucket, freeBucket int, full *storePage) *storePage {
	e.mutex.Lock()
	p := e.pageBuckets[bucket]
	if p != full {
		e.mutex.Unlock()
		return p
	}
	p = takeFree(&e.freePageBuckets[freeBucket])
	if p == nil {
		p = takeFree(&e.freePageBuckets[0])
	}
	e.mutex.Unlock()
	if p == nil {
		return nil
	}

	// Unlike C, we hold the page's lock while its fields change.
	p.mutex.Lock()
	e.mutex.Lock()
	if now := e.pageBuckets[bucket]; now != full {
		putFree(e, p)
		e.mutex.Unlock()
		p.mutex.Unlock()
		return now
	}
	p.next = full
	e.pageBuckets[bucket] = p
	e.statsMutex.Lock()
	if p.failed {
		e.stats.pagesFailed--
	}
	e.stats.pageAllocs++
	e.statsMutex.Unlock()
	p.active = true
	p.free = false
	p.closed = false
	p.failed = false
	p.lost = false
	p.version = nextVersion(e)
	p.bucket = bucket
	e.pageFree--
	if kind := pageKind(p); p.file.fails[kind].Load() > 0 {
		fileRest(p.file, kind) // this page is the attempt; open no other meanwhile
	}
	e.mutex.Unlock()
	p.mutex.Unlock()
	return p
}

// allocateWbuf gives a locked page a write buffer if one is free.
func allocateWbuf(e *storeEngine, p *storePage) {
	e.mutex.Lock()
	w := e.wbufStack
	if w != nil {
		e.wbufStack = w.next
	}
	e.mutex.Unlock()
	if w == nil {
		return
	}
	*w = storeWbuf{buf: w.buf, offset: p.allocated}
	p.allocated += len(w.buf)
	p.wbuf = w
}

// wbufCb runs on the I/O thread after a write. Unlike C, it keeps a buffer whose
// write failed, so that its values can be read, and tries again a few times.
func wbufCb(e *storeEngine, io *objIo, ret int) {
	w := io.data.(*storeWbuf)
	p := &e.pages[io.pageId]
	f, kind := p.file, pageKind(p)
	if ret != len(w.buf) && wbufFailed(e, p, io) {
		return
	}
	p.mutex.Lock()
	e.mutex.Lock()
	w.flushed = true
	for w = p.flushing; w != nil && w.flushed; w = p.flushing {
		if !p.lost {
			p.written += len(w.buf)
		}
		p.flushing = w.next
		w.next, e.wbufStack = e.wbufStack, w
	}
	filled := p.written == e.pageSize
	if filled || p.failed && p.flushing == nil {
		p.active = false
		p.filled = filled
	}
	if !p.lost && (filled || io.tries > 0) {
		f.fails[kind].Store(0)
		f.tryAt[kind].Store(0)
	}
	io.next, e.ioStack = e.ioStack, io
	e.mutex.Unlock()
	p.mutex.Unlock()
}

// wbufFailed handles a failed write to p and reports whether it will be tried
// again. On p's first failure it submits the buffer being filled as well, and
// leaves the file alone for some time; after the last try it discards p's buffers.
func wbufFailed(e *storeEngine, p *storePage, io *objIo) (again bool) {
	f, kind := p.file, pageKind(p)
	io.tries++
	news := false
	p.mutex.Lock()
	if !p.failed {
		p.failed = true
		news = f.fails[kind].Add(1) == 1
		if p.wbuf != nil {
			submitWbuf(e, p)
		}
		e.statsMutex.Lock()
		e.stats.pagesFailed++
		e.statsMutex.Unlock()
	}
	e.statsMutex.Lock()
	e.stats.writeErrors++
	e.statsMutex.Unlock()
	fileRest(f, kind)
	if again = io.tries < writeTries && !p.lost; again {
		e.mutex.Lock()
		io.next, e.retry = e.retry, io
		e.mutex.Unlock()
	} else {
		dropWbufs(e, p)
	}
	p.mutex.Unlock()
	if news {
		perror("extstore cannot write to "+f.name+", and leaves it alone for a while", io.err)
	}
	return again
}

// dropWbufs evicts the values in the write buffers of p, which is locked.
func dropWbufs(e *storeEngine, p *storePage) {
	p.lost = true
	for w := p.flushing; w != nil; w = w.next {
		p.objCount -= w.objCount
		p.bytesUsed -= w.bytesUsed
		e.statsMutex.Lock()
		e.stats.objectsUsed -= w.objCount
		e.stats.bytesUsed -= w.bytesUsed
		e.stats.objectsEvicted += w.objCount
		e.stats.bytesEvicted += w.bytesUsed
		e.statsMutex.Unlock()
		w.objCount, w.bytesUsed = 0, 0
	}
}

// extstoreRetry submits the failed writes again, at most once a second.
func extstoreRetry(e *storeEngine) {
	now := currentTime.Load()
	e.mutex.Lock()
	var io *objIo
	if e.lastRetry != now {
		io, e.retry = e.retry, nil
		e.lastRetry = now
	}
	e.mutex.Unlock()
	if io != nil {
		extstoreSubmitBg(e, io)
	}
}

// submitWbuf submits the write buffer of a locked page. It zeroes the unfilled
// rest, so that readers of the page find where the values end.
func submitWbuf(e *storeEngine, p *storePage) {
	e.mutex.Lock()
	io := e.ioStack // not nil: there are as many as buffers
	e.ioStack = io.next
	e.mutex.Unlock()
	w := p.wbuf
	p.wbuf = nil
	at := &p.flushing
	for *at != nil {
		at = &(*at).next
	}
	*at = w
	clear(w.buf[w.pos:])
	*io = objIo{
		mode:   objIoWrite,
		pageId: p.id,
		data:   w,
		offset: w.offset,
		len:    len(w.buf),
		buf:    w.buf,
		cb:     wbufCb,
	}
	extstoreSubmitBg(e, io)
}

// extstoreWriteRequest reserves io.len bytes in a page of the bucket. If it
// returns true, the caller fills io.buf and then calls extstoreWrite; the page is
// locked until then. It often fails, for example while buffers are in flight;
// callers try again later.
func extstoreWriteRequest(e *storeEngine, bucket, freeBucket int, io *objIo) bool {
	if extstoreStalled(e, freeBucket) {
		return false
	}
	var p *storePage
	for full := true; full; {
		if p = allocatePage(e, bucket, freeBucket, p); p == nil {
			evictPage(e, freeBucket)
			return false
		}
		p.mutex.Lock()
		if p.active && p.wbuf != nil && len(p.wbuf.buf)-p.wbuf.pos < io.len {
			submitWbuf(e, p)
		}
		if full = !p.active || p.failed || p.wbuf == nil && p.allocated >= e.pageSize; full {
			p.mutex.Unlock()
		}
	}
	// Unlike in C, the page gets its next buffer while the previous one is in
	// flight, but not while two are.
	if p.wbuf == nil && (p.flushing == nil || p.flushing.next == nil) {
		allocateWbuf(e, p)
	}
	if w := p.wbuf; w != nil {
		io.buf = w.buf[w.pos : w.pos+io.len]
		io.pageId = p.id
		io.pageVersion = p.version
		return true
	}
	p.mutex.Unlock()
	return false
}

// extstoreWrite completes extstoreWriteRequest: it counts the value, sets
// io.offset and unlocks the page.
func extstoreWrite(e *storeEngine, io *objIo) {
	p := &e.pages[io.pageId]
	w := p.wbuf
	io.offset = w.offset + w.pos
	w.pos += io.len
	n := uint64(io.len)
	p.bytesUsed += n
	p.objCount++
	w.bytesUsed += n
	w.objCount++
	e.statsMutex.Lock()
	e.stats.bytesWritten += n
	e.stats.bytesUsed += n
	e.stats.objectsWritten++
	e.stats.objectsUsed++
	e.statsMutex.Unlock()
	p.mutex.Unlock()
}

// ioThreadSubmit appends io, and all that are linked to it, to the thread's queue.
func ioThreadSubmit(t *storeIoThread, io *objIo) {
	depth, tail := int64(1), io
	for ; tail.next != nil; tail = tail.next {
		depth++
	}
	t.mutex.Lock()
	t.depth.Add(depth)
	if t.queue == nil {
		t.queue = io
	} else {
		t.queueTail.next = io
	}
	t.queueTail = tail
	t.mutex.Unlock()
	t.cond.Signal()
}

func extstoreSubmit(e *storeEngine, io *objIo) { ioThreadSubmit(getIoThread(e), io) }

func extstoreSubmitBg(e *storeEngine, io *objIo) { ioThreadSubmit(e.bgThread, io) }

// wbufAt returns the write buffer that covers offset of p, or nil if that part is
// in the file. p is locked.
func wbufAt(p *storePage, offset int) *storeWbuf {
	if !p.active || offset < p.written {
		return nil
	}
	w := p.flushing
	for w != nil && offset >= w.offset+len(w.buf) {
		w = w.next
	}
	if w == nil {
		w = p.wbuf
	}
	return w
}

// pageHas reports whether p still has the given version and the value that was
// written at offset. p is locked.
func pageHas(p *storePage, version uint32, offset int) bool {
	return p.version == version && (offset < p.written || p.active && !p.lost)
}

// extstoreDelete notes that a value of that many bytes is dead, if the page still
// has it. It frees the page with its last value.
func extstoreDelete(e *storeEngine, pageId int, pageVersion uint32, offset int, bytes uint64) {
	p := &e.pages[pageId]
	p.mutex.Lock()
	if !p.closed && pageHas(p, pageVersion, offset) && p.objCount > 0 {
		bytes = min(bytes, p.bytesUsed)
		p.bytesUsed -= bytes
		p.objCount--
		if w := wbufAt(p, offset); w != nil {
			w.bytesUsed -= bytes
			w.objCount--
		}
		e.statsMutex.Lock()
		e.stats.bytesUsed -= bytes
		e.stats.objectsUsed--
		e.statsMutex.Unlock()
		if p.objCount == 0 && p.refcount == 0 && !p.active {
			freePage(e, p)
		}
	}
	p.mutex.Unlock()
}

// extstoreLast reports whether the page has one live value left.
func extstoreLast(e *storeEngine, pageId int, pageVersion uint32) bool {
	p := &e.pages[pageId]
	p.mutex.Lock()
	last := p.version == pageVersion && p.objCount == 1
	p.mutex.Unlock()
	return last
}

// extstoreCheck reports whether the page still has the value.
func extstoreCheck(e *storeEngine, pageId int, pageVersion uint32, offset int) bool {
	p := &e.pages[pageId]
	p.mutex.Lock()
	ok := pageHas(p, pageVersion, offset)
	p.mutex.Unlock()
	return ok
}

// extstoreClosePage frees a page whose live values have been moved.
func extstoreClosePage(e *storeEngine, pageId int, pageVersion uint32) {
	p := &e.pages[pageId]
	p.mutex.Lock()
	if !p.closed && !p.active && p.version == pageVersion {
		p.closed = true
		if p.refcount == 0 {
			freePage(e, p)
		}
	}
	p.mutex.Unlock()
}

// extstoreEvictPage frees a page and counts its live values as evicted.
func extstoreEvictPage(e *storeEngine, pageId int, pageVersion uint32) {
	p := &e.pages[pageId]
	p.mutex.Lock()
	if !p.closed && !p.active && p.version == pageVersion {
		p.closed = true
		e.statsMutex.Lock()
		e.stats.pageEvictions++
		e.stats.objectsEvicted += p.objCount
		e.stats.bytesEvicted += p.bytesUsed
		e.statsMutex.Unlock()
		if p.refcount == 0 {
			freePage(e, p)
		}
	}
	p.mutex.Unlock()
}

// readFromWbuf reads a value that is still in w. The page is locked.
func readFromWbuf(w *storeWbuf, io *objIo) int {
	if io.offset < w.offset || io.offset-w.offset+io.len > w.pos {
		return readFailed
	}
	src := w.buf[io.offset-w.offset:][:io.len]
	if io.iov == nil {
		return copy(io.buf, src)
	}
	for _, b := range io.iov {
		src = src[copy(b, src):]
	}
	return io.len - len(src)
}

// extstoreHold keeps io's page from being freed until io has been read or
// extstoreRelease is called. So a value that is moved while its read is queued can
// still be read; in C it is a miss.
func extstoreHold(e *storeEngine, io *objIo) {
	p := &e.pages[io.pageId]
	p.mutex.Lock()
	holdPage(p, io)
	p.mutex.Unlock()
}

func extstoreRelease(e *storeEngine, io *objIo) {
	p := &e.pages[io.pageId]
	p.mutex.Lock()
	releasePage(p, io)
	p.mutex.Unlock()
}

// holdPage is extstoreHold for a locked page. It does nothing if the page has
// another version by now.
func holdPage(p *storePage, io *objIo) {
	if !io.held && !p.free && !p.closed && p.version == io.pageVersion {
		p.refcount++
		io.held = true
	}
}

func releasePage(p *storePage, io *objIo) {
	if io.held {
		p.refcount--
		io.held = false
	}
}

// extstoreRead reads io and returns the number of bytes, fewer than io.len if the
// file is truncated, or one of the results above. Workers pass scratch, room for
// iovecs: then it does not block but returns readAgain, with io held.
func extstoreRead(e *storeEngine, io *objIo, scratch []unix.Iovec) (ret int) {
	p := &e.pages[io.pageId]
	p.mutex.Lock()
	holdPage(p, io)
	w := wbufAt(p, io.offset)
	switch {
	case !io.held || !pageHas(p, io.pageVersion, io.offset):
		ret = readGone
	case w != nil:
		ret = readFromWbuf(w, io)
	default:
		p.mutex.Unlock()
		if scratch != nil {
			ret = preadvNowait(e, p.file.fd, io, p.offset+int64(io.offset), scratch)
		} else {
			ret = preadv(p.file.fd, io, p.offset+int64(io.offset))
		}
		p.mutex.Lock()
	}
	if ret != readAgain {
		releasePage(p, io)
	}
	if ret != readGone && ret != readAgain {
		e.statsMutex.Lock()
		e.stats.bytesRead += uint64(io.len)
		e.stats.objectsRead++
		e.statsMutex.Unlock()
	}
	p.mutex.Unlock()
	return ret
}

// preadvNowait reads io if the page cache has all of it.
func preadvNowait(e *storeEngine, fd int, io *objIo, off int64, scratch []unix.Iovec) int {
	if e.noNowait.Load() || len(io.iov) > cap(scratch) {
		return readAgain
	}
	iov := scratch[:len(io.iov)]
	for i, b := range io.iov {
		iov[i].Base = &b[0]
		iov[i].SetLen(len(b))
	}
	n, errno := rawPreadv2(fd, iov, off, unix.RWF_NOWAIT)
	if errno == unix.EOPNOTSUPP || errno == unix.ENOSYS {
		e.noNowait.Store(true)
	}
	if n != io.len {
		return readAgain
	}
	return n
}

// preadv reads io with preadv(2), or pread(2) without iov.
func preadv(fd int, io *objIo, off int64) int {
	if io.iov == nil {
		n, err := unix.Pread(fd, io.buf[:io.len], off)
		for err == unix.EINTR {
			n, err = unix.Pread(fd, io.buf[:io.len], off)
		}
		return n
	}
	total := 0
	for iov := io.iov; len(iov) > 0; {
		some := iov[:min(len(iov), iovMax)]
		n, err := unix.Preadv(fd, some, off+int64(total))
		if err == unix.EINTR {
			continue
		}
		if n <= 0 {
			return n
		}
		want := 0
		for _, b := range some {
			want += len(b)
		}
		total += n
		if n < want {
			break
		}
		iov = iov[len(some):]
	}
	return total
}

// pwrite writes all of io. On failure it returns -1 and sets io.err.
func pwrite(fd int, io *objIo, off int64) int {
	for done := 0; done < io.len; {
		n, err := unix.Pwrite(fd, io.buf[done:io.len], off+int64(done))
		switch {
		case err == unix.EINTR:
		case err != nil || n == 0:
			io.err = err
			if err == nil {
				io.err = unix.EIO
			}
			return -1
		default:
			done += n
		}
	}
	return io.len
}

// extstoreIoThread serves me's queue. It takes few requests at a time, so that
// getIoThread can balance the queues.
func extstoreIoThread(e *storeEngine, me *storeIoThread) {
	for {
		me.mutex.Lock()
		for me.queue == nil {
			me.cond.Wait()
		}
		stack := me.queue
		end, n := stack, 1
		for ; n < e.ioDepth && end.next != nil; n++ {
			end = end.next
		}
		me.queue = end.next
		end.next = nil
		me.depth.Add(int64(-n))
		me.mutex.Unlock()

		for io := stack; io != nil; {
			next := io.next // cb may reuse io
			ret := 0
			if io.mode == objIoRead {
				ret = extstoreRead(e, io, nil)
			} else {
				p := &e.pages[io.pageId] // active, so it is not freed
				ret = pwrite(p.file.fd, io, p.offset+int64(io.offset))
			}
			io.cb(e, io, ret)
			io = next
		}
	}
}

// freePage requires that p is locked, not active, and without reads.
func freePage(e *storeEngine, p *storePage) {
	e.statsMutex.Lock()
	e.stats.objectsUsed -= p.objCount
	e.stats.bytesUsed -= p.bytesUsed
	e.stats.pageReclaims++
	e.statsMutex.Unlock()
	e.mutex.Lock()
	for at := &e.pageBuckets[p.bucket]; *at != nil; at = &(*at).next {
		if *at == p {
			*at = p.next
			break
		}
	}
	p.version = 0
	p.objCount = 0
	p.bytesUsed = 0
	p.allocated = 0
	p.written = 0
	p.bucket = 0
	p.closed = false
	p.free = true
	putFree(e, p)
	e.pageFree++
	e.mutex.Unlock()
}

// putFree adds p to its free list: at the end if it failed, to be tried last. p
// and the engine are locked.
func putFree(e *storeEngine, p *storePage) {
	at := &e.freePageBuckets[p.freeBucket]
	for p.failed && *at != nil {
		at = &(*at).next
	}
	p.next = *at
	*at = p
}

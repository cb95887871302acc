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
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
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

// What callers need to know of a page to choose one to compact.
type extstorePageData struct {
	id         int
	version    uint32 // changes with each use; 0 while the page is free
	bytesUsed  int64  // by live values
	bucket     int    // what it is used for
	freeBucket int    // what it may be used for; 0 for anything
	active     bool   // being filled, or its buffers are in flight: not to be evicted or compacted
	failed     bool   // a write failed in its current or latest use: it takes no more values
	usable     bool   // can be filled once it is free; set by extstoreGetPageData
}

// The statistics, in the order of stats.
const (
	extPageAllocs = iota
	extPageEvictions
	extPageReclaims
	extPagesFree
	extPagesUsed
	extObjectsEvicted
	extObjectsRead
	extObjectsWritten
	extObjectsUsed
	extBytesEvicted
	extBytesWritten
	extBytesRead
	extBytesUsed
	extBytesFragmented // the holes that deleted values leave in pages, and the unfilled parts
	extLimitMaxbytes
	extIoQueue
	extWriteErrors
	extPagesFailed
	extFilesFailing // their latest page of either kind failed
	extStatCount
)

var extStatNames = [extStatCount]string{"page_allocs", "page_evictions", "page_reclaims", "pages_free", "pages_used",
	"objects_evicted", "objects_read", "objects_written", "objects_used", "bytes_evicted", "bytes_written", "bytes_read",
	"bytes_used", "bytes_fragmented", "limit_maxbytes", "io_queue", "write_errors", "pages_failed", "files_failing"}

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

// An objIo is one read or write. From submission until cb is called, it and its
// memory belong to an I/O thread.
type objIo struct {
	itemHdrT // where
	next     *objIo
	data     any      // the caller's
	iov      [][]byte // to read into; nil for a write
	buf      []byte   // to write
	len      int      // bytes
	held     bool     // counted in the page's refcount
	tries    int      // failed writes
	err      error    // of the latest

	// Called by the I/O thread with the number of bytes moved; less than 1 if
	// the page no longer has the value or the system call failed.
	cb func(e *storeEngine, io *objIo, ret int)
}

// A write buffer.
type storeWbuf struct {
	io      objIo      // writes it
	next    *storeWbuf // in the engine's free list, or in the page's flushing list
	buf     []byte
	pos     int // bytes filled
	offset  int // of its first byte in the page
	flushed bool

	objCount, bytesUsed int64 // its share of the page's counts
}

// A storePage is guarded by its mutex.
type storePage struct {
	mutex sync.Mutex
	extstorePageData
	objCount  int64 // live values
	offset    int64 // in the file
	refcount  int   // reads that are in flight or hold the page
	allocated int   // bytes that write buffers were allocated for so far
	written   int   // bytes in the file
	file      *storeFile
	filled    bool       // was written to the end in its previous use
	lost      bool       // its write buffers were discarded
	closed    bool       // to be freed once no read is in flight
	wbuf      *storeWbuf // being filled
	flushing  *storeWbuf // being written, oldest first
	next      *storePage // in the free list; guarded by the engine's mutex
}

// A storeIoQueue is what I/O threads have to do. In C each thread has a queue.
type storeIoQueue struct {
	mutex     sync.Mutex // guards the queue
	cond      sync.Cond
	queue     *objIo
	queueTail *objIo
	depth     atomic.Int64 // length of the queue; read without the mutex
}

// A storeEngine is all files together. Locks are taken in this order: a page's
// mutex, mutex, an I/O queue's mutex.
type storeEngine struct {
	mutex           sync.Mutex // guards the fields that name no other lock and change
	pages           []storePage
	wbufStack       *storeWbuf   // free write buffers
	pageBuckets     []*storePage // by bucket: the page being filled, or nil
	freePageBuckets []*storePage
	version         uint32 // of the latest page

	pageSize int
	reads    storeIoQueue
	writes   storeIoQueue // has one thread
	ioDepth  int

	stats [extStatCount]atomic.Int64 // extstoreGetStats computes some of them

	noNowait atomic.Bool // the system does not support RWF_NOWAIT for our files

	files     []*storeFile
	stalled   []atomic.Uint32 // by bucket: failing files leave it no room until this time
	retry     *objIo          // failed writes that will be tried again
	lastRetry relTime
}

func extstoreGetStats(e *storeEngine) (st [extStatCount]int64) {
	for i := range st {
		st[i] = e.stats[i].Load()
	}
	for _, f := range e.files {
		if f.fails[0].Load()+f.fails[1].Load() > 0 {
			st[extFilesFailing]++
		}
	}
	st[extIoQueue] = e.reads.depth.Load()
	size := int64(e.pageSize)
	st[extPagesUsed] = int64(len(e.pages)) - st[extPagesFree]
	st[extBytesFragmented] = st[extPagesUsed]*size - st[extBytesUsed]
	st[extLimitMaxbytes] = int64(len(e.pages)) * size
	return st
}

// extstoreGetPageData visits all pages, and returns their data by id. Before, it frees
// pages without live values and reads.
func extstoreGetPageData(e *storeEngine) []extstorePageData {
	pd := make([]extstorePageData, len(e.pages))
	for i := range e.pages {
		p := &e.pages[i]
		p.mutex.Lock()
		if !p.active && p.version != 0 && (p.objCount == 0 || p.closed) {
			freePage(e, p)
		}
		pd[i] = p.extstorePageData
		pd[i].usable = pageUsable(p)
		if p.active {
			pd[i].bucket = 0 // as in C
		}
		p.mutex.Unlock()
	}
	return pd
}

// extstoreOpen opens, locks and empties a file. Unlike C, it refuses everything
// but a regular file with one name.
func extstoreOpen(file string) (fd int, err error) {
	fd, err = unix.Open(file, unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0600)
	if err != nil {
		return -1, err
	}
	var st unix.Stat_t
	switch err = unix.Fstat(fd, &st); {
	case err != nil:
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		err = errors.New("not a regular file")
	case st.Nlink > 1:
		err = errors.New("the file has other names")
	default:
		if err = unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); err == unix.EWOULDBLOCK {
			err = errors.New("the file is in use")
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
	const erase = 2 << 20 // bytes
	switch {
	case cf.pageSize%cf.wbufSize != 0:
		return nil, errors.New("page_size must be divisible by wbuf_size")
	case cf.pageSize%erase != 0 || cf.wbufSize%erase != 0:
		return nil, errors.New("page_size and wbuf_size must be divisible by 1024*1024*2")
	}
	count := 0
	for _, f := range fh {
		if f.pageCount >= math.MaxUint16-count {
			return nil, errors.New("page_count must total to < 65536. Increase page_size or lower path sizes")
		}
		count += f.pageCount
	}
	var files []*storeFile
	for _, f := range fh {
		fd, err := extstoreOpen(f.file)
		if err != nil {
			return nil, fmt.Errorf("failed to open file %s: %s", f.file, strerror(err))
		}
		files = append(files, &storeFile{name: f.file, fd: fd})
	}
	e := &storeEngine{
		files:           files,
		pages:           make([]storePage, count),
		stalled:         make([]atomic.Uint32, cf.pageBuckets),
		pageSize:        cf.pageSize,
		pageBuckets:     make([]*storePage, cf.pageBuckets),
		freePageBuckets: make([]*storePage, cf.pageBuckets),
		ioDepth:         max(cf.ioDepth, 1),
	}
	e.stats[extPagesFree].Store(int64(count))
	extstorePages(e, fh)
	for range cf.wbufCount {
		buf, err := bufAlloc(cf.wbufSize)
		if err != nil {
			return nil, errors.New("failed calloc for engine")
		}
		e.wbufStack = &storeWbuf{next: e.wbufStack, buf: buf}
	}
	e.reads.cond.L, e.writes.cond.L = &e.reads.mutex, &e.writes.mutex
	for range max(cf.ioThreadcount, 1) {
		go extstoreIoThread(e, &e.reads)
	}
	go extstoreIoThread(e, &e.writes)
	return e, nil
}

// extstorePages sets up the pages, alternating between the files.
func extstorePages(e *storeEngine, fh []*extstoreConfFile) {
	i := 0
	for n := 0; i < len(e.pages); n++ { // page n of each file
		for x, f := range fh {
			if n < f.pageCount {
				p := &e.pages[i]
				p.id, p.file, p.offset, p.freeBucket = i, e.files[x], int64(n)*int64(e.pageSize), f.freeBucket
				i++
			}
		}
	}
	for i--; i >= 0; i-- {
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
func evictPage(e *storeEngine, bucket int) {
	var oldest extstorePageData
	stalled := false
	for _, d := range extstoreGetPageData(e) {
		switch {
		case d.freeBucket != 0 && d.freeBucket != bucket:
		case !d.usable:
			stalled = true
		case d.version == 0:
			return
		case !d.active && (oldest.version == 0 || d.version < oldest.version):
			oldest = d
		}
	}
	if oldest.version != 0 {
		extstoreClosePage(e, oldest.id, oldest.version, true)
	} else if stalled {
		e.stalled[bucket].Store(currentTime.Load() + 1)
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
func allocatePage(e *storeEngine, bucket int, full *storePage) *storePage {
	e.mutex.Lock()
	defer e.mutex.Unlock()
	if p := e.pageBuckets[bucket]; p != nil && p != full {
		return p
	}
	p := takeFree(&e.freePageBuckets[bucket])
	if p == nil {
		p = takeFree(&e.freePageBuckets[0])
	}
	if p == nil {
		return nil
	}
	e.stats[extPagesFree].Add(-1)
	e.pageBuckets[bucket] = p
	e.stats[extPageAllocs].Add(1)
	// Unlike C, we hold the page's lock while its fields change. We may take it after
	// the engine's: nobody who holds the lock of a free page waits for the engine's.
	p.mutex.Lock()
	if p.failed {
		e.stats[extPagesFailed].Add(-1)
	}
	p.active = true
	p.failed = false
	p.lost = false
	e.version = max(e.version+1, 1) // 0 is that of a free page
	p.version = e.version
	p.bucket = bucket
	if kind := pageKind(p); p.file.fails[kind].Load() > 0 {
		fileRest(p.file, kind) // this page is the attempt; open no other meanwhile
	}
	p.mutex.Unlock()
	return p
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
		e.stats[extPagesFailed].Add(1)
	}
	e.stats[extWriteErrors].Add(1)
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
		e.stats[extObjectsUsed].Add(-w.objCount)
		e.stats[extBytesUsed].Add(-w.bytesUsed)
		e.stats[extObjectsEvicted].Add(w.objCount)
		e.stats[extBytesEvicted].Add(w.bytesUsed)
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
		extstoreSubmit(&e.writes, io)
	}
}

// submitWbuf submits the write buffer of a locked page. It zeroes the unfilled
// rest, so that readers of the page find where the values end.
func submitWbuf(e *storeEngine, p *storePage) {
	w := p.wbuf
	p.wbuf = nil
	at := &p.flushing
	for *at != nil {
		at = &(*at).next
	}
	*at = w
	clear(w.buf[w.pos:])
	w.io = objIo{itemHdrT: itemHdrT{p.version, uint32(w.offset), uint16(p.id)}, data: w, len: len(w.buf), buf: w.buf, cb: wbufCb}
	extstoreSubmit(&e.writes, &w.io)
}

// extstoreWriteRequest reserves io.len bytes in a page of the bucket. If it
// returns true, the caller fills io.buf and then calls extstoreWrite; the page is
// locked until then. It often fails, for example while buffers are in flight;
// callers try again later.
func extstoreWriteRequest(e *storeEngine, bucket int, io *objIo) bool {
	if extstoreStalled(e, bucket) {
		return false
	}
	var p *storePage
	for full := true; full; {
		if p = allocatePage(e, bucket, p); p == nil {
			evictPage(e, bucket)
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
		e.mutex.Lock()
		if w := e.wbufStack; w != nil {
			e.wbufStack = w.next
			*w = storeWbuf{buf: w.buf, offset: p.allocated}
			p.allocated += len(w.buf)
			p.wbuf = w
		}
		e.mutex.Unlock()
	}
	if w := p.wbuf; w != nil {
		io.buf = w.buf[w.pos : w.pos+io.len]
		io.itemHdrT = itemHdrT{p.version, uint32(w.offset + w.pos), uint16(p.id)}
		return true
	}
	p.mutex.Unlock()
	return false
}

// extstoreWrite completes extstoreWriteRequest: it counts the value and unlocks the
// page.
func extstoreWrite(e *storeEngine, io *objIo) {
	p := &e.pages[io.pageId]
	w := p.wbuf
	w.pos += io.len
	n := int64(io.len)
	p.bytesUsed += n
	p.objCount++
	w.bytesUsed += n
	w.objCount++
	e.stats[extBytesWritten].Add(n)
	e.stats[extBytesUsed].Add(n)
	e.stats[extObjectsWritten].Add(1)
	e.stats[extObjectsUsed].Add(1)
	p.mutex.Unlock()
}

// extstoreSubmit appends io, and all that are linked to it, to the queue.
func extstoreSubmit(q *storeIoQueue, io *objIo) {
	depth, tail := int64(1), io
	for ; tail.next != nil; tail = tail.next {
		depth++
	}
	q.mutex.Lock()
	q.depth.Add(depth)
	if q.queue == nil {
		q.queue = io
	} else {
		q.queueTail.next = io
	}
	q.queueTail = tail
	q.mutex.Unlock()
	q.cond.Signal()
}

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

// pageHas reports whether p still has the value at loc. p is locked.
func pageHas(p *storePage, loc itemHdrT) bool {
	return p.version == loc.pageVersion && (int(loc.offset) < p.written || p.active && !p.lost)
}

// extstoreDelete notes that the value at loc, of that many bytes, is dead, if the
// page still has it. It frees the page with its last value.
func extstoreDelete(e *storeEngine, loc itemHdrT, bytes int) {
	p := &e.pages[loc.pageId]
	p.mutex.Lock()
	if !p.closed && pageHas(p, loc) && p.objCount > 0 {
		n := min(int64(bytes), p.bytesUsed)
		p.bytesUsed -= n
		p.objCount--
		if w := wbufAt(p, int(loc.offset)); w != nil {
			w.bytesUsed -= n
			w.objCount--
		}
		e.stats[extBytesUsed].Add(-n)
		e.stats[extObjectsUsed].Add(-1)
		if p.objCount == 0 && !p.active {
			freePage(e, p)
		}
	}
	p.mutex.Unlock()
}

// extstoreLast reports whether the value at loc is its page's last live one.
func extstoreLast(e *storeEngine, loc itemHdrT) bool {
	p := &e.pages[loc.pageId]
	p.mutex.Lock()
	last := p.version == loc.pageVersion && p.objCount == 1
	p.mutex.Unlock()
	return last
}

// extstoreCheck reports whether the page still has the value at loc.
func extstoreCheck(e *storeEngine, loc itemHdrT) bool {
	p := &e.pages[loc.pageId]
	p.mutex.Lock()
	ok := pageHas(p, loc)
	p.mutex.Unlock()
	return ok
}

// extstoreClosePage frees a page whose live values have been moved, or are lost and
// to be counted as evicted.
func extstoreClosePage(e *storeEngine, pageId int, pageVersion uint32, evict bool) {
	p := &e.pages[pageId]
	p.mutex.Lock()
	if !p.closed && !p.active && p.version == pageVersion {
		p.closed = true
		if evict {
			e.stats[extPageEvictions].Add(1)
			e.stats[extObjectsEvicted].Add(p.objCount)
			e.stats[extBytesEvicted].Add(p.bytesUsed)
		}
		freePage(e, p)
	}
	p.mutex.Unlock()
}

// readFromWbuf reads a value that is still in w. The page is locked.
func readFromWbuf(w *storeWbuf, io *objIo) int {
	off := int(io.offset) - w.offset
	if off < 0 || off+io.len > w.pos {
		return readFailed
	}
	src := w.buf[off:][:io.len]
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

// holdPage is extstoreHold for a locked page. It does nothing if the page has
// another version by now.
func holdPage(p *storePage, io *objIo) {
	if !io.held && !p.closed && p.version == io.pageVersion {
		p.refcount++
		io.held = true
	}
}

func extstoreRelease(e *storeEngine, io *objIo) {
	p := &e.pages[io.pageId]
	p.mutex.Lock()
	if io.held {
		p.refcount--
		io.held = false
	}
	p.mutex.Unlock()
}

// extstoreRead reads io and returns the number of bytes, fewer than io.len if the
// file is truncated, or one of the results above. Workers pass scratch, room for
// iovecs: then it does not block but returns readAgain.
func extstoreRead(e *storeEngine, io *objIo, scratch []unix.Iovec) (ret int) {
	p := &e.pages[io.pageId]
	p.mutex.Lock()
	holdPage(p, io)
	w := wbufAt(p, int(io.offset))
	switch {
	case !io.held || !pageHas(p, io.itemHdrT):
		ret = readGone
	case w != nil:
		ret = readFromWbuf(w, io)
	}
	p.mutex.Unlock()
	switch off := p.offset + int64(io.offset); {
	case ret != 0: // done
	case scratch != nil:
		ret = preadvNowait(e, p.file.fd, io, off, scratch)
	default:
		ret = preadv(p.file.fd, io, off)
	}
	extstoreRelease(e, io)
	if ret != readGone && ret != readAgain {
		e.stats[extBytesRead].Add(int64(io.len))
		e.stats[extObjectsRead].Add(1)
	}
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

func preadv(fd int, io *objIo, off int64) (total int) {
	for iov := range slices.Chunk(io.iov, iovMax) {
		n, err := unix.Preadv(fd, iov, off+int64(total))
		for err == unix.EINTR {
			n, err = unix.Preadv(fd, iov, off+int64(total))
		}
		if n <= 0 {
			return n
		}
		total += n
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
			io.err = cmp.Or[error](err, unix.EIO)
			return -1
		default:
			done += n
		}
	}
	return io.len
}

// extstoreIoThread serves a queue. It takes few requests at a time, and leaves the
// rest to other threads.
func extstoreIoThread(e *storeEngine, q *storeIoQueue) {
	for {
		q.mutex.Lock()
		for q.queue == nil {
			q.cond.Wait()
		}
		stack := q.queue
		end, n := stack, 1
		for ; n < e.ioDepth && end.next != nil; n++ {
			end = end.next
		}
		q.queue = end.next
		end.next = nil
		q.depth.Add(int64(-n))
		if q.queue != nil {
			q.cond.Signal()
		}
		q.mutex.Unlock()

		for io := stack; io != nil; {
			next := io.next // cb may reuse io
			ret := 0
			if io.iov != nil {
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

// freePage frees p, which is locked and not active, unless it has reads.
func freePage(e *storeEngine, p *storePage) {
	if p.refcount > 0 {
		return
	}
	e.stats[extObjectsUsed].Add(-p.objCount)
	e.stats[extBytesUsed].Add(-p.bytesUsed)
	e.stats[extPageReclaims].Add(1)
	p.version = 0
	p.objCount = 0
	p.bytesUsed = 0
	p.allocated = 0
	p.written = 0
	p.closed = false
	e.mutex.Lock()
	if e.pageBuckets[p.bucket] == p {
		e.pageBuckets[p.bucket] = nil
	}
	p.bucket = 0
	at := &e.freePageBuckets[p.freeBucket]
	for p.failed && *at != nil { // to be tried last
		at = &(*at).next
	}
	p.next = *at
	*at = p
	e.stats[extPagesFree].Add(1)
	e.mutex.Unlock()
}

// Values in files: the engine by itself, and then behind a server.

package main

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const extTestPage = 4 << 20 // bytes; two write buffers

// extEngine makes an engine of a file of pages for each of buckets.
func extEngine(t testing.TB, pages int, buckets ...int) *storeEngine {
	t.Helper()
	var fh []*extstoreConfFile
	for _, b := range buckets {
		f := filepath.Join(t.TempDir(), "ext")
		fh = append(fh, &extstoreConfFile{file: f, pageCount: pages, freeBucket: b})
	}
	cf := extstoreConf{pageSize: extTestPage, wbufSize: extTestPage / 2, pageBuckets: 3, wbufCount: 3}
	e, err := extstoreInit(fh, &cf)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// extWrite writes a value, for which it waits until there is room.
func extWrite(t testing.TB, e *storeEngine, bucket int, value []byte) objIo {
	t.Helper()
	io := objIo{len: len(value)}
	eventually(t, "room for a value", func() bool { return extstoreWriteRequest(e, bucket, &io) })
	copy(io.buf, value)
	extstoreWrite(e, &io)
	return io
}

// extRead reads what was written by extWrite.
func extRead(e *storeEngine, w objIo) ([]byte, int) {
	done := make(chan int)
	b := make([]byte, w.len)
	extstoreSubmit(&e.reads, &objIo{
		iov: [][]byte{b[:w.len/3], b[w.len/3:]}, len: w.len,
		itemHdrT: w.itemHdrT,
		cb:       func(e *storeEngine, io *objIo, ret int) { done <- ret },
	})
	ret := <-done
	return b, ret
}

func extWant(t testing.TB, e *storeEngine, w objIo, want []byte) {
	t.Helper()
	if got, ret := extRead(e, w); ret != len(want) || !bytes.Equal(got, want) {
		t.Fatalf("page %d version %d offset %d: read %d bytes, want %d of %q", w.pageId, w.pageVersion, w.offset, ret, len(want), want[:8])
	}
}

// extInit gives the store a file of 32 pages. With parks all reads from it are
// left to I/O threads.
func extInit(t testing.TB, parks bool) {
	t.Helper()
	storageInitConfig()
	settings.ext.recacheRate.Store(0)
	storageConf.file = []*extstoreConfFile{{file: filepath.Join(t.TempDir(), "ext"), pageCount: 32}}
	storageConf.ext.pageSize, storageConf.ext.wbufSize = extTestPage, extTestPage/2
	storageInit()
	extStorage.noNowait.Store(parks)
	t.Cleanup(func() { extStorage = nil })
}

// extCompact compacts a page, unless it is free or being written to.
func extCompact(pageId int) {
	p := &extStorage.pages[pageId]
	p.mutex.Lock()
	wrap := &storageCompactWrap{pageId: pageId, pageVersion: p.version}
	ok := p.version != 0 && !p.active
	p.mutex.Unlock()
	if !ok {
		return
	}
	storageCompactPlock.Lock()
	storageCompactPage(wrap, make([]byte, storageConf.ext.wbufSize))
	storageCompactPlock.Unlock()
}

func extValue(i, n int) []byte { return bytes.Repeat(fmt.Appendf(nil, "%08d", i), n/8) }

// What is written can be read: from a buffer, and from the file.
func TestExtstoreReadWrite(t *testing.T) {
	e := extEngine(t, 8, 0)
	const n = 10 << 10
	var ios []objIo
	for i := range 2 * extTestPage / n {
		ios = append(ios, extWrite(t, e, 0, extValue(i, n)))
		extWant(t, e, ios[i], extValue(i, n))
	}
	for i, io := range ios {
		extWant(t, e, io, extValue(i, n))
	}
	st := extstoreGetStats(e)
	if int(st[extObjectsUsed]) != len(ios) || int(st[extBytesUsed]) != len(ios)*n || st[extPageAllocs] < 2 ||
		int(st[extObjectsRead]) != 2*len(ios) || st[extPagesUsed]+st[extPagesFree] != 8 {
		t.Errorf("stats: %+v", st)
	}
}

// A page from which all is deleted is free, and one that was used anew is not
// read for what was there before.
func TestExtstoreFree(t *testing.T) {
	e := extEngine(t, 2, 0)
	const n = 1 << 20
	var first []objIo
	for i := range extTestPage / n {
		first = append(first, extWrite(t, e, 0, extValue(i, n)))
	}
	next := extWrite(t, e, 0, extValue(100, n))
	if next.pageId == first[0].pageId {
		t.Fatal("page has more than fits")
	}
	p := &e.pages[first[0].pageId]
	eventually(t, "page to be written", func() bool { p.mutex.Lock(); defer p.mutex.Unlock(); return !p.active })
	for i, io := range first {
		if !extstoreCheck(e, io.itemHdrT) {
			t.Fatalf("page is gone after %d deletes", i)
		}
		extstoreDelete(e, io.itemHdrT, n)
	}
	if extstoreCheck(e, first[0].itemHdrT) {
		t.Error("an empty page is not free")
	}
	if _, ret := extRead(e, first[0]); ret > 0 {
		t.Error("read from a free page")
	}
	extstoreDelete(e, first[0].itemHdrT, n) // is of no concern any more
	if st := extstoreGetStats(e); st[extObjectsUsed] != 1 || st[extBytesUsed] != n || st[extPageReclaims] != 1 {
		t.Errorf("stats: %+v", st)
	}
	for i := range extTestPage / n {
		next = extWrite(t, e, 0, extValue(200+i, n))
	}
	if _, ret := extRead(e, first[0]); next.pageId == first[0].pageId && ret > 0 {
		t.Error("read what has taken the place")
	}
}

// When all pages are full the oldest is evicted, but none of another bucket.
func TestExtstoreEvict(t *testing.T) {
	e := extEngine(t, 3, 0, 2)
	const n = 1 << 20
	kept := extWriteMany(t, e, 2, 2*extTestPage/n, n)
	ios := extWriteMany(t, e, 0, 5*extTestPage/n, n)
	for i, io := range kept {
		extWant(t, e, io, extValue(i, n))
	}
	for i := range ios {
		got, ret := extRead(e, ios[i])
		old := i < 2*extTestPage/n
		if old != (ret < 1) || !old && !bytes.Equal(got, extValue(i, n)) {
			t.Errorf("value %d of %d: read %d bytes", i, len(ios), ret)
		}
	}
	if st := extstoreGetStats(e); st[extPageEvictions] == 0 || int(st[extObjectsEvicted]) != int(st[extPageEvictions])*extTestPage/n {
		t.Errorf("stats: %+v", st)
	}
}

// While a page is free that was read when its last value was deleted, none is evicted.
func TestExtstoreEvictNone(t *testing.T) {
	e := extEngine(t, 3, 0)
	const n = 1 << 20
	ios := extWriteMany(t, e, 0, 3*extTestPage/n, n)
	const last = 2*extTestPage/n - 1 // of the second page
	reader := objIo{itemHdrT: ios[last].itemHdrT}
	p := &e.pages[reader.pageId]
	eventually(t, "it is written", func() bool { p.mutex.Lock(); defer p.mutex.Unlock(); return !p.active })
	extstoreHold(e, &reader)
	for _, io := range ios[last+1-extTestPage/n : last+1] {
		extstoreDelete(e, io.itemHdrT, n)
	}
	extstoreRelease(e, &reader)
	next := extWrite(t, e, 0, extValue(100, n))
	extWant(t, e, next, extValue(100, n))
	extWant(t, e, ios[0], extValue(0, n))
	if st := extstoreGetStats(e); st[extPageEvictions] != 0 || next.pageId != reader.pageId {
		t.Errorf("page %d, stats: %+v", next.pageId, st)
	}
}

// The pages of several files take turns.
func TestExtstoreJbod(t *testing.T) {
	e := extEngine(t, 3, 0, 0)
	for i := range e.pages {
		p := &e.pages[i]
		if p.file.fd != e.files[i%2].fd || p.offset != int64(i/2*extTestPage) {
			t.Errorf("page %d: fd %d at %d", i, p.file.fd, p.offset)
		}
	}
}

// extBreak makes all writes to a file of e fail until heal is called.
func extBreak(t testing.TB, e *storeEngine, file int) (heal func()) {
	t.Helper()
	fd := e.files[file].fd
	good := must(unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0))
	readonly := must(unix.Open(fmt.Sprintf("/proc/self/fd/%d", fd), unix.O_RDONLY|unix.O_CLOEXEC, 0))
	unix.Dup3(readonly, fd, unix.O_CLOEXEC)
	unix.Close(readonly)
	return func() {
		unix.Dup3(good, fd, unix.O_CLOEXEC)
		unix.Close(good)
	}
}

// extLog catches what the process says, and returns it so far.
func extLog(t testing.TB) func() string {
	log := must(os.Create(filepath.Join(t.TempDir(), "log")))
	stderr := os.Stderr
	t.Cleanup(func() { os.Stderr = stderr })
	os.Stderr = log
	return func() string { return string(must(os.ReadFile(log.Name()))) }
}

// extTries makes e try once more what could not be written, and waits until it
// has.
func extTries(t testing.TB, e *storeEngine) {
	t.Helper()
	currentTime.Add(1)
	e.mutex.Lock()
	n := int64(0)
	for io := e.retry; io != nil; io = io.next {
		n++
	}
	e.mutex.Unlock()
	before := extstoreGetStats(e)[extWriteErrors]
	extstoreRetry(e)
	eventually(t, "another try", func() bool { return extstoreGetStats(e)[extWriteErrors] >= before+n })
}

// extWriteMany writes that many values of n bytes to the bucket.
func extWriteMany(t testing.TB, e *storeEngine, bucket, count, n int) (ios []objIo) {
	t.Helper()
	for i := range count {
		ios = append(ios, extWrite(t, e, bucket, extValue(i, n)))
	}
	return ios
}

// extFillUntil writes values of n bytes until done.
func extFillUntil(t testing.TB, e *storeEngine, ios []objIo, n int, done func() bool) []objIo {
	t.Helper()
	eventually(t, "it is full", func() bool {
		io := objIo{len: n}
		if extstoreWriteRequest(e, 0, &io) {
			copy(io.buf, extValue(len(ios), n))
			extstoreWrite(e, &io)
			ios = append(ios, io)
		}
		return done()
	})
	return ios
}

// extWriteTicking is extWrite, but time goes on while there is no room.
func extWriteTicking(t testing.TB, e *storeEngine, value []byte) objIo {
	t.Helper()
	io := objIo{len: len(value)}
	eventually(t, "room for a value", func() bool {
		if extstoreWriteRequest(e, 0, &io) {
			return true
		}
		currentTime.Add(1)
		extstoreRetry(e)
		return false
	})
	copy(io.buf, value)
	extstoreWrite(e, &io)
	return io
}

func (e *storeEngine) retrying() bool {
	e.mutex.Lock()
	defer e.mutex.Unlock()
	return e.retry != nil
}

// While a write fails for a few seconds, its values are read from the buffer,
// and nothing else is tried.
func TestExtstoreWriteFails(t *testing.T) {
	currentTime.Store(1000)
	said := extLog(t)
	e := extEngine(t, 4, 0)
	const n = 256 << 10
	heal := extBreak(t, e, 0)
	ios := extFillUntil(t, e, nil, n, func() bool { return extstoreStalled(e, 0) })
	for i := range writeTries - 2 {
		eventually(t, "a try has failed", e.retrying)
		for i, io := range ios {
			extWant(t, e, io, extValue(i, n))
		}
		if extstoreWriteRequest(e, 0, &objIo{len: n}) {
			t.Fatalf("takes more while it cannot write, after %d tries", i)
		}
		extTries(t, e)
	}
	if st := extstoreGetStats(e); st[extFilesFailing] != 1 || st[extPagesFailed] != 1 || st[extWriteErrors] == 0 || int(st[extObjectsUsed]) != len(ios) {
		t.Errorf("stats: %+v", st)
	}
	heal()
	currentTime.Add(1)
	extstoreRetry(e)
	eventually(t, "all is well", func() bool { return extstoreGetStats(e)[extFilesFailing] == 0 })
	for i := len(ios); i < 2*extTestPage/n; i++ {
		ios = append(ios, extWrite(t, e, 0, extValue(i, n)))
	}
	for i, io := range ios {
		extWant(t, e, io, extValue(i, n))
	}
	if st := extstoreGetStats(e); st[extObjectsEvicted] != 0 {
		t.Errorf("stats: %+v", st)
	}
	if n := strings.Count(said(), "extstore cannot write to "); n != 1 {
		t.Errorf("said: %q", said())
	}
}

// What cannot be written at all is evicted, but not what the page has in the
// file already. The file is tried again later.
func TestExtstoreWriteGivesUp(t *testing.T) {
	currentTime.Store(1000)
	extLog(t)
	e := extEngine(t, 4, 0)
	const n = 256 << 10
	var ios []objIo
	p := &e.pages[0]
	written := func(want int) bool { p.mutex.Lock(); defer p.mutex.Unlock(); return p.written == want }
	for i := range extTestPage/2/n + 1 {
		ios = append(ios, extWrite(t, e, 0, extValue(i, n)))
	}
	inFile := len(ios) - 1
	eventually(t, "the first buffer is written", func() bool { return written(extTestPage / 2) })
	heal := extBreak(t, e, 0)
	ios = extFillUntil(t, e, ios, n, func() bool { return extstoreStalled(e, 0) })
	// Of what is lost, one value is deleted before and one after.
	lost := ios[inFile:]
	if lost[0].pageId != 0 {
		t.Fatal("another page was opened")
	}
	extstoreDelete(e, lost[0].itemHdrT, n)
	for range writeTries {
		extTries(t, e)
	}
	extstoreDelete(e, lost[1].itemHdrT, n)
	st := extstoreGetStats(e)
	if int(st[extObjectsEvicted]) != len(lost)-1 || int(st[extBytesEvicted]) != n*(len(lost)-1) || int(st[extObjectsUsed]) != inFile ||
		int(st[extBytesUsed]) != n*inFile || st[extFilesFailing] != 1 || st[extPagesFailed] < 1 {
		t.Errorf("stats: %+v", st)
	}
	for i, io := range ios {
		has := extstoreCheck(e, io.itemHdrT)
		if i < inFile {
			extWant(t, e, io, extValue(i, n))
		} else if _, ret := extRead(e, io); ret != readGone || has {
			t.Fatalf("value %d: read %d bytes, has %v", i, ret, has)
		}
	}
	if d := extstoreGetPageData(e)[0]; !d.failed || d.usable || d.active || d.bytesUsed != int64(n*inFile) {
		t.Errorf("page 0: %+v", d)
	}
	heal()
	currentTime.Add(1 << restLongest)
	for i := range 3 * extTestPage / n {
		io := extWriteTicking(t, e, extValue(i, n))
		extWant(t, e, io, extValue(i, n))
	}
	for i, io := range ios[:inFile] {
		extWant(t, e, io, extValue(i, n))
		extstoreDelete(e, io.itemHdrT, n)
	}
	if extstoreCheck(e, ios[0].itemHdrT) {
		t.Error("the page is not free")
	}
	if st := extstoreGetStats(e); st[extFilesFailing] != 0 {
		t.Errorf("stats: %+v", st)
	}
	// It is the last to be used again.
	for i := 0; extstoreGetStats(e)[extPagesFailed] > 0; i++ {
		extWriteTicking(t, e, extValue(i, n))
	}
}

// While one of two files fails the other one serves alone, and its pages take
// turns. No more is lost than a few buffers.
func TestExtstoreOneFileFails(t *testing.T) {
	currentTime.Store(1000)
	extLog(t)
	e := extEngine(t, 4, 0, 0)
	const n = 256 << 10
	heal := extBreak(t, e, 1)
	var ios []objIo
	values := func(pages int) {
		for range pages * extTestPage / n {
			ios = append(ios, extWriteTicking(t, e, extValue(len(ios), n)))
		}
	}
	values(20)
	found := 0
	for i, io := range ios {
		if got, ret := extRead(e, io); ret == n {
			if found++; !bytes.Equal(got, extValue(i, n)) {
				t.Fatalf("value %d is another", i)
			}
		}
	}
	if st := extstoreGetStats(e); found < 3*extTestPage/n || st[extPageEvictions] < 10 || st[extFilesFailing] != 1 {
		t.Errorf("found %d, stats: %+v", found, st)
	}
	heal()
	currentTime.Add(1 << restLongest)
	before := len(ios)
	values(16)
	for i, io := range ios {
		got, ret := extRead(e, io)
		if i < before {
			continue
		}
		if ret == n && !bytes.Equal(got, extValue(i, n)) {
			t.Fatalf("value %d is another", i)
		}
	}
	if st := extstoreGetStats(e); st[extFilesFailing] != 0 || st[extPagesFailed] != 0 || st[extPagesUsed] < 7 {
		t.Errorf("stats: %+v", st)
	}
}

// A bucket whose own file fails goes on in the pages that are for any. Another
// one that has no pages but in a failing file does not stop these.
func TestExtstoreBucketFails(t *testing.T) {
	currentTime.Store(1000)
	extLog(t)
	const n = 256 << 10
	e := extEngine(t, 4, 2, 0)
	defer extBreak(t, e, 0)()
	for i := range 3 * extTestPage / n {
		for _, bucket := range []int{0, 2} {
			io := objIo{len: n}
			eventually(t, "room for a value", func() bool {
				currentTime.Add(1)
				extstoreRetry(e)
				return extstoreWriteRequest(e, bucket, &io)
			})
			copy(io.buf, extValue(i, n))
			extstoreWrite(e, &io)
			if extstoreStalled(e, 0) {
				t.Fatal("bucket 0 is stalled")
			}
		}
	}
	if st := extstoreGetStats(e); st[extFilesFailing] != 1 || st[extPageEvictions] == 0 {
		t.Errorf("stats: %+v", st)
	}

	e = extEngine(t, 4, 2)
	defer extBreak(t, e, 0)()
	eventually(t, "bucket 2 is stalled", func() bool {
		if io := (objIo{len: n}); extstoreWriteRequest(e, 2, &io) {
			extstoreWrite(e, &io)
		}
		return extstoreStalled(e, 2) && !extstoreStalled(e, 0)
	})
}

// A file that is cut short, or gone bad, gives nothing but what was written.
func TestExtstoreFileCut(t *testing.T) {
	e := extEngine(t, 2, 0)
	const n = 1 << 20
	ios := extWriteMany(t, e, 0, extTestPage/n+1, n)
	p := &e.pages[ios[0].pageId]
	eventually(t, "page to be written", func() bool { p.mutex.Lock(); defer p.mutex.Unlock(); return !p.active })
	unix.Ftruncate(p.file.fd, p.offset+n+n/2)
	extWant(t, e, ios[0], extValue(0, n))
	for _, io := range ios[1:4] {
		if _, ret := extRead(e, io); ret == n {
			t.Error("a whole value from behind the end")
		}
	}
}

func TestExtstoreOpen(t *testing.T) {
	dir := t.TempDir()
	name := func(s string) string { return filepath.Join(dir, s) }
	os.WriteFile(name("old"), []byte("what was there"), 0644)
	fd, err := extstoreOpen(name("old"))
	if err != nil {
		t.Fatal(err)
	}
	if st, _ := os.Stat(name("old")); st.Size() != 0 || st.Mode() != 0600 {
		t.Errorf("%d bytes, mode %v", st.Size(), st.Mode())
	}
	if _, err := extstoreOpen(name("old")); err == nil {
		t.Error("took a file that is in use")
	}
	unix.Close(fd)
	os.WriteFile(name("other"), []byte("of another"), 0644)
	os.Symlink(name("other"), name("symlink"))
	os.Link(name("other"), name("link"))
	os.Mkdir(name("dir"), 0700)
	unix.Mkfifo(name("fifo"), 0600)
	for _, f := range []string{"symlink", "link", "dir", "fifo", "no/such"} {
		if _, err := extstoreOpen(name(f)); err == nil {
			t.Errorf("took a %s", f)
		}
	}
	if b, _ := os.ReadFile(name("other")); string(b) != "of another" {
		t.Errorf("another's file now has %q", b)
	}
}

// Many write, read, delete and count at once.
func TestExtstoreRace(t *testing.T) {
	e := extEngine(t, 4, 0)
	const n = 64 << 10
	var wg sync.WaitGroup
	for g := range 3 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for i := range 300 {
				v := extValue(g*1000+i, n)
				io := objIo{len: n}
				for !extstoreWriteRequest(e, g, &io) {
					extstoreGetPageData(e)
				}
				copy(io.buf, v)
				extstoreWrite(e, &io)
				if got, ret := extRead(e, io); ret > 0 && !bytes.Equal(got, v) {
					t.Errorf("%d: read something else", i)
				}
				if i%2 == 0 {
					extstoreDelete(e, io.itemHdrT, n)
				}
				extstoreGetStats(e)
			}
		}()
	}
	wg.Wait()
}

// extDirs are places for files: one where the system says whether it has a
// value in its cache, and one where reads are left to the I/O threads.
func extDirs(t testing.TB) []string {
	dirs := []string{t.TempDir()}
	if dir, err := os.MkdirTemp("/dev/shm", "mc9"); err == nil {
		t.Cleanup(func() { os.RemoveAll(dir) })
		dirs = append(dirs, dir)
	}
	return dirs
}

// extEach runs a test with each kind of file, which its flags name as {file}.
func extEach(t *testing.T, flags string, test func(t *testing.T, s *server, file string)) {
	for i, dir := range extDirs(t) {
		t.Run([]string{"disk", "tmpfs"}[i], func(t *testing.T) {
			file := filepath.Join(dir, "ext")
			test(t, mc9(t, strings.Fields(strings.ReplaceAll(flags, "{file}", file))...), file)
		})
	}
}

const extFlags = "-m 32 -o ext_path={file}:64m,ext_page_size=8,ext_wbuf_size=2,ext_item_age=0,ext_max_sleep=1000,ext_recache_rate=0"

// extSet sets keys from..to-1 to values of about n bytes, and waits until all
// are in the file.
func extSet(t testing.TB, c *client, from, to, n int) {
	t.Helper()
	want := c.statN("extstore_objects_written")
	for i := from; i < to; i++ {
		v := extValue(i, n)
		c.want(t, fmt.Sprintf("set k%d 0 0 %d\r\n%s\r\n", i, len(v), v), "STORED\r\n")
		want++
	}
	eventually(t, "all are written", func() bool { return c.statN("extstore_objects_written") >= want })
}

func extReply(i, n int) string {
	v := extValue(i, n)
	return fmt.Sprintf("VALUE k%d 0 %d\r\n%s\r\n", i, len(v), v)
}

// Command lines of Loki's and Mimir's charts, but for the sizes: four times the
// memory is written and comes back. The headers of the values fit in one page: a second
// one has to come from the automover, and until then each value that is written evicts
// the header of another, as in memcached.
func TestExtstoreKeeps(t *testing.T) {
	extEach(t, "-m 16 --extended=modern,track_sizes,ext_path={file}:1G,ext_wbuf_size=16 -I 5m -c 16384 -v",
		func(t *testing.T, s *server, _ string) {
			const size = 5000
			const n = 4 * 16 << 20 / size
			c := s.client()
			c.want(t, fmt.Sprintf("set k 0 0 %d\r\n", size)+string(extValue(0, size))+"\r\n", "STORED\r\n")
			class := regexp.MustCompile(`\d+`).FindString(c.ask("stats items\r\n"))
			room := func() bool {
				return c.statN("slab_global_page_pool") > 0 || must(strconv.Atoi(c.stat("slabs", class+":free_chunks"))) > 50
			}
			for i := range n {
				if i%50 == 0 {
					eventually(t, "there is room", room)
				}
				v := extValue(i, size)
				c.want(t, fmt.Sprintf("set k%d 0 0 %d\r\n%s\r\n", i, len(v), v), "STORED\r\n")
			}
			for i := 0; i < n; i += 20 {
				in, want := "", ""
				for j := i; j < min(i+20, n); j++ {
					in += fmt.Sprintf("get k%d\r\n", j)
					want += extReply(j, size) + "END\r\n"
				}
				c.want(t, in, want)
			}
			c.wantStat(t, "evictions", "0")
		})
}

// Replies keep their order, whatever they wait for, and a client that goes away
// leaves nothing behind.
func TestExtstoreOrder(t *testing.T) {
	extEach(t, extFlags+" -t 2", func(t *testing.T, s *server, _ string) {
		const keys = 50
		setup := s.client()
		extSet(t, setup, 0, keys, 3000)
		setup.want(t, "set m 0 0 1\r\nm\r\n", "STORED\r\n")
		var wg sync.WaitGroup
		for g := range 40 {
			c := s.client()
			wg.Add(1)
			go func() {
				defer wg.Done()
				for round := range 10 {
					var in, want strings.Builder
					for i := range 30 {
						k := (g*7 + round*3 + i) % keys
						fmt.Fprintf(&in, "get k%d\r\nget m\r\nmg k%d v k Oq%d\r\nmg nothing v Oq\r\nset g%d 0 0 1\r\n%d\r\nget k%d m k%d nothing k%d\r\n",
							k, k, i, g, i%10, k, (k+1)%keys, k)
						v := string(extValue(k, 3000))
						want.WriteString(extReply(k, 3000) + "END\r\nVALUE m 0 1\r\nm\r\nEND\r\n")
						fmt.Fprintf(&want, "VA %d kk%d Oq%d\r\n%s\r\nEN Oq\r\nSTORED\r\n", len(v), k, i, v)
						want.WriteString(extReply(k, 3000) + "VALUE m 0 1\r\nm\r\n" + extReply((k+1)%keys, 3000) + extReply(k, 3000) + "END\r\n")
					}
					if g%4 == 3 {
						c.write(in.String())
						c.Close()
						c = newClient(must(s.dial()))
						defer c.Close()
						continue
					}
					if have := c.ask(in.String()); have != want.String() {
						t.Errorf("client %d: replies differ", g)
						return
					}
				}
			}()
		}
		wg.Wait()
		setup.wantStat(t, "miss_from_extstore", "0")
		setup.wantStat(t, "get_oom_extstore", "0")
		setup.want(t, "flush_all\r\n", "OK\r\n")
		eventually(t, "no item is left", func() bool {
			setup.ask("lru_crawler crawl all\r\n")
			return setup.stat("", "curr_items") == "0"
		})
		setup.wantNoneUsed(t)
	})
}

// must is for what cannot fail in the middle of a test.
func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// A get of very many keys, and one with large values, some in chunks.
func TestExtstoreMany(t *testing.T) {
	extEach(t, extFlags+",slab_chunk_max=16", func(t *testing.T, s *server, _ string) {
		c := s.client()
		extSet(t, c, 0, 40, 100000)
		extSet(t, c, 100, 400, 1000)
		var in, want strings.Builder
		in.WriteString("get")
		for range 5 {
			for i := range 40 {
				fmt.Fprintf(&in, " k%d k%d", i, 100+i*7)
				want.WriteString(extReply(i, 100000) + extReply(100+i*7, 1000))
			}
		}
		c.want(t, in.String()+"\r\n", want.String()+"END\r\n")
		c.wantStat(t, "get_extstore", "400")
	})
}

// What was asked for before leaves while a client sends a value.
func TestExtstoreHalfValue(t *testing.T) {
	extEach(t, extFlags, func(t *testing.T, s *server, _ string) {
		c := s.client()
		extSet(t, c, 0, 1, 100000)
		for _, half := range []string{"set x 0 0 20\r\n0123456789", "set x 0 0 2000000\r\n0123456789"} {
			c.write("get k0\r\n" + half)
			for _, want := range strings.SplitAfter(extReply(0, 100000)+"END\r\n", "\n")[:3] {
				if have := c.line(); have != want {
					t.Fatalf("have %.100q, want %.100q", have, want)
				}
			}
			if strings.Contains(half, "20\r") {
				c.want(t, "0123456789\r\nget k0\r\n", "STORED\r\n"+extReply(0, 100000)+"END\r\n")
			} else {
				c.want(t, strings.Repeat("x", 2000000-10)+"\r\nget k0\r\n", "SERVER_ERROR object too large for cache\r\n"+extReply(0, 100000)+"END\r\n")
			}
		}
	})
}

// A value whose page was evicted, that is cut off or damaged in the file, is a
// miss in all protocols, and leaves the cache.
func TestExtstoreMisses(t *testing.T) {
	damage := map[string]func(f *os.File){
		"cut":    func(f *os.File) { f.Truncate(100) },
		"zeroed": func(f *os.File) { f.Truncate(0); f.Truncate(8 << 20) },
		"other":  func(f *os.File) { f.WriteAt(bytes.Repeat([]byte("\xffdamaged"), 2<<20), 0) },
	}
	extEach(t, extFlags, func(t *testing.T, s *server, file string) {
		c := s.client()
		n, large := 0, 0
		for _, name := range []string{"cut", "zeroed", "other"} {
			extSet(t, c, n, n+8, 2000)
			extSet(t, c, n+8, n+11, 800000)  // in chunks
			extSet(t, c, n+11, n+17, 400000) // so that all leave the write buffers
			f := must(os.OpenFile(file, os.O_RDWR, 0))
			eventually(t, "they are in the file", func() bool {
				b, _ := os.ReadFile(file)
				return bytes.Contains(b, extValue(n, 1000)) && bytes.Contains(b, extValue(n+8, 1000))
			})
			damage[name](f)
			f.Close()
			c.want(t, fmt.Sprintf("get k%d m k%d\r\n", n, n+8), "END\r\n")
			c.want(t, fmt.Sprintf("mg k%d v k Oo\r\nmg k%d v q\r\nmn\r\nmg k%d\r\n", n+1, n+2, n+1), fmt.Sprintf("EN kk%d Oo\r\nMN\r\nEN\r\n", n+1))
			b := newClient(must(s.dial()))
			b.wantBinary(t, fmt.Sprintf("TGet key=k%d opaque=9", n+3), "RGet status=0x01 opaque=9 value=Not found")
			b.wantBinary(t, fmt.Sprintf("TGetk key=k%d", n+4), fmt.Sprintf("RGetk status=0x01 key=k%d", n+4))
			b.wantBinary(t, fmt.Sprintf("TGetkq key=k%d", n+5), "")
			b.Close()
			large += 6
			c.wantStat(t, "miss_from_extstore", fmt.Sprint(large+large/6))
			c.want(t, "flush_all\r\n", "OK\r\n")
			n += 100
		}
		if c.statN("badcrc_from_extstore") == 0 {
			t.Error("no checksum was wrong")
		}
	})
}

// A disk that is full says so once. What was taken off memory is in a write
// buffer for some seconds, the rest stays in memory. When there is room again
// writing goes on.
func TestExtstoreDiskFull(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=3m"); err != nil {
		t.Skip(err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	s := mc9(t, strings.Fields(strings.ReplaceAll(extFlags, "{file}", filepath.Join(dir, "ext")))...)
	c := s.client()
	failed := "extstore cannot write to " + filepath.Join(dir, "ext") + ", and leaves it alone for a while: No space left on device\n"
	n := 0
	for ; !strings.Contains(s.said(), failed); n++ {
		v := extValue(n, 100000)
		c.want(t, fmt.Sprintf("set k%d 0 0 %d\r\n%s\r\n", n, len(v), v), "STORED\r\n")
	}
	for i := range n {
		c.want(t, fmt.Sprintf("get k%d\r\n", i), extReply(i, 100000)+"END\r\n")
	}
	written := c.statN("extstore_objects_written")
	c.want(t, fmt.Sprintf("set k%d 0 0 1\r\nx\r\nget k%d\r\n", n, n), fmt.Sprintf("STORED\r\nVALUE k%d 0 1\r\nx\r\nEND\r\n", n))
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_REMOUNT, "size=30m"); err != nil {
		t.Fatal(err)
	}
	extSet(t, c, n, n+40, 100000)
	if c.statN("extstore_objects_written") <= written {
		t.Error("nothing is written any more")
	}
	misses := 0
	for i := range n + 40 {
		if have := c.ask(fmt.Sprintf("get k%d\r\n", i)); have == "END\r\n" {
			misses++
		} else if have != extReply(i, 100000)+"END\r\n" {
			t.Fatalf("k%d: have %.100q", i, have)
		}
	}
	// None, unless this machine was so slow that the server lost its patience.
	if evicted := c.statN("extstore_objects_evicted") + c.statN("evictions"); misses > evicted {
		t.Errorf("%d misses, %d evicted", misses, evicted)
	}
	if said := s.said(); strings.Count(said, failed) != 1 {
		t.Errorf("said: %q", said)
	}
}

// extFiled puts an item of about n bytes into the cache, and writes its value to
// extstore.
func extFiled(t testing.TB, key string, value []byte) {
	t.Helper()
	hv := hash([]byte(key))
	eventually(t, "room for "+key, func() bool {
		itemLock(hv)
		defer itemUnlock(hv)
		it := assocFind([]byte(key), hv)
		if it == nil {
			it = doItemAlloc([]byte(key), hv, 0, 0, len(value)+2)
			copy(it.data(), value)
			copy(it.data()[len(value):], "\r\n")
			doItemLink(it, hv, 0)
		} else {
			it.refcount++
		}
		defer doItemRemove(it)
		return storageWriteItem(it, hv)
	})
}

// extFind returns the value of key in extstore, or nil.
func extFind(t testing.TB, key string) []byte {
	t.Helper()
	hv := hash([]byte(key))
	itemLock(hv)
	it := assocFind([]byte(key), hv)
	if it == nil {
		itemUnlock(hv)
		return nil
	}
	it.refcount++
	itemUnlock(hv)
	p := &ioPending{hdrIt: it}
	value := make([]byte, it.nbytes)
	p.ioCtx = objIo{itemHdrT: it.hdr(), iov: [][]byte{p.hdr[:it.dataOff()], value}, len: it.ntotal()}
	storageCheckItem(p, extstoreRead(extStorage, &p.ioCtx, nil))
	itemRemove(it)
	if p.miss {
		return nil
	}
	return value[:len(value)-2]
}

func extForget(key string) {
	hv := hash([]byte(key))
	itemLock(hv)
	if it := assocFind([]byte(key), hv); it != nil {
		doItemUnlink(it, hv)
	}
	itemUnlock(hv)
}

// extInactive waits until the page is full, and in the file.
func extInactive(t testing.TB, pageId int) {
	t.Helper()
	p := &extStorage.pages[pageId]
	eventually(t, "page to be written", func() bool { p.mutex.Lock(); defer p.mutex.Unlock(); return !p.active })
}

// Whatever is damaged in a page, compaction loses and counts just that value,
// and the page becomes free.
func TestExtstoreDamagedPage(t *testing.T) {
	const n, count = 100000, 60 // about one page and a half
	for name, damage := range map[string]func(rec []byte){
		"value":  func(rec []byte) { rec[n/2] ^= 1 },
		"key":    func(rec []byte) { rec[bytes.Index(rec, []byte("k2"))] ^= 1 },
		"nkey":   func(rec []byte) { bufItem(rec).nkey = 0 },
		"nbytes": func(rec []byte) { bufItem(rec).nbytes += 1000 },
		"large":  func(rec []byte) { bufItem(rec).nbytes = 1 << 30 },
		"sum":    func(rec []byte) { bufItem(rec).exptime++ },
		"hash":   func(rec []byte) { bufItem(rec).time++ },
		"all":    func(rec []byte) { copy(rec, bytes.Repeat([]byte("damage!"), n)) },
	} {
		t.Run(name, func(t *testing.T) {
			storeInit(t, 64, nil)
			extInit(t, false)
			key := func(i int) string { return fmt.Sprintf("k%d", i) }
			for i := range count {
				extFiled(t, key(i), extValue(i, n))
			}
			extInactive(t, 0)
			hv := hash([]byte("k2"))
			it := assocFind([]byte("k2"), hv)
			rec := make([]byte, storageLen(it))
			fd, off := extStorage.files[0].fd, int64(it.hdr().offset)
			unix.Pread(fd, rec, off)
			damage(rec)
			unix.Pwrite(fd, rec, off)
			before := stats.extstoreCompactBadcrc.Load()
			extCompact(0)
			if got := stats.extstoreCompactBadcrc.Load() - before; got != 1 {
				t.Errorf("counted %d damaged values", got)
			}
			for i := range count {
				if got := extFind(t, key(i)); i != 2 && !bytes.Equal(got, extValue(i, n)) || i == 2 && got != nil {
					t.Errorf("k%d: %.20q", i, got)
				}
			}
			if st := extstoreGetStats(extStorage); st[extObjectsEvicted] != 1 || st[extObjectsUsed] != count-1 {
				t.Errorf("stats: %+v", st)
			}
		})
	}
}

// What cannot be read of a page is lost, counted, and no reason to read the
// page again and again.
func TestExtstoreUnreadablePage(t *testing.T) {
	storeInit(t, 64, nil)
	extInit(t, false)
	const n = 100000
	filled := 0 // values in page 0
	for i := 0; i < 60; i++ {
		extFiled(t, fmt.Sprintf("k%d", i), extValue(i, n))
		if assocFind(fmt.Appendf(nil, "k%d", i), hash(fmt.Appendf(nil, "k%d", i))).hdr().pageId == 0 {
			filled++
		}
	}
	extInactive(t, 0)
	unix.Ftruncate(extStorage.files[0].fd, extTestPage/2) // page 1 is in its buffer
	extCompact(0)
	found := 0
	for i := range 60 {
		if got := extFind(t, fmt.Sprintf("k%d", i)); got != nil {
			if found++; !bytes.Equal(got, extValue(i, n)) {
				t.Errorf("k%d: %.20q", i, got)
			}
		}
	}
	if st := extstoreGetStats(extStorage); int(st[extObjectsEvicted]) != 60-found || st[extPageEvictions] != 1 || found < 60-filled+filled/2 {
		t.Errorf("found %d of 60, %d were in the page, stats: %+v", found, filled, st)
	}
}

// extSixty files 60 values of n bytes, k0 to k59, and ends the first page.
func extSixty(t *testing.T, n int) {
	storeInit(t, 64, nil)
	extInit(t, false)
	for i := range 60 {
		extFiled(t, fmt.Sprintf("k%d", i), extValue(i, n))
	}
	extInactive(t, 0)
}

// A value that waits to be moved by compaction is on its page, once: a set
// meanwhile must not strike off another one.
func TestExtstoreCompactStrikes(t *testing.T) {
	const n = 100000
	extSixty(t, n)
	p := &extStorage.pages[0]
	it := assocFind([]byte("k2"), hash([]byte("k2")))
	hdr, hv := it.hdr(), hash([]byte("k2"))
	rec := make([]byte, storageLen(it))
	unix.Pread(extStorage.files[0].fd, rec, int64(hdr.offset))
	wrap := &storageCompactWrap{pageVersion: hdr.pageVersion}
	objects := p.objCount
	free := extStorage.freePageBuckets[0]
	extStorage.freePageBuckets[0] = nil
	for i := range extStorage.pages {
		extStorage.pages[i].refcount++ // so that none is evicted
	}
	for range 3 {
		itemLock(hv)
		done := storageCompactRescue(wrap, bufItem(rec), hv, int(hdr.offset))
		itemUnlock(hv)
		if done || wrap.stalled || p.objCount != objects {
			t.Fatalf("done %v, stalled %v, %d values on the page, want %d", done, wrap.stalled, p.objCount, objects)
		}
	}
	extForget("k2")
	if p.objCount != objects-1 {
		t.Errorf("%d values on the page, want %d", p.objCount, objects-1)
	}
	for i := range extStorage.pages {
		extStorage.pages[i].refcount--
	}
	extStorage.freePageBuckets[0] = free
}

// The last value of a page can be moved though no other page is free.
func TestExtstoreCompactLast(t *testing.T) {
	storeInit(t, 64, nil)
	extInit(t, false)
	for i := range 60 {
		extFiled(t, fmt.Sprintf("k%d", i), extValue(i, 100000))
	}
	extInactive(t, 0)
	for i := range 60 {
		key := fmt.Sprintf("k%d", i)
		if it := assocFind([]byte(key), hash([]byte(key))); i != 2 && it.hdr().pageId == 0 {
			extForget(key)
		}
	}
	// Leave compaction no other page.
	e := extStorage
	e.freePageBuckets[pageBucketOld], e.freePageBuckets[0] = e.freePageBuckets[0], nil
	for i := 1; i < len(e.pages); i++ {
		e.pages[i].freeBucket = pageBucketOld
	}
	extCompact(0)
	if got := extFind(t, "k2"); !bytes.Equal(got, extValue(2, 100000)) {
		t.Errorf("k2: %.20q", got)
	}
	if st := extstoreGetStats(e); st[extPageEvictions]+st[extObjectsEvicted] > 0 {
		t.Errorf("%d pages evicted, %d values", st[extPageEvictions], st[extObjectsEvicted])
	}
}

// If the disk loses a write, an earlier record is at its place. Even if that is
// of the same key and as long, its checksum tells.
func TestExtstoreLostWrite(t *testing.T) {
	const n = 100000
	extSixty(t, n)
	it := assocFind([]byte("k0"), hash([]byte("k0")))
	hdr, rec := it.hdr(), make([]byte, storageLen(it))
	fd, off := extStorage.files[0].fd, int64(it.hdr().offset)
	unix.Pread(fd, rec, off)
	copy(rec[it.dataOff():], "another")
	storageSum(rec, hdr.pageVersion)
	unix.Pwrite(fd, rec, off)
	if got := extFind(t, "k0"); !bytes.HasPrefix(got, []byte("another")) {
		t.Errorf("k0: %.20q", got)
	}
	storageSum(rec, hdr.pageVersion-1)
	unix.Pwrite(fd, rec, off)
	if got := extFind(t, "k0"); got != nil {
		t.Errorf("k0: %.20q", got)
	}
	extCompact(0)
	if got := extFind(t, "k0"); got != nil {
		t.Errorf("after compaction k0: %.20q", got)
	}
}

// A get of values that there is no memory to read at once answers with all of
// them. Those for which there is none, because of clients that take nothing, are
// misses; a get that finds nothing else says so.
func TestExtstoreGetLarge(t *testing.T) {
	const keys, n = 80, 900000
	none := errNoMemoryGet + "\r\n"
	s := mc9(t, strings.Fields("-m 64 -t 2 -o ext_path="+filepath.Join(t.TempDir(), "ext")+":256m,ext_page_size=8,ext_wbuf_size=4,"+
		"ext_item_age=0,ext_max_sleep=1000,ext_recache_rate=0")...)
	c := s.client()
	var names, want, pipelined, wantPipelined strings.Builder
	for i := range keys {
		extSet(t, c, i, i+1, n)
		fmt.Fprintf(&names, " k%d", i)
		want.WriteString(extReply(i, n))
		fmt.Fprintf(&pipelined, "mg k%d v q\r\nget k%d\r\n", i, i)
		fmt.Fprintf(&wantPipelined, "VA %d\r\n%s\r\n%sEND\r\n", n, extValue(i, n), extReply(i, n))
	}
	for range 3 {
		c.want(t, "get"+names.String()+"\r\n", want.String()+"END\r\n")
		c.want(t, "gat 0"+names.String()+"\r\n", want.String()+"END\r\n")
		c.want(t, pipelined.String(), wantPipelined.String())
	}
	c.wantStat(t, "get_oom_extstore", "0")
	c.want(t, "get"+names.String()+" "+strings.Repeat("k", 251)+"\r\n", errBadKey+"\r\n")

	var deaf []*client
	for range 30 {
		d := s.client()
		d.write("get" + names.String() + "\r\n")
		deaf = append(deaf, d)
	}
	eventually(t, "there is no memory", func() bool {
		for _, text := range []string{"get" + names.String() + "\r\n", "gat 0" + names.String() + "\r\n"} {
			reply := c.ask(text)
			if reply != none && (!strings.HasSuffix(reply, "END\r\n") || strings.Contains(reply, "ERROR")) {
				t.Fatalf("have %.100q .. %q", reply, reply[max(0, len(reply)-100):])
			}
		}
		if reply := c.ask("mg k1 v k Oo\r\nmg k2 v q\r\nmn\r\n"); strings.Contains(reply, "ERROR") || !strings.HasSuffix(reply, "MN\r\n") {
			t.Fatalf("have %.100q", reply)
		}
		return c.statN("get_oom_extstore") > 0
	})
	for _, d := range deaf {
		d.Close()
	}
	eventually(t, "there is memory", func() bool { return c.ask("get"+names.String()+"\r\n") == want.String()+"END\r\n" })
}

// The manual's example needs 104 MB for write buffers.
func TestExtstoreMemory(t *testing.T) {
	storageInitConfig()
	if storageMemory() != 0 {
		t.Error("memory for nothing")
	}
	storageConf.file = []*extstoreConfFile{{file: "x"}}
	parseSuboptions("ext_wbuf_size=8")
	if mb := storageMemory() >> 20; mb != 104 {
		t.Errorf("%d MB", mb)
	}
	storageInitConfig()
}

// While files fail the page mover does not wait for values to be written, and
// a class that is full takes more: as without extstore.
func TestExtstoreMoverGoesOn(t *testing.T) {
	s := mc9(t, strings.Fields(strings.ReplaceAll(extFlags, "{file}", filepath.Join(t.TempDir(), "ext")))...)
	unix.Prlimit(s.cmd.Process.Pid, unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: 0, Max: math.MaxUint64}, nil)
	c := s.client()
	n := 0
	fill := func(size int, done func() bool) {
		for i := 0; !done(); i++ {
			v := extValue(n, size)
			c.want(t, fmt.Sprintf("set k%d 0 0 %d\r\n%s\r\n", n, len(v), v), "STORED\r\n")
			n++
		}
	}
	fill(20000, func() bool { return c.statN("extstore_files_failing") > 0 && c.statN("evictions") > 0 })
	class := regexp.MustCompile(`\d+`).FindAllString(c.ask("stats items\r\n"), -1)
	last := 0
	for _, s := range class {
		if id, _ := strconv.Atoi(s); id < maxNumberOfSlabClasses && strings.Contains(c.ask("stats slabs\r\n"), fmt.Sprintf("STAT %d:total_pages", id)) {
			last = max(last, id)
		}
	}
	c.ask("slabs automove 0\r\n")
	best := time.Hour // of several moves, as this machine may be busy
	for i := 0; i < 5 && best > 3*time.Second; i++ {
		moved, start := c.statN("slabs_moved"), time.Now()
		eventually(t, "a page is moved", func() bool {
			c.ask(fmt.Sprintf("slabs reassign %d 0\r\n", last))
			return c.statN("slabs_moved") > moved
		})
		best = min(best, time.Since(start))
	}
	if best > 3*time.Second { // it should be some milliseconds
		t.Errorf("no page was moved in less than %v", best)
	}
	for i := max(0, n-100); i < n; i++ {
		if have := c.ask(fmt.Sprintf("get k%d\r\n", i)); have != "END\r\n" && have != extReply(i, 20000)+"END\r\n" {
			t.Errorf("k%d: %.100q", i, have)
		}
	}
}

// What is wrong with the options for extstore is said in a line or two.
func TestExtstoreOptions(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "ext")
	for _, tt := range []struct{ flags, said string }{
		{"-o ext_path", "missing argument to ext_path, ie: ext_path=/d/file:5G"},
		{"-o ext_path=" + file, "must supply size to ext_path, ie: ext_path=/f/e:64m (M|G|T|P supported)\nfailed to parse ext_path argument"},
		{"-o ext_path=" + file + ":1GB", "must supply size to ext_path, ie: ext_path=/f/e:64m (M|G|T|P supported)\nfailed to parse ext_path argument"},
		{"-o ext_path=" + file + ":1g:what", "Unknown extstore bucket: what\nfailed to parse ext_path argument"},
		{"-o ext_path=" + file + ":0m", "supplied ext_path has zero size, cannot use"},
		{"-o ext_path=" + file + ":-5m", "supplied ext_path has zero size, cannot use"},
		{"-o ext_path=" + file + ":63m", "supplied ext_path has zero size, cannot use"},
		{"-U 11211 -o ext_path=" + file + ":64m", "Cannot use UDP with extstore enabled (-U 0 to disable)"},
		{"-I 8m -o ext_path=" + file + ":64m", "-I (item_size_max: 8388608) cannot be larger than ext_wbuf_size: 4194304"},
		{"-o ext_page_size=3,ext_path=" + file + ":64m", "Failed to initialize external storage: page_size must be divisible by wbuf_size"},
		{"-o ext_page_size=3,ext_wbuf_size=3,ext_path=" + file + ":64m", "Failed to initialize external storage: page_size and wbuf_size must be divisible by 1024*1024*2"},
		{"-o ext_page_size=2,ext_wbuf_size=2,ext_path=" + file + ":1t", "Failed to initialize external storage: page_count must total to < 65536. Increase page_size or lower path sizes"},
		{"-o ext_page_size=8192,ext_path=" + file + ":1t", "ext_page_size and ext_wbuf_size must be from 2 to 4096"},
		{"-o ext_wbuf_size=0,ext_path=" + file + ":1t", "ext_page_size and ext_wbuf_size must be from 2 to 4096"},
		{"-o ext_threads=0,ext_path=" + file + ":64m", "ext_threads must be from 1 to 1024"},
		{"-o ext_threads=2000,ext_path=" + file + ":64m", "ext_threads must be from 1 to 1024"},
		{"-d -o ext_path=ext:64m", "-d changes to /: ext_path [ext] must be an absolute path"},
		{"-o ext_path=" + dir + ":64m", "Failed to initialize external storage: failed to open file " + dir + ": Is a directory"},
		{"-o ext_path=" + file + ":64m,ext_path=" + file + ":64m", "Failed to initialize external storage: failed to open file " + file + ": The file is in use"},
		{"-o ext_item_size", "Missing ext_item_size argument"},
		{"-o ext_item_age=x", "could not parse argument to ext_item_age"},
		{"-o ext_max_frag=x", "could not parse argument to ext_max_frag"},
		{"-o slab_automove_freeratio", "Missing slab_automove_freeratio argument"},
		{"-o ext_what=1", `Illegal suboption "ext_what=1"`},
	} {
		if code, out := run(t, strings.Fields("-p -1 "+tt.flags)...); code == 0 || out != tt.said+"\n" {
			t.Errorf("%s: %d, %q", tt.flags, code, out)
		}
	}
	s := mc9(t, "-o", "ext_path="+file+":64m,ext_path="+file+"2:128M:old,ext_drop_unread,ext_threads=3,ext_io_depth=4,ext_low_ttl=5,ext_max_frag=0.25")
	c := s.client()
	c.want(t, "stats extstore\r\n", "STAT 0:version 0\r\nSTAT 0:bytes 0\r\nSTAT 0:bucket 0\r\nSTAT 0:free_bucket 5\r\n"+
		"STAT 1:version 0\r\nSTAT 1:bytes 0\r\nSTAT 1:bucket 0\r\nSTAT 1:free_bucket 0\r\n"+
		"STAT 2:version 0\r\nSTAT 2:bytes 0\r\nSTAT 2:bucket 0\r\nSTAT 2:free_bucket 5\r\nEND\r\n")
	if code, out := run(t, "-p", "-1", "-o", "ext_path="+file+":64m"); code == 0 || !strings.Contains(out, "in use") {
		t.Errorf("a second server: %d, %q", code, out)
	}
	if st := must(os.Stat(file)); st.Mode() != 0o600 {
		t.Errorf("mode %v", st.Mode())
	}
}

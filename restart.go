// Warm restart (-e): the pages of slab memory lie in a file of a RAM disk, and
// the next process continues with their items. From restart.c.
//
// FILE has the arena: from slabsStart on, pages lie there as in memory. A line
// before them says whose file it is. When the process stops on SIGUSR1 or "shutdown
// graceful" it writes FILE.meta, which says what each page is, with a checksum, and
// what settings and clock were. The next process removes FILE.meta before it changes
// anything, so one that is killed leaves none, and its successor starts with a clean
// cache.
//
// Unlike C, mc9 does not trust the file. It discards a page whose checksum is
// wrong. In the others it checks every chunk: sizes, flags, classes, the chain of
// a chunked item. It rebuilds all other links: free lists, the hash table, and the
// LRUs, in the order of last use.

package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"math/bits"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// The first line of FILE and of FILE.meta is restartHead and a number drawn at
// the stop, by which they match. While FILE is in use blanks stand for the
// number. The name changes with the layout of items and pages.
const (
	restartHead    = "mc9 memory file 1 "
	restartHeadLen = len(restartHead) + 16
)

// A restartKv is a line of the metadata.
type restartKv struct {
	key string
	val any
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// restartSum is the last line of the metadata, a checksum of the others.
func restartSum(text []byte) string {
	return fmt.Sprintf("C%08x\n", crc32.Checksum(text, castagnoli))
}

// restartCheck reads the metadata, whose first line must be head. It reports
// whether that fits the current settings.
func restartCheck(text []byte, head string) bool {
	problem := ""
	sum := len(text) - len(restartSum(nil))
	switch {
	case !bytes.HasPrefix(text, []byte(restartHead)):
		problem = "metadata file is not of this version of mc9"
	case sum < 0 || restartSum(text[:sum]) != string(text[sum:]):
		problem = "corrupt metadata file"
	case !bytes.HasPrefix(text, []byte(head+"\n")):
		problem = "metadata file is of another memory file"
	default:
		vals, pages := restartGetKv(string(text[:sum]))
		problem = cmp.Or(mcMetaLoadCb(vals), restartMetaLoad(pages))
	}
	if problem != "" {
		fmt.Fprintf(os.Stderr, "[restart] %s\n", problem)
	}
	return problem == ""
}

// restartGetKv returns the values in the metadata by their keys, and apart from them
// those about pages.
func restartGetKv(text string) (vals map[string]string, pages []string) {
	vals = map[string]string{}
	for line := range strings.Lines(text) {
		key, val, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		if key == "Kpage" {
			pages = append(pages, val)
		} else {
			vals[strings.TrimPrefix(key, "K")] = val
		}
	}
	return vals, pages
}

// restartSave returns the metadata.
func restartSave(head string) []byte {
	text := []byte(head + "\n")
	for _, kv := range slices.Concat(mcMetaSettings(), mcMetaSaveCb(), restartMetaSave()) {
		text = fmt.Appendf(text, "K%s %v\n", kv.key, kv.val)
	}
	return append(text, restartSum(text)...)
}

// metaFile is the name of the metadata file.
func metaFile() string { return settings.memoryFile + ".meta" }

// restartRefuse ends the process if f is not a plain file of our own, to which
// no other name leads. Anybody who could write to it might write items.
func restartRefuse(f *os.File) {
	var st unix.Stat_t
	refuseErr(unix.Fstat(int(f.Fd()), &st), 1, "[restart] %s", f.Name())
	refuse(st.Mode&unix.S_IFMT != unix.S_IFREG, 1, "[restart] %s is not a regular file", f.Name())
	refuse(int(st.Uid) != os.Geteuid(), 1, "[restart] %s belongs to another user", f.Name())
	refuse(st.Nlink != 1, 1, "[restart] %s has other names, too", f.Name())
	refuse(st.Mode&0o022 != 0, 1, "[restart] other users may write to %s: chmod it to 600, or remove it", f.Name())
}

// restartReadMeta returns the contents of the metadata file, and whether there is
// one. Of a file that is too large it returns only the beginning.
func restartReadMeta(limit int) (text []byte, found bool) {
	f, err := os.OpenFile(metaFile(), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil, false
	}
	refuseErr(err, 1, "[restart] failed to open %s", metaFile())
	defer f.Close()
	restartRefuse(f)
	most := int64(64<<10 + limit/settings.slab.pageSize*64)
	text, err = io.ReadAll(io.LimitReader(f, most))
	refuseErr(err, 1, "[restart] failed to read %s", metaFile())
	return text, true
}

// restartOpen opens and locks the memory file, and returns its first line and the
// results of restartReadMeta. It ends the process if others could write to the
// file, and leaves it as it was.
func restartOpen(limit int) (f *os.File, head string, meta []byte, found bool) {
	const flags = os.O_RDWR | unix.O_NOFOLLOW | unix.O_NONBLOCK
	f, err := os.OpenFile(settings.memoryFile, flags, 0)
	if errors.Is(err, os.ErrNotExist) {
		f, err = os.OpenFile(settings.memoryFile, flags|os.O_CREATE|os.O_EXCL, 0o600)
	}
	refuseErr(err, 1, "failed to open file for mmap: %s", settings.memoryFile)
	restartRefuse(f)
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	refuse(err != nil, 1, "[restart] %s is in use by another process", settings.memoryFile)
	// Only now, as the process that had the lock may have written it.
	meta, found = restartReadMeta(limit)
	refuse(found && len(meta) == 0, 1, "[restart] %s is empty: remove it", metaFile()) // as in C
	b := make([]byte, restartHeadLen)
	f.ReadAt(b, 0)
	return f, string(b), meta, found
}

// restartMmapOpen opens the memory file for limit bytes of pages, and reports
// whether the pages in it may be used.
func restartMmapOpen(limit int) bool {
	f, head, meta, found := restartOpen(limit)
	must := func(err error) { refuseErr(err, 1, "[restart] %s", settings.memoryFile) }
	must(f.Chmod(0o600)) // even if somebody else made it
	reuse := false
	if !found {
		fmt.Fprintf(os.Stderr, "[restart] no metadata save file, starting with a clean cache\n")
	} else if len(storageConf.file) > 0 {
		fmt.Fprintf(os.Stderr, "[restart] memory restart with extstore not presently supported.\n")
	} else if reuse = restartCheck(meta, head); !reuse {
		fmt.Fprintf(os.Stderr, "[restart] failed to validate metadata, starting with a clean cache\n")
	}
	if !reuse {
		must(f.Truncate(0))
	}
	must(f.Truncate(int64(slabsStart+limit+slabsStart-1) / slabsStart * slabsStart))
	// Allocate the space before the pages, so that there is room for the metadata even
	// if the disk is full by then.
	const line = 32 // bytes for a page
	must(fallocate(int(f.Fd()), 0, 0, min(64<<10+limit/settings.slab.pageSize*line, slabsStart)))
	if found {
		must(os.Remove(metaFile()))
	}
	_, err := f.WriteAt(fmt.Appendf(nil, "%-*s\n", restartHeadLen, restartHead), 0)
	must(err)
	memFile = f
	memFd = int(f.Fd())
	return reuse
}

var memFile *os.File // of memFd; must not be collected

// restartMmapClose saves everything for the next process, and reports whether it
// could. Nobody may use the store any more.
func restartMmapClose() bool {
	err := restartWrite()
	if err != nil {
		perror("failed to write metadata file", err)
		fmt.Fprintf(os.Stderr, "[restart] failed to save metadata\n")
	}
	restartUnlock()
	return err == nil
}

// restartUnlock lets other processes use the file. Nobody may write to it after that.
func restartUnlock() {
	unix.Flock(memFd, unix.LOCK_UN) // closing is not enough while it is mapped
	memFile.Close()
	memFd = -1
}

func restartWrite() error {
	var number [8]byte
	unix.Getrandom(number[:], 0)
	head := fmt.Sprintf("%s%x", restartHead, number)
	text := restartSave(head)
	if err := memToFile(memCurrent); err != nil {
		return err
	}
	if _, err := memFile.WriteAt([]byte(head), 0); err != nil {
		return err
	}
	// Make room, and put the file there in one step.
	page := os.Getpagesize()
	fallocate(memFd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, page, slabsStart-page)
	return replaceFile(metaFile(), metaFile()+".tmp", text, 0o600)
}

func fallocate(fd int, mode uint32, off, n int) error {
	for {
		if err := unix.Fallocate(fd, mode, int64(off), int64(n)); err != unix.EINTR {
			return err
		}
	}
}

// bootTime returns the milliseconds since the machine booted, by a clock that
// nobody can set.
func bootTime() int64 {
	var ts unix.Timespec
	unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts)
	return ts.Nano() / 1e6
}

// bootId identifies this boot of the machine, to which bootTime belongs; "" if
// there is none. It is read once, at start.
var bootId = sync.OnceValue(func() string {
	b, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b))
})

// What a process hands to the next one with -e: numbers by their keys, and its
// bootId.
var (
	mcMeta     map[string]uint64
	mcMetaBoot string
)

// The numbers of mcMeta, and their limits.
var mcMetaNumbers = [...]struct {
	key string
	max uint64
}{
	{"current_time", math.MaxUint32 / 2},
	{"stop_time", math.MaxInt64 / 2},
	{"boot_time", math.MaxInt64 / 2},
	{"current_cas", math.MaxUint64},
	{"logger_gid", math.MaxUint64},
	{"hashpower", hashpowerMax},
	{"oldest_live", math.MaxUint32},
	{"item_time", math.MaxUint32},
	{"flushed_time", math.MaxUint32},
}

// mcMetaSettings lists the settings that must be the same in both processes.
func mcMetaSettings() []restartKv {
	_, shift := arenaSize(int(settings.maxbytes.Load()))
	return []restartKv{
		{"slab_config", cmp.Or(options.slabSizesUnparsed, fmt.Sprint(settings.slab.factor))},
		{"chunk_size", settings.slab.chunkSize},
		{"item_size_max", settings.itemSizeMax},
		{"slab_chunk_size_max", settings.slab.chunkSizeMax},
		{"slab_page_size", settings.slab.pageSize},
		{"use_cas", settings.useCas},
		{"ref_shift", shift},
	}
}

func mcMetaSaveCb() []restartKv {
	return []restartKv{
		{"maxbytes", settings.maxbytes.Load()},
		{"current_time", currentTime.Load()},
		{"stop_time", time.Now().Unix()},
		{"boot_time", bootTime() - time.Since(clockBase).Milliseconds()%1000}, // when the current second began
		{"current_cas", getCasId()},
		{"logger_gid", loggerGid.Add(1)},
		{"hashpower", hashpower},
		{"oldest_live", settings.oldestLive.Load()},
		{"item_time", itemTime()},
		{"flushed_time", flushedTime.Load()},
		{"boot_id", bootId()},
	}
}

// mcMetaLoadCb fills mcMeta. It returns why the items cannot be reused, or "".
func mcMetaLoadCb(vals map[string]string) string {
	bad := func(key string) string {
		if val, ok := vals[key]; ok {
			return fmt.Sprintf("restart incompatible due to setting for [%s] [old value: %s]", key, val)
		}
		return "missing some metadata lines"
	}
	for _, kv := range mcMetaSettings() {
		if vals[kv.key] != fmt.Sprint(kv.val) {
			return bad(kv.key)
		}
	}
	// Unlike in C, there may be more memory than before.
	if n, err := strconv.ParseUint(vals["maxbytes"], 10, 64); err != nil || n > settings.maxbytes.Load() {
		return bad("maxbytes")
	}
	mcMeta, mcMetaBoot = map[string]uint64{}, vals["boot_id"]
	for _, v := range mcMetaNumbers {
		n, err := strconv.ParseUint(vals[v.key], 10, 64)
		if err != nil || n > v.max {
			return bad(v.key)
		}
		mcMeta[v.key] = n
	}
	if t := mcMetaElapsed(); t < 0 || t > math.MaxUint32/4 {
		return bad("stop_time") // the clock was set back, or decades ahead
	}
	return ""
}

// mcMetaElapsed returns the seconds since the previous process's clock stopped.
// Unlike in C, the wall clock matters only if the machine has rebooted since.
func mcMetaElapsed() int64 {
	now := time.Now()
	if bootId() == "" || bootId() != mcMetaBoot {
		return now.Unix() - int64(mcMeta["stop_time"])
	}
	const slack = 50 // ms, as the two clocks are read one after the other
	return (bootTime() - int64(now.Nanosecond()/1e6) - int64(mcMeta["boot_time"]) + slack) / 1000
}

// mcMetaUse restores what mcMeta holds, and returns the time at which the clock
// begins.
func mcMetaUse() relTime {
	restartStopped = relTime(mcMeta["current_time"])
	restartItemTime = relTime(mcMeta["item_time"])
	restartFlushedTime = relTime(mcMeta["flushed_time"])
	settings.oldestLive.Store(uint32(mcMeta["oldest_live"]))
	setCasId(max(mcMeta["current_cas"], 2))
	loggerGid.Store(mcMeta["logger_gid"])
	// The hash table starts at its previous size, or smaller if the pages cannot
	// hold so many items.
	power := min(int(mcMeta["hashpower"]), max(bits.Len(uint(len(restartPages)*settings.slab.pageSize/itemSize)), hashpowerDefault))
	settings.hashpowerInit = max(settings.hashpowerInit, power)
	return restartStopped + relTime(mcMetaElapsed())
}

// A restartPage holds what the metadata says of a page.
type restartPage struct {
	off int // bytes from the start of the arena
	id  int // its class
	sum uint32
}

var (
	restartPages   []restartPage // in the order of slabLists, class by class
	restartStopped relTime       // when the process before was stopped

	restartItemTime    relTime // its itemTime then
	restartFlushedTime relTime // its flushedTime
)

// restartPeek makes the processor fetch b.
//
//go:noinline
func restartPeek(b []byte) (sum byte) {
	const cacheLine = 64
	for i := 0; i < len(b); i += cacheLine {
		sum += b[i]
	}
	return sum
}

// restartPageSum is the checksum of a page. crc32 reads at three places in turn:
// memory comes quicker if each piece has been read front to back before.
func restartPageSum(off int) (sum uint32) {
	for b := range slices.Chunk(memBytes(off, settings.slab.pageSize), 32<<10) {
		restartPeek(b)
		sum = crc32.Update(sum, castagnoli, b)
	}
	return sum
}

// restartEach calls f for each page, on several processors at once, each of
// which has its own w.
func restartEach(nworks int, f func(w int, p *restartPage)) {
	var next atomic.Int64
	var all sync.WaitGroup
	for w := range nworks {
		all.Add(1)
		go func() {
			defer all.Done()
			for {
				// Pages are handed out from behind, newer ones first.
				i := len(restartPages) - int(next.Add(1))
				if i < 0 {
					return
				}
				f(w, &restartPages[i])
			}
		}()
	}
	all.Wait()
}

// restartWorks returns how many processors to use: of a few pages one is enough.
func restartWorks() int {
	return min(runtime.NumCPU(), runtime.GOMAXPROCS(0), 1+len(restartPages)/64)
}

// restartMetaSave returns what each page is.
func restartMetaSave() (lines []restartKv) {
	restartPages = nil
	for id := range slabclass {
		for _, off := range slabclass[id].slabList {
			restartPages = append(restartPages, restartPage{off: off, id: id})
		}
	}
	restartEach(restartWorks(), func(_ int, p *restartPage) {
		if p.id != slabGlobalPagePool {
			p.sum = restartPageSum(p.off)
		}
	})
	for _, p := range restartPages {
		lines = append(lines, restartKv{"page", fmt.Sprintf("%d:%d:%x", (p.off-slabsStart)/settings.slab.pageSize, p.id, p.sum)})
	}
	return lines
}

// restartMetaLoad reads what each page is. All pages must be there, each once,
// and fit in the memory limit. It returns what is wrong, or "".
func restartMetaLoad(pages []string) string {
	restartPages = nil
	there := make([]bool, len(pages))
	for _, page := range pages {
		f := append(strings.Split(page, ":"), "", "")
		n, err := strconv.ParseUint(f[0], 10, 32)
		id, err2 := strconv.ParseUint(f[1], 10, 8)
		sum, err3 := strconv.ParseUint(f[2], 16, 32)
		if err != nil || err2 != nil || err3 != nil || id >= maxNumberOfSlabClasses || n >= uint64(len(there)) || there[n] {
			return "invalid page in metadata file: " + page
		}
		there[n] = true
		restartPages = append(restartPages, restartPage{slabsStart + int(n)*settings.slab.pageSize, int(id), uint32(sum)})
	}
	if len(pages)*settings.slab.pageSize > int(settings.maxbytes.Load()) {
		return "more pages than fit in the memory limit"
	}
	return ""
}

// Items that were last used at about the same time are on a list of their own,
// by their age at the stop: to the second up to 511, then to a part in 256.
const restartAges = 25 << 8

func restartAge(age relTime) int {
	shift := max(bits.Len32(age)-9, 0)
	return shift<<8 + int(age>>shift)
}

// A restartList is a list of free chunks, or items.
type restartList struct {
	head, tail ref
	n          int
}

// restartPush adds an item or a chunk at the end of l.
func restartPush(l *restartList, it *item) {
	it.next, it.prev = 0, l.tail
	if l.tail != 0 {
		l.tail.item().next = it.ref()
	} else {
		l.head = it.ref()
	}
	l.tail = it.ref()
	l.n++
}

// restartConcat adds all of b at the end of a list.
func restartConcat(head, tail *ref, b *restartList) {
	switch {
	case b.head == 0:
		return
	case *tail == 0:
		*head = b.head
	default:
		(*tail).item().next = b.head
		b.head.item().prev = *tail
	}
	*tail = b.tail
}

// A restartWork holds what one processor has found.
type restartWork struct {
	free  [maxNumberOfSlabClasses]restartList
	lrus  [powerLargest]*[restartAges]restartList
	bytes [powerLargest]uint64

	chunked    []*item // checked when all their chunks are known
	chunkPages []*restartPage
	damaged    int // invalid items and chunks
	lost       int // pages

	table  assocFixup        // shared by all
	sum    uint64            // unused: keeps the reads of restartFlush from being optimized away
	batch  [assocBatch]*item // to be inserted
	nbatch int
}

// restartFlush puts the items that have been collected into the cache. It looks
// at all their buckets first, so that it waits for memory once.
func restartFlush(w *restartWork) {
	var hvs [assocBatch]uint64
	for i, it := range w.batch[:w.nbatch] {
		hvs[i] = hash64(it.key())
	}
	if memPeek {
		for _, hv := range hvs[:w.nbatch] {
			w.sum += w.table[uint32(hv)&uint32(len(w.table)-1)]
		}
	}
	for i, it := range w.batch[:w.nbatch] {
		if !doItemLinkFixup(it, hvs[i], w) {
			w.damaged++
			slabsFixup(it, int(it.clsid()), w)
		}
	}
	w.nbatch = 0
}

// restartItemOk reports whether a linked item in a chunk of class id is whole, but
// for the chain of a chunked one.
func restartItemOk(it *item, id int) bool {
	if it.itFlags&^itemMemoryFlags != 0 || it.itFlags&itemCas != 0 != settings.useCas || it.time == 0 ||
		it.nkey == 0 || it.nkey > keyMaxLength || it.nbytes < 2 || int(it.nbytes) > settings.itemSizeMax {
		return false
	}
	room, ntotal := slabclass[id].size, it.ntotal()
	if clsid := slabsClsid(ntotal); clsid == 0 || int(it.clsid()) != clsid {
		return false
	}
	if it.itFlags&itemChunked != 0 {
		return ntotal > slabChunkMax && memAlign(it.dataOff())+itemChunkSize <= room
	}
	end := it.offset(ntotal-2, 2)
	return int(it.clsid()) == id && ntotal <= room && end[0] == '\r' && end[1] == '\n'
}

// restartGone reports whether an item has expired, or was flushed, meanwhile.
func restartGone(it *item) bool {
	now, oldest := currentTime.Load(), settings.oldestLive.Load()
	return itemIsExpired(it, now) || it.time <= restartFlushedTime || it.time > restartItemTime ||
		restartStopped <= oldest && oldest < now // as in clockSet
}

// restartFixupPage restores a page's items or discards the page.
func restartFixupPage(w *restartWork, p *restartPage) {
	if p.id == slabGlobalPagePool {
		return
	}
	memPopulate(memBytes(p.off, settings.slab.pageSize))
	if p.id > largestClsid || restartPageSum(p.off) != p.sum {
		w.lost++
		p.id = slabGlobalPagePool
		return
	}
	hasChunks := false
	for x := range slabclass[p.id].perslab {
		it := memItem(p.off + x*slabclass[p.id].size)
		switch {
		case it.lock == lockChunk:
			it.refcount = 0 // no item has claimed it yet
			hasChunks = true
		case it.lock == lockFree || it.itFlags&itemLinked == 0:
			slabsFixup(it, p.id, w)
		case !restartItemOk(it, p.id):
			w.damaged++
			slabsFixup(it, p.id, w)
		case restartGone(it):
			slabsFixup(it, p.id, w)
		case it.itFlags&itemChunked != 0:
			w.chunked = append(w.chunked, it)
		default:
			w.batch[w.nbatch] = it
			if w.nbatch++; w.nbatch == len(w.batch) {
				restartFlush(w)
			}
		}
	}
	restartFlush(w)
	if hasChunks {
		w.chunkPages = append(w.chunkPages, p)
	}
}

// restartChunkAt returns the chunk at r, or nil if there is none that an item
// may claim. ids are the classes of the pages.
func restartChunkAt(r ref, ids []int) *itemChunk {
	off := int(r)<<refShift - slabsStart
	page := off / settings.slab.pageSize
	if off < 0 || page >= len(ids) || ids[page] == slabGlobalPagePool {
		return nil
	}
	p := &slabclass[ids[page]]
	off %= settings.slab.pageSize
	if off%p.size != 0 || off/p.size >= p.perslab {
		return nil
	}
	ch := r.chunk()
	if ch.lock != lockChunk || ch.refcount != 0 || int(ch.slabsClsid) != ids[page] ||
		ch.size <= 0 || int(ch.size) > p.size-itemChunkSize || ch.used < 0 || ch.used > ch.size {
		return nil
	}
	return ch
}

// restartChain puts a chunked item that lies in class id into the cache, and claims
// its chunks. If it fails it claims none.
func restartChain(w *restartWork, it *item, id int, ids []int) bool {
	first := it.schunk()
	if *first != (itemChunk{next: first.next, head: it.ref(), origClsid: uint8(id)}) {
		return false
	}
	claimed, n, end := 0, 0, [2]byte{}
	prev := first
	for r := first.next; r != 0; r = prev.next {
		ch := restartChunkAt(r, ids)
		if ch == nil || ch.head != it.ref() || ch.prev != prev.ref() {
			n = -1
			break
		}
		ch.refcount = 1
		claimed++
		n += int(ch.used)
		for _, c := range ch.data()[max(int(ch.used)-2, 0):ch.used] {
			end = [2]byte{end[1], c}
		}
		prev = ch
	}
	if n == int(it.nbytes) && end == [2]byte{'\r', '\n'} && doItemLinkFixup(it, hash64(it.key()), w) {
		return true
	}
	for ch := first.next.chunk(); claimed > 0; claimed-- {
		ch.refcount = 0
		ch = ch.next.chunk()
	}
	return false
}

// restartFixupChunked restores the chunked items, and frees the chunks that
// belong to none.
func restartFixupChunked(works []restartWork) {
	ids := make([]int, len(restartPages))
	page := func(off int) int { return (off - slabsStart) / settings.slab.pageSize }
	for _, p := range restartPages {
		ids[page(p.off)] = p.id
	}
	for i := range works {
		w := &works[i]
		for _, it := range w.chunked {
			id := ids[page(memOff(it))]
			if !restartChain(w, it, id, ids) {
				w.damaged++
				slabsFixup(it, id, w)
			}
		}
	}
	for i := range works {
		w := &works[i]
		for _, p := range w.chunkPages {
			for x := range slabclass[p.id].perslab {
				it := memItem(p.off + x*slabclass[p.id].size)
				if it.lock == lockChunk && it.refcount == 0 {
					slabsFixup(it, p.id, w)
				}
			}
		}
	}
}

// restartFixupLists joins the lists that the processors have made.
func restartFixupLists(works []restartWork) {
	for id := range slabclass {
		p, tail := &slabclass[id], ref(0)
		for i := range works {
			free := &works[i].free[id]
			restartConcat(&p.slots, &tail, free)
			p.slCurr += free.n
		}
	}
	for i := range lrus {
		l := &lrus[i]
		var all []*[restartAges]restartList
		for w := range works {
			if lists := works[w].lrus[i]; lists != nil {
				all = append(all, lists)
			}
			l.sizeBytes += works[w].bytes[i]
		}
		for age := 0; len(all) > 0 && age < restartAges; age++ {
			for _, lists := range all {
				restartConcat(&l.head, &l.tail, &lists[age])
				l.size += lists[age].n
			}
		}
		l.n[itemsTotal] = uint64(l.size)
	}
	for _, p := range restartPages {
		slabclass[p.id].slabList = append(slabclass[p.id].slabList, p.off)
	}
}

// restartFixup restores the items of all pages that the metadata lists. The
// hash table and the LRUs are empty, and nobody else uses the store.
func restartFixup() {
	start := time.Now()
	memCurrent = slabsStart + len(restartPages)*settings.slab.pageSize
	memMalloced += len(restartPages) * settings.slab.pageSize
	refuseErr(memFromFile(memCurrent), 1, "[restart] failed to read %s", settings.memoryFile)
	table := assocFixupInit()
	works := make([]restartWork, restartWorks())
	for i := range works {
		works[i].table = table
	}
	restartEach(len(works), func(w int, p *restartPage) { restartFixupPage(&works[w], p) })
	restartFixupChunked(works)
	restartFixupLists(works)
	assocFixupDone(table)
	lost, damaged := 0, 0
	for i := range works {
		lost += works[i].lost
		damaged += works[i].damaged
	}
	if lost+damaged > 0 {
		fmt.Fprintf(os.Stderr, "[restart] %d of %d pages are damaged, and %d items or chunks in others: they are given up\n",
			lost, len(restartPages), damaged)
	}
	for id := powerSmallest; id <= largestClsid; id++ {
		if len(slabclass[id].slabList) == 0 { // all its pages were lost
			doSlabsNewslab(id, 0)
		}
	}
	_, items, _ := itemStatsCurr()
	verbosef(1, "[restart] recovered %d items in %v", items, time.Since(start))
	restartPages = nil
}

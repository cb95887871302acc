// Tests of the warm restart: what survives, what is refused, and damaged files.

package main

import (
	"bytes"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// restartDir is a directory on a RAM disk, if there is one.
func restartDir(t testing.TB) string {
	dir, err := os.MkdirTemp("/dev/shm", "mc9")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// restartInit makes a store of that many megabytes in file, and restores what the
// file holds.
func restartInit(t testing.TB, file string, megs int, conf func()) {
	t.Helper()
	quiet(t)
	storeInit(t, megs, func() {
		settings.memoryFile = file
		settings.slab.chunkSizeMax = 16 << 10
		options.slabSizes = []int{128, 600, 4096}
		if conf != nil {
			conf()
		}
	})
	restartCleanup(t)
}

// restartCleanup undoes restartInit's settings for later tests.
func restartCleanup(t testing.TB) {
	t.Cleanup(func() {
		settings.memoryFile = ""
		options.slabSizes = nil
		if memFd >= 0 {
			restartUnlock()
		}
	})
}

// restartValue returns the value of key k, which identifies k.
func restartValue(k int) string {
	n := k * 7919 % 500
	switch {
	case k%50 == 0:
		n += 17000
	case k%10 == 0:
		n += 3000
	}
	return pattern(n, k) + fmt.Sprint(k)
}

const restartKeys = 1000

func restartKey(k int) string { return fmt.Sprintf("key%d", k) }

// restartSmall sets up many small pages.
func restartSmall() { settings.slab.pageSize = 128 << 10 }

// restartOff returns the offset of a page in the file.
func restartOff(page int) int { return slabsStart + page*settings.slab.pageSize }

// restartFill makes a file of all keys, and returns its contents and its .meta's.
func restartFill(t testing.TB, file string) (text, meta []byte) {
	restartInit(t, file, 3, restartSmall)
	th := testThread()
	for k := range restartKeys {
		if ret := set(th, nreadSet, restartKey(k), restartValue(k), 0); ret != stored {
			t.Fatal(k, ret)
		}
	}
	for k := 0; k < restartKeys; k += 20 {
		get(th, restartKey(k))
		unlink(restartKey(k + 1))
	}
	restartMmapClose()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	meta, err = os.ReadFile(file + ".meta")
	if err != nil {
		t.Fatal(err)
	}
	return text, meta
}

// restartThere restarts from the file, and returns how many keys are there. If
// values is set, it checks their values, too.
func restartThere(t testing.TB, file string, values bool) (n int) {
	t.Helper()
	restartInit(t, file, 3, restartSmall)
	checkStore(t)
	th := testThread()
	for k := range restartKeys {
		v, ok := get(th, restartKey(k))
		if ok {
			n++
		}
		if ok && values && (k%20 == 1 || v != restartValue(k)) {
			t.Fatalf("%s is %.40q (%d bytes)", restartKey(k), v, len(v))
		}
	}
	return n
}

const restartAll = restartKeys - restartKeys/20

// A restartDamage damages a file: the memory file or its .meta.
type restartDamage struct {
	r    *rand.Rand
	file *os.File
	size int
}

func (d *restartDamage) write(off int, b []byte) { d.file.WriteAt(b, int64(off)) }

// some returns 1 to n random bytes.
func (d *restartDamage) some(n int) []byte {
	b := make([]byte, 1+d.r.IntN(n))
	for i := range b {
		b[i] = byte(d.r.Uint32())
	}
	return b
}

func (d *restartDamage) do() {
	if d.size == 0 {
		return
	}
	piece := []int{16, 512, 4096, 1 << 20}[d.r.IntN(4)]
	b := make([]byte, min(piece, d.size))
	switch d.r.IntN(8) {
	case 0, 1: // a few bytes
		for range 1 + d.r.IntN(10) {
			d.write(d.r.IntN(d.size), d.some(4))
		}
	case 2: // a piece of garbage
		d.write(d.r.IntN(d.size)/4096*4096, d.some(4096))
	case 3: // a piece of zeros
		d.write(d.r.IntN(d.size)/len(b)*len(b), b)
	case 4: // a piece copied from elsewhere in the file
		d.file.ReadAt(b, int64(d.r.IntN(d.size)/len(b)*len(b)))
		d.write(d.r.IntN(d.size)/len(b)*len(b), b)
	case 5:
		d.file.Truncate(int64(d.r.IntN(d.size)))
	case 6:
		d.write(d.size+d.r.IntN(2)*d.r.IntN(3<<20), d.some(4096))
	case 7: // one bit
		off := d.r.IntN(d.size)
		d.file.ReadAt(b[:1], int64(off))
		d.write(off, []byte{b[0] ^ 1<<d.r.IntN(8)})
	}
}

// restartWriteFile writes the file and its .meta.
func restartWriteFile(t *testing.T, file string, text, meta []byte) {
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	f.Truncate(int64(len(text)))
	f.Write(text[:restartHeadLen])
	f.WriteAt(text[slabsStart:], slabsStart)
	f.Close()
	if err := os.WriteFile(file+".meta", meta, 0o600); err != nil {
		t.Fatal(err)
	}
}

// restartSign corrects the checksums in the metadata.
func restartSign(text, meta []byte) []byte {
	var b []byte
	for line := range strings.Lines(string(meta[:len(meta)-len(restartSum(nil))])) {
		var page, id int
		if n, _ := fmt.Sscanf(line, "Kpage %d:%d:", &page, &id); n == 2 && id != 0 && restartOff(page+1) <= len(text) {
			b := text[restartOff(page):restartOff(page+1)]
			line = fmt.Sprintf("Kpage %d:%d:%x\n", page, id, crc32.Checksum(b, castagnoli))
		}
		b = append(b, line...)
	}
	return append(b, restartSum(b)...)
}

func TestRestartDamage(t *testing.T) {
	rounds := 1000
	if !memPeek {
		rounds = 30 // slower with the arena on Go's heap
	}
	file := filepath.Join(restartDir(t), "f")
	text, meta := restartFill(t, file)
	if n := restartThere(t, file, true); n != restartAll {
		t.Fatalf("%d keys of %d", n, restartAll)
	}
	restartUnlock()
	stderr := os.Stderr
	os.Stderr, _ = os.Open(os.DevNull) // TestRestartSays checks the messages
	defer func() { os.Stderr = stderr }()
	var all, none, some int
	r := rand.New(rand.NewPCG(testSeed(t, 0), 0))
	for range rounds * *long {
		restartWriteFile(t, file, text, meta)
		which := r.IntN(4)
		for i, name := range []string{file, file + ".meta"} {
			f, err := os.OpenFile(name, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			fi, _ := f.Stat()
			if d := (&restartDamage{r, f, int(fi.Size())}); which == i || which == 2 {
				d.do()
			}
			f.Close()
		}
		if which == 3 {
			restartForge(t, r, file, text, meta)
		}
		if fi, _ := os.Stat(file + ".meta"); fi.Size() == 0 {
			continue // refused, see TestRestartRefuses
		}
		switch n := restartThere(t, file, which != 3); n {
		case restartAll:
			all++
		case 0:
			none++
		default:
			some++
		}
		restartUnlock()
		if t.Failed() {
			return
		}
	}
	t.Logf("all keys survived %d times, none %d times, some %d times", all, none, some)
}

// restartForge damages the headers of chunks, but with correct checksums.
func restartForge(t *testing.T, r *rand.Rand, file string, text, meta []byte) {
	b := slices.Clone(text)
	for range 1 + r.IntN(20) {
		var page, id int
		lines := strings.Split(string(meta), "\n")
		for {
			if n, _ := fmt.Sscanf(lines[r.IntN(len(lines))], "Kpage %d:%d:", &page, &id); n == 2 && id != 0 && restartOff(page+1) <= len(text) {
				break
			}
		}
		size := slabclass[id].size
		head := restartOff(page) + r.IntN(slabclass[id].perslab)*size
		other := restartOff(page) + r.IntN(slabclass[id].perslab)*size
		at := head + r.IntN(itemSize+12)
		switch r.IntN(5) {
		case 0:
			b[at] ^= 1 << r.IntN(8)
		case 1:
			b[at] = byte(r.Uint32())
		case 2: // a duplicate item
			copy(b[other:other+size], b[head:head+size])
		case 3: // a wild link
			link := []int{0, 4, 8, itemSize + 8, itemSize + 24}[r.IntN(5)]
			copy(b[head+link:head+link+4], b[other+r.IntN(3)*4:])
		case 4: // a link to a chunk that is not part of the chain
			chunk := []int{0, 4, 8}[r.IntN(3)]
			ref := uint32(other >> refShift)
			copy(b[head+chunk:], []byte{byte(ref), byte(ref >> 8), byte(ref >> 16), byte(ref >> 24)})
		}
	}
	meta = restartSign(b, meta)
	if r.IntN(4) == 0 { // a page given another class
		i := bytes.LastIndex(meta[:len(meta)-20], []byte(":"))
		meta[i-1] = '0' + byte(r.IntN(9))
		meta = restartSign(b, meta)
	}
	restartWriteFile(t, file, b, meta)
}

// restartAgain restarts the store in this process, as if elapsed seconds, by a
// clock that cannot be set, had passed and the wall clock had been set to wall.
func restartAgain(t testing.TB, elapsed, wall int64) {
	t.Helper()
	restartMmapClose()
	meta, err := os.ReadFile(metaFile())
	if err != nil {
		t.Fatal(err)
	}
	var b []byte
	for line := range strings.Lines(string(meta[:len(meta)-len(restartSum(nil))])) {
		var n int64
		if m, _ := fmt.Sscanf(line, "Kboot_time %d", &n); m == 1 {
			line = fmt.Sprintf("Kboot_time %d\n", n-elapsed*1000)
		}
		if m, _ := fmt.Sscanf(line, "Kstop_time %d", &n); m == 1 {
			line = fmt.Sprintf("Kstop_time %d\n", n-wall)
		}
		if wall == elapsed && strings.HasPrefix(line, "Kboot_id ") {
			line = "Kboot_id another\n"
		}
		b = append(b, line...)
	}
	os.WriteFile(metaFile(), append(b, restartSum(b)...), 0o600)
	settings.oldestLive.Store(0)
	storeAgain()
}

// Items expire while the process is stopped, even if the machine's time is set or
// the machine is rebooted meanwhile.
func TestRestartClock(t *testing.T) {
	for _, wall := range []int64{50, 0, -1e6, 1e6} {
		restartInit(t, filepath.Join(restartDir(t), "f"), 5, nil)
		th := testThread()
		big := pattern(20000, 0)
		for _, exptime := range []relTime{0, 1010, 1100} {
			set(th, nreadSet, fmt.Sprint("k", exptime), "v", exptime)
			set(th, nreadSet, fmt.Sprint("big", exptime), big, exptime)
		}
		unique := casId.Load()
		clockBase = time.Now()
		restartAgain(t, 50, wall)
		checkStore(t)
		if now := currentTime.Load(); now < 1049 || now > 1060 {
			t.Errorf("wall clock %d: the clock says %d", wall, now)
		}
		if n := time.Now().Unix() - processStarted - int64(currentTime.Load()); n < 0 || n > 9 {
			t.Errorf("wall clock %d: the clock is %d seconds late", wall, n)
		}
		th = testThread()
		wantValue(t, th, "k0", "v")
		wantValue(t, th, "big1100", big)
		for _, key := range []string{"k1010", "big1010"} {
			if _, ok := get(th, key); ok {
				t.Errorf("wall clock %d: %s has not expired", wall, key)
			}
		}
		if n := getCasId(); n <= unique {
			t.Errorf("unique %d after %d", n, unique)
		}
		if _, items, _ := itemStatsCurr(); items != 4 {
			t.Errorf("%d items", items)
		}
	}
}

// Flushed items stay flushed, and a scheduled flush still happens.
func TestRestartFlush(t *testing.T) {
	restartInit(t, filepath.Join(restartDir(t), "f"), 5, nil)
	th := testThread()
	set(th, nreadSet, "old", "v", 0)
	flushAll(0)
	set(th, nreadSet, "new", "v", 0)
	clockBase = time.Now()
	restartAgain(t, 5, 5)
	th = testThread()
	if _, ok := get(th, "old"); ok {
		t.Error("a flushed item is back")
	}
	wantValue(t, th, "new", "v")
	flushAll(500)
	clockBase = time.Now()
	restartAgain(t, 5, 5)
	th = testThread()
	wantValue(t, th, "new", "v")
	clockSet(1600)
	if _, ok := get(th, "new"); ok {
		t.Error("the scheduled flush did not happen")
	}
	checkStore(t)
}

// The next process may have other LRU settings; many items in the same second do
// no harm.
func TestRestartLru(t *testing.T) {
	restartInit(t, filepath.Join(restartDir(t), "f"), 5, func() { settings.lru.tempLru.Store(true) })
	th := testThread()
	order := []string{"now", "a minute", "an hour", "a week", "temporary"}
	for i, ago := range []relTime{0, 60, 3600, 7 * 86400, 30} {
		currentTime.Store(10*86400 - ago)
		exptime := relTime(0)
		if order[i] == "temporary" {
			exptime = 10*86400 + 25
		}
		set(th, nreadSet, order[i], "v", exptime)
	}
	currentTime.Store(10 * 86400)
	clockBase = time.Now()
	restartAgain(t, 0, 0)
	checkStore(t)
	want := func(i int, want string) {
		t.Helper()
		var have []string
		for it := lrus[i].head.item(); it != nil; it = it.next.item() {
			have = append(have, string(it.key()))
		}
		if have := strings.Join(have, ","); have != want {
			t.Errorf("LRU %d: %s, want %s", i, have, want)
		}
	}
	want(1|hotLru, "now,a minute,an hour,a week")
	want(1|tempLru, "temporary")
	settings.lru.segmented.Store(false)
	settings.lru.tempLru.Store(false)
	clockBase = time.Now()
	restartAgain(t, 0, 0)
	checkStore(t)
	want(1|coldLru, "now,temporary,a minute,an hour,a week")
}

// Work in flight at the stop is either completed or discarded.
func TestRestartStates(t *testing.T) {
	restartInit(t, filepath.Join(restartDir(t), "f"), 12, func() { settings.hashpowerInit = 12 })
	th := testThread()
	want := map[string]string{}
	for k := range 300 {
		want[restartKey(k)] = restartValue(k)
		set(th, nreadSet, restartKey(k), restartValue(k), 0)
	}
	// Values half read, one chunked and one not.
	it := itemAlloc([]byte("half"), 0, 0, 20000)
	itemFill(it, make([]byte, 9000))
	itemAlloc([]byte("small"), 0, 0, 100)
	// Items that replies reference, two of them unlinked.
	itemGet([]byte(restartKey(50)), th, doUpdate)
	itemGet([]byte(restartKey(51)), th, doUpdate)
	itemGet([]byte(restartKey(100)), th, doUpdate)
	for _, k := range []int{51, 100} {
		unlink(restartKey(k))
		delete(want, restartKey(k))
	}
	assocExpand(assocNewTable())
	for range 1000 {
		assocMoveBucket()
	}
	for id := powerSmallest; id <= largestClsid; id++ {
		slabsMlock()
		doSlabsNewslab(id, 0)
		slabsMunlock()
		reassign(t, id, slabGlobalPagePool)
		if id%2 == 1 {
			moverStep(3)
			slabRebal.rebal = slabRebalance{} // as if the process had stopped here
			continue
		}
		for range 20 {
			slabRebalanceStep()
		}
		slabRebal.rebal, slabRebal.newIt = slabRebalance{}, nil
	}
	clockBase = time.Now()
	restartAgain(t, 0, 0)
	checkStore(t)
	th = testThread()
	for key, value := range want {
		wantValue(t, th, key, value)
	}
	if _, items, _ := itemStatsCurr(); int(items) != len(want) {
		t.Errorf("%d items, want %d", items, len(want))
	}
}

// Many pages are restored by all processors at once.
func TestRestartParallel(t *testing.T) {
	restartInit(t, filepath.Join(restartDir(t), "f"), 110, func() {
		if !memPeek {
			settings.maxbytes.Store(80 << 20)
		}
	})
	th := testThread()
	const keys = 20000
	value := func(k int) string { return pattern(2000+k%5000, k) }
	for k := range keys {
		set(th, nreadSet, fmt.Sprint("k", k), value(k), 0)
	}
	_, items, _ := itemStatsCurr()
	clockBase = time.Now()
	restartAgain(t, 0, 0)
	checkStore(t)
	if _, n, _ := itemStatsCurr(); n != items {
		t.Errorf("%d items of %d", n, items)
	}
	th = testThread()
	for k := range keys {
		if v, ok := get(th, fmt.Sprint("k", k)); ok && v != value(k) {
			t.Fatalf("k%d is %.40q", k, v)
		}
	}
}

// graceful stops the server in the way that keeps its memory file for a restart.
func (s *server) graceful() {
	s.t.Helper()
	s.cmd.Process.Signal(syscall.SIGUSR1)
	select {
	case <-s.done:
	case <-time.After(patience):
		s.cmd.Process.Signal(syscall.SIGQUIT)
		<-s.done
	}
	if out := s.said(); !s.cmd.ProcessState.Success() || strings.Contains(out, "DATA RACE") || !strings.Contains(out, "Gracefully stopping\n") {
		s.t.Fatalf("%v\n%s", s.cmd.ProcessState, out)
	}
}

// Which flags the next process may change, and which not.
func TestRestart(t *testing.T) {
	file := filepath.Join(restartDir(t), "f")
	value := strings.Repeat("v", 700000)
	flags := []string{"-e", file, "-m", "64"}
	const differs = "[restart] restart incompatible due to setting for [%s] [old value: %s]\n"
	for _, tt := range []struct{ flags, says string }{
		{"", ""},
		{"-m 128", ""},
		{"-t 1 -o hashpower=18", ""},
		{"-o hashpower=14,no_lru_maintainer,no_lru_crawler", ""},
		{"-o temporary_ttl=100,no_slab_reassign,track_sizes -c 100", ""},
		{"-L", ""},
		{"-m 63", fmt.Sprintf(differs, "maxbytes", "67108864")},
		{"-C", fmt.Sprintf(differs, "use_cas", "true")},
		{"-I 2m", fmt.Sprintf(differs, "item_size_max", "1048576")},
		{"-f 1.3", fmt.Sprintf(differs, "slab_config", "1.25")},
		{"-n 50", fmt.Sprintf(differs, "chunk_size", "48")},
		{"-o slab_chunk_max=256", fmt.Sprintf(differs, "slab_chunk_size_max", "524288")},
		{"-o slab_sizes=100-500-4000", fmt.Sprintf(differs, "slab_config", "1.25")},
	} {
		s := mc9(t, flags...)
		c := s.client()
		c.want(t, "set a 5 0 1\r\n1\r\nset big 0 0 700000\r\n"+value+"\r\n", "STORED\r\nSTORED\r\n")
		if name := c.stat("settings", "memory_file"); name != file {
			t.Errorf("memory_file is %s", name)
		}
		c.want(t, "cache_memlimit 100\r\n", "MEMLIMIT_ADJUST_FAILED out of bounds or unable to adjust\r\n")
		c.ask("shutdown graceful\r\n")
		s.graceful()
		s = mc9(t, append(flags, strings.Fields(tt.flags)...)...)
		c = s.client()
		if tt.says == "" {
			c.want(t, "get a big\r\n", "VALUE a 5 1\r\n1\r\nVALUE big 0 700000\r\n"+value+"\r\nEND\r\n")
			if says := s.said(); says != "" {
				t.Errorf("%s: %s", tt.flags, says)
			}
		} else {
			c.want(t, "get a big\r\n", "END\r\n")
			if says := s.said(); says != tt.says+"[restart] failed to validate metadata, starting with a clean cache\n" {
				t.Errorf("%s: %s", tt.flags, says)
			}
		}
		s.stop()
		// After a hard stop there is nothing to restart from.
		s = mc9(t, flags...)
		s.client().want(t, "get a big\r\n", "END\r\n")
		if says := s.said(); says != "[restart] no metadata save file, starting with a clean cache\n" {
			t.Error(says)
		}
		s.stop()
	}
	// A metadata file whose memory file is missing.
	s := mc9(t, flags...)
	s.graceful()
	os.Remove(file)
	s = mc9(t, flags...)
	s.client().want(t, "get a big\r\n", "END\r\n")
	if says := s.said(); !strings.Contains(says, "[restart] metadata file is of another memory file\n") {
		t.Error(says)
	}
}

// mc9 does not touch files that are not its own.
func TestRestartRefuses(t *testing.T) {
	dir := restartDir(t)
	file := filepath.Join(dir, "f")
	s := mc9(t, "-e", file, "-m", "64")
	s.client().ask("") // it has finished setting up the file
	refused := func(file, says string) {
		t.Helper()
		tree := restartTree(t, dir)
		code, out := run(t, "-l", "127.0.0.1", "-p", freePort(t), "-e", file, "-m", "64")
		if code != 1 || strings.Count(out, "\n") != 1 || !strings.Contains(out, says) {
			t.Errorf("%s: %d %q, want %q", file, code, out, says)
		}
		if now := restartTree(t, dir); now != tree {
			t.Errorf("%s: %s\nwas %s", file, now, tree)
		}
	}
	refused(file, "f is in use by another process")
	s.graceful()
	refused(filepath.Join(dir, "none", "f"), "failed to open file for mmap: ")
	refused(dir, "Is a directory")

	link := filepath.Join(dir, "link")
	os.Symlink(file, link)
	refused(link, "Too many levels of symbolic links")
	os.Remove(link)
	os.Link(file, link)
	refused(file, "f has other names, too")
	os.Remove(link)
	unix.Mkfifo(link, 0o600)
	refused(link, "link is not a regular file")
	os.Remove(link)

	empty := filepath.Join(dir, "empty")
	os.WriteFile(empty, nil, 0o600)
	os.WriteFile(empty+".meta", nil, 0o600)
	refused(empty, "empty.meta is empty: remove it")
	for _, name := range []string{file, file + ".meta"} {
		os.Chmod(name, 0o666)
		refused(file, "other users may write to "+name)
		os.Chmod(name, 0o620)
		refused(file, "other users may write to "+name)
		os.Chmod(name, 0o644)
	}
	if os.Getuid() == 0 {
		os.Chown(file+".meta", 65534, 65534)
		refused(file, "f.meta belongs to another user")
		os.Chown(file+".meta", 0, 0)
		os.Chown(file, 65534, 65534)
		refused(file, "f belongs to another user")
		os.Chown(file, 0, 0)
	}
	os.Rename(file+".meta", link)
	os.Symlink(link, file+".meta")
	refused(file, "Too many levels of symbolic links")
	os.Rename(link, file+".meta")
	// After all that the file is still good.
	s = mc9(t, "-e", file, "-m", "64")
	s.client().ask("")
	if s.said() != "" {
		t.Error(s.said())
	}
	if fi, _ := os.Stat(file); fi.Mode() != 0o600 {
		t.Error(fi.Mode())
	}
}

// On a file of our own that mc9 cannot go on with it starts with a clean cache:
// one of memcached, with and without .meta, of another version of mc9, or none.
func TestRestartForeign(t *testing.T) {
	dir := restartDir(t)
	const unusable = "[restart] metadata file is not of this version of mc9\n" +
		"[restart] failed to validate metadata, starting with a clean cache\n"
	for _, tt := range []struct{ file, meta, says string }{
		{"memcached's", "", "[restart] no metadata save file, starting with a clean cache\n"},
		{"memcached's", "Tmain\nKslab_config 1.25\nKmaxbytes 67108864\n", unusable},
		{"memcached's", strings.Replace(restartHead, "1", "2", 1) + "0123456789abcdef\nTmain\n", unusable},
		{"", "anything", unusable},
		{restartHead, "\n", unusable},
	} {
		file := filepath.Join(dir, "f")
		if tt.file != "" {
			os.WriteFile(file, bytes.Repeat([]byte(tt.file), 1<<19), 0o600)
		}
		if tt.meta != "" {
			os.WriteFile(file+".meta", []byte(tt.meta), 0o600)
		}
		s := mc9(t, "-e", file, "-m", "64")
		s.client().want(t, "set a 0 0 1\r\n1\r\n", "STORED\r\n")
		if s.said() != tt.says {
			t.Errorf("%q, %q: %s", tt.file, tt.meta, s.said())
		}
		s.graceful()
		s = mc9(t, "-e", file, "-m", "64")
		s.client().want(t, "get a\r\n", "VALUE a 0 1\r\n1\r\nEND\r\n")
		s.stop()
		os.Remove(file)
		os.Remove(file + ".meta")
	}
}

// If the metadata cannot be written, the exit status says so.
func TestRestartUnsaved(t *testing.T) {
	dir := restartDir(t)
	file := filepath.Join(dir, "f")
	s := mc9(t, "-e", file)
	s.client().ask("")
	os.MkdirAll(file+".meta.tmp/x", 0o700)
	s.cmd.Process.Signal(syscall.SIGUSR1)
	<-s.done
	if code := s.cmd.ProcessState.ExitCode(); code != 1 || !strings.Contains(s.said(), "[restart] failed to save metadata\n") {
		t.Errorf("%d %s", code, s.said())
	}
	s.path = "ended" // so that stop accepts the exit status
}

// Whenever the process is killed, the next one starts, with all items or none.
func TestRestartKill(t *testing.T) {
	file := filepath.Join(restartDir(t), "f")
	flags := []string{"-e", file, "-m", "64", "-t", "2"}
	r := rand.New(rand.NewPCG(testSeed(t, 0), 0))
	const keys = 500
	var all, text strings.Builder
	for k := range keys {
		fmt.Fprintf(&text, "set k%d 0 0 %d\r\n%s\r\n", k, len(restartValue(k)), restartValue(k))
		fmt.Fprintf(&all, "VALUE k%d 0 %d\r\n%s\r\n", k, len(restartValue(k)), restartValue(k))
	}
	get := "get"
	for k := range keys {
		get += fmt.Sprint(" k", k)
	}
	there := 0
	for range 20 * *long {
		s := mc9(t, flags...)
		c := s.client()
		switch have := c.ask(get + "\r\n"); have {
		case all.String() + "END\r\n":
			there++
		case "END\r\n":
			c.ask(text.String())
		default:
			t.Fatalf("%.200q", have)
		}
		wait := time.Duration(r.IntN(30)) * time.Millisecond
		if r.IntN(2) == 0 {
			s.cmd.Process.Signal(syscall.SIGUSR1)
			time.Sleep(wait)
			s.path = "killed" // so that stop accepts the unclean exit
			s.stop()
			continue
		}
		s.graceful()
		cmd := command("", append(flags, "-l", "127.0.0.1", "-p", freePort(t))...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(wait)
		cmd.Process.Kill()
		cmd.Wait()
	}
	t.Logf("all items survived %d times", there)
}

// A full disk acts as the memory limit, and leaves room for the metadata.
func TestRestartFullDisk(t *testing.T) {
	if !memPeek {
		t.Skip("with the arena on Go's heap the file is written only at the end")
	}
	dir := t.TempDir()
	if err := unix.Mount("mc9", dir, "tmpfs", 0, "size=45m"); err != nil {
		t.Skip("mount: ", err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	file := filepath.Join(dir, "f")
	flags := []string{"-e", file, "-m", "64"}
	s := mc9(t, flags...)
	c := s.client()
	c.write("verbosity 1\r\n")
	value := strings.Repeat("v", 1000)
	for k := range 20000 {
		c.write(fmt.Sprintf("set k%d 0 0 1000 noreply\r\n%s\r\n", k, value))
	}
	c.ask("")
	items, moves := "", ""
	eventually(t, "the LRU maintainer has moved all that it will", func() bool { // an item that moves may count twice
		before := moves
		items = c.stat("", "curr_items")
		moves = c.stat("", "moves_to_cold")
		return moves == before
	})
	if c.statN("evictions") == 0 {
		t.Error("more items than fit on the disk")
	}
	if n := strings.Count(s.said(), "failed to allocate memory in "+file+": No space left on device\n"); n != 1 {
		t.Errorf("the message came %d times", n)
	}
	s.graceful()

	// Something else may fill the disk meanwhile.
	filler := filepath.Join(dir, "filler")
	os.WriteFile(filler, make([]byte, 10<<20), 0o600)
	before := restartTree(t, dir)
	code, out := run(t, append(flags, "-l", "127.0.0.1", "-p", freePort(t))...)
	if want := "[restart] " + file + ": No space left on device\n"; code != 1 || out != want {
		t.Errorf("%d %q, want %q", code, out, want)
	}
	if now := restartTree(t, dir); now != before {
		t.Errorf("%s\nwas %s", now, before)
	}
	os.Remove(filler)
	s = mc9(t, flags...)
	c = s.client()
	c.want(t, "get k19999\r\n", "VALUE k19999 0 1000\r\n"+value+"\r\nEND\r\n")
	if n := c.stat("", "curr_items"); n != items {
		t.Errorf("%s items of %s", n, items)
	}
	s.stop()

	os.Remove(file)
	os.WriteFile(filler, make([]byte, 30<<20), 0o600)
	code, out = run(t, append(flags, "-l", "127.0.0.1", "-p", freePort(t))...)
	if want := "[restart] no metadata save file, starting with a clean cache\nfailed to allocate memory in " + file + ": No space left on device\n"; code != 1 || out != want {
		t.Errorf("%d %q, want %q", code, out, want)
	}
}

// restartTree lists a directory with its contents.
func restartTree(t *testing.T, dir string) (tree string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		fi, _ := e.Info()
		sum := uint32(0)
		if fi.Mode().IsRegular() {
			b, _ := os.ReadFile(filepath.Join(dir, e.Name()))
			sum = crc32.ChecksumIEEE(b)
		}
		tree += fmt.Sprintf("%s %v %d %x\n", e.Name(), fi.Mode(), fi.Size(), sum)
	}
	return tree
}

// If the old cache is discarded, one line says why.
func TestRestartSays(t *testing.T) {
	file := filepath.Join(restartDir(t), "f")
	flags := []string{"-e", file, "-m", "64"}
	for _, tt := range []struct {
		name, damage, says string
		off                int
	}{
		{"a value", "x", "[restart] 1 of 39 pages are damaged, and 0 items or chunks in others: they are given up\n", -1},
		{"the first line", "x", "[restart] metadata file is of another memory file\n[restart] failed to validate metadata, starting with a clean cache\n", restartHeadLen - 1},
		{".meta", "x", "[restart] corrupt metadata file\n[restart] failed to validate metadata, starting with a clean cache\n", 100},
	} {
		s := mc9(t, flags...)
		s.client().want(t, "set found 0 0 10\r\nsome value\r\nset other 0 0 1000\r\n"+pattern(1000, 0)+"\r\n", "STORED\r\nSTORED\r\n")
		s.graceful()
		name := file
		if tt.name == ".meta" {
			name += ".meta"
		}
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if tt.off < 0 {
			tt.off = bytes.Index(text, []byte("some value"))
		}
		copy(text[tt.off:], tt.damage)
		os.WriteFile(name, text, 0o600)
		s = mc9(t, flags...)
		want := "END\r\n"
		if tt.name == "a value" {
			want = "VALUE other 0 1000\r\n" + pattern(1000, 0) + "\r\nEND\r\n"
		}
		s.client().want(t, "get found other\r\n", want)
		if says := s.said(); says != tt.says {
			t.Errorf("%s: %q, want %q", tt.name, says, tt.says)
		}
		s.stop()
	}
}

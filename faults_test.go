// Faults: memory, disk and descriptors run out, clients do not read, and the
// process is stopped.

package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// If the system has no memory for another slab page or a larger hash table, mc9
// goes on with what it has, and takes more as soon as there is some. (Without
// memory for Go's heap a process dies, so only the arena and table run short.)
func TestNoMemory(t *testing.T) {
	if !memPeek {
		t.Skip("the arena is on Go's heap under the race detector")
	}
	storeInit(t, 64, func() { settings.evictToFree = false })
	th := testThread()
	value := pattern(400000, 1)
	set(th, nreadSet, "first", value, 0)
	power, key := hashpower, []byte("key")
	var items [20]*item

	// Grow Go's heap in advance: other goroutines may allocate.
	slack := make([]byte, 16<<20)
	runtime.KeepAlive(slack)
	runtime.GC()
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	var old unix.Rlimit
	unix.Getrlimit(unix.RLIMIT_DATA, &old)
	if err := unix.Setrlimit(unix.RLIMIT_DATA, &unix.Rlimit{Cur: 4096, Max: old.Max}); err != nil {
		t.Skip("setrlimit: ", err)
	}
	for i := range items {
		items[i] = itemAlloc(key, 0, 0, len(value))
	}
	if t := assocNewTable(); t != nil {
		assocExpand(t)
	}
	unix.Setrlimit(unix.RLIMIT_DATA, &old)

	if items[len(items)-1] != nil || hashpower != power {
		t.Errorf("memory did not run out: items %v, hashpower %d", items, hashpower)
	}
	for _, it := range items {
		if it != nil {
			itemRemove(it)
		}
	}
	for i := range items {
		if set(th, nreadSet, fmt.Sprint(i), value, 0) != stored {
			t.Error("still no memory for item ", i)
		}
	}
	assocExpand(assocNewTable())
	if hashpower != power+1 {
		t.Errorf("hashpower %d", hashpower)
	}
	for range 1 << power {
		assocMoveBucket()
	}
	wantValue(t, th, "first", value)
	checkStore(t)
}

// skipCgo skips a test that limits the address space if the C library is linked in:
// that takes some for each thread.
func skipCgo(t *testing.T) {
	t.Helper()
	info, _ := debug.ReadBuildInfo()
	if slices.Contains(info.Settings, debug.BuildSetting{Key: "CGO_ENABLED", Value: "1"}) {
		t.Skip("linked with the C library, which takes address space for each thread; CGO_ENABLED=0 links without")
	}
}

// With 1.4 GB of address space beside -m there is room for all items. Go's runtime
// needs most of it, and crypto/rand 33 MB.
func TestAddressSpace(t *testing.T) {
	t.Parallel()
	if !memPeek {
		t.Skip("the race detector needs more")
	}
	skipCgo(t)
	const megs = 1400 + 100 + 40 // 40 MB more, as this is the tests' binary
	s := &server{t: t}
	s.addr, s.log = filepath.Join(t.TempDir(), "s"), filepath.Join(t.TempDir(), "log")
	s.cmd = command("", "-m", "100", "-M", "-s", s.addr)
	s.cmd.Args = append([]string{"sh", "-c", fmt.Sprintf(`ulimit -v %d; exec "$0" "$@"`, megs<<10), s.cmd.Path}, s.cmd.Args[1:]...)
	s.cmd.Path = "/bin/sh"
	log, _ := os.Create(s.log)
	s.cmd.Stderr = log
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer s.cmd.Wait()
	defer s.cmd.Process.Kill()
	eventually(t, "it listens", func() bool {
		c, err := s.dial()
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	c := s.client()
	value := strings.Repeat("v", 900000)
	for k := range 99 {
		c.want(t, fmt.Sprintf("set k%d 0 0 900000\r\n%s\r\n", k, value), "STORED\r\n")
	}
	if s.said() != "" {
		t.Error(s.said())
	}
	list := exec.Command("go", "list", "-deps", ".")
	if deps, err := list.Output(); err != nil {
		t.Log("go list: ", err)
	} else if strings.Contains(string(deps), "\ncrypto/rand\n") && !tlsBuild {
		t.Error("crypto/rand is linked in")
	}
}

// If the disk has no room for the pid and port files, mc9 says so and serves; the
// old files stay unchanged.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	mount := []string{"-m", "sh", "-c", `mount -t tmpfs -o size=8k full "$0" && echo 1 >"$0/pid" &&
		! cat /dev/zero 2>/dev/null >"$0/zero" && exec "$@"`, dir}
	if out, err := exec.Command("unshare", append(mount, "true")...).CombinedOutput(); err != nil {
		t.Skipf("unshare: %v %s", err, out)
	}
	port := freePort(t)
	cmd := command("", "-l", "127.0.0.1", "-p", port, "-P", filepath.Join(dir, "pid"))
	sh := exec.Command("unshare", append(mount, cmd.Args...)...)
	sh.Env = append(cmd.Env, "MEMCACHED_PORT_FILENAME="+filepath.Join(dir, "port"))
	var said strings.Builder
	sh.Stderr = &said
	if err := sh.Start(); err != nil {
		t.Fatal(err)
	}
	connect(t, "tcp", "127.0.0.1:"+port).want(t, "get foo\r\n", "END\r\n")
	pid, _ := os.ReadFile(fmt.Sprintf("/proc/%d/root%s/pid", sh.Process.Pid, dir))
	if string(pid) != "1\n" {
		t.Errorf("the pid file: %q", pid)
	}
	sh.Process.Signal(syscall.SIGTERM)
	if err := sh.Wait(); err != nil || strings.Count(said.String(), "No space left on device") != 2 {
		t.Errorf("%v\n%s", err, &said)
	}
}

// A client that asks for much and reads nothing uses no more than its share of
// memory, whether values are small and copied or large and only referenced, and
// none after it has hung up.
func TestDeafClients(t *testing.T) {
	t.Parallel()
	const clients = 100
	s := mc9(t, "-m", "64", "-t", "2")
	c := s.client()
	value := strings.Repeat("x", 1000000)
	c.want(t, "set small 0 0 1000\r\n"+value[:1000]+"\r\n", "STORED\r\n")
	c.want(t, "set big 0 0 1000000\r\n"+value+"\r\n", "STORED\r\n")
	c.wantStat(t, "curr_connections", "1")
	before := s.footprint()
	var deaf []*client
	for i := range clients {
		nc := s.client()
		deaf = append(deaf, nc)
		request := strings.Repeat("get small\r\n", 100)
		if i%2 == 0 {
			request = "get" + strings.Repeat(" big", 100) + "\r\n"
		}
		nc.write(strings.Repeat(request, 10))
	}
	eventually(t, "all replies wait", func() bool {
		return strings.Count(c.ask("stats conns\r\n"), " conn_mwrite\r\n") == clients
	})
	for _, nc := range deaf { // send until the server stops reading
		nc.SetWriteDeadline(time.Now().Add(time.Millisecond))
		for _, err := nc.Write([]byte(value)); err == nil; _, err = nc.Write([]byte(value)) {
		}
	}
	c.want(t, "get none\r\n", "END\r\n")
	s.wantCheap(t, before, clients)
	for _, nc := range deaf {
		nc.Close()
	}
	c.wantStat(t, "curr_connections", "1")
	c.want(t, "delete big\r\ndelete small\r\n", "DELETED\r\nDELETED\r\n")
	c.wantNoneUsed(t)
}

// Clients that send one byte at a time are served like others, cost no more, and
// keep nobody waiting.
func TestSlowClients(t *testing.T) {
	t.Parallel()
	const clients = 50
	s := mc9(t, "-t", "1")
	c := s.client()
	c.wantStat(t, "curr_connections", "1")
	before := s.footprint()
	var slow []*client
	for range clients {
		slow = append(slow, s.client())
	}
	text := "set k 7 0 5\r\nvalue\r\nget k none\r\nmg k v\r\nget" + strings.Repeat(" none", 100) + "\r\n"
	for i := range text {
		for _, nc := range slow {
			nc.write(text[i : i+1])
		}
		c.want(t, "get none\r\n", "END\r\n")
	}
	s.wantCheap(t, before, clients)
	for _, nc := range slow {
		nc.want(t, "", "STORED\r\nVALUE k 7 5\r\nvalue\r\nEND\r\nVA 5\r\nvalue\r\nEND\r\n")
	}
}

// With -o read_buf_mem_limit, mc9 closes a connection that needs a read buffer
// when none is left, and refuses a get with more replies than there is room for.
func TestReadBufMemLimit(t *testing.T) {
	t.Parallel()
	s := mc9(t, "-t", "1", "-o", "read_buf_mem_limit=1")
	const buffers = 1 << 20 / readBufferSize
	var keys strings.Builder
	c := s.client()
	for i := range buffers*respPerBuffer + 10 {
		fmt.Fprintf(&keys, " k%d", i)
		c.want(t, fmt.Sprintf("set k%d 0 0 1\r\n1\r\n", i), "STORED\r\n")
	}
	c.want(t, "get"+keys.String()+"\r\nget k1\r\n", "SERVER_ERROR out of memory writing get response\r\nVALUE k1 0 1\r\n1\r\nEND\r\n")
	c.wantStat(t, "response_obj_oom", "1")
	var halves []*client
	for range buffers - 1 {
		half := s.client()
		half.write("get k")
		halves = append(halves, half)
	}
	c.wantStat(t, "read_buf_count", strconv.Itoa(buffers))
	// c uses the last buffer while it sends requests.
	s.client().write("get k")
	eventually(t, "there is none for c", func() bool {
		nc := s.client()
		return nc.ask("get none\r\n") == closed
	})
	for _, half := range halves {
		half.want(t, "1\r\n", "VALUE k1 0 1\r\n1\r\nEND\r\n")
	}
	c = s.client()
	if c.stat("", "read_buf_oom") == "0" {
		t.Error("read_buf_oom is 0")
	}
	c.want(t, "get k1\r\n", "VALUE k1 0 1\r\n1\r\nEND\r\n")

	// A long line counts for what it takes.
	key := " " + strings.Repeat("k", 250)
	for range 10 {
		c.want(t, "get"+strings.Repeat(key, 800)+"\r\n", "END\r\n")
	}
	fails := c.statN("malloc_fails")
	nc := s.client()
	io.WriteString(nc, "get"+strings.Repeat(key, 8000)) // it may be closed meanwhile
	c.wantStat(t, "malloc_fails", strconv.Itoa(fails+1))
	c.want(t, "get k1\r\n", "VALUE k1 0 1\r\n1\r\nEND\r\n")
}

// A process that is stopped and continued loses nothing.
func TestStopCont(t *testing.T) {
	t.Parallel()
	s := mc9(t)
	c := s.client()
	c.want(t, "set foo 0 0 3\r\nbar\r\n", "STORED\r\n")
	up := c.statN("uptime")
	var stopped time.Time
	var others []*client
	s.whileStopped(func() {
		stopped = time.Now()
		c.write("get foo\r\n")
		for range 100 {
			nc := s.client()
			nc.write("get foo\r\n")
			others = append(others, nc)
		}
		others[0].Close()
	})
	for _, nc := range append(others[1:], c) {
		nc.want(t, "", "VALUE foo 0 3\r\nbar\r\nEND\r\n")
	}
	eventually(t, "time has passed for it, too", func() bool {
		return c.statN("uptime")-up >= int(time.Since(stopped)/time.Second)
	})
}

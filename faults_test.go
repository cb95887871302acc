// Faults: memory, disk and descriptors that are not to be had, clients that
// do not read, and time that stands still.

package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// status returns a number that the kernel has of the server, in KB where
// it is of memory.
func (s *server) status(name string) int {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	if err != nil {
		s.t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^` + name + `:\s+(\d+)`).FindSubmatch(text)
	if m == nil {
		s.t.Fatal("no ", name)
	}
	n, _ := strconv.Atoi(string(m[1]))
	return n
}

// Where the system has no memory for another slab page or a larger hash
// table, mc9 goes on with what it has, and takes more as soon as there is.
func TestNoMemory(t *testing.T) {
	if info, _ := debug.ReadBuildInfo(); !memPeek || slices.Contains(info.Settings, debug.BuildSetting{Key: "CGO_ENABLED", Value: "1"}) {
		t.Skip("built with cgo, whose threads end the process where there is no memory for them")
	}
	// Lest Go itself wants more memory.
	t.Setenv("GOGC", "off")
	t.Setenv("GODEBUG", "memprofilerate=0")
	const power = 17
	s := mc9(t, "-m", "256", "-M", "-o", fmt.Sprintf("hashpower=%d", power))
	c := s.client()
	n := 0
	add := func(more int) {
		var sets strings.Builder
		for end := n + more; n < end; n++ {
			fmt.Fprintf(&sets, "set k%d 0 0 1 noreply\r\n1\r\n", n)
		}
		c.want(t, sets.String(), "")
		c.wantStat(t, "curr_items", strconv.Itoa(n))
	}
	add(3 << (power - 1)) // one more makes the table grow

	// Less than a huge page for the arena, or than the next table takes.
	limit := unix.Rlimit{Cur: uint64(s.status("VmData")+900) << 10, Max: unix.RLIM_INFINITY}
	if err := unix.Prlimit(s.cmd.Process.Pid, unix.RLIMIT_DATA, &limit, nil); err != nil {
		t.Skip(err)
	}
	value := strings.Repeat("x", 400000)
	stored, failed := 0, 0
	for i := range 20 {
		switch reply := c.ask(fmt.Sprintf("set big%d 0 0 %d\r\n%s\r\n", i, len(value), value)); reply {
		case "STORED\r\n":
			stored++
		case "SERVER_ERROR out of memory storing object\r\n":
			failed++
		default:
			t.Fatalf("%q", reply)
		}
	}
	if failed == 0 {
		t.Errorf("%d values stored without memory", stored)
	}
	n += stored
	add(1000)
	c.want(t, "set tick 0 2 1\r\n1\r\n", "STORED\r\n")
	eventually(t, "the clock has ticked", func() bool { return c.ask("get tick\r\n") == "END\r\n" }) // stats would cost memory
	c.wantStat(t, "hash_power_level", strconv.Itoa(power))
	c.want(t, "get k7\r\n", "VALUE k7 0 1\r\n1\r\nEND\r\n")

	limit.Cur = unix.RLIM_INFINITY
	unix.Prlimit(s.cmd.Process.Pid, unix.RLIMIT_DATA, &limit, nil)
	c.want(t, fmt.Sprintf("set big 0 0 %d\r\n%s\r\n", len(value), value), "STORED\r\n")
	c.wantStat(t, "hash_power_level", strconv.Itoa(power+1))
	c.want(t, "get k7\r\n", "VALUE k7 0 1\r\n1\r\nEND\r\n")
}

// Without room for the pid and the port files mc9 says so and serves; the
// files of before stay as they are.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	mount := []string{"-m", "sh", "-c", `mount -t tmpfs -o size=8k full "$0" && echo 1 >"$0/pid" &&
		! cat /dev/zero 2>/dev/null >"$0/zero" && exec "$@"`, dir}
	if out, err := exec.Command("unshare", append(mount, "true")...).CombinedOutput(); err != nil {
		t.Skipf("unshare: %v %s", err, out)
	}
	cmd := command("", "-l", "127.0.0.1", "-p", freePort(t), "-P", filepath.Join(dir, "pid"))
	sh := exec.Command("unshare", append(mount, cmd.Args...)...)
	sh.Env = append(cmd.Env, "MEMCACHED_PORT_FILENAME="+filepath.Join(dir, "port"))
	var said strings.Builder
	sh.Stderr = &said
	if err := sh.Start(); err != nil {
		t.Fatal(err)
	}
	port := cmd.Args[len(cmd.Args)-3]
	eventually(t, "the server serves", func() bool {
		nc, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err != nil {
			return false
		}
		defer nc.Close()
		return newClient(nc).ask("get foo\r\n") == "END\r\n"
	})
	pid, _ := os.ReadFile(fmt.Sprintf("/proc/%d/root%s/pid", sh.Process.Pid, dir))
	if string(pid) != "1\n" {
		t.Errorf("the pid file: %q", pid)
	}
	sh.Process.Signal(syscall.SIGTERM)
	if err := sh.Wait(); err != nil || strings.Count(said.String(), "No space left on device") != 2 {
		t.Errorf("%v\n%s", err, &said)
	}
}

// A client that asks for much and reads nothing costs its own share of
// memory, whether values are small and copied or large and only held.
func TestDeafClients(t *testing.T) {
	const clients, each = 100, 512 // KB
	s := mc9(t, "-m", "64", "-t", "2")
	c := s.client()
	value := strings.Repeat("x", 500000)
	c.want(t, "set small 0 0 1000\r\n"+value[:1000]+"\r\n", "STORED\r\n")
	c.want(t, "set big 0 0 500000\r\n"+value+"\r\n", "STORED\r\n")
	before := s.status("VmRSS")
	for i := range clients {
		nc := s.client()
		request := strings.Repeat("get small\r\n", 100)
		if i%2 == 0 {
			request = "get" + strings.Repeat(" big", 100) + "\r\n"
		}
		// It sends until nobody takes it any more.
		for nc.SetWriteDeadline(time.Now().Add(time.Millisecond)); ; {
			if _, err := nc.Write([]byte(request)); err != nil {
				break
			}
		}
	}
	c.want(t, "get none\r\n", "END\r\n")
	if grown := s.status("VmRSS") - before; grown > clients*each {
		t.Errorf("%d KB for each client", grown/clients)
	}
	c.want(t, "delete big\r\ndelete small\r\n", "DELETED\r\nDELETED\r\n")
}

// -o read_buf_mem_limit closes whoever wants a read buffer when there is
// none, and takes no more replies than it has room for.
func TestReadBufMemLimit(t *testing.T) {
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
	// The last one is c's, as long as it asks.
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
}

// A process that is stopped and goes on has lost nothing.
func TestStopCont(t *testing.T) {
	s := mc9(t)
	c := s.client()
	c.want(t, "set foo 0 0 3\r\nbar\r\n", "STORED\r\n")
	s.cmd.Process.Signal(syscall.SIGSTOP)
	eventually(t, "it is stopped", func() bool {
		stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.cmd.Process.Pid))
		return strings.Contains(string(stat), ") T ")
	})
	c.write("get foo\r\n")
	var others []*client
	for range 100 {
		nc := s.client()
		nc.write("get foo\r\n")
		others = append(others, nc)
	}
	others[0].Close()
	s.cmd.Process.Signal(syscall.SIGCONT)
	for _, nc := range append(others[1:], c) {
		nc.want(t, "", "VALUE foo 0 3\r\nbar\r\nEND\r\n")
	}
}

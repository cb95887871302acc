// Problems reported by people who run memcached, its proxies and its clients.

package main

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A refusal is sent only when the refused value has arrived; the reply to the
// command before it does not wait.
func TestRefusedValue(t *testing.T) {
	t.Parallel()
	const size = 2000000
	value := strings.Repeat("x", size) + "\r\n"
	long := strings.Repeat("k", 251)
	for _, tt := range []struct{ command, reply string }{
		{"set k 0 0 2000000", "SERVER_ERROR object too large for cache"},
		{"add k 0 0 2000000", "SERVER_ERROR object too large for cache"},
		{"append k 0 0 2000000", "SERVER_ERROR object too large for cache"},
		{"cas k 0 0 2000000 x", "CLIENT_ERROR bad command line format"},
		{"set k 0 x 2000000", "CLIENT_ERROR bad command line format"},
		{"set " + long + " 0 0 2000000", "CLIENT_ERROR bad command line format"},
		{"ms k 2000000", "SERVER_ERROR object too large for cache"},
		{"ms k 2000000 MX", "CLIENT_ERROR invalid mode for ms M token"},
		{"ms k 2000000 k k", "CLIENT_ERROR duplicate flag"},
		{"TSet key=k bodylen=2000009", "RSet status=0x03 value=Too large."},
		{"TAddq key=k bodylen=2000009", "RAddq status=0x03 value=Too large."},
		{"T0x55 bodylen=2000000", "R0x55 status=0x81 value=Unknown command"},
	} {
		t.Run(tt.command[:min(len(tt.command), 20)], func(t *testing.T) {
			t.Parallel()
			s := mc9(t, "-t", "1")
			c, other := s.client(), s.client()
			before, first, request, body, reply := "mn\r\n", "MN\r\n", tt.command+"\r\n", value, c.line
			if tt.command[0] == 'T' {
				before, first = packets(t, "TNoop"), "RNoop\r\n"
				request, body, reply = packets(t, tt.command), value[:size], c.packetLine
			}
			c.write(before + request + body[:1000])
			if have := reply(); have != first {
				t.Fatalf("%q", have)
			}
			eventually(t, "it waits for the value", func() bool {
				return strings.Contains(other.ask("stats conns\r\n"), "conn_swallow")
			})
			if n := c.unread(t); n != 0 {
				t.Errorf("%d bytes of the refusal came before the value was sent", n)
			}
			c.write(body[1000:])
			if have := reply(); have != tt.reply+"\r\n" {
				t.Errorf("have %q, want %s", have, tt.reply)
			}
			c.write(before)
			if have := reply(); have != first {
				t.Errorf("%q", have)
			}
		})
	}
}

// contrib/README.md's twemproxy and its three servers, on a network with small packets: a
// refused value fails its own request only.
func TestTwemproxy(t *testing.T) {
	nutcracker, err := exec.LookPath("nutcracker")
	if err != nil {
		t.Skip("no twemproxy: ", err)
	}
	if os.Getenv("MC9_NETNS") == "" {
		exe, _ := os.Executable()
		cmd := exec.Command(exe, "-test.run=^TestTwemproxy$", "-test.v")
		cmd.Env = append(os.Environ(), "MC9_NETNS=1", "GORACE=atexit_sleep_ms=0")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
		out, err := cmd.CombinedOutput()
		switch {
		case cmd.ProcessState == nil:
			t.Skip("no network namespace: ", err)
		case err != nil:
			t.Errorf("%v\n%s", err, out)
		}
		return
	}

	// A new loopback interface is down and takes packets of 64 KB.
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	lo, _ := unix.NewIfreq("lo")
	lo.SetUint32(1500)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFMTU, lo); err != nil {
		t.Fatal("mtu: ", err)
	}
	lo.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo); err != nil {
		t.Fatal("up: ", err)
	}
	unix.Close(fd)

	readme, err := os.ReadFile("contrib/README.md")
	if err != nil {
		t.Fatal(err)
	}
	conf := regexp.MustCompile(`(?m)^\tmc9:\n(\t .*\n)+`).FindString(string(readme))
	file := filepath.Join(t.TempDir(), "nutcracker.yml")
	os.WriteFile(file, []byte(strings.ReplaceAll(conf, "\n\t", "\n")[1:]), 0o644)
	var servers []*server
	for _, port := range regexp.MustCompile(`:(\d+):1`).FindAllStringSubmatch(conf, -1) {
		servers = append(servers, start(t, "", true, "-l", "127.0.0.1", "-p", port[1]))
	}
	if len(servers) != 3 {
		t.Fatalf("the configuration has %d servers:\n%s", len(servers), conf)
	}
	proxy := exec.Command(nutcracker, "-c", file, "-s", "22222")
	proxy.Stderr = os.Stderr
	if err := proxy.Start(); err != nil {
		t.Fatal(err)
	}
	defer proxy.Wait()
	defer proxy.Process.Kill()
	small, large := connect(t, "tcp", "127.0.0.1:22122"), connect(t, "tcp", "127.0.0.1:22122")
	for i := range 60 {
		small.write(fmt.Sprintf("set k%d 0 0 1\r\nv\r\n", i))
		if line := small.line(); line != "STORED\r\n" {
			t.Fatalf("set k%d: %q", i, line)
		}
	}
	for i := range 5 {
		large.write(fmt.Sprintf("set big%d 0 0 1100000\r\n%1100000s\r\n", i, ""))
		if line := large.line(); line != "SERVER_ERROR object too large for cache\r\n" {
			t.Errorf("set big%d: %q", i, line)
		}
	}
	for i := range 60 {
		small.write(fmt.Sprintf("get k%d\r\n", i))
		if line := small.line(); line != fmt.Sprintf("VALUE k%d 0 1\r\n", i) || small.line() != "v\r\n" || small.line() != "END\r\n" {
			t.Fatalf("get k%d: %q", i, line)
		}
	}
}

// Addresses that inet_aton(3) accepts; want is "" for those it refuses.
func TestInetAton(t *testing.T) {
	for host, want := range map[string]string{
		"0": "0.0.0.0", "00": "0.0.0.0", "127.1": "127.0.0.1", "127.0.1": "127.0.0.1",
		"0x7f.1": "127.0.0.1", "0X7F.0.0.01": "127.0.0.1", "0177.1": "127.0.0.1",
		"2130706433": "127.0.0.1", "0x7f000001": "127.0.0.1", "017700000001": "127.0.0.1",
		"127.256": "127.0.1.0", "127.16777215": "127.255.255.255",
		"": "", ".": "", "127.": "", "127..1": "", "127.0.0.1.": "", "1.2.3.4.5": "", "256.1": "", "127.16777216": "",
		"127.65536.1": "", "08.1": "", "0x": "", "0x.1": "", "+1": "", "-1": "", "1_0": "", "4294967296": "", "0b1": "", "0o1": "", "1.x": "",
	} {
		have, ok := inetAton(host)
		if ok != (want != "") || ok && have != netip.MustParseAddr(want) {
			t.Errorf("%q: have %v %v, want %q", host, have, ok, want)
		}
	}
	s := start(t, "", true, "-l", "127.1", "-p", "-1")
	s.client().want(t, "mn\r\n", "MN\r\n")
}

// With little address space or few threads allowed, mc9 makes do, or reports it
// in one line.
func TestLimits(t *testing.T) {
	if _, err := exec.LookPath("prlimit"); err != nil {
		t.Skip(err)
	}
	if !memPeek {
		t.Skip("the race detector takes more than all of it")
	}
	limited := func(limit string, flags ...string) *exec.Cmd {
		cmd := command("", flags...)
		cmd.Args = append([]string{"prlimit", limit, cmd.Path}, cmd.Args[1:]...)
		cmd.Path, _ = exec.LookPath("prlimit")
		return cmd
	}
	said := func(cmd *exec.Cmd) string {
		out, _ := cmd.CombinedOutput()
		return string(out)
	}
	few := limited("--nproc=17", "-l", "127.0.0.1", "-p", "-1")
	if os.Getuid() == 0 { // root is exempt from the limit
		few = limited("--nproc=17", "-l", "127.0.0.1", "-p", "-1", "-u", "23456")
	}
	if out := said(few); out != "17 threads are too few for -t 4, which needs 18 (see ulimit -u, and pids.max of the control group)\n" {
		t.Errorf("%q", out)
	}
	skipCgo(t)
	sock := filepath.Join(t.TempDir(), "s")
	s := &server{t: t, addr: sock, cmd: limited("--as=1600000000", "-m", "2g", "-s", sock), done: make(chan struct{})}
	log, _ := os.Create(sock + ".log")
	s.log, s.cmd.Stderr = log.Name(), log
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		s.cmd.Wait()
		close(s.done)
	}()
	defer s.stop()
	c := connect(t, "unix", sock)
	eventually(t, "it warns", func() bool { return strings.Contains(s.said(), "leaves ") })
	value := strings.Repeat("x", 1000)
	for i := range 200 {
		c.want(t, strings.Repeat(fmt.Sprintf("set k%d 0 0 1000 noreply\r\n%s\r\n", i, value), 1000), "")
	}
	c.want(t, "get k199\r\n", "VALUE k199 0 1000\r\n"+value+"\r\nEND\r\n")
}

// -k locks no more memory than is used.
func TestLockMemory(t *testing.T) {
	s := mc9(t, "-k", "-m", "64")
	if strings.Contains(s.said(), "mlockall") {
		t.Skip("may not lock memory: ", s.said())
	}
	if s.status("VmLck") == 0 {
		t.Error("nothing is locked")
	}
	if kb := s.status("VmRSS"); kb > 32<<10 && memPeek {
		t.Errorf("%d KB", kb)
	}
}

// A half-closed client that reads none of its replies is idle, and so is one that
// reads none while it sends a value.
func TestDeafIdle(t *testing.T) {
	t.Parallel()
	s := start(t, "", true, "-l", "127.0.0.1", "-p", "-1", "-o", "idle_timeout=1")
	storeBig(t, s)
	gets := strings.Repeat("get big\r\n", 50)
	s.whileStopped(func() { // so that all requests are sent before the connections are accepted
		half := s.client()
		half.write(gets)
		half.Conn.(interface{ CloseWrite() error }).CloseWrite()
		s.client().write(gets + "set k 0 0 10\r\n")
	})
	deaf := regexp.MustCompile(` conn_(mwrite|nread)\r\n`)
	eventually(t, "two are closed", func() bool {
		c := s.client() // a new one each time, since it may be closed as idle itself
		defer c.Close()
		conns := c.ask("stats conns\r\n")
		return strings.HasSuffix(conns, "END\r\n") && !deaf.MatchString(conns) && c.statN("idle_kicks") >= 2
	})
}

// storeBig stores an item of 1 MB, by as many clients as it takes: each may be
// closed as idle.
func storeBig(t *testing.T, s *server) {
	t.Helper()
	eventually(t, "big is stored", func() bool {
		c := s.client()
		defer c.Close()
		return c.ask("set big 0 0 1000000\r\n"+strings.Repeat("x", 1000000)+"\r\n") == "STORED\r\n"
	})
}

// A client that reads a little of its reply now and then is not idle. If the test
// itself was held up for too long, it tries again with more time.
func TestSlowNotIdle(t *testing.T) {
	t.Parallel()
	for timeout := 2 * time.Second; timeout < patience; timeout *= 2 {
		s := start(t, "", true, "-l", "127.0.0.1", "-p", "-1", "-o", fmt.Sprintf("idle_timeout=%.0f", timeout.Seconds()))
		storeBig(t, s)
		begin, last := time.Now(), time.Now()
		c := s.client()
		c.write(strings.Repeat("get big\r\n", 50))
		b := make([]byte, 200000)
		var longest time.Duration
		var err error
		for err == nil && time.Since(begin) < 2*timeout {
			_, err = c.Read(b)
			longest = max(longest, time.Since(last))
			last = time.Now()
			time.Sleep(timeout / 20)
		}
		if err == nil {
			return
		}
		if longest < timeout/4 {
			t.Fatalf("%v after %v, reading every %v", err, time.Since(begin), longest)
		}
	}
	t.Skip("the machine is too slow")
}

// The clock's seconds start when the wall clock's do.
func TestClockSeconds(t *testing.T) {
	for range 3 {
		now := time.Now()
		clockInit(clockBegin)
		date := time.Unix(processStarted, 0).Add(time.Since(clockBase))
		if d := date.Sub(now); d < 0 || d > time.Minute {
			t.Errorf("it is %v, the clock says %v", now, date)
		}
	}
}

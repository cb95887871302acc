// Start and end, options, and the process's dealings with the system: users,
// files, sockets, signals.

package main

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestOptions(t *testing.T) {
	const all = "maxbytes 134217728,maxconns 200,num_threads 2,reqs_per_event 5,growth_factor 1.50,chunk_size 64,tcp_backlog 99,evictions off,umask 666,item_size_max 524288"
	for _, tt := range []struct{ flags, settings string }{
		{"-m 128 -c 200 -t 2 -R 5 -f 1.5 -n 64 -b 99 -M -a 0666 -I 512k -v", all + ",verbosity 1"},
		{"-m128 -c200 -t2 -R5 -f1.5 -n64 -b99 -Mvv -a0666 -I524288", all + ",verbosity 2"},
		{"--memory-limit=128 --conn-limit=200 --threads=2 --max-reqs-per-event=5 --slab-growth-factor=1.5 --slab-min-size=64 --listen-backlog=99 --disable-evictions --unix-mask=0666 --max-item-size=512K --verbose", all + ",verbosity 1"},
		{"--memory-limit 128 --conn-limit 200 --threads 2 --max-reqs-per-event 5 --slab-growth-factor 1.5 --slab-min-size 64 --listen-backlog 99 --disable-evictions --unix-mask 0666 --max-item-size 512k", all + ",verbosity 0"},
		{"--memory-l=128 --conn=200 --th 2 --max-r=5 --slab-g 1.5 --slab-m 64 --listen-b 99 --disable-e --unix-m 0666 --max-i=512k", all},
		{"-v -v -v", "verbosity 3"},
		{"-m 32 -m 96", "maxbytes 100663296"},
		{"-m 1g -n 1k -o slab_chunk_max=64k,worker_logbuf_size=1m,watcher_logbuf_size=1024KB,read_buf_mem_limit=2048k",
			"maxbytes 1073741824,chunk_size 1024,slab_chunk_max 65536,worker_logbuf_size 1048576,watcher_logbuf_size 1048576,read_buf_mem_limit 2097152"},
		{"-m 65536K", "maxbytes 67108864"},
		{"-I 2m", "item_size_max 2097152,slab_chunk_max 524288"},
		{"-A -C -F -X -D / -B ascii -r", "shutdown_command yes,cas_enabled no,flush_enabled no,dump_enabled no,stat_key_prefix /,detail_enabled yes,binding_protocol ascii"},
		{"--enable-shutdown --disable-cas --disable-flush-all --disable-dumping --disable-watch --protocol=auto", "shutdown_command yes,cas_enabled no,flush_enabled no,dump_enabled no,binding_protocol auto-negotiate"},
		{"-p 12345", "tcpport 12345,udpport 0"},
		{"-U 12345", "tcpport 12345,udpport 12345"},
		{"-U 1 -U 0", "tcpport 11211,udpport 0"},
		{"--udp-port=1 --port=2", "tcpport 2,udpport 1"},
		{"-l 127.0.0.1 -l ::1 --listen=127.0.0.1", "inter 127.0.0.1,::1,num_threads_per_udp 1"},
		{"-l127.0.0.1", "inter 127.0.0.1,num_threads_per_udp 4"},
		{"-o maxconns_fast,hashpower=18,slab_reassign,slab_automove=2,slab_automove_ratio=0.5,slab_automove_window=20,tail_repair_time=100", "maxconns_fast yes,hashpower_init 18,slab_reassign yes,slab_automove 2,slab_automove_ratio 0.50,slab_automove_window 20,tail_repair_time 100"},
		{"-m 64", "hot_lru_pct 5,warm_lru_pct 40,hot_max_factor 0.00,warm_max_factor 0.00"},
		{"-o no_lru_memory", "hot_lru_pct 20,warm_lru_pct 40,hot_max_factor 0.20,warm_max_factor 2.00"},
		{"-o hot_lru_pct=30", "hot_lru_pct 30,warm_lru_pct 40,hot_max_factor 0.00"},
		{"-o warm_lru_pct=30,warm_max_factor=3", "hot_lru_pct 20,warm_lru_pct 30,hot_max_factor 0.00,warm_max_factor 3.00"},
		{"-o lru_crawler,lru_crawler_sleep=50,lru_crawler_tocrawl=7,lru_maintainer,hot_lru_pct=15,warm_lru_pct=30,hot_max_factor=0.3,warm_max_factor=3,temporary_ttl=30", "lru_crawler yes,lru_crawler_sleep 50,lru_crawler_tocrawl 7,lru_maintainer_thread yes,hot_lru_pct 15,warm_lru_pct 30,hot_max_factor 0.30,warm_max_factor 3.00,temp_lru yes,temporary_ttl 30"},
		{"-o idle_timeout=9,watcher_logbuf_size=64,worker_logbuf_size=32,track_sizes,slab_chunk_max=256,read_buf_mem_limit=64 -o inline_ascii_resp,no_inline_ascii_resp,no_io_uring,modern,no_drop_privileges", "idle_timeout 9,watcher_logbuf_size 65536,worker_logbuf_size 32768,track_sizes yes,slab_chunk_max 262144,read_buf_mem_limit 67108864,inline_ascii_response no"},
		{"-o no_maxconns_fast --extended=no_slab_automove -ono_lru_crawler --ext no_lru_maintainer -o no_chunked_items,no_hashexpand", "maxconns_fast no,slab_automove 0,lru_crawler no,lru_maintainer_thread no,lru_segmented no,slab_chunk_max 1048576"},
		{"-o no_modern", "slab_chunk_max 1048576,slab_reassign no,slab_automove 0,maxconns_fast no,lru_segmented no,lru_crawler no,lru_maintainer_thread no"},
		{"-o slab_automove", "slab_automove 1"},
		{"-o hash_algorithm=murmur3,worker_logbuf_size=256m -o hash_algorithm=jenkins,hash_algorithm=xxh3,watcher_logbuf_size=262144",
			"hash_algorithm maphash,worker_logbuf_size 268435456,watcher_logbuf_size 268435456"},
		{"-o slab_sizes=100-200-300-1000", "chunk_size 48"},
	} {
		t.Run(tt.flags, func(t *testing.T) {
			t.Parallel()
			c := mc9(t, strings.Fields(tt.flags)...).client()
			for name, value := range pairs(tt.settings) {
				if have := c.stat("settings", name); have != value {
					t.Errorf("%s: have %q, want %q", name, have, value)
				}
			}
		})
	}
	// A value in one word with its option may begin with a blank.
	if have := mc9(t, "-m 96").client().stat("settings", "maxbytes"); have != "100663296" {
		t.Errorf("%q: %q", "-m 96", have)
	}
}

// pairs parses settings in the form of TestOptions; values may contain commas.
func pairs(s string) map[string]string {
	m := map[string]string{}
	last := ""
	for _, s := range strings.Split(s, ",") {
		if name, value, ok := strings.Cut(s, " "); ok {
			m[name] = value
			last = name
		} else {
			m[last] += "," + s
		}
	}
	return m
}

func TestBadOptions(t *testing.T) {
	for _, tt := range []struct {
		flags string
		code  int
		words string
	}{
		{"-c 0", 1, "Maximum connections must be greater than 0"},
		{"-c -1", 1, "Maximum connections must be greater than 0"},
		{"-c 20", 1, ""},
		{"-t 0", 1, "Number of threads must be greater than 0"},
		{"-t 4097", 1, "Number of threads must be at most 4096"},
		{"-f 1", 1, "Factor must be greater than 1"},
		{"-n 0", 1, "Chunk size must be greater than 0"},
		{"-R 0", 1, "Number of requests per event must be greater than 0"},
		{"-D ", 1, "No delimiter specified"},
		{"-B http", 64, "Invalid value for binding protocol: http"},
		{"-m 64t", 1, "could not parse argument to -m"},
		{"-m -1", 1, "could not parse argument to -m"},
		{"-m 4503599627370497g", 1, "could not parse argument to -m"},
		{"-I 1mx", 1, "could not parse argument to -I"},
		{"-I 1000", 64, "Item max size cannot be less than 1024 bytes."},
		{"-I 256m", 64, "Cannot set item size limit higher than 1/2 of memory max."},
		{"-m 4096 -I 1025m", 64, "Cannot set item size limit higher than a gigabyte."},
		{"-I 1500k", 64, "must be evenly divisible by slab_chunk_max"},
		{"-I 256k", 64, "cannot be larger than -I"},
		{"-p 65536", 64, "ERROR: Invalid port number 65536."},
		{"-S -B ascii", 64, ""},
		{"-Z", 64, map[bool]string{false: "This server is not built with TLS support.", true: "Error loading the certificate chain: "}[tlsBuild]},
		{"--mem=128", 1, `Illegal argument "?"`},
		{"-q", 1, `Illegal argument "?"`},
		{"--nonsense", 1, `Illegal argument "?"`},
		{"--disable", 1, `Illegal argument "?"`},
		{"--disable-cas=yes", 1, `Illegal argument "?"`},
		{"-m", 1, `Illegal argument "?"`},
		{"-o nonsense", 1, `Illegal suboption "nonsense"`},
		{"-o ,", 1, `Illegal suboption`},
		{"-o hashpower", 1, "Missing numeric argument for hashpower"},
		{"-o hashpower=11", 1, "Initial hashtable multiplier of 11 is too low"},
		{"-o hashpower=33", 1, "Initial hashtable multiplier of 33 is too high"},
		{"-o slab_automove=3", 1, "slab_automove must be between 0 and 2"},
		{"-o slab_automove_ratio=2", 1, "slab_automove_ratio must be > 0 and < 1"},
		{"-o slab_automove_window=2", 1, "slab_automove_window must be > 2 and < 1800"},
		{"-o tail_repair_time=9", 1, "Cannot set tail_repair_time to less than 10 seconds"},
		{"-o hash_algorithm=md5", 1, "Unknown hash_algorithm option (jenkins, murmur3, xxh3)"},
		{"-o hash_algorithm", 1, "Missing hash_algorithm argument"},
		{"-o lru_crawler_sleep=1000001", 1, "LRU crawler sleep must be between 0 and 1 second"},
		{"-o lru_crawler_tocrawl=x", 1, "lru_crawler_tocrawl takes a numeric 32bit value"},
		{"-o hot_lru_pct=0", 1, "hot_lru_pct must be > 1 and < 80"},
		{"-o warm_lru_pct=80", 1, "warm_lru_pct must be > 1 and < 80"},
		{"-o hot_lru_pct=50", 64, "hot_lru_pct + warm_lru_pct cannot be more than 80% combined"},
		{"-o hot_lru_pct=50,warm_lru_pct=50", 64, "hot_lru_pct + warm_lru_pct cannot be more than 80% combined"},
		{"-o hot_max_factor=0", 1, "hot_max_factor must be > 0"},
		{"-o warm_max_factor=x", 1, "warm_max_factor must be > 0"},
		{"-o temporary_ttl=10,no_lru_maintainer", 64, "temporary_ttl requires lru_maintainer to be enabled"},
		{"-o idle_timeout", 1, "Missing numeric argument for idle_timeout"},
		{"-o watcher_logbuf_size=x", 1, "could not parse argument to watcher_logbuf_size"},
		{"-o watcher_logbuf_size=262145", 1, "watcher_logbuf_size must be at most 262144 (kilobytes)"},
		{"-o worker_logbuf_size=1000000000", 1, "worker_logbuf_size must be at most 262144 (kilobytes)"},
		{"-o ext_max_frag=nan", 1, "could not parse argument to ext_max_frag"},
		{"-o slab_automove_freeratio=-1", 1, "could not parse argument to slab_automove_freeratio"},
		{"-o ext_path=/nonexistent/e:16777217t", 1, "page_count must total to < 65536"},
		{"-o slab_chunk_max=0", 1, "slab_chunk_max must be >= 0"},
		{"-o no_io_uring -V", 0, "DEPRECATED: no_io_uring no longer used: mc9 makes plain system calls\n"},
		{"-o slab_chunk_max=2048", 1, "slab_chunk_max must be specified in kilobytes."},
		{"-o slab_chunk_max=3", 64, "must be evenly divisible by slab_chunk_max"},
		{"-I 3k -o slab_chunk_max=3", 64, "must divide evenly into 1048576"},
		{"-o slab_sizes=100-90", 64, ""},
		{"-l fooble", 71, "failed to listen on one of interface(s) fooble: "},
		{"-l 127.0.0.1:x", 71, `Invalid port number: "x"`},
		{"-l [::1", 71, `Invalid IPV6 address`},
		{"-l notls:127.0.0.1", 71, "'notls' option is valid only when SSL is enabled"},
		{"-s /nonexistent/sock", 71, "bind(): No such file or directory\nfailed to listen on UNIX socket: /nonexistent/sock: "},
	} {
		t.Run(tt.flags, func(t *testing.T) {
			t.Parallel()
			flags := strings.Split(tt.flags, " ")
			if !strings.Contains(tt.flags, "-s ") && !strings.Contains(tt.flags, "-l ") {
				// Bind no port if the options are wrongly accepted.
				flags = append([]string{"-s", filepath.Join(t.TempDir(), "s")}, flags...)
			}
			code, out := run(t, flags...)
			if code != tt.code || !strings.Contains(out, tt.words) {
				t.Errorf("have %d: %swant %d: %s", code, out, tt.code, tt.words)
			}
		})
	}
}

// Whatever number an option is given, mc9 refuses it at start, or serves.
func TestExtremes(t *testing.T) {
	t.Parallel()
	var flags [][]string
	for _, value := range []string{"0", "-1", "2147483648", "4294967295", "4611686018427387903", "nan", "1e308"} {
		for _, o := range optionTable() {
			if o.letter() == 'm' && !memPeek {
				continue // the arena is on Go's heap
			}
			if strings.Contains("=<num> =<bytes> =<mask>", o.arg) && o.arg != "" {
				flags = append(flags, []string{"-" + string(o.letter()), value})
			}
		}
		for _, o := range suboptionTable() {
			if o.arg != "" && o.name() != "ext_path" {
				flags = append(flags, []string{"-o", o.name() + "=" + value})
			}
		}
	}
	dir := t.TempDir()
	all := make(chan int)
	go func() {
		for i := range flags {
			all <- i
		}
		close(all)
	}()
	for range 4 {
		t.Run("", func(t *testing.T) {
			t.Parallel()
			for i := range all {
				args := append([]string{"-s", filepath.Join(dir, fmt.Sprint(i))}, flags[i]...)
				if strings.HasPrefix(flags[i][1], "ext_") || strings.HasPrefix(flags[i][1], "slab_automove_freeratio") {
					args = append(args, "-o", "ext_path="+filepath.Join(dir, fmt.Sprint("ext", i))+":128m")
				}
				extreme(t, args)
			}
		})
	}
}

// extreme starts mc9, if it can, and has it serve.
func extreme(t *testing.T, flags []string) {
	s := &server{t: t, addr: flags[1]}
	var out bytes.Buffer
	s.cmd = command("", flags...)
	s.cmd.Stderr = &out
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.cmd.Wait() }()
	for {
		nc, err := net.Dial("unix", s.addr)
		if err == nil {
			watcher := newClient(nc)
			watcher.write("watch fetchers mutations\r\n")
			if nc, err := net.Dial("unix", s.addr); err == nil {
				c := newClient(nc)
				c.ask("set a 0 0 1\r\n1\r\nset b 0 10 700000\r\n" + strings.Repeat("b", 700000) + "\r\nget a b\r\nstats settings\r\n")
				nc.Close()
			}
			nc.Close()
			s.cmd.Process.Signal(syscall.SIGTERM)
			<-done
			break
		}
		select {
		case <-done:
		case <-time.After(time.Millisecond):
			continue
		}
		break
	}
	switch code := s.cmd.ProcessState.ExitCode(); code {
	case 0, 1, exUsage, exOserr:
	default:
		t.Errorf("%q: %d\n%.500s", flags, code, &out)
	}
}

func TestHelp(t *testing.T) {
	for flag, words := range map[string]string{
		"-h":        "-s, --unix-socket",
		"--help":    "-o, --extended",
		"-V":        "",
		"--version": "",
		"-i":        "Redistribution and use",
		"--license": "THIS SOFTWARE IS PROVIDED",
	} {
		code, out := run(t, flag)
		if code != 0 || !strings.HasPrefix(out, "memcached 1.6.45") || !strings.Contains(out, words) {
			t.Errorf("%s: %d\n%s", flag, code, out)
		}
	}
}

func TestSignals(t *testing.T) {
	t.Parallel()
	for sig, words := range map[syscall.Signal]string{
		syscall.SIGINT:  "Exiting normally\n",
		syscall.SIGTERM: "Exiting normally\n",
		syscall.SIGUSR1: "Gracefully stopping\n",
	} {
		s := start(t, "", true, "-v", "-l", "127.0.0.1", "-p", freePort(t))
		c := s.client()
		c.want(t, "get foo\r\n", "END\r\n")
		s.cmd.Process.Signal(syscall.SIGHUP)
		s.cmd.Process.Signal(syscall.SIGPIPE)
		c.want(t, "get foo\r\n", "END\r\n")
		s.cmd.Process.Signal(sig)
		<-s.done
		if out := s.said(); !s.cmd.ProcessState.Success() || !strings.Contains(out, words) {
			t.Errorf("%v: %v %q", sig, s.cmd.ProcessState, out)
		}
		if line := c.line(); line != closed {
			t.Errorf("%v: %q", sig, line)
		}
		if l, err := net.Listen("tcp", "127.0.0.1:"+s.port["TCP INET"]); err != nil {
			t.Error(err)
		} else {
			l.Close()
		}
	}
	s := mc9(t)
	s.cmd.Process.Signal(syscall.SIGTERM)
	if <-s.done; s.said() != "" {
		t.Errorf("without -v: %q", s.said())
	}
}

// On USR1 every request already read is answered, however often the connection
// yields meanwhile.
func TestGraceful(t *testing.T) {
	t.Parallel()
	const n = 1000 // so many requests fit in a read buffer; 5 replies at a time fit in the socket while we don't read
	s := mc9(t, "-t", "1", "-R", "5")
	c := s.client()
	c.want(t, "get foo\r\n", "END\r\n")
	s.whileStopped(func() {
		c.write(strings.Repeat("get foo\r\n", n))
		s.cmd.Process.Signal(syscall.SIGUSR1)
	})
	for i := range n {
		if line := c.line(); line != "END\r\n" {
			t.Fatalf("%d: %q", i, line)
		}
	}
	if line := c.line(); line != closed {
		t.Errorf("%q", line)
	}
	<-s.done
}

func TestShutdown(t *testing.T) {
	t.Parallel()
	for _, command := range []string{"shutdown", "shutdown graceful"} {
		s := mc9(t, "-A")
		if reply := s.client().ask(command + "\r\n"); reply != closed {
			t.Errorf("%s: %q", command, reply)
		}
		<-s.done
		if !s.cmd.ProcessState.Success() {
			t.Errorf("%s: %v", command, s.cmd.ProcessState)
		}
	}
}

func TestDaemonize(t *testing.T) {
	dir := t.TempDir()
	sock, pidFile := filepath.Join(dir, "s"), filepath.Join(dir, "pid")
	os.WriteFile(pidFile, []byte("999999999\n"), 0o666)
	cmd := command("", "-d", "-P", pidFile, "-s", sock)
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	// The parent exits only when the daemon listens.
	nc, err := net.Dial("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	c := newClient(nc)
	pid, _ := strconv.Atoi(c.stat("", "pid"))
	if pid == 0 || pid == cmd.Process.Pid {
		t.Fatal("pid", pid)
	}
	defer syscall.Kill(pid, syscall.SIGKILL)
	eventually(t, "the pid file is written", func() bool {
		b, _ := os.ReadFile(pidFile)
		return string(b) == fmt.Sprintf("%d\n", pid)
	})
	if cwd, _ := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid)); cwd != "/" {
		t.Error("cwd", cwd)
	}
	// Field 6 is the session.
	if stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); bytes.Contains(stat, fmt.Appendf(nil, " %d ", syscall.Getpgrp())) {
		t.Errorf("still of our session: %s", stat)
	}
	syscall.Kill(pid, syscall.SIGTERM)
	if line := c.line(); line != closed {
		t.Errorf("%q", line)
	}
	eventually(t, "the pid file is removed", func() bool {
		_, err := os.Stat(pidFile)
		return os.IsNotExist(err)
	})
}

// Without -d a pid file is also written, but not removed.
func TestPidFile(t *testing.T) {
	pidFile := filepath.Join(t.TempDir(), "pid")
	s := mc9(t, "-P", pidFile)
	want := fmt.Sprintf("%d\n", s.cmd.Process.Pid)
	eventually(t, "the pid file is written", func() bool {
		b, _ := os.ReadFile(pidFile)
		return string(b) == want
	})
	s2 := mc9(t, "-P", pidFile)
	eventually(t, "a warning", func() bool {
		return strings.Contains(s2.said(), "WARNING: The pid file contained the following (running) pid: "+want)
	})
	s2.cmd.Process.Signal(syscall.SIGTERM)
	<-s2.done
	if _, err := os.Stat(pidFile); err != nil {
		t.Error(err)
	}
}

// An address of a name that this machine does not have is skipped if another one
// works. An address that is given as numbers is not.
func TestListenSkips(t *testing.T) {
	t.Parallel()
	hosts := filepath.Join(t.TempDir(), "hosts")
	os.WriteFile(hosts, []byte("127.0.0.1 some.test\n203.0.113.77 some.test\n203.0.113.77 none.test\n203.0.113.78 none.test\n"), 0o644)
	inside := []string{"unshare", "-m", "sh", "-c", `mount --bind ` + hosts + ` /etc/hosts && exec "$0" "$@"`}
	if out, err := exec.Command(inside[0], append(inside[1:], "true")...).CombinedOutput(); err != nil {
		t.Skipf("unshare: %v %s", err, out)
	}
	port := freePort(t)
	mc9 := func(name string) (*exec.Cmd, *bytes.Buffer) {
		cmd, out := command("", "-l", name, "-p", port), &bytes.Buffer{}
		cmd.Args = append(inside, append([]string{cmd.Path}, cmd.Args[1:]...)...)
		cmd.Path, _ = exec.LookPath(inside[0])
		cmd.Stderr = out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd, out
	}
	for name, says := range map[string]string{
		"203.0.113.77": "bind(): Cannot assign requested address\n",
		"none.test":    "failed to listen on one of interface(s) none.test: Cannot assign requested address\n",
	} {
		cmd, out := mc9(name)
		kill := time.AfterFunc(patience, func() { cmd.Process.Kill() })
		cmd.Wait()
		kill.Stop()
		if code := cmd.ProcessState.ExitCode(); code != exOserr || !strings.Contains(out.String(), says) {
			t.Errorf("%s: %d %s", name, code, out)
		}
	}
	cmd, out := mc9("some.test")
	eventually(t, "it listens", func() bool {
		nc, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err == nil {
			nc.Close()
		}
		return err == nil
	})
	cmd.Process.Signal(syscall.SIGTERM)
	cmd.Wait()
	if want := "WARNING: 203.0.113.77 is skipped, an address of some.test: Cannot assign requested address\n"; out.String() != want {
		t.Errorf("%s", out)
	}
}

func TestListen(t *testing.T) {
	a, b, c := freePort(t), freePort(t), freePort(t)
	for _, tt := range []struct {
		flags string
		addrs []string
		not   []string
	}{
		{"-p " + a, []string{"127.0.0.1:" + a, "[::1]:" + a, "127.0.0.2:" + a}, nil},
		{"-l * -p " + a, []string{"127.0.0.1:" + a, "[::1]:" + a}, nil},
		{"-l 127.0.0.1 -p " + a, []string{"127.0.0.1:" + a}, []string{"[::1]:" + a, "127.0.0.2:" + a}},
		{"-l::1 -p" + a, []string{"[::1]:" + a}, []string{"127.0.0.1:" + a}},
		{"-l localhost -p " + a, []string{"127.0.0.1:" + a}, nil},
		{"-l 127.0.0.1:" + b + ",[::1]:" + c + ";127.0.0.2 -p " + a, []string{"127.0.0.1:" + b, "[::1]:" + c, "127.0.0.2:" + a}, []string{"127.0.0.1:" + a}},
		{"-l 127.0.0.1 -l 127.0.0.2:" + b + " -p " + a, []string{"127.0.0.1:" + a, "127.0.0.2:" + b}, []string{"127.0.0.1:" + b}},
		{"-l proto[ascii]:127.0.0.1:" + a + ",tag[mine]:127.0.0.1:" + b, []string{"127.0.0.1:" + a, "127.0.0.1:" + b}, nil},
		{"-U " + a, []string{"127.0.0.1:" + a}, nil},
	} {
		s := start(t, "", true, strings.Fields(tt.flags)...)
		for _, addr := range tt.addrs {
			nc, err := net.Dial("tcp", addr)
			if err != nil {
				t.Errorf("%s: %v", tt.flags, err)
				continue
			}
			newClient(nc).want(t, "get foo\r\n", "END\r\n")
			nc.Close()
		}
		for _, addr := range tt.not {
			if nc, err := net.Dial("tcp", addr); err == nil {
				t.Errorf("%s: listens on %s, too", tt.flags, addr)
				nc.Close()
			}
		}
		s.cmd.Process.Kill() // now, since the next case needs the ports again
		<-s.done
		s.path = "killed"
	}

	l, err := net.Listen("tcp", "127.0.0.1:"+a)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	code, out := run(t, "-l", "127.0.0.1", "-p", a)
	if want := "failed to listen on one of interface(s) 127.0.0.1: Address already in use\n"; code != 71 || out != want {
		t.Errorf("have %d: %swant 71: %s", code, out, want)
	}
	u, err := net.ListenPacket("udp", "127.0.0.1:"+b)
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	if code, out := run(t, "-l", "127.0.0.1", "-p", c, "-U", b); code != 71 || !strings.HasSuffix(out, "Address already in use\n") {
		t.Errorf("UDP: %d: %s", code, out)
	}
}

func TestPortFile(t *testing.T) {
	for _, tt := range []struct{ flags, names string }{
		{"-l 127.0.0.1 -p -1", "TCP INET"},
		{"-l 127.0.0.1 -p -1 -U -1", "TCP INET,UDP INET"},
		{"-l ::1 -p -1 -U -1", "TCP INET6,UDP INET6"},
		{"-p -1 -U -1", "TCP INET,TCP INET6,UDP INET,UDP INET6"},
		{"-p 0", ""},
		{"-p 0 -l 127.0.0.1 -U -1", "UDP INET"},
	} {
		port := start(t, "", true, strings.Fields(tt.flags)...).port
		n := 0
		for _, name := range strings.Split(tt.names, ",") {
			if name != "" {
				n++
			}
			if p, _ := strconv.Atoi(port[name]); name != "" && p == 0 {
				t.Errorf("%s: no %s: %v", tt.flags, name, port)
			}
		}
		if len(port) != n {
			t.Errorf("%s: %v", tt.flags, port)
		}
	}
}

func TestUnixSocket(t *testing.T) {
	dir := t.TempDir()
	stale := filepath.Join(dir, "stale") // left by the previous round, then replaced
	for _, tt := range []struct {
		mask string
		mode os.FileMode
	}{{"", 0o700}, {"0777", 0o777}, {"660", 0o660}} {
		cmd := command("", "-s", stale)
		if tt.mask != "" {
			cmd.Args = append(cmd.Args, "-a", tt.mask)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		connect(t, "unix", stale)
		if fi, err := os.Stat(stale); err != nil || fi.Mode() != tt.mode|os.ModeSocket {
			t.Errorf("-a %s: %v, %v", tt.mask, fi.Mode(), err)
		}
		cmd.Process.Kill()
		cmd.Wait()
	}

	file := filepath.Join(dir, "file")
	os.WriteFile(file, []byte("precious"), 0o666)
	code, out := run(t, "-s", file)
	if want := "bind(): Address already in use\nfailed to listen on UNIX socket: " + file + ": "; code != 71 || !strings.HasPrefix(out, want) {
		t.Errorf("%d: %s", code, out)
	}
	if b, err := os.ReadFile(file); string(b) != "precious" {
		t.Errorf("%q, %v", b, err)
	}
}

// Started by root, mc9 switches to another user.
func TestUser(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("not root")
	}
	for user, id := range map[string]string{"nobody": "65534", "12345": "12345", "": "65534"} {
		port := freePort(t)
		cmd := command("", "-l", "127.0.0.1", "-p", port)
		if cmd.Args = append(cmd.Args[:1], cmd.Args[3:]...); user != "" { // without -u root
			cmd.Args = append(cmd.Args, "-u", user)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		connect(t, "tcp", "127.0.0.1:"+port).want(t, "get foo\r\n", "END\r\n")
		status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", cmd.Process.Pid))
		for _, name := range []string{"Uid", "Gid"} {
			if want := fmt.Sprintf("\n%s:\t%[2]s\t%[2]s\t%[2]s\t%[2]s\n", name, id); !strings.Contains(string(status), want) {
				t.Errorf("-u %q: not %q in\n%s", user, want, status)
			}
		}
		for _, name := range []string{"CapPrm", "CapEff"} {
			if !strings.Contains(string(status), "\n"+name+":\t0000000000000000\n") {
				t.Errorf("-u %q: it keeps capabilities:\n%s", user, status)
			}
		}
		cmd.Process.Kill()
		cmd.Wait()
	}
	if code, out := run(t, "-u", "no-such-user", "-p", "0"); code != 67 || !strings.Contains(out, "can't find the user no-such-user to switch to") {
		t.Errorf("%d: %s", code, out)
	}
}

// mc9 runs as a user without any privilege, in a read-only root.
func TestLeastPower(t *testing.T) {
	words := strings.Fields("setpriv --reuid=65534 --regid=65534 --clear-groups --no-new-privs --bounding-set=-all --inh-caps=-all")
	if out, err := exec.Command(words[0], append(words[1:], "true")...).CombinedOutput(); err != nil {
		t.Skipf("setpriv: %v %s", err, out)
	}
	readOnly := []string{"unshare", "-m", "sh", "-c", `mount -o remount,bind,ro / && exec "$0" "$@"`}
	if out, err := exec.Command(readOnly[0], append(readOnly[1:], "true")...).CombinedOutput(); err == nil {
		words = append(readOnly, words...)
	} else {
		t.Logf("the root stays writable: %v %s", err, out)
		readOnly = nil
	}
	// That user may not have access to the program's path.
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer self.Close()
	port := freePort(t)
	words = append(words, "/proc/self/fd/3", "-l", "127.0.0.1", "-p", port)
	cmd := exec.Command(words[0], words[1:]...)
	cmd.Env = command("").Env
	cmd.ExtraFiles = []*os.File{self}
	var said bytes.Buffer // a file would be open for writing
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		cmd.Process.Kill()
		cmd.Wait()
		if said.Len() > 0 {
			t.Errorf("it says %q", said.String())
		}
	}()
	c := connect(t, "tcp", "127.0.0.1:"+port)
	c.want(t, "set foo 0 0 3\r\nbar\r\nget foo\r\n", "STORED\r\nVALUE foo 0 3\r\nbar\r\nEND\r\n")
	proc := fmt.Sprintf("/proc/%d/", cmd.Process.Pid)
	if pid := c.stat("", "pid"); "/proc/"+pid+"/" != proc {
		t.Errorf("pid %s is not the pid of %s", pid, proc)
	}

	status, _ := os.ReadFile(proc + "status")
	for name, want := range map[string]string{
		"Uid": "65534\t65534\t65534\t65534", "Gid": "65534\t65534\t65534\t65534", "NoNewPrivs": "1",
		"CapInh": "0000000000000000", "CapPrm": "0000000000000000", "CapEff": "0000000000000000",
		"CapBnd": "0000000000000000", "CapAmb": "0000000000000000",
	} {
		if !strings.Contains(string(status), "\n"+name+":\t"+want+"\n") {
			t.Errorf("no %s %s in\n%s", name, want, status)
		}
	}
	mounts, _ := os.ReadFile(proc + "mountinfo")
	if readOnly != nil && !regexp.MustCompile(`(?m)^\S+ \S+ \S+ \S+ / ro[, ]`).Match(mounts) {
		t.Errorf("the root is writable:\n%s", mounts)
	}
	fds, err := os.ReadDir(proc + "fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		name, _ := os.Readlink(proc + "fd/" + fd.Name())
		st, err := os.Stat(proc + "fd/" + fd.Name())
		if err != nil || !st.Mode().IsRegular() || name[0] != '/' { // such as epoll and eventfd
			continue
		}
		info, _ := os.ReadFile(proc + "fdinfo/" + fd.Name())
		var pos, flags int
		if _, err := fmt.Sscanf(string(info), "pos: %d\nflags: %o\n", &pos, &flags); err != nil || flags&syscall.O_ACCMODE != syscall.O_RDONLY {
			t.Errorf("%s is open, flags %o, %v", name, flags, err)
		}
	}
}

// wantChecked expects mc9 --check, with these flags, to find a server. It retries,
// since a server under load may answer later than --check waits.
func wantChecked(t *testing.T, flags ...string) {
	t.Helper()
	eventually(t, fmt.Sprintf("%q finds the server", flags), func() bool {
		code, out := run(t, flags...)
		if code != 0 && out != "no answer within 2s\n" || code == 0 && out != "" {
			t.Fatalf("%q: %d, %s", flags, code, out)
		}
		return code == 0
	})
}

// mc9 --check finds a server wherever it listens and whatever protocol it speaks.
func TestCheck(t *testing.T) {
	auth := filepath.Join(t.TempDir(), "auth")
	os.WriteFile(auth, []byte("user:password\n"), 0o600)
	for _, flags := range []string{"", "-B binary", "-B ascii", "-S", "-Y " + auth} {
		t.Run(flags, func(t *testing.T) {
			s := mc9(t, strings.Fields(flags)...)
			wantChecked(t, "--check="+s.addr)
			wantChecked(t, "-s", s.addr, "--check")
			t.Chdir(filepath.Dir(s.addr))
			wantChecked(t, "-s", "sock", "--check")
		})
	}
	s := start(t, "", true, "-p", "-1")
	port := s.port["TCP INET"]
	for _, flags := range [][]string{
		{"--check=127.0.0.1:" + port}, {"--check=localhost:" + port}, {"--check=*:" + port}, {"--check=:" + port},
		{"-p", port, "--check"}, {"-l", "127.0.0.1,::1", "-p", port, "--check"}, {"-l", "127.0.0.1:" + port, "--check"},
	} {
		wantChecked(t, flags...)
	}
}

// If there is no server, or none that answers, mc9 --check says so.
func TestCheckFails(t *testing.T) {
	t.Parallel()
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	for addr, want := range map[string]string{
		silent.Addr().String():     "no answer within 2s\n",
		"127.0.0.1:1":              "check: Connection refused\n",
		t.TempDir() + "/no-socket": "check: No such file or directory\n",
		"127.0.0.1:x":              "check: Invalid port number: \"x\"\n",
	} {
		if code, out := run(t, "--check="+addr); code != 1 || out != want {
			t.Errorf("--check=%s: %d, %q", addr, code, out)
		}
	}
}

// mc9 uses sockets opened by systemd, each according to its kind.
func TestActivation(t *testing.T) {
	name := filepath.Join(t.TempDir(), "s")
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	unixl, err := net.Listen("unix", name)
	if err != nil {
		t.Fatal(err)
	}
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var files []*os.File
	for _, l := range []interface{ File() (*os.File, error) }{tcp.(*net.TCPListener), unixl.(*net.UnixListener), udp.(*net.UDPConn)} {
		f, err := l.File()
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	cmd := activated(nil, files...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	for _, addr := range []string{tcp.Addr().String(), name} {
		wantChecked(t, "--check="+addr)
	}
	nc, err := net.Dial("tcp", tcp.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	c := newClient(nc)
	_, port, _ := net.SplitHostPort(tcp.Addr().String())
	if have := c.stat("settings", "tcpport"); have != port {
		t.Errorf("tcpport %s, want %s", have, port)
	}
	dialUdp(t, udp.LocalAddr().String()).want(t, 1, "version\r\n", "VERSION 1.6.45\r\n")

	// The sockets are the daemon's, too.
	cmd.Process.Kill()
	cmd.Wait()
	pidFile := filepath.Join(t.TempDir(), "pid")
	if out, err := activated([]string{"-d", "-P", pidFile}, files...).CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	wantChecked(t, "--check="+tcp.Addr().String())
	pid, _ := os.ReadFile(pidFile)
	syscall.Kill(atoi(string(pid)), syscall.SIGKILL)

	plain, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	for _, tt := range []struct {
		flags string
		f     *os.File
		want  string
	}{
		{"-p 1", files[0], "LISTEN_FDS: -p, -U, -l and -s cannot be used with inherited sockets\n"},
		{"", plain, "LISTEN_FDS: descriptor 3: Socket operation on non-socket\n"},
		{"-S", files[2], "LISTEN_FDS: descriptor 3: no UDP with authentication\n"},
	} {
		out, err := activated(strings.Fields(tt.flags), tt.f).CombinedOutput()
		if err == nil || string(out) != tt.want {
			t.Errorf("%s: %v, %q", tt.flags, err, out)
		}
	}
}

// Only the mc9 that starts a daemon can tell it so, not the user's environment.
func TestIsDaemon(t *testing.T) {
	for _, v := range []string{"", "1", "x", "1 ", "1 x", fmt.Sprint("1 ", os.Getpid())} {
		t.Setenv(daemonEnv, v)
		if isDaemon() {
			t.Errorf("%q makes us a daemon", v)
		}
		if v, ok := os.LookupEnv(daemonEnv); ok {
			t.Errorf("a daemon would get %q before its own", v)
		}
	}
}

// A daemon that cannot start says so before its parent exits.
func TestDaemonFails(t *testing.T) {
	code, out := run(t, "-d", "-c", "10", "-s", filepath.Join(t.TempDir(), "s"))
	if code != 1 || strings.Count(out, "\n") != 1 {
		t.Errorf("%d, %q", code, out)
	}
}

// With too few descriptors mc9 exits with a message, not with a crash of Go's
// scheduler.
func TestFewDescriptors(t *testing.T) {
	for c := range 12 {
		code, out := run(t, "-s", filepath.Join(t.TempDir(), "s"), "-c", strconv.Itoa(c+1))
		if code != 1 && code != 71 || strings.Count(out, "\n") > 2 {
			t.Errorf("-c %d: %d, %.99q", c+1, code, out)
		}
	}
}

// Command lines from real uses of memcached work unchanged, except those with
// options that mc9 leaves out, which it names.
func TestDropIn(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ from, line, refusal string }{
		{"the official image", "memcached", ""},
		{"the official image", "memcached -m 64 -v", ""},
		{"Bitnami's chart", "-p 0 --memory-limit=64 --conn-limit=1024 --max-item-size=1m --threads=4 -v", ""},
		{"Loki's and Mimir's charts", "-m 8192 --extended=modern,track_sizes -I 5m -c 16384 -v -u 11211", ""},
		{"Loki's chunks cache with extstore, but for its file", "-m 64 -o ext_path=no/such/file:1G,ext_wbuf_size=16", "failed to open"},
		{"Debian's memcached.conf, but for -d", "-v -m 64 -p 0 -u nobody -l 127.0.0.1 -l ::1", ""},
		{"Fedora's sysconfig", "-p 0 -u nobody -m 64 -c 1024 -l 127.0.0.1,::1", ""},
		{"with TLS", "-Z -o ssl_chain_cert=a,ssl_key=b", map[bool]string{false: "TLS", true: "certificate"}[tlsBuild]},
		{"with warm restart", "-e " + filepath.Join(restartDir(t), "file"), ""},
	} {
		flags := strings.Fields(tt.line)
		if tt.refusal != "" {
			if code, out := run(t, append(flags, "-p", "-1")...); code == 0 || !strings.Contains(out, tt.refusal) || strings.Count(out, "\n") != 1 {
				t.Errorf("%s: %s: %d, %q", tt.from, tt.line, code, out)
			}
			continue
		}
		mc9(t, flags...)
	}
}

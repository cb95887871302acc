// Connections: how many there may be, how they end, and who waits for whom.

package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestTenThousand(t *testing.T) {
	const n = 10000
	var old syscall.Rlimit
	syscall.Getrlimit(syscall.RLIMIT_NOFILE, &old)
	lim := syscall.Rlimit{Cur: n + 200, Max: max(old.Max, n+200)}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &lim); err != nil {
		t.Skipf("%d descriptors: %v", lim.Cur, err)
	}
	defer syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: old.Cur, Max: lim.Max})

	s := mc9(t, "-c", strconv.Itoa(n+100))
	c := s.client()
	c.wantStat(t, "curr_connections", "1")
	fds := s.fds()
	var conns []net.Conn
	for range n {
		eventually(t, "connected", func() bool { // once there is room in the backlog
			nc, err := s.dial()
			if err == nil {
				conns = append(conns, nc)
			}
			return err == nil
		})
		defer conns[len(conns)-1].Close()
	}
	c.wantStat(t, "curr_connections", strconv.Itoa(n+1))
	c.want(t, "set foo 0 0 3\r\nbar\r\n", "STORED\r\n")
	for _, nc := range conns {
		io.WriteString(nc, "get foo\r\n")
	}
	want := "VALUE foo 0 3\r\nbar\r\nEND\r\n"
	for i, nc := range conns {
		b := make([]byte, len(want))
		nc.SetReadDeadline(time.Now().Add(patience))
		if _, err := io.ReadFull(nc, b); err != nil || string(b) != want {
			t.Fatalf("connection %d: %q, %v", i, b, err)
		}
		nc.Close()
	}
	c.wantStat(t, "curr_connections", "1")
	eventually(t, "descriptors are closed", func() bool { return s.fds() <= fds })
	if r := c.stat("", "rejected_connections"); r != "0" {
		t.Error("rejected_connections", r)
	}
}

// Clients that hang up at any point leave nothing behind: no connection,
// descriptor, memory, or reference to an item.
func TestHangups(t *testing.T) { hangUps(t, hangUp) }

// The same, with the server in a known state.
func TestHangupStates(t *testing.T) { hangUps(t, hangUpStates, "-t", "1") }

// hangUps runs hangUp with a server on a Unix socket, and with one on TCP, where
// connections can be reset.
func hangUps(t *testing.T, hangUp func(*testing.T, *server), flags ...string) {
	t.Parallel()
	flags = slices.Clip(append(flags, "-m", "256", "-o", "slab_chunk_max=16,no_lru_crawler,no_lru_maintainer,no_slab_automove"))
	t.Run("FIN", func(t *testing.T) {
		t.Parallel()
		hangUp(t, mc9(t, flags...))
	})
	t.Run("RST", func(t *testing.T) {
		t.Parallel()
		hangUp(t, start(t, "", true, append(flags, "-l", "127.0.0.1", "-p", "-1")...))
	})
}

func hangUp(t *testing.T, s *server) {
	c := s.client()
	value := strings.Repeat("x", 200000)
	c.want(t, "set big 0 0 200000\r\n"+value+"\r\nset n 0 0 1\r\n1\r\n", "STORED\r\nSTORED\r\n")
	c.wantStat(t, "curr_connections", "1")
	fds := s.fds()
	states := []string{
		"",
		"get bi",
		"get n\r\nget bi",
		"get" + strings.Repeat(" none", 5000),
		"set a 0 0 10\r\n",
		"set a 0 0 10\r\n12345",
		"set a 0 0 100000\r\n" + value[:50000],
		"append big 0 0 100000\r\n" + value[:50000],
		"get n\r\nset a 0 0 10\r\n12345",
		"set a 0 0 2000000\r\n" + value,
		"set a 0 x 10\r\n12345",
		strings.Repeat("get big\r\n", 20),
		"get big" + strings.Repeat(" big", 100) + "\r\n",
		"stats\r\nincr n 1\r\nquit\r\n",
		strings.Repeat("x", 3000),
	}
	for i := range 1000 {
		nc, err := s.dial()
		if err != nil {
			t.Fatal(err)
		}
		if tcp, ok := nc.(*net.TCPConn); ok {
			tcp.SetLinger(0) // reset the connection
		}
		io.WriteString(nc, states[i%len(states)])
		switch i / len(states) % 3 {
		case 0: // half-closed, the connection is still read to its end
			nc.(interface{ CloseWrite() error }).CloseWrite()
			nc.SetReadDeadline(time.Now().Add(patience))
			if _, err := io.Copy(io.Discard, nc); os.IsTimeout(err) {
				t.Fatalf("%.30q: %v", states[i%len(states)], err)
			}
		case 1: // read part of the reply
			nc.SetReadDeadline(time.Now().Add(time.Millisecond))
			nc.Read(make([]byte, 1000))
		}
		nc.Close()
	}
	c.wantStat(t, "curr_connections", "1")
	eventually(t, "descriptors are closed", func() bool { return s.fds() <= fds })
	c.want(t, "delete big\r\ndelete n\r\ndelete a\r\n", "DELETED\r\nDELETED\r\nNOT_FOUND\r\n")
	c.wantStat(t, "curr_items", "0")
	c.wantNoneUsed(t)
}

func hangUpStates(t *testing.T, s *server) {
	c := s.client()
	value := strings.Repeat("x", 1000000)
	c.want(t, "set big 0 0 1000000\r\n"+value+"\r\n", "STORED\r\n")
	c.wantStat(t, "curr_connections", "1")
	fds := s.fds()
	for _, tt := range []struct{ state, in string }{
		{"conn_read", ""},
		{"conn_read", "get bi"},
		{"conn_read", "get" + strings.Repeat(" none", 5000)},
		{"conn_nread", "set a 0 0 10\r\n12345"},
		{"conn_nread", "set a 0 0 900000\r\n" + value[:100000]},
		{"conn_swallow", "set a 0 0 2000000\r\n" + value[:100000]},
		{"conn_mwrite", "get" + strings.Repeat(" big", 20) + "\r\n"},
		{"conn_mwrite", strings.Repeat("get big\r\n", 20)},
		{"conn_watch", "watch fetchers\r\n"},
	} {
		for _, how := range []string{"close", "half close", "read and close", "reset"} {
			nc := s.client()
			nc.write(tt.in)
			eventually(t, tt.state, func() bool {
				return strings.Contains(c.ask("stats conns\r\n"), " "+tt.state+"\r\n")
			})
			tcp, _ := nc.Conn.(*net.TCPConn)
			switch {
			case how == "half close":
				nc.Conn.(interface{ CloseWrite() error }).CloseWrite()
			case how == "read and close":
				nc.SetReadDeadline(time.Now().Add(time.Millisecond))
				nc.Read(make([]byte, 1000))
			case how == "reset" && tcp != nil:
				tcp.SetLinger(0)
			}
			nc.Close()
			eventually(t, tt.state+" ends with "+how, func() bool {
				c.ask("get none\r\n") // gives a watcher something to read
				return c.stat("", "curr_connections") == "1"
			})
		}
	}
	eventually(t, "descriptors are closed", func() bool { return s.fds() <= fds })
	c.want(t, "delete big\r\n", "DELETED\r\n")
	c.wantNoneUsed(t)
}

// Clients that come and go leave nothing behind. For ten thousand connections a
// second, for a minute:
//
//	go test -run TestChurn -long 120
func TestChurn(t *testing.T) {
	t.Parallel()
	s := start(t, "", true, "-l", "127.0.0.1", "-p", "-1", "-b", "4096")
	c := s.client()
	c.wantStat(t, "curr_connections", "1")
	fds, before, begin, total := s.fds(), s.footprint(), time.Now(), c.statN("total_connections")
	const clients = 5
	n := 1000 * *long
	var all sync.WaitGroup
	for range clients {
		all.Add(1)
		go func() {
			defer all.Done()
			for i := range n {
				conn, err := s.dial()
				if err != nil {
					t.Error(err)
					return
				}
				if nc := newClient(conn); i%2 == 0 {
					nc.write("get none\r\n")
					if line := nc.line(); line != "END\r\n" {
						t.Errorf("%q", line)
					}
				}
				conn.(*net.TCPConn).SetLinger(0) // so that ports do not run out
				conn.Close()
			}
		}()
	}
	all.Wait()
	t.Logf("%.0f connections a second", float64(clients*n)/time.Since(begin).Seconds())
	c.wantStat(t, "curr_connections", "1")
	c.wantStat(t, "total_connections", strconv.Itoa(total+clients*n))
	eventually(t, "descriptors are closed", func() bool { return s.fds() <= fds })
	if now := s.footprint(); now.heap-now.buffers > before.heap-before.buffers+1<<10 || now.goroutines > before.goroutines {
		t.Errorf("have %+v, had %+v", now, before)
	}
}

func TestMaxconns(t *testing.T) {
	t.Parallel()
	s := mc9(t, "-c", "100")
	c := s.client()
	var in []*client
	for {
		nc := s.client()
		nc.SetDeadline(time.Now().Add(patience))
		io.WriteString(nc, "version\r\n")
		line, err := nc.r.ReadString('\n')
		if line == "ERROR Too many open connections\r\n" {
			if rest, _ := io.ReadAll(nc.r); len(rest) != 0 {
				t.Errorf("%q after the error", rest)
			}
			break
		}
		if err != nil || !strings.HasPrefix(line, "VERSION") || len(in) > 100 {
			t.Fatalf("connection %d: %q, %v", len(in), line, err)
		}
		in = append(in, nc)
	}
	if len(in) < 50 {
		t.Errorf("only %d connections", len(in))
	}
	c.want(t, "get foo\r\n", "END\r\n")
	c.wantStat(t, "rejected_connections", "1")
	c.wantStat(t, "curr_connections", strconv.Itoa(1+len(in)))
	in[0].Close()
	c.wantStat(t, "curr_connections", strconv.Itoa(len(in)))
	s.client().want(t, "get foo\r\n", "END\r\n")
}

// Whatever the limit on descriptors, mc9 says how many clients it has room for,
// serves those, and refuses others at once. Or it does not start.
func TestRoom(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		limit int
		flags string
		code  int // of the exit; 0 if it starts
		words string
	}{
		{100, "-c 27", 1, "Maxconns setting is too low, use -c to increase.\n"},
		{100, "-t 8 -c 40", 1, "Maxconns setting is too low, use -c to increase.\n"},
		{10, "", exOserr, "10 descriptors are too few: "},
		{27, "", exOserr, "27 descriptors are too few: mc9 needs "},
		{100, "-c 31", 0, "Clients at a time: "},
		{100, "-c 34", 0, "Clients at a time: "},
		{100, "-t 8 -c 50", 0, "Clients at a time: "},
		{31, "", 0, "Clients at a time: "},
		{31, "-t 1 -o no_io_uring -v", 0, "Clients at a time: "},
		{37, "", 0, "Clients at a time: "},
	} {
		s := &server{t: t}
		dir := t.TempDir()
		s.addr, s.log = filepath.Join(dir, "s"), filepath.Join(dir, "log")
		s.cmd = command("", append(strings.Fields(tt.flags), "-s", s.addr)...)
		s.cmd.Args = append([]string{"sh", "-c", fmt.Sprintf(`ulimit -n %d; exec "$0" "$@"`, tt.limit), s.cmd.Path}, s.cmd.Args[1:]...)
		s.cmd.Path = "/bin/sh"
		log, _ := os.Create(s.log)
		s.cmd.Stderr = log
		if err := s.cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if tt.code != 0 {
			s.cmd.Wait()
			if code := s.cmd.ProcessState.ExitCode(); code != tt.code || !strings.Contains(s.said(), tt.words) {
				t.Errorf("%d, %s: %d %s", tt.limit, tt.flags, code, s.said())
			}
			continue
		}
		eventually(t, "it says how many", func() bool { return strings.Contains(s.said(), "is reserved\n") })
		_, rest, _ := strings.Cut(s.said(), tt.words)
		room := atoi(rest)
		have := ""
		for range room + 3 {
			c := s.client()
			c.SetDeadline(time.Now().Add(patience))
			io.WriteString(c, "version\r\n")
			line, _ := c.r.ReadString('\n')
			have += line[:min(len(line), 5)] + " "
		}
		if want := strings.Repeat("VERSI ", room) + strings.Repeat("ERROR ", 3); have != want || room < 1 {
			t.Errorf("%d, %s: have %s\nwant %s", tt.limit, tt.flags, have, want)
		}
		s.cmd.Process.Kill()
		s.cmd.Wait()
	}
}

// When descriptors run out, mc9 stops listening until one is free.
func TestNoDescriptors(t *testing.T) {
	s := mc9(t, "-o", "no_maxconns_fast")
	c := s.client()
	c.wantStat(t, "curr_connections", "1")
	limit := unix.Rlimit{Cur: uint64(s.fds() + 4), Max: 1024}
	if err := unix.Prlimit(s.cmd.Process.Pid, unix.RLIMIT_NOFILE, &limit, nil); err != nil {
		t.Fatal(err)
	}
	c.wantStat(t, "accepting_conns", "1")
	var conns []*client
	for i := 0; c.stat("", "accepting_conns") == "1"; i++ {
		if i == 100 {
			t.Fatal("still accepts")
		}
		nc := s.client()
		n := strconv.Itoa(i + 2)
		eventually(t, "accepted, or nothing is", func() bool {
			return c.stat("", "curr_connections") == n || c.stat("", "accepting_conns") == "0"
		})
		conns = append(conns, nc)
	}
	if c.stat("", "rejected_connections") != "" {
		t.Error("rejected_connections without maxconns_fast")
	}
	c.wantStat(t, "listen_disabled_num", "1")
	conns[0].Close()
	c.wantStat(t, "accepting_conns", "1")
	for _, nc := range conns[1:] {
		nc.want(t, "get foo\r\n", "END\r\n")
	}
	if c.stat("", "time_in_listen_disabled_us") == "0" {
		t.Error("time_in_listen_disabled_us is 0")
	}
}

func TestIdleTimeout(t *testing.T) {
	t.Parallel()
	s := start(t, "", true, "-l", "127.0.0.1", "-p", "-1", "-o", "idle_timeout=1")
	var half, idle *client
	s.whileStopped(func() { // so that both requests are sent before the connections are accepted
		half, idle = s.client(), s.client()
		half.write("set foo 0 0 10\r\n123") // a connection that waits for data is not idle
		idle.write("get foo\r\n")
	})
	for _, want := range []string{"END\r\n", closed} {
		if line := idle.line(); line != want {
			t.Errorf("have %q, want %q", line, want)
		}
	}
	eventually(t, "the kick is counted", func() bool { // a new client each time, since it may be kicked itself
		return s.client().statN("idle_kicks") > 0
	})
	half.want(t, "4567890\r\n", "STORED\r\n")
}

func TestYields(t *testing.T) {
	t.Parallel()
	s := mc9(t, "-R", "1")
	c := s.client()
	c.want(t, strings.Repeat("set foo 0 0 3\r\nbar\r\n", 6), strings.Repeat("STORED\r\n", 6))
	n, _ := strconv.Atoi(c.stat("", "conn_yields"))
	if n < 5 {
		t.Error("conn_yields", n)
	}
	// Many commands are answered in order and whole, however often they yield.
	var text, reply strings.Builder
	for i := range 2000 {
		fmt.Fprintf(&text, "set k%d 0 0 4\r\n%04d\r\nget k%d\r\n", i, i, i)
		fmt.Fprintf(&reply, "STORED\r\nVALUE k%d 0 4\r\n%04d\r\nEND\r\n", i, i)
	}
	c.want(t, text.String(), reply.String())
	// A get of many keys also yields.
	n, _ = strconv.Atoi(c.stat("", "conn_yields"))
	c.want(t, "get"+strings.Repeat(" none", 99999)+" k1\r\nget k2\r\n",
		"VALUE k1 0 4\r\n0001\r\nEND\r\nVALUE k2 0 4\r\n0002\r\nEND\r\n")
	if m, _ := strconv.Atoi(c.stat("", "conn_yields")); m < n+99 {
		t.Error("conn_yields", n, m)
	}
	// More input may arrive before a connection's turn comes, and the client may
	// be gone by then.
	for range 300 {
		nc, err := s.dial()
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			io.WriteString(nc, strings.Repeat("get foo\r\n", 20))
		}
		nc.Close()
	}
	c.wantStat(t, "curr_connections", "1")
}

// TestPauses asks after pauses in which mc9's threads have parked. Each must then
// be woken at once, whatever the others do, and not by a timer 100 ms later. It is
// not parallel, since other tests would delay it.
func TestPauses(t *testing.T) {
	if !memPeek {
		t.Skip("with the race detector answers may take as long")
	}
	s := mc9(t)
	old := [4]*client{s.client(), s.client(), s.client(), s.client()}
	soon := 0
	for range 5 { // a busy machine may be late, but not always
		soon = 0
		for i := range 8 {
			time.Sleep(330 * time.Millisecond)
			start := time.Now()
			c := s.client()
			c.want(t, "mn\r\n", "MN\r\n")
			c.Close()
			old[i%len(old)].want(t, "mn\r\n", "MN\r\n")
			if time.Since(start) < 80*time.Millisecond {
				soon++
			}
		}
		if soon >= 7 {
			return
		}
	}
	t.Errorf("only %d of 8 answers came within 80 ms", soon)
}

// A client that does not read its reply holds up no others, even on the same
// worker, and in the end gets all of it, as it was when the client asked.
func TestSlowReader(t *testing.T) {
	t.Parallel()
	s := mc9(t, "-t", "1", "-m", "100")
	c, slow := s.client(), s.client()
	var get, reply strings.Builder
	get.WriteString("get")
	for i := range 40 {
		value := strings.Repeat(fmt.Sprintf("value %02d,", i), 50000)
		c.want(t, fmt.Sprintf("set k%d 7 0 %d\r\n%s\r\n", i, len(value), value), "STORED\r\n")
		fmt.Fprintf(&get, " k%d", i)
		fmt.Fprintf(&reply, "VALUE k%d 7 %d\r\n%s\r\n", i, len(value), value)
	}
	reply.WriteString("END\r\n")
	slow.write(get.String() + "\r\n")
	if line := slow.line(); line != "VALUE k0 7 450000\r\n" {
		t.Fatalf("%q", line)
	}
	for range 100 {
		c.want(t, "incr n 1\r\n", "NOT_FOUND\r\n")
	}
	c.want(t, "delete k0\r\nset k0 0 0 3\r\nnew\r\n", "DELETED\r\nSTORED\r\n")
	want := strings.TrimPrefix(reply.String(), "VALUE k0 7 450000\r\n")
	if have := slow.ask(""); have != want {
		t.Errorf("%d bytes, want %d, or not the same", len(have), len(want))
	}
	slow.want(t, "get k0\r\n", "VALUE k0 0 3\r\nnew\r\nEND\r\n")

	// Even if it sends a value meanwhile, in two parts.
	slow.write("get k1 k2 k3 k4\r\nset late 0 0 10\r\n12345")
	eventually(t, "it waits for the rest of the value", func() bool {
		return strings.Contains(c.ask("stats conns\r\n"), "conn_nread")
	})
	reply.Reset()
	for i := range 4 {
		fmt.Fprintf(&reply, "VALUE k%d 7 450000\r\n%s\r\n", i+1, strings.Repeat(fmt.Sprintf("value %02d,", i+1), 50000))
	}
	reply.WriteString("END\r\nSTORED\r\n")
	if have := slow.ask("67890\r\n"); have != reply.String() {
		t.Errorf("with a set behind it: %d bytes, want %d, or not the same", len(have), reply.Len())
	}
}

// Many clients at once: own keys keep their values, and shared counts add up.
func TestManyClients(t *testing.T) {
	t.Parallel()
	const clients, rounds = 16, 100
	s := mc9(t, "-t", "4")
	c := s.client()
	c.want(t, "set sum 0 0 1\r\n0\r\nset list 0 0 0\r\n\r\nset cas 0 0 1\r\n0\r\n", "STORED\r\nSTORED\r\nSTORED\r\n")
	var wg sync.WaitGroup
	for id := range clients {
		c := s.client()
		wg.Add(1)
		go func() {
			defer wg.Done()
			for i := range rounds {
				value := strings.Repeat(fmt.Sprintf("%d.%d.", id, i), 1+i*i/3)
				key := fmt.Sprintf("key%d.%d", id, i%10)
				set := fmt.Sprintf("set %s %d 0 %d\r\n%s\r\n", key, i, len(value), value)
				want := fmt.Sprintf("STORED\r\nVALUE %s %d %d\r\n%s\r\nEND\r\nSTORED\r\n", key, i, len(value), value)
				have := c.ask(set + "get " + key + "\r\nappend list 0 0 1\r\n.\r\nincr sum 1 noreply\r\n")
				if have != want {
					t.Errorf("have %.100q, want %.100q", have, want)
					return
				}
				for {
					var old int
					var unique uint64
					gets := c.ask("gets cas\r\n")
					fmt.Sscanf(strings.ReplaceAll(gets, "\r\n", " "), "VALUE cas 0 %d %d %d", new(int), &unique, &old)
					now := strconv.Itoa(old + 1)
					res := c.ask(fmt.Sprintf("cas cas 0 0 %d %d\r\n%s\r\n", len(now), unique, now))
					if res == "STORED\r\n" {
						break
					}
					if res != "EXISTS\r\n" {
						t.Errorf("%q, then %q", gets, res)
						return
					}
				}
			}
		}()
	}
	wg.Wait()
	n := clients * rounds
	sum := strconv.Itoa(n)
	c.want(t, "get sum cas\r\n", fmt.Sprintf("VALUE sum 0 %d\r\n%s\r\nVALUE cas 0 %d\r\n%s\r\nEND\r\n", len(sum), sum, len(sum), sum))
	c.want(t, "get list\r\n", fmt.Sprintf("VALUE list 0 %d\r\n%s\r\nEND\r\n", n, strings.Repeat(".", n)))
}

func TestUdp(t *testing.T) {
	t.Parallel()
	s := start(t, "", true, "-p", "-1", "-U", "-1", "-t", "1")
	c := s.client()
	big := strings.Repeat("0123456789", 2000)
	c.want(t, "set foo 0 0 3\r\nbar\r\nset big 0 0 20000\r\n"+big+"\r\n", "STORED\r\nSTORED\r\n")
	for net, addr := range map[string]string{"UDP INET": "127.0.0.1:", "UDP INET6": "[::1]:"} {
		port := s.port[net]
		if port == "" {
			t.Logf("no %s here", net)
			continue
		}
		u := dialUdp(t, addr+port)
		u.want(t, 17, "get foo\r\n", "VALUE foo 0 3\r\nbar\r\nEND\r\n")
		u.want(t, 0xfffe, "set bar 0 0 3\r\nfoo\r\n", "STORED\r\n")
		u.want(t, 1, "get none\r\n", "END\r\n")
		u.want(t, 2, "get big\r\n", "VALUE big 0 20000\r\n"+big+"\r\nEND\r\n")
		u.want(t, 3, "bogus\r\n", "ERROR\r\n")
		// Datagrams that are part of a larger message, or lack the frame header,
		// are dropped.
		u.send(4, 0, 2, "set foo 0 0 3\r\nbad\r\n")
		u.send(5, 1, 2, "set foo 0 0 3\r\nbad\r\n")
		u.Write([]byte("set foo 0 0 3\r\nbad\r\n")[:8])
		u.Write([]byte("x"))
		u.send(6, 0, 1, "")
		u.want(t, 7, "get foo\r\n", "VALUE foo 0 3\r\nbar\r\nEND\r\n")
	}
	c.want(t, "get bar\r\n", "VALUE bar 0 3\r\nfoo\r\nEND\r\n")
}

// -vvv logs each change of state in memcached's words, except that 1.6.45 logs no
// errors of storage commands, and then goes to conn_swallow at once.
func TestStates(t *testing.T) {
	t.Parallel()
	s := mc9(t, "-vvv", "-t", "1", "-o", "no_lru_crawler,no_lru_maintainer")
	const end = "going from conn_closing to conn_closed\n"
	ended := func() bool { return strings.HasSuffix(s.said(), end) }
	eventually(t, "start's connection is closed", ended)
	before := len(s.said())
	c := s.client()
	for _, step := range []struct{ text, last string }{
		{"set foo 0 0 3\r\nbar\r\n", "STORED\r\n"},
		{"get foo none\r\nbogus\r\n", "ERROR\r\n"},
		{"set foo 0 x 3\r\nabc\r\n", "CLIENT_ERROR bad command line format\r\n"},
	} {
		c.write(step.text)
		for line := ""; line != step.last; {
			if line = c.line(); !strings.HasSuffix(line, "\n") {
				t.Fatalf("%q: %q", step.text, line)
			}
		}
	}
	c.write("set foo 0 0 2000000\r\n")
	c.Conn.(interface{ CloseWrite() error }).CloseWrite()
	eventually(t, "connection is closed", ended)

	const want = `<N new auto-negotiating client connection
N: going from conn_new_cmd to conn_waiting
N: going from conn_waiting to conn_read
N: going from conn_read to conn_parse_cmd
N: Client using the ascii protocol
<N set foo 0 0 3
N: going from conn_parse_cmd to conn_nread
> NOT FOUND foo
>N STORED
N: going from conn_nread to conn_new_cmd
N: going from conn_new_cmd to conn_mwrite
N: going from conn_mwrite to conn_new_cmd
N: going from conn_new_cmd to conn_waiting
N: going from conn_waiting to conn_read
N: going from conn_read to conn_parse_cmd
<N get foo none
> FOUND KEY foo
>N sending key foo
> NOT FOUND none
>N END
N: going from conn_parse_cmd to conn_new_cmd
N: going from conn_new_cmd to conn_parse_cmd
<N bogus
>N ERROR
N: going from conn_parse_cmd to conn_new_cmd
N: going from conn_new_cmd to conn_mwrite
N: going from conn_mwrite to conn_new_cmd
N: going from conn_new_cmd to conn_waiting
N: going from conn_waiting to conn_read
N: going from conn_read to conn_parse_cmd
<N set foo 0 x 3
>N CLIENT_ERROR bad command line format
N: going from conn_parse_cmd to conn_new_cmd
N: going from conn_new_cmd to conn_swallow
N: going from conn_swallow to conn_new_cmd
N: going from conn_new_cmd to conn_mwrite
N: going from conn_mwrite to conn_new_cmd
N: going from conn_new_cmd to conn_waiting
N: going from conn_waiting to conn_read
N: going from conn_read to conn_parse_cmd
<N set foo 0 0 2000000
>N SERVER_ERROR object too large for cache
N: going from conn_parse_cmd to conn_new_cmd
> FOUND KEY foo
N: going from conn_new_cmd to conn_swallow
N: going from conn_swallow to conn_closing
<N connection closed.
N: going from conn_closing to conn_closed
`
	fd := regexp.MustCompile(`(?m)^([<>]?)\d+`)
	if have := fd.ReplaceAllString(s.said()[before:], "${1}N"); have != want {
		t.Errorf("have:\n%s\nwant:\n%s", have, want)
	}
}

// stats conns uses every connection's descriptor, and may thereby keep a closed
// one alive in epoll, which then reports a stale event for it.
func TestLateEvents(t *testing.T) {
	t.Parallel()
	s := start(t, "", true, "-l", "127.0.0.1", "-p", "-1", "-t", "2")
	var done atomic.Bool
	var wg sync.WaitGroup
	for range 4 {
		c := s.client()
		wg.Add(1)
		go func() {
			defer wg.Done()
			for !done.Load() {
				c.ask(strings.Repeat("stats conns\r\n", 10))
			}
		}()
	}
	for range 3000 {
		nc, err := s.dial()
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(nc, "get foo\r\nget foo\r\n")
		nc.(*net.TCPConn).SetLinger(0)
		nc.Close()
	}
	done.Store(true)
	wg.Wait()
	s.client().want(t, "get foo\r\n", "END\r\n")
}

// Replies that the socket does not take at once leave while a client sends a value: it
// may wait for them before it sends the rest.
func TestLargeReplyBeforeValue(t *testing.T) {
	s := mc9(t)
	c := s.client()
	large := strings.Repeat("x", 1000000)
	c.want(t, fmt.Sprintf("set large 0 0 %d\r\n%s\r\n", len(large), large), "STORED\r\n")
	for _, tt := range []struct {
		size  int
		reply string
	}{{20, "STORED\r\n"}, {2000000, "SERVER_ERROR object too large for cache\r\n"}} {
		c.write(fmt.Sprintf("get large large large\r\nset k 0 0 %d\r\n0123456789", tt.size))
		for line := ""; line != "END\r\n"; {
			if line = c.line(); strings.HasSuffix(line, silence) {
				t.Fatalf("with a value of %d bytes: %.100q", tt.size, line)
			}
		}
		c.want(t, strings.Repeat("x", tt.size-10)+"\r\n", tt.reply)
	}
}

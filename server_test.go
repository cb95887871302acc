// The child under test and its clients: helpers to start, watch and stop a server,
// and to talk to it.

package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const (
	patience = 2 * time.Minute // how long to wait for a server; only failures take that long
	closed   = "-- closed --"
	silence  = "-- silence --"
)

// A server is a child: mc9, or the memcached at path.
type server struct {
	t    testing.TB
	path string
	cmd  *exec.Cmd
	addr string            // of its Unix socket; empty if it has ports
	port map[string]string // otherwise, by name
	tls  *tls.Config       // its clients'; nil without TLS
	log  string            // name of the file with its output
	done chan struct{}     // closed when it has exited
}

// said returns the server's output so far.
func (s *server) said() string {
	b, _ := os.ReadFile(s.log)
	return string(b) + refusedCall(string(b))
}

// command returns a command for mc9, or the server at path, with flags. mc9 runs
// under MC9_EMULATOR, if set: an emulator for another kind of processor.
func command(path string, flags ...string) *exec.Cmd {
	env := append([]string{"MEMCACHED_SASL_PWDB=testdata/sasl/users", "SASL_CONF_PATH=testdata/sasl"}, os.Environ()...)
	own := path == ""
	if own {
		path, _ = os.Executable()
		env = append(env, "MC9_MAIN=1", "GORACE=atexit_sleep_ms=0")
	}
	if os.Getuid() == 0 {
		flags = append([]string{"-u", "root"}, flags...)
	}
	if emulator := os.Getenv("MC9_EMULATOR"); emulator != "" && own {
		path, flags = emulator, append([]string{path}, flags...)
	}
	cmd := exec.Command(path, flags...)
	cmd.Env = env
	return cmd
}

// start runs mc9, or the server at path, on a Unix socket or, if inet is set, on
// ports of its choice, and returns when it listens.
func start(t testing.TB, path string, inet bool, flags ...string) *server {
	t.Helper()
	s := &server{t: t, path: path, done: make(chan struct{})}
	if *overTls && path == "" && !inet {
		inet, flags = true, append(flags, makeCert(t, "localhost", nil).flags()...)
	}
	if slices.Contains(flags, "-Z") {
		s.tls = &tls.Config{InsecureSkipVerify: true}
	}
	// Not t.TempDir, nor TMPDIR: a socket's name must be short, and memcached's
	// stats conns shows 26 bytes of it.
	dir, err := os.MkdirTemp("/tmp", "mc9")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	os.Chmod(dir, 0o777) // for the user of -u
	file := filepath.Join(dir, "sock")
	if inet {
		s.cmd = command(path, flags...)
		s.cmd.Env = append(s.cmd.Env, "MEMCACHED_PORT_FILENAME="+file)
	} else {
		s.addr = file
		s.cmd = command(path, append(flags, "-s", file)...)
	}
	s.log = filepath.Join(dir, "log")
	log, err := os.Create(s.log)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	s.cmd.Stdout = log
	s.cmd.Stderr = log
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		s.cmd.Wait()
		close(s.done)
	}()
	t.Cleanup(s.stop)
	eventually(t, "the server listens", func() bool {
		select {
		case <-s.done:
			t.Fatalf("%v: %v\n%s", flags, s.cmd.ProcessState, s.said())
		default:
		}
		if inet {
			s.port = ports(file)
			return s.port != nil
		}
		c, err := s.dial()
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	return s
}

// ports reads the file that MEMCACHED_PORT_FILENAME names.
func ports(file string) map[string]string {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil
	}
	port := map[string]string{}
	for _, line := range strings.Split(string(text), "\n") {
		if name, n, ok := strings.Cut(line, ": "); ok {
			port[name] = n
		}
	}
	return port
}

func mc9(t testing.TB, flags ...string) *server {
	t.Helper()
	return start(t, "", false, flags...)
}

// dial connects to the server, and waits while its backlog is full.
func (s *server) dial() (net.Conn, error) {
	network, addr := "unix", s.addr
	if s.addr == "" {
		network, addr = "tcp", "127.0.0.1:"+s.port["TCP INET"]
	}
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		c, err := net.Dial(network, addr)
		if err == nil && s.addr == "" && s.tls != nil {
			return sslClient(c, s.tls)
		}
		if !errors.Is(err, syscall.EAGAIN) || time.Now().After(end) {
			return c, err
		}
	}
}

// sslClient does the TLS handshake.
func sslClient(c net.Conn, config *tls.Config) (net.Conn, error) {
	conn := tls.Client(c, config)
	c.SetDeadline(time.Now().Add(patience))
	err := conn.Handshake()
	c.SetDeadline(time.Time{})
	if err != nil {
		c.Close()
	}
	return conn, err
}

// connect returns a client of a server that start did not start, as soon as the
// server listens at addr.
func connect(t testing.TB, network, addr string) (c *client) {
	t.Helper()
	eventually(t, "a server listens on "+addr, func() bool {
		nc, err := net.Dial(network, addr)
		if err == nil {
			c = newClient(nc)
			t.Cleanup(func() { c.Close() })
		}
		return err == nil
	})
	return c
}

// freePort returns a port that no other process gets, as client or server, until
// the test ends. A socket that is bound, but does not listen, reserves it: servers
// set SO_REUSEADDR, and so may still listen on the port.
func freePort(t testing.TB) string {
	t.Helper()
	// An IPv6 socket also reserves the IPv4 port.
	var addr unix.Sockaddr = new(unix.SockaddrInet6)
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		addr = new(unix.SockaddrInet4)
		fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	if err := unix.Bind(fd, addr); err != nil {
		t.Fatal(err)
	}
	addr, _ = unix.Getsockname(fd)
	switch addr := addr.(type) {
	case *unix.SockaddrInet6:
		return strconv.Itoa(addr.Port)
	case *unix.SockaddrInet4:
		return strconv.Itoa(addr.Port)
	}
	return ""
}

// stop ends the child. mc9 must exit cleanly.
func (s *server) stop() {
	if s.path != "" {
		s.cmd.Process.Kill()
		<-s.done
		return
	}
	s.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-s.done:
	case <-time.After(patience):
		s.cmd.Process.Signal(syscall.SIGQUIT)
		<-s.done
		s.t.Error("does not stop on SIGTERM")
	}
	out := s.said()
	if !s.cmd.ProcessState.Success() || strings.Contains(out, "DATA RACE") {
		s.t.Errorf("%v\n%s", s.cmd.ProcessState, out)
	}
}

// fds counts the server's open descriptors.
func (s *server) fds() int {
	names, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", s.cmd.Process.Pid))
	if err != nil {
		s.t.Fatal(err)
	}
	return len(names)
}

// status returns a number from the server's /proc status; memory is in KB.
func (s *server) status(name string) int {
	s.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	if err != nil {
		s.t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^` + name + `:\s+(\d+)`).FindSubmatch(text)
	if m == nil {
		s.t.Fatal("no ", name)
	}
	return atoi(string(m[1]))
}

// A footprint is what mc9 uses at one time. Unlike resident memory, it does not
// depend on when garbage is collected.
type footprint struct {
	heap       int // KB of Go's heap that are reachable
	buffers    int // KB of that in read buffers, which are kept for reuse
	goroutines int
	allocated  int // KB of Go's heap that were ever allocated
}

// reportFootprint has mc9 print its heap and goroutines whenever it gets
// SIGUSR2.
func reportFootprint() {
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGUSR2)
	go func() {
		for range asked {
			heap := heapAlloc()
			fmt.Fprintf(os.Stderr, "footprint %d %d %d\n", heap>>10, runtime.NumGoroutine(), gcRead("/gc/heap/allocs:bytes")[0]>>10)
		}
	}()
}

// heapAlloc returns how many bytes of Go's heap are reachable.
func heapAlloc() uint64 {
	var m runtime.MemStats
	stopsWorld(func() {
		runtime.GC()
		runtime.ReadMemStats(&m)
	})
	return m.HeapAlloc
}

var footprints = regexp.MustCompile(`(?m)^footprint (\d+) (\d+) (\d+)$`)

// footprint returns the server's footprint.
func (s *server) footprint() (f footprint) {
	s.t.Helper()
	n := len(footprints.FindAllString(s.said(), -1))
	s.cmd.Process.Signal(syscall.SIGUSR2)
	eventually(s.t, "mc9 tells its footprint", func() bool {
		all := footprints.FindAllStringSubmatch(s.said(), -1)
		if len(all) == n {
			return false
		}
		f.heap, f.goroutines, f.allocated = atoi(all[n][1]), atoi(all[n][2]), atoi(all[n][3])
		return true
	})
	c := s.client()
	defer c.Close()
	f.buffers = c.statN("read_buf_bytes") >> 10
	return f
}

// wantCheap expects clients to cost at most 128 KB each, compared with the
// footprint before they came.
func (s *server) wantCheap(t *testing.T, before footprint, clients int) {
	t.Helper()
	const each = 128
	if now := s.footprint(); now.heap-before.heap > clients*each {
		t.Errorf("have %+v with %d clients, had %+v", now, clients, before)
	}
}

// whileStopped runs f while no thread of the server runs.
func (s *server) whileStopped(f func()) {
	s.t.Helper()
	s.cmd.Process.Signal(syscall.SIGSTOP)
	eventually(s.t, "the server is stopped", func() bool {
		stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.cmd.Process.Pid))
		return strings.Contains(string(stat), ") T ")
	})
	defer s.cmd.Process.Signal(syscall.SIGCONT)
	f()
}

// run starts mc9 and waits for it to exit by itself.
func run(t testing.TB, flags ...string) (code int, out string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c := command("", flags...)
	cmd := exec.CommandContext(ctx, c.Path, c.Args[1:]...)
	cmd.Env = c.Env
	b, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		t.Errorf("%q does not end:\n%s", flags, b)
	} else if cmd.ProcessState == nil {
		t.Error(err)
		return -1, ""
	}
	return cmd.ProcessState.ExitCode(), string(b) + refusedCall(string(b))
}

// activated starts mc9 as systemd would, passing these sockets.
func activated(flags []string, sockets ...*os.File) *exec.Cmd {
	cmd := command("", flags...)
	script := fmt.Sprintf(`LISTEN_PID=$$ LISTEN_FDS=%d exec "$0" "$@"`, len(sockets))
	cmd.Args = append([]string{"sh", "-c", script, cmd.Path}, cmd.Args[1:]...)
	cmd.Path = "/bin/sh"
	cmd.ExtraFiles = sockets
	return cmd
}

// oracle returns the path and version of memcached, or "" if there is none.
func oracle() (path, version string) {
	path = os.Getenv("MEMCACHED")
	if path == "" {
		path, _ = exec.LookPath("memcached")
	}
	if path == "" {
		return "", ""
	}
	out, _ := exec.Command(path, "-V").Output()
	return path, strings.TrimPrefix(strings.TrimSpace(string(out)), "memcached ")
}

// eventually waits until ok returns true.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("still not true: %s", what)
		}
	}
}

// A client is one connection.
type client struct {
	net.Conn
	r *bufio.Reader
}

func newClient(c net.Conn) *client { return &client{c, bufio.NewReader(c)} }

func (s *server) client() *client {
	s.t.Helper()
	c, err := s.dial()
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { c.Close() })
	return newClient(c)
}

// write sends text. Errors are ignored: they show when no reply comes.
func (c *client) write(text string) {
	c.SetWriteDeadline(time.Now().Add(patience))
	io.WriteString(c, text)
}

// unread returns how many bytes have arrived from the server and are unread.
func (c *client) unread(t *testing.T) (n int) {
	t.Helper()
	raw, err := c.Conn.(syscall.Conn).SyscallConn()
	if err == nil {
		raw.Control(func(fd uintptr) { n, err = unix.IoctlGetInt(int(fd), unix.TIOCINQ) })
	}
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// line reads a line of a reply, including \r\n.
func (c *client) line() string {
	c.SetReadDeadline(time.Now().Add(patience))
	line, err := c.r.ReadString('\n')
	switch {
	case err == nil:
	case errors.Is(err, os.ErrDeadlineExceeded):
		line += silence
	default:
		line += closed
	}
	return line
}

var versions = regexp.MustCompile(`(?m)^version[ \r]`)

// ask sends text, which must be complete commands, and returns the replies.
func (c *client) ask(text string) string {
	fence := len(versions.FindAllString(text, -1)) + 1
	c.write(text + "version\r\n")
	var reply strings.Builder
	for {
		line := c.line()
		if strings.HasPrefix(line, "VERSION ") {
			if fence--; fence == 0 {
				return reply.String()
			}
		}
		reply.WriteString(line)
		if strings.HasSuffix(line, closed) || strings.HasSuffix(line, silence) {
			return reply.String()
		}
	}
}

// stat returns the value of name in a stats command, such as "items".
func (c *client) stat(command, name string) string {
	for _, line := range strings.Split(c.ask("stats "+command+"\r\n"), "\r\n") {
		if v, ok := strings.CutPrefix(line, "STAT "+name+" "); ok {
			return v
		}
	}
	return ""
}

// want sends text and expects this reply.
func (c *client) want(t testing.TB, text, reply string) {
	t.Helper()
	if have := c.ask(text); have != reply {
		t.Fatalf("%.50q:\nhave %.200q\nwant %.200q", text, have, reply)
	}
}

// statN returns a number from stats.
func (c *client) statN(name string) int {
	n, _ := strconv.Atoi(c.stat("", name))
	return n
}

// wantStat waits until stats shows this value for name.
func (c *client) wantStat(t testing.TB, name, value string) {
	t.Helper()
	eventually(t, name+" "+value, func() bool { return c.stat("", name) == value })
}

// wantLogged waits until the logger thread has counted n lines, including dropped
// ones.
func (c *client) wantLogged(t testing.TB, n int) {
	t.Helper()
	eventually(t, fmt.Sprint(n, " lines are counted"), func() bool {
		return c.statN("log_worker_written")+c.statN("log_worker_dropped") == n
	})
}

// wantNoneUsed waits until no item uses memory.
func (c *client) wantNoneUsed(t *testing.T) {
	t.Helper()
	used := regexp.MustCompile(`:used_chunks [1-9]`)
	eventually(t, "nothing is leaked", func() bool { return !used.MatchString(c.ask("stats slabs\r\n")) })
}

// packet reads a reply. If there is none, it returns what client.line would.
func (c *client) packet() (*packet, string) {
	c.SetReadDeadline(time.Now().Add(patience))
	p := new(packet)
	_, err := io.ReadFull(c.r, p.hdr[:])
	if err == nil {
		p.body = make([]byte, min(binary.BigEndian.Uint32(p.hdr[8:]), 1<<26))
		_, err = io.ReadFull(c.r, p.body)
	}
	switch {
	case err == nil:
		return p, p.String() + "\r\n"
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, silence
	}
	return nil, closed
}

func (c *client) packetLine() string {
	_, s := c.packet()
	return s
}

// askBinary sends packets and returns the replies, like client.ask. It ends with a
// version packet, which is answered even before a login.
func (c *client) askBinary(packets string) (replies []string) {
	const opaque = 0xfe4ce
	fence, _ := parsePacket(fmt.Sprintf("TVersion opaque=%d", opaque))
	c.write(packets + fence)
	for {
		p, s := c.packet()
		if p != nil && p.opcode() == protocolBinaryCmdVersion && p.opaque() == opaque {
			return replies
		}
		if replies = append(replies, s); p == nil {
			return replies
		}
	}
}

// wantBinary sends one packet and expects this reply.
func (c *client) wantBinary(t testing.TB, request, reply string) {
	t.Helper()
	have := c.askBinary(packets(t, request))
	for i := range have {
		have[i] = show(have[i])
	}
	if s := strings.Join(have, "; "); s != reply {
		t.Fatalf("%s: have %s, want %s", request, s, reply)
	}
}

func loginAs(c *client, user, pass string) string {
	token := user + " " + pass
	c.write("set auth 0 0 " + strconv.Itoa(len(token)) + "\r\n" + token + "\r\n")
	return strings.TrimSpace(c.line())
}

// login tries to log in on a new connection.
func login(t *testing.T, s *server, user, pass string) string {
	t.Helper()
	c := s.client()
	defer c.Close()
	return loginAs(c, user, pass)
}

// fill stores items prefix0 to prefix<n-1>.
func fill(c *client, prefix string, n, exptime int) {
	w := bufio.NewWriter(c)
	for i := range n {
		fmt.Fprintf(w, "set %s%d 0 %d 5 noreply\r\nvalue\r\n", prefix, i, exptime)
	}
	w.Flush()
	c.ask("")
}

// readDump reads a metadump to its end, and counts how often each key occurs.
func readDump(t *testing.T, c *client) map[string]int {
	t.Helper()
	seen := map[string]int{}
	if line := c.line(); line != "OK\r\n" {
		t.Fatalf("%q", line)
	}
	for {
		line := c.line()
		if line == "END\r\n" {
			return seen
		}
		key, ok := strings.CutPrefix(line, "key=")
		if !ok {
			t.Fatalf("%q", line)
		}
		key, _, _ = strings.Cut(key, " ")
		seen[key]++
	}
}

// watch makes c a watcher. If the maximum is reached, it retries: the server may
// not have noticed yet that others have hung up.
func (c *client) watch(what string) error {
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		c.write("watch " + what + "\r\n")
		line := c.line()
		switch {
		case line == "OK\r\n":
			return nil
		case !strings.HasPrefix(line, "WATCHER_TOO_MANY "), time.Now().After(end):
			return fmt.Errorf("watch %s: %q", what, line)
		}
	}
}

func (c *client) mustWatch(t testing.TB, what string) {
	t.Helper()
	if err := c.watch(what); err != nil {
		t.Fatal(err)
	}
}

// A udpClient sends datagrams, each with the 8-byte frame header.
type udpClient struct{ net.Conn }

func dialUdp(t *testing.T, addr string) udpClient {
	c, err := net.Dial("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return udpClient{c}
}

func (u udpClient) send(id, seq, total uint16, text string) {
	var b []byte
	for _, n := range []uint16{id, seq, total, 0} {
		b = binary.BigEndian.AppendUint16(b, n)
	}
	u.Write(append(b, text...))
}

// want sends text and expects the reply, in as many datagrams as needed.
func (u udpClient) want(t *testing.T, id uint16, text, reply string) {
	t.Helper()
	u.send(id, 0, 1, text)
	var have bytes.Buffer
	for seq, total := uint16(0), uint16(1); seq < total; seq++ {
		b := make([]byte, 65536)
		u.SetReadDeadline(time.Now().Add(patience))
		n, err := u.Read(b)
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		total = binary.BigEndian.Uint16(b[4:])
		if n > 1400 || binary.BigEndian.Uint16(b) != id || binary.BigEndian.Uint16(b[2:]) != seq || b[6] != 0 || b[7] != 0 {
			t.Errorf("%q: packet %d of %d bytes: % x", text, seq, n, b[:8])
		}
		have.Write(b[8:n])
	}
	if have.String() != reply {
		t.Errorf("%q: have %.100q", text, have.String())
	}
}

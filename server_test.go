// The child under test, and its clients.

package main

import (
	"bufio"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	patience = 10 * time.Second // with a server; it is only spent on failures
	closed   = "-- closed --"
	silence  = "-- silence --"
)

// A server is a child: mc9, or memcached where path says so.
type server struct {
	t    testing.TB
	path string
	cmd  *exec.Cmd
	addr string // of its Unix socket or, if that is empty,
	port map[string]string
	log  string        // file of what it prints
	done chan struct{} // closed when it has exited
}

// said is what it has printed so far.
func (s *server) said() string {
	b, _ := os.ReadFile(s.log)
	return string(b)
}

// command is mc9 or the server at path, with flags.
func command(path string, flags ...string) *exec.Cmd {
	env := append([]string{"MEMCACHED_SASL_PWDB=testdata/sasl/users", "SASL_CONF_PATH=testdata/sasl"}, os.Environ()...)
	if path == "" {
		path, _ = os.Executable()
		env = append(env, "MC9_MAIN=1", "GORACE=atexit_sleep_ms=0")
	}
	if os.Getuid() == 0 {
		flags = append([]string{"-u", "root"}, flags...)
	}
	cmd := exec.Command(path, flags...)
	cmd.Env = env
	return cmd
}

// start runs mc9, or the server at path, on a Unix socket, or where inet is
// set on ports of its choice, and returns when it listens.
func start(t testing.TB, path string, inet bool, flags ...string) *server {
	t.Helper()
	s := &server{t: t, path: path, done: make(chan struct{})}
	// Not t.TempDir: a socket's name must be short.
	dir, err := os.MkdirTemp("", "mc9")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	os.Chmod(dir, 0o777) // for whoever -u is
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

// ports reads the file that MEMCACHED_PORT_FILENAME named.
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

func (s *server) dial() (net.Conn, error) {
	if s.addr == "" {
		return net.Dial("tcp", "127.0.0.1:"+s.port["TCP INET"])
	}
	return net.Dial("unix", s.addr)
}

// stop ends the child. mc9 has to go in peace.
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

// eventually waits for something that another process does.
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

// write sends text. That it cannot is seen when no reply comes.
func (c *client) write(text string) {
	c.SetWriteDeadline(time.Now().Add(patience))
	io.WriteString(c, text)
}

// line reads a line of a reply, \r\n included.
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

// ask sends text, whole commands, and returns the replies.
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

// stat returns the value that a stats command, such as "items", has for name.
func (c *client) stat(command, name string) string {
	for _, line := range strings.Split(c.ask("stats "+command+"\r\n"), "\r\n") {
		if v, ok := strings.CutPrefix(line, "STAT "+name+" "); ok {
			return v
		}
	}
	return ""
}

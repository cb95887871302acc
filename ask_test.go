// --ask: one command, whatever the server speaks.

package main

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// wantAsked expects mc9, with these flags, to print what begins and ends so.
func wantAsked(t *testing.T, code int, begin, end string, flags ...string) {
	t.Helper()
	have, out := run(t, flags...)
	if have != code || !strings.HasPrefix(out, begin) || !strings.HasSuffix(strings.TrimSpace(out), end) {
		t.Errorf("%q: %d, %s", flags, have, out)
	}
}

// Commands and their answers, each to its end.
func TestAsk(t *testing.T) {
	s := mc9(t, "-A")
	for _, tt := range []struct {
		command string
		code    int
		begin   string
		end     string
	}{
		{"version", 0, "VERSION 1.6.45\r\n", ""},
		{"set a 0 0 5\r\nERROR", 0, "STORED\r\n", ""},
		{"get a", 0, "VALUE a 0 5\r\nERROR\r\nEND\r\n", "END"},
		{"mg a v", 0, "VA 5\r\nERROR\r\n", ""},
		{"incr b 1", 0, "NOT_FOUND\r\n", ""},
		{"stats", 0, "STAT pid ", "\r\nEND"},
		{"stats slabs", 0, "STAT 1:chunk_size ", "\r\nEND"},
		{"stats reset", 0, "RESET\r\n", ""},
		{"lru_crawler metadump all", 0, "OK\r\nkey=a ", "END"},
		{"verbosity 1", 0, "OK\r\n", ""},
		{"set c 0 0 1 noreply\r\nc", 0, "", ""},
		{"flush_all", 0, "OK\r\n", ""},
		{"nonsense", 1, "ERROR\r\n", ""},
		{"get " + strings.Repeat("k", 251), 1, "CLIENT_ERROR ", ""},
		{"shutdown", 0, "", ""},
	} {
		wantAsked(t, tt.code, tt.begin, tt.end, "--ask="+tt.command, s.addr)
	}
	<-s.done
	wantAsked(t, 1, "ask: Connection refused\n", "", "--ask=version", "127.0.0.1:1")
}

// Servers that want a password, or speak the binary protocol only.
func TestAskWays(t *testing.T) {
	auth := authFile(t)
	for _, flags := range []string{"-Y " + auth, "-B binary", "-S", "-B ascii"} {
		s := mc9(t, strings.Fields(flags)...)
		ask := func(command string) []string {
			return append(strings.Fields(flags), "-s", s.addr, "--ask="+command)
		}
		wantAsked(t, 0, "VERSION 1.6.45", "", ask("version")...)
		wantAsked(t, 0, "STAT pid ", "END", append(ask("stats"), s.addr)...)
		wantAsked(t, 0, "STAT active_slabs 0", "END", ask("stats slabs")...)
		wantAsked(t, 0, "OK", "", ask("flush_all 10")...)
		wantAsked(t, 1, "", "", ask("stats nonsense")...)
	}
}

// A watcher sees what happens until it is interrupted.
func TestAskWatch(t *testing.T) {
	s := mc9(t)
	cmd := command("", "-s", s.addr, "--ask=watch mutations")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	r := bufio.NewReader(out)
	if line, _ := r.ReadString('\n'); line != "OK\r\n" {
		t.Fatalf("%q", line)
	}
	s.client().want(t, "set a 0 0 1\r\na\r\n", "STORED\r\n")
	if line, _ := r.ReadString('\n'); !strings.Contains(line, "type=item_store key=a ") {
		t.Errorf("%q", line)
	}
}

// In a container the server is process 1, and its options tell where it is.
func TestAskFirst(t *testing.T) {
	enter := []string{"-pf", "--mount-proc"}
	if out, err := exec.Command("unshare", append(enter, "true")...).CombinedOutput(); err != nil {
		t.Skipf("no process can be the first here: %v %s", err, out)
	}
	port := freePort(t)
	mc9 := command("", "memcached", "-l", "127.0.0.1", "-p", port, "-Y", authFile(t))
	server := exec.Command("unshare", append(append(enter, "--kill-child"), mc9.Args...)...)
	server.Env = mc9.Env
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	defer server.Wait()
	defer server.Process.Kill()
	eventually(t, "the server listens", func() bool {
		c, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	first, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", server.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, flags := range [][]string{{"--check"}, {"--ask=version"}} {
		ask := command("", flags...)
		cmd := exec.Command("nsenter", append([]string{"-p", "-m", "-t", strings.TrimSpace(string(first))}, ask.Args...)...)
		cmd.Env = ask.Env
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%q: %v %s", flags, err, out)
		}
	}
}

// -o drop_privileges. To run all tests with it:
//
//	go test -drop_privileges
//
// A refused system call then ends the process not silently but as a fault does,
// with a stack trace, and the test names the call.

package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

var dropPriv = flag.Bool("drop_privileges", false, "start each mc9 with -o drop_privileges")

// privMain prepares a child. With MC9_DROP it runs with the option, and refused
// calls trap. With MC9_MISBEHAVE it misbehaves in the way named, on SIGWINCH.
// With MC9_NO_SECCOMP it finds a kernel without seccomp.
func privMain() {
	if os.Getenv("MC9_DROP") != "" {
		os.Args = slices.Insert(os.Args, 1, "-o", "drop_privileges")
		denyAction = unix.SECCOMP_RET_TRAP
	}
	if name := os.Getenv("MC9_MISBEHAVE"); name != "" {
		asked := make(chan os.Signal, 1)
		signal.Notify(asked, syscall.SIGWINCH)
		go func() {
			<-asked
			fmt.Fprintf(os.Stderr, "%s: %v\n", name, misbehaviour[name]())
		}()
	}
	if os.Getenv("MC9_NO_SECCOMP") != "" {
		unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
		rawSeccomp([]unix.SockFilter{
			{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS},
			{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_SECCOMP, Jf: 1},
			{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)},
			{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
		})
	}
}

// Things that an attacker might make a hijacked server do.
var misbehaviour = map[string]func() error{
	"execve": func() error { return syscall.Exec("/bin/true", nil, nil) },
	"fork": func() error {
		if pid, _, e := unix.RawSyscall(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0); pid == 0 && e == 0 {
			unix.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
		}
		return nil
	},
	"namespace": func() error { return unix.Unshare(unix.CLONE_NEWUSER) },
	"socket":    func() error { _, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0); return err },
	"read":      func() error { _, err := os.ReadFile("/etc/passwd"); return err },
	"write":     func() error { _, err := os.OpenFile("/dev/null", os.O_WRONLY, 0); return err },
	"create":    func() error { _, err := os.OpenFile(os.DevNull, os.O_RDONLY|os.O_CREATE, 0); return err },
	"remove":    func() error { return os.Remove("/nonexistent") },
	"kill":      func() error { return unix.Kill(os.Getppid(), 0) },
	"exec memory": func() error {
		_, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_EXEC, unix.MAP_PRIVATE|unix.MAP_ANON)
		return err
	},
	"exec memory, later": func() error {
		b, _ := unix.Mmap(-1, 0, 4096, unix.PROT_READ, unix.MAP_PRIVATE|unix.MAP_ANON)
		return unix.Mprotect(b, unix.PROT_READ|unix.PROT_EXEC)
	},
	"another filter": func() error { return rawSeccomp(privFilter()) },

	// These are allowed.
	"threads": func() error {
		var wg sync.WaitGroup
		for range 20 {
			wg.Add(1)
			go func() {
				runtime.LockOSThread() // so that the thread ends with the goroutine
				defer wg.Done()
			}()
		}
		wg.Wait()
		return nil
	},
	"crash": func() error { panic("it is meant to") },
}

// sysNames returns the names of system calls, from golang.org/x/sys.
var sysNames = sync.OnceValue(func() map[int]string {
	names := make(map[int]string)
	dir, _ := exec.Command("go", "list", "-f", "{{.Dir}}", "golang.org/x/sys/unix").Output()
	text, _ := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), "zsysnum_linux_"+runtime.GOARCH+".go"))
	for _, m := range regexp.MustCompile(`(SYS_\w+) += (\d+)`).FindAllStringSubmatch(string(text), -1) {
		nr, _ := strconv.Atoi(m[2])
		names[nr] = m[1]
	}
	return names
})

// refusedCall names the call that a filter trapped, if said, a server's output,
// shows one.
func refusedCall(said string) string {
	register := map[string]string{"amd64": "rax", "arm64": "r8"}[runtime.GOARCH]
	m := regexp.MustCompile(`(?s)SIGSYS: bad system call\n.*\n` + register + ` +0x([0-9a-f]+)`).FindStringSubmatch(said)
	if m == nil {
		return ""
	}
	nr, _ := strconv.ParseInt(m[1], 16, 0)
	return fmt.Sprintf("\nnot in the table of priv.go, or not with such arguments: %d, %s\n", nr, sysNames()[int(nr)])
}

// The table allows what -e needs at the stop.
func TestDropRestart(t *testing.T) {
	t.Setenv("MC9_DROP", "1")
	flags := []string{"-e", filepath.Join(restartDir(t), "f"), "-m", "64"}
	s := mc9(t, flags...)
	s.client().want(t, "set a 0 0 1\r\n1\r\n", "STORED\r\n")
	s.graceful()
	mc9(t, flags...).client().want(t, "get a\r\n", "VALUE a 0 1\r\n1\r\nEND\r\n")
}

// The table of allowed calls has everything that a server needs.
func TestDropPrivileges(t *testing.T) {
	t.Setenv("MC9_DROP", "1")
	w := &stress{s: mc9(t, strings.Fields("-m 14 -f 2 -t 3 -A -o hashpower=12,slab_automove=2")...), lost: "evictions"}
	w.run(t, testSeed(t, 0))
	c := w.s.client()
	if have := c.stat("settings", "drop_privileges"); have != "yes" {
		t.Errorf("drop_privileges %s", have)
	}
	w.s.cmd.Process.Signal(syscall.SIGSTOP)
	w.s.cmd.Process.Signal(syscall.SIGCONT)
	c.want(t, "get none\r\n", "END\r\n")
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", w.s.cmd.Process.Pid))
	for _, task := range tasks {
		status, err := os.ReadFile(task)
		if err == nil && !(strings.Contains(string(status), "\nNoNewPrivs:\t1\n") && strings.Contains(string(status), "\nSeccomp:\t2\n")) {
			t.Errorf("%s has no filter:\n%s", task, status)
		}
	}
	if reply := c.ask("shutdown graceful\r\n"); reply != closed {
		t.Errorf("shutdown: %q", reply)
	}
	<-w.s.done
}

// misbehave has a server with these flags misbehave in the way named. It returns
// the server's output, and how the server ended, or nil if it still runs.
func misbehave(t *testing.T, name string, flags ...string) (said string, state *os.ProcessState) {
	t.Helper()
	t.Setenv("MC9_MISBEHAVE", name)
	s := mc9(t, flags...)
	eventually(t, "it has a filter", func() bool { return s.status("Seccomp") == unix.SECCOMP_MODE_FILTER })
	s.path = "killed" // do not expect a clean exit
	s.cmd.Process.Signal(syscall.SIGWINCH)
	eventually(t, name+" has an end", func() bool {
		select {
		case <-s.done:
			state = s.cmd.ProcessState
		default:
		}
		said = s.said()
		return state != nil || strings.Contains(said, name+": ")
	})
	return said, state
}

// A call that the server does not need kills it.
func TestMisbehave(t *testing.T) {
	t.Setenv("MC9_DROP", "")
	for name := range misbehaviour {
		if name == "threads" || name == "read" || name == "crash" {
			continue
		}
		for _, flags := range []string{"", " -Y " + "testdata/sasl/users", " -S"} {
			said, state := misbehave(t, name, strings.Fields("-o drop_privileges"+flags)...)
			if said != "" || state == nil || state.Sys().(syscall.WaitStatus).Signal() != syscall.SIGSYS {
				t.Errorf("%s%s: %v\n%s", name, flags, state, said)
			}
		}
	}
}

// Calls that the server needs are allowed, some only with certain flags.
func TestBehave(t *testing.T) {
	t.Setenv("MC9_DROP", "1")
	for _, tt := range []struct{ name, flags, want string }{
		{"threads", "", "threads: <nil>\n"},
		{"read", "", "read: open /etc/passwd: permission denied\n"},
		{"read", "-S", "read: <nil>\n"},
		{"read", "-Y " + "testdata/sasl/users", "read: <nil>\n"},
		{"crash", "", "panic: it is meant to\n"},
	} {
		said, state := misbehave(t, tt.name, strings.Fields(tt.flags)...)
		if !strings.HasPrefix(said, tt.want) || state != nil && state.ExitCode() != 2 {
			t.Errorf("%s %s: %v\n%s", tt.name, tt.flags, state, said)
		}
	}
}

// A call missing from the table is named.
func TestRefusedCall(t *testing.T) {
	t.Setenv("MC9_DROP", "1")
	said, _ := misbehave(t, "socket")
	if !strings.HasSuffix(said, fmt.Sprintf(": %d, SYS_SOCKET\n", unix.SYS_SOCKET)) {
		t.Error(said)
	}
}

// On a kernel without seccomp mc9 exits if the option is set, and else runs.
func TestNoSeccomp(t *testing.T) {
	t.Setenv("MC9_NO_SECCOMP", "1")
	t.Setenv("MC9_DROP", "")
	mc9(t, "-o", "drop_privileges,no_drop_privileges").client().want(t, "get foo\r\n", "END\r\n")
	code, out := run(t, "-o", "drop_privileges", "-p", "0")
	if want := "drop_privileges: this system has no seccomp: Function not implemented\n"; code != 1 || out != want {
		t.Errorf("%d: %s", code, out)
	}
}

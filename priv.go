// System call filters: -o drop_privileges. From linux_priv.c.

package main

import (
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// What the kernel does on a call that is not in the table. C handles SIGSYS, prints
// the call and exits; here no code of a compromised process may run any more.
var denyAction uint32 = unix.SECCOMP_RET_KILL_PROCESS

var auditArch = map[string]uint32{
	"amd64": unix.AUDIT_ARCH_X86_64,
	"arm64": unix.AUDIT_ARCH_AARCH64,
}

// A privCall is a system call that the filter lets through if args[arg]&mask is
// want. The filter sees only the lower 32 bits of an argument.
type privCall struct {
	nr         uint32
	off        bool // not needed with these options: leave it out
	arg        int
	mask, want uint32
	errno      unix.Errno // if not 0, the call fails with it instead
}

// privCalls is the table of allowed calls, grouped by the threads that need them. A
// call has several rows if it is allowed for several reasons. Workers come first:
// up to Linux 5.10 the kernel searches the table from the top for each call.
func privCalls() []privCall {
	const threadFlags = unix.CLONE_VM | unix.CLONE_FS | unix.CLONE_FILES | unix.CLONE_SIGHAND |
		unix.CLONE_SYSVSEM | unix.CLONE_THREAD
	const threadMask = ^uint32(unix.CLONE_SETTLS | unix.CLONE_PARENT_SETTID | unix.CLONE_CHILD_CLEARTID)
	const whole = ^uint32(0)
	const writeFlags = unix.O_ACCMODE | unix.O_CREAT | unix.O_TRUNC
	pid := uint32(os.Getpid())
	relaxed := settings.relaxedPrivileges
	keepsItems := settings.memoryFile != ""
	metrics := options.metrics != ""
	readsFiles := settings.auth.sasl || settings.auth.file != "" || sslListen() != sslDisabled || relaxed

	return []privCall{
		// Workers and the main thread: connections, and the pipes between threads.
		{nr: unix.SYS_RECVFROM},
		{nr: unix.SYS_SENDTO},
		{nr: unix.SYS_EPOLL_PWAIT},
		{nr: unix.SYS_WRITEV},
		{nr: unix.SYS_READ},
		{nr: unix.SYS_WRITE}, // also for printing
		{nr: unix.SYS_EPOLL_CTL},
		{nr: unix.SYS_ACCEPT4},
		{nr: unix.SYS_CLOSE},
		{nr: unix.SYS_LISTEN},     // acceptNewConns
		{nr: unix.SYS_GETSOCKOPT}, // -N
		{nr: unix.SYS_IOCTL, arg: 1, mask: whole, want: unix.SIOCOUTQ}, // socketOutq
		// Workers: statistics, and the addresses of a connection.
		{nr: unix.SYS_GETSOCKNAME},
		{nr: unix.SYS_GETPEERNAME},
		{nr: unix.SYS_GETRUSAGE},
		// Workers and I/O threads: extstore.
		{nr: unix.SYS_PREADV2, off: extStorage == nil},
		{nr: unix.SYS_PREADV, off: extStorage == nil},
		{nr: unix.SYS_PREAD64, off: extStorage == nil},
		// Background threads: sleeping; dumps and watchers.
		{nr: unix.SYS_NANOSLEEP},
		{nr: unix.SYS_PPOLL},
		// Memory: the arena, the hash table, Go's heap.
		{nr: unix.SYS_MADVISE},
		{nr: unix.SYS_MMAP, arg: 2, mask: unix.PROT_EXEC, want: 0},
		{nr: unix.SYS_MPROTECT, arg: 2, mask: unix.PROT_EXEC, want: 0},
		{nr: unix.SYS_MUNMAP},
		{nr: unix.SYS_PRCTL, mask: whole, want: unix.PR_SET_VMA}, // names a mapping
		// Go's runtime: threads, time, signals, exiting. The command shutdown also
		// needs kill.
		{nr: unix.SYS_FUTEX},
		{nr: unix.SYS_CLONE, mask: threadMask, want: threadFlags},
		{nr: unix.SYS_SCHED_YIELD},
		{nr: unix.SYS_CLOCK_GETTIME},
		{nr: unix.SYS_GETRANDOM},
		{nr: unix.SYS_RESTART_SYSCALL}, // the kernel's, after SIGCONT
		{nr: unix.SYS_RT_SIGACTION},
		{nr: unix.SYS_RT_SIGPROCMASK},
		{nr: unix.SYS_RT_SIGRETURN},
		{nr: unix.SYS_SIGALTSTACK},
		{nr: unix.SYS_GETPID},
		{nr: unix.SYS_GETTID},
		{nr: unix.SYS_KILL, mask: whole, want: pid},
		{nr: unix.SYS_TGKILL, mask: whole, want: pid},
		{nr: unix.SYS_EXIT},
		{nr: unix.SYS_EXIT_GROUP},
		// Reading files of users and certificates: HUP, refresh_certs and SASL logins.
		// With -e, os.OpenFile makes the fstat and fcntl calls.
		{nr: unix.SYS_OPENAT, off: !readsFiles, arg: 2, mask: writeFlags, want: unix.O_RDONLY},
		{nr: unix.SYS_FSTAT, off: !readsFiles && !keepsItems},
		{nr: unix.SYS_FCNTL, off: !readsFiles && !keepsItems && !metrics, arg: 1, mask: whole, want: unix.F_GETFL},
		{nr: unix.SYS_FCNTL, off: !readsFiles && !keepsItems, arg: 1, mask: whole, want: unix.F_SETFL},
		// --metrics: for metricsSelf. os.NewFile makes the fcntl call above.
		{nr: unix.SYS_FSTAT, off: !metrics},
		{nr: unix.SYS_PREAD64, off: !metrics},
		// -d: the pid file is removed.
		{nr: unix.SYS_UNLINKAT, off: !options.daemonize || options.pidFile == ""},
		// -e: the file grows; at shutdown its .meta is written and renamed into place.
		// pwrite64 is also extstore's.
		{nr: unix.SYS_FALLOCATE, off: !keepsItems},
		{nr: unix.SYS_LSEEK, off: !keepsItems},
		{nr: unix.SYS_PWRITE64, off: !keepsItems && extStorage == nil},
		{nr: unix.SYS_OPENAT, off: !keepsItems, arg: 2, mask: writeFlags | unix.O_EXCL, want: unix.O_WRONLY | unix.O_CREAT | unix.O_EXCL},
		{nr: unix.SYS_UNLINKAT, off: !keepsItems},
		{nr: unix.SYS_RENAMEAT2, off: !keepsItems},
		{nr: unix.SYS_FLOCK, off: !keepsItems},
		// -o relaxed_privileges: debugprofile.
		{nr: unix.SYS_OPENAT, off: !relaxed},
		{nr: unix.SYS_PREAD64, off: !relaxed},
		{nr: unix.SYS_SETITIMER, off: !relaxed},
		{nr: unix.SYS_TIMER_CREATE, off: !relaxed},
		{nr: unix.SYS_TIMER_SETTIME, off: !relaxed},
		{nr: unix.SYS_TIMER_DELETE, off: !relaxed},
		// The C library's threads, if built with cgo. A filter cannot see the flags of
		// clone3, so it fails with ENOSYS, and the library calls clone instead. Its
		// malloc counts processors, from a file or, as that is refused, by
		// sched_getaffinity.
		{nr: unix.SYS_CLONE3, errno: unix.ENOSYS},
		{nr: unix.SYS_SET_ROBUST_LIST},
		{nr: unix.SYS_RSEQ},
		{nr: unix.SYS_OPENAT, arg: 2, mask: writeFlags, want: unix.O_RDONLY, errno: unix.EACCES},
		{nr: unix.SYS_SCHED_GETAFFINITY},
	}
}

// privFilter is the table as a program for the kernel.
func privFilter() []unix.SockFilter {
	const nr, arch, args = 0, 4, 16 // where they are in struct seccomp_data
	load := func(off uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: off}
	}
	unlessSkip := func(k uint32, n uint8) unix.SockFilter { // skips n instructions unless the loaded word is k
		return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: k, Jf: n}
	}
	ret := func(action uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: action}
	}
	deny := ret(denyAction)

	filter := []unix.SockFilter{
		load(arch), {Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: auditArch[runtime.GOARCH], Jt: 1}, deny,
		load(nr),
	}
	for _, c := range privCalls() {
		action := ret(unix.SECCOMP_RET_ALLOW)
		if c.errno != 0 {
			action = ret(unix.SECCOMP_RET_ERRNO | uint32(c.errno))
		}
		switch {
		case c.off:
		case c.mask == 0:
			filter = append(filter, unlessSkip(c.nr, 1), action)
		default:
			filter = append(filter, unlessSkip(c.nr, 5),
				load(args+8*uint32(c.arg)),
				unix.SockFilter{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: c.mask},
				unlessSkip(c.want, 1), action,
				load(nr))
		}
	}
	return append(filter, deny)
}

// setupPrivilegeViolationsHandler ends mc9 if the kernel does not support
// denyAction, which replaces C's handler.
func setupPrivilegeViolationsHandler() {
	refuse(auditArch[runtime.GOARCH] == 0, 1, "drop_privileges: there is no table of system calls for %s", runtime.GOARCH)
	refuseErr(rawSeccompAvail(denyAction), 1, "drop_privileges: this system has no seccomp")
}

// dropPrivileges sets the filter for all present and future threads. It includes
// C's drop_worker_privileges.
func dropPrivileges() {
	runtime.LockOSThread() // no_new_privs is per thread: rawSeccomp must be called on this one
	defer runtime.UnlockOSThread()
	err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
	if err == nil {
		err = rawSeccomp(privFilter())
	}
	refuseErr(err, 1, "Failed to set a seccomp profile")
}

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

// A privCall lets the filter pass system calls if args[arg]&mask is want. The filter
// sees only the lower 32 bits of an argument.
type privCall struct {
	nrs        []uint32
	off        bool // not needed with these options: leave them out
	arg        int
	mask, want uint32
	errno      unix.Errno // if not 0, they fail with it instead
}

// privCalls is the table of allowed calls, grouped by the threads that need them. A
// call has several rows if it is allowed for several reasons. Workers come first:
// up to Linux 5.10 the kernel searches the table from the top for each call.
func privCalls() []privCall {
	type calls = []uint32
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
		// Workers and the main thread: connections, and the pipes between threads;
		// write also prints, listen is acceptNewConns's, getsockopt is for -N.
		{nrs: calls{unix.SYS_RECVFROM, unix.SYS_SENDTO, unix.SYS_EPOLL_PWAIT, unix.SYS_WRITEV, unix.SYS_READ, unix.SYS_WRITE}},
		{nrs: calls{unix.SYS_EPOLL_CTL, unix.SYS_ACCEPT4, unix.SYS_CLOSE, unix.SYS_LISTEN, unix.SYS_GETSOCKOPT, unix.SYS_TIMERFD_SETTIME}},
		{nrs: calls{unix.SYS_IOCTL}, arg: 1, mask: whole, want: unix.SIOCOUTQ}, // socketOutq
		// Workers: statistics, and the addresses of a connection.
		{nrs: calls{unix.SYS_GETSOCKNAME, unix.SYS_GETPEERNAME, unix.SYS_GETRUSAGE}},
		// Workers and I/O threads: extstore.
		{nrs: calls{unix.SYS_PREADV2, unix.SYS_PREADV, unix.SYS_PREAD64}, off: extStorage == nil},
		// Background threads: sleeping, and dumps.
		{nrs: calls{unix.SYS_NANOSLEEP, unix.SYS_PPOLL}},
		// Memory: the arena, the hash table, Go's heap. prctl names a mapping.
		{nrs: calls{unix.SYS_MADVISE, unix.SYS_MUNMAP}},
		{nrs: calls{unix.SYS_MMAP, unix.SYS_MPROTECT}, arg: 2, mask: unix.PROT_EXEC, want: 0},
		{nrs: calls{unix.SYS_PRCTL}, mask: whole, want: unix.PR_SET_VMA},
		// Go's runtime: threads, time, signals, exiting. The command shutdown also
		// needs kill; restart_syscall is the kernel's, after SIGCONT.
		{nrs: calls{unix.SYS_FUTEX, unix.SYS_SCHED_YIELD, unix.SYS_CLOCK_GETTIME, unix.SYS_GETRANDOM, unix.SYS_RESTART_SYSCALL}},
		{nrs: calls{unix.SYS_CLONE}, mask: threadMask, want: threadFlags},
		{nrs: calls{unix.SYS_RT_SIGACTION, unix.SYS_RT_SIGPROCMASK, unix.SYS_RT_SIGRETURN, unix.SYS_SIGALTSTACK}},
		{nrs: calls{unix.SYS_KILL, unix.SYS_TGKILL}, mask: whole, want: pid},
		{nrs: calls{unix.SYS_GETPID, unix.SYS_GETTID, unix.SYS_EXIT, unix.SYS_EXIT_GROUP}},
		// Reading files of users and certificates: HUP, refresh_certs and SASL logins.
		// With -e, os.OpenFile makes the fstat and fcntl calls; with --metrics,
		// os.NewFile the first fcntl call, and metricsSelf fstat and pread64.
		{nrs: calls{unix.SYS_OPENAT}, off: !readsFiles, arg: 2, mask: writeFlags, want: unix.O_RDONLY},
		{nrs: calls{unix.SYS_FSTAT}, off: !readsFiles && !keepsItems && !metrics},
		{nrs: calls{unix.SYS_FCNTL}, off: !readsFiles && !keepsItems && !metrics, arg: 1, mask: whole, want: unix.F_GETFL},
		{nrs: calls{unix.SYS_FCNTL}, off: !readsFiles && !keepsItems, arg: 1, mask: whole, want: unix.F_SETFL},
		{nrs: calls{unix.SYS_PREAD64}, off: !metrics},
		// -d: the pid file is removed.
		{nrs: calls{unix.SYS_UNLINKAT}, off: !options.daemonize || options.pidFile == ""},
		// -e: the file grows; at shutdown its .meta is written and renamed into place.
		// pwrite64 is also extstore's.
		{nrs: calls{unix.SYS_PWRITE64}, off: !keepsItems && extStorage == nil},
		{nrs: calls{unix.SYS_OPENAT}, off: !keepsItems, arg: 2, mask: writeFlags | unix.O_EXCL, want: unix.O_WRONLY | unix.O_CREAT | unix.O_EXCL},
		{nrs: calls{unix.SYS_FALLOCATE, unix.SYS_LSEEK, unix.SYS_UNLINKAT, unix.SYS_RENAMEAT2, unix.SYS_FLOCK}, off: !keepsItems},
		// -o relaxed_privileges: debugprofile.
		{nrs: calls{unix.SYS_OPENAT, unix.SYS_PREAD64, unix.SYS_SETITIMER}, off: !relaxed},
		{nrs: calls{unix.SYS_TIMER_CREATE, unix.SYS_TIMER_SETTIME, unix.SYS_TIMER_DELETE}, off: !relaxed},
		// The C library's threads, if built with cgo. A filter cannot see the flags of
		// clone3, so it fails with ENOSYS, and the library calls clone instead. Its
		// malloc counts processors, from a file or, as that is refused, by
		// sched_getaffinity.
		{nrs: calls{unix.SYS_CLONE3}, errno: unix.ENOSYS},
		{nrs: calls{unix.SYS_SET_ROBUST_LIST, unix.SYS_RSEQ, unix.SYS_SCHED_GETAFFINITY}},
		{nrs: calls{unix.SYS_OPENAT}, arg: 2, mask: writeFlags, want: unix.O_RDONLY, errno: unix.EACCES},
	}
}

// privFilter is the table as a program for the kernel.
func privFilter() []unix.SockFilter {
	const number, arch, args = 0, 4, 16 // where they are in struct seccomp_data
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
		load(number),
	}
	for _, c := range privCalls() {
		action := ret(unix.SECCOMP_RET_ALLOW)
		if c.errno != 0 {
			action = ret(unix.SECCOMP_RET_ERRNO | uint32(c.errno))
		}
		for _, nr := range c.nrs {
			switch {
			case c.off:
			case c.mask == 0:
				filter = append(filter, unlessSkip(nr, 1), action)
			default:
				filter = append(filter, unlessSkip(nr, 5),
					load(args+8*uint32(c.arg)),
					unix.SockFilter{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: c.mask},
					unlessSkip(c.want, 1), action,
					load(number))
			}
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

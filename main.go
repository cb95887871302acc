// The start and the end of mc9. From memcached.c: main, save_pid,
// remove_pidfile, sig_handler, enable_large_pages; daemon.c; perror(3). The
// process exits only here, and in functions called from here before mc9 serves.

package main

import (
	"bytes"
	"cmp"
	"fmt"
	"math"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Exit codes, from sysexits.h.
const (
	exUsage  = 64
	exNouser = 67
	exOserr  = 71
)

// Background threads, including the main one (clock and accepting): hash
// expansion, crawler, maintainer, page mover, idle timeouts, logger, signals.
const backgroundThreads = 8

// Descriptors that the main thread and each worker open: two of epoll and the
// two ends of a pipe; the main thread's timer. See also reserveFiles.
const (
	mainFds   = 5
	workerFds = 4
)

// Most workers, and most I/O threads. Go ends a process with more than 10,000
// threads.
const (
	numThreadsMax = 4096
	extThreadsMax = 1024
)

// sysfatal says why mc9 cannot start, and exits with code.
func sysfatal(code int, format string, args ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", args...)
	os.Exit(code)
}

// refuse is sysfatal if bad.
func refuse(bad bool, code int, format string, args ...any) {
	if bad {
		sysfatal(code, format, args...)
	}
}

// refuseErr is sysfatal if there is an error, which it adds to the text.
func refuseErr(err error, code int, format string, args ...any) {
	if err != nil {
		sysfatal(code, format+": %s", append(args, strerror(err))...)
	}
}

// savePid writes our process id to pidFile.
func savePid(pidFile string) {
	if old, err := os.ReadFile(pidFile); err == nil {
		line, _, _ := bytes.Cut(old, []byte("\n"))
		pid, err := strconv.ParseUint(string(line), 10, 31)
		if err == nil && syscall.Kill(int(pid), 0) == nil {
			fmt.Fprintf(os.Stderr, "WARNING: The pid file contained the following (running) pid: %d\n", pid)
		}
	}
	if err := replaceFile(pidFile, pidFile+".tmp", fmt.Appendf(nil, "%d\n", os.Getpid()), 0o666); err != nil {
		perror("Could not write the pid file "+pidFile, err)
	}
}

// replaceFile writes a file by way of another one, so that nobody reads half of it.
func replaceFile(name, tmp string, data []byte, mode os.FileMode) error {
	os.Remove(tmp)
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = cmp.Or(err, f.Close()); err == nil {
		err = unix.Renameat2(unix.AT_FDCWD, tmp, unix.AT_FDCWD, name, 0) // priv.go has no other
	}
	if err != nil {
		os.Remove(tmp)
	}
	return err
}

func removePidfile(pidFile string) {
	if err := syscall.Unlink(pidFile); err != nil {
		perror("Could not remove the pid file "+pidFile, err)
	}
}

// sigHandler serves the signals that main has asked for.
func sigHandler(sigs <-chan os.Signal) {
	for sig := range sigs {
		switch sig {
		case syscall.SIGHUP:
			authfileReload()
			refreshCerts()
		case syscall.SIGUSR1:
			acceptorStop(graceStop)
		default:
			acceptorStop(exitNormally)
		}
	}
}

// enableLargePages reports whether the kernel offers large pages. mem_mmap.go
// asks for them in any case.
func enableLargePages() bool {
	thp, err := os.ReadFile("/sys/kernel/mm/transparent_hugepage/enabled")
	why := "not detected"
	if err == nil {
		if !bytes.Contains(thp, []byte("[never]")) {
			return true
		}
		why = "disabled"
	}
	fmt.Fprintf(os.Stderr, "Transparent huge pages support %s.\nWill use default page size.\n", why)
	return false
}

// maximizeCore raises the limit on core files as far as allowed (-r).
func maximizeCore() {
	const infinity = ^uint64(0)
	var rlim syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_CORE, &rlim) == nil &&
		syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{Cur: infinity, Max: infinity}) != nil {
		rlim.Cur = rlim.Max
		syscall.Setrlimit(syscall.RLIMIT_CORE, &rlim)
	}
	refuse(syscall.Getrlimit(syscall.RLIMIT_CORE, &rlim) != nil || rlim.Cur == 0, exOserr, "failed to ensure corefile creation")
	debug.SetTraceback("crash") // otherwise a panic leaves no core
}

// limitFiles sets the limit on descriptors to -c, and reports whether it could.
// Unlike C, it lowers -c if the limit cannot be raised that far.
func limitFiles() bool {
	var rlim syscall.Rlimit
	refuse(syscall.Getrlimit(syscall.RLIMIT_NOFILE, &rlim) != nil, exOserr, "failed to getrlimit number of files")
	// The scheduler opens two descriptors when the first timer is set or the
	// first file opened, and ends the process if it cannot: make it open them
	// now, while there are some.
	time.Sleep(time.Nanosecond)

	n := uint64(settings.net.maxconns)
	if syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: n, Max: n}) == nil {
		return true
	}
	rlim.Cur = rlim.Max
	syscall.Setrlimit(syscall.RLIMIT_NOFILE, &rlim)
	settings.net.maxconns = int(rlim.Cur)
	fmt.Fprintf(os.Stderr, "WARNING: failed to set rlimit for open files, continuing with -c %d. "+
		"Try starting as root or requesting smaller maxconns value.\n", settings.net.maxconns)
	return false
}

// reserveFiles ends the process if -c leaves no descriptor for a client, and
// says how many it leaves if they are few. All files and sockets are open, except
// those of the threads. The last descriptor stays free: a client that gets it is
// refused.
func reserveFiles(limited bool) {
	used := mainFds + workerFds*settings.numThreads
	fds := make([]unix.PollFd, min(settings.net.maxconns-1, math.MaxUint16))
	for i := range fds {
		fds[i].Fd = int32(i)
	}
	unix.Poll(fds, 0) // says of all at once whether they are open
	for i := range fds {
		used += btoi(fds[i].Revents&unix.POLLNVAL == 0)
	}
	for _, l := range listeners {
		if l.transport == udpTransport {
			used += settings.net.numThreadsPerUdp - 1 // see serverConns
		}
	}
	if options.metrics != "" {
		used += 2 + metricsConns // see metricsStart
	}
	if options.daemonize {
		used-- // daemonReady closes the pipe
	}
	room := settings.net.maxconns - 1 - used
	switch {
	case room < 1 && limited:
		sysfatal(exOserr, "%d descriptors are too few: mc9 needs %d for itself", settings.net.maxconns, used+1)
	case room < 1:
		sysfatal(1, "Maxconns setting is too low, use -c to increase.")
	case limited || room < settings.net.maxconns/2 || settings.verbose.Load() > 0:
		fmt.Fprintf(os.Stderr, "Clients at a time: %d, the rest of -c %d is reserved\n", room, settings.net.maxconns)
	}
	statsState.reservedFds.Store(int64(used))
}

// checkMemory warns if the kernel will kill us before items take what -m allows:
// by the limit of our control group (version 2), or of one around it.
func checkMemory() {
	const besides = 16 << 20 // bytes for connections, the hash table, the program
	need := settings.maxbytes.Load() + besides + storageMemory() + sslMemory()
	if limit := cgroupLimit("memory.max"); limit < need {
		fmt.Fprintf(os.Stderr, "WARNING: the memory limit of the control group is %d MB, but -m %d may need %d MB\n",
			limit>>20, settings.maxbytes.Load()>>20, need>>20)
	}
}

// cgroupLimit returns the lowest value that the file has in our control group
// (version 2) and in those around it; MaxUint64 if none has one.
func cgroupLimit(file string) uint64 {
	limit := uint64(math.MaxUint64)
	groups, _ := os.ReadFile("/proc/self/cgroup")
	_, group, ok := bytes.Cut(groups, []byte("0::"))
	path, _, _ := strings.Cut(string(group), "\n")
	for ok {
		text, _ := os.ReadFile("/sys/fs/cgroup" + path + "/" + file)
		if n, ok := toktou64(bytes.TrimSpace(text)); ok {
			limit = min(limit, n)
		}
		i := strings.LastIndexByte(path, '/')
		if i < 0 {
			break
		}
		path = path[:i]
	}
	return limit
}

// spareThreads returns how many background threads there can be beside the
// workers. It ends the process if there are too few: Go would crash once it
// could not start one.
func spareThreads() int {
	// The workers and the main thread, one to stand in for each while it waits
	// in the kernel, and Go's own, as counted with GOGC=1.
	need := 2*settings.numThreads + 8 + storageThreads()
	limit := cgroupLimit("pids.max")
	var rlim syscall.Rlimit
	if syscall.Geteuid() != 0 && syscall.Getrlimit(unix.RLIMIT_NPROC, &rlim) == nil {
		limit = min(limit, rlim.Cur)
	}
	spare := int(min(limit, math.MaxInt32)) - need
	refuse(spare < 2, exOserr, "%d threads are too few for -t %d, which needs %d (see ulimit -u, and pids.max of the control group)",
		limit, settings.numThreads, need+2)
	return spare
}

// getpwnam finds a user by name or number. It reads /etc/passwd itself, as
// os/user trusts $USER. Unlike in C, a number needs no entry, nor do root and
// nobody.
func getpwnam(name string) (uid, gid int, ok bool) {
	passwd, _ := os.ReadFile("/etc/passwd")
	for line := range strings.Lines(string(passwd) + "\nroot::0:0:\nnobody::65534:65534:\n") {
		f := strings.Split(line, ":")
		if len(f) < 4 || f[0] != name && f[2] != name {
			continue
		}
		uid, err := strconv.Atoi(f[2])
		gid, err2 := strconv.Atoi(f[3])
		if err == nil && err2 == nil {
			return uid, gid, true
		}
	}
	id, err := strconv.ParseUint(name, 10, 31)
	return int(id), int(id), err == nil
}

// loseRoot switches from root to the user of -u. Without -u, which C requires, it
// switches to nobody.
func loseRoot() {
	if syscall.Getuid() != 0 && syscall.Geteuid() != 0 {
		return
	}
	username := cmp.Or(options.username, "nobody")
	uid, gid, ok := getpwnam(username)
	refuse(!ok, exNouser, "can't find the user %s to switch to", username)
	if err := syscall.Setgroups(nil); err != nil {
		fmt.Fprintf(os.Stderr, "failed to drop supplementary groups: %s\n", strerror(err))
		if err != syscall.EPERM { // EPERM: we have few privileges anyway
			os.Exit(exOserr)
		}
	}
	refuse(syscall.Setgid(gid) != nil || syscall.Setuid(uid) != nil, exOserr, "failed to assume identity of user %s", username)
}

// Names the descriptor at which the mc9 that started us as a daemon waits, and its
// process id, which a variable of the user's environment does not have.
const daemonEnv = "MC9_DAEMON"

var daemonReadyFd int // that descriptor; 0 if nobody waits

// daemonize detaches from the terminal. A Go program cannot fork, so it starts a
// second mc9 with the same arguments, and returns once that serves. If the second one
// exits instead, having said why, the first exits as well.
func daemonize() error {
	var ready [2]int
	if err := syscall.Pipe2(ready[:], syscall.O_CLOEXEC); err != nil {
		return err
	}
	attr := syscall.ProcAttr{
		Files: []uintptr{0, 1, 2},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	}
	for i := range activationFds() {
		attr.Files = append(attr.Files, uintptr(3+i))
	}
	attr.Env = append(os.Environ(), fmt.Sprintf("%s=%d %d", daemonEnv, len(attr.Files), os.Getpid()))
	attr.Files = append(attr.Files, uintptr(ready[1]))
	pid, err := syscall.ForkExec("/proc/self/exe", os.Args, &attr)
	if err != nil {
		return err
	}
	syscall.Close(ready[1])
	if n, _ := syscall.Read(ready[0], make([]byte, 1)); n != 1 {
		var status syscall.WaitStatus
		syscall.Wait4(pid, &status, 0, nil)
		os.Exit(max(status.ExitStatus(), 1))
	}
	return nil
}

// isDaemon reports whether daemonize has started us.
func isDaemon() bool {
	fd, parent, ok := strings.Cut(os.Getenv(daemonEnv), " ")
	os.Unsetenv(daemonEnv) // always: of two variables of this name the first counts
	if !ok || parent != strconv.Itoa(os.Getppid()) {
		return false
	}
	daemonReadyFd = atoi(fd)
	unix.CloseOnExec(daemonReadyFd)
	os.WriteFile("/proc/self/comm", []byte(filepath.Base(os.Args[0])), 0) // not exe
	return true
}

// daemonReady detaches from the terminal, unless noclose, and tells the mc9 that
// started us that we serve.
func daemonReady(noclose bool) {
	if !noclose {
		if null, err := syscall.Open("/dev/null", syscall.O_RDWR|syscall.O_CLOEXEC, 0); err == nil {
			for fd := range 3 {
				syscall.Dup3(null, fd, 0)
			}
			syscall.Close(null)
		}
	}
	syscall.Write(daemonReadyFd, []byte{'r'})
	syscall.Close(daemonReadyFd)
}

// openListeners opens the listening sockets, as a low port may need root, and
// then loses root: files and the Unix socket belong to the user that we become.
func openListeners() {
	if !activationSockets() && settings.net.socketpath == "" {
		openSockets()
	}
	if options.metrics != "" {
		metricsOpen(options.metrics)
	}
	loseRoot()
	if settings.net.socketpath == "" || options.metrics != "" {
		savePortnumbers()
	}
	if settings.net.socketpath != "" { // never beside inherited sockets
		refuseErr(serverSocketUnix(settings.net.socketpath, settings.net.access), exOserr, "failed to listen on UNIX socket: %s", settings.net.socketpath)
	}
}

func main() {
	settingsInit()
	parseOptions(os.Args)
	if options.ask && options.askAddr == "" && !options.tcpSpecified && settings.net.inter == "" && settings.net.socketpath == "" {
		parseOptions(askArgs(os.Args))
		options.askAddr = "" // not a word of theirs
	}
	checkOptions()
	if options.ask {
		os.Exit(ask(options.askCommand, options.askAddr))
	}
	if options.daemonize && !isDaemon() {
		refuseErr(daemonize(), 1, "failed to daemon() in order to daemonize")
		return
	}
	sslInit()
	sigs := make(chan os.Signal, 8)
	signal.Notify(sigs, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGUSR1)

	if settings.dropPrivileges {
		setupPrivilegeViolationsHandler()
	}
	if options.maxcore {
		maximizeCore()
	}
	limited := !limitFiles()

	openListeners()
	if options.daemonize && !options.maxcore {
		os.Chdir("/")
	}
	authInit()

	if options.lockMemory {
		// Unlike C, we do not lock memory that is never touched.
		if err := unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE | unix.MCL_ONFAULT); err != nil {
			fmt.Fprintf(os.Stderr, "warning: -k invalid, mlockall() failed: %s\n", strerror(err))
		}
	}

	gcInit()
	statsState.acceptingConns.Store(true)
	loggerInit()
	connInit()
	memoryInit()
	checkMemory()

	signal.Ignore(syscall.SIGPIPE)
	reserveFiles(limited)
	mainInit()
	startThreads()
	serverConns()

	if options.pidFile != "" {
		savePid(options.pidFile)
	}

	if options.daemonize {
		daemonReady(settings.verbose.Load() > 0)
	}
	if settings.dropPrivileges {
		dropPrivileges()
	}
	go sigHandler(sigs)
	code := 0
	switch acceptorLoop() {
	case graceStop:
		fmt.Fprintf(os.Stderr, "Gracefully stopping\n")
		if settings.memoryFile == "" || extStorage != nil {
			pauseThreads(pauseWorkerThreads) // each has answered what it had read
		} else {
			stopThreads()
			if !restartMmapClose() {
				code = 1
			}
		}
	case exitNormally:
		verbosef(1, "Exiting normally")
	}
	if options.daemonize && options.pidFile != "" {
		removePidfile(options.pidFile)
	}
	os.Exit(code)
}

// memoryInit makes the store and starts the clock. With -e it reuses what the
// previous process has left.
func memoryInit() {
	limit, begin := int(settings.maxbytes.Load()), relTime(clockBegin)
	reuseMem := false
	if settings.memoryFile != "" {
		bootId()
		reuseMem = restartMmapOpen(limit)
	}
	if reuseMem {
		begin = mcMetaUse()
	}
	clockInit(begin)
	assocInit(settings.hashpowerInit)
	slabsInit(limit, settings.slab.factor, options.preallocate, options.slabSizes, reuseMem)
	if len(storageConf.file) > 0 {
		storageInit()
		slabsPrefillGlobal() // slabAutomoveExtstoreRun counts on it
	}
	if options.trackSizes {
		itemStatsSizesInit()
	}
	if reuseMem {
		restartFixup()
	}
}

// authInit reads what -S and -Y need.
func authInit() {
	if settings.auth.sasl {
		initSasl()
	}
	if settings.auth.file != "" {
		problem := authfileLoad(settings.auth.file)
		refuse(problem != "", 1, "%s", problem)
	}
}

// stopThreads pauses all threads but the main one, for good: none looks at an
// item any more.
func stopThreads() {
	metricsLock.Lock()
	pauseThreads(pauseAllThreads)
	for i := range itemLocks {
		itemLocks[i].Lock() // stops the thread that grows the hash table
	}
}

// startThreads starts the workers and the background threads.
func startThreads() {
	maxprocs(settings.numThreads, backgroundThreads+sslThreads()+storageThreads())
	memcachedThreadInit(settings.numThreads)
	go gcThread()
	if options.startAssocMaint {
		startAssocMaintenanceThread()
	}
	refuse(options.startLruCrawler && startItemCrawlerThread() != 0, 1, "Failed to enable LRU crawler thread")
	if extStorage != nil {
		go storageCompactThread()
		go storageWriteThread()
	}
	if options.startLruMaintainer {
		startLruMaintainerThread()
	}
	if settings.slab.reassign {
		startSlabMaintenanceThread()
	}
	startConnTimeoutThread()
}

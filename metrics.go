// --metrics: statistics over HTTP in the text format of Prometheus, with the
// names, labels and types of memcached_exporter 0.15, and /healthz for probes.
// Nothing here runs on a worker. Not in C.

package main

import (
	"bytes"
	"cmp"
	_ "embed"
	"fmt"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	metricsConns    = 8                     // connections at a time; one more ends the oldest
	metricsPause    = 10 * time.Millisecond // after each connection: no more than 100 a second
	metricsPatience = 5 * time.Second       // for a request and its reply
	healthPatience  = 2 * time.Second       // for the threads to respond
	metricsBacklog  = 32
)

// The metrics, a line for each sample: name and labels, statistic; the first sample
// of a name also has its type and its help. A statistic is a name that the command
// stats shows, or metricsSelf, followed by those to subtract, each after a minus
// sign. # stands for each slab class in turn. Samples whose statistic the server does
// not show are left out.
//
//go:embed metrics.txt
var metricsTable string

var (
	metricsStarted time.Time
	metricsStatm   int            // descriptor of /proc/self/statm
	metricsFds     int            // and of /proc/self/fd
	metricsLimits  [2]unix.Rlimit // on descriptors and on address space

	metricsLock sync.Mutex // guards the rest, which scrapes reuse; stopThreads never releases it

	metricsStats  = resp{respBufs: new(respBufs)} // the statistics, as lines
	metricsValues = map[string]*[]byte{}          // the values in them, by name
	metricsText   []byte                          // the reply
	metricsGc     debug.GCStats
)

// metricsOpen opens the sockets of --metrics=[addr:]port.
func metricsOpen(arg string) {
	host, name := "127.0.0.1", arg
	if i := strings.LastIndexByte(arg, ':'); i >= 0 {
		host, name = strings.Trim(arg[:i], "[]"), arg[i+1:]
	}
	port, err := strconv.Atoi(name)
	if err == nil {
		err = serverSocket(host, port, listener{transport: metricsTransport})
	}
	refuseErr(err, exOserr, "failed to listen on %s for metrics", arg)
}

// metricsStart starts serving the socket sfd. It opens the files of metricsSelf,
// since a system call filter would forbid it later.
func metricsStart(sfd int) {
	metricsStarted = time.Now()
	metricsStatm, _ = unix.Open("/proc/self/statm", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	metricsFds, _ = unix.Open("/proc/self/fd", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	unix.Getrlimit(unix.RLIMIT_NOFILE, &metricsLimits[0])
	unix.Getrlimit(unix.RLIMIT_AS, &metricsLimits[1])
	unix.Listen(sfd, metricsBacklog)
	raw, err := os.NewFile(uintptr(sfd), "metrics").SyscallConn()
	refuseErr(err, exOserr, "metrics")
	go func() {
		var open [metricsConns]*os.File
		for i := 0; ; time.Sleep(metricsPause) {
			fd, e := 0, unix.Errno(0)
			err := raw.Read(func(uintptr) bool {
				fd, e = rawAccept4(sfd, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
				return e != unix.EAGAIN
			})
			if err != nil || e != 0 {
				continue
			}
			open[i].Close() // the oldest client makes room, even if it has had no answer yet
			open[i] = os.NewFile(uintptr(fd), "metrics")
			go metricsServe(open[i])
			i = (i + 1) % metricsConns
		}
	}()
}

// A metricsConn holds the buffers of a connection.
type metricsConn struct {
	in  [8 << 10]byte
	out []byte
}

var metricsFree = sync.Pool{New: func() any { return new(metricsConn) }}

// metricsServe answers the request that comes on f, then closes it.
func metricsServe(f *os.File) {
	defer f.Close()
	f.SetDeadline(time.Now().Add(metricsPatience))
	c := metricsFree.Get().(*metricsConn)
	defer metricsFree.Put(c)
	for n := 0; ; {
		m, err := f.Read(c.in[n:])
		n += m
		if err != nil {
			return
		}
		if method, path, ok := httpRequest(c.in[:n], n == len(c.in)); ok {
			c.out = httpAnswer(c.out[:0], method, path)
			f.Write(c.out)
			return
		}
	}
}

// httpRequest returns the words of the request in; a method of "" stands for what is
// not HTTP. It returns false if the request is incomplete; full means that there is
// no room for more of it.
func httpRequest(in []byte, full bool) (method, path string, ok bool) {
	line, _, whole := bytes.Cut(in, []byte("\n"))
	words := strings.Fields(string(line))
	switch {
	case in[0] < 'A' || in[0] > 'Z': // TLS, for example
	case whole && (len(words) != 3 || !strings.HasPrefix(words[2], "HTTP/1.")):
	case bytes.Contains(in, []byte("\n\r\n")) || bytes.Contains(in, []byte("\n\n")):
		return words[0], words[1], true
	case !full:
		return "", "", false
	}
	return "", "", true
}

// httpAnswer appends the answer to a request.
func httpAnswer(b []byte, method, path string) []byte {
	path, _, _ = strings.Cut(path, "?")
	status, kind, text := "200 OK", "text/plain", []byte("ok\n")
	switch {
	case method == "":
		status, text = "400 Bad Request", []byte("not HTTP\n")
	case method != "GET" && method != "HEAD":
		status, text = "405 Method Not Allowed\r\nAllow: GET, HEAD", []byte("only GET and HEAD\n")
	case path == "/metrics":
		metricsLock.Lock()
		defer metricsLock.Unlock()
		kind, text = "text/plain; version=0.0.4", metricsAll()
	case path == "/healthz":
		if !healthy() {
			status, text = "503 Service Unavailable", []byte("the workers do not answer\n")
		}
	case path == "/":
		kind, text = "text/html", []byte("<a href=\"/metrics\">metrics</a>\n")
	default:
		status, text = "404 Not Found", []byte("not found\n")
	}
	b = fmt.Appendf(b, "HTTP/1.1 %s\r\nContent-Type: %s; charset=utf-8\r\nContent-Length: %d\r\nConnection: close\r\n\r\n",
		status, kind, len(text))
	if method != "HEAD" {
		b = append(b, text...)
	}
	return b
}

// healthy reports whether, within healthPatience, each worker reads its queue and the
// main thread has advanced the clock.
func healthy() bool {
	for _, t := range threads {
		if t.asked.CompareAndSwap(false, true) {
			notifyWorkerFd(t, 0, queueHealth)
		}
	}
	for until := time.Now().Add(healthPatience); ; time.Sleep(time.Millisecond) {
		stuck := slices.ContainsFunc(threads, func(t *thread) bool { return t.asked.Load() }) ||
			relTime(time.Since(clockBase)/time.Second) > currentTime.Load()+2
		if !stuck || time.Now().After(until) {
			return !stuck
		}
	}
}

// metricsAll returns the metrics. The caller holds metricsLock for as long as it
// needs them.
func metricsAll() []byte {
	metricsGather()
	b := metricsText[:0]
	head := "" // type and help of a name, until a sample is appended
	for line := range strings.Lines(metricsTable) {
		sample, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "|")
		stats, about, _ := strings.Cut(rest, "|")
		head = cmp.Or(about, head)
		for id := range maxNumberOfSlabClasses {
			stat, less, _ := strings.Cut(stats, "-")
			value := metricsValue(stat, id)
			if value == nil || id > 0 && !strings.Contains(stat, "#") {
				continue
			}
			if head != "" {
				name, _, _ := strings.Cut(sample, "{")
				kind, help, _ := strings.Cut(head, "|")
				b = fmt.Appendf(b, "# HELP %s %s.\n# TYPE %[1]s %[3]s\n", name, help, kind)
				head = ""
			}
			b = append(metricsClass(b, sample, id), ' ')
			if less == "" {
				b = append(b, value...)
			} else {
				n, _ := toktou64(value)
				for stat := range strings.SplitSeq(less, "-") {
					m, _ := toktou64(metricsValue(stat, id))
					n -= m
				}
				b = strconv.AppendUint(b, n, 10)
			}
			b = append(b, '\n')
		}
	}
	metricsText = b
	return b
}

// metricsClass appends s, in which # stands for a slab class.
func metricsClass(b []byte, s string, id int) []byte {
	before, after, ok := strings.Cut(s, "#")
	b = append(b, before...)
	if ok {
		b = strconv.AppendInt(b, int64(id), 10)
	}
	return append(b, after...)
}

// metricsValue returns the value of a statistic, nil if the server does not show it.
func metricsValue(stat string, id int) []byte {
	var name [64]byte
	if v := metricsValues[string(metricsClass(name[:0], stat, id))]; v != nil {
		return *v
	}
	return nil
}

// metricsGather fills metricsValues with the values that the command stats would
// show, through the same functions and under the same locks. Where names are the
// same the later ones count.
func metricsGather() {
	for _, v := range metricsValues {
		*v = nil
	}
	metricsStats.wbuf = metricsStats.wbuf[:0]
	c := conn{protocol: asciiProt, resp: &metricsStats}
	processStatSettings(&c)
	serverStats(&c)
	getStats(&c, "")
	itemStats(&c)
	slabsStats(&c)
	metricsSelf(&c)
	for line := range bytes.Lines(metricsStats.wbuf) {
		line, ok := bytes.CutPrefix(line, []byte("STAT "))
		if !ok {
			continue
		}
		name, value, _ := bytes.Cut(bytes.TrimSuffix(line, []byte("\r\n")), []byte(" "))
		switch string(value) {
		case "yes":
			value = []byte("1")
		case "no":
			value = []byte("0")
		}
		v := metricsValues[string(name)]
		if v == nil {
			v = new([]byte)
			metricsValues[string(name)] = v
		}
		*v = value
	}
}

// metricsSelf appends statistics of the process, as serverStats does those of the
// server.
func metricsSelf(c *conn) {
	usage := getrusage()
	appendStat(c, "up", "1")
	appendStat(c, "cpu", "%.6f", float64(usage.Utime.Nano()+usage.Stime.Nano())/1e9)
	appendStat(c, "started", "%.2f", float64(metricsStarted.UnixMilli())/1e3)
	appendStat(c, "max_fds", "%d", metricsLimits[0].Cur)
	appendStat(c, "max_virtual", "%d", metricsLimits[1].Cur)
	var statm [128]byte
	n, _ := unix.Pread(metricsStatm, statm[:], 0)
	if pages := strings.Fields(string(statm[:max(n, 0)])); len(pages) > 1 {
		appendStat(c, "virtual", "%d", atoi(pages[0])*os.Getpagesize())
		appendStat(c, "resident", "%d", atoi(pages[1])*os.Getpagesize())
	}
	var st unix.Stat_t
	if unix.Fstat(metricsFds, &st) == nil && st.Size > 0 { // from Linux 6.2 on
		appendStat(c, "open_fds", "%d", st.Size)
	}
	debug.ReadGCStats(&metricsGc)
	appendStat(c, "gc", "%d", metricsGc.NumGC)
	appendStat(c, "gc_pause", "%.6f", metricsGc.PauseTotal.Seconds())
}

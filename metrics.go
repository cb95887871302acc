// --metrics: statistics over HTTP in the text format of Prometheus, with the
// names, labels and types of memcached_exporter 0.15, and /healthz for probes.
// Nothing here runs on a worker. Not in C.

package main

import (
	"bytes"
	_ "embed"
	"fmt"
	"os"
	"runtime/metrics"
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
// of a name also has its type and its help. A statistic is preceded by its source
// (see metricsSources) and a colon unless that is "", and followed by statistics to
// subtract, each after a minus sign. A statistic of a slab class gets a label slab.
// Samples whose statistic the server does not show are left out.
//
//go:embed metrics.txt
var metricsTable string

// A metric is a line of metricsTable.
type metric struct {
	name, labels, kind, help string
	stats                    []int // indexes in metricsValues; the value is the first less the others
}

// Where statistics come from: the functions of the command stats, and metricsSelf.
var metricsSources = []struct {
	name string
	stat func(*conn)
}{
	{"", serverStats},
	{"", func(c *conn) { getStats(c, "") }},
	{"settings", processStatSettings},
	{"items", itemStats},
	{"slabs", slabsStats},
	{"self", metricsSelf},
}

var (
	metricsList    []metric
	metricsIndex   map[string]int // of a statistic, by "source:name"
	metricsStarted time.Time
	metricsStatm   int            // descriptor of /proc/self/statm
	metricsFds     int            // and of /proc/self/fd
	metricsLimits  [2]unix.Rlimit // on descriptors and on address space

	metricsLock sync.Mutex // guards the rest, which scrapes reuse; stopThreads never releases it

	metricsStats  = resp{respBufs: new(respBufs)} // the statistics, as lines
	metricsValues [][]byte                        // values in metricsStats, by slab class (0: none) and index
	metricsText   []byte                          // the reply
	metricsPauses = [...]metrics.Sample{{Name: "/gc/cycles/total:gc-cycles"}, {Name: "/sched/pauses/total/gc:seconds"}}
)

// metricsOpen opens the sockets of --metrics=[addr:]port.
func metricsOpen(arg string) {
	host, name := "127.0.0.1", arg
	if i := strings.LastIndexByte(arg, ':'); i >= 0 {
		host, name = strings.Trim(arg[:i], "[]"), arg[i+1:]
	}
	port, err := strconv.Atoi(name)
	if err == nil {
		err = serverSocket(host, port, metricsTransport, asciiProt, sslDisabled)
	}
	if err != nil {
		sysfatal(exOserr, "failed to listen on %s for metrics: %s", arg, strerror(err))
	}
}

// metricsInit parses the table, and opens the files of metricsSelf, since a system
// call filter would forbid it later.
func metricsInit() {
	metricsIndex = map[string]int{}
	for _, line := range strings.Split(strings.TrimSpace(metricsTable), "\n") {
		f := append(strings.Split(line, "|"), "", "")
		m := metric{kind: f[2], help: f[3]}
		m.name, m.labels, _ = strings.Cut("memcached_"+strings.TrimSuffix(f[0], "}"), "{")
		source, stats, ok := strings.Cut(f[1], ":")
		if !ok {
			source, stats = "", f[1]
		}
		for _, stat := range strings.Split(stats, "-") {
			stat = source + ":" + stat
			if _, ok := metricsIndex[stat]; !ok {
				metricsIndex[stat] = len(metricsIndex)
			}
			m.stats = append(m.stats, metricsIndex[stat])
		}
		metricsList = append(metricsList, m)
		if source == "self" && strings.HasPrefix(f[0], "process_") { // also under the name that all exporters use
			m.name = f[0]
			metricsList = append(metricsList, m)
		}
	}
	metricsValues = make([][]byte, maxNumberOfSlabClasses*len(metricsIndex))
	metricsStarted = time.Now()
	metricsStatm, _ = unix.Open("/proc/self/statm", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	metricsFds, _ = unix.Open("/proc/self/fd", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	unix.Getrlimit(unix.RLIMIT_NOFILE, &metricsLimits[0])
	unix.Getrlimit(unix.RLIMIT_AS, &metricsLimits[1])
}

// metricsStart starts serving the socket sfd.
func metricsStart(sfd int) {
	if metricsIndex == nil {
		metricsInit()
	}
	unix.Listen(sfd, metricsBacklog)
	raw, err := os.NewFile(uintptr(sfd), "metrics").SyscallConn()
	if err != nil {
		sysfatal(exOserr, "metrics: %s", strerror(err))
	}
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
		if reply, ok := httpReply(c.out[:0], c.in[:n], n == len(c.in)); ok {
			c.out = reply
			f.Write(reply)
			return
		}
	}
}

// httpReply appends to b the answer to the request in. It returns false if the
// request is incomplete; full means that there is no room for more of it.
func httpReply(b, in []byte, full bool) ([]byte, bool) {
	line, _, whole := bytes.Cut(in, []byte("\n"))
	words := strings.Fields(string(line))
	switch {
	case in[0] < 'A' || in[0] > 'Z': // TLS, for example
	case whole && (len(words) != 3 || !strings.HasPrefix(words[2], "HTTP/1.")):
	case bytes.Contains(in, []byte("\n\r\n")) || bytes.Contains(in, []byte("\n\n")):
		return httpAnswer(b, words[0], words[1]), true
	case !full:
		return nil, false
	}
	return httpAppend(b, "400 Bad Request", "text/plain", []byte("not HTTP\n"), true), true
}

// httpAnswer appends the answer to a request for path.
func httpAnswer(b []byte, method, path string) []byte {
	path, _, _ = strings.Cut(path, "?")
	status, kind, text := "200 OK", "text/plain", []byte("ok\n")
	switch {
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
	return httpAppend(b, status, kind, text, method != "HEAD")
}

func httpAppend(b []byte, status, kind string, text []byte, body bool) []byte {
	b = fmt.Appendf(b, "HTTP/1.1 %s\r\nContent-Type: %s; charset=utf-8\r\nContent-Length: %d\r\nConnection: close\r\n\r\n",
		status, kind, len(text))
	if body {
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
	var head *metric // the first metric of its name, until a sample is appended
	for i := range metricsList {
		m := &metricsList[i]
		if m.kind != "" {
			head = m
		}
		for id := range maxNumberOfSlabClasses {
			values := metricsValues[id*len(metricsIndex):]
			if values[m.stats[0]] == nil {
				continue
			}
			if head != nil {
				b = fmt.Appendf(b, "# HELP %s %s.\n# TYPE %[1]s %[3]s\n", m.name, head.help, head.kind)
				head = nil
			}
			b = metricsSample(b, m, id, values)
		}
	}
	metricsText = b
	return b
}

// metricsGather fills metricsValues with the values that the command stats would
// show, through the same functions and under the same locks.
func metricsGather() {
	metricsStats.wbuf = metricsStats.wbuf[:0]
	clear(metricsValues)
	c := conn{protocol: asciiProt, resp: &metricsStats}
	for _, source := range metricsSources {
		begin := len(metricsStats.wbuf)
		source.stat(&c)
		for line := range bytes.Lines(metricsStats.wbuf[begin:]) {
			word, rest, _ := bytes.Cut(line, []byte(" "))
			name, value, _ := bytes.Cut(rest, []byte(" "))
			if string(word) == "STAT" {
				metricsStat(source.name, name, bytes.TrimRight(value, "\r\n"))
			}
		}
	}
}

// metricsStat stores the value of a statistic, such as items:1:number, in
// metricsValues.
func metricsStat(source string, name, value []byte) {
	var buf [64]byte
	id := 0
	if source == "items" || source == "slabs" {
		class, rest, ok := bytes.Cut(bytes.TrimPrefix(name, []byte("items:")), []byte(":"))
		if ok {
			id, name = atoi(string(class)), rest
		}
	}
	key := append(append(append(buf[:0], source...), ':'), name...)
	if i, ok := metricsIndex[string(key)]; ok {
		metricsValues[id*len(metricsIndex)+i] = value
	}
}

// metricsSample appends the sample of m for a slab class.
func metricsSample(b []byte, m *metric, id int, values [][]byte) []byte {
	b = append(b, m.name...)
	sep := byte('{')
	if m.labels != "" {
		b = append(append(b, sep), m.labels...)
		sep = ','
	}
	if id > 0 {
		b = fmt.Appendf(b, "%cslab=\"%d\"", sep, id)
		sep = ','
	}
	if sep == ',' {
		b = append(b, '}')
	}
	return append(metricsNumber(append(b, ' '), values, m.stats), '\n')
}

// metricsNumber appends the value of the first of stats less those of the others.
func metricsNumber(b []byte, values [][]byte, stats []int) []byte {
	value := values[stats[0]]
	switch {
	case string(value) == "yes":
		return append(b, '1')
	case string(value) == "no":
		return append(b, '0')
	case len(stats) == 1:
		return append(b, value...)
	}
	n, _ := strconv.ParseInt(string(value), 10, 64)
	for _, i := range stats[1:] {
		less, _ := strconv.ParseInt(string(values[i]), 10, 64)
		n -= less
	}
	return strconv.AppendInt(b, n, 10)
}

// metricsSelf appends statistics of the process, as serverStats does those of the
// server.
func metricsSelf(c *conn) {
	var usage unix.Rusage
	unix.Getrusage(unix.RUSAGE_SELF, &usage)
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
	metrics.Read(metricsPauses[:])
	appendStat(c, "gc", "%d", metricsPauses[0].Value.Uint64())
	pauses, seconds := metricsPauses[1].Value.Float64Histogram(), 0.0
	for i, n := range pauses.Counts {
		if n > 0 {
			seconds += float64(n) * max(pauses.Buckets[i], 0) // where the bucket begins
		}
	}
	appendStat(c, "gc_pause", "%.6f", seconds)
}

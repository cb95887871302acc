// What conversations cannot test of watchers: slow ones, ones that hang up, how
// much is lost, the order of lines, and the cost.

package main

import (
	"fmt"
	"io"
	"net"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

var skippedLine = regexp.MustCompile(`^skipped=(\d+)\n$`)

// A watcher that does not read misses lines, and is told how many. The server
// does not wait for it.
func TestWatcherSkips(t *testing.T) {
	t.Parallel()
	s := mc9(t, "-o", "watcher_logbuf_size=8")
	c, w := s.client(), s.client()
	w.mustWatch(t, "fetchers")
	gets := 0
	get := func(n int) {
		for range n {
			c.want(t, fmt.Sprintf("get k%d{%s\r\n", gets, strings.Repeat("x", 180)), "END\r\n")
			gets++
		}
	}
	for c.statN("log_watcher_skipped") < 1000 {
		get(1000)
	}
	c.wantLogged(t, gets)

	// It reads now, which makes room for new lines.
	lines, skipped := 0, 0
	for skipped == 0 {
		if lines%8 == 0 { // fewer than a full buffer has
			get(1)
		}
		line := w.line()
		if m := skippedLine.FindStringSubmatch(line); m != nil {
			skipped, _ = strconv.Atoi(m[1])
		} else if !strings.Contains(line, " type=item_get key=k") {
			t.Fatalf("line %d: %q", lines, line)
		}
		lines++
	}
	if line := w.line(); !strings.Contains(line, " type=item_get key=k") {
		t.Errorf("behind skipped=%d: %q", skipped, line)
	}
	if n := c.statN("log_watcher_skipped"); n < skipped {
		t.Errorf("skipped=%d, but %d in stats", skipped, n)
	}

	// It hangs up while there is much to send.
	for n := c.statN("log_watcher_skipped"); c.statN("log_watcher_skipped") == n; {
		get(1000)
	}
	w.Close()
	c.wantStat(t, "log_watchers", "0")
	c.wantStat(t, "curr_connections", "1")
}

// Entries that do not fit in a worker's buffer are dropped and counted.
func TestWatcherDrops(t *testing.T) {
	t.Parallel()
	s := mc9(t, "-o", "worker_logbuf_size=1")
	c, w := s.client(), s.client()
	w.mustWatch(t, "fetchers")
	c.want(t, "get"+strings.Repeat(" k", 5000)+"\r\n", "END\r\n")
	c.wantLogged(t, 5000)
	written := c.statN("log_worker_written")
	if written == 0 || written == 5000 {
		t.Errorf("%d of 5000 written", written)
	}
	for range written {
		if line := w.line(); !strings.Contains(line, " type=item_get key=k ") {
			t.Fatal(line)
		}
	}

	// A worker without a buffer.
	s = mc9(t, "-o", "worker_logbuf_size=0,watcher_logbuf_size=0")
	c, w = s.client(), s.client()
	io.WriteString(w, "watch\r\n")
	c.wantStat(t, "log_watchers", "1")
	c.want(t, "get k\r\n", "END\r\n")
	c.wantStat(t, "log_worker_dropped", "1")
}

// Lines come in order of gid, whichever threads wrote them.
func TestWatcherOrder(t *testing.T) {
	t.Parallel()
	const clients, rounds = 8, 500
	s := mc9(t, "-m", "8", "-o", "worker_logbuf_size=4096,watcher_logbuf_size=16384")
	w := s.client()
	w.mustWatch(t, "fetchers mutations evictions deletions")
	var wg sync.WaitGroup
	for i := range clients {
		c := s.client()
		wg.Add(1)
		go func() {
			defer wg.Done()
			for j := range rounds {
				c.ask(fmt.Sprintf("set k%d_%d 0 0 9000\r\n%09000d\r\nget k%d_%d\r\ndelete k%d_%d\r\n", i, j, j, i, j, i, j%7))
			}
		}()
	}
	c := s.client()
	go func() {
		wg.Wait()
		c.write("get last\r\n")
	}()
	kinds := map[string]int{}
	lines := 0
	for line := ""; !strings.Contains(line, " key=last "); lines++ {
		line = w.line()
		_, rest, _ := strings.Cut(line, " gid=")
		gid, kind, _ := strings.Cut(rest, " type=")
		if gid != strconv.Itoa(2+lines) {
			t.Fatalf("have %q, want gid %d", line, 2+lines)
		}
		kind, _, _ = strings.Cut(kind, " ")
		kinds[kind]++
	}
	if line := c.line(); line != "END\r\n" {
		t.Errorf("%q", line)
	}
	c.wantStat(t, "log_worker_written", strconv.Itoa(lines))
	if c.stat("", "log_worker_dropped") != "0" || c.stat("", "log_watcher_skipped") != "0" {
		t.Error("some lines were lost")
	}
	for _, kind := range []string{"item_get", "item_store", "eviction", "deleted"} {
		if kinds[kind] == 0 {
			t.Errorf("no %s", kind)
		}
	}
	t.Log(kinds)
}

// Connection events over TCP: addresses and reasons.
func TestWatcherConnevents(t *testing.T) {
	t.Parallel()
	s := start(t, "", true, "-p", "-1")
	w := s.client()
	w.mustWatch(t, "connevents")
	expect := func(pattern string) {
		t.Helper()
		line := w.line()
		if !regexp.MustCompile(`^ts=\d+\.\d+ gid=\d+ type=` + pattern + `\n$`).MatchString(line) {
			t.Errorf("have %q, want %s", line, pattern)
		}
	}
	c := s.client()
	addr := func(nc net.Conn) string {
		host, port, _ := net.SplitHostPort(nc.LocalAddr().String())
		return "rip=" + host + " rport=" + port
	}
	expect(`conn_new ` + addr(c) + ` transport=tcp cfd=\d+`)
	io.WriteString(c, "quit\r\n")
	expect(`conn_close ` + addr(c) + ` transport=tcp reason=normal cfd=\d+`)
	if port := s.port["TCP INET6"]; port != "" {
		nc, err := net.Dial("tcp", "[::1]:"+port)
		if err != nil {
			t.Fatal(err)
		}
		expect(`conn_new ` + addr(nc) + ` transport=tcp cfd=\d+`)
		nc.Close()
		expect(`conn_close ` + addr(nc) + ` transport=tcp reason=normal cfd=\d+`)
	}

	s = start(t, "", true, "-p", "-1", "-o", "idle_timeout=1")
	s.whileStopped(func() { // so that it becomes a watcher before it is idle
		w = s.client()
		w.write("watch connevents\r\n")
	})
	if line := w.line(); line != "OK\r\n" {
		t.Fatalf("%q", line)
	}
	c = s.client()
	expect(`conn_new ` + addr(c) + ` transport=tcp cfd=\d+`)
	expect(`conn_close ` + addr(c) + ` transport=tcp reason=idle_timeout cfd=\d+`)
}

// Watchers come and go while much is logged.
func TestWatcherChurn(t *testing.T) {
	t.Parallel()
	s := mc9(t)
	c := s.client()
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Add(1)
	go func() {
		defer wg.Done()
		for c := s.client(); ; c.ask(strings.Repeat("set k 0 0 1\r\n1\r\nget k\r\n", 20)) {
			select {
			case <-stop:
				return
			default:
			}
		}
	}()
	for i := range 100 {
		w := s.client()
		w.mustWatch(t, []string{"fetchers", "mutations", "connevents fetchers mutations"}[i%3])
		for range i % 5 {
			w.line()
		}
		if i%2 == 0 {
			io.WriteString(w, "quit\r\n")
		}
		w.Close()
	}
	close(stop)
	wg.Wait()
	c.wantStat(t, "log_watchers", "0")
	c.wantStat(t, "curr_connections", "2")
}

// Logging does not allocate, whether or not anybody watches.
func TestLoggerAllocs(t *testing.T) {
	th := &thread{l: &logger{buf: logbufNew(64 << 10)}}
	key := []byte("some key")
	n := testing.AllocsPerRun(1000, func() {
		if loggerEflags.Load()&logFetchers == 0 {
			loggerLogItemGet(th, itemNotFound, key, nil)
			loggerLogItemStore(th, tooLarge, nreadSet, key, nil)
		}
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
	if th.l.written == 0 || th.l.dropped == 0 || th.l.written+th.l.dropped != 2*1001 {
		t.Errorf("%d written, %d dropped", th.l.written, th.l.dropped)
	}
}

// An entry is as large as logbufNew thinks.
func TestLogentry(t *testing.T) {
	const size = 64 << 10
	if b := logbufNew(size); cap(b.entries) != size/int(reflect.TypeFor[logentry]().Size()) || cap(b.data) < size {
		t.Error(cap(b.entries), cap(b.data))
	}
}

func BenchmarkLoggerItemGet(b *testing.B) {
	th := &thread{l: &logger{buf: logbufNew(64 << 10)}}
	key := []byte("some key")
	b.ReportAllocs()
	for range b.N {
		loggerLogItemGet(th, itemNotFound, key, nil)
		if th.l.dropped > 0 {
			th.l.dropped = 0
			th.l.buf = logbuf{th.l.buf.entries[:0], th.l.buf.data[:0]}
		}
	}
}

func BenchmarkLoggerThreadParseEntry(b *testing.B) {
	e := logentry{event: loggerItemStore, status: uint8(stored), cmd: nreadSet, nbytes: 1000, sfd: 100, gid: 1 << 30, usec: time.Now().UnixMicro()}
	key := []byte("some key")
	var line []byte
	b.ReportAllocs()
	for range b.N {
		line = loggerThreadParseEntry(line[:0], &e, key)
	}
}

// Go's runtime: how long its collector stops everybody, and when it collects.

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime/metrics"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// schedMain prepares a child. With MC9_GC=loop it collects garbage without end, and
// after every 50 collections prints how many of them, and of their stops of the
// world, have taken longer than gcSlow. With MC9_GC=make it makes garbage, and prints
// after every 100 MB how often Go has collected in all and by itself, and how large
// the heap has been.
func schedMain() {
	switch os.Getenv("MC9_GC") {
	case "loop":
		go gcLoop()
	case "make":
		go gcMake()
	}
}

const gcSlow = 50 * time.Millisecond

func gcLoop() {
	cycles := func() uint64 { return gcRead("/gc/cycles/total:gc-cycles")[0] }
	for {
		slow, stops := 0, slowStops()
		for range 50 {
			n, begin := cycles(), time.Now()
			for n == cycles() {
				gcDue.Store(0)
				gcHandler()
				time.Sleep(time.Millisecond)
			}
			if time.Since(begin) > gcSlow {
				slow++
			}
		}
		fmt.Fprintf(os.Stderr, "slow %d %d\n", slow, slowStops()-stops)
	}
}

// slowStops returns how many stops of the world have taken longer than gcSlow.
func slowStops() (n uint64) {
	m := []metrics.Sample{{Name: "/sched/pauses/total/gc:seconds"}}
	metrics.Read(m)
	h := m[0].Value.Float64Histogram()
	for i, count := range h.Counts {
		if h.Buckets[i] > gcSlow.Seconds() {
			n += count
		}
	}
	return n
}

var gcSink atomic.Pointer[[]byte]

func gcMake() {
	for gcDue.Load() == 0 { // Go still may, before gcInit
		time.Sleep(time.Millisecond)
	}
	begin := gcRead("/gc/cycles/automatic:gc-cycles")[0]
	for {
		most := uint64(0)
		for range 100 << 4 {
			b := make([]byte, 64<<10)
			gcSink.Store(&b)
			gcAllocated(len(b))
			most = max(most, gcRead("/memory/classes/heap/objects:bytes")[0])
			time.Sleep(100 * time.Microsecond)
		}
		m := gcRead("/gc/cycles/total:gc-cycles", "/gc/cycles/automatic:gc-cycles")
		fmt.Fprintf(os.Stderr, "made %d %d %d\n", m[0], m[1]-begin, most)
	}
}

// TestCollections: while garbage is collected in a loop, workers that have an event
// every 20 to 90 ms hold up neither the collector nor each other. On a busy machine a
// few of the figures may be bad, up to half of the collections, and all of one try;
// if the workers wait raw during a collection, every collection and stop is slow.
func TestCollections(t *testing.T) {
	t.Setenv("MC9_GC", "loop")
	s := mc9(t)
	var done atomic.Bool
	var all sync.WaitGroup
	var asked, late atomic.Int64
	for i := range 8 { // two for each worker
		c := s.client()
		all.Add(1)
		go func() {
			defer all.Done()
			for n := 0; !done.Load(); n++ {
				time.Sleep(time.Duration(20+(7*n+9*i)%71) * time.Millisecond)
				begin := time.Now()
				c.want(t, "mn\r\n", "MN\r\n")
				if time.Since(begin) > gcSlow {
					late.Add(1)
				}
				asked.Add(1)
			}
		}()
	}
	report := regexp.MustCompile(`slow (\d+) (\d+)\n`)
	ok := false
	for try := 0; try < 8 && !ok; try++ {
		late.Store(0)
		asked.Store(0)
		eventually(t, "50 collections", func() bool { return len(report.FindAllString(s.said(), -1)) > try })
		m := report.FindAllStringSubmatch(s.said(), -1)[try]
		ok = atoi(m[1]) <= 25 && atoi(m[2]) <= 5 && late.Load() <= asked.Load()/10
		t.Logf("of 50 collections %s, of 100 stops %s, of %d replies %d took longer than %v", m[1], m[2], asked.Load(), late.Load(), gcSlow)
	}
	done.Store(true)
	all.Wait()
	if !ok {
		t.Error("collections take too long")
	}
}

// TestGarbage: mc9 collects in place of Go, as often as Go would.
func TestGarbage(t *testing.T) {
	if !memPeek {
		t.Skip("with the race detector items are on the heap")
	}
	t.Setenv("MC9_GC", "make")
	for _, tt := range []struct {
		name, value string
		least, most int    // collections for 100 MB of garbage
		heap        uint64 // MB at most
	}{
		{"GOGC", "10", 2, 40, 64},
		{"GOGC", "off", 0, 0, 1 << 20},
		{"GOMEMLIMIT", "12MiB", 8, 100, 40},
	} {
		t.Run(tt.name+"="+tt.value, func(t *testing.T) {
			t.Setenv(tt.name, tt.value)
			s := mc9(t)
			report := regexp.MustCompile(`made (\d+) (\d+) (\d+)\n`)
			eventually(t, "100 MB of garbage", func() bool { return report.MatchString(s.said()) })
			m := report.FindStringSubmatch(s.said())
			if n := atoi(m[1]); n < tt.least || n > tt.most {
				t.Errorf("%d collections", n)
			}
			if m[2] != "0" {
				t.Errorf("Go collected %s times by itself", m[2])
			}
			if atoi(m[3])>>20 > int(tt.heap) {
				t.Errorf("the heap grew to %s bytes", m[3])
			}
			t.Log(m[0])
		})
	}
}

// TestRest: while clients do nothing, mc9 hardly wakes up, and its clock goes on. That
// of extstore took 450 switches a second.
func TestRest(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		most int // context switches a second
		args []string
	}{
		{"memory", 5, nil},
		{"extstore", 10, []string{"-m", "64", "-o", "ext_path=" + filepath.Join(t.TempDir(), "ext") + ":128m"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := mc9(t, tt.args...)
			c := s.client()
			c.want(t, "set k 0 2 1\r\nv\r\n", "STORED\r\n")
			const seconds = 3
			eventually(t, "few context switches", func() bool {
				before := s.switches()
				time.Sleep(seconds * time.Second)
				n := s.switches() - before
				t.Logf("%d in %d seconds", n, seconds)
				return n <= tt.most*seconds
			})
			c.want(t, "mg k\r\n", "EN\r\n")
		})
	}
}

// TestRestReclaims: while clients do nothing, the LRU maintainer and the mover still
// have their turn each second. Otherwise what expires meanwhile still fills the
// memory when clients come back.
func TestRestReclaims(t *testing.T) {
	t.Parallel()
	s := mc9(t)
	c := s.client()
	const seconds = 12
	eventually(t, "a turn each second", func() bool {
		before := c.statN("lru_maintainer_juggles")
		time.Sleep(seconds * time.Second)
		n := c.statN("lru_maintainer_juggles") - before
		t.Logf("%d turns in %d seconds", n, seconds)
		return n >= seconds-1 && n <= seconds+4 // else it is not at rest yet
	})
}

// TestWatched: while events are watched, the logger thread's short sleeps cost no more
// than a system call. With timers of Go's they cost 30 switches an event.
func TestWatched(t *testing.T) {
	t.Parallel()
	s := mc9(t)
	w, c := s.client(), s.client()
	w.until(t, "watch fetchers\r\n", "OK\r\n")
	const events = 100
	eventually(t, "few context switches", func() bool {
		before := s.switches()
		for range events {
			time.Sleep(20 * time.Millisecond)
			c.want(t, "mg k\r\n", "EN\r\n")
			w.line()
		}
		n := s.switches() - before
		t.Logf("%d for %d events", n, events)
		return n <= 22*events
	})
}

// switches counts how often mc9's threads have gone to sleep.
func (s *server) switches() (n int) {
	dir := fmt.Sprintf("/proc/%d/task", s.cmd.Process.Pid)
	tasks, _ := os.ReadDir(dir)
	for _, task := range tasks {
		text, _ := os.ReadFile(dir + "/" + task.Name() + "/status")
		_, rest, _ := strings.Cut(string(text), "\nvoluntary_ctxt_switches:\t")
		n += atoi(rest)
	}
	return n
}

// TestNoGarbage: what clients can repeat makes no garbage, or little.
func TestNoGarbage(t *testing.T) {
	t.Parallel()
	if !memPeek {
		t.Skip("with the race detector all buffers are on the heap")
	}
	s := mc9(t, "-t", "1", "-m", "64")
	c := s.client()
	keys := make([]string, 1000)
	for i := range keys {
		keys[i] = fmt.Sprintf("%0200d", i)
		c.want(t, fmt.Sprintf("set %s 0 0 1000\r\n%01000d\r\n", keys[i], i), "STORED\r\n")
	}
	get := func(n int) func() {
		return func() { c.until(t, "get "+strings.Join(keys[:n], " ")+"\r\n", "END\r\n") }
	}
	for _, tt := range []struct {
		name string
		most int // bytes each
		ask  func()
	}{
		{"get of 24 KB", 500, get(120)},
		{"get of 100 KB", 5000, get(500)},
		{"get of 200 KB", 5000, get(1000)},
		{"metadump", 500, func() { c.until(t, "lru_crawler metadump all\r\n", "END\r\n") }},
		{"mgdump", 500, func() { c.until(t, "lru_crawler mgdump hash\r\n", "EN\r\n") }},
		{"watch", 128 << 10, func() { // and a few times stats
			w := s.client()
			w.until(t, "watch fetchers\r\n", "OK\r\n")
			w.Close()
			for c.stat("", "log_watchers") != "0" {
				time.Sleep(20 * time.Millisecond)
			}
		}},
		{"stats", 4000, func() { c.until(t, "stats\r\n", "END\r\n") }},
		{"stats conns", 4000, func() { c.until(t, "stats conns\r\n", "END\r\n") }},
		{"connect", 1000, func() {
			nc := s.client()
			nc.want(t, "mn\r\n", "MN\r\n")
			nc.Close()
		}},
		{"gets of a slow reader", 2000, func() {
			c.write(strings.Repeat("get "+strings.Join(keys[:50], " ")+"\r\n", 10))
			time.Sleep(10 * time.Millisecond)
			for range 10 {
				c.until(t, "", "END\r\n")
			}
		}},
	} {
		const times = 50
		tt.ask()
		before := s.footprint().allocated
		for range times {
			tt.ask()
		}
		each := (s.footprint().allocated - before) << 10 / times
		if each > tt.most {
			t.Errorf("%s leaves %d bytes each", tt.name, each)
		}
	}
}

// until sends a request and reads lines until one that ends the answer.
func (c *client) until(t *testing.T, request, end string) {
	t.Helper()
	c.write(request)
	for {
		line := c.line()
		if line == end {
			return
		}
		if !strings.HasSuffix(line, "\n") {
			t.Fatalf("%.20q: %q", request, line)
		}
	}
}

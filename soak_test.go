// A soak: what TestStress does, again and again at one server, which must not
// grow by it. For a long one
//
//	go test -run TestSoak -soak 30m -timeout 1h

package main

import (
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

var soak = flag.Duration("soak", 0, "how long TestSoak goes on")

// heapAlloc returns how many bytes are in use on Go's heap.
func heapAlloc() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// soakReport has the server say how it is, whenever it is asked by SIGUSR2.
func soakReport() {
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGUSR2)
	for range asked {
		heap := heapAlloc()
		fmt.Fprintf(os.Stderr, "goroutines %d heap %d\n", runtime.NumGoroutine(), heap>>10)
	}
}

// A soakSample is what must not grow; memory is in KB.
type soakSample struct{ rss, heap, goroutines, fds, threads int }

func (s *server) soakSample() (now soakSample) {
	reports := regexp.MustCompile(`goroutines (\d+) heap (\d+)`)
	n := len(reports.FindAllString(s.said(), -1))
	s.cmd.Process.Signal(syscall.SIGUSR2)
	eventually(s.t, "a report", func() bool {
		all := reports.FindAllStringSubmatch(s.said(), -1)
		if len(all) == n {
			return false
		}
		now.goroutines, _ = strconv.Atoi(all[n][1])
		now.heap, _ = strconv.Atoi(all[n][2])
		return true
	})
	now.rss = s.status("VmRSS")
	now.threads = s.status("Threads")
	now.fds = s.fds()
	return now
}

func TestSoak(t *testing.T) {
	if end, ok := t.Deadline(); ok && time.Until(end) < *soak {
		t.Fatal("it wants more time: -timeout 1h")
	}
	t.Setenv("MC9_SOAK", "1")
	s := mc9(t, strings.Fields("-m 64 -t 4 -o hashpower=13,slab_automove=2,temporary_ttl=1")...)
	begin := time.Now()
	var first soakSample
	for round := 0; round < 2 || time.Since(begin) < *soak; round++ {
		w := &stress{s: s}
		w.run(t, testSeed(t, round))
		if t.Failed() {
			return
		}
		now := s.soakSample()
		t.Logf("%v %+v", time.Since(begin).Round(time.Second), now)
		if first == (soakSample{}) {
			if time.Since(begin) >= min(*soak/2, time.Minute) {
				first = now
			}
			continue
		}
		if now.rss > first.rss*6/5 || now.heap > first.heap+512 ||
			now.goroutines > first.goroutines || now.fds > first.fds || now.threads > first.threads+4 {
			t.Fatalf("%+v, after a while %+v", first, now)
		}
	}
}

// A soak: TestStress's load, again and again on one server, which must not grow.
// For a long one:
//
//	go test -run TestSoak -soak 30m -timeout 1h

package main

import (
	"flag"
	"strings"
	"testing"
	"time"
)

var soak = flag.Duration("soak", 0, "how long TestSoak goes on")

func TestSoak(t *testing.T) {
	t.Parallel()
	if end, ok := t.Deadline(); ok && time.Until(end) < *soak {
		t.Fatal("the test timeout is shorter than -soak; use -timeout 1h")
	}
	s := mc9(t, strings.Fields("-m 64 -t 4 -o hashpower=13,slab_automove=2,temporary_ttl=1")...)
	begin := time.Now()
	var first footprint
	var fds int
	for round := 0; round < 2 || time.Since(begin) < *soak; round++ {
		w := &stress{s: s, lost: "evictions"}
		w.run(t, testSeed(t, round))
		if t.Failed() {
			return
		}
		now := s.footprint()
		t.Logf("%v %+v", time.Since(begin).Round(time.Second), now)
		if first.heap == 0 {
			if time.Since(begin) >= min(*soak/2, time.Minute) {
				first, fds = now, s.fds()
			}
			continue
		}
		if now.heap-now.buffers > first.heap-first.buffers+512 || now.goroutines > first.goroutines {
			t.Fatalf("the server grew from %+v to %+v", first, now)
		}
		eventually(t, "descriptors are closed", func() bool { return s.fds() <= fds })
	}
}

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"
)

// Setting the machine's time changes neither uptime nor relative expiry times.
// The test does not set the time, which would affect every process; it moves the
// server's start instead.
func TestClockSteps(t *testing.T) {
	storeInit(t, 4, nil)
	clockInit(clockBegin)
	base, started, begin := clockBase, processStarted, currentTime.Load()
	for _, hours := range []int64{1, -1, 24 * 365, -24 * 365} {
		clockBase, processStarted = base, started+hours*3600
		// The first word of a time.Time with both clocks holds the wall
		// clock's seconds, above 30 bits of nanoseconds.
		*(*int64)(unsafe.Pointer(&clockBase)) += hours * 3600 << 30
		if d := clockBase.Round(0).Sub(base.Round(0)); d != time.Duration(hours)*time.Hour {
			t.Fatal("time.Time has changed: ", d)
		}
		clockTick = 0
		clockHandler()
		now := currentTime.Load()
		if now-begin > 60 || realtime(60)-now != 60 {
			t.Errorf("%d hours: started at %d, now %d, an item with a minute to live expires at %d", hours, begin, now, realtime(60))
		}
	}
}

// TestHugePages: memory gets huge pages from the start with -L only.
func TestHugePages(t *testing.T) {
	if !memPeek {
		t.Skip("with the race detector the arena is on the heap")
	}
	if _, err := os.Stat("/sys/kernel/mm/transparent_hugepage"); err != nil {
		t.Skip("no huge pages: ", err)
	}
	for _, tt := range []struct {
		name        string
		least, most int // MB that may have huge pages
		args        []string
	}{
		{"memory", 0, 32, nil},
		{"extstore", 0, 32, []string{"-o", "ext_path=" + filepath.Join(t.TempDir(), "ext") + ":128m"}},
		{"-L", 192, 256, []string{"-L"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := mc9(t, append(tt.args, "-m", "200")...)
			s.client().want(t, "set k 0 0 1\r\nv\r\n", "STORED\r\n")
			smaps, _ := os.ReadFile(fmt.Sprintf("/proc/%d/smaps", s.cmd.Process.Pid))
			size, huge := 0, 0 // KB
			for line := range strings.Lines(string(smaps)) {
				f := strings.Fields(line)
				switch {
				case f[0] == "Size:":
					size = atoi(f[1])
				case f[0] == "VmFlags:" && slices.Contains(f, "hg"):
					huge += size
				}
			}
			if huge >>= 10; huge < tt.least || huge > tt.most {
				t.Errorf("%d MB may have huge pages", huge)
			}
		})
	}
}

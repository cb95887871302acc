package main

import (
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

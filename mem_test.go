package main

import (
	"testing"
	"time"
	"unsafe"
)

// Whoever sets the machine's time moves neither uptime nor what expires in so
// many seconds. The time is not set here, which would be for all: instead the
// server has begun at another one.
func TestClockSteps(t *testing.T) {
	storeInit(t, 4, nil)
	clockInit(clockBegin)
	base, started, begin := clockBase, processStarted, currentTime.Load()
	for _, hours := range []int64{1, -1, 24 * 365, -24 * 365} {
		clockBase, processStarted = base, started+hours*3600
		// The first word of a time.Time with both clocks has the seconds of
		// the wall clock above 30 bits of nanoseconds.
		*(*int64)(unsafe.Pointer(&clockBase)) += hours * 3600 << 30
		if d := clockBase.Round(0).Sub(base.Round(0)); d != time.Duration(hours)*time.Hour {
			t.Fatal("time.Time has changed: ", d)
		}
		clockTick = 0
		clockHandler()
		now := currentTime.Load()
		if now-begin > 60 || realtime(60)-now != 60 {
			t.Errorf("%d hours: at %d it is %d, what expires in a minute at %d", hours, begin, now, realtime(60))
		}
	}
}

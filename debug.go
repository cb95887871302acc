//go:build debug

// Commands for tests, built with -tags debug (C: memcached-debug). From
// proto_text.c: process_misbehave_command, process_debugtime_command,
// process_debugitem_command.
// debugprofile is not in C.

package main

import (
	"os"
	"os/exec"
	"runtime/pprof"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const debugBuild = true

var (
	isPaused atomic.Bool  // the clock is stopped
	delta    atomic.Int64 // seconds that the clock has been moved
)

// The item that debugitem ref took last. C keeps one per connection.
var debugItemReffed *item

// clockAdjust returns the time that the clock shows when the real time is
// now.
func clockAdjust(now relTime) relTime {
	if isPaused.Load() {
		return currentTime.Load()
	}
	return now + relTime(delta.Load())
}

var debugCommands = []adminCommand{
	{"misbehave", processMisbehaveCommand},
	{"debugtime", processDebugtimeCommand},
	{"debugitem", processDebugitemCommand},
	{"debugprofile", processDebugprofileCommand},
}

// processMisbehaveCommand does what -o drop_privileges forbids, and answers
// ERROR if it is allowed.
func processMisbehaveCommand(c *conn, pr *parser) string {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err == nil {
		unix.Close(fd)
	}
	if err2 := exec.Command("sleep", "0").Run(); err == nil || err2 == nil {
		return "ERROR"
	}
	return "OK"
}

// processDebugtimeCommand: debugtime p|r|<seconds>
func processDebugtimeCommand(c *conn, pr *parser) string {
	switch {
	case pr.prcmp(subcommandToken, "p"):
		isPaused.Store(true)
	case pr.prcmp(subcommandToken, "r"):
		isPaused.Store(false)
	default:
		n, ok := tokto64(pr.token(subcommandToken))
		if !ok {
			return "ERROR"
		}
		clockSet(currentTime.Load() + relTime(delta.Add(n)))
	}
	return "OK"
}

// processDebugitemCommand: debugitem lock|unlock|ref|unref <key>. It breaks
// the rules for locks and references on purpose.
func processDebugitemCommand(c *conn, pr *parser) string {
	key := pr.token(2)
	switch {
	case key == nil:
		return "ERROR"
	case pr.prcmp(subcommandToken, "lock"):
		itemLock(hash(key))
	case pr.prcmp(subcommandToken, "unlock"):
		itemUnlock(hash(key))
	case pr.prcmp(subcommandToken, "unref") && string(key) == "reffed":
		doItemRemove(debugItemReffed)
	case pr.prcmp(subcommandToken, "ref"), pr.prcmp(subcommandToken, "unref"):
		it := itemGet(key, c.thread, dontUpdate)
		if it == nil {
			return "MISS"
		}
		if pr.prcmp(subcommandToken, "ref") {
			debugItemReffed = it
			break
		}
		doItemRemove(it) // the reference of ours
		doItemRemove(it)
	default:
		return "ERROR"
	}
	return "OK"
}

// processDebugprofileCommand: debugprofile <file> <seconds>. It writes a CPU
// profile of the next seconds, for go tool pprof or as default.pgo.
func processDebugprofileCommand(c *conn, pr *parser) string {
	seconds, ok := toktou32(pr.token(2))
	if !ok {
		return "ERROR"
	}
	f, err := os.Create(string(pr.token(1)))
	if err == nil {
		err = pprof.StartCPUProfile(f)
	}
	if err != nil {
		return "SERVER_ERROR " + err.Error()
	}
	time.AfterFunc(time.Duration(seconds)*time.Second, func() {
		pprof.StopCPUProfile()
		f.Close()
	})
	return "OK"
}

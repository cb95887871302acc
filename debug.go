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

// processDebugCommand returns false if the line is none of these commands.
func processDebugCommand(c *conn, pr *parser) bool {
	switch string(pr.token(commandToken)) {
	case "misbehave":
		processMisbehaveCommand(c)
	case "debugtime":
		processDebugtimeCommand(c, pr)
	case "debugitem":
		processDebugitemCommand(c, pr)
	case "debugprofile":
		processDebugprofileCommand(c, pr)
	default:
		return false
	}
	return true
}

// processMisbehaveCommand does what -o drop_privileges forbids, and answers
// ERROR if it is allowed.
func processMisbehaveCommand(c *conn) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err == nil {
		unix.Close(fd)
	}
	if err2 := exec.Command("sleep", "0").Run(); err == nil || err2 == nil {
		outString(c, "ERROR")
		return
	}
	outString(c, "OK")
}

// processDebugtimeCommand: debugtime p|r|<seconds>
func processDebugtimeCommand(c *conn, pr *parser) {
	switch {
	case pr.prcmp(subcommandToken, "p"):
		isPaused.Store(true)
	case pr.prcmp(subcommandToken, "r"):
		isPaused.Store(false)
	default:
		n, ok := tokto64(pr.token(subcommandToken))
		if !ok {
			outString(c, "ERROR")
			return
		}
		clockSet(currentTime.Load() + relTime(delta.Add(n)))
	}
	outString(c, "OK")
}

// processDebugitemCommand: debugitem lock|unlock|ref|unref <key>. It breaks
// the rules for locks and references on purpose.
func processDebugitemCommand(c *conn, pr *parser) {
	key := pr.token(2)
	if key == nil {
		outString(c, "ERROR")
		return
	}
	switch {
	case pr.prcmp(subcommandToken, "lock"):
		itemLock(hash(key))
	case pr.prcmp(subcommandToken, "unlock"):
		itemUnlock(hash(key))
	case pr.prcmp(subcommandToken, "ref"):
		it := itemGet(key, c.thread, dontUpdate)
		if it == nil {
			outString(c, "MISS")
			return
		}
		debugItemReffed = it
	case pr.prcmp(subcommandToken, "unref"):
		it := debugItemReffed
		if string(key) != "reffed" {
			if it = itemGet(key, c.thread, dontUpdate); it == nil {
				outString(c, "MISS")
				return
			}
			doItemRemove(it)
		}
		doItemRemove(it)
	default:
		outString(c, "ERROR")
		return
	}
	outString(c, "OK")
}

// processDebugprofileCommand: debugprofile <file> <seconds>. It writes a CPU
// profile of the next seconds, for go tool pprof or as default.pgo.
func processDebugprofileCommand(c *conn, pr *parser) {
	seconds, ok := toktou32(pr.token(2))
	if !ok {
		outString(c, "ERROR")
		return
	}
	f, err := os.Create(string(pr.token(1)))
	if err == nil {
		err = pprof.StartCPUProfile(f)
	}
	if err != nil {
		outString(c, "SERVER_ERROR "+err.Error())
		return
	}
	time.AfterFunc(time.Duration(seconds)*time.Second, func() {
		pprof.StopCPUProfile()
		f.Close()
	})
	outString(c, "OK")
}

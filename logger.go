// The logger: a line for each event, for clients that watch. From logger.c;
// proto_text.c: process_watch_command.
//
// A worker writes each event to its own buffer. The logger thread takes that in
// exchange for an empty one, formats the entries as lines and sends them to the
// watchers. Nobody waits: an entry is dropped if the worker's buffer is full, and a
// line is skipped if the watcher's is.

package main

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// What can be watched. A log point first checks whether anybody watches it:
//
//	if loggerEflags.Load()&logFetchers != 0 {
//		loggerLogItemGet(...)
//	}
//
// unless it calls loggerLogText, which checks that itself.
const (
	logSysevents  = 1 << iota // background threads at work
	logFetchers               // lookups of an item
	logMutations              // stores of an item
	logConnevents             // connections opened or closed
	logEvictions              // items evicted
	logDeletions              // items deleted
	logRawcmds                // accepted, but never logged, as in C
	logProxyreqs              // this and the next two belong to C's proxy
	logProxyevents
	logProxyuser
)

type watchName struct {
	name string
	flag uint32
}

var watchNames = []watchName{
	{"rawcmds", logRawcmds},
	{"evictions", logEvictions},
	{"fetchers", logFetchers},
	{"mutations", logMutations},
	{"sysevents", logSysevents},
	{"connevents", logConnevents},
	{"proxyreqs", logProxyreqs},
	{"proxyevents", logProxyevents},
	{"proxyuser", logProxyuser},
	{"deletions", logDeletions},
}

type logEntryType uint8

const (
	loggerEviction logEntryType = iota
	loggerItemGet
	loggerItemStore
	loggerCrawlerStatus
	loggerSlabMove
	loggerConnectionNew
	loggerConnectionClose
	loggerDeletions
	loggerConnectionTlserror
	loggerConnectionTls // not in C
	loggerExtstoreWrite
	loggerCompactStart
	loggerCompactAbort
	loggerCompactReadStart
	loggerCompactReadEnd
	loggerCompactEnd
	loggerCompactFraginfo
)

// The command that deleted an item.
const (
	logTypeDelete     = 1
	logTypeMetaDelete = 2
)

// A logentry is one event, whose type says which fields are set.
type logentry struct {
	gid     uint64 // sequence number over all workers
	usec    int64  // Unix time
	event   logEntryType
	status  uint8 // outcome of a lookup, a storeItemType, a transport, or a page bucket
	cmd     uint8 // nreadSet etc., logTypeDelete etc., or a closeReasons
	clsid   uint8
	fetched bool
	ttl     int64
	latime  uint32
	nbytes  int32
	sfd     int32
	ndata   int32 // bytes of key, address or text
}

const (
	loggerReqlen  = 512 // bytes of data at most
	loggerSkipped = 128 // bytes at most of a "skipped=" line
)

// A logbuf holds entries and their data, one after the other. Neither slice grows.
type logbuf struct {
	entries []logentry
	data    []byte
}

// logbufNew returns a buffer with room for at least the entries that C has room for in
// size bytes, whatever the length of their data.
func logbufNew(size int) logbuf {
	const entry = 48 // bytes
	return logbuf{make([]logentry, 0, size/entry), make([]byte, 0, size)}
}

// A logger holds a worker's entries.
type logger struct {
	mutex   sync.Mutex
	buf     logbuf
	written uint64 // entries since the logger thread last looked
	dropped uint64

	// Owned by the logger thread: the other buffer, and what has not been read in it.
	taken  logbuf
	unread logbuf
}

// A loggerWatcher is a client that watches. Its conn still belongs to a worker: the
// logger thread may use only c.thread and c.sfd.
type loggerWatcher struct {
	c           *conn
	id          int    // index in watchers
	skipped     uint64 // lines skipped since the last one that fit
	minGid      uint64 // entries with a lower gid are not for it
	failedFlush bool   // the client is not reading; skip lines until the logger thread has slept
	eflags      uint32
	buf         []byte // lines to be sent; as large as it was made
}

const (
	watcherLimit = 20
	watcherAll   = -1
)

var (
	loggerEflags atomic.Uint32 // events that at least one watcher watches
	loggerGid    atomic.Uint64

	// For background threads, and other code without a *thread.
	sharedLogger *logger

	loggerWake = make(chan struct{}, 1) // there is a new watcher
)

// All loggers, and all watchers.
var loggerStack struct {
	lock     sync.Mutex // guards the rest; comes before a logger's mutex
	loggers  []*logger
	watchers [watcherLimit]*loggerWatcher
}

var transportText = [...]string{"local", "tcp", "udp"}

var defaultEntries = [...]struct {
	eflags  uint32
	parseCb func(b []byte, e *logentry, data []byte) []byte
	format  string
}{
	loggerEviction:  {logEvictions, loggerParseEe, ""},
	loggerItemGet:   {logFetchers, loggerParseIge, ""},
	loggerItemStore: {logMutations, loggerParseIse, ""},
	loggerCrawlerStatus: {logSysevents, loggerParseText,
		"type=lru_crawler crawler=%d lru=%s low_mark=%d next_reclaims=%d since_run=%d next_run=%d elapsed=%d examined=%d reclaimed=%d"},
	loggerSlabMove:           {logSysevents, loggerParseText, "type=slab_move src=%d dst=%d state=%s"},
	loggerConnectionNew:      {logConnevents, loggerParseCne, ""},
	loggerConnectionClose:    {logConnevents, loggerParseCne, ""},
	loggerDeletions:          {logDeletions, loggerParseIde, ""},
	loggerConnectionTlserror: {logConnevents, loggerParseText, "type=conntlserr fd=%d msg=%s"},
	loggerConnectionTls:      {logConnevents, loggerParseText, "type=conn_tls cfd=%d cn=%s"},
	loggerExtstoreWrite:      {logEvictions, loggerParseEe, ""},
	loggerCompactStart:       {logSysevents, loggerParseText, "type=compact_start id=%d version=%d"},
	loggerCompactAbort:       {logSysevents, loggerParseText, "type=compact_abort id=%d"},
	loggerCompactReadStart:   {logSysevents, loggerParseText, "type=compact_read_start id=%d offset=%d"},
	loggerCompactReadEnd: {logSysevents, loggerParseText,
		"type=compact_read_end id=%d offset=%d rescues=%d rescues_realloc=%d lost=%d lost_oom=%d skipped=%d"},
	loggerCompactEnd:      {logSysevents, loggerParseText, "type=compact_end id=%d"},
	loggerCompactFraginfo: {logSysevents, loggerParseText, "type=compact_fraginfo ratio=%.2f bytes=%d"},
}

const (
	maxLoggerSleep = time.Second / 2 // half of C's, so that a hang-up is noticed within a second
	minLoggerSleep = time.Millisecond
)

// Each of the following logs one event.

// loggerLogText logs an event, if it is watched, formatted by the caller's thread, not
// by the logger thread. The format is in defaultEntries.
func loggerLogText(event logEntryType, args ...any) {
	if d := &defaultEntries[event]; loggerEflags.Load()&d.eflags != 0 {
		loggerLog(sharedLogger, &logentry{event: event}, fmt.Appendf(nil, d.format, args...))
	}
}

// loggerLogEvictions is called with the item locked.
func loggerLogEvictions(it *item) { loggerLogEviction(it, loggerEviction, 0) }

// loggerLogExtWrite logs an item that was written to a page of this bucket. It is
// called with the item locked.
func loggerLogExtWrite(it *item, bucket int) { loggerLogEviction(it, loggerExtstoreWrite, bucket) }

func loggerLogEviction(it *item, event logEntryType, bucket int) {
	now := currentTime.Load()
	ttl := int64(-1)
	if it.exptime != 0 {
		ttl = int64(it.exptime - now)
	}
	loggerLog(sharedLogger, &logentry{
		event:   event,
		status:  uint8(bucket),
		fetched: it.itFlags&itemFetched != 0,
		ttl:     ttl,
		latime:  itemAge(it),
		nbytes:  it.nbytes,
		clsid:   it.clsid(),
	}, it.key())
}

// loggerLogItemGet logs a lookup. wasFound is its outcome, such as itemNotFound; it
// is the item or nil.
func loggerLogItemGet(t *thread, wasFound int, key []byte, it *item) {
	e := logentry{event: loggerItemGet, status: uint8(wasFound), sfd: int32(t.curSfd)}
	if it != nil {
		e.nbytes, e.clsid = it.nbytes, it.clsid()
	}
	loggerLog(t.l, &e, key)
}

// loggerLogItemStore logs a store. The item is nil if it could not be
// allocated.
func loggerLogItemStore(t *thread, status storeItemType, comm int, key []byte, it *item) {
	e := logentry{event: loggerItemStore, status: uint8(status), cmd: uint8(comm), sfd: int32(t.curSfd)}
	if it != nil {
		e.nbytes, e.clsid = it.nbytes, it.clsid()
		if it.exptime != 0 {
			e.ttl = int64(it.exptime - currentTime.Load())
		}
	}
	loggerLog(t.l, &e, key)
}

func loggerLogItemDeleted(t *thread, it *item, comm int) {
	loggerLog(t.l, &logentry{
		event:  loggerDeletions,
		cmd:    uint8(comm),
		nbytes: it.nbytes,
		clsid:  it.clsid(),
	}, it.key())
}

// loggerLogConnEvent must be called before c's socket is closed.
func loggerLogConnEvent(c *conn, event logEntryType) {
	var addr netip.AddrPort
	if c.transport == tcpTransport {
		sa, _ := unix.Getpeername(c.sfd)
		addr = addrPort(sa)
	}
	data, _ := addr.MarshalBinary()
	loggerLog(c.thread.l, &logentry{
		event:  event,
		status: uint8(c.transport),
		cmd:    uint8(c.closeReason),
		sfd:    int32(c.sfd),
	}, data)
}

// loggerUtilAddrEndpoint returns the client's address and port, or "unix" and
// 0 if the entry has none: it was not TCP, or was reset.
func loggerUtilAddrEndpoint(data []byte) (rip string, rport uint16) {
	var addr netip.AddrPort
	if addr.UnmarshalBinary(data) != nil || !addr.IsValid() {
		return "unix", 0
	}
	return addr.Addr().String(), addr.Port()
}

// The following functions append an entry to a line. Frequent events do without
// fmt: the slower the logger thread is, the more entries are dropped.

func logText(b []byte, name, text string) []byte { return append(append(b, name...), text...) }

func logNumber(b []byte, name string, n int64) []byte {
	return strconv.AppendInt(append(b, name...), n, 10)
}

// logSize appends the size of the value without its \r\n.
func logSize(b []byte, e *logentry) []byte { return logNumber(b, " size=", int64(max(e.nbytes-2, 0))) }

func loggerParseText(b []byte, e *logentry, data []byte) []byte { return append(b, data...) }

func loggerParseIse(b []byte, e *logentry, data []byte) []byte {
	b = uriencode(append(b, "type=item_store key="...), data)
	b = logText(b, " status=", [...]string{
		"not_stored", "stored", "exists", "not_found", "too_large", "no_memory"}[e.status])
	b = logText(b, " cmd=", [...]string{
		"null", "add", "set", "replace", "append", "prepend", "cas", "append", "prepend"}[e.cmd])
	b = logNumber(b, " ttl=", e.ttl)
	b = logNumber(b, " clsid=", int64(e.clsid))
	b = logNumber(b, " cfd=", int64(e.sfd))
	return logSize(b, e)
}

func loggerParseIge(b []byte, e *logentry, data []byte) []byte {
	b = uriencode(append(b, "type=item_get key="...), data)
	b = logText(b, " status=", [...]string{"not_found", "found", "flushed", "expired"}[e.status])
	b = logNumber(b, " clsid=", int64(e.clsid))
	b = logNumber(b, " cfd=", int64(e.sfd))
	return logSize(b, e)
}

// loggerParseEe appends an eviction, or a write to flash.
func loggerParseEe(b []byte, e *logentry, data []byte) []byte {
	what := "type=eviction key="
	if e.event == loggerExtstoreWrite {
		what = "type=extwrite key="
	}
	b = uriencode(append(b, what...), data)
	b = logText(b, " fetch=", yesno(e.fetched))
	b = logNumber(b, " ttl=", e.ttl)
	b = logNumber(b, " la=", int64(e.latime))
	b = logNumber(b, " clsid=", int64(e.clsid))
	if e.event == loggerExtstoreWrite {
		return logNumber(b, " bucket=", int64(e.status))
	}
	return logSize(b, e)
}

func loggerParseIde(b []byte, e *logentry, data []byte) []byte {
	b = uriencode(append(b, "type=deleted key="...), data)
	b = logText(b, " cmd=", [...]string{"null", "delete", "md"}[e.cmd])
	b = logNumber(b, " clsid=", int64(e.clsid))
	return logSize(b, e)
}

// loggerParseCne appends a connection opened or closed.
func loggerParseCne(b []byte, e *logentry, data []byte) []byte {
	what, reason := "new", ""
	if e.event == loggerConnectionClose {
		what, reason = "close", " reason="+[...]string{"error", "normal", "idle_timeout", "shutdown"}[e.cmd]
	}
	rip, rport := loggerUtilAddrEndpoint(data)
	return fmt.Appendf(b, "type=conn_%s rip=%s rport=%d transport=%s%s cfd=%d",
		what, rip, rport, transportText[e.status], reason, e.sfd)
}

// loggerSetFlags sets loggerEflags to all events that the watchers watch.
// loggerStack.lock is held.
func loggerSetFlags() {
	f := uint32(0)
	for _, w := range loggerStack.watchers {
		if w != nil {
			f |= w.eflags
		}
	}
	loggerEflags.Store(f)
}

// loggerThreadParseEntry appends the line for an entry.
func loggerThreadParseEntry(b []byte, e *logentry, data []byte) []byte {
	b = logNumber(b, "ts=", e.usec/1e6)
	b = logNumber(b, ".", e.usec%1e6)
	b = logNumber(b, " gid=", int64(e.gid))
	return append(defaultEntries[e.event].parseCb(append(b, ' '), e, data), '\n')
}

// loggerThreadWriteEntry gives the line for e to the watchers of its event.
func loggerThreadWriteEntry(e *logentry, line []byte) {
	for x := range loggerStack.watchers {
		w := loggerStack.watchers[x]
		if w == nil || defaultEntries[e.event].eflags&w.eflags == 0 || e.gid < w.minGid {
			continue
		}
		for !w.failedFlush && cap(w.buf)-len(w.buf) < len(line)+loggerSkipped {
			if loggerThreadPollWatchers(x) == 0 {
				w.failedFlush = true
			}
		}
		switch {
		case loggerStack.watchers[x] == nil:
			// The watcher is gone.
			continue
		case w.failedFlush:
			w.skipped++
			stats.logWatcherSkipped.Add(1)
			continue
		case w.skipped > 0:
			w.buf = fmt.Appendf(w.buf, "skipped=%d\n", w.skipped)
			w.skipped = 0
		}
		w.buf = append(w.buf, line...)
		stats.logWatcherSent.Add(1)
	}
}

// loggerThreadCloseWatcher gives the watcher's conn back to its worker, to be
// closed.
func loggerThreadCloseWatcher(w *loggerWatcher) {
	loggerStack.watchers[w.id] = nil
	statsState.logWatchers.Add(-1)
	loggerSetFlags()
	bufFree(w.buf[:cap(w.buf)])
	w.buf = nil
	sidethreadConnClose(w.c)
}

// loggerThreadPeek takes l's new entries, once all that it took before are read.
func loggerThreadPeek(l *logger) {
	l.mutex.Lock()
	if len(l.unread.entries) == 0 && len(l.buf.entries) > 0 {
		if l.taken.data == nil {
			l.taken = logbufNew(settings.log.bufSize)
		}
		l.buf, l.taken = logbuf{l.taken.entries[:0], l.taken.data[:0]}, l.buf
		l.unread = l.taken
	}
	stats.logWorkerWritten.Add(l.written)
	stats.logWorkerDropped.Add(l.dropped)
	l.written, l.dropped = 0, 0
	l.mutex.Unlock()
}

// loggerThreadRead formats the entries logged so far as lines, and returns their
// number. C reads one buffer after the other; here lines come in the order of their
// gids. A worker takes a gid and writes the entry under the buffer's mutex: once we
// have held each mutex, no entry with a gid up to last can appear any more.
func loggerThreadRead() (found int) {
	last := loggerGid.Load()
	for _, l := range loggerStack.loggers {
		loggerThreadPeek(l)
	}
	var scratch [2048]byte
	for {
		var first *logger
		gid := last
		for _, l := range loggerStack.loggers {
			if len(l.unread.entries) > 0 && l.unread.entries[0].gid <= gid {
				first, gid = l, l.unread.entries[0].gid
			}
		}
		if first == nil {
			break
		}
		rest := &first.unread
		e := &rest.entries[0]
		if loggerEflags.Load() != 0 {
			loggerThreadWriteEntry(e, loggerThreadParseEntry(scratch[:0], e, rest.data[:e.ndata]))
		}
		rest.entries, rest.data = rest.entries[1:], rest.data[e.ndata:]
		found++
		if len(rest.entries) == 0 {
			loggerThreadPeek(first)
		}
	}
	for _, l := range loggerStack.loggers {
		loggerThreadPeek(l)
	}
	return found
}

// loggerThreadPollWatchers sends lines to one watcher, or to all if watcher is
// watcherAll, and returns the number of bytes that the sockets have taken. With
// watcherAll it also looks for hang-ups of watchers that have no lines waiting. Unlike
// C, it does not poll first: the sockets do not block.
func loggerThreadPollWatchers(watcher int) (flushed int) {
	for x, w := range loggerStack.watchers {
		if w == nil || watcher != watcherAll && watcher != x {
			continue
		}
		w.failedFlush = false
		n, e := 1, unix.Errno(0)
		switch {
		case len(w.buf) > 0:
			if n, e = sidethreadWrite(w.c, w.buf); n > 0 {
				w.buf = w.buf[:copy(w.buf, w.buf[n:])]
				flushed += n
			}
		case watcher == watcherAll:
			// Discard the watcher's input: only a hang-up matters.
			var buf [512]byte
			n, e = rawRecv(w.c.sfd, buf[:])
		}
		if n <= 0 && e != unix.EAGAIN && e != unix.EINTR {
			loggerThreadCloseWatcher(w)
		}
	}
	return flushed
}

// The less loggerThread finds to do, the longer it sleeps; without watchers
// it sleeps until one is added.
func loggerThread() {
	toSleep := minLoggerSleep
	watching := false
	for {
		switch {
		case !watching:
			<-loggerWake
		case toSleep > minLoggerSleep && waitWakeUp(loggerWake, toSleep):
			toSleep = minLoggerSleep
		}
		loggerStack.lock.Lock()
		found := loggerThreadRead()
		loggerThreadPollWatchers(watcherAll)
		watching = loggerEflags.Load() != 0
		loggerStack.lock.Unlock()

		if found == 0 {
			toSleep = min(toSleep+toSleep/8, maxLoggerSleep)
		} else {
			toSleep = max(toSleep/2, minLoggerSleep)
		}
	}
}

// loggerInit starts the logger thread.
func loggerInit() {
	sharedLogger = loggerCreate()
	go loggerThread()
}

func loggerCreate() *logger {
	l := &logger{buf: logbufNew(settings.log.bufSize)}
	loggerStack.lock.Lock()
	loggerStack.loggers = append(loggerStack.loggers, l)
	loggerStack.lock.Unlock()
	return l
}

// loggerLog writes e and its data to l's buffer, or counts it as dropped. It sets gid,
// usec and ndata.
func loggerLog(l *logger, e *logentry, data []byte) {
	data = data[:min(len(data), loggerReqlen)]
	l.mutex.Lock()
	b := &l.buf
	if len(b.entries) == cap(b.entries) || cap(b.data)-len(b.data) < len(data) {
		l.dropped++
		l.mutex.Unlock()
		return
	}
	e.gid = loggerGid.Add(1)
	e.usec = time.Now().UnixMicro()
	e.ndata = int32(len(data))
	b.entries = append(b.entries, *e)
	b.data = append(b.data, data...)
	l.written++
	l.mutex.Unlock()
}

// loggerAddWatcher makes c a watcher, which the logger thread then owns. It returns
// false if there are too many watchers, or no memory.
func loggerAddWatcher(c *conn, f uint32) bool {
	loggerStack.lock.Lock()
	defer loggerStack.lock.Unlock()
	x := slices.Index(loggerStack.watchers[:], nil)
	if x < 0 {
		return false
	}
	buf, err := bufAlloc(max(settings.log.watcherBufSize, len("OK\r\n")))
	if err != nil {
		return false
	}
	w := &loggerWatcher{
		c:      c,
		id:     x,
		eflags: f,
		minGid: loggerGid.Add(1),
		buf:    append(buf[:0], "OK\r\n"...),
	}
	loggerStack.watchers[x] = w
	statsState.logWatchers.Add(1)
	loggerSetFlags()
	wakeUp(loggerWake)
	return true
}

// processWatchCommand: watch <what>*
func processWatchCommand(c *conn, pr *parser) {
	switch {
	case !settings.watchEnabled, c.transport == udpTransport:
		// Unlike C, refuse UDP: all its clients share the conn.
		outString(c, "CLIENT_ERROR watch commands not allowed")
		return
	case c.resp.count > 1:
		outString(c, "ERROR cannot pipeline other commands before watch")
		return
	}
	f := uint32(0)
	for i := 1; i < pr.ntokens; i++ {
		n := slices.IndexFunc(watchNames, func(w watchName) bool { return pr.prcmp(i, w.name) })
		if n < 0 {
			outString(c, "ERROR")
			return
		}
		f |= watchNames[n].flag
	}
	if f == 0 {
		f = logFetchers
	}
	if !loggerAddWatcher(c, f) {
		outString(c, "WATCHER_TOO_MANY log watcher limit reached")
		return
	}
	// The logger thread may already have returned c. But only this worker can close
	// c, and it is still busy here.
	connHandOver(c)
}

// Counters, and the stats command. From memcached.c: append_stat,
// process_stat, server_stats; thread.c: threadlocal_stats_*; stats_prefix.c.

package main

import (
	"bytes"
	"cmp"
	"fmt"
	"math/bits"
	"os"
	"strconv"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Counters of a worker; C's THREAD_STATS_FIELDS.
type threadStat int

const (
	statGetCmds threadStat = iota
	statGetMisses
	statGetExpired
	statGetFlushed
	statTouchCmds
	statTouchMisses
	statDeleteMisses
	statIncrMisses
	statDecrMisses
	statCasMisses
	statMetaCmds
	statBytesRead
	statBytesWritten
	statFlushCmds
	statConnYields
	statAuthCmds
	statAuthErrors
	statIdleKicks
	statResponseObjOom
	statReadBufOom
	statStoreTooLarge
	statStoreNoMemory
	statStoredInPlace // counts in total_items
	statGetExtstore   // this and the rest are C's EXTSTORE_THREAD_STATS_FIELDS
	statGetAbortedExtstore
	statGetOomExtstore
	statRecacheFromExtstore
	statMissFromExtstore
	statBadcrcFromExtstore
	numThreadStats
)

// Counters of a worker for each slab class; C's SLAB_STATS_FIELDS.
type slabStat int

const (
	slabSetCmds slabStat = iota
	slabGetHits
	slabTouchHits
	slabDeleteHits
	slabCasHits
	slabCasBadval
	slabIncrHits
	slabDecrHits
	numSlabStats
)

// Unlike C, which takes a lock for each increment, a worker counts in pending,
// which it owns, and statsFold adds that to total before the reply is sent.
type threadStats struct {
	pending threadCounts
	dirty   uint64 // a bit for each slab class with counts in pending

	mutex sync.Mutex // guards what follows
	total threadCounts
	bufs  threadBufs
}

// Current values of a worker, which statsReset does not change.
type threadBufs struct{ respCount, readBufCount, readBufFree int }

type threadCounts struct {
	n       [numThreadStats]uint64
	slab    [maxNumberOfSlabClasses][numSlabStats]uint64
	lruHits [powerLargest]uint64
}

// Counters of the server as a whole, which statsReset zeroes. Unlike C's, they need
// no lock.
var stats struct {
	totalConns                 atomic.Uint64
	sslCounters                //lint:ignore U1000 used with -tags tls
	rejectedConns              atomic.Uint64
	mallocFails                atomic.Uint64
	listenDisabledNum          atomic.Uint64
	slabsMoved                 atomic.Uint64
	slabReassignRescues        atomic.Uint64
	slabReassignInlineReclaim  atomic.Uint64
	slabReassignChunkRescues   atomic.Uint64
	slabReassignBusyItems      atomic.Uint64
	slabReassignBusyDeletes    atomic.Uint64
	slabReassignBusyNomem      atomic.Uint64
	slabReassignBusyReturns    atomic.Uint64 // pages
	slabReassignLastBusyStatus atomic.Uint64 // a moveStatus
	lruCrawlerStarts           atomic.Uint64
	lruMaintainerJuggles       atomic.Uint64
	timeInListenDisabledUs     atomic.Uint64
	logWorkerDropped           atomic.Uint64
	logWorkerWritten           atomic.Uint64
	logWatcherSkipped          atomic.Uint64
	logWatcherSent             atomic.Uint64
	unexpectedNapiIds          atomic.Uint64
	roundRobinFallback         atomic.Uint64
	extstoreCompactLost        atomic.Uint64
	extstoreCompactRescues     atomic.Uint64
	extstoreCompactSkipped     atomic.Uint64
	extstoreCompactRescCold    atomic.Uint64
	extstoreCompactRescOld     atomic.Uint64
	extstoreCompactBadcrc      atomic.Uint64
}

// Current values, which statsReset does not change.
var statsState struct {
	currConns           atomic.Int64
	connStructs         atomic.Int64
	reservedFds         atomic.Int64
	hashBytes           atomic.Int64
	hashPowerLevel      atomic.Int64
	logWatchers         atomic.Int64
	hashIsExpanding     atomic.Bool
	acceptingConns      atomic.Bool
	slabReassignRunning atomic.Bool
	lruCrawlerRunning   atomic.Bool

	extstoreMemoryPressure atomic.Int64 // hundredths of a percent
}

// Counts for one prefix: the part of a key before the delimiter (-D).
type prefixCounts struct{ gets, hits, sets, deletes uint64 }

var (
	statsLock   sync.Mutex // STATS_LOCK; guards prefixStats
	prefixStats = make(map[string]*prefixCounts)
)

const maxPrefixCount = 1 << 16

// slab increments a counter of the item's slab class.
func (s *threadStats) slab(it *item, which slabStat) { s.slabClass(int(it.clsid()), which) }

func (s *threadStats) slabClass(id int, which slabStat) {
	s.pending.slab[id][which]++
	s.dirty |= 1 << id
}

// lruHit counts a hit in the item's LRU.
func (s *threadStats) lruHit(it *item) {
	s.pending.lruHits[it.slabsClsid]++
	s.dirty |= 1 << it.clsid()
}

// deltaMiss counts an incr or a decr of a missing item.
func (s *threadStats) deltaMiss(incr bool) {
	if incr {
		s.pending.n[statIncrMisses]++
	} else {
		s.pending.n[statDecrMisses]++
	}
}

// statsFold publishes what t has counted.
func statsFold(t *thread) {
	s := &t.stats
	s.mutex.Lock()
	s.bufs = threadBufs{t.bufs.respCount, t.bufs.rbufs, len(t.bufs.rbufCache) + t.bufs.longFree/readBufferSize}
	for i, n := range s.pending.n {
		s.total.n[i] += n
	}
	s.pending.n = [numThreadStats]uint64{}
	for s.dirty != 0 {
		id := bits.TrailingZeros64(s.dirty)
		s.dirty &^= 1 << id
		for i, n := range s.pending.slab[id] {
			s.total.slab[id][i] += n
		}
		s.pending.slab[id] = [numSlabStats]uint64{}
		for lru := id; lru < powerLargest; lru += maxNumberOfSlabClasses {
			s.total.lruHits[lru] += s.pending.lruHits[lru]
			s.pending.lruHits[lru] = 0
		}
	}
	s.mutex.Unlock()
}

// threadlocalStatsReset zeroes what the workers have counted.
func threadlocalStatsReset() {
	for _, t := range threads {
		t.stats.mutex.Lock()
		t.stats.total = threadCounts{}
		t.stats.mutex.Unlock()
	}
}

// The sums over all workers.
type statSums struct {
	threadCounts
	threadBufs
}

// threadlocalStatsAggregate sums up what the workers have counted. Hits are
// counted by LRU; they are added to get_hits of the LRU's slab class here.
func threadlocalStatsAggregate() (sum statSums) {
	for _, t := range threads {
		t.stats.mutex.Lock()
		sum.respCount += t.stats.bufs.respCount
		sum.readBufCount += t.stats.bufs.readBufCount
		sum.readBufFree += t.stats.bufs.readBufFree
		for i, n := range t.stats.total.n {
			sum.n[i] += n
		}
		for id := range sum.slab {
			for i, n := range t.stats.total.slab[id] {
				sum.slab[id][i] += n
			}
		}
		for lru, n := range t.stats.total.lruHits {
			sum.lruHits[lru] += n
			sum.slab[lru%maxNumberOfSlabClasses][slabGetHits] += n
		}
		t.stats.mutex.Unlock()
	}
	return sum
}

func statsReset() {
	statsPrefixClear()
	for _, lines := range statLines {
		for _, l := range lines {
			if n, ok := l.val.(*atomic.Uint64); ok {
				n.Store(0)
			}
		}
	}
	stats.slabReassignLastBusyStatus.Store(0)
	threadlocalStatsReset()
	itemStatsReset()
}

// appendStatsEnd appends the end of the reply to a stats command.
func appendStatsEnd(c *conn) {
	if c.protocol == binaryProt {
		appendStat(c, "", "")
	} else {
		c.resp.wbuf = append(c.resp.wbuf, "END\r\n"...)
	}
}

// appendStat appends a line; in the binary protocol that is a packet.
func appendStat(c *conn, name, format string, args ...any) {
	if c.protocol == binaryProt {
		val := fmt.Sprintf(format, args...)
		b := appendBinHeader(c.resp.wbuf, protocolBinaryCmdStat, protocolBinaryResponseSuccess,
			0, len(name), len(name)+len(val), c.bin.header.opaque, 0)
		c.resp.wbuf = append(append(b, name...), val...)
		return
	}
	b := append(append(append(c.resp.wbuf, "STAT "...), name...), ' ') // without a string for the value
	c.resp.wbuf = append(fmt.Appendf(b, format, args...), "\r\n"...)
	gcAllocated(32) // what fmt makes of args
}

// processStatsDetail returns the answer, "" if it has appended that.
func processStatsDetail(c *conn, pr *parser) string {
	switch {
	case !settings.dumpEnabled:
		return "CLIENT_ERROR stats detail not allowed"
	case pr.prcmp(2, "on"):
		settings.detailEnabled.Store(true)
	case pr.prcmp(2, "off"):
		settings.detailEnabled.Store(false)
	case pr.prcmp(2, "dump"):
		c.resp.wbuf = statsPrefixDump(c.resp.wbuf)
		return ""
	default:
		return "CLIENT_ERROR usage: stats detail on|off|dump"
	}
	return "OK"
}

// A statLine is a line of stats. val is where the value comes from: a threadStat or
// slabStat is summed over the workers; a pointer points to the value; a function
// returns it; anything else is the value itself. An *atomic.Uint64 points into stats,
// and statsReset zeroes it.
type statLine struct {
	name  string
	shown func() bool // nil: always
	val   any
}

// statLines are the lines of stats about the server, in C's order (server_stats,
// storage_stats).
var statLines = [...][]statLine{{
	{"pid", nil, func(threadBufs) any { return os.Getpid() }},
	{"uptime", nil, func(threadBufs) any { return currentTime.Load() - itemUpdateInterval }},
	{"time", nil, func(threadBufs) any { return int64(currentTime.Load()) + processStarted }},
	{"version", nil, version},
	{"libevent", nil, "none"},
	{"pointer_size", nil, strconv.IntSize},
	{"rusage_user", nil, func(threadBufs) any { return cpuTime(getrusage().Utime) }},
	{"rusage_system", nil, func(threadBufs) any { return cpuTime(getrusage().Stime) }},
	{"max_connections", nil, &settings.net.maxconns},
	{"curr_connections", nil, func(threadBufs) any { return statsState.currConns.Load() - 1 }},
	{"total_connections", nil, &stats.totalConns},
	{"rejected_connections", func() bool { return settings.net.maxconnsFast }, &stats.rejectedConns},
	{"connection_structures", nil, &statsState.connStructs},
	{"response_obj_oom", nil, statResponseObjOom},
	{"response_obj_count", nil, func(s threadBufs) any { return s.respCount }},
	{"response_obj_bytes", nil, func(threadBufs) any { return len(threads) * roundBufs * wbufSize }},
	{"read_buf_count", nil, func(s threadBufs) any { return s.readBufCount }},
	{"read_buf_bytes", nil, func(s threadBufs) any { return s.readBufCount * readBufferSize }},
	{"read_buf_bytes_free", nil, func(s threadBufs) any { return s.readBufFree * readBufferSize }},
	{"read_buf_oom", nil, statReadBufOom},
	{"reserved_fds", nil, &statsState.reservedFds},
	{"cmd_get", nil, statGetCmds},
	{"cmd_set", nil, slabSetCmds},
	{"cmd_flush", nil, statFlushCmds},
	{"cmd_touch", nil, statTouchCmds},
	{"cmd_meta", nil, statMetaCmds},
	{"get_hits", nil, slabGetHits},
	{"get_misses", nil, statGetMisses},
	{"get_expired", nil, statGetExpired},
	{"get_flushed", nil, statGetFlushed},
	{"get_extstore", withExtstore, statGetExtstore},
	{"get_aborted_extstore", withExtstore, statGetAbortedExtstore},
	{"get_oom_extstore", withExtstore, statGetOomExtstore},
	{"recache_from_extstore", withExtstore, statRecacheFromExtstore},
	{"miss_from_extstore", withExtstore, statMissFromExtstore},
	{"badcrc_from_extstore", withExtstore, statBadcrcFromExtstore},
	{"delete_misses", nil, statDeleteMisses},
	{"delete_hits", nil, slabDeleteHits},
	{"incr_misses", nil, statIncrMisses},
	{"incr_hits", nil, slabIncrHits},
	{"decr_misses", nil, statDecrMisses},
	{"decr_hits", nil, slabDecrHits},
	{"cas_misses", nil, statCasMisses},
	{"cas_hits", nil, slabCasHits},
	{"cas_badval", nil, slabCasBadval},
	{"touch_hits", nil, slabTouchHits},
	{"touch_misses", nil, statTouchMisses},
	{"store_too_large", nil, statStoreTooLarge},
	{"store_no_memory", nil, statStoreNoMemory},
	{"auth_cmds", nil, statAuthCmds},
	{"auth_errors", nil, statAuthErrors},
	{"idle_kicks", func() bool { return settings.net.idleTimeout != 0 }, statIdleKicks},
	{"bytes_read", nil, statBytesRead},
	{"bytes_written", nil, statBytesWritten},
	{"limit_maxbytes", nil, func(threadBufs) any { return settings.maxbytes.Load() }},
	{"accepting_conns", nil, &statsState.acceptingConns},
	{"listen_disabled_num", nil, &stats.listenDisabledNum},
	{"time_in_listen_disabled_us", nil, &stats.timeInListenDisabledUs},
	{"threads", nil, &settings.numThreads},
	{"conn_yields", nil, statConnYields},
	{"hash_power_level", nil, &statsState.hashPowerLevel},
	{"hash_bytes", nil, &statsState.hashBytes},
	{"hash_is_expanding", nil, &statsState.hashIsExpanding},
	{"slab_reassign_rescues", withReassign, &stats.slabReassignRescues},
	{"slab_reassign_chunk_rescues", withReassign, &stats.slabReassignChunkRescues},
	{"slab_reassign_inline_reclaim", withReassign, &stats.slabReassignInlineReclaim},
	{"slab_reassign_busy_items", withReassign, &stats.slabReassignBusyItems},
	{"slab_reassign_busy_deletes", withReassign, &stats.slabReassignBusyDeletes},
	{"slab_reassign_busy_nomem", withReassign, &stats.slabReassignBusyNomem},
	{"slab_reassign_busy_returns", func() bool { return stats.slabReassignBusyReturns.Load() > 0 }, &stats.slabReassignBusyReturns},
	{"slab_reassign_last_busy_status", withReassign, func(threadBufs) any { return moveStatusText[stats.slabReassignLastBusyStatus.Load()] }},
	{"slab_reassign_running", withReassign, &statsState.slabReassignRunning},
	{"slabs_moved", withReassign, &stats.slabsMoved},
	{"lru_crawler_running", withCrawler, &statsState.lruCrawlerRunning},
	{"lru_crawler_starts", withCrawler, &stats.lruCrawlerStarts},
	{"lru_maintainer_juggles", func() bool { return settings.lru.maintainerThread }, &stats.lruMaintainerJuggles},
	{"malloc_fails", nil, &stats.mallocFails},
	{"log_worker_dropped", nil, &stats.logWorkerDropped},
	{"log_worker_written", nil, &stats.logWorkerWritten},
	{"log_watcher_skipped", nil, &stats.logWatcherSkipped},
	{"log_watcher_sent", nil, &stats.logWatcherSent},
	{"log_watchers", nil, &statsState.logWatchers},
}, sslStatLines, {
	{"unexpected_napi_ids", nil, &stats.unexpectedNapiIds},
	{"round_robin_fallback", nil, &stats.roundRobinFallback},
	{"extstore_memory_pressure", withExtstore, func(threadBufs) any {
		return fmt.Sprintf("%.2f", float64(statsState.extstoreMemoryPressure.Load())/100)
	}},
	{"extstore_compact_lost", withExtstore, &stats.extstoreCompactLost},
	{"extstore_compact_rescues", withExtstore, &stats.extstoreCompactRescues},
	{"extstore_compact_resc_cold", withExtstore, &stats.extstoreCompactRescCold},
	{"extstore_compact_resc_old", withExtstore, &stats.extstoreCompactRescOld},
	{"extstore_compact_skipped", withExtstore, &stats.extstoreCompactSkipped},
	{"extstore_compact_badcrc", withExtstore, &stats.extstoreCompactBadcrc}, // not in C
}}

func withExtstore() bool { return extStorage != nil }
func withReassign() bool { return settings.slab.reassign }
func withCrawler() bool  { return settings.lru.crawler.Load() }

func getrusage() (usage unix.Rusage) {
	unix.Getrusage(unix.RUSAGE_SELF, &usage)
	return usage
}

func cpuTime(t unix.Timeval) string { return fmt.Sprintf("%d.%06d", t.Sec, t.Usec) }

// serverStats appends the part of stats about the server; getStats appends the part
// about its items.
func serverStats(c *conn) {
	sums := threadlocalStatsAggregate()
	for _, lines := range statLines {
		for _, l := range lines {
			if l.shown == nil || l.shown() {
				appendStat(c, l.name, "%v", l.value(&sums))
			}
		}
	}
	storageStats(c)
}

// value returns the value that the line shows.
func (l *statLine) value(sums *statSums) any {
	switch v := l.val.(type) {
	case threadStat:
		return sums.n[v]
	case slabStat:
		n := uint64(0)
		for id := range sums.slab {
			n += sums.slab[id][v]
		}
		return n
	case *atomic.Uint64:
		return v.Load()
	case *atomic.Int64:
		return v.Load()
	case *atomic.Bool:
		return btoi(v.Load())
	case *int:
		return *v
	case func(threadBufs) any: // a *statSums argument would move sums to the heap
		return v(sums.threadBufs)
	case int, string:
		return v
	}
	panic("statLines: " + l.name)
}

// A setting is a line of stats settings.
type setting struct {
	name  string
	value any
}

// processStatSettings appends the settings, in C's order. Settings of features
// that mc9 lacks are left out, or shown as off.
func processStatSettings(c *conn) {
	hotPct, warmPct := lruPcts()
	hotFactor, warmFactor := lruMaxFactors()
	appendSettings(c, []setting{
		{"maxbytes", settings.maxbytes.Load()},
		{"maxconns", settings.net.maxconns},
		{"tcpport", settings.net.port},
		{"udpport", settings.net.udpport},
		{"inter", orNull(settings.net.inter)},
		{"verbosity", settings.verbose.Load()},
		{"oldest", settings.oldestLive.Load()},
		{"evictions", map[bool]string{true: "on", false: "off"}[settings.evictToFree]},
		{"domain_socket", orNull(settings.net.socketpath)},
		{"umask", fmt.Sprintf("%o", settings.net.access)},
		{"shutdown_command", settings.shutdownCommand},
		{"growth_factor", settings.slab.factor},
		{"chunk_size", settings.slab.chunkSize},
		{"num_threads", settings.numThreads},
		{"num_threads_per_udp", settings.net.numThreadsPerUdp},
		{"stat_key_prefix", fmt.Sprintf("%c", settings.prefixDelimiter)},
		{"detail_enabled", settings.detailEnabled.Load()},
		{"reqs_per_event", settings.net.reqsPerEvent},
		{"cas_enabled", settings.useCas},
		{"tcp_backlog", settings.net.backlog},
		{"binding_protocol", protText(settings.net.bindingProtocol)},
		{"auth_enabled_sasl", settings.auth.sasl},
		{"auth_enabled_ascii", cmp.Or(settings.auth.file, "no")},
		{"item_size_max", settings.itemSizeMax},
		{"maxconns_fast", settings.net.maxconnsFast},
		{"hashpower_init", settings.hashpowerInit},
		{"slab_reassign", settings.slab.reassign},
		{"slab_automove", settings.slab.automove.Load()},
		{"slab_automove_ratio", settings.slab.automoveRatio.Load()},
		{"slab_automove_window", settings.slab.automoveWindow.Load()},
		{"slab_chunk_max", settings.slab.chunkSizeMax},
		{"lru_crawler", settings.lru.crawler.Load()},
		{"lru_crawler_sleep", settings.lru.crawlerSleep.Load()},
		{"lru_crawler_tocrawl", settings.lru.crawlerTocrawl.Load()},
		{"tail_repair_time", settings.lru.tailRepairTime},
		{"flush_enabled", settings.flushEnabled},
		{"dump_enabled", settings.dumpEnabled},
		{"hash_algorithm", "maphash"},
		{"lru_maintainer_thread", settings.lru.maintainerThread},
		{"lru_segmented", settings.lru.segmented.Load()},
		{"hot_lru_pct", hotPct},
		{"warm_lru_pct", warmPct},
		{"hot_max_factor", hotFactor},
		{"warm_max_factor", warmFactor},
		{"temp_lru", settings.lru.tempLru.Load()},
		{"temporary_ttl", settings.lru.temporaryTtl.Load()},
		{"idle_timeout", settings.net.idleTimeout},
		{"watcher_logbuf_size", settings.log.watcherBufSize},
		{"worker_logbuf_size", settings.log.bufSize},
		{"read_buf_mem_limit", settings.net.readBufMemLimit},
		{"track_sizes", itemStatsSizesStatus()},
		{"inline_ascii_response", "no"},
		{"drop_privileges", settings.dropPrivileges},
		{"ext_item_size", settings.ext.itemSize.Load()},
		{"ext_item_age", settings.ext.itemAge.Load()},
		{"ext_low_ttl", settings.ext.lowTtl.Load()},
		{"ext_recache_rate", settings.ext.recacheRate.Load()},
		{"ext_wbuf_size", storageConf.ext.wbufSize},
		{"ext_compact_under", settings.ext.compactUnder.Load()},
		{"ext_drop_under", settings.ext.dropUnder.Load()},
		{"ext_max_sleep", settings.ext.maxSleep.Load()},
		{"ext_max_frag", settings.ext.maxFrag.Load()},
		{"slab_automove_freeratio", fmt.Sprintf("%.3f", settings.slab.automoveFreeratio.Load())},
		{"ext_drop_unread", settings.ext.dropUnread.Load()},
	})
	appendSettings(c, sslStatSettings())
	appendSettings(c, []setting{
		{"num_napi_ids", settings.net.numNapiIds},
		{"memory_file", cmp.Or(settings.memoryFile, "(null)")},
		{"client_flags_size", "4"},
	})
}

func appendSettings(c *conn, list []setting) {
	for _, s := range list {
		switch v := s.value.(type) {
		case bool:
			appendStat(c, s.name, "%s", yesno(v))
		case float64:
			appendStat(c, s.name, "%.2f", v)
		default:
			appendStat(c, s.name, "%v", v)
		}
	}
}

// getStats appends statistics of the items; a statType of "" stands for the
// general ones. It returns false for an unknown statType.
func getStats(c *conn, statType string) bool {
	switch statType {
	case "":
		bytes, currItems, totalItems := itemStatsCurr()
		appendStat(c, "bytes", "%d", bytes)
		appendStat(c, "curr_items", "%d", currItems)
		appendStat(c, "total_items", "%d", totalItems+threadlocalStatsAggregate().n[statStoredInPlace])
		n, _ := globalPagePoolSize()
		appendStat(c, "slab_global_page_pool", "%d", n)
		itemStatsTotals(c)
	case "items":
		itemStats(c)
	case "slabs":
		slabsStats(c)
	case "sizes":
		itemStatsSizes(c)
	default:
		return false
	}
	return true
}

// getConnText returns one end of a connection as text, such as
// "tcp:127.0.0.1:11211".
func getConnText(sa unix.Sockaddr, tr transport) string {
	proto := "tcp"
	if tr == udpTransport {
		proto = "udp"
	}
	addr := addrPort(sa)
	local, ok := sa.(*unix.SockaddrUnix)
	switch {
	case addr.Addr().Is4():
		return proto + ":" + addr.String()
	case addr.Addr().Is6():
		return proto + "6:" + addr.String()
	case ok && local.Name != "@":
		return "unix:" + local.Name
	}
	return "?:<AF 0>" // the client's end of a Unix socket, which has no name
}

// processStatsConns appends the state of each connection. The workers run
// meanwhile, so the lines of one connection may disagree.
func processStatsConns(c *conn) {
	connPublish(c)
	for fd := range conns {
		sc := conns[fd].Load()
		if sc == nil {
			continue
		}
		s := connSeen(sc)
		name := strconv.Itoa(fd) + ":"
		if s.transport == udpTransport {
			appendStat(c, name+"UDP", "UDP")
		}
		if s.state == connClosed {
			continue
		}
		local, _ := unix.Getsockname(fd)
		if s.state == connListening || s.transport == udpTransport && s.state == connRead {
			appendStat(c, name+"addr", "%s", getConnText(local, s.transport))
		} else {
			peer, _ := unix.Getpeername(fd)
			appendStat(c, name+"addr", "%s", getConnText(peer, s.transport))
			appendStat(c, name+"listen_addr", "%s", getConnText(local, s.transport))
		}
		appendStat(c, name+"state", "%s", stateText(s.state))
		appendStat(c, name+"secs_since_last_cmd", "%d", currentTime.Load()-s.lastCmdTime)
		if n := sc.respsSuspended.Load(); n != 0 {
			appendStat(c, name+"resps_waiting", "%d", n)
		}
	}
}

// processStat serves stats. The subcommand may be abbreviated, except items,
// slabs and sizes.
func processStat(c *conn, pr *parser) {
	statsFold(c.thread)
	answer, end := "", true
	switch {
	case pr.ntokens == 1:
		serverStats(c)
		getStats(c, "")
	case pr.prcmp(subcommandToken, "reset"):
		statsReset()
		answer = "RESET"
	case pr.prcmp(subcommandToken, "detail"):
		answer, end = processStatsDetail(c, pr), false
	case pr.prcmp(subcommandToken, "settings"):
		processStatSettings(c)
	case pr.prcmp(subcommandToken, "cachedump"):
		answer, end = processStatCachedump(c, pr), false
	case pr.prcmp(subcommandToken, "conns"):
		processStatsConns(c)
	case pr.prcmp(subcommandToken, "extstore"):
		processExtstoreStats(c)
	case getStats(c, string(pr.token(subcommandToken))):
	default:
		answer = "ERROR"
	}
	if answer != "" {
		outString(c, answer)
		return
	}
	if end {
		appendStatsEnd(c)
	}
	connSetState(c, connNewCmd)
}

// processStatCachedump: stats cachedump <slab class> <limit>. It returns the answer,
// "" if it has appended that.
func processStatCachedump(c *conn, pr *parser) string {
	id, ok := toktou32(pr.token(2))
	limit, ok2 := toktou32(pr.token(3))
	switch {
	case !settings.dumpEnabled:
		return "CLIENT_ERROR stats cachedump not allowed"
	case pr.ntokens < 4:
		return "CLIENT_ERROR bad command line"
	case !ok || !ok2:
		return errBadFormat
	case id >= maxNumberOfSlabClasses:
		return "CLIENT_ERROR Illegal slab id"
	}
	c.resp.wbuf = append(c.resp.wbuf, itemCachedump(id, limit)...)
	return ""
}

func statsPrefixClear() {
	statsLock.Lock()
	clear(prefixStats)
	statsLock.Unlock()
}

// statsPrefixFind returns the counts of key's prefix, or nil if it has none
// or there are too many prefixes. statsLock is held.
func statsPrefixFind(key []byte) *prefixCounts {
	n := bytes.IndexByte(key, settings.prefixDelimiter)
	if n < 0 || bytes.IndexByte(key[:n], 0) >= 0 {
		return nil
	}
	pfs := prefixStats[string(key[:n])]
	if pfs == nil && len(prefixStats) < maxPrefixCount {
		pfs = new(prefixCounts)
		prefixStats[string(key[:n])] = pfs
	}
	return pfs
}

// statsPrefixRecord calls count for the counts of key's prefix.
func statsPrefixRecord(key []byte, count func(pfs *prefixCounts)) {
	statsLock.Lock()
	if pfs := statsPrefixFind(key); pfs != nil {
		count(pfs)
	}
	statsLock.Unlock()
}

func statsPrefixRecordGet(key []byte, isHit bool) {
	statsPrefixRecord(key, func(pfs *prefixCounts) {
		pfs.gets++
		pfs.hits += uint64(btoi(isHit))
	})
}

func statsPrefixRecordDelete(key []byte) {
	statsPrefixRecord(key, func(pfs *prefixCounts) { pfs.deletes++ })
}

func statsPrefixRecordSet(key []byte) {
	statsPrefixRecord(key, func(pfs *prefixCounts) { pfs.sets++ })
}

func statsPrefixDump(b []byte) []byte {
	statsLock.Lock()
	for prefix, pfs := range prefixStats {
		b = fmt.Appendf(b, "PREFIX %s get %d hit %d set %d del %d\r\n",
			prefix, pfs.gets, pfs.hits, pfs.sets, pfs.deletes)
	}
	statsLock.Unlock()
	return append(b, "END\r\n"...)
}

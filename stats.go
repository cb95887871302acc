// Counters, and the stats command. From memcached.c: append_stat,
// process_stat, server_stats; thread.c: threadlocal_stats_*; stats_prefix.c.

package main

import (
	"cmp"
	"fmt"
	"math/bits"
	"net/netip"
	"os"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

// Counters of a worker, as THREAD_STATS_FIELDS.
const (
	statGetCmds = iota
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
	statGetExtstore // of these on, as EXTSTORE_THREAD_STATS_FIELDS
	statGetAbortedExtstore
	statGetOomExtstore
	statRecacheFromExtstore
	statMissFromExtstore
	statBadcrcFromExtstore
	numThreadStats
)

// Counters of a worker for each slab class, as SLAB_STATS_FIELDS.
const (
	slabSetCmds = iota
	slabGetHits
	slabTouchHits
	slabDeleteHits
	slabCasHits
	slabCasBadval
	slabIncrHits
	slabDecrHits
	numSlabStats
)

// Not as in C, where each increment takes a lock: a worker counts in pending,
// which it owns, and statsFold adds that to total before the reply is sent.
type threadStats struct {
	pending threadCounts
	dirty   uint64 // a bit for each slab class with counts in pending

	mutex sync.Mutex // guards what follows
	total threadCounts
	// Current values; not reset.
	respCount, readBufCount, readBufFree int
}

type threadCounts struct {
	n       [numThreadStats]uint64
	slab    [maxNumberOfSlabClasses][numSlabStats]uint64
	lruHits [powerLargest]uint64
}

type globalStats struct {
	totalConns                 uint64
	sslCounters                //lint:ignore U1000 used with -tags tls
	rejectedConns              uint64
	mallocFails                uint64
	listenDisabledNum          uint64
	slabsMoved                 uint64
	slabReassignRescues        uint64
	slabReassignInlineReclaim  uint64
	slabReassignChunkRescues   uint64
	slabReassignBusyItems      uint64
	slabReassignBusyDeletes    uint64
	slabReassignBusyNomem      uint64
	slabReassignLastBusyStatus string
	lruCrawlerStarts           uint64
	lruMaintainerJuggles       uint64
	timeInListenDisabledUs     uint64
	logWorkerDropped           uint64
	logWorkerWritten           uint64
	logWatcherSkipped          uint64
	logWatcherSent             uint64
	unexpectedNapiIds          uint64
	roundRobinFallback         uint64
	extstoreCompactLost        uint64
	extstoreCompactRescues     uint64
	extstoreCompactSkipped     uint64
	extstoreCompactRescCold    uint64
	extstoreCompactRescOld     uint64
}

// Counters of the server as a whole. stats reset clears stats, but not
// statsState, which holds current values.
var (
	statsLock sync.Mutex // STATS_LOCK; guards stats, statsState and prefixStats

	stats globalStats

	statsState struct {
		currConns           uint64
		connStructs         uint64
		reservedFds         uint64
		hashBytes           uint64
		hashPowerLevel      uint64
		logWatchers         uint64
		hashIsExpanding     bool
		acceptingConns      bool
		slabReassignRunning bool
		lruCrawlerRunning   bool

		extstoreMemoryPressure float64 // percent
	}
)

// Counts by prefix, which is the part of a key before the delimiter (-D).
// Guarded by statsLock.
type prefixCounts struct{ gets, hits, sets, deletes uint64 }

var prefixStats = make(map[string]*prefixCounts)

const maxPrefixCount = 1 << 16

// slab increments a counter of the item's slab class.
func (s *threadStats) slab(it *item, which int) {
	id := it.clsid()
	s.pending.slab[id][which]++
	s.dirty |= 1 << id
}

// lruHit counts a hit in the item's LRU.
func (s *threadStats) lruHit(it *item) {
	s.pending.lruHits[it.slabsClsid]++
	s.dirty |= 1 << it.clsid()
}

// statsFold publishes what t has counted.
func statsFold(t *thread) {
	s := &t.stats
	s.mutex.Lock()
	s.respCount, s.readBufCount, s.readBufFree = t.respCount, t.rbufs, len(t.rbufCache)
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

// threadlocalStatsAggregate sums up what the workers have counted. Hits are
// counted by LRU, and added here to get_hits of their slab class.
func threadlocalStatsAggregate() (sum threadCounts) {
	for _, t := range threads {
		t.stats.mutex.Lock()
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

// slabStatsAggregate sums up the counters of all slab classes.
func slabStatsAggregate(stats *threadCounts) (sum [numSlabStats]uint64) {
	for id := range stats.slab {
		for i, n := range stats.slab[id] {
			sum[i] += n
		}
	}
	return sum
}

func statsInit() {
	statsState.acceptingConns = true
	statsPrefixClear()
}

func statsReset() {
	statsLock.Lock()
	clear(prefixStats)
	stats = globalStats{}
	statsLock.Unlock()
	threadlocalStatsReset()
	itemStatsReset()
}

// appendBinStats is appendStats for the binary protocol: a packet per line,
// and an empty one at the end.
func appendBinStats(c *conn, key, val string) {
	b := appendBinHeader(c.resp.wbuf, protocolBinaryCmdStat, protocolBinaryResponseSuccess,
		0, len(key), len(key)+len(val), c.binaryHeader.opaque, 0)
	c.resp.wbuf = append(append(b, key...), val...)
}

// appendStats appends one line to the reply of a stats command, or its end if
// key is "".
func appendStats(c *conn, key, val string) {
	if c.protocol == binaryProt {
		appendBinStats(c, key, val)
		return
	}
	if key == "" {
		c.resp.wbuf = append(c.resp.wbuf, "END\r\n"...)
		return
	}
	c.resp.wbuf = fmt.Appendf(c.resp.wbuf, "STAT %s %s\r\n", key, val)
}

func appendStat(c *conn, name, format string, args ...any) {
	appendStats(c, name, fmt.Sprintf(format, args...))
}

func processStatsDetail(c *conn, pr *parser) {
	switch {
	case !settings.dumpEnabled:
		outString(c, "CLIENT_ERROR stats detail not allowed")
	case pr.prcmp(2, "on"):
		settings.detailEnabled.Store(true)
		outString(c, "OK")
	case pr.prcmp(2, "off"):
		settings.detailEnabled.Store(false)
		outString(c, "OK")
	case pr.prcmp(2, "dump"):
		c.resp.wbuf = statsPrefixDump(c.resp.wbuf)
		connSetState(c, connNewCmd)
	default:
		outString(c, "CLIENT_ERROR usage: stats detail on|off|dump")
	}
}

// serverStats appends the part of stats about the server; getStats appends
// that about its items.
func serverStats(c *conn) {
	var usage unix.Rusage
	unix.Getrusage(unix.RUSAGE_SELF, &usage)
	var respCount, readBufCount, readBufFree int
	for _, t := range threads {
		t.stats.mutex.Lock()
		respCount += t.stats.respCount
		readBufCount += t.stats.readBufCount
		readBufFree += t.stats.readBufFree
		t.stats.mutex.Unlock()
	}
	ts := threadlocalStatsAggregate()
	ss := slabStatsAggregate(&ts)
	now := currentTime.Load()

	statsLock.Lock()
	appendStat(c, "pid", "%d", os.Getpid())
	appendStat(c, "uptime", "%d", now-itemUpdateInterval)
	appendStat(c, "time", "%d", int64(now)+processStarted)
	appendStat(c, "version", "%s", version)
	appendStat(c, "libevent", "none")
	appendStat(c, "pointer_size", "%d", strconv.IntSize)
	appendStat(c, "rusage_user", "%d.%06d", usage.Utime.Sec, usage.Utime.Usec)
	appendStat(c, "rusage_system", "%d.%06d", usage.Stime.Sec, usage.Stime.Usec)
	appendStat(c, "max_connections", "%d", settings.maxconns)
	appendStat(c, "curr_connections", "%d", statsState.currConns-1)
	appendStat(c, "total_connections", "%d", stats.totalConns)
	if settings.maxconnsFast {
		appendStat(c, "rejected_connections", "%d", stats.rejectedConns)
	}
	appendStat(c, "connection_structures", "%d", statsState.connStructs)
	appendStat(c, "response_obj_oom", "%d", ts.n[statResponseObjOom])
	appendStat(c, "response_obj_count", "%d", respCount)
	appendStat(c, "response_obj_bytes", "%d", len(threads)*roundBufs*wbufSize)
	appendStat(c, "read_buf_count", "%d", readBufCount)
	appendStat(c, "read_buf_bytes", "%d", readBufCount*readBufferSize)
	appendStat(c, "read_buf_bytes_free", "%d", readBufFree*readBufferSize)
	appendStat(c, "read_buf_oom", "%d", ts.n[statReadBufOom])
	appendStat(c, "reserved_fds", "%d", statsState.reservedFds)
	appendStat(c, "cmd_get", "%d", ts.n[statGetCmds])
	appendStat(c, "cmd_set", "%d", ss[slabSetCmds])
	appendStat(c, "cmd_flush", "%d", ts.n[statFlushCmds])
	appendStat(c, "cmd_touch", "%d", ts.n[statTouchCmds])
	appendStat(c, "cmd_meta", "%d", ts.n[statMetaCmds])
	appendStat(c, "get_hits", "%d", ss[slabGetHits])
	appendStat(c, "get_misses", "%d", ts.n[statGetMisses])
	appendStat(c, "get_expired", "%d", ts.n[statGetExpired])
	appendStat(c, "get_flushed", "%d", ts.n[statGetFlushed])
	if extStorage != nil {
		appendStat(c, "get_extstore", "%d", ts.n[statGetExtstore])
		appendStat(c, "get_aborted_extstore", "%d", ts.n[statGetAbortedExtstore])
		appendStat(c, "get_oom_extstore", "%d", ts.n[statGetOomExtstore])
		appendStat(c, "recache_from_extstore", "%d", ts.n[statRecacheFromExtstore])
		appendStat(c, "miss_from_extstore", "%d", ts.n[statMissFromExtstore])
		appendStat(c, "badcrc_from_extstore", "%d", ts.n[statBadcrcFromExtstore])
	}
	appendStat(c, "delete_misses", "%d", ts.n[statDeleteMisses])
	appendStat(c, "delete_hits", "%d", ss[slabDeleteHits])
	appendStat(c, "incr_misses", "%d", ts.n[statIncrMisses])
	appendStat(c, "incr_hits", "%d", ss[slabIncrHits])
	appendStat(c, "decr_misses", "%d", ts.n[statDecrMisses])
	appendStat(c, "decr_hits", "%d", ss[slabDecrHits])
	appendStat(c, "cas_misses", "%d", ts.n[statCasMisses])
	appendStat(c, "cas_hits", "%d", ss[slabCasHits])
	appendStat(c, "cas_badval", "%d", ss[slabCasBadval])
	appendStat(c, "touch_hits", "%d", ss[slabTouchHits])
	appendStat(c, "touch_misses", "%d", ts.n[statTouchMisses])
	appendStat(c, "store_too_large", "%d", ts.n[statStoreTooLarge])
	appendStat(c, "store_no_memory", "%d", ts.n[statStoreNoMemory])
	appendStat(c, "auth_cmds", "%d", ts.n[statAuthCmds])
	appendStat(c, "auth_errors", "%d", ts.n[statAuthErrors])
	if settings.idleTimeout != 0 {
		appendStat(c, "idle_kicks", "%d", ts.n[statIdleKicks])
	}
	appendStat(c, "bytes_read", "%d", ts.n[statBytesRead])
	appendStat(c, "bytes_written", "%d", ts.n[statBytesWritten])
	appendStat(c, "limit_maxbytes", "%d", settings.maxbytes.Load())
	appendStat(c, "accepting_conns", "%d", btoi(statsState.acceptingConns))
	appendStat(c, "listen_disabled_num", "%d", stats.listenDisabledNum)
	appendStat(c, "time_in_listen_disabled_us", "%d", stats.timeInListenDisabledUs)
	appendStat(c, "threads", "%d", settings.numThreads)
	appendStat(c, "conn_yields", "%d", ts.n[statConnYields])
	appendStat(c, "hash_power_level", "%d", statsState.hashPowerLevel)
	appendStat(c, "hash_bytes", "%d", statsState.hashBytes)
	appendStat(c, "hash_is_expanding", "%d", btoi(statsState.hashIsExpanding))
	if settings.slabReassign {
		busy := stats.slabReassignLastBusyStatus
		if busy == "" {
			busy = "none"
		}
		appendStat(c, "slab_reassign_rescues", "%d", stats.slabReassignRescues)
		appendStat(c, "slab_reassign_chunk_rescues", "%d", stats.slabReassignChunkRescues)
		appendStat(c, "slab_reassign_inline_reclaim", "%d", stats.slabReassignInlineReclaim)
		appendStat(c, "slab_reassign_busy_items", "%d", stats.slabReassignBusyItems)
		appendStat(c, "slab_reassign_busy_deletes", "%d", stats.slabReassignBusyDeletes)
		appendStat(c, "slab_reassign_busy_nomem", "%d", stats.slabReassignBusyNomem)
		appendStat(c, "slab_reassign_last_busy_status", "%s", busy)
		appendStat(c, "slab_reassign_running", "%d", btoi(statsState.slabReassignRunning))
		appendStat(c, "slabs_moved", "%d", stats.slabsMoved)
	}
	if settings.lruCrawler.Load() {
		appendStat(c, "lru_crawler_running", "%d", btoi(statsState.lruCrawlerRunning))
		appendStat(c, "lru_crawler_starts", "%d", stats.lruCrawlerStarts)
	}
	if settings.lruMaintainerThread {
		appendStat(c, "lru_maintainer_juggles", "%d", stats.lruMaintainerJuggles)
	}
	appendStat(c, "malloc_fails", "%d", stats.mallocFails)
	appendStat(c, "log_worker_dropped", "%d", stats.logWorkerDropped)
	appendStat(c, "log_worker_written", "%d", stats.logWorkerWritten)
	appendStat(c, "log_watcher_skipped", "%d", stats.logWatcherSkipped)
	appendStat(c, "log_watcher_sent", "%d", stats.logWatcherSent)
	appendStat(c, "log_watchers", "%d", statsState.logWatchers)
	sslStats(c, now)
	appendStat(c, "unexpected_napi_ids", "%d", stats.unexpectedNapiIds)
	appendStat(c, "round_robin_fallback", "%d", stats.roundRobinFallback)
	statsLock.Unlock()
	storageStats(c)
}

// processStatSettings appends the settings, in C's order. Settings of parts
// that mc9 lacks keep their place, as if they were off.
func processStatSettings(c *conn) {
	appendStat(c, "maxbytes", "%d", settings.maxbytes.Load())
	appendStat(c, "maxconns", "%d", settings.maxconns)
	appendStat(c, "tcpport", "%d", settings.port)
	appendStat(c, "udpport", "%d", settings.udpport)
	appendStat(c, "inter", "%s", orNull(settings.inter))
	appendStat(c, "verbosity", "%d", settings.verbose.Load())
	appendStat(c, "oldest", "%d", settings.oldestLive.Load())
	appendStat(c, "evictions", "%s", onoff(settings.evictToFree))
	appendStat(c, "domain_socket", "%s", orNull(settings.socketpath))
	appendStat(c, "umask", "%o", settings.access)
	appendStat(c, "shutdown_command", "%s", yesno(settings.shutdownCommand))
	appendStat(c, "growth_factor", "%.2f", settings.factor)
	appendStat(c, "chunk_size", "%d", settings.chunkSize)
	appendStat(c, "num_threads", "%d", settings.numThreads)
	appendStat(c, "num_threads_per_udp", "%d", settings.numThreadsPerUdp)
	appendStat(c, "stat_key_prefix", "%c", settings.prefixDelimiter)
	appendStat(c, "detail_enabled", "%s", yesno(settings.detailEnabled.Load()))
	appendStat(c, "reqs_per_event", "%d", settings.reqsPerEvent)
	appendStat(c, "cas_enabled", "%s", yesno(settings.useCas))
	appendStat(c, "tcp_backlog", "%d", settings.backlog)
	appendStat(c, "binding_protocol", "%s", protText(settings.bindingProtocol))
	appendStat(c, "auth_enabled_sasl", "%s", yesno(settings.sasl))
	if settings.authFile != "" {
		appendStat(c, "auth_enabled_ascii", "%s", settings.authFile)
	} else {
		appendStat(c, "auth_enabled_ascii", "no")
	}
	appendStat(c, "item_size_max", "%d", settings.itemSizeMax)
	appendStat(c, "maxconns_fast", "%s", yesno(settings.maxconnsFast))
	appendStat(c, "hashpower_init", "%d", settings.hashpowerInit)
	appendStat(c, "slab_reassign", "%s", yesno(settings.slabReassign))
	appendStat(c, "slab_automove", "%d", settings.slabAutomove.Load())
	hotPct, warmPct := lruPcts()
	hotFactor, warmFactor := lruMaxFactors()
	settings.tuneLock.Lock()
	defer settings.tuneLock.Unlock()
	appendStat(c, "slab_automove_ratio", "%.2f", settings.slabAutomoveRatio)
	appendStat(c, "slab_automove_window", "%d", settings.slabAutomoveWindow)
	appendStat(c, "slab_chunk_max", "%d", settings.slabChunkSizeMax)
	appendStat(c, "lru_crawler", "%s", yesno(settings.lruCrawler.Load()))
	appendStat(c, "lru_crawler_sleep", "%d", settings.lruCrawlerSleep.Load())
	appendStat(c, "lru_crawler_tocrawl", "%d", settings.lruCrawlerTocrawl.Load())
	appendStat(c, "tail_repair_time", "%d", settings.tailRepairTime)
	appendStat(c, "flush_enabled", "%s", yesno(settings.flushEnabled))
	appendStat(c, "dump_enabled", "%s", yesno(settings.dumpEnabled))
	appendStat(c, "hash_algorithm", "maphash")
	appendStat(c, "lru_maintainer_thread", "%s", yesno(settings.lruMaintainerThread))
	appendStat(c, "lru_segmented", "%s", yesno(settings.lruSegmented.Load()))
	appendStat(c, "hot_lru_pct", "%d", hotPct)
	appendStat(c, "warm_lru_pct", "%d", warmPct)
	appendStat(c, "hot_max_factor", "%.2f", hotFactor)
	appendStat(c, "warm_max_factor", "%.2f", warmFactor)
	appendStat(c, "temp_lru", "%s", yesno(settings.tempLru.Load()))
	appendStat(c, "temporary_ttl", "%d", settings.temporaryTtl.Load())
	appendStat(c, "idle_timeout", "%d", settings.idleTimeout)
	appendStat(c, "watcher_logbuf_size", "%d", settings.loggerWatcherBufSize)
	appendStat(c, "worker_logbuf_size", "%d", settings.loggerBufSize)
	appendStat(c, "read_buf_mem_limit", "%d", settings.readBufMemLimit)
	appendStat(c, "track_sizes", "%s", yesno(itemStatsSizesStatus()))
	appendStat(c, "inline_ascii_response", "no")
	appendStat(c, "drop_privileges", "%s", yesno(settings.dropPrivileges))
	appendStat(c, "ext_item_size", "%d", settings.extItemSize.Load())
	appendStat(c, "ext_item_age", "%d", settings.extItemAge.Load())
	appendStat(c, "ext_low_ttl", "%d", settings.extLowTtl.Load())
	appendStat(c, "ext_recache_rate", "%d", settings.extRecacheRate.Load())
	appendStat(c, "ext_wbuf_size", "%d", settings.extWbufSize)
	appendStat(c, "ext_compact_under", "%d", settings.extCompactUnder.Load())
	appendStat(c, "ext_drop_under", "%d", settings.extDropUnder.Load())
	appendStat(c, "ext_max_sleep", "%d", settings.extMaxSleep.Load())
	appendStat(c, "ext_max_frag", "%.2f", settings.extMaxFrag)
	appendStat(c, "slab_automove_freeratio", "%.3f", settings.slabAutomoveFreeratio)
	appendStat(c, "ext_drop_unread", "%s", yesno(settings.extDropUnread.Load()))
	sslStatSettings(c)
	appendStat(c, "num_napi_ids", "%d", settings.numNapiIds)
	appendStat(c, "memory_file", "%s", cmp.Or(settings.memoryFile, "(null)"))
	appendStat(c, "client_flags_size", "4")
}

// getStats appends statistics of the items; a statType of "" stands for the
// general ones. It returns false for an unknown statType.
func getStats(c *conn, statType string) bool {
	switch statType {
	case "":
		bytes, currItems, totalItems := itemStatsCurr()
		appendStat(c, "bytes", "%d", bytes)
		appendStat(c, "curr_items", "%d", currItems)
		appendStat(c, "total_items", "%d", totalItems)
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
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return fmt.Sprintf("%s:%s:%d", proto, netip.AddrFrom4(sa.Addr), sa.Port)
	case *unix.SockaddrInet6:
		return fmt.Sprintf("%s6:[%s]:%d", proto, netip.AddrFrom16(sa.Addr), sa.Port)
	case *unix.SockaddrUnix:
		if sa.Name != "@" {
			return "unix:" + sa.Name
		}
	}
	return "?:<AF 0>" // the client's end of a Unix socket, which has no name
}

// processStatsConns appends the state of each connection. The workers go on
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
	switch {
	case pr.ntokens == 1:
		serverStats(c)
		getStats(c, "")
	case pr.prcmp(subcommandToken, "reset"):
		statsReset()
		outString(c, "RESET")
		return
	case pr.prcmp(subcommandToken, "detail"):
		processStatsDetail(c, pr)
		return
	case pr.prcmp(subcommandToken, "settings"):
		processStatSettings(c)
	case pr.prcmp(subcommandToken, "cachedump"):
		processStatCachedump(c, pr)
		return
	case pr.prcmp(subcommandToken, "conns"):
		processStatsConns(c)
	case pr.prcmp(subcommandToken, "extstore"):
		processExtstoreStats(c)
	case getStats(c, string(pr.token(subcommandToken))):
		connSetState(c, connNewCmd)
		return // these append the end themselves
	default:
		outString(c, "ERROR")
		return
	}
	appendStats(c, "", "")
	connSetState(c, connNewCmd)
}

// processStatCachedump: stats cachedump <slab class> <limit>
func processStatCachedump(c *conn, pr *parser) {
	if !settings.dumpEnabled {
		outString(c, "CLIENT_ERROR stats cachedump not allowed")
		return
	}
	if pr.ntokens < 4 {
		outString(c, "CLIENT_ERROR bad command line")
		return
	}
	id, ok := toktou32(pr.token(2))
	limit, ok2 := toktou32(pr.token(3))
	switch {
	case !ok || !ok2:
		outString(c, errBadFormat)
	case id >= maxNumberOfSlabClasses:
		outString(c, "CLIENT_ERROR Illegal slab id")
	default:
		c.resp.wbuf = append(c.resp.wbuf, itemCachedump(id, limit)...)
		connSetState(c, connNewCmd)
	}
}

func statsPrefixClear() {
	statsLock.Lock()
	clear(prefixStats)
	statsLock.Unlock()
}

// statsPrefixFind returns the counts of key's prefix, or nil if it has none
// or there are too many prefixes. statsLock is held.
func statsPrefixFind(key []byte) *prefixCounts {
	for i, ch := range key {
		if ch == 0 {
			break
		}
		if ch != settings.prefixDelimiter {
			continue
		}
		pfs := prefixStats[string(key[:i])]
		if pfs == nil && len(prefixStats) < maxPrefixCount {
			pfs = new(prefixCounts)
			prefixStats[string(key[:i])] = pfs
		}
		return pfs
	}
	return nil
}

func statsPrefixRecordGet(key []byte, isHit bool) {
	statsLock.Lock()
	if pfs := statsPrefixFind(key); pfs != nil {
		pfs.gets++
		if isHit {
			pfs.hits++
		}
	}
	statsLock.Unlock()
}

func statsPrefixRecordDelete(key []byte) {
	statsLock.Lock()
	if pfs := statsPrefixFind(key); pfs != nil {
		pfs.deletes++
	}
	statsLock.Unlock()
}

func statsPrefixRecordSet(key []byte) {
	statsLock.Lock()
	if pfs := statsPrefixFind(key); pfs != nil {
		pfs.sets++
	}
	statsLock.Unlock()
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

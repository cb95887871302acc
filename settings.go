// Limits, settings and their defaults, the command line. From memcached.h;
// memcached.c: settings_init, usage, the option loop of main and the checks
// after it; getopt_long(3), getsubopt(3).

package main

import (
	_ "embed"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
)

const (
	version    = "1.6.45" // of memcached, whose protocol mc9 speaks
	mc9Version = "0.9.0"  // of mc9 itself; CHANGES lists what each one brought

	keyMaxLength       = 250
	readBufferSize     = 16384 // of each of a worker's read buffers, bytes
	udpReadBufferSize  = 65536 // bytes
	udpMaxPayloadSize  = 1400  // bytes
	udpHeaderSize      = 8
	itemUpdateInterval = 60                // seconds between two bumps of an item in a flat LRU
	realtimeMaxdelta   = 60 * 60 * 24 * 30 // seconds; a longer expiry time is a date
	maxVerbosityLevel  = 2
	bufSizeMax         = 256 << 20 // of each buffer whose size is an option, bytes
)

type protocol uint8

const (
	asciiProt protocol = 3 + iota
	binaryProt
	negotiatingProt // the client's first byte decides
)

// Set from the command line. Fields that commands can change while workers read
// them are atomic; all others are fixed before workers start.
// They stand in groups: C's settings.ext_item_size is settings.ext.itemSize.
var settings struct {
	maxbytes          atomic.Uint64
	verbose           atomic.Int32
	oldestLive        atomic.Uint32 // relTime; all items are, or were, flushed in the second after this; 0 for none
	evictToFree       bool
	numThreads        int
	prefixDelimiter   byte
	detailEnabled     atomic.Bool
	useCas            bool
	itemSizeMax       int // bytes
	hashpowerInit     int
	shutdownCommand   bool
	flushEnabled      bool
	dumpEnabled       bool
	watchEnabled      bool
	memoryFile        string // of -e
	dropPrivileges    bool
	relaxedPrivileges bool // of debug builds

	lru struct {
		segmented        atomic.Bool
		maintainerThread bool
		memory           bool // the LRU remembers what it evicted
		crawler          atomic.Bool
		crawlerSleep     atomic.Int32  // microseconds
		crawlerTocrawl   atomic.Uint32 // items per LRU and run, 0 for all
		hotLruPct        atomic.Int32
		warmLruPct       atomic.Int32
		hotMaxFactor     atomicFloat
		warmMaxFactor    atomicFloat
		tempLru          atomic.Bool
		temporaryTtl     atomic.Uint32 // seconds
		tailRepairTime   uint32        // seconds
	}

	slab struct {
		factor            float64 // growth of chunk sizes
		chunkSize         int     // minimum bytes for key, value and flags
		chunkSizeMax      int     // bytes
		pageSize          int     // bytes
		reassign          bool
		automove          atomic.Int32
		automoveRatio     atomicFloat
		automoveFreeratio atomicFloat
		automoveWindow    atomic.Uint32 // seconds
	}

	ext struct {
		itemSize      atomic.Uint32 // bytes; smaller values stay in memory
		itemAge       atomic.Uint32 // seconds without access before a value is written
		lowTtl        atomic.Uint32 // seconds; values that expire sooner have pages of their own
		recacheRate   atomic.Uint32 // one in so many fetches recaches, 0 for none
		compactUnder  atomic.Uint32 // free pages
		dropUnder     atomic.Uint32 // free pages
		maxSleep      atomic.Uint32 // microseconds
		maxFrag       atomicFloat   // part of a page that is in use, from which on it is not compacted
		dropUnread    atomic.Bool
		globalPoolMin atomic.Uint32 // slab pages to keep free
	}

	log struct {
		watcherBufSize int // bytes
		bufSize        int // bytes
	}

	net struct {
		maxconns         int
		maxconnsFast     bool
		port             int
		udpport          int
		inter            string // -l as given, entries joined with commas
		socketpath       string
		access           int // mode of the Unix socket (-a)
		backlog          int
		bindingProtocol  protocol
		numThreadsPerUdp int
		reqsPerEvent     int
		idleTimeout      uint32 // seconds, 0 for never
		readBufMemLimit  int    // bytes for all workers together, 0 for no limit
		numNapiIds       int
		sockCookieId     uint32 // mark for the listening sockets, 0 for none
	}

	auth struct {
		file string
		sasl bool
	}
	ssl sslSettings // tls.go
}

// An atomicFloat is a float64 to load and store atomically.
type atomicFloat struct{ bits atomic.Uint64 }

func (f *atomicFloat) Load() float64   { return math.Float64frombits(f.bits.Load()) }
func (f *atomicFloat) Store(v float64) { f.bits.Store(math.Float64bits(v)) }

// Options that only main uses; in C they are its local variables.
var options struct {
	lockMemory           bool
	daemonize            bool
	preallocate          bool
	maxcore              bool
	username             string
	pidFile              string
	protocolSpecified    bool
	tcpSpecified         bool
	udpSpecified         bool
	startLruMaintainer   bool
	startLruCrawler      bool
	startAssocMaint      bool
	trackSizes           bool
	slabSizesUnparsed    string
	slabSizes            []int // nil if not given
	slabChunkSizeChanged bool
	ask                  bool   // --ask or --check
	askCommand           string // "" for --check
	askAddr              string // "" for none
	word                 string // the last word that is no option
	metrics              string // where to serve metrics, "" for nowhere
}

//go:embed LICENSE
var license string

// An option is a row of optionTable, or of suboptionTable for -o.
type option struct {
	head string             // as -h shows it
	arg  string             // the value that it takes, as -h shows it; of a suboption, the complaint if it is missing
	help string             // "" if -h does not show it
	set  func(value string) // applies the value; nil if the row is only text for -h
}

const (
	missingArgument = "Missing %s argument"
	missingNumeric  = "Missing numeric argument for %s"
	missingValue    = "Missing %s value"
)

const blanks = " \t\n\v\f\r"

func settingsInit() {
	settings.useCas = true
	settings.verbose.Store(0)
	settings.net.access = 0700
	settings.net.port = 11211
	settings.maxbytes.Store(64 << 20)
	settings.net.maxconns = 1024
	settings.evictToFree = true
	settings.slab.factor = 1.25
	settings.slab.chunkSize = 48
	settings.numThreads = 4
	settings.prefixDelimiter = ':'
	settings.net.reqsPerEvent = 20
	settings.net.backlog = 1024
	settings.net.bindingProtocol = negotiatingProt
	settings.itemSizeMax = 1 << 20
	settings.slab.pageSize = 1 << 20
	settings.slab.chunkSizeMax = settings.slab.pageSize / 2
	settings.net.maxconnsFast = true
	settings.lru.crawlerSleep.Store(100)
	settings.lru.segmented.Store(true)
	settings.lru.memory = true
	settings.lru.hotLruPct.Store(-1) // see lruPcts
	settings.lru.warmLruPct.Store(-1)
	settings.lru.hotMaxFactor.Store(0) // see lruMaxFactors
	settings.lru.warmMaxFactor.Store(0)
	settings.lru.temporaryTtl.Store(61)
	settings.slab.reassign = true
	settings.slab.automove.Store(1)
	settings.slab.automoveRatio.Store(0.8)
	settings.slab.automoveWindow.Store(10)
	settings.flushEnabled = true
	settings.dumpEnabled = true
	settings.log.watcherBufSize = 256 << 10
	settings.log.bufSize = 64 << 10
	settings.watchEnabled = true
	sslInitSettings()

	options.startLruMaintainer = true
	options.startLruCrawler = true
	options.startAssocMaint = true
	storageInitConfig()
}

// banner returns one line that tells two builds apart. It begins as
// memcached's does, for the scripts that take the second word as the version.
func banner(info *debug.BuildInfo, ok bool) string {
	words := "memcached " + version + " (mc9 " + mc9Version
	if !ok {
		return words + ")"
	}
	revision, tags := "", ""
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			revision = ", revision " + s.Value[:min(12, len(s.Value))]
		case "vcs.modified":
			if s.Value == "true" {
				revision += " modified"
			}
		case "-tags":
			tags = ", tags " + s.Value
		}
	}
	return words + revision + ", " + info.GoVersion + tags + ")"
}

// optionTable lists the options in the order of -h.
func optionTable() []option {
	return slices.Concat([]option{
		{"-p, --port", "=<num>", "TCP port (default: 11211); 0 for none, -1 for any free one",
			func(v string) { settings.net.port, options.tcpSpecified = atoi(v), true }},
		{"-U, --udp-port", "=<num>", "UDP port (default: 0, off)", func(v string) { settings.net.udpport, options.udpSpecified = atoi(v), true }},
		{"-s, --unix-socket", "=<file>", "listen on this Unix socket instead of the network",
			setText(&settings.net.socketpath, "No socket specified")},
		{"-a, --unix-mask", "=<mask>", "permissions of the Unix socket, in octal (default: 700)", func(v string) { settings.net.access = atoiBase(v, 8) }},
		{"-A, --enable-shutdown", "", `allow the command "shutdown"`, setFlag(&settings.shutdownCommand, true)},
		{"-l, --listen", "=<addr>", `addresses to listen on (default: all), separated by commas; the
option may be repeated. Each is host, host:port, [ipv6]:port
or *. A prefix proto[ascii]: or proto[binary]: permits that
protocol only` + sslHelpListen, parseListen},
		{"-d, --daemon", "", "run in the background", setFlag(&options.daemonize, true)},
		{"-r, --enable-coredumps", "", "raise the limit on the size of core files", setFlag(&options.maxcore, true)},
		{"-u, --user", "=<user>", "become this user, name or number, if started as root\n(default: nobody)", setText(&options.username, "")},
		{"-m, --memory-limit", "=<num>", `megabytes for items (default: 64); a suffix k, m or g, here
and on every other size, sets the unit`,
			func(v string) { settings.maxbytes.Store(uint64(parseSize("-m", v, 1<<20))) }},
		{"-M, --disable-evictions", "", "when memory is full, refuse new items instead of evicting others", setFlag(&settings.evictToFree, false)},
		{"-c, --conn-limit", "=<num>", "simultaneous connections (default: 1024)",
			setNumber(to(&settings.net.maxconns), 1, math.MaxInt32, "Maximum connections must be greater than 0")},
		{"-k, --lock-memory", "", "keep all memory from being paged out", setFlag(&options.lockMemory, true)},
		{"-v, --verbose", "", "print errors and warnings", func(string) { settings.verbose.Add(1) }},
		{"-vv", "", "print commands and replies too", nil},
		{"-vvv", "", "print changes of a connection's state too", nil},
		{"-h, --help", "", "print this and exit", func(string) { usage(); os.Exit(0) }},
		{"-i, --license", "", "print the license and exit", func(string) { fmt.Printf("%s\n\n%s", banner(debug.ReadBuildInfo()), license); os.Exit(0) }},
		{"-V, --version", "", "print the version and exit", func(string) { fmt.Println(banner(debug.ReadBuildInfo())); os.Exit(0) }},
		{"-P, --pidfile", "=<file>", "write the process id to this file; with -d, remove it at exit", setText(&options.pidFile, "")},
		{"-f, --slab-growth-factor", "=<num>", "ratio of one chunk size to the next (default: 1.25)", func(v string) {
			settings.slab.factor = atof(v)
			refuse(!(settings.slab.factor > 1.0), 1, "Factor must be greater than 1")
		}},
		{"-n, --slab-min-size", "=<bytes>", "minimum space for key, value and flags (default: 48)", func(v string) {
			settings.slab.chunkSize = parseSize("-n", v, 1)
			refuse(settings.slab.chunkSize <= 0, 1, "Chunk size must be greater than 0")
		}},
		{"-L, --enable-largepages", "", "allocate all item memory at start, in large pages", func(string) {
			options.preallocate = enableLargePages()
			refuse(!options.preallocate, 1, "Cannot enable large pages on this system\n(There is no support as of this version)")
		}},
		{"-D", " <char>", `separates a key's prefix from the rest (default: ":"); also
turns on counting by prefix, as "stats detail on" does`, func(v string) {
			refuse(v == "", 1, "No delimiter specified")
			settings.prefixDelimiter = v[0]
			settings.detailEnabled.Store(true)
		}},
		{"-t, --threads", "=<num>", "worker threads (default: 4)", setThreads},
		{"-R, --max-reqs-per-event", "=<num>", `requests to serve on one connection before turning
to the others (default: 20)`,
			setNumber(to(&settings.net.reqsPerEvent), 1, math.MaxInt32, "Number of requests per event must be greater than 0")},
		{"-C, --disable-cas", "", "items have no CAS unique, which saves 8 bytes each", setFlag(&settings.useCas, false)},
		{"-b, --listen-backlog", "=<num>", "connections that can wait to be accepted (default: 1024)",
			func(v string) { settings.net.backlog = atoi(v) }},
		{"-B, --protocol", "=<name>", "ascii, binary, or auto: each client's first byte decides\n(default: auto)", setProtocol},
		{"-I, --max-item-size", "=<num>", "largest item in bytes (default: 1m, from 1k to 1g)",
			func(v string) { settings.itemSizeMax = parseSize("-I", v, 1) }},
		{"-S, --enable-sasl", "", `binary protocol only; clients authenticate with SASL PLAIN as
one of the users in the file that the environment variable
MEMCACHED_SASL_PWDB names, lines of user:password`, setFlag(&settings.auth.sasl, true)},
		{"-F, --disable-flush-all", "", "refuse flush_all", setFlag(&settings.flushEnabled, false)},
		{"-X, --disable-dumping", "", "refuse stats cachedump, stats detail, and lru_crawler's\nmetadump and mgdump", setFlag(&settings.dumpEnabled, false)},
		{"-W, --disable-watch", "", "refuse watch", setFlag(&settings.watchEnabled, false)},
		{"-Y, --auth-file", "=<file>", `text protocol only; clients authenticate as one of the users in
this file, lines of user:password, read again on SIGHUP`,
			setText(&settings.auth.file, "Could not open authfile [] for reading")},
		{"-e, --memory-file", "=<file>", `keep items in this file on a RAM disk; after a stop by SIGUSR1
or "shutdown graceful" the next start goes on with them`, setText(&settings.memoryFile, "")},
	}, sslOptions(), []option{
		{"-o, --extended", "=<list>", "suboptions, separated by commas; no_, where shown, turns one off", parseSuboptions},
		{"-N, --napi-ids", "=<num>", "choose a connection's worker by network receive queue (NAPI\nID); the number of queues",
			setNumber(to(&settings.net.numNapiIds), 1, math.MaxInt32, "Maximum number of NAPI IDs must be greater than 0")},
		{"--check", "[=<addr>]", `do not serve, but check whether a server answers at this address,
a socket file or as for -l (default: where the other options
put it)`, func(v string) { options.ask, options.askAddr = true, v }},
		{"--ask", "=<command>", `send this command to such a server, whose address may follow as
a word, and print the answer; fail if that is an error`,
			func(v string) { options.ask, options.askCommand = true, v }},
		{"--metrics", "=<port>", `serve metrics for Prometheus at /metrics, and /healthz, on this
port of 127.0.0.1, or on addr:port`, setText(&options.metrics, "")},
	})
}

// suboptionTable lists the suboptions of -o in the order of -h.
func suboptionTable() []option {
	none := func(string) {}
	rows := slices.Concat([]option{
		{"[no_]maxconns_fast", "", "refuse connections over the limit at once (default: enabled)", setFlag(&settings.net.maxconnsFast, true)},
		{"hashpower", missingNumeric, "size of the hash table at start, as a power of two\n(default: 16)", setHashpower},
		{"tail_repair_time", missingNumeric, `seconds without use after which an item that is still
referenced at the tail of an LRU is unlinked, assuming a
leak (default: never; dangerous)`,
			setNumber(to(&settings.lru.tailRepairTime), 10, math.MaxInt32, "Cannot set tail_repair_time to less than 10 seconds")},
		{"[no_]lru_crawler", "", "a thread that looks for expired items (default: enabled)", setFlag(&options.startLruCrawler, true)},
		{"lru_crawler_sleep", missingValue, "microseconds to sleep after 1000 items crawled (default: 100)",
			setNumber(settings.lru.crawlerSleep.Store, 0, 1000000, "LRU crawler sleep must be between 0 and 1 second")},
		{"lru_crawler_tocrawl", missingValue, "items to crawl per LRU and run (default: 0, all)",
			setUint32(settings.lru.crawlerTocrawl.Store, "lru_crawler_tocrawl takes a numeric 32bit value")},
		{"read_buf_mem_limit", missingArgument, "megabytes for buffers of connections (default: 0, no limit)",
			func(v string) { settings.net.readBufMemLimit = parseSize("read_buf_mem_limit", v, 1<<20) }},
		{"[no_]lru_maintainer", "", `segmented LRUs, and a thread that maintains them; otherwise
one plain LRU per class (default: enabled)`, setLruMaintainer},
		{"[no_]lru_memory", "", `the LRU remembers the keys that it evicted last; otherwise, and
with ext_path or -M, it is memcached's (default: enabled)`, setFlag(&settings.lru.memory, true)},
		{"hot_lru_pct", missingArgument, `share of a class's memory for the hot LRU (default: 5 percent;
20 without lru_memory, or if warm_lru_pct is given)`,
			setNumber(settings.lru.hotLruPct.Store, 1, 79, "hot_lru_pct must be > 1 and < 80")},
		{"warm_lru_pct", missingArgument, "the same for the warm LRU (default: 40 to 80 percent, or 40)",
			setNumber(settings.lru.warmLruPct.Store, 1, 79, "warm_lru_pct must be > 1 and < 80")},
		{"hot_max_factor", missingArgument, `items leave the hot LRU when older than the tail of the cold
LRU times this (default: never; 0.20 without lru_memory)`,
			setFactor(settings.lru.hotMaxFactor.Store, math.MaxFloat64, "hot_max_factor must be > 0")},
		{"warm_max_factor", missingArgument, "the same for the warm LRU (default: never, or 2.00)",
			setFactor(settings.lru.warmMaxFactor.Store, math.MaxFloat64, "warm_max_factor must be > 0")},
		{"temporary_ttl", missingArgument, `items that expire within this many seconds have an LRU of
their own and are evicted last (default: off)`, func(v string) {
			settings.lru.tempLru.Store(true)
			settings.lru.temporaryTtl.Store(uint32(atoi(v)))
		}},
		{"idle_timeout", missingNumeric, "seconds until an idle connection is closed (default: 0, never)",
			func(v string) { settings.net.idleTimeout = uint32(max(atoi(v), 0)) }},
		{"slab_chunk_max", missingArgument, "largest chunk in kilobytes (default: 512)", setSlabChunkMax},
		{"slab_sizes", missingArgument, "the chunk sizes of all classes in bytes, separated by -",
			setText(&options.slabSizesUnparsed, "Missing slab_sizes argument")},
		{"no_chunked_items", "", "let chunks be as large as a page", func(string) { settings.slab.chunkSizeMax = settings.slab.pageSize }},
		{"[no_]slab_reassign", "", "pages can move from one class to another (default: enabled)", setFlag(&settings.slab.reassign, true)},
		{"[no_]slab_automove", "", `move pages automatically: 0 never, 1 to a class that evicts
young items, 2 also on every eviction (default: 1)`, setAutomove},
		{"slab_automove_ratio", missingArgument, `young is an age below this fraction of the age in the class
with the oldest items (default: 0.80)`,
			setFactor(settings.slab.automoveRatio.Store, 1, "slab_automove_ratio must be > 0 and < 1")},
		{"slab_automove_window", missingArgument, "seconds to watch before a move (default: 10)",
			setNumber(settings.slab.automoveWindow.Store, 3, 1800, "slab_automove_window must be > 2 and < 1800")},
		{"watcher_logbuf_size", missingArgument, "kilobytes of buffer for each watcher (default: 256)",
			setBufSize("watcher_logbuf_size", &settings.log.watcherBufSize)},
		{"worker_logbuf_size", missingArgument, "kilobytes of log buffer for each worker (default: 64)",
			setBufSize("worker_logbuf_size", &settings.log.bufSize)},
		{"hash_algorithm", missingArgument, "jenkins, murmur3 or xxh3; no effect, mc9 hashes with maphash", func(v string) {
			refuse(v != "jenkins" && v != "murmur3" && v != "xxh3", 1, "Unknown hash_algorithm option (jenkins, murmur3, xxh3)")
			fmt.Fprintf(os.Stderr, "hash_algorithm: mc9 hashes with maphash and a random seed, not with %s\n", v)
		}},
		{"track_sizes", "", "count items by size, for stats sizes", setFlag(&options.trackSizes, true)},
		{"drop_privileges, no_drop_privileges", "", `have the kernel end the process at a
system call that it should not need (default: disabled)`, setFlag(&settings.dropPrivileges, true)},
		{"no_hashexpand", "", "the hash table never grows", setFlag(&options.startAssocMaint, false)},
		{"modern", "", "defaults of the next version (currently: none)", none},
		{"no_modern", "", `defaults of 1.4: no_lru_crawler, no_lru_maintainer,
no_slab_reassign, no_slab_automove, no_maxconns_fast,
slab_chunk_max=1024`, setNoModern},
		{"sock_cookie_id", missingArgument, "mark for listening sockets, for packet filters", func(v string) {
			n, _ := strconv.ParseUint(v, 10, 32)
			settings.net.sockCookieId = uint32(n)
		}},
	}, storageOptions(), []option{
		{"no_io_uring", "", "", func(string) {
			fmt.Fprintf(os.Stderr, "DEPRECATED: no_io_uring no longer used: mc9 makes plain system calls\n")
		}},
		{"resp_obj_mem_limit", "", "", func(string) {
			fmt.Fprintf(os.Stderr, "DEPRECATED: resp_obj_mem_limit no longer used. See read_buf_mem_limit,\n")
		}},
		{"[no_]inline_ascii_resp, no_io_uring, resp_obj_mem_limit", "", "of other versions, no effect here", nil},
		{"[no_]inline_ascii_resp", "", "", none},
	}, sslSuboptions())
	if debugBuild {
		rows = append(rows, option{"relaxed_privileges", "", "", setFlag(&settings.relaxedPrivileges, true)})
	}
	return rows
}

// letter returns the letter of an option, or 0 if it has none.
func (o *option) letter() byte {
	if o.head[1] == '-' {
		return 0
	}
	return o.head[1]
}

// names returns the long name of an option, "" if it has none, or the names of a
// suboption.
func (o *option) names() []string {
	if o.head[0] == '-' {
		_, name, _ := strings.Cut(o.head, "--")
		return []string{name}
	}
	names := strings.Split(o.head, ", ")
	if name, ok := strings.CutPrefix(names[0], "[no_]"); ok {
		names[0] = name
		names = append(names, "no_"+name)
	}
	return names
}

func (o *option) name() string { return o.names()[0] }

func (o *option) takesValue() bool { return o.arg != "" && o.arg[0] != '[' }

func usage() {
	fmt.Println(banner(debug.ReadBuildInfo()))
	row := func(head, help string) {
		if help != "" {
			fmt.Printf("%-25s %s\n", head, strings.ReplaceAll(help, "\n", "\n"+strings.Repeat(" ", 26)))
		}
	}
	for _, o := range optionTable() {
		row(o.head+o.arg, o.help)
		if o.letter() == 'o' {
			for _, o := range suboptionTable() {
				row("   - "+o.head+":", o.help)
			}
		}
	}
}

var optionWord = option{set: func(word string) { options.word = word }}

// getopt calls take for the options in argv and their values, without leading white
// space. For a bad option it prints what getopt_long does; take gets nil. A word
// that is no option comes as the value of optionWord.
func getopt(argv []string, take func(o *option, value string)) {
	table, prog, args := optionTable(), argv[0], argv[1:]
	give := func(o *option, value string) { take(o, strings.TrimLeft(value, blanks)) }
	bad := func(format string, a ...any) {
		fmt.Fprintf(os.Stderr, "%s: %s\n", prog, fmt.Sprintf(format, a...))
		take(nil, "")
	}
	// value takes the next word, for an option that takes a value but has none.
	value := func(o *option, format string, name any) {
		if len(args) == 0 {
			bad(format, name)
			return
		}
		give(o, args[0])
		args = args[1:]
	}
	for len(args) > 0 && args[0] != "--" {
		word := args[0]
		args = args[1:]
		if strings.HasPrefix(word, "--") {
			name, val, given := strings.Cut(word[2:], "=")
			found := longoptsFind(table, name)
			switch {
			case len(found) == 0:
				bad("unrecognized option '%s'", word)
			case len(found) > 1:
				which := ""
				for _, o := range found {
					which += " '--" + o.name() + "'"
				}
				bad("option '%s' is ambiguous; possibilities:%s", word, which)
			case found[0].takesValue() && !given:
				value(found[0], "option '--%s' requires an argument", found[0].name())
			case given && found[0].arg == "" && found[0].name() != "verbose": // C lets --verbose have one, and ignores it
				bad("option '--%s' doesn't allow an argument", found[0].name())
			default:
				give(found[0], val)
			}
			continue
		}
		if !strings.HasPrefix(word, "-") {
			give(&optionWord, word)
			continue
		}
		for i := 1; i < len(word); i++ {
			c := word[i]
			n := slices.IndexFunc(table, func(o option) bool { return o.letter() == c && c != 0 })
			switch {
			case n < 0:
				bad("invalid option -- '%c'", c)
			case !table[n].takesValue():
				give(&table[n], "")
			case i+1 < len(word):
				give(&table[n], word[i+1:])
				i = len(word)
			default:
				value(&table[n], "option requires an argument -- '%c'", c)
			}
		}
	}
}

// longoptsFind returns the option called name or, if there is none, all options
// whose names begin with it.
func longoptsFind(table []option, name string) (found []*option) {
	for i := range table {
		o := &table[i]
		switch {
		case o.name() == "": // has a letter only
		case o.name() == name:
			return []*option{o}
		case strings.HasPrefix(o.name(), name):
			found = append(found, o)
		}
	}
	return found
}

// parseOptions is the option loop of main.
func parseOptions(argv []string) {
	getopt(argv, func(o *option, value string) {
		refuse(o == nil, 1, "Illegal argument \"?\"")
		o.set(value)
	})
	if options.askCommand != "" {
		options.askAddr = options.word
	}
}

// parseSuboptions is -o.
func parseSuboptions(list string) {
	table := suboptionTable()
	for list != "" {
		var opt string
		opt, list, _ = strings.Cut(list, ",")
		name, value, given := strings.Cut(opt, "=")
		i := slices.IndexFunc(table, func(o option) bool { return o.set != nil && slices.Contains(o.names(), name) })
		refuse(i < 0, 1, "Illegal suboption \"%s\"", opt)
		o := &table[i]
		refuse(!given && o.arg != "", 1, o.arg, name)
		if name == "no_"+o.name() {
			value = off
		}
		o.set(value)
	}
}

// parseListen adds arg to the list of addresses. In C an empty address makes a
// server that nobody can reach, and an address that is a substring of the list is
// dropped.
func parseListen(arg string) {
	switch {
	case strings.Trim(arg, ";,") == "":
		sysfatal(1, "No interface specified")
	case settings.net.inter == "":
		settings.net.inter = arg
	case !slices.Contains(strings.FieldsFunc(settings.net.inter, isListSeparator), arg):
		settings.net.inter += "," + arg
	}
}

// Setters, for the tables. Each ends the process with complaint if the value is
// wrong.

func to[T any](p *T) func(T) { return func(v T) { *p = v } }

// off is what the setter of [no_]NAME gets for no_NAME. No value has a comma.
const off = ","

func setFlag(p *bool, on bool) func(string) {
	return func(value string) { *p = on && value != off }
}

// setText refuses an empty value if there is a complaint.
func setText(p *string, complaint string) func(string) {
	return func(value string) {
		refuse(value == "" && complaint != "", 1, "%s", complaint)
		*p = value
	}
}

// setNumber takes numbers from lo to hi.
func setNumber[T int | int32 | uint32](store func(T), lo, hi int, complaint string) func(string) {
	return func(value string) {
		n := atoi(value)
		refuse(n < lo || n > hi, 1, "%s", complaint)
		store(T(n))
	}
}

// setUint32 takes no sign, no blanks and nothing after the number.
func setUint32(store func(uint32), complaint string) func(string) {
	return func(value string) {
		n, err := strconv.ParseUint(value, 10, 32)
		refuse(err != nil, 1, "%s", complaint)
		store(uint32(n))
	}
}

// numberOption returns a suboption that takes a number.
func numberOption(name, help string, store func(uint32)) option {
	return option{name, missingArgument, help, setUint32(store, "could not parse argument to "+name)}
}

// setFactor takes numbers above 0, up to hi.
func setFactor(store func(float64), hi float64, complaint string) func(string) {
	return func(value string) {
		f := atof(value)
		refuse(!(f > 0 && f <= hi), 1, "%s", complaint)
		store(f)
	}
}

// setBufSize takes the size of a buffer in kilobytes.
func setBufSize(name string, p *int) func(string) {
	return func(value string) {
		*p = parseSize(name, value, 1<<10)
		refuse(*p > bufSizeMax, 1, "%s must be at most %d (kilobytes)", name, bufSizeMax>>10)
	}
}

func setLruMaintainer(value string) {
	options.startLruMaintainer = value != off
	settings.lru.segmented.Store(value != off)
}

func setAutomove(value string) {
	switch value {
	case off:
		value = "0"
	case "":
		value = "1"
	}
	setNumber(settings.slab.automove.Store, 0, 2, "slab_automove must be between 0 and 2")(value)
}

func setHashpower(value string) {
	n := atoi(value)
	refuse(n < 12, 1, "Initial hashtable multiplier of %d is too low", n)
	refuse(n > 32, 1, "Initial hashtable multiplier of %d is too high\n"+
		"Choose a value based on \"STAT hash_power_level\" from a running instance", n)
	settings.hashpowerInit = n
}

func setSlabChunkMax(value string) {
	n := parseSize("slab_chunk_max", value, 1<<10)
	refuse(n <= 0, 1, "slab_chunk_max must be >= 0")
	refuse(n > 1<<20, 1, "slab_chunk_max must be specified in kilobytes.")
	settings.slab.chunkSizeMax = n
	options.slabChunkSizeChanged = true
}

func setNoModern(string) {
	if !options.slabChunkSizeChanged {
		settings.slab.chunkSizeMax = settings.slab.pageSize
	}
	settings.slab.reassign = false
	settings.slab.automove.Store(0)
	settings.net.maxconnsFast = false
	setLruMaintainer(off)
	options.startLruCrawler = false
}

func setThreads(value string) {
	setNumber(to(&settings.numThreads), 1, math.MaxInt32, "Number of threads must be greater than 0")(value)
	refuse(settings.numThreads > numThreadsMax, 1, "Number of threads must be at most %d", numThreadsMax)
	if settings.numThreads > 64 {
		fmt.Fprintf(os.Stderr, "WARNING: Setting a high number of worker threads is not recommended.\n"+
			" Set this value to the number of cores in your machine or less.\n")
	}
}

func setProtocol(value string) {
	i := slices.Index([]string{"ascii", "binary", "auto"}, value)
	refuse(i < 0, exUsage, "Invalid value for binding protocol: %s\n"+
		" -- should be one of auto, binary, or ascii", value)
	options.protocolSpecified = true
	settings.net.bindingProtocol = asciiProt + protocol(i)
}

// parseSize returns the size that option name is given, in bytes; see toksize.
func parseSize(name, value string, unit int) int {
	n, ok := toksize([]byte(strings.TrimRight(value, blanks)), unit)
	refuse(!ok, 1, "could not parse argument to %s", name)
	return n
}

// checkPath ends the process if a daemon, which goes to /, would not find the
// file called name.
func checkPath(what, name string) {
	refuse(options.daemonize && !options.maxcore && name != "" && !filepath.IsAbs(name),
		exUsage, "-d changes to /: %s[%s] must be an absolute path", what, name)
}

// checkOptions ends the process if options conflict, and derives further
// settings from them.
func checkOptions() {
	refuse(settings.net.numNapiIds > settings.numThreads, exUsage,
		"Number of napi_ids(%d) cannot be greater than number of threads(%d)", settings.net.numNapiIds, settings.numThreads)

	item, page, chunk := settings.itemSizeMax, settings.slab.pageSize, &settings.slab.chunkSizeMax
	refuse(item < 1<<10, exUsage, "Item max size cannot be less than 1024 bytes.")
	refuse(uint64(item) > settings.maxbytes.Load()/2, exUsage, "Cannot set item size limit higher than 1/2 of memory max.")
	refuse(item > 1<<30, exUsage, "Cannot set item size limit higher than a gigabyte.")
	if item > 1<<20 && !options.slabChunkSizeChanged {
		*chunk = page / 2
	}
	refuse(*chunk > item, exUsage, "slab_chunk_max (bytes: %d) cannot be larger than -I (item_size_max %d)", *chunk, item)
	refuse(item%*chunk != 0, exUsage, "-I (item_size_max: %d) must be evenly divisible by slab_chunk_max (bytes: %d)", item, *chunk)
	refuse(page%*chunk != 0, exUsage, "slab_chunk_max (bytes: %d) must divide evenly into %d (slab_page_size)", *chunk, page)
	storageCheckConfig()

	if options.slabSizesUnparsed != "" {
		options.slabSizes = parseSlabSizes(options.slabSizesUnparsed)
	}
	hot, warm := lruPcts()
	refuse(hot+warm > 80 && (settings.lru.hotLruPct.Load() >= 0 || settings.lru.warmLruPct.Load() >= 0),
		exUsage, "hot_lru_pct + warm_lru_pct cannot be more than 80%% combined")
	refuse(settings.lru.tempLru.Load() && !options.startLruMaintainer, exUsage, "temporary_ttl requires lru_maintainer to be enabled")

	// With several addresses, each UDP socket is served by one worker only.
	settings.net.numThreadsPerUdp = settings.numThreads
	if strings.ContainsFunc(settings.net.inter, isListSeparator) {
		settings.net.numThreadsPerUdp = 1
	}

	only := func(p protocol, complaint, udp string) {
		if !options.protocolSpecified {
			settings.net.bindingProtocol = p
		}
		refuse(settings.net.bindingProtocol != p, exUsage, "%s", complaint)
		refuse(settings.net.udpport != 0, exUsage, "%s", udp)
	}
	if settings.auth.sasl {
		only(binaryProt, "ERROR: You cannot allow the ASCII protocol while using SASL.",
			"ERROR: Cannot enable UDP while using binary SASL authentication.")
	}
	if settings.auth.file != "" {
		only(asciiProt, "ERROR: You cannot allow the BINARY protocol while using ascii authentication tokens.",
			"Cannot use UDP with ascii authentication enabled (-U 0 to disable)")
		checkPath("Authfile ", settings.auth.file)
	}
	checkPath("memory file ", settings.memoryFile)
	sslCheckOptions()

	if options.udpSpecified && settings.net.udpport != 0 && !options.tcpSpecified {
		settings.net.port = settings.net.udpport
	}
	refuse(settings.net.port > 65535, exUsage, "ERROR: Invalid port number %d.", settings.net.port)
}

func parseSlabSizes(s string) (sizes []int) {
	const chunkAlignBytes = 8
	last := 0
	for _, p := range strings.FieldsFunc(s, func(r rune) bool { return r == '-' }) {
		size, ok := toksize([]byte(p), 1)
		refuse(!ok || size < settings.slab.chunkSize || size > settings.slab.chunkSizeMax, exUsage, "slab size %d is out of valid range", size)
		refuse(size <= last, exUsage, "slab size %d cannot be lower than or equal to a previous class size", size)
		refuse(size <= last+chunkAlignBytes, exUsage, "slab size %d must be at least %d bytes larger than previous class", size, chunkAlignBytes)
		refuse(len(sizes) == maxNumberOfSlabClasses-2, exUsage, "too many slab classes specified")
		sizes = append(sizes, size)
		last = size
	}
	return sizes
}

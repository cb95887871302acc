// Limits, settings and their defaults, the command line. From memcached.h;
// memcached.c: settings_init, usage, the option loop of main and the checks
// after it; getopt_long(3), getsubopt(3).

package main

import (
	_ "embed"
	"fmt"
	"iter"
	"math"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
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
)

type protocol uint8

const (
	asciiProt protocol = 3 + iota
	binaryProt
	negotiatingProt // the client's first byte decides
)

// Set from the command line. Fields that commands can change while workers read
// them are atomic or guarded by tuneLock; the rest is fixed before workers start.
var settings struct {
	maxbytes             atomic.Uint64
	maxconns             int
	port                 int
	udpport              int
	inter                string // -l as given, entries joined with commas
	verbose              atomic.Int32
	oldestLive           atomic.Uint32 // relTime; once it has passed, items with a time up to it are flushed
	evictToFree          bool
	socketpath           string
	authFile             string
	access               int     // mode of the Unix socket (-a)
	factor               float64 // growth of chunk sizes
	chunkSize            int     // minimum bytes for key, value and flags
	numThreads           int
	numThreadsPerUdp     int
	prefixDelimiter      byte
	detailEnabled        atomic.Bool
	reqsPerEvent         int
	useCas               bool
	bindingProtocol      protocol
	backlog              int
	itemSizeMax          int // bytes
	slabChunkSizeMax     int // bytes
	slabPageSize         int // bytes
	sasl                 bool
	maxconnsFast         bool
	lruCrawler           atomic.Bool
	lruMaintainerThread  bool
	lruSegmented         atomic.Bool
	lruMemory            bool // the LRU remembers what it evicted
	slabReassign         bool
	slabAutomove         atomic.Int32
	hashpowerInit        int
	shutdownCommand      bool
	tailRepairTime       uint32 // seconds
	flushEnabled         bool
	dumpEnabled          bool
	watchEnabled         bool
	lruCrawlerSleep      atomic.Int32  // microseconds
	lruCrawlerTocrawl    atomic.Uint32 // items per LRU and run, 0 for all
	crawlsPersleep       int           // items crawled between two sleeps
	hotLruPct            atomic.Int32
	warmLruPct           atomic.Int32
	tempLru              atomic.Bool
	temporaryTtl         atomic.Uint32 // seconds
	idleTimeout          uint32        // seconds, 0 for never
	loggerWatcherBufSize int           // bytes
	loggerBufSize        int           // bytes
	memoryFile           string        // of -e
	readBufMemLimit      int           // bytes for all workers together, 0 for no limit
	dropPrivileges       bool
	relaxedPrivileges    bool // of debug builds
	numNapiIds           int
	ioUring              bool
	sockCookieId         uint32        // mark for the listening sockets, 0 for none
	extItemSize          atomic.Uint32 // bytes; smaller values stay in memory
	extItemAge           atomic.Uint32 // seconds without access before a value is written
	extLowTtl            atomic.Uint32 // seconds; values that expire sooner have pages of their own
	extRecacheRate       atomic.Uint32 // one in so many fetches recaches, 0 for none
	extWbufSize          int           // bytes
	extCompactUnder      atomic.Uint32 // free pages
	extDropUnder         atomic.Uint32 // free pages
	extMaxSleep          atomic.Uint32 // microseconds
	extDropUnread        atomic.Bool
	extGlobalPoolMin     atomic.Uint32 // slab pages to keep free
	sslSettings                        // tls.go

	tuneLock sync.Mutex // guards what follows

	hotMaxFactor, warmMaxFactor float64
	extMaxFrag                  float64 // part of a page that is in use, from which on it is not compacted

	slabAutomoveRatio, slabAutomoveFreeratio float64
	slabAutomoveWindow                       uint32 // seconds
	slabAutomoveVersion                      uint32 // bumped when one of these three changes
}

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
	check                bool   // --check
	checkAddr            string // its address, if it has one
}

//go:embed LICENSE
var license string

// As in getopt(3), a colon follows an option that takes a value.
const shortopts = "a:AZp:s:U:m:Mc:khiVrvdl:u:P:f:n:t:D:LR:Cb:B:I:SFXWY:e:o:N:"

const optCheck = 1 // for --check, which has no letter

type longopt struct {
	name string
	val  byte
}

var longopts = []longopt{
	{"unix-mask", 'a'},
	{"enable-shutdown", 'A'},
	{"enable-ssl", 'Z'},
	{"port", 'p'},
	{"unix-socket", 's'},
	{"udp-port", 'U'},
	{"memory-limit", 'm'},
	{"disable-evictions", 'M'},
	{"conn-limit", 'c'},
	{"lock-memory", 'k'},
	{"help", 'h'},
	{"license", 'i'},
	{"version", 'V'},
	{"enable-coredumps", 'r'},
	{"verbose", 'v'},
	{"daemon", 'd'},
	{"listen", 'l'},
	{"user", 'u'},
	{"pidfile", 'P'},
	{"slab-growth-factor", 'f'},
	{"slab-min-size", 'n'},
	{"threads", 't'},
	{"enable-largepages", 'L'},
	{"max-reqs-per-event", 'R'},
	{"disable-cas", 'C'},
	{"listen-backlog", 'b'},
	{"protocol", 'B'},
	{"max-item-size", 'I'},
	{"enable-sasl", 'S'},
	{"disable-flush-all", 'F'},
	{"disable-dumping", 'X'},
	{"disable-watch", 'W'},
	{"auth-file", 'Y'},
	{"memory-file", 'e'},
	{"extended", 'o'},
	{"napi-ids", 'N'},
	{"check", optCheck}, // not in C; its value is optional
}

const blanks = " \t\n\v\f\r"

func settingsInit() {
	settings.useCas = true
	settings.verbose.Store(0)
	settings.access = 0700
	settings.port = 11211
	settings.maxbytes.Store(64 << 20)
	settings.maxconns = 1024
	settings.evictToFree = true
	settings.factor = 1.25
	settings.chunkSize = 48
	settings.numThreads = 4
	settings.prefixDelimiter = ':'
	settings.reqsPerEvent = 20
	settings.backlog = 1024
	settings.bindingProtocol = negotiatingProt
	settings.itemSizeMax = 1 << 20
	settings.slabPageSize = 1 << 20
	settings.slabChunkSizeMax = settings.slabPageSize / 2
	settings.maxconnsFast = true
	settings.lruCrawlerSleep.Store(100)
	settings.lruSegmented.Store(true)
	settings.lruMemory = true
	settings.hotLruPct.Store(-1) // see lruPcts
	settings.warmLruPct.Store(-1)
	settings.hotMaxFactor = 0 // see lruMaxFactors
	settings.warmMaxFactor = 0
	settings.temporaryTtl.Store(61)
	settings.slabReassign = true
	settings.slabAutomove.Store(1)
	settings.slabAutomoveRatio = 0.8
	settings.slabAutomoveWindow = 10
	settings.flushEnabled = true
	settings.dumpEnabled = true
	settings.crawlsPersleep = 1000
	settings.loggerWatcherBufSize = 256 << 10
	settings.loggerBufSize = 64 << 10
	settings.watchEnabled = true
	settings.ioUring = true
	sslInitSettings()

	options.startLruMaintainer = true
	options.startLruCrawler = true
	options.startAssocMaint = true
	storageInitConfig()
}

func flagEnabledDisabled(flag bool) string {
	if flag {
		return "enabled"
	}
	return "disabled"
}

// banner returns one line that tells two builds apart. It begins as
// memcached's does, for the scripts that take the second word as the version.
func banner(info *debug.BuildInfo, ok bool) string {
	words := "memcached " + version + " (mc9 " + mc9Version
	if !ok {
		return words + ")"
	}
	setting := map[string]string{}
	for _, s := range info.Settings {
		setting[s.Key] = s.Value
	}
	if revision := setting["vcs.revision"]; revision != "" {
		words += ", revision " + revision[:min(12, len(revision))]
		if setting["vcs.modified"] == "true" {
			words += " modified"
		}
	}
	words += ", " + info.GoVersion
	if tags := setting["-tags"]; tags != "" {
		words += ", tags " + tags
	}
	return words + ")"
}

func usage() {
	fmt.Printf(`%s
-p, --port=<num>          TCP port (default: %d); 0 for none, -1 for any free one
-U, --udp-port=<num>      UDP port (default: %d, off)
-s, --unix-socket=<file>  listen on this Unix socket instead of the network
-a, --unix-mask=<mask>    permissions of the Unix socket, in octal (default: %o)
-A, --enable-shutdown     allow the command "shutdown"
-l, --listen=<addr>       addresses to listen on (default: all), separated by commas; the
                          option may be repeated. Each is host, host:port, [ipv6]:port
                          or *. A prefix proto[ascii]: or proto[binary]: permits that
                          protocol only`+sslHelpListen+`
-d, --daemon              run in the background
-r, --enable-coredumps    raise the limit on the size of core files
-u, --user=<user>         become this user, name or number, if started as root
                          (default: nobody)
-m, --memory-limit=<num>  megabytes for items (default: %d); a suffix k, m or g, here
                          and on every other size, sets the unit
-M, --disable-evictions   when memory is full, refuse new items instead of evicting others
-c, --conn-limit=<num>    simultaneous connections (default: %d)
-k, --lock-memory         keep all memory from being paged out
-v, --verbose             print errors and warnings
-vv                       print commands and replies too
-vvv                      print changes of a connection's state too
-h, --help                print this and exit
-i, --license             print the license and exit
-V, --version             print the version and exit
-P, --pidfile=<file>      write the process id to this file; with -d, remove it at exit
-f, --slab-growth-factor=<num> ratio of one chunk size to the next (default: %2.2f)
-n, --slab-min-size=<bytes> minimum space for key, value and flags (default: %d)
-L, --enable-largepages   allocate all item memory at start, in large pages
-D <char>                 separates a key's prefix from the rest (default: "%c"); also
                          turns on counting by prefix, as "stats detail on" does
-t, --threads=<num>       worker threads (default: %d)
-R, --max-reqs-per-event=<num> requests to serve on one connection before turning
                          to the others (default: %d)
-C, --disable-cas         items have no CAS unique, which saves 8 bytes each
-b, --listen-backlog=<num> connections that can wait to be accepted (default: %d)
-B, --protocol=<name>     ascii, binary, or auto: each client's first byte decides
                          (default: auto)
-I, --max-item-size=<num> largest item in bytes (default: 1m, from 1k to 1g)
-S, --enable-sasl         binary protocol only; clients authenticate with SASL PLAIN as
                          one of the users in the file that the environment variable
                          MEMCACHED_SASL_PWDB names, lines of user:password
-F, --disable-flush-all   refuse flush_all
-X, --disable-dumping     refuse stats cachedump, stats detail, and lru_crawler's
                          metadump and mgdump
-W, --disable-watch       refuse watch
-Y, --auth-file=<file>    text protocol only; clients authenticate as one of the users in
                          this file, lines of user:password, read again on SIGHUP
-e, --memory-file=<file>  keep items in this file on a RAM disk; after a stop by SIGUSR1
                          or "shutdown graceful" the next start goes on with them`+sslHelpEnable+`
-o, --extended=<list>     suboptions, separated by commas; no_, where shown, turns one off
   - [no_]maxconns_fast:  refuse connections over the limit at once (default: %s)
   - hashpower:           size of the hash table at start, as a power of two
                          (default: 16)
   - tail_repair_time:    seconds without use after which an item that is still
                          referenced at the tail of an LRU is unlinked, assuming a
                          leak (default: never; dangerous)
   - [no_]lru_crawler:    a thread that looks for expired items (default: enabled)
   - lru_crawler_sleep:   microseconds to sleep after 1000 items crawled (default: %d)
   - lru_crawler_tocrawl: items to crawl per LRU and run (default: %d, all)
   - read_buf_mem_limit:  megabytes for buffers of connections (default: %d, no limit)
   - [no_]lru_maintainer: segmented LRUs, and a thread that maintains them; otherwise
                          one plain LRU per class (default: enabled)
   - [no_]lru_memory:     the LRU knows keys that it evicted lately; otherwise, and with
                          ext_path, it is memcached's (default: enabled)
   - hot_lru_pct:         share of a class's memory for the hot LRU (default: 5 percent;
                          20 without lru_memory, or if warm_lru_pct is given)
   - warm_lru_pct:        the same for the warm LRU (default: 85 percent, or 40)
   - hot_max_factor:      items leave the hot LRU when older than the tail of the cold
                          LRU times this (default: never; 0.20 without lru_memory)
   - warm_max_factor:     the same for the warm LRU (default: never, or 2.00)
   - temporary_ttl:       items that expire within this many seconds have an LRU of
                          their own and are never evicted (default: off)
   - idle_timeout:        seconds until an idle connection is closed (default: %d, never)
   - slab_chunk_max:      largest chunk in kilobytes (default: %d)
   - slab_sizes:          the chunk sizes of all classes in bytes, separated by -
   - no_chunked_items:    let chunks be as large as a page
   - [no_]slab_reassign:  pages can move from one class to another (default: %s)
   - [no_]slab_automove:  move pages automatically: 0 never, 1 to a class that evicts
                          young items, 2 also on every eviction (default: %d)
   - slab_automove_ratio: young is an age below this fraction of the age in the class
                          with the oldest items (default: %.2f)
   - slab_automove_window: seconds to watch before a move (default: %d)
   - watcher_logbuf_size: kilobytes of buffer for each watcher (default: %d)
   - worker_logbuf_size:  kilobytes of log buffer for each worker (default: %d)
   - track_sizes:         count items by size, for stats sizes
   - drop_privileges, no_drop_privileges: have the kernel end the process at a
                          system call that it should not need (default: disabled)
   - no_hashexpand:       the hash table never grows
   - modern:              defaults of the next version (currently: none)
   - no_modern:           defaults of 1.4: no_lru_crawler, no_lru_maintainer,
                          no_slab_reassign, no_slab_automove, no_maxconns_fast,
                          slab_chunk_max=1024
   - sock_cookie_id:      mark for listening sockets, for packet filters
   - no_io_uring:         receive and send with a system call for each connection,
                          even where io_uring takes those of several in one
   - ext_path:            file to move values to when memory is short, and its size, as in
                          /mnt/d1/extstore:64g; another colon and default, compact,
                          chunked, lowttl, coldcompact or old say what its pages are for;
                          may be repeated
   - ext_page_size:       megabytes per page of these files (default: %d)
   - ext_wbuf_size:       megabytes per write buffer; no less than -I (default: %d)
   - ext_threads:         threads that read (default: %d)
   - ext_io_depth:        reads that a thread takes from its queue at a time (default: %d)
   - ext_item_size:       smallest item to move, in bytes (default: %d)
   - ext_item_age:        seconds without access after which to move an item even if
                          memory is not short (default: never)
   - ext_low_ttl:         items that expire sooner go to pages of their own (in seconds;
                          default: %d)
   - ext_recache_rate:    move a value back to memory on one fetch in so many, 0 for never
                          (default: %d)
   - ext_max_frag:        compact a page if less than this part of it is in use
                          (default: %.2f)
   - ext_compact_under:   compact when fewer pages than this are free
                          (default: 1 percent)
   - ext_drop_under:      when fewer than this are free, and none has holes, drop or move
                          cold items of the oldest page (default: 1 percent)
   - ext_drop_unread:     drop them, rather than compact or evict
   - ext_max_sleep:       longest sleep of the thread that writes, in microseconds
                          (default: %d)
   - slab_automove_freeratio: part of memory to keep free with ext_path (default: %.3f)
   - [no_]inline_ascii_resp, resp_obj_mem_limit: of other versions, no effect here`+sslHelp+`
-N, --napi-ids=<num>      choose a connection's worker by network receive queue (NAPI
                          ID); the number of queues
--check[=<addr>]          do not serve, but check whether a server answers at this address,
                          a socket file or as for -l (default: where the other options
                          put it)
`,
		banner(debug.ReadBuildInfo()), settings.port, settings.udpport, settings.access, settings.maxbytes.Load()>>20,
		settings.maxconns, settings.factor, settings.chunkSize, settings.prefixDelimiter,
		settings.numThreads, settings.reqsPerEvent, settings.backlog,
		flagEnabledDisabled(settings.maxconnsFast), settings.lruCrawlerSleep.Load(), settings.lruCrawlerTocrawl.Load(),
		settings.readBufMemLimit>>20, settings.idleTimeout, settings.slabChunkSizeMax>>10,
		flagEnabledDisabled(settings.slabReassign), settings.slabAutomove.Load(),
		settings.slabAutomoveRatio, settings.slabAutomoveWindow,
		settings.loggerWatcherBufSize>>10, settings.loggerBufSize>>10,
		storageConf.ext.pageSize>>20, settings.extWbufSize>>20, storageConf.ext.ioThreadcount, storageConf.ext.ioDepth,
		settings.extItemSize.Load(), settings.extLowTtl.Load(), settings.extRecacheRate.Load(), settings.extMaxFrag,
		settings.extMaxSleep.Load(), settings.slabAutomoveFreeratio)
}

func usageLicense() {
	fmt.Printf("%s\n\n%s", banner(debug.ReadBuildInfo()), license)
}

// getopt yields the options in argv and their values, without leading white
// space. For a bad option it prints what getopt_long does and yields '?'. Words
// that are not options are skipped.
func getopt(argv []string) iter.Seq2[byte, string] {
	return func(yield func(byte, string) bool) {
		args := argv[1:]
		shift := func() (word string, ok bool) {
			if len(args) > 0 {
				word, args = args[0], args[1:]
				return word, true
			}
			return "", false
		}
		for {
			word, ok := shift()
			if !ok || word == "--" {
				return
			}
			if strings.HasPrefix(word, "--") {
				c, val := getoptLong(argv[0], word, shift)
				if !yield(c, strings.TrimLeft(val, blanks)) {
					return
				}
				continue
			}
			for i := 1; i < len(word) && word[0] == '-'; i++ {
				c, val := word[i], ""
				switch {
				case c == ':' || strings.IndexByte(shortopts, c) < 0:
					c = getoptBad("%s: invalid option -- '%c'", argv[0], c)
				case takesValue(c):
					val = word[i+1:]
					i = len(word)
					if val == "" {
						if val, ok = shift(); !ok {
							c = getoptBad("%s: option requires an argument -- '%c'", argv[0], c)
						}
					}
				}
				if !yield(c, strings.TrimLeft(val, blanks)) {
					return
				}
			}
		}
	}
}

// getoptLong reads one long option, whose value may be the next word.
func getoptLong(prog, word string, shift func() (string, bool)) (c byte, val string) {
	name, val, given := strings.Cut(word[2:], "=")
	found := longoptsFind(name)
	switch {
	case len(found) == 0:
		return getoptBad("%s: unrecognized option '%s'", prog, word), ""
	case len(found) > 1:
		which := ""
		for _, o := range found {
			which += " '--" + o.name + "'"
		}
		return getoptBad("%s: option '%s' is ambiguous; possibilities:%s", prog, word, which), ""
	}
	name, c = found[0].name, found[0].val
	switch {
	case takesValue(c) && !given:
		if val, given = shift(); !given {
			c = getoptBad("%s: option '--%s' requires an argument", prog, name)
		}
	case given && !takesValue(c) && c != optCheck && c != 'v': // C lets --verbose have one, and ignores it
		c = getoptBad("%s: option '--%s' doesn't allow an argument", prog, name)
	}
	return c, val
}

func getoptBad(format string, args ...any) byte {
	fmt.Fprintf(os.Stderr, format+"\n", args...)
	return '?'
}

func takesValue(c byte) bool {
	return strings.Contains(shortopts, string(c)+":")
}

// longoptsFind returns the option called name or, if there is none, all options
// whose names begin with it.
func longoptsFind(name string) (found []longopt) {
	for _, o := range longopts {
		if o.name == name {
			return []longopt{o}
		}
		if strings.HasPrefix(o.name, name) {
			found = append(found, o)
		}
	}
	return found
}

// parseOptions is the option loop of main.
func parseOptions(argv []string) {
	for c, arg := range getopt(argv) {
		switch c {
		case 'A':
			settings.shutdownCommand = true
		case 'Z':
			sslEnable()
		case 'a':
			settings.access = 0
			fmt.Sscanf(arg, "%o", &settings.access)
		case 'U':
			settings.udpport = atoi(arg)
			options.udpSpecified = true
		case 'p':
			settings.port = atoi(arg)
			options.tcpSpecified = true
		case 's':
			if arg == "" {
				sysfatal(1, "No socket specified")
			}
			settings.socketpath = arg
		case 'm':
			settings.maxbytes.Store(uint64(parseSize("-m", arg, 1<<20)))
		case 'M':
			settings.evictToFree = false
		case 'c':
			settings.maxconns = parseRange(arg, 1, math.MaxInt32, "Maximum connections must be greater than 0")
		case 'h':
			usage()
			os.Exit(0)
		case 'i':
			usageLicense()
			os.Exit(0)
		case optCheck:
			options.check = true
			options.checkAddr = arg
		case 'V':
			fmt.Println(banner(debug.ReadBuildInfo()))
			os.Exit(0)
		case 'k':
			options.lockMemory = true
		case 'v':
			settings.verbose.Add(1)
		case 'l':
			parseListen(arg)
		case 'd':
			options.daemonize = true
		case 'r':
			options.maxcore = true
		case 'R':
			settings.reqsPerEvent = parseRange(arg, 1, math.MaxInt32, "Number of requests per event must be greater than 0")
		case 'u':
			options.username = arg
		case 'P':
			options.pidFile = arg
		case 'e':
			settings.memoryFile = arg
		case 'f':
			settings.factor = atof(arg)
			if !(settings.factor > 1.0) {
				sysfatal(1, "Factor must be greater than 1")
			}
		case 'n':
			settings.chunkSize = parseSize("-n", arg, 1)
			if settings.chunkSize <= 0 {
				sysfatal(1, "Chunk size must be greater than 0")
			}
		case 't':
			settings.numThreads = parseRange(arg, 1, math.MaxInt32, "Number of threads must be greater than 0")
			if settings.numThreads > numThreadsMax {
				sysfatal(1, "Number of threads must be at most %d", numThreadsMax)
			}
			if settings.numThreads > 64 {
				fmt.Fprintf(os.Stderr, "WARNING: Setting a high number of worker threads is not recommended.\n"+
					" Set this value to the number of cores in your machine or less.\n")
			}
		case 'D':
			if arg == "" {
				sysfatal(1, "No delimiter specified")
			}
			settings.prefixDelimiter = arg[0]
			settings.detailEnabled.Store(true)
		case 'L':
			if !enableLargePages() {
				sysfatal(1, "Cannot enable large pages on this system\n"+
					"(There is no support as of this version)")
			}
			options.preallocate = true
		case 'C':
			settings.useCas = false
		case 'b':
			settings.backlog = atoi(arg)
		case 'B':
			options.protocolSpecified = true
			switch arg {
			case "auto":
				settings.bindingProtocol = negotiatingProt
			case "binary":
				settings.bindingProtocol = binaryProt
			case "ascii":
				settings.bindingProtocol = asciiProt
			default:
				sysfatal(exUsage, "Invalid value for binding protocol: %s\n"+
					" -- should be one of auto, binary, or ascii", arg)
			}
		case 'I':
			settings.itemSizeMax = parseSize("-I", arg, 1)
		case 'S':
			settings.sasl = true
		case 'F':
			settings.flushEnabled = false
		case 'X':
			settings.dumpEnabled = false
		case 'W':
			settings.watchEnabled = false
		case 'Y':
			if arg == "" { // authentication would be off
				sysfatal(1, "Could not open authfile [] for reading")
			}
			settings.authFile = arg
		case 'N':
			settings.numNapiIds = parseRange(arg, 1, math.MaxInt32, "Maximum number of NAPI IDs must be greater than 0")
		case 'o':
			for arg != "" {
				var opt string
				opt, arg, _ = strings.Cut(arg, ",")
				parseSuboption(opt)
			}
		default:
			sysfatal(1, "Illegal argument \"%c\"", c)
		}
	}
}

// parseListen adds arg to the list of addresses. Not as in C, where an empty
// address makes a server that nobody can reach, and one that is a substring of
// the list is dropped.
func parseListen(arg string) {
	switch {
	case strings.Trim(arg, ";,") == "":
		sysfatal(1, "No interface specified")
	case settings.inter == "":
		settings.inter = arg
	case !slices.Contains(strings.FieldsFunc(settings.inter, isListSeparator), arg):
		settings.inter += "," + arg
	}
}

// parseSuboption applies one suboption of -o.
func parseSuboption(opt string) {
	name, value, given := strings.Cut(opt, "=")
	if !given {
		switch name {
		case "hashpower", "tail_repair_time", "idle_timeout":
			sysfatal(1, "Missing numeric argument for %s", name)
		case "lru_crawler_sleep", "lru_crawler_tocrawl":
			sysfatal(1, "Missing %s value", name)
		case "slab_automove_ratio", "slab_automove_window", "hash_algorithm", "hot_lru_pct",
			"warm_lru_pct", "hot_max_factor", "warm_max_factor", "temporary_ttl",
			"watcher_logbuf_size", "worker_logbuf_size", "slab_chunk_max", "read_buf_mem_limit",
			"sock_cookie_id":
			sysfatal(1, "Missing %s argument", name)
		}
	}
	switch name {
	case "maxconns_fast":
		settings.maxconnsFast = true
	case "hashpower":
		settings.hashpowerInit = atoi(value)
		if settings.hashpowerInit < 12 {
			sysfatal(1, "Initial hashtable multiplier of %d is too low", settings.hashpowerInit)
		} else if settings.hashpowerInit > 32 {
			sysfatal(1, "Initial hashtable multiplier of %d is too high\n"+
				"Choose a value based on \"STAT hash_power_level\" from a running instance",
				settings.hashpowerInit)
		}
	case "no_hashexpand":
		options.startAssocMaint = false
	case "slab_reassign":
		settings.slabReassign = true
	case "slab_automove":
		if !given {
			value = "1"
		}
		settings.slabAutomove.Store(int32(parseRange(value, 0, 2, "slab_automove must be between 0 and 2")))
	case "slab_automove_ratio":
		settings.slabAutomoveRatio = atof(value)
		if !(settings.slabAutomoveRatio > 0 && settings.slabAutomoveRatio <= 1) {
			sysfatal(1, "slab_automove_ratio must be > 0 and < 1")
		}
	case "slab_automove_window":
		settings.slabAutomoveWindow = uint32(parseRange(value, 3, 1800, "slab_automove_window must be > 2 and < 1800"))
	case "tail_repair_time":
		settings.tailRepairTime = uint32(parseRange(value, 10, math.MaxInt32, "Cannot set tail_repair_time to less than 10 seconds"))
	case "hash_algorithm":
		switch value {
		case "jenkins", "murmur3", "xxh3":
			sysfatal(1, "hash_algorithm cannot be chosen: mc9 hashes with maphash and a random seed")
		default:
			sysfatal(1, "Unknown hash_algorithm option (jenkins, murmur3, xxh3)")
		}
	case "lru_crawler":
		options.startLruCrawler = true
	case "lru_crawler_sleep":
		settings.lruCrawlerSleep.Store(int32(parseRange(value, 0, 1000000, "LRU crawler sleep must be between 0 and 1 second")))
	case "lru_crawler_tocrawl":
		n, err := strconv.ParseUint(value, 10, 32)
		if err != nil {
			sysfatal(1, "lru_crawler_tocrawl takes a numeric 32bit value")
		}
		settings.lruCrawlerTocrawl.Store(uint32(n))
	case "lru_maintainer":
		options.startLruMaintainer = true
		settings.lruSegmented.Store(true)
	case "lru_memory", "no_lru_memory":
		settings.lruMemory = name == "lru_memory"
	case "hot_lru_pct":
		settings.hotLruPct.Store(parsePct(name, value))
	case "warm_lru_pct":
		settings.warmLruPct.Store(parsePct(name, value))
	case "hot_max_factor":
		settings.hotMaxFactor = parseMaxFactor(name, value)
	case "warm_max_factor":
		settings.warmMaxFactor = parseMaxFactor(name, value)
	case "temporary_ttl":
		settings.tempLru.Store(true)
		settings.temporaryTtl.Store(uint32(atoi(value)))
	case "idle_timeout":
		settings.idleTimeout = uint32(max(atoi(value), 0))
	case "watcher_logbuf_size":
		settings.loggerWatcherBufSize = parseSize(name, value, 1<<10)
	case "worker_logbuf_size":
		settings.loggerBufSize = parseSize(name, value, 1<<10)
	case "slab_sizes":
		if value == "" {
			sysfatal(1, "Missing slab_sizes argument")
		}
		options.slabSizesUnparsed = value
	case "slab_chunk_max":
		n := parseSize(name, value, 1<<10)
		switch {
		case n <= 0:
			sysfatal(1, "slab_chunk_max must be >= 0")
		case n > 1<<20:
			sysfatal(1, "slab_chunk_max must be specified in kilobytes.")
		}
		settings.slabChunkSizeMax = n
		options.slabChunkSizeChanged = true
	case "track_sizes":
		options.trackSizes = true
	case "no_inline_ascii_resp", "inline_ascii_resp", "modern":
		// No effect, as in C.
	case "no_chunked_items":
		settings.slabChunkSizeMax = settings.slabPageSize
	case "no_slab_reassign":
		settings.slabReassign = false
	case "no_slab_automove":
		settings.slabAutomove.Store(0)
	case "no_maxconns_fast":
		settings.maxconnsFast = false
	case "no_io_uring":
		settings.ioUring = false
	case "no_lru_crawler":
		settings.lruCrawler.Store(false)
		options.startLruCrawler = false
	case "no_lru_maintainer":
		options.startLruMaintainer = false
		settings.lruSegmented.Store(false)
	case "no_modern":
		if !options.slabChunkSizeChanged {
			settings.slabChunkSizeMax = settings.slabPageSize
		}
		settings.slabReassign = false
		settings.slabAutomove.Store(0)
		settings.maxconnsFast = false
		settings.lruSegmented.Store(false)
		options.startLruCrawler = false
		options.startLruMaintainer = false
	case "no_drop_privileges":
		settings.dropPrivileges = false
	case "drop_privileges":
		settings.dropPrivileges = true
	case "resp_obj_mem_limit":
		fmt.Fprintf(os.Stderr, "DEPRECATED: resp_obj_mem_limit no longer used. See read_buf_mem_limit,\n")
	case "read_buf_mem_limit":
		settings.readBufMemLimit = parseSize(name, value, 1<<20)
	case "sock_cookie_id":
		n, _ := strconv.ParseUint(value, 10, 32)
		settings.sockCookieId = uint32(n)
	default:
		switch {
		case name == "relaxed_privileges" && debugBuild:
			settings.relaxedPrivileges = true
		case tlsBuild && sslSuboption(name, value, given):
		case storageReadConfig(name, value, given):
		default:
			sysfatal(1, "Illegal suboption \"%s\"", opt)
		}
	}
}

// parseRange returns the number in value. If it is below lo or above hi, the
// process ends with the complaint.
func parseRange(value string, lo, hi int, complaint string) int {
	n := atoi(value)
	if n < lo || n > hi {
		sysfatal(1, "%s", complaint)
	}
	return n
}

func parsePct(name, value string) int32 {
	return int32(parseRange(value, 1, 79, name+" must be > 1 and < 80"))
}

func parseMaxFactor(name, value string) float64 {
	f := atof(value)
	if !(f > 0) {
		sysfatal(1, "%s must be > 0", name)
	}
	return f
}

// parseSize returns the size that option name is given, in bytes; see toksize.
func parseSize(name, value string, unit int) int {
	n, ok := toksize([]byte(strings.TrimRight(value, blanks)), unit)
	if !ok {
		sysfatal(1, "could not parse argument to %s", name)
	}
	return n
}

// checkOptions ends the process if options conflict, and derives further
// settings from them.
func checkOptions() {
	if settings.numNapiIds > settings.numThreads {
		sysfatal(exUsage, "Number of napi_ids(%d) cannot be greater than number of threads(%d)",
			settings.numNapiIds, settings.numThreads)
	}

	if settings.itemSizeMax < 1<<10 {
		sysfatal(exUsage, "Item max size cannot be less than 1024 bytes.")
	}
	if uint64(settings.itemSizeMax) > settings.maxbytes.Load()/2 {
		sysfatal(exUsage, "Cannot set item size limit higher than 1/2 of memory max.")
	}
	if settings.itemSizeMax > 1<<30 {
		sysfatal(exUsage, "Cannot set item size limit higher than a gigabyte.")
	}
	if settings.itemSizeMax > 1<<20 && !options.slabChunkSizeChanged {
		settings.slabChunkSizeMax = settings.slabPageSize / 2
	}
	if settings.slabChunkSizeMax > settings.itemSizeMax {
		sysfatal(exUsage, "slab_chunk_max (bytes: %d) cannot be larger than -I (item_size_max %d)",
			settings.slabChunkSizeMax, settings.itemSizeMax)
	}
	if settings.itemSizeMax%settings.slabChunkSizeMax != 0 {
		sysfatal(exUsage, "-I (item_size_max: %d) must be evenly divisible by slab_chunk_max (bytes: %d)",
			settings.itemSizeMax, settings.slabChunkSizeMax)
	}
	if settings.slabPageSize%settings.slabChunkSizeMax != 0 {
		sysfatal(exUsage, "slab_chunk_max (bytes: %d) must divide evenly into %d (slab_page_size)",
			settings.slabChunkSizeMax, settings.slabPageSize)
	}

	storageCheckConfig()

	if options.slabSizesUnparsed != "" {
		options.slabSizes = parseSlabSizes(options.slabSizesUnparsed)
	}
	if hot, warm := lruPcts(); hot+warm > 80 && (settings.hotLruPct.Load() >= 0 || settings.warmLruPct.Load() >= 0) {
		sysfatal(exUsage, "hot_lru_pct + warm_lru_pct cannot be more than 80%% combined")
	}
	if settings.tempLru.Load() && !options.startLruMaintainer {
		sysfatal(exUsage, "temporary_ttl requires lru_maintainer to be enabled")
	}

	// With several addresses, each UDP socket is served by one worker only.
	settings.numThreadsPerUdp = settings.numThreads
	if strings.ContainsFunc(settings.inter, isListSeparator) {
		settings.numThreadsPerUdp = 1
	}

	if settings.sasl {
		if !options.protocolSpecified {
			settings.bindingProtocol = binaryProt
		} else if settings.bindingProtocol != binaryProt {
			sysfatal(exUsage, "ERROR: You cannot allow the ASCII protocol while using SASL.")
		}
		if settings.udpport != 0 {
			sysfatal(exUsage, "ERROR: Cannot enable UDP while using binary SASL authentication.")
		}
	}
	if settings.authFile != "" {
		if !options.protocolSpecified {
			settings.bindingProtocol = asciiProt
		} else if settings.bindingProtocol != asciiProt {
			sysfatal(exUsage, "ERROR: You cannot allow the BINARY protocol while using ascii authentication tokens.")
		}
		if settings.udpport != 0 {
			sysfatal(exUsage, "Cannot use UDP with ascii authentication enabled (-U 0 to disable)")
		}
		if options.daemonize && !options.maxcore && !filepath.IsAbs(settings.authFile) {
			sysfatal(exUsage, "-d changes to /: Authfile [%s] must be an absolute path", settings.authFile)
		}
	}

	if settings.memoryFile != "" && options.daemonize && !options.maxcore && !filepath.IsAbs(settings.memoryFile) {
		sysfatal(exUsage, "-d changes to /: memory file [%s] must be an absolute path", settings.memoryFile)
	}
	sslCheckOptions()

	if options.udpSpecified && settings.udpport != 0 && !options.tcpSpecified {
		settings.port = settings.udpport
	}
	if settings.port > 65535 {
		sysfatal(exUsage, "ERROR: Invalid port number %d.", settings.port)
	}
}

func parseSlabSizes(s string) (sizes []int) {
	const chunkAlignBytes = 8
	last := 0
	for _, p := range strings.FieldsFunc(s, func(r rune) bool { return r == '-' }) {
		size, ok := toksize([]byte(p), 1)
		switch {
		case !ok || size < settings.chunkSize || size > settings.slabChunkSizeMax:
			sysfatal(exUsage, "slab size %d is out of valid range", size)
		case last >= size:
			sysfatal(exUsage, "slab size %d cannot be lower than or equal to a previous class size", size)
		case size <= last+chunkAlignBytes:
			sysfatal(exUsage, "slab size %d must be at least %d bytes larger than previous class",
				size, chunkAlignBytes)
		case len(sizes) == maxNumberOfSlabClasses-2:
			sysfatal(exUsage, "too many slab classes specified")
		}
		sizes = append(sizes, size)
		last = size
	}
	return sizes
}

// Bugs of memcached that mc9 must not have: the security bugs of its network
// code and protocols, and the bugs fixed in 1.6.40 to 1.6.45. The conversations
// and tests named here send what triggered each bug, then check that the server
// is unharmed.

package main

import (
	"bytes"
	"fmt"
	"go/ast"
	goparser "go/parser"
	"go/token"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

var history = []struct {
	bug   string // or the version that fixed it
	cause string
	tests string // or, after a dash, why there is none
}{
	{"CVE-2009-1255", "stats maps and stats malloc tell where memory is", "cve-text.mc"},
	{"CVE-2009-2415", "a value of negative length overruns its allocation", "cve-text.mc"},
	{"CVE-2010-1152", "a line without an end is buffered without limit", "cve-text.mc line-lengths.mc TestEndlessGet"},
	{"CVE-2011-4971", "a binary body of 2 GB or more is a negative int", "cve-binary.mc binary-strict.mc"},
	{"CVE-2013-0179", "-vv prints the key of a binary delete, which no NUL ends", "TestVerboseKeys"},
	{"CVE-2013-7239", "a second attempt to log in succeeds, with any password", "cve-sasl.mc sasl.mc"},
	{"CVE-2013-7290", "-vvv prints the key of a lookup, which no NUL ends", "TestVerboseKeys"},
	{"CVE-2013-7291", "-vv prints the key that is sent, which no NUL ends", "TestVerboseKeys"},
	{"CVE-2016-8704", "a binary append's body is shorter than its key", "cve-binary.mc binary-errors.mc"},
	{"CVE-2016-8705", "a binary set's body, of nearly 4 GB, wraps around to a small value", "cve-binary.mc"},
	{"CVE-2016-8706", "a SASL packet's body is shorter than its key", "cve-sasl.mc cve-binary.mc"},
	{"CVE-2017-9951", "a binary set's body of 2 GB is swallowed backwards", "cve-binary.mc"},
	{"CVE-2018-1000115", "UDP is on by default, and answers a small packet with large ones, sent to a forged address", "TestUdpOff"},
	{"CVE-2018-1000127", "65536 references to an item, from one get, wrap around to 0", "TestTooManyReferences"},
	{"CVE-2019-11596", "lru mode and lru temp_ttl without a further word", "cve-text.mc"},
	{"CVE-2019-15026", "stats conns reads past the name of a Unix socket", "TestSocketNames"},
	{"CVE-2020-10931", "255 bytes of binary extras go into a buffer for 20", "cve-binary.mc"},
	{"CVE-2020-22570", "there is no text for a wrong F or S of a meta command", "cve-text.mc"},
	{"CVE-2021-37519", "the last line of the file of -Y lacks its end", "TestAuthfileBytes TestAuthfileReload"},
	{"CVE-2022-48571", "for an error about a request in several datagrams, there is no reply to put it in", "TestUdpGarbage TestUdp"},
	{"CVE-2023-46852", "proxy: blanks before the keys of a get are copied into a buffer for one key", "cve-text.mc"},
	{"CVE-2023-46853", "proxy: a line that ends in \\n alone", "cve-text.mc newline.mc"},
	{"CVE-2026-47783", "SASL reads its file only up to the user, so timing tells which users exist", "cve-sasl.mc"},
	{"CVE-2026-47784", "SASL compares passwords only up to the first difference", "- only a clock can tell; saslServerUserdbCheckpass uses crypto/subtle"},
	{"CVE-2026-90698", "-Y reads words of an empty line, which has none", "auth-strict.mc"},

	{"1.6.40", "core: the setting num_napi_ids is printed as a string", "stats-settings.mc"},
	{"1.6.40", "core: -vvv never says NOT FOUND", "TestStates"},
	{"1.6.40", "core: -o worker_logbuf_size sets slab_sizes, too", "TestOptions"},
	{"1.6.40", "slabs: the mover does not sleep longer each time it finds an item busy", "TestBusy TestMoverPause"},
	{"1.6.40", "proxy: log options of backends are lost on reload", "- no proxy"},
	{"1.6.40", "extstore: its page size comes too late among the options", "TestExtstoreOptions"},
	{"1.6.40", "extstore: flags of an item are lost when it is written", "extstore-flags.mc TestModel"},

	{"1.6.41", "proto: words are not found, or too many, between blanks", "blanks.mc blanks-strict.mc"},
	{"1.6.41", "proto: a line of blanks alone", "short-lines.mc"},
	{"1.6.41", "proto: lru is taken for lru_crawler", "admin.mc"},
	{"1.6.41", "stats: slab_reassign_last_busy_status is NULL at first", "stats.mc"},
	{"1.6.41", "slabs: with slab_automove=2 a page is taken from a class that has none", "TestPool automove-2.mc"},
	{"1.6.41", "slabs: the mover waits forever for memory for the items it rescues", "TestMoveEvict TestMoveFull"},
	{"1.6.41", "slabs: automove takes pages while there is memory left", "TestAutomove automove.mc"},
	{"1.6.41", "extstore: compaction looks at the wrong item's references", "TestModel TestStress"},
	{"1.6.41", "extstore: compaction gives up too soon", "TestModel TestStress"},
	{"1.6.41", "proxy: a 0 is written behind a key of 250 bytes", "- no proxy"},

	{"1.6.42", "slabs: slabs reassign from and to classes that do not exist", "slabs-reassign.mc"},
	{"1.6.42", "proto: watch mutations while a binary set fails", "fixed.mc"},
	{"1.6.42", "auth: -Y and a password of 2 GB", "auth-strict.mc"},
	{"1.6.42", "auth: the file of -Y is read again while it is used", "TestAuthfileReload"},
	{"1.6.42", "proto: a binary body of over 2 GB, again", "binary-strict.mc cve-binary.mc"},
	{"1.6.42", "proxy: the byte before a request is read", "- no proxy"},
	{"1.6.42", "proxy: a bad reply is used in match_res", "- no proxy"},
	{"1.6.42", "proxy: an empty value is given length -2", "- no proxy"},
	{"1.6.42", "proxy: the length of a miss in extstore", "- no proxy"},

	{"1.6.43", "core: -l proto[binary] bypasses -Y", "TestAuthOptions"},
	{"1.6.43", "core: client flags are read at unaligned addresses", "- they are not read through a pointer"},
	{"1.6.43", "crawler: a dump does not begin with OK", "metadump.mc"},
	{"1.6.43", "core: slab_automove=2 asks for a page with an LRU locked", "automove-2.mc"},
	{"1.6.43", "proto: binary gets may have more references to an item than can be counted", "TestTooManyReferences"},
	{"1.6.43", "seccomp: ppoll is forbidden", "TestDropPrivileges"},
	{"1.6.43", "proxy: a backend's value of 4 GB", "- no proxy"},

	{"1.6.44", "proto: -X does not forbid the binary stat detail", "dump-disabled.mc"},
	{"1.6.44", "crawler: a dump for a client that does not read overflows its buffer", "TestDumpSlow"},
	{"1.6.44", "crawler: an LRU is unlocked twice when the client of a dump hangs up", "TestDumpGone"},
	{"1.6.44", "proxy: a backend's value of 4 GB, again", "- no proxy"},

	{"1.6.45", "logger: a watcher is used after it was found to be gone", "TestWatcherSkips TestWatcherChurn"},
	{"1.6.45", "proto: 16 KB of blanks are read past their end", "line-lengths-strict.mc"},
	{"1.6.45", "slabs: the search for a page to take includes class 64, which does not exist", "slabs-reassign.mc"},
	{"1.6.45", "proto: slabs automove window 0", "automove.mc"},
	{"1.6.45", "stats: stats detail keeps any number of prefixes", "TestPrefixes"},
	{"1.6.45", "network: memory runs out for a get that does not end, and there is no reply to say so", "TestEndlessGet"},
	{"1.6.45", "proto: a number missing at the end of a line, or after a flag, is read from what follows", "fixed.mc metaset-strict.mc"},
	{"1.6.45", "proto: mg with too long an opaque drops a reference without the lock", "TestOpaqueTooLong"},
	{"1.6.45", "proxy: a refused ms leaks its item", "fixed.mc TestMetaLeaks"},
	{"1.6.45", "extstore: the length of a binary miss", "TestExtstoreMisses"},
	{"1.6.45", "restart: a line without an end in the file of -e", "TestRestartDamage"},
	{"1.6.45", "tls: the text of an unset error is used", "- no TLS"},
	{"1.6.45", "proxy: a byte too many in request_append", "- no proxy"},
	{"1.6.45", "proxy: the default of ring_hash", "- no proxy"},
	{"1.6.45", "proxy: flagcopyall", "- no proxy"},
	{"1.6.45", "proxy: labels of backends that are too long", "- no proxy"},
	{"1.6.45", "proxy: key filters, twice", "- no proxy"},
	{"1.6.45", "proxy: a request that cannot be made again is not freed", "- no proxy"},
	{"1.6.45", "proxy: resnull has no default", "- no proxy"},
	{"1.6.45", "proxy: room for a line about a backend", "- no proxy"},
	{"1.6.45", "proxy: a rate of 0", "- no proxy"},
	{"1.6.45", "proxy: the length of a logged detail", "- no proxy"},
	{"1.6.45", "proxy: many blanks in a long get", "cve-text.mc"},
	{"1.6.45", "proxy: res:line() returns the line of another reply", "- no proxy"},
}

// TestHistory checks that every test and conversation that history names exists
// and mentions the bugs listed with it.
func TestHistory(t *testing.T) {
	says := map[string]string{}
	files, _ := filepath.Glob("testdata/*.mc")
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		says[filepath.Base(file)] = string(text)
	}
	files, _ = filepath.Glob("*_test.go")
	for _, file := range files {
		f, err := goparser.ParseFile(token.NewFileSet(), file, nil, goparser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range f.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && strings.HasPrefix(f.Name.Name, "Test") {
				says[f.Name.Name] = f.Doc.Text() + "\n"
			}
		}
	}
	known := map[string]bool{}
	for _, h := range history {
		known[h.bug] = true
		if strings.HasPrefix(h.tests, "- ") {
			continue
		}
		for i, name := range strings.Fields(h.tests) {
			if says[name] == "" {
				t.Errorf("%s: there is no %s", h.bug, name)
			} else if i == 0 && strings.HasPrefix(h.bug, "CVE") && !strings.Contains(says[name], h.bug) {
				t.Errorf("%s: %s does not mention it", h.bug, name)
			}
		}
	}
	cve := regexp.MustCompile(`CVE-\d+-\d+`)
	for name, text := range says {
		for _, bug := range cve.FindAllString(text, -1) {
			if !known[bug] {
				t.Errorf("%s mentions %s, which history does not list with it", name, bug)
			}
		}
	}
}

// CVE-2013-0179, CVE-2013-7290, CVE-2013-7291: a key is printed without the bytes
// after it.
func TestVerboseKeys(t *testing.T) {
	t.Parallel()
	s := mc9(t, "-vvv", "-t", "1")
	c, b := s.client(), s.client()
	key := strings.Repeat("k", 250)
	var in []string
	for _, cmd := range []string{"Delete", "Get", "Set", "Add", "Getk", "Delete", "Setq", "Gat", "Touch",
		"Increment", "Append", "Getkq", "Replace", "Prepend", "Stat", "Decrementq", "Deleteq"} {
		in = append(in, "T"+cmd+" key="+key)
		switch cmd {
		case "Set", "Add", "Setq", "Append", "Replace", "Prepend":
			in[len(in)-1] += " value=behind"
		}
	}
	b.askBinary(packets(t, in...))
	b.askBinary(packets(t, "TSet key="+key+"k value=behind"))
	for _, cmd := range []string{"get K", "set K 0 0 6\r\nbehind", "get K K", "mg K v", "ma K", "md K q", "delete K",
		"gat 0 K", "ms K 6\r\nbehind", "incr K 1", "get Kk", "set Kk 0 0 6\r\nbehind"} {
		c.ask(strings.ReplaceAll(cmd, "K", key) + "\r\n")
	}
	var have []string
	fd := regexp.MustCompile(`^([<>])\d+`)
	for _, line := range strings.Split(s.said(), "\n") {
		if strings.Contains(line, "kk") || strings.Contains(line, "behind") {
			have = append(have, fd.ReplaceAllString(strings.ReplaceAll(line, key, "K"), "${1}N"))
		}
	}
	slices.Sort(have)
	have = slices.Compact(have)
	want := []string{
		"<N ADD K Value len is 6",
		"<N APPEND K Value len is 6",
		"<N GET K",
		"<N PREPEND K Value len is 6",
		"<N REPLACE K Value len is 6",
		"<N SET K Value len is 6",
		"<N STATS K",
		"<N TOUCH K",
		"<N delete K",
		"<N gat 0 K",
		"<N get K",
		"<N get K K",
		"<N get Kk",
		"<N incr K 1",
		"<N ma K",
		"<N md K q",
		"<N mg K v",
		"<N ms K 6",
		"<N set K 0 0 6",
		"<N set Kk 0 0 6",
		">N sending key K",
		"> FOUND KEY K",
		"> NOT FOUND K",
		"Deleting K",
		"incr K 1, 0, 0",
	}
	slices.Sort(want)
	if !slices.Equal(have, want) {
		t.Errorf("have %q, want %q", have, want)
	}
}

// CVE-2018-1000115: UDP is off unless asked for, so mc9 cannot be used for floods.
func TestUdpOff(t *testing.T) {
	t.Parallel()
	for _, flags := range []string{"-p -1", "-l 127.0.0.1 -p -1", "-p -1 -U 0", "-p -1 -U -1 -U 0"} {
		s := start(t, "", true, strings.Fields(flags)...)
		for name, port := range s.port {
			if strings.HasPrefix(name, "UDP") {
				t.Errorf("%s: %s %s", flags, name, port)
			}
		}
		c := s.client()
		if port := c.stat("settings", "udpport"); port != "0" {
			t.Errorf("%s: %s", flags, port)
		}
		if conns := c.ask("stats conns\r\n"); strings.Contains(conns, "udp") || strings.Contains(conns, "UDP") {
			t.Errorf("%s: %s", flags, conns)
		}
	}
}

// CVE-2022-48571: whatever a datagram contains, other clients are unaffected.
func TestUdpGarbage(t *testing.T) {
	t.Parallel()
	s := start(t, "", true, "-p", "-1", "-U", "-1", "-l", "127.0.0.1", "-t", "1")
	addr := "127.0.0.1:" + s.port["UDP INET"]
	c := s.client()
	c.want(t, "mn\r\n", "MN\r\n")
	fds := s.fds()
	alive := func(in string) {
		t.Helper()
		u := dialUdp(t, addr)
		u.want(t, 77, "set foo 0 0 3\r\nbar\r\n", "STORED\r\n")
		u.want(t, 78, "get foo\r\n", "VALUE foo 0 3\r\nbar\r\nEND\r\n")
		u.Close()
		if t.Failed() {
			t.Fatalf("after %.100q", in)
		}
	}
	header := func(id, seq, total, zero byte) string { return string([]byte{0, id, 0, seq, 0, total, 0, zero}) }
	words := []string{"get foo", "gets foo none", "gat 0 foo", "mg foo v", "ms x 2\r\nhi", "md x", "ma x", "mn", "me foo",
		"set x 0 0 2\r\nhi", "set x 0 0 200\r\nhi", "set x 0 0 2000000\r\nhi", "append x 0 0 2\r\nhi", "incr x 1", "touch x 0",
		"stats", "stats conns", "stats items", "stats cachedump 1 0", "version", "verbosity 0", "watch", "watch mutations",
		"lru_crawler metadump all", "lru_crawler mgdump hash", "lru_crawler crawl all", "slabs reassign 1 2", "quit",
		"shutdown", "x", "", "get " + strings.Repeat("k", 300), "get" + strings.Repeat(" foo", 500), strings.Repeat(" ", 3000),
		strings.Repeat("x", 60000), "get" + strings.Repeat(" x", 30000), "GET / HTTP/1.1"}
	u := dialUdp(t, addr)
	for _, in := range []string{"", "\x00", "\x00\x01\x00\x00\x00\x00\x00", "\x00\x01\x00\x00\x00\x00\x00\x00\x00",
		header(1, 0, 2, 0), header(1, 0, 0, 0) + "get foo\r\n", header(1, 1, 2, 0) + "get foo\r\n", header(1, 9, 1, 9),
		header(1, 0, 1, 0) + "\x80", header(1, 0, 1, 0) + "\x80" + strings.Repeat("\xff", 23),
		header(1, 0, 1, 0) + "\x80" + strings.Repeat("\xff", 30000)} {
		io.WriteString(u, in)
		alive(in)
	}
	for i := range 300 {
		in := header(1, 0, 1, 0)
		for range 1 + rand.IntN(3) {
			if rand.IntN(2) == 0 {
				p := []byte(packets(t, randomBinary()))
				for range rand.IntN(4) {
					p[rand.IntN(min(len(p), 40))] = byte(rand.IntN(256))
				}
				in += string(p)
			} else {
				in += words[rand.IntN(len(words))] + []string{"\r\n", "\n", ""}[rand.IntN(3)]
			}
		}
		io.WriteString(u, in[:min(len(in), 65000)])
		if c.want(t, "mn\r\n", "MN\r\n"); i%20 == 0 {
			alive(in)
		}
	}
	if n := s.fds(); n > fds {
		t.Errorf("%d more descriptors", n-fds)
	}
}

// CVE-2018-1000127: clients that do not read hold references to an item, but no
// more than can be counted. When the clients are gone, so are the references.
func TestTooManyReferences(t *testing.T) {
	t.Parallel()
	s := mc9(t, "-t", "1", "-R", "1000", "-o", "no_lru_maintainer,no_lru_crawler")
	c, b := s.client(), s.client()
	value := strings.Repeat("v", 10000) + "\r\n"
	c.want(t, "set big 0 0 10000\r\n"+value, "STORED\r\n")
	// An item found by one command of a pipeline is still referenced when the
	// next command runs, whose reference may be one too many.
	const each = 200
	pipeline := "get" + strings.Repeat(" big", each) + "\r\n"
	var holders []net.Conn
	for strings.Count(c.ask(pipeline), "VALUE") == each {
		if len(holders) > 1000 {
			t.Fatal("there is no limit")
		}
		for range 10 {
			nc, err := s.dial()
			if err != nil {
				t.Fatal(err)
			}
			defer nc.Close()
			io.WriteString(nc, "get"+strings.Repeat(" big", 1500)+"\r\n")
			holders = append(holders, nc)
		}
	}
	if len(holders) < itRefcountLimit/1500 {
		t.Errorf("only %d connections", len(holders))
	}
	have := c.ask(pipeline + "gets big\r\ngat 0 big\r\nmg big v\r\nmg big N0\r\nme big\r\n")
	have = strings.ReplaceAll(have, "VALUE big 0 10000\r\n"+value, "")
	const overflow = "SERVER_ERROR refcount overflow during fetch\r\n"
	if want := "END\r\nEND\r\nEND\r\n" + overflow + overflow + "EN\r\n"; have != want {
		t.Errorf("%.200q", have)
	}
	for request, want := range map[string]string{
		"TGet key=big":   "RGet status=0x01 value=Not found\r\n",
		"TGatk key=big":  "RGatk status=0x01 key=big\r\n",
		"TTouch key=big": "RTouch status=0x01 value=Not found\r\n",
	} {
		have := b.askBinary(strings.Repeat(packets(t, "TGetq key=big"), each) + packets(t, request))
		if have := have[len(have)-1]; have != want {
			t.Errorf("%.100q", have)
		}
	}
	// The key can still be set; those who hold the item keep its old value.
	c.want(t, "append big 0 0 1\r\n!\r\nset n 0 0 1\r\n1\r\nincr n 1\r\nset big 0 0 1\r\n1\r\nincr big 1\r\n",
		"STORED\r\nSTORED\r\n2\r\nSTORED\r\n2\r\n")
	first := newClient(holders[0])
	for line := range 100 {
		if have, want := first.line(), []string{"VALUE big 0 10000\r\n", value}[line%2]; have != want {
			t.Fatalf("%.50q", have)
		}
	}
	for _, nc := range holders {
		nc.Close()
	}
	c.wantStat(t, "curr_connections", "2")
	c.want(t, "delete big\r\ndelete n\r\n", "DELETED\r\nDELETED\r\n")
	c.wantNoneUsed(t)
}

// Many clients at once send an mg that is refused.
func TestOpaqueTooLong(t *testing.T) {
	t.Parallel()
	s := mc9(t, "-t", "4")
	c := s.client()
	c.want(t, "set n 0 0 1\r\n0\r\n", "STORED\r\n")
	const clients, rounds = 4, 500
	in := "mg n v O" + strings.Repeat("o", 32) + "\r\nmg n T0 k O" + strings.Repeat("o", 32) + "\r\nincr n 1\r\n"
	refused := "CLIENT_ERROR opaque token too long\r\n"
	var wg sync.WaitGroup
	for range clients {
		c := s.client()
		wg.Add(1)
		go func() {
			defer wg.Done()
			for range rounds {
				if have := c.ask(in); !strings.HasPrefix(have, refused+refused) {
					t.Errorf("%q", have)
				}
			}
		}()
	}
	wg.Wait()
	c.want(t, "incr n 0\r\ndelete n\r\n", fmt.Sprintf("%d\r\nDELETED\r\n", clients*rounds))
	c.wantNoneUsed(t)
}

// CVE-2019-15026: the name of a Unix socket may fill its field, and need not end
// in a NUL.
func TestSocketNames(t *testing.T) {
	const most = 107 // bytes
	dir, err := os.MkdirTemp("", "mc9")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	name := dir + "/" + strings.Repeat("s", most-len(dir)-1)
	s := &server{t: t, addr: name, cmd: command("", "-s", name), done: make(chan struct{})}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		s.cmd.Wait()
		close(s.done)
	}()
	defer s.stop()
	c := connect(t, "unix", name)
	if have := c.stat("settings", "domain_socket"); have != name {
		t.Errorf("domain_socket %q", have)
	}
	// Abstract names have no NUL at the end.
	for _, n := range []int{1, 50, most} {
		client := "@" + strings.Repeat("c", n)
		nc, err := net.DialUnix("unix", &net.UnixAddr{Name: client, Net: "unix"}, &net.UnixAddr{Name: name, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		newClient(nc).want(t, "get foo\r\n", "END\r\n")
	}
	line := regexp.MustCompile(`^(STAT \d+:(addr|listen_addr|state|secs_since_last_cmd) (unix:` + name + `|unix:@c+|\?:<AF 0>|conn_\w+|\d+)|END|)$`)
	for _, have := range strings.Split(c.ask("stats conns\r\n"), "\r\n") {
		if !line.MatchString(have) {
			t.Errorf("%q", have)
		}
	}
	for _, n := range []int{most + 1, most + 2, 200, 5000} {
		name := dir + "/" + strings.Repeat("s", n-len(dir)-1)
		if code, out := run(t, "-s", name); code != exOserr || !strings.Contains(out, "failed to listen on UNIX socket: "+name) {
			t.Errorf("%d bytes: %d %q", n, code, out)
		}
	}
}

// An argument of any length is refused properly.
func TestLongArguments(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("9", 5000)
	for _, flag := range []string{"-l ", "-l proto[", "-l proto[ascii]:", "-l tag[", "-l [", "-l 127.0.0.1:", "-l a:b:", "-l %",
		"-u ", "-Y ", "-B ", "-o ", "-o slab_sizes=", "-o hashpower=", "-o idle_timeout=", "-p ", "-U ", "-m ", "-t ", "-c ", "-I ",
		"-f ", "-n ", "-R ", "-b ", "-a ", "--", "--port=", "-D ", "-P "} {
		opt, arg, _ := strings.Cut(flag, " ")
		flags := []string{opt + arg + long}
		if strings.Contains(flag, " ") {
			flags = []string{opt, arg + long}
		}
		if opt != "-l" {
			flags = append(flags, "-s", "/nonexistent/sock")
		}
		code, out := run(t, flags...)
		if code <= 0 || code == 2 { // 2 is a panic's
			t.Errorf("%s: %d %.1000s", flag, code, out)
		}
	}
}

// CVE-2021-37519: the file of -Y may end anywhere and contain anything.
func TestAuthfileBytes(t *testing.T) {
	old := mainAuthEntries.Load()
	defer mainAuthEntries.Store(old)
	file := filepath.Join(t.TempDir(), "users")
	long := strings.Repeat("x", 10000)
	for _, tt := range []struct{ text, user, pass string }{
		{"foo:bar", "foo", "bar"},
		{"foo:", "foo", ""},
		{":", "", ""},
		{":\n:bar", "", "bar"},
		{"a:b\nfoo:bar\r", "foo", "bar"},
		{"foo:" + long, "foo", long},
		{long + ":bar", long, "bar"},
		{long + ":" + long + "\n" + long + ":", long, ""},
		{"foo:bar\x00", "foo", "bar\x00"},
		{"\x00foo:bar\n", "\x00foo", "bar"},
		{"foo:\xff\xfe", "foo", "\xff\xfe"},
	} {
		os.WriteFile(file, []byte(tt.text), 0o666)
		if problem := authfileLoad(file); problem != "" || !authfileCheck([]byte(tt.user), []byte(tt.pass)) {
			t.Errorf("%.50q: %s", tt.text, problem)
		}
		if authfileCheck([]byte(tt.user), []byte(tt.pass+"x")) || authfileCheck([]byte(tt.user+"x"), []byte(tt.pass)) {
			t.Errorf("%.50q: anybody may log in", tt.text)
		}
	}
	for _, text := range []string{"foo", "\n", "foo:bar\n\n", "foo:bar\nfoo", long, "\x00", "foo:bar\n\x00", long + "\n" + long + ":"} {
		os.WriteFile(file, []byte(text), 0o666)
		if problem := authfileLoad(file); problem == "" {
			t.Errorf("%.50q is good", text)
		}
	}
	os.WriteFile(file, nil, 0o666)
	if authfileLoad(file); authfileCheck(nil, nil) {
		t.Error("an empty file lets anybody in")
	}
}

// CVE-2010-1152: the line of a get may be long, unlike others, but not endless.
func TestEndlessGet(t *testing.T) {
	t.Parallel()
	s := mc9(t, "-t", "1")
	c, d := s.client(), s.client()
	c.write("get")
	keys := strings.Repeat(" 1234567", 1<<17)
	sent := 0
	for line := ""; line == ""; {
		if n, err := io.WriteString(c, keys); err != nil || sent > 2*maxGetLine {
			line = c.line()
		} else {
			sent += n
		}
		if line != "" && line != "SERVER_ERROR out of memory reading request\r\n" {
			t.Errorf("%q", line)
		}
	}
	if line := c.line(); line != closed || sent > maxGetLine+1<<20 {
		t.Errorf("%q after %d bytes", line, sent)
	}
	d.want(t, "get foo\r\n", "END\r\n")
	d.wantStat(t, "malloc_fails", "1")
	d.wantStat(t, "curr_connections", "1")
}

// The number of prefixes is limited. Those that come later are not counted.
func TestPrefixes(t *testing.T) {
	storeInit(t, 4, nil)
	statsPrefixClear()
	defer statsPrefixClear()
	key := func(i int) []byte { return fmt.Appendf(nil, "p%d:x", i) }
	for i := range maxPrefixCount + 100 {
		statsPrefixRecordSet(key(i))
	}
	statsPrefixRecordGet(key(7), true)
	statsPrefixRecordDelete(key(maxPrefixCount + 7))
	dump := statsPrefixDump(nil)
	if n := bytes.Count(dump, []byte("\r\n")); n != maxPrefixCount+1 {
		t.Errorf("%d lines", n)
	}
	if !bytes.Contains(dump, []byte("PREFIX p7 get 1 hit 1 set 1 del 0\r\n")) {
		t.Error("p7 is no longer counted")
	}
}

// stats cachedump lists as much as fits in two megabytes.
func TestCachedumpFull(t *testing.T) {
	t.Parallel()
	s := mc9(t, "-m", "64", "-o", "no_lru_maintainer,no_lru_crawler")
	c := s.client()
	fill(c, strings.Repeat("k", 240), 10000, 0)
	line := regexp.MustCompile(`^ITEM k{240}\d+ \[5 b; 0 s\]$`)
	for _, tt := range []struct{ limit, most int }{{0, 9000}, {20000, 9000}, {7, 7}, {1 << 31, 9000}} {
		reply := c.ask("stats cachedump 7 " + strconv.Itoa(tt.limit) + "\r\n")
		lines := strings.Split(strings.TrimSuffix(reply, "\r\nEND\r\n"), "\r\n")
		if len(lines) > tt.most || len(lines) < min(tt.most, 7000) || len(reply) > 2<<20 {
			t.Errorf("limit %d: %d lines of %d bytes", tt.limit, len(lines), len(reply))
		}
		for _, have := range lines {
			if !line.MatchString(have) {
				t.Fatalf("limit %d: %q", tt.limit, have)
			}
		}
	}
}

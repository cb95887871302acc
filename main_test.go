// The test harness, and the conversations in testdata. When MC9_MAIN is set, the
// test binary is mc9 itself, so tests can start it as a child with any flags.
//
// A conversation, testdata/NAME.mc, holds replies recorded from memcached. It is
// played to mc9 and, if MEMCACHED names one or the PATH has one, to memcached. It
// consists of exchanges: lines to send, then the replies expected. An exchange
// ends at an empty line, before the next line to send after its replies, or at
// the end of the file.
//
//	text       is sent, with \r\n; {x 1000} stands for a thousand x
//	<tab>text  is expected; after ~ it is a regular expression for the whole
//	           line; unprintable bytes are written as in Go, 32 or more equal
//	           bytes as {x 32}, and a hang-up as -- closed --
//	# ...      is a comment
//	% mc9 -m 8            on the first line: the server's flags, in which {dir}
//	                      is an empty directory
//	% send "a\x00\r\n"    sends this, a Go string, and nothing after it
//	% half                closes our side for writing
//	% conn NAME           continues on this connection, opened when first named
//	% close               hangs up; -- closed -- implies it
//	% binary              from here on lines are packets, see binary_test.go
//	% text                from here on lines are text again
//	% grep REGEXP         look only at these lines of the next reply
//	% until               repeat the next exchange until the reply is right
//	% plain               skip the file for a server built with -tags tls
//	% need VERSION        skip the next exchange for an older memcached, or
//	                      the whole file if this is at its head
//	% differ REASON       play the next exchange, or file, to mc9 only
//
// After an exchange that ends in a line of text, the harness sends a version
// command: everything before its answer is the reply, no more and no less. After
// packets it sends a version packet. After a % send or % half it sends nothing,
// and reads as many lines as are expected; the rest belongs to the next reply.
//
// go test -update takes the replies from memcached anew.
//
// What the tests try hard can be tried harder:
//
//   - replies, as memcached's (testdata/*.mc): with MEMCACHED= a build of 1.6.45
//   - known bugs of memcached (history_test.go, testdata/cve-*.mc)
//   - bad input (fuzz_test.go): go test -run - -fuzz FuzzText, FuzzMeta, FuzzBinary, FuzzUdp, FuzzHttp
//   - random commands beside a model (model_test.go): go test -tags debug -run TestModel -long 100
//   - all threads and 50 clients at once (stress_test.go): go test -race -run TestStress -long 50 -timeout 1h
//   - no memory, disk or descriptors; bad clients (faults_test.go, net_test.go): go test -run TestChurn -long 120
//   - disks that are full, files that are cut or damaged (extstore_test.go)
//   - memory files that were changed, kills at any moment (restart_test.go): go test -run 'TestRestart(Damage|Kill)' -long 20 -timeout 1h
//   - nothing grows (soak_test.go): go test -run TestSoak -soak 30m -timeout 1h
//   - nothing becomes slower (TestLinear): go test -run - -bench 'Items|Conns' -timeout 1h, with 4 GB and ulimit -n 20000
//   - no power is needed (TestLeastPower, TestUser)
//   - metrics, as memcached_exporter names them (metrics_test.go): with MEMCACHED_EXPORTER= its binary, also their values
//   - no other system call is made (priv_test.go): go test -drop_privileges
//   - TLS (tls_test.go, tlsfuzz_test.go): go test -tags tls, and over TLS go test -tags tls -tls -run TestConversations
//   - data races (all): go test -race -timeout 15m

package main

import (
	"bufio"
	"bytes"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "rewrite testdata from memcached's replies, and READING.md's states from state.go")

func TestMain(m *testing.M) {
	if os.Getenv("MC9_MAIN") != "" {
		reportFootprint()
		privMain()
		schedMain()
		main()
		os.Exit(0)
	}
	// Parallel tests mostly wait for servers and their clocks. (A -parallel on
	// the command line is parsed later and wins.)
	flag.Set("test.parallel", strconv.Itoa(4*runtime.GOMAXPROCS(0)))
	flag.Parse()
	if *dropPriv {
		os.Setenv("MC9_DROP", "1")
	}
	code := m.Run()
	played.print()
	os.Exit(code)
}

// played counts the conversations played.
var played playedCounts

type playedCounts struct {
	version                  string // of memcached, "" if there is none
	mc9, memcached, memcPart atomic.Int32
}

// print reports how many conversations were played. The go command hides that if
// it is given packages (such as ./...), all tests pass, and there is no -v.
func (p *playedCounts) print() {
	switch {
	case p.mc9.Load() == 0:
	case p.version == "":
		fmt.Printf("conversations: %d played to mc9, none to memcached: it is not here\n", p.mc9.Load())
	default:
		fmt.Printf("conversations: %d played to mc9, %d to memcached %s, %d of these in part; -v names what was left out\n",
			p.mc9.Load(), p.memcached.Load(), p.version, p.memcPart.Load())
	}
}

var runs = regexp.MustCompile(`\{([^{}]+) ([0-9]+)\}`)

// expand writes out the {x 1000} runs of a line to send.
func expand(s string) string {
	return runs.ReplaceAllStringFunc(s, func(s string) string {
		m := runs.FindStringSubmatch(s)
		n, _ := strconv.Atoi(m[2])
		return strings.Repeat(m[1], n)
	})
}

// show returns a line of a reply in printable form.
func show(s string) string {
	s = strings.TrimSuffix(s, "\r\n")
	var b strings.Builder
	for i, n := 0, 0; i < len(s); i += n {
		for n = 1; i+n < len(s) && s[i+n] == s[i]; n++ {
		}
		c := strconv.QuoteToASCII(s[i : i+1])
		if c = c[1 : len(c)-1]; c == `\"` {
			c = `"`
		}
		if n < 32 {
			b.WriteString(strings.Repeat(c, n))
		} else {
			fmt.Fprintf(&b, "{%s %d}", c, n)
		}
	}
	return b.String()
}

// older reports whether version a is older than b.
func older(a, b string) bool {
	var v [2][]int
	for i, s := range []string{a, b} {
		for _, f := range strings.Split(s, ".") {
			n, _ := strconv.Atoi(f)
			v[i] = append(v[i], n)
		}
	}
	return slices.Compare(v[0], v[1]) < 0
}

// A player plays a conversation to one server.
type player struct {
	file    string
	version string // of memcached, "" for mc9
	update  bool
	dial    func() (net.Conn, error)

	conns  map[string]*client
	name   string // of the connection in use
	x      exchange
	binary bool     // lines are packets
	skip   bool     // skip the whole file
	left   int      // number of exchanges skipped
	text   []string // the conversation with its replies updated

	complaints []string
}

type exchange struct {
	begun       bool
	send        string
	half        bool // close our half afterwards
	raw         bool // send no version command afterwards
	want        []string
	line        int // line number of the first of want, or of the last sent
	skip, until bool
	grep        *regexp.Regexp
}

// play returns the conversation's text with the server's replies, and complaints
// about those that were not as expected.
func (p *player) play(text string) (string, []string) {
	p.conns = map[string]*client{}
	p.name = "a"
	played := false
	for i, line := range strings.Split(text, "\n") {
		want, isWant := strings.CutPrefix(line, "\t")
		if !isWant && (len(p.x.want) > 0 || line == "") {
			played = played || p.x.begun
			p.end()
		}
		verb, arg := line, ""
		if strings.HasPrefix(line, "%") {
			verb, arg, _ = strings.Cut(strings.TrimSpace(line[1:]), " ")
			verb = "% " + verb
		}
		x := &p.x
		switch {
		case isWant:
			if len(x.want) == 0 {
				x.line = i + 1
			}
			x.want = append(x.want, want)
			continue
		case line == "", line[0] == '#', verb == "% mc9", verb == "% plain":
		case verb == "% send":
			s, err := strconv.Unquote(arg)
			if err != nil {
				p.complain(i+1, "bad string")
			}
			x.begun, x.raw, x.send, x.line = true, true, x.send+expand(s), i+1
		case verb == "% half":
			x.begun, x.raw, x.half, x.line = true, true, true, i+1
		case verb == "% conn":
			p.end()
			p.name = arg
		case verb == "% close":
			p.end()
			p.hangup()
		case verb == "% binary", verb == "% text":
			p.end()
			p.binary = verb == "% binary"
		case verb == "% grep":
			x.grep = regexp.MustCompile(arg)
		case verb == "% until":
			x.until = true
		case verb == "% need", verb == "% differ":
			skip := p.version != "" && (verb == "% differ" || older(p.version, arg))
			if played || x.begun {
				x.skip = skip
			} else {
				p.skip = skip
			}
		case line[0] == '%':
			p.complain(i+1, "unknown: "+line)
		case p.binary:
			s, err := parsePacket(expand(line))
			if err != nil {
				p.complain(i+1, err.Error())
			}
			x.begun, x.raw, x.send, x.line = true, false, x.send+s, i+1
		default:
			x.begun, x.raw, x.send, x.line = true, false, x.send+expand(line)+"\r\n", i+1
		}
		p.text = append(p.text, line)
	}
	p.end()
	for _, c := range p.conns {
		c.Close()
	}
	return strings.Join(p.text, "\n"), p.complaints
}

func (p *player) complain(line int, what string) {
	p.complaints = append(p.complaints, fmt.Sprintf("%s:%d: %s", p.file, line, what))
}

func (p *player) hangup() {
	if c := p.conns[p.name]; c != nil {
		c.Close()
		delete(p.conns, p.name)
	}
}

// end plays the exchange parsed so far.
func (p *player) end() {
	x := p.x
	if !x.begun && len(x.want) == 0 {
		return
	}
	p.x = exchange{}
	have := x.want
	if p.skip || x.skip {
		p.left++
	} else {
		have = p.exchange(&x)
		for end := time.Now().Add(patience); x.until && !same(have, x.want) && time.Now().Before(end); {
			time.Sleep(time.Millisecond)
			have = p.exchange(&x)
		}
		for i := 0; !p.update && i < max(len(have), len(x.want)); i++ {
			h, w := "nothing", "nothing"
			if i < len(have) {
				h = have[i]
			}
			if i < len(x.want) {
				w = x.want[i]
			}
			if !match(h, w) {
				p.complain(x.line+i, fmt.Sprintf("\n\thave %s\n\twant %s", h, w))
				break
			}
		}
	}
	if !p.update || same(have, x.want) {
		have = x.want // keep its patterns
	}
	for _, h := range have {
		p.text = append(p.text, "\t"+h)
	}
}

// exchange sends x's lines and returns the reply in printable form.
func (p *player) exchange(x *exchange) (have []string) {
	c := p.conns[p.name]
	if c == nil {
		nc, err := p.dial()
		if err != nil {
			return []string{err.Error()}
		}
		c = newClient(nc)
		p.conns[p.name] = c
	}
	var lines []string
	line := c.line
	if p.binary {
		line = c.packetLine
	}
	switch {
	case p.binary && !x.raw:
		lines = c.askBinary(x.send)
	case !x.raw:
		lines = strings.SplitAfter(c.ask(x.send), "\n")
	default:
		c.write(x.send)
		if x.half {
			c.Conn.(interface{ CloseWrite() error }).CloseWrite()
		}
		for range x.want {
			lines = append(lines, line())
			if strings.HasSuffix(lines[len(lines)-1], closed) {
				break
			}
		}
	}
	for _, line := range lines {
		if line != "" && (x.grep == nil || x.grep.MatchString(line)) {
			have = append(have, show(line))
		}
	}
	if n := len(have); n > 0 && (strings.HasSuffix(have[n-1], closed) || strings.HasSuffix(have[n-1], silence)) {
		p.hangup()
	}
	return have
}

func match(have, want string) bool {
	if re, ok := strings.CutPrefix(want, "~"); ok {
		ok, err := regexp.MatchString("^(?:"+re+")$", have)
		return ok && err == nil
	}
	return have == want
}

func same(have, want []string) bool {
	for i := range have {
		if i >= len(want) || !match(have[i], want[i]) {
			return false
		}
	}
	return len(have) == len(want)
}

// forWhom matches, at the head of a conversation, the servers it is for.
var forWhom = regexp.MustCompile(`\A(?:[#%].*\n)*?% (need|differ) (.*)`)

func TestConversations(t *testing.T) {
	files, err := filepath.Glob("testdata/*.mc")
	if err != nil || len(files) == 0 {
		t.Fatal("no conversations")
	}
	memcached, version := oracle()
	played.version = version
	help, _ := exec.Command(memcached, "-h").Output()
	hasSasl := bytes.Contains(help, []byte("--enable-sasl"))
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var flags []string
		if first, _, _ := strings.Cut(string(text), "\n"); strings.HasPrefix(first, "% mc9") {
			flags = strings.Fields(first)[2:]
		}
		try := func(name, path, version string) {
			t.Run(strings.TrimSuffix(filepath.Base(file), ".mc")+"/"+name, func(t *testing.T) {
				t.Parallel()
				if m := forWhom.FindStringSubmatch(string(text)); m != nil && path != "" && (m[1] == "differ" || older(version, m[2])) {
					t.Skip(m[1], " ", m[2])
				}
				if path != "" && slices.Contains(flags, "-S") && !hasSasl {
					t.Skip("memcached is built without SASL")
				}
				if tlsBuild && path == "" && strings.Contains(string(text), "\n% plain\n") {
					t.Skip("not with TLS")
				}
				s := start(t, path, false, strings.Fields(strings.ReplaceAll(strings.Join(flags, " "), "{dir}", t.TempDir()))...)
				p := &player{file: file, version: version, update: *update, dial: s.dial}
				now, complaints := p.play(string(text))
				switch {
				case path == "":
					played.mc9.Add(1)
				case p.left > 0:
					t.Logf("%d exchanges are for another version, or for mc9 alone", p.left)
					played.memcPart.Add(1)
					fallthrough
				default:
					played.memcached.Add(1)
				}
				for _, c := range complaints {
					t.Error(c)
				}
				if now != string(text) {
					if err := os.WriteFile(file, []byte(now), 0o666); err != nil {
						t.Error(err)
					}
				}
			})
		}
		if memcached != "" && !*overTls {
			try("memcached", memcached, version)
		}
		if !*update {
			try("mc9", "", "")
		}
	}
}

// The harness complains where it should; the server here is a fake.
func TestHarness(t *testing.T) {
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				for in := bufio.NewScanner(c); in.Scan(); {
					switch word, _, _ := strings.Cut(in.Text(), " "); word {
					case "version":
						io.WriteString(c, "VERSION 1.6.20\r\n")
					case "two":
						io.WriteString(c, "ONE\r\nTWO \x00\r\n")
					case "quit":
						return
					default:
						io.WriteString(c, in.Text()+"\r\n")
					}
				}
			}()
		}
	}()
	dial := func() (net.Conn, error) { return net.Dial("unix", l.Addr().String()) }

	for _, tt := range []struct{ text, complaint, updated string }{
		{"two\n\tONE\n\tTWO \\x00\n", "", ""},
		{"two\n\t~O.E\n\t~TWO.*\n", "", ""},
		{"two\n\t~N\n\tTWO \\x00\n", "f:2", "two\n\tONE\n\tTWO \\x00\n"},
		{"# c\ntwo\n\tONE\n\tTWO\n", "f:4", "# c\ntwo\n\tONE\n\tTWO \\x00\n"},
		{"two\n\tONE\n", "f:3", "two\n\tONE\n\tTWO \\x00\n"},
		{"x\n", "f:1", "x\n\tx\n"},
		{"x\n\tx\n\ty\n\nz\n\tz\n", "f:3", "x\n\tx\n\nz\n\tz\n"},
		{"x\ny\n\tx\n\ty\n", "", ""},
		{"{x 32}\n\t{x 32}\n", "", ""},
		{"quit\n\tOK\n", "f:2", "quit\n\t-- closed --\n"},
		{"quit\n\t-- closed --\nx\n\tx\n", "", ""},
		{"% send \"qu\"\n% half\n\tqu\n\t-- closed --\n", "", ""},
		{"% send \"tw\"\n\no\n\tONE\n\tTWO \\x00\n", "", ""},
		{"% send \"two\\n\"\n\tONE\n\nx\n\tx\n", "f:5", ""},
		{"version\nx\n\t~VERSION .*\n\tx\n", "", ""},
		{"version\n", "f:1", "version\n\tVERSION 1.6.20\n"},
		{"% grep TWO\ntwo\n\tTWO \\x00\n", "", ""},
		{"% conn b\nx\n\tx\n% close\n% conn a\nx\n\tx\n", "", ""},
		{"% need 1.6.20\nx\n\ty\n", "f:3", "% need 1.6.20\nx\n\tx\n"},
		{"% need 1.6.21\nx\n\ty\n", "", ""},
		{"% differ why\nx\n\ty\n", "", ""},
		{"x\n\tx\n% differ why\nx\n\ty\nx\n\tz\n", "f:7", "x\n\tx\n% differ why\nx\n\ty\nx\n\tx\n"},
		{"% what\n", "f:1", ""},
	} {
		p := &player{file: "f", version: "1.6.20", dial: dial}
		text, complaints := p.play(tt.text)
		if len(complaints) > 1 || !strings.HasPrefix(strings.Join(complaints, ""), tt.complaint) || len(complaints) == 0 && tt.complaint != "" {
			t.Errorf("%q: have %q, want %q", tt.text, complaints, tt.complaint)
		}
		if len(complaints) == 0 && text != tt.text {
			t.Errorf("%q: reads back as %q", tt.text, text)
		}
		if tt.updated != "" {
			p := &player{file: "f", version: "1.6.20", dial: dial, update: true}
			if text, _ := p.play(tt.text); text != tt.updated {
				t.Errorf("%q: updated to %q, want %q", tt.text, text, tt.updated)
			}
		}
	}
}

// READING.md, checked. A stop is a section with a number:
//
//	## 7. The state machine
//
//	* C: drive_machine, conn_set_state (memcached.c); item_lock (thread.c)
//	* Go: driveMachine, connSetState (state.go); itemLock (store.go)
//
//	Try:
//
// Each Go function must exist in its file, and PORT.md must map each C function to
// one of them. All other words that look like Go names must be declared in the Go
// files, and so must words that look like C names, by PORT.md's rule for names.
//
// "Try" is followed by a block of sh, then a block of text: its output. If the
// line of "Try" mentions memcached, memcached 1.6.45, if installed, must print the
// same. A block of sh without "Try" runs before each of the others. Each run
// replaces port 11311 with a port of its own, so that runs may be parallel; ./mc9
// is the test binary.
//
// The listing of states is generated from state.go by go test -update.

package main

import (
	"context"
	"errors"
	"fmt"
	"go/ast"
	goparser "go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

type readingName struct{ name, file string }

type readingStop struct {
	title string
	c, g  []readingName
	tries int
}

type readingTry struct {
	line   int
	oracle bool // also run it with memcached
	script string
	want   string
}

type reading struct {
	prelude string
	stops   []*readingStop
	tries   []*readingTry
	prose   string // including pictures
}

var readingNames = regexp.MustCompile(`([\w., ]+) \(([\w.]+)\)`)

func parseReading(text string) *reading {
	r := new(reading)
	var (
		stop   = new(readingStop)
		list   *[]readingName // the list being parsed
		item   string
		fence  string
		intro  string // the last line of prose
		block  []string
		begun  int
		isWant bool // the last block was a "Try"
	)
	endList := func() {
		if list == nil {
			return
		}
		for _, m := range readingNames.FindAllStringSubmatch(item, -1) {
			for _, name := range strings.Split(m[1], ", ") {
				*list = append(*list, readingName{strings.TrimSpace(name), m[2]})
			}
		}
		list = nil
	}
	for i, line := range strings.Split(text, "\n") {
		switch {
		case fence == "" && strings.HasPrefix(line, "```"):
			fence, block, begun = line, nil, i+1
		case line == "```":
			code := strings.Join(block, "\n") + "\n"
			switch {
			case fence == "```sh" && strings.HasPrefix(intro, "Try"):
				stop.tries++
				r.tries = append(r.tries, &readingTry{begun, strings.Contains(intro, "memcached"), code, ""})
			case fence == "```sh":
				r.prelude += code
			case isWant:
				r.tries[len(r.tries)-1].want = code
			default:
				r.prose += code
			}
			isWant = fence == "```sh" && strings.HasPrefix(intro, "Try")
			fence = ""
		case fence != "":
			block = append(block, line)
		case strings.HasPrefix(line, "* C: "):
			list, item = &stop.c, line[len("* C: "):]
		case strings.HasPrefix(line, "* Go: "):
			endList()
			list, item = &stop.g, line[len("* Go: "):]
		case list != nil && strings.HasPrefix(line, "  "):
			item += line[1:]
		default:
			endList()
			if strings.HasPrefix(line, "## ") {
				stop = &readingStop{title: line[3:]}
				if '0' <= line[3] && line[3] <= '9' {
					r.stops = append(r.stops, stop)
				}
			}
			if line != "" {
				intro = line
				isWant = false
			}
			r.prose += line + "\n"
		}
	}
	return r
}

func TestReading(t *testing.T) {
	b, err := os.ReadFile("READING.md")
	if err != nil {
		t.Fatal(err)
	}
	text := withStates(t, string(b))
	if *update && text != string(b) {
		if err := os.WriteFile("READING.md", []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
	} else if text != string(b) {
		t.Error("the listing of states differs from state.go; run go test -run TestReading -update")
	}
	r := parseReading(text)
	if len(r.stops) == 0 || r.prelude == "" {
		t.Fatal("there are no stops")
	}
	checkStops(t, r.stops)
	checkProse(t, r.prose)
	memcached, version := oracle()
	for _, try := range r.tries {
		t.Run(fmt.Sprint("line ", try.line), func(t *testing.T) { try.run(t, r.prelude, "") })
		if try.oracle && memcached != "" {
			t.Run(fmt.Sprint("line ", try.line, " memcached"), func(t *testing.T) {
				if older(version, "1.6.45") {
					t.Skip("needs 1.6.45")
				}
				try.run(t, r.prelude, memcached)
			})
		}
	}
}

// withStates returns the text with the correct listing of states.
func withStates(t *testing.T, text string) string {
	const begin, end = "<!-- states: written by go test -run TestReading -update -->\n", "<!-- end of states -->\n"
	before, rest, ok := strings.Cut(text, begin)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatal("READING.md has no place for the states")
	}
	f, err := goparser.ParseFile(token.NewFileSet(), "state.go", nil, goparser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	table := "\n| C | Go | |\n|---|---|---|\n"
	state := connListening
	for _, d := range f.Decls {
		d, ok := d.(*ast.GenDecl)
		if !ok || d.Tok != token.CONST || d.Specs[0].(*ast.ValueSpec).Names[0].Name != "connListening" {
			continue
		}
		for _, spec := range d.Specs {
			spec := spec.(*ast.ValueSpec)
			name, c := spec.Names[0].Name, stateText(state)
			if goName(c) != name {
				t.Errorf("state.go: stateText(%s) is %s", name, c)
			}
			table += fmt.Sprintf("| %s | %s | %s |\n", c, name, strings.TrimSpace(spec.Comment.Text()))
			state++
		}
	}
	return before + begin + table + "\n" + end + after
}

// checkStops compares the names in the stops with the sources and with PORT.md.
func checkStops(t *testing.T, stops []*readingStop) {
	files, _ := readPort(t)
	funcs := map[string][]string{}
	for file := range files {
		funcs[file], _ = goDecls(t, file)
	}
	cFiles := map[string][]string{} // of each C function
	for _, f := range readCFunctions(t) {
		for _, name := range f.names {
			cFiles[name] = append(cFiles[name], f.file)
		}
	}
	onTheWay := reachable(t)
	for _, s := range stops {
		if len(s.c) == 0 || len(s.g) == 0 || s.tries == 0 {
			t.Errorf("%s: a stop must have C, Go and something to try", s.title)
		}
		for _, g := range s.g {
			if !slices.Contains(funcs[g.file], g.name) {
				t.Errorf("%s: %s has no %s", s.title, g.file, g.name)
			} else if !onTheWay[g.name] {
				t.Errorf("%s: nothing that main leads to calls %s", s.title, g.name)
			}
		}
		for _, c := range s.c {
			var led []string // what PORT.md maps c to
			old := false
			for file, section := range files {
				for _, row := range section.rows {
					if row.c == c.name {
						led = append(led, row.name+" "+file)
						old = old || strings.Contains(row.note, "1.5.12")
					}
				}
			}
			if !slices.ContainsFunc(s.g, func(g readingName) bool { return slices.Contains(led, g.name+" "+g.file) }) {
				t.Errorf("%s: PORT.md maps %s to %q, none of which the stop names", s.title, c.name, led)
			}
			in := cFiles[c.name]
			if c.file != "libevent" && !slices.Contains(in, c.file) && (in != nil || !old) {
				t.Errorf("%s: %s is in %q, not where the stop says", s.title, c.name, in)
			}
		}
	}
}

// reachable returns the names that main leads to, in the build without debug.go:
// those in its body, those in their bodies, and so on.
func reachable(t *testing.T) map[string]bool {
	bodies := map[string][]*ast.BlockStmt{}
	names, _ := filepath.Glob("*.go")
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") || name == "debug.go" {
			continue
		}
		f, err := goparser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range f.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Body != nil {
				bodies[fn.Name.Name] = append(bodies[fn.Name.Name], fn.Body)
			}
		}
	}
	seen := map[string]bool{}
	var walk func(name string)
	walk = func(name string) {
		if seen[name] {
			return
		}
		seen[name] = true
		for _, body := range bodies[name] {
			ast.Inspect(body, func(n ast.Node) bool {
				if id, ok := n.(*ast.Ident); ok {
					walk(id.Name)
				}
				return true
			})
		}
	}
	walk("main")
	return seen
}

var (
	goWord = regexp.MustCompile(`(?:^|[^\\\w])([a-z][a-z0-9]*(?:[A-Z][a-z0-9]*)+)\b`) // not the nEND of \nEND
	cWord  = regexp.MustCompile(`\b[a-z][a-z0-9]*(?:_[a-z0-9]+)+\b`)
)

// checkProse checks that all names in the text between the blocks exist.
func checkProse(t *testing.T, prose string) {
	known := map[string]bool{}
	names, _ := filepath.Glob("*.go")
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := goparser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if id, ok := n.(*ast.Ident); ok {
				known[id.Name] = true
			}
			return true
		})
	}
	files, leftOut := readPort(t)
	for _, section := range files {
		for _, row := range section.rows {
			leftOut[row.c] = true
		}
	}
	for _, m := range goWord.FindAllStringSubmatch(prose, -1) {
		if !known[m[1]] {
			t.Errorf("there is no %s", m[1])
		}
	}
	for _, name := range cWord.FindAllString(prose, -1) {
		if !leftOut[name] && !known[goName(name)] {
			t.Errorf("there is no %s in the C or in PORT.md", name)
		}
	}
}

// run runs the block in bash, with mc9 or with memcached.
func (try *readingTry) run(t *testing.T, prelude, memcached string) {
	port := freePort(t)
	t.Parallel()
	if _, err := exec.LookPath("bash"); err != nil {
		t.Skip(err)
	}
	if strings.Contains(try.script, "traced") {
		if out, err := exec.Command("strace", "-o", "/dev/null", "true").CombinedOutput(); err != nil {
			t.Skipf("strace: %v %s", err, out)
		}
	}
	if strings.Contains(try.script, "openssl") {
		if _, err := exec.LookPath("openssl"); err != nil || !tlsBuild {
			t.Skip("wants -tags tls and openssl")
		}
	}
	dir := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(self, filepath.Join(dir, "mc9")); err != nil {
		t.Fatal(err)
	}
	// To a file: processes left behind by a failure would keep a pipe open.
	out, err := os.Create(filepath.Join(dir, "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-c", strings.ReplaceAll(prelude+try.script+"stop\n", "11311", port))
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "server="+memcached, "LC_ALL=C", "MC9_MAIN=1", "GORACE=atexit_sleep_ms=0")
	cmd.Stdout = out
	var complaints strings.Builder
	cmd.Stderr = &complaints
	cmd.WaitDelay = time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	err = cmd.Run()
	if cmd.Process != nil {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	}
	have, _ := os.ReadFile(out.Name())
	log, _ := os.ReadFile(filepath.Join(dir, "log"))
	if err == nil {
		err = looksLike(string(have), strings.ReplaceAll(try.want, "11311", port))
	}
	if err != nil {
		t.Errorf("READING.md:%d: %v\n-- output --\n%s-- errors --\n%s-- log --\n%s",
			try.line, err, have, complaints.String(), log[max(0, len(log)-2000):])
	}
	if strings.Contains(string(log), "DATA RACE") {
		t.Errorf("%s", log)
	}
}

var standIns = regexp.MustCompile(`\b9[0-9](?:[0-9][0-9])?\b`)

// looksLike compares output with the expected text. In the latter, "..." stands
// for any text or, alone on a line, for any lines; a number from 90 to 99 or from
// 9000 to 9999 stands for another number, always the same one.
func looksLike(have, want string) error {
	numbers, standIn := map[string]string{}, map[string]string{}
	lines := strings.Split(strings.ReplaceAll(have, "\r", ""), "\n")
	skip := false
	for _, w := range strings.Split(want, "\n") {
		if w == "..." {
			skip = true
			continue
		}
		pattern := strings.ReplaceAll(regexp.QuoteMeta(w), `\.\.\.`, ".*")
		re := regexp.MustCompile("^" + standIns.ReplaceAllString(pattern, "([0-9]+)") + "$")
		for {
			if len(lines) == 0 {
				return fmt.Errorf("no line like\n%s", w)
			}
			line := lines[0]
			lines = lines[1:]
			m := re.FindStringSubmatch(line)
			for i, s := range standIns.FindAllString(w, -1) {
				if m == nil {
					break
				}
				n := m[i+1]
				if numbers[s] == "" && standIn[n] == "" {
					numbers[s], standIn[n] = n, s
				}
				if numbers[s] != n {
					return fmt.Errorf("the stand-in %s is %s here; want %q:\n%s", s, n, numbers[s], line)
				}
			}
			if m != nil {
				break
			}
			if !skip {
				return fmt.Errorf("have\n%s\nwant\n%s", line, w)
			}
		}
		skip = false
	}
	if len(lines) > 0 && !skip {
		return errors.New("there is more:\n" + lines[0])
	}
	return nil
}

func TestLooksLike(t *testing.T) {
	for _, tt := range []struct {
		have, want string
		ok         bool
	}{
		{"a\r\nb\n", "a\nb\n", true},
		{"a\n", "a\nb\n", false},
		{"a\nb\n", "a\n", false},
		{"a.c\n", "a.c\n", true},
		{"abc\n", "a.c\n", false},
		{"a 1 c\n", "a ... c\n", true},
		{"a 1 d\n", "a ... c\n", false},
		{"a\nb\nc\n", "...\nc\n", true},
		{"a\nb\nc\n", "a\n...\n", true},
		{"a\nb\nc\n", "a\n...\nd\n", false},
		{"7 8 7\n", "90 91 90\n", true},
		{"7 8 7\n", "90 91 91\n", false},
		{"7 7\n", "90 91\n", false},
		{"7\n7\n", "9000\n9000\n", true},
		{"7\n8\n", "9000\n9000\n", false},
		{"a 5\n", "a 6\n", false},
		{"a 900\n", "a 901\n", false},
	} {
		if err := looksLike(tt.have, tt.want); (err == nil) != tt.ok {
			t.Errorf("%q, %q: %v", tt.have, tt.want, err)
		}
	}
}

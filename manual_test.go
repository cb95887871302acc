// mc9.8, checked: it and -h list the same options, suboptions and defaults, and
// those are the ones that the command line accepts.

package main

import (
	"go/ast"
	goparser "go/parser"
	"go/token"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The start of an entry in -h, such as "-p, --port=<num>", "-D <char>",
// "--check[=<addr>]" or "   - [no_]lru_crawler:".
var (
	manualOption    = regexp.MustCompile(`^(?:-\w+)?(?:, )?(?:--[\w-]+)?`)
	manualValue     = regexp.MustCompile(`^(?:\[?=| )<`)
	manualSuboption = regexp.MustCompile(`^   - ([^:]+):`)
	manualDefault   = regexp.MustCompile(`default: ([^,;)]+)`)
)

// mdoc rewrites the start of an entry in mc9.8 in the form of -h.
var mdoc = strings.NewReplacer(".It Fl ", "-", ".It Cm ", "   - ", "Fl ", "-", "Cm ", "",
	" , ", ", ", " Ns Oo = Ns Ar ", "[=<", " Ns = Ns Ar ", "=<", " Ar ", " <")

// readManual returns the options and suboptions that -h or mc9.8 lists, with
// their defaults. Options that take a value end in =.
func readManual(text string) map[string]string {
	manual := map[string]string{}
	var names []string // the options that the current text describes
	said := ""
	for line := range strings.Lines(text + "-") { // one more line, to end the last option
		line = strings.TrimSuffix(line, "\n")
		if strings.HasPrefix(line, ".It ") {
			line = mdoc.Replace(line) + ":"
		}
		option := manualOption.FindString(line)
		suboption := manualSuboption.FindStringSubmatch(line)
		if option == "" && suboption == nil && line != "-" {
			said += " " + strings.TrimSpace(line)
			continue
		}
		for _, name := range names {
			manual[name] = ""
			if m := manualDefault.FindStringSubmatch(said); m != nil {
				manual[name] = m[1]
			}
		}
		names, said = nil, line
		if suboption == nil {
			if manualValue.MatchString(line[len(option):]) {
				option += "="
			}
			names = append(names, option)
			continue
		}
		for _, name := range strings.Split(suboption[1], ", ") {
			name, _, _ = strings.Cut(name, "=")
			name = strings.TrimSuffix(name, "[")
			if bare, ok := strings.CutPrefix(name, "[no_]"); ok {
				names = append(names, bare)
				name = "no_" + bare
			}
			names = append(names, name)
		}
	}
	return manual
}

// switchCases returns the cases of all switches over tag in file.
func switchCases(t *testing.T, file, tag string) (cases []string) {
	f, err := goparser.ParseFile(token.NewFileSet(), file, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(f, func(n ast.Node) bool {
		s, ok := n.(*ast.SwitchStmt)
		if !ok {
			return true
		}
		if id, ok := s.Tag.(*ast.Ident); ok && id.Name == tag {
			for _, clause := range s.Body.List {
				for _, label := range clause.(*ast.CaseClause).List {
					if lit, ok := label.(*ast.BasicLit); ok {
						cases = append(cases, strings.Trim(lit.Value, `"'`))
					}
				}
			}
		}
		return true
	})
	return cases
}

func TestManual(t *testing.T) {
	page, err := os.ReadFile("mc9.8")
	if err != nil {
		t.Fatal(err)
	}
	manual := readManual(string(page))
	_, text := run(t, "-h")
	help := readManual(text)
	for name, value := range help {
		if have, ok := manual[name]; !ok || have != value {
			t.Errorf("-h has %s (default: %s), mc9.8 has it: %t (default: %s)", name, value, ok, have)
		}
	}

	letters := switchCases(t, "settings.go", "c")
	slices.Sort(letters)
	if known := slices.Sorted(strings.SplitSeq(strings.ReplaceAll(shortopts, ":", ""), "")); !slices.Equal(letters, known) {
		t.Errorf("the option loop has %s, getopt %s", letters, known)
	}
	taken := append(switchCases(t, "settings.go", "name"), "-vv", "-vvv", "--check=", "--ask=", "--metrics=")
	taken = append(taken, switchCases(t, "tls.go", "name")...)
	taken = append(taken, switchCases(t, "storage.go", "name")...)
	for _, c := range letters {
		name := "-" + c
		for _, o := range longopts {
			if string(o.val) == c {
				name += ", --" + o.name
			}
		}
		if takesValue(c[0]) {
			name += "="
		}
		taken = append(taken, name)
	}
	refused := []string{"ssl_kernel_tls", "hash_algorithm"}
	for _, name := range taken {
		if _, ok := manual[name]; ok == slices.Contains(refused, name) {
			t.Errorf("%s: in mc9.8: %t, want the opposite", name, ok)
		}
	}
	for name := range manual {
		if !slices.Contains(taken, name) {
			t.Errorf("mc9.8 has %s, which mc9 does not know", name)
		}
		ofTls := strings.HasPrefix(name, "ssl_") || strings.HasPrefix(name, "-Z")
		if _, ok := help[name]; !ok && (tlsBuild || !ofTls) {
			t.Errorf("mc9.8 has %s, -h lacks it", name)
		}
	}
}

func TestManualLint(t *testing.T) {
	mandoc, err := exec.LookPath("mandoc")
	if err != nil {
		t.Log("mandoc is not installed: mc9.8 is not linted")
		return
	}
	if out, err := exec.Command(mandoc, "-T", "lint", "-W", "warning", "mc9.8").CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

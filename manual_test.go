// mc9.8, checked: it and -h list the same options, suboptions and defaults, and
// those are the ones that the command line accepts.

package main

import (
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

func TestManual(t *testing.T) {
	page, err := os.ReadFile("mc9.8")
	if err != nil {
		t.Fatal(err)
	}
	_, list, _ := strings.Cut(string(page), ".Sh OPTIONS")
	list, _, _ = strings.Cut(list, "\n.Sh ")
	manual := readManual(list + "\n")
	_, text := run(t, "-h")
	help := readManual(text)
	for name, value := range help {
		if have, ok := manual[name]; !ok || have != value {
			t.Errorf("-h has %s (default: %s), mc9.8 has it: %t (default: %s)", name, value, ok, have)
		}
	}

	var taken []string
	for _, o := range optionTable() {
		name := o.head
		if o.arg != "" {
			name += "="
		}
		taken = append(taken, name)
	}
	for _, o := range suboptionTable() {
		taken = append(taken, o.names()...)
	}
	refused := []string{"ssl_kernel_tls", "relaxed_privileges"}
	for _, name := range taken {
		if _, ok := manual[name]; ok == slices.Contains(refused, name) {
			t.Errorf("%s: in mc9.8: %t, want the opposite", name, ok)
		}
	}
	for name := range manual {
		ofTls := strings.HasPrefix(name, "ssl_") || strings.HasPrefix(name, "-Z")
		if !slices.Contains(taken, name) && (tlsBuild || !ofTls) {
			t.Errorf("mc9.8 has %s, which mc9 does not know", name)
		}
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

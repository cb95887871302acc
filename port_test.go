// PORT.md, checked. It has a section for each Go file, with a table of what became
// of the C functions, in the order of both files:
//
//	## state.go
//
//	| C | Go | Note |
//	|---|---|---|
//	| conn_set_state | connSetState | |
//	| drive_machine | driveMachine | split: driveNread, driveSwallow |
//
//	Go only: connRecv, readIntoItem.
//
// and a section "Left out", of files and functions that were not ported, in
// backquotes. A method is written type.name; for the naming rule it counts as
// typeName. If the Go name does not follow from the C name, the note says why.
// Functions that a note names after "split:" have no row of their own. Types,
// variables and constants may have rows, in any order.

package main

import (
	"fmt"
	"go/ast"
	goparser "go/parser"
	"go/token"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"
)

const cFunctions = "testdata/c-functions"

type portRow struct{ c, name, note string }

// A portSection is PORT.md's section on a Go file.
type portSection struct {
	rows   []portRow
	others []string // functions that are Go only or split off
}

var cPrefix = regexp.MustCompile(`^(?i:mc|mcp|mcmc)_`)

// goName is the mechanical rule: item_get_locked, ITEM_LINKED, _store_item and
// mc_tokto32 become itemGetLocked, itemLinked, storeItem and tokto32.
func goName(c string) string {
	var b strings.Builder
	c = cPrefix.ReplaceAllString(c, "")
	for i, word := range strings.Split(strings.Trim(c, "_"), "_") {
		if word == strings.ToUpper(word) {
			word = strings.ToLower(word)
		}
		if r := []rune(word); i > 0 && len(r) > 0 {
			r[0] = unicode.ToUpper(r[0])
			word = string(r)
		}
		b.WriteString(word)
	}
	return b.String()
}

var (
	portHeading = regexp.MustCompile(`^## (.*)`)
	backquoted  = regexp.MustCompile("`([^`]+)`")
	word        = regexp.MustCompile(`[A-Za-z_][\w.]*`)
	// A C function definition starts in the first column; declarations do not
	// match.
	cFunction = regexp.MustCompile(`(?m)^(?:[a-zA-Z_][\w*]*[ \t*]+)+\**(\w+)\s*\([^;{}()]*(?:\([^()]*\)[^;{}()]*)*\)\s*\{`)
)

func readPort(t *testing.T) (files map[string]*portSection, leftOut map[string]bool) {
	text, err := os.ReadFile("PORT.md")
	if err != nil {
		t.Fatal(err)
	}
	files, leftOut = map[string]*portSection{}, map[string]bool{}
	heading, goOnly := "", false
	var s *portSection
	for _, line := range strings.Split(string(text), "\n") {
		if m := portHeading.FindStringSubmatch(line); m != nil {
			heading, s, goOnly = m[1], nil, false
			if strings.HasSuffix(heading, ".go") {
				s = new(portSection)
				files[heading] = s
			}
			continue
		}
		if heading == "Left out" {
			for _, m := range backquoted.FindAllStringSubmatch(line, -1) {
				leftOut[m[1]] = true
			}
		}
		if s == nil {
			continue
		}
		cells := strings.Split(line, "|")
		if len(cells) == 5 && cells[0] == "" {
			for i := range cells {
				cells[i] = strings.Trim(cells[i], " `")
			}
			if cells[1] == "C" || strings.HasPrefix(cells[1], "---") {
				continue
			}
			s.rows = append(s.rows, portRow{cells[1], cells[2], cells[3]})
			if _, list, ok := strings.Cut(cells[3], "split:"); ok {
				s.others = append(s.others, word.FindAllString(list, -1)...)
			}
		}
		// The list may span several lines, up to an empty one.
		if list, ok := strings.CutPrefix(line, "Go only:"); ok {
			goOnly, line = true, list
		}
		if goOnly = goOnly && line != ""; goOnly {
			s.others = append(s.others, word.FindAllString(strings.TrimRight(line, "."), -1)...)
		}
	}
	return files, leftOut
}

// goDecls lists the functions of a file in order, and its other declarations.
func goDecls(t *testing.T, file string) (funcs, others []string) {
	f, err := goparser.ParseFile(token.NewFileSet(), file, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range f.Decls {
		fn, ok := d.(*ast.FuncDecl)
		if !ok {
			for _, spec := range d.(*ast.GenDecl).Specs {
				switch spec := spec.(type) {
				case *ast.TypeSpec:
					others = append(others, spec.Name.Name)
				case *ast.ValueSpec:
					for _, name := range spec.Names {
						others = append(others, name.Name)
					}
				}
			}
			continue
		}
		name := fn.Name.Name
		if fn.Recv != nil {
			typ := fn.Recv.List[0].Type
			if star, ok := typ.(*ast.StarExpr); ok {
				typ = star.X
			}
			name = typ.(*ast.Ident).Name + "." + name
		}
		funcs = append(funcs, name)
	}
	return funcs, others
}

func TestPort(t *testing.T) {
	files, leftOut := readPort(t)
	sections := maps.Clone(files)
	goFiles, _ := filepath.Glob("*.go")
	for _, file := range goFiles {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		s := files[file]
		if s == nil {
			t.Errorf("%s has no section", file)
			continue
		}
		delete(files, file)
		funcs, others := goDecls(t, file)
		last := -1
		rows := map[string]bool{}
		for _, row := range s.rows {
			// item.key is itemKey.
			plain := row.name
			if typ, method, ok := strings.Cut(plain, "."); ok {
				plain = typ + strings.ToUpper(method[:1]) + method[1:]
			}
			if plain != goName(row.c) && row.note == "" {
				t.Errorf("%s: %s is %s, without a note why", file, row.c, row.name)
			}
			at := slices.Index(funcs, row.name)
			switch {
			case at < 0 && !slices.Contains(others, row.name):
				t.Errorf("%s has no %s", file, row.name)
			case at < 0:
			case at < last:
				t.Errorf("%s: %s is above %s in the Go file, but not in the table", file, row.name, funcs[last])
			default:
				last = at
			}
			rows[row.name] = true
		}
		for _, name := range s.others {
			if !slices.Contains(funcs, name) {
				t.Errorf("%s has no function %s", file, name)
			}
		}
		for _, name := range funcs {
			if !rows[name] && !slices.Contains(s.others, name) {
				t.Errorf("%s: PORT.md does not mention %s", file, name)
			}
		}
		for _, row := range s.rows {
			leftOut[row.c] = true // it is accounted for
		}
	}
	for file := range files {
		t.Errorf("there is no file %s", file)
	}

	// Each C function is accounted for, and rows without a note are in the C's
	// order, in one of its versions.
	if *update && os.Getenv("MEMCACHED_SRC") != "" {
		writeCFunctions(t)
	}
	var cOrder [][]string // functions of each file
	for _, f := range readCFunctions(t) {
		for _, name := range f.names {
			if !leftOut[name] && !leftOut[f.file] {
				t.Errorf("%s: PORT.md does not mention %s", f.file, name)
			}
		}
		cOrder = append(cOrder, f.names)
	}
	for file, s := range sections {
		for i, row := range s.rows {
			for _, above := range s.rows[:i] {
				if above.note == "" && row.note == "" && !inOrder(cOrder, above.c, row.c) {
					t.Errorf("%s: %s is above %s in the C, but not in the table", file, row.c, above.c)
				}
			}
		}
	}
}

// A cFile is a line of testdata/c-functions: a C file of one version, and its
// functions in order.
type cFile struct {
	file  string
	names []string
}

func readCFunctions(t *testing.T) (files []cFile) {
	text, err := os.ReadFile(cFunctions)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if file, names, ok := strings.Cut(line, ":"); ok {
			files = append(files, cFile{filepath.Base(file), strings.Fields(names)})
		}
	}
	return files
}

// writeCFunctions lists the C functions, a line for each file of the directories
// that MEMCACHED_SRC names, each a clone of a version.
func writeCFunctions(t *testing.T) {
	var b strings.Builder
	b.WriteString("# memcached's functions, for TestPort. -update makes this from MEMCACHED_SRC.\n")
	for _, dir := range filepath.SplitList(os.Getenv("MEMCACHED_SRC")) {
		version, err := exec.Command("git", "-C", dir, "describe", "--tags").Output()
		if err != nil {
			t.Fatalf("%s: which version is it? %v", dir, err)
		}
		files, _ := filepath.Glob(filepath.Join(dir, "*.c"))
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(&b, "%s/%s:", strings.TrimSpace(string(version)), filepath.Base(file))
			for _, m := range cFunction.FindAllSubmatch(text, -1) {
				fmt.Fprintf(&b, " %s", m[1])
			}
			b.WriteString("\n")
		}
	}
	if err := os.WriteFile(cFunctions, []byte(b.String()), 0o666); err != nil {
		t.Fatal(err)
	}
}

// inOrder reports whether a is above b in one of the files, or no file has both.
func inOrder(files [][]string, a, b string) bool {
	together := false
	for _, names := range files {
		i, j := slices.Index(names, a), slices.Index(names, b)
		if i >= 0 && j >= 0 {
			if i <= j {
				return true
			}
			together = true
		}
	}
	return !together
}

package main

import (
	"fmt"
	"os"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
)

// Options are parsed as by C's getopt_long, including forms that Helm charts use.
func TestGetopt(t *testing.T) {
	quiet(t)
	for _, tt := range []struct{ args, want string }{
		{"", ""},
		{"-v", "v"},
		{"-vv", "v v"},
		{"-vvk", "v v k"},
		{"-p11211", "p=11211"},
		{"-p|11211", "p=11211"},
		{"-m 64", "m=64"},
		{"-m| 64", "m=64"},
		{"-l::1", "l=::1"},
		{"-vp1|-d", "v p=1 d"},
		{"-p|-1", "p=-1"},
		{"-u|", "u"},
		{"--port=11211", "p=11211"},
		{"--port|11211", "p=11211"},
		{"--por|11211", "p=11211"},
		{"--listen= ::1", "l=::1"},
		{"--user=", "u"},
		{"--verb", "v"},
		{"--verbose=2", "v=2"},
		{"--unix-s|x", "s=x"},
		{"one|-v|two|-k", "v k"},
		{"-v|-|--|-k", "v"},
		{"-q", "?"},
		{"-:", "?"},
		{"-v|-p", "v ?"},
		{"--port", "?"},
		{"--p=4", "?"},
		{"--nope", "?"},
		{"--daemon=1", "?"},
	} {
		var have []string
		getopt(append([]string{"mc9"}, strings.Split(tt.args, "|")...), func(o *option, val string) {
			if o == &optionWord {
				return
			}
			s := "?"
			if o != nil {
				s = string(o.letter())
			}
			if val != "" && o != nil {
				s += "=" + val
			}
			have = append(have, s)
		})
		if want := strings.Fields(tt.want); !slices.Equal(have, want) {
			t.Errorf("%q: have %q, want %q", tt.args, have, want)
		}
	}
}

// No two rows of a table have the same name or letter.
func TestOptionTables(t *testing.T) {
	for _, table := range [][]option{optionTable(), suboptionTable()} {
		seen := map[string]bool{}
		for _, o := range table {
			names := o.names()
			if o.set == nil {
				continue
			}
			if o.head[0] == '-' {
				names = append(names, string(o.letter()))
			}
			for _, name := range names {
				if seen[name] && name != "" && name != "\x00" {
					t.Errorf("%s: %s", o.head, name)
				}
				seen[name] = true
			}
		}
	}
}

// An option that is given its default, as -h shows it, changes nothing.
func TestDefaults(t *testing.T) {
	settingsInit()
	now := func() string { return fmt.Sprintf("%+v %+v", &settings, storageConf) }
	want := now()
	defaults := regexp.MustCompile(`default: "?([0-9.]+m?|:)[",;)]`)
	for _, o := range append(optionTable(), suboptionTable()...) {
		m := defaults.FindStringSubmatch(o.help)
		if m == nil || o.name() == "hashpower" {
			continue // stats settings has 0 for 16
		}
		o.set(m[1])
		settings.detailEnabled.Store(false) // -D
		if have := now(); have != want {
			t.Errorf("%s=%s: have %s\nwant %s", o.head, m[1], have, want)
		}
	}
	options.tcpSpecified, options.udpSpecified, options.slabChunkSizeChanged = false, false, false
}

func TestAtoi(t *testing.T) {
	for s, want := range map[string]int{
		"": 0, "x": 0, "-": 0, "7": 7, " 7": 7, "+7": 7, "-7": -7, "7x": 7, "1.5": 1, "--7": 0,
		"99999999999": 1<<31 - 1,
	} {
		if n := atoi(s); n != want {
			t.Errorf("atoi(%q) = %d, want %d", s, n, want)
		}
	}
	for s, want := range map[string]float64{"": 0, "x": 0, "1.25": 1.25, "1.25x": 1.25, "2": 2, "1e1": 10, "-1": -1} {
		if f := atof(s); f != want {
			t.Errorf("atof(%q) = %v, want %v", s, f, want)
		}
	}
}

func TestBanner(t *testing.T) {
	type settings = []debug.BuildSetting
	for _, tt := range []struct {
		settings settings
		want     string
	}{
		{nil, ", go1.24"},
		{settings{{Key: "-tags", Value: "debug,tls"}}, ", go1.24, tags debug,tls"},
		{settings{{Key: "vcs.revision", Value: "0123456789abcdef"}, {Key: "vcs.modified", Value: "false"}},
			", revision 0123456789ab, go1.24"},
		{settings{{Key: "vcs.revision", Value: "0123"}, {Key: "vcs.modified", Value: "true"}},
			", revision 0123 modified, go1.24"},
	} {
		want := "memcached " + version + " (mc9 " + mc9Version + tt.want + ")"
		if have := banner(&debug.BuildInfo{GoVersion: "go1.24", Settings: tt.settings}, true); have != want {
			t.Errorf("have %s\nwant %s", have, want)
		}
	}
	if have, want := banner(nil, false), "memcached "+version+" (mc9 "+mc9Version+")"; have != want {
		t.Errorf("have %s\nwant %s", have, want)
	}
}

// The first heading of CHANGES names the version that -V shows.
func TestChanges(t *testing.T) {
	text, err := os.ReadFile("CHANGES")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), "\n\nv"+mc9Version+", ") {
		t.Errorf("CHANGES does not begin with v%s", mc9Version)
	}
}

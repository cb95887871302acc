// The chart in PERFORMANCE.md: its times are written by hand, -update draws the rest.

package main

import (
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

var chartRow = regexp.MustCompile(`(?m)^(\S.{30}) +([\d.]+) +([\d.]+) +[\d.]+  [= ]*\|=*$`)

// TestChart compares ratio and bar of each row with its two times. A bar that ends
// at the mark stands for 1.
func TestChart(t *testing.T) {
	const file, width = "PERFORMANCE.md", 30
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	rows := 0
	drawn := chartRow.ReplaceAllStringFunc(string(text), func(row string) string {
		rows++
		f := chartRow.FindStringSubmatch(row)
		mc9, _ := strconv.ParseFloat(f[2], 64)
		memcached, _ := strconv.ParseFloat(f[3], 64)
		ratio := mc9 / memcached
		bar := strings.Repeat("=", int(ratio*width+0.5))
		bar = fmt.Sprintf("%-*s", width, bar)
		return fmt.Sprintf("%s%8s%11s  %5.2f  %s|%s", f[1], f[2], f[3], ratio, bar[:width], bar[width:])
	})
	if rows < 10 {
		t.Errorf("the chart has %d rows", rows)
	}
	if drawn == string(text) {
		return
	}
	if !*update {
		t.Errorf("%s: the chart's bars are not those of its times; -update draws them", file)
	} else if err := os.WriteFile(file, []byte(drawn), 0o666); err != nil {
		t.Fatal(err)
	}
}

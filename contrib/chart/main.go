// Chart draws contrib/performance.tsv into PERFORMANCE.md, between the two lines
// that are the constants begin and end. In the directory with it:
//
//	go run ./contrib/chart
package main

import (
	"fmt"
	"log"
	"os"
	"strconv"
	"strings"
)

const (
	begin = "<!-- chart: written by go run ./contrib/chart from contrib/performance.tsv -->\n"
	end   = "<!-- end of chart -->\n"

	width = 30 // columns of a bar that stands for 1
)

func main() {
	log.SetFlags(0)
	data, err := os.ReadFile("contrib/performance.tsv")
	if err != nil {
		log.Fatal(err)
	}
	page, err := os.ReadFile("PERFORMANCE.md")
	if err != nil {
		log.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(page), begin)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		log.Fatal("PERFORMANCE.md has no place for the chart")
	}
	text := before + begin + "\n```text\n" + chart(string(data)) + "```\n\n" + end + after
	if err := os.WriteFile("PERFORMANCE.md", []byte(text), 0o666); err != nil {
		log.Fatal(err)
	}
}

// chart returns a line for each workload: the times of both servers, their
// ratio as a figure and as a bar, and a mark where the two would be equal.
func chart(data string) string {
	var b strings.Builder
	head := true
	for line := range strings.Lines(data) {
		f := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		switch {
		case strings.HasPrefix(line, "#"):
			continue
		case len(f) != 3:
			log.Fatalf("performance.tsv: not three words: %q", line)
		case head:
			head = false
			fmt.Fprintf(&b, "%-31s%8s%11s  ratio  0%*s\n", f[0]+" (µs)", f[1], f[2], width, "1")
			continue
		}
		ratio := number(f[1]) / number(f[2])
		bar := []byte(strings.Repeat("=", int(ratio*width+0.5)))
		for len(bar) < width {
			bar = append(bar, ' ')
		}
		bar = append(bar[:width], append([]byte("|"), bar[width:]...)...)
		fmt.Fprintf(&b, "%-31s%8s%11s  %5.2f  %s\n", f[0], f[1], f[2], ratio, bar)
	}
	return b.String()
}

func number(word string) float64 {
	f, err := strconv.ParseFloat(word, 64)
	if err != nil || f <= 0 {
		log.Fatalf("performance.tsv: not a time: %q", word)
	}
	return f
}

package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

func fill(c *client, prefix string, from, to int, exptime int) {
	w := bufio.NewWriter(c)
	for i := from; i < to; i++ {
		fmt.Fprintf(w, "set %s%d 0 %d 5 noreply\r\nvalue\r\n", prefix, i, exptime)
	}
	w.Flush()
	c.ask("")
}

func rss(s *server) int {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	for _, l := range strings.Split(string(b), "\n") {
		if v, ok := strings.CutPrefix(l, "VmRSS:"); ok {
			n, _ := strconv.Atoi(strings.Fields(v)[0])
			return n
		}
	}
	return 0
}

func readDump(t *testing.T, c *client) map[string]int {
	t.Helper()
	seen := map[string]int{}
	if l := c.line(); l != "OK\r\n" {
		t.Fatalf("%q", l)
	}
	for {
		l := c.line()
		if l == "END\r\n" || l == "EN\r\n" {
			return seen
		}
		key, _, ok := strings.Cut(strings.TrimPrefix(l, "key="), " ")
		if !ok || !strings.HasPrefix(l, "key=") {
			t.Fatalf("%q", l)
		}
		seen[key]++
	}
}

// A client that does not read its dump.
func TestDumpSlow(t *testing.T) {
	for _, what := range []string{"all", "hash"} {
		t.Run(what, func(t *testing.T) {
			s := start(t, os.Getenv("CPATH"), false, "-m", "150", "-t", "2", "-o", "hashpower=16")
			a, b := s.client(), s.client()
			const n = 80000
			fill(a, "key", 0, n, 0)
			before := rss(s)
			io.WriteString(a, "lru_crawler metadump "+what+"\r\n")
			eventually(t, "the crawler waits", func() bool {
				return b.stat("", "lru_crawler_running") == "1"
			})
			time.Sleep(500 * time.Millisecond)
			if r := b.ask("lru_crawler crawl all\r\n"); r != "BUSY currently processing crawler request\r\n" {
				t.Errorf("%q", r)
			}
			c := s.client()
			if r := c.ask("lru_crawler metadump all\r\n"); r != "BUSY currently processing crawler request\r\n" {
				t.Errorf("%q", r)
			}
			if r := c.ask("lru_crawler enable\r\n"); !strings.HasPrefix(r, "ERROR") {
				t.Errorf("%q", r)
			}
			power := b.stat("", "hash_power_level")
			start := time.Now()
			fill(b, "more", 0, 120000, 0)
			eventually(t, "the table grows", func() bool {
				return b.stat("", "hash_power_level") > power && b.stat("", "hash_is_expanding") == "0"
			})
			t.Log("sets and growth", time.Since(start), "power", power, b.stat("", "hash_power_level"), "rss", before, rss(s))
			t.Log(b.stat("items", "items:1:number_hot"), b.stat("items", "items:1:number_cold"), b.stat("items", "items:1:number_warm"))
			if b.stat("", "lru_crawler_running") != "1" {
				t.Error("the dump is over")
			}
			seen := readDump(t, a)
			miss, dup := 0, 0
			for i := range n {
				switch seen[fmt.Sprint("key", i)] {
				case 0:
					miss++
				case 1:
				default:
					dup++
				}
			}
			t.Log("seen", len(seen), "missing", miss, "twice", dup)
			if miss > 0 || dup > 0 {
				t.Error("not each once")
			}
			if b.stat("", "lru_crawler_running") != "0" {
				t.Error("not idle")
			}
			if r := a.ask("get key1\r\n"); r != "VALUE key1 0 5\r\nvalue\r\nEND\r\n" {
				t.Errorf("%q", r)
			}
		})
	}
}

func TestDumpGone(t *testing.T) {
	for _, what := range []string{"all", "hash"} {
		for _, net := range []bool{false, true} {
			t.Run(fmt.Sprint(what, net), func(t *testing.T) {
				s := start(t, "", net, "-m", "100", "-t", "2", "-vv")
				a, b := s.client(), s.client()
				fill(a, "key", 0, 100000, 0)
				io.WriteString(a, "lru_crawler metadump "+what+"\r\nget key1\r\n")
				time.Sleep(300 * time.Millisecond)
				a.Close()
				eventually(t, "idle", func() bool { return b.stat("", "lru_crawler_running") == "0" })
				eventually(t, "closed", func() bool { return b.stat("", "curr_connections") == "2" || b.stat("", "curr_connections") == "1" })
				if !strings.Contains(s.said(), "connection closing from side thread") {
					t.Error("not closed by the crawler")
				}
				// gone at once
				for range 50 {
					a := s.client()
					io.WriteString(a, "lru_crawler metadump "+what+"\r\n")
					a.Close()
				}
				eventually(t, "closed", func() bool { n, _ := strconv.Atoi(b.stat("", "curr_connections")); return n <= 3 })
				time.Sleep(100 * time.Millisecond)
				eventually(t, "idle", func() bool { return b.stat("", "lru_crawler_running") == "0" })
				a = s.client()
				io.WriteString(a, "lru_crawler metadump "+what+"\r\n")
				if n := len(readDump(t, a)); n != 100000 {
					t.Error(n)
				}
				t.Log(b.stat("", "lru_crawler_starts"), b.stat("", "curr_connections"))
			})
		}
	}
}

// Everything at once, for the race detector.
func TestCrawlerStress(t *testing.T) {
	s := mc9(t, "-m", "24", "-t", "3", "-o", "hashpower=13,lru_crawler_sleep=10,temporary_ttl=10")
	var wg sync.WaitGroup
	end := time.Now().Add(6 * time.Second)
	run := func(f func(c *client, n int)) {
		wg.Add(1)
		go func() {
			defer wg.Done()
			c := s.client()
			for n := 0; time.Now().Before(end); n++ {
				f(c, n)
			}
		}()
	}
	for k := range 3 {
		run(func(c *client, n int) {
			fill(c, fmt.Sprint("k", k, "_"), n*200, n*200+200, []int{0, 1, -1, 100, 5}[n%5])
			var b strings.Builder
			for i := range 50 {
				fmt.Fprintf(&b, "get k%d_%d\r\nget k%d_%d\r\ndelete k%d_%d\r\n", k, n*100+i, k, n*100+i, k, n*50+i)
			}
			c.ask(b.String())
		})
	}
	counts := map[string]int{}
	var mu sync.Mutex
	for _, cmd := range []string{"metadump all", "metadump hash", "mgdump all", "mgdump hash", "metadump 1,2"} {
		run(func(c *client, n int) {
			io.WriteString(c, "lru_crawler "+cmd+"\r\n")
			l := c.line()
			mu.Lock()
			counts[cmd+" "+strings.TrimSpace(l)]++
			mu.Unlock()
			if !strings.HasPrefix(l, "OK") {
				time.Sleep(time.Millisecond)
				return
			}
			for lines := 0; ; lines++ {
				l := c.line()
				if l == "END\r\n" || l == "EN\r\n" {
					mu.Lock()
					counts[cmd+" lines"] += lines
					mu.Unlock()
					return
				}
				if !strings.HasPrefix(l, "key=") && !strings.HasPrefix(l, "mg ") || strings.Contains(l, "--") {
					t.Errorf("%q", l)
					return
				}
			}
		})
	}
	run(func(c *client, n int) {
		r := c.ask("lru_crawler crawl all\r\nlru_crawler crawl 1\r\n")
		mu.Lock()
		counts[r]++
		mu.Unlock()
		time.Sleep(time.Duration(n%7) * time.Millisecond)
	})
	run(func(c *client, n int) {
		time.Sleep(100 * time.Millisecond)
		r := c.ask("lru_crawler disable\r\nlru_crawler enable\r\n")
		if r != "OK\r\nOK\r\n" {
			t.Errorf("%q", r)
		}
		c.ask("lru_crawler disable\r\n")
		time.Sleep(10 * time.Millisecond)
		c.ask("lru_crawler enable\r\n")
		c.ask("stats\r\nstats items\r\nstats settings\r\nstats conns\r\n")
	})
	wg.Wait()
	c := s.client()
	for k, v := range counts {
		t.Logf("%6d %q", v, k)
	}
	t.Log(c.stat("", "hash_power_level"), c.stat("", "curr_items"), c.stat("", "crawler_reclaimed"), c.stat("", "crawler_items_checked"), c.stat("", "lru_crawler_starts"))
}

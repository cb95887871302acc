package main

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// stillLrus keeps items from moving to an LRU that a dump is through with, which
// would miss them, and keeps crawls that no client asks for from starting.
const stillLrus = "no_lru_maintainer"

// A client that does not read its dump holds up nobody: others store, the hash
// table grows. When the client reads at last, it gets each item once.
func TestDumpSlow(t *testing.T) {
	t.Parallel()
	for _, what := range []string{"all", "hash"} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			const n = 60000
			s := mc9(t, "-m", "150", "-t", "2", "-o", "hashpower=15,"+stillLrus)
			slow, c := s.client(), s.client()
			fill(slow, "key", n, 0)
			io.WriteString(slow, "lru_crawler metadump "+what+"\r\n")
			eventually(t, "the dump begins", func() bool { return c.stat("", "lru_crawler_running") == "1" })
			c.want(t, "lru_crawler crawl all\r\n", "BUSY currently processing crawler request\r\n")

			power := c.stat("", "hash_power_level")
			fill(c, "more", n, 0)
			eventually(t, "the table grows", func() bool {
				return c.stat("", "hash_power_level") > power && c.stat("", "hash_is_expanding") == "0"
			})
			if c.stat("", "lru_crawler_running") != "1" {
				t.Error("the dump has ended before it was read")
			}
			seen := readDump(t, slow)
			for i := range n {
				if seen[fmt.Sprint("key", i)] != 1 {
					t.Fatalf("key%d: seen %d times", i, seen[fmt.Sprint("key", i)])
				}
			}
			slow.want(t, "get key1\r\n", "VALUE key1 0 5\r\nvalue\r\nEND\r\n")
		})
	}
}

// Clients hang up in the middle of their dumps.
func TestDumpGone(t *testing.T) {
	t.Parallel()
	s := mc9(t, "-m", "100", "-t", "2", "-o", stillLrus)
	c := s.client()
	fill(c, "key", 50000, 0)
	// The socket, start's look whether it listens, and c.
	c.wantStat(t, "total_connections", "3")
	for i := range 100 {
		gone := s.client()
		io.WriteString(gone, "lru_crawler metadump "+[]string{"all", "hash"}[i%2]+"\r\nget key1\r\n")
		if i%10 == 0 {
			gone.line()
		}
		gone.Close()
	}
	eventually(t, "all are gone", func() bool {
		return c.stat("", "total_connections") == "103" &&
			c.stat("", "curr_connections") == "1" && c.stat("", "lru_crawler_running") == "0"
	})
	c.write("lru_crawler metadump all\r\n")
	if n := len(readDump(t, c)); n != 50000 {
		t.Errorf("%d items", n)
	}
}

// Dumps, crawls, hash table growth, eviction and expiry, all at once.
func TestCrawlerStress(t *testing.T) {
	t.Parallel()
	s := mc9(t, "-m", "24", "-t", "3", "-o", "hashpower=13,lru_crawler_sleep=10,temporary_ttl=10")
	var storing, others sync.WaitGroup
	for k := range 3 {
		c := s.client()
		storing.Add(1)
		go func() {
			defer storing.Done()
			for n := range 200 {
				prefix := fmt.Sprintf("%d_%d_", k, n%50)
				fill(c, prefix, 200, []int{0, 1, -1, 100, 5}[n%5])
				var b strings.Builder
				for i := range 50 {
					fmt.Fprintf(&b, "get %s%d\r\ndelete %s%d\r\n", prefix, i, prefix, 2*i)
				}
				c.ask(b.String())
			}
		}()
	}
	var stored atomic.Bool
	run := func(f func(c *client, n int)) {
		c := s.client()
		others.Add(1)
		go func() {
			defer others.Done()
			for n := 0; !stored.Load(); n++ {
				f(c, n)
			}
		}()
	}
	for _, what := range []string{"metadump all", "metadump hash", "mgdump all", "mgdump hash", "metadump 1,2"} {
		run(func(c *client, n int) {
			io.WriteString(c, "lru_crawler "+what+"\r\n")
			line := c.line()
			for strings.HasPrefix(line, "OK") || strings.HasPrefix(line, "key=") || strings.HasPrefix(line, "mg ") {
				line = c.line()
			}
			switch first, _, _ := strings.Cut(strings.TrimSpace(line), " "); first {
			case "END", "EN", "BUSY", "ERROR", "CLIENT_ERROR", "NOTSTARTED":
			default:
				t.Errorf("%s: %q", what, line)
			}
		})
	}
	run(func(c *client, n int) { c.ask("lru_crawler crawl all\r\nlru_crawler crawl 1\r\n") })
	run(func(c *client, n int) {
		c.want(t, "lru_crawler disable\r\nlru_crawler enable\r\n", "OK\r\nOK\r\n")
		c.ask("stats\r\nstats items\r\nstats settings\r\nstats conns\r\n")
	})
	storing.Wait()
	stored.Store(true)
	others.Wait()
}

// --metrics: its names are memcached_exporter's, whose answer about a server is
// in testdata/exporter.txt; its HTTP; and what bad clients can do to it.

package main

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// metered starts mc9 with --metrics on a free port.
func metered(t testing.TB, flags ...string) *server {
	t.Helper()
	return start(t, "", true, append([]string{"-l", "127.0.0.1", "-p", "-1", "--metrics=0"}, flags...)...)
}

func (s *server) url(path string) string { return "http://127.0.0.1:" + s.port["HTTP INET"] + path }

// fetchPage fetches a page of the server's.
func fetchPage(t testing.TB, url string) (status int, body string) {
	t.Helper()
	client := http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
	r, err := client.Get(url)
	if err != nil {
		t.Error(err)
		return 0, ""
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Error(err)
	}
	return r.StatusCode, string(b)
}

// scrape returns the samples and the types in a text of Prometheus, by name.
func scrape(text string) (samples map[string]float64, types map[string]string) {
	samples, types = map[string]float64{}, map[string]string{}
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		switch {
		case strings.HasPrefix(line, "# TYPE "):
			types[words[2]] = words[3]
		case !strings.HasPrefix(line, "#"):
			name, labels, _ := strings.Cut(strings.TrimSuffix(words[0], "}"), "{")
			all := strings.Split(labels, ",")
			slices.Sort(all)
			samples[name+"{"+strings.Join(all, ",")+"}"], _ = strconv.ParseFloat(words[1], 64)
		}
	}
	return samples, types
}

// What the exporter says of itself, or of the machine.
var exporterOwn = regexp.MustCompile(`^(go|promhttp|memcached_exporter)_|^(memcached_)?process_network_|^process_`)

// What differs between two looks.
var metricsMove = regexp.MustCompile(`^memcached_(process_|uptime|time_|read_bytes|written_bytes|.*age_seconds|.*connections|lru_crawler_(starts|items_checked|moves)|slab_items_moves|slab_(hot|warm|cold)_)`)

// exporter asks memcached_exporter about a server. It returns "" where there is
// none.
func exporter(t *testing.T, s *server) string {
	path := os.Getenv("MEMCACHED_EXPORTER")
	if path == "" {
		path, _ = exec.LookPath("memcached_exporter")
	}
	if path == "" {
		return ""
	}
	pid := filepath.Join(t.TempDir(), "pid")
	os.WriteFile(pid, fmt.Append(nil, s.cmd.Process.Pid), 0o666)
	addr := "127.0.0.1:" + freePort(t)
	cmd := exec.Command(path, "--memcached.address=127.0.0.1:"+s.port["TCP INET"], "--memcached.pid-file="+pid, "--web.listen-address="+addr)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	eventually(t, "the exporter listens", func() bool {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	_, text := fetchPage(t, "http://"+addr+"/metrics")
	return text
}

// The metrics have the names, labels and types of memcached_exporter. Where there
// is one they also have its values.
func TestMetrics(t *testing.T) {
	s := metered(t, "-o", "temporary_ttl=61,ext_path="+filepath.Join(t.TempDir(), "ext")+":64m")
	nc, err := net.Dial("tcp", "127.0.0.1:"+s.port["TCP INET"])
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	c := newClient(nc)
	fill(c, "a", 100, 0)
	c.want(t, "set a 0 0 1\r\n1\r\n", "STORED\r\n")
	c.want(t, "set b 0 30 900\r\n"+strings.Repeat("b", 900)+"\r\n", "STORED\r\n")
	c.want(t, "get a\r\nget none\r\nincr a 1\r\ntouch a 0\r\ndelete b\r\ncas a 0 0 1 1\r\n2\r\n",
		"VALUE a 0 1\r\n1\r\nEND\r\nEND\r\n2\r\nTOUCHED\r\nDELETED\r\nEXISTS\r\n")
	theirs := exporter(t, s)
	_, ours := fetchPage(t, s.url("/metrics"))
	samples, types := scrape(ours)
	values, _ := scrape(theirs)
	for name, want := range values {
		if have, ok := samples[name]; ok && have != want && !metricsMove.MatchString(name) && !exporterOwn.MatchString(name) {
			t.Errorf("%s: %v, memcached_exporter has %v", name, have, want)
		}
	}
	golden := "testdata/exporter.txt"
	switch {
	case theirs == "":
		t.Log("names only: no memcached_exporter on PATH or in MEMCACHED_EXPORTER")
	case *update:
		os.WriteFile(golden, []byte(exporterNames(theirs)), 0o666)
	}
	text, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		words := strings.Fields(line)
		switch {
		case len(words) == 2 && types[words[0]] != words[1]:
			t.Errorf("%s is a %q, in memcached_exporter a %s", words[0], types[words[0]], words[1])
		case len(words) == 1:
			if _, ok := samples[words[0]]; !ok {
				t.Errorf("there is no %s", words[0])
			}
		}
	}
	for name := range types {
		if !strings.Contains(string(text), "\n"+name+" ") && !strings.HasPrefix(name, "process_") {
			t.Logf("only here: %s", name)
		}
	}
}

// exporterNames returns the types and the names in text, a line for each.
func exporterNames(text string) string {
	samples, types := scrape(text)
	b := "# memcached_exporter's answer about the server of TestMetrics: types and names.\n"
	for _, name := range slices.Sorted(maps.Keys(types)) {
		if !exporterOwn.MatchString(name) {
			b += name + " " + types[name] + "\n"
		}
	}
	for _, name := range slices.Sorted(maps.Keys(samples)) {
		if !exporterOwn.MatchString(name) {
			b += name + "\n"
		}
	}
	return b
}

// promtool accepts the metrics, except for names that are not ours to choose, and
// the rules.
func TestPromtool(t *testing.T) {
	text, err := os.ReadFile("contrib/alerts.yml")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range regexp.MustCompile(`\bmemcached_\w+`).FindAllString(string(text), -1) {
		if !regexp.MustCompile(`(?m)^` + name + `[{|]`).MatchString(metricsTable) {
			t.Errorf("contrib/alerts.yml: there is no %s", name)
		}
	}
	if _, err := exec.LookPath("promtool"); err != nil {
		t.Skip("there is no promtool")
	}
	_, metrics := fetchPage(t, metered(t).url("/metrics"))
	cmd := exec.Command("promtool", "check", "metrics")
	cmd.Stdin = strings.NewReader(metrics)
	out, _ := cmd.CombinedOutput()
	theirs, _ := os.ReadFile("testdata/exporter.txt")
	for line := range strings.Lines(string(out)) {
		if name, _, _ := strings.Cut(line, " "); !bytes.Contains(theirs, []byte("\n"+name+" ")) {
			t.Errorf("promtool: %s", line)
		}
	}
	if out, err := exec.Command("promtool", "check", "rules", "contrib/alerts.yml").CombinedOutput(); err != nil {
		t.Errorf("%s", out)
	}
}

// What a client gets for a request.
func TestMetricsHttp(t *testing.T) {
	s := metered(t)
	for _, tt := range []struct{ request, status, header, body string }{
		{"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", "200 OK", "Content-Type: text/plain; version=0.0.4; charset=utf-8\r\n", "\nmemcached_up 1\n"},
		{"GET /metrics?a=b HTTP/1.0\n\n", "200 OK", "Connection: close\r\n", "\nmemcached_up 1\n"},
		{"HEAD /metrics HTTP/1.1\r\n\r\n", "200 OK", "Content-Type: text/plain; version=0.0.4", ""},
		{"GET / HTTP/1.1\r\n\r\n", "200 OK", "Content-Type: text/html", `<a href="/metrics">`},
		{"GET /healthz HTTP/1.1\r\n\r\n", "200 OK", "Content-Length: 3\r\n", "ok\n"},
		{"HEAD /healthz HTTP/1.1\r\n\r\n", "200 OK", "Content-Length: 3\r\n", ""},
		{"GET /nonsense HTTP/1.1\r\n\r\n", "404 Not Found", "", "not found\n"},
		{"HEAD /nonsense HTTP/1.1\r\n\r\n", "404 Not Found", "", ""},
		{"POST /metrics HTTP/1.1\r\n\r\n", "405 Method Not Allowed", "Allow: GET, HEAD\r\n", "only"},
		{"get a\r\n", "400 Bad Request", "", "not HTTP"},
		{"stats\r\n", "400 Bad Request", "", "not HTTP"},
		{"GET / HTTP/2.0\r\n", "400 Bad Request", "", "not HTTP"},
		{"\r\n", "400 Bad Request", "", "not HTTP"},
		{"\x16\x03\x01", "400 Bad Request", "", "not HTTP"},
		{"\x80\x0b\x00", "400 Bad Request", "", "not HTTP"},
		{strings.Repeat("G", 8<<10), "400 Bad Request", "", "not HTTP"},
		{"GET / HTTP/1.1\r\nA: " + strings.Repeat("x", 8<<10-len("GET / HTTP/1.1\r\nA: ")), "400 Bad Request", "", "not HTTP"},
	} {
		c, err := net.Dial("tcp", "127.0.0.1:"+s.port["HTTP INET"])
		if err != nil {
			t.Fatal(err)
		}
		c.SetDeadline(time.Now().Add(patience))
		half := len(tt.request) / 2
		io.WriteString(c, tt.request[:half])
		io.WriteString(c, tt.request[half:])
		b, err := io.ReadAll(c)
		c.Close()
		head, body, ok := strings.Cut(string(b), "\r\n\r\n")
		if err != nil || !ok || !strings.HasPrefix(head, "HTTP/1.1 "+tt.status+"\r\n") || !strings.Contains(head+"\r\n", tt.header) ||
			!strings.Contains(body, tt.body) || tt.body == "" && body != "" {
			t.Errorf("%.40q: %v\n%s\n\n%.100s", tt.request, err, head, body)
		}
	}
}

// Bad clients: many, slow, or talking nonsense. Those of the cache do not notice,
// somebody who asks is served, and all is given back.
func TestMetricsBadClients(t *testing.T) {
	s := metered(t)
	addr := "127.0.0.1:" + s.port["HTTP INET"]
	fetchPage(t, s.url("/metrics"))
	fds, before := s.fds(), s.footprint()
	nc, err := net.Dial("tcp", "127.0.0.1:"+s.port["TCP INET"])
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	client := newClient(nc)
	var slow []net.Conn
	for i := range 300 {
		c, err := net.DialTimeout("tcp", addr, 10*time.Millisecond)
		if err != nil {
			continue // the backlog is full
		}
		slow = append(slow, c)
		switch i % 4 {
		case 0:
			io.WriteString(c, "GET /met")
		case 1:
			go io.Copy(c, io.LimitReader(zeros{'A'}, 1<<20))
		case 2:
			io.WriteString(c, "GET /metrics HTTP/1.1\r\n\r\n") // and does not read
		}
		client.want(t, "get foo\r\n", "END\r\n")
		if n := s.fds(); n > fds+1+metricsConns {
			t.Fatalf("%d descriptors, had %d", n, fds)
		}
	}
	if status, _ := fetchPage(t, s.url("/healthz")); status != 200 {
		t.Errorf("/healthz: %d", status)
	}
	if _, text := fetchPage(t, s.url("/metrics")); !strings.HasSuffix(text, "\n") || !strings.Contains(text, "memcached_up 1\n") {
		t.Errorf("/metrics: %s", text)
	}
	for _, c := range slow {
		c.Close()
	}
	eventually(t, "descriptors are closed", func() bool { return s.fds() <= fds+1 })
	if now := s.footprint(); now.heap > before.heap+2<<10 {
		t.Errorf("have %+v, had %+v", now, before)
	}
}

type zeros struct{ b byte }

func (z zeros) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = z.b
	}
	return len(b), nil
}

// A client that does not finish its request is closed.
func TestMetricsSlow(t *testing.T) {
	t.Parallel()
	s := metered(t)
	c, err := net.Dial("tcp", "127.0.0.1:"+s.port["HTTP INET"])
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	io.WriteString(c, "GET /")
	if b, err := io.ReadAll(c); len(b) > 0 || err != nil {
		t.Errorf("%q, %v", b, err)
	}
}

// Without an answer of each worker a server is not healthy.
func TestHealthy(t *testing.T) {
	was := threads
	defer func() { threads = was }()
	workers := []*thread{{}, {}}
	for _, me := range workers {
		setupThread(me)
	}
	threads = workers
	clockInit(clockBegin)
	if healthy() {
		t.Error("healthy, though nobody serves the pipes")
	}
	clockInit(clockBegin)
	var stop atomic.Bool
	done := make(chan bool)
	go func() {
		for !stop.Load() {
			for _, me := range workers {
				if me.asked.Load() {
					threadLibeventProcess(me)
				}
			}
			time.Sleep(time.Millisecond)
		}
		close(done)
	}()
	if !healthy() {
		t.Error("not healthy")
	}
	stop.Store(true)
	<-done
	clockBase = clockBase.Add(-10 * time.Second)
	workers[0].asked.Store(false)
	if healthy() {
		t.Error("healthy, though the clock stands still")
	}
}

// Where metrics are served, and what else may be asked for.
func TestMetricsListen(t *testing.T) {
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	for _, addr := range []string{busy.Addr().String(), "nonsense", "127.0.0.1:x", "1.2.3.4:0", "127.0.0.1:65536", ":0"} {
		code, out := run(t, "-p", "0", "--metrics="+addr)
		if code != exOserr || !strings.Contains(out, "failed to listen on "+addr+" for metrics: ") {
			t.Errorf("%s: %d, %s", addr, code, out)
		}
	}
	for addr, name := range map[string]string{"127.0.0.1:0": "HTTP INET", "[::1]:0": "HTTP INET6", "*:0": "HTTP INET", "localhost:0": "HTTP INET"} {
		s := start(t, "", true, "-p", "0", "--metrics="+addr)
		host := map[string]string{"HTTP INET": "127.0.0.1", "HTTP INET6": "[::1]"}[name]
		if status, _ := fetchPage(t, "http://"+host+":"+s.port[name]+"/healthz"); status != 200 {
			t.Errorf("%s: %d", addr, status)
		}
	}
	for _, flags := range []string{"-d", "-u nobody", "-o drop_privileges", "-s " + filepath.Join(t.TempDir(), "s"), "-Y " + authFile(t)} {
		port := freePort(t)
		pidFile := filepath.Join(t.TempDir(), "pid")
		cmd := command("", append(strings.Fields(flags), "-p", "0", "--metrics="+port, "-P", pidFile)...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		body := ""
		eventually(t, flags+": metrics", func() bool {
			if c, err := net.Dial("tcp", "127.0.0.1:"+port); err != nil {
				return false
			} else {
				c.Close()
			}
			_, body = fetchPage(t, "http://127.0.0.1:"+port+"/metrics")
			return true
		})
		for _, name := range []string{"process_resident_memory_bytes", "process_open_fds", "memcached_max_connections 1024"} {
			if !strings.Contains(body, "\n"+name) {
				t.Errorf("%s: no %s", flags, name)
			}
		}
		if flags == "-d" {
			cmd.Wait()
			pid, _ := os.ReadFile(pidFile)
			syscall.Kill(atoi(string(pid)), syscall.SIGKILL)
			continue
		}
		cmd.Process.Signal(syscall.SIGUSR1)
		if err := cmd.Wait(); err != nil {
			t.Errorf("%s: %v", flags, err)
		}
	}
}

// Sockets from systemd are the cache's; metrics have their own.
func TestMetricsActivation(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	port := freePort(t)
	cmd := activated([]string{"--metrics=" + port}, f)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	wantChecked(t, "--check="+l.Addr().String())
	if status, _ := fetchPage(t, "http://127.0.0.1:"+port+"/healthz"); status != 200 {
		t.Error(status)
	}
}

func authFile(t *testing.T) string {
	name := filepath.Join(t.TempDir(), "auth")
	os.WriteFile(name, []byte("user:password\n"), 0o600)
	return name
}

// While items are put away for a warm restart no scrape looks at them.
func TestMetricsRestart(t *testing.T) {
	s := metered(t, "-e", filepath.Join(t.TempDir(), "mem"))
	done := make(chan bool)
	go func() {
		client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		for {
			r, err := client.Get(s.url("/metrics"))
			if err != nil {
				break
			}
			io.Copy(io.Discard, r.Body)
			r.Body.Close()
		}
		close(done)
	}()
	fetchPage(t, s.url("/metrics"))
	s.cmd.Process.Signal(syscall.SIGUSR1)
	<-s.done
	<-done
	if !s.cmd.ProcessState.Success() {
		t.Error(s.cmd.ProcessState, s.said())
	}
}

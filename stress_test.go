// Dozens of clients, which know the values that they may read, on a server that
// does everything else it can at the same time. For a longer run:
//
//	go test -race -run TestStress -long 50 -timeout 1h

package main

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const (
	stressClients = 50
	stressOps     = 100 // operations per client
	stressHot     = 12  // keys that all clients write to
	stressOwn     = 40  // keys per client that only it writes to
)

// Values consist of stressRecords: the client that wrote the record, the number of
// its write, and how many bytes follow. So the origin of each byte is known.
type stressRecord struct{ id, seq, n int }

var stressFiller = sync.OnceValue(func() string {
	b := make([]byte, 1<<21)
	for i := range b {
		b[i] = byte('a' + rand.IntN(26))
	}
	return string(b)
})

func (r stressRecord) String(key string) string {
	return fmt.Sprintf("<%s %d %d %d>", key, r.id, r.seq, r.n) + r.filler()
}

func (r stressRecord) filler() string { return stressFiller()[(r.id*7919+r.seq*104729)%(1<<17):][:r.n] }

// stressRecords splits a value into its records.
func stressRecords(key, value string) (recs []stressRecord, err error) {
	for rest := value; rest != ""; {
		var k string
		var r stressRecord
		head, tail, _ := strings.Cut(rest, ">")
		if _, err := fmt.Sscanf(head, "<%s %d %d %d", &k, &r.id, &r.seq, &r.n); err != nil ||
			k != key || min(r.id, r.seq, r.n) < 0 || r.id >= stressClients || r.n > len(tail) || tail[:r.n] != r.filler() {
			return nil, fmt.Errorf("%s is broken at %d of %d: %.60q", key, len(value)-len(rest), len(value), rest)
		}
		recs = append(recs, r)
		rest = tail[r.n:]
	}
	return recs, nil
}

// A stress is a server and its clients.
type stress struct {
	s        *server
	flags    []string      // to restart the server with
	restarts int           // number of restarts
	lost     string        // the statistic that counts losses; "" if roomy
	clock    atomic.Uint64 // ticks when a write to a hot key begins or ends
	hot      [stressHot]struct {
		since atomic.Uint64 // the latest start of any write that has ended
		set   atomic.Bool   // the key is set; it is never deleted, so it is there unless memory is short
	}
	ends    [stressClients][]atomic.Uint64 // when writes to hot keys ended, by seq; 0 while in flight
	uniques sync.Map                       // the uniques of successful cas
	total   atomic.Uint64                  // sum of all incr
	wins    atomic.Int64                   // number of successful cas
	clients [stressClients]*stressClient
}

// roomy reports whether memory is ample and nobody flushes: no item may get lost.
func (w *stress) roomy() bool { return w.lost == "" }

// A stressClient is one of a stress's clients.
type stressClient struct {
	*client
	w     *stress
	id    int
	proto protocol // asciiProt, binaryProt, or negotiatingProt for meta commands
	rnd   *rand.Rand
	seq   int
	own   map[string]*stressItem
	sum   uint64 // the last result of incr
	list  int    // number of records appended to the list
}

// A stressItem is what one of a client's own keys holds.
type stressItem struct {
	recs    []stressRecord
	flags   uint32
	expires bool // it may expire
}

// A stressValue is a reply to get.
type stressValue struct {
	value string
	flags uint32
	cas   uint64
}

// get returns the server's values for these keys.
func (c *stressClient) get(keys ...string) (map[string]stressValue, error) {
	values := make(map[string]stressValue)
	var in strings.Builder
	switch c.proto {
	case asciiProt:
		fmt.Fprintf(&in, "gets %s\r\n", strings.Join(keys, " "))
	case binaryProt:
		for _, key := range keys {
			in.WriteString(packetOf("TGetkq key=%s", key))
		}
		in.WriteString(packetOf("TNoop"))
	default:
		for _, key := range keys {
			fmt.Fprintf(&in, "mg %s f c k v\r\n", key)
		}
		in.WriteString("mn\r\n")
	}
	c.write(in.String())
	for {
		if c.proto == binaryProt {
			p, s := c.packet()
			switch {
			case p != nil && p.opcode() == protocolBinaryCmdNoop:
				return values, nil
			case p == nil || p.status() != 0:
				return nil, fmt.Errorf("%q: %.200s", keys, s)
			}
			value := 4 + int(binary.BigEndian.Uint16(p.hdr[2:]))
			values[string(p.body[4:value])] = stressValue{string(p.body[value:]), binary.BigEndian.Uint32(p.body), binary.BigEndian.Uint64(p.hdr[16:])}
			continue
		}
		var key string
		var v stressValue
		n := 0
		line := strings.TrimSuffix(c.line(), "\r\n")
		switch {
		case line == "END", line == "MN", line == errNoMemoryGet && !c.w.roomy():
			return values, nil
		case strings.HasPrefix(line, "EN k"):
			continue
		}
		if _, err := fmt.Sscanf(line, "VALUE %s %d %d %d", &key, &v.flags, &n, &v.cas); err != nil {
			if _, err := fmt.Sscanf(line, "VA %d f%d c%d k%s", &n, &v.flags, &v.cas, &key); err != nil {
				return nil, fmt.Errorf("%q: %.200q", keys, line)
			}
		}
		b := make([]byte, n+2)
		if _, err := io.ReadFull(c.r, b); err != nil || string(b[n:]) != "\r\n" {
			return nil, fmt.Errorf("%q: %v after %.200q", keys, err, line)
		}
		v.value = string(b[:n])
		values[key] = v
	}
}

func packetOf(format string, args ...any) string {
	s, err := parsePacket(fmt.Sprintf(format, args...))
	if err != nil {
		panic(err)
	}
	return s
}

// store stores a value and returns the result in the text protocol's words.
func (c *stressClient) store(name, key, value string, flags uint32, exptime int, cas uint64) string {
	switch c.proto {
	case asciiProt:
		unique := ""
		if name == "cas" {
			unique = fmt.Sprint(" ", cas)
		}
		c.write(fmt.Sprintf("%s %s %d %d %d%s\r\n", name, key, flags, exptime, len(value), unique) + value + "\r\n")
		return strings.TrimSpace(c.line())
	case binaryProt:
		op := map[string]string{"set": "Set", "add": "Add", "append": "Append", "prepend": "Prepend", "cas": "Set"}[name]
		extras := ""
		bodylen := len(key) + len(value)
		if op == "Set" || op == "Add" {
			extras = fmt.Sprintf("flags=%d exptime=%d ", flags, exptime)
			bodylen += 8
		}
		c.write(packetOf("T%s key=%s %scas=%d bodylen=%d", op, key, extras, cas, bodylen) + value)
		p, s := c.packet()
		switch {
		case p == nil:
			return s
		case p.status() == 0:
			return "STORED"
		case name == "cas" && protocolBinaryResponseStatus(p.status()) == protocolBinaryResponseKeyEexists:
			return "EXISTS"
		case name == "cas" && protocolBinaryResponseStatus(p.status()) == protocolBinaryResponseKeyEnoent:
			return "NOT_FOUND"
		case protocolBinaryResponseStatus(p.status()) == protocolBinaryResponseNotStored, name == "add":
			return "NOT_STORED"
		}
		return s
	}
	f := map[string]string{"set": "MS", "add": "ME", "append": "MA", "prepend": "MP", "cas": fmt.Sprint("C", cas)}[name]
	c.write(fmt.Sprintf("ms %s %d %s F%d T%d\r\n", key, len(value), f, flags, exptime) + value + "\r\n")
	line := strings.TrimSpace(c.line())
	if long := map[string]string{"HD": "STORED", "NS": "NOT_STORED", "EX": "EXISTS", "NF": "NOT_FOUND"}[line]; long != "" {
		return long
	}
	return line
}

// command sends a command or packet, and reports whether its key was found.
func (c *stressClient) command(text, packet, ok string) (found bool, err error) {
	if c.proto == binaryProt {
		c.write(packetOf("%s", packet))
		p, s := c.packet()
		if p == nil || p.status() > uint16(protocolBinaryResponseKeyEnoent) {
			return false, fmt.Errorf("%s: %s", packet, s)
		}
		return p.status() == 0, nil
	}
	c.write(text + "\r\n")
	reply := strings.TrimSpace(c.line())
	if reply != ok && reply != "NOT_FOUND" {
		return false, fmt.Errorf("%s: %s", text, reply)
	}
	return reply == ok, nil
}

// stored checks that res, the result of a set or add, is STORED: memory is found
// however little there is.
func (c *stressClient) stored(what, res string) error {
	if res != "STORED" {
		return fmt.Errorf("%s: %s", what, res)
	}
	return nil
}

// there records whether one of c's own keys was found, and checks that it may be
// so.
func (c *stressClient) there(key string, found bool) error {
	it := c.own[key]
	switch {
	case found && it == nil:
		return fmt.Errorf("%s has come back", key)
	case !found && it != nil && c.w.roomy() && !it.expires:
		return fmt.Errorf("%s is lost", key)
	case !found && !strings.HasPrefix(c.w.lost, "extstore"):
		// With extstore a value that there is no memory to read into is not found
		// either.
		delete(c.own, key)
	}
	return nil
}

func (c *stressClient) next(n int) stressRecord {
	c.seq++
	return stressRecord{c.id, c.seq, n}
}

func (c *stressClient) size() int {
	switch n := c.rnd.IntN(100); {
	case n < 2:
		return 520<<10 + c.rnd.IntN(400<<10)
	case n < 12:
		return c.rnd.IntN(40 << 10)
	case n < 25:
		return 1900 + c.rnd.IntN(3000)
	}
	return c.rnd.IntN(200)
}

// step does something at random, and returns what is wrong with the reply.
func (c *stressClient) step() error {
	key := fmt.Sprintf("own%d-%d", c.id, c.rnd.IntN(stressOwn))
	switch op := c.rnd.IntN(100); {
	case op < 15:
		return c.setOwn(key)
	case op < 35:
		return c.getAndCheck(c.someKeys())
	case op < 43:
		return c.setHot()
	case op < 46:
		return c.deleteHot()
	case op < 54:
		return c.appendOwn(key)
	case op < 58:
		found, err := c.command("delete "+key, "TDelete key="+key, "DELETED")
		if err == nil {
			err = c.there(key, found)
		}
		delete(c.own, key)
		return err
	case op < 62:
		found, err := c.command("touch "+key+" 0", "TTouch key="+key, "TOUCHED")
		if err == nil {
			err = c.there(key, found)
		}
		if it := c.own[key]; it != nil {
			it.expires = false
		}
		return err
	case op < 70:
		return c.incr()
	case op < 80:
		return c.cas(fmt.Sprint("count", c.rnd.IntN(2)))
	case op < 83:
		return c.addToList()
	case op < 97:
		return c.fill(10)
	case op < 98:
		return c.hangUp()
	case c.proto != binaryProt:
		return c.tune()
	}
	return nil
}

func (c *stressClient) setOwn(key string) error {
	rec := c.next(c.size())
	exptime := 0
	if c.rnd.IntN(10) == 0 {
		exptime = 1
	}
	flags := c.rnd.Uint32N(2) * uint32(rec.seq)
	err := c.stored("set", c.store("set", key, rec.String(key), flags, exptime, 0))
	if err == nil {
		c.own[key] = &stressItem{[]stressRecord{rec}, flags, exptime != 0}
	}
	return err
}

func (c *stressClient) appendOwn(key string) error {
	it := c.own[key]
	if it != nil && len(it.recs) > 20 {
		return nil
	}
	rec := c.next(c.rnd.IntN(300))
	if c.rnd.IntN(10) == 0 {
		rec.n *= 50
	}
	name := []string{"append", "prepend"}[c.rnd.IntN(2)]
	switch res := c.store(name, key, rec.String(key), 0, 0, 0); {
	case res == "STORED" && it == nil:
		return fmt.Errorf("%s has come back", key)
	case res == "STORED" && name == "append":
		it.recs = append(it.recs, rec)
	case res == "STORED":
		it.recs = append([]stressRecord{rec}, it.recs...)
	case res == "NOT_STORED" && (it == nil || it.expires || !c.w.roomy()):
		// The key does not exist.
	default:
		return c.stored(name, res)
	}
	return nil
}

// someKeys returns own keys, hot keys, the list, and keys that fill sets.
func (c *stressClient) someKeys() (keys []string) {
	for len(keys) == 0 || c.rnd.IntN(3) > 0 {
		switch c.rnd.IntN(4) {
		case 0:
			keys = append(keys, fmt.Sprint("hot", c.rnd.IntN(stressHot)))
		case 1:
			keys = append(keys, fmt.Sprintf("fill%d-%d", c.rnd.IntN(stressClients), c.rnd.IntN(500)))
		case 2:
			keys = append(keys, "list")
		default:
			keys = append(keys, fmt.Sprintf("own%d-%d", c.id, c.rnd.IntN(stressOwn)))
		}
	}
	return keys
}

// getAndCheck gets several keys and checks that their values are allowed.
func (c *stressClient) getAndCheck(keys []string) error {
	var set [stressHot]bool
	var since [stressHot]uint64
	for i := range c.w.hot {
		set[i] = c.w.hot[i].set.Load()
		since[i] = c.w.hot[i].since.Load()
	}
	values, err := c.get(keys...)
	for i := 0; i < len(keys) && err == nil; i++ {
		key := keys[i]
		v, found := values[key]
		var recs []stressRecord
		if recs, err = stressRecords(key, v.value); err != nil {
			break
		}
		hot, isHot := strings.CutPrefix(key, "hot")
		switch {
		case strings.HasPrefix(key, "own"):
			err = c.checkOwn(key, v, found, recs)
		case key == "list":
			_, err = checkList(recs)
		case found && len(recs) != 1:
			err = fmt.Errorf("%s: %d records", key, len(recs))
		case isHot:
			i := atoi(hot)
			err = c.checkHot(i, v, recs, set[i], since[i])
		}
	}
	return err
}

func (c *stressClient) checkOwn(key string, v stressValue, found bool, recs []stressRecord) error {
	if err := c.there(key, found); err != nil || !found {
		return err
	}
	if it := c.own[key]; fmt.Sprint(recs) != fmt.Sprint(it.recs) || v.flags != it.flags {
		return fmt.Errorf("%s: have %v flags %d, want %v flags %d", key, recs, v.flags, it.recs, it.flags)
	}
	return nil
}

// checkHot checks that the value is not stale: its write must not have ended before
// since, the start of a write that ended before the get was sent.
func (c *stressClient) checkHot(i int, v stressValue, recs []stressRecord, set bool, since uint64) error {
	if recs == nil {
		if set && c.w.roomy() {
			return fmt.Errorf("hot%d is lost", i)
		}
		return nil
	}
	rec := recs[0]
	if v.flags != uint32(rec.seq) {
		return fmt.Errorf("hot%d: flags %d of %v", i, v.flags, rec)
	}
	if end := c.w.ends[rec.id][rec.seq].Load(); end != 0 && end < since {
		return fmt.Errorf("hot%d: %v was stored at %d, but another began at %d", i, rec, end, since)
	}
	return nil
}

// wrote records a write to a hot key that began at start and ends now.
func (c *stressClient) wrote(i int, start uint64, end *atomic.Uint64) {
	end.Store(c.w.clock.Add(1))
	hot := &c.w.hot[i]
	for old := hot.since.Load(); old < start && !hot.since.CompareAndSwap(old, start); old = hot.since.Load() {
	}
}

func (c *stressClient) setHot() error {
	i := c.rnd.IntN(stressHot)
	key := fmt.Sprint("hot", i)
	rec := c.next(c.size())
	start := c.w.clock.Add(1)
	err := c.stored("set", c.store("set", key, rec.String(key), uint32(rec.seq), 0, 0))
	if err == nil {
		c.wrote(i, start, &c.w.ends[c.id][rec.seq])
		c.w.hot[i].set.Store(i%2 == 0)
	}
	return err
}

func (c *stressClient) deleteHot() error {
	i := c.rnd.IntN(stressHot/2)*2 + 1
	start := c.w.clock.Add(1)
	_, err := c.command(fmt.Sprint("delete hot", i), fmt.Sprint("TDelete key=hot", i), "DELETED")
	c.wrote(i, start, new(atomic.Uint64))
	return err
}

// incr adds to a number, several times in a row.
func (c *stressClient) incr() error {
	n := 1 + c.rnd.IntN(20)
	delta := 1 + c.rnd.Uint64N(10)
	if c.proto == binaryProt {
		c.write(strings.Repeat(packetOf("TIncrement key=sum delta=%d exptime=%d", delta, binIncrDontCreate), n))
	} else {
		c.write(strings.Repeat(fmt.Sprintf("incr sum %d\r\n", delta), n))
	}
	lost := false
	for range n {
		reply, sum := "", uint64(0)
		if c.proto == binaryProt {
			var p *packet
			if p, reply = c.packet(); p != nil && p.status() == 0 {
				sum = binary.BigEndian.Uint64(p.body)
			}
		} else {
			reply = c.line()
			sum, _ = strconv.ParseUint(strings.TrimSpace(reply), 10, 64)
		}
		lost = sum == 0 && stressNoSum.MatchString(reply)
		switch {
		case sum >= c.sum+delta, sum > 0 && !c.w.roomy():
			c.sum = sum
			c.w.total.Add(delta)
		case !lost || c.w.roomy():
			return fmt.Errorf("incr by %d: %q after %d", delta, reply, c.sum)
		}
	}
	if lost {
		c.store("add", "sum", "0", 0, 0, 0) // unless another client does
	}
	return nil
}

var stressNoSum = regexp.MustCompile(`^(NOT_FOUND|RIncrement status=0x01 .*)\r\n`)

// cas adds 1 to a number. No two cas may succeed with the same unique.
func (c *stressClient) cas(key string) error {
	values, err := c.get(key)
	v, found := values[key]
	switch {
	case err != nil:
		return err
	case !found && c.w.roomy():
		return fmt.Errorf("%s is lost", key)
	case !found:
		c.store("add", key, "0", 0, 0, 0)
		return nil
	}
	n, err := strconv.Atoi(v.value)
	if err != nil {
		return fmt.Errorf("%s is %.100q", key, v.value)
	}
	res := c.store("cas", key, strconv.Itoa(n+1), 0, 0, v.cas)
	switch {
	case res == "STORED":
		c.w.wins.Add(1)
		if _, twice := c.w.uniques.LoadOrStore(v.cas, c.id); twice {
			return fmt.Errorf("%s: two cas succeeded with unique %d", key, v.cas)
		}
	case res == "EXISTS":
	case res == "NOT_FOUND" && !c.w.roomy():
	default:
		err = c.stored("cas", res)
	}
	return err
}

// addToList appends to the list that all clients append to.
func (c *stressClient) addToList() error {
	if c.list >= 20 {
		return nil
	}
	value := stressRecord{c.id, c.list, c.rnd.IntN(20)}.String("list")
	res := c.store("append", "list", value, 0, 0, 0)
	if res == "NOT_STORED" && !c.w.roomy() {
		if res = c.store("add", "list", value, 0, 0, 0); res == "NOT_STORED" {
			return nil
		}
	}
	err := c.stored("append", res)
	if err == nil {
		c.list++
	}
	return err
}

// checkList returns how many records each client has on the list.
func checkList(recs []stressRecord) (n [stressClients]int, err error) {
	var last [stressClients]int
	for _, rec := range recs {
		if n[rec.id] > 0 && rec.seq <= last[rec.id] {
			return n, fmt.Errorf("list: record %d of client %d comes after record %d", rec.seq, rec.id, last[rec.id])
		}
		last[rec.id] = rec.seq
		n[rec.id]++
	}
	return n, nil
}

// fill stores small items without waiting for replies.
func (c *stressClient) fill(n int) error {
	w := bufio.NewWriter(c)
	c.SetWriteDeadline(time.Now().Add(patience))
	for range n {
		key := fmt.Sprintf("fill%d-%d", c.id, c.rnd.IntN(500))
		value := stressRecord{c.id, 0, c.rnd.IntN(300)}.String(key)
		if c.proto == binaryProt {
			io.WriteString(w, packetOf("TSetq key=%s value=%q", key, value))
		} else {
			fmt.Fprintf(w, "set %s 0 0 %d noreply\r\n%s\r\n", key, len(value), value)
		}
	}
	return w.Flush()
}

// hangUp hangs up in the middle of a set, and reconnects. The server may not read all
// of the set: if it has served -R commands it first waits for us to read the replies.
func (c *stressClient) hangUp() error {
	text := "get hot0 hot1 hot2\r\nset hot0 0 0 600000\r\n"
	if c.proto == binaryProt {
		text = packetOf("TGet key=hot0") + packetOf("TSet key=hot0 bodylen=600000")
	}
	c.SetWriteDeadline(time.Now().Add(time.Second))
	io.WriteString(c, text+stressFiller()[:c.rnd.IntN(500000)])
	c.Close()
	nc, err := c.w.s.dial()
	if err == nil {
		c.client = newClient(nc)
	}
	return err
}

// tune changes a random setting, or starts background work.
func (c *stressClient) tune() error {
	commands := []string{
		"lru tune 10 25 0.1 2", "lru tune 30 30 0.5 1", "lru mode flat", "lru mode segmented", "lru mode segmented",
		"slabs automove 0", "slabs automove 1", "slabs automove ratio 0.5", "slabs automove window 5",
		"lru_crawler crawl all", "lru_crawler crawl 1,2,3", "lru_crawler tocrawl 1000", "lru_crawler sleep 0", "lru_crawler sleep 10",
		"lru_crawler disable", "lru_crawler enable", "lru_crawler enable",
		"verbosity 0", "verbosity 0", "verbosity 1", "verbosity 3",
	}
	if !c.w.roomy() {
		commands = append(commands, "flush_all", "slabs automove 2", "slabs automove 2",
			"cache_memlimit 16", "cache_memlimit 20", "lru temp_ttl 2", "lru temp_ttl -1")
		for range 10 {
			commands = append(commands, fmt.Sprintf("slabs reassign %d %d", c.rnd.IntN(40)-1, c.rnd.IntN(40)))
		}
	}
	text := commands[c.rnd.IntN(len(commands))]
	c.write(text + "\r\n")
	switch word, _, _ := strings.Cut(strings.TrimSpace(c.line()), " "); word {
	case "OK", "BUSY", "BADCLASS", "NOSPARE", "SAME", "NOTSTARTED", "CLIENT_ERROR", "ERROR":
		return nil
	default:
		return fmt.Errorf("%s: %s", text, word)
	}
}

// stats asks for the n-th kind of statistics.
func (w *stress) stats(c *client, n int) error {
	kinds := []string{"", " items", " slabs", " sizes", " settings", " conns", " detail on", " detail dump", " detail off", " cachedump 1 100"}
	kind := kinds[n%len(kinds)]
	if reply := c.ask("stats" + kind + "\r\n"); !strings.HasSuffix(reply, "END\r\n") && reply != "OK\r\n" {
		return fmt.Errorf("stats%s: %.200q", kind, reply)
	}
	return nil
}

// dump reads a dump to its end, if the server grants one.
func (w *stress) dump(c *client, n int) error {
	kinds := []string{"metadump all", "metadump hash", "mgdump all", "mgdump hash", "metadump 1,2,3"}
	io.WriteString(c, "lru_crawler "+kinds[n%len(kinds)]+"\r\n")
	for {
		line := c.line()
		switch first, rest, _ := strings.Cut(strings.TrimSpace(line), " "); {
		case first == "OK", first == "mg", strings.HasPrefix(first, "key=") && strings.HasPrefix(rest, "exp="):
		case first == "END", first == "EN", first == "BUSY", first == "NOTSTARTED", strings.HasSuffix(first, "ERROR"):
			return nil
		default:
			return fmt.Errorf("%s: %q", kinds[n%len(kinds)], line)
		}
	}
}

// watch watches for a while.
func (w *stress) watch(_ *client, n int) error {
	nc, err := w.s.dial()
	if err != nil {
		return err
	}
	defer nc.Close()
	c := newClient(nc)
	kinds := []string{"fetchers", "mutations", "evictions connevents", "deletions sysevents", "fetchers mutations deletions"}
	if err := c.watch(kinds[n%len(kinds)]); err != nil {
		return err
	}
	for range n % 3 * 100 {
		nc.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		line, err := c.r.ReadString('\n')
		if err != nil {
			break // nothing to log
		}
		if !strings.HasPrefix(line, "ts=") && !strings.HasPrefix(line, "skipped=") {
			return fmt.Errorf("watch: %q", line)
		}
	}
	return nil
}

// run has all clients do their work, with restarts in between, and checks the
// result.
func (w *stress) run(t *testing.T, seed uint64) {
	c := w.s.client()
	c.want(t, "set sum 0 0 1\r\n0\r\nset count0 0 0 1\r\n0\r\nset count1 0 0 1\r\n0\r\nset list 0 0 0\r\n\r\n", strings.Repeat("STORED\r\n", 4))
	for i := 0; !w.roomy() && c.statN(w.lost) == 0; i++ { // fill up memory, or the file
		for j := range 100 {
			c.write(fmt.Sprintf("set pad%d-%d 0 0 10000 noreply\r\n", i, j) + stressFiller()[:10000] + "\r\n")
		}
	}
	c.Close()
	ops := stressOps * *long
	for id := range w.clients {
		w.ends[id] = make([]atomic.Uint64, ops*(1+w.restarts)+1)
		w.clients[id] = &stressClient{
			w:     w,
			id:    id,
			proto: []protocol{asciiProt, binaryProt, negotiatingProt}[id%3],
			rnd:   rand.New(rand.NewPCG(seed, uint64(id))),
			own:   make(map[string]*stressItem),
		}
	}
	w.work(t, ops)
	for range w.restarts {
		w.s.graceful()
		w.s = mc9(t, w.flags...)
		w.work(t, ops)
	}
	c = w.s.client()
	defer c.Close()

	t.Logf("%d seconds, evictions %d, slabs moved %d, hash power %d, crawls %d, wins %d, incr %d", c.statN("uptime"), c.statN("evictions"),
		c.statN("slabs_moved"), c.statN("hash_power_level"), c.statN("lru_crawler_starts"), w.wins.Load(), w.total.Load())
	if w.roomy() {
		w.checkTotals(t, &stressClient{client: c, w: w, proto: asciiProt})
		if n := c.statN("evictions"); n != 0 {
			t.Errorf("%d evictions", n)
		}
		eventually(t, "the hash table has grown", func() bool { return c.statN("hash_power_level") > 12 && c.statN("hash_is_expanding") == 0 })
	}
	w.checkQuiet(t, c)
}

// work has all clients do ops steps, with stats, dumps and watchers at the same
// time.
func (w *stress) work(t *testing.T, ops int) {
	var working, others sync.WaitGroup
	var done atomic.Bool
	for id, sc := range w.clients {
		sc.client = w.s.client()
		working.Add(1)
		go func() {
			defer working.Done()
			defer func() { sc.Close() }() // by then a reconnect may have replaced it
			err := sc.fill(150)
			for i := 0; i < ops && err == nil; i++ {
				err = sc.step()
			}
			for i := 0; i < stressOwn && err == nil; i++ {
				err = sc.getAndCheck([]string{fmt.Sprintf("own%d-%d", id, i)})
			}
			if err != nil {
				t.Errorf("client %d: %v", id, err)
			}
		}()
	}
	for _, other := range []func(*client, int) error{w.stats, w.dump, w.dump, w.watch} {
		c := w.s.client()
		others.Add(1)
		go func() {
			defer others.Done()
			defer c.Close()
			for n := 0; !done.Load(); n++ {
				if err := other(c, n); err != nil {
					t.Error(err)
					return
				}
			}
		}()
	}
	working.Wait()
	done.Store(true)
	others.Wait()
}

// checkTotals checks the totals of all clients.
func (w *stress) checkTotals(t *testing.T, c *stressClient) {
	values, err := c.get("sum", "count0", "count1", "list")
	if err != nil {
		t.Fatal(err)
	}
	number := func(key string) int {
		n, _ := strconv.Atoi(strings.TrimSpace(values[key].value))
		return n
	}
	if have, want := number("sum"), w.total.Load(); uint64(have) != want {
		t.Errorf("sum is %d, want %d", have, want)
	}
	if have, want := number("count0")+number("count1"), w.wins.Load(); int64(have) != want {
		t.Errorf("the counts add up to %d, want %d", have, want)
	}
	recs, err := stressRecords("list", values["list"].value)
	if err != nil {
		t.Fatal(err)
	}
	listed, err := checkList(recs)
	if err != nil {
		t.Error(err)
	}
	for id, n := range listed {
		if n != w.clients[id].list {
			t.Errorf("client %d has %d records on the list, want %d", id, n, w.clients[id].list)
		}
	}
}

// checkQuiet waits until all work is done, and checks that nothing is left.
func (w *stress) checkQuiet(t *testing.T, c *client) {
	c.ask("verbosity 0\r\nslabs automove 0\r\nlru mode segmented\r\nlru temp_ttl -1\r\nlru_crawler tocrawl 0\r\nlru_crawler enable\r\n")
	c.wantStat(t, "curr_connections", "1")
	c.wantStat(t, "log_watchers", "0")
	c.wantStat(t, "slab_reassign_running", "0")
	eventually(t, "no item is left", func() bool {
		c.ask("flush_all\r\nlru_crawler crawl all\r\n")
		return c.stat("", "curr_items") == "0"
	})
	c.wantNoneUsed(t)
}

// failWrites makes the server's writes behind the first 10 MB of each file fail
// every other second, until stop is called.
func failWrites(s *server) (stop func()) {
	done := make(chan struct{})
	limit := func(n uint64) {
		unix.Prlimit(s.cmd.Process.Pid, unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: n, Max: math.MaxUint64}, nil)
	}
	go func() {
		for fails := true; ; fails = !fails {
			if fails {
				limit(10 << 20)
			} else {
				limit(math.MaxUint64)
			}
			select {
			case <-done:
				limit(math.MaxUint64)
				return
			case <-time.After(time.Second):
			}
		}
	}()
	return func() { close(done) }
}

func TestStress(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, flags string
		lost        string // "" if memory is ample
		restarts    int
	}{
		{"roomy", "-m 200 -t 3 -o hashpower=12,slab_automove=1", "", 0},
		{"tight", "-m 14 -f 2 -t 3 -o hashpower=12,slab_automove=2,temporary_ttl=1,worker_logbuf_size=8", "evictions", 0},
		{"small", "-m 8 -t 3 -o hashpower=12,slab_automove=1", "evictions", 0},
		{"chunks", "-m 12 -f 2 -t 3 -o hashpower=12,slab_automove=1,slab_chunk_max=16,no_lru_maintainer", "evictions", 0},
		{"restarts", "-m 200 -t 3 -f 2 -o hashpower=12,slab_automove=1,worker_logbuf_size=8", "", 2},
		{"disk", "-m 20 -f 2 -t 3 -o hashpower=12,slab_automove=1,slab_chunk_max=64,ext_path={0}/ext:32m," +
			"ext_page_size=4,ext_wbuf_size=2,ext_item_age=0,ext_item_size=200,ext_recache_rate=5,ext_compact_under=3,ext_drop_under=2,ext_max_sleep=1000",
			"extstore_page_evictions", 0},
		{"tmpfs", "-m 20 -f 2 -t 3 -o hashpower=12,slab_automove=1,slab_chunk_max=64,ext_path={1}/ext:32m:old,ext_path={1}/ext2:32m:coldcompact,ext_path={1}/ext3:32m," +
			"ext_page_size=4,ext_wbuf_size=2,ext_item_size=200,ext_recache_rate=5,ext_threads=2,ext_low_ttl=5",
			"extstore_page_evictions", 0},
		{"failing", "-m 20 -f 2 -t 3 -o hashpower=12,slab_automove=1,slab_chunk_max=64,ext_path={0}/ext:32m,ext_path={0}/ext2:32m,ext_path={full}/ext3:32m," +
			"ext_page_size=4,ext_wbuf_size=2,ext_item_age=0,ext_item_size=200,ext_recache_rate=5,ext_compact_under=3,ext_drop_under=2,ext_max_sleep=1000",
			"extstore_write_errors", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dirs := extDirs(t)
			full := t.TempDir()
			if tt.name == "failing" {
				if err := unix.Mount("tmpfs", full, "tmpfs", 0, "size=6m"); err != nil {
					t.Log(err)
				} else {
					defer unix.Unmount(full, unix.MNT_DETACH)
				}
			}
			flags := strings.NewReplacer("{full}", full, "{0}", dirs[0], "{1}", dirs[len(dirs)-1]).Replace(tt.flags)
			w := &stress{flags: strings.Fields(flags), lost: tt.lost, restarts: tt.restarts}
			if w.restarts > 0 {
				w.flags = append(w.flags, "-e", filepath.Join(restartDir(t), "f"))
			}
			w.s = mc9(t, w.flags...)
			if tt.name == "failing" {
				defer failWrites(w.s)()
			}
			w.run(t, testSeed(t, 0))
			if c := w.s.client(); !w.roomy() && (c.statN(w.lost) == 0 || *long >= 10 && c.statN("slabs_moved") == 0) {
				t.Error("memory was not short, or the mover did not run")
			}
		})
	}
}

// A model of the cache: random commands in all protocols on several connections,
// and the replies they must get. They are played to the state machine, whose
// clock, pages and hash table move meanwhile, and to a server, if it knows
// debugtime. If the server is memcached, the test is of the model.
//
//	go test -tags debug -run TestModel -long 100
//	MEMCACHED=memcached/memcached-debug go test -run TestModel -long 100

package main

import (
	"cmp"
	"encoding/base64"
	"encoding/binary"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

var (
	long = flag.Int("long", 1, "repeat the random tests N times")
	seed = flag.Uint64("seed", 0, "seed of the random tests, 0 for a new one each time")
)

// testSeed returns the seed for round i of a random test, and logs it.
func testSeed(t *testing.T, i int) uint64 {
	t.Helper()
	s := *seed
	if s == 0 {
		s = rand.Uint64()
	}
	s += uint64(i)
	t.Logf("-seed %d", s)
	return s
}

const modelTurns = 3000

// Settings of the caches under test.
const (
	modelItemMax  = 64 << 10
	modelChunkMax = 16 << 10
)

// A modelItem is what the cache holds for a key. Times are Unix times.
type modelItem struct {
	value   string
	flags   uint32
	cas     uint64
	exptime uint32 // 0 for never
	time    uint32 // of the last access, as the LRU sees it
	fetched bool
	active  bool // fetched again
	stale   bool
	won     bool // some client was told to recache it
	binary  bool // the key came in base64
	filed   bool // the value is in extstore
}

type model struct {
	r         *rand.Rand
	items     map[string]*modelItem
	now       uint32
	flushAt   uint32       // when the flush that is due removes all items; 0 for none
	oldest    uint32       // memcached's flush_all removes items with this time or an earlier one
	unique    uint64       // the last one assigned
	segmented bool         // whether the LRU is segmented
	moving    bool         // items are moved, so their access times are unknown
	header    int          // size of an item's header; 48 for memcached
	held      []*modelItem // items that replies in flight reference
	sent      int          // how many of held belong to connections other than the current one
	log       []modelLine
}

// A modelLine is a request of one connection, and its reply.
type modelLine struct {
	keys, text string
}

func (m *model) note(keys, format string, args ...any) {
	text := strings.ReplaceAll(fmt.Sprintf(format, args...), modelKeys[len(modelKeys)-1], "kk")
	m.log = append(m.log, modelLine{keys, fmt.Sprintf("%d %.200s", m.now, text)})
}

// find returns the item of a key, unless it has expired or was flushed.
func (m *model) find(key string) *modelItem {
	it := m.items[key]
	if it != nil && (it.time <= m.oldest && m.oldest <= m.now || m.expired(it)) {
		delete(m.items, key)
		return nil
	}
	return it
}

func (m *model) expired(it *modelItem) bool {
	return it.exptime != 0 && it.exptime <= m.now
}

// made marks an item whose key was sent in base64. memcached marks only items
// that ms makes.
func (m *model) made(it *modelItem, binary bool) *modelItem {
	it.binary = binary && m.header == itemSize
	return it
}

// fetch is find for a command that counts as a use of the item.
func (m *model) fetch(key string) *modelItem {
	it := m.find(key)
	if it != nil {
		m.bump(it)
	}
	return it
}

func (m *model) bump(it *modelItem) {
	switch {
	case !m.segmented:
		m.update(it)
	case it.fetched && !it.active:
		it.active = true
		it.time = m.now
	}
	it.fetched = true
}

// update is an access that does not count as a fetch.
func (m *model) update(it *modelItem) {
	if m.segmented || it.time < m.now-itemUpdateInterval {
		it.time = m.now
	}
}

func (m *model) link(key string, it *modelItem, cas uint64) {
	it.time = m.now
	it.cas = cas
	m.items[key] = it
}

func (m *model) nextUnique() uint64 {
	m.unique++
	return m.unique
}

// expires converts exptime n, a number of seconds or a date, to a date.
func (m *model) expires(n int64) uint32 {
	switch {
	case n == 0:
		return 0
	case n < 0, n > math.MaxUint32-realtimeMaxdelta:
		return 1
	case n <= realtimeMaxdelta:
		return m.now + uint32(n)
	}
	return uint32(n)
}

// size returns the size that an item with a value of n bytes has in C.
func (m *model) size(key string, flags uint32, n int) int {
	size := 48 + 8 + len(key) + 1 + n + 2
	if flags != 0 {
		size += 4
	}
	return size
}

func (m *model) fits(key string, flags uint32, n int) bool {
	return m.size(key, flags, n) <= modelItemMax
}

func (m *model) chunked(key string, it *modelItem) bool {
	return m.size(key, it.flags, len(it.value)) > modelChunkMax
}

// A modelStore is a value to be stored.
type modelStore struct {
	key    string
	it     *modelItem
	comm   int
	cas    uint64 // the unique that the old item must have, if not 0
	stale  bool   // accept an older unique, and mark the item stale
	unique uint64 // the new item's
}

// pass lets n seconds pass.
func (m *model) pass(n uint32) {
	m.now += n
	if m.flushAt != 0 && m.flushAt <= m.now {
		m.flushAt = 0
		clear(m.items)
	}
}

// store does to the model what doStoreItem does to the cache.
func (m *model) store(s *modelStore) storeItemType {
	old := m.find(s.key)
	if old == nil {
		switch s.comm {
		case nreadCas:
			return notFound
		case nreadReplace, nreadAppend, nreadPrepend:
			return notStored
		}
		m.link(s.key, s.it, s.unique)
		return stored
	}
	switch s.comm {
	case nreadAdd:
		m.update(old)
		return notStored
	case nreadCas:
		switch {
		case s.cas != 0 && s.cas == old.cas:
		case s.cas != 0 && s.cas < old.cas && s.stale:
			s.it.exptime = old.exptime
			s.it.stale = true
			s.it.won = old.won
		default:
			return exists
		}
	case nreadAppend, nreadAppendviv, nreadPrepend, nreadPrependviv:
		if s.cas != 0 && s.cas != old.cas {
			return exists
		}
		if old.filed {
			return notStored
		}
		value := old.value + s.it.value
		if s.comm == nreadPrepend || s.comm == nreadPrependviv {
			value = s.it.value + old.value
		}
		if !m.fits(s.key, old.flags, len(value)) {
			return notStored
		}
		s.it = m.made(&modelItem{value: value, flags: old.flags, exptime: old.exptime}, old.binary)
	}
	m.link(s.key, s.it, s.unique)
	return stored
}

func (it *modelItem) number() (uint64, error) {
	word, _, _ := strings.Cut(strings.TrimLeft(it.value, " "), " ")
	return strconv.ParseUint(word, 10, 64)
}

// delta does arithmetic on the value of a key. It returns the item that the reply
// describes. With memcached that is the old item, even if the number did not fit
// there and a new item has replaced it.
func (m *model) delta(key string, incr bool, delta, cas uint64) (*modelItem, uint64, deltaResultType) {
	it := m.find(key)
	switch {
	case it == nil:
		return nil, 0, deltaItemNotFound
	case it.value == "" || m.chunked(key, it) || it.filed:
		return nil, 0, nonNumeric
	case cas != 0 && cas != it.cas:
		return nil, 0, deltaItemCasMismatch
	}
	n, err := it.number()
	if err != nil {
		return nil, 0, nonNumeric
	}
	if incr {
		n += delta
	} else {
		n -= min(n, delta)
	}
	num := strconv.FormatUint(n, 10)
	if len(num) <= len(it.value) && !slices.Contains(m.held, it) {
		it.value = num + strings.Repeat(" ", len(it.value)-len(num))
		it.cas = m.nextUnique()
		m.update(it)
		return it, n, deltaOk
	}
	newIt := m.made(&modelItem{value: num, flags: it.flags, exptime: it.exptime}, it.binary)
	m.link(key, newIt, m.nextUnique())
	if m.header == itemSize {
		return newIt, n, deltaOk
	}
	it.cas = m.unique
	return it, n, deltaOk
}

// flush is flush_all.
func (m *model) flush(delay int64) {
	if m.header == itemSize {
		m.flushAt = 0
		if at := m.expires(delay); at > m.now {
			m.flushAt = at
		} else {
			clear(m.items)
		}
		return
	}
	// All keys were looked up just before, so no items remain that an earlier
	// flush has flushed but this one would not.
	m.oldest = m.now - 1
	if delay > 0 {
		m.oldest = m.expires(delay) - 1
	}
	for key, it := range m.items {
		if it.time >= m.oldest {
			delete(m.items, key)
		}
	}
}

// A modelCommand is a request. Only a storage command has a body, its value.
type modelCommand struct {
	keys       string
	packet     string // a packet in text form, for the log
	head, body string
	reads      bool          // its reply may be delayed
	begin      func()        // called when the head has arrived; may be nil
	do         func() string // called when all has arrived; returns the reply
}

var modelKeys = []string{"a", "b", "c", "d", "number", strings.Repeat("k", 250)}

func (m *model) key() string { return modelKeys[m.r.IntN(len(modelKeys))] }

func (m *model) oneIn(n int) bool { return m.r.IntN(n) == 0 }

func (m *model) pick(list string) string {
	words := strings.Fields(list)
	return words[m.r.IntN(len(words))]
}

func (m *model) value() string {
	r := m.r
	switch r.IntN(20) {
	case 0:
		return fmt.Sprintf("%*d", -r.IntN(modelChunkMax), r.IntN(1000)) // padded with blanks
	case 1:
		return "18446744073709551615"
	case 2:
		return fmt.Sprintf("%025d", r.IntN(100))
	case 3:
		return fmt.Sprintf(" %d ", r.IntN(100))
	case 4:
		return pattern(r.IntN(4000), r.IntN(26))
	case 5:
		return pattern(r.IntN(40<<10), r.IntN(26))
	case 6:
		// Sizes around the limits, since keys differ in length.
		return pattern([]int{2048, modelChunkMax - 48, modelItemMax - 48}[r.IntN(3)]-r.IntN(300), r.IntN(26))
	case 7:
		return ""
	case 8, 9, 10, 11:
		return pattern(r.IntN(50), r.IntN(26))
	}
	return strconv.Itoa(r.IntN(1 << r.IntN(20)))
}

// castExptime is exptime, but some negative times have been cast to 32 bits.
func (m *model) castExptime() int64 {
	n := m.exptime()
	if n < 0 && m.header == itemSize && m.oneIn(2) {
		n = math.MaxUint32 - m.r.Int64N(realtimeMaxdelta)
	}
	return n
}

// exptime returns a relative time, a date, or a time in the past.
func (m *model) exptime() int64 {
	switch n := m.r.IntN(20); n {
	case 0:
		return -1
	case 1:
		return int64(m.now) - 3
	case 2, 3:
		return int64(m.now) + 1 + m.r.Int64N(5)
	case 4, 5, 6, 7:
		return 1 + m.r.Int64N(8)
	case 8:
		return 200
	}
	return 0
}

func (m *model) flags() uint32 {
	if m.oneIn(2) {
		return 0
	}
	return m.r.Uint32()
}

func (m *model) number() uint64 {
	if m.oneIn(10) {
		return ^uint64(0)
	}
	return m.r.Uint64N(1 << m.r.IntN(20))
}

// cas returns a unique for a command: usually the key's own, else one close to
// it.
func (m *model) cas(key string) uint64 {
	if it := m.items[key]; it != nil && !m.oneIn(4) {
		return it.cas + []uint64{0, 0, 0, 1, ^uint64(0)}[m.r.IntN(5)]
	}
	return m.r.Uint64N(3)
}

// storage makes c a command that stores s and replies with answer(result).
// exptime is the command's. For a meta command, casIn draws the item's unique;
// memcached draws it before the value has arrived.
func (m *model) storage(c *modelCommand, s *modelStore, exptime int64, casIn func() uint64, answer func(storeItemType) string) {
	forget := s.comm == nreadSet || casIn != nil // if the new value is too large, the old one is removed
	fits := true
	c.begin = func() {
		s.it.exptime = m.expires(exptime)
		if fits = m.fits(s.key, s.it.flags, len(s.it.value)); fits && casIn != nil && m.header != itemSize {
			s.unique = casIn()
		} else if !fits && forget {
			delete(m.items, s.key)
		}
	}
	c.do = func() string {
		if !fits {
			return answer(tooLarge)
		}
		switch {
		case casIn == nil:
			s.unique = m.nextUnique()
		case m.header == itemSize:
			s.unique = casIn()
		}
		return answer(m.store(s))
	}
}

// text returns a text command that is not a meta command.
func (m *model) text() modelCommand {
	key, exptime := m.key(), m.castExptime()
	c := modelCommand{keys: key}
	switch op := m.r.IntN(20); {
	case op < 6:
		return m.textGet()
	case op < 14:
		return m.textStore()
	case op < 17:
		name, delta := m.pick("incr decr"), m.number()
		c.head = fmt.Sprintf("%s %s %d", name, key, delta)
		c.do = func() string {
			_, n, res := m.delta(key, name == "incr", delta, 0)
			switch res {
			case deltaItemNotFound:
				return "NOT_FOUND\r\n"
			case nonNumeric:
				return modelNonNumeric
			}
			return fmt.Sprintf("%d\r\n", n)
		}
	case op < 18:
		c.head = fmt.Sprintf("touch %s %d", key, exptime)
		c.do = func() string {
			it := m.fetch(key)
			if it == nil {
				return "NOT_FOUND\r\n"
			}
			it.exptime = m.expires(exptime)
			return "TOUCHED\r\n"
		}
	default:
		c.head = "delete " + key
		c.do = func() string {
			if m.find(key) == nil {
				return "NOT_FOUND\r\n"
			}
			delete(m.items, key)
			return "DELETED\r\n"
		}
	}
	m.noreply(&c)
	return c
}

const modelNonNumeric = "CLIENT_ERROR cannot increment or decrement non-numeric value\r\n"

// noreply ends the line of c, sometimes with noreply.
func (m *model) noreply(c *modelCommand) {
	if m.oneIn(6) {
		do := c.do
		c.do = func() string {
			do()
			return ""
		}
		c.head += " noreply"
	}
	c.head += "\r\n"
}

// textGet returns a get, gets, gat or gats.
func (m *model) textGet() modelCommand {
	keys := []string{m.key()}
	for m.oneIn(3) {
		keys = append(keys, m.key())
	}
	name, exptime := m.pick("get gets gat gats"), m.castExptime()
	touch, s := name[1] == 'a', len(name) == 4
	c := modelCommand{keys: strings.Join(keys, " "), head: name, reads: true}
	if touch {
		c.head += fmt.Sprint(" ", exptime)
	}
	c.head += " " + c.keys + "\r\n"
	c.do = func() string {
		reply := ""
		for _, key := range keys {
			it := m.fetch(key)
			if it == nil {
				continue
			}
			if touch {
				it.exptime = m.expires(exptime)
			}
			reply += fmt.Sprintf("VALUE %s %d %d", key, it.flags, len(it.value))
			if s {
				reply += fmt.Sprint(" ", it.cas)
			}
			reply += "\r\n" + it.value + "\r\n"
			m.hold(key, it)
		}
		return reply + "END\r\n"
	}
	return c
}

// hold records that the reply references the item, if its value is not copied.
func (m *model) hold(key string, it *modelItem) {
	if len(it.value)+2 > respCopyMax || m.chunked(key, it) {
		m.held = append(m.held, it)
	}
}

// leave records that the pending replies are sent.
func (m *model) leave() { m.held = m.held[:m.sent] }

const modelTooLarge = "SERVER_ERROR object too large for cache\r\n"

func (m *model) textStore() modelCommand {
	names := map[int]string{nreadSet: "set", nreadAdd: "add", nreadReplace: "replace", nreadAppend: "append", nreadPrepend: "prepend", nreadCas: "cas"}
	s := &modelStore{key: m.key(), it: &modelItem{value: m.value(), flags: m.flags()}, comm: nreadAdd + m.r.IntN(len(names))}
	if m.oneIn(3) {
		s.comm = nreadSet
	}
	exptime := m.castExptime()
	c := modelCommand{keys: s.key, body: s.it.value + "\r\n"}
	c.head = fmt.Sprintf("%s %s %d %d %d", names[s.comm], s.key, s.it.flags, exptime, len(s.it.value))
	if s.comm == nreadCas {
		s.cas = m.cas(s.key)
		c.head += fmt.Sprint(" ", s.cas)
	}
	m.storage(&c, s, exptime, nil, func(res storeItemType) string {
		return map[storeItemType]string{stored: "STORED\r\n", notStored: "NOT_STORED\r\n", exists: "EXISTS\r\n",
			notFound: "NOT_FOUND\r\n", tooLarge: modelTooLarge}[res]
	})
	if len(s.it.value) < 100 && m.oneIn(20) {
		c.body = s.it.value + ".."
		c.do = func() string { return "CLIENT_ERROR bad data chunk\r\n" }
	}
	m.noreply(&c)
	return c
}

// modelFlags are the flags of a meta command.
type modelFlags []string

func (f modelFlags) has(flag byte) bool {
	return slices.ContainsFunc(f, func(tok string) bool { return tok[0] == flag })
}

// num returns the number after a flag, or 0.
func (f modelFlags) num(flag byte) (n int64) {
	for _, tok := range f {
		if tok[0] == flag {
			n, _ = strconv.ParseInt(tok[1:], 10, 64)
		}
	}
	return n
}

// metaFlags returns some of the flags in letters, in random order.
func (m *model) metaFlags(key, letters string) (f modelFlags) {
	for _, i := range m.r.Perm(len(letters)) {
		if m.oneIn(3) {
			continue
		}
		tok := letters[i : i+1]
		switch tok {
		case "O":
			tok += strconv.Itoa(m.r.IntN(1e9))
		case "T", "N":
			tok += fmt.Sprint(max(m.exptime(), 0))
		case "R":
			tok += strconv.Itoa(m.r.IntN(20))
		case "F":
			tok += fmt.Sprint(m.flags())
		case "C":
			tok += fmt.Sprint(m.cas(key))
		case "E":
			tok += strconv.Itoa(1 + m.r.IntN(1e6))
		case "D", "J":
			tok += fmt.Sprint(m.number() >> 1)
		}
		f = append(f, tok)
	}
	return f
}

// meta returns a meta command.
func (m *model) meta() modelCommand {
	key := m.key()
	word := key
	name := m.pick("mg mg mg ms ms ms md ma ma me mn")
	letters := map[string]string{"mg": "vstcfkhOqu", "ms": "kcsOqTF", "md": "kOq", "ma": "vtckOq"}[name]
	// These change a lot, so use them less often.
	for _, f := range map[string]string{"mg": "TNREC", "ms": "ICEN", "md": "ICExTF", "ma": "NJDTCE"}[name] {
		if m.oneIn(4) {
			letters += string(f)
		}
	}
	switch {
	case m.moving && name == "me":
		name = "mn"
	case !m.moving && name == "mg":
		letters += "l"
	}
	f := m.metaFlags(key, letters)
	if letters != "" && len(key) < keyMaxLength/2 && m.oneIn(4) {
		word = base64.StdEncoding.EncodeToString([]byte(key))
		f = append(f, "b")
	}
	c := modelCommand{keys: key}
	switch name {
	case "mg":
		c.reads = true
		c.do = func() string { return m.mg(key, f) }
	case "ms":
		return m.ms(key, word, f)
	case "md":
		c.do = func() string { return m.md(key, f) }
	case "ma":
		mode := m.pick("I + D -")
		f = append(f, "M"+mode)
		c.do = func() string { return m.ma(key, mode == "I" || mode == "+", f) }
	case "me":
		c.do = func() string { return m.me(key) }
	case "mn":
		c.head = "mn\r\n"
		c.do = func() string {
			m.leave()
			return "MN\r\n"
		}
		return c
	}
	c.head = strings.Join(append([]string{name, word}, f...), " ") + "\r\n"
	return c
}

// casIn returns the unique that a meta command gives an item.
func (m *model) casIn(f modelFlags) uint64 {
	if f.has('E') {
		return uint64(f.num('E'))
	}
	return m.nextUnique()
}

// tell applies to the item those flags that are in letters, and returns what they
// ask for. recache means that the client is told to recache the item.
func (m *model) tell(f modelFlags, letters, key string, binary bool, it *modelItem, created bool) (reply string, recache bool) {
	for _, tok := range f {
		if !strings.Contains(letters, tok[:1]) {
			continue
		}
		switch tok[0] {
		case 'T':
			it.exptime = m.expires(f.num('T'))
			if f.has('E') && strings.Contains(letters, "R") && m.header == itemSize { // mg
				it.cas = uint64(f.num('E'))
			}
		case 'N':
			if created {
				it.exptime = m.expires(f.num('N'))
				recache = true
			}
		case 'R':
			if !it.won && !created && it.exptime != 0 && it.exptime < m.expires(f.num('R')) {
				recache = true
			}
		case 's':
			reply += fmt.Sprint(" s", len(it.value))
		case 't':
			if it.exptime == 0 {
				reply += " t-1"
			} else {
				reply += fmt.Sprint(" t", it.exptime-m.now)
			}
		case 'c':
			reply += fmt.Sprint(" c", it.cas)
		case 'f':
			reply += fmt.Sprint(" f", it.flags)
		case 'l':
			reply += fmt.Sprint(" l", m.now-it.time)
		case 'h':
			reply += map[bool]string{true: " h1", false: " h0"}[it.fetched]
		case 'O':
			reply += " " + tok
		case 'k':
			reply += " k" + modelKey(key, binary)
			if binary {
				reply += " b"
			}
		}
	}
	return reply, recache
}

func modelKey(key string, binary bool) string {
	if binary {
		return base64.StdEncoding.EncodeToString([]byte(key))
	}
	return key
}

// noItem returns the reply if there is no item.
func (m *model) noItem(code string, f modelFlags, key string) string {
	reply, _ := m.tell(f, "Ok", key, f.has('b'), nil, false)
	return code + reply + "\r\n"
}

func (m *model) mg(key string, f modelFlags) string {
	it := m.find(key)
	created := it == nil && f.has('N')
	if created {
		it = m.made(new(modelItem), f.has('b'))
		m.link(key, it, m.casIn(f))
	}
	switch {
	case it == nil && f.has('q'):
		return ""
	case it == nil:
		return m.noItem("EN", f, key)
	}
	value := f.has('v') && !(f.has('C') && it.cas == uint64(f.num('C')))
	reply := "HD"
	if value {
		reply = fmt.Sprint("VA ", len(it.value))
	}
	told, recache := m.tell(f, "TNRstcflhOk", key, it.binary, it, created)
	reply += told
	if it.won {
		reply += " Z"
	}
	if it.stale {
		reply += " X"
		recache = recache || !it.won
	}
	if recache {
		reply += " W"
		it.won = true
	}
	if !f.has('u') {
		m.bump(it)
	}
	reply += "\r\n"
	if value {
		reply += it.value + "\r\n"
		m.hold(key, it)
	}
	return reply
}

func (m *model) ms(key, word string, f modelFlags) modelCommand {
	s := &modelStore{key: key, it: &modelItem{value: m.value(), flags: uint32(f.num('F')), binary: f.has('b')}, stale: f.has('I')}
	exptime := f.num('T')
	mode := m.pick("S S S S S E A P R")
	switch viv := f.has('N'); {
	case mode == "S":
		s.comm = nreadSet
	case mode == "E":
		s.comm = nreadAdd
	case mode == "R":
		s.comm = nreadReplace
	case viv:
		s.comm = map[string]int{"A": nreadAppendviv, "P": nreadPrependviv}[mode]
		exptime = f.num('N')
	default:
		s.comm = map[string]int{"A": nreadAppend, "P": nreadPrepend}[mode]
	}
	if f.has('C') {
		s.cas = uint64(f.num('C'))
		if mode == "S" || mode == "R" {
			s.comm = nreadCas
		}
	}
	c := modelCommand{keys: key, body: s.it.value + "\r\n"}
	c.head = strings.Join(append([]string{"ms", word, strconv.Itoa(len(s.it.value)), "M" + mode}, f...), " ") + "\r\n"
	m.storage(&c, s, exptime, func() uint64 { return m.casIn(f) }, func(res storeItemType) string {
		switch {
		case res == tooLarge:
			return modelTooLarge
		case res == stored && f.has('q'):
			return ""
		}
		code := map[storeItemType]string{stored: "HD", exists: "EX", notFound: "NF", notStored: "NS"}[res]
		told, _ := m.tell(f, "Okcs", key, f.has('b'), s.it, false)
		return code + told + "\r\n"
	})
	return c
}

func (m *model) md(key string, f modelFlags) string {
	it := m.find(key)
	switch {
	case it == nil:
		return m.noItem("NF", f, key)
	case f.has('C') && it.cas != uint64(f.num('C')):
		return m.noItem("EX", f, key)
	}
	if f.has('x') {
		cas := it.cas
		if f.has('E') {
			cas = uint64(f.num('E'))
		}
		it = m.made(&modelItem{flags: uint32(f.num('F')), exptime: m.expires(f.num('T'))}, it.binary)
		m.link(key, it, cas)
	}
	switch {
	case f.has('I'):
		m.tell(f, "T", key, false, it, false)
		it.stale = true
		it.won = false
		it.cas = m.casIn(f)
	case !f.has('x'):
		delete(m.items, key)
	}
	if f.has('q') {
		return ""
	}
	return m.noItem("HD", f, key)
}

func (m *model) ma(key string, incr bool, f modelFlags) string {
	delta := uint64(1)
	if f.has('D') {
		delta = uint64(f.num('D'))
	}
	it, n, res := m.delta(key, incr, delta, uint64(f.num('C')))
	switch {
	case res == nonNumeric:
		return modelNonNumeric
	case res == deltaItemCasMismatch:
		return m.noItem("EX", f, key)
	case res == deltaItemNotFound && !f.has('N'):
		return m.noItem("NF", f, key)
	case res == deltaItemNotFound:
		n = uint64(f.num('J'))
		it = m.made(&modelItem{value: strconv.FormatUint(n, 10)}, f.has('b'))
		m.link(key, it, m.casIn(f))
	case f.has('E'):
		it.cas = uint64(f.num('E'))
	}
	reply, _ := m.tell(f, "ctTNOk", key, f.has('b'), it, res == deltaItemNotFound)
	switch {
	case f.has('q'):
		return ""
	case f.has('v'):
		num := strconv.FormatUint(n, 10)
		return fmt.Sprintf("VA %d%s\r\n%s\r\n", len(num), reply, num)
	}
	return "HD" + reply + "\r\n"
}

func (m *model) me(key string) string {
	it := m.find(key)
	if it == nil {
		return "EN\r\n"
	}
	exp := int64(-1)
	if it.exptime != 0 {
		exp = int64(it.exptime) - int64(m.now)
	}
	return fmt.Sprintf("ME %s exp=%d la=%d cas=%d fetch=%s cls= size=%d\r\n", modelKey(key, it.binary), exp, m.now-it.time, it.cas,
		map[bool]string{true: "yes", false: "no"}[it.fetched], m.size(key, it.flags, len(it.value))-48+m.header)
}

// modelClass matches the one field that the model does not predict.
var modelClass = regexp.MustCompile(` cls=[0-9]+`)

// A modelPacket is a binary command, as a line for parsePacket. Its methods return
// replies in the form of packet.String.
type modelPacket struct {
	name, line string
	opaque     int
	quiet      bool
}

func (p *modelPacket) add(format string, args ...any) { p.line += fmt.Sprintf(format, args...) }

// done returns the reply on success.
func (p *modelPacket) done(format string, args ...any) string {
	if p.quiet {
		return ""
	}
	return fmt.Sprintf("R%s opaque=%d%s\r\n", p.name, p.opaque, fmt.Sprintf(format, args...))
}

func (p *modelPacket) failed(status protocolBinaryResponseStatus, rest string) string {
	return fmt.Sprintf("R%s status=%#02x opaque=%d%s\r\n", p.name, uint16(status), p.opaque, rest)
}

func (p *modelPacket) failedText(status protocolBinaryResponseStatus) string {
	return p.failed(status, " value="+binErrorTexts[status])
}

// binary returns a command of the binary protocol.
func (m *model) binary() modelCommand {
	name := m.pick("Get Getk Gat Gatk Touch Set Set Set Set Add Replace Append Prepend Delete Increment Decrement Noop")
	p := &modelPacket{name: name, opaque: 1 + m.r.IntN(1e6), quiet: name != "Touch" && name != "Noop" && m.oneIn(4)}
	if p.quiet {
		p.name += "q"
	}
	p.line = fmt.Sprintf("T%s opaque=%d", p.name, p.opaque)
	key, exptime, cas := m.key(), max(m.castExptime(), 0), uint64(0)
	if m.oneIn(2) {
		cas = m.cas(key)
	}
	c := modelCommand{keys: key}
	if name != "Noop" {
		p.add(" key=%s", key)
	}
	switch name {
	case "Noop":
		c.do = func() string {
			m.leave()
			return p.done("")
		}
	case "Get", "Getk", "Gat", "Gatk", "Touch":
		m.binaryGet(&c, p, key, exptime)
	case "Delete":
		p.add(" cas=%d", cas)
		c.do = func() string {
			it := m.find(key)
			switch {
			case it == nil:
				return p.failedText(protocolBinaryResponseKeyEnoent)
			case cas != 0 && cas != it.cas:
				return p.failedText(protocolBinaryResponseKeyEexists)
			}
			delete(m.items, key)
			return p.done("")
		}
	case "Increment", "Decrement":
		delta, initial := m.number(), m.number()
		if m.oneIn(2) {
			exptime = binIncrDontCreate
		}
		p.add(" cas=%d delta=%d initial=%d exptime=%d", cas, delta, initial, exptime)
		c.do = func() string {
			it, n, res := m.delta(key, name == "Increment", delta, cas)
			switch {
			case res == nonNumeric:
				return p.failedText(protocolBinaryResponseDeltaBadval)
			case res == deltaItemCasMismatch:
				return p.failedText(protocolBinaryResponseKeyEexists)
			case res == deltaItemNotFound && exptime == binIncrDontCreate:
				return p.failedText(protocolBinaryResponseKeyEnoent)
			case res == deltaItemNotFound:
				n = initial
				it = &modelItem{value: strconv.FormatUint(n, 10), exptime: m.expires(exptime)}
				m.link(key, it, m.nextUnique())
			}
			return p.done(" cas=%d value=%d", it.cas, n)
		}
	default:
		m.binaryStore(&c, p, name, exptime, &modelStore{key: key, it: &modelItem{value: m.value()}, cas: cas})
	}
	do := c.do
	c.packet, c.head, c.do = p.line, packetOf("%s", p.line), func() string {
		reply := do()
		if strings.Contains(reply, " status=") && strings.Contains(reply, " value=") {
			m.leave() // errors are sent at once
		}
		return reply
	}
	return c
}

func (m *model) binaryGet(c *modelCommand, p *modelPacket, key string, exptime int64) {
	withKey := ""
	if strings.Contains(p.name, "k") {
		withKey = " key=" + key
	}
	touch := !strings.HasPrefix(p.name, "Get")
	if touch {
		p.add(" exptime=%d", exptime)
	}
	c.reads = p.quiet || withKey != "" // otherwise a miss is an error, which is sent at once
	c.do = func() string {
		it := m.fetch(key)
		switch {
		case it == nil && p.quiet:
			return ""
		case it == nil && withKey != "":
			return p.failed(protocolBinaryResponseKeyEnoent, withKey)
		case it == nil:
			return p.failedText(protocolBinaryResponseKeyEnoent)
		}
		if touch {
			it.exptime = m.expires(exptime)
		}
		value := ""
		if it.value != "" && p.name != "Touch" {
			value = " value=" + it.value
			m.hold(key, it)
		}
		hit := *p
		hit.quiet = false
		return hit.done(" cas=%d flags=%d%s%s", it.cas, it.flags, withKey, value)
	}
}

func (m *model) binaryStore(c *modelCommand, p *modelPacket, name string, exptime int64, s *modelStore) {
	s.comm = map[string]int{"Set": nreadSet, "Add": nreadAdd, "Replace": nreadReplace, "Append": nreadAppend, "Prepend": nreadPrepend}[name]
	bodylen := len(s.key) + len(s.it.value)
	if s.comm == nreadAppend || s.comm == nreadPrepend {
		exptime = 0
	} else {
		s.it.flags = m.flags()
		bodylen += 8
		p.add(" flags=%d exptime=%d", s.it.flags, exptime)
	}
	p.add(" cas=%d bodylen=%d", s.cas, bodylen)
	c.body = s.it.value
	m.storage(c, s, exptime, nil, func(res storeItemType) string {
		switch {
		case res == tooLarge:
			return p.failedText(protocolBinaryResponseE2big)
		case res == stored:
			return p.done(" cas=%d", s.unique)
		case res == exists, res == notStored && name == "Add":
			return p.failedText(protocolBinaryResponseKeyEexists)
		case res == notFound, res == notStored && name == "Replace":
			return p.failedText(protocolBinaryResponseKeyEnoent)
		}
		return p.failedText(protocolBinaryResponseNotStored)
	})
	if s.cas != 0 && s.comm != nreadAppend && s.comm != nreadPrepend {
		s.comm = nreadCas
	}
}

// A modelConn is a connection to the cache. ask sends bytes, which may end in the
// middle of a command, and returns the replies so far; without drain it leaves
// them unread, so that the server must wait.
type modelConn struct {
	binary bool
	ask    func(in string, drain bool) string
}

// play sends commands and compares the replies. It calls meanwhile, unless nil,
// when it has sent a part, or before it reads the replies.
func (m *model) play(t *testing.T, c *modelConn, batch []modelCommand, meanwhile func()) {
	t.Helper()
	var in, have, want string
	reads := true
	for _, cmd := range batch {
		in += cmd.head + cmd.body
		reads = reads && cmd.reads
	}
	held := len(m.held)
	part := func(from, to int, drain bool) {
		have += c.ask(in[from:to], drain)
		m.sent = held
		at := 0
		for _, cmd := range batch {
			at += len(cmd.head)
			if from < at && at <= to && cmd.begin != nil {
				cmd.begin()
			}
			at += len(cmd.body)
			if from < at && at <= to {
				reply := cmd.do()
				want += reply
				m.note(cmd.keys, "%.400q %.400q", cmp.Or(cmd.packet, cmd.head)+" "+cmd.body, reply)
			}
		}
	}
	cut := 0
	switch {
	case meanwhile == nil:
		part(0, len(in), true)
	case reads:
		part(0, len(in), false)
		// A number must not change now if its reply may have been sent already
		// (unless it is long), or if it may be moved, which copies it.
		if !slices.ContainsFunc(m.held[held:], func(it *modelItem) bool {
			_, err := it.number()
			return err == nil && (m.moving || len(it.value) < 2*modelSndbuf)
		}) {
			meanwhile()
		}
		have += c.ask("", true)
	default:
		cut = m.r.IntN(len(in))
		part(0, cut, true)
		m.held = m.held[:held]
		meanwhile()
		part(cut, len(in), true)
	}
	m.held = m.held[:held]
	if c.binary {
		have = packetText(have)
	}
	if have = modelClass.ReplaceAllString(have, " cls="); have == want {
		return
	}
	for _, cmd := range batch {
		for _, key := range strings.Fields(cmd.keys) {
			t.Logf("%.20s:", key)
			lines := slices.DeleteFunc(slices.Clone(m.log), func(l modelLine) bool {
				return l.keys != "" && !slices.Contains(strings.Fields(l.keys), key)
			})
			for _, l := range lines[max(len(lines)-20, 0):] {
				t.Log(l.text)
			}
		}
	}
	at := 0
	for at < min(len(have), len(want)) && have[at] == want[at] {
		at++
	}
	at = max(at-100, 0)
	t.Fatalf("%d bytes, sent in two parts if %d is not 0; replies from byte %d on:\nhave %.300q\nwant %.300q", len(in), cut, at, have[at:], want[at:])
}

// A modelClock acts on the cache from outside.
type modelClock struct {
	tick    func(n uint32) // lets n seconds pass
	move    func()         // moves items in the cache; may be nil
	restart func()         // has a new process take over the cache; may be nil
}

// turn has one of conns do something. With parts, others may have a turn while it
// has sent only part of its commands.
func (m *model) turn(t *testing.T, conns []*modelConn, clock modelClock, parts bool) {
	t.Helper()
	r := m.r
	tick := func(n int) {
		clock.tick(uint32(n))
		m.pass(uint32(n))
		m.note("", "%d seconds", n)
	}
	switch op := r.IntN(100); {
	case op < 6:
		tick(1 + r.IntN(3))
		return
	case op < 7:
		tick(r.IntN(100))
		return
	case op < 9:
		m.playFlush(t, conns)
		return
	case op < 20 && clock.move != nil:
		clock.move()
		return
	}
	i := r.IntN(len(conns))
	c := conns[i]
	var batch []modelCommand
	size := 0 // commands that arrive in one read are served before a reply is sent
	for len(batch) == 0 || parts && size < readBufferSize/2 && m.oneIn(2) {
		switch {
		case c.binary:
			batch = append(batch, m.binary())
		case m.oneIn(2):
			batch = append(batch, m.text())
		default:
			batch = append(batch, m.meta())
		}
		size += len(batch[len(batch)-1].head) + len(batch[len(batch)-1].body)
	}
	if others := slices.Delete(slices.Clone(conns), i, i+1); parts && len(others) > 0 && m.oneIn(3) {
		m.play(t, c, batch, func() {
			for range r.IntN(4) {
				m.turn(t, others, clock, parts)
			}
			if clock.move != nil {
				clock.move()
			}
		})
		return
	}
	m.play(t, c, batch, nil)
}

func (m *model) playFlush(t *testing.T, conns []*modelConn) {
	t.Helper()
	for _, c := range conns {
		if !c.binary {
			var look []modelCommand
			for _, key := range modelKeys {
				look = append(look, modelCommand{keys: key, head: "mg " + key + " u\r\n", do: func() string { return m.mg(key, modelFlags{"u"}) }})
			}
			if m.header != itemSize {
				m.play(t, c, look, nil)
			}
			c = conns[m.r.IntN(len(conns))]
			delay := m.r.Int64N(6)
			if m.oneIn(4) {
				delay += int64(m.now) + 1
			} else if m.oneIn(2) {
				delay = 0
			}
			cmd := modelCommand{head: fmt.Sprintf("flush_all %d\r\n", delay)}
			reply := "OK\r\n"
			if c.binary {
				cmd.head = packetOf("TFlush exptime=%d", delay)
				reply = "RFlush\r\n"
			}
			cmd.do = func() string {
				m.flush(delay)
				return reply
			}
			m.play(t, c, []modelCommand{cmd}, nil)
			return
		}
	}
}

// modelSndbuf is roughly how much a socket takes at once when the server is to be
// made to wait.
const modelSndbuf = 5000

// modelPump sends in to c and, if drain is set, returns the replies.
func modelPump(c *conn, client int, in []byte, drain bool) (out []byte) {
	buf := make([]byte, 64<<10)
	for {
		if len(in) > 0 {
			if n, e := rawWrite(client, in); e == 0 {
				in = in[n:]
			}
		}
		events, _ := pollWait(&c.thread.poll, 0)
		if len(events) > 0 {
			drive(c)
		}
		n, e := 0, unix.EAGAIN
		if drain {
			n, e = rawRead(client, buf)
		}
		switch {
		case e == 0 && n > 0:
			out = append(out, buf[:n]...)
		case e == 0:
			return append(out, closed...)
		case len(in) == 0 && len(events) == 0:
			return out
		}
	}
}

// packetText formats packets, one per line, unless they are formatted already.
func packetText(b string) (text string) {
	for len(b) >= binHeaderSize && b[0] == protocolBinaryRes {
		var p packet
		copy(p.hdr[:], b)
		n := min(binHeaderSize+int(binary.BigEndian.Uint32(p.hdr[8:])), len(b))
		p.body = []byte(b[binHeaderSize:n])
		text += p.String() + "\r\n"
		b = b[n:]
	}
	return text + b
}

// modelMove moves items, as the page mover and hash table growth do.
func modelMove(m *model) {
	r := &slabRebal.rebal
	switch {
	case m.oneIn(20) && !expanding && hashpower < 16:
		assocExpand(assocNewTable())
	case m.oneIn(2) && r.sClsid == r.dClsid:
		var used []int
		for id := range slabclass {
			if p := &slabclass[id]; pages(id)*p.perslab > p.slCurr {
				used = append(used, id)
			}
		}
		if len(used) == 0 {
			break
		}
		id := used[m.r.IntN(len(used))]
		if pages(id) == 1 {
			slabsMlock()
			doSlabsNewslab(id, 0)
			slabsMunlock()
		}
		doSlabsReassign(id, slabGlobalPagePool, 0)
	}
	for range m.r.IntN(3000) {
		if expanding {
			assocMoveBucket()
		}
		if r.sClsid != r.dClsid {
			slabRebalanceStep()
			r.waited = 0 // an impatient mover deletes items
		}
	}
}

// modelWrite writes items to extstore, and compacts a page, as the threads of
// storage.go do.
func modelWrite(m *model) {
	for _, key := range modelKeys {
		if m.items[key] == nil || !m.oneIn(3) {
			continue
		}
		hv := hash([]byte(key))
		itemLock(hv)
		it := assocFind([]byte(key), hv)
		if it != nil && it.itFlags&itemHdr == 0 && int(it.clsid()) >= storageMinClass() && !itemIsFlushed(it) &&
			!itemIsExpired(it, currentTime.Load()) {
			it.refcount++
			if storageWriteItem(it, hv) {
				m.items[key].filed = true
				m.items[key].active = false
			}
			doItemRemove(it)
		}
		itemUnlock(hv)
	}
	if m.oneIn(10) {
		extCompact(m.r.IntN(len(extStorage.pages)))
	}
}

func TestModel(t *testing.T) {
	settingsInit()
	for _, tt := range []struct {
		name                                  string
		segmented, moving, restarts, extstore bool
	}{
		{"flat", false, false, false, false},
		{"segmented", true, false, false, false},
		{"moving", true, true, false, false},
		{"restarts", true, true, true, false},
		{"extstore", true, true, false, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var conns []*modelConn
			for i := range 4 {
				c, client := benchConn(t)
				unix.SetNonblock(client, true)
				conns = append(conns, &modelConn{i == 0, func(in string, drain bool) string {
					size := 4 << 20
					if !drain {
						size = modelSndbuf / 2 // the kernel doubles it
					}
					unix.SetsockoptInt(c.sfd, unix.SOL_SOCKET, unix.SO_SNDBUF, size)
					return string(modelPump(c, client, []byte(in), drain))
				}})
			}
			for i := range *long {
				m := &model{r: rand.New(rand.NewPCG(testSeed(t, i), 0)), segmented: tt.segmented, moving: tt.moving, header: itemSize}
				moverInit(t, 64, func() {
					if tt.restarts {
						settings.memoryFile = filepath.Join(restartDir(t), "f")
					}
					settings.lru.segmented.Store(tt.segmented)
					settings.itemSizeMax = modelItemMax
					settings.slab.chunkSizeMax = modelChunkMax
					settings.hashpowerInit = 11
					settings.net.reqsPerEvent = 100 // so that a batch is answered at once
				})
				if tt.extstore {
					extInit(t, i%2 == 0)
				}
				m.now = uint32(processStarted) + currentTime.Load()
				m.unique = casId.Load() + 1
				clock := modelClock{tick: func(n uint32) { clockSet(currentTime.Load() + n) }}
				if tt.moving {
					clock.move = func() {
						modelMove(m)
						if tt.extstore {
							modelWrite(m)
						}
					}
				}
				if tt.restarts {
					restartCleanup(t)
					clock.restart = func() { modelRestart(t, m) }
				}
				modelRun(t, m, conns, clock, true)
				if !moverStep(10) {
					t.Error("a page is busy")
				}
				checkStore(t)
			}
		})
	}
	t.Run("mc9", func(t *testing.T) { modelServer(t, "", itemSize) })
	t.Run("memcached", func(t *testing.T) {
		path, version := oracle()
		if path == "" || older(version, "1.6.45") {
			t.Skip("no memcached 1.6.45")
		}
		modelServer(t, path, 48)
	})
}

func modelRun(t *testing.T, m *model, conns []*modelConn, clock modelClock, parts bool) {
	t.Helper()
	m.items = make(map[string]*modelItem)
	for range modelTurns {
		m.turn(t, conns, clock, parts)
		if clock.restart != nil && m.oneIn(100) {
			clock.restart()
		}
	}
}

// modelRestart stops the cache and restarts it from its memory file.
func modelRestart(t *testing.T, m *model) {
	t.Helper()
	restartMmapClose()
	before := currentTime.Load()
	settings.oldestLive.Store(0)
	storeAgain()
	checkStore(t)
	processStarted = 1e9
	m.pass(currentTime.Load() - before)
	m.unique = casId.Load() + 1
	m.note("", "restart")
}

// modelServer plays the model to a server that knows debugtime.
func modelServer(t *testing.T, path string, header int) {
	for i := range *long {
		s := start(t, path, false, "-I", strconv.Itoa(modelItemMax), "-o", "slab_chunk_max=16,no_lru_crawler,no_lru_maintainer,no_slab_automove")
		text, bin := s.client(), s.client()
		if text.ask("debugtime p\r\n") != "OK\r\n" {
			t.Skip("no debugtime")
		}
		m := &model{r: rand.New(rand.NewPCG(testSeed(t, i), 0)), header: header, unique: 1}
		m.now = uint32(text.statN("time"))
		last := 0
		clock := modelClock{tick: func(n uint32) {
			text.want(t, fmt.Sprintf("debugtime %d\r\n", int(n)-last), "OK\r\n") // the server adds up all the arguments
			last = int(n)
		}}
		// A reply may arrive before the server has released the item; the next
		// request is served after that.
		askText := func(in string, _ bool) string {
			defer text.ask("")
			return text.ask(in)
		}
		askBinary := func(in string, _ bool) string {
			defer bin.askBinary("")
			return strings.Join(bin.askBinary(in), "")
		}
		modelRun(t, m, []*modelConn{{false, askText}, {true, askBinary}}, clock, false)
	}
}

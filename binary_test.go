// The binary protocol in conversations, one packet per line, and tests of it that
// need more than a conversation.
//
//	TSet key=foo value=bar flags=5 exptime=0 cas=0 opaque=0
//		RSet cas=2
//
// Fields left out of a request are 0 or empty; delta defaults to 1. Strings may
// be quoted as in Go. ext gives the extras as raw bytes; magic, keylen, extlen
// and bodylen override the correct values; the opcode may be a number, as in
// T0x55. A reply is printed without the fields that are 0 or empty, except flags,
// which are printed whenever there are extras.

package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

var packetNames = map[uint8]string{
	protocolBinaryCmdGet: "Get", 0x09: "Getq",
	protocolBinaryCmdGetk: "Getk", 0x0d: "Getkq",
	protocolBinaryCmdSet: "Set", 0x11: "Setq",
	protocolBinaryCmdAdd: "Add", 0x12: "Addq",
	protocolBinaryCmdReplace: "Replace", 0x13: "Replaceq",
	protocolBinaryCmdAppend: "Append", 0x19: "Appendq",
	protocolBinaryCmdPrepend: "Prepend", 0x1a: "Prependq",
	protocolBinaryCmdDelete: "Delete", 0x14: "Deleteq",
	protocolBinaryCmdIncrement: "Increment", 0x15: "Incrementq",
	protocolBinaryCmdDecrement: "Decrement", 0x16: "Decrementq",
	protocolBinaryCmdQuit: "Quit", 0x17: "Quitq",
	protocolBinaryCmdFlush: "Flush", 0x18: "Flushq",
	protocolBinaryCmdNoop: "Noop", protocolBinaryCmdVersion: "Version",
	protocolBinaryCmdStat: "Stat", protocolBinaryCmdVerbosity: "Verbosity",
	protocolBinaryCmdTouch: "Touch",
	protocolBinaryCmdGat:   "Gat", 0x1e: "Gatq",
	protocolBinaryCmdGatk: "Gatk", 0x24: "Gatkq",
	protocolBinaryCmdSaslListMechs: "SaslListMechs",
	protocolBinaryCmdSaslAuth:      "SaslAuth", protocolBinaryCmdSaslStep: "SaslStep",
}

var packetFields = regexp.MustCompile(`^(\w+)=("(?:\\.|[^"\\])*"|\S*)(?: +|$)`)

// parsePacket returns the request that a line describes.
func parsePacket(line string) (string, error) {
	name, rest, _ := strings.Cut(line, " ")
	name, isT := strings.CutPrefix(name, "T")
	opcode, err := strconv.ParseUint(name, 0, 8)
	for op, n := range packetNames {
		if n == name {
			opcode, err = uint64(op), nil
		}
	}
	if !isT || err != nil {
		return "", errors.New("no such packet: " + line)
	}
	str := map[string]string{}
	num := map[string]uint64{"magic": protocolBinaryReq, "delta": 1}
	for rest != "" {
		m := packetFields.FindStringSubmatch(rest)
		if m == nil {
			return "", errors.New("bad field: " + rest)
		}
		rest = rest[len(m[0]):]
		value := m[2]
		if strings.HasPrefix(value, `"`) {
			if value, err = strconv.Unquote(value); err != nil {
				return "", err
			}
		}
		switch m[1] {
		case "key", "value", "ext":
			str[m[1]] = value
		case "magic", "keylen", "extlen", "bodylen", "opaque", "cas", "flags", "exptime", "delta", "initial", "level":
			if num[m[1]], err = strconv.ParseUint(value, 0, 64); err != nil {
				return "", err
			}
		default:
			return "", errors.New("no such field: " + m[1])
		}
	}
	if _, ok := str["ext"]; !ok {
		str["ext"] = packetExtras(uint8(opcode), num)
	}
	length := func(name string, n int) uint64 {
		if n, ok := num[name]; ok {
			return n
		}
		return uint64(n)
	}
	body := str["ext"] + str["key"] + str["value"]
	b := []byte{byte(num["magic"]), byte(opcode)}
	b = binary.BigEndian.AppendUint16(b, uint16(length("keylen", len(str["key"]))))
	b = append(b, byte(length("extlen", len(str["ext"]))), 0, 0, 0)
	b = binary.BigEndian.AppendUint32(b, uint32(length("bodylen", len(body))))
	b = binary.BigEndian.AppendUint32(b, uint32(num["opaque"]))
	b = binary.BigEndian.AppendUint64(b, num["cas"])
	return string(b) + body, nil
}

// packetExtras returns the extras that a command needs.
func packetExtras(opcode uint8, num map[string]uint64) string {
	var b []byte
	exptime := func() { b = binary.BigEndian.AppendUint32(b, uint32(num["exptime"])) }
	switch cmd := binCommands[opcode]; {
	case cmd.extlen == 20:
		b = binary.BigEndian.AppendUint64(b, num["delta"])
		b = binary.BigEndian.AppendUint64(b, num["initial"])
		exptime()
	case cmd.extlen == 8:
		b = binary.BigEndian.AppendUint32(b, uint32(num["flags"]))
		exptime()
	case cmd.cmd == protocolBinaryCmdVerbosity:
		b = binary.BigEndian.AppendUint32(b, uint32(num["level"]))
	case cmd.cmd == protocolBinaryCmdFlush && num["exptime"] == 0:
		// These may be left out.
	case cmd.extlen == 4:
		exptime()
	}
	return string(b)
}

// A packet is a reply packet.
type packet struct {
	hdr  [binHeaderSize]byte
	body []byte
}

func (p *packet) opcode() uint8  { return p.hdr[1] }
func (p *packet) status() uint16 { return binary.BigEndian.Uint16(p.hdr[6:]) }
func (p *packet) opaque() uint32 { return binary.BigEndian.Uint32(p.hdr[12:]) }

// String returns the packet as written in a conversation.
func (p *packet) String() string {
	name := packetNames[p.opcode()]
	if name == "" {
		name = fmt.Sprintf("%#02x", p.opcode())
	}
	s := "R" + name
	if p.hdr[0] != protocolBinaryRes || p.hdr[5] != 0 {
		s += fmt.Sprintf(" header=% x", p.hdr)
	}
	if status := p.status(); status != 0 {
		s += fmt.Sprintf(" status=%#02x", status)
	}
	if opaque := p.opaque(); opaque != 0 {
		s += fmt.Sprintf(" opaque=%d", opaque)
	}
	if cas := binary.BigEndian.Uint64(p.hdr[16:]); cas != 0 {
		s += fmt.Sprintf(" cas=%d", cas)
	}
	body := p.body
	extlen, keylen := int(p.hdr[4]), int(binary.BigEndian.Uint16(p.hdr[2:]))
	switch {
	case extlen+keylen > len(body):
		return s + fmt.Sprintf(" extlen=%d keylen=%d body=%s", extlen, keylen, body)
	case extlen == 4:
		s += fmt.Sprintf(" flags=%d", binary.BigEndian.Uint32(body))
	case extlen > 0:
		s += fmt.Sprintf(" ext=% x", body[:extlen])
	}
	if key := body[extlen:][:keylen]; keylen > 0 {
		s += fmt.Sprintf(" key=%s", key)
	}
	value := body[extlen+keylen:]
	switch cmd := binCommands[p.opcode()].cmd; {
	case len(value) == 8 && p.status() == 0 && (cmd == protocolBinaryCmdIncrement || cmd == protocolBinaryCmdDecrement):
		s += fmt.Sprintf(" value=%d", binary.BigEndian.Uint64(value))
	case len(value) > 0:
		s += fmt.Sprintf(" value=%s", value)
	}
	return s
}

// packets returns the requests that lines describe.
func packets(t testing.TB, lines ...string) string {
	t.Helper()
	var b strings.Builder
	for _, line := range lines {
		s, err := parsePacket(expand(line))
		if err != nil {
			t.Fatal(err)
		}
		b.WriteString(s)
	}
	return b.String()
}

func TestPackets(t *testing.T) {
	for line, want := range map[string]string{
		"TNoop":                     "\x80\x0a" + strings.Repeat("\x00", 22),
		"T0x55 opaque=1":            "\x80\x55" + strings.Repeat("\x00", 13) + "\x01" + strings.Repeat("\x00", 8),
		`TGet key="a\x00"`:          "\x80\x00\x00\x02" + strings.Repeat("\x00", 7) + "\x02" + strings.Repeat("\x00", 12) + "a\x00",
		"TGat key=a exptime=2":      "\x80\x1d\x00\x01\x04" + strings.Repeat("\x00", 6) + "\x05" + strings.Repeat("\x00", 12) + "\x00\x00\x00\x02a",
		"TStat ext=x magic=1 cas=3": "\x01\x10\x00\x00\x01" + strings.Repeat("\x00", 6) + "\x01" + strings.Repeat("\x00", 11) + "\x03x",
	} {
		if have, err := parsePacket(line); have != want || err != nil {
			t.Errorf("%s: %q, %v", line, have, err)
		}
	}
	for _, line := range []string{"Noop", "TNope", "T256", "TGet foo", "TGet key", "TGet foo=1", "TGet cas=x", `TGet key="\z"`} {
		if _, err := parsePacket(line); err == nil {
			t.Errorf("%s: no error", line)
		}
	}
	p := packet{body: []byte("1234kv")}
	copy(p.hdr[:], "\x81\x0c\x00\x01\x04\x00\x00\x01\x00\x00\x00\x06\x00\x00\x00\x07\x00\x00\x00\x00\x00\x00\x00\x08")
	if have, want := p.String(), "RGetk status=0x01 opaque=7 cas=8 flags=825373492 key=k value=v"; have != want {
		t.Errorf("have %s, want %s", have, want)
	}
}

// randomBinary returns a well-formed request.
func randomBinary() string {
	var b strings.Builder
	opcode := uint8(rand.IntN(0x24 + 2))
	switch opcode {
	case protocolBinaryCmdStat, protocolBinaryCmdVerbosity, protocolBinaryCmdQuit, 0x17:
		opcode = protocolBinaryCmdSet
	}
	fmt.Fprintf(&b, "T%#x", opcode)
	cmd := binCommands[opcode]
	if cmd.body == binKey || cmd.body == binKeyValue {
		fmt.Fprintf(&b, " key=%s", pick("foo bar n "+strings.Repeat("k", 250)))
	}
	if cmd.body == binKeyValue {
		fmt.Fprintf(&b, " value=%s", strings.Repeat(pick("1 5 x"), rand.IntN(1<<rand.IntN(18))))
	}
	fmt.Fprintf(&b, " cas=%s exptime=%s flags=%s initial=%s", pick("0 0 0 0 1 20"), pick("0 0 60 2592001"), pick("0 7"), pick("0 9"))
	return b.String()
}

func TestBinaryLeaks(t *testing.T) {
	for _, chunk := range []int{512 << 10, 16 << 10, 1 << 10} {
		for _, evict := range []bool{true, false} {
			storeInit(t, 4, func() {
				settings.slab.chunkSizeMax = chunk
				settings.evictToFree = evict
			})
			c := testConn()
			c.protocol = binaryProt
			for i := range 100 {
				in := packets(t, randomBinary(), randomBinary(), randomBinary())
				serve(c, []byte(in))
				if i%50 == 0 {
					currentTime.Add(1)
					if !locksFree() {
						t.Fatalf("a lock is held after %q", in)
					}
				}
			}
			checkStore(t)
		}
	}
}

var binaryRequests = []string{
	"TSet key=foo value=12345678 flags=5",
	"TGet key=foo",
	"TGetkq key=foo",
	"TGetk key=none",
	"TGetq key=none",
	"TGatk key=foo exptime=100",
	"TTouch key=foo exptime=100",
	"TSetq key=foo value=1 cas=1",
	"TAddq key=foo value=1",
	"TReplace key=foo value=12345678",
	"TIncrement key=foo",
	"TDecrementq key=foo",
	"TIncrement key=new initial=7",
	"TAppend key=none value=x",
	"TDelete key=none",
	"TGet",
	"TNoop",
	"TVersion",
	"T0x55 key=foo",
}

func TestBinaryAllocs(t *testing.T) {
	storeInit(t, 4, nil)
	c := testConn()
	c.protocol = binaryProt
	for _, request := range binaryRequests {
		in := []byte(packets(t, request))
		if n := testing.AllocsPerRun(100, func() { serve(c, in) }); n != 0 {
			t.Errorf("%s: %v allocations", request, n)
		}
	}
}

func BenchmarkBinary(b *testing.B) {
	for _, request := range binaryRequests {
		b.Run(strings.ReplaceAll(request, " ", "_"), func(b *testing.B) {
			storeInit(b, 64, nil)
			c := testConn()
			c.protocol = binaryProt
			serve(c, []byte(packets(b, "TSet key=foo value=12345678")))
			in := []byte(packets(b, request))
			b.ReportAllocs()
			for range b.N {
				serve(c, in)
			}
		})
	}
}

// As TestHangups, for the binary protocol.
func TestBinaryHangups(t *testing.T) {
	t.Parallel()
	s := mc9(t, "-m", "256", "-o", "slab_chunk_max=16,no_lru_crawler,no_lru_maintainer,no_slab_automove")
	c := s.client()
	value := strings.Repeat("x", 200000)
	c.wantBinary(t, "TSet key=big value="+value, "RSet cas=2")
	set := packets(t, "TSet key=a value="+value)
	big := packets(t, "TGet key=big")
	states := []string{
		"\x80",
		set[:23],
		set[:24],
		set[:30],
		set[:33],
		set[:34],
		set[:100000],
		set[:len(set)-1],
		packets(t, "TNoop") + packets(t, "TSet key=a value=1234567890")[:38],
		packets(t, "TAppend key=big value="+value)[:100000],
		packets(t, "TSet key=a value={x 2000000}")[:1500000],
		packets(t, "T0x55 value="+value)[:1000],
		strings.Repeat(big, 20),
		strings.Repeat(big, 20) + set[:100],
		strings.Repeat(packets(t, "TStat"), 100),
		packets(t, "TStat", "TGetq key=big", "TQuitq", "TNoop"),
		packets(t, "TGet key={k 300}", "TNoop"),
		packets(t, "TGet key={k 60000}")[:20000],
		packets(t, "TSaslAuth key=PLAIN value={x 10000}")[:5000],
		packets(t, "TNoop", "TNoop magic=1"),
	}
	c.wantBinary(t, "TNoop", "RNoop")
	fds := s.fds()
	for i := range 40 * len(states) {
		nc, err := s.dial()
		if err != nil {
			t.Fatal(err)
		}
		nc.SetWriteDeadline(time.Now().Add(10 * time.Millisecond)) // fails once the server stops reading
		io.WriteString(nc, states[i%len(states)])
		switch {
		case i%3 == 0: // half-closed, the connection is still read to its end
			nc.(interface{ CloseWrite() error }).CloseWrite()
			nc.SetReadDeadline(time.Now().Add(patience))
			if _, err := io.Copy(io.Discard, nc); os.IsTimeout(err) {
				t.Fatalf("%.30q: %v", states[i%len(states)], err)
			}
		case i%3 == 1: // read part of the reply
			nc.SetReadDeadline(time.Now().Add(time.Millisecond))
			nc.Read(make([]byte, 1000))
		}
		nc.Close()
	}
	text := s.client()
	text.wantStat(t, "curr_connections", "2")
	eventually(t, "descriptors are closed", func() bool { return s.fds() <= fds+1 })
	text.want(t, "delete big\r\ndelete a\r\n", "DELETED\r\nNOT_FOUND\r\n")
	text.wantNoneUsed(t)
}

// Whatever a packet contains, other clients are unaffected.
func TestBinaryGarbage(t *testing.T) {
	t.Parallel()
	s := mc9(t, "-m", "64", "-o", "slab_chunk_max=4")
	c := s.client()
	for range 200 {
		var in []byte
		for range 1 + rand.IntN(5) {
			p := []byte(packets(t, randomBinary()))
			for range rand.IntN(4) { // mostly in the header
				p[rand.IntN(min(len(p), 1+rand.IntN(40)))] = byte(rand.IntN(256))
			}
			in = append(in, p...)
		}
		nc, err := s.dial()
		if err != nil {
			t.Fatal(err)
		}
		nc.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
		nc.Write(in)
		if rand.IntN(2) == 0 {
			nc.(interface{ CloseWrite() error }).CloseWrite()
			nc.SetReadDeadline(time.Now().Add(patience))
			if _, err := io.Copy(io.Discard, nc); os.IsTimeout(err) {
				t.Fatalf("%q: %v", in, err)
			}
		}
		nc.Close()
		c.wantBinary(t, "TNoop opaque=7", "RNoop opaque=7")
	}
}

// A client that asks for much, sends half a set, and only then starts to read,
// gets all replies in order.
func TestReplyDuringValue(t *testing.T) {
	t.Parallel()
	s := mc9(t, "-t", "1")
	c, other := s.client(), s.client()
	value := strings.Repeat("x", 1000000)
	c.want(t, "set big 0 0 1000000\r\n"+value+"\r\n", "STORED\r\n")
	halfRead := func() {
		eventually(t, "it waits for the rest of the value", func() bool {
			return strings.Contains(other.ask("stats conns\r\n"), " conn_nread\r\n")
		})
	}

	c.write("get big\r\nget big\r\nset a 0 0 3\r\na")
	halfRead()
	reply := "VALUE big 0 1000000\r\n" + value + "\r\nEND\r\n"
	c.want(t, "bc\r\nget a\r\n", reply+reply+"STORED\r\nVALUE a 0 3\r\nabc\r\nEND\r\n")

	b := s.client()
	set := packets(t, "TSet key=a value=abc opaque=3")
	b.write(packets(t, "TGet key=big opaque=1", "TGet key=big opaque=2") + set[:len(set)-1])
	halfRead()
	have := b.askBinary(set[len(set)-1:])
	for i := range have {
		have[i] = show(have[i])
	}
	if want := []string{
		"RGet opaque=1 cas=2 flags=0 value={x 1000000}",
		"RGet opaque=2 cas=2 flags=0 value={x 1000000}",
		"RSet opaque=3 cas=4",
	}; !slices.Equal(have, want) {
		t.Errorf("have %q", have)
	}
}

func TestBinaryUdp(t *testing.T) {
	t.Parallel()
	s := start(t, "", true, "-p", "-1", "-U", "-1", "-l", "127.0.0.1", "-t", "1")
	u := dialUdp(t, "127.0.0.1:"+s.port["UDP INET"])
	reply := func(op, extlen, status, opaque, cas int, body string) string {
		return string(appendBinHeader(nil, uint8(op), protocolBinaryResponseStatus(status), extlen, 0, len(body), uint32(opaque), uint64(cas))) + body
	}
	// want waits for one reply.
	want := func(id uint16, request, reply string) {
		t.Helper()
		u.want(t, id, packets(t, request), reply)
	}
	want(1, "TSet key=foo value=bar flags=1", reply(1, 0, 0, 0, 2, ""))
	want(2, "TGet key=foo opaque=9", reply(0, 4, 0, 9, 2, "\x00\x00\x00\x01bar"))
	want(3, "TGet key=none", reply(0, 0, 1, 0, 0, "Not found"))
	u.want(t, 4, "get foo\r\n", "VALUE foo 1 3\r\nbar\r\nEND\r\n")
	big := strings.Repeat("0123456789", 3000)
	want(5, "TSet key=big value="+big, reply(1, 0, 0, 0, 3, ""))
	want(6, "TGet key=big", reply(0, 4, 0, 0, 3, "\x00\x00\x00\x00"+big))

	// Half a packet is dropped, and so is everything after a bad one. Neither
	// affects the next datagram, nor does a quit.
	set := packets(t, "TSet key=foo value=no")
	u.send(7, 0, 1, set[:20])
	u.send(8, 0, 1, set[:34])
	u.send(9, 0, 1, set[:len(set)-1])
	u.send(10, 0, 1, "set foo 0 0 100\r\n123\r\nget foo\r\n")
	want(11, "T0x55 opaque=1", reply(0x55, 0, 0x81, 1, 0, "Unknown command"))
	u.want(t, 12, packets(t, "TGet", "TDelete key=foo"), reply(0, 0, 4, 0, 0, "Invalid arguments"))
	u.want(t, 13, packets(t, "TQuit", "TDelete key=foo"), reply(7, 0, 0, 0, 0, ""))
	u.want(t, 14, packets(t, "TGetq key=none", "TGet key=foo"), reply(0, 4, 0, 0, 2, "\x00\x00\x00\x01bar"))
	// The server does not wait for a value that is too large.
	u.want(t, 15, packets(t, "TSet key=foo value={x 10} bodylen=2000000"), reply(1, 0, 3, 0, 0, "Too large."))
	want(16, "TGet key=foo", reply(0, 0, 1, 0, 0, "Not found"))
}

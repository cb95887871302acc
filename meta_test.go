// What a conversation cannot test of the meta commands: that they neither leak
// nor allocate.

package main

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

// testConn is a client without a socket.
func testConn() *conn {
	t := testThread()
	t.bufs.round.wbuf = make([]byte, 0, wbufSize)
	return &conn{thread: t, sfd: -1, transport: localTransport, protocol: asciiProt, state: connNewCmd}
}

// serve has c serve complete commands, and discards the replies.
func serve(c *conn, in []byte) {
	c.in.rbuf, c.in.rcurr, c.in.rbytes = in, 0, len(in)
	for c.in.rbytes > 0 || c.state == connNread {
		switch c.state {
		case connNread:
			driveNread(c)
		case connSwallow:
			driveSwallow(c)
		default:
			resetCmdHandler(c)
			if !tryReadCommand(c) {
				panic("incomplete command")
			}
		}
	}
	connReleaseItems(c)
}

func pick(list string) string {
	words := strings.Split(list, " ")
	return words[rand.IntN(len(words))]
}

// randomMeta returns a meta command, usually a valid one.
func randomMeta() []byte {
	cmd := pick("mg ms md ma mg ms me")
	line := cmd + " " + pick("foo bar n AAAA Zm9v A=BC "+strings.Repeat("k", 251))
	value := ""
	if cmd == "ms" {
		value = strings.Repeat(pick("1 5 x"), rand.IntN(1<<rand.IntN(18)))
		line += fmt.Sprint(" ", len(value))
		value += "\r\n"
		if rand.IntN(20) == 0 {
			value = strings.Repeat("bad\n", len(value)) // also if parsed as commands
		}
	}
	for range rand.IntN(6) {
		switch f := pick("b c f h k l q s t v u x O T N R F C E M J D I z ! z v k N T R M C"); f {
		case "O":
			line += " O" + strings.Repeat("o", rand.IntN(35))
		case "M":
			line += " M" + pick("E A P R S I D + - A P x")
		case "T", "N", "R", "F", "C", "E", "J", "D":
			line += " " + f + pick("0 1 5 30 60 -1 x 90 2592001")
		default:
			line += " " + f
		}
	}
	return []byte(line + "\r\n" + value)
}

func TestMetaLeaks(t *testing.T) {
	for _, chunk := range []int{512 << 10, 16 << 10} {
		for _, evict := range []bool{true, false} {
			storeInit(t, 4, func() {
				settings.slab.chunkSizeMax = chunk
				settings.evictToFree = evict
			})
			c := testConn()
			for i := range 1000 {
				in := randomMeta()
				for range rand.IntN(4) {
					in = append(in, randomMeta()...)
				}
				serve(c, in)
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

var metaCommands = []string{
	"mg foo v\r\n",
	"mg foo s t c f k l h Oopaque v T90 R30 u\r\n",
	"mg Zm9v b k v\r\n",
	"mg none v q k O1\r\n",
	"mg none z\r\n",
	"ms foo 8\r\n12345678\r\n",
	"ms foo 8 T90 F5 c k s b Oopaque C1 I\r\n12345678\r\n",
	"ms foo 8 q\r\n12345678\r\n",
	"ms foo 1 z\r\n1\r\n",
	"ma foo\r\n",
	"ma foo v t c k Oopaque D5\r\n",
	"ma foo q MD\r\n",
	"md none k O1\r\n",
	"md foo x I q\r\nms foo 1\r\n1\r\n",
	"md viv q\r\nmg viv N30 t v\r\n",
	"md num q\r\nma num N30 t v J5\r\n",
	"mn\r\n",
}

func TestMetaAllocs(t *testing.T) {
	storeInit(t, 4, nil)
	c := testConn()
	var in []byte
	for _, cmd := range metaCommands {
		n := testing.AllocsPerRun(100, func() {
			in = append(in[:0], cmd...) // keys in base64 are decoded in place
			serve(c, in)
		})
		if n != 0 {
			t.Errorf("%q: %v allocations", cmd, n)
		}
	}
}

func BenchmarkMeta(b *testing.B) {
	for _, cmd := range metaCommands {
		name, _, _ := strings.Cut(cmd, "\r\n")
		b.Run(strings.ReplaceAll(name, " ", "_"), func(b *testing.B) {
			storeInit(b, 64, nil)
			c := testConn()
			serve(c, []byte("ms foo 8\r\n12345678\r\n"))
			var in []byte
			b.ReportAllocs()
			for range b.N {
				in = append(in[:0], cmd...)
				serve(c, in)
			}
		})
	}
}

// Names of hosts: what name servers answer, and what mc9 makes of it.

package main

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// dnsRecord is a record of a reply, whose name is that of the question.
func dnsRecord(kind uint16, data string) string {
	b := binary.BigEndian.AppendUint16([]byte{0xc0, 12}, kind)
	b = append(b, 0, 1, 0, 0, 0, 9)
	return string(binary.BigEndian.AppendUint16(b, uint16(len(data)))) + data
}

// nameServer serves these names and their records at addr, port 53, until the test
// ends. Other names do not exist; those that begin with fail make it fail.
func nameServer(t *testing.T, addr string, names map[string][]string) {
	pc, err := net.ListenPacket("udp", addr+":53")
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { pc.Close() })
	go func() {
		b := make([]byte, 512)
		for {
			n, from, err := pc.ReadFrom(b)
			if err != nil {
				return
			}
			query := b[:n]
			name := ""
			for label := query[12:]; label[0] != 0; label = label[1+label[0]:] {
				name += string(label[1:1+label[0]]) + "."
			}
			records, ok := names[strings.ToLower(name)]
			kind := query[n-3]
			records = slices.DeleteFunc(slices.Clone(records), func(r string) bool { return r[3] != kind && r[3] != 5 })
			reply := append([]byte(nil), query...)
			reply[2], reply[3], reply[7] = 0x81, 0x80, byte(len(records))
			switch {
			case strings.HasPrefix(name, "fail"):
				reply[3] |= 2
			case !ok:
				reply[3] |= 3
			}
			pc.WriteTo([]byte("not an answer"), from)
			pc.WriteTo(append(reply, strings.Join(records, "")...), from)
		}
	}()
}

// Names are looked up in DNS as resolv.conf says.
func TestDns(t *testing.T) {
	localhost := dnsRecord(dnsA, "\x7f\x00\x00\x01")
	nameServer(t, "127.99.53.1", map[string][]string{
		"one.test.":   {localhost},
		"two.test.":   {dnsRecord(5, "\xc0\x0c"), localhost, localhost},
		"six.test.":   {dnsRecord(dnsAaaa, strings.Repeat("\x00", 15)+"\x01")},
		"empty.test.": {},
		"a.b.":        {localhost},
	})
	servers := []netip.Addr{netip.MustParseAddr("127.99.53.1")}
	for _, tt := range []struct {
		name string
		kind uint16
		want string
	}{
		{"one.test", dnsA, "[127.0.0.1] true"},
		{"ONE.test.", dnsA, "[127.0.0.1] true"},
		{"one.test", dnsAaaa, "[] true"},
		{"two.test", dnsA, "[127.0.0.1 127.0.0.1] true"},
		{"six.test", dnsAaaa, "[::1] true"},
		{"none.test", dnsA, "[] true"},
		{"fail.test", dnsA, "[] false"},
		{"", dnsA, "[] true"},
		{"a..b", dnsA, "[] true"},
		{strings.Repeat("a", 64) + ".test", dnsA, "[] true"},
	} {
		addrs, ok := dnsQuery(servers, tt.name, tt.kind)
		if have := fmt.Sprint(addrs, ok); have != tt.want {
			t.Errorf("%s %d: %s, want %s", tt.name, tt.kind, have, tt.want)
		}
	}

	conf := filepath.Join(t.TempDir(), "resolv.conf")
	os.WriteFile(conf, []byte("# comment\nnameserver 127.99.53.1\nsearch sub.test test\noptions ndots:1 timeout:1\n"), 0o644)
	inside := []string{"unshare", "-m", "sh", "-c", `mount --bind ` + conf + ` /etc/resolv.conf && exec "$0" "$@"`}
	if out, err := exec.Command(inside[0], append(inside[1:], "true")...).CombinedOutput(); err != nil {
		t.Skipf("unshare: %v %s", err, out)
	}
	port := freePort(t)
	for name, says := range map[string]string{
		"one":        "Connection refused",
		"one.test":   "Connection refused",
		"one.test.":  "Connection refused",
		"a.b":        "Connection refused",
		"one.":       "Name or service not known",
		"none":       "Name or service not known",
		"empty.test": "Name or service not known",
		"fail":       "Temporary failure in name resolution",
	} {
		cmd := command("", "--check="+name+":"+port)
		outside := cmd.Args
		cmd.Path, _ = exec.LookPath(inside[0])
		cmd.Args = append(inside, outside...)
		out, _ := cmd.CombinedOutput()
		if want := "check: " + says + "\n"; string(out) != want {
			t.Errorf("%s: %swant %s", name, out, want)
		}
	}
}

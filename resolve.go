// The addresses of a host name, for -l and --ask: getaddrinfo(3), by /etc/hosts and
// DNS. Go's package net would do it, but as a tenth of the program.

package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const dnsPatience = 5 * time.Second // for an answer

const dnsA, dnsAaaa = 1, 28 // types of records

var (
	errNoName  = errors.New("name or service not known")
	errNoReply = errors.New("temporary failure in name resolution")
)

var loopback = []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}

// getaddrinfo returns the addresses of host, which it reads as a number, or finds in
// /etc/hosts or by DNS. "*" stands for the wildcard addresses, in the order of C's
// library.
func getaddrinfo(host string) (addrs []netip.Addr, err error) {
	if host == "*" {
		return []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}, nil
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{addr}, nil
	}
	if addr, ok := inetAton(host); ok {
		return []netip.Addr{addr}, nil
	}
	for _, f := range configLines("/etc/hosts") {
		addr, err := netip.ParseAddr(f[0])
		if err == nil && slices.ContainsFunc(f[1:], func(name string) bool { return strings.EqualFold(name, host) }) {
			addrs = append(addrs, addr)
		}
	}
	switch {
	case len(addrs) > 0:
		return addrs, nil
	case strings.EqualFold(host, "localhost"): // works without /etc/hosts
		return loopback, nil
	}
	return dnsLookup(host)
}

// inetAton is inet_aton(3): one to four numbers separated by dots, each decimal,
// octal with a leading 0, or hexadecimal with a leading 0x. The last number fills
// the remaining bytes: 127.1 is 127.0.0.1, and 0 is 0.0.0.0.
func inetAton(host string) (netip.Addr, bool) {
	parts := strings.Split(host, ".")
	if len(parts) > 4 {
		return netip.Addr{}, false
	}
	var ip uint64
	for i, part := range parts {
		base, digits := 10, part
		if hex, ok := strings.CutPrefix(strings.ToLower(part), "0x"); ok {
			base, digits = 16, hex
		} else if strings.HasPrefix(part, "0") {
			base = 8
		}
		bits := 8
		if i == len(parts)-1 {
			bits = 32 - 8*i
		}
		n, err := strconv.ParseUint(digits, base, bits)
		if err != nil {
			return netip.Addr{}, false
		}
		ip = ip<<bits | n
	}
	return netip.AddrFrom4([4]byte{byte(ip >> 24), byte(ip >> 16), byte(ip >> 8), byte(ip)}), true
}

// configLines returns the words of each line in a file, without comments.
func configLines(file string) (lines [][]string) {
	text, _ := os.ReadFile(file)
	for line := range strings.Lines(string(text)) {
		line, _, _ = strings.Cut(line, "#")
		if words := strings.Fields(line); len(words) > 1 {
			lines = append(lines, words)
		}
	}
	return lines
}

// dnsLookup asks the name servers of resolv.conf(5).
func dnsLookup(host string) (addrs []netip.Addr, err error) {
	var servers []netip.Addr
	names := []string{host}
	for _, f := range configLines("/etc/resolv.conf") {
		addr, err := netip.ParseAddr(f[1])
		switch {
		case f[0] == "nameserver" && err == nil:
			servers = append(servers, addr)
		case (f[0] == "search" || f[0] == "domain") && !strings.HasSuffix(host, "."):
			for _, domain := range f[1:] {
				names = append(names, host+"."+domain)
			}
		}
	}
	if !strings.Contains(host, ".") { // last, as it stands
		names = append(names[1:], host)
	}
	err = errNoName
	for _, name := range names {
		for _, kind := range []uint16{dnsA, dnsAaaa} {
			found, ok := dnsQuery(servers, name, kind)
			if addrs = append(addrs, found...); !ok {
				err = errNoReply
			}
		}
		if len(addrs) > 0 {
			return addrs, nil
		}
	}
	return nil, err
}

// dnsQuery asks for records of a kind. It returns false if no server knows whether
// there are any.
func dnsQuery(servers []netip.Addr, name string, kind uint16) (addrs []netip.Addr, ok bool) {
	query := []byte{0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0} // id, "recursion desired", one question
	for label := range strings.SplitSeq(strings.TrimSuffix(name, "."), ".") {
		if label == "" || len(label) > 63 {
			return nil, true
		}
		query = append(append(query, byte(len(label))), label...)
	}
	query = append(query, 0, 0, byte(kind), 0, 1)
	for _, server := range slices.Concat(servers, servers) { // a second time if none answers
		unix.Getrandom(query[:2], 0)
		reply := dnsExchange(server, query)
		if reply != nil && (reply[3]&15 == 0 || reply[3]&15 == 3) { // 3: no such name
			return dnsAnswers(reply, len(query), kind), true
		}
	}
	return nil, false
}

// dnsExchange returns the server's reply to query, or nil.
func dnsExchange(server netip.Addr, query []byte) []byte {
	family, sa := sockaddr(server, 53)
	fd, err := newSocket(family, unix.SOCK_DGRAM)
	if err != nil {
		return nil
	}
	f := os.NewFile(uintptr(fd), "DNS")
	defer f.Close()
	f.SetDeadline(time.Now().Add(dnsPatience))
	unix.Connect(fd, sa)
	if _, err := f.Write(query); err != nil {
		return nil
	}
	var reply [4096]byte
	for {
		n, err := f.Read(reply[:])
		if err != nil {
			return nil
		}
		// The question is repeated, perhaps with other capitals.
		if n >= len(query) && bytes.Equal(reply[:2], query[:2]) && reply[2]>>7 == 1 && bytes.EqualFold(reply[12:len(query)], query[12:]) {
			return reply[:n]
		}
	}
}

// dnsAnswers returns the addresses in a reply whose records begin at at.
func dnsAnswers(reply []byte, at int, kind uint16) (addrs []netip.Addr) {
	for range binary.BigEndian.Uint16(reply[6:]) {
		for at < len(reply) && reply[at] != 0 && reply[at] < 0xc0 { // the name
			at += 1 + int(reply[at])
		}
		if at < len(reply) && reply[at] != 0 {
			at++ // it ends in a pointer to another one
		}
		const head = 1 + 10 // the name's last byte, type, class, lifetime, length
		if at+head > len(reply) {
			break
		}
		data := reply[at+head:]
		data = data[:min(int(binary.BigEndian.Uint16(reply[at+head-2:])), len(data))]
		if addr, ok := netip.AddrFromSlice(data); ok && binary.BigEndian.Uint16(reply[at+1:]) == kind && addr.Is4() == (kind == dnsA) {
			addrs = append(addrs, addr)
		}
		at += head + len(data)
	}
	return addrs
}

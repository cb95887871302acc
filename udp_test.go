// UDP: bursts of requests.

package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestUdpBurst: as much of a burst waits for the workers as the system allows.
func TestUdpBurst(t *testing.T) {
	t.Parallel()
	allowed := func(name string) int {
		text, err := os.ReadFile("/proc/sys/net/core/" + name)
		if err != nil {
			t.Skip(err)
		}
		n, _ := strconv.Atoi(strings.TrimSpace(string(text)))
		return n
	}
	const datagram = 1024 // bytes of the buffer that one takes, at most
	n := min(2*allowed("rmem_max")/datagram, 1500)
	if n < allowed("rmem_default")/512 {
		t.Skip("a large buffer is not allowed")
	}
	s := start(t, "", true, "-l", "127.0.0.1", "-p", "-1", "-U", "-1")
	c, u := s.client(), dialUdp(t, "127.0.0.1:"+s.port["UDP INET"])
	s.whileStopped(func() {
		for i := range n {
			u.send(uint16(i), 0, 1, fmt.Sprintf("set k%d 0 0 1\r\n1\r\n", i))
		}
	})
	c.wantStat(t, "cmd_set", strconv.Itoa(n))
}

// TestUdpReadsOn: one event is enough for several requests, and for a bad one, but
// not for any number.
func TestUdpReadsOn(t *testing.T) {
	storeInit(t, 4, func() {})
	before := threads
	t.Cleanup(func() { threads = before })
	connInit()
	threads = []*thread{new(thread)}
	setupThread(threads[0])
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	client := fds[1]
	defer unix.Close(client)
	defer unix.Close(fds[0])
	c := connNew(fds[0], connRead, udpTransport, threads[0], negotiatingProt)
	for range 8 {
		unix.Write(client, []byte("\x00\x01\x00\x00\x00\x01\x00\x00mn\r\n"))
	}
	roundAdd(threads[0], c)
	roundServe(threads[0])
	if n, _ := unix.IoctlGetInt(fds[0], unix.TIOCINQ); n != 0 {
		t.Error("a datagram has not been read")
	}
}

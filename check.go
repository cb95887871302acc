// mc9 --check, for health checks where there is no other program: ask a
// server for its version. Not in C.

package main

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const checkPatience = 2 * time.Second

// check asks the server at addr, or where the other options would have one
// listen, and returns the exit code: 0 if it answers, otherwise 1 after a line
// that says why.
func check(addr string) int {
	time.AfterFunc(checkPatience, func() {
		sysfatal(1, "no answer within %v", checkPatience)
	})
	if err := checkServer(addr); err != nil {
		perror("check", err)
		return 1
	}
	return 0
}

// checkServer speaks text, then binary if that is not understood. A server
// that wants a password first is alive, too.
func checkServer(addr string) error {
	family, sa, err := checkAddr(addr)
	if err != nil {
		return err
	}
	// As long as a binary header, to which such a server then says no.
	reply, err := checkAsk(family, sa, []byte("version\r\nversion\r\nquit\r\n"))
	if bytes.HasPrefix(reply, []byte("VERSION ")) || bytes.HasPrefix(reply, []byte(errUnauthenticated)) {
		return nil
	}
	if err == nil || err == unix.ECONNRESET {
		var request [48]byte // two headers
		request[0], request[1] = protocolBinaryReq, protocolBinaryCmdVersion
		request[24], request[25] = protocolBinaryReq, protocolBinaryCmdQuit
		reply, err = checkAsk(family, sa, request[:])
		if len(reply) >= 24 && reply[0] == protocolBinaryRes && reply[6]|reply[7] == 0 {
			return nil
		}
	}
	if err == nil {
		err = fmt.Errorf("the answer is %q", reply)
	}
	return err
}

// checkAsk sends the request on a connection of its own and returns what
// comes first in answer to it.
func checkAsk(family int, sa unix.Sockaddr, request []byte) ([]byte, error) {
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, sa); err != nil {
		return nil, err
	}
	if _, err := unix.Write(fd, request); err != nil {
		return nil, err
	}
	reply := make([]byte, 256)
	n, err := unix.Read(fd, reply)
	return reply[:max(n, 0)], err
}

// checkAddr takes a path, with a slash in it, or what -l takes; "" stands for
// -s or else the first address of -l and -p. Where the server would listen on
// all addresses it is this machine.
func checkAddr(addr string) (family int, sa unix.Sockaddr, err error) {
	if addr == "" && settings.socketpath != "" {
		return unix.AF_UNIX, &unix.SockaddrUnix{Name: settings.socketpath}, nil
	}
	if strings.Contains(addr, "/") {
		return unix.AF_UNIX, &unix.SockaddrUnix{Name: addr}, nil
	}
	if addr == "" {
		addr = strings.FieldsFunc(settings.inter+",*", isListSeparator)[0]
	}
	host, port, _, err := splitListen(addr, settings.port)
	if err != nil {
		return 0, nil, err
	}
	if port <= 0 {
		return 0, nil, errors.New("there is no port to ask at")
	}
	if host == "" {
		host = "*"
	}
	addrs, err := getaddrinfo(host)
	if err != nil {
		return 0, nil, err
	}
	ip := addrs[0]
	switch {
	case ip == netip.IPv4Unspecified():
		ip = loopback[0]
	case ip == netip.IPv6Unspecified():
		ip = loopback[1]
	}
	family, sa = sockaddr(ip, port)
	return family, sa, nil
}

// mc9 --check: ask a server for its version, for health checks in images with
// no other program. Not in C.

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

// check asks the server at addr or, if that is "", where the other options
// would have one listen. It returns the exit code: 0 if the server answers,
// otherwise 1, having printed why.
func check(addr string) int {
	time.AfterFunc(checkPatience, func() {
		sysfatal(1, "no answer within %v", checkPatience)
	})
	err := checkServer(addr, false)
	if tlsBuild && err != nil {
		err = checkServer(addr, true)
	}
	if err != nil {
		perror("check", err)
		return 1
	}
	return 0
}

// checkServer tries the text protocol, then the binary one. A server that
// asks for authentication is alive, too.
func checkServer(addr string, overTls bool) error {
	family, sa, err := checkAddr(addr)
	if err != nil {
		return err
	}
	// As long as a binary header, so that a binary-only server answers with
	// an error.
	reply, err := checkAsk(family, sa, overTls, []byte("version\r\nversion\r\nquit\r\n"))
	if bytes.HasPrefix(reply, []byte("VERSION ")) || bytes.HasPrefix(reply, []byte(errUnauthenticated)) {
		return nil
	}
	if err == nil || err == unix.ECONNRESET {
		var request [48]byte // two headers
		request[0], request[1] = protocolBinaryReq, protocolBinaryCmdVersion
		request[24], request[25] = protocolBinaryReq, protocolBinaryCmdQuit
		reply, err = checkAsk(family, sa, overTls, request[:])
		if len(reply) >= 24 && reply[0] == protocolBinaryRes && reply[6]|reply[7] == 0 {
			return nil
		}
	}
	if err == nil {
		err = fmt.Errorf("unexpected answer %q", reply)
	}
	return err
}

// checkAsk sends request on a new connection and returns the start of the
// reply.
func checkAsk(family int, sa unix.Sockaddr, overTls bool, request []byte) ([]byte, error) {
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, sa); err != nil {
		return nil, err
	}
	if tlsBuild && overTls {
		return sslAsk(fd, request)
	}
	if _, err := unix.Write(fd, request); err != nil {
		return nil, err
	}
	reply := make([]byte, 256)
	n, err := unix.Read(fd, reply)
	return reply[:max(n, 0)], err
}

// checkAddr parses addr: a path if it has a slash, otherwise an entry of -l.
// "" stands for the socket of -s, or else for the first address of -l with
// the port of -p. A wildcard address becomes loopback.
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
	host, port, _, _, err := splitListen(addr, settings.port)
	if err != nil {
		return 0, nil, err
	}
	if port <= 0 {
		return 0, nil, errors.New("no port to connect to")
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

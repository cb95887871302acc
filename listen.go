// Listening sockets. From memcached.c: new_socket, server_socket, server_sockets,
// new_socket_unix, server_socket_unix, and main's port-number file; getaddrinfo(3).

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const maxSendbufSize = 256 << 20 // bytes

// A listener is a socket that listens, or receives datagrams. serverConns
// makes conns for it.
type listener struct {
	sfd       int
	transport transport
	bproto    protocol
	ssl       sslMode
}

// What a listener requires of its clients; C's MC_SSL_*.
type sslMode uint8

const (
	sslDisabled       sslMode = iota
	sslEnabledDefault         // TLS; -o ssl_verify_mode decides about certificates
	sslEnabledNopeer          // btls: TLS without client certificates
	sslEnabledPeer            // mtls: TLS with client certificates
	sslModes
)

var listeners []listener // in order of creation

var loopback = []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}

// activationFds returns how many sockets systemd opened for us, or for the mc9 that
// started us as a daemon. They are the descriptors from 3 on.
func activationFds() int {
	pid := atoi(os.Getenv("LISTEN_PID"))
	if pid != os.Getpid() && (daemonReadyFd == 0 || pid != os.Getppid()) {
		return 0
	}
	return max(atoi(os.Getenv("LISTEN_FDS")), 0)
}

// activationSockets takes over the sockets of activationFds, and reports whether
// there are any. With them -p, -U, -l and -s are refused.
func activationSockets() bool {
	fds := activationFds()
	for _, name := range []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"} {
		os.Unsetenv(name)
	}
	if fds == 0 {
		return false
	}
	refuse(options.tcpSpecified || options.udpSpecified || settings.net.inter != "" || settings.net.socketpath != "",
		exUsage, "LISTEN_FDS: -p, -U, -l and -s cannot be used with inherited sockets")
	settings.net.port, settings.net.udpport = 0, 0
	for sfd := 3; sfd < 3+fds; sfd++ {
		l := listener{sfd, tcpTransport, settings.net.bindingProtocol, sslListen()}
		socktype, err := unix.GetsockoptInt(sfd, unix.SOL_SOCKET, unix.SO_TYPE)
		refuseErr(err, exOserr, "LISTEN_FDS: descriptor %d", sfd)
		domain, _ := unix.GetsockoptInt(sfd, unix.SOL_SOCKET, unix.SO_DOMAIN)
		inet := domain == unix.AF_INET || domain == unix.AF_INET6
		listening, _ := unix.GetsockoptInt(sfd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
		switch {
		case domain == unix.AF_UNIX && socktype == unix.SOCK_STREAM && listening != 0:
			l.transport, l.ssl = localTransport, sslDisabled
		case inet && socktype == unix.SOCK_STREAM && listening != 0:
			settings.net.port = socketPort(sfd)
		case inet && socktype == unix.SOCK_DGRAM:
			refuse(settings.auth.sasl || settings.auth.file != "", exUsage, "LISTEN_FDS: descriptor %d: no UDP with authentication", sfd)
			l.transport = udpTransport
			settings.net.udpport = socketPort(sfd)
		default:
			sysfatal(exUsage, "LISTEN_FDS: descriptor %d is not a listening socket", sfd)
		}
		unix.SetNonblock(sfd, true)
		unix.CloseOnExec(sfd)
		listeners = append(listeners, l)
	}
	return true
}

func socketPort(sfd int) int {
	sa, _ := unix.Getsockname(sfd)
	return int(addrPort(sa).Port())
}

// addrPort returns the address and port of a socket of the network; of others it
// returns one that is not valid.
func addrPort(sa unix.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port))
	}
	return netip.AddrPort{}
}

func newSocket(family, socktype int) (int, error) {
	return unix.Socket(family, socktype|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
}

// getaddrinfo returns the addresses of host. "*" stands for the wildcard
// addresses, in the order of C's library.
func getaddrinfo(host string) ([]netip.Addr, error) {
	if host == "*" {
		return []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}, nil
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{addr}, nil
	}
	if addr, ok := inetAton(host); ok {
		return []netip.Addr{addr}, nil
	}
	addrs, err := net.DefaultResolver.LookupNetIP(context.Background(), "ip", host)
	var dns *net.DNSError
	switch {
	case err != nil && host == "localhost": // works without /etc/hosts
		return loopback, nil
	case errors.As(err, &dns) && dns.IsNotFound:
		return nil, errors.New("name or service not known")
	case errors.As(err, &dns) && dns.IsTemporary:
		return nil, errors.New("temporary failure in name resolution")
	}
	return addrs, err
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

// sockaddr returns addr in the form that bind takes.
func sockaddr(addr netip.Addr, port int) (family int, sa unix.Sockaddr) {
	if addr = addr.Unmap(); addr.Is4() {
		return unix.AF_INET, &unix.SockaddrInet4{Port: port, Addr: addr.As4()}
	}
	sa6 := &unix.SockaddrInet6{Port: port, Addr: addr.As16()}
	index, err := os.ReadFile("/sys/class/net/" + addr.Zone() + "/ifindex")
	if err != nil { // a number
		index = []byte(addr.Zone())
	}
	sa6.ZoneId = uint32(atoi(string(index)))
	return unix.AF_INET6, sa6
}

// serverSocket makes a socket like l for each address of host. It fails if none
// works, or if bind or listen returns an unexpected error. Unlike C, it skips
// addresses of a host name that this machine does not have.
func serverSocket(host string, port int, l listener) error {
	if port == -1 {
		port = 0
	}
	if port < 0 || port > 65535 {
		fmt.Fprintf(os.Stderr, "getaddrinfo(): Servname not supported for ai_socktype\n")
		return unix.EINVAL
	}
	addrs, err := getaddrinfo(host)
	if err != nil {
		perror("getaddrinfo()", err)
		return unix.EADDRNOTAVAIL
	}
	success := false
	for _, addr := range addrs {
		family, sa := sockaddr(addr, port)
		what, e := bindSocket(family, sa, l)
		switch {
		case e == nil:
			success = true
			continue
		case e == unix.EMFILE:
			sysfatal(exOserr, "server_socket: %s", strerror(e))
		case what == "socket()": // this machine may not have IPv6
		case what == "setsockopt":
			perror(what, e)
		case what == "bind()" && e == unix.EADDRNOTAVAIL && len(addrs) > 1:
			fmt.Fprintf(os.Stderr, "WARNING: %s is skipped, an address of %s: %s\n", addr.Unmap(), host, strerror(e))
		case what == "bind()" && e == unix.EADDRINUSE:
		default:
			perror(what, e)
			return e
		}
		err = e
	}
	if success {
		return nil
	}
	return err
}

// bindSocket makes l's socket, with this address, and adds l to the listeners. If it
// fails it also returns what failed.
func bindSocket(family int, sa unix.Sockaddr, l listener) (what string, err error) {
	socktype := unix.SOCK_STREAM
	if l.transport == udpTransport {
		socktype = unix.SOCK_DGRAM
	}
	sfd, err := newSocket(family, socktype)
	if err != nil {
		return "socket()", err
	}
	what = "setsockopt"
	err = serverSocketOptions(sfd, family, l.transport)
	if err == nil {
		what = "bind()"
		err = unix.Bind(sfd, sa)
	}
	if err == nil && l.transport != udpTransport {
		what = "listen()"
		err = unix.Listen(sfd, settings.net.backlog)
	}
	if err != nil {
		unix.Close(sfd)
		return what, err
	}
	l.sfd = sfd
	listeners = append(listeners, l)
	return "", nil
}

// serverSocketOptions fails only if the socket cannot be used.
func serverSocketOptions(sfd, family int, transport transport) error {
	set := func(level, option, value int) {
		if err := unix.SetsockoptInt(sfd, level, option, value); err != nil {
			perror("setsockopt", err)
		}
	}
	set(unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	if transport != localTransport && settings.net.numNapiIds != 0 {
		_, err := unix.GetsockoptInt(sfd, unix.SOL_SOCKET, unix.SO_INCOMING_NAPI_ID)
		refuse(err != nil, 1, "-N <num_napi_ids> option not supported")
	}
	if transport != localTransport && settings.net.sockCookieId != 0 {
		set(unix.SOL_SOCKET, unix.SO_MARK, int(settings.net.sockCookieId))
	}
	if family == unix.AF_INET6 {
		if err := unix.SetsockoptInt(sfd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1); err != nil {
			return err
		}
	}
	if transport == udpTransport {
		// The system lowers these to what it allows. C sets only the first; a burst of
		// requests waits in the second until the workers wake up.
		set(unix.SOL_SOCKET, unix.SO_SNDBUF, maxSendbufSize)
		set(unix.SOL_SOCKET, unix.SO_RCVBUF, maxSendbufSize)
		return nil
	}
	set(unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1)
	if err := unix.SetsockoptLinger(sfd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{}); err != nil {
		perror("setsockopt", err)
	}
	if transport != localTransport {
		set(unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	}
	return nil
}

func isListSeparator(r rune) bool { return r == ';' || r == ',' }

// serverSockets makes the sockets for all entries of -l, or for the wildcard
// addresses. If one fails it continues with the others, and returns the first error.
func serverSockets(port int, transport transport) (first error) {
	for _, p := range strings.FieldsFunc(cmp.Or(settings.net.inter, "*"), isListSeparator) {
		host, thePort, l, err := splitListen(p, port)
		if err != nil {
			fmt.Fprintf(os.Stderr, "%v\n", err)
			return unix.EINVAL
		}
		l.transport = transport
		first = cmp.Or(first, serverSocket(host, thePort, l))
	}
	return first
}

var sslPrefixes = []string{sslDisabled: "notls", sslEnabledNopeer: "btls", sslEnabledPeer: "mtls"}

// splitListen splits an entry of -l: mtls:proto[NAME]:tag[NAME]:ADDRESS:PORT,
// where only the address is required. l has no socket yet.
func splitListen(p string, port int) (host string, thePort int, l listener, err error) {
	l = listener{bproto: settings.net.bindingProtocol, ssl: sslListen()}
	fail := func(format, arg string) (string, int, listener, error) {
		return "", 0, listener{}, fmt.Errorf(format, arg)
	}
	for mode, prefix := range sslPrefixes {
		rest, ok := strings.CutPrefix(p, prefix+":")
		switch {
		case !ok || prefix == "":
		case l.ssl == sslDisabled:
			return fail("'%s' option is valid only when SSL is enabled", prefix)
		default:
			p, l.ssl = rest, sslMode(mode)
		}
	}

	if spec, ok := strings.CutPrefix(p, "proto["); ok {
		name, rest, ok := strings.Cut(spec, "]")
		i := slices.Index([]string{"ascii", "binary", "negotiating"}, name)
		switch {
		case ok && name == "proxy":
			return fail("Server not built with proxy: \"%s\"", p)
		case !ok || i < 0: // C ignores unknown names
			return fail("Invalid protocol spec: \"[%s\"", spec)
		}
		l.bproto = asciiProt + protocol(i)
		p = strings.TrimPrefix(rest, ":")
	}
	switch {
	case settings.auth.file != "" && l.bproto == binaryProt:
		return fail("Cannot use binary protocol when ascii authentication enabled: \"%s\"", p)
	case settings.auth.file != "" && l.bproto == negotiatingProt:
		fmt.Fprintf(os.Stderr, "WARNING: negotiating ports are ascii only when ascii authentication enabled\n")
		l.bproto = asciiProt
	case settings.auth.file == "" && settings.auth.sasl && l.bproto != binaryProt: // C allows this
		return fail("Cannot use ascii protocol when SASL enabled: \"%s\"", p)
	}

	// Check the tag, then ignore it: only C's proxy uses it.
	if strings.HasPrefix(p, "tag[") || strings.HasPrefix(p, "tag_") {
		end := "]"
		if p[3] == '_' {
			end = "_"
		}
		tag, rest, ok := strings.Cut(p[4:], end)
		if !ok {
			return fail("Invalid tag in socket config: \"%s\"", p[3:])
		}
		if len(tag) > 8 || len(tag) < 1 {
			return fail("Listener tags must be between 1 and 8 characters: \"%s\"", tag)
		}
		p = strings.TrimPrefix(rest, ":")
	}

	bracketed := false
	if strings.HasPrefix(p, "[") {
		if host, p, bracketed = strings.Cut(p[1:], "]"); !bracketed {
			return fail("Invalid IPV6 address: \"[%s\"", host)
		}
	}
	// Without brackets two or more colons mean an IPv6 address without a
	// port.
	before, after, ok := strings.Cut(p, ":")
	if ok && (bracketed || !strings.Contains(after, ":")) {
		p = before
		port, err = strconv.Atoi(after)
		if err != nil || port < -1 || port > 65535 {
			return fail("Invalid port number: \"%s\"", after)
		}
	}
	if !bracketed {
		host = p
	}
	return host, port, l, nil
}

// serverSocketUnix makes the Unix socket of -s.
func serverSocketUnix(path string, accessMask int) error {
	// Remove a stale socket.
	var st unix.Stat_t
	if unix.Lstat(path, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFSOCK {
		unix.Unlink(path)
	}
	oldUmask := unix.Umask(^(accessMask & 0777) & 0777)
	what, err := bindSocket(unix.AF_UNIX, &unix.SockaddrUnix{Name: path},
		listener{transport: localTransport, bproto: settings.net.bindingProtocol})
	unix.Umask(oldUmask)
	if err != nil {
		perror(what, err)
	}
	return err
}

// openSockets makes the TCP and UDP sockets.
func openSockets() {
	var err error
	which := ""
	if settings.net.port != 0 {
		which = fmt.Sprintf("TCP port %d", settings.net.port)
		err = serverSockets(settings.net.port, tcpTransport)
	}
	if settings.net.udpport != 0 && err == nil {
		which = fmt.Sprintf("UDP port %d", settings.net.udpport)
		err = serverSockets(settings.net.udpport, udpTransport)
	}
	if err != nil {
		if settings.net.inter != "" {
			which = "one of interface(s) " + settings.net.inter
		}
		sysfatal(exOserr, "failed to listen on %s: %s", which, strerror(err))
	}
}

// savePortnumbers writes the ports that we listen on to the file named by
// MEMCACHED_PORT_FILENAME.
func savePortnumbers() {
	name := os.Getenv("MEMCACHED_PORT_FILENAME")
	if name == "" {
		return
	}
	var ports []byte
	for _, l := range listeners {
		proto := [...]string{tcpTransport: "TCP", udpTransport: "UDP", metricsTransport: "HTTP"}[l.transport]
		sa, _ := unix.Getsockname(l.sfd)
		switch addr := addrPort(sa); {
		case addr.Addr().Is4():
			ports = fmt.Appendf(ports, "%s INET: %d\n", proto, addr.Port())
		case addr.Addr().Is6():
			ports = fmt.Appendf(ports, "%s INET6: %d\n", proto, addr.Port())
		}
	}
	if err := replaceFile(name, name+".lck", ports, 0o666); err != nil {
		fmt.Fprintf(os.Stderr, "Failed to open \"%s.lck\": %s\n", name, strerror(err))
	}
}

// serverConns makes conns for the sockets, once there are threads. A listening
// socket gets one conn, which the main thread serves. A UDP socket gets one for each
// worker that serves it, each with its own descriptor, so that "stats conns" shows
// them all.
func serverConns() {
	for _, l := range listeners {
		switch l.transport {
		case metricsTransport:
			metricsStart(l.sfd)
		case udpTransport:
			for i := range settings.net.numThreadsPerUdp {
				sfd := l.sfd
				if i > 0 {
					var err error
					sfd, err = unix.FcntlInt(uintptr(sfd), unix.F_DUPFD_CLOEXEC, 0)
					refuseErr(err, 1, "Failed to duplicate file descriptor")
				}
				dispatchConnNew(sfd, connRead, l.transport, l.bproto, sslDisabled)
			}
		default:
			c := connNew(l.sfd, connListening, l.transport, nil, l.bproto)
			refuse(c == nil, 1, "failed to create listening connection")
			c.sslEnabled = l.ssl
			c.next = listenConn
			listenConn = c
		}
	}
}

// mc9 --ask and mc9 --check: send a command to a server, for images with no
// other program. Not in C.

package main

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const askPatience = 2 * time.Second // until the first answer

// Answers that begin with these make the exit code 1.
var askErrors = []string{"ERROR", "CLIENT_ERROR", "SERVER_ERROR", "BUSY"}

var errAsk = errors.New("the answer, which has been printed, is an error")

// ask sends command to the server at addr, and prints the answer as it comes. An
// addr of "" stands for the address at which the other options would make a server
// listen. If command is "", ask only checks whether the server answers. It returns
// the exit code; if that is not 0, it has printed why.
func ask(command, addr string) int {
	limit := time.AfterFunc(askPatience, func() {
		sysfatal(1, "no answer within %v", askPatience)
	})
	conn, send, err := askOpen(addr)
	if command != "" && err == nil {
		limit.Stop()
		err = send(conn, command)
	}
	switch {
	case err == nil:
		return 0
	case err != errAsk:
		perror(map[bool]string{true: "check", false: "ask"}[command == ""], err)
	}
	return 1
}

// askOpen connects to the server, and finds out how to talk to it: with TLS or
// without, by askText or askBinary. A demand for a login counts as an answer.
func askOpen(addr string) (conn io.ReadWriteCloser, send func(io.ReadWriter, string) error, err error) {
	// The text is as long as a binary header, so that a server of that protocol
	// only answers with an error.
	text := fmt.Appendf(nil, "%-22s\r\n", "version")
	header := askHeader(nil, protocolBinaryCmdVersion, 0, 0, 0)
	secure := sslListen() != sslDisabled
	for _, withTls := range []bool{secure, !secure} {
		for _, hello := range [][]byte{text, header} {
			if withTls && !tlsBuild {
				continue
			}
			if conn, err = askDial(addr, withTls); err != nil {
				continue
			}
			reply, e := askOnce(conn, hello)
			switch {
			case strings.HasPrefix(reply, "VERSION "), strings.HasPrefix(reply, errUnauthenticated):
				return conn, askText, nil
			case len(reply) >= len(header) && reply[0] == protocolBinaryRes && reply[6]|reply[7] == 0:
				return conn, askBinary, nil
			}
			conn.Close()
			if err = e; e == nil || e == io.EOF {
				err = fmt.Errorf("unexpected answer %q", reply)
			}
		}
	}
	return nil, nil, err
}

// askOnce sends request and returns the start of the reply.
func askOnce(conn io.ReadWriter, request []byte) (string, error) {
	if _, err := conn.Write(request); err != nil {
		return "", err
	}
	return askRead(conn)
}

func askRead(conn io.Reader) (string, error) {
	var b [16 << 10]byte
	n, err := conn.Read(b[:])
	return string(b[:max(n, 0)]), err
}

// askText sends command and prints everything that comes. The server closes the
// connection after its answer, because a quit follows the command; watch and
// shutdown end in other ways.
func askText(conn io.ReadWriter, command string) error {
	if settings.auth.file != "" {
		user, pass, err := askUser(settings.auth.file)
		if err != nil {
			return err
		}
		reply, err := askOnce(conn, fmt.Appendf(nil, "set auth 0 0 %d\r\n%s %s\r\n", len(user)+1+len(pass), user, pass))
		if reply != "STORED\r\n" {
			os.Stdout.WriteString(reply)
			return cmp.Or(err, errAsk)
		}
	}
	command += "\r\n"
	if !strings.HasPrefix(command, "watch") && !strings.HasPrefix(command, "shutdown") {
		command += "quit\r\n"
	}
	reply, err := askOnce(conn, []byte(command))
	failed := slices.ContainsFunc(askErrors, func(s string) bool { return strings.HasPrefix(reply, s) })
	for ; err == nil; reply, err = askRead(conn) {
		os.Stdout.WriteString(reply)
	}
	os.Stdout.WriteString(reply)
	switch {
	case err != io.EOF:
		return err
	case failed:
		return errAsk
	}
	return nil
}

// askUser returns the first user in a file of -Y or -S.
func askUser(file string) (user, pass string, err error) {
	b, err := os.ReadFile(file)
	line, _, _ := strings.Cut(string(b), "\n")
	user, pass, _ = strings.Cut(strings.TrimRight(line, "\r"), ":")
	return user, pass, err
}

// askHeader appends the header of a binary request.
func askHeader(b []byte, cmd byte, extlen, keylen, bodylen int) []byte {
	b = append(b, protocolBinaryReq, cmd)
	b = binary.BigEndian.AppendUint16(b, uint16(keylen))
	b = append(b, byte(extlen), 0, 0, 0)
	b = binary.BigEndian.AppendUint32(b, uint32(bodylen))
	return append(b, make([]byte, 12)...)
}

// askBinary is askText for the binary protocol. It knows only version, stats and
// flush_all, and prints the answers as in text.
func askBinary(conn io.ReadWriter, command string) error {
	var b []byte
	if settings.auth.sasl {
		user, pass, err := askUser(os.Getenv("MEMCACHED_SASL_PWDB"))
		if err != nil {
			return err
		}
		plain := "PLAIN\x00" + user + "\x00" + pass
		b = append(askHeader(b, protocolBinaryCmdSaslAuth, 0, len("PLAIN"), len(plain)), plain...)
	}
	name, key, _ := strings.Cut(command, " ")
	switch name {
	case "version":
		b = askHeader(b, protocolBinaryCmdVersion, 0, 0, 0)
	case "stats":
		b = append(askHeader(b, protocolBinaryCmdStat, 0, len(key), len(key)), key...)
	case "flush_all":
		b = binary.BigEndian.AppendUint32(askHeader(b, protocolBinaryCmdFlush, 4, 0, 4), uint32(atoi(key)))
	default:
		return errors.New("this server speaks the binary protocol only: ask for version, stats or flush_all")
	}
	if _, err := conn.Write(askHeader(b, protocolBinaryCmdQuit, 0, 0, 0)); err != nil {
		return err
	}
	b, err := io.ReadAll(conn)
	for len(b) >= 24 {
		keylen, n := int(binary.BigEndian.Uint16(b[2:])), 24+int(binary.BigEndian.Uint32(b[8:]))
		if n > len(b) || 24+keylen > n {
			break
		}
		key, value := b[24:24+keylen], b[24+keylen:n]
		switch {
		case b[6]|b[7] != 0:
			fmt.Printf("ERROR %s\n", value)
			return errAsk
		case b[1] == protocolBinaryCmdVersion:
			fmt.Printf("VERSION %s\n", value)
		case b[1] == protocolBinaryCmdStat && keylen == 0:
			fmt.Println("END")
		case b[1] == protocolBinaryCmdStat:
			fmt.Printf("STAT %s %s\n", key, value)
		case b[1] == protocolBinaryCmdFlush:
			fmt.Println("OK")
		}
		b = b[n:]
	}
	return err
}

// askDial connects to the server.
func askDial(addr string, withTls bool) (io.ReadWriteCloser, error) {
	family, sa, err := askAddr(addr)
	if err != nil {
		return nil, err
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), addr)
	if err := unix.Connect(fd, sa); err != nil {
		f.Close()
		return nil, err
	}
	if withTls {
		return sslAsk(f)
	}
	return f, nil
}

// askAddr parses addr: a path if it has a slash, otherwise an entry of -l.
// "" stands for the socket of -s, or else for the first address of -l with
// the port of -p. A wildcard address becomes loopback.
func askAddr(addr string) (family int, sa unix.Sockaddr, err error) {
	path := ""
	switch {
	case strings.Contains(addr, "/"):
		path = addr
	case addr == "":
		path = settings.net.socketpath
		addr = strings.FieldsFunc(settings.net.inter+",*", isListSeparator)[0]
	}
	if path != "" {
		return unix.AF_UNIX, &unix.SockaddrUnix{Name: path}, nil
	}
	host, port, _, err := splitListen(addr, settings.net.port)
	if err == nil && port <= 0 {
		err = errors.New("no port to connect to")
	}
	if err != nil {
		return 0, nil, err
	}
	addrs, err := getaddrinfo(cmp.Or(host, "*"))
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

// askArgs returns args, preceded by the options of process 1 if that is mc9 or
// memcached: in a container, process 1 is the server to ask.
func askArgs(args []string) []string {
	b, _ := os.ReadFile("/proc/1/cmdline")
	first := strings.Split(strings.TrimSuffix(string(b), "\x00"), "\x00")
	switch filepath.Base(first[0]) {
	case "mc9", "memcached", filepath.Base(args[0]):
		return append(first, args[1:]...)
	}
	return args
}

// mc9 --ask and mc9 --check: send a command to a server, for images with no
// other program. Not in C.

package main

import (
	"bytes"
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

// How to talk to a server.
type askWay struct{ tls, binary bool }

// Answers that begin with these make the exit code 1.
var askErrors = []string{"ERROR", "CLIENT_ERROR", "SERVER_ERROR", "BUSY"}

// ask sends command to the server at addr, and prints the answer as it comes. An
// addr of "" stands for the address at which the other options would make a server
// listen. If command is "", ask only checks whether the server answers. It returns
// the exit code; if that is not 0, it has printed why.
func ask(command, addr string) int {
	limit := time.AfterFunc(askPatience, func() {
		sysfatal(1, "no answer within %v", askPatience)
	})
	way, err := askHow(addr)
	if command != "" && err == nil {
		limit.Stop()
		err = askCommand(addr, way, command)
	}
	switch {
	case err == nil:
		return 0
	case err != errAsk:
		perror(map[bool]string{true: "check", false: "ask"}[command == ""], err)
	}
	return 1
}

var errAsk = errors.New("the answer, which has been printed, is an error")

// askHow finds out how to talk to the server. A demand for a login counts as an
// answer.
func askHow(addr string) (way askWay, err error) {
	var hello [48]byte // binary: two headers
	askHeader(hello[:0], protocolBinaryCmdVersion, 0, 0, 0)
	askHeader(hello[:24], protocolBinaryCmdQuit, 0, 0, 0)
	secure := sslListen() != sslDisabled
	for _, way = range []askWay{{secure, false}, {secure, true}, {!secure, false}, {!secure, true}} {
		if way.tls && !tlsBuild || way.binary && err != nil && err != unix.ECONNRESET {
			continue
		}
		// The text is as long as a binary header, so that a server of that
		// protocol only answers with an error.
		request := []byte("version\r\nversion\r\nquit\r\n")
		if way.binary {
			request = hello[:]
		}
		var reply []byte
		reply, err = askOnce(addr, way, request)
		switch {
		case way.binary && len(reply) >= 24 && reply[0] == protocolBinaryRes && reply[6]|reply[7] == 0,
			!way.binary && bytes.HasPrefix(reply, []byte("VERSION ")),
			!way.binary && bytes.HasPrefix(reply, []byte(errUnauthenticated)):
			return way, nil
		case err == nil && way.binary:
			err = fmt.Errorf("unexpected answer %q", reply)
		}
	}
	return way, err
}

// askOnce sends request on a new connection and returns the start of the reply.
func askOnce(addr string, way askWay, request []byte) ([]byte, error) {
	conn, err := askDial(addr, way)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if _, err := conn.Write(request); err != nil {
		return nil, err
	}
	reply := make([]byte, 256)
	n, err := conn.Read(reply)
	if err == io.EOF {
		err = nil
	}
	return reply[:max(n, 0)], err
}

// askCommand sends command and prints everything that comes. The server closes the
// connection after its answer, because a quit follows the command; watch and
// shutdown end in other ways.
func askCommand(addr string, way askWay, command string) error {
	conn, err := askDial(addr, way)
	if err != nil {
		return err
	}
	defer conn.Close()
	if way.binary {
		return askBinary(conn, command)
	}
	command += "\r\n"
	if !strings.HasPrefix(command, "watch") && !strings.HasPrefix(command, "shutdown") {
		command += "quit\r\n"
	}
	login := ""
	if settings.auth.file != "" {
		user, pass, err := askUser(settings.auth.file)
		if err != nil {
			return err
		}
		login = "STORED\r\n"
		command = fmt.Sprintf("set auth 0 0 %d\r\n%s %s\r\n%s", len(user)+1+len(pass), user, pass, command)
	}
	if _, err := io.WriteString(conn, command); err != nil {
		return err
	}
	return askPrint(conn, login)
}

// askPrint prints what comes from conn. If that begins with login, the answer to our
// login, login is left out. If it begins with one of askErrors, askPrint returns
// errAsk.
func askPrint(conn io.Reader, login string) error {
	var buf [16 << 10]byte
	var failed error
	begun := false
	for {
		n, err := conn.Read(buf[:])
		b := bytes.TrimPrefix(buf[:max(n, 0)], []byte(login))
		login = ""
		if !begun && slices.ContainsFunc(askErrors, func(s string) bool { return bytes.HasPrefix(b, []byte(s)) }) {
			failed = errAsk
		}
		begun = begun || len(b) > 0
		os.Stdout.Write(b)
		if err == io.EOF {
			return failed
		} else if err != nil {
			return err
		}
	}
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

// askBinary is the second half of askCommand for the binary protocol. It knows only
// version, stats and flush_all, and prints the answers as in text.
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
		delay := binary.BigEndian.AppendUint32(nil, uint32(atoi(key)))
		b = append(askHeader(b, protocolBinaryCmdFlush, len(delay), 0, len(delay)), delay...)
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
func askDial(addr string, way askWay) (io.ReadWriteCloser, error) {
	family, sa, err := askAddr(addr)
	if err != nil {
		return nil, err
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.Connect(fd, sa); err != nil {
		unix.Close(fd)
		return nil, err
	}
	f := os.NewFile(uintptr(fd), addr)
	if tlsBuild && way.tls {
		return sslAsk(f)
	}
	return f, nil
}

// askAddr parses addr: a path if it has a slash, otherwise an entry of -l.
// "" stands for the socket of -s, or else for the first address of -l with
// the port of -p. A wildcard address becomes loopback.
func askAddr(addr string) (family int, sa unix.Sockaddr, err error) {
	if addr == "" && settings.net.socketpath != "" {
		return unix.AF_UNIX, &unix.SockaddrUnix{Name: settings.net.socketpath}, nil
	}
	if strings.Contains(addr, "/") {
		return unix.AF_UNIX, &unix.SockaddrUnix{Name: addr}, nil
	}
	if addr == "" {
		addr = strings.FieldsFunc(settings.net.inter+",*", isListSeparator)[0]
	}
	host, port, _, _, err := splitListen(addr, settings.net.port)
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

// Authentication: by the file of -Y in the text protocol, by SASL (-S) in the
// binary one. From authfile.c; proto_text.c: try_read_command_asciiauth;
// sasl_defs.c and the SASL part of proto_bin.c. PLAIN is the only mechanism.

package main

import (
	"bytes"
	"crypto/subtle"
	"fmt"
	"os"
	"sync/atomic"
)

const (
	maxEntries     = 8  // users in the file of -Y
	minAuthReqLen  = 6  // bytes; a shorter line cannot be a login
	maxSaslMechLen = 32 // bytes
)

type authEntry struct{ user, pass []byte }

// The users of -Y. A reload may replace them at any time.
var mainAuthEntries atomic.Pointer[[]authEntry]

var (
	memcachedSaslPwdb string // name of the password file
	mySaslHostname    string // the realm of users who name none
)

// authfileLoad reads the users from file, one name:password per line. It returns "",
// or what is wrong with the file; in that case the users stay as they were.
func authfileLoad(file string) string {
	data, err := os.ReadFile(file)
	if err != nil {
		return fmt.Sprintf("Could not open authfile [%s] for reading, error %s", file, strerror(err))
	}
	var entries []authEntry
	n := 0
	for line := range bytes.Lines(data) {
		n++
		if len(entries) == maxEntries {
			fmt.Fprintf(os.Stderr, "WARNING: Authfile [%s] has more than %d users: line %d and those after it are ignored\n",
				file, maxEntries, n)
			break
		}
		user, pass, ok := bytes.Cut(line, []byte(":"))
		if !ok {
			return fmt.Sprintf("Authfile [%s] has a malformed entry in line %d. Should be 'user:password'", file, n)
		}
		if end := bytes.IndexAny(pass, "\r\n"); end >= 0 {
			pass = pass[:end]
		}
		entries = append(entries, authEntry{user, pass})
	}
	mainAuthEntries.Store(&entries)
	return ""
}

// authfileReload reads the file of -Y again, if there is one.
func authfileReload() {
	if settings.auth.file == "" {
		return
	}
	if problem := authfileLoad(settings.auth.file); problem != "" {
		fmt.Fprintf(os.Stderr, "%s. The users stay as they are.\n", problem)
	}
}

// authfileCheck compares with every user, so that the time it takes does not
// reveal a match.
func authfileCheck(user, pass []byte) bool {
	ok := 0
	for _, e := range *mainAuthEntries.Load() {
		ok |= subtle.ConstantTimeCompare(user, e.user) & subtle.ConstantTimeCompare(pass, e.pass)
	}
	return ok == 1
}

// tryReadCommandAsciiauth serves a client that has not logged in. It accepts
// only
//
//	set <key> <flags> <exptime> <bytes>
//	<user> <password>
//
// and ignores key, flags and exptime. It returns false if it needs more
// input.
func tryReadCommandAsciiauth(c *conn) bool {
	in := c.in.rbuf[c.in.rcurr : c.in.rcurr+c.in.rbytes]
	end := bytes.IndexByte(in, '\n') + 1 // of the first line
	switch {
	case end == 0 && len(in) <= 2048:
		return false
	case end <= minAuthReqLen: // too short for a login, or without an end
		closeAfterReplies(c)
		return true
	}
	pr := &c.thread.pr
	pr.request = in[:end]
	tokenizeCommand(pr, noMeta)
	size, ok := toktou32(pr.token(4))
	both := end + int(size) + len("\r\n")
	answer := ""
	switch {
	case !ok || !bytes.HasPrefix(in, []byte("set")):
		answer = errUnauthenticated
	case size > readBufferSize-2:
		answer = "CLIENT_ERROR auth token too long"
	case both > len(in):
		c.in.rbufGrows = true // both lines may need more than a buffer
		return false
	default:
		answer = asciiauthToken(c, in[end:both])
		end = both
	}
	c.in.rcurr += end
	c.in.rbytes -= end
	if respStart(c) {
		outErrstring(c, answer)
	}
	return true
}

// asciiauthToken logs c in if token, the second line of a login, is right. It
// returns the reply.
func asciiauthToken(c *conn, token []byte) string {
	token, ok := bytes.CutSuffix(token, []byte("\r\n"))
	if !ok {
		return "CLIENT_ERROR bad command line termination"
	}
	user, pass, ok := bytes.Cut(token, []byte(" "))
	if !ok {
		return "CLIENT_ERROR bad authentication token format"
	}
	n := &c.thread.stats.pending.n
	n[statAuthCmds]++
	if !authfileCheck(user, pass) {
		n[statAuthErrors]++
		return "CLIENT_ERROR authentication failure"
	}
	c.authenticated = true
	return "STORED"
}

// saslServerUserdbCheckpass reports whether the password file has this user
// and password. Its lines are user:password or user@hostname:password, with
// this machine's name. Passwords may contain colons; in C a password ends at its
// first colon.
func saslServerUserdbCheckpass(user, pass []byte) bool {
	pwdb, err := os.ReadFile(memcachedSaslPwdb)
	if err != nil {
		verbosef(1, "WARNING: Failed to open sasl database <%s>: %s", memcachedSaslPwdb, strerror(err))
		return false
	}
	entry := fmt.Appendf(nil, "%s:%s", user, pass)
	entryHere := fmt.Appendf(nil, "%s@%s:%s", user, mySaslHostname, pass)
	ok := 0
	for line := range bytes.Lines(pwdb) {
		line = bytes.TrimRight(line, "\r\n")
		ok |= subtle.ConstantTimeCompare(line, entry) | subtle.ConstantTimeCompare(line, entryHere)
	}
	return ok == 1 && !bytes.Contains(user, []byte(":"))
}

// initSasl finds the password file. Each login opens the file again, so it may
// change.
func initSasl() {
	memcachedSaslPwdb = os.Getenv("MEMCACHED_SASL_PWDB")
	if memcachedSaslPwdb == "" {
		fmt.Fprintf(os.Stderr, "WARNING: MEMCACHED_SASL_PWDB not specified: nobody can authenticate\n")
	}
	mySaslHostname, _ = os.Hostname()
}

// saslPlain reports whether a client's response to PLAIN is right:
//
//	[identity to act as] NUL user NUL password
func saslPlain(response []byte) bool {
	author, rest, _ := bytes.Cut(response, []byte{0})
	user, pass, ok := bytes.Cut(rest, []byte{0})
	if !ok || len(user) == 0 || bytes.IndexByte(pass, 0) >= 0 || len(author) > 0 && !bytes.Equal(author, user) {
		return false
	}
	ok = saslServerUserdbCheckpass(user, pass)
	if !ok {
		verbosef(1, "INFO: User <%s> failed to authenticate", user)
	}
	return ok
}

func binListSaslMechs(c *conn) {
	if !settings.auth.sasl {
		writeBinError(c, protocolBinaryResponseUnknownCommand, "", 0)
		return
	}
	c.authenticated = false // as in C, authentication starts over
	writeBinResponse(c, "PLAIN")
}

// processBinSaslAuth serves both SASL auth and SASL step. C reads the data into an
// item; here they must fit in the read buffer, so that clients that have not logged
// in take no item memory.
func processBinSaslAuth(c *conn, vlen int) {
	if !settings.auth.sasl {
		writeBinError(c, protocolBinaryResponseUnknownCommand, "", vlen)
		return
	}
	c.authenticated = false
	mech := binaryGetKey(c)
	switch {
	case len(mech) > maxSaslMechLen:
		writeBinError(c, protocolBinaryResponseEinval, "", vlen)
		return
	case c.in.rbytes < vlen:
		writeBinError(c, protocolBinaryResponseEnomem, "", vlen)
		return
	}
	challenge := c.in.rbuf[c.in.rcurr : c.in.rcurr+vlen]
	c.in.rcurr += vlen
	c.in.rbytes -= vlen
	verbosef(1, "mech:  ``%s'' with %d bytes of data", mech, vlen)
	ok, more := false, false
	switch {
	case c.cmd == protocolBinaryCmdSaslAuth:
		plain := bytes.EqualFold(mech, []byte("PLAIN"))
		more = plain && len(challenge) == 0 // PLAIN has no challenge, but a step may follow
		ok = plain && !more && saslPlain(challenge)
		c.bin.saslStarted = more
	case c.bin.saslStarted:
		ok = saslPlain(challenge)
		c.bin.saslStarted = !ok
	default:
		verbosef(1, "%d: SASL_STEP called but sasl_server_start not called for this connection!", c.sfd)
	}
	if more {
		addBinHeader(c, protocolBinaryResponseAuthContinue, 0, 0, 0)
		connSetState(c, connMwrite)
		return
	}
	n := &c.thread.stats.pending.n
	n[statAuthCmds]++
	if ok {
		c.authenticated = true
		writeBinResponse(c, "Authenticated")
	} else {
		n[statAuthErrors]++
		writeBinError(c, protocolBinaryResponseAuthError, "", 0)
	}
}

// authenticated reports whether c may run its command.
func authenticated(c *conn) bool {
	rv := c.authenticated
	switch c.cmd {
	case protocolBinaryCmdSaslListMechs, protocolBinaryCmdSaslAuth, protocolBinaryCmdSaslStep,
		protocolBinaryCmdVersion, protocolBinaryCmdNoop, protocolBinaryCmdQuit: // C refuses the last two
		rv = true
	}
	if settings.verbose.Load() > 1 {
		fmt.Fprintf(os.Stderr, "authenticated() in cmd 0x%02x is %t\n", c.cmd, rv)
	}
	return rv
}

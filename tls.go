//go:build tls

// TLS, built with -tags tls. From tls.c; crypto/tls takes OpenSSL's place.
//
// A handshake runs on a goroutine, which owns the connection meanwhile, as a
// side thread does during a dump, and then passes it to the worker by the pipe.
// From then on the worker reads and writes records itself, and never waits:
// crypto/tls keeps the part of a record that has arrived, and sslConn.out keeps
// the records that the socket has not taken.

package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const tlsBuild = true

// sslPatience is the time limit of a handshake; a shorter -o idle_timeout takes
// its place.
const sslPatience = 10 * time.Second

// The part of stats that is about TLS.
type sslCounters struct {
	sslProtoErrors     uint64 // errors after the handshake
	sslHandshakeErrors uint64 // and in it
	sslNewSessions     uint64 // handshakes that did not resume a session
}

// The part of a worker that is about TLS.
type sslThread struct {
	sslWbuf []byte // scratch of sslSendmsg
}

// The part of settings that is about TLS.
type sslSettings struct {
	sslEnabled             bool
	sslChainCert           string
	sslKey                 string
	sslVerifyMode          int // OpenSSL's bits, which stats settings shows
	sslKeyformat           int
	sslCiphers             string
	sslCaCert              string
	sslLastCertRefreshTime atomic.Uint32 // relTime
	sslWbufSize            int           // most bytes that are encrypted at a time
	sslSessionCache        bool
	sslMinVersion          uint16
}

const (
	sslVerifyPeer             = 1 << iota
	sslVerifyFailIfNoPeerCert // beside sslVerifyPeer
	sslVerifyClientOnce       // says nothing new: there is no renegotiation
)

const (
	sslFiletypePem  = 1
	sslFiletypeAsn1 = 2
)

var (
	sslCtxLock sync.Mutex                            // held to replace what is in
	sslCtx     atomic.Pointer[[sslModes]*tls.Config] // one for each sslMode

	sslSlots chan struct{} // room for the handshakes that may compute at once

	// Each handshake leaves garbage. This is never touched, so it takes no
	// memory, but makes the collector run after 16 MB and half of the heap, not
	// after 4 MB. It runs for long, as it waits for workers; see pollWait.
	sslBallast []byte //lint:ignore U1000 it only has to be there
)

// An sslConn is the TLS of a conn. It is also the net.Conn below crypto/tls,
// which calls no methods of it but those declared here.
type sslConn struct {
	net.Conn // nil
	c        *conn
	mode     sslMode
	tls      *tls.Conn

	// The handshake. Its goroutine owns the conn once begun is set.
	begun     atomic.Bool
	accepting bool // until it is over
	timer     *time.Timer
	late      atomic.Bool   // the timer has fired
	wake      chan struct{} // tells the goroutine of an event, or that it is late

	out  []byte // records that the socket has not taken, at most sslOutMax bytes
	owed int    // bytes in them that sslWrite has not returned as sent

	more    bool    // crypto/tls may have input: read before waiting
	records int     // whole records of the last recv that it has not returned yet
	header  [5]byte // of the record that is arriving
	nheader int     // bytes of header that have arrived
	body    int     // bytes that are still to follow the header
}

// sslOutMax limits sslConn.out, in bytes. A write and a handshake stay below
// it. A client exceeds it, and loses its connection, if it makes crypto/tls
// answer messages that are no requests, and does not read the answers.
func sslOutMax() int { return settings.sslWbufSize + 128<<10 }

// sslAccept shakes hands, then passes c to its worker, or has it closed.
func sslAccept(c *conn) {
	s := c.ssl
	sslSlots <- struct{}{}
	s.tls = tls.Server(s, sslCtx.Load()[s.mode])
	err := s.tls.Handshake()
	<-sslSlots
	s.timer.Stop()
	s.accepting = false
	if loggerEflags.Load()&logConnevents != 0 {
		loggerLogConnEvent(c, loggerConnectionNew)
		if name := sslGetPeerCn(c); name != "" {
			loggerLogText(loggerConnectionTls, c.sfd, uriencode(nil, []byte(name)))
		}
	}
	if err != nil {
		sslLogError(c, err)
		statsLock.Lock()
		stats.sslHandshakeErrors++
		statsLock.Unlock()
		sidethreadConnClose(c)
		return
	}
	if settings.sslSessionCache && !s.tls.ConnectionState().DidResume {
		statsLock.Lock()
		stats.sslNewSessions++ // C: ssl_new_session_callback
		statsLock.Unlock()
	}
	s.more = true // a request may have arrived with the end of the handshake
	redispatchConn(c)
}

// wait lets other handshakes compute until there is an event. It sends more of
// s.out then.
func (s *sslConn) wait() error {
	events := uint32(evRead | unix.EPOLLONESHOT)
	if len(s.out) > 0 {
		events |= evWrite
	}
	if err := pollMod(&s.c.thread.poll, s.c.sfd, events); err != nil {
		return err
	}
	<-sslSlots
	<-s.wake
	sslSlots <- struct{}{}
	if e := s.flush(); e != 0 && e != unix.EAGAIN {
		return e
	}
	return nil
}

// sslWake starts the handshake at the first event, and tells it of others. A
// stale event may come when the handshake is over.
func sslWake(s *sslConn) {
	if s.begun.CompareAndSwap(false, true) {
		go sslAccept(s.c)
		return
	}
	select {
	case s.wake <- struct{}{}:
	default: // it has been told, or is over
	}
}

// Read is how crypto/tls reads records. It takes EAGAIN for a temporary error,
// which its own Read returns, and can go on later.
func (s *sslConn) Read(b []byte) (int, error) {
	for {
		if s.accepting && s.late.Load() {
			return 0, os.ErrDeadlineExceeded
		}
		n, e := rawRecv(s.c.sfd, b)
		switch {
		case n > 0:
			s.countRecords(b[:n])
			return n, nil
		case e == 0:
			return 0, io.EOF
		case e == unix.EINTR:
		case e == unix.EAGAIN && s.accepting:
			if err := s.wait(); err != nil {
				return 0, err
			}
		default:
			return 0, e
		}
	}
}

// countRecords counts the records that end in b, which has just arrived.
func (s *sslConn) countRecords(b []byte) {
	s.records = 0
	for len(b) > 0 {
		if s.nheader < len(s.header) {
			n := copy(s.header[s.nheader:], b)
			s.nheader += n
			b = b[n:]
			s.body = int(s.header[3])<<8 | int(s.header[4])
		}
		n := min(s.body, len(b))
		s.body -= n
		b = b[n:]
		if s.nheader == len(s.header) && s.body == 0 {
			s.nheader = 0
			s.records++
		}
	}
}

// Write is how crypto/tls writes records. To it a short write is an error for
// good, so what the socket does not take is kept.
func (s *sslConn) Write(b []byte) (int, error) {
	n := 0
	if len(s.out) == 0 {
		var e unix.Errno
		if n, e = sslSend(s.c.sfd, b); e != 0 && e != unix.EAGAIN {
			return 0, e
		}
	}
	if len(s.out)+len(b)-n > sslOutMax() {
		return 0, errors.New("the client does not read")
	}
	s.out = append(s.out, b[n:]...)
	return len(b), nil
}

func (s *sslConn) SetWriteDeadline(time.Time) error { return nil }

// flush sends what is in s.out. It returns EAGAIN if something is left.
func (s *sslConn) flush() unix.Errno {
	n, e := sslSend(s.c.sfd, s.out)
	s.out = s.out[n:]
	if len(s.out) == 0 {
		s.out = nil
	}
	return e
}

// sslSend returns how many bytes of b the socket has taken.
func sslSend(sfd int, b []byte) (done int, e unix.Errno) {
	for done < len(b) && (e == 0 || e == unix.EINTR) {
		var n int
		n, e = rawSend(sfd, b[done:])
		done += max(n, 0)
	}
	return done, e
}

// sslGetPeerCn returns the name in the certificate of the client, or "".
func sslGetPeerCn(c *conn) string {
	certs := c.ssl.tls.ConnectionState().PeerCertificates
	if len(certs) == 0 {
		return ""
	}
	return certs[0].Subject.CommonName
}

// sslRead is recv(2), decrypted.
func sslRead(c *conn, b []byte) (int, unix.Errno) {
	s := c.ssl
	n, err := s.tls.Read(b)
	if n > 0 {
		if n < len(b) {
			s.records--
		}
		s.more = n == len(b) || s.records > 0 || err != nil
		return n, 0
	}
	s.more = false
	switch e, ok := err.(unix.Errno); {
	case ok && e == unix.EAGAIN:
		return -1, e
	case err == io.EOF:
		return 0, 0
	}
	return -1, sslProtoError(c, err)
}

// sslProtoError logs and counts an error that ends the connection, and returns
// an errno for it.
func sslProtoError(c *conn, err error) unix.Errno {
	sslLogError(c, err)
	var e unix.Errno
	if errors.As(err, &e) {
		return e
	}
	statsLock.Lock()
	stats.sslProtoErrors++
	statsLock.Unlock()
	return unix.EPROTO
}

// sslWrite is send(2), encrypted, for the worker or side thread that owns c.
// Bytes are sent when the socket has taken their records. Until then it returns
// EAGAIN and, as SSL_write, has to be called again with the same bytes; more may
// follow them.
func sslWrite(c *conn, b []byte) (int, unix.Errno) {
	s := c.ssl
	if len(s.out) > 0 {
		if e := s.flush(); e != 0 {
			return -1, e
		}
	}
	if n := s.owed; n > 0 {
		s.owed = 0
		return n, 0
	}
	n, err := s.tls.Write(b[:min(len(b), settings.sslWbufSize)])
	if err != nil {
		return -1, sslProtoError(c, err)
	}
	if len(s.out) > 0 {
		s.owed = n
		return -1, unix.EAGAIN
	}
	return n, 0
}

// sslSendmsg returns the beginning of r, for sslWrite.
func sslSendmsg(t *thread, r *resp) []byte {
	if len(r.iov) == 0 {
		b := r.wbuf[r.done:]
		return b[:min(len(b), settings.sslWbufSize)]
	}
	if t.sslWbuf == nil {
		t.sslWbuf = make([]byte, settings.sslWbufSize)
	}
	return t.sslWbuf[:respCopy(t.sslWbuf, r)]
}

// sslLogError logs err for watchers. It may quote the client, so all that does
// not print is escaped.
func sslLogError(c *conn, err error) {
	if loggerEflags.Load()&logConnevents == 0 {
		return
	}
	text := strconv.QuoteToASCII(err.Error())
	loggerLogText(loggerConnectionTlserror, c.sfd, text[1:len(text)-1])
}

// loadServerCertificates reads the certificates and puts them in force. If it
// cannot it returns why, and leaves the old ones in force.
func loadServerCertificates() (problem string) {
	if !settings.sslEnabled {
		return "Error TLS not enabled"
	}
	sslCtxLock.Lock()
	defer sslCtxLock.Unlock()
	config := tls.Config{
		ClientCAs:                   x509.NewCertPool(), // nil would be the system's
		MinVersion:                  settings.sslMinVersion,
		DynamicRecordSizingDisabled: true,
		// As OpenSSL 3.0: Go's default adds ML-KEM, which takes a fifth of a
		// handshake's time.
		CurvePreferences: []tls.CurveID{tls.X25519, tls.CurveP256, tls.CurveP384, tls.CurveP521},
	}
	chain, err := os.ReadFile(settings.sslChainCert)
	if err == nil {
		err = sslCheckChain(chain)
	}
	if err != nil {
		return fmt.Sprintf("Error loading the certificate chain: %s : %s", orNull(settings.sslChainCert), strerror(err))
	}
	cert, err := sslLoadKey(chain)
	if err != nil {
		return fmt.Sprintf("Error loading the key: %s : %s", orNull(settings.sslKey), strerror(err))
	}
	config.Certificates = []tls.Certificate{cert}
	if settings.sslCaCert != "" {
		ca, err := os.ReadFile(settings.sslCaCert)
		if err == nil && !config.ClientCAs.AppendCertsFromPEM(ca) {
			err = errors.New("no certificate in it")
		}
		if err != nil {
			return fmt.Sprintf("Error loading the CA certificate: %s : %s", settings.sslCaCert, strerror(err))
		}
	}
	if config.CipherSuites, problem = sslCipherList(settings.sslCiphers); problem != "" {
		return problem
	}
	var ctx [sslModes]*tls.Config
	for mode := range ctx {
		ctx[mode] = config.Clone()
		ctx[mode].ClientAuth = sslClientAuth(sslMode(mode))
	}
	sslCtx.Store(&ctx)
	settings.sslLastCertRefreshTime.Store(max(currentTime.Load(), itemUpdateInterval+2)) // see clockInit
	return ""
}

// sslCheckChain wants at least one certificate, and all of them readable.
func sslCheckChain(chain []byte) error {
	n := 0
	for block, rest := pem.Decode(chain); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return err
		}
		n++
	}
	if n == 0 {
		return errors.New("no certificate in it")
	}
	return nil
}

// sslLoadKey adds the key to the chain. Without ssl_key it is in the same file:
// so says memcached's help, though memcached wants ssl_key.
func sslLoadKey(chain []byte) (tls.Certificate, error) {
	key := chain
	if settings.sslKey != "" {
		var err error
		if key, err = os.ReadFile(settings.sslKey); err != nil {
			return tls.Certificate{}, err
		}
	}
	switch settings.sslKeyformat {
	case sslFiletypePem:
	case sslFiletypeAsn1:
		key = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})
	default:
		return tls.Certificate{}, errors.New("bad ssl filetype")
	}
	return tls.X509KeyPair(chain, key)
}

// sslClientAuth is what a listener of this mode wants of its clients.
func sslClientAuth(mode sslMode) tls.ClientAuthType {
	verify := settings.sslVerifyMode
	switch {
	case mode == sslEnabledNopeer, mode == sslEnabledDefault && verify == 0:
		return tls.NoClientCert
	case mode == sslEnabledDefault && verify&sslVerifyFailIfNoPeerCert == 0:
		return tls.VerifyClientCertIfGiven
	}
	return tls.RequireAndVerifyClientCert
}

// sslCipherName makes OpenSSL's name of a cipher suite from Go's, which is
// IANA's.
var sslCipherName = strings.NewReplacer("TLS_RSA_WITH_", "", "TLS_", "", "_WITH_", "-", "AES_", "AES",
	"3DES_EDE_CBC", "DES-CBC3", "_CBC", "", "RC4_128", "RC4", "POLY1305_SHA256", "POLY1305", "_", "-")

// sslCipherList finds the suites of -o ssl_ciphers. Those of TLS 1.3 cannot be
// chosen, nor can they in memcached.
func sslCipherList(list string) (ids []uint16, problem string) {
	for _, name := range strings.FieldsFunc(list, func(r rune) bool { return r == ':' || r == ' ' }) {
		n := len(ids)
		for _, suite := range append(tls.CipherSuites(), tls.InsecureCipherSuites()...) {
			if suite.SupportedVersions[0] != tls.VersionTLS13 && name == sslCipherName.Replace(suite.Name) {
				ids = append(ids, suite.ID)
			}
		}
		if len(ids) == n {
			return nil, "Error setting the provided cipher(s): " + name
		}
	}
	return ids, ""
}

// sslConnClose tells the client of the end, unless it has not taken all records
// before that.
func sslConnClose(c *conn) {
	if s := c.ssl; s.tls != nil && len(s.out) == 0 {
		s.tls.CloseWrite() // nothing happens if there was no handshake
	}
	c.ssl = nil
}

// sslPending tells whether c may have input of which epoll does not know.
func sslPending(c *conn) bool { return c.ssl != nil && c.ssl.more }

// sslInitConn prepares c, which is new, for the handshake, which begins when the
// client has sent something.
func sslInitConn(c *conn, mode sslMode) {
	limit := sslPatience
	if idle := time.Duration(settings.idleTimeout) * time.Second; idle != 0 {
		limit = min(limit, idle)
	}
	s := &sslConn{c: c, mode: mode, wake: make(chan struct{}, 1), accepting: true}
	c.ssl = s
	s.timer = time.AfterFunc(limit, func() {
		s.late.Store(true)
		sslWake(s)
	})
}

func sslInitSettings() {
	settings.sslKeyformat = sslFiletypePem
	settings.sslWbufSize = 16 << 10
	settings.sslMinVersion = tls.VersionTLS12
}

// sslInit ends the process if TLS cannot be had with these settings.
func sslInit() {
	if !settings.sslEnabled {
		return
	}
	if problem := loadServerCertificates(); problem != "" {
		sysfatal(exUsage, "%s", problem)
	}
	sslSlots = make(chan struct{}, sslThreads())
	debug.SetGCPercent(50)
	sslBallast = make([]byte, 32<<20)
}

// sslThreads returns how many handshakes may compute at once.
func sslThreads() int {
	if !settings.sslEnabled {
		return 0
	}
	return min(settings.numThreads, runtime.NumCPU())
}

// refreshCerts is the part of SIGHUP that is about TLS.
func refreshCerts() {
	if !settings.sslEnabled {
		return
	}
	if problem := loadServerCertificates(); problem != "" {
		fmt.Fprintf(os.Stderr, "Could not reload TLS certificates on SIGHUP: %s\n", problem)
	}
}

// processRefreshCertsCommand: refresh_certs. It returns false if the command is
// another.
func processRefreshCertsCommand(c *conn, pr *parser) bool {
	if !pr.prcmp(commandToken, "refresh_certs") {
		return false
	}
	problem := loadServerCertificates()
	if problem == "" {
		problem = "OK"
	}
	outString(c, problem)
	return true
}

// What -h says of TLS (C: ssl_help), in three places.
const (
	sslHelpListen = `. With -Z a prefix notls:, btls: or mtls: means no TLS,
                          TLS that asks for no certificate, or TLS that wants one`
	sslHelpEnable = `
-Z, --enable-ssl          speak TLS on TCP ports`
	sslHelp = `
   - ssl_chain_cert:      the server's certificate and those that it is signed with, in PEM
   - ssl_key:             its private key (default: in the file of ssl_chain_cert)
   - ssl_keyformat:       format of the key: 1 for PEM, 2 for DER (default: 1)
   - ssl_verify_mode:     certificate of a client: 0 does not ask for one, 1 checks it if
                          there is one, 2 and 3 refuse a client without one (default: 0)
   - ssl_ciphers:         cipher suites for TLS up to 1.2, OpenSSL's names with colons between
   - ssl_ca_cert:         those who may sign certificates of clients, in PEM (default: nobody)
   - ssl_wbuf_size:       kilobytes that are encrypted at a time (default: 16)
   - ssl_session_cache:   count new sessions; clients may resume a session in any case
   - ssl_min_version:     least version: 0, 1, 2 or 3 for TLS 1.0 to 1.3 (default: 2)`
)

func sslProtoText(version uint16) string {
	switch version {
	case tls.VersionTLS10:
		return "tlsv1.0"
	case tls.VersionTLS11:
		return "tlsv1.1"
	case tls.VersionTLS12:
		return "tlsv1.2"
	case tls.VersionTLS13:
		return "tlsv1.3"
	}
	return "unknown"
}

func sslSetVerifyMode(verify int) bool {
	switch verify {
	case 0:
		settings.sslVerifyMode = 0
	case 1:
		settings.sslVerifyMode = sslVerifyPeer
	case 2:
		settings.sslVerifyMode = sslVerifyPeer | sslVerifyFailIfNoPeerCert
	case 3:
		settings.sslVerifyMode = sslVerifyPeer | sslVerifyFailIfNoPeerCert | sslVerifyClientOnce
	default:
		return false
	}
	return true
}

func sslSetMinVersion(version int) bool {
	if version < 0 || version > 3 {
		return false
	}
	settings.sslMinVersion = tls.VersionTLS10 + uint16(version)
	return true
}

// sslEnable is -Z.
func sslEnable() { settings.sslEnabled = true }

// sslListen is the mode of a listener where -l has no prefix.
func sslListen() sslMode {
	if settings.sslEnabled {
		return sslEnabledDefault
	}
	return sslDisabled
}

// sslSuboption is the part of parseSuboption that is about TLS. It returns false
// for other suboptions.
func sslSuboption(name, value string, given bool) bool {
	switch name {
	case "ssl_session_cache":
		settings.sslSessionCache = true
		return true
	case "ssl_kernel_tls":
		sysfatal(exUsage, "Kernel TLS offload is not available")
	}
	if strings.HasPrefix(name, "ssl_") && !given {
		sysfatal(1, "Missing %s argument", name)
	}
	number := func() int {
		n, err := strconv.ParseInt(value, 10, 32)
		if err != nil {
			sysfatal(1, "could not parse argument to %s", name)
		}
		return int(n)
	}
	switch name {
	case "ssl_chain_cert":
		settings.sslChainCert = value
	case "ssl_key":
		settings.sslKey = value
	case "ssl_verify_mode":
		if !sslSetVerifyMode(number()) {
			sysfatal(1, "Invalid ssl_verify_mode. Use help to see valid options.")
		}
	case "ssl_keyformat":
		settings.sslKeyformat = number()
	case "ssl_ciphers":
		settings.sslCiphers = value
	case "ssl_ca_cert":
		settings.sslCaCert = value
	case "ssl_wbuf_size":
		settings.sslWbufSize = number() << 10
		if settings.sslWbufSize <= 0 {
			sysfatal(1, "ssl_wbuf_size must be > 0")
		}
	case "ssl_min_version":
		if !sslSetMinVersion(number()) {
			sysfatal(1, "Invalid ssl_min_version. Use help to see valid options.")
		}
	default:
		return false
	}
	return true
}

// sslCheckOptions is the part of checkOptions that is about TLS.
func sslCheckOptions() {
	if !settings.sslEnabled {
		return
	}
	if settings.port == 0 {
		sysfatal(exUsage, "ERROR: You cannot enable SSL without a TCP port.")
	}
	for _, name := range []string{settings.sslChainCert, settings.sslKey, settings.sslCaCert} {
		if options.daemonize && !options.maxcore && name != "" && !filepath.IsAbs(name) {
			sysfatal(exUsage, "-d changes to /: [%s] must be an absolute path", name)
		}
	}
}

// sslStats is the part of serverStats that is about TLS. statsLock is held.
func sslStats(c *conn, now relTime) {
	if !settings.sslEnabled {
		return
	}
	if settings.sslSessionCache {
		appendStat(c, "ssl_new_sessions", "%d", stats.sslNewSessions)
	}
	appendStat(c, "ssl_handshake_errors", "%d", stats.sslHandshakeErrors)
	appendStat(c, "ssl_proto_errors", "%d", stats.sslProtoErrors)
	appendStat(c, "time_since_server_cert_refresh", "%d", now-settings.sslLastCertRefreshTime.Load())
}

// sslStatSettings is the part of processStatSettings that is about TLS.
func sslStatSettings(c *conn) {
	orNil := func(s string) string { // as C's printf has it
		if s == "" {
			return "(null)"
		}
		return s
	}
	appendStat(c, "ssl_enabled", "%s", yesno(settings.sslEnabled))
	appendStat(c, "ssl_chain_cert", "%s", orNil(settings.sslChainCert))
	appendStat(c, "ssl_key", "%s", orNil(settings.sslKey))
	appendStat(c, "ssl_verify_mode", "%d", settings.sslVerifyMode)
	appendStat(c, "ssl_keyformat", "%d", settings.sslKeyformat)
	appendStat(c, "ssl_ciphers", "%s", orNull(settings.sslCiphers))
	appendStat(c, "ssl_ca_cert", "%s", orNull(settings.sslCaCert))
	appendStat(c, "ssl_wbuf_size", "%d", settings.sslWbufSize)
	appendStat(c, "ssl_session_cache", "%s", yesno(settings.sslSessionCache))
	appendStat(c, "ssl_kernel_tls", "no")
	appendStat(c, "ssl_min_version", "%s", sslProtoText(settings.sslMinVersion))
}

// sslAsk is the part of askDial that is about TLS. It takes any certificate, and
// offers the one of ssl_chain_cert, if there is one.
func sslAsk(f *os.File) (io.ReadWriteCloser, error) {
	conn, err := net.FileConn(f)
	f.Close()
	if err != nil {
		return nil, err
	}
	config := &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS10}
	if own, err := tls.LoadX509KeyPair(settings.sslChainCert, settings.sslKey); err == nil {
		config.Certificates = []tls.Certificate{own}
	}
	return sslAsked{tls.Client(conn, config)}, nil
}

// A sslAsked takes an alert, with which a server may ask for a certificate, for
// an answer that asks for a password.
type sslAsked struct{ *tls.Conn }

func (c sslAsked) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	var alert *net.OpError
	if errors.As(err, &alert) && alert.Op == "remote error" {
		return copy(b, errUnauthenticated+"\r\n"), io.EOF
	}
	return n, err
}

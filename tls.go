//go:build tls

// TLS, built with -tags tls. From tls.c; crypto/tls replaces OpenSSL.
//
// A goroutine runs the handshake. It owns the connection until the handshake is
// over, like a side thread during a dump, then hands it to the worker through the
// pipe. From then on the worker reads and writes records itself and never blocks:
// crypto/tls keeps a partly received record, and sslConn.out keeps records that
// the socket has not accepted.

package main

import (
	"bytes"
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const tlsBuild = true

// sslPatience limits how long a handshake waits for its client. A shorter
// -o idle_timeout replaces it.
const sslPatience = 10 * time.Second

// sslRecordMax is the space that crypto/tls needs to receive the largest record.
const sslRecordMax = 5 + 16<<10 + 2048 + bytes.MinRead

// sslCounters are the TLS counters of stats.
type sslCounters struct {
	sslProtoErrors     atomic.Uint64 // errors after the handshake
	sslHandshakeErrors atomic.Uint64 // failed handshakes
	sslNewSessions     atomic.Uint64 // handshakes that did not resume a session
}

// sslThread holds a worker's TLS buffers.
type sslThread struct {
	sslWbuf  []byte         // scratch of sslSendmsg
	sslRbufs []bytes.Buffer // record buffers not lent to a connection; see sslLend
	sslMade  int            // bytes allocated since the last call of gcAllocated
}

// sslSettings are the TLS settings.
type sslSettings struct {
	enabled             bool
	chainCert           string
	key                 string
	verifyMode          int // of ssl_verify_mode
	keyformat           int // 1 for PEM, 2 for DER
	ciphers             string
	caCert              string
	lastCertRefreshTime atomic.Uint32 // relTime
	wbufSize            int           // bytes encrypted at a time, at most
	sessionCache        bool
	minVersion          uint16
}

var (
	sslCtxLock sync.Mutex                            // serializes replacements of sslCtx
	sslCtx     atomic.Pointer[[sslModes]*tls.Config] // one for each sslMode

	// Handshakes take turns to compute, sslThreads of them at a time.
	sslTurns struct {
		lock  sync.Mutex
		free  int        // turns available
		begun []*sslConn // handshakes in progress that wait for a turn
		fresh []*sslConn // new ones, which come after these
	}

	sslCipherSuites []uint16 // from -o ssl_ciphers; nil for Go's defaults
)

// An sslConn is the TLS state of a conn. It is also the net.Conn underneath
// crypto/tls, which calls only the methods declared here.
type sslConn struct {
	net.Conn // nil
	c        *conn
	mode     sslMode
	tls      *tls.Conn

	// The handshake. Once begun is set, its goroutine owns the conn.
	begun     atomic.Bool
	accepting bool          // the handshake is not over
	greeted   bool          // the client has sent something
	turn      chan struct{} // tells the goroutine that it may compute; nil until its first turn
	wake      chan struct{} // tells the goroutine of an event or of the timer
	timer     *time.Timer   // runs while we wait for the client
	waiting   time.Time     // when that wait began
	left      time.Duration // how much longer we will wait

	out  []byte // records that the socket has not accepted, at most sslOutMax bytes
	owed int    // their payload, in bytes, that sslWrite has yet to report as sent

	more bool // crypto/tls may hold input: read before waiting
}

// sslOutMax limits sslConn.out, in bytes. A write or a handshake never reaches it.
// A client is disconnected if its handshake or alert replies exceed this unread.
func sslOutMax() int { return settings.ssl.wbufSize + 128<<10 }

// sslAccept runs the handshake of c, then returns c to its worker or asks the
// worker to close it. It begins with a turn.
func sslAccept(c *conn) {
	s := c.ssl
	s.tls = tls.Server(s, sslCtx.Load()[s.mode])
	// Impatient clients of a herd reconnect; handshakes for their old connections
	// would delay everybody.
	err := io.EOF
	fds := []unix.PollFd{{Fd: int32(c.sfd), Events: unix.POLLRDHUP}}
	if n, _ := unix.Poll(fds, 0); n <= 0 {
		err = s.tls.Handshake()
	}
	gcAllocated(64 << 10)
	sslEndTurn()
	s.accepting = false
	c.lastCmdTime = currentTime.Load() // the client has not been idle
	if loggerEflags.Load()&logConnevents != 0 {
		loggerLogConnEvent(c, loggerConnectionNew)
		certs := s.tls.ConnectionState().PeerCertificates // C: ssl_get_peer_cn
		if len(certs) > 0 && certs[0].Subject.CommonName != "" {
			loggerLogText(loggerConnectionTls, c.sfd, uriencode(nil, []byte(certs[0].Subject.CommonName)))
		}
	}
	if err != nil {
		sslLogError(c, err)
		stats.sslHandshakeErrors.Add(1)
		sidethreadConnClose(c)
		return
	}
	if settings.ssl.sessionCache && !s.tls.ConnectionState().DidResume {
		stats.sslNewSessions.Add(1) // C: ssl_new_session_callback
	}
	if hand := memTlsHand(s.tls); hand != nil && hand.Len() == 0 {
		*hand = bytes.Buffer{}
	}
	s.more = true // a request may have arrived with the end of the handshake
	redispatchConn(c)
}

// sslAwaitTurn queues s for a turn to compute. Handshakes in progress go before new
// ones: their clients have waited longer, and they need less.
func sslAwaitTurn(s *sslConn) {
	t := &sslTurns
	t.lock.Lock()
	if s.turn != nil {
		t.begun = append(t.begun, s)
	} else {
		t.fresh = append(t.fresh, s)
	}
	sslNextTurn()
	t.lock.Unlock()
}

func sslEndTurn() {
	sslTurns.lock.Lock()
	sslTurns.free++
	sslNextTurn()
	sslTurns.lock.Unlock()
}

// sslNextTurn gives free turns to queued connections. The caller holds
// sslTurns.lock.
func sslNextTurn() {
	t := &sslTurns
	for ; t.free > 0 && len(t.begun)+len(t.fresh) > 0; t.free-- {
		if len(t.begun) > 0 {
			t.begun[0].turn <- struct{}{}
			t.begun = slices.Delete(t.begun, 0, 1)
			continue
		}
		s := t.fresh[0]
		t.fresh = slices.Delete(t.fresh, 0, 1)
		s.turn = make(chan struct{}, 1)
		go sslAccept(s.c)
	}
}

// await gives up its turn until the client can be read from or written to, or has
// run out of time. Then it waits for another turn and flushes s.out.
func (s *sslConn) await() error {
	if s.left <= 0 {
		return os.ErrDeadlineExceeded
	}
	events := uint32(evRead | unix.EPOLLONESHOT)
	if len(s.out) > 0 {
		events |= evWrite
	}
	s.waiting = time.Now()
	if err := pollMod(&s.c.thread.poll, s.c.sfd, events); err != nil {
		return err
	}
	s.timer.Reset(s.left)
	sslEndTurn()
	<-s.wake
	s.waited()
	sslAwaitTurn(s)
	<-s.turn
	if e := s.flush(); e != 0 && e != unix.EAGAIN {
		return e
	}
	return nil
}

// waited ends a wait for the client and charges it for the time.
func (s *sslConn) waited() {
	s.timer.Stop()
	s.left -= time.Since(s.waiting)
}

// sslWake queues the handshake, if there is one, at the first event and wakes it at
// later ones. A stale event may arrive after the handshake.
func sslWake(s *sslConn) {
	if s == nil {
		return
	}
	if s.begun.CompareAndSwap(false, true) {
		s.waited()
		sslAwaitTurn(s)
		return
	}
	select {
	case s.wake <- struct{}{}:
	default: // already woken, or over
	}
}

// Read is what crypto/tls calls to receive records. EAGAIN counts as a temporary
// error there: tls.Conn.Read returns it, and can be called again.
func (s *sslConn) Read(b []byte) (int, error) {
	if !s.greeted {
		// Only a record's header: if it is plain text the rest stays unread, and
		// close(2) resets the connection, as in C.
		b = b[:5]
	}
	for {
		n, e := rawRecv(s.c.sfd, b)
		switch {
		case n > 0:
			s.greeted = true
			return n, nil
		case e == 0:
			return 0, io.EOF
		case e == unix.EINTR:
		case e == unix.EAGAIN && s.accepting:
			if err := s.await(); err != nil {
				return 0, err
			}
		default:
			return 0, e
		}
	}
}

// Write is what crypto/tls calls to send records. A short write would be a
// permanent error there, so Write keeps what the socket does not accept.
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

// flush sends s.out. It returns EAGAIN if some of it remains.
func (s *sslConn) flush() unix.Errno {
	n, e := sslSend(s.c.sfd, s.out)
	s.out = s.out[n:]
	if len(s.out) == 0 {
		s.out = nil
	}
	return e
}

// sslSend returns how many bytes of b the socket has accepted.
func sslSend(sfd int, b []byte) (done int, e unix.Errno) {
	for done < len(b) && (e == 0 || e == unix.EINTR) {
		var n int
		n, e = rawSend(sfd, b[done:])
		done += max(n, 0)
	}
	return done, e
}

// sslLend lends c's tls.Conn one of the worker's buffers to receive records in.
// Otherwise crypto/tls would allocate one for each connection and never free it.
func sslLend(c *conn) {
	in, t := memTlsRawInput(c.ssl.tls), c.thread
	if in == nil || in.Cap() > 0 {
		return
	}
	if n := len(t.sslRbufs); n > 0 {
		*in, t.sslRbufs = t.sslRbufs[n-1], t.sslRbufs[:n-1]
	} else {
		in.Grow(sslRecordMax)
	}
}

// sslRelease returns that buffer to the worker.
func sslRelease(c *conn) {
	in, t := memTlsRawInput(c.ssl.tls), c.thread
	if in == nil {
		return
	}
	in.Reset()
	if in.Cap() >= sslRecordMax { // a smaller one comes from the handshake
		t.sslRbufs = append(t.sslRbufs, *in)
	}
	*in = bytes.Buffer{}
}

// sslRead is recv(2) with decryption.
func sslRead(c *conn, b []byte) (int, unix.Errno) {
	s, t := c.ssl, c.thread
	if t.sslMade += 512; t.sslMade >= 1<<20 { // for what it receives and sends
		gcAllocated(t.sslMade)
		t.sslMade = 0
	}
	sslLend(c)
	n, err := s.tls.Read(b)
	raw, in := memTlsRawInput(s.tls), memTlsInput(s.tls)
	buffered := raw == nil || in == nil || raw.Len()+in.Len() > 0
	if !buffered {
		sslRelease(c)
	}
	if n > 0 {
		s.more = buffered || err != nil
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
	stats.sslProtoErrors.Add(1)
	return unix.EPROTO
}

// sslSendmsg sends the beginning of r for the worker or side thread that owns c.
func sslSendmsg(c *conn, r *resp) (int, unix.Errno) {
	if len(respPieces(r)) == 0 {
		return sslWrite(c, respTail(r))
	}
	t := c.thread
	if t.sslWbuf == nil {
		t.sslWbuf = make([]byte, settings.ssl.wbufSize)
	}
	return sslWrite(c, t.sslWbuf[:respCopy(t.sslWbuf, r)])
}

// sslWrite is send(2) with encryption. Bytes count as sent once the socket has
// accepted their records. Until then it returns EAGAIN and, like SSL_write, must be
// called again with the same bytes, possibly followed by more.
func sslWrite(c *conn, b []byte) (int, unix.Errno) {
	s := c.ssl
	if e := s.flush(); e != 0 {
		return 0, e
	}
	if n := s.owed; n > 0 {
		s.owed = 0
		return n, 0
	}
	n, err := s.tls.Write(b[:min(len(b), settings.ssl.wbufSize)])
	if err != nil {
		return 0, sslProtoError(c, err)
	}
	if len(s.out) > 0 {
		s.owed = n
		return 0, unix.EAGAIN
	}
	return n, 0
}

// sslLogError logs err for watchers. It escapes everything unprintable, as err may
// quote the client.
func sslLogError(c *conn, err error) {
	if loggerEflags.Load()&logConnevents == 0 {
		return
	}
	text := strconv.QuoteToASCII(err.Error())
	loggerLogText(loggerConnectionTlserror, c.sfd, text[1:len(text)-1])
}

// loadServerCertificates loads the certificates and the key for new connections.
// On failure it returns the reason, and the old ones stay in use.
func loadServerCertificates() (problem string) {
	if !settings.ssl.enabled {
		return "Error TLS not enabled"
	}
	sslCtxLock.Lock()
	defer sslCtxLock.Unlock()
	config := tls.Config{
		ClientCAs:                   x509.NewCertPool(), // nil would mean the system's
		MinVersion:                  settings.ssl.minVersion,
		DynamicRecordSizingDisabled: true,
		CipherSuites:                sslCipherSuites,
		// As in OpenSSL 3.0. Go's default adds ML-KEM, which takes a fifth of a
		// handshake's time.
		CurvePreferences: []tls.CurveID{tls.X25519, tls.CurveP256, tls.CurveP384, tls.CurveP521},
	}
	chain, err := sslCertificates(settings.ssl.chainCert)
	if err != nil {
		return fmt.Sprintf("Error loading the certificate chain: %s : %s", orNull(settings.ssl.chainCert), strerror(err))
	}
	cert, err := sslLoadKey(chain)
	if err != nil {
		return fmt.Sprintf("Error loading the key: %s : %s", orNull(settings.ssl.key), strerror(err))
	}
	config.Certificates = []tls.Certificate{cert}
	if settings.ssl.caCert != "" {
		known, err := sslCertificates(settings.ssl.caCert)
		if known == nil {
			return fmt.Sprintf("Error loading the CA certificate: %s : %s", settings.ssl.caCert, strerror(err))
		}
		for _, ca := range known {
			config.ClientCAs.AddCert(ca)
		}
	}
	var ctx [sslModes]*tls.Config
	for mode := range ctx {
		ctx[mode] = config.Clone()
		ctx[mode].ClientAuth = sslClientAuth(sslMode(mode))
	}
	sslCtx.Store(&ctx)
	settings.ssl.lastCertRefreshTime.Store(max(currentTime.Load(), clockBegin))
	return ""
}

// sslBlocks returns the blocks of a PEM file, in which byte order marks are
// ignored.
func sslBlocks(file []byte) (blocks []*pem.Block) {
	file = bytes.ReplaceAll(file, []byte("\ufeff"), nil)
	for block, rest := pem.Decode(file); block != nil; block, rest = pem.Decode(rest) {
		blocks = append(blocks, block)
	}
	return blocks
}

// sslCertificates returns the valid certificates in a PEM file, and an error if
// there are others or none.
func sslCertificates(name string) (certs []*x509.Certificate, err error) {
	file, err := os.ReadFile(name)
	for _, block := range sslBlocks(file) {
		der := block.Bytes
		switch block.Type {
		case "CERTIFICATE", "X509 CERTIFICATE":
		case "TRUSTED CERTIFICATE": // OpenSSL's trust settings follow the certificate
			var cert asn1.RawValue
			asn1.Unmarshal(der, &cert)
			der = cert.FullBytes
		default:
			continue
		}
		cert, e := x509.ParseCertificate(der)
		if e == nil {
			certs = append(certs, cert)
		} else {
			err = e
		}
	}
	if certs == nil && err == nil {
		err = errors.New("no certificate in it")
	}
	return certs, err
}

// sslLoadKey returns the chain with its key. Without ssl_key the key is in the
// chain's file. C's help says so, but C fails without ssl_key.
func sslLoadKey(certs []*x509.Certificate) (tls.Certificate, error) {
	key, err := os.ReadFile(cmp.Or(settings.ssl.key, settings.ssl.chainCert))
	if err != nil {
		return tls.Certificate{}, err
	}
	var chain, blocks []byte
	for _, cert := range certs {
		chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})...)
	}
	switch settings.ssl.keyformat {
	case 1:
		for _, block := range sslBlocks(key) {
			if block.Type == "ENCRYPTED PRIVATE KEY" || strings.Contains(block.Headers["Proc-Type"], "ENCRYPTED") {
				return tls.Certificate{}, errors.New("the key has a password; this makes a copy without: openssl pkey -in KEY -out COPY")
			}
			blocks = append(blocks, pem.EncodeToMemory(block)...)
		}
	case 2:
		blocks = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})
	default:
		return tls.Certificate{}, errors.New("bad ssl filetype")
	}
	return tls.X509KeyPair(chain, blocks)
}

// sslClientAuth returns what a listener of this mode requires of its clients.
func sslClientAuth(mode sslMode) tls.ClientAuthType {
	verify := settings.ssl.verifyMode
	switch {
	case mode == sslEnabledNopeer, mode == sslEnabledDefault && verify == 0:
		return tls.NoClientCert
	case mode == sslEnabledDefault && verify == 1:
		return tls.VerifyClientCertIfGiven
	}
	return tls.RequireAndVerifyClientCert
}

// sslCipherName turns Go's name of a cipher suite, which is IANA's, into
// OpenSSL's.
var sslCipherName = strings.NewReplacer("TLS_RSA_WITH_", "", "TLS_", "", "_WITH_", "-", "AES_", "AES",
	"3DES_EDE_CBC", "DES-CBC3", "_CBC", "", "RC4_128", "RC4", "POLY1305_SHA256", "POLY1305", "_", "-")

// sslSuites returns the cipher suites that OpenSSL's name of a suite or of a group
// stands for. As in C, suites of TLS 1.3 cannot be chosen.
func sslSuites(name string) (ids []uint16) {
	for _, suite := range append(tls.CipherSuites(), tls.InsecureCipherSuites()...) {
		usual := !suite.Insecure && (name == "HIGH" || name == "DEFAULT" || name == "ALL")
		if suite.SupportedVersions[0] != tls.VersionTLS13 && (usual || name == sslCipherName.Replace(suite.Name)) {
			ids = append(ids, suite.ID)
		}
	}
	return ids
}

// sslCipherList returns the cipher suites that -o ssl_ciphers selects, and the
// words in it that it does not know. crypto/tls has its own order of suites.
func sslCipherList(list string) (ids []uint16, unknown []string) {
	for _, name := range strings.FieldsFunc(list, func(r rune) bool { return strings.ContainsRune(":; ", r) }) {
		suites := sslSuites(strings.TrimLeft(name, "!-+"))
		switch {
		case len(suites) == 0:
			unknown = append(unknown, name)
		case name[0] == '!' || name[0] == '-':
			ids = slices.DeleteFunc(ids, func(id uint16) bool { return slices.Contains(suites, id) })
		default:
			ids = append(ids, suites...)
		}
	}
	return ids, unknown
}

// sslConnClose sends close_notify, if c has TLS, unless records are still unsent.
func sslConnClose(c *conn) {
	if s := c.ssl; s != nil && s.tls != nil && len(s.out) == 0 {
		s.tls.CloseWrite() // does nothing if the handshake failed
	}
	c.ssl = nil
}

// sslPending reports whether c may have input that epoll does not see.
func sslPending(c *conn) bool { return c.ssl != nil && c.ssl.more }

// sslInitConn prepares the new connection c for the handshake, which begins once
// the client has sent something.
func sslInitConn(c *conn, mode sslMode) {
	limit := sslPatience
	if idle := time.Duration(settings.net.idleTimeout) * time.Second; idle != 0 {
		limit = min(limit, idle)
	}
	s := &sslConn{c: c, mode: mode, accepting: true, wake: make(chan struct{}, 1), waiting: time.Now(), left: limit}
	c.ssl = s
	s.timer = time.AfterFunc(limit, func() { sslWake(s) })
	s.timer.Reset(limit) // orders the store to s.timer before the timer's sslWake
}

func sslInitSettings() {
	settings.ssl.keyformat = 1
	settings.ssl.wbufSize = 16 << 10
	settings.ssl.minVersion = tls.VersionTLS12
}

// sslInit sets up TLS. It exits if the settings do not allow that.
func sslInit() {
	if !settings.ssl.enabled {
		return
	}
	var unknown []string
	sslCipherSuites, unknown = sslCipherList(settings.ssl.ciphers)
	refuse(settings.ssl.ciphers != "" && len(sslCipherSuites) == 0,
		exUsage, "Error setting the provided cipher(s): %s", settings.ssl.ciphers)
	if len(unknown) > 0 {
		fmt.Fprintf(os.Stderr, "WARNING: these have no effect in ssl_ciphers: %s\n", strings.Join(unknown, " "))
	}
	problem := loadServerCertificates()
	refuse(problem != "", exUsage, "%s", problem)
	sslTurns.free = sslThreads()
}

// sslThreads returns how many handshakes may compute at the same time.
func sslThreads() int {
	if !settings.ssl.enabled {
		return 0
	}
	return min(settings.numThreads, runtime.NumCPU())
}

// sslMemory returns the bytes that checkMemory allows for TLS: garbage, and the
// handshakes of a herd of 4000 clients.
func sslMemory() uint64 {
	if !settings.ssl.enabled {
		return 0
	}
	return 32 << 20
}

// refreshCerts reloads the certificates on SIGHUP.
func refreshCerts() {
	if !settings.ssl.enabled {
		return
	}
	if problem := loadServerCertificates(); problem != "" {
		fmt.Fprintf(os.Stderr, "Could not reload TLS certificates on SIGHUP: %s\n", problem)
	}
}

// processRefreshCertsCommand serves refresh_certs. It returns false for any other
// command.
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

func sslSetVerifyMode(verify uint32) {
	refuse(verify > 3, 1, "Invalid ssl_verify_mode. Use help to see valid options.")
	settings.ssl.verifyMode = int(verify)
}

func sslSetMinVersion(version uint32) {
	refuse(version > 3, 1, "Invalid ssl_min_version. Use help to see valid options.")
	settings.ssl.minVersion = tls.VersionTLS10 + uint16(version)
}

// sslListen returns the mode of a listener without a prefix in -l.
func sslListen() sslMode {
	if settings.ssl.enabled {
		return sslEnabledDefault
	}
	return sslDisabled
}

const sslHelpListen = `. With -Z a prefix notls:, btls: or mtls: means no TLS,
TLS without client certificates, or TLS that requires them`

// sslOptions and sslSuboptions are the options of TLS (C: ssl_help).
func sslOptions() []option {
	return []option{{"-Z, --enable-ssl", "", "speak TLS on TCP ports", setFlag(&settings.ssl.enabled, true)}}
}

func sslSuboptions() []option {
	return []option{
		{"ssl_chain_cert", missingArgument, "the server's certificate and its CA chain, in PEM", setText(&settings.ssl.chainCert, "")},
		{"ssl_key", missingArgument, "its private key (default: in the file of ssl_chain_cert)", setText(&settings.ssl.key, "")},
		numberOption("ssl_keyformat", "format of the key: 1 for PEM, 2 for DER (default: 1)",
			func(n uint32) { settings.ssl.keyformat = int(n) }),
		numberOption("ssl_verify_mode", `client certificates: 0 does not ask for one, 1 checks it if there
is one, 2 and 3 refuse clients without one (default: 0)`, sslSetVerifyMode),
		{"ssl_ciphers", missingArgument, "cipher suites for TLS up to 1.2: OpenSSL's names, separated by colons", setText(&settings.ssl.ciphers, "")},
		{"ssl_ca_cert", missingArgument, "CA certificates trusted for clients, in PEM (default: none)", setText(&settings.ssl.caCert, "")},
		numberOption("ssl_wbuf_size", "kilobytes encrypted at a time (default: 16)", sslSetWbufSize),
		{"ssl_session_cache", "", "count new sessions; clients may resume a session in any case", setFlag(&settings.ssl.sessionCache, true)},
		numberOption("ssl_min_version", "minimum version: 0, 1, 2 or 3 for TLS 1.0 to 1.3 (default: 2)", sslSetMinVersion),
		{"ssl_kernel_tls", "", "", func(string) { sysfatal(exUsage, "Kernel TLS offload is not available") }},
	}
}

func sslSetWbufSize(n uint32) {
	refuse(n == 0, 1, "ssl_wbuf_size must be > 0")
	refuse(n > bufSizeMax>>10, 1, "ssl_wbuf_size must be at most %d (kilobytes)", bufSizeMax>>10)
	settings.ssl.wbufSize = int(n) << 10
}

// sslCheckOptions checks the TLS options once all are known.
func sslCheckOptions() {
	if !settings.ssl.enabled {
		return
	}
	refuse(settings.net.port == 0, exUsage, "ERROR: You cannot enable SSL without a TCP port.")
	for _, name := range []string{settings.ssl.chainCert, settings.ssl.key, settings.ssl.caCert} {
		checkPath("", name)
	}
}

// sslStatLines are the TLS statistics.
var sslStatLines = []statLine{
	{"ssl_new_sessions", func() bool { return settings.ssl.enabled && settings.ssl.sessionCache }, &stats.sslNewSessions},
	{"ssl_handshake_errors", sslEnabled, &stats.sslHandshakeErrors},
	{"ssl_proto_errors", sslEnabled, &stats.sslProtoErrors},
	{"time_since_server_cert_refresh", sslEnabled, func(threadBufs) any {
		return currentTime.Load() - settings.ssl.lastCertRefreshTime.Load()
	}},
}

func sslEnabled() bool { return settings.ssl.enabled }

// sslStatSettings are the TLS settings in stats settings.
func sslStatSettings() []setting {
	const null = "(null)" // as C's printf prints NULL
	return []setting{
		{"ssl_enabled", settings.ssl.enabled},
		{"ssl_chain_cert", cmp.Or(settings.ssl.chainCert, null)},
		{"ssl_key", cmp.Or(settings.ssl.key, null)},
		{"ssl_verify_mode", [...]int{0, 1, 3, 7}[settings.ssl.verifyMode]}, // OpenSSL's bits
		{"ssl_keyformat", settings.ssl.keyformat},
		{"ssl_ciphers", orNull(settings.ssl.ciphers)},
		{"ssl_ca_cert", orNull(settings.ssl.caCert)},
		{"ssl_wbuf_size", settings.ssl.wbufSize},
		{"ssl_session_cache", settings.ssl.sessionCache},
		{"ssl_kernel_tls", "no"},
		{"ssl_min_version", fmt.Sprintf("tlsv1.%d", settings.ssl.minVersion-tls.VersionTLS10)},
	}
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
	if own, err := tls.LoadX509KeyPair(settings.ssl.chainCert, settings.ssl.key); err == nil {
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

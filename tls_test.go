//go:build tls

// TLS: options, certificates, and clients that misbehave.

package main

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func makeRsaCert(t testing.TB, name string, bits int) *testCert {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return makeCertFor(t, name, key, nil)
}

// tlsServer runs mc9 with a certificate and these options.
func tlsServer(t testing.TB, options ...string) *server {
	t.Helper()
	return start(t, "", true, append(options, makeCert(t, "localhost", nil).flags()...)...)
}

// plain connects to a TLS server without TLS.
func (s *server) plain() net.Conn {
	s.t.Helper()
	c, err := net.Dial("tcp", "127.0.0.1:"+s.port["TCP INET"])
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(2 * patience))
	return c
}

func TestTlsOptions(t *testing.T) {
	cert, other := makeCert(t, "localhost", nil), makeCert(t, "other", nil)
	none := cert.pem + ".none"
	locked, old := cert.key+".locked", cert.key+".old"
	os.WriteFile(locked, []byte("-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n"), 0o644)
	os.WriteFile(old, []byte("-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\nAAAA\n-----END EC PRIVATE KEY-----\n"), 0o644)
	with := "ssl_chain_cert=" + cert.pem + ",ssl_key=" + cert.key
	for _, tt := range []struct {
		options string
		code    int
		want    string
	}{
		{"-Z", 64, "Error loading the certificate chain: NULL : No such file or directory"},
		{"-Z -o ssl_chain_cert=" + none, 64, "Error loading the certificate chain: " + none + " : No such file or directory"},
		{"-Z -o ssl_chain_cert=" + cert.key, 64, "Error loading the certificate chain: " + cert.key + " : No certificate in it"},
		{"-Z -o ssl_chain_cert=" + cert.pem, 64, "Error loading the key: NULL : "},
		{"-Z -o ssl_chain_cert=" + cert.pem + ",ssl_key=" + none, 64, "Error loading the key: " + none + " : No such file or directory"},
		{"-Z -o ssl_chain_cert=" + cert.pem + ",ssl_key=" + other.key, 64, "Error loading the key: " + other.key + " : Tls: private key does not match public key"},
		{"-Z -o ssl_keyformat=2," + with, 64, "Error loading the key: " + cert.key + " : "},
		{"-Z -o ssl_keyformat=3," + with, 64, "Error loading the key: " + cert.key + " : Bad ssl filetype"},
		{"-Z -o ssl_ca_cert=" + none + "," + with, 64, "Error loading the CA certificate: " + none + " : No such file or directory"},
		{"-Z -o ssl_ca_cert=" + cert.key + "," + with, 64, "Error loading the CA certificate: " + cert.key + " : No certificate in it"},
		{"-Z -o ssl_ciphers=DHE-RSA-AES128-SHA:!HIGH," + with, 64, "Error setting the provided cipher(s): DHE-RSA-AES128-SHA:!HIGH"},
		{"-Z -o ssl_ciphers=TLS_AES_128_GCM_SHA256," + with, 64, "Error setting the provided cipher(s): TLS_AES_128_GCM_SHA256"},
		{"-Z -o ssl_key=" + locked + ",ssl_chain_cert=" + cert.pem, 64, "Error loading the key: " + locked + " : The key has a password"},
		{"-Z -o ssl_key=" + old + ",ssl_chain_cert=" + cert.pem, 64, "Error loading the key: " + old + " : The key has a password"},
		{"-Z -p 0 -o " + with, 64, "ERROR: You cannot enable SSL without a TCP port."},
		{"-Z -d -o ssl_chain_cert=cert.pem", 64, "-d changes to /: [cert.pem] must be an absolute path"},
		{"-o ssl_kernel_tls", 64, "Kernel TLS offload is not available"},
		{"-o ssl_chain_cert", 1, "Missing ssl_chain_cert argument"},
		{"-o ssl_verify_mode", 1, "Missing ssl_verify_mode argument"},
		{"-o ssl_verify_mode=x", 1, "could not parse argument to ssl_verify_mode"},
		{"-o ssl_verify_mode=4", 1, "Invalid ssl_verify_mode. Use help to see valid options."},
		{"-o ssl_keyformat=x", 1, "could not parse argument to ssl_keyformat"},
		{"-o ssl_wbuf_size=x", 1, "could not parse argument to ssl_wbuf_size"},
		{"-o ssl_wbuf_size=0", 1, "ssl_wbuf_size must be > 0"},
		{"-o ssl_wbuf_size=1000000000", 1, "ssl_wbuf_size must be at most 262144 (kilobytes)"},
		{"-o ssl_min_version=9", 1, "Invalid ssl_min_version. Use help to see valid options."},
		{"-o ssl_foo=1", 1, `Illegal suboption "ssl_foo=1"`},
		{"-l notls:127.0.0.1", 71, "'notls' option is valid only when SSL is enabled"},
	} {
		if code, out := run(t, strings.Fields(tt.options)...); code != tt.code || !strings.HasPrefix(out, tt.want) {
			t.Errorf("%s: %d, %s\nwant %d, %s", tt.options, code, out, tt.code, tt.want)
		}
	}
}

// The key may be in DER, or in the certificate's file. Files may have byte order
// marks, and certificates the other names that OpenSSL has for them.
func TestTlsKeys(t *testing.T) {
	cert := makeCert(t, "localhost", nil)
	key, _ := os.ReadFile(cert.key)
	chain, _ := os.ReadFile(cert.pem)
	file := func(name string, content ...[]byte) string {
		os.WriteFile(cert.pem+name, bytes.Join(content, nil), 0o644)
		return cert.pem + name
	}
	const bom = "\ufeff"
	both := file(".both", key, chain)
	marked := file(".marked", []byte(bom), chain, []byte(bom), key)
	trusted := file(".trusted", pem.EncodeToMemory(&pem.Block{Type: "TRUSTED CERTIFICATE", Bytes: append(cert.Leaf.Raw[:len(cert.Leaf.Raw):len(cert.Leaf.Raw)], "\x30\x00"...)}))
	former := file(".former", bytes.ReplaceAll(chain, []byte(" CERT"), []byte(" X509 CERT")))
	for _, options := range []string{"ssl_keyformat=2,ssl_chain_cert=" + cert.pem + ",ssl_key=" + cert.der, "ssl_chain_cert=" + both,
		"ssl_chain_cert=" + marked, "ssl_chain_cert=" + trusted + ",ssl_key=" + cert.key, "ssl_chain_cert=" + former + ",ssl_key=" + marked} {
		s := start(t, "", true, "-l", "127.0.0.1", "-p", "-1", "-Z", "-o", options)
		s.client().want(t, "get foo\r\n", "END\r\n")
	}
	for _, ca := range []string{marked, trusted, former} {
		s := start(t, "", true, append(cert.flags(), "-o", "ssl_verify_mode=2,ssl_ca_cert="+ca)...)
		s.tls.Certificates = []tls.Certificate{cert.Certificate}
		s.client().want(t, "get foo\r\n", "END\r\n")
	}
}

// Root may start a daemon of another user with a key that only root can read.
func TestTlsDaemon(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("not root")
	}
	cert := makeCert(t, "localhost", nil)
	os.Chmod(cert.key, 0o600)
	port := freePort(t)
	flags := []string{"-d", "-u", "nobody", "-l", "127.0.0.1", "-p", port, "-Z", "-o", "ssl_chain_cert=" + cert.pem + ",ssl_key=" + cert.key + ",ssl_ca_cert=" + cert.pem}
	if code, out := run(t, append(flags, "-o", "ssl_ciphers=DHE-RSA-AES128-SHA:HIGH")...); code != 0 ||
		out != "WARNING: these have no effect in ssl_ciphers: DHE-RSA-AES128-SHA\n" {
		t.Fatalf("%d, %s", code, out)
	}
	nc, err := tls.Dial("tcp", "127.0.0.1:"+port, &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	c := newClient(nc)
	pid := c.statN("pid")
	defer syscall.Kill(int(pid), syscall.SIGKILL)
	c.want(t, "refresh_certs\r\n", "Error loading the key: "+cert.key+" : Permission denied\r\n")
	os.Chmod(cert.key, 0o644)
	c.want(t, "refresh_certs\r\n", "OK\r\n")
}

func TestTlsSettings(t *testing.T) {
	cert := makeCert(t, "localhost", nil)
	s := start(t, "", true, append(cert.flags(), "-o", "ssl_verify_mode=3,ssl_ca_cert="+cert.pem,
		"-o", "ssl_wbuf_size=64,ssl_session_cache,ssl_min_version=0,ssl_ciphers=AES128-SHA")...)
	s.tls.Certificates = []tls.Certificate{cert.Certificate}
	c := s.client()
	for name, want := range map[string]string{
		"ssl_enabled": "yes", "ssl_chain_cert": cert.pem, "ssl_key": cert.key, "ssl_verify_mode": "7", "ssl_keyformat": "1",
		"ssl_ciphers": "AES128-SHA", "ssl_ca_cert": cert.pem, "ssl_wbuf_size": "65536", "ssl_session_cache": "yes",
		"ssl_kernel_tls": "no", "ssl_min_version": "tlsv1.0",
	} {
		if have := c.stat("settings", name); have != want {
			t.Errorf("%s: have %s, want %s", name, have, want)
		}
	}
	for name, want := range map[string]string{"ssl_new_sessions": "1", "ssl_handshake_errors": "0", "ssl_proto_errors": "0"} {
		if have := c.stat("", name); have != want {
			t.Errorf("%s: have %s, want %s", name, have, want)
		}
	}
	if n := c.statN("time_since_server_cert_refresh"); n > 60 {
		t.Error("time_since_server_cert_refresh", n)
	}
	c = start(t, "", true, "-l", "127.0.0.1", "-p", "-1").client()
	if c.stat("", "ssl_proto_errors") != "" {
		t.Error("ssl_proto_errors without -Z")
	}
}

// A suite given by OpenSSL's name is offered to clients, and no other.
func TestTlsCiphers(t *testing.T) {
	s := tlsServer(t, "-o", "ssl_min_version=0,ssl_ciphers=ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-ECDSA-AES128-SHA")
	s.tls.MinVersion, s.tls.MaxVersion = tls.VersionTLS10, tls.VersionTLS12
	for _, suite := range append(tls.CipherSuites(), tls.InsecureCipherSuites()...) {
		if suite.SupportedVersions[0] == tls.VersionTLS13 {
			continue
		}
		s.tls.CipherSuites = []uint16{suite.ID}
		c, err := s.dial()
		switch suite.ID {
		case tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA:
			if err != nil {
				t.Errorf("%s: %v", suite.Name, err)
				continue
			}
			newClient(c).want(t, "get foo\r\n", "END\r\n")
			c.Close()
		default:
			if err == nil {
				t.Errorf("%s is accepted", suite.Name)
			}
		}
	}

	// What is known in a list is used, though Go leaves it out by default.
	s = start(t, "", true, append(makeRsaCert(t, "localhost", 2048).flags(), "-o", "ssl_ciphers=HIGH:!ECDHE-RSA-AES128-SHA:DHE-RSA-AES128-SHA:AES128-SHA256:TLS_AES_128_GCM_SHA256:!aNULL")...)
	s.tls.MaxVersion = tls.VersionTLS12
	for suite, in := range map[uint16]bool{tls.TLS_RSA_WITH_AES_128_CBC_SHA256: true, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256: true,
		tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA: false, tls.TLS_RSA_WITH_AES_128_GCM_SHA256: false} {
		s.tls.CipherSuites = []uint16{suite}
		if c, err := s.dial(); (err == nil) != in {
			t.Errorf("%s: %v", tls.CipherSuiteName(suite), err)
		} else if err == nil {
			c.Close()
		}
	}
	if want := "no effect in ssl_ciphers: DHE-RSA-AES128-SHA TLS_AES_128_GCM_SHA256 !aNULL\n"; !strings.Contains(s.said(), want) {
		t.Errorf("have %s, want %s", s.said(), want)
	}

	openssl, err := exec.LookPath("openssl")
	if err != nil {
		return
	}
	out, _ := exec.Command(openssl, "ciphers", "-stdname", "ALL:@SECLEVEL=0").Output()
	names := map[string]string{}
	for _, line := range strings.Split(string(out), "\n") {
		if f := strings.Fields(line); len(f) > 2 {
			names[f[0]] = f[2]
		}
	}
	for _, suite := range tls.CipherSuites() {
		if name := names[suite.Name]; name != "" && suite.SupportedVersions[0] != tls.VersionTLS13 && name != sslCipherName.Replace(suite.Name) {
			t.Errorf("%s: have %s, want %s", suite.Name, sslCipherName.Replace(suite.Name), name)
		}
	}
}

func TestTlsVersions(t *testing.T) {
	for least, text := range []string{"tlsv1.0", "tlsv1.1", "tlsv1.2", "tlsv1.3"} {
		s := tlsServer(t, "-o", "ssl_min_version="+strconv.Itoa(least))
		for version := range 4 {
			s.tls.MinVersion = tls.VersionTLS10 + uint16(version)
			s.tls.MaxVersion = s.tls.MinVersion
			c, err := s.dial()
			if (err == nil) != (version >= least) {
				t.Errorf("%s: version 1.%d: %v", text, version, err)
			}
			if err == nil {
				if have := newClient(c).stat("settings", "ssl_min_version"); have != text {
					t.Errorf("have %s, want %s", have, text)
				}
				c.Close()
			}
		}
	}
}

// Which clients each mode and listener accepts.
func TestTlsVerify(t *testing.T) {
	ca := makeCert(t, "ca", nil)
	stranger := makeCert(t, "stranger", nil)
	known := makeCert(t, "known to us", ca)
	chain := makeCert(t, "localhost", ca)
	clients := []struct {
		name string
		cert *testCert
	}{{"nobody", nil}, {"stranger", stranger}, {"known", known}}
	for _, tt := range []struct {
		mode, listen string
		in           []bool // for each of clients: whether it is accepted
	}{
		{"0", "", []bool{true, true, true}},
		{"1", "", []bool{true, false, true}},
		{"2", "", []bool{false, false, true}},
		{"3", "", []bool{false, false, true}},
		{"3", "btls:", []bool{true, true, true}},
		{"0", "mtls:", []bool{false, false, true}},
	} {
		s := start(t, "", true, "-l", tt.listen+"127.0.0.1", "-p", "-1", "-Z", "-o",
			"ssl_verify_mode="+tt.mode+",ssl_chain_cert="+chain.pem+",ssl_key="+chain.key+",ssl_ca_cert="+ca.pem)
		s.tls.RootCAs = x509.NewCertPool()
		s.tls.RootCAs.AddCert(ca.Leaf)
		s.tls.ServerName, s.tls.InsecureSkipVerify = "localhost", false
		for i, client := range clients {
			s.tls.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
				if client.cert == nil {
					return new(tls.Certificate), nil
				}
				return &client.cert.Certificate, nil // even if the server does not ask for its issuer
			}
			for _, s.tls.MaxVersion = range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
				c, err := s.dial()
				reply := "none"
				if err == nil {
					reply = newClient(c).ask("get foo\r\n")
					c.Close()
				}
				if (reply == "END\r\n") != tt.in[i] {
					t.Errorf("ssl_verify_mode=%s %s: %s: %v %s", tt.mode, tt.listen, client.name, err, reply)
				}
			}
		}
	}
	// Without a CA file, the system's CAs do not take its place.
	s := tlsServer(t, "-o", "ssl_verify_mode=1")
	s.tls.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &known.Certificate, nil }
	s.tls.MaxVersion = tls.VersionTLS12
	if _, err := s.dial(); err == nil {
		t.Error("a certificate is accepted without a CA to verify it")
	}
}

// Each listener has its own mode. UDP has no TLS.
func TestTlsListeners(t *testing.T) {
	port := strings.Split(strings.Join(freePorts(t, 3), " "), " ")
	cert := makeCert(t, "localhost", nil)
	s := start(t, "", true, "-l", "notls:127.0.0.1:"+port[0]+",127.0.0.1:"+port[1]+",mtls:proto[ascii]:127.0.0.1:"+port[2],
		"-U", "-1", "-Z", "-o", "ssl_chain_cert="+cert.pem+",ssl_key="+cert.key+",ssl_ca_cert="+cert.pem)
	plain, err := net.Dial("tcp", "127.0.0.1:"+port[0])
	if err != nil {
		t.Fatal(err)
	}
	newClient(plain).want(t, "set foo 0 0 3\r\nbar\r\n", "STORED\r\n")
	config := &tls.Config{InsecureSkipVerify: true}
	c, err := tls.Dial("tcp", "127.0.0.1:"+port[1], config)
	if err != nil {
		t.Fatal(err)
	}
	newClient(c).want(t, "get foo\r\n", "VALUE foo 0 3\r\nbar\r\nEND\r\n")
	if c, err = tls.Dial("tcp", "127.0.0.1:"+port[2], config); err == nil {
		if reply := newClient(c).ask("get foo\r\n"); reply != closed {
			t.Errorf("without a certificate: %q", reply)
		}
	}
	config.Certificates = []tls.Certificate{cert.Certificate}
	if c, err = tls.Dial("tcp", "127.0.0.1:"+port[2], config); err != nil {
		t.Fatal(err)
	}
	newClient(c).want(t, "get foo\r\n", "VALUE foo 0 3\r\nbar\r\nEND\r\n")
	dialUdp(t, "127.0.0.1:"+s.port["UDP INET"]).want(t, 1, "get foo\r\n", "VALUE foo 0 3\r\nbar\r\nEND\r\n")
}

// freePorts returns n ports on which nobody listens.
func freePorts(t *testing.T, n int) (ports []string) {
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		_, port, _ := net.SplitHostPort(l.Addr().String())
		ports = append(ports, port)
	}
	return ports
}

// Unix sockets have no TLS, as in C.
func TestTlsUnix(t *testing.T) {
	cert := makeCert(t, "localhost", nil)
	s := mc9(t, "-Z", "-o", "ssl_chain_cert="+cert.pem+",ssl_key="+cert.key)
	s.client().want(t, "get foo\r\n", "END\r\n")
}

func TestTlsResume(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		s := tlsServer(t, "-o", "ssl_session_cache")
		s.tls.MaxVersion = version
		s.tls.ClientSessionCache = tls.NewLRUClientSessionCache(1)
		for i := range 3 {
			c := s.client()
			c.want(t, "get foo\r\n", "END\r\n")
			if resumed := c.Conn.(*tls.Conn).ConnectionState().DidResume; resumed != (i > 0) {
				t.Errorf("version %x: connection %d: resumed: %t", version, i, resumed)
			}
			if n := c.stat("", "ssl_new_sessions"); n != "1" {
				t.Errorf("version %x: connection %d: ssl_new_sessions %s", version, i, n)
			}
		}
	}
}

// A watcher sees the client's common name, and TLS errors.
func TestTlsWatch(t *testing.T) {
	ca := makeCert(t, "ca", nil)
	known := makeCert(t, "known to\nus", ca)
	s := start(t, "", true, append(ca.flags(), "-o", "ssl_verify_mode=1,ssl_ca_cert="+ca.pem)...)
	w := s.client()
	w.watch("connevents")
	c := s.client()
	c.want(t, "get foo\r\n", "END\r\n")
	alone := func() { c.wantStat(t, "curr_connections", "2") }
	s.tls.Certificates = []tls.Certificate{known.Certificate}
	s.client().Close()
	alone()
	s.tls.Certificates = nil
	s.client().Close()
	alone()
	io.WriteString(s.plain(), "get foo\r\n")
	alone()
	nc, err := s.dial()
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(nc.(*tls.Conn).NetConn(), "\x17\x03\x03\x00\x20garbage, 32 bytes of it or so...")
	alone()
	for _, want := range []string{
		`type=conn_new .* cfd=\d+`,
		"type=conn_new .*", `type=conn_tls cfd=\d+ cn=known%20to%0Aus`, "type=conn_close .* reason=normal .*",
		`type=conn_new .* cfd=\d+`, "type=conn_close .* reason=normal .*",
		"type=conn_new .*", `type=conntlserr fd=\d+ msg=tls: first record does not look like a TLS handshake`, "type=conn_close .* reason=error .*",
		"type=conn_new .*", `type=conntlserr fd=\d+ msg=local error: tls: bad record MAC`, "type=conn_close .* reason=error .*",
	} {
		if line := show(strings.TrimSuffix(w.line(), "\n")); !match(line, `~ts=\d+\.\d+ gid=\d+ `+want) {
			t.Errorf("have %s\nwant %s", line, want)
		}
	}
	c.wantStat(t, "ssl_handshake_errors", "1")
	c.wantStat(t, "ssl_proto_errors", "1")
}

// Changing the certificate under load fails no request; a bad certificate changes
// nothing, and the reason is given.
func TestTlsRefresh(t *testing.T) {
	certs := []*testCert{makeCert(t, "one", nil), makeCert(t, "two", nil)}
	cert := makeCert(t, "localhost", nil)
	put := func(from *testCert) {
		for _, name := range [][2]string{{from.pem, cert.pem}, {from.key, cert.key}} {
			b, _ := os.ReadFile(name[0])
			os.WriteFile(name[1]+".new", b, 0o644)
			os.Rename(name[1]+".new", name[1])
		}
	}
	put(certs[0])
	s := start(t, "", true, append(cert.flags(), "-t", "2")...)
	shown := func() string {
		t.Helper()
		c := s.client()
		defer c.Close()
		return c.Conn.(*tls.Conn).ConnectionState().PeerCertificates[0].Subject.CommonName
	}
	c := s.client()
	c.want(t, "set foo 0 0 3\r\nbar\r\n", "STORED\r\n")

	var done atomic.Bool
	var all sync.WaitGroup
	for i := range 4 {
		all.Add(1)
		go func() {
			defer all.Done()
			var nc *client
			for n := 0; !done.Load(); n++ {
				if nc == nil || i%2 == 0 { // every second request uses a new connection
					conn, err := s.dial()
					if err != nil {
						t.Error(err)
						return
					}
					defer conn.Close()
					nc = newClient(conn)
				}
				if have := nc.ask("get foo\r\n"); have != "VALUE foo 0 3\r\nbar\r\nEND\r\n" {
					t.Errorf("%q", have)
					return
				}
			}
		}()
	}
	for i := range 20 {
		want := certs[(i+1)%2]
		put(want)
		if i%3 == 2 {
			s.cmd.Process.Signal(syscall.SIGHUP)
			eventually(t, "a new certificate", func() bool { return shown() == want.Leaf.Subject.CommonName })
			continue
		}
		c.want(t, "refresh_certs\r\n", "OK\r\n")
		if have := shown(); have != want.Leaf.Subject.CommonName {
			t.Errorf("have %s, want %s", have, want.Leaf.Subject.CommonName)
		}
	}
	done.Store(true)
	all.Wait()

	before := shown()
	os.WriteFile(cert.key, []byte("no key"), 0o644)
	c.want(t, "refresh_certs\r\n", "Error loading the key: "+cert.key+" : Tls: failed to find any PEM data in key input\r\n")
	s.cmd.Process.Signal(syscall.SIGHUP)
	eventually(t, "it says why", func() bool {
		return strings.Contains(s.said(), "Could not reload TLS certificates on SIGHUP: Error loading the key: ")
	})
	if have := shown(); have != before {
		t.Errorf("have %s, want %s", have, before)
	}
	start(t, "", true, "-l", "127.0.0.1", "-p", "-1").client().want(t, "refresh_certs\r\n", "Error TLS not enabled\r\n")
}

// Clients that send nothing, part of a handshake, or garbage lose their own
// connection, at once or after idle_timeout, and disturb no others.
func TestTlsBadClients(t *testing.T) {
	s := tlsServer(t, "-t", "1", "-o", "idle_timeout=2")
	c := s.client()
	c.wantStat(t, "curr_connections", "1")
	fds := s.fds()
	first := &fuzzClient{fd: -1, damage: -1}
	tls.Client(first, s.tls).Handshake()
	hello := string(first.wire)
	const n = 30 // clients of each kind
	var all sync.WaitGroup
	conns := map[string][]net.Conn{}
	for _, said := range []string{"", hello[:1], hello[:len(hello)-1], hello, "\x16\x03\x01\xff\xff", hello[:5] + strings.Repeat("\xff", len(hello)-5),
		"get foo\r\n", "GET / HTTP/1.1\r\n\r\n", "\x80\x01", strings.Repeat("\x00", 100000), "dribble"} {
		for range n {
			nc := s.plain()
			conns[said] = append(conns[said], nc)
			if said != "dribble" {
				io.WriteString(nc, said)
				continue
			}
			all.Add(1)
			go func() {
				defer all.Done()
				for i := range hello {
					if _, err := io.WriteString(nc, hello[i:i+1]); err != nil {
						return
					}
					time.Sleep(50 * time.Millisecond)
				}
			}()
		}
	}
	for range 100 {
		c.want(t, "get foo\r\n", "END\r\n")
	}
	nc := s.client()
	nc.want(t, "get foo\r\n", "END\r\n")
	nc.Close()
	for said, conns := range conns {
		for _, nc := range conns {
			if _, err := io.Copy(io.Discard, nc); os.IsTimeout(err) {
				t.Fatalf("still connected after sending %.10q", said)
			}
			nc.Close()
		}
	}
	all.Wait()
	c.wantStat(t, "curr_connections", "1")
	c.wantStat(t, "ssl_handshake_errors", strconv.Itoa(n*len(conns)))
	eventually(t, "descriptors are closed", func() bool { return s.fds() <= fds })
}

// Many stalled handshakes do not keep others from theirs.
func TestTlsStalled(t *testing.T) {
	s := tlsServer(t, "-t", "1")
	first := &fuzzClient{fd: -1, damage: -1}
	tls.Client(first, s.tls).Handshake()
	for range 200 {
		nc := s.plain()
		nc.Write(first.wire)
		if _, err := nc.Read(make([]byte, 1)); err != nil { // now the server waits for the client
			t.Fatal(err)
		}
	}
	c := s.client()
	c.want(t, "get foo\r\n", "END\r\n")
	t.Logf("per handshake in progress: %d KB", (s.status("VmRSS"))/200)
}

// Handshakes that have begun compute first. The time for which a client waits
// until the server computes does not count.
func TestTlsTurns(t *testing.T) {
	fuzzTlsInit(t)
	th := fuzzInit(t, 0)
	config := fuzzTlsSettings(0)
	settings.net.idleTimeout = 1
	begin := time.Now()
	waiting := func() [2]int {
		sslTurns.lock.Lock()
		defer sslTurns.lock.Unlock()
		return [2]int{len(sslTurns.begun), len(sslTurns.fresh)}
	}
	until := func(what string, done func() bool) {
		t.Helper()
		for !done() {
			if fuzzEvents(th, 1); time.Since(begin) > patience {
				t.Fatal(what)
			}
		}
	}
	turns := func(n int) { // from now on
		sslTurns.lock.Lock()
		sslTurns.free = n
		sslNextTurn()
		sslTurns.lock.Unlock()
	}
	open := func() (*conn, *fuzzClient, chan error) {
		c, client := fuzzTlsStart(t, th, asciiProt)
		client.wait = int(patience / time.Millisecond)
		shaken := make(chan error, 1)
		go func() { shaken <- tls.Client(client, config).Handshake() }()
		return c, client, shaken
	}

	turns(0)
	c, client, shaken := open()
	until("the first one waits", func() bool { return waiting() == [2]int{0, 1} })
	until("time passes", func() bool { return time.Since(begin) > 1200*time.Millisecond })
	turns(sslThreads())
	until("the handshake is over", func() bool { return len(shaken) > 0 && c.state == connRead })
	if err := <-shaken; err != nil {
		t.Error(err)
	}
	fuzzTlsEnd(t, th, c, client)

	settings.net.idleTimeout = 0
	first := &fuzzClient{fd: -1, damage: -1}
	tls.Client(first, config).Handshake()
	c, client = fuzzTlsStart(t, th, asciiProt)
	unix.Write(client.fd, first.wire)
	until("the server answers", func() bool {
		n, _ := unix.Poll([]unix.PollFd{{Fd: int32(client.fd), Events: unix.POLLIN}}, 0)
		return n > 0
	})
	until("the server waits for the client", func() bool {
		sslTurns.lock.Lock()
		defer sslTurns.lock.Unlock()
		return sslTurns.free == sslThreads()
	})
	turns(0)
	c2, client2, shaken := open()
	until("the new one waits", func() bool { return waiting() == [2]int{0, 1} })
	unix.Write(client.fd, []byte("garbage, but it arrives"))
	until("the one that has begun waits", func() bool { return waiting() == [2]int{1, 1} })
	sslTurns.lock.Lock()
	sslTurns.free = 1
	sslNextTurn()
	if n := len(sslTurns.begun); n != 0 {
		t.Error("the new one goes first")
	}
	sslTurns.lock.Unlock()
	until("the handshake is over", func() bool { return len(shaken) > 0 && c2.state == connRead })
	turns(sslThreads())
	fuzzTlsEnd(t, th, c2, client2)
	fuzzTlsEnd(t, th, c, client)
}

// A connection that waits for a request has no buffer of crypto/tls, whatever it
// has moved before; one that waits for the rest of a record has its own.
func TestTlsIdle(t *testing.T) {
	if c := new(tls.Conn); memTlsRawInput(c) == nil || memTlsInput(c) == nil || memTlsHand(c) == nil {
		t.Fatal("crypto/tls has changed: see mem_tls.go")
	}
	fuzzTlsInit(t)
	th := fuzzInit(t, 0)
	config := fuzzTlsSettings(0)
	type open struct {
		c      *conn
		client *fuzzClient
		tls    *tls.Conn
	}
	var opens [4]open
	for i := range opens {
		c, client := fuzzTlsStart(t, th, asciiProt)
		client.wait = int(patience / time.Millisecond)
		conn := tls.Client(client, config)
		shaken := make(chan error, 1)
		go func() { shaken <- conn.Handshake() }()
		for len(shaken) == 0 || c.state != connRead {
			fuzzEvents(th, 1)
		}
		if err := <-shaken; err != nil {
			t.Fatal(err)
		}
		client.wait = 0
		opens[i] = open{c, client, conn}
	}
	request := fmt.Sprintf("set a 0 0 16000\r\n%s\r\nget a\r\n", pattern(16000, 1))
	for range 3 {
		for i, o := range opens {
			io.WriteString(o.tls, request)
			n, err := unix.Write(o.client.fd, o.client.wire[:len(o.client.wire)-i])
			if err != nil {
				t.Fatal(err)
			}
			o.client.wire = o.client.wire[n:]
		}
		for fuzzEvents(th, 0) {
		}
		for i, o := range opens {
			if n := memTlsRawInput(o.c.ssl.tls).Cap(); (n > 0) != (i > 0) {
				t.Errorf("%d bytes to come, and a buffer of %d", i, n)
			}
			unix.Write(o.client.fd, o.client.wire)
			o.client.wire = nil
		}
		for fuzzEvents(th, 0) {
		}
		for _, o := range opens {
			want := fmt.Sprintf("STORED\r\nVALUE a 0 16000\r\n%s\r\nEND\r\n", pattern(16000, 1))
			have := make([]byte, len(want))
			for n := 0; n < len(want) && !t.Failed(); {
				m, err := o.tls.Read(have[n:])
				if n += m; err != nil && err != unix.EAGAIN {
					t.Error(err)
				}
				fuzzEvents(th, 0)
			}
			if string(have) != want {
				t.Errorf("%.50q", have)
			}
			if n := memTlsRawInput(o.c.ssl.tls).Cap() + memTlsHand(o.c.ssl.tls).Cap(); n > 0 {
				t.Errorf("idle, with buffers of %d bytes", n)
			}
		}
		if n := len(th.sslRbufs); n != len(opens) {
			t.Errorf("the worker has %d buffers, want %d", n, len(opens))
		}
	}
	for _, o := range opens {
		fuzzTlsEnd(t, th, o.c, o.client)
	}
}

// A herd of clients, whose handshakes take longer than clients may take, is
// served.
func TestTlsHerd(t *testing.T) {
	s := start(t, "", true, append(makeRsaCert(t, "localhost", 4096).flags(), "-o", "idle_timeout=2")...)
	var all sync.WaitGroup
	begin := time.Now()
	for i := range 300 {
		nc := s.plain()
		all.Add(1)
		go func() {
			defer all.Done()
			c, err := sslClient(nc, s.tls)
			if err != nil {
				t.Errorf("client %d: %v", i, err)
				return
			}
			newClient(c).want(t, "get foo\r\n", "END\r\n")
		}()
	}
	all.Wait()
	t.Log(time.Since(begin))
}

// A client that speaks plain text is reset, as by memcached.
func TestTlsPlain(t *testing.T) {
	s := tlsServer(t)
	for _, said := range []string{"get foo\r\n", "set foo 0 0 100\r\n" + pattern(100, 1) + "\r\n"} {
		c := s.plain()
		io.WriteString(c, said)
		if n, err := c.Read(make([]byte, 100)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%.10q: %d, %v", said, n, err)
		}
	}
}

// Of TLS 1.2, a request that arrives behind a warning alert is answered.
func TestTlsWarning(t *testing.T) {
	s := tlsServer(t)
	var keys strings.Builder
	s.tls.KeyLogWriter = &keys
	s.tls.MaxVersion = tls.VersionTLS12
	s.tls.CipherSuites = []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256}
	wire := &wiretap{Conn: s.plain()}
	nc, err := sslClient(wire, s.tls)
	if err != nil {
		t.Fatal(err)
	}
	seal := tls12Seal(t, keys.String(), wire.heard[11:][:32])
	const alert, data = 21, 23
	records := append(seal(data, "get a\r\n"), seal(alert, "\x01\x5a")...) // user_canceled
	// crypto/tls receives again before it returns the first request.
	records = append(records, seal(data, "set b 0 0 8000\r\n"+pattern(8000, 1)+"\r\n")...)
	wire.Write(records)
	if reply := newClient(nc).line() + newClient(nc).line(); reply != "END\r\nSTORED\r\n" {
		t.Errorf("%q", reply)
	}
}

// A wiretap keeps what it reads.
type wiretap struct {
	net.Conn
	heard []byte
}

func (w *wiretap) Read(b []byte) (int, error) {
	n, err := w.Conn.Read(b)
	w.heard = append(w.heard, b[:n]...)
	return n, err
}

// tls12Seal returns a function that makes records as a client does after its
// handshake with TLS_*_WITH_AES_128_GCM_SHA256 (RFC 5246, RFC 5288). keys is
// what KeyLogWriter got.
func tls12Seal(t *testing.T, keys string, serverRandom []byte) func(kind byte, text string) []byte {
	var clientRandom, master []byte
	if _, err := fmt.Sscanf(keys, "CLIENT_RANDOM %x %x", &clientRandom, &master); err != nil {
		t.Fatal(err)
	}
	prf := func(b ...[]byte) []byte {
		h := hmac.New(sha256.New, master)
		h.Write(bytes.Join(b, nil))
		return h.Sum(nil)
	}
	seed := append(append([]byte("key expansion"), serverRandom...), clientRandom...)
	a1 := prf(seed)
	block := append(prf(a1, seed), prf(prf(a1), seed)...) // two keys of 16 bytes, two salts of 4
	key, err := aes.NewCipher(block[:16])
	if err != nil {
		t.Fatal(err)
	}
	gcm, _ := cipher.NewGCM(key)
	seq := uint64(0) // Finished had 0
	return func(kind byte, text string) []byte {
		seq++
		nonce := binary.BigEndian.AppendUint64(nil, seq)
		head := binary.BigEndian.AppendUint16(append(slices.Clone(nonce), kind, 3, 3), uint16(len(text)))
		sealed := gcm.Seal(nonce, append(block[32:36:36], nonce...), []byte(text), head)
		return append(binary.BigEndian.AppendUint16([]byte{kind, 3, 3}, uint16(len(sealed))), sealed...)
	}
}

// Values of all sizes in records of all sizes, to a slow client, and with -R 1,
// where a connection yields after each command.
func TestTlsValues(t *testing.T) {
	for _, options := range []string{"-o ssl_wbuf_size=1", "-o ssl_wbuf_size=64", "-R 1"} {
		s := tlsServer(t, append(strings.Fields(options), "-t", "1", "-m", "100")...)
		c := s.client()
		c.write("")
		var set, stored, want strings.Builder
		get := "get"
		for i, n := range []int{0, 1, 100, 1000, 2040, 2100, 10000, 16384, 16385, 40000, 500000, 600000, 1000000} {
			value := pattern(n, i)
			fmt.Fprintf(&set, "set k%d 0 0 %d\r\n%s\r\n", i, n, value)
			stored.WriteString("STORED\r\n")
			fmt.Fprintf(&want, "VALUE k%d 0 %d\r\n%s\r\n", i, n, value)
			get += fmt.Sprintf(" k%d", i)
		}
		want.WriteString("END\r\n")
		c.want(t, set.String(), stored.String())
		if have := c.ask(get + "\r\n"); have != want.String() {
			t.Errorf("%s: %d bytes, want %d, or not the same", options, len(have), want.Len())
		}
		// Requests in records of one byte, then many requests at once.
		for _, b := range []byte("get k1\r\nincr none 1\r\n") {
			c.write(string(b))
		}
		one := "VALUE k1 0 1\r\n" + pattern(1, 1) + "\r\nEND\r\n"
		c.want(t, "", one+"NOT_FOUND\r\n")
		c.want(t, strings.Repeat("get k1\r\n", 5000), strings.Repeat(one, 5000))

		slow := s.client()
		for range 10 {
			slow.write(get + "\r\n")
		}
		for range 50 {
			c.want(t, "get none\r\n", "END\r\n")
		}
		if have := slow.ask(""); have != strings.Repeat(want.String(), 10) {
			t.Errorf("%s: the slow client has %d bytes, want %d, or not the same", options, len(have), 10*want.Len())
		}
		if n := c.stat("", "ssl_proto_errors"); n != "0" {
			t.Error("ssl_proto_errors", n)
		}
	}
}

// Many clients are served in one round, with and without TLS.
func TestTlsRounds(t *testing.T) {
	ports := freePorts(t, 2)
	cert := makeCert(t, "localhost", nil)
	s := start(t, "", true, "-t", "1", "-v", "-l", "notls:127.0.0.1:"+ports[0]+",127.0.0.1:"+ports[1],
		"-Z", "-o", "ssl_chain_cert="+cert.pem+",ssl_key="+cert.key)
	var clients []*client
	for i := range 60 {
		nc, err := net.Dial("tcp", "127.0.0.1:"+ports[i%2])
		if err == nil && i%2 == 1 {
			nc, err = sslClient(nc, s.tls)
		}
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		c := newClient(nc)
		c.want(t, fmt.Sprintf("set k%d 0 0 3\r\n%03d\r\n", i, i), "STORED\r\n")
		clients = append(clients, c)
	}
	for range 20 {
		s.cmd.Process.Signal(syscall.SIGSTOP)
		for i, c := range clients {
			c.write(fmt.Sprintf("get k%d none\r\n", i))
		}
		s.cmd.Process.Signal(syscall.SIGCONT)
		for i, c := range clients {
			c.want(t, "", fmt.Sprintf("VALUE k%d 0 3\r\n%03d\r\nEND\r\n", i, i))
		}
	}
}

// Dumps and watchers are served by a side thread.
func TestTlsSidethreads(t *testing.T) {
	s := tlsServer(t)
	c := s.client()
	const n = 20000
	var set strings.Builder
	for i := range n {
		fmt.Fprintf(&set, "set key%d 0 0 1 noreply\r\nx\r\n", i)
	}
	c.ask(set.String())
	for _, mode := range []string{"all", "hash"} {
		c.write("lru_crawler metadump " + mode + "\r\nversion\r\n")
		if line := c.line(); line != "OK\r\n" {
			t.Fatalf("%q", line)
		}
		lines := 0
		for line := c.line(); line != "END\r\n"; line = c.line() {
			if lines++; !strings.HasPrefix(line, "key=key") {
				t.Fatalf("%q", line)
			}
		}
		if line := c.line(); lines != n || !strings.HasPrefix(line, "VERSION") {
			t.Errorf("%s: %d lines, then %q", mode, lines, line)
		}
	}
	w := s.client()
	w.watch("fetchers")
	c.want(t, strings.Repeat("get none\r\n", 1000), strings.Repeat("END\r\n", 1000))
	for range 1000 {
		if line := w.line(); !strings.Contains(line, " type=item_get key=none ") {
			t.Fatalf("%q", line)
		}
	}
	w.Close()
	c.wantStat(t, "curr_connections", "1")
}

// The server announces the end of the connection (close_notify).
func TestTlsClose(t *testing.T) {
	s := tlsServer(t, "-o", "idle_timeout=1")
	c := s.client()
	c.want(t, "get foo\r\n", "END\r\n")
	if _, err := io.Copy(io.Discard, c.Conn); err != nil { // without the alert the error is io.ErrUnexpectedEOF
		t.Error(err)
	}
	c = s.client()
	c.write("set foo 0 0 3\r\nbar\r\nget foo\r\n")
	c.Conn.(*tls.Conn).CloseWrite()
	if reply, err := io.ReadAll(c.r); string(reply) != "STORED\r\nVALUE foo 0 3\r\nbar\r\nEND\r\n" || err != nil {
		t.Errorf("%q, %v", reply, err)
	}
}

func TestTlsCheck(t *testing.T) {
	for _, options := range []string{"", "-B binary", "-S", "-o ssl_verify_mode=2", "-o ssl_min_version=3"} {
		s := tlsServer(t, strings.Fields(options)...)
		if code, out := run(t, "--check=127.0.0.1:"+s.port["TCP INET"]); code != 0 || out != "" {
			t.Errorf("%s: %d, %s", options, code, out)
		}
	}
}

// With the options of a server --ask speaks TLS from the start, and has a
// certificate where one is asked for.
func TestTlsAsk(t *testing.T) {
	ca := makeCert(t, "ca", nil)
	for _, options := range []string{"", "-B binary", "-S", "-o ssl_verify_mode=2,ssl_ca_cert=" + ca.pem} {
		flags := append(strings.Fields(options), makeCert(t, "localhost", ca).flags()...)
		s := start(t, "", true, flags...)
		code, out := run(t, append(flags, "--ask=stats", "127.0.0.1:"+s.port["TCP INET"])...)
		if code != 0 || !strings.Contains(out, "STAT ssl_handshake_errors 0") {
			t.Errorf("%s: %d, %s", options, code, out)
		}
	}
}

// Certificates for the tests of TLS, made on demand.

package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"flag"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Runs other tests over TLS, for example
//
//	go test -tags tls -tls -run 'TestStress|TestModel'
var overTls = flag.Bool("tls", false, "with -tags tls: servers speak TLS by TCP in place of a Unix socket")

// A testCert is a certificate and its key, also in the files NAME.pem, NAME.key
// and NAME.der (the key).
type testCert struct {
	tls.Certificate
	pem, key, der string
}

// makeCert makes a certificate for name, signed by parent, or self-signed if
// parent is nil.
func makeCert(t testing.TB, name string, parent *testCert) *testCert {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return makeCertFor(t, name, key, parent)
}

func makeCertFor(t testing.TB, name string, key crypto.Signer, parent *testCert) *testCert {
	t.Helper()
	must := func(err error) {
		if err != nil {
			t.Helper()
			t.Fatal(err)
		}
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	must(err)
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: name},
		DNSNames:              []string{name},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(100 * time.Hour),
		IsCA:                  parent == nil,
		BasicConstraintsValid: true,
	}
	signer, signerKey := template, any(key)
	if parent != nil {
		signer, signerKey = parent.Leaf, parent.PrivateKey
	}
	der, err := x509.CreateCertificate(rand.Reader, template, signer, key.Public(), signerKey)
	must(err)
	leaf, err := x509.ParseCertificate(der)
	must(err)
	keyDer, err := x509.MarshalPKCS8PrivateKey(key)
	must(err)
	dir, err := os.MkdirTemp("", "mc9") // not t.TempDir: stats settings shows the name
	must(err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	must(os.Chmod(dir, 0o755))
	base := filepath.Join(dir, "cert")
	c := &testCert{tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, base + ".pem", base + ".key", base + ".der"}
	must(os.WriteFile(c.pem, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644))
	must(os.WriteFile(c.key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDer}), 0o644))
	must(os.WriteFile(c.der, keyDer, 0o644))
	return c
}

// flags returns the flags for a server with this certificate.
func (c *testCert) flags() []string {
	return []string{"-l", "127.0.0.1", "-p", "-1", "-Z", "-o", "ssl_chain_cert=" + c.pem + ",ssl_key=" + c.key}
}

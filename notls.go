//go:build !tls

package main

import (
	"io"
	"os"

	"golang.org/x/sys/unix"
)

const tlsBuild = false

const sslHelpListen = ""

type (
	sslSettings struct{}
	sslCounters struct{}
	sslThread   struct{}
	sslConn     struct{}
)

var sslStatLines []statLine

func sslOptions() []option {
	return []option{{"-Z, --enable-ssl", "", "", func(string) { sysfatal(exUsage, "This server is not built with TLS support.") }}}
}

func sslInitSettings()                                    {}
func sslSuboptions() []option                             { return nil }
func sslCheckOptions()                                    {}
func sslListen() sslMode                                  { return sslDisabled }
func sslInit()                                            {}
func sslMemory() uint64                                   { return 0 }
func sslThreads() int                                     { return 0 }
func refreshCerts()                                       {}
func processRefreshCertsCommand(c *conn, pr *parser) bool { return false }
func sslInitConn(c *conn, mode sslMode)                   {}
func sslConnClose(c *conn)                                {}
func sslWake(s *sslConn)                                  {}
func sslPending(c *conn) bool                             { return false }
func sslRead(c *conn, b []byte) (int, unix.Errno)         { return 0, 0 }
func sslSendmsg(c *conn, r *resp) (int, unix.Errno)       { return 0, 0 }
func sslStatSettings() []setting                          { return nil }
func sslAsk(f *os.File) (io.ReadWriteCloser, error)       { return nil, nil }

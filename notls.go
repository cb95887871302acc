//go:build !tls

package main

import (
	"io"
	"os"

	"golang.org/x/sys/unix"
)

const tlsBuild = false

const sslHelpListen, sslHelpEnable, sslHelp = "", "", ""

type (
	sslSettings struct{}
	sslCounters struct{}
	sslThread   struct{}
	sslConn     struct{}
)

func sslEnable() { sysfatal(exUsage, "This server is not built with TLS support.") }

func sslInitSettings()                                    {}
func sslSuboption(name, value string, given bool) bool    { return false }
func sslCheckOptions()                                    {}
func sslListen() sslMode                                  { return sslDisabled }
func sslInit()                                            {}
func sslThreads() int                                     { return 0 }
func refreshCerts()                                       {}
func processRefreshCertsCommand(c *conn, pr *parser) bool { return false }
func sslInitConn(c *conn, mode sslMode)                   {}
func sslConnClose(c *conn)                                {}
func sslWake(s *sslConn)                                  {}
func sslPending(c *conn) bool                             { return false }
func sslRead(c *conn, b []byte) (int, unix.Errno)         { return 0, 0 }
func sslWrite(c *conn, b []byte) (int, unix.Errno)        { return 0, 0 }
func sslSendmsg(t *thread, r *resp) []byte                { return nil }
func sslStats(c *conn, now relTime)                       {}
func sslStatSettings(c *conn)                             {}
func sslAsk(f *os.File) (io.ReadWriteCloser, error)       { return nil, nil }

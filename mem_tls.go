//go:build tls

// The buffers of a tls.Conn, which crypto/tls neither exports nor frees. This is
// beside mem.go because it needs unsafe.

package main

import (
	"bytes"
	"crypto/tls"
	"reflect"
	"unsafe"
)

// Each returns a buffer of the tls.Conn, or nil if this version of Go has no such
// field. The caller owns the tls.Conn. It may replace an empty buffer; rawInput only
// if input is empty as well.
var (
	memTlsRawInput = memTlsField[bytes.Buffer]("rawInput") // records as they arrive
	memTlsInput    = memTlsField[bytes.Reader]("input")    // the last one, decrypted in place
	memTlsHand     = memTlsField[bytes.Buffer]("hand")     // messages of the handshake
)

func memTlsField[T any](name string) func(*tls.Conn) *T {
	f, ok := reflect.TypeFor[tls.Conn]().FieldByName(name)
	if !ok || f.Type != reflect.TypeFor[T]() {
		return func(*tls.Conn) *T { return nil }
	}
	return func(c *tls.Conn) *T { return (*T)(unsafe.Add(unsafe.Pointer(c), f.Offset)) }
}

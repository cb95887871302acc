//go:build tls

// The buffers of crypto/tls that it never frees. Part of mem.go, as it needs
// unsafe.

package main

import (
	"bytes"
	"crypto/tls"
	"reflect"
	"unsafe"
)

// A memTlsField is where in a tls.Conn a buffer is.
type memTlsField struct {
	offset uintptr
	ok     bool // this version of Go has it
}

var (
	memTlsRawInput = memTlsFind("rawInput") // records as they arrive
	memTlsHand     = memTlsFind("hand")     // messages of the handshake
)

func memTlsFind(name string) memTlsField {
	f, ok := reflect.TypeFor[tls.Conn]().FieldByName(name)
	return memTlsField{f.Offset, ok && f.Type == reflect.TypeFor[bytes.Buffer]()}
}

// of returns the buffer of c, or nil if this version of Go has none. The caller
// owns c. It may replace a buffer that is empty.
func (f memTlsField) of(c *tls.Conn) *bytes.Buffer {
	if !f.ok {
		return nil
	}
	return (*bytes.Buffer)(unsafe.Add(unsafe.Pointer(c), f.offset))
}

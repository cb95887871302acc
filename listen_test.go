package main

import "testing"

// The entries of -l, without -l's own port 7 and protocol.
func TestSplitListen(t *testing.T) {
	settings.net.bindingProtocol = negotiatingProt
	for _, tt := range []struct {
		entry  string
		host   string
		port   int
		bproto protocol
	}{
		{"127.0.0.1", "127.0.0.1", 7, negotiatingProt},
		{"127.0.0.1:8", "127.0.0.1", 8, negotiatingProt},
		{"host:-1", "host", -1, negotiatingProt},
		{"*", "*", 7, negotiatingProt},
		{"*:8", "*", 8, negotiatingProt},
		{":8", "", 8, negotiatingProt},
		{"::1", "::1", 7, negotiatingProt},
		{"fe80::1%eth0", "fe80::1%eth0", 7, negotiatingProt},
		{"[::1]", "::1", 7, negotiatingProt},
		{"[::1]:8", "::1", 8, negotiatingProt},
		{"proto[ascii]:host:8", "host", 8, asciiProt},
		{"proto[negotiating]:[::1]:8", "::1", 8, negotiatingProt},
		{"proto[ascii]:tag_a_:[::1]", "::1", 7, asciiProt},
		{"tag[a]:host", "host", 7, negotiatingProt},
		{"tagger:8", "tagger", 8, negotiatingProt},
		{"protocol", "protocol", 7, negotiatingProt},
	} {
		host, port, l, err := splitListen(tt.entry, 7)
		if err != nil || host != tt.host || port != tt.port || l.bproto != tt.bproto {
			t.Errorf("%s: have %s %d %d %v", tt.entry, host, port, l.bproto, err)
		}
	}
	for entry, want := range map[string]string{
		"host:":              `Invalid port number: ""`,
		"host:x":             `Invalid port number: "x"`,
		"host:65536":         `Invalid port number: "65536"`,
		"[::1]:x:1":          `Invalid port number: "x:1"`,
		"[::1":               `Invalid IPV6 address: "[::1"`,
		"notls:host":         `'notls' option is valid only when SSL is enabled`,
		"proto[ascii":        `Invalid protocol spec: "[ascii"`,
		"proto[x]:host":      `Invalid protocol spec: "[x]:host"`,
		"tag_a:host":         `Invalid tag in socket config: "_a:host"`,
		"tag[]:host":         `Listener tags must be between 1 and 8 characters: ""`,
		"tag_123456789_:foo": `Listener tags must be between 1 and 8 characters: "123456789"`,
	} {
		if _, _, _, err := splitListen(entry, 7); err == nil || err.Error() != want {
			t.Errorf("%s: have %v, want %s", entry, err, want)
		}
	}
}

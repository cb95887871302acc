// What a conversation cannot test of authentication: password files that
// change, and options that exclude each other.

package main

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

func TestAuthfileReload(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "users")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	write("foo:bar\n")
	s := mc9(t, "-Y", file)
	const stored, failure = "STORED", "CLIENT_ERROR authentication failure"
	old := s.client()
	if have := loginAs(old, "foo", "bar"); have != stored {
		t.Fatal(have)
	}
	reload := func() { s.cmd.Process.Signal(syscall.SIGHUP) }

	write("foo:new\r\n:nobody\nempty:\na:b:c d\nlast:line")
	reload()
	eventually(t, "the new password holds", func() bool { return login(t, s, "foo", "new") == stored })
	for _, tt := range []struct{ user, pass, want string }{
		{"foo", "bar", failure},
		{"foo", "new\r", failure},
		{"", "nobody", stored},
		{"empty", "", stored},
		{"a", "b:c d", stored},
		{"a:b", "c d", failure},
		{"last", "line", stored},
		{"last", "lin", failure},
	} {
		if have := login(t, s, tt.user, tt.pass); have != tt.want {
			t.Errorf("%s %s: %s", tt.user, tt.pass, have)
		}
	}
	old.want(t, "get foo\r\n", "END\r\n") // logged in clients stay so

	// A bad file changes nothing, and is reported.
	for i, text := range []string{"foo:worse\n\n", "foo:worse\nfoo", ""} {
		write(text)
		if text == "" {
			os.Remove(file)
		}
		reload()
		eventually(t, "the bad file is told of", func() bool {
			return strings.Count(s.said(), "The users stay as they are.\n") == i+1
		})
		if have := login(t, s, "foo", "new"); have != stored {
			t.Errorf("%q: %s", text, have)
		}
	}
	if !strings.Contains(s.said(), "Authfile ["+file+"] has a malformed entry in line 2.") {
		t.Errorf("%q", s.said())
	}

	// Only the first eight users count.
	write("a:1\nb:2\nc:3\nd:4\ne:5\nf:6\ng:7\nh:8\ni:9\n")
	reload()
	eventually(t, "there are eight users", func() bool { return login(t, s, "h", "8") == stored })
	if have := login(t, s, "i", "9"); have != failure {
		t.Error(have)
	}
	if !strings.Contains(s.said(), "line 9 ") {
		t.Errorf("%q", s.said())
	}

	// While the file is read again, nobody is locked out and nobody is let in.
	write("foo:bar\n")
	reload()
	eventually(t, "foo is back", func() bool { return login(t, s, "foo", "bar") == stored })
	for i := range 200 {
		tmp := file + ".tmp"
		os.WriteFile(tmp, []byte("x"+strconv.Itoa(i)+":y\nfoo:bar\n"), 0o666)
		os.Rename(tmp, file)
		reload()
		if have := login(t, s, "foo", "bar"); have != stored {
			t.Fatal(have)
		}
		if have := login(t, s, "foo", "baz"); have != failure {
			t.Fatal(have)
		}
	}
}

// SASL's password file is read anew for each login.
func TestSaslFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "users")
	t.Setenv("MEMCACHED_SASL_PWDB", file)
	s := mc9(t, "-S")
	try := func(user, pass string) string {
		c := s.client()
		defer c.Close()
		have := c.askBinary(packets(t, `TSaslAuth key=PLAIN value="\x00`+user+`\x00`+pass+`"`, "TGetk key=k"))
		return strings.ReplaceAll(strings.Join(have, ""), "\r\n", ";")
	}
	const in = "RSaslAuth value=Authenticated;RGetk status=0x01 key=k;"
	const out = "RSaslAuth status=0x20 value=Auth failure.;RGetk status=0x20 value=Auth failure.;" + closed
	if have := try("foo", "bar"); have != out {
		t.Error("without a file: ", have)
	}
	host, _ := os.Hostname()
	os.WriteFile(file, []byte("foo:bar\nbar@"+host+":foo"), 0o666)
	for _, tt := range []struct{ user, pass, want string }{
		{"foo", "bar", in},
		{"bar", "foo", in},
		{"bar@" + host, "foo", in},
		{"foo@" + host, "bar", out},
		{"foo", "ba", out},
		{"fo", "o:bar", out},
		{"", "", out},
	} {
		if have := try(tt.user, tt.pass); have != tt.want {
			t.Errorf("%s %s: %s", tt.user, tt.pass, have)
		}
	}
}

// mc9 does not start with options that would bypass authentication.
func TestAuthOptions(t *testing.T) {
	dir := t.TempDir()
	users := filepath.Join(dir, "users")
	bad := filepath.Join(dir, "bad")
	os.WriteFile(users, []byte("foo:bar\n"), 0o666)
	os.WriteFile(bad, []byte("foo:bar\nbaz\n"), 0o666)
	for _, tt := range []struct{ flags, want string }{
		{"-S -B ascii", "You cannot allow the ASCII protocol while using SASL"},
		{"-S -B auto", "You cannot allow the ASCII protocol while using SASL"},
		{"-S -U 11211", "Cannot enable UDP while using binary SASL authentication"},
		{"-p -1 -S -l proto[ascii]:127.0.0.1", "Cannot use ascii protocol when SASL enabled"},
		{"-p -1 -S -l proto[negotiating]:127.0.0.1", "Cannot use ascii protocol when SASL enabled"},
		{"-Y " + users + " -B auto", "You cannot allow the BINARY protocol"},
		{"-Y " + users + " -B binary", "You cannot allow the BINARY protocol"},
		{"-Y " + users + " -U 11211", "Cannot use UDP with ascii authentication enabled"},
		{"-p -1 -Y " + users + " -l proto[binary]:127.0.0.1", "Cannot use binary protocol when ascii authentication enabled"},
		{"-d -Y users", "Authfile [users] must be an absolute path"},
		{"-p -1 -Y " + bad, "Authfile [" + bad + "] has a malformed entry in line 2. Should be 'user:password'\n"},
		{"-p -1 -Y " + dir + "/none", "Could not open authfile [" + dir + "/none] for reading, error No such file or directory\n"},
	} {
		if code, out := run(t, strings.Fields(tt.flags)...); code == 0 || !strings.Contains(out, tt.want) {
			t.Errorf("%s: %d %q", tt.flags, code, out)
		}
	}

	// With -Y, a port for both protocols speaks text only.
	s := start(t, "", true, "-p", "-1", "-Y", users, "-l", "proto[negotiating]:127.0.0.1")
	c := s.client()
	c.write(packets(t, "TVersion") + "\n")
	if have := c.line(); have != "CLIENT_ERROR unauthenticated\r\n" {
		t.Errorf("%q", have)
	}
	// The same with -S and -Y.
	s = start(t, "", true, "-p", "-1", "-S", "-Y", users, "-l", "127.0.0.1")
	c = s.client()
	c.write(packets(t, "TVersion") + "\n")
	if have := c.line(); have != "CLIENT_ERROR unauthenticated\r\n" {
		t.Errorf("%q", have)
	}
	if have := loginAs(c, "foo", "bar"); have != "STORED" {
		t.Error(have)
	}
}

// Text and number conversions. From util.c, and in place of the C library's
// strtol(3), atoi(3), atof(3) and strerror(3).

package main

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// uriencode appends src to b, with every byte except letters, digits and -._~
// written as %XX.
func uriencode(b, src []byte) []byte {
	const hex = "0123456789ABCDEF"
	for _, ch := range src {
		switch {
		case '0' <= ch && ch <= '9', 'A' <= ch && ch <= 'Z', 'a' <= ch && ch <= 'z',
			ch == '-', ch == '.', ch == '_', ch == '~':
			b = append(b, ch)
		default:
			b = append(b, '%', hex[ch>>4], hex[ch&15])
		}
	}
	return b
}

func isspace(ch byte) bool { return ch == ' ' || '\t' <= ch && ch <= '\r' }

// strtol reads a number as leniently as C does with strtol(3): white space and
// a sign may come before it; white space, a NUL or the end of b must follow.
// It returns the number without its sign, and whether that was a minus. It
// fails if the number does not fit in 64 bits.
func strtol(b []byte) (n uint64, neg, ok bool) {
	i := 0
	for i < len(b) && isspace(b[i]) {
		i++
	}
	if i < len(b) && (b[i] == '-' || b[i] == '+') {
		neg = b[i] == '-'
		i++
	}
	end := i
	for end < len(b) && '0' <= b[end] && b[end] <= '9' {
		end++
	}
	for i < end-1 && b[i] == '0' {
		i++
	}
	n, ok = toktou64(b[i:end])
	return n, neg, ok && (end == len(b) || isspace(b[end]) || b[end] == 0)
}

// safeStrtoull refuses negative numbers. C accepts a negative number that wraps
// around to a small one.
func safeStrtoull(b []byte) (uint64, bool) {
	n, neg, ok := strtol(b)
	return n, ok && (!neg || n == 0)
}

// safeStrtoul reads client flags. It refuses numbers of more than 32 bits; C keeps
// their low 32 bits.
func safeStrtoul(b []byte) (uint32, bool) {
	n, ok := safeStrtoull(b)
	return uint32(n), ok && n <= math.MaxUint32
}

// safeStrtoll reads the expiry times of storage commands (C: safe_strtol, which
// keeps the low 32 bits).
func safeStrtoll(b []byte) (int64, bool) {
	n, neg, ok := strtol(b)
	if neg {
		return -int64(n), ok && n <= 1<<63
	}
	return int64(n), ok && n < 1<<63
}

func perror(what string, err error) {
	fmt.Fprintf(os.Stderr, "%s: %s\n", what, strerror(err))
}

// verbosef prints a line if -v was given level times, or more. It is not for the
// way of a request: args may be allocated.
func verbosef(level int32, format string, args ...any) {
	if settings.verbose.Load() >= level {
		fmt.Fprintf(os.Stderr, format+"\n", args...)
	}
}

// strerror returns an error's text in C's form: only the system's words,
// capitalized.
func strerror(err error) string {
	s := err.Error()
	var errno syscall.Errno
	if errors.As(err, &errno) {
		s = errno.Error()
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

// atoi is C's: white space may precede the number, anything may follow it;
// without a number it returns 0.
func atoi(s string) int { return atoiBase(s, 10) }

// atoiBase is atoi for a base up to 10.
func atoiBase(s string, base int) int {
	s = strings.TrimLeft(s, blanks)
	n := 0
	for n < len(s) && (s[n] >= '0' && s[n] < '0'+byte(base) || n == 0 && (s[n] == '-' || s[n] == '+')) {
		n++
	}
	v, _ := strconv.ParseInt(s[:n], base, 32)
	return int(v)
}

// atof returns the longest number that s begins with, or 0.
func atof(s string) float64 {
	for ; s != ""; s = s[:len(s)-1] {
		if f, err := strconv.ParseFloat(s, 64); err == nil {
			return f
		}
	}
	return 0
}

// toksize reads a size: a number with the suffix k, m or g (or kb, mb, gb), or
// without one in units of unit bytes. It returns bytes, and fails for 4 exabytes
// or more. In C only -I takes a suffix; other options ignore it.
func toksize(tok []byte, unit int) (int, bool) {
	end := 0
	for end < len(tok) && '0' <= tok[end] && tok[end] <= '9' {
		end++
	}
	n, ok := toktou64(tok[:end])
	switch strings.ToLower(string(tok[end:])) {
	case "":
	case "k", "kb":
		unit = 1 << 10
	case "m", "mb":
		unit = 1 << 20
	case "g", "gb":
		unit = 1 << 30
	default:
		return 0, false
	}
	return int(n) * unit, ok && n < 1<<62/uint64(unit)
}

func yesno(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func orNull(s string) string { return cmp.Or(s, "NULL") }

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

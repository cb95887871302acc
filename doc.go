/*
Mc9 is memcached's server in Go: it keeps values in memory for clients of
memcached, which use its text protocol, with the meta commands, or its binary
protocol.

Usage:

	mc9 [options]
	mc9 [options] --check[=addr]
	mc9 [options] --ask=command [addr]

The options are memcached's; mc9 -h lists them all. The first to know:

	-p num   TCP port (default 11211)
	-l addr  address to listen on (default all)
	-s file  listen on this Unix socket instead
	-m num   megabytes for items (default 64)
	-c num   connections at a time (default 1024)
	-t num   worker threads (default 4)
	-I num   bytes of the largest item (default 1m)
	-u user  become this user if started as root (default nobody)
	-d       run in the background
	-v       print errors and warnings; -vv commands and replies too
	-V       print the versions of memcached and of mc9
	--check  check whether a running server answers
	--ask    send a command to a running server
	--metrics port  serve metrics for Prometheus

TERM and INT end mc9 at once, USR1 after it has answered what it has read.

READING.md is a walk through the source, PORT.md maps each function of
memcached's C to the Go, and mc9.8 is the manual.
*/
package main

// UDP: a request is one datagram, a reply as many as it needs, each with an
// 8-byte header. From memcached.c: try_read_udp, build_udp_header,
// transmit_udp.

package main

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// What a UDP conn knows about the request that it is serving.
type udpConn struct {
	requestId   uint16
	requestAddr udpAddr
	more        bool // there may be another request: read on before waiting
	sequence    int  // number of the reply's next packet
	total       int  // packets in the reply
	packet      [udpMaxPayloadSize]byte
}

// A udpAddr is a client's address, in the kernel's form.
type udpAddr struct {
	sa  unix.RawSockaddrAny
	len uint32
}

// tryReadUdp receives a request. A request in several packets is dropped.
func tryReadUdp(c *conn) {
	u := c.udp
	n, e := rawRecvfrom(c.sfd, c.in.rbuf, &u.requestAddr)
	u.more = false
	if e != 0 || n <= udpHeaderSize {
		connSetState(c, connWaiting)
		return
	}
	c.thread.stats.pending.n[statBytesRead] += uint64(n)
	u.requestId = binary.BigEndian.Uint16(c.in.rbuf)
	if binary.BigEndian.Uint16(c.in.rbuf[4:]) != 1 {
		connSetState(c, connWaiting)
		return
	}
	u.more = true
	c.in.rcurr = udpHeaderSize
	c.in.rbytes = 0
	connReceived(c, n-udpHeaderSize, 0)
}

// buildUdpHeader writes the header of the next packet: request id, sequence
// number, number of packets, 0.
func buildUdpHeader(hdr []byte, u *udpConn) {
	binary.BigEndian.PutUint16(hdr, u.requestId)
	binary.BigEndian.PutUint16(hdr[2:], uint16(u.sequence))
	binary.BigEndian.PutUint16(hdr[4:], uint16(min(u.total, 0xffff)))
	binary.BigEndian.PutUint16(hdr[6:], 0)
}

// transmitUdp sends packets of the reply until the socket takes no more. C 1.6
// numbers the packets for each key of a get separately; here a request has one
// reply.
func transmitUdp(c *conn) transmitResult {
	const dataSize = udpMaxPayloadSize - udpHeaderSize
	u, r := c.udp, c.resp
	if u.sequence == 0 {
		u.total = (respLen(r) + dataSize - 1) / dataSize
	}
	statsFold(c.thread)
	for u.sequence < u.total {
		buildUdpHeader(u.packet[:], u)
		n := respCopy(u.packet[udpHeaderSize:], r)
		e := rawSendto(c.sfd, u.packet[:udpHeaderSize+n], &u.requestAddr)
		switch e {
		case 0:
			c.thread.stats.pending.n[statBytesWritten] += uint64(udpHeaderSize + n)
			transmitPost(r, n)
			u.sequence++
		case unix.EINTR:
		case unix.EAGAIN:
			respKeep(c)
			return transmitSoftError
		default:
			if settings.verbose.Load() > 0 {
				perror("Failed to write, and not due to blocking", e)
			}
			u.sequence = 0
			return transmitHardError
		}
	}
	u.sequence = 0
	respRelease(c)
	return transmitComplete
}

// respCopy fills b from the start of what r holds, and returns the number of
// bytes copied.
func respCopy(b []byte, r *resp) (n int) {
	for part := range r.parts {
		if n += copy(b[n:], part); n == len(b) {
			break
		}
	}
	return n
}

// UDP: requests in one datagram, replies in as many as they need, each with
// an 8-byte header. From memcached.c: try_read_udp, build_udp_header,
// transmit_udp.

package main

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// What a UDP conn knows of the request that it serves.
type udpConn struct {
	requestId   uint16
	requestAddr unix.Sockaddr
	sequence    int // packet of the reply to be sent next
	reply       []byte
	packet      [udpMaxPayloadSize]byte
}

// tryReadUdp receives a request. One that comes in several packets is
// dropped.
func tryReadUdp(c *conn) tryReadResult {
	n, from, err := unix.Recvfrom(c.sfd, c.rbuf, 0)
	if err != nil || n <= udpHeaderSize {
		return readNoDataReceived
	}
	c.thread.stats.pending.n[statBytesRead] += uint64(n)
	c.udp.requestId = binary.BigEndian.Uint16(c.rbuf)
	if binary.BigEndian.Uint16(c.rbuf[4:]) != 1 {
		return readNoDataReceived
	}
	c.udp.requestAddr = from
	c.rcurr = udpHeaderSize
	c.rbytes = n - udpHeaderSize
	return readDataReceived
}

// buildUdpHeader writes the header of packet number seq of total: request
// id, sequence number, number of packets, nothing.
func buildUdpHeader(hdr []byte, u *udpConn, total int) {
	binary.BigEndian.PutUint16(hdr, u.requestId)
	binary.BigEndian.PutUint16(hdr[2:], uint16(u.sequence))
	binary.BigEndian.PutUint16(hdr[4:], uint16(min(total, 0xffff)))
	binary.BigEndian.PutUint16(hdr[6:], 0)
}

// transmitUdp sends the reply in packets, as many as the socket takes. Not
// as in C 1.6, which numbers the packets of each key of a get on its own:
// the reply to a request is one.
func transmitUdp(c *conn) transmitResult {
	const dataSize = udpMaxPayloadSize - udpHeaderSize
	u := c.udp
	if u.sequence == 0 {
		u.reply = respFlatten(u.reply[:0], c.resp)
	}
	statsFold(c.thread)
	total := (len(u.reply) + dataSize - 1) / dataSize
	for u.sequence < total {
		buildUdpHeader(u.packet[:], u, total)
		n := udpHeaderSize + copy(u.packet[udpHeaderSize:], u.reply[u.sequence*dataSize:])
		err := unix.Sendto(c.sfd, u.packet[:n], 0, u.requestAddr)
		switch err {
		case nil:
			c.thread.stats.pending.n[statBytesWritten] += uint64(n)
			u.sequence++
		case unix.EINTR:
		case unix.EAGAIN:
			respKeep(c)
			if !updateEvent(c, evWrite) {
				return transmitHardError
			}
			return transmitSoftError
		default:
			if settings.verbose.Load() > 0 {
				perror("Failed to write, and not due to blocking", err)
			}
			u.sequence = 0
			connSetState(c, connClosing)
			return transmitHardError
		}
	}
	u.sequence = 0
	if cap(u.reply) > wbufSize {
		u.reply = nil
	}
	respRelease(c)
	return transmitComplete
}

// respFlatten appends all of r to b.
func respFlatten(b []byte, r *resp) []byte {
	for _, v := range r.iov {
		switch {
		case v.it == nil:
			b = append(b, r.wbuf[v.off:v.off+v.n]...)
		case v.chunk == nil:
			b = append(b, v.data[:v.n]...)
		default:
			n := v.n
			for ch := v.chunk; n > 0; ch = ch.next.chunk() {
				part := ch.data()[:min(int(ch.used), n)]
				b = append(b, part...)
				n -= len(part)
			}
		}
	}
	return append(b, r.wbuf[r.done:]...)
}

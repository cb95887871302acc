// Prefetches: memory that lookups will soon read is loaded into the processor's
// cache, for several keys at once, so that their cache misses overlap. This code
// reads the store without a lock, so it may read garbage; what it reads is
// discarded. Under the race detector (memPeek) it does nothing. Not in C.

package main

import (
	"bytes"
	"encoding/binary"
	"runtime"
)

const assocBatch = 16 // maximum number of keys for assocPrefetch

// lookAhead prefetches items for the next commands in the read buffer.
func lookAhead(c *conn) {
	var keys [assocBatch][]byte
	n, unlinks := 0, 0
	at, end := c.in.rcurr, c.in.rcurr+c.in.rbytes
	for n < assocBatch {
		key, size, unlink := peekCommand(c.in.rbuf[at:end])
		if size == 0 {
			break
		}
		at += size
		if len(key) > 0 {
			keys[n] = key
			if unlink {
				unlinks |= 1 << n
			}
			n++
		}
	}
	c.in.lookedAhead = at
	assocPrefetch(keys[:n], unlinks)
}

// lookAheadRound prefetches items for the first commands of these conns, at most
// assocBatch, which have just received. It saves 5 % of a get if each worker has a
// processor. If they share one it saves 2 %, and the median of latency is twice as long.
func lookAheadRound(conns []*conn) {
	if settings.numThreads > runtime.NumCPU() {
		return
	}
	var keys [assocBatch][]byte
	n, unlinks := 0, 0
	for _, c := range conns {
		if c.state != connParseCmd {
			continue
		}
		if key, _, unlink := peekCommand(c.in.rbuf[c.in.rcurr : c.in.rcurr+c.in.rbytes]); len(key) > 0 {
			keys[n] = key
			if unlink {
				unlinks |= 1 << n
			}
			n++
		}
	}
	assocPrefetch(keys[:n], unlinks)
}

// peekCommand guesses the key of the command at the front of b, whether the command
// will unlink an item, and how many bytes it takes, 0 if it is incomplete. A wrong
// guess costs a useless prefetch.
func peekCommand(b []byte) (key []byte, size int, unlink bool) {
	if len(b) >= binHeaderSize && b[0] == protocolBinaryReq {
		size = binHeaderSize + int(binary.BigEndian.Uint32(b[8:]))
		start := binHeaderSize + int(b[4])
		end := start + int(binary.BigEndian.Uint16(b[2:]))
		if end > len(b) {
			return nil, 0, false
		}
		return b[start:end], min(size, len(b)), binCommands[b[1]].cmd == protocolBinaryCmdDelete
	}
	el := bytes.IndexByte(b, '\n')
	if el < 0 {
		return nil, 0, false
	}
	line := lineText(b[:el+1])
	if i := bytes.IndexByte(line, ' '); i > 0 {
		key = firstWord(line[i+1:])
		cmd := line[0]
		if cmd == 'm' {
			cmd = line[1]
		}
		unlink = cmd == 'd' // delete and md
	}
	return key, el + 1, unlink
}

// prefetchKeys prefetches items for the next keys of a get. It returns the number of
// bytes that these keys take in the line.
func prefetchKeys(line []byte) int {
	var keys [assocBatch][]byte
	n, i := 0, 0
	for n < assocBatch && i < len(line) {
		key := firstWord(line[i:])
		keys[n] = key
		n++
		i += len(key) + 1
	}
	assocPrefetch(keys[:n], 0)
	return i
}

// assocPrefetch loads the memory that lookups of these keys, at most assocBatch,
// will read: buckets, items, and the start of their values. If a key's bit in links
// is set, its item is about to be unlinked, and its neighbours in the LRU are loaded
// as well. A single key is not worth it: its lookup follows at once. The sum is
// returned so that the loads are not optimized away.
//
//go:noinline
func assocPrefetch(keys [][]byte, links int) (sum byte) {
	if !memPeek || len(keys) < 2 {
		return 0
	}
	var refs [assocBatch]ref
	for i, key := range keys {
		refs[i] = ref(hash(key) & uint32(len(primaryHashtable)-1))
	}
	for i := range keys {
		refs[i] = primaryHashtable[refs[i]]
	}
	for i, key := range keys {
		it := refs[i].item()
		for n := 0; n < 4 && it != nil; n++ {
			if int(it.nkey) == len(key) && bytes.Equal(it.key(), key) {
				sum += it.peek()
				if links>>i&1 != 0 {
					sum += it.peekLinks()
				}
				break
			}
			r := it.hNext
			if !r.inArena() {
				break
			}
			it = r.item()
		}
	}
	return sum
}

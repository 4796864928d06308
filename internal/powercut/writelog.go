//go:build linux

package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
)

// sector is the unit of a write log.
const sector = 512

// The flags of an entry of a write log, as dm-log-writes has them.
const (
	logFlush   = 1 << 0
	logFUA     = 1 << 1
	logDiscard = 1 << 2
	logMark    = 1 << 3
)

// logMagic and logVersion begin a write log.
const (
	logMagic   = 0x6a736677736872
	logVersion = 1
)

// write is an entry of a write log: bytes that were written to the disk, or a
// flush. Of flushes and writes that are both, the flush comes first.
type write struct {
	off     int64 // on the disk
	data    []byte
	flush   bool // what was written before is durable when this is done
	durable bool // FUA: it is so itself
}

// readLog reads the log of the writes to a disk of a size:
//
//	header:  u64 magic, u64 version, u64 entries, u32 sector size; one sector
//	entry:   u64 sector, u64 sectors, u64 flags, u64 length of a mark; one sector;
//	         then the data
//
// The number of entries is as of some flush, so the log is read to its end: an entry
// of zeros, or one that was cut. What is behind a hole is left out with it.
func readLog(r io.ReaderAt, diskSize int64) ([]write, error) {
	var head [sector]byte
	if _, err := r.ReadAt(head[:], 0); errors.Is(err, io.EOF) {
		return nil, nil // cut before the first write
	} else if err != nil {
		return nil, fmt.Errorf("read write log: %w", err)
	}
	le := binary.LittleEndian
	if head == [sector]byte{} {
		// The header comes with a flush. No entry may be there, or all.
	} else if m, v, s := le.Uint64(head[0:]), le.Uint64(head[8:]), le.Uint32(head[24:]); m != logMagic || v != logVersion || s != sector {
		return nil, fmt.Errorf("read write log: magic %x, version %d, sector size %d", m, v, s)
	}
	var log []write
	for at := int64(sector); ; {
		var h [sector]byte
		if _, err := r.ReadAt(h[:], at); errors.Is(err, io.EOF) {
			return log, nil
		} else if err != nil {
			return nil, fmt.Errorf("read write log: %w", err)
		}
		first, count, flags := le.Uint64(h[0:]), le.Uint64(h[8:]), le.Uint64(h[16:])
		if count == 0 && flags == 0 {
			return log, nil
		}
		if flags&^(logFlush|logFUA) != 0 || first+count > uint64(diskSize/sector) {
			return nil, fmt.Errorf("read write log: an entry with flags %x for %d sectors at %d", flags, count, first)
		}
		w := write{off: int64(first) * sector, flush: flags&logFlush != 0, durable: flags&logFUA != 0}
		w.data = make([]byte, count*sector)
		at += sector
		if _, err := r.ReadAt(w.data, at); err != nil && count > 0 {
			return log, nil
		}
		at += int64(len(w.data))
		log = append(log, w)
	}
}

// replay makes a disk that a drive with a cache of its own could have left, had the
// power been cut after these entries: all that was written before the last
// flush among them, and of what came after it some writes whole, some in part.
func replay(disk io.WriterAt, log []write, r *rand.Rand) error {
	flushed := 0
	for i, w := range log {
		if w.flush {
			flushed = i
		}
	}
	keep := []int{0, 5, 9}[r.IntN(3)] // of ten
	for i, w := range log {
		data := w.data
		if i >= flushed && !w.durable {
			switch {
			case r.IntN(10) >= keep:
				continue
			case r.IntN(8) == 0:
				data = torn(w, r)
			}
		}
		if _, err := disk.WriteAt(data, w.off); err != nil {
			return fmt.Errorf("replay writes: %w", err)
		}
	}
	return nil
}

// tearAt is where a write may be torn: at the sectors of today's drives. Within them
// not even file systems cope: XFS takes a block of which the first 512 bytes are new
// for one that its recovery need not write again, and then finds its checksum wrong.
const tearAt = 4096

// torn is what a drive wrote of an entry when the power went.
func torn(w write, r *rand.Rand) []byte {
	end := (w.off + r.Int64N(int64(len(w.data))+1)) / tearAt * tearAt
	return w.data[:max(0, end-w.off)]
}

// eventsOf gives the events in a log, which are writes to the block at mark.
func eventsOf(log []write, mark int64) []event {
	var out []event
	for _, w := range log {
		if w.off != mark {
			continue
		}
		if e, ok := decodeEvent(w.data); ok {
			out = append(out, e)
		}
	}
	return out
}

// placeIn chooses how many entries of a log are done when the power is cut: any
// number, or up to soon after an event, when what is missing is missed.
func placeIn(log []write, mark int64, r *rand.Rand) int {
	at := 1 + r.IntN(len(log))
	if r.IntN(2) == 0 {
		return at
	}
	for i := at - 1; i < len(log); i++ {
		if log[i].off == mark && len(log[i].data) > 0 {
			return min(i+1+r.IntN(3), len(log))
		}
	}
	return at
}

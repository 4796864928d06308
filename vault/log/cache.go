package log

import (
	"bufio"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"hash"
	"io"
	"slices"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/vault/key"
)

// Cache keeps the entries that a machine read and checked, as one sequence of
// bytes. What it holds is derived: it may be lost, cut or spoilt at any time,
// and only costs time then. To accept a log that was forked or rolled back, it
// has to be emptied, since it stands for what was seen. See FileCache.
type Cache interface {
	// Open reads all that was appended, from the start. Any error means nothing.
	Open() (io.ReadCloser, error)
	// Append adds records at the end. Several processes may do so at once.
	Append(records []byte) error
	// Truncate cuts to size bytes.
	Truncate(size int64) error
}

// A record of the cache is: object length u32, seq u64, the object, and a MAC
// (32 bytes) over seq and the object's hash, under a key that only who opened
// the vault has. The MAC says that this entry's signature was checked.
const (
	recordHead = 4 + 8
	recordTail = sha256.Size

	// recorderBuffer is how much is gathered before it is appended to the cache.
	recorderBuffer = 256 << 10
)

// recorder writes and reads the records of a cache. It is used by who holds the
// turn of the Log.
type recorder struct {
	cache Cache
	mac   hash.Hash
	buf   []byte // records not yet appended
}

func newRecorder(ring *key.Ring, c Cache) *recorder {
	k := chunk.Expand(ring.Cache[:], "tharsis/0/log-cache", 32)
	return &recorder{cache: c, mac: hmac.New(sha256.New, k)}
}

// sum appends the MAC of a record to b.
func (r *recorder) sum(b []byte, seq uint64, object []byte) []byte {
	var m [8 + sha256.Size]byte
	binary.LittleEndian.PutUint64(m[:], seq)
	h := sha256.Sum256(object)
	copy(m[8:], h[:])
	r.mac.Reset()
	r.mac.Write(m[:])
	return r.mac.Sum(b)
}

func (r *recorder) record(b []byte, seq uint64, object []byte) []byte {
	b = binary.LittleEndian.AppendUint32(b, uint32(len(object)))
	b = binary.LittleEndian.AppendUint64(b, seq)
	b = append(b, object...)
	return r.sum(b, seq, object)
}

// errSpoilt ends the reading of a cache where it is not what was written.
var errSpoilt = errors.New("the log's cache is spoilt")

// scan calls f for every record, and returns how many bytes of the cache are
// good: up to its end, to where it is spoilt, or to where f returned an error.
func (r *recorder) scan(in io.Reader, f func(seq uint64, object []byte) error) (good int64, err error) {
	br := bufio.NewReaderSize(in, recorderBuffer)
	var head [recordHead]byte
	var body, mac []byte
	for {
		if _, err := io.ReadFull(br, head[:]); err == io.EOF {
			return good, nil
		} else if err != nil {
			return good, errSpoilt
		}
		n := binary.LittleEndian.Uint32(head[:])
		seq := binary.LittleEndian.Uint64(head[4:])
		if n > MaxObjectBytes {
			return good, errSpoilt
		}
		body = slices.Grow(body[:0], int(n)+recordTail)[:int(n)+recordTail]
		if _, err := io.ReadFull(br, body); err != nil {
			return good, errSpoilt
		}
		object := body[:n]
		if mac = r.sum(mac[:0], seq, object); !hmac.Equal(mac, body[n:]) {
			return good, errSpoilt
		}
		if err := f(seq, object); err != nil {
			return good, err
		}
		good += recordHead + int64(len(body))
	}
}

// replayCache replays what the cache holds. Its errors are those that the vault
// stands for: all that is wrong with the cache itself is cut off.
func (l *Log) replayCache() error {
	in, err := l.cache.cache.Open()
	if err != nil {
		return nil // there is none yet, or it cannot be read: start at entry 0
	}
	good, err := l.cache.scan(in, func(seq uint64, object []byte) error {
		switch {
		case seq < l.next:
			return nil // two processes appended the same
		case seq > l.next:
			return errSpoilt
		}
		return l.accept(object, true)
	})
	in.Close()
	if errors.Is(err, ErrForked) {
		return err
	}
	if err != nil {
		l.opts.Logger.Warn("the log's cache is cut to what is good of it", "entries", l.next, "err", err)
		if err := l.cache.cache.Truncate(good); err != nil {
			l.dropCache(err)
		}
	}
	return nil
}

// Recall replays what a cache holds, up to where it is spoilt, without a look at
// the vault: what this machine has seen. seen, where not nil, is called with each
// entry's head in order. Without an entry 0 it returns false.
func Recall(ring *key.Ring, c Cache, seen func(Head)) (*State, bool) {
	l := newLog(nil, ring, Options{})
	if seen != nil {
		l.opts.Observe = func(_ *Entry, at Head) { seen(at) }
	}
	l.cache = newRecorder(ring, c)
	_ = l.replayCache() // only what Options.Expect contradicts is an error
	return l.state, l.next > 0
}

// remember adds an entry that was checked to the cache.
func (l *Log) remember(seq uint64, object []byte) {
	if l.cache == nil {
		return
	}
	l.cache.buf = l.cache.record(l.cache.buf, seq, object)
	if len(l.cache.buf) >= recorderBuffer {
		l.flush()
	}
}

// flush appends what was gathered to the cache.
func (l *Log) flush() {
	if l.cache == nil || len(l.cache.buf) == 0 {
		return
	}
	if err := l.cache.cache.Append(l.cache.buf); err != nil {
		l.dropCache(err)
		return
	}
	l.cache.buf = l.cache.buf[:0]
}

// dropCache goes on without the cache, which a later Open mends.
func (l *Log) dropCache(err error) {
	l.opts.Logger.Warn("the log's cache cannot be written", "err", err)
	l.cache = nil
}

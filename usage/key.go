package usage

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"time"
)

// KeyAt returns a UUIDv7 (RFC 9562, section 5.7) for an instant, with 62 bits
// that should be random. Its first half says the instant to the microsecond, so
// that keys ascend with time.
func KeyAt(at time.Time, random uint64) (key [16]byte) { return keyAt(at.UnixMicro(), random) }

// keyAt is KeyAt in Unix microseconds.
func keyAt(us int64, random uint64) (key [16]byte) {
	ms := us / 1000
	if us %= 1000; us < 0 {
		us, ms = us+1000, ms-1
	}
	binary.BigEndian.PutUint64(key[:8], uint64(ms)<<16|7<<12|uint64(us))
	binary.BigEndian.PutUint64(key[8:], random&^(3<<62)|2<<62)
	return key
}

// newKey returns a key that nobody can guess.
func newKey(at time.Time) [16]byte {
	var random [8]byte
	_, _ = rand.Read(random[:]) // never fails: crypto/rand ends the process instead
	return KeyAt(at, binary.BigEndian.Uint64(random[:]))
}

// IDOf returns the ID of an event whose key was made by this package.
func IDOf(key [16]byte) string { return "use_" + hex.EncodeToString(key[:]) }

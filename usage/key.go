package usage

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"time"
)

// newKey returns a UUIDv7 (RFC 9562, section 5.7): it ascends with time, so
// that a database's index grows at its right-hand edge.
func newKey(now time.Time) (key [16]byte) {
	_, _ = rand.Read(key[6:]) // never fails: crypto/rand ends the process instead
	stampKey(&key, now)
	return key
}

// stampKey puts time, version and variant into a key.
func stampKey(key *[16]byte, now time.Time) {
	var ms [8]byte
	binary.BigEndian.PutUint64(ms[:], uint64(now.UnixMilli())<<16)
	copy(key[:6], ms[:6])
	key[6] = key[6]&0x0f | 0x70
	key[8] = key[8]&0x3f | 0x80
}

// IDOf returns the ID of an event whose key was made by this package.
func IDOf(key [16]byte) string { return "use_" + hex.EncodeToString(key[:]) }

// Package ident makes opaque identifiers: a prefix and a UUIDv7 (RFC 9562,
// section 5.7) in hexadecimal, so that they sort by the time of their making.
package ident

import (
	"crypto/rand"
	"encoding/hex"
	"time"
)

// New returns an identifier such as key_0190163d8694739b9d3f2c0b1f6a7e55 for
// the prefix "key". It is unguessable: 74 bits come from crypto/rand.
func New(prefix string, now time.Time) string {
	var u [16]byte
	_, _ = rand.Read(u[6:]) // never fails: crypto/rand ends the process instead
	ms := uint64(now.UnixMilli())
	for i := range 6 {
		u[i] = byte(ms >> (40 - 8*i))
	}
	u[6] = u[6]&0x0f | 0x70
	u[8] = u[8]&0x3f | 0x80
	b := make([]byte, 0, len(prefix)+1+32)
	b = append(b, prefix...)
	b = append(b, '_')
	return string(hex.AppendEncode(b, u[:]))
}

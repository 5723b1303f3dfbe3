package ratelimitmem

import (
	"crypto/rand"
	"encoding/binary"
	"math/bits"
)

// secret keys the hash by which a store tells its keys apart. It never leaves
// the store, and neither does a hash.
type secret [4]uint64

func newSecret() *secret {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails
	s := new(secret)
	for i := range s {
		s[i] = binary.LittleEndian.Uint64(b[8*i:])
	}
	s[3] |= 1 // a factor of 0 would make all hashes one
	return s
}

// hash folds the 128-bit products of the key's words with the secret, as wyhash
// and its kin do: a third of the time of hash/maphash for a short key, most of
// which goes into calls. It is never 0, the mark of a free slot.
func (s *secret) hash(key string) uint64 {
	n, seed := len(key), s[1]
	var a, b uint64
	switch {
	case n > 16:
		rest := key
		for len(rest) > 16 {
			seed = fold(load8(rest, 0)^s[2], load8(rest, 8)^seed)
			rest = rest[16:]
		}
		a, b = load8(key, n-16), load8(key, n-8)
	case n >= 8:
		a, b = load8(key, 0), load8(key, n-8)
	case n >= 4:
		a, b = load4(key, 0), load4(key, n-4)
	case n > 0:
		a = uint64(key[0])<<16 | uint64(key[n/2])<<8 | uint64(key[n-1])
	}
	return s.mix(a, b, seed, n)
}

// mix makes the hash of a key's last two words, of what came before, and of its
// length.
func (s *secret) mix(a, b, seed uint64, n int) uint64 {
	h := fold(fold(a^s[0], b^seed)^s[2]^uint64(n), s[3])
	if h == 0 {
		return 1 << 63
	}
	return h
}

func fold(a, b uint64) uint64 {
	hi, lo := bits.Mul64(a, b)
	return hi ^ lo
}

// load8 and load4 read little-endian words; the compiler makes one load of
// each.
func load8(s string, i int) uint64 {
	s = s[i : i+8]
	return uint64(s[0]) | uint64(s[1])<<8 | uint64(s[2])<<16 | uint64(s[3])<<24 |
		uint64(s[4])<<32 | uint64(s[5])<<40 | uint64(s[6])<<48 | uint64(s[7])<<56
}

func load4(s string, i int) uint64 {
	s = s[i : i+4]
	return uint64(s[0]) | uint64(s[1])<<8 | uint64(s[2])<<16 | uint64(s[3])<<24
}

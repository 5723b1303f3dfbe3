package apikeys

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"hash/crc32"
	"log/slog"
	"sync"
)

// HashLen is the length of a stored hash in bytes.
const HashLen = 28

// Hash is what a store holds of a token: 224 bits of one HMAC-SHA256. It can't
// be presented as a key, and doesn't print itself.
type Hash [HashLen]byte

// String hides the hash.
func (Hash) String() string { return "apikeys.Hash(hidden)" }

// GoString hides the hash.
func (h Hash) GoString() string { return h.String() }

// Pepper is a secret that stands outside the database, so that nobody who
// reads or writes the database alone can test or plant a key.
type Pepper struct {
	// ID names the pepper in the store: 1 to 32767, never used twice. ID 0
	// with no secret is plain SHA-256.
	ID int16
	// Secret has at least 32 random bytes.
	Secret []byte
	// TagOnly keeps the pepper for proving the tags of tokens that were issued
	// under it, but looks no key up by it: for a pepper that Stats says hashes
	// no row any more.
	TagOnly bool
}

// Format hides the secret, whatever the verb.
func (p Pepper) Format(f fmt.State, _ rune) { fmt.Fprintf(f, "apikeys.Pepper(%d)", p.ID) }

// LogValue hides the secret.
func (p Pepper) LogValue() slog.Value { return slog.StringValue(fmt.Sprint(p)) }

// MarshalText hides the secret, for JSON and other encodings.
func (p Pepper) MarshalText() ([]byte, error) { return []byte(fmt.Sprint(p)), nil }

// derive returns a key that keeps one use of the secret apart from any other.
func (p Pepper) derive(use string) []byte {
	mac := hmac.New(sha256.New, p.Secret)
	mac.Write([]byte(use))
	return mac.Sum(nil)
}

// maxPeppers bounds the work that a forged token can cause.
const maxPeppers = 3

// hasher is a pepper made ready.
type hasher struct {
	id      int16
	plain   bool
	tagOnly bool
	short   *short    // nil where there is none
	states  sync.Pool // of *state
}

// state is what one hash needs; it is reused, because a verification must not
// allocate.
type state struct {
	short *short
	work  workspace
	long  hash.Hash // for texts that are too long for short
	sum   [sha256.Size]byte
	text  [maxToken]byte // the text that is looked at
}

func newHashers(peppers []Pepper) ([]*hasher, error) {
	if len(peppers) == 0 {
		peppers = []Pepper{{}}
	}
	if len(peppers) > maxPeppers {
		return nil, &FieldError{"Config.Peppers", fmt.Sprintf("at most %d at a time: finish one rotation before the next", maxPeppers)}
	}
	seen := map[int16]bool{}
	out := make([]*hasher, 0, len(peppers))
	for i, p := range peppers {
		field := fmt.Sprintf("Config.Peppers[%d]", i)
		switch {
		case p.ID < 0 || seen[p.ID]:
			return nil, &FieldError{field + ".ID", "want a number from 0 to 32767 that no other pepper has"}
		case p.ID == 0 && len(p.Secret) > 0:
			return nil, &FieldError{field + ".ID", "0 is plain SHA-256: number a pepper with a secret from 1"}
		case p.ID != 0 && len(p.Secret) < 32:
			return nil, &FieldError{field + ".Secret", "want at least 32 random bytes"}
		case i == 0 && p.TagOnly:
			return nil, &FieldError{field + ".TagOnly", "the first pepper hashes new keys"}
		}
		seen[p.ID] = true
		out = append(out, newHasher(p))
	}
	return out, nil
}

func newHasher(p Pepper) *hasher {
	h := &hasher{id: p.ID, plain: p.ID == 0, tagOnly: p.TagOnly}
	newLong := sha256.New
	var key []byte
	if !h.plain {
		key = p.derive("apikeys/v1")
		newLong = func() hash.Hash { return hmac.New(sha256.New, key) }
	}
	h.short = newShort(key)
	h.states.New = func() any {
		s := &state{short: h.short, long: newLong()}
		if s.short != nil {
			s.work.digest = sha256.New().(digest)
		}
		return s
	}
	return h
}

// sum hashes head and random part of a token. The first 32 bits give the tag,
// the other 224 the stored hash: neither tells the other.
func (h *hasher) sum(input []byte) (tag uint32, stored Hash) {
	s := h.states.Get().(*state)
	tag, stored = s.of(input)
	h.states.Put(s)
	return tag, stored
}

func (s *state) of(input []byte) (tag uint32, stored Hash) {
	sum := s.sumOf(input)
	copy(stored[:], sum[4:])
	return binary.BigEndian.Uint32(sum) % tagSpace, stored
}

// sumOf returns the whole sum, in memory of the state.
func (s *state) sumOf(input []byte) []byte {
	if s.short != nil && len(input) <= maxShort {
		return s.short.sum(&s.work, input)
	}
	s.long.Reset()
	s.long.Write(input)
	return s.long.Sum(s.sum[:0])
}

// wrap hashes something that isn't a token of this module. The leading zero
// byte keeps it apart from every token.
func (h *hasher) wrap(label string, content []byte) Hash {
	b := make([]byte, 0, len(label)+len(content)+2)
	b = append(b, 0)
	b = append(b, label...)
	b = append(b, 0)
	b = append(b, content...)
	_, stored := h.sum(b)
	return stored
}

// mint makes the token with the given random part.
func (h *hasher) mint(head, random string) (Token, Hash) {
	b := make([]byte, 0, len(head)+bodyLen)
	b = append(b, head...)
	b = append(b, random...)
	tag, stored := h.sum(b)
	b = appendBase62(b, uint64(tag), tagLen)
	b = appendBase62(b, uint64(crc32.ChecksumIEEE(b)), crcLen)
	return newToken(string(b), hintOf(head, random)), stored
}

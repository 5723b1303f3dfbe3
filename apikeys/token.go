package apikeys

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"log/slog"
)

// Lengths of a token's body, in characters. The head before it is
// <prefix>_<environment>_.
const (
	randomLen = 38 // 226 bits
	tagLen    = 5  // 29.8 bits of the keyed hash
	crcLen    = 6  // CRC-32 (IEEE) of all characters before it
	bodyLen   = randomLen + tagLen + crcLen

	// maxHead keeps head and random part within one SHA-256 block.
	maxHead = 17
	// maxToken is the longest text that is looked at, imported keys included.
	maxToken = 128

	tagSpace = 62 * 62 * 62 * 62 * 62
)

const base62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// digits maps a character to its base-62 value, or to 0xff.
var digits = func() (t [256]byte) {
	for i := range t {
		t[i] = 0xff
	}
	for i := range len(base62) {
		t[base62[i]] = byte(i)
	}
	return t
}()

// Token is the secret text of a key. It shows itself only to Reveal: printing,
// logging and encoding give the hint, with any verb and at any depth.
type Token struct {
	// A closure, because fmt and encoders reach into unexported strings.
	reveal func() string
	hint   string
}

func newToken(text, hint string) Token {
	return Token{reveal: func() string { return text }, hint: hint}
}

// Reveal returns the secret text. Show it to its owner once and keep it nowhere.
func (t Token) Reveal() string {
	if t.reveal == nil {
		return ""
	}
	return t.reveal()
}

// Hint returns what may be shown of the token for good, such as
// "acme_live_4fGh…x9Kq".
func (t Token) Hint() string { return t.hint }

// String returns the hint.
func (t Token) String() string { return t.hint }

// GoString returns the hint.
func (t Token) GoString() string { return t.hint }

// Format writes the hint, whatever the verb.
func (t Token) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, t.hint) }

// LogValue returns the hint.
func (t Token) LogValue() slog.Value { return slog.StringValue(t.hint) }

// MarshalText returns the hint, for JSON and other encodings.
func (t Token) MarshalText() ([]byte, error) { return []byte(t.hint), nil }

// hintOf shows 47.6 of the 226 random bits and nothing of tag and checksum,
// because the checksum is linear in the secret.
func hintOf(head, random string) string {
	return head + random[:4] + "…" + random[randomLen-4:]
}

// randomPart draws 38 characters. Bytes of 248 and above are thrown away, so
// that each character is as likely as any other.
func randomPart() string {
	var out [randomLen]byte
	var pool [64]byte
	for n := 0; n < randomLen; {
		_, _ = rand.Read(pool[:]) // never fails: crypto/rand ends the process instead
		for _, b := range pool {
			if b < 248 && n < randomLen {
				out[n] = base62[b%62]
				n++
			}
		}
	}
	return string(out[:])
}

// appendBase62 appends v in exactly width characters, the highest first.
func appendBase62(b []byte, v uint64, width int) []byte {
	n := len(b)
	for range width {
		b = append(b, '0')
	}
	for i := n + width - 1; i >= n; i-- {
		b[i] = base62[v%62]
		v /= 62
	}
	return b
}

// parsed is a text that has the form of a token: what follows from its
// characters alone, without a secret.
type parsed struct {
	headLen int    // length of <prefix>_<environment>_
	tag     uint32 // as written
}

// parse reads a token by fixed positions from its right end. No key is looked
// up in a store, and so none comes into the cache, whose text hasn't passed.
func parse(text []byte) (parsed, bool) {
	headLen := len(text) - bodyLen
	if headLen < 4 || headLen > maxHead || text[headLen-1] != '_' {
		return parsed{}, false
	}
	tag, crc, ok := tail(text[headLen+randomLen:])
	if !ok || !intact(text[headLen:], crc32.ChecksumIEEE(text[:headLen]), crc) {
		return parsed{}, false
	}
	return parsed{headLen: headLen, tag: uint32(tag)}, true
}

// intact reports whether the random part has the alphabet, and the checksum is
// the one that the text was written with. The body is what follows the head,
// whose checksum the caller knows.
func intact(body []byte, headCRC uint32, crc uint64) bool {
	return alphabetic(body[:randomLen]) && crc == uint64(crc32.Update(headCRC, crc32.IEEETable, body[:randomLen+tagLen]))
}

// alphabetic reports whether a random part has digits and letters only. It
// looks at 8 characters at a time, and at some of them twice.
func alphabetic(random []byte) bool {
	all := eight(random[randomLen-8:])
	for i := 0; i+8 <= randomLen; i += 8 {
		all &= eight(random[i:])
	}
	return all == eachByte*0x80
}

const eachByte = 0x0101010101010101

// eight returns the highest bit of each of the first 8 characters that is a
// digit or a letter, and no other bit.
func eight(b []byte) uint64 {
	w := binary.LittleEndian.Uint64(b)
	low := w &^ (eachByte * 0x80)
	folded := low | eachByte*0x20 // upper case becomes lower, and nothing else a letter
	digit := (low + eachByte*(0x80-'0')) &^ (low + eachByte*(0x7f-'9'))
	letter := (folded + eachByte*(0x80-'a')) &^ (folded + eachByte*(0x7f-'z'))
	return (digit | letter) &^ w & (eachByte * 0x80)
}

// tail reads the last 11 characters of a token: what they say, right or wrong.
func tail(text []byte) (tag, crc uint64, ok bool) {
	if len(text) != tagLen+crcLen {
		return 0, 0, false
	}
	var bad byte
	for _, c := range text[:tagLen] {
		bad |= digits[c]
		tag = tag*62 + uint64(digits[c])
	}
	for _, c := range text[tagLen:] {
		bad |= digits[c]
		crc = crc*62 + uint64(digits[c])
	}
	return tag, crc, bad&0x80 == 0
}

// validHead says what is wrong with the parts of a head, or "".
func validHead(prefix, environment string) *FieldError {
	switch {
	case len(prefix) < 2 || len(prefix) > 12 || !word(prefix) || prefix[0] <= '9':
		return &FieldError{"Config.Prefix", "want 2 to 12 of a-z and 0-9, a letter first, such as \"acme\""}
	case environment == "" || !word(environment):
		return &FieldError{"Config.Environment", "want a-z and 0-9, such as \"live\" or \"test\""}
	case len(prefix)+len(environment)+2 > maxHead:
		return &FieldError{"Config.Environment", "prefix and environment have more than 15 characters together"}
	}
	return nil
}

func word(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return false
		}
	}
	return true
}

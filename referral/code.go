package referral

import (
	"crypto/rand"
	"fmt"
	"strings"
	"time"
)

// alphabet is A–Z and 0–9 without what people confuse when they read aloud or
// copy: 0 O, 1 I L, 5 S, 8 B, 2 Z. With 25 symbols the 8 characters carry 37
// bits.
const alphabet = "ACDEFGHJKMNPQRTUVWXY34679"

// codeLength is the length of a generated code.
const codeLength = 8

// Code is an account's code in a campaign.
type Code struct {
	Text      string // normalised: upper case, without separators
	Campaign  string
	Account   string
	Active    bool
	Uses      int64
	MaxUses   int64 // 0 means unlimited
	CreatedAt time.Time
	ExpiresAt time.Time // zero: never
}

// generate returns a random code: each symbol by rejection, so that all are
// equally likely.
func generate() string {
	const accept = 256 / len(alphabet) * len(alphabet)
	var out [codeLength]byte
	var buf [2 * codeLength]byte
	for n := 0; n < codeLength; {
		_, _ = rand.Read(buf[:]) // never fails: crypto/rand ends the process instead
		for _, b := range buf {
			if int(b) < accept && n < codeLength {
				out[n] = alphabet[int(b)%len(alphabet)]
				n++
			}
		}
	}
	return string(out[:])
}

// Normalise returns the one spelling of a code as people type it: spaces and
// hyphens go, letters become upper case. What can't be a code is
// ErrUnknownCode.
func Normalise(text string) (string, error) {
	if len(text) > 64 {
		return "", fmt.Errorf("%w: too long", ErrUnknownCode)
	}
	var b strings.Builder
	for _, r := range strings.ToUpper(text) {
		switch {
		case r == ' ' || r == '-' || r == '_' || r == '\t' || r == '\n' || r == '\r':
		case r >= 'A' && r <= 'Z' || r >= '0' && r <= '9':
			b.WriteRune(r)
		default:
			return "", fmt.Errorf("%w: a code has letters and digits only", ErrUnknownCode)
		}
	}
	if n := b.Len(); n < 4 || n > 32 {
		return "", fmt.Errorf("%w: a code has 4 to 32 letters and digits", ErrUnknownCode)
	}
	return b.String(), nil
}

// reserved are codes and parts of codes that nobody gets: what a person would
// take for the house's own, and what nobody wants to see on a link.
var reserved = []string{
	"ADMIN", "SUPPORT", "OFFICIAL", "STAFF", "SYSTEM", "SECURITY", "BILLING", "REFUND", "PASSWORD",
	"FUCK", "SHIT", "CUNT", "BITCH", "NIGG", "FAGG", "RAPE", "NAZI", "HITLER", "SLUT", "WHORE", "PORN",
}

// acceptable reports whether a code is free of reserved and offensive words,
// also when they are written with digits.
func acceptable(code string, extra []string) bool {
	plain := strings.NewReplacer("0", "O", "1", "I", "3", "E", "4", "A", "5", "S", "7", "T", "8", "B").Replace(code)
	for _, word := range append(reserved, extra...) {
		word = strings.ToUpper(word)
		if strings.Contains(code, word) || strings.Contains(plain, word) {
			return false
		}
	}
	return true
}

// Package apikeysimport accepts the keys that other libraries have issued, so
// that a move to apikeys reissues none:
//
//	keys, err := apikeys.New(store, apikeys.Config{
//		Prefix:  "acme",
//		Schemes: []apikeys.Scheme{apikeysimport.Sanctum(), apikeysimport.Unkey("acme_")},
//	})
//	…
//	keys.Import(ctx, apikeys.Operator("move"), []apikeys.ImportedKey{{
//		Scheme: "sanctum", Stored: row.Token, Name: row.Name, Owner: apikeys.Account(row.UserID),
//	}})
//
// Each function says what it expects in ImportedKey.Stored.
package apikeysimport

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"strings"

	"golang.org/x/crypto/bcrypt"

	"github.com/kolekt/commerce/apikeys"
)

// errForm says that a stored text isn't of the scheme. It doesn't quote it.
var errForm = errors.New("apikeysimport: not in the form that the scheme stores")

// form decides which texts can be tokens of a scheme.
type form struct {
	prefix   string
	min, max int // length with the prefix
	chars    string
}

func (f form) matches(s string) bool {
	if len(s) < f.min || len(s) > f.max || !strings.HasPrefix(s, f.prefix) {
		return false
	}
	return strings.Trim(s[len(f.prefix):], f.chars) == ""
}

const (
	digits   = "0123456789"
	hexChars = digits + "abcdef"
	letters  = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
	alnum    = digits + letters
	urlChars = alnum + "-_"
)

func fromHex(n int) func(string) ([]byte, []byte, error) {
	return func(stored string) ([]byte, []byte, error) {
		b, err := hex.DecodeString(stored)
		if err != nil || len(b) != n {
			return nil, nil, errForm
		}
		return b, nil, nil
	}
}

func fromBase64(stored string) ([]byte, []byte, error) {
	stored = strings.TrimRight(stored, "=")
	enc := base64.RawStdEncoding
	if strings.ContainsAny(stored, "-_") {
		enc = base64.RawURLEncoding
	}
	b, err := enc.DecodeString(stored)
	if err != nil || len(b) != sha256.Size {
		return nil, nil, errForm
	}
	return b, nil, nil
}

func sha256Of(s string) []byte {
	sum := sha256.Sum256([]byte(s))
	return sum[:]
}

// SHA256Hex is for any library that stores the SHA-256 of the whole token in
// hexadecimal. Tokens begin with the prefix and have the given number of
// characters in all, of a-z, A-Z, 0-9, "-" and "_".
func SHA256Hex(prefix string, length int) apikeys.Scheme {
	f := form{prefix, length, length, urlChars}
	return apikeys.Scheme{Name: "sha256:" + prefix, Parse: fromHex(sha256.Size), Lookup: whole(f)}
}

// SHA256Base64 is SHA256Hex for hashes in base64 or base64url, padded or not.
func SHA256Base64(prefix string, length int) apikeys.Scheme {
	f := form{prefix, length, length, urlChars}
	return apikeys.Scheme{Name: "sha256b64:" + prefix, Parse: fromBase64, Lookup: whole(f)}
}

func whole(f form) func(string) ([]byte, bool) {
	return func(token string) ([]byte, bool) {
		if !f.matches(token) {
			return nil, false
		}
		return sha256Of(token), true
	}
}

// Unkey is for keys of Unkey that begin with the prefix, its "_" included;
// without a prefix it is "". Stored is the hash in base64 that Unkey exports.
func Unkey(prefix string) apikeys.Scheme {
	f := form{prefix, len(prefix) + 16, 128, alnum}
	return apikeys.Scheme{Name: "unkey:" + prefix, Parse: fromBase64, Lookup: whole(f)}
}

// Sanctum is for personal access tokens of Laravel Sanctum, with or without
// "id|" before them. Stored is the column token: SHA-256 in hexadecimal.
func Sanctum() apikeys.Scheme {
	f := form{"", 40, 110, alnum + "_"}
	return apikeys.Scheme{Name: "sanctum", Parse: fromHex(sha256.Size), Lookup: func(token string) ([]byte, bool) {
		id, secret, ok := strings.Cut(token, "|")
		if !ok {
			secret = token
		} else if id == "" || strings.Trim(id, digits) != "" {
			return nil, false
		}
		if !f.matches(secret) {
			return nil, false
		}
		return sha256Of(secret), true
	}}
}

// DRF is for keys of djangorestframework-api-key 3: eight characters, a dot,
// 32 characters. Stored is the column hashed_key: "sha512$$" and hexadecimal.
func DRF() apikeys.Scheme {
	before, after := form{"", 8, 8, alnum}, form{"", 32, 32, alnum}
	return apikeys.Scheme{
		Name: "drf",
		Parse: func(stored string) ([]byte, []byte, error) {
			digest, ok := strings.CutPrefix(stored, "sha512$$")
			if !ok {
				return nil, nil, errForm
			}
			return fromHex(sha512.Size)(digest)
		},
		Lookup: func(token string) ([]byte, bool) {
			prefix, secret, ok := strings.Cut(token, ".")
			if !ok || !before.matches(prefix) || !after.matches(secret) {
				return nil, false
			}
			sum := sha512.Sum512([]byte(token))
			return sum[:], true
		},
	}
}

// Knox is for tokens of django-rest-knox 5 that begin with the prefix (usually
// ""): 64 characters in all. Stored is the column digest: the SHA-512 of the
// token's text in hexadecimal.
func Knox(prefix string) apikeys.Scheme {
	f := form{prefix, 64, 64, hexChars}
	return apikeys.Scheme{Name: "knox:" + prefix, Parse: fromHex(sha512.Size), Lookup: func(token string) ([]byte, bool) {
		if !f.matches(token) {
			return nil, false
		}
		sum := sha512.Sum512([]byte(token))
		return sum[:], true
	}}
}

// BetterAuth is for keys of better-auth's plugin that begin with the prefix
// and have 64 letters after it. Stored is the column key: SHA-256 in base64url.
func BetterAuth(prefix string) apikeys.Scheme {
	f := form{prefix, len(prefix) + 64, len(prefix) + 64, letters}
	return apikeys.Scheme{Name: "better-auth:" + prefix, Parse: fromBase64, Lookup: whole(f)}
}

// PrefixedAPIKey is for keys of Seam's prefixed-api-key and its ports that
// begin with the prefix, which may hold "_": prefix, "_", short token, "_",
// long token. Stored is the SHA-256 of the long token in hexadecimal.
func PrefixedAPIKey(prefix string) apikeys.Scheme {
	short, long := form{"", 4, 24, alnum}, form{"", 16, 64, alnum}
	return apikeys.Scheme{Name: "prefixed-api-key:" + prefix, Parse: fromHex(sha256.Size), Lookup: func(token string) ([]byte, bool) {
		rest, ok := strings.CutPrefix(token, prefix+"_")
		if !ok {
			return nil, false
		}
		s, l, ok := strings.Cut(rest, "_")
		if !ok || !short.matches(s) || !long.matches(l) {
			return nil, false
		}
		return sha256Of(l), true
	}}
}

// Bcrypt is for tokens of which a bcrypt hash is stored, and whose first
// characters are a public part that no other token has: bcrypt hashes can't be
// looked up. Tokens have the given length and the characters of SHA256Hex.
// Stored is the public part, ":", and the hash. After its first use a key is
// verified as fast as any other.
//
// bcrypt cuts tokens at 72 bytes, so longer ones are refused.
func Bcrypt(publicLen, length int) apikeys.Scheme {
	f := form{"", length, min(length, 72), urlChars}
	return apikeys.Scheme{
		Name: "bcrypt",
		Parse: func(stored string) ([]byte, []byte, error) {
			public, hash, ok := strings.Cut(stored, ":")
			if !ok || len(public) != publicLen || publicLen < 4 {
				return nil, nil, errForm
			}
			if _, err := bcrypt.Cost([]byte(hash)); err != nil {
				return nil, nil, errForm
			}
			return []byte(public), []byte(hash), nil
		},
		Lookup: func(token string) ([]byte, bool) {
			if !f.matches(token) || publicLen > len(token) {
				return nil, false
			}
			return []byte(token[:publicLen]), true
		},
		Matches: func(token string, verifier []byte) bool {
			return bcrypt.CompareHashAndPassword(verifier, []byte(token)) == nil
		},
	}
}

package gdpr

import (
	"bytes"
	"fmt"
	"io"
	"strings"
)

// credentialNames are words in a field's name that stand for something which
// must not leave the house, whoever asks.
var credentialNames = map[string]bool{
	"password": true, "passwd": true, "secret": true, "token": true, "hash": true,
	"salt": true, "otp": true, "totp": true, "pepper": true, "credential": true, "credentials": true,
}

// credentialMarks are what keys, tokens and password hashes look like.
var credentialMarks = [][]byte{
	[]byte("sk_live_"), []byte("sk_test_"), []byte("rk_live_"), []byte("rk_test_"), []byte("whsec_"),
	[]byte("$2a$"), []byte("$2b$"), []byte("$2y$"), []byte("$argon2"), []byte("PRIVATE KEY-----"),
	[]byte(`"eyJhbGciOi`), // a JWT as a JSON string
}

const longestMark = 16

// secretName reports whether a field's name stands for a credential.
func secretName(field string) bool {
	for _, word := range strings.FieldsFunc(strings.ToLower(field), func(r rune) bool { return r == '_' || r == '-' || r == ' ' || r == '.' }) {
		if credentialNames[word] {
			return true
		}
	}
	return false
}

// secretMark returns the mark of a credential in the bytes, or "".
func secretMark(b []byte) string {
	for _, m := range credentialMarks {
		if bytes.Contains(b, m) {
			return string(m)
		}
	}
	return ""
}

// tripwire passes bytes on and stops at the mark of a credential, also where
// it lies across two writes.
type tripwire struct {
	to     io.Writer
	source string
	off    bool
	tail   []byte
}

func (t *tripwire) Write(p []byte) (int, error) {
	if t.off || len(p) == 0 {
		return t.to.Write(p)
	}
	seam := append(t.tail, p[:min(len(p), longestMark)]...)
	mark := secretMark(seam)
	if mark == "" {
		mark = secretMark(p)
	}
	if mark != "" {
		return 0, fmt.Errorf("%w: source %q emits a value that holds %q: leave the field out, or list it under Descriptor.Allow", ErrSecret, t.source, mark)
	}
	if len(p) >= longestMark {
		t.tail = append(t.tail[:0], p[len(p)-longestMark:]...)
	} else {
		t.tail = append(t.tail[:0], seam[max(0, len(seam)-longestMark):]...)
	}
	return t.to.Write(p)
}

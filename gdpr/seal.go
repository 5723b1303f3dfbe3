package gdpr

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
)

// box seals small things under a key that is derived from the pepper, apart
// for each use.
type box struct{ aead cipher.AEAD }

func newBox(secret []byte, use string) (box, error) {
	key, err := hkdf.Key(sha256.New, secret, nil, "commerce gdpr "+use, 32)
	if err != nil {
		return box{}, fmt.Errorf("gdpr: %w", err)
	}
	return keyBox(key)
}

func keyBox(key []byte) (box, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return box{}, fmt.Errorf("gdpr: %w", err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return box{}, fmt.Errorf("gdpr: %w", err)
	}
	return box{aead}, nil
}

func (b box) seal(plain []byte, bound string) []byte {
	return b.aead.Seal(nil, nil, plain, []byte(bound))
}

func (b box) open(sealed []byte, bound string) ([]byte, error) {
	plain, err := b.aead.Open(nil, nil, sealed, []byte(bound))
	if err != nil {
		return nil, errors.New("gdpr: sealed data can't be opened: it was altered, or Config.Pepper is another one")
	}
	return plain, nil
}

// envelope is what a request keeps of its subject until it is closed.
type envelope struct {
	Subject Subject `json:"subject"`
	Key     string  `json:"key,omitempty"`   // of the archive
	Again   bool    `json:"again,omitempty"` // after a restore: the subject has been told
	Words   string  `json:"words,omitempty"` // of the subject
}

func (s *Service) seal(r *Request, e envelope) error {
	b, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("gdpr: %w", err)
	}
	r.Sealed = s.envelopes.seal(b, r.ID)
	return nil
}

func (s *Service) unseal(r Request) (envelope, error) {
	var e envelope
	b, err := s.envelopes.open(r.Sealed, r.ID)
	if err != nil {
		return e, err
	}
	if err := json.Unmarshal(b, &e); err != nil {
		return e, fmt.Errorf("gdpr: %w", err)
	}
	return e, nil
}

// Seal encrypts data about a subject, such as a line of a log or a field in a
// backup, under a key of the subject's own. Erasing the subject destroys the
// key: every copy of the data, wherever it went, is unreadable from then on
// (crypto-shredding). Keep the keys' table out of long-lived backups, or its
// copies there undo this. Bound is authenticated but not stored: the name of
// the field, for example.
func (s *Service) Seal(ctx context.Context, subject string, plain []byte, bound string) ([]byte, error) {
	ref := s.ref(subject)
	wrapped, err := s.store.Key(ctx, ref)
	if errors.Is(err, ErrNotFound) {
		key := make([]byte, 32)
		_, _ = rand.Read(key) // never fails: crypto/rand ends the process instead
		// Two first callers at once agree on the one that the store kept.
		wrapped, err = s.store.PutKey(ctx, ref, s.keys.seal(key, ref))
	}
	if err != nil {
		return nil, fmt.Errorf("gdpr: seal: %w", err)
	}
	b, err := s.subjectBox(wrapped, ref)
	if err != nil {
		return nil, err
	}
	return b.seal(plain, bound), nil
}

// Open decrypts what Seal encrypted. After the subject's erasure the error is
// ErrShredded.
func (s *Service) Open(ctx context.Context, subject string, sealed []byte, bound string) ([]byte, error) {
	ref := s.ref(subject)
	wrapped, err := s.store.Key(ctx, ref)
	if err != nil {
		return nil, fmt.Errorf("gdpr: open: %w", err)
	}
	b, err := s.subjectBox(wrapped, ref)
	if err != nil {
		return nil, err
	}
	return b.open(sealed, bound)
}

func (s *Service) subjectBox(wrapped []byte, ref string) (box, error) {
	key, err := s.keys.open(wrapped, ref)
	if err != nil {
		return box{}, err
	}
	return keyBox(key)
}

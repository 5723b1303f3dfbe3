package gdpr

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"time"
)

// Entry is one row of the audit log. It holds no personal data: the subject is
// a keyed hash, and details are ours.
type Entry struct {
	Seq        int64 // set by the store, from 1, without gaps
	At         time.Time
	Request    string
	SubjectRef string
	Action     string // "received", "step done", …
	Detail     string
	Hash       string // set by the store with ChainHash
}

// ChainHash returns the hash of an entry, over its fields and the hash of the
// entry before it (empty for the first one): stores call it as they append.
// Whoever alters, removes or inserts a row must rewrite every hash after it.
func ChainHash(previous string, e Entry) string {
	h := sha256.New()
	write := func(s string) {
		// Length first: no two rows with other borders between fields agree.
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(s)))
		h.Write(n[:])
		h.Write([]byte(s))
	}
	write(previous)
	write(fmt.Sprint(e.Seq))
	write(e.At.UTC().Truncate(time.Microsecond).Format(time.RFC3339Nano))
	write(e.Request)
	write(e.SubjectRef)
	write(e.Action)
	write(e.Detail)
	return hex.EncodeToString(h.Sum(nil))
}

// VerifyAudit reads the whole audit log and returns the hash of its last entry
// (empty for none), to be kept outside of the database: compared with a later
// run it shows a log that was cut or rewritten as a whole. The first row that
// isn't what was written is named in an error that is ErrTampered.
func (s *Service) VerifyAudit(ctx context.Context) (last string, err error) {
	var seq int64
	for e, err := range s.store.Audit(ctx, 0) {
		if err != nil {
			return "", fmt.Errorf("gdpr: audit: %w", err)
		}
		seq++
		if e.Seq != seq {
			return "", fmt.Errorf("%w: row %d is missing", ErrTampered, seq)
		}
		if e.Hash != ChainHash(last, e) {
			return "", fmt.Errorf("%w: row %d", ErrTampered, e.Seq)
		}
		last = e.Hash
	}
	return last, nil
}

package apikeys

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"time"
)

// Actions of the log.
const (
	ActionIssued       = "issued"
	ActionImported     = "imported"
	ActionUpdated      = "updated"
	ActionRotated      = "rotated"
	ActionActivated    = "activated" // a successor was used for the first time
	ActionRevoked      = "revoked"
	ActionRevokedAll   = "revoked_all" // concerns every key
	ActionErased       = "erased"
	ActionLeakReported = "leak_reported"
)

// Entry is one line of the log. Entries form a chain: each hash covers the one
// before it, so that nobody alters, removes or inserts a line unnoticed.
//
// Owner, Actor and Detail are personal data. The chain covers a salted digest
// of them, so that they can be erased and the chain still holds.
type Entry struct {
	Seq    int64 // 1, 2, 3 …, without gaps
	At     time.Time
	Action string
	Key    string // the key's ID; empty for ActionRevokedAll

	Owner  Owner
	Actor  string
	Detail map[string]string // never a token

	Salt   []byte // 16 bytes; empty after erasure
	Digest []byte // of salt, owner, actor and detail
	Hash   []byte
}

// Head is the end of the log. Kept elsewhere, it proves later that the log up
// to here is the same: see Service.VerifyAudit.
type Head struct {
	Seq  int64
	Hash []byte
}

// Seal gives the entry its number, digest and hash, and returns it with the
// new end of the log.
func (h Head) Seal(e Entry) (Entry, Head) {
	e.Seq = h.Seq + 1
	e.At = e.At.UTC().Truncate(time.Microsecond)
	e.Salt = make([]byte, 16)
	_, _ = rand.Read(e.Salt) // never fails: crypto/rand ends the process instead
	e.Digest = e.digest()
	e.Hash = e.chain(h.Hash)
	return e, Head{Seq: e.Seq, Hash: e.Hash}
}

// digest covers the personal part.
func (e *Entry) digest() []byte {
	b := appendField(nil, string(e.Salt))
	b = appendField(b, e.Owner.Kind)
	b = appendField(b, e.Owner.ID)
	b = appendField(b, e.Actor)
	for _, k := range slices.Sorted(maps.Keys(e.Detail)) {
		b = appendField(b, k)
		b = appendField(b, e.Detail[k])
	}
	sum := sha256.Sum256(b)
	return sum[:]
}

// chain covers everything else, and the entry before.
func (e *Entry) chain(previous []byte) []byte {
	b := appendField(nil, string(previous))
	b = binary.BigEndian.AppendUint64(b, uint64(e.Seq))
	b = binary.BigEndian.AppendUint64(b, uint64(e.At.UnixMicro()))
	b = appendField(b, e.Action)
	b = appendField(b, e.Key)
	b = appendField(b, string(e.Digest))
	sum := sha256.Sum256(b)
	return sum[:]
}

// appendField appends a length and the text, so that no two sequences of
// fields have the same bytes.
func appendField(b []byte, s string) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(s)))
	return append(b, s...)
}

// AuditError names the first entry that isn't what was written. It is
// ErrAltered.
type AuditError struct {
	Seq     int64
	Problem string
}

func (e *AuditError) Error() string {
	return fmt.Sprintf("apikeys: log entry %d %s", e.Seq, e.Problem)
}

// Is reports whether target is ErrAltered.
func (e *AuditError) Is(target error) bool { return target == ErrAltered }

// VerifyAudit reads the whole log and checks its chain up to the end that the
// store declares. A *AuditError names the first entry that was altered,
// removed or inserted. It returns the end of the log: whoever can rewrite the
// whole log can make a chain of his own, but not one that holds an end which
// was kept elsewhere. Give such an end as kept; the zero Head asks for none.
func (s *Service) VerifyAudit(ctx context.Context, kept Head) (Head, error) {
	end, err := s.store.Head(ctx)
	if err != nil {
		return Head{}, unavailable("read the head of the log", err)
	}
	if end.Seq < kept.Seq {
		return Head{}, &AuditError{end.Seq + 1, "and later ones have been removed"}
	}
	var at Head
	for at.Seq < end.Seq {
		page, err := s.store.Log(ctx, LogQuery{After: at.Seq, Limit: 1000})
		if err != nil {
			return Head{}, unavailable("read the log", err)
		}
		if len(page) == 0 {
			return Head{}, &AuditError{at.Seq + 1, "has been removed"}
		}
		for i := range page {
			if at, err = follow(at, &page[i]); err != nil {
				return Head{}, err
			}
			if at.Seq == kept.Seq && subtle.ConstantTimeCompare(at.Hash, kept.Hash) != 1 {
				return Head{}, &AuditError{at.Seq, "or one before it has been rewritten: its hash isn't the one that was kept"}
			}
			if at.Seq == end.Seq && subtle.ConstantTimeCompare(at.Hash, end.Hash) != 1 {
				return Head{}, &AuditError{at.Seq, "isn't the one that ended the log"}
			}
		}
	}
	return at, nil
}

// follow checks one entry against the one before it.
func follow(at Head, e *Entry) (Head, error) {
	switch {
	case e.Seq != at.Seq+1:
		return at, &AuditError{at.Seq + 1, "has been removed"}
	case len(e.Salt) == 0 && (e.Owner != Owner{} || e.Actor != "" || len(e.Detail) > 0):
		return at, &AuditError{e.Seq, "has been altered: it is erased and yet names somebody"}
	case len(e.Salt) > 0 && subtle.ConstantTimeCompare(e.digest(), e.Digest) != 1:
		return at, &AuditError{e.Seq, "has been altered: owner, actor or detail"}
	case subtle.ConstantTimeCompare(e.chain(at.Hash), e.Hash) != 1:
		return at, &AuditError{e.Seq, "has been altered"}
	}
	return Head{Seq: e.Seq, Hash: e.Hash}, nil
}

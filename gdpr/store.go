package gdpr

import (
	"context"
	"iter"
	"time"
)

// Store keeps requests, tombstones, consents, keys and the audit log. Bring
// your own by passing gdprtest.TestStore. Implementations are safe for
// concurrent use; each method is one atomic step.
type Store interface {
	// CreateRequest stores a new request and its audit entries. If the
	// subject has an open request of the same kind, nothing is stored and the
	// error is ErrActive.
	CreateRequest(ctx context.Context, r Request, audit ...Entry) error
	// Request returns a request, or ErrNotFound.
	Request(ctx context.Context, id string) (Request, error)
	// Requests lists requests, newest first.
	Requests(ctx context.Context, filter Filter) ([]Request, error)
	// UpdateRequest stores a request whose stored version is still r.Version,
	// with the version one higher, together with the tombstones and the audit
	// entries of the change. Otherwise nothing is stored and the error is
	// ErrConflict. A tombstone that is known stays as it was.
	UpdateRequest(ctx context.Context, r Request, tombstones []Tombstone, audit ...Entry) error
	// Claim returns up to limit requests, open or closed, with a NextRun that
	// is set and not after now, and no lease beyond now, oldest NextRun first;
	// it sets their lease and raises their version. Two callers never get the
	// same.
	Claim(ctx context.Context, now time.Time, lease time.Duration, limit int) ([]Request, error)

	// Tombstoned returns those of the hashes that are known.
	Tombstoned(ctx context.Context, hashes []string) ([]Tombstone, error)
	// PutTombstones adds tombstones; known ones stay as they were.
	PutTombstones(ctx context.Context, tombstones []Tombstone) error
	// CountTombstones returns how many there are.
	CountTombstones(ctx context.Context) (int64, error)
	// ExpireTombstones deletes those that expired before the instant.
	ExpireTombstones(ctx context.Context, before time.Time) (int64, error)

	// AppendConsent adds an event to a subject's history of consent. An event
	// with a known ID is stored once.
	AppendConsent(ctx context.Context, c ConsentEvent) error
	// Consents returns a subject's history, oldest first.
	Consents(ctx context.Context, subjectRef string) ([]ConsentEvent, error)
	// DeleteConsents forgets a subject's history and returns its length.
	DeleteConsents(ctx context.Context, subjectRef string) (int64, error)

	// PutKey stores a subject's wrapped key if it has none, and returns the
	// one that it has now. A destroyed key is ErrShredded: it can't come back.
	PutKey(ctx context.Context, subjectRef string, wrapped []byte) ([]byte, error)
	// Key returns a subject's wrapped key, ErrNotFound, or ErrShredded.
	Key(ctx context.Context, subjectRef string) ([]byte, error)
	// DestroyKey overwrites a subject's key for good; none is not an error.
	DestroyKey(ctx context.Context, subjectRef string, at time.Time) error

	// Audit iterates over the audit log from a sequence number on, in order.
	Audit(ctx context.Context, from int64) iter.Seq2[Entry, error]
	// AppendAudit adds an entry that belongs to no change of a request.
	AppendAudit(ctx context.Context, entries ...Entry) error
}

// Filter selects requests. Zero fields select all.
type Filter struct {
	SubjectRef string
	Kind       Kind
	Open       bool      // only those that aren't closed
	DueBefore  time.Time // only open ones due before
	Limit      int       // at most; 0 means 100
}

package apikeys

import (
	"context"
	"time"
)

// Record is a key as a store holds it.
type Record struct {
	Key
	Hash   Hash
	Pepper int16 // the pepper under which Hash stands
	Tag    int16 // the pepper under which the token was issued
	// Scheme and Verifier belong to a key that another library issued and
	// whose token hasn't been seen yet; see Config.Schemes.
	Scheme   string
	Verifier []byte
}

// Store persists keys and the log of their changes. Package apikeystest has
// the suite that a store must pass.
//
// Instants have whole microseconds. A store keeps one more instant, the one
// before which every key is revoked (Delta.RevokeBefore): a record with an
// earlier CreatedAt that isn't revoked otherwise is read, by Find, List and
// Change alike, with RevokedAt that instant and RevokedFor RevokedForAll.
type Store interface {
	// Change is one atomic step: it reads the records that the selection
	// names, gives them to decide, and writes what decide returns. All changes
	// of a store happen one after the other: between the reading and the
	// writing there is no other. When decide fails, nothing is written and its
	// error comes back. decide may be called again after a conflict. Entries
	// are sealed (Head.Seal) in the same step. A record whose ID or hash
	// another one has is ErrDuplicate.
	Change(ctx context.Context, sel Selection, decide func(found []Record) (Delta, error)) error

	// Find returns the record with the first of the hashes that any record
	// has, or ErrNotFound.
	Find(ctx context.Context, hashes []Hash) (Record, error)

	// Rehash replaces the hash old of a key by the new hash, its pepper, and
	// no scheme and verifier. It reports false when the key has another hash
	// by now. It is no change that anybody notices, and isn't logged.
	Rehash(ctx context.Context, id string, old, hash Hash, pepper int16) (bool, error)

	// List returns keys by ID, the newest first.
	List(ctx context.Context, q Query) ([]Key, error)

	// RecordUses writes last uses. An older use never replaces a newer one;
	// unknown keys are passed over. Uses have distinct keys.
	RecordUses(ctx context.Context, uses []Use) error

	// Log returns entries in order of Seq. When a reader has seen entry n, it
	// will never again find a new one with a lower number: an entry becomes
	// visible after those before it.
	Log(ctx context.Context, q LogQuery) ([]Entry, error)

	// Head returns the end of the log.
	Head(ctx context.Context) (Head, error)

	// Forget removes owner, actor, detail and salt from at most limit entries
	// in which the account is owner or actor, and CreatedBy from keys that the
	// account made. It reports how many entries there were.
	Forget(ctx context.Context, account string, limit int) (int64, error)

	// Peppers counts the keys that aren't revoked, by pepper.
	Peppers(ctx context.Context) ([]PepperUse, error)
}

// Selection names records: by ID, or those of an owner that aren't revoked.
// They come in order of ID. The zero value names none.
type Selection struct {
	IDs   []string
	Owner Owner
	// Limit bounds the records of an owner; 0 is no bound.
	Limit int
	// Revoked takes an owner's revoked keys as well.
	Revoked bool
}

// Delta is what a change writes.
type Delta struct {
	Put    []Record // inserted, or replaced by ID, but for LastUsed, which stays
	Delete []string // IDs
	Log    []Entry  // to be sealed, in this order
	// RevokeBefore, unless zero, revokes every key that was created before it.
	// A store only ever moves it forward.
	RevokeBefore time.Time
}

// RevokedForAll is the Key.RevokedFor of a key that RevokeBefore revoked.
const RevokedForAll = "all keys revoked"

// Query selects keys.
type Query struct {
	Owner   Owner  // of this owner
	Lineage string // of this lineage
	ID      string // this one
	Before  string // with an ID less than this one: the page after it
	Limit   int    // at most so many: 1 to 1000, 0 is 100
}

// LogQuery selects entries of the log.
type LogQuery struct {
	After   int64  // with a Seq greater than this
	Key     string // of this key
	Account string // in which this account is owner or actor
	Limit   int    // at most so many: 1 to 1000, 0 is 100
}

// PepperUse says how many keys a pepper serves. At Hashed 0 it may become
// TagOnly; at Tagged 0 as well it may leave the configuration.
type PepperUse struct {
	Pepper int16
	Hashed int64 // keys whose hash stands under it
	Tagged int64 // keys whose token was issued under it
}

// PageSize returns the number of rows that a query with this Limit asks for.
func PageSize(limit int) int {
	if limit <= 0 {
		return 100
	}
	return min(limit, 1000)
}

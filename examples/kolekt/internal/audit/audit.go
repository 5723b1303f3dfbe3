// Package audit remembers what administrators did to accounts, why, and what
// came of it. An entry is written before the deed: one without an outcome is
// of a process that ended in between.
package audit

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"
)

// Entry is a deed. ID sorts by time, and is the deed's idempotency key.
type Entry struct {
	ID      string    `json:"id"`
	At      time.Time `json:"at"`
	Actor   string    `json:"actor"`   // the administrator's ID
	Account string    `json:"account"` // to whom
	Action  string    `json:"action"`  // "credit"
	Detail  string    `json:"detail"`  // "$5.00"
	Reason  string    `json:"reason"`  // in the administrator's words
	Outcome string    `json:"outcome"` // "done", or what went wrong; empty: unknown
}

// ErrKnown says that another deed has the entry's ID.
var ErrKnown = errors.New("audit: the ID belongs to another deed")

// Same reports whether two entries are of the same deed, whenever they were
// written.
func (e Entry) Same(f Entry) bool {
	e.At, e.Outcome, f.At, f.Outcome = time.Time{}, "", time.Time{}, ""
	return e == f
}

// Store keeps entries. Implementations are safe for concurrent use.
type Store interface {
	// Begin writes an entry and returns it. One that is there already is
	// returned as it is, with its outcome; if it is of another deed, the error
	// is ErrKnown.
	Begin(ctx context.Context, e Entry) (Entry, error)
	// Finish sets an entry's outcome.
	Finish(ctx context.Context, id, outcome string) error
	// List returns entries, the newest first: an account's, or all when it is
	// empty, that are older than the one with the ID before, if it is set.
	List(ctx context.Context, account, before string, limit int) ([]Entry, error)
	// Forget replaces a person by an alias, as the actor and as the account,
	// and removes the reasons and details of entries about the person. It
	// returns how many entries changed.
	Forget(ctx context.Context, person, alias string) (int64, error)
}

// Memory is a Store that ends with the process. The zero value is ready.
type Memory struct {
	mu      sync.Mutex
	entries map[string]Entry
}

var _ Store = (*Memory)(nil)

// Begin implements Store.
func (m *Memory) Begin(_ context.Context, e Entry) (Entry, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if known, ok := m.entries[e.ID]; ok {
		if !known.Same(e) {
			return known, ErrKnown
		}
		return known, nil
	}
	if m.entries == nil {
		m.entries = map[string]Entry{}
	}
	m.entries[e.ID] = e
	return e, nil
}

// Finish implements Store.
func (m *Memory) Finish(_ context.Context, id, outcome string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e, ok := m.entries[id]; ok {
		e.Outcome = outcome
		m.entries[id] = e
	}
	return nil
}

// List implements Store.
func (m *Memory) List(_ context.Context, account, before string, limit int) ([]Entry, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var list []Entry
	for _, e := range m.entries {
		if (account == "" || e.Account == account) && (before == "" || e.ID < before) {
			list = append(list, e)
		}
	}
	slices.SortFunc(list, func(x, y Entry) int { return cmp.Compare(y.ID, x.ID) })
	return list[:min(limit, len(list))], nil
}

// Forget implements Store.
func (m *Memory) Forget(_ context.Context, person, alias string) (n int64, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for id, e := range m.entries {
		if e.Actor != person && e.Account != person {
			continue
		}
		if e.Actor == person {
			e.Actor = alias
		}
		if e.Account == person {
			e.Account, e.Reason, e.Detail = alias, "", ""
		}
		m.entries[id] = e
		n++
	}
	return n, nil
}

// Package mailermem is the memory store of package mailer, for development and
// tests: correct, bounded, and gone with the process.
package mailermem

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/kolekt/commerce/mailer"
)

// Config of a [Store]. The zero value is good.
type Config struct {
	// Limit is how many mails and how many events are kept. Zero means 100,000
	// of each. Beyond it, the oldest that have ended make room; when all are
	// open, Enqueue answers mailer.ErrFull.
	Limit int
}

// Store implements mailer.Store and mailer.Waiter. Its one lock is the atomic
// step of every method; methods take time in proportion to the mails held.
type Store struct {
	limit int

	mu           sync.Mutex
	mails        map[string]*record
	byKey        map[string]string // key hash to ID
	order        []string          // IDs by the time of enqueueing
	suppressions map[suppressionKey]mailer.Suppression
	events       []mailer.Stored
	eventIDs     map[[2]string]bool
	wake         chan struct{} // closed and replaced when mail comes in
}

type record struct {
	mailer.Mail
	group    string
	earlier  []string // key hashes of mails that this one took the place of
	lease    time.Time
	scrubbed bool
}

type suppressionKey struct{ address, stream, reason string }

// New returns an empty store.
func New(cfg Config) (*Store, error) {
	if cfg.Limit == 0 {
		cfg.Limit = 100_000
	}
	if cfg.Limit < 1 {
		return nil, errors.New("mailermem: Config.Limit must be positive")
	}
	return &Store{
		limit: cfg.Limit, mails: map[string]*record{}, byKey: map[string]string{},
		suppressions: map[suppressionKey]mailer.Suppression{}, eventIDs: map[[2]string]bool{}, wake: make(chan struct{}),
	}, nil
}

var (
	_ mailer.Store  = (*Store)(nil)
	_ mailer.Waiter = (*Store)(nil)
)

func open(s mailer.State) bool {
	return s == mailer.Pending || s == mailer.Claimed || s == mailer.Sending
}

// Enqueue implements mailer.Store.
func (s *Store) Enqueue(ctx context.Context, mails []mailer.Enqueue) ([]mailer.Receipt, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.makeRoom(len(mails)); err != nil {
		return nil, err
	}
	receipts := make([]mailer.Receipt, len(mails))
	for i, e := range mails {
		receipts[i] = s.enqueue(e)
	}
	close(s.wake)
	s.wake = make(chan struct{})
	return receipts, nil
}

func (s *Store) makeRoom(n int) error {
	excess := len(s.order) + n - s.limit
	if excess <= 0 {
		return nil
	}
	kept := make([]string, 0, len(s.order))
	for _, id := range s.order {
		r := s.mails[id]
		if excess > 0 && !open(r.State) {
			s.forget(r)
			excess--
			continue
		}
		kept = append(kept, id)
	}
	s.order = kept
	if excess > 0 {
		return fmt.Errorf("%w: %d mails are waiting", mailer.ErrFull, len(kept))
	}
	return nil
}

func (s *Store) forget(r *record) {
	delete(s.mails, r.ID)
	delete(s.byKey, string(r.KeyHash))
	for _, key := range r.earlier {
		delete(s.byKey, key)
	}
}

func (s *Store) enqueue(e mailer.Enqueue) mailer.Receipt {
	m := e.Mail
	if id, ok := s.byKey[string(m.KeyHash)]; ok {
		return mailer.Receipt{ID: id, Status: mailer.Duplicate}
	}
	m.State, m.Attempts = mailer.Pending, 0
	status := mailer.Queued
	switch old := s.pendingInGroup(e); {
	case s.suppressed(m):
		status, m.State, m.Reason, m.FinishedAt = mailer.Suppressed, mailer.Dropped, mailer.ReasonSuppressed, m.CreatedAt
	case old != nil:
		s.supersede(e)
		// The earlier key stays used: it was answered with this ID.
		old.earlier = append(old.earlier, string(old.KeyHash))
		s.byKey[string(m.KeyHash)] = old.ID
		m.ID, m.RunAt, m.CreatedAt = old.ID, old.RunAt, old.CreatedAt
		old.Mail = m
		return mailer.Receipt{ID: m.ID, Status: mailer.Coalesced}
	case e.CapCount > 0 && s.count(m, e.CapSince) >= e.CapCount:
		status, m.State, m.Reason, m.FinishedAt = mailer.Capped, mailer.Dropped, mailer.ReasonCapped, m.CreatedAt
	default:
		s.supersede(e)
	}
	s.mails[m.ID] = &record{Mail: m, group: e.Group}
	s.byKey[string(m.KeyHash)] = m.ID
	s.order = append(s.order, m.ID)
	return mailer.Receipt{ID: m.ID, Status: status}
}

func (s *Store) suppressed(m mailer.Mail) bool {
	for k, sup := range s.suppressions {
		if k.address == string(m.AddressHash) && sup.Covers(m.Stream, m.Class) {
			return true
		}
	}
	return false
}

func (s *Store) count(m mailer.Mail, since time.Time) int {
	n := 0
	for _, r := range s.mails {
		if r.Account == m.Account && r.Stream == m.Stream && r.Class == m.Class && !r.CreatedAt.Before(since) && r.State != mailer.Dropped {
			n++
		}
	}
	return n
}

func (s *Store) supersede(e mailer.Enqueue) {
	for _, r := range s.mails {
		if r.State == mailer.Pending && r.Account == e.Mail.Account && slices.Contains(e.Supersedes, r.Kind) &&
			(e.Mail.Topic == "" || r.Topic == e.Mail.Topic) {
			r.State, r.Reason, r.FinishedAt = mailer.Dropped, mailer.ReasonSuperseded, e.Mail.CreatedAt
		}
	}
}

func (s *Store) pendingInGroup(e mailer.Enqueue) *record {
	if e.Group == "" {
		return nil
	}
	for _, id := range s.order {
		r := s.mails[id]
		// One that has been tried already is on its way.
		if r.State == mailer.Pending && r.Attempts == 0 && r.group == e.Group && r.Account == e.Mail.Account && r.Topic == e.Mail.Topic {
			return r
		}
	}
	return nil
}

// Claim implements mailer.Store.
func (s *Store) Claim(ctx context.Context, c mailer.Claim) ([]mailer.Leased, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var due []*record
	for _, id := range s.order {
		if r := s.mails[id]; r.State == mailer.Pending && !r.RunAt.After(c.Now) && !slices.Contains(c.NotDomains, r.Domain) {
			due = append(due, r)
		}
	}
	slices.SortStableFunc(due, func(a, b *record) int {
		return cmp.Or(a.RunAt.Compare(b.RunAt), cmp.Compare(a.ID, b.ID))
	})
	due = due[:min(len(due), c.Limit)]
	out := make([]mailer.Leased, len(due))
	for i, r := range due {
		r.State, r.lease = mailer.Claimed, c.Now.Add(c.Lease)
		r.Attempts++
		out[i] = mailer.Leased{Mail: r.Mail, Suppressed: s.suppressed(r.Mail)}
	}
	return out, nil
}

// leased returns the record if the attempt still holds its lease.
func (s *Store) leased(id string, attempt int) *record {
	r := s.mails[id]
	if r == nil || r.Attempts != attempt || r.State != mailer.Claimed && r.State != mailer.Sending {
		return nil
	}
	return r
}

// Begin implements mailer.Store.
func (s *Store) Begin(ctx context.Context, id string, attempt int) (bool, error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.leased(id, attempt)
	if r == nil || r.State != mailer.Claimed {
		return false, nil
	}
	r.State = mailer.Sending
	return true, nil
}

// Extend implements mailer.Store.
func (s *Store) Extend(ctx context.Context, leases []mailer.Lease, until time.Time) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, l := range leases {
		if r := s.leased(l.ID, l.Attempt); r != nil {
			r.lease = until
			n++
		}
	}
	return n, nil
}

// Ack implements mailer.Store.
func (s *Store) Ack(ctx context.Context, acks []mailer.Ack) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, a := range acks {
		r := s.leased(a.ID, a.Attempt)
		if r == nil {
			continue
		}
		n++
		r.State, r.Reason, r.Code, r.Enhanced, r.Transport, r.ProviderID = a.State, a.Reason, a.Code, a.Enhanced, a.Transport, a.ProviderID
		if a.Refund {
			r.Attempts--
		}
		if a.State == mailer.Pending {
			r.RunAt = a.RunAt
		} else {
			r.FinishedAt = a.At
		}
	}
	return n, nil
}

// Recover implements mailer.Store.
func (s *Store) Recover(ctx context.Context, now time.Time) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, r := range s.mails {
		if r.State != mailer.Claimed && r.State != mailer.Sending || !r.lease.Before(now) {
			continue
		}
		n++
		if r.State == mailer.Sending {
			r.State, r.Reason, r.FinishedAt = mailer.Held, mailer.ReasonAmbiguous, now
		} else {
			r.State = mailer.Pending
		}
	}
	return n, nil
}

// Release implements mailer.Store.
func (s *Store) Release(ctx context.Context, ids []string, at, expires time.Time) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, id := range ids {
		r := s.mails[id]
		if r == nil || r.Email == "" || r.State != mailer.Dead && r.State != mailer.Held {
			continue
		}
		r.State, r.RunAt, r.ExpiresAt, r.Attempts, r.Reason, r.FinishedAt = mailer.Pending, at, expires, 0, "", time.Time{}
		n++
	}
	close(s.wake)
	s.wake = make(chan struct{})
	return n, nil
}

// Cancel implements mailer.Store.
func (s *Store) Cancel(ctx context.Context, id string, at time.Time) (bool, error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.mails[id]
	if r == nil || r.State != mailer.Pending && r.State != mailer.Held {
		return false, nil
	}
	r.State, r.Reason, r.FinishedAt = mailer.Dropped, mailer.ReasonCancelled, at
	return true, nil
}

// Wait implements mailer.Waiter.
func (s *Store) Wait(ctx context.Context, atMost time.Duration, look func(context.Context) bool) error {
	s.mu.Lock()
	wake := s.wake
	s.mu.Unlock()
	if look(ctx) {
		return nil
	}
	t := time.NewTimer(atMost)
	defer t.Stop()
	select {
	case <-wake:
	case <-t.C:
	case <-ctx.Done():
	}
	return nil
}

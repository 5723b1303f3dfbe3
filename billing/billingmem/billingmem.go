// Package billingmem keeps billing's accounts, inbox and outbox in memory: for
// tests, for development, and for a first look. It is as correct as the other
// stores and loses everything when the process ends.
package billingmem

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/kolekt/commerce/billing"
)

// Store is a billing.Store. It is safe for concurrent use.
type Store struct {
	mu       sync.Mutex
	accounts map[string]billing.Account
	owners   map[string]string // customer → account
	events   map[string]*billing.InboxEvent
	notices  map[string]*notice
	byWho    map[string][]*notice // in the order in which they were added
	sequence int64
	cursors  map[string]time.Time
	claims   map[string]claim
}

type claim struct {
	account string
	at      time.Time
}

type notice struct {
	billing.Delivery
	sequence int64
	empty    bool // pruned: only the ID is left
}

// New returns an empty store.
func New() *Store {
	return &Store{
		accounts: map[string]billing.Account{}, owners: map[string]string{}, events: map[string]*billing.InboxEvent{},
		notices: map[string]*notice{}, byWho: map[string][]*notice{}, cursors: map[string]time.Time{}, claims: map[string]claim{},
	}
}

var _ billing.Store = (*Store)(nil)

// Account implements billing.Store.
func (s *Store) Account(ctx context.Context, id string) (billing.Account, error) {
	s.mu.Lock()
	a, ok := s.accounts[id]
	s.mu.Unlock()
	if !ok {
		return billing.Account{ID: id}, ctx.Err()
	}
	return a.Clone(), ctx.Err() // what is stored is never changed in place
}

// AccountOf implements billing.Store.
func (s *Store) AccountOf(ctx context.Context, customerID string) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if id, ok := s.owners[customerID]; ok {
		return id, ctx.Err()
	}
	return "", fmt.Errorf("billingmem: account of customer %s: %w", customerID, billing.ErrNotFound)
}

// Accounts implements billing.Store.
func (s *Store) Accounts(ctx context.Context, q billing.AccountQuery) ([]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var ids []string
	for id, a := range s.accounts {
		switch {
		case id <= q.After:
		case !q.DueBefore.IsZero() && (a.DueAt.IsZero() || a.DueAt.After(q.DueBefore)):
		case !q.SyncedBefore.IsZero() && (a.CustomerID == "" || !a.SyncedAt.Before(q.SyncedBefore)):
		default:
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids[:min(len(ids), q.Limit)], ctx.Err()
}

// Save implements billing.Store.
func (s *Store) Save(ctx context.Context, c billing.Change) error {
	a := c.Account.Clone()
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	old := s.accounts[a.ID]
	if old.Version != a.Version {
		return fmt.Errorf("billingmem: account %q is at version %d, not %d: %w", a.ID, old.Version, a.Version, billing.ErrConflict)
	}
	if owner, ok := s.owners[a.CustomerID]; a.CustomerID != "" && ok && owner != a.ID {
		return fmt.Errorf("billingmem: customer %s belongs to another account: %w", a.CustomerID, billing.ErrConflict)
	}
	delete(s.owners, old.CustomerID)
	if a.CustomerID != "" {
		s.owners[a.CustomerID] = a.ID
	}
	a.Version++
	s.accounts[a.ID] = a
	s.finish(c.Done)
	for _, n := range c.Notices {
		if s.notices[n.ID] != nil {
			continue
		}
		s.sequence++
		added := &notice{Delivery: billing.Delivery{Notice: n, Next: n.At}, sequence: s.sequence}
		s.notices[n.ID] = added
		s.byWho[n.Account] = append(s.byWho[n.Account], added)
	}
	return nil
}

func (s *Store) finish(ids []string) {
	for _, id := range ids {
		if e := s.events[id]; e != nil {
			e.Status, e.LastError = billing.EventDone, ""
		}
	}
}

// PutEvent implements billing.Store.
func (s *Store) PutEvent(ctx context.Context, e billing.InboxEvent) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return false, err
	}
	if s.events[e.ID] != nil {
		return false, nil
	}
	e.Body = slices.Clone(e.Body)
	e.Status = billing.EventPending
	s.events[e.ID] = &e
	return true, nil
}

// ClaimEvents implements billing.Store.
func (s *Store) ClaimEvents(ctx context.Context, now time.Time, lease time.Duration, limit int) ([]billing.InboxEvent, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var due []*billing.InboxEvent
	for _, e := range s.events {
		if e.Status == billing.EventPending && !e.Next.After(now) {
			due = append(due, e)
		}
	}
	slices.SortFunc(due, func(x, y *billing.InboxEvent) int {
		return cmp.Or(x.Next.Compare(y.Next), strings.Compare(x.ID, y.ID))
	})
	claimed := make([]billing.InboxEvent, 0, min(len(due), limit))
	for _, e := range due[:min(len(due), limit)] {
		e.Attempts++
		e.Next = now.Add(lease)
		claimed = append(claimed, copyOf(e))
	}
	return claimed, nil
}

func copyOf(e *billing.InboxEvent) billing.InboxEvent {
	c := *e
	c.Body = slices.Clone(e.Body)
	return c
}

// FinishEvents implements billing.Store.
func (s *Store) FinishEvents(ctx context.Context, ids []string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	s.finish(ids)
	return nil
}

// FailEvents implements billing.Store.
func (s *Store) FailEvents(ctx context.Context, failures []billing.Failure) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	for _, f := range failures {
		e := s.events[f.ID]
		if e == nil || e.Status != billing.EventPending {
			continue
		}
		e.LastError = f.Error
		if f.Dead {
			e.Status = billing.EventDead
		} else {
			e.Next = f.Next
		}
	}
	return nil
}

// Events implements billing.Store.
func (s *Store) Events(ctx context.Context, q billing.EventQuery) ([]billing.InboxEvent, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	after, ok := s.events[q.After]
	if q.After != "" && !ok {
		return nil, fmt.Errorf("billingmem: event %s: %w", q.After, billing.ErrNotFound)
	}
	byTime := func(x, y *billing.InboxEvent) int {
		return cmp.Or(x.Received.Compare(y.Received), strings.Compare(x.ID, y.ID))
	}
	var found []*billing.InboxEvent
	for _, e := range s.events {
		if (q.Status == "" || e.Status == q.Status) && (q.CustomerID == "" || e.CustomerID == q.CustomerID) && (after == nil || byTime(e, after) > 0) {
			found = append(found, e)
		}
	}
	slices.SortFunc(found, byTime)
	list := make([]billing.InboxEvent, 0, min(len(found), q.Limit))
	for _, e := range found[:min(len(found), q.Limit)] {
		list = append(list, copyOf(e))
	}
	return list, ctx.Err()
}

// ReplayEvents implements billing.Store.
func (s *Store) ReplayEvents(ctx context.Context, ids []string, now time.Time) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	n := 0
	for _, id := range ids {
		if e := s.events[id]; e != nil && e.Status != billing.EventPending && len(e.Body) > 0 {
			e.Status, e.Attempts, e.Next, e.LastError = billing.EventPending, 0, now, ""
			n++
		}
	}
	return n, nil
}

// ClaimNotices implements billing.Store.
func (s *Store) ClaimNotices(ctx context.Context, now time.Time, lease time.Duration, limit int) ([]billing.Delivery, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var due []*notice
	for _, n := range s.notices {
		if !n.empty && n.Delivered.IsZero() && !n.Dead && !n.Next.After(now) {
			due = append(due, n)
		}
	}
	slices.SortFunc(due, func(x, y *notice) int { return cmp.Compare(x.sequence, y.sequence) })
	claimed := make([]billing.Delivery, 0, min(len(due), limit))
	for _, n := range due[:min(len(due), limit)] {
		n.Attempts++
		n.Next = now.Add(lease)
		claimed = append(claimed, n.Delivery)
	}
	return claimed, nil
}

// SettleNotices implements billing.Store.
func (s *Store) SettleNotices(ctx context.Context, delivered []string, failures []billing.Failure, now time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	for _, id := range delivered {
		if n := s.notices[id]; n != nil && n.Delivered.IsZero() {
			n.Delivered, n.LastError = now, ""
		}
	}
	for _, f := range failures {
		if n := s.notices[f.ID]; n != nil && n.Delivered.IsZero() && !n.Dead {
			n.LastError, n.Dead = f.Error, f.Dead
			if !f.Dead {
				n.Next = f.Next
			}
		}
	}
	return nil
}

// Notices implements billing.Store.
func (s *Store) Notices(ctx context.Context, account, after string, limit int) ([]billing.Delivery, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	from := int64(0)
	if after != "" {
		n := s.notices[after]
		if n == nil {
			return nil, fmt.Errorf("billingmem: notice %s: %w", after, billing.ErrNotFound)
		}
		from = n.sequence
	}
	list := []billing.Delivery{}
	for _, n := range s.byWho[account] {
		if n.sequence > from && !n.empty && len(list) < limit {
			list = append(list, n.Delivery)
		}
	}
	return list, ctx.Err()
}

// Prune implements billing.Store.
func (s *Store) Prune(ctx context.Context, before time.Time, limit int) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	events, emptied := 0, 0
	for _, id := range slices.Sorted(maps.Keys(s.events)) {
		if e := s.events[id]; events < limit && e.Status == billing.EventDone && e.Received.Before(before) {
			delete(s.events, id)
			events++
		}
	}
	for _, id := range slices.Sorted(maps.Keys(s.notices)) {
		n := s.notices[id]
		if emptied < limit && !n.empty && !n.Delivered.IsZero() && n.Delivered.Before(before) {
			s.empty(n)
			emptied++
		}
	}
	return events + emptied, nil
}

// empty leaves the ID of a notice.
func (s *Store) empty(n *notice) {
	s.byWho[n.Account] = slices.DeleteFunc(s.byWho[n.Account], func(m *notice) bool { return m == n })
	*n = notice{Delivery: billing.Delivery{Notice: billing.Notice{ID: n.ID}}, sequence: n.sequence, empty: true}
}

// Detach implements billing.Store.
func (s *Store) Detach(ctx context.Context, account string, as billing.Account) error {
	as = as.Clone()
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	old, ok := s.accounts[account]
	if !ok || old.Version != as.Version {
		return fmt.Errorf("billingmem: account is at version %d, not %d: %w", old.Version, as.Version, billing.ErrConflict)
	}
	delete(s.accounts, account)
	delete(s.owners, old.CustomerID)
	if as.CustomerID != "" {
		s.owners[as.CustomerID] = as.ID
	}
	as.Version++
	s.accounts[as.ID] = as
	for name, c := range s.claims {
		if c.account == account {
			c.account = as.ID
			s.claims[name] = c
		}
	}
	return nil
}

// Scrub implements billing.Store.
func (s *Store) Scrub(ctx context.Context, account, customerID string, limit int) (events, notices int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return 0, 0, err
	}
	for _, e := range s.events {
		if events < limit && customerID != "" && e.CustomerID == customerID && e.Status != billing.EventPending && len(e.Body) > 0 {
			e.Body, e.Account = []byte{}, ""
			events++
		}
	}
	of := slices.Clone(s.byWho[account])
	for _, n := range of[:min(len(of), limit)] {
		s.empty(n)
		notices++
	}
	if len(s.byWho[account]) == 0 {
		delete(s.byWho, account)
	}
	return events, notices, nil
}

// Claim implements billing.Store.
func (s *Store) Claim(ctx context.Context, name, account string, now time.Time) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return "", err
	}
	if c, taken := s.claims[name]; taken {
		return c.account, nil
	}
	s.claims[name] = claim{account, now}
	return account, nil
}

// Claims implements billing.Store.
func (s *Store) Claims(ctx context.Context, account string) ([]billing.Claimed, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := []billing.Claimed{}
	for _, name := range slices.Sorted(maps.Keys(s.claims)) {
		if c := s.claims[name]; c.account == account {
			list = append(list, billing.Claimed{Name: name, At: c.at})
		}
	}
	return list, ctx.Err()
}

// Cursor implements billing.Store.
func (s *Store) Cursor(ctx context.Context, name string) (time.Time, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cursors[name], ctx.Err()
}

// SetCursor implements billing.Store.
func (s *Store) SetCursor(ctx context.Context, name string, t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	if t.After(s.cursors[name]) {
		s.cursors[name] = t
	}
	return nil
}

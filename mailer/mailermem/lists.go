package mailermem

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/kolekt/commerce/mailer"
)

// Suppress implements mailer.Store.
func (s *Store) Suppress(ctx context.Context, list []mailer.Suppression) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sup := range list {
		key := suppressionKey{string(sup.AddressHash), sup.Stream, sup.Reason}
		if old, ok := s.suppressions[key]; !ok || !sup.At.Before(old.At) {
			s.suppressions[key] = sup
		}
	}
	return nil
}

// Unsuppress implements mailer.Store.
func (s *Store) Unsuppress(ctx context.Context, addressHash []byte, stream string, reasons []string) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, reason := range reasons {
		key := suppressionKey{string(addressHash), stream, reason}
		if _, ok := s.suppressions[key]; ok {
			delete(s.suppressions, key)
			n++
		}
	}
	return n, nil
}

// Suppressions implements mailer.Store.
func (s *Store) Suppressions(ctx context.Context, addressHash []byte) ([]mailer.Suppression, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []mailer.Suppression
	for key, sup := range s.suppressions {
		if key.address == string(addressHash) {
			out = append(out, sup)
		}
	}
	slices.SortFunc(out, func(a, b mailer.Suppression) int {
		return cmp.Or(cmp.Compare(a.Stream, b.Stream), cmp.Compare(a.Reason, b.Reason))
	})
	return out, nil
}

// Record implements mailer.Store.
func (s *Store) Record(ctx context.Context, e mailer.Stored) (bool, error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	key := [2]string{e.Provider, e.ID}
	if e.ID != "" && s.eventIDs[key] {
		return false, nil
	}
	if e.ID != "" {
		s.eventIDs[key] = true
	}
	s.events = append(s.events, e)
	if len(s.events) > s.limit {
		s.dropEvents(func(i int, _ mailer.Stored) bool { return i < len(s.events)-s.limit })
	}
	return true, nil
}

func (s *Store) dropEvents(drop func(int, mailer.Stored) bool) int {
	kept := make([]mailer.Stored, 0, len(s.events))
	for i, e := range s.events {
		if drop(i, e) {
			delete(s.eventIDs, [2]string{e.Provider, e.ID})
			continue
		}
		kept = append(kept, e)
	}
	n := len(s.events) - len(kept)
	s.events = kept
	return n
}

// CountEvents implements mailer.Store.
func (s *Store) CountEvents(ctx context.Context, addressHash []byte, t mailer.EventType, since time.Time) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, e := range s.events {
		if e.Type == t && !e.At.Before(since) && bytes.Equal(e.AddressHash, addressHash) {
			n++
		}
	}
	return n, nil
}

// Lookup implements mailer.Store.
func (s *Store) Lookup(ctx context.Context, id string) (mailer.Mail, error) {
	if err := ctx.Err(); err != nil {
		return mailer.Mail{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.mails[id]; r != nil {
		return r.Mail, nil
	}
	return mailer.Mail{}, mailer.ErrNotFound
}

// List implements mailer.Store.
func (s *Store) List(ctx context.Context, q mailer.Query) ([]mailer.Mail, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []mailer.Mail
	for _, r := range s.mails {
		if (q.Account == "" || r.Account == q.Account) && (len(q.States) == 0 || slices.Contains(q.States, r.State)) &&
			(q.Before == "" || r.ID < q.Before) {
			out = append(out, r.Mail)
		}
	}
	slices.SortFunc(out, func(a, b mailer.Mail) int { return cmp.Compare(b.ID, a.ID) })
	return out[:min(len(out), q.Limit)], nil
}

// Stats implements mailer.Store.
func (s *Store) Stats(ctx context.Context, now time.Time) (mailer.Stats, error) {
	if err := ctx.Err(); err != nil {
		return mailer.Stats{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var st mailer.Stats
	for _, r := range s.mails {
		switch r.State {
		case mailer.Pending:
			st.Pending++
			if !r.RunAt.After(now) && (st.Oldest.IsZero() || r.RunAt.Before(st.Oldest)) {
				st.Oldest = r.RunAt
			}
		case mailer.Claimed, mailer.Sending:
			st.Claimed++
		case mailer.Dead:
			st.Dead++
		case mailer.Held:
			st.Held++
		}
	}
	return st, nil
}

// scrub removes what is personal from a record.
func (r *record) scrub() {
	r.scrubbed = true
	r.Account, r.Topic, r.Email, r.Name, r.Locale, r.TimeZone, r.Domain, r.AddressHash, r.Data = "", "", "", "", "", "", "", nil, nil
	r.ProviderID = ""
}

func ended(s mailer.State) bool { return s == mailer.Done || s == mailer.Dropped || s == mailer.Dead }

// Scrub implements mailer.Store.
func (s *Store) Scrub(ctx context.Context, before time.Time, limit int) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, id := range s.order {
		if r := s.mails[id]; n < limit && !r.scrubbed && !open(r.State) && r.FinishedAt.Before(before) {
			r.scrub()
			n++
		}
	}
	return n, nil
}

// PurgeKeys implements mailer.Store.
func (s *Store) PurgeKeys(ctx context.Context, before time.Time, limit int) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	kept := make([]string, 0, len(s.order))
	for _, id := range s.order {
		if r := s.mails[id]; n < limit && r.scrubbed && ended(r.State) && r.FinishedAt.Before(before) {
			s.forget(r)
			n++
			continue
		}
		kept = append(kept, id)
	}
	s.order = kept
	old := 0
	dropped := s.dropEvents(func(_ int, e mailer.Stored) bool {
		if !e.At.Before(before) || old == limit {
			return false
		}
		old++
		return true
	})
	return max(n, dropped), nil
}

// Export implements mailer.Store.
func (s *Store) Export(ctx context.Context, account string, emit func(string, map[string]any) error) error {
	s.mu.Lock()
	var mails []mailer.Mail
	var events []mailer.Stored
	for _, id := range s.order {
		if r := s.mails[id]; r.Account == account && account != "" {
			mails = append(mails, r.Mail)
		}
	}
	for _, e := range s.events {
		if slices.ContainsFunc(mails, func(m mailer.Mail) bool { return m.ID == e.MailID }) {
			events = append(events, e)
		}
	}
	s.mu.Unlock()
	for _, m := range mails {
		if err := errors.Join(ctx.Err(), emit("mail", m.Fields())); err != nil {
			return err
		}
	}
	for _, e := range events {
		if err := errors.Join(ctx.Err(), emit("mail_event", e.Fields())); err != nil {
			return err
		}
	}
	return nil
}

// Erase implements mailer.Store.
func (s *Store) Erase(ctx context.Context, account string, at time.Time, limit int) (map[string]int64, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	erased := map[string]bool{}
	for _, id := range s.order {
		r := s.mails[id]
		if account == "" || r.Account != account || len(erased) == limit {
			continue
		}
		if open(r.State) || r.State == mailer.Held {
			r.State, r.Reason, r.FinishedAt = mailer.Dropped, mailer.ReasonErased, at
		}
		r.scrub()
		erased[r.ID] = true
	}
	counts := map[string]int64{}
	if len(erased) == 0 {
		return counts, nil
	}
	counts["mail"] = int64(len(erased))
	if n := s.dropEvents(func(_ int, e mailer.Stored) bool { return erased[e.MailID] }); n > 0 {
		counts["mail_event"] = int64(n)
	}
	return counts, nil
}

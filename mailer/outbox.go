package mailer

import (
	"context"
	"fmt"
	"time"
)

// needStore is the error of everything that a direct Service can't do.
func (s *Service) needStore() error {
	if s.store == nil {
		return fmt.Errorf("%w: this needs a store", ErrConfig)
	}
	return nil
}

// Lookup returns a mail of the outbox, or [ErrNotFound].
func (s *Service) Lookup(ctx context.Context, id string) (Mail, error) {
	if err := s.needStore(); err != nil {
		return Mail{}, err
	}
	return s.store.Lookup(ctx, id)
}

// List returns mails of the outbox, newest first.
func (s *Service) List(ctx context.Context, q Query) ([]Mail, error) {
	if err := s.needStore(); err != nil {
		return nil, err
	}
	if q.Limit == 0 {
		q.Limit = 100
	}
	if q.Limit < 1 || q.Limit > 1000 {
		return nil, fmt.Errorf("%w: Query.Limit must be from 1 to 1000", ErrConfig)
	}
	return s.store.List(ctx, q)
}

// Stats counts the outbox, for an alarm on Dead, Held and the age of Oldest.
func (s *Service) Stats(ctx context.Context) (Stats, error) {
	if err := s.needStore(); err != nil {
		return Stats{}, err
	}
	return s.store.Stats(ctx, s.now())
}

// Release sends dead or held mails again, with three further days to do it in.
func (s *Service) Release(ctx context.Context, ids ...string) (int, error) {
	if err := s.needStore(); err != nil {
		return 0, err
	}
	now := s.now()
	return s.store.Release(ctx, ids, now, now.Add(72*time.Hour))
}

// Cancel drops a mail that has not been sent, and reports whether it did.
func (s *Service) Cancel(ctx context.Context, id string) (bool, error) {
	if err := s.needStore(); err != nil {
		return false, err
	}
	return s.store.Cancel(ctx, id, s.now())
}

// sweepBatch bounds what one statement of a sweep touches.
const sweepBatch = 1000

// Sweep removes addresses and variables of mails that ended Config.Retain ago,
// and forgets keys and events after Config.RetainKeys. Call it once a day. It
// works in batches and returns how many mails it scrubbed and forgot.
func (s *Service) Sweep(ctx context.Context) (scrubbed, forgotten int, err error) {
	if err := s.needStore(); err != nil {
		return 0, 0, err
	}
	now := s.now()
	for {
		n, err := s.store.Scrub(ctx, now.Add(-s.cfg.Retain), sweepBatch)
		scrubbed += n
		if err != nil {
			return scrubbed, forgotten, fmt.Errorf("mailer: sweep: %w", err)
		}
		if n < sweepBatch {
			break
		}
	}
	for {
		n, err := s.store.PurgeKeys(ctx, now.Add(-s.cfg.RetainKeys), sweepBatch)
		forgotten += n
		if err != nil {
			return scrubbed, forgotten, fmt.Errorf("mailer: sweep: %w", err)
		}
		if n < sweepBatch {
			return scrubbed, forgotten, nil
		}
	}
}

// ExportSubject emits every mail, and what happened to it, that is held on an
// account: what gdpr's export asks of each source.
func (s *Service) ExportSubject(ctx context.Context, account string, emit func(record string, fields map[string]any) error) error {
	if err := s.needStore(); err != nil {
		return err
	}
	return s.store.Export(ctx, account, emit)
}

// EraseSubject removes what is personal in the account's mails and stops those
// that are waiting. Suppressions stay, as HMACs: without them an erased
// person's objection would be forgotten. It returns counts by record and can be
// called again.
func (s *Service) EraseSubject(ctx context.Context, account string) (map[string]int64, error) {
	if err := s.needStore(); err != nil {
		return nil, err
	}
	total := map[string]int64{}
	for {
		counts, err := s.store.Erase(ctx, account, s.now(), sweepBatch)
		if err != nil {
			return total, fmt.Errorf("mailer: erase: %w", err)
		}
		done := true
		for record, n := range counts {
			total[record] += n
			done = done && n == 0
		}
		if done {
			return total, nil
		}
	}
}

// Fields returns what a person may know of a mail that was written to them, for
// a store's Export.
func (m Mail) Fields() map[string]any {
	f := map[string]any{
		"id": m.ID, "kind": m.Kind, "stream": m.Stream, "class": m.Class.String(), "email": m.Email, "name": m.Name,
		"locale": m.Locale, "time_zone": m.TimeZone, "topic": m.Topic, "variables": string(m.Data),
		"state": m.State.String(), "reason": m.Reason, "created_at": m.CreatedAt.UTC(), "attempts": int64(m.Attempts),
	}
	if !m.FinishedAt.IsZero() {
		f["finished_at"] = m.FinishedAt.UTC()
	}
	return f
}

// Fields returns what a person may know of an event.
func (e Stored) Fields() map[string]any {
	return map[string]any{"mail_id": e.MailID, "provider": e.Provider, "type": string(e.Type), "reason": string(e.Reason), "at": e.At.UTC()}
}

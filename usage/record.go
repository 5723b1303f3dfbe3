package usage

import (
	"context"
	"errors"
	"time"
)

// Result says what became of each event of a batch.
type Result struct {
	Stored     int           // new
	Duplicates int           // known already, with the same content
	Rejected   []*EventError // malformed, or a key reused: by index
	// IDs has the ID of each event, in order; empty for a rejected one.
	IDs []string
}

// Record stores one event. When it returns nil the event is as durable as the
// store, and counted exactly once however often it is sent with the same ID.
func (s *Service) Record(ctx context.Context, e Event) error {
	res, err := s.RecordBatch(ctx, []Event{e})
	if err != nil {
		return err
	}
	if len(res.Rejected) > 0 {
		return res.Rejected[0].Err
	}
	return nil
}

// RecordBatch stores events in one commit. A bad event doesn't hinder the
// others: it is in Result.Rejected with its index. An error means that none of
// the batch was stored, or (ErrUnknownOutcome) that all good ones or none were;
// a retry counts nothing twice if the events have IDs.
func (s *Service) RecordBatch(ctx context.Context, events []Event) (Result, error) {
	res := Result{IDs: make([]string, len(events))}
	now := s.now()
	entries := make([]Entry, 0, len(events))
	index := make([]int, 0, len(events))
	c := charger{svc: s}
	for i, e := range events {
		entry, err := s.entry(e, now)
		if err == nil {
			err = c.charge(ctx, &entry)
			if err != nil && !isKind(err) {
				return Result{}, err
			}
		}
		if err != nil {
			res.Rejected = append(res.Rejected, &EventError{Index: i, ID: e.ID, Err: err})
			continue
		}
		entries, index = append(entries, entry), append(index, i)
	}
	if len(entries) == 0 {
		return res, nil
	}
	outcomes, err := s.store.Append(ctx, now, entries)
	if err != nil {
		return Result{}, err
	}
	for j, o := range outcomes {
		i := index[j]
		switch o {
		case Stored:
			res.Stored++
		case Duplicate:
			res.Duplicates++
		case Reused:
			res.Rejected = append(res.Rejected, &EventError{Index: i, ID: events[i].ID, Err: ErrKeyReused})
			continue
		}
		res.IDs[i] = entries[j].ID
	}
	return res, nil
}

// isKind reports whether an error is the event's own fault.
func isKind(err error) bool {
	for _, kind := range []error{ErrInvalid, ErrUnknownMeter, ErrTooLate, ErrInFuture, ErrOverflow} {
		if errors.Is(err, kind) {
			return true
		}
	}
	return false
}

// charger looks up what the events of a batch count against: their quotas, and
// whether they are reported. It asks for the quota of an account and meter once.
type charger struct {
	svc   *Service
	known map[AccountMeter]*knownQuota
}

type knownQuota struct {
	Quota
	none   bool   // the account is metered all the same
	charge Charge // of the period of the event before
}

func (c *charger) charge(ctx context.Context, e *Entry) error {
	m := c.svc.meter(e.Meter)
	e.Report = m.Report
	if !m.Quota {
		return nil
	}
	name := AccountMeter{Account: e.Account, Meter: e.Meter}
	q := c.known[name]
	if q == nil {
		quota, err := c.svc.quota(ctx, e.Account, e.Meter)
		none := errors.Is(err, ErrNoQuota)
		if err != nil && !none {
			return err
		}
		if c.known == nil {
			c.known = map[AccountMeter]*knownQuota{}
		}
		q = &knownQuota{Quota: quota, none: none}
		c.known[name] = q
	}
	if q.none {
		return nil
	}
	if q.charge.Period.IsZero() || !q.charge.Period.Contains(e.Time) {
		q.charge = q.Quota.charge(*m, e.Time)
	}
	e.Charge = q.charge
	return nil
}

// newEntry makes the event that a quota step records.
func (s *Service) newEntry(account, meter, id string, n int64, properties Properties, at, now time.Time) (*Entry, error) {
	if m := s.meters[meter]; m.Aggregation == Count && n != 1 {
		return nil, invalid("meter %q counts events: %d units can't be one event (use Aggregation sum)", meter, n)
	}
	e, err := s.entry(Event{ID: id, Account: account, Meter: meter, Value: n, Time: at, Properties: properties}, now)
	if err != nil {
		return nil, err
	}
	e.Report = s.meters[meter].Report
	return &e, nil
}

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
	for i, e := range events {
		entry, err := s.entry(e, now)
		if err == nil {
			err = s.chargeEntry(ctx, &entry)
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

// chargeEntry looks up what the event counts against: its quota, and whether it
// is reported. An account without a quota is metered all the same.
func (s *Service) chargeEntry(ctx context.Context, e *Entry) error {
	m := s.meters[e.Meter]
	e.Report = m.Report
	if !m.Quota {
		return nil
	}
	q, err := s.quota(ctx, e.Account, e.Meter)
	if errors.Is(err, ErrNoQuota) {
		return nil
	}
	if err != nil {
		return err
	}
	e.Charge = q.charge(m, e.Time)
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

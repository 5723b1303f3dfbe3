package billing

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// Moment is one thing that happened to an account.
type Moment struct {
	At     time.Time `json:"at"`
	Source string    `json:"source"` // "event" of the gateway, "notice", an adjustment "by hand", "intent" under way, or "access" as it is now
	ID     string    `json:"id,omitempty"`
	What   string    `json:"what"`
	// Detail says what became of it: "handled at attempt 2", "not handled
	// yet: …", "delivered at …".
	Detail string `json:"detail,omitempty"`
}

// Timeline answers "why did I lose access at 14:02?": what the gateway told,
// what followed from it, what is under way, and what the account may do now,
// in order of time. It reads the last limit of each kind, up to Config.Retention
// back.
func (s *Service) Timeline(ctx context.Context, account string, limit int) ([]Moment, error) {
	a, err := s.Account(ctx, account)
	if err != nil {
		return nil, err
	}
	var all []Moment
	notices, err := last(limit, func(d Delivery) string { return d.ID }, func(after string) ([]Delivery, error) {
		return s.store.Notices(ctx, account, after, page)
	})
	if err != nil {
		return nil, fmt.Errorf("billing: timeline: %w", err)
	}
	for _, d := range notices {
		m := Moment{At: d.At, Source: "notice", ID: d.ID, What: string(d.Kind), Detail: "not delivered yet"}
		switch {
		case !d.Delivered.IsZero():
			m.Detail = "delivered at " + d.Delivered.Format(time.RFC3339)
		case d.Dead:
			m.Detail = "never delivered: " + d.LastError
		case d.LastError != "":
			m.Detail += ": " + d.LastError
		}
		all = append(all, m)
	}
	if a.CustomerID != "" {
		events, err := last(limit, func(e InboxEvent) string { return e.ID }, func(after string) ([]InboxEvent, error) {
			return s.store.Events(ctx, EventQuery{CustomerID: a.CustomerID, After: after, Limit: page})
		})
		if err != nil {
			return nil, fmt.Errorf("billing: timeline: %w", err)
		}
		for _, e := range events {
			m := Moment{At: e.Created, Source: "event", ID: e.ID, What: e.Type, Detail: "not handled yet"}
			switch e.Status {
			case EventDone:
				m.Detail = fmt.Sprintf("received at %s, handled at attempt %d", e.Received.Format(time.RFC3339), e.Attempts)
			case EventDead:
				m.Detail = "given up: " + e.LastError
			case EventPending:
				if e.LastError != "" {
					m.Detail += ": " + e.LastError
				}
			}
			all = append(all, m)
		}
	}
	for _, d := range a.Adjustments {
		all = append(all, Moment{At: d.At, Source: "by hand", ID: d.Key, What: d.What, Detail: "by " + d.By + ": " + d.Reason})
	}
	for _, it := range a.Intents {
		all = append(all, Moment{At: it.Started, Source: "intent", ID: it.Key, What: it.Op, Detail: "last tried at " + it.Called.Format(time.RFC3339)})
	}
	slices.SortStableFunc(all, func(x, y Moment) int { return x.At.Compare(y.At) })
	d := Access(s.catalog, s.cfg.Policy, &a, s.now())
	now := Moment{At: s.now(), Source: "access", What: fmt.Sprintf("plan %q because of %s", d.Plan, d.Reason)}
	if !d.Until.IsZero() {
		now.Detail = "until " + d.Until.Format(time.RFC3339)
	}
	return append(all, now), nil
}

// last reads a list page by page and keeps its end.
func last[T any](limit int, id func(T) string, read func(after string) ([]T, error)) ([]T, error) {
	var kept []T
	for after := ""; ; {
		list, err := read(after)
		if err != nil {
			return nil, err
		}
		kept = append(kept, list...)
		if limit > 0 && len(kept) > limit {
			kept = slices.Clone(kept[len(kept)-limit:])
		}
		if len(list) < page {
			return kept, nil
		}
		after = id(list[len(list)-1])
	}
}

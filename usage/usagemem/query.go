package usagemem

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sort"
	"time"

	"github.com/kolekt/commerce/usage"
)

// Aggregate implements usage.EventStore by a full scan.
func (s *Store) Aggregate(ctx context.Context, sel usage.Selection) ([]usage.Point, error) {
	type cell struct {
		span  int
		group string
	}
	type fold struct {
		usage.Stats
		seen map[string]bool
	}
	cells := map[cell]*fold{}
	scan := func(a *account) error {
		l := a.logs[sel.Meter]
		if l == nil {
			return ctx.Err()
		}
		for _, e := range l.between(sel.Bounds[0], sel.Bounds[len(sel.Bounds)-1]) {
			value, group, ok := pick(e, sel)
			if !ok {
				continue
			}
			k := cell{spanOf(sel.Bounds, e.Time), group}
			f := cells[k]
			if f == nil {
				f = &fold{Stats: usage.Stats{Scale: sel.Scale}, seen: map[string]bool{}}
				cells[k] = f
			}
			if err := f.Add(value, e.Time); err != nil {
				return err
			}
			if sel.Unique != "" {
				v, _ := e.Properties.Get(sel.Unique)
				f.seen[v.Text()] = true
			}
		}
		return ctx.Err()
	}
	var err error
	if sel.Account == "" {
		err = s.each(scan)
	} else {
		a, unlock := s.lock(sel.Account)
		err = scan(a)
		unlock()
	}
	if err != nil {
		return nil, err
	}
	out := make([]usage.Point, 0, len(cells))
	for k, f := range cells {
		f.Unique = int64(len(f.seen))
		out = append(out, usage.Point{Span: k.span, Group: k.group, Stats: f.Stats})
	}
	slices.SortFunc(out, func(a, b usage.Point) int {
		return cmp.Or(cmp.Compare(a.Span, b.Span), cmp.Compare(a.Group, b.Group))
	})
	return out, nil
}

// pick returns the number and the group that a selection takes of an event.
func pick(e usage.Entry, sel usage.Selection) (value int64, group string, ok bool) {
	for name, want := range sel.Filter {
		if v, has := e.Properties.Get(name); !has || v.Text() != want {
			return 0, "", false
		}
	}
	if sel.GroupBy != "" {
		v, has := e.Properties.Get(sel.GroupBy)
		if !has {
			return 0, "", false
		}
		group = v.Text()
	}
	for _, f := range e.Figures {
		if f.Name == sel.Figure {
			return f.Value, group, true
		}
	}
	return 0, "", false
}

func spanOf(bounds []time.Time, t time.Time) int {
	return sort.Search(len(bounds), func(i int) bool { return bounds[i].After(t) }) - 1
}

// Accounts implements usage.EventStore.
func (s *Store) Accounts(ctx context.Context, sel usage.Selection, n int) ([]usage.AccountStats, error) {
	var out []usage.AccountStats
	err := s.each(func(a *account) error {
		l := a.logs[sel.Meter]
		if l == nil || a.name == "" {
			return ctx.Err()
		}
		stats := usage.Stats{Scale: sel.Scale}
		for _, e := range l.between(sel.Bounds[0], sel.Bounds[1]) {
			if v, _, ok := pick(e, sel); ok {
				if err := stats.Add(v, e.Time); err != nil {
					return err
				}
			}
		}
		if stats.Count > 0 {
			out = append(out, usage.AccountStats{Account: a.name, Stats: stats})
		}
		return ctx.Err()
	})
	slices.SortFunc(out, func(a, b usage.AccountStats) int {
		return cmp.Or(cmp.Compare(b.Sum, a.Sum), cmp.Compare(a.Account, b.Account))
	})
	return out[:min(n, len(out))], err
}

// Active implements usage.EventStore.
func (s *Store) Active(ctx context.Context, meter string, bounds []time.Time) ([]int64, error) {
	out := make([]int64, len(bounds)-1)
	err := s.each(func(a *account) error {
		for i, active := range a.spans(meter, bounds) {
			if active {
				out[i]++
			}
		}
		return ctx.Err()
	})
	return out, err
}

// Retention implements usage.EventStore.
func (s *Store) Retention(ctx context.Context, meter string, bounds []time.Time) ([][]int64, error) {
	out := make([][]int64, len(bounds)-1)
	for i := range out {
		out[i] = make([]int64, len(bounds)-1)
	}
	err := s.each(func(a *account) error {
		active := a.spans(meter, bounds)
		first := slices.Index(active, true)
		for i, is := range active {
			if is {
				out[first][i]++
			}
		}
		return ctx.Err()
	})
	return out, err
}

// spans says in which spans the account has events; erased accounts have none.
func (a *account) spans(meter string, bounds []time.Time) []bool {
	out := make([]bool, len(bounds)-1)
	l := a.logs[meter]
	if l == nil || a.name == "" {
		return out
	}
	for i := range out {
		out[i] = len(l.between(bounds[i], bounds[i+1])) > 0
	}
	return out
}

// Events implements usage.EventStore.
func (s *Store) Events(ctx context.Context, page usage.EventPage, n int) ([]usage.Entry, error) {
	a, unlock := s.lock(page.Account)
	defer unlock()
	var out []usage.Entry
	for meter, l := range a.logs {
		if page.Meter != "" && meter != page.Meter {
			continue
		}
		for _, e := range l.between(page.From, page.To) {
			if compareEntries(e, usage.Entry{Event: usage.Event{Time: page.AfterTime}, Key: page.AfterKey}) > 0 {
				out = append(out, e)
			}
		}
	}
	slices.SortFunc(out, compareEntries)
	if page.Newest {
		slices.Reverse(out)
	}
	return out[:min(n, len(out))], ctx.Err()
}

// Audit implements usage.Store: this store has no rollups, so that only the
// counters can differ from the events.
func (s *Store) Audit(ctx context.Context) (usage.Audit, error) {
	var audit usage.Audit
	err := s.each(func(a *account) error {
		for _, l := range a.logs {
			audit.Events += int64(len(l.entries))
		}
		for _, c := range a.counters {
			audit.Counters++
			var stored, held int64
			if l := a.logs[c.Meter]; l != nil {
				for _, e := range l.between(c.Period.From, c.Period.To) {
					stored += e.Value
				}
			}
			for _, h := range a.holds {
				if h.State == usage.Held && h.Meter == c.Meter && h.Period.From.Equal(c.Period.From) {
					held += h.N
				}
			}
			if c.Used != stored+c.Bare || c.Held != held {
				audit.Differences = append(audit.Differences, fmt.Sprintf(
					"counter %s/%s from %s: used %d, held %d; events and bare steps say %d, reservations %d",
					c.Account, c.Meter, c.Period.From.Format(time.RFC3339), c.Used, c.Held, stored+c.Bare, held))
			}
		}
		a.auditGrants(&audit)
		return ctx.Err()
	})
	audit.Differences = audit.Differences[:min(100, len(audit.Differences))]
	return audit, err
}

// Maintain implements usage.Store.
func (s *Store) Maintain(ctx context.Context, now time.Time) error {
	return s.each(func(a *account) error {
		a.expire(now)
		for key, h := range a.holds {
			if h.State != usage.Held && h.Period.To.Add(s.cfg.KeyRetention).Before(now) {
				delete(a.holds, key)
			}
		}
		if s.cfg.Retention == 0 {
			return ctx.Err()
		}
		horizon := now.Add(-s.cfg.Retention)
		for _, l := range a.logs {
			old := len(l.between(time.Time{}, horizon))
			for _, e := range l.entries[:old] {
				delete(l.hashes, e.Key)
			}
			l.entries = slices.Clone(l.entries[old:])
			s.events.Add(-int64(old))
		}
		for k, c := range a.counters {
			// A counter goes before any of its events would.
			if !c.Period.From.After(horizon) && !c.Period.To.After(now) {
				delete(a.counters, k)
			}
		}
		a.retainGrants(horizon)
		a.retainReports(horizon)
		for id, x := range a.notices {
			if x.done && x.At.Before(horizon) {
				delete(a.notices, id)
			}
		}
		return ctx.Err()
	})
}

// ExportSubject implements usage.Store.
func (s *Store) ExportSubject(ctx context.Context, name string, emit func(string, map[string]any) error) error {
	a, unlock := s.lock(name)
	// Copies: emit may take its time, or call the store.
	var events []usage.Entry
	for _, l := range a.logs {
		events = append(events, l.entries...)
	}
	var counters []usage.Counter
	for _, c := range a.counters {
		counters = append(counters, *c)
	}
	var holds []usage.Hold
	for _, h := range a.holds {
		holds = append(holds, *h)
	}
	var notices []usage.Notice
	for _, x := range a.notices {
		notices = append(notices, x.Notice)
	}
	more := a.exportMore()
	unlock()
	slices.SortFunc(events, compareEntries)
	slices.SortFunc(counters, func(a, b usage.Counter) int {
		return cmp.Or(cmp.Compare(a.Meter, b.Meter), a.Period.From.Compare(b.Period.From))
	})
	slices.SortFunc(holds, func(a, b usage.Hold) int { return cmp.Compare(a.Key, b.Key) })
	slices.SortFunc(notices, func(a, b usage.Notice) int { return cmp.Compare(a.ID, b.ID) })
	for _, e := range events {
		if err := emit("event", e.Record()); err != nil {
			return err
		}
	}
	for _, c := range counters {
		if err := emit("counter", c.Record()); err != nil {
			return err
		}
	}
	for _, h := range holds {
		if err := emit("reservation", h.Record()); err != nil {
			return err
		}
	}
	for _, x := range notices {
		if err := emit("notice", x.Record()); err != nil {
			return err
		}
	}
	for _, x := range more {
		if err := emit(x.record, x.fields); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// EraseSubject implements usage.Store.
func (s *Store) EraseSubject(ctx context.Context, name string) (map[string]int64, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	a, unlock := s.lock(name)
	counts := map[string]int64{
		"counter": int64(len(a.counters)), "reservation": int64(len(a.holds)), "notice": int64(len(a.notices)),
	}
	var gone []usage.Entry
	for _, l := range a.logs {
		gone = append(gone, l.entries...)
	}
	counts["event"] = int64(len(gone))
	for _, x := range a.exportMore() {
		counts[x.record]++
	}
	delete(s.shards[s.shardOf(name)].accounts, name)
	unlock()
	for _, e := range gone {
		none, unlock := s.lock("")
		none.log(e.Meter).add(e.Anonymous())
		unlock()
	}
	return counts, nil
}

package usagemem

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/kolekt/commerce/usage"
)

// grants are an account's of one meter: all lots, and the ledger in order of
// appending.
type grants struct {
	lots   []usage.Lot
	ledger []usage.GrantEntry
}

var _ usage.GrantStore = (*Store)(nil)

// wallet returns the open lots of a meter, nil if there are none.
func (a *account) wallet(meter string) *usage.Wallet {
	g := a.grants[meter]
	if g == nil {
		return nil
	}
	if open := g.of(); len(open) > 0 {
		return usage.NewWallet(open)
	}
	return nil
}

// walletFor returns the wallet for an event. A correction may give units back
// to grants that are closed.
func (a *account) walletFor(e usage.Entry, c *usage.Counter) *usage.Wallet {
	if e.Value >= 0 || c.Drawn == 0 {
		return a.wallet(e.Meter)
	}
	g := a.grants[e.Meter]
	if g == nil {
		return nil
	}
	drawn := drawnOf(g.ledger, c.Period)
	var keys []string
	for _, d := range drawn {
		keys = append(keys, d.Key)
	}
	w := usage.NewWallet(g.of(keys...))
	w.Drawn(drawn)
	return w
}

// of returns the open lots and all those of the grants.
func (g *grants) of(keys ...string) (lots []usage.Lot) {
	for _, l := range g.lots {
		if !l.Closed || slices.Contains(keys, l.Key) {
			lots = append(lots, l)
		}
	}
	return lots
}

// drawnOf sums what the committed use of a period has drawn from each lot.
func drawnOf(ledger []usage.GrantEntry, p usage.Period) (out []usage.Draw) {
	for _, e := range ledger {
		if !e.Period.Equal(p.From) {
			continue
		}
		n := e.Units
		switch e.Move {
		case usage.MoveBurn, usage.MoveCommit:
		case usage.MoveReturn:
			n = -n
		default:
			continue
		}
		i := slices.IndexFunc(out, func(d usage.Draw) bool { return d.Key == e.Key && d.Seq == e.Seq })
		if i < 0 {
			i = len(out)
			out = append(out, usage.Draw{Key: e.Key, Seq: e.Seq})
		}
		out[i].N += n
	}
	return out
}

// save stores what has changed in a wallet.
func (a *account) save(meter string, w *usage.Wallet) {
	lots, entries := w.Changes()
	if len(lots) == 0 && len(entries) == 0 {
		return
	}
	g := a.grants[meter]
	for _, l := range lots {
		i := slices.IndexFunc(g.lots, func(x usage.Lot) bool { return x.Key == l.Key && x.Seq == l.Seq })
		if i < 0 {
			g.lots = append(g.lots, l)
		} else {
			g.lots[i] = l
		}
	}
	g.ledger = append(g.ledger, entries...)
}

// Grant implements usage.GrantStore.
func (s *Store) Grant(ctx context.Context, g usage.Grant, now time.Time) (usage.Grant, bool, error) {
	if err := ctx.Err(); err != nil {
		return usage.Grant{}, false, err
	}
	a, unlock := s.lock(g.Account)
	defer unlock()
	mine := a.grants[g.Meter]
	if mine == nil {
		mine = &grants{}
		a.grants[g.Meter] = mine
	}
	open := 0
	for _, l := range mine.lots {
		if l.Key == g.Key {
			if !l.Same(g) {
				return usage.Grant{}, false, usage.ErrKeyReused
			}
			return l.Grant, true, nil
		}
		if !l.Closed {
			open++
		}
	}
	if open >= usage.MaxGrants {
		return usage.Grant{}, false, fmt.Errorf("%w: an account has at most %d open grants of a meter", usage.ErrInvalid, usage.MaxGrants)
	}
	lot, entry := g.NewLot(now)
	mine.lots, mine.ledger = append(mine.lots, lot), append(mine.ledger, entry)
	return g, false, nil
}

// Revoke implements usage.GrantStore.
func (s *Store) Revoke(ctx context.Context, name, meter, key string, now time.Time) (int64, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	a, unlock := s.lock(name)
	defer unlock()
	g := a.grants[meter]
	if g == nil || !slices.ContainsFunc(g.lots, func(l usage.Lot) bool { return l.Key == key }) {
		return 0, usage.ErrNotFound
	}
	// Closed lots too: a correction mustn't bring them to life again.
	w := usage.NewWallet(g.of(key))
	voided := w.Revoke(key, now)
	a.save(meter, w)
	return voided, nil
}

// Wallet implements usage.GrantStore.
func (s *Store) Wallet(ctx context.Context, name, meter string) (*usage.Wallet, error) {
	a, unlock := s.lock(name)
	defer unlock()
	return a.wallet(meter), ctx.Err()
}

// GrantUnits implements usage.GrantStore.
func (s *Store) GrantUnits(ctx context.Context, name, meter string, until time.Time) (usage.Units, error) {
	a, unlock := s.lock(name)
	defer unlock()
	var units usage.Units
	if g := a.grants[meter]; g != nil {
		for _, e := range g.ledger {
			if !e.At.After(until) {
				units.Book(e.Move, e.Units)
			}
		}
	}
	return units, ctx.Err()
}

// GrantEntries implements usage.GrantStore.
func (s *Store) GrantEntries(ctx context.Context, name, meter string, from, to time.Time, skip, n int) ([]usage.GrantEntry, error) {
	a, unlock := s.lock(name)
	defer unlock()
	var out []usage.GrantEntry
	if g := a.grants[meter]; g != nil {
		for _, e := range g.ledger {
			if !e.At.Before(from) && e.At.Before(to) {
				out = append(out, e)
			}
		}
	}
	slices.SortStableFunc(out, func(a, b usage.GrantEntry) int { return a.At.Compare(b.At) })
	out = out[min(skip, len(out)):]
	return out[:min(n, len(out))], ctx.Err()
}

// Lapsed implements usage.GrantStore.
func (s *Store) Lapsed(ctx context.Context, now time.Time, n int) ([]usage.AccountMeter, error) {
	var out []usage.AccountMeter
	err := s.each(func(a *account) error {
		for meter, g := range a.grants {
			ended := func(l usage.Lot) bool { return !l.Passed && !l.End.IsZero() && !l.End.After(now) }
			if len(out) < n && slices.ContainsFunc(g.lots, ended) {
				out = append(out, usage.AccountMeter{Account: a.name, Meter: meter})
			}
		}
		return ctx.Err()
	})
	return out, err
}

// auditGrants recomputes each lot from the ledger, and what counters have drawn.
func (a *account) auditGrants(audit *usage.Audit) {
	type lot struct {
		key string
		seq int
	}
	for meter, g := range a.grants {
		sums := map[lot]*usage.Units{}
		for _, e := range g.ledger {
			k := lot{e.Key, e.Seq}
			if sums[k] == nil {
				sums[k] = &usage.Units{}
			}
			sums[k].Book(e.Move, e.Units)
		}
		for _, l := range g.lots {
			audit.Counters++
			if have := sums[lot{l.Key, l.Seq}]; have == nil || *have != l.Units || l.Remaining() < 0 {
				audit.Differences = append(audit.Differences, fmt.Sprintf(
					"grant %s/%s/%s %d: has %+v, the ledger says %+v", a.name, meter, l.Key, l.Seq, l.Units, have))
			}
		}
	}
	for _, c := range a.counters {
		var drawn, held int64
		if g := a.grants[c.Meter]; g != nil {
			for _, d := range drawnOf(g.ledger, c.Period) {
				drawn += d.N
			}
		}
		for _, h := range a.holds {
			if h.State == usage.Held && h.Meter == c.Meter && h.Period.From.Equal(c.Period.From) {
				for _, d := range h.Draws {
					held += d.N
				}
			}
		}
		if c.Drawn != drawn || c.DrawnHeld != held {
			audit.Differences = append(audit.Differences, fmt.Sprintf(
				"counter %s/%s from %s: drawn %d, held %d of grants; the ledger says %d, reservations %d",
				a.name, c.Meter, c.Period.From.Format(time.RFC3339), c.Drawn, c.DrawnHeld, drawn, held))
		}
	}
}

// retainGrants drops grants that were closed a year before the horizon, with
// their entries: no counter that is left has drawn on them.
func (a *account) retainGrants(horizon time.Time) {
	horizon = horizon.AddDate(-1, 0, 0)
	for meter, g := range a.grants {
		last := map[string]time.Time{} // of each grant, its newest entry
		for _, e := range g.ledger {
			if e.At.After(last[e.Key]) {
				last[e.Key] = e.At
			}
		}
		keep := map[string]bool{}
		for _, l := range g.lots {
			if !l.Closed || !last[l.Key].Before(horizon) {
				keep[l.Key] = true
			}
		}
		g.lots = slices.DeleteFunc(g.lots, func(l usage.Lot) bool { return !keep[l.Key] })
		g.ledger = slices.DeleteFunc(g.ledger, func(e usage.GrantEntry) bool { return !keep[e.Key] })
		if len(g.lots) == 0 {
			delete(a.grants, meter)
		}
	}
}

// exported is a record for an account's export.
type exported struct {
	record string
	fields map[string]any
}

// exportMore returns the account's grants and reports, in order.
func (a *account) exportMore() (out []exported) {
	for _, meter := range slices.Sorted(maps.Keys(a.grants)) {
		g := a.grants[meter]
		for _, l := range g.lots {
			out = append(out, exported{"grant", l.Record()})
		}
		for _, e := range g.ledger {
			out = append(out, exported{"grant_entry", e.Record()})
		}
	}
	for _, r := range a.reports.all {
		out = append(out, exported{"report", r.Record()})
	}
	return out
}

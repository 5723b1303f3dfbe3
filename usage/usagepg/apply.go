package usagepg

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/kolekt/commerce/usage"
)

// Apply implements usage.QuotaStore.
func (s *Store) Apply(ctx context.Context, op usage.Op) (usage.Decision, error) {
	return s.take(ctx, &step{op: op})
}

func (s *Store) take(ctx context.Context, st *step) (usage.Decision, error) {
	if err := ctx.Err(); err != nil {
		return usage.Decision{}, err
	}
	if s.pool == nil {
		s.apply(ctx, []*step{st})
		return st.decision, st.err
	}
	return s.inLane(ctx, st)
}

// flush takes the steps in one transaction.
func (s *Store) flush(ctx context.Context, steps []*step) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	s.apply(ctx, steps)
}

func (s *Store) apply(ctx context.Context, steps []*step) {
	done, err := s.fast(ctx, steps)
	if done {
		return
	}
	if err == nil {
		err = s.whole(ctx, steps)
	}
	if err == nil {
		return
	}
	if len(steps) > 1 && (errors.Is(err, usage.ErrInvalid) || slices.ContainsFunc(steps, carries) && !errors.Is(err, usage.ErrUnavailable) && !errors.Is(err, usage.ErrUnknownOutcome)) {
		// One step's data, or what it carries, can't be stored: each one for
		// itself, so that only that one fails.
		for _, st := range steps {
			s.apply(ctx, []*step{st})
		}
		return
	}
	for _, st := range steps {
		st.decision, st.err = usage.Decision{}, err
		if errors.Is(err, usage.ErrUnknownOutcome) {
			st.err = &usage.UnknownOutcomeError{Key: st.op.Key, Err: err}
		}
	}
}

// whole decides any steps, in one transaction of two round trips.
func (s *Store) whole(ctx context.Context, steps []*step) error {
	var entries []usage.Entry
	for _, st := range steps {
		if st.op.Entry != nil {
			entries = append(entries, *st.op.Entry)
		}
	}
	return s.inMonths(ctx, entries, func() error { return s.decide(ctx, steps) })
}

func (s *Store) decide(ctx context.Context, steps []*step) error {
	others := map[counterKey]usage.Period{}
	return s.tx(ctx, func(w *work) error {
		w.keyed = true
		f := &applying{store: s, work: w, others: others, counters: locked{}, wallets: wallets{}, holds: map[holdKey]*usage.Hold{}, known: map[eventKey]int64{}}
		return f.run(steps)
	})
}

type holdKey struct{ account, key string }

// applying is one transaction's worth of steps.
type applying struct {
	store    *Store
	work     *work
	counters locked
	others   map[counterKey]usage.Period // to be locked beside the steps' own
	wallets  wallets
	holds    map[holdKey]*usage.Hold
	known    map[eventKey]int64 // hashes of the events that are stored already
	changed  map[holdKey]bool
	found    map[holdKey]bool // in the database
	notices  []usage.Notice
	entries  []usage.Entry
}

func (f *applying) run(steps []*step) error {
	f.changed, f.found = map[holdKey]bool{}, map[holdKey]bool{}
	if err := f.read(steps); err != nil {
		return err
	}
	write := false
	for _, st := range steps {
		changed, err := f.step(st)
		if err != nil {
			return err
		}
		write = write || changed
	}
	b := &pgx.Batch{}
	// In a transaction of the caller's, what is done about grants afterwards
	// relies on the counter's lock.
	ahead := f.store.pool == nil && steps[0].op.Kind == usage.Refresh
	if !f.wallets.queue(b) && !write && !ahead {
		return nil // rolled back: nothing but locks to give up
	}
	f.counters.queue(b)
	f.queueHolds(b)
	if len(f.entries) > 0 {
		var keyed []usage.Entry
		rolled := newRollups(len(f.entries))
		marked := marks{}
		for _, e := range f.entries {
			marked.add(e)
			if !e.Own {
				keyed = append(keyed, e)
			}
			rolled.add(&e)
		}
		if len(keyed) > 0 {
			// A key that somebody else has stored since it was looked up ends
			// the transaction, and the next try finds it.
			b.Queue(insertKeys, keyColumns(keyed, steps[0].op.Now)...)
		}
		args := eventColumns(f.entries, func(usage.Entry) bool { return true })
		b.Queue(insertEvents, args...)
		marked.queue(b)
		rolled.queue(b)
	}
	queueNotices(b, f.notices)
	for _, st := range steps {
		if st.along != nil && st.counted {
			st.along(b)
		}
	}
	if err := f.work.commit(b); err != nil {
		return err
	}
	f.store.rememberCounters(f.counters)
	return nil
}

// read locks the counters, and then reads the holds and keys of the steps: a
// statement after the lock sees what the last holder of the lock has written.
func (f *applying) read(steps []*step) error {
	periods := maps.Clone(f.others)
	names := map[usage.AccountMeter]bool{}
	var accounts, keys []string
	var eventAccounts []string
	var eventKeys [][16]byte
	for _, st := range steps {
		periods[keyOfCounter(st.op.Account, st.op.Meter, st.op.Period)] = st.op.Period
		if name := (usage.AccountMeter{Account: st.op.Account, Meter: st.op.Meter}); f.store.pool == nil || f.store.granted.has(name) {
			names[name] = true
		}
		if st.op.Key != "" {
			accounts, keys = append(accounts, st.op.Account), append(keys, st.op.Key)
		}
		if e := st.op.Entry; e != nil && !e.Own {
			eventAccounts, eventKeys = append(eventAccounts, e.Account), append(eventKeys, e.Key)
		}
	}
	b := &pgx.Batch{}
	f.store.lock(b, periods, f.counters)
	if len(names) > 0 {
		f.wallets.lock(b, names)
	}
	if len(keys) > 0 {
		b.Queue(selectHolds, accounts, keys).Query(func(rows pgx.Rows) error {
			return eachHold(rows, func(h usage.Hold) {
				f.holds[holdKey{h.Account, h.Key}] = &h
				f.found[holdKey{h.Account, h.Key}] = true
			})
		})
	}
	if len(eventKeys) > 0 {
		b.Queue(selectKeys, eventAccounts, eventKeys).Query(func(rows pgx.Rows) error {
			for rows.Next() {
				var k eventKey
				var hash int64
				if err := rows.Scan(&k.account, &k.key, &hash); err != nil {
					return err
				}
				f.known[k] = hash
			}
			return rows.Err()
		})
	}
	if err := f.work.send(b); err != nil {
		return err
	}
	f.counters.mark(f.wallets)
	if err := f.store.checkLocked(periods, f.counters); err != nil {
		return err
	}
	if err := f.checkWallets(names); err != nil {
		return err
	}
	return f.checkHolds(steps)
}

// checkWallets reports whether the wallets were locked of all accounts that
// have any. Most accounts have none, and the process knows from here on which
// ones do: the next try locks them, all in their order.
func (f *applying) checkWallets(names map[usage.AccountMeter]bool) (err error) {
	for _, c := range f.counters {
		if name := (usage.AccountMeter{Account: c.Account, Meter: c.Meter}); c.wallet && !names[name] {
			f.store.granted.add(name)
			err = errRaced
		}
	}
	return err
}

// checkHolds reports whether the counters of all open holds are locked, so that
// nobody else settles them: a step of a new period may come with the key of an
// old one's reservation. The next try locks these counters too.
func (f *applying) checkHolds(steps []*step) (err error) {
	for _, st := range steps {
		h := f.holds[holdKey{st.op.Account, st.op.Key}]
		if h == nil || h.State != usage.Held || h.Meter != st.op.Meter {
			continue
		}
		if k := keyOfCounter(h.Account, h.Meter, h.Period); f.counters[k] == nil {
			f.others[k] = h.Period
			err = errRaced
		}
	}
	return err
}

// step decides one step; its own error is the caller's, the returned one ends
// the transaction.
func (f *applying) step(st *step) (changed bool, err error) {
	op := st.op
	st.decision, st.err, st.counted = usage.Decision{}, nil, false
	hk := holdKey{op.Account, op.Key}
	hold := f.holds[hk]
	c := f.counters[keyOfCounter(op.Account, op.Meter, op.Period)]
	w := f.wallets[usage.AccountMeter{Account: op.Account, Meter: op.Meter}]
	store := op.Entry != nil
	if store && !op.Entry.Own {
		if hash, known := f.known[keyOfEntry(*op.Entry)]; known {
			if hash != op.Entry.Hash {
				st.err = usage.ErrKeyReused
				return false, nil
			}
			store = false
			if hold == nil && op.Kind == usage.Consume {
				// Recorded before, and charged then: the same use.
				hold = &usage.Hold{Meter: op.Meter, Kind: op.Kind, N: op.N, Actual: op.N, State: usage.Committed, Period: op.Period}
			}
		}
	}
	var out usage.Outcome
	out, st.err = c.Step(op, hold, w)
	if st.err == nil && !out.Decision.Allowed && c.Held > 0 && !c.expired {
		if err := f.expire(c, op.Now, w); err != nil {
			return false, err
		}
		changed = c.Counter != c.before
		out, st.err = c.Step(op, f.holds[hk], w)
	}
	if st.err == nil {
		f.accept(st, hk, out, store)
		changed = changed || out.Changed || out.Hold != nil
	}
	return changed, nil // st.err is its caller's alone: the others go on
}

// accept books the outcome of a step.
func (f *applying) accept(st *step, hk holdKey, out usage.Outcome, store bool) {
	st.decision, st.counted = out.Decision, out.Changed && out.Decision.Allowed
	if out.Hold != nil {
		f.holds[hk] = out.Hold
		f.changed[hk] = true
	}
	f.notices = append(f.notices, out.Notices...)
	if store && out.Changed {
		e := *st.op.Entry
		f.entries = append(f.entries, e)
		if !e.Own {
			f.known[keyOfEntry(e)] = e.Hash
		}
	}
}

const expireHolds = `
update usage_holds set state = 3
where account = $1 and meter = $2 and period_from = $3 and state = 0 and expires <= $4
returning ` + holdColumns

// expire gives back what the counter's expired holds hold.
func (f *applying) expire(c *lockedCounter, now time.Time, w *usage.Wallet) error {
	c.expired = true
	b := &pgx.Batch{}
	b.Queue(expireHolds, c.Account, c.Meter, c.Period.From, now).Query(func(rows pgx.Rows) error {
		return eachHold(rows, func(h usage.Hold) {
			c.Expire(&h, now, w)
			f.holds[holdKey{h.Account, h.Key}] = &h
			f.found[holdKey{h.Account, h.Key}] = true
		})
	})
	return f.work.send(b)
}

const holdColumns = `account, key, meter, period_from, period_to, kind, n, actual, state, at, expires, draws`

const selectHolds = `
select ` + holdColumns + ` from usage_holds
join unnest($1::text[], $2::text[]) as k (account, key) using (account, key)`

const holdArrays = `unnest($1::text[], $2::text[], $3::text[], $4::timestamptz[], $5::timestamptz[], $6::smallint[],
	$7::bigint[], $8::bigint[], $9::smallint[], $10::timestamptz[], $11::timestamptz[], $12::jsonb[])`

// A key that somebody else has stored since it was looked up, for another
// meter or period, ends the transaction, and the next try finds it.
const insertHolds = `
insert into usage_holds (` + holdColumns + `)
select * from ` + holdArrays

const updateHolds = `
update usage_holds h set period_from = x.period_from, period_to = x.period_to, n = x.n, actual = x.actual,
	state = x.state, at = x.at, expires = x.expires, draws = x.draws
from ` + holdArrays + ` as x (` + holdColumns + `)
where h.account = x.account and h.key = x.key`

func eachHold(rows pgx.Rows, f func(usage.Hold)) error {
	for rows.Next() {
		var h usage.Hold
		var kind, state int16
		var expires *time.Time
		var draws *string
		err := rows.Scan(&h.Account, &h.Key, &h.Meter, &h.Period.From, &h.Period.To, &kind, &h.N, &h.Actual, &state, &h.At, &expires, &draws)
		if err != nil {
			return err
		}
		if h.Draws, err = drawsOf(draws); err != nil {
			return err
		}
		h.Kind, h.State, h.At = usage.OpKind(kind), usage.HoldState(state), h.At.UTC()
		h.Period.From, h.Period.To = h.Period.From.UTC(), h.Period.To.UTC()
		if expires != nil {
			h.Expires = expires.UTC()
		}
		f(h)
	}
	return rows.Err()
}

// queueHolds adds the statements that write the holds that have changed.
func (f *applying) queueHolds(b *pgx.Batch) {
	var fresh, old []usage.Hold
	for k := range f.changed {
		if f.found[k] {
			old = append(old, *f.holds[k])
		} else {
			fresh = append(fresh, *f.holds[k])
		}
	}
	if len(old) > 0 {
		b.Queue(updateHolds, holdArgs(old)...)
	}
	if len(fresh) > 0 {
		b.Queue(insertHolds, holdArgs(fresh)...)
	}
}

func holdArgs(holds []usage.Hold) []any {
	slices.SortFunc(holds, func(a, b usage.Hold) int {
		return cmp.Or(cmp.Compare(a.Account, b.Account), cmp.Compare(a.Key, b.Key))
	})
	n := len(holds)
	accounts, keys, meters := make([]string, n), make([]string, n), make([]string, n)
	from, to, at, expires := make([]time.Time, n), make([]time.Time, n), make([]time.Time, n), make([]*time.Time, n)
	kinds, states := make([]int16, n), make([]int16, n)
	ns, actuals, draws := make([]int64, n), make([]int64, n), make([]*string, n)
	for i, h := range holds {
		accounts[i], keys[i], meters[i] = h.Account, h.Key, h.Meter
		from[i], to[i], at[i] = h.Period.From, h.Period.To, h.At
		kinds[i], states[i], ns[i], actuals[i] = int16(h.Kind), int16(h.State), h.N, h.Actual
		draws[i] = drawsText(h.Draws)
		if !h.Expires.IsZero() {
			expires[i] = &holds[i].Expires
		}
	}
	return []any{accounts, keys, meters, from, to, kinds, ns, actuals, states, at, expires, draws}
}

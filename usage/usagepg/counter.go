package usagepg

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/kolekt/commerce/usage"
)

// counterKey names a counter.
type counterKey struct {
	account, meter string
	from           int64 // Unix microseconds
}

func compareCounters(a, b counterKey) int {
	if a.account != b.account {
		return cmp.Compare(a.account, b.account)
	}
	return cmp.Or(cmp.Compare(a.meter, b.meter), cmp.Compare(a.from, b.from))
}

func keyOfCounter(account, meter string, p usage.Period) counterKey {
	return counterKey{account, meter, p.From.UnixMicro()}
}

// locked are the counters that a transaction has locked.
type locked map[counterKey]*lockedCounter

type lockedCounter struct {
	usage.Counter
	before  usage.Counter
	granted bool // as stored: there may be grants of the account and meter
	marked  bool // to be stored so
	wallet  bool // the account has or had grants of the meter
	expired bool // expired holds have been given back in this transaction
}

const insertCounters = `
insert into usage_counters (account, meter, period_from, period_to, granted)
select account, meter, f, t,
	exists (select from usage_grants g where g.account = x.account and g.meter = x.meter and not g.closed)
from unnest($1::text[], $2::text[], $3::timestamptz[], $4::timestamptz[]) as x (account, meter, f, t)
on conflict do nothing`

// The sort is below the locking, so that all transactions lock in this order.
//
// Grants that were committed before the statement began are seen by their
// wallet. Of those that come while it waits for a counter only the counter's
// own mark tells, and it does where whoever held the lock has seen them: steps
// that see none of them come before the grant, whatever their clocks say.
const lockCounters = `
select c.account, c.meter, c.period_from, c.period_to, c.used, c.held, c.bare, c.lim, c.drawn, c.drawn_held, c.granted,
	c.granted or exists (select from usage_wallets w where w.account = c.account and w.meter = c.meter)
from usage_counters c
join unnest($1::text[], $2::text[], $3::timestamptz[]) as k (account, meter, period_from)
	using (account, meter, period_from)
order by c.account, c.meter, c.period_from
for update of c`

const updateCounters = `
update usage_counters c set used = x.used, held = x.held, bare = x.bare, lim = x.lim, drawn = x.drawn, drawn_held = x.drawn_held, granted = x.granted
from unnest($1::text[], $2::text[], $3::timestamptz[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[], $9::bigint[], $10::boolean[])
	as x (account, meter, period_from, used, held, bare, lim, drawn, drawn_held, granted)
where c.account = x.account and c.meter = x.meter and c.period_from = x.period_from`

// lock queues the statements that make and lock the counters of the periods,
// and fills l when they are sent.
func (s *Store) lock(b *pgx.Batch, periods map[counterKey]usage.Period, l locked) {
	keys := slices.SortedFunc(maps.Keys(periods), compareCounters)
	var accounts, meters []string
	var from []time.Time
	var newAccounts, newMeters []string
	var newFrom, newTo []time.Time
	for _, k := range keys {
		accounts, meters, from = append(accounts, k.account), append(meters, k.meter), append(from, periods[k].From)
		if !s.counters.has(k) {
			newAccounts, newMeters = append(newAccounts, k.account), append(newMeters, k.meter)
			newFrom, newTo = append(newFrom, periods[k].From), append(newTo, periods[k].To)
		}
	}
	if len(newAccounts) > 0 {
		b.Queue(insertCounters, newAccounts, newMeters, newFrom, newTo)
	}
	l.read(b, accounts, meters, from)
}

// read queues the statement that locks and reads counters, in order of key.
func (l locked) read(b *pgx.Batch, accounts, meters []string, from []time.Time) {
	b.Queue(lockCounters, accounts, meters, from).Query(func(rows pgx.Rows) error {
		var wallet bool
		return eachCounter(rows, func(c usage.Counter, granted bool) {
			l[keyOfCounter(c.Account, c.Meter, c.Period)] = &lockedCounter{Counter: c, before: c, granted: granted, marked: granted, wallet: wallet}
		}, &wallet)
	})
}

// mark marks the counters whose account has grants of the meter: the first
// grant may have come at the same time as the counter.
func (l locked) mark(ws wallets) {
	for _, c := range l {
		if ws[usage.AccountMeter{Account: c.Account, Meter: c.Meter}] != nil {
			c.marked = true
		}
	}
}

// checkLocked reports whether all counters were there to be locked: a counter
// that was known may have been dropped in the meantime.
func (s *Store) checkLocked(periods map[counterKey]usage.Period, l locked) error {
	if len(l) != len(periods) {
		s.counters.forget()
		return errRaced
	}
	return nil
}

func (s *Store) rememberCounters(l locked) {
	if s.pool == nil {
		return // may yet be rolled back
	}
	for k := range l {
		if !s.counters.has(k) {
			s.counters.add(k)
		}
	}
}

func eachCounter(rows pgx.Rows, f func(c usage.Counter, granted bool), more ...any) error {
	for rows.Next() {
		var c usage.Counter
		var granted bool
		into := append([]any{&c.Account, &c.Meter, &c.Period.From, &c.Period.To, &c.Used, &c.Held, &c.Bare, &c.Limit, &c.Drawn, &c.DrawnHeld, &granted}, more...)
		if err := rows.Scan(into...); err != nil {
			return err
		}
		c.Period.From, c.Period.To = c.Period.From.UTC(), c.Period.To.UTC()
		f(c, granted)
	}
	return rows.Err()
}

// queue adds the statement that writes the counters that have changed.
func (l locked) queue(b *pgx.Batch) {
	var accounts, meters []string
	var from []time.Time
	var used, held, bare, limits, drawn, drawnHeld []int64
	var granted []bool
	for _, k := range slices.SortedFunc(maps.Keys(l), compareCounters) {
		c := l[k]
		if c.Counter == c.before && c.granted == c.marked {
			continue
		}
		accounts, meters, from = append(accounts, c.Account), append(meters, c.Meter), append(from, c.Period.From)
		used, held, bare, limits = append(used, c.Used), append(held, c.Held), append(bare, c.Bare), append(limits, c.Limit)
		drawn, drawnHeld = append(drawn, c.Drawn), append(drawnHeld, c.DrawnHeld)
		granted = append(granted, c.marked)
	}
	if len(accounts) > 0 {
		b.Queue(updateCounters, accounts, meters, from, used, held, bare, limits, drawn, drawnHeld, granted)
	}
}

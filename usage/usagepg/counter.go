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
	return cmp.Or(cmp.Compare(a.account, b.account), cmp.Compare(a.meter, b.meter), cmp.Compare(a.from, b.from))
}

func keyOfCounter(account, meter string, p usage.Period) counterKey {
	return counterKey{account, meter, p.From.UnixMicro()}
}

// locked are the counters that a transaction has locked.
type locked map[counterKey]*lockedCounter

type lockedCounter struct {
	usage.Counter
	before  usage.Counter
	expired bool // expired holds have been given back in this transaction
}

const insertCounters = `
insert into usage_counters (account, meter, period_from, period_to)
select * from unnest($1::text[], $2::text[], $3::timestamptz[], $4::timestamptz[])
on conflict do nothing`

// The sort is below the locking, so that all transactions lock in this order.
const lockCounters = `
select c.account, c.meter, c.period_from, c.period_to, c.used, c.held, c.bare, c.lim
from usage_counters c
join unnest($1::text[], $2::text[], $3::timestamptz[]) as k (account, meter, period_from)
	using (account, meter, period_from)
order by c.account, c.meter, c.period_from
for update of c`

const updateCounters = `
update usage_counters c set used = x.used, held = x.held, bare = x.bare, lim = x.lim
from unnest($1::text[], $2::text[], $3::timestamptz[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[])
	as x (account, meter, period_from, used, held, bare, lim)
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
	b.Queue(lockCounters, accounts, meters, from).Query(func(rows pgx.Rows) error {
		return eachCounter(rows, func(c usage.Counter) {
			l[keyOfCounter(c.Account, c.Meter, c.Period)] = &lockedCounter{Counter: c, before: c}
		})
	})
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

func eachCounter(rows pgx.Rows, f func(usage.Counter)) error {
	for rows.Next() {
		var c usage.Counter
		if err := rows.Scan(&c.Account, &c.Meter, &c.Period.From, &c.Period.To, &c.Used, &c.Held, &c.Bare, &c.Limit); err != nil {
			return err
		}
		c.Period.From, c.Period.To = c.Period.From.UTC(), c.Period.To.UTC()
		f(c)
	}
	return rows.Err()
}

// queue adds the statement that writes the counters that have changed.
func (l locked) queue(b *pgx.Batch) {
	var accounts, meters []string
	var from []time.Time
	var used, held, bare, limits []int64
	for _, k := range slices.SortedFunc(maps.Keys(l), compareCounters) {
		c := l[k]
		if c.Counter == c.before {
			continue
		}
		accounts, meters, from = append(accounts, c.Account), append(meters, c.Meter), append(from, c.Period.From)
		used, held, bare, limits = append(used, c.Used), append(held, c.Held), append(bare, c.Bare), append(limits, c.Limit)
	}
	if len(accounts) > 0 {
		b.Queue(updateCounters, accounts, meters, from, used, held, bare, limits)
	}
}

// charging is what the events of a batch add to counters.
type charging map[counterKey]*charge

type charge struct {
	usage.Charge
	units int64 // at most 1000 times 2^53
}

func (ch charging) add(e usage.Entry) {
	if e.Charge.Period.IsZero() {
		return
	}
	k := keyOfCounter(e.Account, e.Meter, e.Charge.Period)
	c := ch[k]
	if c == nil {
		c = &charge{}
		ch[k] = c
	}
	c.Charge = e.Charge // the newest word on the limit
	c.units += e.Value
}

// chargeCounters adds units, and returns the counters that have crossed one of
// the thresholds, with each one that they have crossed, highest first.
const chargeCounters = `
with x as (
	select * from unnest($1::text[], $2::text[], $3::timestamptz[], $4::timestamptz[], $5::bigint[], $6::bigint[])
		as x (account, meter, period_from, period_to, units, lim)
), u as (
	insert into usage_counters as c (account, meter, period_from, period_to, used, lim)
	select * from x
	on conflict (account, meter, period_from) do update set used = c.used + excluded.used, lim = excluded.lim
	returning account, meter, period_from, period_to, used, lim
)
select u.account, u.meter, u.period_from, u.period_to, u.used, u.lim, p.percent
from u
join x using (account, meter, period_from)
cross join unnest($7::int[]) as p (percent)
where u.lim > 0
	and u.used - x.units < u.lim / 100 * p.percent + (u.lim % 100 * p.percent + 99) / 100
	and u.used >= u.lim / 100 * p.percent + (u.lim % 100 * p.percent + 99) / 100
order by u.account, u.meter, u.period_from, p.percent desc`

// queue adds a statement for each set of thresholds, which is one as a rule.
func (ch charging) queue(b *pgx.Batch, now time.Time, notices *[]usage.Notice) {
	type set struct {
		thresholds []int
		keys       []counterKey
	}
	var sets []set
	for _, k := range slices.SortedFunc(maps.Keys(ch), compareCounters) {
		i := slices.IndexFunc(sets, func(s set) bool { return slices.Equal(s.thresholds, ch[k].Thresholds) })
		if i < 0 {
			i = len(sets)
			sets = append(sets, set{thresholds: ch[k].Thresholds})
		}
		sets[i].keys = append(sets[i].keys, k)
	}
	for _, s := range sets {
		n := len(s.keys)
		accounts, meters, from, to := make([]string, n), make([]string, n), make([]time.Time, n), make([]time.Time, n)
		units, limits := make([]int64, n), make([]int64, n)
		for i, k := range s.keys {
			c := ch[k]
			accounts[i], meters[i], from[i], to[i] = k.account, k.meter, c.Period.From, c.Period.To
			units[i], limits[i] = c.units, c.Limit
		}
		percents := make([]int32, len(s.thresholds))
		for i, p := range s.thresholds {
			percents[i] = int32(p)
		}
		b.Queue(chargeCounters, accounts, meters, from, to, units, limits, percents).Query(func(rows pgx.Rows) error {
			last := counterKey{}
			for rows.Next() {
				x := usage.Notice{At: now}
				if err := rows.Scan(&x.Account, &x.Meter, &x.Period.From, &x.Period.To, &x.Used, &x.Limit, &x.Percent); err != nil {
					return err
				}
				x.Period.From, x.Period.To = x.Period.From.UTC(), x.Period.To.UTC()
				x.ID = usage.NoticeID(x.Account, x.Meter, x.Period.From, x.Percent)
				k := keyOfCounter(x.Account, x.Meter, x.Period)
				x.Superseded, last = k == last, k
				*notices = append(*notices, x)
			}
			return rows.Err()
		})
	}
}

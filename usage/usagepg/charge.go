package usagepg

import (
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/kolekt/commerce/usage"
)

// charging is what the events of a batch add to counters, and the days of which
// the payment provider is to be told.
type charging struct {
	charges map[counterKey]*charge
	granted []counterKey // those whose account has or had grants of the meter
	marks   marks
}

type charge struct {
	usage.Charge
	units int64 // at most 1000 times 2^53
}

func (ch *charging) add(e usage.Entry) {
	if ch.marks == nil {
		ch.marks = marks{}
	}
	ch.marks.add(e)
	if e.Charge.Period.IsZero() {
		return
	}
	k := keyOfCounter(e.Account, e.Meter, e.Charge.Period)
	c := ch.charges[k]
	if c == nil {
		if ch.charges == nil {
			ch.charges = map[counterKey]*charge{}
		}
		c = &charge{}
		ch.charges[k] = c
	}
	c.Charge = e.Charge // the newest word on the limit
	c.units += e.Value
}

// chargeCounters adds units, and returns the counters that have crossed one of
// the thresholds, with each one that they have crossed, highest first. Those of
// accounts with grants come back without: settle decides about them.
const chargeCounters = `
with x as (
	select * from unnest($1::text[], $2::text[], $3::timestamptz[], $4::timestamptz[], $5::bigint[], $6::bigint[])
		as x (account, meter, period_from, period_to, units, lim)
), u as (
	insert into usage_counters as c (account, meter, period_from, period_to, used, lim)
	select * from x
	on conflict (account, meter, period_from) do update set used = c.used + excluded.used, lim = excluded.lim
	returning account, meter, period_from, period_to, used, lim, granted
)
select u.account, u.meter, u.period_from, u.period_to, u.used, u.lim, p.percent
from u
join x using (account, meter, period_from)
left join usage_wallets w using (account, meter)
left join unnest($7::int[]) as p (percent) on w is null and not u.granted
where w is not null or u.granted or p.percent is not null and u.lim > 0
	and u.used - x.units < u.lim / 100 * p.percent + (u.lim % 100 * p.percent + 99) / 100
	and u.used >= u.lim / 100 * p.percent + (u.lim % 100 * p.percent + 99) / 100
order by u.account, u.meter, u.period_from, p.percent desc`

// queue adds a statement for each set of thresholds, which is one as a rule.
func (ch *charging) queue(b *pgx.Batch, now time.Time, notices *[]usage.Notice) {
	type set struct {
		thresholds []int
		keys       []counterKey
	}
	var sets []set
	for _, k := range slices.SortedFunc(maps.Keys(ch.charges), compareCounters) {
		i := slices.IndexFunc(sets, func(s set) bool { return slices.Equal(s.thresholds, ch.charges[k].Thresholds) })
		if i < 0 {
			i = len(sets)
			sets = append(sets, set{thresholds: ch.charges[k].Thresholds})
		}
		sets[i].keys = append(sets[i].keys, k)
	}
	for _, s := range sets {
		n := len(s.keys)
		accounts, meters, from, to := make([]string, n), make([]string, n), make([]time.Time, n), make([]time.Time, n)
		units, limits := make([]int64, n), make([]int64, n)
		for i, k := range s.keys {
			c := ch.charges[k]
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
				var percent *int
				if err := rows.Scan(&x.Account, &x.Meter, &x.Period.From, &x.Period.To, &x.Used, &x.Limit, &percent); err != nil {
					return err
				}
				x.Period.From, x.Period.To = x.Period.From.UTC(), x.Period.To.UTC()
				k := keyOfCounter(x.Account, x.Meter, x.Period)
				if percent == nil {
					ch.granted = append(ch.granted, k)
					continue
				}
				x.Percent = *percent
				x.ID = usage.NoticeID(x.Account, x.Meter, x.Period.From, x.Percent)
				x.Superseded, last = k == last, k
				*notices = append(*notices, x)
			}
			return rows.Err()
		})
	}
	ch.marks.queue(b)
}

const selectDrawn = `
select key, seq, sum(case when move = 7 then -units else units end)::bigint from usage_grant_entries
where account = $1 and meter = $2 and period_from = $3 and move in (5, 6, 7)
group by key, seq`

// settle draws on the grants of the accounts that have any, for what queue's
// statements have added: these hold the counters' locks.
func (ch *charging) settle(w *work, b *pgx.Batch, now time.Time, notices *[]usage.Notice) error {
	if len(ch.granted) == 0 {
		return nil
	}
	slices.SortFunc(ch.granted, compareCounters)
	counters, ws, names := locked{}, wallets{}, map[usage.AccountMeter]bool{}
	var accounts, meters []string
	var from []time.Time
	for _, k := range ch.granted {
		names[usage.AccountMeter{Account: k.account, Meter: k.meter}] = true
		accounts, meters, from = append(accounts, k.account), append(meters, k.meter), append(from, ch.charges[k].Period.From)
	}
	read := &pgx.Batch{}
	counters.read(read, accounts, meters, from)
	ws.lock(read, names)
	if err := w.send(read); err != nil {
		return err
	}
	drawn, err := ch.corrections(w, counters, ws)
	if err != nil {
		return err
	}
	for _, k := range ch.granted {
		c, x := counters[k], ch.charges[k]
		wallet := ws[usage.AccountMeter{Account: k.account, Meter: k.meter}]
		if wallet != nil {
			wallet.Drawn(drawn[k])
		}
		c.Used -= x.units // as it was before
		e := usage.Entry{Event: usage.Event{Account: k.account, Meter: k.meter, Value: x.units}, Charge: x.Charge}
		*notices = append(*notices, c.Charge(e, now, wallet)...)
	}
	counters.mark(ws)
	counters.queue(b)
	ws.queue(b)
	// A correction may have brought a grant to life that other periods' counters
	// knew to be used up.
	for name := range names {
		if ws[name] != nil && len(drawn) > 0 {
			b.Queue(markCounters, name.Account, name.Meter)
		}
	}
	return nil
}

// corrections makes wallets ready to take units back, which may be those of
// grants that are closed.
func (ch *charging) corrections(w *work, counters locked, ws wallets) (map[counterKey][]usage.Draw, error) {
	drawn := map[counterKey][]usage.Draw{}
	keys := map[usage.AccountMeter][]string{}
	b := &pgx.Batch{}
	for _, k := range ch.granted {
		if ch.charges[k].units >= 0 || counters[k].Drawn == 0 {
			continue
		}
		b.Queue(selectDrawn, k.account, k.meter, ch.charges[k].Period.From).Query(func(rows pgx.Rows) error {
			var d usage.Draw
			_, err := pgx.ForEachRow(rows, []any{&d.Key, &d.Seq, &d.N}, func() error {
				drawn[k] = append(drawn[k], d)
				name := usage.AccountMeter{Account: k.account, Meter: k.meter}
				keys[name] = append(keys[name], d.Key)
				return nil
			})
			return err
		})
	}
	if b.Len() == 0 {
		return drawn, nil
	}
	if err := w.send(b); err != nil {
		return nil, err
	}
	b = &pgx.Batch{}
	for name, of := range keys {
		b.Queue(selectLotsOf, name.Account, name.Meter, of).Query(func(rows pgx.Rows) error {
			var lots []usage.Lot
			err := eachLot(rows, func(l usage.Lot) { lots = append(lots, l) })
			ws[name] = usage.NewWallet(lots)
			return err
		})
	}
	return drawn, w.send(b)
}

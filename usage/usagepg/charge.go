package usagepg

import (
	"fmt"
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
	units int64
}

func (ch *charging) add(e *usage.Entry) {
	if e.Report {
		if ch.marks == nil {
			ch.marks = marks{}
		}
		ch.marks.add(*e)
	}
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

// chargeCounters adds units to counters and returns what is used then, and
// whether the account has or had grants of the meter.
const chargeCounters = `
insert into usage_counters as c (account, meter, period_from, period_to, used, lim)
select unnest($1::text[]), unnest($2::text[]), unnest($3::timestamptz[]), unnest($4::timestamptz[]), unnest($5::bigint[]), unnest($6::bigint[])
on conflict (account, meter, period_from) do update set used = c.used + excluded.used, lim = excluded.lim
returning account, meter, period_from, used, granted or case when (select exists (select from usage_wallets))
	then exists (select from usage_wallets w where w.account = c.account and w.meter = c.meter) else false end`

// queue adds the statement that writes the counters. When it is sent, notices
// get what has been crossed, except by accounts with grants: settle decides
// about them.
func (ch *charging) queue(b *pgx.Batch, now time.Time, notices *[]usage.Notice) {
	defer ch.marks.queue(b)
	n := len(ch.charges)
	if n == 0 {
		return
	}
	keys := slices.AppendSeq(make([]counterKey, 0, n), maps.Keys(ch.charges))
	slices.SortFunc(keys, compareCounters)
	accounts, meters, from, to := make(texts, n), make(texts, n), make(moments, n), make(moments, n)
	units, limits := make(numbers, n), make(numbers, n)
	for i, k := range keys {
		c := ch.charges[k]
		accounts[i], meters[i], from[i], to[i] = text(k.account), text(k.meter), moment(k.from), moment(c.Period.To.UnixMicro())
		units[i], limits[i] = number(c.units), number(c.Limit)
	}
	b.Queue(chargeCounters, accounts, meters, from, to, units, limits).Query(func(rows pgx.Rows) error {
		var account, meter lookedAt
		var from time.Time
		var used int64
		var granted bool
		for i := 0; rows.Next(); i++ {
			if err := rows.Scan(&account, &meter, &from, &used, &granted); err != nil {
				return err
			}
			// They come in the order in which they were sent, which nothing
			// promises.
			if i >= n || keys[i].account != string(account) || keys[i].meter != string(meter) || keys[i].from != from.UnixMicro() {
				k := counterKey{string(account), string(meter), from.UnixMicro()}
				if i = slices.Index(keys, k); i < 0 {
					return fmt.Errorf("usagepg: counter of %s from %s wasn't asked for", k.meter, from)
				}
			}
			if granted {
				ch.granted = append(ch.granted, keys[i])
				continue
			}
			*notices = ch.charges[keys[i]].crossed(*notices, keys[i], used, now)
		}
		return rows.Err()
	})
}

// lookedAt is a text of a row, for as long as the row is the current one.
type lookedAt []byte

// ScanBytes implements pgtype.BytesScanner.
func (l *lookedAt) ScanBytes(v []byte) error {
	*l = v
	return nil
}

// crossed appends a notice for each threshold that the units have crossed,
// highest first.
func (c *charge) crossed(notices []usage.Notice, k counterKey, used int64, now time.Time) []usage.Notice {
	if c.Limit <= 0 {
		return notices
	}
	superseded := false
	for _, percent := range slices.Backward(c.Thresholds) {
		if t := usage.Threshold(c.Limit, percent); used < t || used-c.units >= t {
			continue
		}
		notices = append(notices, usage.Notice{
			ID: usage.NoticeID(k.account, k.meter, c.Period.From, percent), Account: k.account, Meter: k.meter, Period: c.Period,
			Percent: percent, Used: used, Limit: c.Limit, At: now, Superseded: superseded,
		})
		superseded = true
	}
	return notices
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

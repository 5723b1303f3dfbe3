package usagepg

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/kolekt/commerce/usage"
)

const expiredCounters = `
select distinct account, meter, period_from, period_to from usage_holds
where state = 0 and expires <= $1 limit 100`

const expireSome = `
update usage_holds h set state = 3
from unnest($1::text[], $2::text[], $3::timestamptz[]) as k (account, meter, period_from)
where h.account = k.account and h.meter = k.meter and h.period_from = k.period_from and h.state = 0 and h.expires <= $4
returning h.account, h.key, h.meter, h.period_from, h.period_to, h.kind, h.n, h.actual, h.state, h.at, h.expires, h.draws`

// expireSome gives expired holds of some counters back, with the counters
// locked as every step locks them.
func (s *Store) expireSome(ctx context.Context, now time.Time) (more bool, err error) {
	rows, err := s.db.Query(ctx, expiredCounters, now)
	if err != nil {
		return false, kindOf(err)
	}
	periods := map[counterKey]usage.Period{}
	names := map[usage.AccountMeter]bool{}
	var accounts, meters []string
	var froms []time.Time
	var account, meter string
	var p usage.Period
	_, err = pgx.ForEachRow(rows, []any{&account, &meter, &p.From, &p.To}, func() error {
		p.From, p.To = p.From.UTC(), p.To.UTC()
		periods[keyOfCounter(account, meter, p)] = p
		names[usage.AccountMeter{Account: account, Meter: meter}] = true
		accounts, meters, froms = append(accounts, account), append(meters, meter), append(froms, p.From)
		return nil
	})
	if err != nil || len(periods) == 0 {
		return false, kindOf(err)
	}
	err = s.tx(ctx, func(w *work) error {
		counters, ws := locked{}, wallets{}
		var expired []usage.Hold
		b := &pgx.Batch{}
		s.lock(b, periods, counters)
		ws.lock(b, names)
		b.Queue(expireSome, accounts, meters, froms, now).Query(func(rows pgx.Rows) error {
			return eachHold(rows, func(h usage.Hold) { expired = append(expired, h) })
		})
		if err := w.send(b); err != nil {
			return err
		}
		if err := s.checkLocked(periods, counters); err != nil {
			return err
		}
		for _, h := range expired {
			counters[keyOfCounter(h.Account, h.Meter, h.Period)].Expire(&h, now, ws[usage.AccountMeter{Account: h.Account, Meter: h.Meter}])
		}
		b = &pgx.Batch{}
		counters.queue(b)
		ws.queue(b)
		return w.commit(b)
	})
	return true, err
}

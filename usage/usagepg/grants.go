package usagepg

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/kolekt/commerce/usage"
)

var _ usage.GrantStore = (*Store)(nil)

// wallets are those that a transaction has locked; an account without open
// grants of a meter has none.
type wallets map[usage.AccountMeter]*usage.Wallet

func compareAccountMeters(a, b usage.AccountMeter) int {
	return cmp.Or(cmp.Compare(a.Account, b.Account), cmp.Compare(a.Meter, b.Meter))
}

// Locked after the counters and in this order by all transactions. The lots are
// read by a statement of its own, which sees what the last holder of the lock
// has written.
const lockWallets = `
select from usage_wallets w
join unnest($1::text[], $2::text[]) as k (account, meter) using (account, meter)
order by w.account, w.meter
for update of w`

const lotColumns = `account, meter, key, seq, amount, priority, anchor, expires, every, rollover, note, granted_at,
	starts, ends, revoked_at, issued, carried, burned, held, expired, voided, rolled, passed, closed`

const selectOpenLots = `
select ` + lotColumns + ` from usage_grants
join unnest($1::text[], $2::text[]) as k (account, meter) using (account, meter)
where not closed`

const selectLotsOf = `
select ` + lotColumns + ` from usage_grants
where account = $1 and meter = $2 and (not closed or key = any ($3))`

// lock queues the statements that lock the wallets and read their lots, and
// fills ws when they are sent.
func (ws wallets) lock(b *pgx.Batch, names map[usage.AccountMeter]bool) {
	var accounts, meters []string
	for _, k := range slices.SortedFunc(maps.Keys(names), compareAccountMeters) {
		accounts, meters = append(accounts, k.Account), append(meters, k.Meter)
	}
	b.Queue(lockWallets, accounts, meters)
	b.Queue(selectOpenLots, accounts, meters).Query(func(rows pgx.Rows) error {
		lots := map[usage.AccountMeter][]usage.Lot{}
		err := eachLot(rows, func(l usage.Lot) {
			k := usage.AccountMeter{Account: l.Account, Meter: l.Meter}
			lots[k] = append(lots[k], l)
		})
		for k, of := range lots {
			ws[k] = usage.NewWallet(of)
		}
		return err
	})
}

func eachLot(rows pgx.Rows, f func(usage.Lot)) error {
	for rows.Next() {
		var l usage.Lot
		var expires, ends, revoked *time.Time
		err := rows.Scan(&l.Account, &l.Meter, &l.Key, &l.Seq, &l.Amount, &l.Priority, &l.From, &expires, &l.Every, &l.Rollover, &l.Note, &l.GrantedAt,
			&l.Start, &ends, &revoked, &l.Issued, &l.Carried, &l.Burned, &l.Held, &l.Expired, &l.Voided, &l.Rolled, &l.Passed, &l.Closed)
		if err != nil {
			return err
		}
		l.From, l.GrantedAt, l.Start = l.From.UTC(), l.GrantedAt.UTC(), l.Start.UTC()
		l.Expires, l.End, l.RevokedAt = instant(expires), instant(ends), instant(revoked)
		f(l)
	}
	return rows.Err()
}

// instant is a nullable column's value, zero for null.
func instant(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.UTC()
}

// nullable is null for a zero instant.
func nullable(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

const upsertLots = `
insert into usage_grants as g (` + lotColumns + `)
select * from unnest($1::text[], $2::text[], $3::text[], $4::int[], $5::bigint[], $6::int[], $7::timestamptz[], $8::timestamptz[],
	$9::text[], $10::bigint[], $11::text[], $12::timestamptz[], $13::timestamptz[], $14::timestamptz[], $15::timestamptz[],
	$16::bigint[], $17::bigint[], $18::bigint[], $19::bigint[], $20::bigint[], $21::bigint[], $22::bigint[], $23::boolean[], $24::boolean[])
on conflict (account, meter, key, seq) do update set
	revoked_at = excluded.revoked_at, issued = excluded.issued, carried = excluded.carried, burned = excluded.burned,
	held = excluded.held, expired = excluded.expired, voided = excluded.voided, rolled = excluded.rolled,
	passed = excluded.passed, closed = excluded.closed`

const insertEntries = `
insert into usage_grant_entries (account, meter, key, seq, at, move, units, period_from, step)
select * from unnest($1::text[], $2::text[], $3::text[], $4::int[], $5::timestamptz[], $6::smallint[], $7::bigint[], $8::timestamptz[], $9::text[])`

// queue adds the statements that write what has changed in the wallets, and
// reports whether there are any.
func (ws wallets) queue(b *pgx.Batch) bool {
	var lots []usage.Lot
	var entries []usage.GrantEntry
	for _, k := range slices.SortedFunc(maps.Keys(ws), compareAccountMeters) {
		l, e := ws[k].Changes()
		lots, entries = append(lots, l...), append(entries, e...)
	}
	queueLots(b, lots, entries)
	return len(lots) > 0 || len(entries) > 0
}

func queueLots(b *pgx.Batch, lots []usage.Lot, entries []usage.GrantEntry) {
	if n := len(lots); n > 0 {
		slices.SortFunc(lots, func(a, b usage.Lot) int {
			return cmp.Or(cmp.Compare(a.Account, b.Account), cmp.Compare(a.Meter, b.Meter), cmp.Compare(a.Key, b.Key), cmp.Compare(a.Seq, b.Seq))
		})
		b.Queue(upsertLots,
			column(lots, func(l usage.Lot) string { return l.Account }), column(lots, func(l usage.Lot) string { return l.Meter }),
			column(lots, func(l usage.Lot) string { return l.Key }), column(lots, func(l usage.Lot) int32 { return int32(l.Seq) }),
			column(lots, func(l usage.Lot) int64 { return l.Amount }), column(lots, func(l usage.Lot) int32 { return l.Priority }),
			column(lots, func(l usage.Lot) time.Time { return l.From }), column(lots, func(l usage.Lot) *time.Time { return nullable(l.Expires) }),
			column(lots, func(l usage.Lot) string { return string(l.Every) }), column(lots, func(l usage.Lot) int64 { return l.Rollover }),
			column(lots, func(l usage.Lot) string { return l.Note }), column(lots, func(l usage.Lot) time.Time { return l.GrantedAt }),
			column(lots, func(l usage.Lot) time.Time { return l.Start }), column(lots, func(l usage.Lot) *time.Time { return nullable(l.End) }),
			column(lots, func(l usage.Lot) *time.Time { return nullable(l.RevokedAt) }),
			column(lots, func(l usage.Lot) int64 { return l.Issued }), column(lots, func(l usage.Lot) int64 { return l.Carried }),
			column(lots, func(l usage.Lot) int64 { return l.Burned }), column(lots, func(l usage.Lot) int64 { return l.Held }),
			column(lots, func(l usage.Lot) int64 { return l.Expired }), column(lots, func(l usage.Lot) int64 { return l.Voided }),
			column(lots, func(l usage.Lot) int64 { return l.Rolled }), column(lots, func(l usage.Lot) bool { return l.Passed }),
			column(lots, func(l usage.Lot) bool { return l.Closed }))
	}
	if len(entries) > 0 {
		b.Queue(insertEntries,
			column(entries, func(e usage.GrantEntry) string { return e.Account }), column(entries, func(e usage.GrantEntry) string { return e.Meter }),
			column(entries, func(e usage.GrantEntry) string { return e.Key }), column(entries, func(e usage.GrantEntry) int32 { return int32(e.Seq) }),
			column(entries, func(e usage.GrantEntry) time.Time { return e.At }), column(entries, func(e usage.GrantEntry) int16 { return int16(e.Move) }),
			column(entries, func(e usage.GrantEntry) int64 { return e.Units }), column(entries, func(e usage.GrantEntry) *time.Time { return nullable(e.Period) }),
			column(entries, func(e usage.GrantEntry) *string {
				if e.Step == "" {
					return nil
				}
				return &e.Step
			}))
	}
}

// column takes one field of each row.
func column[R, T any](rows []R, field func(R) T) []T {
	out := make([]T, len(rows))
	for i, r := range rows {
		out[i] = field(r)
	}
	return out
}

// drawsText spells what a hold holds of grants, null for nothing.
func drawsText(draws []usage.Draw) *string {
	if len(draws) == 0 {
		return nil
	}
	text, _ := json.Marshal(draws) // of strings and integers: can't fail
	s := string(text)
	return &s
}

func drawsOf(text *string) ([]usage.Draw, error) {
	if text == nil {
		return nil, nil
	}
	var draws []usage.Draw
	return draws, json.Unmarshal([]byte(*text), &draws)
}

const selectLots = `select ` + lotColumns + ` from usage_grants where account = $1 and meter = $2 and not closed`

// Wallet implements usage.GrantStore.
func (s *Store) Wallet(ctx context.Context, account, meter string) (*usage.Wallet, error) {
	rows, err := s.db.Query(ctx, selectLots, account, meter)
	if err != nil {
		return nil, kindOf(err)
	}
	defer rows.Close()
	var lots []usage.Lot
	if err := eachLot(rows, func(l usage.Lot) { lots = append(lots, l) }); err != nil {
		return nil, kindOf(err)
	}
	if len(lots) == 0 {
		return nil, nil
	}
	return usage.NewWallet(lots), nil
}

const insertWallet = `insert into usage_wallets (account, meter) values ($1, $2) on conflict do nothing`

// New counters look for open grants themselves.
const markCounters = `
update usage_counters set granted = true where account = $1 and meter = $2 and not granted`

const selectGrant = `
select ` + lotColumns + ` from usage_grants where account = $1 and meter = $2 and key = $3 order by seq limit 1`

const countOpenLots = `select count(*) from usage_grants where account = $1 and meter = $2 and not closed`

// Grant implements usage.GrantStore. On a pgx.Tx it is given with the caller's
// commit.
func (s *Store) Grant(ctx context.Context, g usage.Grant, now time.Time) (stored usage.Grant, replayed bool, err error) {
	err = s.tx(ctx, func(w *work) error {
		stored, replayed = g, false
		var have []usage.Lot
		var open int
		b := &pgx.Batch{}
		b.Queue(markCounters, g.Account, g.Meter) // counters before wallets, as everywhere
		b.Queue(insertWallet, g.Account, g.Meter)
		b.Queue(lockWallets, []string{g.Account}, []string{g.Meter})
		b.Queue(selectGrant, g.Account, g.Meter, g.Key).Query(func(rows pgx.Rows) error {
			return eachLot(rows, func(l usage.Lot) { have = append(have, l) })
		})
		b.Queue(countOpenLots, g.Account, g.Meter).QueryRow(func(row pgx.Row) error { return row.Scan(&open) })
		if err := w.send(b); err != nil {
			return err
		}
		switch {
		case len(have) > 0 && !have[0].Same(g):
			return usage.ErrKeyReused
		case len(have) > 0:
			stored, replayed = have[0].Grant, true
			return nil // rolled back: nothing but the lock to give up
		case open >= usage.MaxGrants:
			return fmt.Errorf("%w: an account has at most %d open grants of a meter", usage.ErrInvalid, usage.MaxGrants)
		}
		lot, entry := g.NewLot(now)
		b = &pgx.Batch{}
		queueLots(b, []usage.Lot{lot}, []usage.GrantEntry{entry})
		return w.commit(b)
	})
	return stored, replayed, err
}

// Revoke implements usage.GrantStore.
func (s *Store) Revoke(ctx context.Context, account, meter, key string, now time.Time) (voided int64, err error) {
	err = s.tx(ctx, func(w *work) error {
		voided = 0
		// Closed lots too: a correction mustn't bring them to life again.
		var lots []usage.Lot
		b := &pgx.Batch{}
		b.Queue(lockWallets, []string{account}, []string{meter})
		b.Queue(selectLotsOf, account, meter, []string{key}).Query(func(rows pgx.Rows) error {
			return eachLot(rows, func(l usage.Lot) { lots = append(lots, l) })
		})
		if err := w.send(b); err != nil {
			return err
		}
		if !slices.ContainsFunc(lots, func(l usage.Lot) bool { return l.Key == key }) {
			return usage.ErrNotFound
		}
		ws := wallets{{Account: account, Meter: meter}: usage.NewWallet(lots)}
		voided = ws[usage.AccountMeter{Account: account, Meter: meter}].Revoke(key, now)
		b = &pgx.Batch{}
		if !ws.queue(b) {
			return nil
		}
		return w.commit(b)
	})
	return voided, err
}

const sumEntries = `
select move, sum(units)::bigint from usage_grant_entries where account = $1 and meter = $2 and at <= $3 group by move`

// GrantUnits implements usage.GrantStore.
func (s *Store) GrantUnits(ctx context.Context, account, meter string, until time.Time) (units usage.Units, err error) {
	rows, err := s.db.Query(ctx, sumEntries, account, meter, until)
	if err != nil {
		return units, kindOf(err)
	}
	var move int16
	var n int64
	_, err = pgx.ForEachRow(rows, []any{&move, &n}, func() error {
		units.Book(usage.GrantMove(move), n)
		return nil
	})
	return units, kindOf(err)
}

const entryColumns = `account, meter, key, seq, at, move, units, period_from, step`

const selectEntries = `
select ` + entryColumns + ` from usage_grant_entries
where account = $1 and meter = $2 and at >= $3 and at < $4
order by at, n offset $5 limit $6`

// GrantEntries implements usage.GrantStore.
func (s *Store) GrantEntries(ctx context.Context, account, meter string, from, to time.Time, skip, n int) ([]usage.GrantEntry, error) {
	return s.selectEntries(ctx, selectEntries, account, meter, from, to, skip, n)
}

func (s *Store) selectEntries(ctx context.Context, sql string, args ...any) ([]usage.GrantEntry, error) {
	rows, err := s.db.Query(ctx, sql, args...)
	if err != nil {
		return nil, kindOf(err)
	}
	out, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (usage.GrantEntry, error) {
		var e usage.GrantEntry
		var move int16
		var period *time.Time
		var step *string
		err := row.Scan(&e.Account, &e.Meter, &e.Key, &e.Seq, &e.At, &move, &e.Units, &period, &step)
		e.At, e.Move, e.Period = e.At.UTC(), usage.GrantMove(move), instant(period)
		if step != nil {
			e.Step = *step
		}
		return e, err
	})
	return out, kindOf(err)
}

const selectLapsed = `
select distinct account, meter from usage_grants where not passed and ends is not null and ends <= $1 limit $2`

// Lapsed implements usage.GrantStore.
func (s *Store) Lapsed(ctx context.Context, now time.Time, n int) ([]usage.AccountMeter, error) {
	rows, err := s.db.Query(ctx, selectLapsed, now, n)
	if err != nil {
		return nil, kindOf(err)
	}
	out, err := pgx.CollectRows(rows, pgx.RowToStructByPos[usage.AccountMeter])
	return out, kindOf(err)
}

// sweepGrants drops grants that were closed a year before the horizon, with
// their entries: no counter that is left has drawn on them.
func (s *Store) sweepGrants(ctx context.Context, horizon time.Time) error {
	for {
		tag, err := s.db.Exec(ctx, dropGrants, horizon.AddDate(-1, 0, 0), sweepBatch)
		if err != nil || tag.RowsAffected() < sweepBatch {
			return kindOf(err)
		}
	}
}

const dropGrants = `
with old as (
	select account, meter, key from usage_grants g
	group by account, meter, key
	having bool_and(closed) and not exists (
		select from usage_grant_entries e
		where e.account = g.account and e.meter = g.meter and e.key = g.key and e.at >= $1
	)
	limit $2
), entries as (
	delete from usage_grant_entries e using old
	where e.account = old.account and e.meter = old.meter and e.key = old.key
)
delete from usage_grants g using old where g.account = old.account and g.meter = old.meter and g.key = old.key`

// Every lot against its entries, and what every counter has drawn against the
// entries of its period and its open reservations.
const auditGrants = `
select count(*), coalesce((array_agg(format('grant %s/%s/%s %s: has issued %s, burned %s, held %s; the ledger says %s, %s, %s',
	g.account, g.meter, g.key, g.seq, g.issued, g.burned, g.held, e.issued, e.burned, e.held))
	filter (where (g.issued, g.carried, g.burned, g.held, g.expired, g.voided, g.rolled)
		is distinct from (e.issued, e.carried, e.burned, e.held, e.expired, e.voided, e.rolled)))[1:20], '{}')
from usage_grants g
cross join lateral (
	select
		coalesce(sum(units) filter (where move = 1), 0) as issued,
		coalesce(sum(units) filter (where move = 2), 0) as carried,
		coalesce(sum(case when move in (5, 6) then units when move = 7 then -units end), 0) as burned,
		coalesce(sum(case when move = 3 then units when move in (4, 6) then -units end), 0) as held,
		coalesce(sum(units) filter (where move = 8), 0) as expired,
		coalesce(sum(units) filter (where move = 9), 0) as voided,
		coalesce(sum(units) filter (where move = 10), 0) as rolled
	from usage_grant_entries e
	where e.account = g.account and e.meter = g.meter and e.key = g.key and e.seq = g.seq
) e`

const auditDrawn = `
select count(*), coalesce((array_agg(format('counter %s/%s from %s: drawn %s, held %s of grants; the ledger says %s, reservations %s',
	c.account, c.meter, c.period_from, c.drawn, c.drawn_held, e.drawn, h.held))
	filter (where c.drawn <> e.drawn or c.drawn_held <> h.held))[1:20], '{}')
from usage_counters c
cross join lateral (
	select coalesce(sum(case when move in (5, 6) then units when move = 7 then -units end), 0) as drawn
	from usage_grant_entries e
	where e.account = c.account and e.meter = c.meter and e.period_from = c.period_from
) e
cross join lateral (
	select coalesce(sum((d ->> 'n')::bigint), 0) as held
	from usage_holds h cross join lateral jsonb_array_elements(h.draws) d
	where h.account = c.account and h.meter = c.meter and h.period_from = c.period_from and h.state = 0
) h`

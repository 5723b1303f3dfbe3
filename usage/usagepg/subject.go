package usagepg

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/kolekt/commerce/usage"
)

var distantFuture = time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)

// ExportSubject implements usage.Store.
func (s *Store) ExportSubject(ctx context.Context, account string, emit func(string, map[string]any) error) error {
	page := usage.EventPage{Account: account, From: time.Unix(0, 0).AddDate(-1000, 0, 0), To: distantFuture}
	page.AfterTime = page.From
	for {
		entries, err := s.Events(ctx, page, sweepBatch)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if err := emit("event", e.Record()); err != nil {
				return err
			}
			page.AfterTime, page.AfterKey = e.Time, e.Key
		}
		if len(entries) < sweepBatch {
			break
		}
	}
	rows, err := s.db.Query(ctx, "select "+counterColumns+" from usage_counters where account = $1 order by meter, period_from", account)
	if err != nil {
		return kindOf(err)
	}
	var counters []usage.Counter
	err = eachCounter(rows, func(c usage.Counter, _ bool) { counters = append(counters, c) })
	rows.Close()
	if err != nil {
		return kindOf(err)
	}
	for _, c := range counters {
		if err := emit("counter", c.Record()); err != nil {
			return err
		}
	}
	for after := ""; ; {
		holds, err := s.selectHolds(ctx, "where account = $1 and key > $2 order by key limit $3", account, after, sweepBatch)
		if err != nil {
			return err
		}
		for _, h := range holds {
			if err := emit("reservation", h.Record()); err != nil {
				return err
			}
			after = h.Key
		}
		if len(holds) < sweepBatch {
			break
		}
	}
	notices, err := s.selectNotices(ctx, "select "+noticeColumns+" from usage_notices where account = $1 order by id", account)
	if err != nil {
		return err
	}
	for _, n := range notices {
		if err := emit("notice", n.Record()); err != nil {
			return err
		}
	}
	return s.exportGrants(ctx, account, emit)
}

const exportLots = `select ` + lotColumns + ` from usage_grants where account = $1 order by meter, key, seq`

const exportEntries = `
select ` + entryColumns + ` from usage_grant_entries where account = $1 order by meter, at, n offset $2 limit $3`

func (s *Store) exportGrants(ctx context.Context, account string, emit func(string, map[string]any) error) error {
	rows, err := s.db.Query(ctx, exportLots, account)
	if err != nil {
		return kindOf(err)
	}
	var lots []usage.Lot
	err = eachLot(rows, func(l usage.Lot) { lots = append(lots, l) })
	rows.Close()
	if err != nil {
		return kindOf(err)
	}
	for _, l := range lots {
		if err := emit("grant", l.Record()); err != nil {
			return err
		}
	}
	for skip := 0; ; skip += sweepBatch {
		entries, err := s.selectEntries(ctx, exportEntries, account, skip, sweepBatch)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if err := emit("grant_entry", e.Record()); err != nil {
				return err
			}
		}
		if len(entries) < sweepBatch {
			return s.exportReports(ctx, account, emit)
		}
	}
}

// keptProperties are the names of those that the platform's totals are made of:
// events keep them.
const keptProperties = `
select distinct name from (
	select figure, dim from usage_quarters where account = $1
	union select figure, dim from usage_months where account = $1
) d
cross join lateral (values (d.figure), (split_part(d.dim, '=', 1))) as x (name)
where name <> ''`

const anonymise = `
with kept as (
	select name from unnest($3::text[]) as x (name)
), gone as (
	delete from usage_events where (account, meter, ts, key) in (
		select account, meter, ts, key from usage_events where account = $1 limit $2
	)
	returning *
)
insert into usage_events (account, meter, ts, key, value, flags, props)
select '', meter, ts, hashtextextended(gen_random_uuid()::text, 0), value, 0,
	(select jsonb_object_agg(p.key, p.value) from jsonb_each(gone.props) p where p.key in (select name from kept))
from gone`

// The sort keeps two erasures from locking the nameless rows crosswise.
const mergeQuarters = `
with gone as (
	delete from usage_quarters where account = $1 returning *
)
insert into usage_quarters as d (account, meter, figure, dim, bucket, cnt, sum, min, max, last, last_at, scale)
select '', meter, figure, dim, bucket, cnt, sum, min, max, last, last_at, scale from gone order by meter, figure, dim, bucket
on conflict (account, meter, figure, dim, bucket) do update set` + mergeRollup

// EraseSubject implements usage.Store. It is one transaction, whose deletes
// come in batches: an account is erased as a whole or not at all.
func (s *Store) EraseSubject(ctx context.Context, account string) (map[string]int64, error) {
	if account == "" {
		return nil, usage.ErrInvalid
	}
	var counts map[string]int64
	err := pgx.BeginFunc(ctx, s.db, func(tx pgx.Tx) error {
		counts = map[string]int64{"event": 0, "counter": 0, "reservation": 0, "notice": 0}
		// Counters and quarters are locked first, as everywhere: what others
		// record for the account meanwhile waits, and then begins anew.
		if _, err := tx.Exec(ctx, lockUnfolding); err != nil {
			return err
		}
		for _, sql := range []string{
			"select from usage_counters where account = $1 order by meter, period_from for update",
			"select from usage_wallets where account = $1 order by meter for update",
			"select from usage_quarters where account = $1 order by meter, figure, dim, bucket for update",
		} {
			if _, err := tx.Exec(ctx, sql, account); err != nil {
				return err
			}
		}
		rows, err := tx.Query(ctx, keptProperties, account)
		if err != nil {
			return err
		}
		keep, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return err
		}
		for {
			tag, err := tx.Exec(ctx, anonymise, account, sweepBatch, keep)
			if err != nil {
				return err
			}
			counts["event"] += tag.RowsAffected()
			if tag.RowsAffected() < sweepBatch {
				break
			}
		}
		// After the events: what was being packed meanwhile is in a block now.
		n, err := anonymisePacked(ctx, tx, account, keep)
		if err != nil {
			return err
		}
		counts["event"] += n
		if _, err := tx.Exec(ctx, mergeQuarters, account); err != nil {
			return err
		}
		if err := unfold(ctx, tx, account); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, "delete from usage_keys where account = $1", account); err != nil {
			return err
		}
		for _, table := range []string{"usage_wallets", "usage_report_days"} {
			if _, err := tx.Exec(ctx, "delete from "+table+" where account = $1", account); err != nil {
				return err
			}
		}
		for record, table := range map[string]string{
			"counter": "usage_counters", "reservation": "usage_holds", "notice": "usage_notices",
			"grant": "usage_grants", "grant_entry": "usage_grant_entries",
			"report": "usage_reports",
		} {
			tag, err := tx.Exec(ctx, "delete from "+table+" where account = $1", account)
			if err != nil {
				return err
			}
			if _, always := counts[record]; always || tag.RowsAffected() > 0 {
				counts[record] = tag.RowsAffected()
			}
		}
		return nil
	})
	if err != nil {
		return nil, kindOf(err)
	}
	s.counters.forget()
	return counts, nil
}

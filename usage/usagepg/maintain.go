package usagepg

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/kolekt/commerce/usage"
)

const sweepBatch = 1000

// Maintain implements usage.Store.
func (s *Store) Maintain(ctx context.Context, now time.Time) error {
	for month, i := monthOf(now), 0; i < 3; i++ {
		if err := s.ensureMonth(ctx, month.AddDate(0, i, 0)); err != nil {
			return err
		}
	}
	for more := true; more; {
		var err error
		if more, err = s.expireSome(ctx, now); err != nil {
			return err
		}
	}
	if err := s.compact(ctx, now); err != nil {
		return err
	}
	if err := s.foldMonths(ctx, now); err != nil {
		return err
	}
	if err := s.pack(ctx, now); err != nil {
		return err
	}
	before := now.Add(-s.cfg.KeyRetention)
	err := s.sweep(ctx, "delete from usage_keys where ctid = any (array(select ctid from usage_keys where at < $1 limit $2))", before)
	if err == nil {
		err = s.sweep(ctx, "delete from usage_holds where ctid = any (array(select ctid from usage_holds where state <> 0 and period_to < $1 limit $2))", before)
	}
	if err != nil || s.cfg.Retention == 0 {
		return err
	}
	horizon := monthOf(now.Add(-s.cfg.Retention))
	// The counters go first: an audit never sees one whose events are gone.
	if err := s.sweep(ctx, "delete from usage_counters where ctid = any (array(select ctid from usage_counters where period_from < $1 limit $2))", horizon); err != nil {
		return err
	}
	s.counters.forget()
	if err := s.sweep(ctx, "delete from usage_notices where ctid = any (array(select ctid from usage_notices where at < $1 and done_at is not null limit $2))", horizon); err != nil {
		return err
	}
	if err := s.sweepGrants(ctx, horizon); err != nil {
		return err
	}
	if err := errors.Join(s.sweep(ctx, sweepReports, horizon), s.sweep(ctx, sweepReportDays, horizon)); err != nil {
		return err
	}
	return kindOf(s.dropMonths(ctx, horizon))
}

// compactAfter is how old a bucket of the platform is when its shards become
// one row: by then hardly anybody writes to it.
const compactAfter = time.Hour

const oldestShards = `select min(bucket) from usage_platform where shard > 0 and bucket < $1::timestamptz - grain * interval '1 day'`

const compactShards = `
with gone as (
	delete from usage_platform
	where shard > 0 and bucket >= $1::timestamptz and bucket < $1::timestamptz + interval '1 day' and bucket < $2::timestamptz - grain * interval '1 day'
	returning *
), merged as (
	select meter, figure, dim, grain, bucket, sum(cnt)::bigint as cnt, sum(sum) as sum, min(min) as min, max(max) as max,
		max(array[(date_part('epoch', last_at) * 1e6)::bigint, last]) as latest, max(last_at) as last_at, max(scale) as scale
	from gone group by 1, 2, 3, 4, 5
)
insert into usage_platform as d (meter, figure, dim, grain, bucket, shard, cnt, sum, min, max, last, last_at, scale)
select meter, figure, dim, grain, bucket, 0, cnt, sum, min, max, latest[2], last_at, scale
from merged order by meter, figure, dim, grain, bucket
on conflict (meter, figure, dim, grain, bucket, shard) do update set` + mergeRollup

// compact merges the shards of old buckets, a day at a time.
func (s *Store) compact(ctx context.Context, now time.Time) error {
	until := now.Add(-compactAfter)
	for {
		var from *time.Time
		if err := s.db.QueryRow(ctx, oldestShards, until).Scan(&from); err != nil {
			return kindOf(err)
		}
		if from == nil {
			return nil
		}
		if _, err := s.db.Exec(ctx, compactShards, *from, until); err != nil {
			return kindOf(err)
		}
	}
}

// sweep deletes in batches, so that no lock is held for long.
func (s *Store) sweep(ctx context.Context, sql string, before time.Time) error {
	for {
		tag, err := s.db.Exec(ctx, sql, before, sweepBatch)
		if err != nil {
			return kindOf(err)
		}
		if tag.RowsAffected() < sweepBatch {
			return nil
		}
	}
}

// Rollups against events, for every row that is there: measures and
// dimensions are taken from the row itself.
const auditQuarters = `
with have as (
	select d.account, d.meter, d.figure, d.dim, d.bucket, d.cnt, d.sum, d.min, d.max,
		e.cnt as ecnt, e.sum as esum, e.min as emin, e.max as emax
	from usage_quarters d
	cross join lateral (
		select count(v) as cnt, sum(v) as sum, min(v) as min, max(v) as max
		from usage_events e
		cross join lateral (select case
			when d.figure = '' then e.value
			when jsonb_typeof(e.props->d.figure) = 'number' then round((e.props->>d.figure)::numeric * power(10::numeric, d.scale))::bigint
		end as v) v
		where e.account = d.account and e.meter = d.meter and e.ts >= d.bucket and e.ts < d.bucket + interval '15 minutes'
			and (d.dim = '' or e.props->>split_part(d.dim, '=', 1) = substr(d.dim, strpos(d.dim, '=') + 1))
	) e
)
select count(*), coalesce((array_agg(format('quarter %s/%s/%s/%s %s: have %s events and %s, events say %s and %s',
	account, meter, figure, dim, bucket, cnt, sum, ecnt, esum))
	filter (where (cnt, sum, min, max) is distinct from (ecnt, esum, emin, emax)))[1:50], '{}')
from have`

const auditMissing = `
select coalesce(sum(n), 0)::bigint, coalesce((array_agg(format('events of %s/%s at %s have no rollup', account, meter, bucket))
	filter (where missing))[1:20], '{}')
from (
	select e.account, e.meter, e.bucket, e.n, d.bucket is null as missing
	from (select account, meter, date_bin('15 minutes', ts, '2000-01-01Z') as bucket, count(*) as n from usage_events group by 1, 2, 3) e
	left join usage_quarters d on d.account = e.account and d.meter = e.meter and d.figure = '' and d.dim = '' and d.bucket = e.bucket
) x`

// The platform's rows outlive the accounts' where there is a retention, so that
// only those days are compared that still have rows.
const auditPlatform = `
with p as (
	select meter, figure, dim, grain, date_trunc('day', bucket, 'UTC') as day, sum(cnt) as cnt, sum(sum) as sum, min(min) as min, max(max) as max
	from usage_platform group by 1, 2, 3, 4, 5
), d as (
	select meter, figure, dim, date_trunc('day', bucket, 'UTC') as day, sum(cnt) as cnt, sum(sum) as sum, min(min) as min, max(max) as max
	from usage_quarters group by 1, 2, 3, 4
)
select count(*), coalesce((array_agg(format('platform %s/%s/%s %s: have %s events and %s, accounts say %s and %s',
	meter, figure, dim, day, p.cnt, p.sum, d.cnt, d.sum))
	filter (where (p.cnt, p.sum, p.min, p.max) is distinct from (d.cnt, d.sum, d.min, d.max)))[1:20], '{}')
from d cross join (values (0), (1)) as g (grain) left join p using (meter, figure, dim, grain, day)`

const auditCounters = `
select count(*), coalesce((array_agg(format('counter %s/%s from %s: used %s, held %s; events and bare steps say %s, reservations %s',
	c.account, c.meter, c.period_from, c.used, c.held, c.bare + e.sum, h.sum))
	filter (where c.used <> c.bare + e.sum or c.held <> h.sum))[1:20], '{}')
from usage_counters c
cross join lateral (
	select coalesce(sum(value), 0) as sum from usage_events e
	where e.account = c.account and e.meter = c.meter and e.ts >= c.period_from and e.ts < c.period_to and e.flags & 1 = 1
) e
cross join lateral (
	select coalesce(sum(n), 0) as sum from usage_holds h
	where h.account = c.account and h.meter = c.meter and h.period_from = c.period_from and h.state = 0
) h`

// Audit implements usage.Store, in one snapshot.
func (s *Store) Audit(ctx context.Context) (usage.Audit, error) {
	var audit usage.Audit
	err := pgx.BeginFunc(ctx, s.db, func(tx pgx.Tx) error {
		if s.pool != nil {
			if _, err := tx.Exec(ctx, "set transaction isolation level repeatable read"); err != nil {
				return err
			}
		}
		events, err := unpackForAudit(ctx, tx)
		if err != nil {
			return err
		}
		quarters, differences, err := unfoldForAudit(ctx, tx)
		if err != nil {
			return err
		}
		audit.Differences = differences
		names := strings.NewReplacer("usage_events", events, "usage_quarters", quarters)
		for _, part := range []struct {
			sql   string
			count *int64
		}{
			{auditMissing, &audit.Events},
			{auditQuarters, &audit.Rollups},
			{auditPlatform, &audit.Rollups},
			{auditCounters, &audit.Counters},
			{auditGrants, &audit.Counters},
			{auditDrawn, &audit.Counters},
		} {
			var n int64
			var differences []string
			if err := tx.QueryRow(ctx, names.Replace(part.sql)).Scan(&n, &differences); err != nil {
				return fmt.Errorf("usagepg: audit: %w", err)
			}
			*part.count += n
			audit.Differences = append(audit.Differences, differences...)
		}
		return nil
	})
	audit.Differences = audit.Differences[:min(100, len(audit.Differences))]
	return audit, kindOf(err)
}

package usagepg

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/kolekt/commerce/usage"
)

var _ usage.ReportStore = (*Store)(nil)

// marks are the days that have events to be reported, each with the earliest
// end of an event's hour.
type marks map[reportDay]time.Time

type reportDay struct {
	account, meter string
	day            int64 // Unix seconds
}

func (m marks) add(e usage.Entry) {
	if !e.Report {
		return
	}
	k, due := reportDay{e.Account, e.Meter, e.Day().Unix()}, e.HourEnd()
	if have, ok := m[k]; !ok || due.Before(have) {
		m[k] = due
	}
}

const markDays = `
insert into usage_report_days as d (account, meter, day, due, version)
select *, 1 from unnest($1::text[], $2::text[], $3::timestamptz[], $4::timestamptz[])
on conflict (account, meter, day) do update set
	version = d.version + 1,
	due = case when d.version = d.done then excluded.due else least(d.due, excluded.due) end`

// queue adds the statement that marks the days, in order of key.
func (m marks) queue(b *pgx.Batch) {
	if len(m) == 0 {
		return
	}
	keys := slices.SortedFunc(maps.Keys(m), func(a, b reportDay) int {
		return cmp.Or(cmp.Compare(a.account, b.account), cmp.Compare(a.meter, b.meter), cmp.Compare(a.day, b.day))
	})
	b.Queue(markDays,
		column(keys, func(k reportDay) string { return k.account }), column(keys, func(k reportDay) string { return k.meter }),
		column(keys, func(k reportDay) time.Time { return time.Unix(k.day, 0).UTC() }), column(keys, func(k reportDay) time.Time { return m[k] }))
}

const claimDays = `
update usage_report_days d set due = $2
from (
	select account, meter, day from usage_report_days
	where version <> done and due <= $1
	order by due limit $3
	for update skip locked
) x
where d.account = x.account and d.meter = x.meter and d.day = x.day
returning d.account, d.meter, d.day, d.version`

// ClaimReportDays implements usage.ReportStore.
func (s *Store) ClaimReportDays(ctx context.Context, due, until time.Time, n int) ([]usage.ReportDay, error) {
	rows, err := s.db.Query(ctx, claimDays, due, until, n)
	if err != nil {
		return nil, kindOf(err)
	}
	out, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (d usage.ReportDay, err error) {
		err = row.Scan(&d.Account, &d.Meter, &d.Day, &d.Version)
		d.Day = d.Day.UTC()
		return d, err
	})
	return out, kindOf(err)
}

const sumReports = `
select hour_from, count(*), sum(quantity)::bigint, coalesce(sum(quantity) filter (where state = 2), 0)::bigint, bool_or(state = 1)
from usage_reports where account = $1 and meter = $2 and hour_from >= $3 and hour_from < $4
group by hour_from order by hour_from`

// ReportSums implements usage.ReportStore.
func (s *Store) ReportSums(ctx context.Context, account, meter string, from, to time.Time) ([]usage.ReportSum, error) {
	rows, err := s.db.Query(ctx, sumReports, account, meter, from, to)
	if err != nil {
		return nil, kindOf(err)
	}
	out, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (x usage.ReportSum, err error) {
		err = row.Scan(&x.From, &x.Reports, &x.Quantity, &x.Delivered, &x.Pending)
		x.From = x.From.UTC()
		return x, err
	})
	return out, kindOf(err)
}

const reportColumns = `account, meter, id, hour_from, hour_to, seq, quantity, state, reason, cut_at, tries, first_try, due`

// A report that somebody else has stored, or another one of its hour that is
// pending, leaves a row out.
const insertReports = `
insert into usage_reports (account, meter, id, hour_from, hour_to, seq, quantity, state, reason, cut_at, tries, due)
select a, m, i, f, t, s, q, 1, '', c, 0, d
from unnest($1::text[], $2::text[], $3::text[], $4::timestamptz[], $5::timestamptz[], $6::int[], $7::bigint[], $8::timestamptz[], $9::timestamptz[])
	as x (a, m, i, f, t, s, q, c, d)
on conflict do nothing`

const lockDay = `select from usage_report_days where account = $1 and meter = $2 and day = $3 for update`

const settleDay = `
update usage_report_days set
	done = case when $5::timestamptz is null then $4 else done end,
	due = case when $5::timestamptz is null then due when version = $4 then $5 else least(due, $5) end
where account = $1 and meter = $2 and day = $3`

// errCut says that somebody else has been faster.
var errCut = errors.New("usagepg: reports were cut in the meantime")

// CutReports implements usage.ReportStore.
func (s *Store) CutReports(ctx context.Context, d usage.ReportDay, reports []usage.Report, next time.Time) (bool, error) {
	err := pgx.BeginFunc(ctx, s.db, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, lockDay, d.Account, d.Meter, d.Day)
		if err != nil {
			return err
		}
		if tag.RowsAffected() == 0 {
			return errCut // erased in the meantime
		}
		if len(reports) > 0 {
			tag, err := tx.Exec(ctx, insertReports,
				column(reports, func(r usage.Report) string { return r.Account }), column(reports, func(r usage.Report) string { return r.Meter }),
				column(reports, func(r usage.Report) string { return r.ID }), column(reports, func(r usage.Report) time.Time { return r.Hour.From }),
				column(reports, func(r usage.Report) time.Time { return r.Hour.To }), column(reports, func(r usage.Report) int32 { return int32(r.Seq) }),
				column(reports, func(r usage.Report) int64 { return r.Quantity }), column(reports, func(r usage.Report) time.Time { return r.CutAt }),
				column(reports, func(r usage.Report) time.Time { return r.Due }))
			if err != nil {
				return err
			}
			if int(tag.RowsAffected()) != len(reports) {
				return errCut
			}
		}
		_, err = tx.Exec(ctx, settleDay, d.Account, d.Meter, d.Day, d.Version, nullable(next))
		return err
	})
	if errors.Is(err, errCut) {
		return false, nil
	}
	return err == nil, kindOf(err)
}

const claimReport = `
update usage_reports r set tries = r.tries + 1, first_try = coalesce(r.first_try, $1), due = $2
from (
	select account, meter, hour_from, seq from usage_reports
	where state = 1 and due <= $1
	order by due, id limit 1
	for update skip locked
) x
where r.account = x.account and r.meter = x.meter and r.hour_from = x.hour_from and r.seq = x.seq
returning r.account, r.meter, r.id, r.hour_from, r.hour_to, r.seq, r.quantity, r.state, r.reason, r.cut_at, r.tries, r.first_try, r.due`

// ClaimReport implements usage.ReportStore.
func (s *Store) ClaimReport(ctx context.Context, now, until time.Time) (usage.Report, error) {
	out, err := s.selectReports(ctx, claimReport, now, until)
	if err == nil && len(out) == 0 {
		err = usage.ErrNotFound
	}
	if err != nil {
		return usage.Report{}, err
	}
	return out[0], nil
}

func (s *Store) selectReports(ctx context.Context, sql string, args ...any) ([]usage.Report, error) {
	rows, err := s.db.Query(ctx, sql, args...)
	if err != nil {
		return nil, kindOf(err)
	}
	out, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (r usage.Report, err error) {
		var state int16
		var first *time.Time
		err = row.Scan(&r.Account, &r.Meter, &r.ID, &r.Hour.From, &r.Hour.To, &r.Seq, &r.Quantity, &state, &r.Reason, &r.CutAt, &r.Tries, &first, &r.Due)
		r.State, r.FirstTry = usage.ReportState(state), instant(first)
		r.Hour.From, r.Hour.To, r.CutAt, r.Due = r.Hour.From.UTC(), r.Hour.To.UTC(), r.CutAt.UTC(), r.Due.UTC()
		return r, err
	})
	return out, kindOf(err)
}

const settleReport = `
update usage_reports set state = $4, reason = $5, tries = $6, first_try = $7, due = $8
where account = $1 and meter = $2 and hour_from = $3 and seq = $9 and state = 1`

// SettleReport implements usage.ReportStore.
func (s *Store) SettleReport(ctx context.Context, r usage.Report) error {
	_, err := s.db.Exec(ctx, settleReport, r.Account, r.Meter, r.Hour.From, int16(r.State), r.Reason, r.Tries, nullable(r.FirstTry), r.Due, r.Seq)
	return kindOf(err)
}

const retryReport = `
update usage_reports set state = 1, tries = 0, first_try = null, due = $4
where account = $1 and meter = $2 and id = $3 and state = 3`

// RetryReport implements usage.ReportStore.
func (s *Store) RetryReport(ctx context.Context, account, meter, id string, now time.Time) error {
	tag, err := s.db.Exec(ctx, retryReport, account, meter, id, now)
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == "23505" || err == nil && tag.RowsAffected() == 0 {
		return usage.ErrNotFound
	}
	return kindOf(err)
}

const filterReports = ` from usage_reports where ($1 = '' or account = $1) and ($2 = '' or meter = $2) and ($3 = 0 or state = $3)`

// Reports implements usage.ReportStore.
func (s *Store) Reports(ctx context.Context, f usage.ReportFilter, n int) ([]usage.Report, error) {
	return s.selectReports(ctx, "select "+reportColumns+filterReports+` order by hour_from desc, account collate "C", meter collate "C", seq desc limit $4`,
		f.Account, f.Meter, int16(f.State), n)
}

const totalReports = `
select account, meter, coalesce(sum(quantity) filter (where state = 2), 0)::bigint,
	coalesce(sum(quantity) filter (where state = 1), 0)::bigint, coalesce(sum(quantity) filter (where state = 3), 0)::bigint` +
	filterReports + ` and hour_from >= $4 and hour_from < $5 and (account collate "C", meter collate "C") > ($6, $7)
group by account, meter order by account collate "C", meter collate "C" limit $8`

// ReportTotals implements usage.ReportStore.
func (s *Store) ReportTotals(ctx context.Context, f usage.ReportFilter, from, to time.Time, after usage.AccountMeter, n int) ([]usage.ReportTotal, error) {
	rows, err := s.db.Query(ctx, totalReports, f.Account, f.Meter, int16(f.State), from, to, after.Account, after.Meter, n)
	if err != nil {
		return nil, kindOf(err)
	}
	out, err := pgx.CollectRows(rows, pgx.RowToStructByPos[usage.ReportTotal])
	return out, kindOf(err)
}

const sweepReports = `
delete from usage_reports where ctid = any (array(select ctid from usage_reports where hour_from < $1 and state <> 1 limit $2))`

const sweepReportDays = `
delete from usage_report_days where ctid = any (array(select ctid from usage_report_days where day < $1 and version = done limit $2))`

const exportReports = `
select ` + reportColumns + ` from usage_reports where account = $1 and (meter, hour_from, seq) > ($2, $3, $4)
order by meter, hour_from, seq limit $5`

func (s *Store) exportReports(ctx context.Context, account string, emit func(string, map[string]any) error) error {
	last := usage.Report{Hour: usage.Period{From: time.Unix(0, 0).AddDate(-1000, 0, 0)}}
	for {
		reports, err := s.selectReports(ctx, exportReports, account, last.Meter, last.Hour.From, last.Seq, sweepBatch)
		if err != nil {
			return err
		}
		for _, r := range reports {
			if err := emit("report", r.Record()); err != nil {
				return err
			}
			last = r
		}
		if len(reports) < sweepBatch {
			return nil
		}
	}
}

package usagepg

import (
	"context"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/kolekt/commerce/usage"
)

const counterColumns = `account, meter, period_from, period_to, used, held, bare, lim, drawn, drawn_held, granted`

// Counter implements usage.QuotaStore.
func (s *Store) Counter(ctx context.Context, account, meter string, p usage.Period) (usage.Counter, error) {
	out := usage.Counter{Account: account, Meter: meter, Period: p}
	rows, err := s.db.Query(ctx, "select "+counterColumns+" from usage_counters where account = $1 and meter = $2 and period_from = $3",
		account, meter, p.From)
	if err != nil {
		return out, kindOf(err)
	}
	defer rows.Close()
	return out, kindOf(eachCounter(rows, func(c usage.Counter, _ bool) { out = c }))
}

// Hold implements usage.QuotaStore.
func (s *Store) Hold(ctx context.Context, account, key string) (usage.Hold, error) {
	holds, err := s.selectHolds(ctx, "where account = $1 and key = $2", account, key)
	if err == nil && len(holds) == 0 {
		err = usage.ErrNotFound
	}
	if err != nil {
		return usage.Hold{}, err
	}
	return holds[0], nil
}

// Holds implements usage.QuotaStore.
func (s *Store) Holds(ctx context.Context, account, meter string, n int) ([]usage.Hold, error) {
	return s.selectHolds(ctx, `where account = $1 and meter = $2 and state = 0 order by at, key collate "C" limit $3`, account, meter, n)
}

func (s *Store) selectHolds(ctx context.Context, where string, args ...any) ([]usage.Hold, error) {
	rows, err := s.db.Query(ctx, "select "+holdColumns+" from usage_holds "+where, args...)
	if err != nil {
		return nil, kindOf(err)
	}
	defer rows.Close()
	var out []usage.Hold
	return out, kindOf(eachHold(rows, func(h usage.Hold) { out = append(out, h) }))
}

const nearLimit = `
select ` + counterColumns + ` from usage_counters
where meter = $1 and period_from <= $2 and period_to > $2 and lim > 0
	and used >= lim / 100 * $3 + (lim % 100 * $3 + 99) / 100
order by used::float8 / lim desc, account collate "C" limit $4`

// NearLimit implements usage.QuotaStore.
func (s *Store) NearLimit(ctx context.Context, meter string, now time.Time, percent, n int) ([]usage.Counter, error) {
	rows, err := s.db.Query(ctx, nearLimit, meter, now, int64(percent), n)
	if err != nil {
		return nil, kindOf(err)
	}
	defer rows.Close()
	var out []usage.Counter
	err = eachCounter(rows, func(c usage.Counter, _ bool) { out = append(out, c) })
	return out, kindOf(err)
}

const noticeColumns = `account, id, meter, period_from, period_to, percent, used, lim, at, superseded`

const claimNotices = `
update usage_notices x set claimed_until = $2
from (
	select account, id from usage_notices
	where done_at is null and (claimed_until is null or claimed_until <= $1)
	order by at limit $3
	for update skip locked
) due
where x.account = due.account and x.id = due.id
returning x.account, x.id, x.meter, x.period_from, x.period_to, x.percent, x.used, x.lim, x.at, x.superseded`

// ClaimNotices implements usage.NoticeStore.
func (s *Store) ClaimNotices(ctx context.Context, now, until time.Time, n int) ([]usage.Notice, error) {
	return s.selectNotices(ctx, claimNotices, now, until, n)
}

// NoticeDone implements usage.NoticeStore.
func (s *Store) NoticeDone(ctx context.Context, n usage.Notice, now time.Time) error {
	_, err := s.db.Exec(ctx, "update usage_notices set done_at = $3 where account = $1 and id = $2", n.Account, n.ID, now)
	return kindOf(err)
}

// PutNotices stores notices that another QuotaStore has found due.
func (s *Store) PutNotices(ctx context.Context, notices []usage.Notice) error {
	b := &pgx.Batch{}
	queueNotices(b, slices.Clone(notices))
	if b.Len() == 0 {
		return nil
	}
	return s.tx(ctx, func(w *work) error { return w.commit(b) })
}

// Notices implements usage.NoticeStore.
func (s *Store) Notices(ctx context.Context, account string, n int) ([]usage.Notice, error) {
	return s.selectNotices(ctx, "select "+noticeColumns+` from usage_notices where account = $1 order by at desc, id collate "C" limit $2`, account, n)
}

func (s *Store) selectNotices(ctx context.Context, sql string, args ...any) ([]usage.Notice, error) {
	rows, err := s.db.Query(ctx, sql, args...)
	if err != nil {
		return nil, kindOf(err)
	}
	out, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (usage.Notice, error) {
		var n usage.Notice
		err := row.Scan(&n.Account, &n.ID, &n.Meter, &n.Period.From, &n.Period.To, &n.Percent, &n.Used, &n.Limit, &n.At, &n.Superseded)
		n.Period.From, n.Period.To, n.At = n.Period.From.UTC(), n.Period.To.UTC(), n.At.UTC()
		return n, err
	})
	return out, kindOf(err)
}

package mailerpg

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/kolekt/commerce/mailer"
)

// claim leases and counts in one statement. SKIP LOCKED keeps workers from
// waiting for each other; the index of work keeps it quick whatever the
// history. The array makes the rows be updated by their key: from a subquery of
// unknown length the planner may take to reading the whole table.
const claim = `
update mailer_delivery d
set state = 1, at = $3, attempts = attempts + 1
where id = any (array(
    select id from mailer_delivery
    where state = 0 and at <= $1 and domain <> all ($4::text[])
    order by at
    limit $2
    for update skip locked
))
returning d.key_hash, ` + deliveryColumns

// contents reads what claimed mails say. It is a statement of its own because
// it must see what a mail said when the lease began: a mail that takes another
// one's place may commit after claim has looked, and before it locks the row.
const contents = `
select ` + contentColumns + `, exists (
    select 1
    from mailer_suppression s
    where s.address_hash = o.address_hash and s.blocks >= o.class and (s.stream = '' or s.stream = o.stream)
)
from mailer_outbox o
where o.key_hash = any ($1) and o.email is not null`

// Claim implements mailer.Store.
func (s *Store) Claim(ctx context.Context, c mailer.Claim) ([]mailer.Leased, error) {
	domains := c.NotDomains
	if domains == nil {
		domains = []string{}
	}
	rows, err := s.db.Query(ctx, claim, c.Now, c.Limit, c.Now.Add(c.Lease), domains)
	if err != nil {
		return nil, fmt.Errorf("mailerpg: claim: %w", err)
	}
	records := make(map[[16]byte]*record, c.Limit)
	keys := make([]pgtype.UUID, 0, c.Limit)
	for rows.Next() {
		var r record
		if err := rows.Scan(append([]any{&r.key}, r.delivery()...)...); err != nil {
			rows.Close()
			return nil, fmt.Errorf("mailerpg: claim: %w", err)
		}
		records[r.key.Bytes] = &r
		keys = append(keys, r.key)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("mailerpg: claim: %w", err)
	}
	if len(keys) == 0 {
		return nil, nil
	}
	if rows, err = s.db.Query(ctx, contents, keys); err != nil {
		return nil, fmt.Errorf("mailerpg: claim: %w", err)
	}
	leased, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (l mailer.Leased, err error) {
		var key pgtype.UUID
		copy(key.Bytes[:], row.RawValues()[0])
		r := records[key.Bytes]
		err = row.Scan(r.content(&l.Suppressed)...)
		l.Mail = r.mail()
		return l, err
	})
	if err != nil {
		return nil, fmt.Errorf("mailerpg: claim: %w", err)
	}
	slices.SortFunc(leased, func(a, b mailer.Leased) int { return cmp.Or(a.RunAt.Compare(b.RunAt), strings.Compare(a.ID, b.ID)) })
	return leased, nil
}

// Begin implements mailer.Store.
func (s *Store) Begin(ctx context.Context, id string, attempt int) (bool, error) {
	tag, err := s.db.Exec(ctx, "update mailer_delivery set state = 2 where id = $1 and attempts = $2 and state = 1", id, attempt)
	if err != nil {
		return false, fmt.Errorf("mailerpg: begin: %w", err)
	}
	return tag.RowsAffected() == 1, nil
}

// extend passes over rows that are being acknowledged: they need no lease any
// more, and waiting for them could end in a deadlock. Rows are found by their
// key, as in ack.
const extend = `
update mailer_delivery u
set at = $3
from (
    select o.id
    from mailer_delivery o join unnest((select $1::text[]), (select $2::integer[])) as l (id, attempt) on o.id = l.id and o.attempts = l.attempt
    where o.state + 0 in (1, 2)
    for update of o skip locked
) mine
where u.id = mine.id`

// Extend implements mailer.Store.
func (s *Store) Extend(ctx context.Context, leases []mailer.Lease, until time.Time) (int, error) {
	ids, attempts := make([]string, len(leases)), make([]int32, len(leases))
	for i, l := range leases {
		ids[i], attempts[i] = l.ID, int32(l.Attempt)
	}
	tag, err := s.db.Exec(ctx, extend, ids, attempts, until)
	if err != nil {
		return 0, fmt.Errorf("mailerpg: extend: %w", err)
	}
	return int(tag.RowsAffected()), nil
}

// ack ends attempts in one statement; the attempt's number is the fence
// against a worker that lost its lease.
//
// Rows must be found by their key, one by one. The sum hides the state from the
// planner, which would take the index of leases, empty as its statistics say,
// and compare each lease with each result; the inner selects hide how many
// results there are, for which it would read the whole table.
const ack = `
update mailer_delivery o
set state = a.state, at = case when a.state = 0 then a.run_at else a.at end,
    run_at = case when a.state = 0 then a.run_at else o.run_at end, attempts = o.attempts - a.refund,
    reason = a.reason, code = a.code, enhanced = a.enhanced, transport = a.transport, provider_id = a.provider_id
from unnest((select $1::text[]), (select $2::integer[]), (select $3::smallint[]), (select $4::timestamptz[]),
            (select $5::integer[]), (select $6::timestamptz[]), (select $7::text[]), (select $8::integer[]),
            (select $9::text[]), (select $10::text[]), (select $11::text[]))
    as a (id, attempt, state, run_at, refund, at, reason, code, enhanced, transport, provider_id)
where o.id = a.id and o.attempts = a.attempt and o.state + 0 in (1, 2)`

// Ack implements mailer.Store. Without acks the statement still runs: its
// connection is then open, and knows it.
func (s *Store) Ack(ctx context.Context, acks []mailer.Ack) (int, error) {
	n := len(acks)
	sorted := slices.SortedFunc(slices.Values(acks), func(a, b mailer.Ack) int { return strings.Compare(a.ID, b.ID) })
	ids, reasons, enhanced, transports, providers := make([]string, n), make([]string, n), make([]string, n), make([]string, n), make([]string, n)
	attempts, refunds, codes, states := make([]int32, n), make([]int32, n), make([]int32, n), make([]int16, n)
	runs, ats := make([]time.Time, n), make([]time.Time, n)
	for i, a := range sorted {
		ids[i], attempts[i], states[i], runs[i], ats[i] = a.ID, int32(a.Attempt), int16(a.State), a.RunAt, a.At
		reasons[i], codes[i], enhanced[i], transports[i], providers[i] = a.Reason, int32(a.Code), a.Enhanced, a.Transport, a.ProviderID
		if a.Refund {
			refunds[i] = 1
		}
	}
	tag, err := s.db.Exec(ctx, ack, ids, attempts, states, runs, refunds, ats, reasons, codes, enhanced, transports, providers)
	if err != nil {
		return 0, fmt.Errorf("mailerpg: ack: %w", err)
	}
	return int(tag.RowsAffected()), nil
}

const recoverLeases = `
update mailer_delivery u
set state = case when lost.state = 2 then 6 else 0 end, at = case when lost.state = 2 then $1 else u.run_at end,
    reason = case when lost.state = 2 then 'ambiguous' else u.reason end
from (
    select id, state from mailer_delivery
    where state in (1, 2) and at < $1
    for update skip locked
) lost
where u.id = lost.id`

// Recover implements mailer.Store.
func (s *Store) Recover(ctx context.Context, now time.Time) (int, error) {
	tag, err := s.db.Exec(ctx, recoverLeases, now)
	if err != nil {
		return 0, fmt.Errorf("mailerpg: recover: %w", err)
	}
	return int(tag.RowsAffected()), nil
}

// release gives the contents their new end as well; the key of the delivery is
// what counts how many there were.
const release = `
with released as (
    update mailer_delivery
    set state = 0, at = $2, run_at = $2, attempts = 0, reason = ''
    where id = any ($1) and state in (4, 6)
    returning key_hash
)
update mailer_outbox set expires_at = $3 where key_hash = any (array(select key_hash from released))`

// Release implements mailer.Store.
func (s *Store) Release(ctx context.Context, ids []string, at, expires time.Time) (int, error) {
	tag, err := s.db.Exec(ctx, release, ids, at, expires)
	if err != nil {
		return 0, fmt.Errorf("mailerpg: release: %w", err)
	}
	return int(tag.RowsAffected()), nil
}

// Cancel implements mailer.Store.
func (s *Store) Cancel(ctx context.Context, id string, at time.Time) (bool, error) {
	tag, err := s.db.Exec(ctx, `
update mailer_delivery
set state = case when state = 16 then 15 else 5 end, at = $2, reason = 'cancelled'
where id = $1 and state in (0, 6, 16)`, id, at)
	if err != nil {
		return false, fmt.Errorf("mailerpg: cancel: %w", err)
	}
	return tag.RowsAffected() == 1, nil
}

// Lookup implements mailer.Store.
func (s *Store) Lookup(ctx context.Context, id string) (mailer.Mail, error) {
	rows, err := s.db.Query(ctx, selectMail+"where d.id = $1", id)
	if err != nil {
		return mailer.Mail{}, fmt.Errorf("mailerpg: lookup: %w", err)
	}
	m, err := pgx.CollectExactlyOneRow(rows, scanMail)
	if errors.Is(err, pgx.ErrNoRows) {
		return mailer.Mail{}, mailer.ErrNotFound
	}
	if err != nil {
		return mailer.Mail{}, fmt.Errorf("mailerpg: lookup: %w", err)
	}
	return m, nil
}

// list says only what is asked. States with few mails are gone through in
// full: a walk by ID until enough of them are found could read the history.
func list(q mailer.Query) (string, []any) {
	var args []any
	arg := func(a any) string {
		args = append(args, a)
		return "$" + strconv.Itoa(len(args))
	}
	sql := selectMail + "where true"
	if q.Account != "" {
		sql = selectContents + "where o.account <> '' and o.account = " + arg(q.Account)
	}
	if len(q.States) > 0 {
		// The planner knows how many there are of a state that it can read.
		var states []string
		few := q.Account == ""
		for _, st := range q.States {
			few = few && st != mailer.Done && st != mailer.Dropped
			if states = append(states, strconv.Itoa(int(st))); st >= mailer.Done {
				states = append(states, strconv.Itoa(int(st)+scrubbed))
			}
		}
		if in := "state in (" + strings.Join(states, ", ") + ")"; few {
			sql += " and d.id = any (array(select id from mailer_delivery where " + in + "))"
		} else {
			sql += " and d." + in
		}
	}
	if q.Before != "" {
		sql += " and d.id < " + arg(q.Before)
	}
	return sql + " order by d.id desc limit " + arg(q.Limit), args
}

// List implements mailer.Store.
func (s *Store) List(ctx context.Context, q mailer.Query) ([]mailer.Mail, error) {
	sql, args := list(q)
	rows, err := s.db.Query(ctx, sql, args...)
	if err != nil {
		return nil, fmt.Errorf("mailerpg: list: %w", err)
	}
	mails, err := pgx.CollectRows(rows, scanMail)
	if err != nil {
		return nil, fmt.Errorf("mailerpg: list: %w", err)
	}
	return mails, nil
}

// stats counts through the index of work, whatever the history.
const stats = `
select (select count(*) from mailer_delivery where state = 0), (select count(*) from mailer_delivery where state in (1, 2)),
    (select count(*) from mailer_delivery where state in (4, 14)), (select count(*) from mailer_delivery where state in (6, 16)),
    (select min(at) from mailer_delivery where state = 0 and at <= $1)`

// Stats implements mailer.Store.
func (s *Store) Stats(ctx context.Context, now time.Time) (mailer.Stats, error) {
	var st mailer.Stats
	var oldest *time.Time
	if err := s.db.QueryRow(ctx, stats, now).Scan(&st.Pending, &st.Claimed, &st.Dead, &st.Held, &oldest); err != nil {
		return st, fmt.Errorf("mailerpg: stats: %w", err)
	}
	if oldest != nil {
		st.Oldest = oldest.UTC()
	}
	return st, nil
}

package mailerpg

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/kolekt/commerce/mailer"
)

// enqueuePlain takes a batch in one statement, which is its atomic step: the
// unique key decides who was first, and the suppression is read in the same
// snapshot as the row is written.
const enqueuePlain = `
with input as (
    select *
    from unnest($1::text[], $2::bytea[], $3::text[], $4::text[], $5::smallint[], $6::boolean[], $7::text[], $8::text[],
                $9::text[], $10::text[], $11::text[], $12::text[], $13::text[], $14::bytea[], $15::json[],
                $16::timestamptz[], $17::timestamptz[], $18::timestamptz[])
         with ordinality as i (id, key_hash, kind, stream, class, guarded, account, topic,
                email, name, locale, time_zone, domain, address_hash, data, created_at, run_at, expires_at, n)
), checked as (
    select i.*, exists (
        select 1
        from mailer_suppression s
        where s.address_hash = i.address_hash and s.blocks >= i.class and (s.stream = '' or s.stream = i.stream)
    ) as blocked
    from input i
), inserted as (
    insert into mailer_outbox (id, key_hash, kind, stream, class, guarded, account, topic, email, name, locale, time_zone,
        domain, address_hash, data, created_at, run_at, expires_at, state, reason, finished_at)
    select id, key_hash, kind, stream, class, guarded, account, topic, email, name, locale, time_zone,
        domain, address_hash, data, created_at, run_at, expires_at,
        case when blocked then 5 else 0 end, case when blocked then 'suppressed' else '' end,
        case when blocked then created_at end
    from checked
    order by n
    on conflict (key_hash) do nothing
    returning id, state
)
select i.n, ins.state, (select pg_notify('` + channel + `', '')::text)
from input i join inserted ins using (id)`

// enqueueOne is enqueuePlain for one mail, which is the usual case: a third of
// the time, since there are no arrays and the plan is a short one.
const enqueueOne = `
insert into mailer_outbox (id, key_hash, kind, stream, class, guarded, account, topic, email, name, locale, time_zone,
    domain, address_hash, data, created_at, run_at, expires_at, state, reason, finished_at)
select $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18,
    case when blocked then 5 else 0 end, case when blocked then 'suppressed' else '' end,
    case when blocked then $16::timestamptz end
from (select exists (
    select 1
    from mailer_suppression s
    where s.address_hash = $14 and s.blocks >= $5 and (s.stream = '' or s.stream = $4)
) as blocked) d
on conflict (key_hash) do nothing
returning state, pg_notify('` + channel + `', '')::text`

// enqueueRules takes one mail whose rules look at the account's other mails.
// The advisory lock on the account, taken in a statement before, makes the
// snapshot of this one include everything that an earlier holder committed, so
// that counts, group and supersession are decided on what is true.
const enqueueRules = `
with used as (
    select coalesce(merged_into, id) as id from mailer_outbox where key_hash = $2
), blocked as (
    select 1
    from mailer_suppression s
    where s.address_hash = $14 and s.blocks >= $5 and (s.stream = '' or s.stream = $4)
    limit 1
), merged as (
    -- A worker that claims the mail first makes this update match nothing.
    update mailer_outbox o
    set kind = $3, stream = $4, class = $5, guarded = $6, email = $9, name = $10, locale = $11, time_zone = $12,
        domain = $13, address_hash = $14, data = $15, expires_at = $18
    where o.id = (
        select id from mailer_outbox
        where $19::text <> '' and state = 0 and attempts = 0 and account = $7 and grp = $19 and topic = $8
        order by created_at, id limit 1
    ) and o.state = 0 and not exists (select 1 from used) and not exists (select 1 from blocked)
    returning o.id
), capped as (
    select 1
    where $21::integer > 0 and not exists (select 1 from merged) and (
        select count(*) from mailer_outbox
        where account = $7 and stream = $4 and class = $5 and created_at >= $22 and state <> 5
    ) >= $21
), superseded as (
    update mailer_outbox
    set state = 5, reason = 'superseded', finished_at = $16
    where state = 0 and account = $7 and kind = any ($20::text[]) and ($8 = '' or topic = $8)
        and not exists (select 1 from used) and not exists (select 1 from blocked) and not exists (select 1 from capped)
), inserted as (
    insert into mailer_outbox (id, key_hash, kind, stream, class, guarded, account, topic, grp, email, name, locale, time_zone,
        domain, address_hash, data, created_at, run_at, expires_at, state, reason, finished_at, merged_into)
    select $1, $2, $3, $4, $5, $6,
        case when m.id is null then $7 end, case when m.id is null then $8 end, case when m.id is null then $19::text end,
        case when m.id is null then $9 end, case when m.id is null then $10 end, case when m.id is null then $11 end,
        case when m.id is null then $12 end, case when m.id is null then $13 end, case when m.id is null then $14::bytea end,
        case when m.id is null then $15::json end, $16, $17, $18,
        case when b or c or m.id is not null then 5 else 0 end,
        case when b then 'suppressed' when c then 'capped' when m.id is not null then 'coalesced' else '' end,
        case when b or c or m.id is not null then $16::timestamptz end, m.id
    from (select exists (select 1 from blocked) as b, exists (select 1 from capped) as c) d
    left join merged m on true
    where not exists (select 1 from used)
    on conflict (key_hash) do nothing
    returning id, reason, merged_into
)
select coalesce((select id from used), (select merged_into from inserted), (select id from inserted), ''),
    case when exists (select 1 from used) then 'duplicate' else coalesce((select reason from inserted), 'raced') end,
    (select pg_notify('` + channel + `', '')::text)`

// Enqueue implements mailer.Store.
func (s *Store) Enqueue(ctx context.Context, mails []mailer.Enqueue) ([]mailer.Receipt, error) {
	plain := true
	for _, e := range mails {
		plain = plain && e.Group == "" && len(e.Supersedes) == 0 && e.CapCount == 0
	}
	if plain && len(mails) == 1 {
		return enqueueSingle(ctx, s.db, mails)
	}
	if plain {
		return enqueueBatch(ctx, s.db, mails)
	}
	for {
		receipts, err := s.enqueueLocked(ctx, mails)
		// The key was taken by somebody who holds no lock on this account,
		// after the look: look again.
		if !errors.Is(err, errRaced) {
			return receipts, err
		}
	}
}

var errRaced = errors.New("mailerpg: raced for a key")

func (s *Store) enqueueLocked(ctx context.Context, mails []mailer.Enqueue) ([]mailer.Receipt, error) {
	receipts := make([]mailer.Receipt, len(mails))
	err := pgx.BeginFunc(ctx, s.db, func(tx pgx.Tx) error {
		accounts := make([]string, len(mails))
		for i, e := range mails {
			accounts[i] = e.Mail.Account
		}
		// Sorted, so that two batches wait for each other in one direction only.
		slices.Sort(accounts)
		for _, account := range slices.Compact(accounts) {
			if _, err := tx.Exec(ctx, "select pg_advisory_xact_lock(hashtextextended($1, 1299146092))", account); err != nil {
				return fmt.Errorf("mailerpg: enqueue: %w", err)
			}
		}
		for i, e := range mails {
			m := e.Mail
			var reason string
			err := tx.QueryRow(ctx, enqueueRules, m.ID, m.KeyHash, m.Kind, m.Stream, int16(m.Class), m.Guarded, m.Account, m.Topic,
				m.Email, m.Name, m.Locale, m.TimeZone, m.Domain, m.AddressHash, m.Data, m.CreatedAt, m.RunAt, m.ExpiresAt,
				e.Group, e.Supersedes, e.CapCount, e.CapSince).Scan(&receipts[i].ID, &reason, nil)
			if err != nil {
				return fmt.Errorf("mailerpg: enqueue: %w", err)
			}
			if reason == "raced" {
				return errRaced
			}
			receipts[i].Status = map[string]mailer.Status{"": mailer.Queued, "duplicate": mailer.Duplicate, "coalesced": mailer.Coalesced,
				mailer.ReasonSuppressed: mailer.Suppressed, mailer.ReasonCapped: mailer.Capped}[reason]
		}
		return nil
	})
	return receipts, err
}

func enqueueSingle(ctx context.Context, db DB, mails []mailer.Enqueue) ([]mailer.Receipt, error) {
	m := mails[0].Mail
	receipts := []mailer.Receipt{{ID: m.ID, Status: mailer.Queued}}
	var state int16
	err := db.QueryRow(ctx, enqueueOne, m.ID, m.KeyHash, m.Kind, m.Stream, int16(m.Class), m.Guarded, m.Account, m.Topic,
		m.Email, m.Name, m.Locale, m.TimeZone, m.Domain, m.AddressHash, m.Data, m.CreatedAt, m.RunAt, m.ExpiresAt).Scan(&state, nil)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		receipts[0] = mailer.Receipt{Status: mailer.Duplicate}
		return receipts, nameDuplicates(ctx, db, mails, receipts)
	case err != nil:
		return nil, fmt.Errorf("mailerpg: enqueue: %w", err)
	case mailer.State(state) == mailer.Dropped:
		receipts[0].Status = mailer.Suppressed
	}
	return receipts, nil
}

func enqueueBatch(ctx context.Context, db DB, mails []mailer.Enqueue) ([]mailer.Receipt, error) {
	n := len(mails)
	c := newColumns(n)
	receipts := make([]mailer.Receipt, n)
	for i, e := range mails {
		c.set(i, e.Mail)
		receipts[i] = mailer.Receipt{Status: mailer.Duplicate}
	}
	rows, err := db.Query(ctx, enqueuePlain, c.args()...)
	if err != nil {
		return nil, fmt.Errorf("mailerpg: enqueue: %w", err)
	}
	var at int64
	var state int16
	_, err = pgx.ForEachRow(rows, []any{&at, &state, nil}, func() error {
		receipts[at-1] = mailer.Receipt{ID: mails[at-1].Mail.ID, Status: mailer.Queued}
		if mailer.State(state) == mailer.Dropped {
			receipts[at-1].Status = mailer.Suppressed
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("mailerpg: enqueue: %w", err)
	}
	return receipts, nameDuplicates(ctx, db, mails, receipts)
}

// nameDuplicates fills in the IDs of the mails that had the keys before.
func nameDuplicates(ctx context.Context, db DB, mails []mailer.Enqueue, receipts []mailer.Receipt) error {
	at := map[string][]int{}
	var keys [][]byte
	for i, r := range receipts {
		if r.Status == mailer.Duplicate {
			key := mails[i].Mail.KeyHash
			keys = append(keys, key)
			at[string(key)] = append(at[string(key)], i)
		}
	}
	if len(keys) == 0 {
		return nil
	}
	rows, err := db.Query(ctx, "select key_hash, coalesce(merged_into, id) from mailer_outbox where key_hash = any ($1)", keys)
	if err != nil {
		return fmt.Errorf("mailerpg: enqueue: %w", err)
	}
	var key []byte
	var id string
	_, err = pgx.ForEachRow(rows, []any{&key, &id}, func() error {
		for _, i := range at[string(key)] {
			receipts[i].ID = id
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("mailerpg: enqueue: %w", err)
	}
	return nil
}

package mailerpg

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/kolekt/commerce/mailer"
)

// blocked is the suppression's answer to the mail m.
const blocked = `exists (
    select 1
    from mailer_suppression s
    where s.address_hash = m.address_hash and s.blocks >= m.class and (s.stream = '' or s.stream = m.stream)
)`

const outboxColumns = `key_hash, id, kind, stream, class, guarded, account, topic, email, name, locale, time_zone, domain, address_hash,
    data, created_at, run_at, expires_at`

// enqueuePlain takes a batch in one statement, which is its atomic step: the
// unique key decides who was first, and the suppression is read in the same
// snapshot as the row is written. One look tells whether any of the addresses is
// suppressed at all, which saves a look for each; deliveries go in by ID, at the
// end of their indexes. The answer is for all mails at once, since usually all
// are taken.
const enqueuePlain = `
with m as (
    insert into mailer_outbox (` + outboxColumns + `)
    select ` + outboxColumns + `
    from unnest($1::text[], $2::uuid[], $3::text[], $4::text[], $5::smallint[], $6::boolean[], $7::text[], $8::text[],
                $9::text[], $10::text[], $11::text[], $12::text[], $13::text[], $14::bytea[], $15::json[],
                $16::timestamptz[], $17::timestamptz[], $18::timestamptz[])
         as i (id, key_hash, kind, stream, class, guarded, account, topic,
                email, name, locale, time_zone, domain, address_hash, data, created_at, run_at, expires_at)
    on conflict (key_hash) do nothing
    returning id, key_hash, stream, class, domain, address_hash, created_at, run_at
), d as (
    insert into mailer_delivery (id, key_hash, at, run_at, domain, state, reason)
    select id, key_hash, case when blocked then created_at else run_at end, run_at, domain, case when blocked then 5 else 0 end,
        case when blocked then 'suppressed' else '' end
    from (select m.*, (select exists (select 1 from mailer_suppression where address_hash = any ($14))) and ` + blocked + ` as blocked from m) m
    order by id
    returning id, state
)
select coalesce(array_agg(id) filter (where state = 5), '{}'), case when count(*) < cardinality($1) then coalesce(array_agg(id), '{}') end,
    (select ` + hint + `)
from d`

// enqueueOne is enqueuePlain for one mail, which is the usual case: a third of
// the time, since there are no arrays and the plan is a short one. Whether the
// address is suppressed depends on parameters alone, and is asked once.
const enqueueOne = `
with m as (
    insert into mailer_outbox (` + outboxColumns + `)
    values ($2, $1, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18)
    on conflict (key_hash) do nothing
    returning id
)
insert into mailer_delivery (id, key_hash, at, run_at, domain, state, reason)
select id, $2, case when blocked then $16 else $17 end, $17, $13, case when blocked then 5 else 0 end,
    case when blocked then 'suppressed' else '' end
from m, (
    select exists (
        select 1
        from mailer_suppression
        where address_hash = $14 and blocks >= $5 and (stream = '' or stream = $4)
    ) as blocked
    offset 0
) s
returning state, ` + hint

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
    update mailer_delivery d
    set domain = $13
    where d.id = (
        select o.id from mailer_outbox o join mailer_delivery p on p.id = o.id
        where $19::text <> '' and p.state = 0 and p.attempts = 0 and o.account = $7 and o.account <> '' and o.grp = $19 and o.topic = $8
        order by o.created_at, o.id limit 1
    ) and d.state = 0 and not exists (select 1 from used) and not exists (select 1 from blocked)
    returning d.id, d.key_hash
), replaced as (
    update mailer_outbox o
    set kind = $3, stream = $4, class = $5, guarded = $6, email = $9, name = $10, locale = $11, time_zone = $12,
        domain = $13, address_hash = $14, data = $15, expires_at = $18
    from merged m
    where o.key_hash = m.key_hash
), capped as (
    select 1
    where $21::integer > 0 and not exists (select 1 from merged) and (
        select count(*) from mailer_outbox o join mailer_delivery p on p.id = o.id
        where o.account = $7 and o.account <> '' and o.stream = $4 and o.class = $5 and o.created_at >= $22 and p.state <> 5
    ) >= $21
), superseded as (
    update mailer_delivery
    set state = 5, at = $16, reason = 'superseded'
    where state = 0 and id = any (array(
            select id from mailer_outbox
            where account = $7 and account <> '' and kind = any ($20::text[]) and ($8 = '' or topic = $8)
        )) and id not in (select id from merged)
        and not exists (select 1 from used) and not exists (select 1 from blocked) and not exists (select 1 from capped)
), inserted as (
    insert into mailer_outbox (id, key_hash, kind, stream, class, guarded, account, topic, grp, email, name, locale, time_zone,
        domain, address_hash, data, created_at, run_at, expires_at, merged_into)
    select $1, $2, $3, $4, $5, $6,
        coalesce(m.id, $7), case when m.id is null then $8 end, case when m.id is null then $19::text end,
        case when m.id is null then $9 end, case when m.id is null then $10 end, case when m.id is null then $11 end,
        case when m.id is null then $12 end, case when m.id is null then $13 end, case when m.id is null then $14::bytea end,
        case when m.id is null then $15::json end, $16, $17, $18, m.id
    from (select) always
    left join merged m on true
    where not exists (select 1 from used)
    on conflict (key_hash) do nothing
    returning id, key_hash, run_at, domain, merged_into
), delivery as (
    insert into mailer_delivery (id, key_hash, at, run_at, domain, state, reason)
    select i.id, i.key_hash, case when b or c then $16 else i.run_at end, i.run_at, i.domain, case when b or c then 5 else 0 end,
        case when b then 'suppressed' when c then 'capped' else '' end
    from inserted i, (select exists (select 1 from blocked) as b, exists (select 1 from capped) as c) rules
    where i.merged_into is null
    returning reason
)
select coalesce((select id from used), (select coalesce(merged_into, id) from inserted), ''),
    case when exists (select 1 from used) then 'duplicate'
        when exists (select 1 from inserted where merged_into is not null) then 'coalesced'
        else coalesce((select reason from delivery), 'raced') end,
    (select ` + hint + `)`

// Enqueue implements mailer.Store.
func (s *Store) Enqueue(ctx context.Context, mails []mailer.Enqueue) ([]mailer.Receipt, error) {
	plain := true
	for _, e := range mails {
		plain = plain && e.Group == "" && len(e.Supersedes) == 0 && e.CapCount == 0
	}
	if plain && len(mails) == 1 {
		return s.enqueueSingle(ctx, mails)
	}
	if plain {
		return s.enqueueBatch(ctx, mails)
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
		first := &pgx.Batch{}
		if s.along != nil {
			s.along(first)
		}
		for _, account := range slices.Compact(accounts) {
			first.Queue("select pg_advisory_xact_lock(hashtextextended($1, 1299146092))", account)
		}
		if err := tx.SendBatch(ctx, first).Close(); err != nil {
			return fmt.Errorf("mailerpg: enqueue: %w", err)
		}
		for i, e := range mails {
			m := e.Mail
			key, err := uuid(m.KeyHash)
			if err != nil {
				return err
			}
			var reason string
			err = tx.QueryRow(ctx, enqueueRules, m.ID, key, m.Kind, m.Stream, int16(m.Class), m.Guarded, m.Account, m.Topic,
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

func (s *Store) enqueueSingle(ctx context.Context, mails []mailer.Enqueue) ([]mailer.Receipt, error) {
	m := mails[0].Mail
	receipts := []mailer.Receipt{{ID: m.ID, Status: mailer.Queued}}
	key, err := uuid(m.KeyHash)
	if err != nil {
		return nil, err
	}
	state := int16(-1)
	scan := func(row pgx.Row) error {
		if err := row.Scan(&state, nil); !errors.Is(err, pgx.ErrNoRows) {
			return err
		}
		return nil // the key was used before
	}
	err = s.queryRow(ctx, scan, enqueueOne, m.ID, key, m.Kind, m.Stream, int16(m.Class), m.Guarded, m.Account, m.Topic,
		m.Email, m.Name, m.Locale, m.TimeZone, m.Domain, m.AddressHash, m.Data, m.CreatedAt, m.RunAt, m.ExpiresAt)
	switch {
	case err != nil:
		return nil, err
	case state < 0:
		receipts[0].Status = mailer.Duplicate
		return receipts, s.nameDuplicates(ctx, mails, receipts)
	case mailer.State(state) == mailer.Dropped:
		receipts[0].Status = mailer.Suppressed
	}
	return receipts, nil
}

func (s *Store) enqueueBatch(ctx context.Context, mails []mailer.Enqueue) ([]mailer.Receipt, error) {
	// Sorted, so that two batches with the same keys wait for each other in one
	// direction only; of a key that comes twice, the first still goes first.
	order := make([]int, len(mails))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int {
		return cmp.Or(bytes.Compare(mails[a].Mail.KeyHash, mails[b].Mail.KeyHash), cmp.Compare(a, b))
	})
	c := newColumns(len(mails))
	for i, from := range order {
		if err := c.set(i, &mails[from].Mail); err != nil {
			return nil, err
		}
	}
	var suppressed, taken []string // taken is null when all are
	scan := func(row pgx.Row) error { return row.Scan(&suppressed, &taken, nil) }
	if err := s.queryRow(ctx, scan, enqueuePlain, c.args()...); err != nil {
		return nil, err
	}
	status := make(map[string]mailer.Status, len(taken))
	for _, id := range taken {
		status[id] = mailer.Queued
	}
	for _, id := range suppressed {
		status[id] = mailer.Suppressed
	}
	receipts := make([]mailer.Receipt, len(mails))
	for i, e := range mails {
		st, ok := status[e.Mail.ID]
		if !ok && taken != nil {
			st = mailer.Duplicate
		}
		delete(status, e.Mail.ID) // the same mail again is a duplicate of itself
		receipts[i] = mailer.Receipt{ID: e.Mail.ID, Status: st}
	}
	if taken == nil {
		return receipts, nil
	}
	return receipts, s.nameDuplicates(ctx, mails, receipts)
}

// nameDuplicates fills in the IDs of the mails that had the keys before.
func (s *Store) nameDuplicates(ctx context.Context, mails []mailer.Enqueue, receipts []mailer.Receipt) error {
	at := map[[16]byte][]int{}
	var keys []pgtype.UUID
	for i, r := range receipts {
		if r.Status != mailer.Duplicate {
			continue
		}
		key, err := uuid(mails[i].Mail.KeyHash)
		if err != nil {
			return err
		}
		keys = append(keys, key)
		at[key.Bytes] = append(at[key.Bytes], i)
	}
	rows, err := s.db.Query(ctx, "select key_hash, coalesce(merged_into, id) from mailer_outbox where key_hash = any ($1)", keys)
	if err != nil {
		return fmt.Errorf("mailerpg: enqueue: %w", err)
	}
	var key pgtype.UUID
	var id string
	_, err = pgx.ForEachRow(rows, []any{&key, &id}, func() error {
		for _, i := range at[key.Bytes] {
			receipts[i].ID = id
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("mailerpg: enqueue: %w", err)
	}
	return nil
}

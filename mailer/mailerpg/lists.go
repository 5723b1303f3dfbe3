package mailerpg

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/kolekt/commerce/mailer"
)

const suppress = `
insert into mailer_suppression (address_hash, stream, reason, blocks, source, at)
select address_hash, stream, reason, blocks, source, at
from (
    select distinct on (address_hash, stream, reason) *
    from unnest($1::bytea[], $2::text[], $3::text[], $4::smallint[], $5::text[], $6::timestamptz[])
        with ordinality as i (address_hash, stream, reason, blocks, source, at, n)
    order by address_hash, stream, reason, at desc, n desc
) latest
on conflict (address_hash, stream, reason) do update
set blocks = excluded.blocks, source = excluded.source, at = excluded.at
where mailer_suppression.at <= excluded.at`

// Suppress implements mailer.Store.
func (s *Store) Suppress(ctx context.Context, list []mailer.Suppression) error {
	n := len(list)
	hashes, streams, reasons, sources := make([][]byte, n), make([]string, n), make([]string, n), make([]string, n)
	blocks, ats := make([]int16, n), make([]time.Time, n)
	for i, sup := range list {
		hashes[i], streams[i], reasons[i], sources[i], blocks[i], ats[i] = sup.AddressHash, sup.Stream, sup.Reason, sup.Source, int16(sup.Blocks), sup.At
	}
	if _, err := s.db.Exec(ctx, suppress, hashes, streams, reasons, blocks, sources, ats); err != nil {
		return fmt.Errorf("mailerpg: suppress: %w", err)
	}
	return nil
}

// Unsuppress implements mailer.Store.
func (s *Store) Unsuppress(ctx context.Context, addressHash []byte, stream string, reasons []string) (int, error) {
	tag, err := s.db.Exec(ctx, "delete from mailer_suppression where address_hash = $1 and stream = $2 and reason = any ($3)", addressHash, stream, reasons)
	if err != nil {
		return 0, fmt.Errorf("mailerpg: unsuppress: %w", err)
	}
	return int(tag.RowsAffected()), nil
}

// Suppressions implements mailer.Store.
func (s *Store) Suppressions(ctx context.Context, addressHash []byte) ([]mailer.Suppression, error) {
	rows, err := s.db.Query(ctx, `
select address_hash, stream, reason, blocks, source, at from mailer_suppression
where address_hash = $1
order by stream collate "C", reason collate "C"`, addressHash)
	if err != nil {
		return nil, fmt.Errorf("mailerpg: suppressions: %w", err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (mailer.Suppression, error) {
		var sup mailer.Suppression
		var blocks int16
		err := row.Scan(&sup.AddressHash, &sup.Stream, &sup.Reason, &blocks, &sup.Source, &sup.At)
		sup.Blocks, sup.At = mailer.Class(blocks), sup.At.UTC()
		return sup, err
	})
	if err != nil {
		return nil, fmt.Errorf("mailerpg: suppressions: %w", err)
	}
	return list, nil
}

// Record implements mailer.Store.
func (s *Store) Record(ctx context.Context, e mailer.Stored) (bool, error) {
	tag, err := s.db.Exec(ctx, `
insert into mailer_event (provider, event_id, type, reason, mail_id, address_hash, code, enhanced, at)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
on conflict (provider, event_id) where event_id <> '' do nothing`,
		e.Provider, e.ID, string(e.Type), string(e.Reason), e.MailID, e.AddressHash, e.Code, e.Enhanced, e.At)
	if err != nil {
		return false, fmt.Errorf("mailerpg: record: %w", err)
	}
	return tag.RowsAffected() == 1, nil
}

// CountEvents implements mailer.Store.
func (s *Store) CountEvents(ctx context.Context, addressHash []byte, t mailer.EventType, since time.Time) (int, error) {
	var n int
	err := s.db.QueryRow(ctx, "select count(*) from mailer_event where address_hash = $1 and type = $2 and at >= $3", addressHash, string(t), since).Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("mailerpg: count events: %w", err)
	}
	return n, nil
}

// emptied removes what is personal in a mail; the row goes on holding its key.
const emptied = `account = null, topic = null, grp = null, email = null, name = null, locale = null, time_zone = null,
    domain = null, address_hash = null, data = null`

// Deliveries are locked before contents, here as everywhere. Arrays make rows
// be found by their keys, as in claim.
const scrub = `
with old as (
    select d.id, d.key_hash
    from unnest('{3, 4, 5, 6}'::smallint[]) as final (state),
        lateral (select id, key_hash from mailer_delivery where state = final.state and at < $1 order by at limit $2 for update skip locked) d
    limit $2
), deliveries as (
    update mailer_delivery
    set state = state + 10, domain = null, provider_id = ''
    where id = any (array(select id from old))
)
update mailer_outbox set ` + emptied + ` where key_hash = any (array(select key_hash from old))`

// Scrub implements mailer.Store.
func (s *Store) Scrub(ctx context.Context, before time.Time, limit int) (int, error) {
	tag, err := s.db.Exec(ctx, scrub, before, limit)
	if err != nil {
		return 0, fmt.Errorf("mailerpg: scrub: %w", err)
	}
	return int(tag.RowsAffected()), nil
}

// purge forgets with a mail the keys of those that were merged into it.
const purge = `
with old as (
    select d.id, d.key_hash
    from unnest('{13, 14, 15, 16}'::smallint[]) as final (state),
        lateral (select id, key_hash from mailer_delivery where state = final.state and at < $1 order by at limit $2 for update skip locked) d
    limit $2
), deliveries as (
    delete from mailer_delivery where id = any (array(select id from old))
), merged as (
    delete from mailer_outbox where account = any (array(select id from old)) and account <> '' and merged_into is not null
)
delete from mailer_outbox where key_hash = any (array(select key_hash from old))`

// PurgeKeys implements mailer.Store.
func (s *Store) PurgeKeys(ctx context.Context, before time.Time, limit int) (int, error) {
	tag, err := s.db.Exec(ctx, purge, before, limit)
	if err != nil {
		return 0, fmt.Errorf("mailerpg: purge: %w", err)
	}
	events, err := s.db.Exec(ctx, "delete from mailer_event where seq in (select seq from mailer_event where at < $1 order by at limit $2)", before, limit)
	if err != nil {
		return 0, fmt.Errorf("mailerpg: purge: %w", err)
	}
	return max(int(tag.RowsAffected()), int(events.RowsAffected())), nil
}

const exportMails = selectContents + "where o.account = $1 and o.account <> '' and o.id > $2 order by o.id limit $3"

// exportBatch is how many mails are in memory at a time.
const exportBatch = 500

// Export implements mailer.Store.
func (s *Store) Export(ctx context.Context, account string, emit func(string, map[string]any) error) error {
	if account == "" {
		return nil
	}
	for after := ""; ; {
		rows, err := s.db.Query(ctx, exportMails, account, after, exportBatch)
		if err != nil {
			return fmt.Errorf("mailerpg: export: %w", err)
		}
		mails, err := pgx.CollectRows(rows, scanMail)
		if err != nil {
			return fmt.Errorf("mailerpg: export: %w", err)
		}
		ids := make([]string, len(mails))
		for i, m := range mails {
			ids[i], after = m.ID, m.ID
			if err := emit("mail", m.Fields()); err != nil {
				return err
			}
		}
		if err := s.exportEvents(ctx, ids, emit); err != nil || len(mails) < exportBatch {
			return err
		}
	}
}

func (s *Store) exportEvents(ctx context.Context, ids []string, emit func(string, map[string]any) error) error {
	rows, err := s.db.Query(ctx, "select provider, event_id, type, reason, mail_id, at from mailer_event where mail_id = any ($1) and mail_id <> '' order by seq", ids)
	if err != nil {
		return fmt.Errorf("mailerpg: export: %w", err)
	}
	events, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (mailer.Stored, error) {
		var e mailer.Stored
		err := row.Scan(&e.Provider, &e.ID, &e.Type, &e.Reason, &e.MailID, &e.At)
		return e, err
	})
	if err != nil {
		return fmt.Errorf("mailerpg: export: %w", err)
	}
	for _, e := range events {
		if err := emit("mail_event", e.Fields()); err != nil {
			return err
		}
	}
	return nil
}

// erase is one statement: mails and their events go together.
const erase = `
with found as (
    select id from mailer_outbox where account = $1 and account <> '' order by created_at limit $3
), mine as (
    select id, key_hash from mailer_delivery where id = any (array(select id from found)) order by id for update
), mails as (
    update mailer_outbox set ` + emptied + ` where key_hash = any (array(select key_hash from mine)) returning 1
), deliveries as (
    update mailer_delivery
    set domain = null, provider_id = '', at = case when state in (0, 1, 2, 6) then $2 else at end,
        reason = case when state in (0, 1, 2, 6) then 'erased' else reason end,
        state = case when state in (0, 1, 2, 6) then 15 when state < 10 then state + 10 else state end
    where id = any (array(select id from mine))
), events as (
    delete from mailer_event where mail_id = any (array(select id from mine)) and mail_id <> '' returning 1
)
select (select count(*) from mails), (select count(*) from events)`

// Erase implements mailer.Store.
func (s *Store) Erase(ctx context.Context, account string, at time.Time, limit int) (map[string]int64, error) {
	counts := map[string]int64{}
	if account == "" {
		return counts, nil
	}
	var mails, events int64
	if err := s.db.QueryRow(ctx, erase, account, at, limit).Scan(&mails, &events); err != nil {
		return nil, fmt.Errorf("mailerpg: erase: %w", err)
	}
	if mails > 0 {
		counts["mail"] = mails
	}
	if events > 0 {
		counts["mail_event"] = events
	}
	return counts, nil
}

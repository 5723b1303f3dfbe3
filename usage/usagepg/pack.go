package usagepg

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/kolekt/commerce/usage"
)

// Packing takes the events of a month that is long over out of usage_events
// and puts them, as blocks of one account and meter, into usage_packed: both
// in one commit, so that every snapshot has each event once. An event that
// comes later still goes to usage_events, unless a block has it, and is packed
// with the next round.

// packable says when a month may be packed at the earliest, whatever
// PackAfter is; whoever appends looks for earlier copies from a little before.
const (
	packMargin = 24 * time.Hour
	lookMargin = 12 * time.Hour
)

// packBatch is how many events are packed in one transaction.
const packBatch = 20_000

// pack packs what has come to lie in months that are over for long.
func (s *Store) pack(ctx context.Context, now time.Time) error {
	if s.cfg.PackAfter < 0 {
		return nil
	}
	parts, err := s.partitions(ctx, "usage_events")
	if err != nil {
		return err
	}
	for _, p := range parts {
		if p.month.AddDate(0, 1, 0).Add(max(s.cfg.PackAfter, packMargin)).After(now) {
			continue
		}
		var after eventPosition
		for more := true; more; {
			if more, err = s.packSome(ctx, p, &after); err != nil {
				return err
			}
		}
		if err := s.releaseSpace(ctx, p); err != nil {
			return err
		}
	}
	return nil
}

// eventPosition is where in the order of usage_events' key packing has got to.
type eventPosition struct {
	account, meter string
	at             time.Time
	key            int64
}

// The rows that are taken are the ones that the transaction deletes. Those
// that an erasure is at work on are left to it.
const takeEvents = `
with gone as (
	delete from %[1]s where ctid = any (array(
		select ctid from %[1]s where (account, meter, ts, key) > ($1, $2, $3, $4)
		order by account, meter, ts, key limit $5
		for update skip locked
	))
	returning account, meter, ts, key, value, flags, id, props
)
select account, meter, ts, key, value, flags, coalesce(id, ''), coalesce(props::text, '') from gone
order by account, meter, ts, key`

// A block that has room is opened again, so that late events don't make one
// each.
const takeBlocks = `
delete from usage_packed p using unnest($1::text[], $2::text[]) as k (account, meter)
where p.account = k.account and p.meter = k.meter and p.ts >= $3 and p.ts < $4 and p.n <= $5
returning p.account, p.meter, p.ts, p.data`

const insertBlocks = `
insert into usage_packed (account, meter, ts, until, key, n, data)
select * from unnest($1::text[], $2::text[], $3::timestamptz[], $4::timestamptz[], $5::bigint[], $6::int[], $7::bytea[])`

type seriesKey struct{ account, meter string }

// packSome packs the next events of a month. One process packs at a time.
func (s *Store) packSome(ctx context.Context, p monthPartition, after *eventPosition) (more bool, err error) {
	next := *after
	err = pgx.BeginFunc(ctx, s.db, func(tx pgx.Tx) error {
		var mine bool
		if err := tx.QueryRow(ctx, "select pg_try_advisory_xact_lock(hashtext('usage_pack'))").Scan(&mine); err != nil || !mine {
			return err
		}
		// All goes by keys. What the statistics say of a table that is being
		// filled or emptied would mislead the planner.
		if _, err := tx.Exec(ctx, "set local enable_seqscan = off; set local enable_hashjoin = off; set local enable_mergejoin = off"); err != nil {
			return err
		}
		series := map[seriesKey][]packed{}
		var order []seriesKey
		rows, err := tx.Query(ctx, fmt.Sprintf(takeEvents, pgx.Identifier{p.name}.Sanitize()),
			next.account, next.meter, next.at, next.key, packBatch)
		if err != nil {
			return err
		}
		var k seriesKey
		var e packed
		var flags int16
		n := 0
		_, err = pgx.ForEachRow(rows, []any{&k.account, &k.meter, &e.at, &e.key, &e.value, &flags, &e.id, &e.props}, func() error {
			e.at, e.charged = e.at.UTC(), flags&1 == 1
			if _, known := series[k]; !known {
				order = append(order, k)
			}
			series[k] = append(series[k], e)
			next = eventPosition{k.account, k.meter, e.at, e.key}
			n++
			return nil
		})
		if err != nil || n == 0 {
			return err
		}
		more = n == packBatch
		return rewrite(ctx, tx, p.month, order, series)
	})
	if err == nil {
		*after = next
	}
	return more, kindOf(err)
}

// rewrite puts events into blocks, together with those of blocks that have
// room.
func rewrite(ctx context.Context, tx pgx.Tx, month time.Time, order []seriesKey, series map[seriesKey][]packed) error {
	accounts, meters := make([]string, len(order)), make([]string, len(order))
	for i, k := range order {
		accounts[i], meters[i] = k.account, k.meter
	}
	rows, err := tx.Query(ctx, takeBlocks, accounts, meters, month, month.AddDate(0, 1, 0), maxBlock/2)
	if err != nil {
		return err
	}
	var k seriesKey
	var ts time.Time
	var data []byte
	_, err = pgx.ForEachRow(rows, []any{&k.account, &k.meter, &ts, &data}, func() error {
		events, err := decodeBlock(ts, data)
		series[k] = append(series[k], events...)
		return err
	})
	if err != nil {
		return err
	}
	var b blockColumns
	for _, k := range order {
		events := series[k]
		slices.SortFunc(events, func(a, b packed) int { return cmp.Or(a.at.Compare(b.at), cmp.Compare(a.key, b.key)) })
		for part := range blocksOf(events) {
			if err := b.add(k, part); err != nil {
				return err
			}
		}
	}
	_, err = tx.Exec(ctx, insertBlocks, b.accounts, b.meters, b.ts, b.until, b.keys, b.n, b.data)
	return err
}

// blockColumns are the arguments of insertBlocks.
type blockColumns struct {
	encoder          blockEncoder
	accounts, meters []string
	ts, until        []time.Time
	keys             []int64
	n                []int32
	data             [][]byte
}

func (b *blockColumns) add(k seriesKey, events []packed) error {
	data, err := b.encoder.encode(events)
	if err != nil {
		return err
	}
	first, last := events[0], events[len(events)-1]
	b.accounts, b.meters = append(b.accounts, k.account), append(b.meters, k.meter)
	b.ts, b.until = append(b.ts, first.at), append(b.until, last.at)
	b.keys, b.n, b.data = append(b.keys, first.key), append(b.n, int32(len(events))), append(b.data, data)
	return nil
}

// releaseSpace gives the room of a month that is packed back to the system,
// unless somebody is at work there: then the next round does.
func (s *Store) releaseSpace(ctx context.Context, p monthPartition) error {
	table := pgx.Identifier{p.name}.Sanitize()
	var size int64
	if err := s.db.QueryRow(ctx, "select pg_relation_size($1::regclass)", table).Scan(&size); err != nil || size == 0 {
		return kindOf(err)
	}
	err := pgx.BeginFunc(ctx, s.db, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "set local lock_timeout = '1s'; lock table "+table+" in access exclusive mode"); err != nil {
			return err
		}
		var some bool
		if err := tx.QueryRow(ctx, "select exists (select from "+table+")").Scan(&some); err != nil || some {
			return err
		}
		_, err := tx.Exec(ctx, "truncate "+table)
		return err
	})
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == "55P03" {
		return nil
	}
	return kindOf(err)
}

const selectBlocks = `
select p.account, p.meter, p.ts, p.data from usage_packed p
join unnest($1::text[], $2::text[], $3::timestamptz[]) as k (account, meter, at)
	on p.account = k.account and p.meter = k.meter and p.ts <= k.at and p.until >= k.at
		and p.ts >= date_trunc('month', k.at, 'UTC')
where p.ts >= $4 and p.ts <= $5`

// forgetPacked finds out which of the events that were just inserted a block
// has already, deletes them again, and takes them out of stored. It is a
// statement after the insert: had an event's copy been on its way into a block,
// the insert would have waited for that to be committed.
func (s *Store) forgetPacked(w *work, now time.Time, entries []usage.Entry, own []int, stored map[int]bool) error {
	var accounts, meters []string
	var at []time.Time
	byKey := map[seriesKey]map[packedKey]int{}
	for _, i := range own {
		e := entries[i]
		if !stored[i] || monthOf(e.Time).AddDate(0, 1, 0).Add(lookMargin).After(now) {
			continue
		}
		accounts, meters, at = append(accounts, e.Account), append(meters, e.Meter), append(at, e.Time)
		k := seriesKey{e.Account, e.Meter}
		if byKey[k] == nil {
			byKey[k] = map[packedKey]int{}
		}
		byKey[k][packedKey{e.Time.UnixMicro(), shortKey(e.Key)}] = i
	}
	if len(at) == 0 {
		return nil
	}
	first, last := slices.MinFunc(at, time.Time.Compare), slices.MaxFunc(at, time.Time.Compare)
	var copies []int
	b := &pgx.Batch{}
	b.Queue(selectBlocks, accounts, meters, at, monthOf(first), last).Query(func(rows pgx.Rows) error {
		var k seriesKey
		var ts time.Time
		var data []byte
		_, err := pgx.ForEachRow(rows, []any{&k.account, &k.meter, &ts, &data}, func() error {
			events, err := decodeBlock(ts, data)
			if err != nil {
				return err
			}
			for _, e := range events {
				if i, known := byKey[k][packedKey{e.at.UnixMicro(), e.key}]; known && stored[i] {
					delete(stored, i)
					copies = append(copies, i)
				}
			}
			return nil
		})
		return err
	})
	if err := w.send(b); err != nil || len(copies) == 0 {
		return err
	}
	gone := pick(entries, copies)
	args := make([]any, 4)
	columns := eventColumns(gone, charged)
	copy(args, columns)
	b = &pgx.Batch{}
	b.Queue(deleteEvents, args...)
	return w.send(b)
}

type packedKey struct{ at, key int64 }

const deleteEvents = `
delete from usage_events e using unnest($1::text[], $2::text[], $3::timestamptz[], $4::bigint[]) as k (account, meter, ts, key)
where e.account = k.account and e.meter = k.meter and e.ts = k.ts and e.key = k.key`

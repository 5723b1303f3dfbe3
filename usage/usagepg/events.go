package usagepg

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/kolekt/commerce/usage"
)

// eventPage reads the next events, and the blocks in which the next ones may
// be, in one snapshot.
const eventPage = `
(
	select meter, ts, ts, key, value, flags, coalesce(id, ''), props::text, null::bytea from usage_events
	where account = $1 and ($2 = '' or meter = $2) and ts >= $3 and ts < $4 and (ts, key) > ($5, $6)
	order by ts, key limit $7
) union all (
	select meter, ts, until, key, 0, 0, '', null, data from usage_packed
	where account = $1 and ($2 = '' or meter = $2) and ts >= date_trunc('month', greatest($3, $5), 'UTC') and ts < $4
		and until >= greatest($3, $5)
	order by ts limit $8
)`

const newestEvents = `
(
	select meter, ts, ts, key, value, flags, coalesce(id, ''), props::text, null::bytea from usage_events
	where account = $1 and ($2 = '' or meter = $2) and ts >= $3 and ts < $4
	order by ts desc, key desc limit $5
) union all (
	select meter, ts, until, key, 0, 0, '', null, data from usage_packed
	where account = $1 and ($2 = '' or meter = $2) and ts >= date_trunc('month', $3, 'UTC') and ts < $4 and until >= $3
	order by until desc limit $6
)`

// manyBlocks is with how many blocks a page is tried first.
const manyBlocks = 16

// Events implements usage.EventStore.
func (s *Store) Events(ctx context.Context, page usage.EventPage, n int) ([]usage.Entry, error) {
	for blocks := manyBlocks; ; blocks *= 4 {
		p := &pageReader{page: page, after: int64(math.MinInt64)}
		if page.AfterKey != [16]byte{} {
			p.after = shortKey(page.AfterKey)
		}
		sql, args := eventPage, []any{page.Account, page.Meter, page.From, page.To, page.AfterTime, p.after, n, blocks}
		if page.Newest {
			sql, args = newestEvents, []any{page.Account, page.Meter, page.From, page.To, n, blocks}
		}
		rows, err := s.db.Query(ctx, sql, args...)
		if err != nil {
			return nil, kindOf(err)
		}
		if err := p.read(rows, blocks); err != nil {
			return nil, kindOf(err)
		}
		if out, complete := p.take(n); complete {
			return p.entries(out)
		}
	}
}

// pageReader merges events and blocks into one page.
type pageReader struct {
	page   usage.EventPage
	after  int64 // short key of the page's last event
	events []metered
	// cut is where the events of further blocks may begin, if there are any.
	cut   time.Time
	isCut bool
}

type metered struct {
	meter string
	packed
}

func (p *pageReader) read(rows pgx.Rows, limit int) error {
	var e metered
	var until time.Time
	var flags int16
	var props *string
	var data []byte
	blocks := 0
	_, err := pgx.ForEachRow(rows, []any{&e.meter, &e.at, &until, &e.key, &e.value, &flags, &e.id, &props, &data}, func() error {
		if data == nil {
			x := e
			x.at = x.at.UTC()
			if x.props = ""; props != nil {
				x.props = *props
			}
			p.events = append(p.events, x)
			return nil
		}
		if blocks++; blocks == limit {
			p.isCut, p.cut = true, e.at
			if p.page.Newest {
				p.cut = until
			}
		}
		events, err := decodeBlock(e.at, data)
		for _, x := range events {
			if p.wanted(x) {
				p.events = append(p.events, metered{e.meter, x})
			}
		}
		return err
	})
	return err
}

func (p *pageReader) wanted(e packed) bool {
	if e.at.Before(p.page.From) || !e.at.Before(p.page.To) {
		return false
	}
	return p.page.Newest || cmp.Or(e.at.Compare(p.page.AfterTime), cmp.Compare(e.key, p.after)) > 0
}

// take returns the first n events. They aren't complete when blocks that
// weren't read may have earlier ones.
func (p *pageReader) take(n int) (out []metered, complete bool) {
	slices.SortFunc(p.events, func(a, b metered) int {
		c := cmp.Or(a.at.Compare(b.at), cmp.Compare(a.key, b.key))
		if p.page.Newest {
			return -c
		}
		return c
	})
	out = p.events[:min(n, len(p.events))]
	if !p.isCut {
		return out, true
	}
	if len(out) < n {
		return nil, false
	}
	last := out[n-1].at
	if p.page.Newest {
		return out, last.After(p.cut)
	}
	return out, last.Before(p.cut)
}

func (p *pageReader) entries(events []metered) ([]usage.Entry, error) {
	var out []usage.Entry
	for _, x := range events {
		e, err := x.entry(p.page.Account, x.meter)
		if err != nil {
			return nil, err
		}
		out = append(out, e)
	}
	return out, nil
}

// nameless returns a key that nothing is known of but that it is random.
func nameless() (key [16]byte) {
	_, _ = rand.Read(key[:]) // never fails
	return key
}

const takeAccountBlocks = `
delete from usage_packed where (account, meter, ts, key) in (
	select account, meter, ts, key from usage_packed where account = $1 limit 50
)
returning meter, ts, data`

// anonymisePacked makes the account's packed events nameless ones of
// usage_events, with no other properties than those whose names are given.
func anonymisePacked(ctx context.Context, tx pgx.Tx, account string, keep []string) (n int64, err error) {
	for {
		rows, err := tx.Query(ctx, takeAccountBlocks, account)
		if err != nil {
			return n, err
		}
		var entries []usage.Entry
		var meter string
		var ts time.Time
		var data []byte
		blocks := 0
		_, err = pgx.ForEachRow(rows, []any{&meter, &ts, &data}, func() error {
			blocks++
			events, err := decodeBlock(ts, data)
			if err != nil {
				return err
			}
			for _, x := range events {
				e, err := x.entry("", meter)
				if err != nil {
					return err
				}
				e.Properties = slices.DeleteFunc(e.Properties, func(p usage.Property) bool { return !slices.Contains(keep, p.Name) })
				// The old ID and key could be linked to the account.
				e.ID, e.Own, e.Key = "", true, nameless()
				entries = append(entries, e)
			}
			return nil
		})
		if err != nil || blocks == 0 {
			return n, err
		}
		for part := range slices.Chunk(entries, sweepBatch) {
			args := eventColumns(part, charged)
			if _, err := tx.Exec(ctx, insertEvents, args...); err != nil {
				return n, err
			}
		}
		n += int64(len(entries))
	}
}

// unpackForAudit makes a view of all events, also the packed ones, that lives
// as long as the transaction. It returns the name to read them by.
func unpackForAudit(ctx context.Context, tx pgx.Tx) (string, error) {
	var some bool
	if err := tx.QueryRow(ctx, "select exists (select from usage_packed)").Scan(&some); err != nil || !some {
		return "usage_events", err
	}
	_, err := tx.Exec(ctx, `
drop table if exists pg_temp.usage_unpacked cascade;
create temp table usage_unpacked (like usage_events) on commit drop;
create temp view usage_audited as select * from usage_events union all select * from usage_unpacked;
declare usage_blocks cursor for select account, meter, ts, data from usage_packed`)
	if err != nil {
		return "", err
	}
	for {
		rows, err := tx.Query(ctx, "fetch 500 from usage_blocks")
		if err != nil {
			return "", err
		}
		var events [][]any
		var account, meter string
		var ts time.Time
		var data []byte
		_, err = pgx.ForEachRow(rows, []any{&account, &meter, &ts, &data}, func() error {
			list, err := decodeBlock(ts, data)
			for _, e := range list {
				var id, props any
				if e.id != "" {
					id = e.id
				}
				if e.props != "" {
					props = json.RawMessage(e.props)
				}
				events = append(events, []any{e.at, e.value, e.key, int16(flag(e.charged)), account, meter, id, props})
			}
			return err
		})
		if err != nil {
			return "", err
		}
		if len(events) == 0 {
			break
		}
		if _, err := tx.CopyFrom(ctx, pgx.Identifier{"usage_unpacked"},
			[]string{"ts", "value", "key", "flags", "account", "meter", "id", "props"}, pgx.CopyFromRows(events)); err != nil {
			return "", fmt.Errorf("usagepg: audit: %w", err)
		}
	}
	_, err = tx.Exec(ctx, "close usage_blocks; create index on usage_unpacked (account, meter, ts); analyze usage_unpacked")
	return "usage_audited", err
}

package usagepg

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/kolekt/commerce/usage"
)

// eventKey is what an event is known by. Own keys belong to a time, the
// caller's don't; they can't be equal.
type eventKey struct {
	account string
	key     [16]byte
}

func keyOfEntry(e usage.Entry) eventKey { return eventKey{e.Account, e.Key} }

// Append implements usage.EventStore. On a pool, calls that come at the same
// time share a transaction.
func (s *Store) Append(ctx context.Context, now time.Time, entries []usage.Entry) ([]usage.AppendOutcome, error) {
	if len(entries) == 0 {
		return nil, nil
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if s.pool == nil {
		return s.appendAll(ctx, now, entries)
	}
	return s.gather(ctx, now, entries)
}

// maxBatch bounds the events of one transaction's statements.
const maxBatch = 5000

// parts splits events, so that no batch has more than maxBatch, or sums beyond
// an int64.
func parts(entries []usage.Entry) (out [][]usage.Entry) {
	start := 0
	var sum uint64
	for i := range entries {
		var largest uint64
		for _, f := range entries[i].Figures {
			largest = max(largest, uint64(max(f.Value, -f.Value)))
		}
		if i-start == maxBatch || sum+largest > math.MaxInt64 {
			out = append(out, entries[start:i])
			start, sum = i, 0
		}
		sum += largest
	}
	return append(out, entries[start:])
}

// appendAll stores all events or none.
func (s *Store) appendAll(ctx context.Context, now time.Time, entries []usage.Entry) ([]usage.AppendOutcome, error) {
	split := parts(entries)
	if len(split) == 1 {
		out := make([]usage.AppendOutcome, len(entries))
		err := s.inMonths(ctx, entries, func() error {
			return s.tx(ctx, func(w *work) error { return s.append(w, now, entries, out) })
		})
		if err != nil {
			return nil, err
		}
		return out, nil
	}
	// The parts share a transaction.
	tx, err := s.db.Begin(ctx)
	if err != nil {
		return nil, kindOf(err)
	}
	defer tx.Rollback(context.WithoutCancel(ctx))
	within := NewWith(tx, s.cfg)
	out := make([]usage.AppendOutcome, 0, len(entries))
	for _, part := range split {
		got, err := within.appendAll(ctx, now, part)
		if err != nil {
			return nil, err
		}
		out = append(out, got...)
	}
	if err := tx.Commit(ctx); err != nil {
		return nil, kindOf(&unknownOutcomeError{err})
	}
	return out, nil
}

// append is one try. It claims keys and stores events, which nobody else waits
// for, and only then writes what others may want to write too: counters, days
// and the platform's rows, in the order that all transactions of this store
// keep.
func (s *Store) append(w *work, now time.Time, entries []usage.Entry, out []usage.AppendOutcome) error {
	own, keyed := distinct(entries, out)
	conn, pooled := w.db.(*pgxpool.Conn)
	if !pooled || s.duplicates.Load() > 0 || mayBePacked(entries, now) {
		return s.appendSome(w, now, entries, own, keyed, out)
	}
	// Without a duplicate, which is the rule, nothing has to be asked for.
	err := s.appendNew(w, conn.Conn().PgConn(), now, entries, own, keyed, out)
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == pgerrDuplicate {
		// Some of them were there: the next try asks which.
		s.duplicates.Store(duplicateMemory)
	}
	return err
}

const pgerrDuplicate = "23505"

// distinct returns the events that stand for their keys, in the order of the
// events' primary key and of the keys'. The first of a key in a call stands for
// it; the others get their outcome here.
func distinct(entries []usage.Entry, out []usage.AppendOutcome) (own, keyed []int) {
	for i := range entries {
		out[i] = usage.Duplicate
		if entries[i].Own {
			own = append(own, i)
		} else {
			keyed = append(keyed, i)
		}
	}
	sortEvents(entries, own)
	slices.SortFunc(keyed, func(a, b int) int {
		if c := compareKeys(&entries[a], entries[b].Account, entries[b].Key); c != 0 {
			return c
		}
		return cmp.Compare(a, b)
	})
	own = slices.CompactFunc(own, func(a, b int) bool { return compareEvents(&entries[a], &entries[b]) == 0 })
	first := -1
	keyed = slices.DeleteFunc(keyed, func(i int) bool {
		if first < 0 || compareKeys(&entries[first], entries[i].Account, entries[i].Key) != 0 {
			first = i
			return false
		}
		if entries[first].Hash != entries[i].Hash {
			out[i] = usage.Reused
		}
		return true
	})
	return own, keyed
}

// sortEvents sorts indexes of events in the order of the events' primary key,
// and of the indexes. Most comparisons are decided by how the accounts go on
// behind what all have in common.
func sortEvents(entries []usage.Entry, index []int) {
	if len(index) < 2 {
		return
	}
	common := entries[index[0]].Account
	for _, i := range index {
		account, n := entries[i].Account, 0
		for n < len(common) && n < len(account) && common[n] == account[n] {
			n++
		}
		common = common[:n]
	}
	type keyed struct {
		head  uint64
		index int
	}
	list := make([]keyed, len(index))
	for n, i := range index {
		var head [8]byte
		copy(head[:], entries[i].Account[len(common):])
		list[n] = keyed{binary.BigEndian.Uint64(head[:]), i}
	}
	slices.SortFunc(list, func(a, b keyed) int {
		if a.head != b.head {
			return cmp.Compare(a.head, b.head)
		}
		if c := compareEvents(&entries[a.index], &entries[b.index]); c != 0 {
			return c
		}
		return cmp.Compare(a.index, b.index)
	})
	for n := range list {
		index[n] = list[n].index
	}
}

func compareEvents(a, b *usage.Entry) int {
	if a.Account != b.Account {
		return cmp.Compare(a.Account, b.Account)
	}
	if a.Meter != b.Meter {
		return cmp.Compare(a.Meter, b.Meter)
	}
	if c := a.Time.Compare(b.Time); c != 0 {
		return c
	}
	return cmp.Compare(shortKey(a.Key), shortKey(b.Key))
}

func compareKeys(e *usage.Entry, account string, key [16]byte) int {
	if e.Account != account {
		return cmp.Compare(e.Account, account)
	}
	return bytes.Compare(e.Key[:], key[:])
}

// mayBePacked reports whether an event may be in a block already.
func mayBePacked(entries []usage.Entry, now time.Time) bool {
	oldest := entries[0].Time
	for i := range entries {
		if entries[i].Time.Before(oldest) {
			oldest = entries[i].Time
		}
	}
	return !monthOf(oldest).AddDate(0, 1, 0).Add(lookMargin).After(now)
}

// appendNew stores events that are believed to be new. A key that is there
// already ends the transaction with a unique violation.
func (s *Store) appendNew(w *work, conn *pgconn.PgConn, now time.Time, entries []usage.Entry, own, keyed []int, out []usage.AppendOutcome) error {
	b := &pgx.Batch{}
	if len(keyed) > 0 {
		b.Queue(insertKeys, keyColumns(pick(entries, keyed), now)...)
	}
	all := slices.Concat(own, keyed)
	if len(all) >= copyFrom {
		if err := w.copyEvents(w.ctx, conn, entries, all); err != nil {
			return err
		}
	} else {
		args := eventColumns(pick(entries, all), charged)
		b.Queue(insertEvents, args...)
	}
	return s.book(w, b, now, entries, all, out)
}

// book adds new events to everything that is derived from them, and commits.
func (s *Store) book(w *work, b *pgx.Batch, now time.Time, entries []usage.Entry, stored []int, out []usage.AppendOutcome) error {
	rolled := newRollups(len(stored))
	charges := charging{}
	for _, i := range stored {
		out[i] = usage.Stored
		rolled.add(&entries[i])
		charges.add(&entries[i])
	}
	var notices []usage.Notice
	charges.queue(b, now, &notices)
	rolled.queue(b)
	if len(charges.charges) == 0 {
		return w.commit(b) // no threshold can have been crossed
	}
	if err := w.send(b); err != nil {
		return err
	}
	b = &pgx.Batch{}
	if err := charges.settle(w, b, now, &notices); err != nil {
		return err
	}
	queueNotices(b, notices)
	return w.commit(b)
}

// appendSome stores events some of which may be there already.
func (s *Store) appendSome(w *work, now time.Time, entries []usage.Entry, own, keyed []int, out []usage.AppendOutcome) error {
	b := &pgx.Batch{}
	stored := map[int]bool{}
	if len(own) > 0 {
		args := eventColumns(pick(entries, own), charged)
		b.Queue(insertEvents+" on conflict do nothing returning account, meter, ts, key", args...).Query(func(rows pgx.Rows) error {
			for rows.Next() {
				var x usage.Entry
				var short int64
				if err := rows.Scan(&x.Account, &x.Meter, &x.Time, &short); err != nil {
					return err
				}
				binary.BigEndian.PutUint64(x.Key[8:], uint64(short))
				at, found := slices.BinarySearchFunc(own, &x, func(i int, x *usage.Entry) int { return compareEvents(&entries[i], x) })
				if !found {
					return fmt.Errorf("usagepg: an event of %s was stored that wasn't sent", x.Meter)
				}
				stored[own[at]] = true
			}
			return rows.Err()
		})
	}
	if len(keyed) > 0 {
		b.Queue(insertKeys+" on conflict do nothing returning account, key", keyColumns(pick(entries, keyed), now)...).Query(func(rows pgx.Rows) error {
			for rows.Next() {
				var account string
				var key [16]byte
				if err := rows.Scan(&account, &key); err != nil {
					return err
				}
				at, found := slices.BinarySearchFunc(keyed, key, func(i int, key [16]byte) int { return compareKeys(&entries[i], account, key) })
				if !found {
					return fmt.Errorf("usagepg: a key was stored that wasn't sent")
				}
				stored[keyed[at]] = true
			}
			return rows.Err()
		})
	}
	if err := w.send(b); err != nil {
		return err
	}
	if len(stored) == len(own)+len(keyed) && s.duplicates.Load() > 0 {
		s.duplicates.Add(-1)
	}
	if err := s.forgetPacked(w, now, entries, own, stored); err != nil {
		return err
	}
	if err := s.compareHashes(w, entries, keyed, stored, out); err != nil {
		return err
	}
	if len(stored) == 0 {
		return nil // rolled back: nothing is new
	}
	fresh := make([]int, 0, len(stored)) // of all that is new, the caller's keys first
	for _, i := range keyed {
		if stored[i] {
			fresh = append(fresh, i)
		}
	}
	b = &pgx.Batch{}
	if len(fresh) > 0 {
		args := eventColumns(pick(entries, fresh), charged)
		b.Queue(insertEvents, args...)
	}
	for _, i := range own {
		if stored[i] {
			fresh = append(fresh, i)
		}
	}
	return s.book(w, b, now, entries, fresh, out)
}

// duplicateMemory is for how many batches after a duplicate the server is asked
// for the keys that it took.
const duplicateMemory = 64

func charged(e usage.Entry) bool { return !e.Charge.Period.IsZero() }

func pick(entries []usage.Entry, index []int) []usage.Entry {
	out := make([]usage.Entry, len(index))
	for i, j := range index {
		out[i] = entries[j]
	}
	return out
}

// compareHashes tells duplicates from reused keys.
func (s *Store) compareHashes(w *work, entries []usage.Entry, keyed []int, stored map[int]bool, out []usage.AppendOutcome) error {
	var accounts []string
	var keys uuids
	byKey := map[eventKey]int{}
	for _, i := range keyed {
		if !stored[i] {
			accounts, keys = append(accounts, entries[i].Account), append(keys, uuid(entries[i].Key))
			byKey[keyOfEntry(entries[i])] = i
		}
	}
	if len(keys) == 0 {
		return nil
	}
	b := &pgx.Batch{}
	seen := 0
	b.Queue(selectKeys, accounts, keys).Query(func(rows pgx.Rows) error {
		for rows.Next() {
			var k eventKey
			var hash int64
			if err := rows.Scan(&k.account, &k.key, &hash); err != nil {
				return err
			}
			seen++
			if i := byKey[k]; entries[i].Hash != hash {
				out[i] = usage.Reused
			}
		}
		return rows.Err()
	})
	if err := w.send(b); err != nil {
		return err
	}
	if seen != len(keys) {
		return fmt.Errorf("%w: a key was forgotten in the meantime", errRaced)
	}
	return nil
}

const selectKeys = `
select account, key, hash from usage_keys
join unnest($1::text[], $2::uuid[]) as k (account, key) using (account, key)`

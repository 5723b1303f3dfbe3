package usagepg

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/kolekt/commerce/usage"
)

// eventKey is what an event is known by. Own keys belong to a time, the
// caller's don't; they can't be equal.
type eventKey struct {
	account string
	key     [16]byte
}

func keyOfEntry(e usage.Entry) eventKey { return eventKey{e.Account, e.Key} }

// Append implements usage.EventStore. Large calls are split into transactions
// of maxBatch events.
func (s *Store) Append(ctx context.Context, now time.Time, entries []usage.Entry) ([]usage.AppendOutcome, error) {
	out := make([]usage.AppendOutcome, 0, len(entries))
	if len(entries) > maxBatch {
		// All or nothing is promised for a call: the parts share a transaction.
		tx, err := s.db.Begin(ctx)
		if err != nil {
			return nil, kindOf(err)
		}
		defer tx.Rollback(context.WithoutCancel(ctx))
		part := NewWith(tx, s.cfg)
		for chunk := range slices.Chunk(entries, maxBatch) {
			got, err := part.Append(ctx, now, chunk)
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
	out = out[:len(entries)]
	err := s.inMonths(ctx, entries, func() error {
		return s.tx(ctx, func(w *work) error { return s.append(w, now, entries, out) })
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// maxBatch bounds the events of one transaction and with it the sums of one
// fold: 1000 times 2^53 fits into an int64.
const maxBatch = 1000

// append is one try. It claims keys and stores events, which nobody else waits
// for, and only then writes what others may want to write too: counters, days
// and the platform's rows, in the order that all transactions of this store
// keep.
func (s *Store) append(w *work, now time.Time, entries []usage.Entry, out []usage.AppendOutcome) error {
	// Which event of the batch stands for each key: the first.
	first := make(map[eventKey]int, len(entries))
	var own, keyed []int
	for i, e := range entries {
		out[i] = usage.Duplicate
		k := keyOfEntry(e)
		if j, dup := first[k]; dup {
			if entries[j].Hash != e.Hash {
				out[i] = usage.Reused
			}
			continue
		}
		first[k] = i
		if e.Own {
			own = append(own, i)
		} else {
			keyed = append(keyed, i)
		}
	}
	order := func(a, b int) int {
		x, y := entries[a], entries[b]
		return cmp.Or(cmp.Compare(x.Account, y.Account), slices.Compare(x.Key[:], y.Key[:]))
	}
	slices.SortFunc(own, order)
	slices.SortFunc(keyed, order)

	b := &pgx.Batch{}
	stored := map[int]bool{}
	claimed := func(rows pgx.Rows) error {
		for rows.Next() {
			var k eventKey
			if err := rows.Scan(&k.account, &k.key); err != nil {
				return err
			}
			stored[first[k]] = true
		}
		return rows.Err()
	}
	// Without a conflict, which is the rule, only the number comes back.
	all := func(want []int) func(pgconn.CommandTag) error {
		return func(tag pgconn.CommandTag) error {
			if int(tag.RowsAffected()) == len(want) {
				for _, i := range want {
					stored[i] = true
				}
			}
			return nil
		}
	}
	if len(own) > 0 {
		args, err := eventColumns(pick(entries, own), charged)
		if err != nil {
			return err
		}
		if s.duplicates.Load() > 0 {
			b.Queue(insertEvents+" on conflict do nothing returning account, ts, key", args...).Query(func(rows pgx.Rows) error {
				for rows.Next() {
					var account string
					var at time.Time
					var short int64
					if err := rows.Scan(&account, &at, &short); err != nil {
						return err
					}
					stored[first[eventKey{account, usage.KeyAt(at, uint64(short))}]] = true
				}
				return rows.Err()
			})
		} else {
			b.Queue(insertEvents+" on conflict do nothing", args...).Exec(all(own))
		}
	}
	if len(keyed) > 0 {
		b.Queue(insertKeys+" on conflict do nothing returning account, key", keyColumns(pick(entries, keyed), now)...).Query(claimed)
	}
	if err := w.send(b); err != nil {
		return err
	}
	missing := 0
	for _, i := range own {
		if !stored[i] {
			missing++
		}
	}
	if missing > 0 && s.duplicates.Load() == 0 {
		// Some of them were there: the next try asks which.
		s.duplicates.Store(duplicateMemory)
		return errRaced
	}
	if missing == 0 && s.duplicates.Load() > 0 {
		s.duplicates.Add(-1)
	}
	if err := s.forgetPacked(w, now, entries, own, stored); err != nil {
		return err
	}

	b = &pgx.Batch{}
	var fresh []int // the caller's keys that are new
	for _, i := range keyed {
		if stored[i] {
			fresh = append(fresh, i)
		}
	}
	if err := s.compareHashes(w, entries, keyed, stored, out); err != nil {
		return err
	}
	if len(fresh) > 0 {
		args, err := eventColumns(pick(entries, fresh), charged)
		if err != nil {
			return err
		}
		b.Queue(insertEvents, args...)
	}
	if len(stored) == 0 {
		return nil // rolled back: nothing is new
	}
	var rolled rollups
	charges := charging{}
	for i, e := range entries {
		if stored[i] {
			out[i] = usage.Stored
			rolled.add(e)
			charges.add(e)
		}
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

// duplicateMemory is for how many batches after a duplicate of an own key the
// server is asked for the keys that it took.
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
	var keys [][16]byte
	byKey := map[eventKey]int{}
	for _, i := range keyed {
		if !stored[i] {
			accounts, keys = append(accounts, entries[i].Account), append(keys, entries[i].Key)
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

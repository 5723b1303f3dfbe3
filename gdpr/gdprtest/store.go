// Package gdprtest is the contract of package gdpr's stores and sources as
// tests: run TestStore on a store of your own and TestSource on every source.
package gdprtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/kolekt/commerce/gdpr"
)

var start = time.Date(2026, 3, 2, 9, 0, 0, 123456000, time.UTC)

func request(id, subject string, kind gdpr.Kind) gdpr.Request {
	return gdpr.Request{
		ID: id, Kind: kind, SubjectRef: subject, State: gdpr.Verified, ReceivedAt: start, DueAt: start.AddDate(0, 1, 0),
		Sealed: []byte{0, 1, 2}, NextRun: start,
	}
}

// TestStore checks that a store keeps the contract of gdpr.Store. NewStore
// returns an empty store for each subtest.
func TestStore(t *testing.T, newStore func(t *testing.T) gdpr.Store) {
	ctx := context.Background()
	must := func(t *testing.T, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("unexpected error: %v", err)
		}
	}
	is := func(t *testing.T, err, want error) {
		t.Helper()
		if !errors.Is(err, want) {
			t.Fatalf("error: got %v, want %v", err, want)
		}
	}
	same := func(t *testing.T, what string, got, want any) {
		t.Helper()
		if g, w := fmt.Sprintf("%+v", got), fmt.Sprintf("%+v", want); g != w {
			t.Fatalf("%s:\n got %s\nwant %s", what, g, w)
		}
	}

	t.Run("RequestComesBackAsItWasStored", func(t *testing.T) {
		s := newStore(t)
		r := request("r1", "ref", gdpr.Erasure)
		r.State, r.StartAt, r.FrozenAt, r.Note, r.RemindedAt = gdpr.Cooling, start.Add(72*time.Hour), start, "note", start.Add(time.Minute)
		must(t, s.CreateRequest(ctx, r))
		r.Version = 1
		got, err := s.Request(ctx, "r1")
		must(t, err)
		same(t, "created", got, r)

		r.State, r.HeldFrom, r.ClosedAt, r.ExtendedAt = gdpr.Running, gdpr.Cooling, start.Add(1), start.Add(time.Second)
		r.ClosedAt = r.ClosedAt.Truncate(time.Microsecond)
		r.DueAt, r.NextRun, r.LeaseUntil = start.AddDate(0, 3, 0), start.Add(time.Minute), start.Add(time.Hour)
		r.Steps = []gdpr.Step{{Source: "a", Removed: 3, Retained: []gdpr.Retained{{Record: "invoices", Count: 2, Ground: "tax", Until: start, Ref: "erased_1", At: start, RemovedAt: start.Add(time.Hour)}}, NotUntil: start}}
		r.Certificate = []byte(`{"certificate":{"z":1,"a":[ ]},"ed25519":"x"}`)
		r.Archive = gdpr.Archive{File: "f", Size: 9, SHA256: "00", ExpiresAt: start}
		r.Sealed = nil
		must(t, s.UpdateRequest(ctx, r, nil))
		r.Version = 2
		got, err = s.Request(ctx, "r1")
		must(t, err)
		if !bytes.Equal(bytes.ReplaceAll(got.Certificate, []byte(" "), nil), bytes.ReplaceAll(r.Certificate, []byte(" "), nil)) {
			t.Fatalf("certificate: its keys changed order, which breaks the signature: %s", got.Certificate)
		}
		got.Certificate, r.Certificate = nil, nil
		if len(got.Sealed) == 0 {
			got.Sealed = nil
		}
		same(t, "updated", got, r)
		_, err = s.Request(ctx, "none")
		is(t, err, gdpr.ErrNotFound)
	})

	t.Run("OneOpenRequestOfAKindForASubject", func(t *testing.T) {
		s := newStore(t)
		var wg sync.WaitGroup
		errs := make([]error, 16)
		for i := range errs {
			wg.Go(func() { errs[i] = s.CreateRequest(ctx, request(fmt.Sprintf("r%d", i), "ref", gdpr.Erasure)) })
		}
		wg.Wait()
		created := 0
		for _, err := range errs {
			if err == nil {
				created++
			} else {
				is(t, err, gdpr.ErrActive)
			}
		}
		same(t, "created", created, 1)
		must(t, s.CreateRequest(ctx, request("other-kind", "ref", gdpr.Access)))
		must(t, s.CreateRequest(ctx, request("other-subject", "ref2", gdpr.Erasure)))

		open, err := s.Requests(ctx, gdpr.Filter{SubjectRef: "ref", Kind: gdpr.Erasure, Open: true})
		must(t, err)
		open[0].State = gdpr.Done
		must(t, s.UpdateRequest(ctx, open[0], nil))
		must(t, s.CreateRequest(ctx, request("again", "ref", gdpr.Erasure)))
	})

	t.Run("RequestsAreFilteredNewestFirst", func(t *testing.T) {
		s := newStore(t)
		for i, kind := range []gdpr.Kind{gdpr.Access, gdpr.Erasure, gdpr.Objection} {
			r := request(fmt.Sprintf("r%d", i), "ref", kind)
			r.ReceivedAt, r.DueAt = start.AddDate(0, 0, i), start.AddDate(0, 1, i)
			must(t, s.CreateRequest(ctx, r))
		}
		ids := func(f gdpr.Filter) []string {
			list, err := s.Requests(ctx, f)
			must(t, err)
			out := []string{}
			for _, r := range list {
				out = append(out, r.ID)
			}
			return out
		}
		same(t, "all", ids(gdpr.Filter{}), []string{"r2", "r1", "r0"})
		same(t, "limit", ids(gdpr.Filter{Limit: 1}), []string{"r2"})
		same(t, "kind", ids(gdpr.Filter{Kind: gdpr.Erasure}), []string{"r1"})
		same(t, "due before", ids(gdpr.Filter{DueBefore: start.AddDate(0, 1, 1)}), []string{"r0"})
		same(t, "subject", ids(gdpr.Filter{SubjectRef: "nobody"}), []string{})
	})

	t.Run("UpdateIsOptimisticAndAtomic", func(t *testing.T) {
		s := newStore(t)
		must(t, s.CreateRequest(ctx, request("r", "ref", gdpr.Erasure)))
		r, err := s.Request(ctx, "r")
		must(t, err)
		var wg sync.WaitGroup
		errs := make([]error, 16)
		for i := range errs {
			wg.Go(func() {
				r := r
				r.Note = fmt.Sprint(i)
				stone := gdpr.Tombstone{Hash: fmt.Sprintf("h%d", i), Loose: "l", ErasedAt: start, ExpiresAt: start}
				errs[i] = s.UpdateRequest(ctx, r, []gdpr.Tombstone{stone}, gdpr.Entry{At: start, Request: "r", Action: "note"})
			})
		}
		wg.Wait()
		won := slices.Index(errs, nil)
		for i, err := range errs {
			if i != won {
				is(t, err, gdpr.ErrConflict)
			}
		}
		got, err := s.Request(ctx, "r")
		must(t, err)
		same(t, "note", got.Note, fmt.Sprint(won))
		same(t, "version", got.Version, 2)
		n, err := s.CountTombstones(ctx)
		must(t, err)
		same(t, "tombstones of losers are not stored; count", n, 1)
		entries := 0
		for _, err := range s.Audit(ctx, 0) {
			must(t, err)
			entries++
		}
		same(t, "audit entries of losers are not stored; count", entries, 1)
		is(t, s.UpdateRequest(ctx, request("none", "x", gdpr.Access), nil), gdpr.ErrNotFound)
	})

	t.Run("ClaimGivesEachDueRequestToOneCaller", func(t *testing.T) {
		s := newStore(t)
		for i := range 20 {
			must(t, s.CreateRequest(ctx, request(fmt.Sprintf("r%02d", i), fmt.Sprint(i), gdpr.Access)))
		}
		later, never := request("later", "later", gdpr.Access), request("never", "never", gdpr.Access)
		later.NextRun, never.NextRun = start.Add(time.Hour), time.Time{}
		// Closed, with something to do: data that was retained until now.
		done := request("done", "done", gdpr.Erasure)
		done.State = gdpr.Done
		for _, r := range []gdpr.Request{later, never, done} {
			must(t, s.CreateRequest(ctx, r))
		}
		var mu sync.Mutex
		seen := map[string]int{}
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for {
					claimed, err := s.Claim(ctx, start, time.Minute, 3)
					if err != nil {
						t.Error(err)
						return
					}
					if len(claimed) == 0 {
						return
					}
					mu.Lock()
					for _, r := range claimed {
						seen[r.ID]++
						if !r.LeaseUntil.Equal(start.Add(time.Minute)) || r.Version != 2 {
							t.Errorf("claimed %s: lease %v, version %d", r.ID, r.LeaseUntil, r.Version)
						}
					}
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		same(t, "claimed", len(seen), 21)
		for id, n := range seen {
			same(t, id, n, 1)
		}
		again, err := s.Claim(ctx, start.Add(time.Minute), time.Minute, 100)
		must(t, err)
		same(t, "after the lease", len(again), 21)
	})

	t.Run("TombstonesStayAsTheyWereAndExpire", func(t *testing.T) {
		s := newStore(t)
		a := gdpr.Tombstone{Hash: "a", Loose: "la", Request: "r1", ErasedAt: start, ExpiresAt: start.Add(time.Hour)}
		b := gdpr.Tombstone{Hash: "b", Loose: "lb", Request: "r1", ErasedAt: start, ExpiresAt: start.Add(2 * time.Hour)}
		must(t, s.PutTombstones(ctx, []gdpr.Tombstone{b, a}))
		later := a
		later.Request, later.ErasedAt = "r2", start.Add(time.Minute)
		must(t, s.PutTombstones(ctx, []gdpr.Tombstone{later}))
		must(t, s.PutTombstones(ctx, nil))
		found, err := s.Tombstoned(ctx, []string{"a", "x"})
		must(t, err)
		same(t, "by hash", found, []gdpr.Tombstone{a})
		found, err = s.Tombstoned(ctx, []string{"lb"})
		must(t, err)
		same(t, "by loose hash", found, []gdpr.Tombstone{b})
		n, err := s.ExpireTombstones(ctx, start.Add(90*time.Minute))
		must(t, err)
		same(t, "expired", n, 1)
		found, err = s.Tombstoned(ctx, []string{"a", "b"})
		must(t, err)
		same(t, "left", found, []gdpr.Tombstone{b})
	})

	t.Run("ConsentIsAHistory", func(t *testing.T) {
		s := newStore(t)
		for i, granted := range []bool{true, false, true} {
			c := gdpr.ConsentEvent{ID: fmt.Sprint("c", i), SubjectRef: "ref", Purpose: "p", Version: 1, TextHash: "h", Granted: granted, At: start.Add(time.Duration(i) * time.Second), Method: "form", Locale: "de"}
			must(t, s.AppendConsent(ctx, c))
			must(t, s.AppendConsent(ctx, c))
		}
		must(t, s.AppendConsent(ctx, gdpr.ConsentEvent{ID: "x", SubjectRef: "other", Purpose: "p", At: start}))
		list, err := s.Consents(ctx, "ref")
		must(t, err)
		same(t, "length", len(list), 3)
		same(t, "second", list[1], gdpr.ConsentEvent{ID: "c1", SubjectRef: "ref", Purpose: "p", Version: 1, TextHash: "h", At: start.Add(time.Second), Method: "form", Locale: "de"})
		n, err := s.DeleteConsents(ctx, "ref")
		must(t, err)
		same(t, "deleted", n, 3)
		list, err = s.Consents(ctx, "other")
		must(t, err)
		same(t, "others", len(list), 1)
	})

	t.Run("ADestroyedKeyNeverComesBack", func(t *testing.T) {
		s := newStore(t)
		_, err := s.Key(ctx, "ref")
		is(t, err, gdpr.ErrNotFound)
		first, err := s.PutKey(ctx, "ref", []byte("one"))
		must(t, err)
		second, err := s.PutKey(ctx, "ref", []byte("two"))
		must(t, err)
		same(t, "the first key stays", string(second), string(first))
		must(t, s.DestroyKey(ctx, "ref", start))
		must(t, s.DestroyKey(ctx, "ref", start))
		must(t, s.DestroyKey(ctx, "unknown", start))
		_, err = s.Key(ctx, "ref")
		is(t, err, gdpr.ErrShredded)
		_, err = s.PutKey(ctx, "ref", []byte("three"))
		is(t, err, gdpr.ErrShredded)
	})

	t.Run("AuditIsAGaplessChain", func(t *testing.T) {
		s := newStore(t)
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				for j := range 5 {
					if err := s.AppendAudit(ctx, gdpr.Entry{At: start, Action: "a", Detail: fmt.Sprint(i, j)}, gdpr.Entry{At: start, Action: "b"}); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		var seq int64
		previous := ""
		for e, err := range s.Audit(ctx, 0) {
			must(t, err)
			seq++
			same(t, "sequence", e.Seq, seq)
			same(t, "hash", e.Hash, gdpr.ChainHash(previous, e))
			previous = e.Hash
		}
		same(t, "length", seq, 80)
		n := 0
		for e, err := range s.Audit(ctx, 79) {
			must(t, err)
			n++
			if e.Seq == 79 {
				break // leaving early is allowed
			}
		}
		same(t, "from 79, left early", n, 1)
	})

	t.Run("ACancelledContextIsAnError", func(t *testing.T) {
		s := newStore(t)
		done, cancel := context.WithCancel(ctx)
		cancel()
		for name, call := range map[string]func() error{
			"CreateRequest":    func() error { return s.CreateRequest(done, request("r", "ref", gdpr.Access)) },
			"Request":          func() error { _, err := s.Request(done, "r"); return err },
			"Requests":         func() error { _, err := s.Requests(done, gdpr.Filter{}); return err },
			"UpdateRequest":    func() error { return s.UpdateRequest(done, request("r", "ref", gdpr.Access), nil) },
			"Claim":            func() error { _, err := s.Claim(done, start, time.Minute, 1); return err },
			"Tombstoned":       func() error { _, err := s.Tombstoned(done, []string{"h"}); return err },
			"PutTombstones":    func() error { return s.PutTombstones(done, []gdpr.Tombstone{{Hash: "h"}}) },
			"CountTombstones":  func() error { _, err := s.CountTombstones(done); return err },
			"ExpireTombstones": func() error { _, err := s.ExpireTombstones(done, start); return err },
			"AppendConsent":    func() error { return s.AppendConsent(done, gdpr.ConsentEvent{ID: "c", SubjectRef: "ref", At: start}) },
			"Consents":         func() error { _, err := s.Consents(done, "ref"); return err },
			"DeleteConsents":   func() error { _, err := s.DeleteConsents(done, "ref"); return err },
			"PutKey":           func() error { _, err := s.PutKey(done, "ref", []byte("k")); return err },
			"Key":              func() error { _, err := s.Key(done, "ref"); return err },
			"DestroyKey":       func() error { return s.DestroyKey(done, "ref", start) },
			"AppendAudit":      func() error { return s.AppendAudit(done, gdpr.Entry{At: start, Action: "a"}) },
		} {
			if err := call(); !errors.Is(err, context.Canceled) {
				t.Errorf("%s under a cancelled context: got %v, want %v", name, err, context.Canceled)
			}
		}
		must(t, s.AppendAudit(ctx, gdpr.Entry{At: start, Action: "a"}))
		for _, err := range s.Audit(done, 0) {
			is(t, err, context.Canceled)
		}
		n, err := s.CountTombstones(ctx)
		must(t, err)
		same(t, "nothing was written; tombstones", n, 0)
	})
}

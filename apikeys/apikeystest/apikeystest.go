// Package apikeystest is the contract of apikeys.Store as tests: whoever
// writes a store runs TestStore on it.
package apikeystest

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/apikeys"
	"github.com/kolekt/commerce/internal/ident"
)

// TestStore runs the suite. newStore returns an empty store, and cleans it up
// when the test ends.
func TestStore(t *testing.T, newStore func(t testing.TB) apikeys.Store) {
	for _, tc := range []struct {
		name string
		test func(*testing.T, apikeys.Store)
	}{
		{"RecordComesBackAsItWasPut", recordComesBack},
		{"UnknownHashIsNotFound", unknownHash},
		{"FindTriesEveryHash", findTriesEveryHash},
		{"FailedDecisionWritesNothing", failedDecision},
		{"DuplicateHashWritesNothing", duplicateHash},
		{"SelectionNamesRecordsInOrder", selectionOrder},
		{"SelectionOfOwnerLeavesRevokedOut", selectionOfOwner},
		{"ChangesFollowOneAnother", changesFollow},
		{"ChangesOfOneOwnerSeeEachOther", changesOfOwner},
		{"OneSuccessorOfManyRotations", oneSuccessor},
		{"DeletedKeyIsGone", deleted},
		{"RevokeBeforeConcernsOlderKeysOnly", revokeBefore},
		{"RevokeBeforeOnlyMovesForward", revokeBeforeForward},
		{"RehashNeedsTheOldHash", rehash},
		{"LastUseNeverGoesBack", lastUse},
		{"PutKeepsTheLastUse", putKeepsUse},
		{"ListPagesNewestFirst", listPages},
		{"ListSelects", listSelects},
		{"LogHasNoGapsAndItsChainHolds", logChain},
		{"LogSelects", logSelects},
		{"LogReaderMissesNothing", logReader},
		{"ForgetKeepsTheChain", forget},
		{"PeppersAreCountedOnLiveKeys", peppers},
		{"EndedContextChangesNothing", endedContext},
	} {
		t.Run(tc.name, func(t *testing.T) { tc.test(t, newStore(t)) })
	}
}

// start is the clock of the suite: instants of whole microseconds.
var start = time.Date(2026, 1, 31, 23, 59, 59, 123456000, time.UTC)

var errRefused = errors.New("refused")

// NewRecord returns a record with random ID and hash, made at the instant.
func NewRecord(owner apikeys.Owner, at time.Time) apikeys.Record {
	id := ident.New("key", at)
	r := apikeys.Record{Key: apikeys.Key{
		ID: id, Lineage: id, Owner: owner, Name: "name", Environment: "live", Hint: "acme_live_abcd…wxyz",
		CreatedAt: at, CreatedBy: owner.ID, ActivatedAt: at,
	}}
	_, _ = rand.Read(r.Hash[:])
	return r
}

func put(t testing.TB, s apikeys.Store, records ...apikeys.Record) {
	t.Helper()
	require.NoError(t, change(s, apikeys.Delta{Put: records, Log: logOf(records...)}))
}

func change(s apikeys.Store, d apikeys.Delta) error {
	return s.Change(context.Background(), apikeys.Selection{}, func([]apikeys.Record) (apikeys.Delta, error) { return d, nil })
}

func logOf(records ...apikeys.Record) []apikeys.Entry {
	var out []apikeys.Entry
	for _, r := range records {
		out = append(out, apikeys.Entry{
			At: r.CreatedAt, Action: apikeys.ActionIssued, Key: r.ID, Owner: r.Owner, Actor: r.CreatedBy,
			Detail: map[string]string{"name": "<Zoë & \"co\">\u2028"},
		})
	}
	return out
}

func find(t testing.TB, s apikeys.Store, r apikeys.Record) apikeys.Record {
	t.Helper()
	got, err := s.Find(context.Background(), []apikeys.Hash{r.Hash})
	require.NoError(t, err)
	return got
}

var acct = apikeys.Account("acct_1")

func recordComesBack(t *testing.T, s apikeys.Store) {
	full := NewRecord(apikeys.Organisation("org/ü"), start)
	full.Predecessor, full.Successor = "key_before", "key_after"
	full.Name, full.Environment = "Zoë's <key> 🔑", "test"
	full.Scopes = []string{"invoices:*", "read"}
	full.Networks = []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("2001:db8::/32")}
	full.Metadata = map[string]string{"a": "1", "ü": "<&>\u2028", "": "empty"}
	full.ExpiresAt, full.DisabledAt, full.RevokedAt = start.Add(time.Hour), start.Add(time.Minute), start.Add(time.Second)
	full.ReplacedAt, full.SunsetAt, full.Overlap = start.Add(2), start.Add(3*time.Microsecond), 1500*time.Microsecond
	full.ReplacedAt = full.ReplacedAt.Truncate(time.Microsecond)
	full.RevokedFor = "leaked"
	full.Pepper, full.Tag, full.Scheme, full.Verifier = 7, 3, "other", []byte{0, 1, 255}
	bare := NewRecord(acct, start.Add(time.Microsecond))
	bare.ActivatedAt = time.Time{}
	for _, want := range []apikeys.Record{full, bare} {
		put(t, s, want)
		got := find(t, s, want)
		require.Equal(t, want, got)
		require.Equal(t, time.UTC, got.CreatedAt.Location())
		keys, err := s.List(context.Background(), apikeys.Query{ID: want.ID})
		require.NoError(t, err)
		require.Equal(t, []apikeys.Key{want.Key}, keys)
	}
}

func unknownHash(t *testing.T, s apikeys.Store) {
	put(t, s, NewRecord(acct, start))
	_, err := s.Find(context.Background(), []apikeys.Hash{{1}})
	require.ErrorIs(t, err, apikeys.ErrNotFound)
	_, err = s.Find(context.Background(), []apikeys.Hash{{1}, {2}})
	require.ErrorIs(t, err, apikeys.ErrNotFound)
	_, err = s.Find(context.Background(), nil)
	require.ErrorIs(t, err, apikeys.ErrNotFound)
}

func findTriesEveryHash(t *testing.T, s apikeys.Store) {
	r, other := NewRecord(acct, start), NewRecord(acct, start)
	put(t, s, other, r)
	got, err := s.Find(context.Background(), []apikeys.Hash{{1}, {2}, r.Hash})
	require.NoError(t, err)
	require.Equal(t, r.ID, got.ID)
	for _, two := range [][2]apikeys.Record{{r, other}, {other, r}} {
		got, err := s.Find(context.Background(), []apikeys.Hash{two[0].Hash, two[1].Hash})
		require.NoError(t, err)
		require.Equal(t, two[0].ID, got.ID, "the first that matches")
	}
}

func failedDecision(t *testing.T, s apikeys.Store) {
	r := NewRecord(acct, start)
	err := s.Change(context.Background(), apikeys.Selection{}, func([]apikeys.Record) (apikeys.Delta, error) {
		return apikeys.Delta{Put: []apikeys.Record{r}, Log: logOf(r)}, errRefused
	})
	require.ErrorIs(t, err, errRefused)
	requireEmpty(t, s, r)
}

func requireEmpty(t *testing.T, s apikeys.Store, r apikeys.Record) {
	t.Helper()
	_, err := s.Find(context.Background(), []apikeys.Hash{r.Hash})
	require.ErrorIs(t, err, apikeys.ErrNotFound)
	head, err := s.Head(context.Background())
	require.NoError(t, err)
	require.Zero(t, head.Seq)
}

func duplicateHash(t *testing.T, s apikeys.Store) {
	a, b := NewRecord(acct, start), NewRecord(acct, start)
	b.Hash = a.Hash
	require.ErrorIs(t, change(s, apikeys.Delta{Put: []apikeys.Record{a, b}, Log: logOf(a, b)}), apikeys.ErrDuplicate)
	requireEmpty(t, s, a)
	put(t, s, a)
	require.ErrorIs(t, change(s, apikeys.Delta{Put: []apikeys.Record{b}, Log: logOf(b)}), apikeys.ErrDuplicate)
	require.Equal(t, a.ID, find(t, s, a).ID)
	head, err := s.Head(context.Background())
	require.NoError(t, err)
	require.EqualValues(t, 1, head.Seq)
}

func ids(records []apikeys.Record) []string {
	out := []string{}
	for _, r := range records {
		out = append(out, r.ID)
	}
	return out
}

func selectIDs(t *testing.T, s apikeys.Store, sel apikeys.Selection) []string {
	t.Helper()
	var got []string
	require.NoError(t, s.Change(context.Background(), sel, func(found []apikeys.Record) (apikeys.Delta, error) {
		got = ids(found)
		return apikeys.Delta{}, nil
	}))
	return got
}

func selectionOrder(t *testing.T, s apikeys.Store) {
	a, b, c := NewRecord(acct, start), NewRecord(acct, start.Add(time.Second)), NewRecord(acct, start.Add(2*time.Second))
	put(t, s, c, a, b)
	require.Equal(t, []string{a.ID, c.ID}, selectIDs(t, s, apikeys.Selection{IDs: []string{c.ID, "key_none", a.ID, a.ID}}))
	require.Empty(t, selectIDs(t, s, apikeys.Selection{}))
	require.Equal(t, []string{a.ID, b.ID, c.ID}, selectIDs(t, s, apikeys.Selection{Owner: acct}))
	require.Equal(t, []string{a.ID, b.ID}, selectIDs(t, s, apikeys.Selection{Owner: acct, Limit: 2}))
}

func selectionOfOwner(t *testing.T, s apikeys.Store) {
	a, b := NewRecord(acct, start), NewRecord(acct, start.Add(time.Second))
	a.RevokedAt = start
	other := NewRecord(apikeys.Organisation("acct_1"), start)
	put(t, s, a, b, other)
	require.Equal(t, []string{b.ID}, selectIDs(t, s, apikeys.Selection{Owner: acct}))
	require.Equal(t, []string{a.ID, b.ID}, selectIDs(t, s, apikeys.Selection{Owner: acct, Revoked: true}))
}

// changesFollow increments a number in a record: two that read the same one
// would lose an increment.
func changesFollow(t *testing.T, s apikeys.Store) {
	const workers, each = 8, 10
	r := NewRecord(acct, start)
	put(t, s, r)
	var wg sync.WaitGroup
	errs := make(chan error, workers*each)
	for range workers {
		wg.Go(func() {
			for range each {
				errs <- s.Change(context.Background(), apikeys.Selection{IDs: []string{r.ID}}, func(found []apikeys.Record) (apikeys.Delta, error) {
					got := found[0]
					got.Overlap += time.Microsecond
					return apikeys.Delta{Put: []apikeys.Record{got}, Log: logOf(got)}, nil
				})
			}
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		require.NoError(t, err)
	}
	require.Equal(t, workers*each*time.Microsecond, find(t, s, r).Overlap)
}

// changesOfOwner inserts a record unless the owner has three: a phantom would
// make a fourth.
func changesOfOwner(t *testing.T, s apikeys.Store) {
	var wg sync.WaitGroup
	errs := make(chan error, 16)
	for range 16 {
		wg.Go(func() {
			errs <- s.Change(context.Background(), apikeys.Selection{Owner: acct}, func(found []apikeys.Record) (apikeys.Delta, error) {
				if len(found) >= 3 {
					return apikeys.Delta{}, errRefused
				}
				r := NewRecord(acct, start)
				return apikeys.Delta{Put: []apikeys.Record{r}, Log: logOf(r)}, nil
			})
		})
	}
	wg.Wait()
	close(errs)
	refused := 0
	for err := range errs {
		if err != nil {
			require.ErrorIs(t, err, errRefused)
			refused++
		}
	}
	require.Equal(t, 13, refused)
	require.Len(t, selectIDs(t, s, apikeys.Selection{Owner: acct}), 3)
}

func oneSuccessor(t *testing.T, s apikeys.Store) {
	r := NewRecord(acct, start)
	put(t, s, r)
	var wg sync.WaitGroup
	won := make(chan string, 100)
	for range 100 {
		wg.Go(func() {
			next := NewRecord(acct, start)
			err := s.Change(context.Background(), apikeys.Selection{IDs: []string{r.ID}}, func(found []apikeys.Record) (apikeys.Delta, error) {
				old := found[0]
				if old.Successor != "" {
					return apikeys.Delta{}, errRefused
				}
				old.Successor, next.Predecessor = next.ID, old.ID
				return apikeys.Delta{Put: []apikeys.Record{old, next}, Log: logOf(old, next)}, nil
			})
			if err == nil {
				won <- next.ID
			}
		})
	}
	wg.Wait()
	close(won)
	require.Len(t, won, 1)
	require.Equal(t, <-won, find(t, s, r).Successor)
}

func deleted(t *testing.T, s apikeys.Store) {
	r := NewRecord(acct, start)
	put(t, s, r)
	require.NoError(t, change(s, apikeys.Delta{Delete: []string{r.ID, "key_none"}}))
	_, err := s.Find(context.Background(), []apikeys.Hash{r.Hash})
	require.ErrorIs(t, err, apikeys.ErrNotFound)
	keys, err := s.List(context.Background(), apikeys.Query{Owner: acct})
	require.NoError(t, err)
	require.Empty(t, keys)
	put(t, s, r) // its hash is free again
}

func revokeAll(t *testing.T, s apikeys.Store, before time.Time) {
	t.Helper()
	require.NoError(t, change(s, apikeys.Delta{
		RevokeBefore: before, Log: []apikeys.Entry{{At: before, Action: apikeys.ActionRevokedAll, Actor: "op"}},
	}))
}

func revokeBefore(t *testing.T, s apikeys.Store) {
	old, gone, young := NewRecord(acct, start), NewRecord(acct, start), NewRecord(acct, start.Add(time.Second))
	gone.RevokedAt, gone.RevokedFor = start.Add(time.Microsecond), "by hand"
	put(t, s, old, gone, young)
	at := start.Add(time.Second)
	revokeAll(t, s, at)
	got := find(t, s, old)
	require.Equal(t, at, got.RevokedAt)
	require.Equal(t, apikeys.RevokedForAll, got.RevokedFor)
	require.Equal(t, "by hand", find(t, s, gone).RevokedFor)
	require.Equal(t, gone.RevokedAt, find(t, s, gone).RevokedAt)
	require.True(t, find(t, s, young).RevokedAt.IsZero(), "made at the instant, not before it")
	require.Equal(t, []string{young.ID}, selectIDs(t, s, apikeys.Selection{Owner: acct}))
	keys, err := s.List(context.Background(), apikeys.Query{ID: old.ID})
	require.NoError(t, err)
	require.Equal(t, at, keys[0].RevokedAt)
	late := NewRecord(acct, start) // made with an old instant, as by an import
	put(t, s, late)
	require.Equal(t, at, find(t, s, late).RevokedAt)
}

func revokeBeforeForward(t *testing.T, s apikeys.Store) {
	r := NewRecord(acct, start)
	put(t, s, r)
	revokeAll(t, s, start.Add(time.Hour))
	revokeAll(t, s, start.Add(-time.Hour))
	require.Equal(t, start.Add(time.Hour), find(t, s, r).RevokedAt)
}

func rehash(t *testing.T, s apikeys.Store) {
	ctx := context.Background()
	r, other := NewRecord(acct, start), NewRecord(acct, start)
	r.Pepper, r.Tag, r.Scheme, r.Verifier = 1, 1, "other", []byte("v")
	put(t, s, r, other)
	ok, err := s.Rehash(ctx, r.ID, apikeys.Hash{1}, apikeys.Hash{2}, 2)
	require.NoError(t, err)
	require.False(t, ok)
	_, err = s.Rehash(ctx, r.ID, r.Hash, other.Hash, 2)
	require.ErrorIs(t, err, apikeys.ErrDuplicate)
	ok, err = s.Rehash(ctx, r.ID, r.Hash, apikeys.Hash{2}, 2)
	require.NoError(t, err)
	require.True(t, ok)
	_, err = s.Find(ctx, []apikeys.Hash{r.Hash})
	require.ErrorIs(t, err, apikeys.ErrNotFound)
	old := r
	r.Hash = apikeys.Hash{2}
	got := find(t, s, r)
	require.EqualValues(t, 2, got.Pepper)
	require.EqualValues(t, 1, got.Tag)
	require.Empty(t, got.Scheme)
	require.Nil(t, got.Verifier)
	ok, err = s.Rehash(ctx, r.ID, old.Hash, apikeys.Hash{3}, 2)
	require.NoError(t, err)
	require.False(t, ok, "the second of two rehashes")
}

func lastUse(t *testing.T, s apikeys.Store) {
	ctx := context.Background()
	a, b := NewRecord(acct, start), NewRecord(acct, start)
	put(t, s, a, b)
	late := apikeys.Use{Key: a.ID, At: start.Add(time.Minute), Addr: netip.MustParseAddr("2001:db8::1"), Agent: "curl/8 ü"}
	early := apikeys.Use{Key: a.ID, At: start, Agent: "old"}
	other := apikeys.Use{Key: b.ID, At: start}
	require.NoError(t, s.RecordUses(ctx, []apikeys.Use{late, other, {Key: "key_none", At: start}}))
	require.NoError(t, s.RecordUses(ctx, []apikeys.Use{early}))
	require.NoError(t, s.RecordUses(ctx, nil))
	require.Equal(t, late, find(t, s, a).LastUsed)
	require.Equal(t, other, find(t, s, b).LastUsed)
}

func putKeepsUse(t *testing.T, s apikeys.Store) {
	r := NewRecord(acct, start)
	put(t, s, r)
	use := apikeys.Use{Key: r.ID, At: start, Agent: "a"}
	require.NoError(t, s.RecordUses(context.Background(), []apikeys.Use{use}))
	r.Name = "other"
	put(t, s, r)
	require.Equal(t, "other", find(t, s, r).Name)
	require.Equal(t, use, find(t, s, r).LastUsed)
}

func listPages(t *testing.T, s apikeys.Store) {
	var want []string
	for i := range 7 {
		r := NewRecord(acct, start.Add(time.Duration(i)*time.Second))
		put(t, s, r)
		want = append([]string{r.ID}, want...)
	}
	var got []string
	for q := (apikeys.Query{Owner: acct, Limit: 3}); ; {
		page, err := s.List(context.Background(), q)
		require.NoError(t, err)
		require.LessOrEqual(t, len(page), 3)
		for _, k := range page {
			got = append(got, k.ID)
			q.Before = k.ID
		}
		if len(page) < 3 {
			break
		}
	}
	require.Equal(t, want, got)
}

func listSelects(t *testing.T, s apikeys.Store) {
	a, b := NewRecord(acct, start), NewRecord(apikeys.Organisation("acct_1"), start)
	c := NewRecord(acct, start.Add(time.Second))
	c.Lineage = a.Lineage
	put(t, s, a, b, c)
	for name, tc := range map[string]struct {
		q    apikeys.Query
		want []string
	}{
		"owner":            {apikeys.Query{Owner: acct}, []string{c.ID, a.ID}},
		"kind of owner":    {apikeys.Query{Owner: b.Owner}, []string{b.ID}},
		"lineage":          {apikeys.Query{Lineage: a.Lineage}, []string{c.ID, a.ID}},
		"id":               {apikeys.Query{ID: a.ID}, []string{a.ID}},
		"id of no key":     {apikeys.Query{ID: "key_none"}, []string{}},
		"id and its owner": {apikeys.Query{ID: a.ID, Owner: b.Owner}, []string{}},
	} {
		keys, err := s.List(context.Background(), tc.q)
		require.NoError(t, err, name)
		got := []string{}
		for _, k := range keys {
			got = append(got, k.ID)
		}
		require.Equal(t, tc.want, got, name)
	}
}

// CheckLog reads the whole log of a store and checks its chain.
func CheckLog(t testing.TB, s apikeys.Store) []apikeys.Entry {
	t.Helper()
	svc, err := apikeys.New(s, apikeys.Config{Prefix: "test"})
	require.NoError(t, err)
	head, err := svc.VerifyAudit(context.Background(), apikeys.Head{})
	require.NoError(t, err)
	var all []apikeys.Entry
	for {
		page, err := s.Log(context.Background(), apikeys.LogQuery{After: int64(len(all)), Limit: 7})
		require.NoError(t, err)
		all = append(all, page...)
		if len(page) < 7 {
			break
		}
	}
	require.Len(t, all, int(head.Seq))
	return all
}

func logChain(t *testing.T, s apikeys.Store) {
	var want []apikeys.Entry
	for i := range 20 {
		r := NewRecord(acct, start.Add(time.Duration(i)*time.Microsecond))
		put(t, s, r)
		want = append(want, logOf(r)...)
	}
	got := CheckLog(t, s)
	require.Len(t, got, len(want))
	for i, e := range got {
		require.EqualValues(t, i+1, e.Seq)
		require.Len(t, e.Salt, 16)
		e.Seq, e.Salt, e.Digest, e.Hash = 0, nil, nil, nil
		require.Equal(t, want[i], e)
	}
}

func logSelects(t *testing.T, s apikeys.Store) {
	a, b := NewRecord(acct, start), NewRecord(apikeys.Account("acct_2"), start)
	b.CreatedBy = "acct_1"
	c := NewRecord(apikeys.Account("acct_3"), start)
	put(t, s, a, b, c)
	for name, tc := range map[string]struct {
		q    apikeys.LogQuery
		want []int64
	}{
		"all":              {apikeys.LogQuery{}, []int64{1, 2, 3}},
		"after":            {apikeys.LogQuery{After: 1}, []int64{2, 3}},
		"limit":            {apikeys.LogQuery{Limit: 2}, []int64{1, 2}},
		"key":              {apikeys.LogQuery{Key: b.ID}, []int64{2}},
		"owner or actor":   {apikeys.LogQuery{Account: "acct_1"}, []int64{1, 2}},
		"after everything": {apikeys.LogQuery{After: 3}, []int64{}},
	} {
		entries, err := s.Log(context.Background(), tc.q)
		require.NoError(t, err, name)
		got := []int64{}
		for _, e := range entries {
			got = append(got, e.Seq)
		}
		require.Equal(t, tc.want, got, name)
	}
}

// logReader follows the log while many write: an entry that becomes visible
// after a later one would be missed for good.
func logReader(t *testing.T, s apikeys.Store) {
	const workers, each = 6, 15
	var wg sync.WaitGroup
	errs := make(chan error, workers*each)
	for range workers {
		wg.Go(func() {
			for range each {
				r := NewRecord(acct, start)
				errs <- change(s, apikeys.Delta{Put: []apikeys.Record{r}, Log: logOf(r)})
			}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	seen := int64(0)
	for last := false; !last; {
		select {
		case <-done:
			last = true
		default:
		}
		for {
			page, err := s.Log(context.Background(), apikeys.LogQuery{After: seen, Limit: 5})
			require.NoError(t, err)
			for _, e := range page {
				require.Equal(t, seen+1, e.Seq)
				seen = e.Seq
			}
			if len(page) == 0 {
				break
			}
		}
	}
	close(errs)
	for err := range errs {
		require.NoError(t, err)
	}
	require.EqualValues(t, workers*each, seen)
}

func forget(t *testing.T, s apikeys.Store) {
	ctx := context.Background()
	mine, theirs := NewRecord(acct, start), NewRecord(apikeys.Organisation("org_1"), start)
	theirs.CreatedBy = "acct_1"
	rest := NewRecord(apikeys.Account("acct_2"), start)
	put(t, s, mine, theirs, rest)
	before := CheckLog(t, s)
	n, err := s.Forget(ctx, "acct_1", 1)
	require.NoError(t, err)
	require.EqualValues(t, 1, n)
	n, err = s.Forget(ctx, "acct_1", 100)
	require.NoError(t, err)
	require.EqualValues(t, 1, n)
	n, err = s.Forget(ctx, "acct_1", 100)
	require.NoError(t, err)
	require.Zero(t, n)
	after := CheckLog(t, s)
	for i, e := range after[:2] {
		require.Equal(t, apikeys.Owner{}, e.Owner)
		require.Empty(t, e.Actor)
		require.Empty(t, e.Detail)
		require.Empty(t, e.Salt)
		require.True(t, bytes.Equal(before[i].Hash, e.Hash))
	}
	require.Equal(t, before[2], after[2])
	require.Empty(t, find(t, s, theirs).CreatedBy)
	require.Equal(t, "acct_2", find(t, s, rest).CreatedBy)
}

func peppers(t *testing.T, s apikeys.Store) {
	a, b, c := NewRecord(acct, start), NewRecord(acct, start.Add(time.Hour)), NewRecord(acct, start.Add(time.Hour))
	gone := NewRecord(acct, start.Add(time.Hour))
	gone.RevokedAt = start
	a.Pepper, b.Pepper, c.Pepper, gone.Pepper = 1, 2, 2, 2
	a.Tag, b.Tag, c.Tag, gone.Tag = 1, 1, 2, 2
	put(t, s, a, b, c, gone)
	got, err := s.Peppers(context.Background())
	require.NoError(t, err)
	require.Equal(t, []apikeys.PepperUse{{Pepper: 1, Hashed: 1, Tagged: 2}, {Pepper: 2, Hashed: 2, Tagged: 1}}, got)
	revokeAll(t, s, start.Add(time.Minute))
	got, err = s.Peppers(context.Background())
	require.NoError(t, err)
	require.Equal(t, []apikeys.PepperUse{{Pepper: 1, Hashed: 0, Tagged: 1}, {Pepper: 2, Hashed: 2, Tagged: 1}}, got)
}

func endedContext(t *testing.T, s apikeys.Store) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	r := NewRecord(acct, start)
	err := s.Change(ctx, apikeys.Selection{}, func([]apikeys.Record) (apikeys.Delta, error) {
		return apikeys.Delta{Put: []apikeys.Record{r}, Log: logOf(r)}, nil
	})
	require.ErrorIs(t, err, context.Canceled)
	requireEmpty(t, s, r)
	_, findErr := s.Find(ctx, []apikeys.Hash{r.Hash})
	_, rehashErr := s.Rehash(ctx, r.ID, r.Hash, apikeys.Hash{1}, 1)
	_, listErr := s.List(ctx, apikeys.Query{})
	_, logErr := s.Log(ctx, apikeys.LogQuery{})
	_, headErr := s.Head(ctx)
	_, forgetErr := s.Forget(ctx, "acct_1", 1)
	_, peppersErr := s.Peppers(ctx)
	for i, err := range []error{findErr, rehashErr, listErr, logErr, headErr, forgetErr, peppersErr, s.RecordUses(ctx, []apikeys.Use{{Key: r.ID, At: start}})} {
		require.ErrorIs(t, err, context.Canceled, fmt.Sprint("call ", i))
	}
}

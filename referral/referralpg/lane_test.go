package referralpg_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/referral"
	"github.com/kolekt/commerce/referral/referralpg"
)

var at = time.Date(2026, 3, 2, 9, 0, 0, 0, time.UTC)

func create(t *testing.T, store *referralpg.Store, code string, uses int64) {
	t.Helper()
	_, err := store.CreateCode(context.Background(), referral.Code{Text: code, Campaign: "c", Account: code + "-owner", Active: true, MaxUses: uses, CreatedAt: at})
	require.NoError(t, err)
}

func attempt(code, referee string, signals ...referral.Signal) referral.Attempt {
	return referral.Attempt{
		Now: at, Signals: signals,
		Redemption: referral.Redemption{
			ID: "r-" + code + "-" + referee, Campaign: "c", Code: code, Referee: referee, State: referral.RedemptionPending,
			Terms: referral.Campaign{ID: "c", Version: 1}, CreatedAt: at, ChangedAt: at, ClosesAt: at,
		},
		Rewards: []referral.Reward{{ID: code + referee, Side: referral.Referrer, Benefit: referral.Benefit{FreeMonths: 1}, MonthsLeft: 1}},
	}
}

// crowd makes callers wait for one that is under way, and returns what lets
// them go together.
func crowd(t *testing.T, pool referralpg.DB, store *referralpg.Store, code string) (wait func(n int), release func()) {
	t.Helper()
	ctx := context.Background()
	tx, err := pool.Begin(ctx)
	require.NoError(t, err)
	_, err = tx.Exec(ctx, `select from referral_codes where code = $1 for update`, code)
	require.NoError(t, err)
	first := make(chan error, 1)
	go func() {
		_, err := store.Redeem(ctx, attempt(code, "first"))
		first <- err
	}()
	require.Eventually(t, func() bool { return !store.Idle() }, 10*time.Second, time.Millisecond)
	return func(n int) {
			t.Helper()
			require.Eventually(t, func() bool { return store.Waiting(code) == n }, 10*time.Second, time.Millisecond)
		}, func() {
			t.Helper()
			require.NoError(t, tx.Rollback(ctx))
			require.NoError(t, <-first)
			require.Eventually(t, store.Idle, 10*time.Second, time.Millisecond)
		}
}

func TestTogetherEachGetsItsOwnAnswer(t *testing.T) {
	ctx := context.Background()
	pool := migrated(t)
	store := referralpg.New(pool)
	card := func(hash string) referral.Signal { return referral.Signal{Kind: "card", Hash: hash} }
	create(t, store, "HOT", 5) // one goes to the first caller
	create(t, store, "UP", 0)
	create(t, store, "OLD", 0)
	require.NoError(t, store.PutSignals(ctx, "HOT-owner", []referral.Signal{card("owners")}, at))
	for _, a := range []referral.Attempt{
		attempt("UP", "HOT-owner"),                // UP-owner stands above the owner
		attempt("OLD", "known"),                   // was referred before
		attempt("OLD", "other", card("somebody")), // has left a signal
		attempt("HOT", "before"),                  // the same attempt, stored
	} {
		_, err := store.Redeem(ctx, a)
		require.NoError(t, err)
	}
	wait, release := crowd(t, pool, store, "HOT")
	type answer struct {
		r   referral.Redemption
		err error
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	got := map[string]answer{}
	ask := func(ctx context.Context, name string, a referral.Attempt) {
		n := store.Waiting("HOT")
		wg.Go(func() {
			r, err := store.Redeem(ctx, a)
			mu.Lock()
			defer mu.Unlock()
			got[name] = answer{r, err}
		})
		wait(n + 1) // they come one after another
	}
	cancelled, cancel := context.WithCancel(ctx)
	ask(ctx, "the owner", attempt("HOT", "HOT-owner"))
	ask(ctx, "the owner's card", attempt("HOT", "alias", card("owners")))
	ask(ctx, "who stands above", attempt("HOT", "UP-owner"))
	ask(ctx, "referred before", attempt("HOT", "known"))
	ask(ctx, "stored", attempt("HOT", "before"))
	ask(cancelled, "cancelled", attempt("HOT", "gone"))
	ask(ctx, "another's card", attempt("HOT", "p1", card("somebody")))
	ask(ctx, "a card of two, first", attempt("HOT", "p2", card("two"), card("two")))
	ask(ctx, "a card of two, second", attempt("HOT", "p3", card("two")))
	ask(ctx, "too late", attempt("HOT", "p4"))
	again := attempt("HOT", "p2")
	again.Redemption.ID = "another attempt"
	ask(ctx, "the same account by another attempt", again)
	cancel()
	wait(10)
	release()
	wg.Wait()
	for name, want := range map[string]error{
		"the owner": referral.ErrAlreadyReferred, "the owner's card": referral.ErrSelf, "who stands above": referral.ErrCycle, "referred before": referral.ErrAlreadyReferred,
		"stored": nil, "cancelled": context.Canceled, "another's card": nil, "a card of two, first": nil, "a card of two, second": nil,
		"too late": referral.ErrExhausted, "the same account by another attempt": referral.ErrAlreadyReferred,
	} {
		require.ErrorIs(t, got[name].err, want, name)
	}
	require.Equal(t, referral.RedemptionReview, got["another's card"].r.State)
	require.Equal(t, []string{"same card"}, got["another's card"].r.Reasons)
	require.Equal(t, referral.RedemptionPending, got["a card of two, first"].r.State)
	require.Equal(t, referral.RedemptionReview, got["a card of two, second"].r.State)
	c, err := store.Code(ctx, "HOT")
	require.NoError(t, err)
	require.EqualValues(t, 5, c.Uses)
	// What was answered is what is stored.
	for name, a := range got {
		if a.err == nil {
			stored, err := store.Redemption(ctx, a.r.ID)
			require.NoError(t, err)
			require.Equal(t, stored, a.r, name)
		}
	}
}

func TestTogetherCapsAndBudgetsHold(t *testing.T) {
	ctx := context.Background()
	pool := migrated(t)
	store := referralpg.New(pool)
	for name, tt := range map[string]struct {
		change func(*referral.Attempt)
		want   error
		n      int
	}{
		"CAP":    {func(a *referral.Attempt) { a.CapKey, a.Cap = "c:2026", 7 }, referral.ErrCapped, 7},
		"BUDGET": {func(a *referral.Attempt) { a.Budget, a.Cost = 1000, 300 }, referral.ErrBudget, 3},
	} {
		create(t, store, name, 0)
		require.Equal(t, tt.n, race(t, func(i int) error {
			a := attempt(name, fmt.Sprint(name, i))
			tt.change(&a)
			_, err := store.Redeem(ctx, a)
			return err
		}, tt.want), name)
	}
}

// A caller who leaves while the statement is under way doesn't know; asking
// again tells.
func TestWhoeverLeavesUnderWayMayAskAgain(t *testing.T) {
	ctx := context.Background()
	pool := migrated(t)
	store := referralpg.New(pool)
	create(t, store, "HOT", 0)
	wait, release := crowd(t, pool, store, "HOT")
	// Those who wait are held up by the unique index, once they are under way.
	tx, err := pool.Begin(ctx)
	require.NoError(t, err)
	_, err = tx.Exec(ctx, `insert into referral_signals values ('c/card/held', 'x', now())`)
	require.NoError(t, err)
	leaving, cancel := context.WithCancel(ctx)
	errs := make(chan error, 2)
	for i, ctx := range []context.Context{leaving, ctx} {
		go func() {
			_, err := store.Redeem(ctx, attempt("HOT", fmt.Sprint("u", i), referral.Signal{Kind: "card", Hash: "held"}))
			errs <- err
		}()
	}
	wait(2)
	go release()
	wait(0)
	cancel()
	err = <-errs
	require.ErrorIs(t, err, referral.ErrUnknownOutcome)
	require.ErrorIs(t, err, context.Canceled)
	require.NoError(t, tx.Rollback(ctx))
	require.NoError(t, <-errs)
	r, err := store.Redeem(ctx, attempt("HOT", "u0", referral.Signal{Kind: "card", Hash: "held"}))
	require.NoError(t, err)
	c, err := store.Code(ctx, "HOT")
	require.NoError(t, err)
	require.EqualValues(t, 3, c.Uses)
	require.Equal(t, "u0", r.Referee)
}

func TestARefusalLeavesTheCallersTransactionUsable(t *testing.T) {
	ctx := context.Background()
	pool := migrated(t)
	create(t, referralpg.New(pool), "CODE", 0)
	require.NoError(t, pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		store := referralpg.New(tx)
		_, err := store.Redeem(ctx, attempt("CODE", "bob"))
		require.NoError(t, err)
		a := attempt("CODE", "bob")
		a.Redemption.ID = "another"
		_, err = store.Redeem(ctx, a)
		require.ErrorIs(t, err, referral.ErrAlreadyReferred)
		_, err = store.Redeem(ctx, attempt("CODE", "eve"))
		return err
	}))
	c, err := referralpg.New(pool).Code(ctx, "CODE")
	require.NoError(t, err)
	require.EqualValues(t, 2, c.Uses)
}

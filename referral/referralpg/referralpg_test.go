package referralpg_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/internal/pgtest"
	"github.com/kolekt/commerce/referral"
	"github.com/kolekt/commerce/referral/referralpg"
	"github.com/kolekt/commerce/referral/referraltest"
)

func migrated(t *testing.T) *pgxpool.Pool {
	t.Helper()
	pool := pgtest.Pool(t)
	require.NoError(t, referralpg.Migrate(context.Background(), pool))
	return pool
}

func TestStore(t *testing.T) {
	referraltest.TestStore(t, func(t *testing.T) referral.Store { return referralpg.New(migrated(t)) })
}

// A thousand want the last use of a code; the way that reads, compares and
// then writes, as a control, overshoots.
func TestAThousandWantTheLastUse(t *testing.T) {
	ctx := context.Background()
	pool := migrated(t)
	store := referralpg.New(pool)
	at := time.Date(2026, 3, 2, 9, 0, 0, 0, time.UTC)
	_, err := store.CreateCode(ctx, referral.Code{Text: "LAST", Campaign: "c", Account: "ada", Active: true, MaxUses: 1, CreatedAt: at})
	require.NoError(t, err)
	race := func(do func(i int) error) (n int) {
		var mu sync.Mutex
		var wg sync.WaitGroup
		for i := range 1000 {
			wg.Go(func() {
				if err := do(i); err == nil {
					mu.Lock()
					n++
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		return n
	}
	require.Equal(t, 1, race(func(i int) error {
		id := fmt.Sprint("r", i)
		_, err := store.Redeem(ctx, referral.Attempt{Now: at, Redemption: referral.Redemption{ID: id, Campaign: "c", Code: "LAST", Referee: fmt.Sprint("u", i), State: referral.RedemptionPending, CreatedAt: at, ChangedAt: at, ClosesAt: at}})
		return err
	}))

	// The control: two that have both read before either writes.
	_, err = pool.Exec(ctx, `create table naive (uses int); insert into naive values (0)`)
	require.NoError(t, err)
	var read sync.WaitGroup
	read.Add(2)
	overshoot := race(func(i int) error {
		if i >= 2 {
			return errors.New("two are enough")
		}
		var uses int
		err := pool.QueryRow(ctx, `select uses from naive`).Scan(&uses)
		read.Done()
		read.Wait()
		if err != nil {
			return err
		}
		if uses >= 1 {
			return errors.New("exhausted")
		}
		_, err = pool.Exec(ctx, `update naive set uses = uses + 1`)
		return err
	})
	require.Equal(t, 2, overshoot, "the control must overshoot")
}

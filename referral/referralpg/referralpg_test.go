package referralpg_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

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

// plain hides the pool, so that each redemption is a statement of its own.
type plain struct{ referralpg.DB }

func TestPlainStore(t *testing.T) {
	referraltest.TestStore(t, func(t *testing.T) referral.Store { return referralpg.New(plain{migrated(t)}) })
}

// race calls a thousand at once and counts those that got through.
func race(t *testing.T, do func(i int) error, refusal error) (n int) {
	t.Helper()
	var mu sync.Mutex
	var wg sync.WaitGroup
	for i := range 1000 {
		wg.Go(func() {
			err := do(i)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				n++
			} else if !errors.Is(err, refusal) {
				t.Errorf("caller %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	return n
}

// A thousand want the last use of a code, or the last ten, each by a statement
// of its own and together; the way that reads, compares and then writes, as a
// control, overshoots.
func TestAThousandWantTheLastUses(t *testing.T) {
	ctx := context.Background()
	pool := migrated(t)
	for name, store := range map[string]*referralpg.Store{"TOGETHER": referralpg.New(pool), "PLAIN": referralpg.New(plain{pool})} {
		for _, uses := range []int64{1, 10} {
			code := fmt.Sprint(name, uses)
			create(t, store, code, uses)
			require.EqualValues(t, uses, race(t, func(i int) error {
				_, err := store.Redeem(ctx, attempt(code, fmt.Sprint(code, i)))
				return err
			}, referral.ErrExhausted), code)
			list, err := store.Redemptions(ctx, referral.RedemptionFilter{Campaign: "c", Referrer: code + "-owner", Limit: 1000})
			require.NoError(t, err)
			require.Len(t, list, int(uses))
		}
	}

	// The control: two that have both read before either writes.
	_, err := pool.Exec(ctx, `create table naive (uses int); insert into naive values (0)`)
	require.NoError(t, err)
	var read sync.WaitGroup
	read.Add(2)
	errEnough := errors.New("two are enough")
	require.Equal(t, 2, race(t, func(i int) error {
		if i >= 2 {
			return errEnough
		}
		var uses int
		err := pool.QueryRow(ctx, `select uses from naive`).Scan(&uses)
		read.Done()
		read.Wait()
		if err != nil {
			return err
		}
		if uses >= 1 {
			return errEnough
		}
		_, err = pool.Exec(ctx, `update naive set uses = uses + 1`)
		return err
	}, errEnough), "the control must overshoot")
}

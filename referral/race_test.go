package referral_test

import (
	"context"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/referral"
)

// naive begins calls by reading what is carried and then writing: the control
// of what the store's one step is for.
type naive struct {
	referral.Store
	read *sync.WaitGroup // both have read
}

func (n naive) Begin(ctx context.Context, r referral.Reward, most int64) (referral.Reward, error) {
	ledger, err := n.Ledger(ctx, r.Account)
	if err != nil {
		return r, err
	}
	_, carry := money(ledger)
	n.read.Done()
	n.read.Wait()
	call := *r.Call
	call.Less = min(carry, most)
	r.Call = &call
	err = n.SaveReward(ctx, r)
	r.Version++
	return r, err
}

// Two months of one account that start at the same instant in two processes:
// what is carried is recovered once. The naive way recovers it twice.
func TestWhatIsCarriedIsRecoveredOnceByTwoAtOnce(t *testing.T) {
	ctx := context.Background()
	for name, atOnce := range map[string]bool{"one step": false, "control": true} {
		t.Run(name, func(t *testing.T) {
			c := friends()
			c.Referrer = referral.Benefit{Credit: 1000, Currency: "USD"}
			w := newWorld(t, c)
			code := w.code("ada")
			w.redeem(code, "bob")
			w.paid("bob", 999)
			w.now = w.now.Add(31 * day)
			w.work()
			w.biller.balance["ada"] = 0 // spent
			require.NoError(t, w.service.HandleRefunded(ctx, referral.Refunded{ID: "re", Account: "bob", Amount: 999, Currency: "USD"}))
			for _, who := range []string{"cleo", "dan"} {
				w.redeem(code, who)
				w.paid(who, 999)
			}
			w.now = w.now.Add(31 * day)
			due, err := w.store.DueRewards(ctx, w.now, 10)
			require.NoError(t, err)
			require.Len(t, due, 2)
			store := w.store
			if atOnce {
				n := naive{w.store, &sync.WaitGroup{}}
				n.read.Add(2)
				store = n
			}
			less := make([]int64, 2)
			var wg sync.WaitGroup
			for i, rw := range due {
				wg.Go(func() {
					rw.Call = &referral.Call{ID: rw.ID + ":grant", Amount: 1000, Currency: "USD"}
					rw, err := store.Begin(ctx, rw, 1000)
					if err == nil {
						less[i] = rw.Call.Less
					}
				})
			}
			wg.Wait()
			if atOnce {
				require.Equal(t, int64(2000), less[0]+less[1], "the control must recover it twice")
				return
			}
			require.Equal(t, int64(1000), less[0]+less[1])
			w.work()
			net, carry := money(mustLedger(w))
			require.Zero(t, carry)
			require.Equal(t, net, w.biller.given("ada"))
		})
	}
}

func mustLedger(w *world) []referral.Entry {
	w.t.Helper()
	ledger, err := w.service.Ledger(context.Background(), "ada")
	require.NoError(w.t, err)
	return ledger
}

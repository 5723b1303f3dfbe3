package referral_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/referral"
	"github.com/kolekt/commerce/referral/referralmem"
)

// biller is a payment provider in memory: idempotent by call, as Biller asks,
// and an Auditor.
type biller struct {
	mu       sync.Mutex
	monthly  int64
	calls    map[string]effect
	twice    []string // calls that had their effect again
	balance  map[string]int64
	coupons  map[string]string
	invoices map[string]int64 // discount by invoice
	final    map[string]bool
	down     bool
	lost     bool // the answer is lost after the effect
	forgets  bool // idempotency keys only, all of them expired: the control
}

// effect is what a call left at the provider.
type effect struct {
	account, invoice string
	amount, value    int64
}

func newBiller() *biller {
	return &biller{monthly: 999, calls: map[string]effect{}, balance: map[string]int64{}, coupons: map[string]string{}, invoices: map[string]int64{}, final: map[string]bool{}}
}

var errDown = errors.New("provider is down")

func (b *biller) do(call string, make func() (effect, error)) (effect, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.down {
		return effect{}, errDown
	}
	e, done := b.calls[call]
	if !done || b.forgets && e.invoice == "" {
		if done {
			b.twice = append(b.twice, call)
		}
		var err error
		if e, err = make(); err != nil {
			return effect{}, err
		}
		b.calls[call] = e
	}
	if b.lost {
		return effect{}, errDown
	}
	return e, nil
}

func (b *biller) Coupon(_ context.Context, call string, percent, months, amount int64, currency string) (string, error) {
	_, err := b.do(call, func() (effect, error) {
		b.coupons[call] = fmt.Sprintf("%d%%x%d or %d %s", percent, months, amount, currency)
		return effect{}, nil
	})
	return "co_" + call, err
}

func (b *biller) DiscountInvoice(_ context.Context, call, account, invoice string, less int64) (string, int64, int64, string, error) {
	e, err := b.do(call, func() (effect, error) {
		if b.final[invoice] {
			return effect{}, referral.ErrTooLate
		}
		taken := max(b.monthly-less, 0)
		b.invoices[invoice] += taken
		return effect{account, invoice, taken, b.monthly}, nil
	})
	return "co_" + call, e.value, e.amount, "USD", err
}

func (b *biller) Credit(_ context.Context, call, account string, amount int64, _ string) (string, error) {
	_, err := b.do(call, func() (effect, error) {
		b.balance[account] += amount
		return effect{account: account, amount: amount}, nil
	})
	return "cbtxn_" + call, err
}

func (b *biller) Debit(_ context.Context, call, account string, amount int64, _ string) (int64, error) {
	e, err := b.do(call, func() (effect, error) {
		taken := min(amount, b.balance[account])
		b.balance[account] -= taken
		return effect{account: account, amount: -taken}, nil
	})
	return -e.amount, err
}

func (b *biller) Grants(_ context.Context, account string, each func(call, ref, invoice string, amount int64, currency string) error) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.down {
		return errDown
	}
	for i, call := range append(slices.Sorted(maps.Keys(b.calls)), b.twice...) {
		if e := b.calls[call]; e.account == account && e.amount != 0 {
			b.mu.Unlock()
			err := each(call, fmt.Sprintf("ref_%d_%s", max(i-len(b.calls)+1, 0), call), e.invoice, e.amount, "USD")
			b.mu.Lock()
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// given is what an account has had of the provider in all.
func (b *biller) given(account string) (sum int64) {
	for _, call := range append(slices.Collect(maps.Keys(b.calls)), b.twice...) {
		if e := b.calls[call]; e.account == account {
			sum += e.amount
		}
	}
	return sum
}

type world struct {
	t       *testing.T
	service *referral.Service
	store   referral.Store
	biller  *biller
	config  referral.Config
	now     time.Time
	notices map[string]int
}

func friends() referral.Campaign {
	return referral.Campaign{
		ID: "friends", Version: 1, MaxUses: 10,
		Referrer: referral.Benefit{FreeMonths: 1}, Referee: referral.Benefit{PercentOff: 50},
	}
}

func newWorld(t *testing.T, campaigns ...referral.Campaign) *world {
	t.Helper()
	if len(campaigns) == 0 {
		campaigns = []referral.Campaign{friends()}
	}
	w := &world{t: t, store: referralmem.New(), biller: newBiller(), now: start, notices: map[string]int{}}
	told := map[string]bool{}
	w.config = referral.Config{
		Pepper: bytes.Repeat([]byte("p"), 32), Campaigns: campaigns, Biller: w.biller,
		Notify: func(_ context.Context, n referral.Notice) error {
			if !told[n.ID] { // a notice may come again, under the same ID
				w.notices[n.Event+" "+n.Account]++
			}
			told[n.ID] = true
			return nil
		},
		Now: func() time.Time { return w.now },
	}
	w.rebuild()
	return w
}

func (w *world) rebuild() {
	w.t.Helper()
	var err error
	w.service, err = referral.New(w.store, w.config)
	require.NoError(w.t, err)
}

func (w *world) code(account string) string {
	w.t.Helper()
	c, err := w.service.Code(context.Background(), w.config.Campaigns[0].ID, referral.Person{Account: account, Email: account + "@example.com", Card: "card-" + account})
	require.NoError(w.t, err)
	return c.Text
}

func (w *world) redeem(code, account string) referral.Redemption {
	w.t.Helper()
	r, err := w.service.Redeem(context.Background(), code, referral.Person{Account: account, Email: account + "@example.net", Card: "card-" + account})
	require.NoError(w.t, err)
	return r
}

func (w *world) paid(account string, amount int64) {
	w.t.Helper()
	require.NoError(w.t, w.service.HandlePaid(context.Background(), referral.Paid{ID: "in_" + account, Account: account, Amount: amount, Discount: amount, Currency: "USD"}))
}

func (w *world) work() {
	w.t.Helper()
	_, err := w.service.Work(context.Background())
	require.NoError(w.t, err)
}

func (w *world) rewards(account string) []referral.Reward {
	w.t.Helper()
	list, err := w.service.Rewards(context.Background(), referral.RewardFilter{Account: account, Limit: 1000})
	require.NoError(w.t, err)
	return list
}

func (w *world) reward(account string) referral.Reward {
	w.t.Helper()
	list := w.rewards(account)
	require.NotEmpty(w.t, list)
	return list[0]
}

const day = 24 * time.Hour

// money is what a ledger comes to: what was given less what was taken back of
// it, and how much of that the provider doesn't have back.
func money(ledger []referral.Entry) (net, carry int64) {
	for _, e := range ledger {
		if e.Kind != referral.EntryRecovery {
			net += e.Amount
		}
		if e.Kind.Carried() {
			carry -= e.Amount
		}
	}
	return net, carry
}

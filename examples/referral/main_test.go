package main

import (
	"bytes"
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/billing"
	"github.com/kolekt/commerce/billing/billingstripe"
	"github.com/kolekt/commerce/billing/stripesim"
	"github.com/kolekt/commerce/referral"
	"github.com/kolekt/commerce/referral/referralmem"
)

const day = 24 * time.Hour

func newShop(t *testing.T, c referral.Campaign) *shop {
	t.Helper()
	s, err := open(context.Background(), c)
	require.NoError(t, err)
	t.Cleanup(s.close)
	return s
}

func (s *shop) refer(t *testing.T, friends ...string) {
	t.Helper()
	ctx := context.Background()
	code, err := s.referrals.Code(ctx, "friends", referral.Person{Account: "ada"})
	require.NoError(t, err)
	for _, f := range friends {
		_, err := s.referrals.Redeem(ctx, code.Text, referral.Person{Account: f})
		require.NoError(t, err)
	}
}

// due returns what an account's invoices came to, oldest first, in cents.
func (s *shop) due(t *testing.T, account string) []int64 {
	t.Helper()
	invoices, fresh, err := s.billing.Invoices(context.Background(), account)
	require.NoError(t, err)
	require.True(t, fresh)
	var amounts []int64
	for i := len(invoices) - 1; i >= 0; i-- {
		amounts = append(amounts, invoices[i].AmountPaid)
	}
	return amounts
}

func TestExample(t *testing.T) {
	var out bytes.Buffer
	require.NoError(t, run(context.Background(), &out))
	require.Equal(t, "ada paid [$9.99 $0.00 $9.99]\nbob paid [$4.99 $9.99 $9.99]\n", out.String())
}

// "50 % off the first month" and its like, on every kind of price: what the
// first invoice comes to, and that the second one is full.
func TestTheRefereesFirstInvoiceToTheCent(t *testing.T) {
	type order struct {
		plan   string
		every  billing.Interval
		seats  int64
		unit   int64
		months int64
	}
	orders := []order{
		{"pro", billing.Month, 0, 999, 1}, {"pro", billing.Year, 0, 9990, 12}, {"slow", billing.Month, 0, 2700, 3},
		{"team", billing.Month, 3, 500, 1}, {"team", billing.Month, 7, 500, 1}, {"team", billing.Year, 3, 5000, 12}, {"team", billing.Year, 10, 5000, 12},
	}
	benefits := []referral.Benefit{
		{PercentOff: 50}, {PercentOff: 100}, {PercentOff: 33}, {PercentOff: 1}, {PercentOff: 50, Months: 2}, {PercentOff: 100, Months: 3}, {PercentOff: 25, Months: 12},
	}
	cases := 0
	for _, o := range orders {
		for _, b := range benefits {
			cases++
			t.Run(fmt.Sprintf("%s-%s-%d-%d%%x%d", o.plan, o.every, o.seats, b.PercentOff, b.Months), func(t *testing.T) {
				t.Parallel()
				c := friends()
				c.Referee = b
				s := newShop(t, c)
				s.refer(t, "bob")
				require.NoError(t, s.pay(context.Background(), "bob", billing.Order{Plan: o.plan, Interval: o.every, Seats: o.seats}))
				total := o.unit * max(o.seats, 1)
				// The months of the benefit that lie in the first invoice, as a
				// part of it, in whole cents, half a cent up.
				covered := min(max(b.Months, 1), o.months)
				off := (2*total*covered*b.PercentOff + 100*o.months) / (200 * o.months)
				require.Equal(t, []int64{total - off}, s.due(t, "bob"))
				if o.months == 1 && (o.plan == "pro" || b.Months > 1) {
					require.NoError(t, s.sim.Advance(context.Background(), 32*day))
					second := total
					if b.Months > 1 {
						second -= (2*total*b.PercentOff + 100) / 200
					}
					require.Equal(t, second, s.due(t, "bob")[1])
				}
			})
		}
	}
	require.GreaterOrEqual(t, cases, 49)
}

// "One free month" on every kind of price.
func TestTheReferrersRenewalsToTheCent(t *testing.T) {
	for _, tt := range []struct {
		name    string
		order   billing.Order
		rewards int
		days    int
		want    []int64
	}{
		{"monthly", billing.Order{Plan: "pro", Interval: billing.Month}, 1, 94, []int64{999, 0, 999, 999}},
		{"monthly, two", billing.Order{Plan: "pro", Interval: billing.Month}, 2, 94, []int64{999, 0, 0, 999}},
		{"monthly, three at once", billing.Order{Plan: "pro", Interval: billing.Month}, 3, 125, []int64{999, 0, 0, 0, 999}},
		{"none", billing.Order{Plan: "pro", Interval: billing.Month}, 0, 64, []int64{999, 999, 999}},
		{"yearly", billing.Order{Plan: "pro", Interval: billing.Year}, 1, 732, []int64{9990, 9990 - 833, 9990}},
		{"yearly, two: one for each renewal", billing.Order{Plan: "pro", Interval: billing.Year}, 2, 732, []int64{9990, 9990 - 833, 9990 - 833}},
		{"quarterly", billing.Order{Plan: "slow", Interval: billing.Month}, 1, 186, []int64{2700, 1800, 2700}},
		{"weekly", billing.Order{Plan: "pro", Interval: billing.Week}, 1, 38, []int64{120, 120, 120, 120, 120, 0}},
		{"three seats", billing.Order{Plan: "team", Interval: billing.Month, Seats: 3}, 1, 64, []int64{1500, 0, 1500}},
		{"seven seats", billing.Order{Plan: "team", Interval: billing.Month, Seats: 7}, 1, 64, []int64{3500, 0, 3500}},
		{"seven seats, yearly", billing.Order{Plan: "team", Interval: billing.Year, Seats: 7}, 1, 367, []int64{35000, 35000 - 2917}},
		{"after a trial", billing.Order{Plan: "try", Interval: billing.Month}, 1, 80, []int64{0, 1999, 0, 1999}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			ctx := context.Background()
			s := newShop(t, friends())
			require.NoError(t, s.pay(ctx, "ada", tt.order))
			for i := range tt.rewards {
				who := fmt.Sprint("friend", i)
				s.refer(t, who)
				require.NoError(t, s.pay(ctx, who, billing.Order{Plan: "pro", Interval: billing.Month}))
			}
			require.NoError(t, s.sim.Advance(ctx, time.Duration(tt.days)*day))
			require.Equal(t, tt.want, s.due(t, "ada"))
			ledger, err := s.referrals.Ledger(ctx, "ada")
			require.NoError(t, err)
			var granted, missing int64
			for _, e := range ledger {
				granted += e.Amount
			}
			account, err := s.billing.Account(ctx, "ada")
			require.NoError(t, err)
			for _, inv := range account.Invoices {
				missing += inv.Subtotal - inv.AmountPaid
			}
			require.Equal(t, missing, granted, "ledger ≡ Stripe")
		})
	}
}

func TestAMonthBesideAnotherDiscountAndAfterAPlanSwitch(t *testing.T) {
	ctx := context.Background()
	s := newShop(t, friends())
	// Half of the first three months, of another campaign.
	coupon, err := s.billing.Coupon(ctx, "spring", "Spring", 50, 3, billing.Money{})
	require.NoError(t, err)
	require.NoError(t, s.pay(ctx, "ada", billing.Order{Plan: "pro", Interval: billing.Month, CouponID: coupon}))
	s.refer(t, "bob")
	require.NoError(t, s.pay(ctx, "bob", billing.Order{Plan: "pro", Interval: billing.Month}))
	require.NoError(t, s.sim.Advance(ctx, 64*day))
	require.Equal(t, []int64{499, 0, 499}, s.due(t, "ada"), "what the other one takes off isn't given twice")
	ledger, err := s.referrals.Ledger(ctx, "ada")
	require.NoError(t, err)
	require.Equal(t, int64(499), ledger[0].Amount)

	s = newShop(t, friends())
	require.NoError(t, s.pay(ctx, "ada", billing.Order{Plan: "pro", Interval: billing.Month}))
	s.refer(t, "bob")
	require.NoError(t, s.pay(ctx, "bob", billing.Order{Plan: "pro", Interval: billing.Month}))
	require.NoError(t, s.sim.Advance(ctx, 5*day))
	_, err = s.billing.ChangePlan(ctx, "ada", billing.Order{Plan: "team", Interval: billing.Month, Seats: 4}, nil)
	require.NoError(t, err)
	require.NoError(t, s.sim.Advance(ctx, 27*day))
	ledger, err = s.referrals.Ledger(ctx, "ada")
	require.NoError(t, err)
	require.Equal(t, int64(2000), ledger[0].Amount, "a month of the plan of then")
}

func TestARefundWithinTheHoldAndAnEndTakeTheRewardBack(t *testing.T) {
	ctx := context.Background()
	s := newShop(t, friends())
	require.NoError(t, s.pay(ctx, "ada", billing.Order{Plan: "pro", Interval: billing.Month}))
	s.refer(t, "bob")
	require.NoError(t, s.pay(ctx, "bob", billing.Order{Plan: "pro", Interval: billing.Month}))
	_, err := s.billing.Cancel(ctx, "bob", billing.CancelOptions{Now: true})
	require.NoError(t, err)
	require.NoError(t, s.sim.Advance(ctx, 64*day))
	require.Equal(t, []int64{999, 999, 999}, s.due(t, "ada"))
}

// Stripe forgets idempotency keys after a day. The crash between its answer
// and our mark, retried after a minute, 25 hours, and 72: one grant. The same
// key alone, as the control, grants twice after it is forgotten.
func TestACrashBetweenStripesAnswerAndOurMarkGrantsOnce(t *testing.T) {
	ctx := context.Background()
	usd := billing.Money{Amount: 500, Currency: "USD"}
	for _, wait := range []time.Duration{time.Minute, 25 * time.Hour, 72 * time.Hour} {
		s := newShop(t, friends())
		require.NoError(t, s.pay(ctx, "ada", billing.Order{Plan: "pro", Interval: billing.Month}))
		for range 50 {
			_, err := s.billing.Credit(ctx, "rwd_1:grant", "ada", usd)
			require.NoError(t, err)
			// Nothing was marked: the process died.
		}
		require.NoError(t, s.sim.Advance(ctx, wait))
		_, err := s.billing.Credit(ctx, "rwd_1:grant", "ada", usd)
		require.NoError(t, err)
		credits := 0
		for _, e := range s.sim.Ledger("") {
			if e.Kind == stripesim.Balance {
				credits++
				require.Equal(t, int64(-500), e.Amount)
			}
		}
		require.Equal(t, 1, credits, "after %s", wait)
		taken, err := s.billing.Debit(ctx, "rwd_1:reverse", "ada", billing.Money{Amount: 800, Currency: "USD"})
		require.NoError(t, err)
		require.Equal(t, usd, taken, "no more than is there")
		taken, err = s.billing.Debit(ctx, "rwd_1:reverse", "ada", usd)
		require.NoError(t, err)
		require.Equal(t, usd, taken, "once")
		require.Equal(t, map[time.Duration]int{time.Minute: 1, 25 * time.Hour: 2, 72 * time.Hour: 2}[wait], keyAlone(t, wait))
	}
}

// keyAlone credits a customer, loses the answer, waits and tries again with the
// same idempotency key and nothing else. It returns how many credits there are.
func keyAlone(t *testing.T, wait time.Duration) (credits int) {
	ctx := t.Context()
	s := newShop(t, friends())
	require.NoError(t, s.pay(ctx, "ada", billing.Order{Plan: "pro", Interval: billing.Month}))
	gateway, err := billingstripe.New(billingstripe.Config{
		SecretKey: stripesim.DefaultSecretKey, WebhookSecrets: []string{"whsec_test"}, URL: s.server.URL, Now: s.sim.Now,
	})
	require.NoError(t, err)
	customer, err := gateway.FindCustomer(ctx, "ada")
	require.NoError(t, err)
	credit := func() {
		_, err := gateway.AddBalance(ctx, customer.ID, billing.Money{Amount: -500, Currency: "USD"}, "rwd_1:grant", "the-stable-key")
		require.NoError(t, err)
	}
	credit()
	require.NoError(t, s.sim.Advance(ctx, wait))
	credit()
	for _, e := range s.sim.Ledger("") {
		if e.Kind == stripesim.Balance {
			credits++
		}
	}
	return credits
}

// What is marked here and what Stripe has, after the marks were lost: Reconcile finds it in Stripe's metadata.
func TestReconcileOnStripe(t *testing.T) {
	ctx := context.Background()
	for name, benefit := range map[string]referral.Benefit{"months": {FreeMonths: 1}, "credit": {Credit: 700, Currency: "USD"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := friends()
			c.Referrer = benefit
			s := newShop(t, c)
			require.NoError(t, s.pay(ctx, "ada", billing.Order{Plan: "pro", Interval: billing.Month}))
			s.refer(t, "bob", "cleo")
			for _, who := range []string{"bob", "cleo"} {
				require.NoError(t, s.pay(ctx, who, billing.Order{Plan: "pro", Interval: billing.Month}))
			}
			require.NoError(t, s.sim.Advance(ctx, 33*day))
			_, err := s.referrals.Work(ctx)
			require.NoError(t, err)
			require.NoError(t, s.sim.Advance(ctx, 33*day))
			found, err := s.referrals.Reconcile(ctx)
			require.NoError(t, err)
			require.Empty(t, found, "ledger ≡ Stripe")
			stripe := func() (sum int64) {
				list, err := s.billing.Referenced(ctx, "ada")
				require.NoError(t, err)
				for _, r := range list {
					sum += r.Amount.Amount
				}
				return sum
			}
			given := stripe()
			require.Positive(t, given)

			// The marks are lost, as after a restored backup.
			rewards, err := s.referrals.Rewards(ctx, referral.RewardFilter{Account: "ada"})
			require.NoError(t, err)
			lost, err := referral.New(referralmem.New(), referral.Config{
				Pepper: bytes.Repeat([]byte("k"), 32), Campaigns: []referral.Campaign{c}, Biller: biller{s.billing}, Now: s.sim.Now,
			})
			require.NoError(t, err)
			// The codes are in the backup; what happened since is told again.
			text := codeOf(t, s)
			_, err = lost.Vanity(ctx, "friends", referral.Person{Account: "ada"}, text)
			require.NoError(t, err)
			for _, who := range []string{"bob", "cleo"} {
				_, err := lost.Redeem(ctx, text, referral.Person{Account: who})
				require.NoError(t, err)
				require.NoError(t, lost.HandlePaid(ctx, referral.Paid{ID: "in_" + who, Account: who, Amount: 499, Currency: "USD"}))
			}
			found, err = lost.Reconcile(ctx)
			require.NoError(t, err)
			require.NotEmpty(t, found)
			for _, d := range found {
				require.Equal(t, referral.DriftUnmarked, d.Kind)
				require.True(t, d.Repaired)
			}
			found, err = lost.Reconcile(ctx)
			require.NoError(t, err)
			require.Empty(t, found)
			again, err := lost.Rewards(ctx, referral.RewardFilter{Account: "ada"})
			require.NoError(t, err)
			var before, after int64
			for i := range rewards {
				before, after = before+rewards[i].Amount, after+again[i].Amount
			}
			require.Equal(t, before, after)
			require.Equal(t, given, after)
			require.Equal(t, given, stripe(), "nothing was granted again")
		})
	}
}

func codeOf(t *testing.T, s *shop) string {
	t.Helper()
	c, err := s.referrals.Code(context.Background(), "friends", referral.Person{Account: "ada"})
	require.NoError(t, err)
	return c.Text
}

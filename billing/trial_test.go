package billing_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/billing"
)

var trialKey = []byte(strings.Repeat("k", 32))

func onTrial(t *testing.T, r *simRig, account string) billing.Subscription {
	t.Helper()
	r.checkOut(account, checkoutOf("business"), "4242 4242 4242 4242")
	sub, err := r.svc.Subscription(r.ctx, account)
	require.NoError(t, err)
	require.Equal(t, billing.StatusTrialing, sub.Status)
	return sub
}

func TestATrialIsExtendedOnceForEachReason(t *testing.T) {
	r := newSimRig(t)
	sub := onTrial(t, r, "alice")
	why, until := r.why(), sub.TrialEnd.AddDate(0, 0, 10)
	for range 3 {
		got, err := r.svc.ExtendTrial(r.ctx, "alice", until, why)
		require.NoError(t, err)
		require.Equal(t, until, got.TrialEnd)
	}
	_, err := r.svc.ExtendTrial(r.ctx, "alice", until.AddDate(0, 0, 1), why)
	require.ErrorIs(t, err, billing.ErrInvalid, "one key for two things")
	require.ErrorContains(t, err, "trial extended to")
	for _, bad := range []time.Time{until, until.Add(-time.Hour), r.sim.Now().AddDate(3, 0, 0)} {
		_, err := r.svc.ExtendTrial(r.ctx, "alice", bad, r.why())
		require.ErrorIs(t, err, billing.ErrInvalid, bad)
	}
	_, err = r.svc.ExtendTrial(r.ctx, "alice", until.AddDate(0, 0, 1), billing.Audit{Key: "k", By: "ada"})
	require.ErrorContains(t, err, "reason")
	_, err = r.svc.ExtendTrial(r.ctx, "bob", until, r.why())
	require.ErrorIs(t, err, billing.ErrNoSubscription)

	a, err := r.svc.Account(r.ctx, "alice")
	require.NoError(t, err)
	require.Len(t, a.Adjustments, 1)
	require.Equal(t, why, a.Adjustments[0].Audit)
	moments, err := r.svc.Timeline(r.ctx, "alice", 100)
	require.NoError(t, err)
	var told []string
	for _, m := range moments {
		if m.Source == "by hand" {
			told = append(told, m.What+", "+m.Detail)
		}
	}
	require.Equal(t, []string{"trial extended to 2026-02-24T12:00:00Z, by admin:ada: apology"}, told)

	// The trial lasts to its new end, is announced before that, and is charged.
	r.pass(20 * day)
	require.Equal(t, billing.ReasonTrialing, r.access("alice").Reason)
	require.Empty(t, r.noticesOf(billing.KindTrialEnded))
	r.pass(5 * day)
	require.Len(t, r.noticesOf(billing.KindTrialEnding), 1, "told once, for the new end: nobody was told of the old one")
	require.Len(t, r.noticesOf(billing.KindTrialEnded), 1)
	require.Equal(t, billing.ReasonActive, r.access("alice").Reason)
	require.Equal(t, []int64{3000}, r.moved("alice"))
	_, err = r.svc.ExtendTrial(r.ctx, "alice", r.sim.Now().AddDate(0, 1, 0), r.why())
	require.ErrorIs(t, err, billing.ErrInvalid, "it is over")
}

func TestATrialIsConvertedNow(t *testing.T) {
	r := newSimRig(t)
	onTrial(t, r, "alice")
	r.pass(day)
	sub, err := r.svc.ConvertTrial(r.ctx, "alice")
	require.NoError(t, err)
	require.Equal(t, billing.StatusActive, sub.Status)
	require.Equal(t, []int64{3000}, r.moved("alice"))
	_, err = r.svc.ConvertTrial(r.ctx, "alice")
	require.ErrorIs(t, err, billing.ErrInvalid)
	r.settle()
	require.Len(t, r.noticesOf(billing.KindTrialEnded), 1)

	// Where the card is declined, nothing changes.
	r.checkOut("bob", checkoutOf("business"), "4000 0000 0000 0341")
	_, err = r.svc.ConvertTrial(r.ctx, "bob")
	require.ErrorIs(t, err, billing.ErrDeclined)
	require.Equal(t, billing.ReasonTrialing, r.access("bob").Reason)
}

func TestTrialNoticesComeWhenTheyAreToldTo(t *testing.T) {
	r := newSimRig(t, func(c *billing.Config) { c.TrialNotice = 7 * day })
	onTrial(t, r, "alice")
	r.pass(6 * day)
	require.Empty(t, r.noticesOf(billing.KindTrialEnding))
	r.pass(2 * day)
	require.Len(t, r.noticesOf(billing.KindTrialEnding), 1)
	r.pass(4 * day)
	require.Len(t, r.noticesOf(billing.KindTrialEnding), 1, "Stripe's own tells nothing new")
}

func TestATrialWithoutACardIsPausedAtItsEnd(t *testing.T) {
	r := newSimRig(t)
	o := checkoutOf("business")
	o.TrialWithoutCard = true
	r.checkOut("alice", o, "")
	require.Equal(t, billing.ReasonTrialing, r.access("alice").Reason)
	r.pass(15 * day)
	require.Equal(t, billing.ReasonPaused, r.access("alice").Reason)
	require.Equal(t, "free", r.access("alice").Plan)
	require.Empty(t, r.moved("alice"))

	_, err := r.svc.Unpause(r.ctx, "alice")
	require.Error(t, err, "there is nothing to charge yet")
	pm := r.card("alice", "visa")
	_, err = r.svc.UsePaymentMethod(r.ctx, "alice", pm)
	require.NoError(t, err)
	r.pass(time.Hour)
	_, err = r.svc.Unpause(r.ctx, "alice")
	require.NoError(t, err)
	r.settle()
	require.Equal(t, billing.ReasonActive, r.access("alice").Reason)
	require.Equal(t, []int64{3000}, r.moved("alice"))
	require.Len(t, r.noticesOf(billing.KindSubscriptionUnpaused), 1)

	// By a call, too, a trial needs no card.
	got, err := r.svc.Subscribe(r.ctx, "bob", billing.Order{Plan: "business", TrialWithoutCard: true})
	require.NoError(t, err)
	require.Equal(t, billing.StatusTrialing, got.Subscription.Status)
	r.pass(16 * day)
	require.Equal(t, billing.ReasonPaused, r.access("bob").Reason)
}

func TestACardHasOneTrial(t *testing.T) {
	const visa, mastercard = "4242 4242 4242 4242", "5555 5555 5555 4444"
	for name, again := range map[string]billing.TrialAgain{"refused": billing.RefuseTrial, "charged": billing.ChargeTrial} {
		t.Run(name, func(t *testing.T) {
			r := newSimRig(t, func(c *billing.Config) { c.TrialCardKey, c.TrialAgain = trialKey, again })
			r.checkOut("alice", checkoutOf("business"), visa)
			require.Equal(t, billing.ReasonTrialing, r.access("alice").Reason)
			r.checkOut("carol", checkoutOf("business"), mastercard)
			require.Equal(t, billing.ReasonTrialing, r.access("carol").Reason)

			// On the gateway's page the card is seen afterwards.
			r.checkOut("bob", checkoutOf("business"), visa)
			r.settle()
			require.Len(t, r.noticesOf(billing.KindTrialRefused), 1)
			if again == billing.ChargeTrial {
				require.Equal(t, billing.ReasonActive, r.access("bob").Reason)
				require.Equal(t, []int64{3000}, r.moved("bob"))
			} else {
				require.Equal(t, billing.ReasonCanceled, r.access("bob").Reason)
				require.Empty(t, r.moved("bob"))
			}
			require.Equal(t, billing.ReasonTrialing, r.access("alice").Reason)

			// By a call, before.
			pm := r.card("dave", "visa")
			got, err := r.svc.Subscribe(r.ctx, "dave", billing.Order{Plan: "business", PaymentMethod: pm})
			if again == billing.ChargeTrial {
				require.NoError(t, err)
				require.Equal(t, billing.StatusIncomplete, got.Subscription.Status)
				require.Equal(t, int64(3000), got.Invoice.AmountDue)
			} else {
				require.ErrorIs(t, err, billing.ErrTrialUsed)
				var used *billing.TrialUsedError
				require.ErrorAs(t, err, &used)
				require.True(t, used.Card)
			}

			// A card that can't be charged gets nothing for nothing either.
			r.checkOut("eve", checkoutOf("business"), "4000 0000 0000 0341")
			require.Equal(t, billing.ReasonTrialing, r.access("eve").Reason, "its first time")
			r.checkOut("mallory", checkoutOf("business"), "4000 0000 0000 0341")
			r.settle()
			require.Equal(t, billing.ReasonCanceled, r.access("mallory").Reason)
			require.Empty(t, r.moved("mallory"))

			// What is kept of a card is a keyed hash, it is exported, and it
			// outlives the person without a name.
			claims, err := r.store.Claims(r.ctx, "alice")
			require.NoError(t, err)
			require.Len(t, claims, 1)
			require.Regexp(t, `^trial:[0-9a-f]{64}$`, claims[0].Name)
			exported := 0
			require.NoError(t, r.svc.ExportSubject(r.ctx, "alice", func(record string, _ map[string]any) error {
				if record == "claim" {
					exported++
				}
				return nil
			}))
			require.Equal(t, 1, exported)
			_, err = r.svc.EraseSubject(r.ctx, "alice")
			require.NoError(t, err)
			left, err := r.store.Claims(r.ctx, "alice")
			require.NoError(t, err)
			require.Empty(t, left)
			holder, err := r.store.Claim(r.ctx, claims[0].Name, "frank", r.sim.Now())
			require.NoError(t, err)
			require.NotEqual(t, "frank", holder)
			require.NotEqual(t, "alice", holder)
		})
	}
	r := newSimRig(t)
	_, err := billing.New(flowPlans(t), r.store, r.stripe, billing.Config{TrialCardKey: []byte("short")})
	require.ErrorContains(t, err, "TrialCardKey")
	mem := newRig(t)
	_, err = billing.New(flowPlans(t), r.store, mem.gateway, billing.Config{TrialCardKey: trialKey})
	require.ErrorIs(t, err, billing.ErrUnsupported)
}

func TestACompIsAPlanForNothing(t *testing.T) {
	r := newSimRig(t)
	until, why := r.sim.Now().AddDate(0, 1, 0), r.why()
	for range 2 {
		d, err := r.svc.Comp(r.ctx, "alice", "business", until, why)
		require.NoError(t, err)
		require.Equal(t, "business", d.Plan)
		require.Equal(t, billing.ReasonComp, d.Reason)
		require.False(t, d.Paid)
		require.Equal(t, until, d.Until)
	}
	_, err := r.svc.Comp(r.ctx, "alice", "pro", until, why)
	require.ErrorIs(t, err, billing.ErrInvalid)
	_, err = r.svc.Comp(r.ctx, "alice", "gold", until, r.why())
	require.ErrorIs(t, err, billing.ErrUnknownPlan)
	_, err = r.svc.Comp(r.ctx, "alice", "pro", r.sim.Now(), r.why())
	require.ErrorIs(t, err, billing.ErrInvalid)

	// Beside a subscription, what allows more is at work.
	r.paidFor("alice2", "pro", 0)
	d, err := r.svc.Comp(r.ctx, "alice2", "business", until, r.why())
	require.NoError(t, err)
	require.Equal(t, "business", d.Plan)
	d, err = r.svc.Comp(r.ctx, "alice2", "free", until, r.why())
	require.NoError(t, err)
	require.Equal(t, "pro", d.Plan)
	require.True(t, d.Paid)

	_, err = r.svc.Comp(r.ctx, "alice", "", time.Time{}, r.why())
	require.NoError(t, err)
	require.Equal(t, "free", r.access("alice").Plan)
	_, err = r.svc.Comp(r.ctx, "alice", "business", until, r.why())
	require.NoError(t, err)
	r.pass(32 * day)
	require.Equal(t, "free", r.access("alice").Plan)
}

func TestACreditByHandIsGrantedOnce(t *testing.T) {
	r := newSimRig(t)
	why, ten := r.why(), billing.Money{Amount: 1000, Currency: "USD"}
	var first billing.BalanceEntry
	for i := range 3 {
		got, err := r.svc.GrantCredit(r.ctx, "alice", ten, why)
		require.NoError(t, err)
		if i == 0 {
			first = got
		}
		require.Equal(t, first.ID, got.ID)
		r.pass(25 * time.Hour) // the gateway has forgotten the key
	}
	require.Equal(t, []int64{-1000}, r.moved("alice"))
	_, err := r.svc.GrantCredit(r.ctx, "alice", billing.Money{Amount: 1, Currency: "USD"}, why)
	require.ErrorIs(t, err, billing.ErrInvalid)
	_, err = r.svc.GrantCredit(r.ctx, "alice", billing.Money{Amount: -1, Currency: "USD"}, r.why())
	require.ErrorIs(t, err, billing.ErrInvalid)
	a, err := r.svc.Account(r.ctx, "alice")
	require.NoError(t, err)
	require.Equal(t, billing.Money{Amount: -1000, Currency: "USD"}, a.Balance)
	require.Len(t, a.Adjustments, 1)
	require.Equal(t, ten, a.Adjustments[0].Amount)
	require.Empty(t, a.Intents)
}

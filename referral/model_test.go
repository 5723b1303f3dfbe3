package referral_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/kolekt/commerce/referral"
)

// friend is a redemption as the model knows it.
type friend struct {
	state             referral.RedemptionState
	created, changed  time.Time
	closes, vests     time.Time
	paid, refunded    int64
	credit, months    int64 // the referrer's benefit
	granted           int64 // months that reached an invoice
	invoices          map[string]bool
	endedBeforeVested bool
}

// net is what the referrer deserves for a friend, in the end: the benefit less
// the part of it that the friend got back of the payment. Free months count
// when they reached an invoice, and fall with half of the payment.
func (f *friend) net(monthly int64) int64 {
	if f.endedBeforeVested || f.paid == 0 || f.state == referral.RedemptionReview {
		return 0
	}
	whole := f.credit
	if f.months > 0 {
		whole = f.granted * monthly
		if 2*f.refunded < f.paid {
			return whole
		}
	}
	return whole - (2*whole*f.refunded+f.paid)/(2*f.paid) // half a cent up
}

// model is what should become of a history: whole numbers and a clock.
type model struct {
	campaign referral.Campaign
	friends  map[string]*friend
	order    []*friend
	now      time.Time
}

func (m *model) redeem(who string, review bool) error {
	if m.friends[who] != nil {
		return nil
	}
	if int64(len(m.order)) >= m.campaign.MaxUses {
		return referral.ErrExhausted
	}
	if int64(len(m.order)) >= m.campaign.PerReferrer {
		return referral.ErrCapped
	}
	if int64(len(m.order)+1)*m.campaign.Cost > m.campaign.Budget {
		return referral.ErrBudget
	}
	f := &friend{state: referral.RedemptionPending, created: m.now, closes: m.now.Add(90 * day), invoices: map[string]bool{}}
	if review {
		f.state = referral.RedemptionReview
	}
	m.friends[who] = f
	m.order = append(m.order, f)
	return nil
}

func (m *model) pay(f *friend, amount int64) {
	if f == nil || amount == 0 || f.state != referral.RedemptionPending && f.state != referral.RedemptionReview {
		return
	}
	if f.paid == 0 {
		f.paid, f.refunded = amount, min(f.refunded, amount)
	}
	if f.state == referral.RedemptionPending {
		m.qualify(f)
	}
}

func (m *model) qualify(f *friend) {
	f.changed = m.now
	if f.refunded == f.paid {
		f.state, f.endedBeforeVested = referral.RedemptionVoided, true
		return
	}
	f.state, f.vests = referral.RedemptionQualified, m.now.Add(30*day)
	nth := int64(0)
	for _, o := range m.order {
		if o.state == referral.RedemptionQualified {
			nth++
		}
	}
	b := m.campaign.Referrer
	for _, t := range m.campaign.Tiers {
		if nth >= t.From {
			b = t.Benefit
		}
	}
	f.credit, f.months = b.Credit, b.FreeMonths
}

// refund is told of before anything is tried: done says whether all of it was.
func (m *model) refund(f *friend, amount int64, done bool) {
	if f == nil || f.state == referral.RedemptionVoided {
		return
	}
	f.refunded = max(f.refunded, amount)
	if f.paid == 0 {
		return
	}
	f.refunded = min(f.refunded, f.paid)
	if f.refunded == f.paid && done {
		if f.state != referral.RedemptionQualified {
			f.endedBeforeVested = true
		}
		f.state = referral.RedemptionVoided
	}
}

// draft gives the oldest free month that is due.
func (m *model) draft(invoice string) {
	for _, f := range m.order {
		if f.invoices[invoice] {
			return
		}
	}
	for _, f := range m.order {
		if f.state == referral.RedemptionQualified && f.granted < f.months && !f.vests.After(m.now) && 2*f.refunded < f.paid {
			f.granted++
			f.invoices[invoice] = true
			return
		}
	}
}

func (m *model) work() {
	for _, f := range m.order {
		if f.state == referral.RedemptionPending && f.closes.Before(m.now) {
			f.state, f.endedBeforeVested = referral.RedemptionVoided, true
		}
	}
}

func (m *model) stop(f *friend, to referral.RedemptionState) {
	if f == nil || f.state != referral.RedemptionQualified || !m.now.Before(f.changed.Add(30*day)) {
		return
	}
	f.state, f.changed = to, m.now
	f.endedBeforeVested = to == referral.RedemptionVoided
}

func (m *model) approve(f *friend) {
	switch {
	case f == nil || f.state != referral.RedemptionReview:
	case f.paid > 0:
		m.qualify(f)
	default:
		f.state, f.changed, f.closes = referral.RedemptionPending, m.now, m.now.Add(90*day)
	}
}

func (m *model) reject(f *friend) {
	if f != nil && f.state == referral.RedemptionReview {
		f.state, f.endedBeforeVested = referral.RedemptionVoided, true
	}
}

// Whatever happens, in whatever order and however often: what was granted less
// what was taken back is what a model of whole numbers says is deserved, reward
// by reward; it is what the ledger says; the provider has given just that, and
// what is carried; no cap is exceeded.
func TestWhatIsGrantedIsWhatIsDeservedForRandomHistories(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		ctx := context.Background()
		c := friends()
		c.MaxUses = rapid.Int64Range(1, 6).Draw(rt, "uses")
		c.PerReferrer = rapid.Int64Range(1, 6).Draw(rt, "cap")
		c.Budget, c.Cost = rapid.Int64Range(300, 2000).Draw(rt, "budget"), 300
		benefits := []referral.Benefit{{Credit: 700, Currency: "USD"}, {FreeMonths: 1}, {FreeMonths: 3}, {Credit: 333, Currency: "USD"}}
		c.Referrer = rapid.SampledFrom(benefits).Draw(rt, "benefit")
		if rapid.Bool().Draw(rt, "tiers") {
			c.Tiers = []referral.Tier{
				{From: 2, Benefit: rapid.SampledFrom(benefits).Draw(rt, "second")}, {From: 4, Benefit: rapid.SampledFrom(benefits).Draw(rt, "fourth")},
			}
		}
		w := newWorld(t, c)
		w.config.Guards = []referral.Guard{func(_ context.Context, _ referral.Code, p referral.Person) (referral.Verdict, error) {
			return referral.Verdict{Review: p.Account == "f1" || p.Account == "f3", Reason: "odd"}, nil
		}}
		w.rebuild()
		m := &model{campaign: c, friends: map[string]*friend{}}
		code := w.code("ada")
		ids := map[string]string{}
		var undelivered []referral.Refunded // billing brings what failed again
		step := func(what int, who string) {
			w.now = w.now.Add(time.Second)
			m.now = w.now
			f := m.friends[who]
			var err error
			switch what {
			case 0:
				var r referral.Redemption
				r, err = w.service.Redeem(ctx, code, referral.Person{Account: who})
				want := m.redeem(who, who == "f1" || who == "f3")
				require.ErrorIs(rt, err, want)
				if err == nil {
					ids[who] = r.ID
				}
				err = nil
			case 1:
				amount := rapid.SampledFrom([]int64{0, 999, 1000}).Draw(rt, "amount")
				err = w.service.HandlePaid(ctx, referral.Paid{ID: "in_" + who, Account: who, Amount: amount, Currency: "USD"})
				m.pay(f, amount)
			case 2, 3:
				part := rapid.SampledFrom([]int64{1, 100, 400, 499, 500, 700, 999, 1500}).Draw(rt, "refund")
				r := referral.Refunded{ID: fmt.Sprint("re_", part), Account: who, Invoice: "in_" + who, Amount: part, Currency: "USD"}
				if err = w.service.HandleRefunded(ctx, r); err != nil {
					undelivered = append(undelivered, r)
				}
				m.refund(f, part, err == nil)
			case 4, 5:
				invoice := fmt.Sprint("in_", rapid.IntRange(0, 9).Draw(rt, "invoice"))
				underWay := false
				for _, rw := range w.rewards("ada") {
					underWay = underWay || rw.Call != nil
				}
				err = w.service.HandleDraft(ctx, referral.Draft{Invoice: invoice, Account: "ada", Currency: rapid.SampledFrom([]string{"", "USD"}).Draw(rt, "currency")})
				if !underWay || !w.biller.down && !w.biller.lost {
					m.draft(invoice)
				}
			case 6, 7:
				w.now = w.now.Add(time.Duration(rapid.IntRange(1, 40).Draw(rt, "days")) * day)
				m.now = w.now
				_, err = w.service.Work(ctx)
				m.work()
			case 8:
				err = w.service.HandleEnded(ctx, who)
				m.stop(f, referral.RedemptionVoided)
			case 9:
				err = w.service.HandleDisputed(ctx, who)
				m.stop(f, referral.RedemptionReview)
			case 10:
				if id := ids[who]; id != "" {
					if _, err = w.service.Approve(ctx, id); errors.Is(err, referral.ErrConflict) {
						err = nil
					}
					m.approve(f)
				}
			case 11:
				if id := ids[who]; id != "" {
					if _, err = w.service.Reject(ctx, id, "no"); errors.Is(err, referral.ErrConflict) {
						err = nil
					}
					m.reject(f)
				}
			case 12:
				// Ada's invoice eats some of her credit.
				w.biller.balance["ada"] -= min(w.biller.balance["ada"], rapid.Int64Range(0, 900).Draw(rt, "spent"))
			}
			if err != nil && !errors.Is(err, errDown) {
				rt.Fatalf("unexpected: %v", err)
			}
		}
		for range rapid.IntRange(1, 60).Draw(rt, "steps") {
			w.biller.down = rapid.IntRange(0, 7).Draw(rt, "down") == 0
			w.biller.lost = rapid.IntRange(0, 7).Draw(rt, "lost") == 0
			step(rapid.IntRange(0, 12).Draw(rt, "step"), fmt.Sprint("f", rapid.IntRange(0, 6).Draw(rt, "friend")))
		}
		// The provider is back: what was cut short is repeated.
		w.biller.down, w.biller.lost = false, false
		for _, r := range undelivered {
			require.NoError(rt, w.service.HandleRefunded(ctx, r))
			m.refund(m.friends[r.Account], r.Amount, true)
		}
		for range 3 {
			step(6, "")
		}
		w.now = w.now.Add(40 * day)
		m.now = w.now
		_, err := w.service.Work(ctx)
		require.NoError(rt, err)
		m.work()
		step(4, "")

		var deserved, granted int64
		for who, f := range m.friends {
			r, err := w.service.Redemption(ctx, ids[who])
			require.NoError(rt, err)
			require.Equal(rt, f.state, r.State, who)
			require.Equal(rt, f.refunded, r.Refunded, who)
			rw, err := w.store.Reward(ctx, ids[who], referral.Referrer)
			require.NoError(rt, err)
			require.Nil(rt, rw.Call)
			require.Equal(rt, f.net(w.biller.monthly), rw.Amount-rw.Reversed, "%s: %+v\n%+v", who, f, rw)
			deserved += f.net(w.biller.monthly)
			granted += rw.Amount - rw.Reversed
		}
		ledger, err := w.service.Ledger(ctx, "ada")
		require.NoError(rt, err)
		net, carry := money(ledger)
		require.Equal(rt, deserved, granted)
		require.Equal(rt, deserved, net, "the ledger")
		require.GreaterOrEqual(rt, carry, int64(0))
		require.Equal(rt, net+carry, w.biller.given("ada"), "the provider")
		list, err := w.service.Redemptions(ctx, referral.RedemptionFilter{Limit: 1000})
		require.NoError(rt, err)
		require.LessOrEqual(rt, int64(len(list)), min(c.MaxUses, c.PerReferrer, c.Budget/c.Cost))
		found, err := w.service.Reconcile(ctx)
		require.NoError(rt, err)
		require.Empty(rt, found, "nothing to reconcile")
	})
}

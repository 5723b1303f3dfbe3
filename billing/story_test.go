package billing_test

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/billing"
	"github.com/kolekt/commerce/billing/billingstripe"
	"github.com/kolekt/commerce/billing/stripesim"
)

// teller tells a year of an account: what the person does, what the gateway's
// clock brings, and what goes wrong meanwhile. Whoever is refused or left
// without an answer asks again, as people and Run do.
type teller struct {
	*simRig
	faults     []stripesim.Fault // of each month
	reconciled time.Time
}

const patience = 40

func newTeller(t *testing.T, faults []stripesim.Fault) *teller {
	r := newSimRig(t)
	tl := &teller{simRig: r, faults: faults}
	r.stripe = flowGateway(t, r.sim, func(c *billingstripe.Config) { c.Timeout = 5 * time.Second })
	r.svc = r.serviceOn(r.store, r.stripe, func(c *billing.Config) { c.Seats = billing.SeatPolicy{Grow: true, Debounce: -1} })
	handler := r.svc.Webhook()
	r.webhook.Store(&handler)
	return tl
}

// do asks until there is an answer.
func (tl *teller) do(what func() error) {
	tl.t.Helper()
	var err error
	for range patience {
		if err = what(); err == nil {
			return
		}
		var retryable interface{ Retryable() bool }
		if !errors.As(err, &retryable) && !errors.Is(err, billing.ErrUnavailable) && !errors.Is(err, billing.ErrUnknownOutcome) {
			break
		}
	}
	require.NoError(tl.t, err)
}

// month injects the faults anew.
func (tl *teller) month() { tl.sim.Inject(tl.faults...) }

// to moves the clock to an instant in steps of two days, each with the work that
// Run does all the time. What fails in one pass is done in a later one: there
// are as many in every story.
func (tl *teller) to(at time.Time) {
	tl.t.Helper()
	for now := tl.sim.Now(); now.Before(at); now = tl.sim.Now() {
		next := now.Add(2 * day)
		if next.After(at) {
			next = at
		}
		if next.Month() != now.Month() {
			tl.month()
		}
		require.NoError(tl.t, tl.sim.AdvanceTo(tl.t.Context(), next))
		tl.work()
	}
}

func (tl *teller) days(n int) { tl.to(tl.sim.Now().AddDate(0, 0, n)) }

// work is what Run does within some minutes: handle what came, and, every few
// days, look for what didn't.
func (tl *teller) work() {
	tl.t.Helper()
	for range 3 {
		require.NoError(tl.t, tl.sim.Settle(tl.ctx))
		if _, err := tl.svc.ProcessPending(tl.ctx); err == nil {
			break
		}
	}
	if now := tl.sim.Now(); now.Sub(tl.reconciled) > 5*day {
		tl.reconciled = now
		for range patience {
			if _, err := tl.svc.Reconcile(tl.ctx); err == nil {
				break
			}
		}
	}
}

// call is the customer's client, which tries again with the same key.
func (tl *teller) call(method, path string, fields ...string) map[string]any {
	tl.t.Helper()
	form, key := url.Values{}, rand.Text()
	for _, f := range fields {
		name, value, _ := strings.Cut(f, "=")
		form.Add(name, value)
	}
	for range patience {
		req, err := http.NewRequestWithContext(tl.t.Context(), method, tl.sim.URL+path, strings.NewReader(form.Encode()))
		require.NoError(tl.t, err)
		req.Header.Set("Authorization", "Bearer "+stripesim.DefaultSecretKey)
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		req.Header.Set("Idempotency-Key", key)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			continue
		}
		raw, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil || res.StatusCode == http.StatusTooManyRequests || res.StatusCode >= 500 {
			continue
		}
		require.Equal(tl.t, http.StatusOK, res.StatusCode, "%s %s: %s", method, path, raw)
		var out map[string]any
		require.NoError(tl.t, json.Unmarshal(raw, &out))
		return out
	}
	require.Fail(tl.t, "no answer", "%s %s", method, path)
	return nil
}

// card brings a card that is charged from now on. What it pays at once is told
// by the story.
func (tl *teller) card(token string) (pm string) {
	tl.t.Helper()
	tl.do(func() error {
		setup, err := tl.svc.SetupPayment(tl.ctx, "alice")
		if err == nil {
			pm = tl.call("POST", "/v1/setup_intents/"+setup.ID+"/confirm", "payment_method=pm_card_"+token)["payment_method"].(string)
		}
		return err
	})
	tl.do(func() error { _, err := tl.svc.UsePaymentMethod(tl.ctx, "alice", pm); return err })
	return pm
}

// buy pays on the gateway's page.
func (tl *teller) buy(o billing.CheckoutOrder) {
	tl.t.Helper()
	var page billing.Checkout
	tl.do(func() (err error) { page, err = tl.svc.Checkout(tl.ctx, "alice", o); return err })
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	form := url.Values{"do": {"pay"}, "email": {"alice@example.com"}, "name": {"Alice"}, "exp": {"12/40"}, "cvc": {"123"}, "number": {"4242424242424242"}}
	res, err := client.PostForm(page.URL, form)
	require.NoError(tl.t, err)
	require.NoError(tl.t, res.Body.Close())
	require.Equal(tl.t, http.StatusSeeOther, res.StatusCode)
	tl.do(func() error { _, _, err := tl.svc.SyncCheckout(tl.ctx, "alice", page.ID); return err })
	tl.work()
}

func (tl *teller) sub() billing.Subscription {
	tl.t.Helper()
	sub, err := tl.svc.Subscription(tl.ctx, "alice")
	require.NoError(tl.t, err)
	return sub
}

// plan is what the account may use.
func (tl *teller) plan(want string) {
	tl.t.Helper()
	require.Equal(tl.t, want, tl.access("alice").Plan)
}

func date(month time.Month, d int) time.Time { return time.Date(2026, month, d, 12, 0, 0, 0, time.UTC) }

// stories begin on 31 January 2026 and end a year later.
var stories = map[string]func(*teller){
	"trial, paid, upgrade, failed, recovered, downgrade, cancel, return": func(tl *teller) {
		tl.buy(checkoutOf("business"))
		require.Equal(tl.t, billing.ReasonTrialing, tl.access("alice").Reason)
		tl.do(func() error {
			_, err := tl.svc.ExtendTrial(tl.ctx, "alice", date(time.February, 21), billing.Audit{Key: "k", By: "ada", Reason: "asked nicely"})
			return err
		})
		tl.to(date(time.February, 10)) // in a trial even less takes effect at once
		tl.do(func() error {
			_, err := tl.svc.ChangePlan(tl.ctx, "alice", billing.Order{Plan: "pro"}, nil)
			return err
		})
		tl.plan("pro")
		tl.to(date(time.March, 10))
		tl.do(func() error {
			_, err := tl.svc.ChangePlan(tl.ctx, "alice", billing.Order{Plan: "business"}, nil)
			return err
		})
		tl.plan("business")
		tl.to(date(time.March, 15))
		tl.card("chargeCustomerFail")
		tl.to(date(time.March, 23)) // tried on the 21st, and again on the 24th
		require.Equal(tl.t, billing.ReasonGrace, tl.access("alice").Reason)
		tl.card("visa")
		require.Equal(tl.t, billing.ReasonActive, tl.access("alice").Reason)
		tl.to(date(time.June, 10))
		tl.do(func() error {
			_, err := tl.svc.ChangePlan(tl.ctx, "alice", billing.Order{Plan: "pro"}, nil)
			return err
		})
		tl.plan("business") // it is paid for until the 21st
		require.Equal(tl.t, "pro", tl.sub().Scheduled.Plan)
		tl.to(date(time.July, 30))
		tl.plan("pro")
		tl.do(func() error {
			_, err := tl.svc.Cancel(tl.ctx, "alice", billing.CancelOptions{Reason: "unused"})
			return err
		})
		tl.to(date(time.August, 10))
		tl.do(func() error { _, err := tl.svc.Resume(tl.ctx, "alice"); return err })
		tl.do(func() error { _, err := tl.svc.Cancel(tl.ctx, "alice", billing.CancelOptions{}); return err })
		tl.to(date(time.September, 10))
		tl.plan("free")
		tl.buy(checkoutOf("pro"))
		tl.plan("pro")
	},
	"seats": func(tl *teller) {
		o := checkoutOf("team")
		o.NoTrial, o.Seats = true, 3
		tl.buy(o)
		for month := time.February; month <= time.June; month++ {
			tl.to(date(month, 10))
			tl.do(func() error { _, err := tl.svc.AssignSeat(tl.ctx, "alice", month.String()); return err })
			tl.work()
		}
		tl.to(date(time.August, 1))
		tl.do(func() error { _, err := tl.svc.ReleaseSeat(tl.ctx, "alice", "March"); return err })
		tl.do(func() error { _, err := tl.svc.SetSeats(tl.ctx, "alice", 8); return err })
		tl.work()
		tl.to(date(time.October, 3))
		tl.do(func() error { _, err := tl.svc.SetSeats(tl.ctx, "alice", 4); return err })
		tl.days(8) // whoever met a fault comes again
		seats, err := tl.svc.Seats(tl.ctx, "alice")
		require.NoError(tl.t, err)
		require.EqualValues(tl.t, 4, seats.Paid)
		require.EqualValues(tl.t, 4, seats.Taken)
	},
	"coupons, credit and a promotion code": func(tl *teller) {
		var coupon string
		tl.do(func() (err error) {
			coupon, err = tl.svc.Coupon(tl.ctx, "welcome", "Half", 50, 3, billing.Money{})
			return err
		})
		o := checkoutOf("pro")
		o.CouponID = coupon
		tl.buy(o)
		tl.to(date(time.June, 2))
		for range 2 {
			tl.do(func() error { _, err := tl.svc.Credit(tl.ctx, "friend", "alice", usd(1234)); return err })
		}
		tl.to(date(time.September, 2))
		tl.do(func() error { _, err := tl.svc.Debit(tl.ctx, "friend left", "alice", usd(5000)); return err })
		tl.do(func() error { _, err := tl.svc.Cancel(tl.ctx, "alice", billing.CancelOptions{Now: true}); return err })
		tl.call("POST", "/v1/coupons", "id=SPRING", "percent_off=20", "duration=forever")
		tl.call("POST", "/v1/promotion_codes", "coupon=SPRING", "code=SPRING20")
		o = checkoutOf("business")
		o.NoTrial, o.PromotionCode = true, "SPRING20"
		tl.buy(o)
	},
	"metered": func(tl *teller) {
		tl.buy(checkoutOf("pro"))
		tl.days(1)
		tl.call("POST", "/v1/billing/meters", "display_name=Calls", "event_name=calls", "default_aggregation[formula]=sum")
		meter := tl.api("GET", "/v1/billing/meters")["data"].([]any)[0].(map[string]any)["id"].(string)
		price := tl.call("POST", "/v1/prices", "currency=usd", "unit_amount=3", "product_data[name]=Calls", "recurring[interval]=month", "recurring[usage_type]=metered", "recurring[meter]="+meter)["id"].(string)
		tl.call("POST", "/v1/subscriptions/"+tl.sub().ID, "items[0][price]="+price, "proration_behavior=none")
		for month := time.February; month <= time.December; month++ {
			tl.to(date(month, 12))
			tl.call("POST", "/v1/billing/meter_events", "event_name=calls", "identifier="+month.String(),
				"payload[stripe_customer_id]="+tl.customer("alice"), "payload[value]="+fmt.Sprint(int(month)*7))
		}
	},
	"refund, credit note and pause": func(tl *teller) {
		tl.buy(checkoutOf("pro"))
		refund := func(key string, o billing.RefundOrder) {
			tl.do(func() error {
				list, _, err := tl.svc.Invoices(tl.ctx, "alice")
				if err != nil {
					return err
				}
				if o.InvoiceID == "" {
					o.InvoiceID = list[0].ID
				}
				_, err = tl.svc.Refund(tl.ctx, "alice", o, billing.Audit{Key: key, By: "ada", Reason: "was down"})
				return err
			})
		}
		tl.to(date(time.March, 5))
		refund("a", billing.RefundOrder{Amount: usd(333), Reason: billing.RefundUnsatisfactory})
		tl.to(date(time.April, 5))
		refund("b", billing.RefundOrder{Amount: usd(250), ToBalance: true})
		refund("c", billing.RefundOrder{})
		tl.to(date(time.June, 10))
		tl.do(func() error { _, err := tl.svc.Pause(tl.ctx, "alice", billing.PauseOptions{}); return err })
		tl.plan("pro")
		tl.to(date(time.August, 20))
		tl.plan("free")
		tl.do(func() error { _, err := tl.svc.Unpause(tl.ctx, "alice"); return err })
		tl.plan("pro")
		tl.to(date(time.December, 1))
		refund("d", billing.RefundOrder{})
	},
}

// storyEnd is all that a story comes to.
type storyEnd struct {
	Money    []string // the simulator's ledger
	Books    []string // the account's own
	Balance  billing.Money
	Plan     string
	Reason   billing.Reason
	Statuses []string
	Seats    []billing.Seat
	Kinds    []billing.Kind
	Intents  int
}

func tell(t *testing.T, story func(*teller), faults []stripesim.Fault) storyEnd {
	tl := newTeller(t, faults)
	tl.month()
	story(tl)
	tl.to(time.Date(2027, 1, 31, 12, 0, 0, 0, time.UTC))
	tl.sim.ClearFaults()
	tl.days(2) // what was delayed
	tl.reconciled = time.Time{}
	tl.work()
	a, err := tl.svc.Account(tl.ctx, "alice")
	require.NoError(t, err)
	d := tl.access("alice")
	end := storyEnd{Balance: a.Balance, Plan: d.Plan, Reason: d.Reason, Seats: a.Seats, Intents: len(a.Intents)}
	for _, s := range a.Subscriptions {
		end.Statuses = append(end.Statuses, fmt.Sprintf("%s %s", s.Status, s.Period.To.Format(time.DateOnly)))
	}
	var balance int64
	for _, e := range tl.sim.Ledger(a.CustomerID) {
		end.Money = append(end.Money, fmt.Sprintf("%s %s %d", e.At.Format(time.DateOnly), e.Kind, e.Amount))
		if e.Kind == stripesim.Balance {
			balance += e.Amount
		}
	}
	require.Equal(t, balance, a.Balance.Amount, "the balance is what was put into it")

	// The account's own books say what Stripe's ledger says.
	var charged, theirs []string
	var given, refunded int64
	for _, inv := range a.Invoices {
		end.Books = append(end.Books, fmt.Sprintf("%s %s %s %d %d %d", inv.Created.Format(time.DateOnly), inv.BillingReason, inv.Status, inv.Total, inv.AmountPaid, inv.AmountRefunded))
		if inv.AmountPaid > 0 {
			charged = append(charged, fmt.Sprintf("%s %d", inv.PaidAt.Format(time.DateTime), inv.AmountPaid))
		}
		given += inv.AmountRefunded
	}
	for _, e := range tl.sim.Ledger(a.CustomerID) {
		switch e.Kind {
		case stripesim.Charged:
			theirs = append(theirs, fmt.Sprintf("%s %d", e.At.Format(time.DateTime), e.Amount))
		case stripesim.Refunded:
			refunded -= e.Amount
		}
	}
	var credited int64
	for _, adj := range a.Adjustments {
		if strings.HasSuffix(adj.What, ", as credit") {
			credited += adj.Amount.Amount
		}
	}
	require.Equal(t, refunded+credited, given)
	slices.Sort(charged)
	slices.Sort(theirs)
	require.Equal(t, theirs, charged)
	for _, n := range tl.notices {
		end.Kinds = append(end.Kinds, n.Kind)
	}
	slices.Sort(end.Kinds)
	for i := range end.Seats {
		end.Seats[i].Since = time.Time{}
	}
	slices.Sort(end.Books)
	return end
}

// TestAYearEndsTheSameUnderEveryFault: the same state, the same money to the
// cent, the same notices.
func TestAYearEndsTheSameUnderEveryFault(t *testing.T) {
	const always = -1
	modes := map[string][]stripesim.Fault{
		"duplicate":   {{Kind: stripesim.DuplicateEvent, Times: always}},
		"reorder":     {{Kind: stripesim.ReorderEvent, Match: "invoice.*", Times: always}},
		"delay":       {{Kind: stripesim.DelayEvent, Delay: 5 * time.Hour, Times: always}},
		"drop":        {{Kind: stripesim.DropEvent, Times: 9}},
		"429":         {{Kind: stripesim.RateLimited, Times: 5}},
		"500":         {{Kind: stripesim.ServerError, Times: 5}},
		"503":         {{Kind: stripesim.Unavailable, Times: 5}},
		"reset":       {{Kind: stripesim.Reset, Times: 5}},
		"reset after": {{Kind: stripesim.ResetAfter, Match: "POST /v1/*", Times: 4}},
		"timeout":     {{Kind: stripesim.TimeoutAfter, Match: "POST /v1/*", Delay: time.Millisecond, Times: 4}},
		"all at once": {
			{Kind: stripesim.DuplicateEvent, Match: "invoice.*", Times: 6}, {Kind: stripesim.DropEvent, Match: "customer.*", Times: 4},
			{Kind: stripesim.ResetAfter, Match: "POST /v1/*", Times: 2}, {Kind: stripesim.Unavailable, Times: 2}, {Kind: stripesim.TimeoutAfter, Match: "POST /v1/*", Delay: time.Millisecond, Times: 2},
		},
	}
	for name, story := range stories {
		t.Run(name, func(t *testing.T) {
			want := tell(t, story, nil)
			require.Zero(t, want.Intents)
			t.Logf("%d movements of money, %d notices", len(want.Money), len(want.Kinds))
			place := slices.Index(slices.Sorted(maps.Keys(stories)), name)
			for i, mode := range slices.Sorted(maps.Keys(modes)) {
				if os.Getenv("COMMERCE_PROVE") == "" && (i != 2*place || stride > 1 && place > 1) {
					continue // a sample, and the smaller under the race detector
				}
				faults := modes[mode]
				t.Run(mode, func(t *testing.T) { require.Equal(t, want, tell(t, story, faults)) })
			}
		})
	}
}

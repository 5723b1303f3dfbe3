// Command referral shows a referral whose rewards reach the invoices: Ada
// refers Bob, Bob's first month costs half, Ada's next renewal nothing. It
// runs offline, on a simulated Stripe and its clock.
//
//	go run ./examples/referral
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"time"

	"github.com/kolekt/commerce/billing"
	"github.com/kolekt/commerce/billing/billingmem"
	"github.com/kolekt/commerce/billing/billingstripe"
	"github.com/kolekt/commerce/billing/stripesim"
	"github.com/kolekt/commerce/referral"
	"github.com/kolekt/commerce/referral/referralmem"
)

func main() {
	if err := run(context.Background(), os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out io.Writer) error {
	s, err := open(ctx, friends())
	if err != nil {
		return err
	}
	defer s.close()
	if err := s.pay(ctx, "ada", billing.Order{Plan: "pro", Interval: billing.Month}); err != nil {
		return err
	}
	code, err := s.referrals.Code(ctx, "friends", referral.Person{Account: "ada", Email: "ada@example.com"})
	if err != nil {
		return err
	}
	if _, err := s.referrals.Redeem(ctx, code.Text, referral.Person{Account: "bob", Email: "bob@example.com"}); err != nil {
		return err
	}
	if err := s.pay(ctx, "bob", billing.Order{Plan: "pro", Interval: billing.Month}); err != nil {
		return err
	}
	if err := s.sim.Advance(ctx, 64*24*time.Hour); err != nil {
		return err
	}
	for _, who := range []string{"ada", "bob"} {
		paid, err := s.paid(ctx, who)
		if err != nil {
			return err
		}
		fmt.Fprintln(out, who, "paid", paid)
	}
	return nil
}

func friends() referral.Campaign {
	return referral.Campaign{
		ID: "friends", Version: 1, MaxUses: 10,
		Referrer: referral.Benefit{FreeMonths: 1},
		Referee:  referral.Benefit{PercentOff: 50},
	}
}

// shop is billing and referral on a simulated Stripe.
type shop struct {
	sim       *stripesim.Simulator
	server    *httptest.Server
	billing   *billing.Service
	referrals *referral.Service
}

func open(ctx context.Context, campaign referral.Campaign) (*shop, error) {
	usd := func(amount int64, every billing.Interval, count int64, key string) billing.PlanPrice {
		return billing.PlanPrice{Amount: billing.Money{Amount: amount, Currency: "USD"}, Interval: every, IntervalCount: count, LookupKey: key}
	}
	prices := []billing.PlanPrice{usd(999, billing.Month, 1, "pro_month"), usd(9990, billing.Year, 1, "pro_year"), usd(120, billing.Week, 1, "pro_week")}
	catalog, err := billing.NewCatalog(billing.CatalogSpec{Plans: []billing.Plan{
		{ID: "free", Name: "Free"},
		{ID: "pro", Name: "Pro", Prices: prices},
		{ID: "team", Name: "Team", Prices: []billing.PlanPrice{usd(500, billing.Month, 1, "team_month"), usd(5000, billing.Year, 1, "team_year")}, Seats: &billing.Seats{Minimum: 3}},
		{ID: "slow", Name: "Slow", Prices: []billing.PlanPrice{usd(2700, billing.Month, 3, "slow_quarter")}},
		{ID: "try", Name: "Try", TrialDays: 14, Prices: []billing.PlanPrice{usd(1999, billing.Month, 1, "try_month")}},
	}})
	if err != nil {
		return nil, err
	}
	s := &shop{}
	const secret = "whsec_referral"
	var webhook http.Handler
	var products []stripesim.Product
	for _, p := range catalog.Plans() {
		product := stripesim.Product{Name: p.Name}
		for _, price := range p.Prices {
			product.Prices = append(product.Prices, stripesim.Price{LookupKey: price.LookupKey, UnitAmount: price.Amount.Amount, Interval: string(price.Interval), IntervalCount: price.IntervalCount})
		}
		if len(product.Prices) > 0 {
			products = append(products, product)
		}
	}
	s.sim, err = stripesim.New(stripesim.Config{
		Start: time.Date(2026, 3, 2, 9, 0, 0, 0, time.UTC), Products: products,
		Endpoints: []stripesim.Endpoint{{Secret: secret, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			webhook.ServeHTTP(w, r)
			// A server has Run for this; here each event is worked off at
			// its own instant of the simulator's clock.
			_, _ = s.billing.ProcessPending(ctx)
		})}},
	})
	if err != nil {
		return nil, err
	}
	s.server = httptest.NewServer(s.sim.Handler())
	gateway, err := billingstripe.New(billingstripe.Config{
		SecretKey: stripesim.DefaultSecretKey, WebhookSecrets: []string{secret}, URL: s.server.URL, Now: s.sim.Now,
	})
	if err != nil {
		return nil, err
	}
	s.billing, err = billing.New(catalog, billingmem.New(), gateway, billing.Config{Now: s.sim.Now, Handle: s.handle})
	if err != nil {
		return nil, err
	}
	webhook = s.billing.Webhook()
	s.referrals, err = referral.New(referralmem.New(), referral.Config{
		Pepper: bytes.Repeat([]byte("k"), 32), Campaigns: []referral.Campaign{campaign}, Biller: biller{s.billing}, Now: s.sim.Now,
	})
	return s, err
}

func (s *shop) close() { s.server.Close() }

// handle tells referral what billing found out.
func (s *shop) handle(ctx context.Context, n billing.Notice) error {
	switch n.Kind {
	case billing.KindInvoicePaid:
		invoices, _, err := s.billing.Invoices(ctx, n.Account)
		if err != nil {
			return err
		}
		paid := referral.Paid{ID: n.InvoiceID, Account: n.Account, Amount: n.Amount.Amount, Currency: n.Amount.Currency}
		for _, inv := range invoices {
			if inv.ID == n.InvoiceID {
				paid.Discount = inv.Subtotal - inv.Total
			}
		}
		return s.referrals.HandlePaid(ctx, paid)
	case billing.KindInvoiceDrafted:
		return s.referrals.HandleDraft(ctx, referral.Draft{Invoice: n.InvoiceID, Account: n.Account, Currency: n.Amount.Currency})
	case billing.KindPaymentRefunded:
		return s.referrals.HandleRefunded(ctx, referral.Refunded{ID: n.ID, Account: n.Account, Invoice: n.InvoiceID, Amount: n.Amount.Amount, Currency: n.Amount.Currency})
	case billing.KindPaymentDisputed:
		return s.referrals.HandleDisputed(ctx, n.Account)
	case billing.KindSubscriptionEnded:
		return s.referrals.HandleEnded(ctx, n.Account)
	}
	return nil
}

// biller is what referral asks of billing.
type biller struct{ billing *billing.Service }

func (b biller) Coupon(ctx context.Context, call string, percent, months, amount int64, currency string) (string, error) {
	return b.billing.Coupon(ctx, call, "Welcome from a friend", percent, months, billing.Money{Amount: amount, Currency: currency})
}

func (b biller) DiscountInvoice(ctx context.Context, call, account, invoice string, less int64) (ref string, value, taken int64, currency string, err error) {
	r, err := b.billing.DiscountRenewal(ctx, call, "A month for a friend", account, invoice, less)
	if errors.Is(err, billing.ErrInvalid) {
		err = referral.ErrTooLate
	}
	return r.Coupon, r.Value.Amount, r.Taken.Amount, r.Value.Currency, err
}

func (b biller) Credit(ctx context.Context, call, account string, amount int64, currency string) (string, error) {
	return b.billing.Credit(ctx, call, account, billing.Money{Amount: amount, Currency: currency})
}

func (b biller) Debit(ctx context.Context, call, account string, amount int64, currency string) (int64, error) {
	taken, err := b.billing.Debit(ctx, call, account, billing.Money{Amount: amount, Currency: currency})
	return taken.Amount, err
}

// Grants lets referral reconcile its ledger with Stripe.
func (b biller) Grants(ctx context.Context, account string, each func(call, ref, invoice string, amount int64, currency string) error) error {
	list, err := b.billing.Referenced(ctx, account)
	if err != nil {
		return err
	}
	for _, r := range list {
		if err := each(r.Reference, r.ID, r.InvoiceID, r.Amount.Amount, r.Amount.Currency); err != nil {
			return err
		}
	}
	return nil
}

// pay takes an account through the checkout, with the discount that it has to
// get.
func (s *shop) pay(ctx context.Context, account string, o billing.Order) error {
	plan, err := s.billing.Catalog().Price(o.Plan, "USD", o.Interval)
	if err != nil {
		return err
	}
	price := referral.Price{Amount: plan.Amount.Amount, Quantity: o.Seats, Currency: plan.Amount.Currency, Months: max(plan.IntervalCount, 1)}
	if plan.Interval == billing.Year {
		price.Months *= 12
	}
	if o.CouponID == "" {
		if o.CouponID, err = s.referrals.CheckoutCoupon(ctx, account, price); err != nil {
			return err
		}
	}
	page, err := s.billing.Checkout(ctx, account, billing.CheckoutOrder{Order: o, SuccessURL: "https://example.com/thanks", CancelURL: "https://example.com/pricing"})
	if err != nil {
		return err
	}
	browser := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	answer, err := browser.PostForm(page.URL, url.Values{
		"do": {"pay"}, "email": {account + "@example.com"}, "name": {account}, "number": {"4242 4242 4242 4242"}, "exp": {"12/40"}, "cvc": {"123"},
	})
	if err != nil {
		return err
	}
	if err := answer.Body.Close(); err != nil {
		return err
	}
	return s.sim.Settle(ctx)
}

// paid returns what an account's invoices came to, oldest first.
func (s *shop) paid(ctx context.Context, account string) ([]string, error) {
	invoices, _, err := s.billing.Invoices(ctx, account)
	if err != nil {
		return nil, err
	}
	var amounts []string
	for i := len(invoices) - 1; i >= 0; i-- {
		inv := invoices[i]
		if inv.Status == billing.InvoicePaid {
			amounts = append(amounts, billing.Money{Amount: inv.AmountPaid, Currency: inv.Currency}.String())
		}
	}
	return amounts, nil
}

// Command quickstart shows a paid subscription without an account, a key or a
// network: a catalogue, the billing service, and a simulated Stripe.
//
//	go run ./examples/quickstart
package main

import (
	"context"
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
)

func main() {
	if err := run(context.Background(), os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out io.Writer) error {
	// What is sold. Every plan states every limit.
	catalog, err := billing.NewCatalog(billing.CatalogSpec{Plans: []billing.Plan{
		{ID: "free", Name: "Free", Limits: map[string]billing.Limit{"kolekts": {N: 10}}},
		{ID: "pro", Name: "Pro", Limits: map[string]billing.Limit{"kolekts": {N: 100}}, Prices: []billing.PlanPrice{
			{Amount: billing.Money{Amount: 999, Currency: "USD"}, Interval: billing.Month, LookupKey: "pro_monthly"},
		}},
	}})
	if err != nil {
		return err
	}

	// A Stripe of our own. With a real key, these are the two lines that go.
	var webhook http.Handler
	const secret = "whsec_quickstart"
	sim, err := stripesim.New(stripesim.Config{
		Products:  []stripesim.Product{{Name: "Pro", Prices: []stripesim.Price{{LookupKey: "pro_monthly", UnitAmount: 999}}}},
		Endpoints: []stripesim.Endpoint{{Secret: secret, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { webhook.ServeHTTP(w, r) })}},
	})
	if err != nil {
		return err
	}
	server := httptest.NewServer(sim.Handler())
	defer server.Close()

	// The gateway and the service are what production runs.
	gateway, err := billingstripe.New(billingstripe.Config{
		SecretKey: stripesim.DefaultSecretKey, WebhookSecrets: []string{secret}, URL: server.URL, Now: sim.Now,
	})
	if err != nil {
		return err
	}
	service, err := billing.New(catalog, billingmem.New(), gateway, billing.Config{Now: sim.Now})
	if err != nil {
		return err
	}
	webhook = service.Webhook()

	show := func(when string) error {
		access, err := service.Access(ctx, "acct_1")
		if err != nil {
			return err
		}
		limit, err := access.Limit("kolekts")
		fmt.Fprintf(out, "%-22s plan %-5s %s kolekts, paid: %v\n", when, access.Plan, limit, access.Paid)
		return err
	}
	if err := show("at first:"); err != nil {
		return err
	}

	// The application opens a payment page; the customer pays on it.
	checkout, err := service.Checkout(ctx, "acct_1", billing.CheckoutOrder{
		Order:      billing.Order{Plan: "pro"},
		SuccessURL: "https://example.com/thanks?session={CHECKOUT_SESSION_ID}", CancelURL: "https://example.com/pricing",
	})
	if err != nil {
		return err
	}
	customer := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	paid, err := customer.PostForm(checkout.URL, url.Values{
		"do": {"pay"}, "email": {"ann@example.com"}, "name": {"Ann Lee"}, "number": {"4242 4242 4242 4242"}, "exp": {"12/40"}, "cvc": {"123"},
	})
	if err != nil {
		return err
	}
	if err := paid.Body.Close(); err != nil {
		return err
	}

	// Stripe tells the webhook, the webhook's inbox is worked off.
	settle := func() error {
		if err := sim.Settle(ctx); err != nil {
			return err
		}
		_, err := service.ProcessPending(ctx)
		return err
	}
	if err := settle(); err != nil {
		return err
	}
	if err := show("after the payment:"); err != nil {
		return err
	}

	// A month and a renewal later, the customer leaves.
	if err := sim.Advance(ctx, 31*24*time.Hour); err != nil {
		return err
	}
	if err := settle(); err != nil {
		return err
	}
	invoices, _, err := service.Invoices(ctx, "acct_1")
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%-22s %d invoices paid\n", "a month later:", len(invoices))
	if _, err := service.Cancel(ctx, "acct_1", billing.CancelOptions{Now: true}); err != nil {
		return err
	}
	return show("after cancelling:")
}

package billing_test

import (
	"context"
	"fmt"
	"net/http"
	"testing/fstest"
	"time"

	"github.com/kolekt/commerce/billing"
	"github.com/kolekt/commerce/billing/billingmem"
	"github.com/kolekt/commerce/billing/billingtest"
)

func exampleCatalog() *billing.Catalog {
	catalog, err := billing.ParseCatalog("plans.yaml", []byte(plansYAML))
	if err != nil {
		panic(err)
	}
	return catalog
}

func ExampleLoadCatalog() {
	files := fstest.MapFS{"plans.yaml": {Data: []byte(`
plans:
  - id: free
    limits: {requests: 10/minute, documents: 10/period}
  - id: pro
    name: Pro
    limits: {requests: 100/minute, documents: unlimited}
    prices:
      - {amount: 9.99 USD, every: month}
      - {amount: 1500 JPY, every: month, lookup_key: pro_japan}
`)}}
	catalog, err := billing.LoadCatalog(files, "plans.yaml")
	if err != nil {
		panic(err)
	}
	for _, plan := range catalog.Plans() {
		fmt.Println(plan.ID, plan.Limits["documents"])
		for _, price := range plan.Prices {
			fmt.Println("  ", price.Amount, "a", price.Interval, "as", price.LookupKey)
		}
	}
	help, _ := catalog.Upgrade("free", "documents", 11)
	fmt.Println("for 11 documents:", help.Name)
	// Output:
	// free 10/period
	// pro unlimited
	//    $9.99 a month as pro_month_usd
	//    ¥1,500 a month as pro_japan
	// for 11 documents: Pro
}

func ExampleParseCatalog_errors() {
	_, err := billing.ParseCatalog("plans.yaml", []byte(`
plans:
  - id: free
    limits: {requests: 10/minute}
  - id: pro
    limits: {requests: 5/minute}
    prices: [{amount: 9.99 USD, every: month}]
`))
	fmt.Println(err)
	// Output:
	// billing: plans.yaml:6: plans[1].limits.requests: requests falls from 10/minute (free) to 5/minute (pro): plans are in the order of upgrade
}

func ExampleService() {
	ctx := context.Background()
	catalog := exampleCatalog()
	gateway := billingtest.NewGateway(catalog, nil) // billingstripe.New in production
	svc, err := billing.New(catalog, billingmem.New(), gateway, billing.Config{})
	if err != nil {
		panic(err)
	}
	page, err := svc.Checkout(ctx, "alice", billing.CheckoutOrder{
		Order:      billing.Order{Plan: "pro"},
		SuccessURL: "https://app.example/paid?session={CHECKOUT_SESSION_ID}",
		CancelURL:  "https://app.example/plans",
	})
	if err != nil {
		panic(err)
	}
	fmt.Println(page.Status) // and the browser goes to page.URL

	// The customer pays, and is back before the webhook.
	if _, err := gateway.CompleteCheckout(page.ID); err != nil {
		panic(err)
	}
	_, decision, err := svc.SyncCheckout(ctx, "alice", page.ID)
	if err != nil {
		panic(err)
	}
	fmt.Println(decision.Plan, decision.Reason)
	// Output:
	// open
	// pro active
}

func ExampleService_Webhook() {
	ctx := context.Background()
	catalog := exampleCatalog()
	gateway := billingtest.NewGateway(catalog, nil)
	svc, err := billing.New(catalog, billingmem.New(), gateway, billing.Config{
		Handle: func(_ context.Context, n billing.Notice) error {
			fmt.Println(n.Kind, n.Account, n.Plan)
			return nil
		},
	})
	if err != nil {
		panic(err)
	}
	mux := http.NewServeMux()
	mux.Handle("POST /webhook", svc.Webhook())

	customer := gateway.AddCustomer("alice")
	if _, err := gateway.AddSubscription(customer.ID, "pro_month_usd"); err != nil {
		panic(err)
	}
	for _, event := range gateway.Emitted() {
		billingtest.Send(mux, event)
		billingtest.Send(mux, event) // providers repeat themselves
	}
	if _, err := svc.ProcessPending(ctx); err != nil { // Run does it all the time
		panic(err)
	}
	// Output:
	// subscription.started alice pro
	// subscription.changed alice pro
	// invoice.paid alice pro
}

func ExampleAccess() {
	catalog := exampleCatalog()
	now := time.Date(2026, 3, 10, 12, 0, 0, 0, time.UTC)
	account := billing.Account{Subscriptions: []billing.Subscription{{
		ID: "sub_1", Status: billing.StatusPastDue,
		Period: billing.Period{From: now.AddDate(0, 0, -9), To: now.AddDate(0, 0, 22)},
		Items:  []billing.Item{{Price: billing.Price{LookupKey: "pro_month_usd"}, Quantity: 1}},
	}}}
	for _, day := range []int{0, 10} {
		d := billing.Access(catalog, billing.Policy{Grace: 14 * 24 * time.Hour}, &account, now.AddDate(0, 0, day))
		limit, err := d.Limit("requests")
		if err != nil {
			panic(err)
		}
		fmt.Printf("%s because of %s: %s\n", d.Plan, d.Reason, limit)
	}
	// Output:
	// pro because of grace: 100/minute
	// free because of past_due: 10/minute
}

func ExampleFeed() {
	ctx := context.Background()
	catalog := exampleCatalog()
	gateway := billingtest.NewGateway(catalog, nil)
	svc, err := billing.New(catalog, billingmem.New(), gateway, billing.Config{})
	if err != nil {
		panic(err)
	}
	feed, err := svc.NewFeed(billing.FeedConfig{MaxAge: 10 * time.Second})
	if err != nil {
		panic(err)
	}
	// go feed.Run(ctx) hears of the writes of other processes.
	show := func() {
		n, per, err := feed.Limit(ctx, "alice", "requests")
		if err != nil {
			panic(err)
		}
		fmt.Println(n, "in", per)
	}
	show()
	customer := gateway.AddCustomer("alice")
	if _, err := gateway.AddSubscription(customer.ID, "pro_month_usd"); err != nil {
		panic(err)
	}
	if err := gateway.Deliver(svc.Webhook()); err != nil {
		panic(err)
	}
	if _, err := svc.ProcessPending(ctx); err != nil {
		panic(err)
	}
	show()
	// Output:
	// 10 in 1m0s
	// 100 in 1m0s
}

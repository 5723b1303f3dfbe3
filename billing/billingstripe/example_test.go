package billingstripe_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/kolekt/commerce/billing"
	"github.com/kolekt/commerce/billing/billingstripe"
	"github.com/kolekt/commerce/billing/stripesim"
)

// A catalogue is brought to Stripe, here a simulated one, and a customer is
// sent to a payment page.
func Example() {
	sim, err := stripesim.NewServer(stripesim.Config{})
	if err != nil {
		panic(err)
	}
	defer sim.Close()
	gateway, err := billingstripe.New(billingstripe.Config{
		SecretKey:      stripesim.DefaultSecretKey, // os.Getenv("STRIPE_SECRET_KEY")
		WebhookSecrets: []string{"whsec_example"},  // os.Getenv("STRIPE_WEBHOOK_SECRET")
		URL:            sim.URL,                    // leave it out to reach Stripe
	})
	if err != nil {
		panic(err)
	}
	catalog, err := billing.NewCatalog(billing.CatalogSpec{Plans: []billing.Plan{
		{ID: "free", Name: "Free"},
		{ID: "pro", Name: "Pro", Prices: []billing.PlanPrice{{Amount: billing.Money{Amount: 9_99, Currency: "USD"}, Interval: billing.Month}}},
	}})
	if err != nil {
		panic(err)
	}
	ctx := context.Background()
	diff, err := gateway.PlanCatalog(ctx, catalog)
	if err != nil {
		panic(err)
	}
	fmt.Print(diff)
	if err := gateway.ApplyCatalog(ctx, diff, nil); err != nil {
		panic(err)
	}

	// Applications call billing.Service, which calls this.
	customer, err := gateway.CreateCustomer(ctx, billing.CustomerRequest{Account: "acc_1"}, "commerce_customer_acc_1")
	if err != nil {
		panic(err)
	}
	prices, err := gateway.Prices(ctx, []string{"pro_month_usd"})
	if err != nil {
		panic(err)
	}
	checkout, err := gateway.CreateCheckout(ctx, billing.CheckoutRequest{
		CustomerID: customer.ID, Account: "acc_1", SuccessURL: "https://example.com/paid",
		Items: []billing.LineItem{{PriceID: prices[0].ID, Quantity: 1}},
	}, "commerce_checkout_acc_1_1")
	if err != nil {
		panic(err)
	}
	fmt.Println(checkout.Status, checkout.PaymentStatus)

	// A second request with a key that was used for another one.
	_, err = gateway.CreateCustomer(ctx, billing.CustomerRequest{Account: "acc_2"}, "commerce_customer_acc_1")
	fmt.Println(errors.Is(err, billing.ErrConflict))
	// Output:
	// + product pro (commerce_pro): name "Pro"
	// + price pro_month_usd: amount "$9.99", interval "month"
	// 2 to create, 0 to update, 0 to replace, 0 to archive.
	// open unpaid
	// true
}

func ExampleGateway_Verify() {
	gateway, err := billingstripe.New(billingstripe.Config{SecretKey: "sk_test_example", WebhookSecrets: []string{"whsec_new", "whsec_old"}})
	if err != nil {
		panic(err)
	}
	body := []byte(`{"id":"evt_1","object":"event","type":"customer.subscription.updated","created":1764000000,"livemode":false,
		"data":{"object":{"id":"sub_1","object":"subscription","customer":"cus_1","status":"active","items":{"data":[]}}}}`)
	now := time.Now()
	request := http.Header{"Stripe-Signature": {"t=" + strconv.FormatInt(now.Unix(), 10) + ",v1=" + sign("whsec_old", now, string(body))}}
	event, err := gateway.Verify(request, body)
	fmt.Println(event.Type, event.CustomerID, event.Subscription.Status, err)

	_, err = gateway.Verify(request, append(body, ' '))
	fmt.Println(err)
	// Output:
	// customer.subscription.updated cus_1 active <nil>
	// billing: webhook signature refused: no signature matches one of the 2 webhook secrets
}

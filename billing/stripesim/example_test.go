package stripesim_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/kolekt/commerce/billing/stripesim"
)

// call makes a request as any Stripe client does.
func call(method, address string, form url.Values) string {
	req, err := http.NewRequestWithContext(context.Background(), method, address, strings.NewReader(form.Encode()))
	if err != nil {
		panic(err)
	}
	req.SetBasicAuth(stripesim.DefaultSecretKey, "")
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		panic(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		panic(err)
	}
	return string(body)
}

func field(body, name string) string {
	m := regexp.MustCompile(`"` + name + `": "([^"]+)"`).FindStringSubmatch(body)
	if m == nil {
		return ""
	}
	return m[1]
}

// A checkout is opened by the application and paid on its page, here by a form
// instead of a browser. The webhook arrives signed.
func Example() {
	webhook := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Println("event:", field(string(body), "object"), strings.Contains(string(body), `"checkout.session.completed"`))
	})
	srv, err := stripesim.NewServer(stripesim.Config{
		Start:     time.Date(2025, 1, 31, 12, 0, 0, 0, time.UTC),
		Products:  []stripesim.Product{{Name: "Pro", Prices: []stripesim.Price{{ID: "price_pro", UnitAmount: 999}}}},
		Endpoints: []stripesim.Endpoint{{Handler: webhook, Secret: "whsec_example", Events: []string{"checkout.session.completed"}}},
	})
	if err != nil {
		panic(err)
	}
	defer srv.Close()

	session := call(http.MethodPost, srv.URL+"/v1/checkout/sessions", url.Values{
		"mode": {"subscription"}, "line_items[0][price]": {"price_pro"}, "line_items[0][quantity]": {"1"}, "success_url": {"http://localhost/done"},
	})
	call(http.MethodPost, field(session, "url"), url.Values{
		"do": {"pay"}, "email": {"ada@example.com"}, "name": {"Ada"}, "number": {"4242 4242 4242 4242"}, "exp": {"12/30"}, "cvc": {"123"},
	})
	if err := srv.Settle(context.Background()); err != nil {
		panic(err)
	}
	fmt.Println("collected:", srv.Collected(""))
	// Output:
	// event: checkout.session true
	// collected: map[usd:999]
}

// Three months pass at once; the ledger has each movement at its instant.
func ExampleSimulator_Advance() {
	srv, err := stripesim.NewServer(stripesim.Config{
		Start:    time.Date(2025, 1, 31, 12, 0, 0, 0, time.UTC),
		Products: []stripesim.Product{{Name: "Pro", Prices: []stripesim.Price{{ID: "price_pro", UnitAmount: 999}}}},
	})
	if err != nil {
		panic(err)
	}
	defer srv.Close()
	customer := field(call(http.MethodPost, srv.URL+"/v1/customers", nil), "id")
	card := field(call(http.MethodPost, srv.URL+"/v1/payment_methods/pm_card_visa/attach", url.Values{"customer": {customer}}), "id")
	call(http.MethodPost, srv.URL+"/v1/subscriptions", url.Values{
		"customer": {customer}, "items[0][price]": {"price_pro"}, "default_payment_method": {card},
	})
	if err := srv.Advance(context.Background(), 60*24*time.Hour); err != nil {
		panic(err)
	}
	for _, e := range srv.Ledger(customer) {
		fmt.Println(e.At.Format(time.DateTime), e.Kind, e.Amount, e.Currency)
	}
	// Output:
	// 2025-01-31 12:00:00 charged 999 usd
	// 2025-02-28 13:00:00 charged 999 usd
	// 2025-03-31 13:00:00 charged 999 usd
}

// The next request fails as Stripe does when it is down; the one after works.
func ExampleSimulator_Inject() {
	srv, err := stripesim.NewServer(stripesim.Config{})
	if err != nil {
		panic(err)
	}
	defer srv.Close()
	srv.Inject(stripesim.Fault{Kind: stripesim.Unavailable, Match: "POST /v1/customers"})
	fmt.Println(field(call(http.MethodPost, srv.URL+"/v1/customers", nil), "message"))
	fmt.Println(field(call(http.MethodPost, srv.URL+"/v1/customers", nil), "object"))
	// Output:
	// Stripe is temporarily unavailable
	// customer
}

// What isn't simulated is refused by its name.
func ExampleCoverage() {
	srv, err := stripesim.NewServer(stripesim.Config{})
	if err != nil {
		panic(err)
	}
	defer srv.Close()
	fmt.Println(field(call(http.MethodGet, srv.URL+"/v1/payouts", nil), "message"))
	fmt.Println(len(stripesim.Coverage()) > 100)
	// Output:
	// stripesim does not simulate: GET /v1/payouts
	// true
}

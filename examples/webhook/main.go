// Command webhook is the smallest server that keeps subscriptions from Stripe's
// webhooks: net/http, one catalogue, and the webhook's handler. It talks to the
// real Stripe.
//
// In a terminal of its own, Stripe's command line forwards events and prints
// the signing secret:
//
//	stripe listen --forward-to localhost:8000/webhook
//
// Then:
//
//	STRIPE_SECRET_KEY=sk_test_… STRIPE_WEBHOOK_SECRET=whsec_… go run ./examples/webhook
//
// The plan's price must exist at Stripe with the lookup key pro_month_usd.
// http://localhost:8000/subscribe?account=ann leads to the payment page; in an
// application the account comes from the session and never from the address.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"time"

	"github.com/kolekt/commerce/billing"
	"github.com/kolekt/commerce/billing/billingmem"
	"github.com/kolekt/commerce/billing/billingstripe"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Getenv("STRIPE_SECRET_KEY"), os.Getenv("STRIPE_WEBHOOK_SECRET"))
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, key, secret string) error {
	gateway, err := billingstripe.New(billingstripe.Config{SecretKey: key, WebhookSecrets: []string{secret}})
	if err != nil {
		return err
	}
	service, err := newService(gateway)
	if err != nil {
		return err
	}
	server := &http.Server{Addr: "localhost:8000", Handler: routes(service), ReadHeaderTimeout: 10 * time.Second}
	go func() {
		<-ctx.Done()
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		_ = server.Shutdown(last) // the process ends either way
	}()
	go func() { _ = service.Run(ctx) }() // ends with ctx
	slog.Info("listening", "url", "http://localhost:8000")
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func newService(gateway billing.Gateway) (*billing.Service, error) {
	catalog, err := billing.NewCatalog(billing.CatalogSpec{Plans: []billing.Plan{
		{ID: "free", Name: "Free", Limits: map[string]billing.Limit{"kolekts": {N: 10}}},
		{ID: "pro", Name: "Pro", Limits: map[string]billing.Limit{"kolekts": {N: 100}}, Prices: []billing.PlanPrice{
			{Amount: billing.Money{Amount: 999, Currency: "USD"}, Interval: billing.Month},
		}},
	}})
	if err != nil {
		return nil, err
	}
	return billing.New(catalog, billingmem.New(), gateway, billing.Config{
		Handle: func(_ context.Context, n billing.Notice) error {
			slog.Info(string(n.Kind), "account", n.Account, "plan", n.Plan, "amount", n.Amount)
			return nil
		},
	})
}

func routes(service *billing.Service) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("POST /webhook", service.Webhook())
	mux.HandleFunc("GET /subscribe", func(w http.ResponseWriter, r *http.Request) {
		c, err := service.Checkout(r.Context(), r.FormValue("account"), billing.CheckoutOrder{
			Order:      billing.Order{Plan: "pro"},
			SuccessURL: "http://localhost:8000/access?account=" + r.FormValue("account"), CancelURL: "http://localhost:8000/access?account=" + r.FormValue("account"),
		})
		if err != nil {
			http.Error(w, err.Error(), http.StatusConflict)
			return
		}
		http.Redirect(w, r, c.URL, http.StatusSeeOther)
	})
	mux.HandleFunc("GET /access", func(w http.ResponseWriter, r *http.Request) {
		access, err := service.Access(r.Context(), r.FormValue("account"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(access) // the client has gone: nobody to tell
	})
	return mux
}

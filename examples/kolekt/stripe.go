package main

import (
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/kolekt/commerce/billing"
	"github.com/kolekt/commerce/billing/billingstripe"
	"github.com/kolekt/commerce/billing/stripesim"
)

// Stripe is the payment provider: the real one, or the simulator with a clock
// that can be moved.
type Stripe struct {
	Gateway   billing.Gateway
	Simulator *stripesim.Simulator // nil for the real one
	Now       func() time.Time
	Origins   []string // of the payment pages

	webhook http.Handler
}

func openStripe(cfg Config, catalog *billing.Catalog, self net.Addr, log *slog.Logger) (*Stripe, error) {
	if !cfg.Simulated() {
		origins := []string{"https://checkout.stripe.com", "https://billing.stripe.com"}
		if cfg.StripeURL != "" {
			origins = []string{cfg.StripeURL}
		}
		gateway, err := billingstripe.New(billingstripe.Config{SecretKey: cfg.StripeSecretKey, WebhookSecrets: cfg.StripeWebhookSecret, URL: cfg.StripeURL, Logger: log})
		return &Stripe{Gateway: gateway, Now: time.Now, Origins: origins}, err
	}
	s := &Stripe{}
	const secret = "whsec_simulator"
	sim, err := stripesim.New(stripesim.Config{
		BaseURL: cfg.PublicURL + "/stripe", MerchantName: "Kolekt", Products: products(catalog), Log: log,
		Endpoints: []stripesim.Endpoint{{Secret: secret, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.webhook.ServeHTTP(w, r) })}},
	})
	if err != nil {
		return nil, err
	}
	s.Simulator, s.Now = sim, sim.Now
	s.Gateway, err = billingstripe.New(billingstripe.Config{
		SecretKey: stripesim.DefaultSecretKey, WebhookSecrets: []string{secret}, Now: sim.Now, Logger: log,
		URL: "http://" + net.JoinHostPort("127.0.0.1", strconv.Itoa(self.(*net.TCPAddr).Port)) + "/stripe",
	})
	return s, err
}

// SendTo makes the simulator's events go to the webhook.
func (s *Stripe) SendTo(webhook http.Handler) { s.webhook = webhook }

// Run keeps the simulator's renewals coming.
func (s *Stripe) Run(ctx context.Context) error {
	if s.Simulator == nil {
		<-ctx.Done()
		return nil
	}
	err := s.Simulator.Run(ctx)
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	return firstError(s.Simulator.Close(last), err)
}

// products are the catalogue's plans as Stripe has them. At the real Stripe
// they are made once, with the same lookup keys.
func products(catalog *billing.Catalog) []stripesim.Product {
	var list []stripesim.Product
	for _, plan := range catalog.Plans() {
		if len(plan.Prices) == 0 {
			continue
		}
		p := stripesim.Product{Name: "Kolekt " + plan.Name, Description: plan.Description}
		for _, price := range plan.Prices {
			p.Prices = append(p.Prices, stripesim.Price{
				LookupKey: price.LookupKey, Currency: strings.ToLower(price.Amount.Currency), UnitAmount: price.Amount.Amount,
				Interval: string(price.Interval), IntervalCount: price.IntervalCount,
			})
		}
		list = append(list, p)
	}
	return list
}

// Derive makes a key for one purpose from SECRET_KEY.
func (c Config) Derive(purpose string) []byte {
	key, err := hkdf.Key(sha256.New, []byte(c.SecretKey), nil, "kolekt "+purpose, 32)
	if err != nil {
		panic(fmt.Sprintf("hkdf: %v", err)) // 32 bytes are never too many
	}
	return key
}

// Environment stands in API keys, so that none of one opens the other.
func (c Config) Environment() string {
	if c.Development {
		return "test"
	}
	return "live"
}

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"
)

// stripeVersion is the API version of stripe-go v76, of which our requests are.
const stripeVersion = "2023-10-16"

// wanted are the events without which something would be seen only when
// Reconcile comes round.
var wanted = []string{
	"checkout.session.completed", "customer.subscription.created", "customer.subscription.updated", "customer.subscription.deleted", "customer.subscription.trial_will_end",
	"invoice.payment_succeeded", "invoice.payment_failed", "charge.refunded", "charge.dispute.created",
}

// stripeAPI reads what billing doesn't need and the doctor does.
type stripeAPI struct{ address, key string }

func stripeAt(cfg Config) stripeAPI {
	s := stripeAPI{address: cfg.StripeURL, key: cfg.StripeSecretKey}
	if s.address == "" {
		s.address = "https://api.stripe.com"
	}
	return s
}

// get decodes an answer. It returns the status, and the version in which
// Stripe answers whoever doesn't ask for one: the account's.
func (s stripeAPI) get(ctx context.Context, path string, into any) (status int, version string, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, s.address+path, nil)
	if err != nil {
		return 0, "", err
	}
	r.Header.Set("Authorization", "Bearer "+s.key)
	resp, err := (&http.Client{Timeout: 20 * time.Second}).Do(r)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusOK {
		err = json.NewDecoder(io.LimitReader(resp.Body, 4<<20)).Decode(into)
	}
	return resp.StatusCode, resp.Header.Get("Stripe-Version"), err
}

// unread says that something couldn't be looked at, and whether that wants a
// remedy.
func unread(what string, status int, err error) finding {
	switch {
	case err != nil:
		return finding{what, err.Error(), "let this machine reach Stripe"}
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		return finding{what, "the key may not read it", "let the restricted key read it, or look into Stripe's dashboard by hand"}
	}
	return finding{what, fmt.Sprintf("can't be read here (status %d)", status), ""}
}

func examineEndpoint(ctx context.Context, s stripeAPI, cfg Config) []finding {
	var list struct {
		Data []struct {
			URL        string   `json:"url"`
			Status     string   `json:"status"`
			Events     []string `json:"enabled_events"`
			APIVersion string   `json:"api_version"`
		} `json:"data"`
	}
	status, version, err := s.get(ctx, "/v1/webhook_endpoints?limit=100", &list)
	if err != nil || status != http.StatusOK {
		return []finding{unread("webhook", status, err)}
	}
	// Every version is decoded; this is for whoever wonders about a payload.
	found := []finding{{"API version", "we ask in " + stripeVersion + ", the account's own is " + orElse(version, "not said"), ""}}
	ours := cfg.PublicURL + "/api/v1/payments/webhook"
	for _, e := range list.Data {
		if strings.TrimSuffix(e.URL, "/") != ours {
			continue
		}
		if e.Status != "enabled" {
			return append(found, finding{"webhook", ours + " is " + e.Status, "enable the endpoint in Stripe's dashboard, and find out why it was disabled"})
		}
		var missing []string
		for _, w := range wanted {
			if !slices.Contains(e.Events, "*") && !slices.Contains(e.Events, w) {
				missing = append(missing, w)
			}
		}
		if len(missing) > 0 {
			return append(found, finding{"webhook", ours + " doesn't hear of " + strings.Join(missing, ", "), "add these events to the endpoint in Stripe's dashboard"})
		}
		return append(found, finding{"webhook", ours + " is enabled, in version " + orElse(e.APIVersion, "of the account"), ""})
	}
	if cfg.Development {
		return append(found, finding{"webhook", "no endpoint leads here: in development stripe listen --forward-to stands in for one", ""})
	}
	return append(found, finding{"webhook", "no endpoint leads to " + ours, "make one in Stripe's dashboard for " + ours + ", and take its signing secret for STRIPE_WEBHOOK_SECRET"})
}

func examinePortal(ctx context.Context, s stripeAPI) finding {
	var list struct {
		Data []struct {
			Features struct {
				PaymentMethod struct {
					Enabled bool `json:"enabled"`
				} `json:"payment_method_update"`
				Invoices struct {
					Enabled bool `json:"enabled"`
				} `json:"invoice_history"`
			} `json:"features"`
		} `json:"data"`
	}
	status, _, err := s.get(ctx, "/v1/billing_portal/configurations?is_default=true&active=true&limit=1", &list)
	switch {
	case err != nil || status != http.StatusOK:
		return unread("portal", status, err)
	case len(list.Data) == 0:
		return finding{"portal", "it was never set up", "save its settings once: dashboard.stripe.com/settings/billing/portal (and /test/settings/billing/portal)"}
	case !list.Data[0].Features.PaymentMethod.Enabled:
		return finding{"portal", "people can't change their card there", "allow it: dashboard.stripe.com/settings/billing/portal"}
	case !list.Data[0].Features.Invoices.Enabled:
		return finding{"portal", "people can't see their invoices there", "allow it: dashboard.stripe.com/settings/billing/portal"}
	}
	return finding{"portal", "set up: cards and invoices", ""}
}

func orElse(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

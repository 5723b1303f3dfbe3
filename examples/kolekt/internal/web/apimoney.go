package web

import (
	"errors"
	"net/http"
	"time"

	"github.com/kolekt/commerce/apikeys"
	"github.com/kolekt/commerce/billing"
)

func (a *App) apiSubscription(w http.ResponseWriter, r *http.Request, c *caller) error {
	out := map[string]any{"plan": c.access.Plan, "paid": c.access.Paid, "reason": c.access.Reason, "period": c.access.Period}
	sub, err := a.Billing.Subscription(r.Context(), c.account)
	switch {
	case errors.Is(err, billing.ErrNoSubscription):
	case err != nil:
		return err
	default:
		s := map[string]any{"id": sub.ID, "status": sub.Status, "cancel_at_period_end": sub.CancelAtPeriodEnd, "current_period": sub.Period, "interval": every(sub)}
		if price, ok := priceOf(sub); ok {
			s["price"] = price
		}
		out["subscription"] = s
	}
	writeJSON(w, http.StatusOK, out)
	return nil
}

// planChoice is which plan, and how often to pay.
type planChoice struct {
	PlanType string           `json:"plan_type"`
	Interval billing.Interval `json:"interval"`
}

func (p planChoice) order() billing.Order {
	return billing.Order{Plan: p.PlanType, Interval: p.Interval}
}

func (a *App) apiCheckout(w http.ResponseWriter, r *http.Request, c *caller) error {
	var in planChoice
	if err := read(r, &in); err != nil {
		return err
	}
	s, err := a.openCheckout(r.Context(), c.account, in.order())
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusCreated, map[string]any{"session_id": s.ID, "url": s.URL})
	return nil
}

// apiSubscribe begins a subscription for a client that takes the card itself,
// with the provider's own elements: the secret is what they need.
func (a *App) apiSubscribe(w http.ResponseWriter, r *http.Request, c *caller) error {
	var in planChoice
	if err := read(r, &in); err != nil {
		return err
	}
	s, err := a.Billing.Subscribe(r.Context(), c.account, in.order())
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusCreated, map[string]any{"subscription_id": s.Subscription.ID, "status": s.Subscription.Status, "client_secret": s.ClientSecret, "setup": s.Setup})
	return nil
}

func (a *App) apiPortal(w http.ResponseWriter, r *http.Request, c *caller) error {
	url, err := a.Billing.Portal(r.Context(), c.account, a.PublicURL+"/account/portal-return")
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusCreated, map[string]any{"url": url})
	return nil
}

// apiChange changes the plan when the body confirms what a preview has said,
// and is that preview without.
func (a *App) apiChange(w http.ResponseWriter, r *http.Request, c *caller) error {
	var in struct {
		planChoice
		Confirm *billing.Confirm `json:"confirm"`
	}
	if err := read(r, &in); err != nil {
		return err
	}
	if in.Confirm == nil {
		p, err := a.Billing.Preview(r.Context(), c.account, in.order())
		if err != nil {
			return err
		}
		writeJSON(w, http.StatusOK, map[string]any{"preview": p})
		return nil
	}
	if _, err := a.Billing.ChangePlan(r.Context(), c.account, in.order(), in.Confirm); err != nil {
		return err
	}
	return a.nowSubscribed(w, r, c)
}

func (a *App) apiCancel(w http.ResponseWriter, r *http.Request, c *caller) error {
	if _, err := a.Billing.Cancel(r.Context(), c.account, billing.CancelOptions{}); err != nil {
		return err
	}
	return a.nowSubscribed(w, r, c)
}

func (a *App) apiResume(w http.ResponseWriter, r *http.Request, c *caller) error {
	if _, err := a.Billing.Resume(r.Context(), c.account); err != nil {
		return err
	}
	return a.nowSubscribed(w, r, c)
}

func (a *App) nowSubscribed(w http.ResponseWriter, r *http.Request, c *caller) error {
	var err error
	if c.access, err = a.Billing.Access(r.Context(), c.account); err != nil {
		return err
	}
	return a.apiSubscription(w, r, c)
}

func keyJSON(k apikeys.Key, now time.Time) map[string]any {
	out := map[string]any{"id": k.ID, "name": k.Name, "hint": k.Hint, "scopes": k.Scopes, "status": k.Status(now), "created_at": k.CreatedAt}
	if !k.LastUsed.At.IsZero() {
		out["last_used_at"] = k.LastUsed.At
	}
	return out
}

func (a *App) owner(c *caller) apikeys.Actor {
	return apikeys.Holder(c.account, apikeys.Account(c.account), Scopes()...)
}

func (a *App) apiKeys(w http.ResponseWriter, r *http.Request, c *caller) error {
	list, err := a.Keys.List(r.Context(), a.owner(c), apikeys.Account(c.account), "", 100)
	if err != nil {
		return err
	}
	keys := []map[string]any{}
	for _, k := range list {
		keys = append(keys, keyJSON(k, a.Now()))
	}
	writeJSON(w, http.StatusOK, map[string]any{"api_keys": keys})
	return nil
}

// reveal shows a new key's token, the only time.
func (a *App) reveal(w http.ResponseWriter, token apikeys.Token, key apikeys.Key, err error) error {
	if err != nil {
		return err
	}
	out := keyJSON(key, a.Now())
	out["token"] = token.Reveal()
	writeJSON(w, http.StatusCreated, out)
	return nil
}

func (a *App) apiIssueKey(w http.ResponseWriter, r *http.Request, c *caller) error {
	var in struct {
		Name        string   `json:"name"`
		Permissions []string `json:"permissions"` // "read", "write"
	}
	if err := read(r, &in); err != nil {
		return err
	}
	if !c.access.Has("api") {
		return &planError{"api"}
	}
	scopes := []string{}
	for _, p := range in.Permissions {
		scopes = append(scopes, "kolekts:"+p)
	}
	token, key, err := a.Keys.Issue(r.Context(), a.owner(c), apikeys.NewKey{Name: in.Name, Scopes: scopes})
	return a.reveal(w, token, key, err)
}

func (a *App) apiRotateKey(w http.ResponseWriter, r *http.Request, c *caller) error {
	token, key, err := a.Keys.Rotate(r.Context(), a.owner(c), r.PathValue("id"), apikeys.Rotation{Overlap: 24 * time.Hour})
	return a.reveal(w, token, key, err)
}

func (a *App) apiRevokeKey(w http.ResponseWriter, r *http.Request, c *caller) error {
	if err := a.Keys.Revoke(r.Context(), a.owner(c), r.PathValue("id"), "by its owner"); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// planError says that the plan lacks a feature.
type planError struct{ feature string }

func (e *planError) Error() string { return "kolekt: the plan doesn't have " + e.feature }

package billing

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// CheckoutOrder is an order that is paid on the gateway's page.
type CheckoutOrder struct {
	Order
	// SuccessURL is where the customer goes after paying; required. Every
	// {CHECKOUT_SESSION_ID} in it becomes the session's ID, for SyncCheckout.
	SuccessURL string
	// CancelURL is where the customer goes instead of paying; required.
	CancelURL string
	// AllowPromotionCodes lets the customer enter one.
	AllowPromotionCodes bool
}

// reuseUnasked is how old a checkout may be to be handed out again without
// asking the gateway whether it is still open.
const reuseUnasked = 10 * time.Second

// Checkout opens the gateway's payment page for a subscription. Of any number
// of calls at once, all get the same page. While a page is open for the same
// order it is handed out again; for another order it is closed first. An
// account with a live subscription gets ErrSubscribed.
func (s *Service) Checkout(ctx context.Context, account string, o CheckoutOrder) (Checkout, error) {
	if o.SuccessURL == "" || o.CancelURL == "" {
		return Checkout{}, fmt.Errorf("%w: CheckoutOrder needs SuccessURL and CancelURL", ErrInvalid)
	}
	items, err := s.lines(ctx, &o.Order)
	if err != nil {
		return Checkout{}, err
	}
	a, err := s.Account(ctx, account)
	if err != nil {
		return Checkout{}, err
	}
	if c, err := s.reuse(ctx, &a, &o, items); err != nil || c != nil {
		if err != nil {
			return Checkout{}, err
		}
		return *c, nil
	}
	over := "" // the page that can't be handed out again, also where nobody told that it expired
	if a.Checkout != nil {
		over = a.Checkout.ID
	}
	if a, err = s.ready(ctx, account); err != nil {
		return Checkout{}, err
	}
	keep := "" // a racing call may have opened the same page meanwhile
	if c := a.Checkout; c != nil && c.ID != over && c.Print == s.checkoutPrint(&a, &o, items) {
		keep = c.ID
	}
	if err := s.clear(ctx, &a, keep); err != nil {
		return Checkout{}, err
	}
	var open *OpenCheckout
	out, done, err := s.act(ctx, account, opCheckout, func(a *Account) (any, bool, error) {
		if err := a.sellable(); err != nil {
			return nil, false, err
		}
		open = a.Checkout
		if a.waiting() || open != nil && open.Print != s.checkoutPrint(a, &o, items) {
			return nil, false, errBusy
		}
		return s.checkoutRequest(a, &o, items), open != nil, nil
	})
	if err != nil {
		return Checkout{}, err
	}
	if done {
		return open.Checkout, nil
	}
	return out.checkout, nil
}

func (s *Service) checkoutRequest(a *Account, o *CheckoutOrder, items []LineItem) checkoutIntent {
	return checkoutIntent{Plan: o.Plan, Request: CheckoutRequest{
		CustomerID: a.CustomerID, Account: a.ID, Items: items,
		SuccessURL: o.SuccessURL, CancelURL: o.CancelURL, TrialDays: s.trial(a, &o.Order), TrialWithoutCard: o.TrialWithoutCard && s.trial(a, &o.Order) > 0,
		CouponID: o.CouponID, PromotionCode: o.PromotionCode, AllowPromotionCodes: o.AllowPromotionCodes,
		Metadata: o.metadata(s.catalog),
	}}
}

// checkoutPrint is the fingerprint of the intent that opens such a page.
func (s *Service) checkoutPrint(a *Account, o *CheckoutOrder, items []LineItem) string {
	return printOf(s.checkoutRequest(a, o, items))
}

// reuse returns the page that is open for the same order, or nil.
func (s *Service) reuse(ctx context.Context, a *Account, o *CheckoutOrder, items []LineItem) (*Checkout, error) {
	c := a.Checkout
	if c == nil || a.sellable() != nil || c.Print != s.checkoutPrint(a, o, items) {
		return nil, nil
	}
	now := s.now()
	if !c.ExpiresAt.IsZero() && !now.Before(c.ExpiresAt) {
		return nil, nil
	}
	if now.Sub(c.Created) < reuseUnasked {
		return &c.Checkout, nil
	}
	call, cancel := s.call(ctx)
	defer cancel()
	live, err := s.gateway.Checkout(call, c.ID)
	switch {
	case errors.Is(err, ErrNotFound):
		return nil, nil
	case err != nil:
		return nil, err
	case live.Status != "open":
		return nil, nil
	}
	return &c.Checkout, nil
}

// SyncCheckout is for the page that the customer returns to: it brings the
// account to the gateway's state at once, and so to the same place as the
// webhook, whichever comes first. A session of another account is ErrNotFound.
// The subscription may come a moment after the payment: while Checkout.Status
// is "complete" and the decision isn't Paid, ask again in a second.
func (s *Service) SyncCheckout(ctx context.Context, account, sessionID string) (Checkout, Decision, error) {
	a, err := s.Account(ctx, account)
	if err != nil {
		return Checkout{}, Decision{}, err
	}
	call, cancel := s.call(ctx)
	defer cancel()
	c, err := s.gateway.Checkout(call, sessionID)
	if err != nil {
		return Checkout{}, Decision{}, err
	}
	if a.CustomerID == "" || c.CustomerID != a.CustomerID {
		return Checkout{}, Decision{}, fmt.Errorf("%w: this account has no such checkout", ErrNotFound)
	}
	a, err = s.converge(ctx, account, a.CustomerID, nil, func(a *Account, _ bool) {
		if a.Checkout != nil && a.Checkout.ID == c.ID && c.Status != "open" {
			a.Checkout = nil
		}
	})
	if err != nil {
		return c, Decision{}, err
	}
	return c, Access(s.catalog, s.cfg.Policy, &a, s.now()), nil
}

// Portal returns the address of the gateway's page for payment methods and
// invoices. It is for this customer, and short-lived.
func (s *Service) Portal(ctx context.Context, account, returnURL string) (string, error) {
	id, err := s.EnsureCustomer(ctx, account)
	if err != nil {
		return "", err
	}
	if err := s.OnPage(ctx, account); err != nil {
		return "", err
	}
	call, cancel := s.call(ctx)
	defer cancel()
	return s.gateway.CreatePortal(call, id, returnURL)
}

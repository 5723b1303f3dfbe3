package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/kolekt/commerce/billing"
	"github.com/kolekt/commerce/examples/kolekt/internal/users"
	"github.com/kolekt/commerce/examples/kolekt/internal/web"
	"github.com/kolekt/commerce/mailer"
	"github.com/kolekt/commerce/referral"
)

// biller lets referral's rewards reach the invoice.
type biller struct{ *billing.Service }

const couponName = "Friends of Kolekt"

func (b biller) Coupon(ctx context.Context, call string, percent, months, amount int64, currency string) (string, error) {
	return b.Service.Coupon(ctx, call, couponName, percent, months, billing.Money{Amount: amount, Currency: currency})
}

func (b biller) DiscountInvoice(ctx context.Context, call, account, invoice string, less int64) (ref string, value, taken int64, currency string, err error) {
	r, err := b.DiscountRenewal(ctx, call, couponName, account, invoice, less)
	if errors.Is(err, billing.ErrInvalid) {
		return "", 0, 0, "", fmt.Errorf("%w: %w", referral.ErrTooLate, err)
	}
	return r.Coupon, r.Value.Amount, r.Taken.Amount, r.Value.Currency, err
}

func (b biller) Credit(ctx context.Context, call, account string, amount int64, currency string) (string, error) {
	return b.Service.Credit(ctx, call, account, billing.Money{Amount: amount, Currency: currency})
}

func (b biller) Debit(ctx context.Context, call, account string, amount int64, currency string) (int64, error) {
	taken, err := b.Service.Debit(ctx, call, account, billing.Money{Amount: amount, Currency: currency})
	return taken.Amount, err
}

// Grants lets Reconcile compare our rewards with Stripe's.
func (b biller) Grants(ctx context.Context, account string, each func(call, ref, invoice string, amount int64, currency string) error) error {
	list, err := b.Referenced(ctx, account)
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

func newReferrals(cfg Config, stores *Stores, subscriptions *billing.Service, post *Mails, now func() time.Time, log *slog.Logger) (*referral.Service, error) {
	return referral.New(stores.Referral, referral.Config{
		Pepper: cfg.Derive("referral"), Biller: biller{subscriptions}, Notify: post.Referral, Now: now, Logger: log,
		Campaigns: []referral.Campaign{{
			ID: web.Friends, Version: 1, MaxUses: 10,
			Referrer: referral.Benefit{FreeMonths: 1}, Referee: referral.Benefit{PercentOff: 50},
		}},
	})
}

// refer tells referral what happened to money.
func refer(ctx context.Context, service *referral.Service, subscriptions *billing.Service, n billing.Notice) error {
	switch n.Kind {
	case billing.KindInvoicePaid:
		return paid(ctx, service, subscriptions, n)
	case billing.KindInvoiceDrafted:
		return service.HandleDraft(ctx, referral.Draft{Invoice: n.InvoiceID, Account: n.Account, Currency: n.Amount.Currency})
	case billing.KindPaymentRefunded:
		return service.HandleRefunded(ctx, referral.Refunded{ID: n.ID, Account: n.Account, Invoice: n.InvoiceID, Amount: n.Amount.Amount, Currency: n.Amount.Currency})
	case billing.KindPaymentDisputed:
		return service.HandleDisputed(ctx, n.Account)
	case billing.KindSubscriptionEnded:
		return service.HandleEnded(ctx, n.Account)
	}
	return nil
}

// paid tells of a payment, and of what a discount took off it.
func paid(ctx context.Context, service *referral.Service, subscriptions *billing.Service, n billing.Notice) error {
	p := referral.Paid{ID: n.InvoiceID, Account: n.Account, Amount: n.Amount.Amount, Currency: n.Amount.Currency}
	account, err := subscriptions.Account(ctx, n.Account)
	if err != nil {
		return err
	}
	for _, inv := range account.Invoices {
		if inv.ID == n.InvoiceID {
			p.Discount = inv.Subtotal - inv.Total
		}
	}
	return service.HandlePaid(ctx, p)
}

// Referral tells a person about a reward.
func (m *Mails) Referral(ctx context.Context, n referral.Notice) error {
	if n.Event != "reward_qualified" && n.Event != "reward_granted" || n.Reward.Benefit.FreeMonths == 0 {
		return nil
	}
	u, err := m.people.Store().ByID(ctx, n.Account)
	if errors.Is(err, users.ErrNotFound) {
		return nil // erased meanwhile
	} else if err != nil {
		return err
	}
	_, err = m.kinds.ReferralReward.Enqueue(ctx, m.Service, to(u), mailer.ReferralReward{Reward: "one free month", URL: m.url + "/account/referral"}, mailer.Key(n.ID))
	return err
}

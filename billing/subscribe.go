package billing

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"
)

// Order is what an account asks for: a plan of the catalogue, and how to pay
// for it.
type Order struct {
	Plan     string
	Currency string   // empty: the first price that fits
	Interval Interval // empty: the first price that fits
	Seats    int64    // for plans with seats; 0 means the least, and in a change as many as there are
	// Addons are how many of each add-on. In a change those that aren't named
	// stay, and 0 takes one away.
	Addons map[string]int64
	// Current, in a change, leaves an older version or price of the plan for
	// the current one.
	Current bool

	CouponID      string
	PromotionCode string // the gateway's ID of it
	NoTrial       bool   // skip the plan's trial
	// TrialWithoutCard starts a trial that needs no payment method: it is
	// paused at its end unless one has come. On the gateway's page, none is
	// asked for.
	TrialWithoutCard bool
	// PaymentMethod is one that the account's customer has set up, for
	// Subscribe: the first payment is charged to it, and with
	// Config.TrialCardKey its trial is decided before anything is sold.
	PaymentMethod string
	Metadata      map[string]string // on the subscription
}

// EnsureCustomer returns the gateway's customer of an account, and makes it if
// there is none, or none any more: exactly one, from however many calls and
// processes at once.
func (s *Service) EnsureCustomer(ctx context.Context, account string) (customerID string, err error) {
	a, err := s.Account(ctx, account)
	if err != nil {
		return "", err
	}
	if a.CustomerID != "" && !a.Deleted {
		return a.CustomerID, nil
	}
	var who Person
	if s.cfg.Customer != nil {
		if who, err = s.cfg.Customer(ctx, account); err != nil {
			return "", fmt.Errorf("billing: customer of %q: %w", account, err)
		}
	}
	out, done, err := s.act(ctx, account, opCustomer, func(a *Account) (any, bool, error) {
		customerID = a.CustomerID
		return CustomerRequest{Account: account, Email: who.Email, Name: who.Name, Metadata: who.Metadata}, customerID != "" && !a.Deleted, nil
	})
	if err != nil {
		return "", err
	}
	if done {
		return customerID, nil
	}
	// Whoever settled the intent decided; all who joined it got one customer.
	return out.customer.ID, nil
}

// priceCache remembers the gateway's prices for a while.
type priceCache struct {
	mu     sync.Mutex
	prices map[string]cachedPrice
}

type cachedPrice struct {
	price Price
	until time.Time
}

// pricesFor is how long a price of the gateway is remembered. Prices don't
// change; which one has a lookup key may.
const pricesFor = 5 * time.Minute

func (c *priceCache) get(key string, now time.Time, fetch func() ([]Price, error)) (Price, error) {
	c.mu.Lock()
	got, ok := c.prices[key]
	c.mu.Unlock()
	if ok && now.Before(got.until) {
		return got.price, nil
	}
	prices, err := fetch()
	if err != nil {
		return Price{}, err
	}
	i := slices.IndexFunc(prices, func(p Price) bool { return p.LookupKey == key && p.Active })
	if i < 0 {
		return Price{}, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.prices == nil {
		c.prices = map[string]cachedPrice{}
	}
	c.prices[key] = cachedPrice{prices[i], now.Add(pricesFor)}
	return prices[i], nil
}

// quantity is the number of seats to pay for.
func (s *Service) quantity(o *Order) (int64, error) {
	p, err := s.catalog.plan(o.Plan)
	switch {
	case err != nil:
		return 0, err
	case p.Seats == nil && o.Seats > 1:
		return 0, fmt.Errorf("%w: plan %q has no seats", ErrInvalid, o.Plan)
	case p.Seats == nil:
		return 1, nil
	}
	least := p.Seats.least()
	switch n := o.Seats; {
	case n == 0:
		return least, nil
	case n < least || p.Seats.Maximum > 0 && n > p.Seats.Maximum:
		return 0, fmt.Errorf("%w: plan %q has %d to %d seats, not %d", ErrInvalid, o.Plan, least, p.Seats.Maximum, n)
	default:
		return n, nil
	}
}

// trial is when the trial of an order ends in days: none for an account that
// had one.
func (s *Service) trial(a *Account, o *Order) int64 {
	p, err := s.catalog.plan(o.Plan)
	if err != nil || o.NoTrial || !a.TrialUsed.IsZero() {
		return 0
	}
	return p.TrialDays
}

func (o *Order) metadata(c *Catalog) map[string]string {
	m := map[string]string{}
	for k, v := range o.Metadata {
		m[k] = v
	}
	maps.Copy(m, c.marks(o.Plan, 0)) // ours win
	return m
}

// marks are the metadata by which a subscription is known to be on a version
// of a plan; 0 is the current one.
func (c *Catalog) marks(plan string, version int64) map[string]string {
	m := map[string]string{MetadataPlan: plan}
	i, ok := c.byID[plan]
	if !ok {
		return m
	}
	if version == 0 {
		version = c.plans[i].Version
	}
	if c.plans[i].Version > 1 {
		m[MetadataVersion] = strconv.FormatInt(version, 10)
	}
	return m
}

// ready fetches the account's state, so that what the gateway knows and we
// don't yet is seen before anything is sold, and refuses an account that has a
// subscription.
func (s *Service) ready(ctx context.Context, account string) (Account, error) {
	if _, err := s.EnsureCustomer(ctx, account); err != nil {
		return Account{}, err
	}
	a, err := s.Sync(ctx, account)
	if err != nil {
		return a, err
	}
	return a, a.sellable()
}

// sellable refuses a second subscription: beside one that is past due too,
// which is to be paid instead.
func (a *Account) sellable() error {
	for _, sub := range a.Live() {
		if !sub.Status.waits() {
			return &SubscribedError{SubscriptionID: sub.ID, Status: sub.Status}
		}
	}
	return nil
}

// SubscribedError says which subscription is in the way of a new one. It is
// ErrSubscribed.
type SubscribedError struct {
	SubscriptionID string
	Status         Status
}

// Error says what to do instead.
func (e *SubscribedError) Error() string {
	help := "change its plan instead"
	if e.Status == StatusPastDue || e.Status == StatusUnpaid {
		help = "its invoice is to be paid first"
	}
	return fmt.Sprintf("%s: %s is %s: %s", ErrSubscribed, e.SubscriptionID, e.Status, help)
}

// Is makes it ErrSubscribed.
func (e *SubscribedError) Is(target error) bool { return target == ErrSubscribed }

// Subscribe starts a subscription that waits for its first payment, and
// returns what the client needs to pay. Asked for the same again, it returns
// the same while that payment is due; asked for something else, it ends the
// unpaid one first. An account with a live subscription gets ErrSubscribed.
func (s *Service) Subscribe(ctx context.Context, account string, o Order) (Subscribed, error) {
	items, err := s.lines(ctx, &o)
	if err != nil {
		return Subscribed{}, err
	}
	a, err := s.ready(ctx, account)
	if err != nil {
		return Subscribed{}, err
	}
	if err := s.trialOf(ctx, &a, &o); err != nil {
		return Subscribed{}, err
	}
	request := func(a *Account) SubscribeRequest {
		r := SubscribeRequest{
			CustomerID: a.CustomerID, Account: account, Items: items,
			CouponID: o.CouponID, PromotionCode: o.PromotionCode, Metadata: o.metadata(s.catalog), PaymentMethod: o.PaymentMethod,
		}
		if days := s.trial(a, &o); days > 0 {
			r.TrialWithoutCard = o.TrialWithoutCard
			// A day's callers ask for the same.
			r.TrialEnd = s.now().Truncate(24*time.Hour).AddDate(0, 0, int(days)+1)
		}
		return r
	}
	unpaid := func(a *Account) bool {
		return a.Unpaid != nil && a.Unpaid.Print == printOf(request(a)) && s.now().Sub(a.Unpaid.Started) < keyLife
	}
	underWay := func(a *Account) bool {
		return slices.ContainsFunc(a.Intents, func(it Intent) bool { return it.Op == opSubscribe && it.Print == printOf(request(a)) })
	}
	if !unpaid(&a) && !underWay(&a) {
		if err := s.clear(ctx, &a, ""); err != nil {
			return Subscribed{}, err
		}
	}
	var again Intent
	out, done, err := s.act(ctx, account, opSubscribe, func(a *Account) (any, bool, error) {
		if err := a.sellable(); err != nil {
			return nil, false, err
		}
		if unpaid(a) {
			again = *a.Unpaid
			return nil, true, nil
		}
		if !underWay(a) && (a.Checkout != nil || a.waiting()) {
			return nil, false, errBusy
		}
		return request(a), false, nil
	})
	if done {
		// The same key again: no second effect, and the answer of the first.
		out, err = s.execute(ctx, again)
	}
	return out.subscribed, err
}

// errBusy says that two different orders of one account met.
var errBusy = fmt.Errorf("%w: another order of this account came at the same time", ErrConflict)

// clear takes what is unpaid out of the way: an open checkout, unless it is
// the one to keep, and subscriptions that wait for a payment method.
func (s *Service) clear(ctx context.Context, a *Account, keep string) error {
	if c := a.Checkout; c != nil && c.ID != keep {
		if err := s.expire(ctx, a.ID, c.ID); err != nil {
			return err
		}
	}
	for _, sub := range a.Live() {
		if sub.Status.waits() {
			if err := s.end(ctx, a.ID, sub.ID, CancelRequest{Reason: "replaced"}); err != nil && !errors.Is(err, ErrNoSubscription) {
				return err
			}
		}
	}
	return nil
}

// expire closes a checkout and forgets it. One that is no longer open may have
// been paid: the account is fetched, and whoever goes on sees it.
func (s *Service) expire(ctx context.Context, account, checkout string) error {
	call, cancel := s.call(ctx)
	defer cancel()
	err := s.gateway.ExpireCheckout(call, checkout)
	switch {
	case errors.Is(err, ErrInvalid), errors.Is(err, ErrNotFound):
		if _, err := s.Sync(ctx, account); err != nil {
			return err
		}
	case err != nil:
		return err
	}
	_, err = s.edit(ctx, account, func(a *Account) bool {
		if a.Checkout == nil || a.Checkout.ID != checkout {
			return false
		}
		a.Checkout = nil
		return true
	})
	return err
}

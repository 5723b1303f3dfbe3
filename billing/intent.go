package billing

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"
)

// KeyPrefix begins every idempotency key of this package, so that events which
// our own writes caused are known by it.
const KeyPrefix = "commerce:"

// keyLife is how long the gateway is trusted to know an idempotency key; it
// says 24 hours.
const keyLife = 23 * time.Hour

// joinWithin is how young an attempt must be for others with the same request
// to rely on it without saying so in the store.
const joinWithin = 5 * time.Second

// The operations of intents.
const (
	opCustomer  = "customer"
	opSubscribe = "subscribe"
	opCheckout  = "checkout"
	opUpdate    = "update"
	opCancel    = "cancel"
	opBalance   = "balance"
	opRefund    = "refund"
	opMethod    = "payment_method"
	opPay       = "pay"
	opUnpause   = "unpause"

	opSchedule   = "schedule"
	opUnschedule = "unschedule"
)

// outcome is what an executed intent returned; the field of its operation is
// set.
type outcome struct {
	customer     Customer
	subscribed   Subscribed
	checkout     Checkout
	subscription Subscription
	balance      BalanceEntry
	refund       CreditNote
	invoice      Invoice
}

// apart reports whether an operation touches nothing that another one does:
// it may be under way beside others.
func apart(op string) bool {
	switch op {
	case opCustomer, opBalance, opRefund, opMethod:
		return true
	}
	return false
}

// keyed is a request that has a name of its own for good, which makes its
// idempotency key: also a store that was emptied doesn't repeat it.
type keyed interface{ key() string }

// plan says what is to be done for an account as it stands: the request to
// make, or that there is nothing to do.
type plan func(a *Account) (request any, done bool, err error)

// act makes one write to the gateway, with one effect however often and from
// however many processes it is asked for, and wherever a process dies:
//
//  1. the intent is stored on the version of the account that it was decided
//     on: of racing callers one stores it, the others find it and join;
//  2. the gateway is called with the intent's key: joined and repeated calls
//     have one effect;
//  3. the result is stored and the intent removed, in one step.
//
// An intent whose outcome isn't known stays, and Run takes it up again with
// the same key. Done says that plan found nothing to do.
func (s *Service) act(ctx context.Context, account, op string, decide plan) (out outcome, done bool, err error) {
	for try := range maxConflicts {
		a, err := s.Account(ctx, account)
		if err != nil {
			return out, false, err
		}
		request, done, err := decide(&a)
		if err != nil || done {
			return out, done, err
		}
		it, err := s.place(ctx, &a, op, request)
		if errors.Is(err, errAgain) || errors.Is(err, errRaced) {
			if err := s.pause(ctx); err != nil {
				return out, false, err
			}
			continue
		}
		if err != nil {
			return out, false, err
		}
		out, err = s.perform(ctx, account, it)
		if inFlight(err) && try < 40 {
			if err := sleep(ctx, time.Duration(try+1)*10*time.Millisecond); err != nil {
				return out, false, err
			}
			continue
		}
		return out, false, err
	}
	return out, false, fmt.Errorf("%w: account %q is written all the time", ErrConflict, account)
}

var (
	errAgain = errors.New("billing: the account has changed: decide again")
	errRaced = errors.New("billing: somebody else wrote the account first")
)

// place stores the intent, or joins the one that is there.
func (s *Service) place(ctx context.Context, a *Account, op string, request any) (Intent, error) {
	raw, print, now := encode(request), printOf(request), s.now()
	for i, it := range a.Intents {
		same := it.Op == op && (it.Print == print || op == opCustomer)
		switch {
		case !same && (apart(it.Op) || apart(op)):
			continue // these don't touch each other
		case now.Sub(it.Started) >= keyLife:
			if err := s.resume(ctx, a.ID, it); err != nil {
				return Intent{}, err
			}
			return Intent{}, errAgain
		case same && !it.Idle && now.Sub(it.Called) < joinWithin:
			return it, nil
		case same:
			a.Intents[i].Called, a.Intents[i].Idle = now, false
			return a.Intents[i], s.saveIntents(ctx, a)
		case now.Sub(it.Called) < s.resumeAfter(): // a call may be under way
			return Intent{}, fmt.Errorf("%w: another change of this account (%s) is under way: try again in a minute", ErrConflict, it.Op)
		default:
			if err := s.resume(ctx, a.ID, it); err != nil {
				return Intent{}, err
			}
			return Intent{}, errAgain
		}
	}
	a.Sequence++
	who := sha256.Sum256([]byte(a.ID))
	it := Intent{
		Op: op, Request: raw, Print: print, Started: now, Called: now,
		// The instant keeps a store that was emptied from using keys again.
		Key: fmt.Sprintf("%s%s:%s:%d:%x", KeyPrefix, op, hex.EncodeToString(who[:8]), a.Sequence, now.UnixMicro()),
	}
	if r, ok := request.(keyed); ok {
		it.Key = KeyPrefix + op + ":" + fingerprint(r.key())
	}
	a.Intents = append(a.Intents, it)
	return it, s.saveIntents(ctx, a)
}

func encode(request any) json.RawMessage {
	raw, err := json.Marshal(request)
	if err != nil {
		panic("billing: request doesn't encode: " + err.Error()) // plain data: can't happen
	}
	return raw
}

// printOf is the fingerprint by which the same request is known.
func printOf(request any) string {
	if r, ok := request.(interface{ essence() any }); ok {
		request = r.essence()
	}
	sum := sha256.Sum256(encode(request))
	return hex.EncodeToString(sum[:16])
}

// saveIntents writes an account of which only the intents have changed.
func (s *Service) saveIntents(ctx context.Context, a *Account) error {
	if a.Created.IsZero() {
		a.Created = s.now()
	}
	a.DueAt = s.dueAt(a)
	err := s.store.Save(ctx, Change{Account: *a})
	if errors.Is(err, ErrConflict) {
		return errRaced
	}
	if err != nil {
		return fmt.Errorf("billing: store intent: %w", err)
	}
	return nil
}

// perform calls the gateway and settles the intent.
func (s *Service) perform(ctx context.Context, account string, it Intent) (outcome, error) {
	out, err := s.execute(ctx, it)
	switch {
	case err == nil:
		return out, s.conclude(ctx, account, it, &out)
	case inFlight(err):
		return out, err
	case errors.Is(err, ErrUnavailable):
		// Known to have had no effect. The intent stays for others who may
		// have joined it, but nobody is to repeat it for us.
		return out, errors.Join(err, s.mark(ctx, account, it))
	case retryable(err) || !definite(err):
		return out, unknown(it, err)
	}
	return out, errors.Join(err, s.drop(ctx, account, it.Key))
}

// inFlight reports whether the gateway refuses a key because the first call
// with it is still under way: wait, and there will be an answer.
func inFlight(err error) bool {
	var gateway *GatewayError
	return errors.Is(err, ErrConflict) || errors.As(err, &gateway) && gateway.Status == http.StatusConflict
}

// definite reports whether an error says that the write was refused.
func definite(err error) bool {
	for _, kind := range []error{ErrNotFound, ErrInvalid, ErrDeclined, ErrActionRequired, ErrUnsupported, ErrUnknownPlan} {
		if errors.Is(err, kind) {
			return true
		}
	}
	return false
}

// unknown makes an error that says which key to look for.
func unknown(it Intent, err error) error {
	if errors.Is(err, ErrUnknownOutcome) {
		return err
	}
	return &GatewayError{Op: it.Op, Kind: ErrUnknownOutcome, IdempotencyKey: it.Key, Err: err}
}

func (s *Service) mark(ctx context.Context, account string, it Intent) error {
	_, err := s.edit(ctx, account, func(a *Account) bool {
		for i := range a.Intents {
			if p := &a.Intents[i]; p.Key == it.Key && !p.Idle && !p.Called.After(it.Called) {
				p.Idle = true
				return true
			}
		}
		return false
	})
	return err
}

func (s *Service) drop(ctx context.Context, account, key string) error {
	_, err := s.edit(ctx, account, func(a *Account) bool { return a.removeIntent(key) })
	return err
}

func (a *Account) removeIntent(key string) bool {
	n := len(a.Intents)
	a.Intents = slices.DeleteFunc(a.Intents, func(it Intent) bool { return it.Key == key })
	return len(a.Intents) != n
}

// updateIntent and cancelIntent are the stored requests that the gateway's own
// don't hold wholly; checkoutIntent adds what the account is shown.
type (
	updateIntent struct {
		SubscriptionID string
		Request        UpdateRequest
		Audit          *Audit `json:",omitempty"` // by hand
		What           string `json:",omitempty"`
	}
	cancelIntent struct {
		SubscriptionID string
		Request        CancelRequest
	}
	checkoutIntent struct {
		Request CheckoutRequest
		Plan    string
	}
)

// execute makes the call of an intent.
func (s *Service) execute(ctx context.Context, it Intent) (out outcome, err error) {
	call, cancel := s.call(ctx)
	defer cancel()
	switch it.Op {
	case opCustomer:
		var r CustomerRequest
		if err = json.Unmarshal(it.Request, &r); err == nil {
			out.customer, err = s.gateway.CreateCustomer(call, r, it.Key)
		}
	case opSubscribe:
		var r SubscribeRequest
		if err = json.Unmarshal(it.Request, &r); err == nil {
			out.subscribed, err = s.gateway.Subscribe(call, r, it.Key)
		}
	case opCheckout:
		var r checkoutIntent
		if err = json.Unmarshal(it.Request, &r); err == nil {
			out.checkout, err = s.gateway.CreateCheckout(call, r.Request, it.Key)
		}
	case opUpdate:
		var r updateIntent
		if err = json.Unmarshal(it.Request, &r); err == nil {
			out.subscription, err = s.gateway.UpdateSubscription(call, r.SubscriptionID, r.Request, it.Key)
		}
	case opCancel:
		var r cancelIntent
		if err = json.Unmarshal(it.Request, &r); err == nil {
			out.subscription, err = s.gateway.CancelSubscription(call, r.SubscriptionID, r.Request, it.Key)
		}
	case opSchedule, opUnschedule:
		out.subscription, err = s.executeSchedule(call, it)
	case opBalance:
		var r balanceIntent
		var c Creditor
		if err = json.Unmarshal(it.Request, &r); err == nil {
			if c, err = s.creditor(); err == nil {
				out.balance, err = c.AddBalance(call, r.CustomerID, r.Amount, r.Reference, it.Key)
			}
		}
	case opRefund:
		var r refundIntent
		var c Refunder
		if err = json.Unmarshal(it.Request, &r); err == nil {
			if c, err = s.refunder(); err == nil {
				out.refund, err = c.CreateCreditNote(call, r.Request, it.Key)
			}
		}
	case opMethod, opPay:
		var r payIntent
		var p Payer
		if err = json.Unmarshal(it.Request, &r); err != nil {
			break
		}
		if p, err = s.payer(); err != nil {
			break
		}
		if it.Op == opMethod {
			err = p.SetPaymentMethod(call, r.CustomerID, r.SubscriptionID, r.PaymentMethod, it.Key)
		} else {
			out.invoice, err = p.PayInvoice(call, r.InvoiceID, PayRequest{PaymentMethod: r.PaymentMethod, OffSession: r.OffSession}, it.Key)
		}
	case opUnpause:
		var r cancelIntent
		if err = json.Unmarshal(it.Request, &r); err == nil {
			err = fmt.Errorf("%w: it can't resume a paused subscription", ErrUnsupported)
			if p, ok := s.gateway.(Unpauser); ok {
				out.subscription, err = p.UnpauseSubscription(call, r.SubscriptionID, it.Key)
			}
		}
	default:
		err = fmt.Errorf("%w: intent %q is of a newer version", ErrUnsupported, it.Op)
	}
	return out, err
}

// conclude stores what an intent led to and removes it. Subscriptions are
// fetched, not taken from the answer: somebody may have stored a later state
// meanwhile.
func (s *Service) conclude(ctx context.Context, account string, it Intent, out *outcome) error {
	settle := func(a *Account) {
		a.removeIntent(it.Key)
		a.adjusted(it, out, s.now())
		switch it.Op {
		case opCustomer:
			if a.CustomerID == "" || a.Deleted {
				a.CustomerID, a.Deleted = out.customer.ID, false
			}
		case opCheckout:
			var r checkoutIntent
			if json.Unmarshal(it.Request, &r) == nil && out.checkout.ID != "" {
				a.Checkout = &OpenCheckout{Checkout: out.checkout, Plan: r.Plan, Print: it.Print}
				a.settle()
			}
		case opSubscribe:
			unpaid := it
			a.Unpaid = &unpaid
		}
	}
	if it.Op == opCustomer || it.Op == opCheckout {
		_, err := s.edit(ctx, account, func(a *Account) bool {
			if !slices.ContainsFunc(a.Intents, func(p Intent) bool { return p.Key == it.Key }) {
				return false // somebody who joined has settled it
			}
			settle(a)
			return true
		})
		return err
	}
	a, err := s.Account(ctx, account)
	if err != nil {
		return err
	}
	_, err = s.converge(ctx, account, a.CustomerID, nil, func(a *Account, fetched bool) {
		settle(a)
		if !fetched {
			a.Provisional = true
			s.adopt(a, out)
		}
	})
	if retryable(err) && ctx.Err() == nil {
		return nil // the effect is stored, and the account is due to be fetched
	}
	return err
}

// adopt takes a write's answer over while the gateway can't be asked for more.
func (s *Service) adopt(a *Account, out *outcome) {
	sub := out.subscription
	if sub.ID == "" {
		sub = out.subscribed.Subscription
	}
	if sub.ID == "" {
		return
	}
	e := Event{Created: s.now(), Subscription: &sub}
	if old := a.subscription(sub.ID); old != nil && !old.Status.Terminal() {
		*old = sub
	}
	a.merge(&e)
}

// resume takes an intent up whose caller is gone. Within the life of its key
// it is called again: either it has its effect now, or it had it and the
// answer is the same. Later the gateway is asked whether it happened, and if
// it didn't, it is given up: nobody waits for yesterday's click.
func (s *Service) resume(ctx context.Context, account string, it Intent) error {
	if it.Idle {
		return s.drop(ctx, account, it.Key)
	}
	if s.now().Sub(it.Started) < keyLife {
		_, err := s.perform(ctx, account, it)
		if definite(err) {
			s.cfg.Logger.WarnContext(ctx, "billing: resumed intent was refused", "account", account, "op", it.Op, "error", err)
			return nil // it is dropped
		}
		return err
	}
	out, err := s.lookUp(ctx, account, it)
	switch {
	case err == nil:
		return s.conclude(ctx, account, it, &out)
	case !errors.Is(err, ErrNotFound):
		return err
	}
	if repeats(it) {
		// It certainly didn't happen, and somebody counts on it. The gateway
		// has forgotten the key, or knows its answer.
		if it, err = s.restart(ctx, account, it); err != nil || it.Key == "" {
			return err
		}
		_, err = s.perform(ctx, account, it)
		if definite(err) {
			s.cfg.Logger.WarnContext(ctx, "billing: repeated intent was refused", "account", account, "op", it.Op, "error", err)
			return nil
		}
		return err
	}
	if it.Op != opCustomer {
		if _, err := s.Sync(ctx, account); err != nil {
			return err
		}
		s.cfg.Logger.WarnContext(ctx, "billing: intent is given up: its key has expired", "account", account, "op", it.Op)
	}
	return s.drop(ctx, account, it.Key)
}

// lookUp asks the gateway whether an intent had its effect, by the metadata
// that it carries; ErrNotFound says that it hadn't, or that only the state
// tells.
func (s *Service) lookUp(ctx context.Context, account string, it Intent) (out outcome, err error) {
	call, cancel := s.call(ctx)
	defer cancel()
	switch it.Op {
	case opCustomer:
		out.customer, err = s.gateway.FindCustomer(call, account)
		return out, err
	case opBalance:
		var r balanceIntent
		if err = json.Unmarshal(it.Request, &r); err != nil {
			return out, err
		}
		c, err := s.creditor()
		if err != nil {
			return out, err
		}
		out.balance, err = c.FindBalance(call, r.CustomerID, r.Reference)
		return out, err
	case opRefund:
		var r refundIntent
		if err = json.Unmarshal(it.Request, &r); err != nil {
			return out, err
		}
		c, err := s.refunder()
		if err != nil {
			return out, err
		}
		out.refund, err = c.FindCreditNote(call, r.Request.InvoiceID, r.Request.Reference)
		return out, err
	}
	return out, fmt.Errorf("%w: an intent of this kind", ErrNotFound)
}

// repeats reports whether an intent whose key has expired is made again: one
// that was asked for once and for good, not a click that nobody waits for.
func repeats(it Intent) bool {
	switch it.Op {
	case opBalance, opRefund:
		return true
	case opUpdate:
		var r updateIntent // sets the same again
		return json.Unmarshal(it.Request, &r) == nil && r.Audit != nil
	}
	return false
}

// restart gives an intent a new life. No key says that it is settled.
func (s *Service) restart(ctx context.Context, account string, it Intent) (again Intent, err error) {
	_, err = s.edit(ctx, account, func(a *Account) bool {
		again = Intent{}
		for i := range a.Intents {
			if p := &a.Intents[i]; p.Key == it.Key {
				p.Started, p.Called, p.Idle = s.now(), s.now(), false
				again = *p
				return true
			}
		}
		return false
	})
	return again, err
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

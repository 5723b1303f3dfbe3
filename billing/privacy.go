package billing

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/kolekt/commerce/internal/ident"
)

// CustomerEraser is a Gateway that can take the personal data away from a
// customer. Invoices stay: the law wants them kept.
type CustomerEraser interface {
	// EraseCustomer removes name, addresses, payment methods and metadata of a
	// customer, and ends what it still has. It returns how many records of
	// each kind the provider keeps with the person in them, because the law
	// wants it or because there is no way to take it out. It goes on where an
	// earlier call ended; a customer that is gone already is no error.
	EraseCustomer(ctx context.Context, customerID string) (kept map[string]int64, err error)
}

// page is how much an export reads and an erasure writes at a time.
const page = 500

// ExportSubject hands over everything that is kept about an account, record by
// record: account, subscription, invoice, checkout, intent, seat, adjustment,
// comp, claim, notice, and event with the bytes that the gateway sent. Fields hold text, integers, booleans,
// lists and maps of these. An account that isn't known has no record.
func (s *Service) ExportSubject(ctx context.Context, account string, emit func(record string, fields map[string]any) error) error {
	a, err := s.Account(ctx, account)
	if err != nil {
		return err
	}
	out := func(record string, v any) error {
		fields, err := plain(v)
		if err != nil {
			return fmt.Errorf("billing: export %s: %w", record, err)
		}
		return emit(record, fields)
	}
	if a.Version > 0 {
		if err := s.exportAccount(&a, out); err != nil {
			return err
		}
	}
	claims, err := s.store.Claims(ctx, account)
	if err != nil {
		return fmt.Errorf("billing: export claims: %w", err)
	}
	for _, c := range claims {
		if err := out("claim", c); err != nil {
			return err
		}
	}
	for after := ""; ; {
		list, err := s.store.Notices(ctx, account, after, page)
		if err != nil {
			return fmt.Errorf("billing: export notices: %w", err)
		}
		for _, d := range list {
			if err := out("notice", d); err != nil {
				return err
			}
			after = d.ID
		}
		if len(list) < page {
			break
		}
	}
	for after := ""; a.CustomerID != ""; {
		list, err := s.store.Events(ctx, EventQuery{CustomerID: a.CustomerID, After: after, Limit: page})
		if err != nil {
			return fmt.Errorf("billing: export events: %w", err)
		}
		for _, e := range list {
			err := emit("event", map[string]any{
				"id": e.ID, "type": e.Type, "created": e.Created.Format(time.RFC3339), "received": e.Received.Format(time.RFC3339), "body": withoutSecrets(e.Body),
			})
			if err != nil {
				return err
			}
			after = e.ID
		}
		if len(list) < page {
			break
		}
	}
	return nil
}

// secretField is a member of a provider's object with which a browser could pay
// in the customer's name.
var secretField = regexp.MustCompile(`"(client_secret|ephemeral_key_secret)"\s*:\s*"[^"]*"`)

func withoutSecrets(body []byte) string {
	return string(secretField.ReplaceAll(body, []byte(`"$1":"(left out)"`)))
}

func (s *Service) exportAccount(a *Account, out func(string, any) error) error {
	err := out("account", map[string]any{
		"account": a.ID, "customer_id": a.CustomerID, "created": a.Created, "synced": a.SyncedAt, "trial_used": a.TrialUsed, "balance": a.Balance,
		"payment_method": a.PaymentMethod,
	})
	for _, sub := range a.Subscriptions {
		err = errors.Join(err, out("subscription", sub))
	}
	for _, inv := range a.Invoices {
		err = errors.Join(err, out("invoice", inv))
	}
	for _, it := range a.Intents {
		err = errors.Join(err, out("intent", it))
	}
	if a.Checkout != nil {
		err = errors.Join(err, out("checkout", a.Checkout))
	}
	for _, seat := range a.Seats {
		err = errors.Join(err, out("seat", seat))
	}
	for _, d := range a.Adjustments {
		err = errors.Join(err, out("adjustment", d))
	}
	if a.Comp != nil {
		err = errors.Join(err, out("comp", a.Comp))
	}
	return err
}

// plain turns a value into text, integers, booleans, lists and maps.
func plain(v any) (map[string]any, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	var fields map[string]any
	if err := d.Decode(&fields); err != nil {
		return nil, err
	}
	return exact(fields).(map[string]any), nil
}

// exact replaces JSON's numbers by integers, which all of ours are.
func exact(v any) any {
	switch v := v.(type) {
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return n
		}
		return v.String()
	case []any:
		for i := range v {
			v[i] = exact(v[i])
		}
	case map[string]any:
		for k := range v {
			v[k] = exact(v[k])
		}
	}
	return v
}

// EraseSubject takes the person away from an account and keeps the money: it
// ends the live subscriptions, has the gateway erase the customer if it can
// (see CustomerEraser), empties the events and notices that are kept, and puts
// the account under a new random ID, with subscriptions and invoices reduced to
// amounts and dates. It returns how many of each it did, works in bounded
// steps, and can be repeated: what is done already counts nothing.
//
// Events that come afterwards are handled under the new ID, and emptied then.
// What the provider keeps with the person in it is counted as "provider_invoice"
// and the like.
func (s *Service) EraseSubject(ctx context.Context, account string) (map[string]int64, error) {
	counts := map[string]int64{}
	a, err := s.Account(ctx, account)
	if err != nil {
		return counts, err
	}
	if a.Version > 0 {
		for _, sub := range a.Live() {
			if err := s.end(ctx, account, sub.ID, CancelRequest{Reason: "account erased"}); err != nil {
				return counts, err
			}
			counts["subscription"]++
		}
		if c := a.Checkout; c != nil {
			if err := s.expire(ctx, account, c.ID); err != nil {
				return counts, err
			}
		}
		if eraser, ok := s.gateway.(CustomerEraser); ok && a.CustomerID != "" {
			call, cancel := s.call(ctx)
			kept, err := eraser.EraseCustomer(call, a.CustomerID)
			cancel()
			if err != nil {
				return counts, err
			}
			counts["customer"]++
			for record, n := range kept {
				counts["provider_"+record] += n
			}
		}
	}
	// The contents first, while the customer is known.
	if err := s.scrub(ctx, account, a.CustomerID, counts); err != nil {
		return counts, err
	}
	if a.Version > 0 {
		if err := s.detach(ctx, account); err != nil {
			return counts, err
		}
		counts["account"]++
		if len(a.Invoices) > 0 {
			counts["invoice"] += int64(len(a.Invoices))
		}
	}
	// And those that the end itself led to: notices, and events that came
	// meanwhile. What comes from now on is emptied once it is handled.
	return counts, s.scrub(ctx, account, a.CustomerID, counts)
}

func (s *Service) scrub(ctx context.Context, account, customerID string, counts map[string]int64) error {
	for {
		events, notices, err := s.store.Scrub(ctx, account, customerID, page)
		if err != nil {
			return fmt.Errorf("billing: scrub: %w", err)
		}
		if events > 0 {
			counts["event"] += int64(events)
		}
		if notices > 0 {
			counts["notice"] += int64(notices)
		}
		if events < page && notices < page {
			return nil
		}
	}
}

func (s *Service) detach(ctx context.Context, account string) error {
	for range maxConflicts {
		a, err := s.Account(ctx, account)
		if err != nil || a.Version == 0 {
			return err
		}
		as := a.Clone()
		as.ID, as.Erased = ident.New(strings.TrimSuffix(erasedPrefix, "_"), s.now()), true
		as.settle()
		err = s.store.Detach(ctx, account, as)
		s.feeds.forget(account)
		if !errors.Is(err, ErrConflict) {
			return err
		}
		if err := s.pause(ctx); err != nil {
			return err
		}
	}
	return fmt.Errorf("%w: account is written all the time", ErrConflict)
}

// Remover is a Store that can forget an erased account when the law wants it no
// more. The stores of this module do.
type Remover interface {
	// Remove deletes an account whose version is the given one. Otherwise
	// nothing is deleted and the error is ErrConflict; one that isn't there is
	// no error.
	Remove(ctx context.Context, account string, version int64) error
}

// ExpireErased deletes what erasures left behind, where everything in it is
// from before an instant: the one whose invoices need not be kept any longer
// now. It returns how many records of each kind there were, works in bounded
// steps, and can be repeated.
func (s *Service) ExpireErased(ctx context.Context, before time.Time) (map[string]int64, error) {
	store, ok := s.store.(Remover)
	if !ok {
		return nil, fmt.Errorf("%w: the store can't remove accounts: see billing.Remover", ErrInvalid)
	}
	counts := map[string]int64{}
	for after := erasedPrefix; ; {
		ids, err := s.store.Accounts(ctx, AccountQuery{After: after, Limit: page})
		if err != nil {
			return counts, fmt.Errorf("billing: expire: %w", err)
		}
		ours := false
		for _, id := range ids {
			after = id
			if !strings.HasPrefix(id, erasedPrefix) {
				continue // a database's collation may mix others in
			}
			ours = true
			a, err := s.Account(ctx, id)
			if err != nil {
				return counts, err
			}
			if !a.Erased || !a.newest().Before(before) {
				continue
			}
			if err := store.Remove(ctx, id, a.Version); errors.Is(err, ErrConflict) {
				continue // it is alive after all: not now
			} else if err != nil {
				return counts, fmt.Errorf("billing: expire: %w", err)
			}
			counts["account"]++
			counts["subscription"] += int64(len(a.Subscriptions))
			counts["invoice"] += int64(len(a.Invoices))
		}
		if !ours || len(ids) < page {
			return counts, nil
		}
	}
}

// newest is the instant of the last thing that happened to the money.
func (a *Account) newest() time.Time {
	at := a.Created
	for i := range a.Invoices {
		if c := a.Invoices[i].Created; c.After(at) {
			at = c
		}
	}
	for i := range a.Subscriptions {
		if e := a.Subscriptions[i].EndedAt; e.After(at) {
			at = e
		}
	}
	return at
}

// erasedPrefix begins the random IDs of accounts that were erased.
const erasedPrefix = "erased_"

// anonymize leaves amounts, dates and the provider's own identifiers.
func (a *Account) anonymize() {
	for i := range a.Subscriptions {
		sub := &a.Subscriptions[i]
		sub.Account, sub.DefaultPaymentMethod = "", ""
		if plan, ok := sub.Metadata[MetadataPlan]; ok {
			sub.Metadata = map[string]string{MetadataPlan: plan}
		} else {
			sub.Metadata = nil
		}
	}
	for i := range a.Invoices {
		inv := &a.Invoices[i]
		inv.HostedURL, inv.PDFURL, inv.Metadata = "", "", nil
		for j := range inv.Lines {
			inv.Lines[j].Description = ""
		}
	}
	for i := range a.Adjustments {
		a.Adjustments[i].By, a.Adjustments[i].Reason = "", ""
	}
	a.Checkout, a.Intents, a.Unpaid = nil, nil, nil
	a.Seats, a.SeatOrder, a.PaymentMethod, a.TrialCards, a.Retry = nil, nil, "", nil, false
}

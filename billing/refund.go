package billing

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
)

// Refunder is what a Gateway offers in addition if it can give money back.
type Refunder interface {
	// CreateCreditNote credits a part of an invoice. The reference is stored
	// with it.
	CreateCreditNote(ctx context.Context, req CreditNoteRequest, key string) (CreditNote, error)
	// FindCreditNote returns the credit note of an invoice that was made with
	// this reference, or ErrNotFound: for a retry after the idempotency key
	// has expired.
	FindCreditNote(ctx context.Context, invoiceID, reference string) (CreditNote, error)
	// Invoice fetches an invoice.
	Invoice(ctx context.Context, id string) (Invoice, error)
}

// CreditNoteRequest asks for a credit note.
type CreditNoteRequest struct {
	InvoiceID string
	Amount    Money // positive
	// Of a paid invoice, money goes back, or, with ToBalance, becomes credit.
	// An open one asks for less.
	Open      bool
	ToBalance bool
	Reason    string
	Reference string
}

// CreditNote is what was credited of an invoice.
type CreditNote struct {
	ID        string `json:"id"`
	InvoiceID string `json:"invoice_id"`
	Amount    Money  `json:"amount"` // positive
	RefundID  string `json:"refund_id,omitempty"`
	Reference string `json:"reference,omitempty"`
	PDFURL    string `json:"pdf_url,omitempty"`
}

// The reasons of a credit note, in the gateway's words.
const (
	RefundDuplicate      = "duplicate"
	RefundFraudulent     = "fraudulent"
	RefundOrderChange    = "order_change"
	RefundUnsatisfactory = "product_unsatisfactory"
)

// RefundOrder says what is given back.
type RefundOrder struct {
	InvoiceID string
	// Amount is a part of the invoice; zero: all that was paid and wasn't
	// given back, or of an open invoice all that it asks for.
	Amount Money
	// ToBalance gives credit for the next invoices in place of money.
	ToBalance bool
	// Reason is one of the Refund constants, or empty.
	Reason string
}

func (s *Service) refunder() (Refunder, error) {
	r, ok := s.gateway.(Refunder)
	if !ok {
		return nil, fmt.Errorf("%w: it implements no Refunder", ErrUnsupported)
	}
	return r, nil
}

// refundIntent is a credit note that is under way.
type refundIntent struct {
	Request CreditNoteRequest
	Audit   *Audit
	What    string
}

func (r refundIntent) key() string { return r.Request.Reference }

// Refund gives money of a paid invoice back, or takes something off an open
// one, with a credit note. All that was ever given back of an invoice, with
// what is under way, is never more than what was paid: an order for more is
// ErrInvalid. The same key has one effect for good.
func (s *Service) Refund(ctx context.Context, account string, o RefundOrder, why Audit) (CreditNote, error) {
	g, err := s.refunder()
	if err != nil {
		return CreditNote{}, err
	}
	if err := why.validate(); err != nil {
		return CreditNote{}, err
	}
	switch o.Reason {
	case "", RefundDuplicate, RefundFraudulent, RefundOrderChange, RefundUnsatisfactory:
	default:
		return CreditNote{}, fmt.Errorf("%w: refund reason %q", ErrInvalid, o.Reason)
	}
	if o.Amount.Amount < 0 {
		return CreditNote{}, fmt.Errorf("%w: a refund of %s", ErrInvalid, o.Amount)
	}
	what := "refund of invoice " + o.InvoiceID + ", all that was paid"
	if o.Amount.Amount > 0 {
		what = fmt.Sprintf("refund of invoice %s, %s", o.InvoiceID, o.Amount)
	}
	if o.ToBalance {
		what += ", as credit"
	}
	reference := "refund:" + fingerprint(account+"\x00"+why.Key)
	var known CreditNote
	out, done, err := s.act(ctx, account, opRefund, func(a *Account) (any, bool, error) {
		request, done, err := a.repeated(why, what)
		if request != nil || err != nil {
			return request, false, err
		}
		call, cancel := s.call(ctx)
		defer cancel()
		inv, err := g.Invoice(call, o.InvoiceID)
		if err != nil {
			return nil, false, err
		}
		if a.CustomerID == "" || inv.CustomerID != a.CustomerID {
			return nil, false, fmt.Errorf("%w: this account has no such invoice", ErrNotFound)
		}
		// Before every write: whoever calls may come back after a year.
		if known, err = g.FindCreditNote(call, inv.ID, reference); !errors.Is(err, ErrNotFound) {
			return nil, err == nil, err
		}
		if done {
			return nil, false, fmt.Errorf("%w: the credit note of key %q is gone", ErrNotFound, why.Key)
		}
		req, err := creditNote(&inv, a.credited(&inv), o)
		req.Reference = reference
		return refundIntent{Request: req, Audit: &why, What: what}, false, err
	})
	if err != nil || !done {
		return out.refund, err
	}
	_, err = s.edit(ctx, account, func(a *Account) bool {
		_, recorded := a.adjustment(why.Key)
		a.adjust(Adjustment{Audit: why, At: s.now(), What: what, Amount: known.Amount})
		return !recorded
	})
	return known, err
}

// creditNote decides what is given back of an invoice.
func creditNote(inv *Invoice, credited int64, o RefundOrder) (CreditNoteRequest, error) {
	req := CreditNoteRequest{InvoiceID: inv.ID, Amount: o.Amount, ToBalance: o.ToBalance, Reason: o.Reason}
	room := inv.AmountPaid - credited
	switch inv.Status {
	case InvoicePaid:
	case InvoiceOpen:
		req.Open, req.ToBalance, room = true, false, inv.AmountRemaining
	default:
		return req, fmt.Errorf("%w: invoice %s is %s: there is nothing to give back", ErrInvalid, inv.ID, inv.Status)
	}
	if req.Amount == (Money{}) {
		req.Amount = Money{room, inv.Currency}
	}
	if req.Amount.Currency != inv.Currency || req.Amount.Amount < 1 || req.Amount.Amount > room {
		return req, fmt.Errorf("%w: %s can't be given back of invoice %s: at most %s", ErrInvalid, req.Amount, inv.ID, Money{max(room, 0), inv.Currency})
	}
	return req, nil
}

// credited is what was given back of a paid invoice, as the gateway just
// showed it, with what is under way: of that the gateway may show a part
// already.
func (a *Account) credited(inv *Invoice) int64 {
	var known int64
	if stored := a.invoice(inv.ID); stored != nil {
		known = stored.AmountRefunded // without what is under way
	}
	for _, it := range a.Intents {
		var r refundIntent
		if it.Op == opRefund && json.Unmarshal(it.Request, &r) == nil && r.Request.InvoiceID == inv.ID {
			known += r.Request.Amount.Amount
		}
	}
	return max(known, inv.AmountRefunded)
}

// paysFor is the invoice that an intent pays.
func paysFor(it Intent) string {
	var r payIntent
	if json.Unmarshal(it.Request, &r) != nil {
		return ""
	}
	return r.InvoiceID
}

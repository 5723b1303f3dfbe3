package billingstripe

import (
	"context"

	"github.com/stripe/stripe-go/v76"

	"github.com/kolekt/commerce/billing"
)

var _ billing.Refunder = (*Gateway)(nil)

// CreateCreditNote credits a part of an invoice; see billing.Refunder.
func (g *Gateway) CreateCreditNote(ctx context.Context, req billing.CreditNoteRequest, key string) (billing.CreditNote, error) {
	const op = "create credit note"
	if req.InvoiceID == "" || req.Amount.Amount <= 0 {
		return billing.CreditNote{}, invalid(op, "a credit note needs an invoice and a positive amount")
	}
	units, err := toStripe(req.Amount)
	if err != nil {
		return billing.CreditNote{}, invalid(op, err.Error())
	}
	params := &stripe.CreditNoteParams{
		Invoice: &req.InvoiceID, Amount: &units, Reason: optional(req.Reason),
		Metadata: map[string]string{billing.MetadataReference: req.Reference},
	}
	switch {
	case req.Open:
	case req.ToBalance:
		params.CreditAmount = &units
	default:
		params.RefundAmount = &units
	}
	n, err := g.call(ctx, post(op, "/v1/credit_notes", params, key))
	if err != nil {
		return billing.CreditNote{}, err
	}
	return creditNote(op, key, n)
}

// FindCreditNote looks a credit note of an invoice up by its reference; see
// billing.Refunder.
func (g *Gateway) FindCreditNote(ctx context.Context, invoiceID, reference string) (billing.CreditNote, error) {
	const op = "find credit note"
	if invoiceID == "" {
		return billing.CreditNote{}, invalid(op, "the invoice is empty")
	}
	params := &stripe.CreditNoteListParams{Invoice: &invoiceID}
	params.Limit = stripe.Int64(pageSize)
	for {
		n, err := g.call(ctx, get(op, "/v1/credit_notes", params))
		if err != nil {
			return billing.CreditNote{}, err
		}
		list, more := n.list()
		for _, n := range list {
			note, err := creditNote(op, "", n)
			if err != nil {
				return billing.CreditNote{}, err
			}
			if note.Reference == reference {
				return note, nil
			}
			params.StartingAfter = stripe.String(note.ID)
		}
		if !more || len(list) == 0 {
			return billing.CreditNote{}, &billing.GatewayError{Op: op, Kind: billing.ErrNotFound, Message: "no credit note of the invoice carries this reference"}
		}
	}
}

// creditNote decodes a credit note that an operation was answered with.
func creditNote(op, key string, n node) (billing.CreditNote, error) {
	n = n.fork()
	currency := n.at("currency").currency()
	refund := n.at("refund").id()
	if list, _ := n.at("refunds").list(); len(list) > 0 { // since basil
		refund = list[0].at("refund").id()
	}
	note := billing.CreditNote{
		ID: n.at("id").text(), InvoiceID: n.at("invoice").id(), RefundID: refund, PDFURL: n.at("pdf").text(),
		Amount:    billing.Money{Amount: n.at("amount").amount(currency), Currency: currency},
		Reference: n.at("metadata").at(billing.MetadataReference).text(),
	}
	return note, check(op, key, n, note.ID != "" && currency != "")
}

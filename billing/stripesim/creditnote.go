package stripesim

import (
	"fmt"
	"math/big"
	"slices"
)

const kindCreditNote = "credit_note"

// creditNote lowers a finalised invoice: what is open of it, or what was
// paid, by a refund or as credit for later.
type creditNote struct {
	head
	customer, invoice, currency, status, reason, memo, number, typ string
	refund, balanceTransaction                                     string
	amount, outOfBand                                              int64
	lines                                                          []*creditLine
	voidedAt                                                       int64
}

type creditLine struct {
	head
	typ, description, invoiceLine string
	amount, quantity              int64
}

func (l *creditLine) render(*Simulator) object {
	out := object{
		"id": l.id, "object": "credit_note_line_item", "amount": l.amount, "amount_excluding_tax": l.amount, "description": optional(l.description),
		"discount_amount": 0, "discount_amounts": []any{}, "livemode": false, "quantity": stamp(l.quantity), "tax_amounts": []any{}, "tax_rates": []any{},
		"type": l.typ, "unit_amount": nil, "unit_amount_decimal": nil, "unit_amount_excluding_tax": nil,
	}
	if l.invoiceLine != "" {
		out["invoice_line_item"] = l.invoiceLine
	}
	if l.quantity > 0 {
		out["unit_amount_decimal"] = decimalText(big.NewRat(l.amount, l.quantity))
		if l.amount%l.quantity == 0 {
			out["unit_amount"] = l.amount / l.quantity
		}
	}
	return out
}

func (n *creditNote) render(s *Simulator) object {
	lines := make([]entity, len(n.lines))
	for i, l := range n.lines {
		lines[i] = l
	}
	inv := must[*invoice](s, kindInvoice, n.invoice)
	return object{
		"id": n.id, "object": kindCreditNote, "amount": n.amount, "amount_shipping": 0, "created": n.created, "currency": n.currency,
		"customer": ref{kindCustomer, n.customer}, "customer_balance_transaction": ref{kindBalance, n.balanceTransaction}, "discount_amount": 0,
		"discount_amounts": []any{}, "effective_at": n.created, "invoice": ref{kindInvoice, n.invoice}, "livemode": false, "memo": optional(n.memo),
		"lines": inline("/v1/credit_notes/"+n.id+"/lines", lines, false), "metadata": copyMeta(n.metadata), "number": n.number,
		"out_of_band_amount": stamp(n.outOfBand), "pdf": s.link("/i/" + inv.token + "/pdf"), "reason": optional(n.reason), "refund": ref{kindRefund, n.refund},
		"shipping_cost": nil, "status": n.status, "subtotal": n.amount, "subtotal_excluding_tax": n.amount, "tax_amounts": []any{}, "total": n.amount,
		"total_excluding_tax": n.amount, "type": n.typ, "voided_at": stamp(n.voidedAt),
	}
}

// readCredit checks a credit note, without any effect.
func (s *Simulator) readCredit(f *form) (*creditNote, *invoice, error) {
	inv, err := find[*invoice](s, kindInvoice, f.str("invoice"), "invoice")
	if err != nil {
		return nil, nil, err
	}
	if inv.status != "open" && inv.status != "paid" {
		return nil, nil, badRequest("", "invoice", "You can only create credit notes for open or paid invoices. This invoice is %s.", inv.status)
	}
	n := &creditNote{
		customer: inv.customer, invoice: inv.id, currency: inv.currency, status: "issued", reason: f.str("reason"), memo: f.str("memo"), typ: "pre_payment",
		amount: f.int("amount"), outOfBand: f.int("out_of_band_amount"),
	}
	if inv.status == "paid" {
		n.typ = "post_payment"
	}
	for i, x := range f.list("lines") {
		param := func(name string) string { return wireName([]string{"lines", itoa(i), name}) }
		l := &creditLine{typ: x.str("type"), description: x.str("description"), quantity: x.int("quantity"), amount: x.int("amount")}
		switch l.typ {
		case "invoice_line_item":
			at := slices.IndexFunc(inv.lines, func(y *line) bool { return y.id == x.str("invoice_line_item") })
			if at < 0 {
				return nil, nil, missing("invoice line item", x.str("invoice_line_item"), param("invoice_line_item"))
			}
			l.invoiceLine, l.description = inv.lines[at].id, inv.lines[at].description
			if !x.has("amount") {
				l.amount = inv.lines[at].amount
			}
		case "custom_line_item":
			if x.has("unit_amount") {
				l.amount = x.int("unit_amount") * x.intOr("quantity", 1)
			}
		default:
			return nil, nil, badRequest("parameter_missing", param("type"), "Missing required param: %s.", param("type"))
		}
		n.amount += l.amount
		n.lines = append(n.lines, l)
	}
	if len(n.lines) > 0 && f.has("amount") {
		return nil, nil, badRequest("", "amount", "You may only specify one of these parameters: amount, lines.")
	}
	if len(n.lines) == 0 {
		n.lines = []*creditLine{{typ: "custom_line_item", description: "Credit", amount: n.amount, quantity: 1}}
	}
	room := inv.remaining
	if inv.status == "paid" {
		room = inv.paid - inv.postCredit
	}
	if n.amount < 1 || n.amount > room {
		return nil, nil, badRequest("", "amount", "The amount of a credit note for this invoice is between 1 and %d.", room)
	}
	if given := f.int("refund_amount") + f.int("credit_amount") + n.outOfBand; n.typ == "post_payment" && given != n.amount {
		return nil, nil, badRequest("", "amount", "The sum of credit amount, refund amount and out of band amount (%d) must equal the credit note amount (%d).", given, n.amount)
	} else if n.typ == "pre_payment" && given != 0 {
		return nil, nil, badRequest("", "amount", "An open invoice has nothing to refund: its amount due is lowered.")
	}
	return n, inv, nil
}

func (s *Simulator) createCreditNote(c *call) (any, error) {
	f := c.form
	n, inv, err := s.readCredit(f)
	if err != nil {
		return nil, err
	}
	back := f.int("refund_amount")
	if back > 0 {
		ch, ok := get[*charge](s, kindCharge, inv.charge)
		if !ok {
			return nil, badRequest("", "refund_amount", "The invoice %s has no charge to refund.", inv.id)
		}
		if err := refundable(ch, back); err != nil {
			return nil, err
		}
		n.refund = s.refund(ch, back, "").id
	}
	cust := must[*customer](s, kindCustomer, inv.customer)
	n.metadata = f.merge("metadata", nil)
	count := len(all(s, kindCreditNote, func(x *creditNote) bool { return x.invoice == inv.id }))
	n.number = fmt.Sprintf("%s-CN-%02d", inv.number, count+1)
	s.add(kindCreditNote, s.newID("cn_"), inv.clock, n)
	for _, l := range n.lines {
		s.seq++
		l.id, l.seq = s.newID("cnli_"), s.seq
	}
	if credit := f.int("credit_amount"); credit > 0 {
		s.change("customer.updated", cust, func() {
			n.balanceTransaction = s.adjustBalance(cust, -credit, inv.currency, "credit_note", inv.id, n.id).id
		})
	}
	s.emit("credit_note.created", n)
	if n.typ == "post_payment" {
		s.change("invoice.updated", inv, func() { inv.postCredit += n.amount })
		return n, nil
	}
	s.change("invoice.updated", inv, func() {
		inv.preCredit += n.amount
		inv.due -= n.amount
		inv.remaining -= n.amount
	})
	if p, ok := get[*intent](s, kindIntent, inv.intent); ok && inv.remaining > 0 {
		p.amount = inv.remaining
	}
	if inv.remaining == 0 {
		s.cancelIntentOf(inv, "")
		s.invoicePaid(inv, nil)
	}
	return n, nil
}

func (s *Simulator) previewCreditNote(c *call) (any, error) {
	n, _, err := s.readCredit(c.form)
	if err != nil {
		return nil, err
	}
	n.id, n.created, n.number = "cn_preview", s.at(""), "preview"
	for i, l := range n.lines {
		l.id = "cnli_tmp_" + itoa(i+1)
	}
	return n, nil
}

func (s *Simulator) fetchCreditNote(c *call) (any, error) {
	return find[*creditNote](s, kindCreditNote, c.id(), "")
}

func (s *Simulator) updateCreditNote(c *call) (any, error) {
	n, err := find[*creditNote](s, kindCreditNote, c.id(), "")
	if err != nil {
		return nil, err
	}
	s.change("credit_note.updated", n, func() {
		if c.form.has("memo") {
			n.memo = c.form.str("memo")
		}
		n.metadata = c.form.merge("metadata", n.metadata)
	})
	return n, nil
}

func (s *Simulator) listCreditNotes(c *call) (any, error) {
	f := c.form
	items := newest(s, kindCreditNote, func(n *creditNote) bool {
		return (!f.has("customer") || n.customer == f.str("customer")) && (!f.has("invoice") || n.invoice == f.str("invoice"))
	})
	return &page{url: "/v1/credit_notes", items: within(f, entities(items)), window: f}, nil
}

func (s *Simulator) creditLines(c *call) (any, error) {
	n, err := find[*creditNote](s, kindCreditNote, c.id(), "")
	if err != nil {
		return nil, err
	}
	return &page{url: "/v1/credit_notes/" + n.id + "/lines", items: entities(slices.Clone(n.lines)), window: c.form}, nil
}

// voidCreditNote takes a credit note of an open invoice back.
func (s *Simulator) voidCreditNote(c *call) (any, error) {
	n, err := find[*creditNote](s, kindCreditNote, c.id(), "")
	if err != nil {
		return nil, err
	}
	inv := must[*invoice](s, kindInvoice, n.invoice)
	if n.status != "issued" || n.typ != "pre_payment" || inv.status != "open" {
		return nil, badRequest("", "id", "You can only void credit notes of open invoices.")
	}
	n.status, n.voidedAt = "void", s.at(n.clock)
	s.change("invoice.updated", inv, func() {
		inv.preCredit -= n.amount
		inv.due += n.amount
		inv.remaining += n.amount
	})
	if p, ok := get[*intent](s, kindIntent, inv.intent); ok {
		p.amount = inv.remaining
	}
	s.emit("credit_note.voided", n)
	return n, nil
}

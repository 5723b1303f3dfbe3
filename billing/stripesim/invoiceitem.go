package stripesim

import (
	"cmp"
	"math/big"
	"slices"
)

// invoiceItem is an amount that waits for the next invoice, or stands on one.
type invoiceItem struct {
	head
	customer, currency, description, price, subscription, item, invoice string
	amount, quantity, start, end, date                                  int64
	proration, discountable                                             bool
}

func (it *invoiceItem) render(s *Simulator) object {
	out := object{
		"id": it.id, "object": kindInvoiceItem, "amount": it.amount, "currency": it.currency, "customer": ref{kindCustomer, it.customer},
		"date": it.date, "description": optional(it.description), "discountable": it.discountable, "discounts": []any{}, "invoice": ref{kindInvoice, it.invoice},
		"livemode": false, "metadata": copyMeta(it.metadata), "period": object{"start": it.start, "end": it.end}, "plan": nil, "price": nil,
		"proration": it.proration, "quantity": it.quantity, "subscription": ref{kindSubscription, it.subscription}, "tax_rates": []any{},
		"test_clock": ref{kindTestClock, it.clock}, "unit_amount": it.amount / max(1, it.quantity), "unit_amount_decimal": decimalText(big.NewRat(it.amount, max(1, it.quantity))),
	}
	if it.item != "" {
		out["subscription_item"] = it.item
	}
	if p, ok := get[*price](s, kindPrice, it.price); ok {
		out["price"], out["plan"] = entity(p), nil
		if p.interval != "" {
			out["plan"] = p.plan()
		}
	}
	return out
}

// line returns the invoice line of an item.
func (it *invoiceItem) line() *line {
	l := &line{
		typ: "invoiceitem", description: it.description, price: it.price, subscription: it.subscription, item: it.item, invoiceItem: it.id,
		amount: it.amount, quantity: it.quantity, hasQuantity: true, start: it.start, end: it.end, proration: it.proration, discountable: it.discountable,
	}
	l.metadata = cloneMeta(it.metadata)
	return l
}

// pendingItems are the items that the next invoice of a subscription, or of a
// customer without one, takes.
func (s *Simulator) pendingItems(customerID, subID string) []*invoiceItem {
	out := all(s, kindInvoiceItem, func(it *invoiceItem) bool {
		return it.customer == customerID && it.invoice == "" && (it.subscription == subID || it.subscription == "" && subID != "")
	})
	slices.SortStableFunc(out, func(a, b *invoiceItem) int { return cmp.Compare(a.seq, b.seq) })
	return out
}

func (s *Simulator) createInvoiceItem(c *call) (any, error) {
	f := c.form
	cust, err := s.liveCustomer(f.str("customer"), "customer")
	if err != nil {
		return nil, err
	}
	now := s.at(cust.clock)
	it := &invoiceItem{
		customer: cust.id, currency: f.str("currency"), description: f.str("description"), quantity: f.intOr("quantity", 1), amount: f.int("amount"),
		start: now, end: now, date: now, discountable: !f.has("discountable") || f.bool("discountable"), subscription: f.str("subscription"), invoice: f.str("invoice"),
	}
	if id := f.str("price"); id != "" {
		p, err := find[*price](s, kindPrice, id, "price")
		if err != nil {
			return nil, err
		}
		if p.interval != "" {
			return nil, badRequest("", "price", "The price specified is set to `type=recurring` but this field only accepts prices with `type=one_time`.")
		}
		it.price, it.currency, it.amount = p.id, p.currency, p.amount(it.quantity)
		if it.description == "" {
			it.description = s.productName(p)
		}
	} else if !validCurrency(it.currency) {
		return nil, badRequest("parameter_missing", "currency", "Missing required param: currency.")
	} else if f.has("unit_amount") {
		it.amount = f.int("unit_amount") * it.quantity
	}
	if it.subscription != "" {
		if _, err := find[*subscription](s, kindSubscription, it.subscription, "subscription"); err != nil {
			return nil, err
		}
	}
	var v *invoice
	if it.invoice != "" {
		if v, err = find[*invoice](s, kindInvoice, it.invoice, "invoice"); err != nil {
			return nil, err
		}
		if v.status != "draft" || v.customer != cust.id {
			return nil, badRequest("invoice_not_editable", "invoice", "The invoice is not a draft of this customer.")
		}
	}
	it.metadata = f.merge("metadata", nil)
	s.add(kindInvoiceItem, s.newID("ii_"), cust.clock, it)
	s.emit("invoiceitem.created", it)
	if v != nil {
		l := it.line()
		l.id, l.invoice = s.newID("il_"), v.id
		s.seq++
		l.seq = s.seq
		s.change("invoice.updated", v, func() {
			v.lines = append(v.lines, l)
			v.sum(s)
		})
	}
	return it, nil
}

func (s *Simulator) fetchInvoiceItem(c *call) (any, error) {
	return find[*invoiceItem](s, kindInvoiceItem, c.id(), "")
}

func (s *Simulator) listInvoiceItems(c *call) (any, error) {
	f := c.form
	items := newest(s, kindInvoiceItem, func(x *invoiceItem) bool {
		return (!f.has("customer") || x.customer == f.str("customer")) && (!f.has("invoice") || x.invoice == f.str("invoice")) &&
			(!f.has("pending") || (x.invoice == "") == f.bool("pending"))
	})
	return &page{url: "/v1/invoiceitems", items: within(f, entities(items)), window: f}, nil
}

func (s *Simulator) deleteInvoiceItem(c *call) (any, error) {
	it, err := find[*invoiceItem](s, kindInvoiceItem, c.id(), "")
	if err != nil {
		return nil, err
	}
	if it.invoice != "" {
		return nil, badRequest("", "id", "The invoice item is on an invoice already and can't be deleted.")
	}
	s.emit("invoiceitem.deleted", it)
	s.remove(it)
	return object{"id": it.id, "object": kindInvoiceItem, "deleted": true}, nil
}

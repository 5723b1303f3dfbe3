package stripesim

import (
	"slices"
)

// upcomingInvoice previews a customer's or subscription's next invoice, with
// the changes that the request asks for and without any effect.
func (s *Simulator) upcomingInvoice(c *call) (any, error) { return s.previewInvoice(c.form) }

func (s *Simulator) upcomingLines(c *call) (any, error) {
	v, err := s.previewInvoice(c.form)
	if err != nil {
		return nil, err
	}
	return &page{url: "/v1/invoices/upcoming/lines", items: entities(v.lines), window: c.form}, nil
}

// createPreview is the newer form of upcomingInvoice.
func (s *Simulator) createPreview(c *call) (any, error) {
	f := &form{kids: map[string]*form{}}
	for _, name := range c.form.keys {
		if name == "subscription_details" {
			details := c.form.kids[name]
			for _, inner := range details.keys {
				f.keys = append(f.keys, "subscription_"+inner)
				f.kids["subscription_"+inner] = details.kids[inner]
			}
			continue
		}
		f.keys = append(f.keys, name)
		f.kids[name] = c.form.kids[name]
	}
	v, err := s.previewInvoice(f)
	if err != nil {
		return nil, err
	}
	out := v.render(s)
	out["id"] = "upcoming_" + v.token
	return out, nil
}

func (s *Simulator) previewInvoice(f *form) (*invoice, error) {
	sub, err := s.previewed(f)
	if err != nil {
		return nil, err
	}
	var v *invoice
	changes := false
	for _, name := range []string{"items", "trial_end", "billing_cycle_anchor", "proration_behavior", "proration_date"} {
		changes = changes || f.has("subscription_"+name)
	}
	switch {
	case f.has("subscription_cancel_at_period_end") && f.bool("subscription_cancel_at_period_end"), sub.cancelAtPeriodEnd && !changes:
		return nil, badRequest("invoice_upcoming_none", "", "No upcoming invoices for customer: '%s'", sub.customer)
	default:
		ch, err := s.work(sub, f, "subscription_")
		if err != nil {
			return nil, err
		}
		if ch.invoiceNow {
			v = s.bill(ch, false)
		} else {
			v = s.upcoming(ch.sub)
			var lines []*line
			for _, x := range slices.Concat(ch.prorations, ch.extra) {
				lines = append(lines, x.line())
			}
			v.lines = append(lines, v.lines...)
			if ch.touched {
				v.prorationDate = ch.date
			}
			v.sum(s)
		}
	}
	v.preview, v.status, v.token = true, "draft", s.newID("")
	v.kind, v.created, v.clock = kindInvoice, s.at(sub.clock), sub.clock
	for i, l := range v.lines {
		l.id = "il_tmp_" + itoa(i+1)
	}
	return v, nil
}

// previewed finds the subscription of a preview.
func (s *Simulator) previewed(f *form) (*subscription, error) {
	if id := f.str("subscription"); id != "" {
		sub, err := find[*subscription](s, kindSubscription, id, "subscription")
		if err != nil {
			return nil, err
		}
		if f.has("customer") && sub.customer != f.str("customer") {
			return nil, badRequest("", "subscription", "The subscription %s is of another customer.", id)
		}
		if sub.ended() {
			return nil, badRequest("invoice_upcoming_none", "", "No upcoming invoices for customer: '%s'", sub.customer)
		}
		return sub, nil
	}
	if !f.has("customer") {
		return nil, badRequest("parameter_missing", "customer", "You must pass `customer` or `subscription`.")
	}
	cust, err := s.liveCustomer(f.str("customer"), "customer")
	if err != nil {
		return nil, err
	}
	subs := all(s, kindSubscription, func(x *subscription) bool { return x.customer == cust.id && !x.ended() && !x.cancelAtPeriodEnd })
	if len(subs) == 0 {
		if f.has("subscription_items") {
			return nil, unsupported("a preview of a subscription that doesn't exist yet")
		}
		return nil, badRequest("invoice_upcoming_none", "", "No upcoming invoices for customer: '%s'", cust.id)
	}
	first := subs[0]
	for _, x := range subs {
		if x.periodEnd < first.periodEnd {
			first = x
		}
	}
	return first, nil
}

package stripesim

import (
	"fmt"
	"time"
)

// draftTime is how long an invoice of a renewal can be changed before it is
// finalised.
const draftTime = int64(time.Hour / time.Second)

// maxRetries bounds a dunning schedule.
const maxRetries = 16

// finalize fixes an invoice's amounts, applies the customer's balance, and
// opens it for payment.
func (s *Simulator) finalize(v *invoice) {
	cust := must[*customer](s, kindCustomer, v.customer)
	v.sum(s)
	now := s.at(v.clock)
	v.status, v.finalizedAt, v.effectiveAt, v.finalizeAt = "open", now, now, 0
	to := cust.billed()
	v.to = &to
	v.number = fmt.Sprintf("%s-%04d", cust.invoicePrefix, cust.nextInvoice)
	cust.nextInvoice++
	if delta := v.endBalance - v.startBalance; delta != 0 {
		s.change("customer.updated", cust, func() { s.adjustBalance(cust, delta, v.currency, "applied_to_invoice", v.id, "") })
	}
	for _, d := range v.discountAmounts {
		if d.discount.coupon.duration == "once" {
			d.discount.used = true
		}
	}
	if v.due > 0 {
		p := s.newIntent(v.due, v.currency, cust, v.id)
		p.description = "Invoice " + v.number
		p.futureUsage = "off_session"
		v.intent = p.id
		if pm := s.paymentMethodFor(v); pm != nil {
			p.paymentMethod, p.status = pm.id, "requires_confirmation"
		}
	}
	s.emit("invoice.finalized", v)
	if v.due == 0 {
		s.invoicePaid(v, nil)
	}
}

// paymentMethodFor is the card that an invoice is charged to: the invoice's
// own, the subscription's, the customer's.
func (s *Simulator) paymentMethodFor(v *invoice) *paymentMethod {
	ids := []string{v.defaultPM}
	if sub, ok := get[*subscription](s, kindSubscription, v.subscription); ok {
		ids = append(ids, sub.defaultPM)
	}
	ids = append(ids, must[*customer](s, kindCustomer, v.customer).defaultPM)
	for _, id := range ids {
		if pm, ok := get[*paymentMethod](s, kindPaymentMethod, id); ok && !pm.detached {
			return pm
		}
	}
	return nil
}

// noCard is the failure of an automatic payment without a card.
var noCard = decline{code: "payment_method_missing", message: "There is no default payment method set on this customer. Please add one to pay this invoice."}

// collect tries to pay an open invoice with the card that is there. It
// returns why not, or nil.
func (s *Simulator) collect(v *invoice, pm *paymentMethod, offSession bool) *decline {
	if v.status != "open" || v.remaining == 0 {
		return nil
	}
	if pm == nil {
		if pm = s.paymentMethodFor(v); pm == nil {
			s.invoiceFailed(v)
			return &noCard
		}
	}
	p := must[*intent](s, kindIntent, v.intent)
	no := s.confirm(p, pm, offSession, false)
	if no != nil {
		s.invoiceFailed(v)
	}
	return no
}

// invoicePaid marks an invoice as paid, by a charge or because nothing is
// due, and moves its subscription on.
func (s *Simulator) invoicePaid(v *invoice, ch *charge) {
	if v.status != "open" && v.status != "uncollectible" {
		return
	}
	v.status, v.paidAt, v.nextAttempt, v.attempted = "paid", s.at(v.clock), 0, true
	v.paid, v.remaining = v.due, 0
	if ch != nil {
		v.charge = ch.id
		v.attempts++
	}
	s.setDelinquent(v, false)
	s.emit("invoice.paid", v)
	s.emit("invoice.payment_succeeded", v)
	if sub, ok := get[*subscription](s, kindSubscription, v.subscription); ok {
		s.subscriptionPaid(sub, v, ch)
	}
}

// invoiceFailed notes an attempt that failed and plans the next one.
func (s *Simulator) invoiceFailed(v *invoice) {
	v.attempts++
	v.attempted = true
	s.setDelinquent(v, true)
	last := s.planRetry(v)
	s.emit("invoice.payment_failed", v)
	if sub, ok := get[*subscription](s, kindSubscription, v.subscription); ok {
		s.subscriptionUnpaid(sub, v, last)
	}
}

// planRetry takes the next wait of the dunning schedule and reports whether
// there is none left. A first invoice isn't retried: its subscription expires.
func (s *Simulator) planRetry(v *invoice) (last bool) {
	sub, ok := get[*subscription](s, kindSubscription, v.subscription)
	if !v.autoAdvance || ok && sub.status == "incomplete" {
		return false
	}
	waits := s.cfg.Dunning.Retries
	if v.retries == len(waits) {
		v.nextAttempt = 0
		return true
	}
	v.nextAttempt = s.at(v.clock) + int64(waits[v.retries]/time.Second)
	v.retries++
	return false
}

func (s *Simulator) setDelinquent(v *invoice, is bool) {
	cust := must[*customer](s, kindCustomer, v.customer)
	s.change("customer.updated", cust, func() { cust.delinquent = is })
}

// invoiceNeedsAction tells that the customer has to authenticate a payment.
func (s *Simulator) invoiceNeedsAction(v *invoice) {
	v.attempted = true
	s.emit("invoice.payment_action_required", v)
}

// invoiceDue returns when an invoice next does something by itself.
func (s *Simulator) invoiceDue(v *invoice) (int64, func()) {
	switch {
	case v.status == "draft" && v.autoAdvance && v.finalizeAt > 0:
		return v.finalizeAt, func() {
			s.finalize(v)
			s.firstAttempt(v)
		}
	case v.status == "open" && v.nextAttempt > 0:
		return v.nextAttempt, func() { s.retry(v) }
	}
	return 0, nil
}

// firstAttempt collects an invoice of a renewal, or does what a pause of
// collection says.
func (s *Simulator) firstAttempt(v *invoice) {
	if sub, ok := get[*subscription](s, kindSubscription, v.subscription); ok && v.status == "open" {
		switch sub.pauseBehavior {
		case "void":
			s.voidInvoice(v)
			return
		case "mark_uncollectible":
			s.markUncollectible(v)
			return
		}
	}
	s.collect(v, nil, true)
}

// retry is a later attempt of dunning. A card that failed for good isn't
// charged again until there is another one; its schedule runs on.
func (s *Simulator) retry(v *invoice) {
	p := must[*intent](s, kindIntent, v.intent)
	pm := s.paymentMethodFor(v)
	if p.failure == nil || !p.failure.hard() || pm == nil || pm.id != p.failedPM {
		s.collect(v, pm, true)
		return
	}
	last := false
	s.change("invoice.updated", v, func() { last = s.planRetry(v) })
	if sub, ok := get[*subscription](s, kindSubscription, v.subscription); ok && last {
		s.subscriptionUnpaid(sub, v, true)
	}
}

func (s *Simulator) voidInvoice(v *invoice) {
	v.status, v.voidedAt, v.nextAttempt, v.autoAdvance = "void", s.at(v.clock), 0, false
	s.cancelIntentOf(v, "void_invoice")
	s.returnBalance(v)
	s.emit("invoice.voided", v)
}

// returnBalance gives the credit back that a voided invoice had used.
func (s *Simulator) returnBalance(v *invoice) {
	if delta := v.startBalance - v.endBalance; delta != 0 {
		cust := must[*customer](s, kindCustomer, v.customer)
		s.change("customer.updated", cust, func() { s.adjustBalance(cust, delta, v.currency, "unapplied_from_invoice", v.id, "") })
	}
}

func (s *Simulator) cancelIntentOf(v *invoice, reason string) {
	if p, ok := get[*intent](s, kindIntent, v.intent); ok && p.status != "succeeded" && p.status != "canceled" {
		s.voidIntent(p, reason)
	}
}

func (s *Simulator) markUncollectible(v *invoice) {
	v.status, v.uncollectibleAt, v.nextAttempt = "uncollectible", s.at(v.clock), 0
	s.emit("invoice.marked_uncollectible", v)
}

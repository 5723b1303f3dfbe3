package stripesim

import (
	"slices"
	"time"
)

// noticeTime is how long before its end a trial is announced, and before a
// renewal its invoice.
const noticeTime = int64(3 * day / time.Second)

// subscriptionPaid moves a subscription on when one of its invoices is paid.
func (s *Simulator) subscriptionPaid(sub *subscription, v *invoice, ch *charge) {
	if sub.ended() {
		return
	}
	before := s.snapshot(sub)
	switch sub.status {
	case "incomplete":
		if v.reason == "subscription_create" {
			sub.status = "active"
		}
	case "past_due", "unpaid":
		if v.id == sub.latestInvoice {
			sub.status = "active"
		}
	}
	if ch != nil && sub.saveDefault == "on_subscription" {
		pm := must[*paymentMethod](s, kindPaymentMethod, ch.pmID)
		s.attach(pm, must[*customer](s, kindCustomer, sub.customer))
		sub.defaultPM = ch.pmID
	}
	s.emitChange("customer.subscription.updated", sub, before)
}

// subscriptionUnpaid moves a subscription on when a payment failed; last says
// that no further attempt will come.
func (s *Simulator) subscriptionUnpaid(sub *subscription, v *invoice, last bool) {
	if sub.ended() || v.id != sub.latestInvoice {
		return
	}
	if last {
		switch s.cfg.Dunning.Final {
		case "cancel":
			s.endSubscription(sub, "canceled", "payment_failed")
			return
		case "unpaid":
			s.change("customer.subscription.updated", sub, func() { sub.status = "unpaid" })
			return
		}
	}
	if sub.status == "active" || sub.status == "trialing" {
		s.change("customer.subscription.updated", sub, func() { sub.status = "past_due" })
	}
}

// endSubscription ends a subscription now.
func (s *Simulator) endSubscription(sub *subscription, status, reason string) {
	now, before := s.at(sub.clock), s.snapshot(sub)
	sub.status, sub.endedAt = status, now
	if sub.canceledAt == 0 && status == "canceled" {
		sub.canceledAt = now
	}
	if reason != "" {
		sub.cancelReason = reason
	}
	if x := s.scheduleOf(sub); x != nil {
		s.change("subscription_schedule.canceled", x, func() { x.status, x.canceledAt = "canceled", now })
	}
	for _, v := range all(s, kindInvoice, func(v *invoice) bool { return v.subscription == sub.id }) {
		switch {
		case v.status == "draft":
			v.autoAdvance = false
		case v.status == "open" && v.nextAttempt > 0:
			v.nextAttempt, v.autoAdvance = 0, false
		}
	}
	if status == "incomplete_expired" {
		s.emitChange("customer.subscription.updated", sub, before)
		return
	}
	s.emit("customer.subscription.deleted", sub)
}

// subscriptionDue returns when a subscription next does something by itself.
func (s *Simulator) subscriptionDue(sub *subscription) (int64, func()) {
	if sub.ended() {
		return 0, nil
	}
	if sub.status == "incomplete" {
		return sub.created + incompleteTime, func() { s.expireIncomplete(sub) }
	}
	if sub.status == "paused" {
		return 0, nil
	}
	due, run := sub.periodEnd, func() { s.renew(sub) }
	earlier := func(t int64, f func()) {
		if t > 0 && t < due {
			due, run = t, f
		}
	}
	if sub.noticed < sub.periodEnd {
		earlier(max(sub.periodEnd-noticeTime, sub.periodStart+1), func() { s.notice(sub) })
	}
	if sub.resumesAt > 0 {
		earlier(sub.resumesAt, func() { s.resumeCollection(sub) })
	}
	if sub.cancelAt > 0 && !sub.cancelAtPeriodEnd && sub.cancelAt <= due {
		due, run = sub.cancelAt, func() { s.finish(sub) }
	}
	return due, run
}

func (s *Simulator) expireIncomplete(sub *subscription) {
	v := must[*invoice](s, kindInvoice, sub.latestInvoice)
	if v.status == "open" {
		s.voidInvoice(v)
	}
	s.endSubscription(sub, "incomplete_expired", "")
}

// notice announces the end of a trial, or the next invoice.
func (s *Simulator) notice(sub *subscription) {
	sub.noticed = sub.periodEnd
	if sub.status == "trialing" {
		s.emit("customer.subscription.trial_will_end", sub)
	}
	if sub.cancelAtPeriodEnd || sub.cancelAt > 0 {
		return
	}
	v := s.upcoming(sub)
	v.preview = true
	snapshot := s.snapshot(v)
	s.record("invoice.upcoming", snapshot, nil, sub.clock)
}

func (s *Simulator) resumeCollection(sub *subscription) {
	s.change("customer.subscription.updated", sub, func() { sub.pauseBehavior, sub.resumesAt = "", 0 })
}

// finish ends a subscription whose time has come, with a last invoice for
// usage and pending amounts.
func (s *Simulator) finish(sub *subscription) {
	if v := s.lastInvoice(sub); v != nil {
		v = s.newInvoice(v)
		sub.latestInvoice = v.id
		s.finalize(v)
		s.collect(v, nil, true)
	}
	if !sub.ended() {
		s.endSubscription(sub, "canceled", sub.cancelReason)
	}
}

// lastInvoice builds the invoice of what is left at the end; nil when nothing
// is.
func (s *Simulator) lastInvoice(sub *subscription) *invoice {
	v := &invoice{
		customer: sub.customer, subscription: sub.id, currency: sub.currency, reason: "subscription_cycle", periodStart: sub.periodStart,
		periodEnd: s.at(sub.clock), autoAdvance: true,
	}
	s.addPending(v, sub)
	s.addUsage(v, sub, sub.periodStart, s.at(sub.clock))
	v.lines = slices.DeleteFunc(v.lines, func(l *line) bool { return l.amount == 0 })
	if len(v.lines) == 0 {
		return nil
	}
	v.discounts = s.runningDiscounts(sub)
	v.sum(s)
	return v
}

func (s *Simulator) addPending(v *invoice, sub *subscription) {
	for _, x := range s.pendingItems(sub.customer, sub.id) {
		v.lines = append(v.lines, x.line())
	}
}

// nextPeriod is the period after the current one, counted from the anchor.
func (s *Simulator) nextPeriod(sub *subscription) (int64, int64) {
	p := s.rhythm(sub)
	next := cycle(sub.anchor, p.interval, p.count).At(time.Unix(sub.periodEnd, 0))
	return sub.periodEnd, next.To.Unix()
}

// used are the lines of what was used in the period that ends.
func (s *Simulator) used(sub *subscription) []*line {
	v := &invoice{}
	s.addUsage(v, sub, sub.periodStart, sub.periodEnd)
	return v.lines
}

// upcoming is the next renewal's invoice as it would be.
func (s *Simulator) upcoming(sub *subscription) *invoice {
	used, next := s.used(sub), sub.clone()
	s.enterPhase(next, false)
	return s.renewalInvoice(next, used)
}

// renewalInvoice builds the invoice of the next renewal: what was used of the
// items that there were, and the items that there are from then on.
func (s *Simulator) renewalInvoice(sub *subscription, used []*line) *invoice {
	start, end := s.nextPeriod(sub)
	v := &invoice{
		customer: sub.customer, subscription: sub.id, currency: sub.currency, reason: "subscription_cycle", periodStart: sub.periodStart,
		periodEnd: sub.periodEnd, autoAdvance: true, nextAttempt: start + draftTime,
	}
	s.addPending(v, sub)
	v.lines = append(v.lines, used...)
	for _, it := range sub.items {
		if !must[*price](s, kindPrice, it.price).metered {
			v.lines = append(v.lines, s.periodLine(sub, it, start, end))
		}
	}
	v.discounts = s.runningDiscounts(sub)
	v.sum(s)
	return v
}

// renew starts a subscription's next period, or ends the subscription where
// that was asked for.
func (s *Simulator) renew(sub *subscription) {
	if sub.cancelAtPeriodEnd {
		s.finish(sub)
		return
	}
	before := s.snapshot(sub)
	if sub.status == "trialing" && s.cardOf(sub) == nil {
		switch sub.trialMissing {
		case "cancel":
			s.endSubscription(sub, "canceled", "")
			return
		case "pause":
			sub.status = "paused"
			s.emitChange("customer.subscription.updated", sub, before)
			s.emit("customer.subscription.paused", sub)
			return
		}
	}
	used := s.used(sub)
	s.enterPhase(sub, true)
	v := s.renewalInvoice(sub, used)
	v.nextAttempt = 0
	start, end := s.nextPeriod(sub)
	if sub.status == "trialing" {
		sub.status = "active"
	}
	sub.periodStart, sub.periodEnd = start, end
	v.autoAdvance = sub.status != "unpaid" && sub.pauseBehavior != "keep_as_draft"
	v.finalizeAt = s.at(sub.clock) + draftTime
	v = s.newInvoice(v)
	sub.periodDiscounts = slices.Clone(v.discounts)
	var gone []*discount
	sub.discounts = slices.DeleteFunc(slices.Clone(sub.discounts), func(d *discount) bool {
		over := !d.running(start)
		if over {
			gone = append(gone, d)
		}
		return over
	})
	sub.latestInvoice = v.id
	s.emitChange("customer.subscription.updated", sub, before)
	for _, d := range gone {
		s.emit("customer.discount.deleted", d)
	}
	s.advanceSchedule(sub, start)
}

func (s *Simulator) cardOf(sub *subscription) *paymentMethod {
	return s.paymentMethodFor(&invoice{customer: sub.customer, subscription: sub.id})
}

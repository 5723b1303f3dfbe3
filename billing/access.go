package billing

import (
	"fmt"
	"time"

	"github.com/kolekt/commerce/internal/period"
)

// Policy says what happens to an account that doesn't pay.
type Policy struct {
	// Grace is how long a plan whose renewal is unpaid stays as it is, counted
	// from the oldest unpaid invoice; then the account is Limited. 0 means 14
	// days, as long as Stripe retries; negative means none.
	Grace time.Duration
	// Suspend, when positive, is how long after that invoice the account is
	// Suspended. 0 means never.
	Suspend time.Duration
	// Cancel, when positive, is how long after that invoice Run ends the
	// subscription. 0 leaves it to the gateway.
	Cancel time.Duration
	// Dunning, when set, replaces Grace, Suspend and Cancel.
	Dunning []Step
	// FullQuotas gives the whole quota of a plan from the moment of a change.
	// Without it a quota is prorated over the period as the money is: an
	// upgrade on the last day doesn't allow a month's worth.
	FullQuotas bool
	// MaxStale is how long after its period's end a subscription goes on
	// without news from the gateway. 0 means that it goes on, marked stale:
	// our outage isn't the customer's fault.
	MaxStale time.Duration
}

// DefaultGrace is Policy.Grace when it is zero.
const DefaultGrace = 14 * 24 * time.Hour

// incompleteFor is how long Stripe waits for a first payment.
const incompleteFor = 23 * time.Hour

// Reason says why a decision is what it is.
type Reason string

// The reasons. Those of the first group grant the plan of a subscription; the
// others leave the account with the catalogue's default plan, or nothing.
const (
	ReasonActive   Reason = "active"
	ReasonTrialing Reason = "trialing"
	ReasonEnding   Reason = "ending"  // the end is scheduled: the plan stays until then
	ReasonGrace    Reason = "grace"   // a renewal is unpaid, within Policy.Grace
	ReasonUnknown  Reason = "unknown" // a status that this version doesn't know: what there was stays
	ReasonComp     Reason = "comp"    // not of a subscription: see Service.Comp

	ReasonNone           Reason = "no_subscription"
	ReasonIncomplete     Reason = "incomplete" // the first payment is due
	ReasonExpired        Reason = "expired"    // it never came
	ReasonPastDue        Reason = "past_due"   // a renewal is unpaid for longer than Policy.Grace
	ReasonSuspended      Reason = "suspended"  // … than Policy.Suspend: nothing at all
	ReasonUnpaid         Reason = "unpaid"     // the gateway has given up
	ReasonPaused         Reason = "paused"     // by Service.Pause, and what was paid is over; or a trial ended without a payment method
	ReasonCanceled       Reason = "canceled"
	ReasonStale          Reason = "stale"           // no news for longer than Policy.MaxStale
	ReasonUnknownPlan    Reason = "unknown_plan"    // no item's price is in the catalogue
	ReasonUnknownStatus  Reason = "unknown_status"  // … and nothing was granted before
	ReasonAccountDeleted Reason = "account_deleted" // the customer was deleted at the gateway
)

// Grants reports whether the reason gives the account the plan of its
// subscription.
func (r Reason) Grants() bool {
	switch r {
	case ReasonActive, ReasonTrialing, ReasonEnding, ReasonGrace, ReasonUnknown:
		return true
	}
	return false
}

// Decision is what an account may do now, and why.
type Decision struct {
	// Allowed reports whether a plan is at work: that of the subscription, or
	// the catalogue's default plan.
	Allowed bool   `json:"allowed"`
	Reason  Reason `json:"reason"`
	// Plan is the plan at work; empty when nothing is allowed.
	Plan string `json:"plan,omitempty"`
	// Paid reports whether the plan is that of a subscription.
	Paid bool `json:"paid"`
	// Version is the version of the plan that the subscriber has.
	Version int64 `json:"version,omitempty"`
	// Addons are the add-ons at work, and how many of each. It isn't to be
	// changed.
	Addons map[string]int64 `json:"addons,omitempty"`
	// Until is when the decision changes if no news comes; zero: not by time
	// alone.
	Until time.Time `json:"until,omitzero"`
	// Period is the billing period in which quotas count: at most a month,
	// from the subscription's own date, or the calendar month in UTC without
	// a subscription.
	Period         Period `json:"period"`
	SubscriptionID string `json:"subscription_id,omitempty"`
	Status         Status `json:"status,omitempty"`
	// Quantity is the number of seats; 1 without seats.
	Quantity int64 `json:"quantity"`
	// Pending is the plan of the subscription when that isn't at work: what
	// would be back after a payment.
	Pending string `json:"pending,omitempty"`
	// Dunning is how far the account is in arrears.
	Dunning Level `json:"dunning"`
	// Remedy is what helps against the last decline, in arrears.
	Remedy Remedy `json:"remedy,omitempty"`
	// AsOf is when the gateway was last asked; Stale says that its news is
	// overdue.
	AsOf  time.Time `json:"as_of,omitzero"`
	Stale bool      `json:"stale,omitempty"`

	catalog *Catalog
	plan    *Plan
}

// Access decides what an account may do at an instant. It reads nothing but
// its arguments: the account as it is stored, the catalogue, the policy.
func Access(c *Catalog, p Policy, a *Account, now time.Time) Decision {
	d := verdict{rank: -1, holding: holding{plan: -1}}
	for i := range a.Subscriptions {
		if v := judge(c, p, a, &a.Subscriptions[i], now); v.beats(&d) {
			d = v
		}
	}
	dec := Decision{Reason: d.reason, Until: d.until, Quantity: 1, AsOf: a.SyncedAt, Stale: a.Provisional || d.stale, Dunning: d.level, catalog: c}
	if d.sub == nil {
		dec.Reason = ReasonNone
	} else {
		dec.SubscriptionID, dec.Status = d.sub.ID, d.sub.Status
		dec.Remedy, _ = a.remedy(d.sub)
	}
	var plan *Plan
	if c.def >= 0 {
		plan = &c.plans[c.def]
	}
	switch {
	case dec.Reason.Grants():
		plan, dec.Paid, dec.Version = d.terms, true, d.terms.Version
		dec.Quantity = d.seats(d.sub)
		dec.Period = quotaPeriod(d.sub, now)
		if len(d.addons) > 0 {
			plan = plan.with(c, d.addons)
			dec.Addons = c.countAddons(d.addons)
		}
		if !p.FullQuotas {
			plan = c.prorated(plan, d.sub, dec.Period)
		}
	case d.plan >= 0:
		dec.Pending = c.plans[d.plan].ID
	}
	if i, ok := c.byID[compOf(a)]; ok && a.Comp.at(now) && dec.Reason != ReasonSuspended && (!dec.Paid || i > d.plan) {
		dec.Reason, dec.Paid, dec.Until, plan = ReasonComp, false, earlier(dec.Until, a.Comp.Until), &c.plans[i]
		dec.Version, dec.Addons = 0, nil
	}
	if dec.Period.IsZero() {
		dec.Period = calendarMonth(now)
	}
	if plan != nil && dec.Reason != ReasonSuspended {
		dec.plan = plan
		dec.Allowed, dec.Plan = true, plan.ID
	}
	return dec
}

func (c *Catalog) countAddons(held []heldAddon) map[string]int64 {
	count := map[string]int64{}
	for _, h := range held {
		count[c.addons[h.addon].ID] += h.quantity
	}
	return count
}

func compOf(a *Account) string {
	if a.Comp == nil {
		return ""
	}
	return a.Comp.Plan
}

// verdict is what one subscription gives.
type verdict struct {
	holding
	sub    *Subscription
	reason Reason
	until  time.Time
	stale  bool
	level  Level
	rank   int
}

// beats reports whether v is more to the account than w: a grant before none,
// a higher plan before a lower one, what can still be paid before what has
// ended, and the newer one.
func (v *verdict) beats(w *verdict) bool {
	if v.rank != w.rank {
		return v.rank > w.rank
	}
	if v.reason.Grants() && v.plan != w.plan {
		return v.plan > w.plan
	}
	return w.sub == nil || v.sub.Created.After(w.sub.Created)
}

// judge is the decision table of one subscription.
func judge(c *Catalog, p Policy, a *Account, s *Subscription, now time.Time) verdict {
	v := verdict{sub: s, holding: c.hold(s)}
	v.reason, v.until, v.level = reasonOf(p, a, s, now)
	if a.Deleted {
		v.reason, v.until = ReasonAccountDeleted, time.Time{}
	}
	if v.reason.Grants() {
		overdue := !s.Period.To.IsZero() && !now.Before(s.Period.To)
		v.stale = overdue
		if overdue && p.MaxStale > 0 {
			v.until = earlier(v.until, s.Period.To.Add(p.MaxStale))
			if !now.Before(v.until) {
				v.reason, v.until = ReasonStale, time.Time{}
			}
		}
		if v.plan < 0 {
			v.reason, v.until = ReasonUnknownPlan, time.Time{}
		}
	}
	v.rank = standing(s.Status)
	if v.reason.Grants() {
		v.rank = 10
	} else if v.reason == ReasonSuspended {
		v.rank = 9 // hides no other grant, but every default
	}
	return v
}

// reasonOf reads status and dates; the plan is judged apart.
func reasonOf(p Policy, a *Account, s *Subscription, now time.Time) (Reason, time.Time, Level) {
	end := s.endsAt()
	if !end.IsZero() && !s.Status.Terminal() && s.Status != StatusIncomplete {
		if !now.Before(end) {
			return ReasonCanceled, time.Time{}, Settled // the gateway's word is on its way
		}
		if s.Status == StatusActive || s.Status == StatusTrialing {
			return ReasonEnding, end, Settled
		}
	}
	switch s.Status {
	case StatusActive:
		if paid := s.paidUntil(); !paid.IsZero() {
			if !now.Before(paid) {
				return ReasonPaused, time.Time{}, Settled
			}
			return ReasonActive, paid, Settled
		}
		return ReasonActive, time.Time{}, Settled
	case StatusTrialing:
		return ReasonTrialing, s.TrialEnd, Settled
	case StatusPastDue, StatusUnpaid:
		level, until := p.arrears(a, s, now)
		reason := ReasonGrace
		switch {
		case level >= Suspended:
			reason = ReasonSuspended
		case s.Status == StatusUnpaid:
			reason = ReasonUnpaid
		case level == Limited:
			reason = ReasonPastDue
		}
		return reason, earlier(until, end), level
	case StatusIncomplete:
		if s.Created.IsZero() {
			return ReasonIncomplete, time.Time{}, Settled
		}
		return ReasonIncomplete, s.Created.Add(incompleteFor), Settled
	case StatusIncompleteExpired:
		return ReasonExpired, time.Time{}, Settled
	case StatusPaused:
		return ReasonPaused, time.Time{}, Settled
	case StatusCanceled:
		return ReasonCanceled, time.Time{}, Settled
	}
	// No new grant, but what there was stays to the end of what was paid.
	if a.Trails[s.ID].granted() && now.Before(s.Period.To) {
		return ReasonUnknown, s.Period.To, Settled
	}
	return ReasonUnknownStatus, time.Time{}, Settled
}

// endsAt is the scheduled end of a subscription; zero without one.
func (s *Subscription) endsAt() time.Time {
	if !s.CancelAt.IsZero() {
		return s.CancelAt
	}
	if s.CancelAtPeriodEnd {
		return s.Period.To
	}
	return time.Time{}
}

// quotaPeriod is the subscription's own period when that is at most a month,
// else the month from its anchor. A period that is over, for want of news,
// goes on from the same anchor.
func quotaPeriod(s *Subscription, now time.Time) Period {
	if s.Period.IsZero() {
		return Period{}
	}
	short := !s.Period.To.After(period.AddMonths(s.Period.From, 1))
	if short && s.Period.Contains(now) {
		return s.Period
	}
	anchor := s.BillingCycleAnchor
	if anchor.IsZero() {
		anchor = s.Period.From
	}
	cycle := period.Cycle{Anchor: anchor, Unit: period.Month}
	if short && len(s.Items) > 0 {
		switch p := s.Items[0].Price; p.Interval {
		case Day:
			cycle.Unit, cycle.Count = period.Day, int(p.IntervalCount)
		case Week:
			cycle.Unit, cycle.Count = period.Week, int(p.IntervalCount)
		}
	}
	at := cycle.At(now)
	return Period{From: at.From, To: at.To}
}

func calendarMonth(now time.Time) Period {
	y, m, _ := now.UTC().Date()
	return Period{From: time.Date(y, m, 1, 0, 0, 0, 0, time.UTC), To: time.Date(y, m+1, 1, 0, 0, 0, 0, time.UTC)}
}

// earlier returns the earlier of two instants, of which zero is none.
func earlier(t, u time.Time) time.Time {
	if t.IsZero() || !u.IsZero() && u.Before(t) {
		return u
	}
	return t
}

// Limit returns the limit that is at work. Nothing is allowed to an account
// without a plan: its limits are zero. A name that the catalogue doesn't have
// is ErrUnknownLimit.
func (d *Decision) Limit(name string) (Limit, error) {
	if d.plan != nil {
		return d.plan.limit(name)
	}
	if d.catalog == nil || len(d.catalog.plans) == 0 {
		return Limit{}, fmt.Errorf("%w: limit %q: the decision isn't from Access", ErrUnknownLimit, name)
	}
	l, err := d.catalog.plans[0].limit(name)
	if err != nil {
		return Limit{}, err
	}
	return Limit{N: 0, Per: l.Per}, nil
}

// Has reports whether the plan at work has a feature.
func (d *Decision) Has(feature string) bool {
	if d.plan != nil {
		for _, f := range d.plan.Features {
			if f == feature {
				return true
			}
		}
	}
	return false
}

// Upgrade returns the plan that would help: the first one above the plan at
// work that allows at least what is needed of the limit.
func (d *Decision) Upgrade(limit string, needed int64) (Plan, bool) {
	if d.catalog == nil {
		return Plan{}, false
	}
	if d.plan == nil {
		for _, p := range d.catalog.plans {
			if l, ok := p.Limits[limit]; ok && len(p.Prices) > 0 && l.N >= needed {
				return clonePlan(p), true
			}
		}
		return Plan{}, false
	}
	return d.catalog.above(d.catalog.byID[d.plan.ID], d.plan.Limits, limit, needed)
}

package usage

import (
	"context"
	"slices"
	"time"

	"github.com/kolekt/commerce/internal/period"
)

// Period is the half-open UTC range [From, To) over which a quota runs.
type Period struct {
	From time.Time `json:"from"`
	To   time.Time `json:"to"`
}

// Contains reports whether t lies in [From, To).
func (p Period) Contains(t time.Time) bool { return !t.Before(p.From) && t.Before(p.To) }

// IsZero reports whether the period is unset.
func (p Period) IsZero() bool { return p.From.IsZero() && p.To.IsZero() }

// Interval is how often a quota starts anew.
type Interval string

// The intervals of a quota.
const (
	Daily   Interval = "day"
	Weekly  Interval = "week"
	Monthly Interval = "month"
	Yearly  Interval = "year"
)

// Unlimited is no bound, as a limit or an overage.
const Unlimited = -1

// Quota is what an account may use of a meter in one period.
//
// The period is [From, To) when both are given and contain the instant in
// question: for subscriptions, the payment provider's own period is the truth.
// Otherwise it is counted from Anchor (or From, or the first of a calendar
// month in UTC) in steps of Every: a monthly anchor on the 31st gives 31 Jan,
// 28 Feb, 31 Mar. Nothing runs at a reset; a new period simply has a counter
// of its own.
//
// A change of plan in mid-period that leaves the period's start as it is
// carries what is used over to the new limit, up or down: an upgrade admits
// more at once, a downgrade below what is used admits nothing until the period
// ends. A new start begins at zero.
type Quota struct {
	// Limit is in the meter's units: 0 admits nothing, Unlimited everything.
	Limit int64
	// Overage is how many units beyond Limit are admitted (and shown as
	// Decision.Overage, to be billed): 0 makes Limit hard, Unlimited soft.
	Overage int64
	From    time.Time
	To      time.Time
	Anchor  time.Time
	Every   Interval // Monthly when empty
}

// QuotaFunc says what quota an account has for a meter. It is called on every
// quota step and should answer from memory; ErrNoQuota means there is none.
type QuotaFunc func(ctx context.Context, account, meter string) (Quota, error)

// QuotaFrom makes a QuotaFunc of a function of built-in types, such as a
// billing package offers: the limit (Unlimited for none) and the current
// period, whose zero instants mean calendar months in UTC.
func QuotaFrom(f func(ctx context.Context, account, meter string) (limit int64, from, to time.Time, err error)) QuotaFunc {
	return func(ctx context.Context, account, meter string) (Quota, error) {
		limit, from, to, err := f(ctx, account, meter)
		return Quota{Limit: limit, From: from, To: to}, err
	}
}

// Calendar returns a hard quota of limit units for each calendar month in UTC.
func Calendar(limit int64) Quota { return Quota{Limit: limit} }

// PeriodAt returns the period that contains t.
func (q Quota) PeriodAt(t time.Time) Period {
	if given := (Period{q.From.UTC(), q.To.UTC()}); !q.From.IsZero() && given.Contains(t) {
		return given
	}
	anchor := q.Anchor
	if anchor.IsZero() {
		anchor = q.From
	}
	if anchor.IsZero() {
		anchor = time.Date(2001, 1, 1, 0, 0, 0, 0, time.UTC) // a Monday and a first
	}
	p := q.Every.cycle(anchor).At(t)
	return Period{From: p.From, To: p.To}
}

// cycle repeats the interval, a month when empty, from an anchor.
func (i Interval) cycle(anchor time.Time) period.Cycle {
	unit := period.Month
	switch i {
	case Daily:
		unit = period.Day
	case Weekly:
		unit = period.Week
	case Yearly:
		unit = period.Year
	}
	return period.Cycle{Anchor: anchor, Unit: unit}
}

func (i Interval) valid() bool {
	return slices.Contains([]Interval{"", Daily, Weekly, Monthly, Yearly}, i)
}

func (q Quota) validate() error {
	switch {
	case q.Limit < Unlimited || q.Limit > MaxValue:
		return invalid("quota: Limit %d is neither Unlimited nor 0 to 2^53", q.Limit)
	case q.Overage < Unlimited || q.Overage > MaxValue:
		return invalid("quota: Overage %d is neither Unlimited nor 0 to 2^53", q.Overage)
	case q.From.IsZero() != q.To.IsZero() || !q.From.IsZero() && !q.From.Before(q.To):
		return invalid("quota: From and To go together, From first")
	}
	if !q.Every.valid() {
		return invalid("quota: unknown interval %q", q.Every)
	}
	return nil
}

// charge is the quota as a store needs it for a step at t.
func (q Quota) charge(m Meter, t time.Time) Charge {
	c := Charge{Period: q.PeriodAt(t), Limit: q.Limit, Cap: Unlimited, Thresholds: m.Thresholds}
	if q.Limit != Unlimited && q.Overage != Unlimited {
		c.Cap = q.Limit + q.Overage
	}
	return c
}

package billing

import (
	"fmt"
	"slices"
	"time"
)

// Level is how far an account is in arrears.
type Level int

// The levels, in the order in which they get worse.
const (
	Settled   Level = iota // nothing is unpaid
	Warned                 // the plan stays as it is
	Limited                // the catalogue's default plan
	Suspended              // nothing at all
	Canceled               // Run ends the subscription
)

var levelNames = []string{"settled", "warned", "limited", "suspended", "canceled"}

// String returns the level's name, such as "limited".
func (l Level) String() string {
	if l >= Settled && int(l) < len(levelNames) {
		return levelNames[l]
	}
	return fmt.Sprintf("level %d", int(l))
}

// MarshalText returns the level's name.
func (l Level) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// UnmarshalText reads a level's name.
func (l *Level) UnmarshalText(text []byte) error {
	i := slices.Index(levelNames, string(text))
	if i < 0 {
		return fmt.Errorf("%w: level %q: want one of %v", ErrInvalid, text, levelNames)
	}
	*l = Level(i)
	return nil
}

// Step is a level and what leads to it: all of its conditions. Of the steps
// that apply, the worst level counts.
type Step struct {
	Level Level
	// After is the age of the oldest unpaid invoice; 0: at once.
	After time.Duration
	// Invoices is how many are unpaid at least; 0: any number.
	Invoices int
	// Owed is how much is unpaid at least, in its currency; zero: any amount.
	Owed Money
	// Remedy is what would help after the last decline; empty: whatever.
	// RemedyNewMethod is for cards that no retry will charge.
	Remedy Remedy
	// Suspicious: only when the last decline says that the card was lost,
	// stolen or used by somebody else.
	Suspicious bool
}

// steps are Dunning, or what Grace, Suspend and Cancel mean.
func (p Policy) steps() []Step {
	if p.Dunning != nil {
		return p.Dunning
	}
	grace := p.Grace
	if grace == 0 {
		grace = DefaultGrace
	}
	steps := []Step{{Level: Limited, After: max(grace, 0)}}
	if p.Suspend > 0 {
		steps = append(steps, Step{Level: Suspended, After: p.Suspend})
	}
	if p.Cancel > 0 {
		steps = append(steps, Step{Level: Canceled, After: p.Cancel})
	}
	return steps
}

func (p Policy) validate() error {
	if p.Suspend < 0 || p.Cancel < 0 || p.MaxStale < 0 {
		return fmt.Errorf("%w: Config.Policy: Suspend, Cancel and MaxStale aren't negative", ErrInvalid)
	}
	for i, s := range p.Dunning {
		if s.Remedy != "" && !s.Remedy.known() {
			return fmt.Errorf("%w: Config.Policy.Dunning[%d]: unknown remedy %q", ErrInvalid, i, s.Remedy)
		}
		if s.Level < Warned || s.Level > Canceled || s.After < 0 || s.Invoices < 0 || s.Owed.Amount < 0 {
			return fmt.Errorf("%w: Config.Policy.Dunning[%d]: want a level from Warned to Canceled and nothing negative", ErrInvalid, i)
		}
		if s.Owed != (Money{}) {
			if err := s.Owed.Validate(); err != nil {
				return fmt.Errorf("%w: Config.Policy.Dunning[%d]: %w", ErrInvalid, i, err)
			}
		}
	}
	return nil
}

// arrears returns the level of a subscription that is past due or unpaid, and
// when a worse one comes with time; Settled for any other.
func (p Policy) arrears(a *Account, s *Subscription, now time.Time) (Level, time.Time) {
	if s.Status != StatusPastDue && s.Status != StatusUnpaid {
		return Settled, time.Time{}
	}
	// Without a known invoice, the renewal at the period's start is unpaid.
	unpaid, since, level := a.UnpaidInvoices(s.ID), s.Period.From, Warned
	if len(unpaid) > 0 {
		since = unpaid[0].Created
	}
	if s.Status == StatusUnpaid {
		level = Limited // the gateway has given up
	}
	var next time.Time
	for _, step := range p.steps() {
		if !step.applies(unpaid) {
			continue
		}
		if at := since.Add(step.After); !now.Before(at) {
			level = max(level, step.Level)
		}
	}
	for _, step := range p.steps() {
		if step.Level <= level || !step.applies(unpaid) {
			continue
		}
		next = earlier(next, since.Add(step.After))
	}
	return level, next
}

// applies reports whether all of a step's conditions but its time hold.
func (s Step) applies(unpaid []Invoice) bool {
	if len(unpaid) < s.Invoices || owed(unpaid, s.Owed.Currency) < s.Owed.Amount {
		return false
	}
	remedy, suspicious := lastDecline(unpaid)
	return (s.Remedy == "" || s.Remedy == remedy) && (!s.Suspicious || suspicious)
}

// lastDecline is what helps against the decline of the newest unpaid invoice
// that was tried.
func lastDecline(unpaid []Invoice) (remedy Remedy, suspicious bool) {
	for _, inv := range slices.Backward(unpaid) {
		if r := inv.remedy(); r != "" {
			return r, Suspicious(inv.DeclineCode)
		}
	}
	return "", false
}

// remedy is what helps an open invoice whose payment failed; empty when it
// wasn't tried, or nothing is known.
func (inv *Invoice) remedy() Remedy {
	switch {
	case inv.ActionRequired:
		return RemedyAuthenticate
	case inv.DeclineCode != "":
		return RemedyFor(inv.DeclineCode)
	}
	return ""
}

// remedy is what helps a subscription in arrears.
func (a *Account) remedy(s *Subscription) (Remedy, bool) {
	if s.Status != StatusPastDue && s.Status != StatusUnpaid {
		return "", false
	}
	return lastDecline(a.UnpaidInvoices(s.ID))
}

// owed is what is unpaid in a currency; an empty one is none.
func owed(unpaid []Invoice, currency string) (sum int64) {
	for _, inv := range unpaid {
		if inv.Currency == currency {
			sum += inv.AmountRemaining
		}
	}
	return sum
}

// ripen marks the level that an account has come to: once for each invoice
// that is the oldest unpaid one.
func (p Policy) ripen(a *Account, s *Subscription, now time.Time) {
	level, _ := p.arrears(a, s, now)
	unpaid := a.UnpaidInvoices(s.ID)
	if len(unpaid) == 0 {
		return
	}
	for i := range unpaid {
		inv := &unpaid[i]
		switch inv.remedy() {
		case RemedyAuthenticate:
			a.mark(fmt.Sprintf("%s:%s", KindPaymentActionRequired, inv.ID), Mark{At: now, Subject: inv.ID, Kind: KindPaymentActionRequired})
		case RemedyNewMethod, RemedyCorrect:
			// Once for each method that failed so: the next one may be no better.
			id := fmt.Sprintf("%s:%s:%s", KindPaymentMethodNeeded, inv.ID, inv.FailedMethod)
			a.mark(id, Mark{At: now, Subject: inv.ID, Kind: KindPaymentMethodNeeded})
		}
	}
	for _, l := range []struct {
		level Level
		kind  Kind
	}{{Limited, KindAccessLimited}, {Suspended, KindAccessSuspended}} {
		if level >= l.level {
			a.mark(fmt.Sprintf("%s:%s", l.kind, unpaid[0].ID), Mark{At: now, Subject: unpaid[0].ID, Kind: l.kind})
		}
	}
}

// next is when Run should look at the subscription again: when a level comes,
// or now when the end of it is due.
func (p Policy) next(a *Account, s *Subscription, now time.Time) time.Time {
	level, next := p.arrears(a, s, now)
	if level == Canceled {
		return now
	}
	return next
}

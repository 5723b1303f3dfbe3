package billing

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// UsageReporter is what a Gateway offers in addition if it bills by use.
// Service.ReportUsage and ReportedUsage need it.
type UsageReporter interface {
	// ReportUsage counts a use. The same identifier counts once, for at least
	// 24 hours.
	ReportUsage(ctx context.Context, u UsageReport) error
	// ReportedUsage is what was counted in [from, to), of the report's meter or
	// item.
	ReportedUsage(ctx context.Context, u UsageReport, from, to time.Time) (int64, error)
}

// UsageReport is a use on its way to the gateway.
type UsageReport struct {
	CustomerID string
	ItemID     string // of the subscription
	MeterID    string // at the gateway; empty: its price counts by item
	Event      string // the meter's event name
	Aggregate  Aggregate
	Identifier string
	Quantity   int64
	At         time.Time
}

// The window in which the gateway takes a report, around now.
const (
	reportPast   = 35 * 24 * time.Hour
	reportFuture = 5 * time.Minute
)

// UsageError says that a use isn't counted and never will be. It is what it
// wraps: ErrInvalid, ErrUnknownMeter or ErrNoSubscription.
type UsageError struct {
	Account, Meter, ID string
	Err                error
}

// Error says which use it is.
func (e *UsageError) Error() string {
	return fmt.Sprintf("billing: use %q of meter %q isn't counted: %v", e.ID, e.Meter, e.Err)
}

// Unwrap returns why.
func (e *UsageError) Unwrap() error { return e.Err }

// Retryable is false: the same report is refused again.
func (e *UsageError) Retryable() bool { return false }

// ReportUsage tells the gateway that an account used a quantity of a meter at
// an instant, to be billed with the subscription's metered price of it. The id
// names the use: reported again, within 24 hours, it counts once, whichever
// process reports it. Later the gateway may count it twice: whoever doesn't
// know the outcome of a report for so long compares with ReportedUsage first.
//
// A use of more than 35 days ago or 5 minutes ahead, of an account that has no
// such price, or with a negative quantity is a *UsageError, which isn't
// retryable; an error whose Retryable method says true is for trying again.
// A use before the current billing period can't be counted by a price of usage
// records.
func (s *Service) ReportUsage(ctx context.Context, account, meter, id string, quantity int64, at time.Time) error {
	g, u, err := s.metered(ctx, account, meter)
	now := s.now()
	switch {
	case err != nil:
	case id == "":
		err = fmt.Errorf("%w: a use needs an ID", ErrInvalid)
	case quantity < 0:
		err = fmt.Errorf("%w: quantity %d is negative", ErrInvalid, quantity)
	case at.Before(now.Add(-reportPast)) || at.After(now.Add(reportFuture)):
		err = fmt.Errorf("%w: %s is not in the last 35 days, or more than 5 minutes ahead", ErrInvalid, at.UTC().Format(time.RFC3339))
	default:
		u.Identifier = KeyPrefix + "use:" + fingerprint(account+"\x00"+meter+"\x00"+id)
		u.Quantity, u.At = quantity, at
		call, cancel := s.call(ctx)
		defer cancel()
		err = g.ReportUsage(call, u)
	}
	if err == nil || retryable(err) || ctx.Err() != nil {
		return err
	}
	for _, kind := range []error{ErrInvalid, ErrUnknownMeter, ErrNoSubscription, ErrNotFound, ErrUnsupported, ErrUnknownPlan} {
		if errors.Is(err, kind) {
			return &UsageError{Account: account, Meter: meter, ID: id, Err: err}
		}
	}
	return err
}

// ReportedUsage is what the gateway has counted of an account's use of a meter
// in [from, to): of a meter's events between whole minutes, the instants
// rounded down; of usage records in the billing periods that begin in the
// range. The gateway may be some minutes behind.
func (s *Service) ReportedUsage(ctx context.Context, account, meter string, from, to time.Time) (int64, error) {
	g, u, err := s.metered(ctx, account, meter)
	if err != nil {
		return 0, err
	}
	call, cancel := s.call(ctx)
	defer cancel()
	return g.ReportedUsage(call, u, from, to)
}

// metered finds what an account's use of a meter is billed by: the item of its
// live subscription, or of the last one, which still bills what came before
// its end.
func (s *Service) metered(ctx context.Context, account, meter string) (UsageReporter, UsageReport, error) {
	g, ok := s.gateway.(UsageReporter)
	if !ok {
		return nil, UsageReport{}, fmt.Errorf("%w: it implements no UsageReporter", ErrUnsupported)
	}
	m, err := s.catalog.meter(meter)
	if err != nil {
		return nil, UsageReport{}, err
	}
	a, err := s.Account(ctx, account)
	if err != nil {
		return nil, UsageReport{}, err
	}
	sub, ok := a.Current()
	if ok {
		plan, _ := s.catalog.planOf(&sub)
		for i := range sub.Items {
			it := &sub.Items[i]
			// An item of the plan before only waits for its last bill.
			if r := s.catalog.roleOf(&it.Price); r.kind == roleMeter && r.plan == plan && r.meter == meter && it.Price.Metered {
				return g, UsageReport{CustomerID: a.CustomerID, ItemID: it.ID, MeterID: it.Price.MeterID, Event: m.Event, Aggregate: m.Aggregate}, nil
			}
		}
	}
	return nil, UsageReport{}, fmt.Errorf("%w with a price of meter %q: account %s", ErrNoSubscription, meter, account)
}

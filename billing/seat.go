package billing

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// SeatState is where a seat stands.
type SeatState string

// The states of a seat. Each of them takes one of the seats that are paid for,
// but SeatOrdered, which waits for one more to be paid for.
const (
	SeatInvited  SeatState = "invited"  // kept for somebody who hasn't claimed it
	SeatAssigned SeatState = "assigned" // a member has it
	SeatOrdered  SeatState = "ordered"  // becomes an assigned one when the gateway says that it is paid for
)

// Seat is a seat that is taken.
type Seat struct {
	// Member is who has it: an ID of the application's own, or what an
	// invitation goes by, such as an address.
	Member string    `json:"member"`
	State  SeatState `json:"state"`
	Since  time.Time `json:"since"` // of the state
}

// SeatOrder is a number of seats on its way to the gateway.
type SeatOrder struct {
	Quantity int64     `json:"quantity"`
	First    time.Time `json:"first"` // of the changes that it gathers
	Due      time.Time `json:"due"`
}

// SeatPolicy says how the number of seats follows those who sit. The zero
// value leaves it to SetSeats, and refuses a seat beyond what is paid for.
type SeatPolicy struct {
	// Grow orders another seat when all are taken, up to the plan's maximum.
	Grow bool
	// Shrink orders fewer when one is released, down to the plan's minimum.
	Shrink bool
	// Debounce is how long changes of the number are gathered into one for the
	// gateway, from the last one on, and at most ten times that from the first.
	// 0 means 30 s; negative: each is made at once.
	Debounce time.Duration
	// Proration is how a change is charged: "create_prorations" (the default:
	// with the next invoice), "always_invoice" (now) or "none".
	Proration string
}

// MaxSeats is how many seats of an account can be taken: they are kept with
// the account.
const MaxSeats = 5000

// maxMember is the greatest length of a member's name, in bytes.
const maxMember = 320

// NoSeatError says that a seat is to be had only after a change. It is
// ErrNoSeat.
type NoSeatError struct {
	Taken, Paid int64
	Maximum     int64 // of the plan; 0: no bound
}

// Error says what to do.
func (e *NoSeatError) Error() string {
	help := "release one or order more (SetSeats)"
	if e.Maximum > 0 && e.Paid >= e.Maximum {
		help = "release one or change the plan: this one has no more"
	}
	return fmt.Sprintf("%s: %d of %d are taken: %s", ErrNoSeat, e.Taken, e.Paid, help)
}

// Is makes it ErrNoSeat.
func (e *NoSeatError) Is(target error) bool { return target == ErrNoSeat }

// Seating is who sits where.
type Seating struct {
	Seats   []Seat `json:"seats"`
	Paid    int64  `json:"paid"`              // seats of the plan at work
	Taken   int64  `json:"taken"`             // invited and assigned; more than Paid after a plan or a number became smaller
	Maximum int64  `json:"maximum,omitempty"` // of the plan; 0: no bound
	Ordered int64  `json:"ordered,omitempty"` // the number that is on its way to the gateway
}

// seating counts. Without a subscription whose plan has seats there is one.
func (s *Service) seating(a *Account) Seating {
	d := Access(s.catalog, s.cfg.Policy, a, s.now())
	view := Seating{Seats: slices.Clone(a.Seats), Paid: max(d.Quantity, 1), Taken: a.seated()}
	if d.plan != nil && d.plan.Seats != nil {
		view.Maximum = d.plan.Seats.Maximum
	}
	if a.SeatOrder != nil {
		view.Ordered = a.SeatOrder.Quantity
	}
	return view
}

// seated is how many seats are taken.
func (a *Account) seated() (n int64) {
	for _, seat := range a.Seats {
		if seat.State != SeatOrdered {
			n++
		}
	}
	return n
}

func (a *Account) seat(member string) int {
	return slices.IndexFunc(a.Seats, func(s Seat) bool { return s.Member == member })
}

// Seats returns who sits where, from the store.
func (s *Service) Seats(ctx context.Context, account string) (Seating, error) {
	a, err := s.Account(ctx, account)
	if err != nil {
		return Seating{}, err
	}
	return s.seating(&a), nil
}

// AssignSeat gives a member a seat. Who has one keeps it; who was invited
// claims it. Of any number of calls at once, no more get one than are paid
// for: the others are ErrNoSeat, or, with SeatPolicy.Grow, wait in SeatOrdered
// for the seat that is ordered for them.
func (s *Service) AssignSeat(ctx context.Context, account, member string) (Seat, error) {
	return s.seatOf(ctx, account, member, SeatAssigned)
}

// InviteSeat keeps a seat for somebody who will claim it, by AssignSeat under
// the same name or by ClaimSeat under another one.
func (s *Service) InviteSeat(ctx context.Context, account, invitation string) (Seat, error) {
	return s.seatOf(ctx, account, invitation, SeatInvited)
}

// seatEdit changes the seats of an account in one atomic step: the version on
// which it was decided still stands when it is written.
func (s *Service) seatEdit(ctx context.Context, account, member string, change func(a *Account) (changed bool, err error)) (Account, error) {
	if member == "" || len(member) > maxMember {
		return Account{}, fmt.Errorf("%w: a member's name has 1 to %d bytes", ErrInvalid, maxMember)
	}
	var refused error
	a, err := s.edit(ctx, account, func(a *Account) (changed bool) {
		changed, refused = change(a)
		return changed && refused == nil
	})
	if err == nil {
		err = refused
	}
	return a, err
}

func (s *Service) seatOf(ctx context.Context, account, member string, state SeatState) (Seat, error) {
	a, err := s.seatEdit(ctx, account, member, func(a *Account) (bool, error) {
		if i := a.seat(member); i >= 0 {
			if seat := &a.Seats[i]; seat.State == SeatInvited && state == SeatAssigned {
				seat.State, seat.Since = state, s.now()
				return true, nil
			}
			return false, nil
		}
		if len(a.Seats) >= MaxSeats {
			return false, fmt.Errorf("%w: an account has at most %d seats", ErrInvalid, MaxSeats)
		}
		view := s.seating(a)
		seat := Seat{Member: member, State: state, Since: s.now()}
		if view.Taken >= view.Paid {
			waiting := int64(len(a.Seats)) - view.Taken
			wanted := max(view.Taken+waiting+1, view.Paid+1)
			if !s.cfg.Seats.Grow || state == SeatInvited || view.Maximum > 0 && wanted > view.Maximum {
				return false, &NoSeatError{Taken: view.Taken + waiting, Paid: view.Paid, Maximum: view.Maximum}
			}
			if _, err := s.orderSeats(a, wanted); err != nil {
				return false, err
			}
			seat.State = SeatOrdered
		}
		a.Seats = append(a.Seats, seat)
		return true, nil
	})
	if err != nil {
		return Seat{}, err
	}
	s.poke()
	return a.Seats[a.seat(member)], nil
}

// ClaimSeat makes the seat of an invitation that of a member. A member who has
// one already gives the invited one back.
func (s *Service) ClaimSeat(ctx context.Context, account, invitation, member string) (Seat, error) {
	a, err := s.seatEdit(ctx, account, member, func(a *Account) (bool, error) {
		invited, sits := a.seat(invitation), a.seat(member)
		switch {
		case sits >= 0 && a.Seats[sits].State != SeatInvited && (invited < 0 || invited == sits):
			return false, nil // claimed before
		case invited < 0 || a.Seats[invited].State != SeatInvited:
			return false, fmt.Errorf("%w: no seat is kept for this invitation", ErrNotFound)
		case sits >= 0 && sits != invited:
			a.Seats[sits].State = SeatAssigned
			a.Seats = slices.Delete(a.Seats, invited, invited+1)
			return true, nil
		}
		a.Seats[invited] = Seat{Member: member, State: SeatAssigned, Since: s.now()}
		return true, nil
	})
	if err != nil {
		return Seat{}, err
	}
	return a.Seats[a.seat(member)], nil
}

// ReleaseSeat gives a seat, or an invitation, back. Nobody sitting there is no
// error.
func (s *Service) ReleaseSeat(ctx context.Context, account, member string) (Seating, error) {
	a, err := s.seatEdit(ctx, account, member, func(a *Account) (bool, error) {
		i := a.seat(member)
		if i < 0 {
			return false, nil
		}
		a.Seats = slices.Delete(a.Seats, i, i+1)
		s.fillSeats(a)
		if s.cfg.Seats.Shrink || a.SeatOrder != nil && s.cfg.Seats.Grow {
			least := s.seating(a).Paid // what was ordered for who has gone isn't any more
			if s.cfg.Seats.Shrink {
				least = 1
			}
			if _, err := s.orderSeats(a, max(int64(len(a.Seats)), least)); err != nil && !errors.Is(err, ErrNoSubscription) {
				return true, nil // the number stays; the seat is free
			}
		}
		return true, nil
	})
	if err != nil {
		return Seating{}, err
	}
	s.poke()
	return s.seating(&a), nil
}

// SetSeats orders a number of seats to be paid for. Changes that follow each
// other within SeatPolicy.Debounce reach the gateway as one, also when the
// process dies meanwhile. Fewer than are taken are ErrInvalid.
func (s *Service) SetSeats(ctx context.Context, account string, n int64) (Seating, error) {
	var refused error
	a, err := s.edit(ctx, account, func(a *Account) bool {
		var changed bool
		if taken := int64(len(a.Seats)); n < taken {
			refused = fmt.Errorf("%w: %d seats are taken: release %d before there are %d", ErrInvalid, taken, taken-n, n)
			return false
		}
		changed, refused = s.orderSeats(a, n)
		return changed && refused == nil
	})
	if err == nil {
		err = refused
	}
	if err != nil {
		return Seating{}, err
	}
	s.poke()
	return s.seating(&a), nil
}

// orderSeats puts a number of seats on its way. It says so to itself only: the
// gateway is told when the order is due.
func (s *Service) orderSeats(a *Account, n int64) (changed bool, err error) {
	_, plan, have, err := s.paidSeats(a)
	if err != nil {
		return false, err
	}
	n = max(n, plan.Seats.least())
	if plan.Seats.Maximum > 0 && n > plan.Seats.Maximum {
		return false, fmt.Errorf("%w: plan %q has at most %d seats, not %d", ErrInvalid, plan.ID, plan.Seats.Maximum, n)
	}
	if have == n {
		changed = a.SeatOrder != nil
		a.SeatOrder = nil
		return changed, nil
	}
	now, wait := s.now(), max(s.cfg.Seats.Debounce, 0)
	order := SeatOrder{Quantity: n, First: now}
	if a.SeatOrder != nil {
		if a.SeatOrder.Quantity == n {
			return false, nil
		}
		order.First = a.SeatOrder.First
	}
	order.Due = earlier(now.Add(wait), order.First.Add(10*wait))
	a.SeatOrder = &order
	return true, nil
}

// paidSeats is how many seats the current subscription pays for, with those
// that its plan includes.
func (s *Service) paidSeats(a *Account) (Subscription, *Plan, int64, error) {
	sub, err := a.changeable()
	if err != nil {
		return sub, nil, 0, err
	}
	h := s.catalog.hold(&sub)
	if h.item < 0 || h.seatTerms() == nil {
		return sub, nil, 0, fmt.Errorf("%w: the plan of subscription %s has no seats", ErrInvalid, sub.ID)
	}
	return sub, h.terms, h.seats(&sub), nil
}

// fillSeats gives those who wait the seats that are free, and drops an order
// that the gateway shows as done.
func (s *Service) fillSeats(a *Account) {
	if len(a.Seats) == 0 && a.SeatOrder == nil {
		return
	}
	if _, _, have, err := s.paidSeats(a); a.SeatOrder != nil && err == nil && have == a.SeatOrder.Quantity {
		a.SeatOrder = nil
	}
	view := s.seating(a)
	for i := range a.Seats {
		if seat := &a.Seats[i]; seat.State == SeatOrdered && view.Taken < view.Paid {
			seat.State, seat.Since = SeatAssigned, s.now()
			view.Taken++
		}
	}
}

// sendSeats tells the gateway the number of seats that is due. The order says
// what is wanted, not what has changed: whoever repeats it changes nothing.
func (s *Service) sendSeats(ctx context.Context, a *Account) error {
	if a.SeatOrder == nil || s.now().Before(a.SeatOrder.Due) {
		return nil
	}
	proration := s.cfg.Seats.Proration
	if proration == "" {
		proration = "create_prorations"
	}
	if sub, _, _, err := s.paidSeats(a); err == nil && sub.Scheduled != nil {
		// What is to come would take the seats away again.
		if _, err := s.KeepPlan(ctx, a.ID); err != nil {
			return err
		}
	}
	var sent int64
	_, _, err := s.act(ctx, a.ID, opUpdate, func(a *Account) (any, bool, error) {
		if a.SeatOrder == nil || s.now().Before(a.SeatOrder.Due) {
			return nil, true, nil // another one has come, or it is done
		}
		sub, plan, have, err := s.paidSeats(a)
		if err != nil {
			return nil, false, err
		}
		sent = max(a.SeatOrder.Quantity, plan.Seats.least())
		if plan.Seats.Maximum > 0 {
			sent = min(sent, plan.Seats.Maximum)
		}
		if have == sent {
			return nil, true, nil
		}
		m, err := s.move(ctx, a, &Order{Seats: sent})
		if err != nil {
			return nil, false, err
		}
		req := UpdateRequest{Items: m.items, Proration: proration, IfUnpaid: "error_if_incomplete"}
		if at := a.SeatOrder.Due.Truncate(time.Second); proration != "none" && sub.Period.Contains(at) {
			req.ProrationDate = at // what it costs doesn't depend on how long the gateway was away
		}
		return updateIntent{SubscriptionID: sub.ID, Request: req}, false, nil
	})
	if err != nil && !definite(err) && !errors.Is(err, ErrNoSubscription) {
		return err
	}
	// Done, or refused for good: who waited for a seat doesn't get one.
	_, editErr := s.edit(ctx, a.ID, func(now *Account) bool {
		if now.SeatOrder == nil || err == nil && now.SeatOrder.Quantity != sent {
			return false
		}
		order := now.SeatOrder
		now.SeatOrder = nil
		if err != nil {
			now.Seats = slices.DeleteFunc(now.Seats, func(seat Seat) bool { return seat.State == SeatOrdered })
			id := fmt.Sprintf("%s:%d:%d", KindSeatsRefused, order.Quantity, order.First.Unix())
			now.mark(id+":"+fingerprint(now.ID), Mark{At: s.now(), Subject: now.ID, Kind: KindSeatsRefused})
		}
		return true
	})
	return editErr
}

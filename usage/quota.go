package usage

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/kolekt/commerce/internal/ident"
)

// Request asks for units of a quota.
type Request struct {
	Account string
	Meter   string
	// N is how many units; 0 means 1.
	N int64
	// Key makes the request idempotent: a retry with the same key is answered
	// like the first one and counts nothing. It is also the reservation's ID.
	// Empty means that Reserve makes one, and that Consume has no protection.
	Key string
	// TTL is how long a reservation is held: Config.HoldTTL when zero.
	TTL time.Duration
	// Record also stores an event of N units with Properties (and Key as its
	// ID) in the same commit. Consume only; a reservation's event comes with
	// CommitEvent.
	Record     bool
	Properties Properties
	// Quota, when set, is used instead of asking Config.Quota.
	Quota *Quota
}

// Reservation holds units of a quota until it is committed, released or
// expired. Without Allowed it holds nothing.
type Reservation struct {
	Decision
	Expires time.Time
	charge  Charge
	svc     *Service
}

// Reserve holds units of a quota, or says that there aren't any left. The
// units come back by themselves when the reservation expires.
func (s *Service) Reserve(ctx context.Context, r Request) (*Reservation, error) {
	if r.Record || r.Properties != nil {
		return nil, invalid("Reserve records no event: use CommitEvent")
	}
	op, err := s.takeOp(ctx, Reserve, r)
	if err != nil {
		return nil, err
	}
	if op.Key == "" {
		op.Key = ident.New("rsv", op.Now)
	}
	ttl := r.TTL
	if ttl < 0 {
		return nil, invalid("TTL must not be negative")
	}
	setDefault(&ttl, s.cfg.HoldTTL)
	op.Expires = op.Now.Add(ttl).Truncate(time.Microsecond)
	d, err := s.quotas.Apply(ctx, op)
	if err != nil {
		return nil, err
	}
	charge := op.Charge
	charge.Period = d.Period // a replayed one keeps its own
	return &Reservation{Decision: d, Expires: op.Expires, charge: charge, svc: s}, nil
}

// Consume uses units of a quota in one step, or says that there aren't any
// left.
func (s *Service) Consume(ctx context.Context, r Request) (Decision, error) {
	op, err := s.takeOp(ctx, Consume, r)
	if err != nil {
		return Decision{}, err
	}
	if r.Record || r.Properties != nil {
		op.Entry, err = s.newEntry(r.Account, r.Meter, r.Key, op.N, r.Properties, time.Time{}, op.Now)
		if err != nil {
			return Decision{}, err
		}
	}
	return s.apply(ctx, op)
}

// Commit counts what was really used, which may be less or more than what was
// held, and ends the reservation. It counts even after expiry and beyond the
// limit, since the use has happened; the decision says so.
func (r *Reservation) Commit(ctx context.Context, actual int64) (Decision, error) {
	if !r.Allowed {
		return Decision{}, fmt.Errorf("%w: the reservation was refused and holds nothing", ErrNotFound)
	}
	return r.svc.apply(ctx, r.settleOp(Commit, actual))
}

// CommitEvent is Commit that also stores an event of the actual amount with
// the properties, in the same commit. The event's ID is the reservation's.
func (r *Reservation) CommitEvent(ctx context.Context, actual int64, properties ...Property) (Decision, error) {
	if !r.Allowed {
		return Decision{}, fmt.Errorf("%w: the reservation was refused and holds nothing", ErrNotFound)
	}
	op := r.settleOp(Commit, actual)
	// The event belongs to the period that is charged, also when the commit
	// comes after its end.
	at := op.Now
	if !at.Before(r.Period.To) {
		at = r.Period.To.Add(-time.Microsecond)
	}
	var err error
	op.Entry, err = r.svc.newEntry(r.Account, r.Meter, r.Key, actual, properties, at, op.Now)
	if err != nil {
		return Decision{}, err
	}
	return r.svc.apply(ctx, op)
}

// Release gives the units back. Releasing twice, or after expiry, does no
// harm.
func (r *Reservation) Release(ctx context.Context) error {
	if !r.Allowed {
		return nil
	}
	_, err := r.svc.apply(ctx, r.settleOp(Release, 0))
	return err
}

func (r *Reservation) settleOp(kind OpKind, n int64) Op {
	return Op{
		Kind: kind, Account: r.Account, Meter: r.Meter, Charge: r.charge,
		Key: r.Key, N: n, Now: r.svc.now(),
	}
}

// Reservation finds a reservation by its ID, for a process that didn't make
// it. It returns ErrNotFound when there is none.
func (s *Service) Reservation(ctx context.Context, account, id string) (*Reservation, error) {
	h, err := s.quotas.Hold(ctx, account, id)
	if err != nil {
		return nil, err
	}
	if h.Kind != Reserve {
		return nil, ErrNotFound
	}
	m, err := s.Meter(h.Meter)
	if err != nil {
		return nil, err
	}
	q, err := s.quota(ctx, account, h.Meter)
	if errors.Is(err, ErrNoQuota) {
		q, err = Quota{Limit: Unlimited}, nil
	}
	if err != nil {
		return nil, err
	}
	charge := q.charge(m, h.At)
	charge.Period = h.Period
	c, err := s.quotas.Counter(ctx, account, h.Meter, h.Period)
	if err != nil {
		return nil, err
	}
	w, err := s.wallet(ctx, account, h.Meter)
	if err != nil {
		return nil, err
	}
	op := Op{Account: account, Meter: h.Meter, Charge: charge, Key: id, N: h.N, Now: s.now()}
	w.begin(op)
	return &Reservation{Decision: c.decision(op, true, w), Expires: h.Expires, charge: charge, svc: s}, nil
}

// Quota returns where an account stands in its current period.
func (s *Service) Quota(ctx context.Context, account, meter string) (Decision, error) {
	return s.QuotaAt(ctx, account, meter, s.now())
}

// QuotaAt returns where an account stood at the end of, or stands in, the
// period that contains the instant, under today's quota. A period that is over
// has of grants what it has drawn; Balance tells what there was.
func (s *Service) QuotaAt(ctx context.Context, account, meter string, at time.Time) (Decision, error) {
	m, err := s.Meter(meter)
	if err != nil {
		return Decision{}, err
	}
	q, err := s.quota(ctx, account, meter)
	if err != nil {
		return Decision{}, err
	}
	charge := q.charge(m, at.UTC())
	c, err := s.quotas.Counter(ctx, account, meter, charge.Period)
	if err != nil {
		return Decision{}, err
	}
	now := s.now()
	over := !charge.Period.To.After(now)
	var w *Wallet
	if !over {
		// What a period that is over might still have drawn is no matter now.
		if w, err = s.wallet(ctx, account, meter); err != nil {
			return Decision{}, err
		}
	}
	op := Op{Account: account, Meter: meter, Charge: charge, Now: now}
	w.begin(op)
	d := c.decision(op, true, w)
	d.Allowed = d.Remaining != 0
	return d, nil
}

func (s *Service) takeOp(ctx context.Context, kind OpKind, r Request) (Op, error) {
	m, err := s.Meter(r.Meter)
	if err != nil {
		return Op{}, err
	}
	if !m.countable() {
		return Op{}, invalid("meter %q has Aggregation %s: quotas need count or sum", m.Name, m.Aggregation)
	}
	if err := checkAccount(r.Account); err != nil {
		return Op{}, err
	}
	if len(r.Key) > MaxID || !validText(r.Key) {
		return Op{}, invalid("Key must be valid UTF-8 of at most %d bytes", MaxID)
	}
	if r.N == 0 {
		r.N = 1
	}
	if r.N < 0 || r.N > MaxValue {
		return Op{}, invalid("%d units: ask for 1 to 2^53", r.N)
	}
	var q Quota
	if r.Quota != nil {
		q = *r.Quota
		err = q.validate()
	} else {
		q, err = s.quota(ctx, r.Account, r.Meter)
	}
	if err != nil {
		return Op{}, err
	}
	now := s.now()
	return Op{
		Kind: kind, Account: r.Account, Meter: r.Meter, Charge: q.charge(m, now),
		Key: r.Key, N: r.N, Now: now,
	}, nil
}

func (s *Service) quota(ctx context.Context, account, meter string) (Quota, error) {
	if s.cfg.Quota == nil {
		return Quota{}, fmt.Errorf("%w: set Config.Quota or Request.Quota", ErrNoQuota)
	}
	q, err := s.cfg.Quota(ctx, account, meter)
	if err != nil {
		return Quota{}, fmt.Errorf("usage: quota of the account for meter %q: %w", meter, err)
	}
	return q, q.validate()
}

// apply takes a step and stores its event: in one commit where one store does
// both.
func (s *Service) apply(ctx context.Context, op Op) (Decision, error) {
	if op.Entry == nil || s.cfg.Quotas == nil {
		return s.quotas.Apply(ctx, op)
	}
	// Two stores: the event's key is the step's, so that a retry after a crash
	// between the two completes what is missing and repeats nothing.
	entry := *op.Entry
	op.Entry = nil
	d, err := s.quotas.Apply(ctx, op)
	if err != nil || !d.Allowed {
		return d, err
	}
	out, err := s.store.Append(ctx, op.Now, []Entry{entry})
	if err == nil && out[0] == Reused {
		err = ErrKeyReused
	}
	if err != nil && !errors.Is(err, ErrKeyReused) {
		err = &UnknownOutcomeError{Key: op.Key, Err: err}
	}
	return d, err
}

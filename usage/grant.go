package usage

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/kolekt/commerce/internal/ident"
)

// MaxGrants bounds the open grants of one account and meter: those of which
// something is left, or still to come.
const MaxGrants = 100

// Grant gives an account units of a meter beside its quota: once, or again and
// again. In a period the quota's own Limit is used first, since it doesn't
// last; then the grants, by Priority, then by what expires first, then by age;
// and then the quota's Overage.
type Grant struct {
	Account string `json:"account"`
	Meter   string `json:"meter"`
	// Key is the grant's name within account and meter, and makes it
	// idempotent: the same grant under the same key is given once. Empty means
	// that one is made.
	Key string `json:"key"`
	// Amount is how many units, 1 to 2^53; of a recurring grant, each time.
	Amount int64 `json:"amount"`
	// Priority orders grants: a lower one is used before a higher one.
	Priority int32 `json:"priority"`
	// From is when it begins, now when zero. A recurring grant is counted from
	// it, as a quota is from its Anchor, and may have begun in the past: what
	// it would have given before now is not given.
	From time.Time `json:"from"`
	// Expires is when what is left of it is gone, and after which it doesn't
	// recur. Zero means never.
	Expires time.Time `json:"expires,omitzero"`
	// Every makes it recur: Amount is given at From and at every further
	// interval, and lasts until the next.
	Every Interval `json:"every,omitempty"`
	// Rollover is how many unused units of a recurring grant are carried into
	// the next interval at most; Unlimited means all. The rest expires.
	Rollover int64 `json:"rollover,omitempty"`
	// Note says to people what it is for, in at most 200 bytes.
	Note string `json:"note,omitempty"`
	// GrantedAt is when it was given; the service sets it.
	GrantedAt time.Time `json:"granted_at"`
}

// Lot is one issue of a grant: the only one, or a recurring one's share of one
// interval.
type Lot struct {
	Grant
	// Seq counts the lots of a grant from 0.
	Seq   int       `json:"seq"`
	Start time.Time `json:"start"`
	End   time.Time `json:"end,omitzero"` // zero: never
	Units
	// RevokedAt is when Revoke has voided it; zero if it hasn't.
	RevokedAt time.Time `json:"revoked_at,omitzero"`
	// Passed says that the end has been booked, Closed that nothing can come
	// of the lot any more unless use is corrected.
	Passed bool `json:"-"`
	Closed bool `json:"-"`
}

// Units says where the units of a lot, or of several, are. They are conserved:
// what was issued and carried in is burned, held, expired, voided, rolled on,
// or remains.
type Units struct {
	Issued  int64 `json:"issued"`
	Carried int64 `json:"carried"` // from the interval before
	Burned  int64 `json:"burned"`
	Held    int64 `json:"held"` // by reservations
	Expired int64 `json:"expired"`
	Voided  int64 `json:"voided"` // by Revoke
	Rolled  int64 `json:"rolled"` // into the interval after
}

// Remaining returns how many units can still be used.
func (u Units) Remaining() int64 {
	return u.Issued + u.Carried - u.Burned - u.Held - u.Expired - u.Voided - u.Rolled
}

// Draw is units of a lot that a reservation holds.
type Draw struct {
	Key string `json:"key"`
	Seq int    `json:"seq"`
	N   int64  `json:"n"`
}

func sumDraws(draws []Draw) (n int64) {
	for _, d := range draws {
		n += d.N
	}
	return n
}

// GrantMove is a kind of movement in the ledger of grants.
type GrantMove uint8

// The movements of the ledger.
const (
	MoveIssue   GrantMove = iota + 1 // given: remaining
	MoveCarry                        // carried in from the lot before: remaining
	MoveHold                         // remaining → held
	MoveRelease                      // held → remaining
	MoveBurn                         // remaining → burned
	MoveCommit                       // held → burned
	MoveReturn                       // burned → remaining, by a correction
	MoveExpire                       // remaining → expired
	MoveVoid                         // remaining → voided
	MoveRoll                         // remaining → rolled
)

var moveNames = [...]string{"", "issue", "carry", "hold", "release", "burn", "commit", "return", "expire", "void", "roll"}

// String returns the movement's name.
func (m GrantMove) String() string {
	if int(m) < len(moveNames) {
		return moveNames[m]
	}
	return fmt.Sprint("GrantMove(", uint8(m), ")")
}

// MarshalText spells the movement by its name.
func (m GrantMove) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// GrantEntry is one movement in the ledger of grants, which is only ever
// appended to. At is when it took effect: an expiry's is the lot's end, however
// much later somebody has looked.
type GrantEntry struct {
	Account string    `json:"account"`
	Meter   string    `json:"meter"`
	Key     string    `json:"key"` // the grant's
	Seq     int       `json:"seq"`
	At      time.Time `json:"at"`
	Move    GrantMove `json:"move"`
	Units   int64     `json:"units"`
	// Period is the beginning of the quota's period for which units were held
	// or burned, zero for other movements; Step is the key of the quota step.
	Period time.Time `json:"period,omitzero"`
	Step   string    `json:"step,omitempty"`
}

// Book adds a movement to the figures.
func (u *Units) Book(m GrantMove, n int64) {
	switch m {
	case MoveIssue:
		u.Issued += n
	case MoveCarry:
		u.Carried += n
	case MoveHold:
		u.Held += n
	case MoveRelease:
		u.Held -= n
	case MoveBurn:
		u.Burned += n
	case MoveCommit:
		u.Held -= n
		u.Burned += n
	case MoveReturn:
		u.Burned -= n
	case MoveExpire:
		u.Expired += n
	case MoveVoid:
		u.Voided += n
	case MoveRoll:
		u.Rolled += n
	}
}

// GrantStore is a QuotaStore that knows grants, by handing Counter.Step a
// Wallet. The conformance suite is usagetest.TestGrants, which TestStore runs
// for a store that has these methods.
type GrantStore interface {
	QuotaStore
	// Grant stores NewLot of the grant unless its key is there, atomically,
	// and returns the grant that is stored.
	Grant(ctx context.Context, g Grant, now time.Time) (stored Grant, replayed bool, err error)
	// Revoke takes Wallet.Revoke and returns how many units it has voided, or
	// ErrNotFound when there is no such grant.
	Revoke(ctx context.Context, account, meter, key string, now time.Time) (voided int64, err error)
	// Wallet returns the account's lots that aren't closed.
	Wallet(ctx context.Context, account, meter string) (*Wallet, error)
	// GrantUnits sums the ledger's entries of at most the instant.
	GrantUnits(ctx context.Context, account, meter string, until time.Time) (Units, error)
	// GrantEntries returns the ledger's entries in [from, to), in order of At
	// and then as they were appended, at most n after the first skip ones.
	GrantEntries(ctx context.Context, account, meter string, from, to time.Time, skip, n int) ([]GrantEntry, error)
	// Lapsed returns accounts and meters with a lot that has ended by now and
	// isn't Passed, at most n.
	Lapsed(ctx context.Context, now time.Time, n int) ([]AccountMeter, error)
}

// AccountMeter names a meter of an account.
type AccountMeter struct{ Account, Meter string }

// Grant gives an account units beside its quota, atomically and once for each
// key; see Grant. It returns the grant as it is stored, and ErrKeyReused when
// the key stands for another one. It returns ErrUnsupported when the store that
// decides about quotas knows no grants, as usageredis doesn't.
func (s *Service) Grant(ctx context.Context, g Grant) (Grant, error) {
	store, err := s.grants()
	if err != nil {
		return Grant{}, err
	}
	if err := s.completeGrant(&g); err != nil {
		return Grant{}, err
	}
	s.refresh(ctx, g.Account, g.Meter, g.GrantedAt) // see there
	stored, _, err := store.Grant(ctx, g, g.GrantedAt)
	if err != nil {
		return Grant{}, err
	}
	s.refresh(ctx, g.Account, g.Meter, g.GrantedAt)
	return stored, nil
}

// completeGrant checks a grant and fills in what it leaves open.
func (s *Service) completeGrant(g *Grant) error {
	m, err := s.Meter(g.Meter)
	if err != nil {
		return err
	}
	if !m.countable() {
		return invalid("meter %q has Aggregation %s: grants need count or sum", m.Name, m.Aggregation)
	}
	now := s.now().Truncate(time.Microsecond)
	g.GrantedAt = now
	if g.Key == "" {
		g.Key = ident.New("grt", now)
	}
	given := !g.From.IsZero()
	g.From, g.Expires = g.From.UTC().Truncate(time.Microsecond), g.Expires.UTC().Truncate(time.Microsecond)
	if !given {
		g.From = now
	}
	if err := g.validate(); err != nil {
		return err
	}
	if !g.Expires.IsZero() && !g.Expires.After(now) {
		return invalid("grant %q: Expires has passed", g.Key)
	}
	return nil
}

func (g Grant) validate() error {
	if err := checkAccount(g.Account); err != nil {
		return err
	}
	switch {
	case g.Key == "" || len(g.Key) > MaxID || !validText(g.Key):
		return invalid("grant: Key must be 1 to %d bytes of UTF-8 without NUL", MaxID)
	case g.Amount < 1 || g.Amount > MaxValue:
		return invalid("grant %q: Amount %d is not 1 to 2^53", g.Key, g.Amount)
	case g.Rollover < Unlimited || g.Rollover > MaxValue:
		return invalid("grant %q: Rollover %d is neither Unlimited nor 0 to 2^53", g.Key, g.Rollover)
	case g.Rollover != 0 && g.Every == "":
		return invalid("grant %q: Rollover is for a grant with Every", g.Key)
	case !g.Expires.IsZero() && !g.Expires.After(g.From):
		return invalid("grant %q: From is not before Expires", g.Key)
	case len(g.Note) > MaxID || !validText(g.Note):
		return invalid("grant %q: Note must be UTF-8 of at most %d bytes", g.Key, MaxID)
	}
	if !g.Every.valid() {
		return invalid("grant %q: unknown interval %q", g.Key, g.Every)
	}
	return nil
}

// Same reports whether a stored grant is what a retry asks for. A From that
// was left open is compared by nothing: it was set at the first try.
func (g Grant) Same(retry Grant) bool {
	if retry.From.Equal(retry.GrantedAt) {
		retry.From = g.From
	}
	from, expires := g.From.Equal(retry.From), g.Expires.Equal(retry.Expires)
	g.From, g.Expires, g.GrantedAt = retry.From, retry.Expires, retry.GrantedAt
	return from && expires && g == retry
}

// NewLot returns a grant's first lot and the entry that issues it: the lot of
// the interval that contains now, or the one at From if that is still to come.
func (g Grant) NewLot(now time.Time) (Lot, GrantEntry) {
	l := Lot{Grant: g, Start: g.From, End: g.Expires}
	if g.From.Before(now) {
		l.Start = now
	}
	if g.Every != "" {
		p := g.Every.cycle(g.From).At(l.Start)
		l.Start = p.From
		l.End = g.until(p.To)
	}
	l.Issued = g.Amount
	at := now
	if l.Start.After(now) {
		at = l.Start
	}
	return l, l.entry(MoveIssue, g.Amount, at)
}

// until returns when a lot ends whose interval does.
func (g Grant) until(end time.Time) time.Time {
	if !g.Expires.IsZero() && g.Expires.Before(end) {
		return g.Expires
	}
	return end
}

// follows reports whether another lot comes after this one.
func (l Lot) follows() bool {
	return l.Every != "" && l.RevokedAt.IsZero() && (l.Expires.IsZero() || l.End.Before(l.Expires))
}

// next returns the lot after this one, before anything is issued.
func (l Lot) next() Lot {
	n := Lot{Grant: l.Grant, Seq: l.Seq + 1, Start: l.End}
	n.End = l.until(l.Every.cycle(l.From).At(l.End).To)
	return n
}

func (l Lot) entry(m GrantMove, n int64, at time.Time) GrantEntry {
	return GrantEntry{Account: l.Account, Meter: l.Meter, Key: l.Key, Seq: l.Seq, At: at, Move: m, Units: n}
}

// ended reports whether a lot's time is over.
func (l Lot) ended(now time.Time) bool { return !l.End.IsZero() && !l.End.After(now) }

// Revoke ends a grant: what is left of it is void, what reservations hold is
// void if they give it back, and it doesn't recur. What was used stays used.
// It returns how many units became void; revoking twice does no harm.
func (s *Service) Revoke(ctx context.Context, account, meter, key string) (int64, error) {
	store, err := s.grants()
	if err != nil {
		return 0, err
	}
	if _, err := s.Meter(meter); err != nil {
		return 0, err
	}
	now := s.now().Truncate(time.Microsecond)
	s.refresh(ctx, account, meter, now)
	voided, err := store.Revoke(ctx, account, meter, key, now)
	if err != nil {
		return 0, err
	}
	s.refresh(ctx, account, meter, now)
	return voided, nil
}

// Grants returns the account's grants of which something is left or to come, a
// lot for each, in the order in which they are used.
func (s *Service) Grants(ctx context.Context, account, meter string) ([]Lot, error) {
	store, err := s.grants()
	if err != nil {
		return nil, err
	}
	if _, err := s.Meter(meter); err != nil {
		return nil, err
	}
	w, err := store.Wallet(ctx, account, meter)
	if err != nil {
		return nil, err
	}
	return w.Open(s.now()), nil
}

// Balance returns where the units of the account's grants were at a past
// instant, or are now.
func (s *Service) Balance(ctx context.Context, account, meter string, at time.Time) (Units, error) {
	store, err := s.grants()
	if err != nil {
		return Units{}, err
	}
	if _, err := s.Meter(meter); err != nil {
		return Units{}, err
	}
	at = at.UTC()
	units, err := store.GrantUnits(ctx, account, meter, at)
	if err != nil {
		return Units{}, err
	}
	// What has come to pass by itself since somebody last looked.
	w, err := store.Wallet(ctx, account, meter)
	if err != nil {
		return Units{}, err
	}
	w.advance(at)
	_, entries := w.Changes()
	for _, e := range entries {
		if !e.At.After(at) {
			units.Book(e.Move, e.Units)
		}
	}
	return units, nil
}

// GrantHistory iterates over the ledger of the account's grants in [from, to),
// oldest first, page by page. An error ends the iteration. What has expired
// since the last quota step comes into it with the next one, or with Maintain.
func (s *Service) GrantHistory(ctx context.Context, account, meter string, from, to time.Time) iter.Seq2[GrantEntry, error] {
	return func(yield func(GrantEntry, error) bool) {
		store, err := s.grants()
		if err == nil {
			_, err = s.Meter(meter)
		}
		for skip := 0; err == nil; skip += pageSize {
			var page []GrantEntry
			if page, err = store.GrantEntries(ctx, account, meter, from.UTC(), to.UTC(), skip, pageSize); err != nil {
				break
			}
			for _, e := range page {
				if !yield(e, nil) {
					return
				}
			}
			if len(page) < pageSize {
				return
			}
		}
		yield(GrantEntry{}, err)
	}
}

// grants returns the store as one that knows grants.
func (s *Service) grants() (GrantStore, error) {
	if g, ok := s.quotas.(GrantStore); ok {
		return g, nil
	}
	return nil, fmt.Errorf("%w: %T decides about quotas without grants; use usagepg or usagemem for the quotas of an account that has any", ErrUnsupported, s.quotas)
}

// wallet returns the account's open grants, and nil where the store knows none.
func (s *Service) wallet(ctx context.Context, account, meter string) (*Wallet, error) {
	store, ok := s.quotas.(GrantStore)
	if !ok {
		return nil, nil
	}
	return store.Wallet(ctx, account, meter)
}

// refresh brings the running period's counter up to what the grants now come
// to, so that NearLimit and the thresholds know at once. The change itself is
// stored: when this fails, the next step or Maintain does it. It is called before
// a change as well: in a transaction of the caller's the counter is then locked
// before the grants, as every step locks them, and nobody waits in a circle.
func (s *Service) refresh(ctx context.Context, account, meter string, now time.Time) {
	op, err := s.refreshOp(ctx, account, meter, now)
	if err == nil {
		_, err = s.quotas.Apply(ctx, op)
	}
	if err != nil {
		s.cfg.Logger.WarnContext(ctx, "usage: a change of grants is not in the quota's figures yet", "meter", meter, "error", err)
	}
}

func (s *Service) refreshOp(ctx context.Context, account, meter string, now time.Time) (Op, error) {
	q, err := s.quota(ctx, account, meter)
	if errors.Is(err, ErrNoQuota) {
		q, err = Quota{Limit: Unlimited}, nil // the grants change all the same
	}
	// A meter that isn't declared any more has no thresholds.
	return Op{Kind: Refresh, Account: account, Meter: meter, Charge: q.charge(s.meters[meter], now), Now: now}, err
}

// lapse books the ends of lots that no step has come across.
func (s *Service) lapse(ctx context.Context) error {
	store, ok := s.quotas.(GrantStore)
	for ok {
		due, err := store.Lapsed(ctx, s.now(), pageSize)
		if err != nil {
			return err
		}
		for _, x := range due {
			op, opErr := s.refreshOp(ctx, x.Account, x.Meter, s.now())
			if opErr == nil {
				_, opErr = s.quotas.Apply(ctx, op)
			}
			err = errors.Join(err, opErr)
		}
		if err != nil || len(due) < pageSize {
			return err
		}
	}
	return nil
}

package revenue

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"sort"
	"time"

	"github.com/kolekt/commerce/billing"
)

// Config configures a Book. Its zero value is good.
type Config struct {
	Convention Convention
	// Plan names the plan of a price. The default is its lookup key, or else
	// its product, or else its ID.
	Plan func(billing.Price) string
	// GrossMargin is what is left of revenue after the costs of serving it, in
	// percent, for LTV: 1 to 100, by default 100.
	GrossMargin int64
}

// Book answers questions about a list of changes. It holds no more than the
// list, never changes, and is safe for concurrent use.
type Book struct {
	config   Config
	series   []series   // of each subscription, by account and ID
	accounts [][]series // the same, those of one account together
	payments []Payment
	paid     bool                 // whether payments are known at all
	lastPaid map[string]time.Time // by subscription: the last payment of more than nothing
}

// series is the life of one subscription.
type series struct {
	account  string
	id       string
	changes  []Change
	segments []segment
}

// segment is a stretch [at, next segment's at) in which nothing changes.
type segment struct {
	at      time.Time
	change  int
	counted counted
	pending bool // its end is asked for
	items   []itemMRR
}

// Selection narrows figures down: to one currency, always, because amounts of
// different currencies have no sum; and to one plan, if set. Of a selected plan
// a customer who moves to another one has left, and who moves to it has come.
type Selection struct {
	Currency string
	Plan     string
}

// New returns the book of these changes and payments, in any order. Payments
// may be nil: a trial then counts as converted when its subscription becomes
// active, and no lifetime revenue is observed.
func New(changes []Change, payments []Payment, config Config) (*Book, error) {
	if config.GrossMargin == 0 {
		config.GrossMargin = 100
	}
	if config.GrossMargin < 0 || config.GrossMargin > 100 {
		return nil, errors.New("revenue: Config.GrossMargin is a percentage, 1 to 100")
	}
	if config.Convention.Group < 0 {
		return nil, errors.New("revenue: Convention.Group must not be negative")
	}
	if config.Plan == nil {
		config.Plan = func(p billing.Price) string { return cmp.Or(p.LookupKey, p.ProductID, p.ID) }
	}
	b := &Book{config: config, payments: slices.Clone(payments), paid: payments != nil}
	b.lastPaid = map[string]time.Time{}
	for _, p := range payments {
		if p.Amount.Amount > 0 {
			b.lastPaid[p.SubscriptionID] = latest(b.lastPaid[p.SubscriptionID], p.At)
		}
	}
	bySubscription := map[string]*series{}
	for i, c := range changes {
		id := c.Subscription.ID
		if id == "" || c.At.IsZero() {
			return nil, fmt.Errorf("revenue: change %d has no subscription ID or no time", i)
		}
		s := bySubscription[id]
		if s == nil {
			s = &series{id: id}
			bySubscription[id] = s
		}
		s.changes = append(s.changes, c)
		if account := cmp.Or(c.Account, c.Subscription.Account, c.Subscription.CustomerID); account != "" {
			s.account = account
		}
	}
	for _, s := range bySubscription {
		slices.SortStableFunc(s.changes, func(a, b Change) int { return a.At.Compare(b.At) })
		b.lay(s)
		b.series = append(b.series, *s)
	}
	slices.SortFunc(b.series, func(a, b series) int { return cmp.Or(cmp.Compare(a.account, b.account), cmp.Compare(a.id, b.id)) })
	for rest := b.series; len(rest) > 0; {
		n := 1
		for n < len(rest) && rest[n].account == rest[0].account {
			n++
		}
		b.accounts = append(b.accounts, rest[:n:n])
		rest = rest[n:]
	}
	return b, nil
}

// lay computes the segments of a subscription. Of changes at one instant the
// last is what it was.
func (b *Book) lay(s *series) {
	for i := range s.changes {
		var until time.Time
		if i+1 < len(s.changes) {
			if until = s.changes[i+1].At; until.Equal(s.changes[i].At) {
				continue
			}
		}
		from, subscription := s.changes[i].At, &s.changes[i].Subscription
		for _, at := range append([]time.Time{from}, b.config.Convention.turns(subscription, from, until)...) {
			s.segments = append(s.segments, segment{
				at:      at,
				change:  i,
				counted: b.config.Convention.counts(subscription),
				pending: subscription.CancelAtPeriodEnd || !subscription.CancelAt.IsZero(),
				items:   b.config.Convention.items(subscription, at, b.config.Plan),
			})
		}
	}
}

// at returns the segment in force at t, or before t: nil if there is none.
func (s *series) at(t time.Time, before bool) *segment {
	i := sort.Search(len(s.segments), func(i int) bool {
		if before {
			return !s.segments[i].at.Before(t)
		}
		return s.segments[i].at.After(t)
	})
	if i == 0 {
		return nil
	}
	return &s.segments[i-1]
}

// zero must not be changed, nor the amount of any segment.
var zero = new(big.Rat)

// amount is the MRR of a segment within a selection, whatever its status.
func (g *segment) amount(selection Selection) *big.Rat {
	sum := zero
	if g == nil {
		return sum
	}
	for _, item := range g.items {
		if !selection.has(item) {
			continue
		}
		if sum == zero {
			sum = item.amount // most have one item
		} else {
			sum = new(big.Rat).Add(sum, item.amount)
		}
	}
	return sum
}

func (s Selection) has(item itemMRR) bool {
	return item.currency == s.Currency && (s.Plan == "" || item.plan == s.Plan)
}

// recurring is the MRR of a segment within a selection: zero unless its status
// counts.
func (g *segment) recurring(selection Selection) *big.Rat {
	if g == nil || g.counted != recurring && g.counted != atRisk {
		return zero
	}
	return g.amount(selection)
}

// recurring is MRR, and the customers who have it, at an instant or just before
// it.
func (b *Book) recurring(at time.Time, before bool, selection Selection) (Figure, Count) {
	mrr, customers := newFigure(selection.Currency), Count{}
	for i := range b.series {
		life := &b.series[i]
		amount := life.at(at, before).recurring(selection)
		if amount.Sign() == 0 {
			continue
		}
		mrr.add(life.account, life.id, amount)
		if customers.N == 0 || customers.Accounts[customers.N-1] != life.account {
			customers.Accounts = append(customers.Accounts, life.account)
			customers.N++
		}
	}
	return mrr, customers
}

// Currencies returns the currencies of all recurring prices, in order.
func (b *Book) Currencies() []string {
	set := map[string]bool{}
	for _, s := range b.series {
		for _, g := range s.segments {
			for _, item := range g.items {
				set[item.currency] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(set))
}

// Plans returns the plans of all recurring prices in a currency, in order.
func (b *Book) Plans(currency string) []string {
	set := map[string]bool{}
	for _, s := range b.series {
		for _, g := range s.segments {
			for _, item := range g.items {
				if item.currency == currency {
					set[item.plan] = true
				}
			}
		}
	}
	return slices.Sorted(maps.Keys(set))
}

// Snapshot is revenue as of an instant. Its figures are amounts a month, and
// only ARR a year.
type Snapshot struct {
	At       time.Time `json:"at"`
	Currency string    `json:"currency"`
	Plan     string    `json:"plan,omitempty"`

	MRR       Figure `json:"mrr"`       // active and past due
	Committed Figure `json:"committed"` // MRR without subscriptions whose end is asked for
	AtRisk    Figure `json:"at_risk"`   // the part of MRR that is past due
	Trial     Figure `json:"trial"`     // what the trials would add to MRR
	ARR       Figure `json:"arr"`       // 12 × MRR

	Customers Count `json:"customers"` // with MRR
	Trialing  Count `json:"trialing"`  // with a trial and without MRR
	PastDue   Count `json:"past_due"`

	Plans []PlanShare `json:"plans"` // of MRR, in order of name
}

// PlanShare is the part of one plan.
type PlanShare struct {
	Plan      string `json:"plan"`
	MRR       Figure `json:"mrr"`
	Customers Count  `json:"customers"`
}

// ARPA returns MRR per customer with MRR; false without any.
func (s Snapshot) ARPA() (billing.Money, bool) {
	if s.Customers.N == 0 {
		return billing.Money{}, false
	}
	return billing.Money{Amount: rounded(new(big.Rat).Quo(s.MRR.Exact, s.Customers.rat())), Currency: s.Currency}, true
}

// AsOf returns revenue as of an instant, with what happens at it.
func (b *Book) AsOf(at time.Time, selection Selection) Snapshot {
	currency := selection.Currency
	s := Snapshot{
		At: at, Currency: currency, Plan: selection.Plan,
		MRR: newFigure(currency), Committed: newFigure(currency), AtRisk: newFigure(currency), Trial: newFigure(currency),
	}
	customers, trialing, pastDue := map[string]bool{}, map[string]bool{}, map[string]bool{}
	shares, members := map[string]Figure{}, map[string]map[string]bool{}
	for i := range b.series {
		life := &b.series[i]
		g := life.at(at, false)
		amount := g.amount(selection)
		if amount.Sign() == 0 || g.counted == none {
			continue
		}
		if g.counted == trial {
			s.Trial.add(life.account, life.id, amount)
			trialing[life.account] = true
			continue
		}
		s.MRR.add(life.account, life.id, amount)
		customers[life.account] = true
		if !g.pending {
			s.Committed.add(life.account, life.id, amount)
		}
		if g.counted == atRisk {
			s.AtRisk.add(life.account, life.id, amount)
			pastDue[life.account] = true
		}
		for _, item := range g.items {
			if !selection.has(item) {
				continue
			}
			if _, ok := shares[item.plan]; !ok {
				shares[item.plan], members[item.plan] = newFigure(currency), map[string]bool{}
			}
			share := shares[item.plan]
			share.add(life.account, life.id, item.amount)
			shares[item.plan] = share
			members[item.plan][life.account] = true
		}
	}
	for account := range customers {
		delete(trialing, account)
	}
	s.ARR = s.MRR.times(12)
	s.Customers, s.Trialing, s.PastDue = countOf(customers), countOf(trialing), countOf(pastDue)
	for _, plan := range slices.Sorted(maps.Keys(shares)) {
		s.Plans = append(s.Plans, PlanShare{plan, shares[plan], countOf(members[plan])})
	}
	return s
}

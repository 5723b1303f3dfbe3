package billingtest

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/bits"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/billing"
)

// Convergence is how far TestConvergence goes.
type Convergence struct {
	// Every is the stride through the permutations: 1 takes all 720 of six
	// events, 10 takes 72 of them. 0 means 1.
	Every int
	// Batch is how many accounts share a store. 0 means 60.
	Batch int
}

// TestConvergence plays the life of a subscription in every order in which its
// events may arrive, and requires each to end in the state and in the notices
// of the order in which it happened:
//
//   - with the provider's state as it is in the end, each event twice;
//   - with the provider's state as it is when the latest event so far was made;
//   - with events missing, and Reconcile after them;
//   - with the provider unreachable, and reachable again after them.
//
// A control, which takes the events' own snapshots over as they come, must
// fail. NewStore returns an empty store.
func TestConvergence(t *testing.T, newStore func(t *testing.T) billing.Store, size Convergence) {
	size.Every, size.Batch = max(size.Every, 1), max(size.Batch, 0)
	if size.Batch == 0 {
		size.Batch = 60
	}
	for _, s := range scripts {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			all := permutations(s.events)
			var orders [][]int
			for i := 0; i < len(all); i += size.Every {
				orders = append(orders, all[i])
			}
			want := play(t, newStore(t), s, orders[:1], modeLive)[0] // the identity
			down := play(t, newStore(t), s, orders[:1], modeDown)[0]
			require.Equal(t, want.final, down.final, "in order, with the provider unreachable")
			for batch := range slices.Chunk(orders, size.Batch) {
				for _, mode := range []playMode{modeDuplicates, modeLive, modeDrops, modeDown} {
					for i, got := range play(t, newStore(t), s, batch, mode) {
						if mode == modeDown {
							require.Equal(t, down.provisional, got.provisional, "%s: order %v, before the provider is back", mode, batch[i])
						}
						require.Equal(t, want.final, got.final, "%s: order %v", mode, batch[i])
					}
				}
			}
		})
	}
}

type playMode string

const (
	modeDuplicates playMode = "final truth, each event twice"
	modeLive       playMode = "truth of the latest event"
	modeDrops      playMode = "events missing, then Reconcile"
	modeDown       playMode = "provider unreachable, then back"
)

// outcome is what an account came to, with identifiers by rank.
type outcome struct{ final, provisional string }

// script is the life of a subscription. Its steps make the given number of
// events in all.
type script struct {
	name   string
	events int
	second bool // everything happens within one second
	steps  []func(*life) error
}

// life is one account that goes through a script.
type life struct {
	g        *Gateway
	account  string
	customer string
	sub      string
	first    string // the first subscription of two
	done     int    // steps
	events   []billing.Event
}

func (l *life) add(key string) error {
	s, err := l.g.AddSubscription(l.customer, key)
	l.first, l.sub = l.sub, s.ID
	return err
}

func start(l *life) error { return l.add("pro_month_usd") }

func (l *life) schedule(on bool) error {
	return l.g.Change(l.sub, func(s *billing.Subscription) {
		s.CancelAtPeriodEnd, s.CancelAt = on, time.Time{}
		if on {
			s.CancelAt = s.Period.To
		}
	})
}

// The scripts, by what they are about and by who lost money on it.
var scripts = []script{
	{name: "Cashier1759_CreatedAndUpdatedTogether", events: 6, second: true, steps: []func(*life) error{
		func(l *life) error { // incomplete, then paid
			l.g.mu.Lock()
			defer l.g.mu.Unlock()
			s, inv, err := l.g.subscribe("script", l.customer, "", []billing.LineItem{{PriceID: "price_pro_month_usd", Quantity: 1}}, time.Time{}, nil)
			if err == nil {
				l.sub = s.ID
				l.g.emitSubscription("customer.subscription.created", "", s)
				l.g.emitInvoice("invoice.finalized", inv)
			}
			return err
		},
		func(l *life) error { return l.g.PayFirst(l.sub) },
		func(l *life) error { return l.schedule(true) },
		func(l *life) error { return l.g.End(l.sub, "") },
	}},
	{name: "Pay371_BurstsOfOnePayment", events: 6, steps: []func(*life) error{
		start,
		func(l *life) error { return l.g.Renew(l.sub, true) },
		func(l *life) error { return l.g.Renew(l.sub, true) },
	}},
	{name: "BetterAuth7239_ASecondSubscription", events: 6, steps: []func(*life) error{
		start,
		start,
		func(l *life) error { return l.g.End(l.first, "duplicate") },
		func(l *life) error { return l.g.SetPlan(l.sub, "business_month_usd") },
	}},
	{name: "StripeSyncEngine268_FailedAndPaidInOneSecond", events: 6, second: true, steps: []func(*life) error{
		start,
		func(l *life) error { return l.g.Renew(l.sub, false) },
		func(l *life) error { return l.g.PayByHand(l.sub) },
	}},
	{name: "Unkey6252_ChangedAndChangedBack", events: 6, steps: []func(*life) error{
		start,
		func(l *life) error { return l.g.SetPlan(l.sub, "business_month_usd") },
		func(l *life) error { return l.g.SetPlan(l.sub, "pro_month_usd") },
		func(l *life) error { return l.g.SetPlan(l.sub, "business_month_usd") },
		func(l *life) error { return l.g.End(l.sub, "") },
	}},
	{name: "FailedTwiceAndRecovered", events: 6, steps: []func(*life) error{
		func(l *life) error { return l.quietly(start) },
		func(l *life) error { return l.g.Renew(l.sub, false) },
		func(l *life) error { return l.g.Retry(l.sub, false) },
		func(l *life) error { return l.g.Retry(l.sub, true) },
	}},
	{name: "FailedEndedRefunded", events: 6, steps: []func(*life) error{
		start,
		func(l *life) error { return l.g.Renew(l.sub, false) },
		func(l *life) error { return l.g.End(l.sub, "payment_failed") },
		func(l *life) error { return l.g.Refund(l.g.bills[l.customer][0].ID, 500) },
	}},
	{name: "EndingResumedEnding", events: 6, steps: []func(*life) error{
		start,
		func(l *life) error { return l.schedule(true) },
		func(l *life) error { return l.schedule(false) },
		func(l *life) error { return l.schedule(true) },
		func(l *life) error { return l.g.End(l.sub, "") },
	}},
	{name: "PausedAndOthers", events: 6, steps: []func(*life) error{
		start,
		func(l *life) error {
			return l.g.Change(l.sub, func(s *billing.Subscription) { s.PauseCollection = "void" })
		},
		func(l *life) error {
			return l.g.Change(l.sub, func(s *billing.Subscription) { s.PauseCollection = "" })
		},
		func(l *life) error { l.g.Emit("charge.refunded", l.customer, "ch_"+l.customer[4:]); return nil },
		func(l *life) error { l.g.Emit("a.type.of.the.future", l.customer, "x_1"); return nil },
	}},
	{name: "CustomerDeleted", events: 5, steps: []func(*life) error{
		start,
		func(l *life) error { return l.g.SetPlan(l.sub, "business_month_usd") },
		func(l *life) error { return l.g.DeleteCustomer(l.customer) },
	}},
}

// quietly takes a step whose events aren't among those that arrive.
func (l *life) quietly(step func(*life) error) error {
	before := len(l.g.events)
	err := step(l)
	l.g.mu.Lock()
	defer l.g.mu.Unlock()
	l.g.events = l.g.events[:before]
	return err
}

const convergencePlans = `
plans:
  - {id: free, limits: {documents: 10/period}}
  - {id: pro, limits: {documents: 100/period}, prices: [{amount: 9.99 USD, every: month}]}
  - {id: business, limits: {documents: unlimited}, prices: [{amount: 29.99 USD, every: month}]}
`

// stage is a provider, a service, and the clocks of both.
type stage struct {
	t       *testing.T
	gateway *Gateway
	svc     *billing.Service
	store   billing.Store
	mu      sync.Mutex
	there   time.Time // the provider's clock
	here    time.Time // the service's
}

func newStage(t *testing.T, store billing.Store) *stage {
	t.Helper()
	catalog, err := billing.ParseCatalog("plans.yaml", []byte(convergencePlans))
	require.NoError(t, err)
	st := &stage{t: t, store: store, there: epoch.Truncate(time.Second), here: epoch.Add(24 * time.Hour)}
	clock := func(which *time.Time) func() time.Time {
		return func() time.Time {
			st.mu.Lock()
			defer st.mu.Unlock()
			return *which
		}
	}
	st.gateway = NewGateway(catalog, clock(&st.there))
	st.svc, err = billing.New(catalog, store, st.gateway, billing.Config{Now: clock(&st.here), SweepAfter: -1})
	require.NoError(t, err)
	return st
}

func (st *stage) set(which *time.Time, to time.Time) {
	st.mu.Lock()
	defer st.mu.Unlock()
	*which = to
}

// process handles what is due now, and moves on so far that nothing that
// failed is due a second time by itself.
func (st *stage) process(after time.Duration) {
	st.t.Helper()
	_, err := st.svc.ProcessPending(st.t.Context())
	require.NoError(st.t, err)
	st.set(&st.here, st.here.Add(after))
}

// step takes an account's next step at the time that the script gives it.
func (st *stage) step(s *script, l *life) {
	st.t.Helper()
	at := epoch.Truncate(time.Second)
	if !s.second {
		at = at.Add(time.Duration(l.done) * time.Minute)
	}
	st.set(&st.there, at)
	from := len(st.gateway.events)
	require.NoError(st.t, s.steps[l.done](l))
	l.done++
	l.events = append(l.events, st.gateway.events[from:]...)
}

// play takes one account for each order through the script, all on one store,
// and returns what became of them.
func play(t *testing.T, store billing.Store, s script, orders [][]int, mode playMode) []outcome {
	t.Helper()
	st := newStage(t, store)
	lives := make([]*life, len(orders))
	for i := range orders {
		account := fmt.Sprintf("account_%03d", i)
		lives[i] = &life{g: st.gateway, account: account, customer: st.gateway.AddCustomer(account).ID}
		require.NoError(t, store.Save(t.Context(), billing.Change{Account: billing.Account{ID: account, CustomerID: lives[i].customer}}))
		for mode != modeLive && lives[i].done < len(s.steps) {
			st.step(&s, lives[i])
		}
	}
	st.gateway.Down(mode == modeDown)
	webhook := st.svc.Webhook()
	for round := range s.events {
		for i, l := range lives {
			n := orders[i][round]
			for len(l.events) <= n {
				st.step(&s, l)
			}
			if mode == modeDrops && dropped(orders[i], n) {
				continue
			}
			require.Equal(t, 200, Send(webhook, l.events[n]))
			if mode == modeDuplicates {
				require.Equal(t, 200, Send(webhook, l.events[n]))
			}
		}
		st.process(time.Millisecond)
	}
	results := make([]outcome, len(lives))
	switch mode {
	case modeDrops:
		_, err := st.svc.Reconcile(t.Context())
		require.NoError(t, err)
	case modeDuplicates:
		// All of them once more, in the order of the replay.
		for _, l := range lives {
			for _, e := range l.events {
				_, err := st.svc.Replay(t.Context(), e.ID)
				require.NoError(t, err)
			}
		}
	case modeDown:
		for i, l := range lives {
			results[i].provisional = st.result(l)
		}
		st.gateway.Down(false)
		st.set(&st.here, st.here.Add(24*time.Hour))
	}
	st.process(0)
	for i, l := range lives {
		require.Len(t, l.events, s.events, "the script makes as many events as it says")
		results[i].final = st.result(l)
	}
	pending, err := store.Events(t.Context(), billing.EventQuery{Status: billing.EventPending, Limit: 10})
	require.NoError(t, err)
	require.Empty(t, pending)
	return results
}

// dropped picks some of the events of an order, another set for each.
func dropped(order []int, n int) bool {
	mask := 0
	for i, v := range order {
		mask = mask*31 + (i+1)*v
	}
	mask = mask%(1<<len(order)-1) + 1 // never none
	return bits.Len(uint(mask>>n&1)) > 0
}

// result tells an account's state and notices, with identifiers by rank, so
// that accounts of one script compare.
func (st *stage) result(l *life) string {
	st.t.Helper()
	a, err := st.svc.Account(st.t.Context(), l.account)
	require.NoError(st.t, err)
	list, err := st.store.Notices(st.t.Context(), l.account, "", 1000)
	require.NoError(st.t, err)
	text, err := json.Marshal(map[string]any{
		"subscriptions": a.Subscriptions, "invoices": a.Invoices, "deleted": a.Deleted, "balance": a.Balance,
		"trails": a.Trails, "marks": slices.Sorted(maps.Keys(a.Marks)),
	})
	require.NoError(st.t, err)
	lines := make([]string, 0, len(list)+1)
	for _, d := range list {
		lines = append(lines, d.ID)
	}
	// Identifiers become ranks by the order of making, which is the script's.
	var known []string
	collect := func(id string) string { known = append(known, id); return id }
	eachIdentifier(string(text), collect)
	for _, e := range l.events {
		eachIdentifier(string(e.Raw), collect)
	}
	slices.Sort(known)
	rank, count := map[string]string{}, map[string]int{}
	for _, id := range slices.Compact(known) {
		kind, _, _ := strings.Cut(id, "_")
		rank[id] = fmt.Sprintf("%s#%d", kind, count[kind])
		count[kind]++
	}
	ranked := func(id string) string { return rank[id] }
	for i, line := range lines {
		lines[i] = eachIdentifier(line, ranked)
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n") + "\n" + strings.ReplaceAll(eachIdentifier(string(text), ranked), ",", ",\n")
}

// eachIdentifier replaces each identifier of the provider, such as
// sub_000000012.
func eachIdentifier(text string, replace func(id string) string) string {
	const digits = 9
	var b strings.Builder
	for {
		i := strings.IndexByte(text, '_')
		if i < 0 {
			break
		}
		from, to := i, i+1
		for from > 0 && text[from-1] >= 'a' && text[from-1] <= 'z' {
			from--
		}
		for to < len(text) && text[to] >= '0' && text[to] <= '9' {
			to++
		}
		if to-i-1 == digits && from < i {
			b.WriteString(text[:from])
			b.WriteString(replace(text[from:to]))
		} else {
			b.WriteString(text[:to])
		}
		text = text[to:]
	}
	b.WriteString(text)
	return b.String()
}

// permutations returns every order of n things, that of the numbers first.
func permutations(n int) [][]int {
	if n == 0 {
		return [][]int{{}}
	}
	var all [][]int
	var extend func(order []int)
	extend = func(order []int) {
		if len(order) == n {
			all = append(all, slices.Clone(order))
			return
		}
		for i := range n {
			if !slices.Contains(order, i) {
				extend(append(order, i))
			}
		}
	}
	extend(nil)
	return all
}

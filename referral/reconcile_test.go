package referral_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/referral"
	"github.com/kolekt/commerce/referral/referralmem"
)

var errCrash = errors.New("the process died")

// journal is a store that can die before any step, and be restored to an
// earlier one, as from a backup.
type journal struct {
	referral.Store
	log   []func(referral.Store) error
	steps int // until it dies; below zero it doesn't
}

func (j *journal) do(step func(referral.Store) error) error {
	if j.steps == 0 {
		return errCrash
	}
	j.steps--
	err := step(j.Store)
	if err == nil {
		j.log = append(j.log, step)
	}
	return err
}

func (j *journal) restore(n int) {
	j.Store, j.log = referralmem.New(), j.log[:n]
	for _, step := range j.log {
		_ = step(j.Store)
	}
}

func (j *journal) CreateCode(ctx context.Context, c referral.Code) (out referral.Code, err error) {
	err = j.do(func(s referral.Store) (err error) { out, err = s.CreateCode(ctx, c); return err })
	return out, err
}

func (j *journal) Redeem(ctx context.Context, a referral.Attempt) (out referral.Redemption, err error) {
	err = j.do(func(s referral.Store) (err error) { out, err = s.Redeem(ctx, a); return err })
	return out, err
}

func (j *journal) MoveRedemption(ctx context.Context, r referral.Redemption, moves []referral.RewardMove) error {
	return j.do(func(s referral.Store) error { return s.MoveRedemption(ctx, r, moves) })
}

func (j *journal) SaveReward(ctx context.Context, r referral.Reward, entries ...referral.Entry) error {
	return j.do(func(s referral.Store) error { return s.SaveReward(ctx, r, entries...) })
}

func (j *journal) Begin(ctx context.Context, r referral.Reward, most int64) (out referral.Reward, err error) {
	err = j.do(func(s referral.Store) (err error) { out, err = s.Begin(ctx, r, most); return err })
	return out, err
}

// chaos is one seeded run: events that come again, outages, lost answers, the
// death of the process at any step, a restored backup, and hands in the
// provider's data.
type chaos struct {
	t         testing.TB
	rand      *rand.Rand
	store     *journal
	biller    *biller
	service   *referral.Service
	now       time.Time
	code      string
	begun     int // steps of the log that no backup lacks
	events    []func() error
	reconcile bool
}

func newChaos(t testing.TB, seed uint64) *chaos {
	c := &chaos{t: t, rand: rand.New(rand.NewPCG(seed, 8)), store: &journal{Store: referralmem.New(), steps: -1}, biller: newBiller(), now: start}
	campaign := friends()
	campaign.Referrer = []referral.Benefit{{Credit: 700, Currency: "USD"}, {FreeMonths: 1}, {FreeMonths: 3}}[c.rand.IntN(3)]
	campaign.Tiers = []referral.Tier{{From: 3, Benefit: referral.Benefit{Credit: 500, Currency: "USD"}}}
	var err error
	c.service, err = referral.New(c.store, referral.Config{
		Pepper: bytes.Repeat([]byte("p"), 32), Campaigns: []referral.Campaign{campaign}, Biller: c.biller, Now: func() time.Time { return c.now },
	})
	require.NoError(t, err)
	code, err := c.service.Code(context.Background(), "friends", referral.Person{Account: "ada"})
	require.NoError(t, err)
	c.code, c.begun = code.Text, len(c.store.log)
	return c
}

// deliver tells an event, and keeps it to be told again.
func (c *chaos) deliver(event func() error) {
	c.events = append(c.events, event)
	c.check(event())
}

func (c *chaos) check(err error) {
	c.t.Helper()
	if err != nil && !errors.Is(err, errDown) && !errors.Is(err, errCrash) {
		require.NoError(c.t, err)
	}
}

func (c *chaos) step() {
	ctx := context.Background()
	c.now = c.now.Add(time.Duration(1+c.rand.IntN(10*24)) * time.Hour)
	c.biller.down, c.biller.lost = c.rand.IntN(8) == 0, c.rand.IntN(8) == 0
	if c.rand.IntN(6) == 0 {
		c.store.steps = c.rand.IntN(4)
	}
	defer func() { c.store.steps = -1 }()
	who := fmt.Sprint("f", c.rand.IntN(5))
	switch c.rand.IntN(8) {
	case 0, 1:
		c.deliver(func() error {
			_, err := c.service.Redeem(ctx, c.code, referral.Person{Account: who})
			return err
		})
	case 2:
		c.deliver(func() error {
			return c.service.HandlePaid(ctx, referral.Paid{ID: "in_" + who, Account: who, Amount: 999, Currency: "USD"})
		})
	case 3:
		part := []int64{200, 500, 999}[c.rand.IntN(3)]
		c.deliver(func() error {
			return c.service.HandleRefunded(ctx, referral.Refunded{ID: "re", Account: who, Invoice: "in_" + who, Amount: part, Currency: "USD"})
		})
	case 4, 5:
		invoice := fmt.Sprint("in_", c.rand.IntN(12))
		c.check(c.service.HandleDraft(ctx, referral.Draft{Invoice: invoice, Account: "ada", Currency: "USD"}))
		c.biller.final[invoice] = c.biller.final[invoice] || c.rand.IntN(3) > 0
	case 6:
		_, err := c.service.Work(ctx)
		c.check(err)
	case 7:
		if c.reconcile {
			_, err := c.service.Reconcile(ctx)
			c.check(err)
		}
	}
}

// tamper is a hand in the provider's data.
func (c *chaos) tamper() {
	var calls []string
	for call, e := range c.biller.calls {
		if e.amount > 0 && !slices.Contains(c.biller.twice, call) {
			calls = append(calls, call)
		}
	}
	if len(calls) == 0 {
		return
	}
	slices.Sort(calls)
	call := calls[c.rand.IntN(len(calls))]
	e := c.biller.calls[call]
	switch c.rand.IntN(3) {
	case 0:
		delete(c.biller.calls, call)
		c.biller.balance[e.account] = max(0, c.biller.balance[e.account]-e.amount)
	case 1:
		e.amount = 1 + c.rand.Int64N(e.amount)
		c.biller.calls[call] = e
	case 2:
		if e.invoice == "" {
			c.biller.twice = append(c.biller.twice, call)
			c.biller.balance[e.account] += e.amount
		}
	}
}

// restore is a backup, and billing telling again what happened since.
func (c *chaos) restore() {
	c.store.restore(c.begun + c.rand.IntN(len(c.store.log)-c.begun+1))
	c.again()
}

func (c *chaos) again() {
	c.biller.down, c.biller.lost = false, false
	for _, event := range c.events {
		require.NoError(c.t, event())
	}
}

// run returns whether the ledger is what the provider has in the end.
func (c *chaos) run(reconcile bool) (same bool, what string) {
	ctx := context.Background()
	c.reconcile = reconcile
	settle := func() {
		c.again()
		if reconcile {
			_, err := c.service.ReconcileAccount(ctx, "ada")
			require.NoError(c.t, err)
		}
	}
	for range 25 {
		c.step()
		switch c.rand.IntN(25) {
		case 0:
			c.restore()
			settle()
		case 1:
			c.tamper()
			settle()
		}
	}
	c.tamper()
	settle()
	c.now = c.now.Add(40 * day)
	_, err := c.service.Work(ctx)
	require.NoError(c.t, err)
	settle()
	var unrepaired int64
	if reconcile {
		found, err := c.service.Reconcile(ctx)
		require.NoError(c.t, err)
		for _, d := range found {
			// A credit that came twice and is spent can't be had back.
			require.Equal(c.t, referral.DriftTwice, d.Kind, "still there after the repair: %+v", d)
			unrepaired += d.Theirs
		}
	}
	ledger, err := c.service.Ledger(ctx, "ada")
	require.NoError(c.t, err)
	net, carry := money(ledger)
	rewards, err := c.service.Rewards(ctx, referral.RewardFilter{Account: "ada", Limit: 1000})
	require.NoError(c.t, err)
	var sum int64
	for _, rw := range rewards {
		require.GreaterOrEqual(c.t, rw.Amount, rw.Reversed)
		sum += rw.Amount - rw.Reversed
	}
	require.Equal(c.t, sum, net, "rewards and ledger")
	given := c.biller.given("ada")
	return net+carry+unrepaired == given, fmt.Sprintf("net %d, carry %d, unrepaired %d, given %d", net, carry, unrepaired, given)
}

func TestReconcileMakesTheLedgerWhatTheProviderHas(t *testing.T) {
	differs := 0
	for seed := range uint64(1000) {
		same, what := newChaos(t, seed).run(true)
		require.True(t, same, "seed %d: %s", seed, what)
		if same, _ := newChaos(t, seed).run(false); !same {
			differs++
		}
	}
	t.Logf("without Reconcile, %d of 1,000 differ", differs)
	require.Greater(t, differs, 200, "the control must differ")
}

func TestReconcileSaysWhatItFound(t *testing.T) {
	ctx := context.Background()
	setUp := func(t *testing.T, b referral.Benefit) *world {
		c := friends()
		c.Referrer = b
		w := newWorld(t, c)
		w.redeem(w.code("ada"), "bob")
		w.paid("bob", 999)
		w.now = w.now.Add(31 * day)
		w.work()
		require.NoError(t, w.service.HandleDraft(ctx, referral.Draft{Invoice: "in_1", Account: "ada", Currency: "USD"}))
		require.NotZero(t, w.reward("ada").Amount)
		return w
	}
	only := func(w *world) string {
		calls := slices.Collect(maps.Keys(w.biller.calls))
		require.Len(w.t, calls, 1)
		return calls[0]
	}
	credit, month := referral.Benefit{Credit: 700, Currency: "USD"}, referral.Benefit{FreeMonths: 1}
	for name, tt := range map[string]struct {
		benefit  referral.Benefit
		change   func(w *world)
		want     referral.DriftKind
		repaired bool
		given    int64
	}{
		"nothing": {credit, func(*world) {}, "", true, 700},
		"a credit is gone": {credit, func(w *world) {
			clear(w.biller.calls)
			w.biller.balance["ada"] = 0
		}, referral.DriftMissing, true, 700},
		"a month is gone, its invoice a draft": {month, func(w *world) { clear(w.biller.calls) }, referral.DriftMissing, true, 999},
		"a month is gone, its invoice final": {month, func(w *world) {
			clear(w.biller.calls)
			w.biller.final["in_1"] = true
		}, referral.DriftMissing, true, 0},
		"another amount": {credit, func(w *world) { w.biller.calls[only(w)] = effect{account: "ada", amount: 650} }, referral.DriftAmount, true, 650},
		"twice":          {credit, func(w *world) { w.biller.twice = append(w.biller.twice, only(w)); w.biller.balance["ada"] += 700 }, referral.DriftTwice, true, 700},
		"twice and spent": {credit, func(w *world) { w.biller.twice = append(w.biller.twice, only(w)); w.biller.balance["ada"] = 100 },
			referral.DriftTwice, false, 1300},
		"of nobody": {credit, func(w *world) { w.biller.calls["rwd_none_referrer:grant"] = effect{account: "ada", amount: 5} }, referral.DriftUnknown, false, 705},
	} {
		t.Run(name, func(t *testing.T) {
			w := setUp(t, tt.benefit)
			tt.change(w)
			found, err := w.service.Reconcile(ctx)
			require.NoError(t, err)
			if tt.want == "" {
				require.Empty(t, found)
				return
			}
			require.Len(t, found, 1)
			require.Equal(t, tt.want, found[0].Kind)
			require.Equal(t, tt.repaired, found[0].Repaired, "%+v", found[0])
			require.Equal(t, tt.given, w.biller.given("ada"))
			again, err := w.service.Reconcile(ctx)
			require.NoError(t, err)
			if tt.repaired {
				require.Empty(t, again, "repaired for good")
			}
		})
	}
	t.Run("a month whose invoice was final without it is due again", func(t *testing.T) {
		w := setUp(t, month)
		clear(w.biller.calls)
		w.biller.final["in_1"] = true
		_, err := w.service.Reconcile(ctx)
		require.NoError(t, err)
		require.NoError(t, w.service.HandleDraft(ctx, referral.Draft{Invoice: "in_2", Account: "ada", Currency: "USD"}))
		require.Equal(t, int64(999), w.biller.given("ada"))
		require.Equal(t, int64(999), w.reward("ada").Amount)
	})
	t.Run("an outage is an error, and a biller that can't tell is one", func(t *testing.T) {
		w := setUp(t, credit)
		w.biller.down = true
		_, err := w.service.Reconcile(ctx)
		require.ErrorIs(t, err, errDown)
		w.config.Biller = struct{ referral.Biller }{w.biller}
		w.rebuild()
		_, err = w.service.Reconcile(ctx)
		require.ErrorIs(t, err, referral.ErrInvalid)
	})
	t.Run("what was under way is finished", func(t *testing.T) {
		c := friends()
		c.Referrer = credit
		w := newWorld(t, c)
		w.redeem(w.code("ada"), "bob")
		w.paid("bob", 999)
		w.now = w.now.Add(31 * day)
		w.biller.lost = true
		w.work()
		w.biller.lost = false
		found, err := w.service.Reconcile(ctx)
		require.NoError(t, err)
		require.Len(t, found, 1)
		require.Equal(t, referral.DriftUnderWay, found[0].Kind)
		require.True(t, strings.HasSuffix(found[0].Call, ":grant"))
		require.Equal(t, referral.RewardGranted, w.reward("ada").State)
	})
}

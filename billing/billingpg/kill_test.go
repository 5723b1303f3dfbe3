package billingpg_test

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/billing"
	"github.com/kolekt/commerce/billing/billingpg"
	"github.com/kolekt/commerce/billing/billingstripe"
	"github.com/kolekt/commerce/billing/stripesim"
	"github.com/kolekt/commerce/internal/pgtest"
)

// A child process makes one flow of money, on a PostgreSQL and a Stripe that
// outlive it, and kills itself with SIGKILL at its nth step, before the step or
// after. Another process then takes up what it left, the person asks for the
// same again, and the simulated Stripe must show one effect.
//
// A step is a call of the store or a request to Stripe.

const killPlans = `
features: {}
plans:
  - id: free
    limits: {kolekts: 10/period}
  - id: pro
    limits: {kolekts: 100/period}
    prices: [{amount: 10.00 USD, every: month}]
  - id: team
    trial_days: 14
    seats: {minimum: 2}
    limits: {kolekts: 500/period}
    prices: [{amount: 5.00 USD, every: month}]
  - id: business
    trial_days: 14
    limits: {kolekts: unlimited}
    prices: [{amount: 30.00 USD, every: month}]
`

// killWorld is what survives the process.
type killWorld struct {
	URL     string // of PostgreSQL
	Stripe  string
	Now     time.Time
	Account string
	Card    string // that the person has entered
	Flow    string
	At      int // the step; 0: none
	After   bool
	// Careless is the control: no intent is stored, and every request has a
	// key of its own.
	Careless bool
}

func (w *killWorld) service(pool *pgxpool.Pool, steps *fatal) (*billing.Service, error) {
	catalog, err := billing.ParseCatalog("plans.yaml", []byte(killPlans))
	if err != nil {
		return nil, err
	}
	gateway, err := billingstripe.New(billingstripe.Config{
		SecretKey: stripesim.DefaultSecretKey, URL: w.Stripe, Now: func() time.Time { return w.Now }, Retries: -1,
		HTTPClient: &http.Client{Transport: fatalTransport{steps, w.Careless}},
	})
	if err != nil {
		return nil, err
	}
	return billing.New(catalog, fatalStore{billingpg.New(pool), steps, w.Careless}, gateway, billing.Config{
		Now: func() time.Time { return w.Now }, Workers: 1, TrialCardKey: w.trialKey(), Seats: billing.SeatPolicy{Debounce: -1},
	})
}

// trialKey is for the flow that is about it: the accounts of the others share
// their cards.
func (w *killWorld) trialKey() []byte {
	if w.Flow != flowOthersCard {
		return nil
	}
	return []byte(strings.Repeat("k", 32))
}

const flowOthersCard = "trial with another's card"

// fatal counts the steps, and kills the process at one of them.
type fatal struct {
	mu    sync.Mutex
	n, at int
	after bool
}

func (f *fatal) step(do func()) {
	f.mu.Lock()
	f.n++
	dies := f.n == f.at
	f.mu.Unlock()
	if dies && !f.after {
		die()
	}
	do()
	if dies {
		die()
	}
}

func die() {
	_ = syscall.Kill(syscall.Getpid(), syscall.SIGKILL)
	select {} // the signal is on its way
}

type fatalTransport struct {
	*fatal
	careless bool
}

func (t fatalTransport) RoundTrip(r *http.Request) (res *http.Response, err error) {
	if t.careless && r.Header.Get("Idempotency-Key") != "" {
		r = r.Clone(r.Context())
		r.Header.Set("Idempotency-Key", rand.Text())
	}
	t.step(func() { res, err = http.DefaultTransport.RoundTrip(r) })
	return res, err
}

// fatalStore overrides what the flows call.
type fatalStore struct {
	billing.Store
	*fatal
	careless bool
}

func (s fatalStore) Account(ctx context.Context, id string) (a billing.Account, err error) {
	s.step(func() { a, err = s.Store.Account(ctx, id) })
	return a, err
}

func (s fatalStore) Accounts(ctx context.Context, q billing.AccountQuery) (list []string, err error) {
	s.step(func() { list, err = s.Store.Accounts(ctx, q) })
	return list, err
}

func (s fatalStore) Save(ctx context.Context, c billing.Change) (err error) {
	if s.careless {
		c.Account.Intents = nil
	}
	s.step(func() { err = s.Store.Save(ctx, c) })
	return err
}

func (s fatalStore) Claim(ctx context.Context, name, account string, now time.Time) (holder string, err error) {
	s.step(func() { holder, err = s.Store.Claim(ctx, name, account, now) })
	return holder, err
}

func (s fatalStore) ClaimEvents(ctx context.Context, now time.Time, lease time.Duration, n int) (list []billing.InboxEvent, err error) {
	s.step(func() { list, err = s.Store.ClaimEvents(ctx, now, lease, n) })
	return list, err
}

// killFlow is one flow of money: what was before, and what the process does.
// Run is also what the person repeats.
type killFlow struct {
	name   string
	before func(r *killRig, account string)
	run    func(ctx context.Context, svc *billing.Service, account, card string) error
	// loose says that the amounts depend on the second at which it is done.
	loose bool
	// staged says that it makes more than one write, such as a customer first:
	// what was begun alone may be all that another process goes on with.
	staged bool
}

var killAudit = billing.Audit{Key: "ticket-1", By: "admin:ada", Reason: "apology"}

func killFlows() []killFlow {
	paid := func(plan string) func(*killRig, string) {
		return func(r *killRig, account string) { r.paid(account, plan) }
	}
	trial := func(r *killRig, account string) { r.trial(account, "visa") }
	checkout := billing.CheckoutOrder{Order: billing.Order{Plan: "pro"}, SuccessURL: "https://app.example/done", CancelURL: "https://app.example/plans"}
	usd := func(n int64) billing.Money { return billing.Money{Amount: n, Currency: "USD"} }
	// pending is what Run does; it begins with news of the gateway.
	pending := func(ctx context.Context, svc *billing.Service, account, card string) error {
		_, err := svc.Sync(ctx, account)
		if err == nil {
			_, err = svc.ProcessPending(ctx)
		}
		return err
	}
	return []killFlow{
		{name: "ensure customer", run: func(ctx context.Context, svc *billing.Service, account, card string) error {
			_, err := svc.EnsureCustomer(ctx, account)
			return err
		}},
		{name: "subscribe", staged: true, run: func(ctx context.Context, svc *billing.Service, account, card string) error {
			_, err := svc.Subscribe(ctx, account, billing.Order{Plan: "pro"})
			return err
		}},
		{name: "subscribe to a trial", staged: true, run: func(ctx context.Context, svc *billing.Service, account, card string) error {
			_, err := svc.Subscribe(ctx, account, billing.Order{Plan: "business", TrialWithoutCard: true})
			return err
		}},
		{name: "checkout", staged: true, run: func(ctx context.Context, svc *billing.Service, account, card string) error {
			_, err := svc.Checkout(ctx, account, checkout)
			return err
		}},
		{name: "change of plan", before: paid("pro"), loose: true, run: func(ctx context.Context, svc *billing.Service, account, card string) error {
			_, err := svc.ChangePlan(ctx, account, billing.Order{Plan: "business"}, nil)
			return err
		}},
		{name: "cancel", before: paid("pro"), run: func(ctx context.Context, svc *billing.Service, account, card string) error {
			_, err := svc.Cancel(ctx, account, billing.CancelOptions{})
			return err
		}},
		{name: "cancel now, with credit", before: paid("pro"), loose: true, run: func(ctx context.Context, svc *billing.Service, account, card string) error {
			_, err := svc.Cancel(ctx, account, billing.CancelOptions{Now: true, Prorate: true})
			return err
		}},
		{name: "resume", before: func(r *killRig, account string) {
			r.paid(account, "pro")
			_, err := r.svc.Cancel(r.t.Context(), account, billing.CancelOptions{})
			require.NoError(r.t, err)
		}, run: func(ctx context.Context, svc *billing.Service, account, card string) error {
			_, err := svc.Resume(ctx, account)
			return err
		}},
		{name: "pause", before: paid("pro"), run: func(ctx context.Context, svc *billing.Service, account, card string) error {
			_, err := svc.Pause(ctx, account, billing.PauseOptions{})
			return err
		}},
		{name: "unpause", before: func(r *killRig, account string) {
			r.paid(account, "pro")
			_, err := r.svc.Pause(r.t.Context(), account, billing.PauseOptions{})
			require.NoError(r.t, err)
		}, run: func(ctx context.Context, svc *billing.Service, account, card string) error {
			_, err := svc.Unpause(ctx, account)
			return err
		}},
		{name: "unpause after a trial without a card", before: func(r *killRig, account string) {
			ctx := r.t.Context()
			_, err := r.svc.Subscribe(ctx, account, billing.Order{Plan: "business", TrialWithoutCard: true})
			require.NoError(r.t, err)
			r.advance(15 * 24 * time.Hour)
			_, err = r.svc.UsePaymentMethod(ctx, account, r.card(account, "visa"))
			require.NoError(r.t, err)
			_, err = r.svc.Sync(ctx, account)
			require.NoError(r.t, err)
		}, run: func(ctx context.Context, svc *billing.Service, account, card string) error {
			_, err := svc.Unpause(ctx, account)
			return err
		}},
		{name: "seats", before: paid("team"), run: func(ctx context.Context, svc *billing.Service, account, card string) error {
			if _, err := svc.SetSeats(ctx, account, 5); err != nil {
				return err
			}
			_, err := svc.ProcessPending(ctx)
			return err
		}},
		{name: "trial extension", before: trial, run: func(ctx context.Context, svc *billing.Service, account, card string) error {
			_, err := svc.ExtendTrial(ctx, account, killStart.AddDate(1, 0, 0), killAudit)
			return err
		}},
		{name: "trial conversion", before: trial, run: func(ctx context.Context, svc *billing.Service, account, card string) error {
			_, err := svc.ConvertTrial(ctx, account)
			return err
		}},
		{name: flowOthersCard, before: func(r *killRig, account string) {
			r.trial(account+"_first", "mastercard")
			r.trial(account, "mastercard")
		}, run: pending},
		{name: "credit", before: paid("pro"), run: func(ctx context.Context, svc *billing.Service, account, card string) error {
			_, err := svc.GrantCredit(ctx, account, usd(500), killAudit)
			return err
		}},
		{name: "refund", before: paid("pro"), run: func(ctx context.Context, svc *billing.Service, account, card string) error {
			a, err := svc.Account(ctx, account)
			if err != nil {
				return err
			}
			_, err = svc.Refund(ctx, account, billing.RefundOrder{InvoiceID: a.Invoices[0].ID, Amount: usd(300)}, killAudit)
			return err
		}},
		{name: "refund as credit", before: paid("pro"), run: func(ctx context.Context, svc *billing.Service, account, card string) error {
			a, err := svc.Account(ctx, account)
			if err != nil {
				return err
			}
			_, err = svc.Refund(ctx, account, billing.RefundOrder{InvoiceID: a.Invoices[len(a.Invoices)-1].ID, ToBalance: true}, killAudit)
			return err
		}},
		{name: "payment with another card", before: func(r *killRig, account string) { r.arrears(account) }, run: func(ctx context.Context, svc *billing.Service, account, card string) error {
			_, err := svc.UsePaymentMethod(ctx, account, card)
			return err
		}},
		{name: "payment with a card of the portal", before: func(r *killRig, account string) {
			r.arrears(account)
			r.api("POST", "/v1/customers/"+r.customer(account), "invoice_settings[default_payment_method]="+r.cards[account])
		}, run: pending},
		{name: "comp", run: func(ctx context.Context, svc *billing.Service, account, card string) error {
			_, err := svc.Comp(ctx, account, "business", killStart.AddDate(1, 0, 0), killAudit)
			return err
		}},
	}
}

var killStart = time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)

// killRig is the world of one flow, seen by the process that lives.
type killRig struct {
	t     *testing.T
	pool  *pgxpool.Pool
	world killWorld
	sim   *stripesim.Server
	svc   *billing.Service
	cards map[string]string
}

func newKillRig(t *testing.T, flow string) *killRig {
	url := pgtest.URL(t)
	pool, err := pgxpool.New(t.Context(), url)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	require.NoError(t, billingpg.Migrate(t.Context(), pool))
	sim, err := stripesim.NewServer(stripesim.Config{
		Start: killStart, Seed: 1,
		Products: []stripesim.Product{{Name: "All", Prices: []stripesim.Price{
			{LookupKey: "pro_month_usd", UnitAmount: 1000}, {LookupKey: "team_month_usd", UnitAmount: 500}, {LookupKey: "business_month_usd", UnitAmount: 3000},
		}}},
	})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, sim.Close()) })
	r := &killRig{t: t, pool: pool, sim: sim, world: killWorld{URL: url, Stripe: sim.URL, Now: killStart, Flow: flow}, cards: map[string]string{}}
	r.alive()
	return r
}

// alive makes the service of the process that lives, at the simulator's time.
func (r *killRig) alive() {
	r.world.Now = r.sim.Now()
	var err error
	r.svc, err = r.world.service(r.pool, &fatal{})
	require.NoError(r.t, err)
}

func (r *killRig) advance(d time.Duration) {
	require.NoError(r.t, r.sim.Advance(r.t.Context(), d))
	r.alive()
}

func (r *killRig) api(method, path string, fields ...string) map[string]any {
	r.t.Helper()
	form := url.Values{}
	for _, f := range fields {
		name, value, _ := strings.Cut(f, "=")
		form.Add(name, value)
	}
	var body io.Reader
	target := r.sim.URL + path
	if method == http.MethodGet {
		target += "?" + form.Encode()
	} else {
		body = strings.NewReader(form.Encode())
	}
	req, err := http.NewRequestWithContext(r.t.Context(), method, target, body)
	require.NoError(r.t, err)
	req.Header.Set("Authorization", "Bearer "+stripesim.DefaultSecretKey)
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	res, err := http.DefaultClient.Do(req)
	require.NoError(r.t, err)
	defer res.Body.Close()
	var out map[string]any
	require.NoError(r.t, json.NewDecoder(res.Body).Decode(&out))
	require.Equal(r.t, http.StatusOK, res.StatusCode, "%s %s: %v", method, path, out)
	return out
}

func (r *killRig) customer(account string) string {
	r.t.Helper()
	a, err := r.svc.Account(r.t.Context(), account)
	require.NoError(r.t, err)
	return a.CustomerID
}

func (r *killRig) card(account, token string) string {
	r.t.Helper()
	setup, err := r.svc.SetupPayment(r.t.Context(), account)
	require.NoError(r.t, err)
	return r.api("POST", "/v1/setup_intents/"+setup.ID+"/confirm", "payment_method=pm_card_"+token)["payment_method"].(string)
}

// paid gives the account a subscription that is paid for.
func (r *killRig) paid(account, plan string) {
	r.t.Helper()
	ctx := r.t.Context()
	pm := r.card(account, "visa")
	_, err := r.svc.UsePaymentMethod(ctx, account, pm)
	require.NoError(r.t, err)
	got, err := r.svc.Subscribe(ctx, account, billing.Order{Plan: plan, NoTrial: true, PaymentMethod: pm})
	require.NoError(r.t, err)
	intent, _, _ := strings.Cut(got.ClientSecret, "_secret_")
	r.api("POST", "/v1/payment_intents/"+intent+"/confirm", "payment_method="+pm)
	_, err = r.svc.Sync(ctx, account)
	require.NoError(r.t, err)
}

// trial gives the account a trial whose card nobody has looked at yet: as on
// the gateway's page.
func (r *killRig) trial(account, token string) {
	r.t.Helper()
	ctx := r.t.Context()
	got, err := r.svc.Subscribe(ctx, account, billing.Order{Plan: "business"})
	require.NoError(r.t, err)
	setup, _, _ := strings.Cut(got.ClientSecret, "_secret_")
	r.api("POST", "/v1/setup_intents/"+setup+"/confirm", "payment_method=pm_card_"+token)
	_, err = r.svc.Sync(ctx, account)
	require.NoError(r.t, err)
	if strings.HasSuffix(account, "_first") {
		_, err = r.svc.ProcessPending(ctx) // it has the card's trial
		require.NoError(r.t, err)
	}
}

// arrears gives the account a renewal that failed, and a new card that nobody
// has used yet.
func (r *killRig) arrears(account string) {
	r.t.Helper()
	ctx := r.t.Context()
	r.paid(account, "pro")
	_, err := r.svc.UsePaymentMethod(ctx, account, r.card(account, "chargeCustomerFail"))
	require.NoError(r.t, err)
	r.advance(32 * 24 * time.Hour)
	_, err = r.svc.Sync(ctx, account)
	require.NoError(r.t, err)
	r.cards[account] = r.card(account, "mastercard")
}

// effect is what the simulated Stripe and the store show of an account.
type effect struct {
	Customers     int
	Subscriptions []string
	Checkouts     int
	Money         []string
	Invoices      []string
	Adjustments   []string
	Comp          string
	Intents       int
}

func (r *killRig) effect(account string, loose bool) effect {
	r.t.Helper()
	var e effect
	found := r.api("GET", "/v1/customers/search", "query=metadata['"+billing.MetadataAccount+"']:'"+account+"'")["data"].([]any)
	e.Customers = len(found)
	for _, c := range found {
		id := c.(map[string]any)["id"].(string)
		for _, s := range r.api("GET", "/v1/subscriptions", "customer="+id, "status=all")["data"].([]any) {
			s := s.(map[string]any)
			if s["status"] == "incomplete_expired" {
				continue // nobody paid within the day: nothing came of it
			}
			item := s["items"].(map[string]any)["data"].([]any)[0].(map[string]any)
			trial, _ := s["trial_end"].(float64)
			text := fmt.Sprintf("%s %s×%v pause=%v ending=%v", s["status"], item["price"].(map[string]any)["lookup_key"], item["quantity"], s["pause_collection"] != nil, s["cancel_at_period_end"])
			if trial > 0 {
				text += fmt.Sprint(" a long trial: ", trial-s["created"].(float64) > 300*86400)
			}
			e.Subscriptions = append(e.Subscriptions, text)
		}
		for range r.api("GET", "/v1/checkout/sessions", "customer="+id, "status=open")["data"].([]any) {
			e.Checkouts++
		}
		for _, m := range r.sim.Ledger(id) {
			text := string(m.Kind)
			if !loose {
				text += fmt.Sprint(" ", m.Amount)
			}
			e.Money = append(e.Money, text)
		}
		for _, i := range r.api("GET", "/v1/invoices", "customer="+id)["data"].([]any) {
			i := i.(map[string]any)
			if i["status"] == "void" {
				continue
			}
			e.Invoices = append(e.Invoices, fmt.Sprint(i["status"], " ", i["billing_reason"]))
		}
	}
	a, err := r.svc.Account(r.t.Context(), account)
	require.NoError(r.t, err)
	for _, d := range a.Adjustments {
		e.Adjustments = append(e.Adjustments, fmt.Sprint(d.Key, " ", d.Amount.Amount))
	}
	if a.Comp != nil {
		e.Comp = a.Comp.Plan
	}
	e.Intents = len(a.Intents)
	slices.Sort(e.Subscriptions)
	slices.Sort(e.Invoices)
	return e
}

// child runs the flow in a process of its own. It reports whether that died.
func (r *killRig) child(w killWorld) (died bool) {
	r.t.Helper()
	text, err := json.Marshal(w)
	require.NoError(r.t, err)
	cmd := exec.CommandContext(r.t.Context(), os.Args[0], "-test.run=^TestKillChild$")
	cmd.Env = append(os.Environ(), "BILLING_KILL_CHILD="+string(text))
	out, err := cmd.CombinedOutput()
	if err == nil {
		return false
	}
	if w.Careless && strings.Contains(string(out), "FAIL: TestKillChild") {
		return false // it met what it had done before
	}
	var exit *exec.ExitError
	require.ErrorAs(r.t, err, &exit)
	status, _ := exit.Sys().(syscall.WaitStatus)
	require.True(r.t, status.Signaled() && status.Signal() == syscall.SIGKILL, "the child failed by itself: %s", out)
	return true
}

func TestKillChild(t *testing.T) {
	text := os.Getenv("BILLING_KILL_CHILD")
	if text == "" {
		t.Skip("runs as the child of TestKilledAtEveryStepOfEveryFlow")
	}
	var w killWorld
	require.NoError(t, json.Unmarshal([]byte(text), &w))
	pool, err := pgxpool.New(t.Context(), w.URL)
	require.NoError(t, err)
	defer pool.Close()
	svc, err := w.service(pool, &fatal{at: w.At, after: w.After})
	require.NoError(t, err)
	i := slices.IndexFunc(killFlows(), func(f killFlow) bool { return f.name == w.Flow })
	require.NoError(t, killFlows()[i].run(t.Context(), svc, w.Account, w.Card))
}

// killed plays one flow with a death at one step. It returns what was before,
// what another process made of it alone, and what there is when the person has
// asked again.
func (r *killRig) killed(f killFlow, w killWorld, later time.Duration) (before, resumed, after effect, died bool) {
	r.t.Helper()
	ctx := r.t.Context()
	w.Account = "acc_" + strings.ToLower(rand.Text()[:10])
	w.Flow = f.name
	if f.before != nil {
		f.before(r, w.Account)
	}
	r.world.Careless = w.Careless
	defer func() { r.world.Careless = false; r.alive() }()
	r.alive()
	w.Card, w.URL, w.Stripe, w.Now = r.cards[w.Account], r.world.URL, r.world.Stripe, r.world.Now
	before = r.effect(w.Account, f.loose)
	died = r.child(w)
	r.advance(later)
	_, err := r.svc.ProcessPending(ctx)
	require.NoError(r.t, err)
	r.advance(time.Minute)
	_, err = r.svc.ProcessPending(ctx)
	require.NoError(r.t, err)
	resumed = r.effect(w.Account, f.loose)
	err = f.run(ctx, r.svc, w.Account, w.Card)
	for _, refused := range []error{billing.ErrInvalid, billing.ErrNoSubscription, billing.ErrSubscribed} {
		if errors.Is(err, refused) {
			err = nil // done already: what there is decides
		}
	}
	require.NoError(r.t, err)
	return before, resumed, r.effect(w.Account, f.loose), died
}

// TestKilledAtEveryStepOfEveryFlow kills a process at every step of every flow
// of money, and takes it up after three minutes, and after 25 hours, when
// Stripe has forgotten the keys.
func TestKilledAtEveryStepOfEveryFlow(t *testing.T) {
	prove := os.Getenv("COMMERCE_PROVE") != ""
	kills := 0
	for i, f := range killFlows() {
		t.Run(f.name, func(t *testing.T) {
			for name, later := range map[string]time.Duration{"soon": 3 * time.Minute, "after a day": 25 * time.Hour} {
				if !prove && (later < time.Hour) != (i%2 == 0) {
					continue // a sample
				}
				r := newKillRig(t, f.name)
				_, _, want, died := r.killed(f, killWorld{}, later)
				require.False(t, died)
				require.Zero(t, want.Intents)
				stride, first := 1, 1
				if !prove {
					stride, first = 14, 2+i%7
				}
				flow := 0
				for at := first; ; at += stride {
					var died bool
					for _, after := range []bool{false, true} {
						if !prove && after != ((at+i)%2 == 0) {
							continue
						}
						var before, resumed, got effect
						before, resumed, got, died = r.killed(f, killWorld{At: at, After: after}, later)
						what := fmt.Sprintf("%s, killed at step %d, after it: %v, taken up %s", f.name, at, after, name)
						require.Equal(t, want, got, what)
						require.Zero(t, resumed.Intents, what)
						// Alone, the other process does all of it or nothing.
						if !f.staged && !sameEffect(resumed, before) {
							require.Equal(t, want, resumed, what)
						}
						if died {
							flow++
						}
					}
					if !died {
						break
					}
				}
				kills += flow
				t.Logf("%s: %d deaths", name, flow)
			}
		})
	}
	t.Logf("%d flows, %d deaths", len(killFlows()), kills)
}

func sameEffect(x, y effect) bool { return fmt.Sprint(x) == fmt.Sprint(y) }

// TestControlWithoutStoredIntentsEffectsAreDoubled: the same deaths, in a
// process that stores no intent.
func TestControlWithoutStoredIntentsEffectsAreDoubled(t *testing.T) {
	for _, name := range []string{"ensure customer", "subscribe", "checkout"} {
		t.Run(name, func(t *testing.T) {
			flows := killFlows()
			f := flows[slices.IndexFunc(flows, func(f killFlow) bool { return f.name == name })]
			if name != "ensure customer" {
				f.before = func(r *killRig, account string) {
					_, err := r.svc.EnsureCustomer(r.t.Context(), account)
					require.NoError(r.t, err)
				}
			}
			r := newKillRig(t, f.name)
			_, _, want, _ := r.killed(f, killWorld{}, 3*time.Minute)
			doubled := 0
			for at := 1; ; at++ {
				_, _, got, died := r.killed(f, killWorld{At: at, After: true, Careless: true}, 3*time.Minute)
				if !died {
					break
				}
				if !sameEffect(want, got) {
					doubled++
				}
			}
			require.Positive(t, doubled, "the proof above can't tell a process that stores nothing")
			t.Logf("%d deaths doubled something", doubled)
		})
	}
}

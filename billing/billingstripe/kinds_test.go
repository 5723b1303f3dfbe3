package billingstripe_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/billing"
	"github.com/kolekt/commerce/billing/billingstripe"
	"github.com/kolekt/commerce/billing/stripesim"
)

const wideBefore = `
features: {api: API access}
meters:
  - {id: emails, name: E-mails}
  - {id: calls, name: Calls, aggregate: count}
plans:
  - id: free
    limits: {documents: 10/period}
  - id: pro
    name: Pro
    limits: {documents: 100/period}
    prices: [{amount: 10.00 USD, every: month}]
    metered:
      - {meter: emails, amount: 0.002 USD, every: month}
      - meter: calls
        every: month
        tiers: [{up_to: 1000, amount: 0 USD}, {amount: 0.01 USD}]
  - id: team
    name: Team
    limits: {documents: 200/period}
    seats: {included: 3, prices: [{amount: 5.00 USD, every: month}]}
    prices: [{amount: 20.00 USD, every: month}]
  - id: gone
    name: Gone
    limits: {documents: 300/period}
    prices: [{amount: 30.00 USD, every: month}]
addons:
  - id: storage
    name: Storage
    plans: [pro]
    limits: {documents: 50/period}
    prices: [{amount: 3.00 USD, every: month}]
coupons:
  - {id: SPRING, name: Spring, off: 20%, plans: [team]}
  - {id: HALF, name: Half, off: 50%, duration: forever}
  - {id: FLAT, name: Flat, off: 5.00 USD}
`

// wideAfter differs from wideBefore in each way that a catalogue can.
const wideAfter = `
features: {api: API access}
meters:
  - {id: emails, name: Messages}
  - {id: jobs, name: Jobs}
plans:
  - id: free
    limits: {documents: 10/period}
  - id: pro
    name: Professional
    version: 2
    limits: {documents: 100/period}
    prices: [{amount: 10.00 USD, every: month}]
    metered:
      - {meter: emails, amount: 0.003 USD, every: month}
      - meter: jobs
        every: month
        tiers: [{up_to: 10, amount: 0 USD}, {amount: 0.005 USD}]
    versions:
      - {version: 1, limits: {documents: 200/period}, prices: [{amount: 10.00 USD, every: month}]}
  - id: team
    name: Team
    limits: {documents: 200/period}
    seats: {included: 3, prices: [{amount: 6.00 USD, every: month}]}
    prices: [{amount: 20.00 USD, every: month}]
  - id: new
    name: New
    limits: {documents: 300/period}
    prices: [{amount: 30.00 USD, every: 3 months}]
addons:
  - id: support
    name: Support
    plans: [pro]
    features: [api]
    prices: [{amount: 9.00 USD, every: month}]
coupons:
  - {id: SPRING, name: Spring sale, off: 20%, plans: [team]}
  - {id: HALF, name: Half, off: 50%, duration: 3 months}
  - {id: AUTUMN, name: Autumn, off: 12.5%, max_redemptions: 100, redeem_by: 2027-01-31}
`

var wideSteps = []string{
	"~ product pro name",                               // 1 a product is renamed
	"~ product pro meter emails name",                  //   … with its plan, and its meter
	"+ product pro meter jobs name",                    // 2 a meter is sold
	"+ product new name",                               // 3 a plan is new
	"+ product addon support name",                     // 4 an add-on is new
	"~ meter emails name",                              // 5 a meter is renamed
	"+ meter jobs name aggregate",                      // 6 a meter is new
	"~ price pro_month_usd version",                    //   the old price is marked before its lookup key goes
	"± price pro_month_usd version",                    // 7 a version is new
	"± price pro_emails_month_usd amount",              // 8 a metered price changes
	"+ price pro_jobs_month_usd amount interval meter", // 9 a tiered price is new
	"± price team_seat_month_usd amount",               // 10 the price of a seat changes
	"+ price new_3month_usd amount interval",           // 11 a price is new
	"+ price addon_support_month_usd amount interval",  //
	"~ coupon SPRING name",                             // 12 a coupon is renamed
	"- coupon HALF off", "+ coupon HALF duration",      // 13 a coupon changes
	"+ coupon AUTUMN name off duration max-redemptions redeem-by", // 14 a coupon is new
	"- coupon FLAT off", // 15 a coupon goes
	"- price pro_emails_month_usd active", "- price team_seat_month_usd active",
	"- price addon_storage_month_usd active", "- price gone_month_usd active", "- price pro_calls_month_usd active", // 16 prices go
	"- product pro meter calls active", "- product gone active", "- product addon storage active", // 17 a plan, a meter and an add-on go
	"- meter calls active", // 18 a meter is no longer counted
}

func wide(t *testing.T, text string) *billing.Catalog {
	t.Helper()
	c, err := billing.ParseCatalog("plans.yaml", []byte(text))
	require.NoError(t, err)
	return c
}

func TestPlanShowsEachKindOfDifferenceAndNothingElse(t *testing.T) {
	g, _ := empty(t)
	first := apply(t, g, wide(t, wideBefore))
	assert.Contains(t, first.String(), `+ price pro_calls_month_usd: amount "tiers: 0 to 1000, 1 to inf", interval "month", meter "calls"`)
	assert.Contains(t, first.String(), `+ price pro_emails_month_usd: amount "0.2 minor units"`)
	again, err := g.PlanCatalog(t.Context(), wide(t, wideBefore))
	require.NoError(t, err)
	require.Empty(t, again.Steps, again.String())

	diff, err := g.PlanCatalog(t.Context(), wide(t, wideAfter))
	require.NoError(t, err)
	assert.ElementsMatch(t, wideSteps, steps(diff), diff.String())
	require.NoError(t, g.ApplyCatalog(t.Context(), diff, nil))
	count := 0
	require.NoError(t, g.ApplyCatalog(t.Context(), diff, func(billingstripe.Step) { count++ }))
	assert.Zero(t, count, "twice changes nothing")
	again, err = g.PlanCatalog(t.Context(), wide(t, wideAfter))
	require.NoError(t, err)
	assert.Empty(t, again.Steps, again.String())

	// There and back, within the life of an idempotency key.
	apply(t, g, wide(t, wideBefore))
	again, err = g.PlanCatalog(t.Context(), wide(t, wideBefore))
	require.NoError(t, err)
	assert.Empty(t, again.Steps, again.String())
	apply(t, g, wide(t, wideAfter))
	again, err = g.PlanCatalog(t.Context(), wide(t, wideAfter))
	require.NoError(t, err)
	assert.Empty(t, again.Steps, again.String())
}

// dying is a network that dies at its n-th write, before or after the write
// has its effect.
type dying struct {
	at     int
	after  bool
	writes int
	dead   bool
}

var errDied = errors.New("the process is dead")

func (d *dying) RoundTrip(r *http.Request) (*http.Response, error) {
	if d.dead {
		return nil, errDied
	}
	if r.Method != http.MethodGet {
		if d.writes++; d.writes == d.at {
			d.dead = true
			if d.after {
				resp, err := http.DefaultTransport.RoundTrip(r)
				if err == nil {
					err = resp.Body.Close()
				}
				return nil, errors.Join(errDied, err)
			}
			return nil, errDied
		}
	}
	return http.DefaultTransport.RoundTrip(r)
}

// TestAnApplyThatDiesAnywhereResumes kills the process at each write of an
// apply, before and after its effect. The next one, with the diff that was made
// before or with one that is made now, ends where an undisturbed one does.
func TestAnApplyThatDiesAnywhereResumes(t *testing.T) {
	deaths := 0
	for _, after := range []bool{false, true} {
		for at := 1; ; at++ {
			fresh := at%2 == 0
			g, sim := empty(t)
			apply(t, g, wide(t, wideBefore))
			diff, err := g.PlanCatalog(t.Context(), wide(t, wideAfter))
			require.NoError(t, err)
			net := &dying{at: at, after: after}
			mortal, err := billingstripe.New(billingstripe.Config{
				SecretKey: stripesim.DefaultSecretKey, URL: sim.URL, Now: sim.Now, Retries: -1, HTTPClient: &http.Client{Transport: net},
			})
			require.NoError(t, err)
			err = mortal.ApplyCatalog(t.Context(), diff, nil)
			if !net.dead {
				require.NoError(t, err)
				break
			}
			require.ErrorIs(t, err, errDied)
			deaths++
			if fresh {
				apply(t, g, wide(t, wideAfter))
			} else {
				require.NoError(t, g.ApplyCatalog(t.Context(), diff, nil), "write %d after %v", at, after)
			}
			again, err := g.PlanCatalog(t.Context(), wide(t, wideAfter))
			require.NoError(t, err)
			require.Empty(t, again.Steps, "write %d after %v", at, after)
			require.Equal(t, 13, total(t, sim, "/v1/prices"), "write %d after %v: no price was made twice", at, after)
		}
	}
	assert.Equal(t, 2*len(wideSteps), deaths)
}

// total counts the objects of a list.
func total(t *testing.T, sim *stripesim.Server, path string) int {
	t.Helper()
	return len(sendTo(t, sim, http.MethodGet, path+"?limit=100", nil)["data"].([]any))
}

func sendTo(t *testing.T, sim *stripesim.Server, method, path string, form url.Values) map[string]any {
	t.Helper()
	r, err := http.NewRequestWithContext(context.Background(), method, sim.URL+path, strings.NewReader(form.Encode()))
	require.NoError(t, err)
	r.Header.Set("Authorization", "Bearer "+stripesim.DefaultSecretKey)
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	defer func() { require.NoError(t, resp.Body.Close()) }()
	require.Equal(t, http.StatusOK, resp.StatusCode)
	return decoded(t, resp)
}

// TestWhatIsSomebodyElsesIsAConflict: nothing of it is touched, and nothing
// else is done.
func TestWhatIsSomebodyElsesIsAConflict(t *testing.T) {
	const mine = "name: mine\nplans: [{id: free}, {id: pro, name: Pro, prices: [{amount: 10.00 USD, every: month}]}]\n"
	for name, test := range map[string]struct {
		setUp func(t *testing.T, g *billingstripe.Gateway, sim *stripesim.Server)
		text  string
		want  billingstripe.ConflictError
	}{
		"a lookup key of another catalogue": {
			func(t *testing.T, g *billingstripe.Gateway, _ *stripesim.Server) {
				apply(t, g, wide(t, strings.Replace(mine, "mine", "theirs", 1)))
			}, mine, billingstripe.ConflictError{Object: "price", Name: "pro_month_usd", Owner: "theirs"},
		},
		"a lookup key of a catalogue without a name": {
			func(t *testing.T, g *billingstripe.Gateway, _ *stripesim.Server) {
				apply(t, g, wide(t, strings.Replace(mine, "name: mine\n", "", 1)))
			}, mine, billingstripe.ConflictError{Object: "price", Name: "pro_month_usd"},
		},
		"a coupon made by hand that says something else": {
			func(t *testing.T, _ *billingstripe.Gateway, sim *stripesim.Server) {
				sendTo(t, sim, http.MethodPost, "/v1/coupons", url.Values{"id": {"SPRING"}, "percent_off": {"10"}, "duration": {"once"}})
			}, mine + "coupons: [{id: SPRING, off: 20%}]\n", billingstripe.ConflictError{Object: "coupon", Name: "SPRING"},
		},
		"a coupon of another catalogue": {
			func(t *testing.T, g *billingstripe.Gateway, _ *stripesim.Server) {
				apply(t, g, wide(t, "name: theirs\nplans: [{id: free}]\ncoupons: [{id: SPRING, off: 20%}]\n"))
			}, mine + "coupons: [{id: SPRING, off: 20%}]\n", billingstripe.ConflictError{Object: "coupon", Name: "SPRING", Owner: "theirs"},
		},
		"a meter that counts otherwise": {
			func(t *testing.T, _ *billingstripe.Gateway, sim *stripesim.Server) {
				sendTo(t, sim, http.MethodPost, "/v1/billing/meters", url.Values{"display_name": {"Calls"}, "event_name": {"calls"}, "default_aggregation[formula]": {"count"}})
			}, mine + "meters: [{id: calls}]\n", billingstripe.ConflictError{Object: "meter", Name: "calls"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			g, sim := empty(t)
			test.setUp(t, g, sim)
			events := total(t, sim, "/v1/events")
			_, err := g.PlanCatalog(t.Context(), wide(t, test.text))
			require.ErrorIs(t, err, billing.ErrConflict)
			var conflict *billingstripe.ConflictError
			require.ErrorAs(t, err, &conflict)
			assert.NotEmpty(t, conflict.ID)
			assert.Equal(t, test.want, billingstripe.ConflictError{Object: conflict.Object, Name: conflict.Name, Owner: conflict.Owner})
			assert.Contains(t, err.Error(), fmt.Sprintf("%s %s", test.want.Object, test.want.Name))
			assert.Equal(t, events, total(t, sim, "/v1/events"))
		})
	}
}

// TestTwoNamedCataloguesShareAnAccount: neither archives what is the other's.
func TestTwoNamedCataloguesShareAnAccount(t *testing.T) {
	g, _ := empty(t)
	text := func(name, plan string) string {
		return fmt.Sprintf("name: %s\nplans: [{id: free}, {id: %s, prices: [{amount: 10.00 USD, every: month}]}]\ncoupons: [{id: %s, off: 20%%}]\n", name, plan, plan)
	}
	apply(t, g, wide(t, text("one", "pro")))
	apply(t, g, wide(t, text("two", "plus")))
	for _, c := range []string{text("one", "pro"), text("two", "plus")} {
		diff, err := g.PlanCatalog(t.Context(), wide(t, c))
		require.NoError(t, err)
		assert.Empty(t, diff.Steps, diff.String())
	}
}

func decoded(t *testing.T, resp *http.Response) map[string]any {
	t.Helper()
	var v map[string]any
	require.NoError(t, json.NewDecoder(resp.Body).Decode(&v))
	return v
}

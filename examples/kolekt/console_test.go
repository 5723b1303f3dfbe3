package main

import (
	"bufio"
	"context"
	"encoding/json"
	"html"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/internal/pgtest"
	"github.com/kolekt/commerce/internal/redistest"
)

// read returns a page's text.
func (c *client) read(path string, status int) string {
	c.t.Helper()
	resp, err := c.http.Get(c.origin + path)
	require.NoError(c.t, err)
	return c.body(resp, status)
}

// post sends a form and returns the page that it leads to.
func (c *client) post(path string, form url.Values, status int) string {
	c.t.Helper()
	resp, err := c.http.PostForm(c.origin+path, form)
	require.NoError(c.t, err)
	return c.body(resp, status)
}

func (c *client) body(resp *http.Response, status int) string {
	c.t.Helper()
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(c.t, err)
	require.Equal(c.t, status, resp.StatusCode, "%s: %s", resp.Request.URL.Path, b)
	return html.UnescapeString(string(b))
}

func (c *client) signUp(email string) {
	c.t.Helper()
	c.do("POST", "/api/v1/auth/signup", map[string]any{"email": email, "password": "a password of some length", "name": "Ann"}, 201)
}

func (c *client) subscribe(plan string) {
	c.t.Helper()
	c.pay(c.do("POST", "/api/v1/payments/create-checkout-session", map[string]any{"plan_type": plan}, 201)["url"].(string))
}

func administrator(t testing.TB, origin string) *client {
	c := newClient(t, origin, nil)
	c.do("POST", "/api/v1/auth/login", map[string]any{"email": developmentAdmin, "password": developmentPassword}, 200)
	return c
}

// userPage finds the page of an account.
func (c *client) userPage(email string) string {
	c.t.Helper()
	m := regexp.MustCompile(`/admin/users/usr_\w+`).FindString(c.read("/admin/users?q="+url.QueryEscape(email), 200))
	require.NotEmpty(c.t, m)
	return m
}

// deed fills the form of a user's page and sends it.
func (c *client) deed(page, name string, form url.Values) url.Values {
	c.t.Helper()
	part := regexp.MustCompile(`(?s)action="` + page + `/` + name + `".*?name="key" value="(aud_\w+)"`).FindStringSubmatch(c.read(page, 200))
	require.NotNil(c.t, part, "no form for %s", name)
	form.Set("key", part[1])
	return form
}

func onBoth(t *testing.T, f func(t *testing.T, origin string)) {
	t.Run("memory", func(t *testing.T) { f(t, start(t, nil)) })
	t.Run("postgres+redis", func(t *testing.T) {
		f(t, start(t, map[string]string{"DATABASE_URL": pgtest.URL(t), "REDIS_URL": redistest.URL(t), "EXPORT_DIR": t.TempDir()}))
	})
}

func TestAnAdministratorsDeedsHaveAReasonAndHappenOnce(t *testing.T) {
	onBoth(t, func(t *testing.T, origin string) {
		ann := newClient(t, origin, nil)
		ann.signUp("ann@example.com")
		ann.subscribe("pro")
		admin := administrator(t, origin)
		page := admin.userPage("ann@example.com")

		// What can't be meant is refused, and nothing of it is kept.
		for _, wrong := range []url.Values{
			{"amount": {"5.00"}, "reason": {"  "}}, {"amount": {"5.00"}, "reason": {strings.Repeat("x", 301)}},
			{"amount": {"-5"}, "reason": {"sorry"}}, {"amount": {"0"}, "reason": {"sorry"}}, {"amount": {"1000.01"}, "reason": {"sorry"}},
			{"amount": {"5.001"}, "reason": {"sorry"}}, {"amount": {"5,00"}, "reason": {"sorry"}}, {"amount": {"99999999999999999999"}, "reason": {"sorry"}},
		} {
			require.Contains(t, admin.post(page+"/credit", admin.deed(page, "credit", wrong), 422), "field-error", "%v", wrong)
		}
		admin.post(page+"/credit", url.Values{"amount": {"5"}, "reason": {"no key"}, "key": {"aud_1"}}, 422)
		admin.post(page+"/nothing", url.Values{"reason": {"none such"}}, 404)
		admin.post("/admin/users/usr_nobody/credit", url.Values{"reason": {"nobody"}}, 404)
		require.NotContains(t, admin.read("/admin/audit", 200), "sorry")

		form := admin.deed(page, "credit", url.Values{"amount": {"5.00"}, "reason": {"an outage on <Monday>"}})
		require.Contains(t, admin.post(page+"/credit", form, 200), "Credit: done.")
		require.Contains(t, admin.post(page+"/credit", form, 200), "done before, and not again")
		form.Set("amount", "6.00")
		require.Contains(t, admin.post(page+"/credit", form, 422), "sent before, with something else in it")
		shown := admin.read(page, 200)
		require.Regexp(t, `(?s)Credit</dt>.*?\$5\.00`, shown, "once, at the provider too")
		require.Contains(t, shown, "an outage on <Monday>")
		require.Contains(t, admin.post(page+"/resync", admin.deed(page, "resync", url.Values{"reason": {"a ticket"}}), 200), "done.")
		trail := admin.read("/admin/audit", 200)
		for _, text := range []string{"credit $5.00", "resync", "a ticket", developmentAdmin, "ann@example.com"} {
			require.Contains(t, trail, text)
		}
		require.Equal(t, 1, strings.Count(trail, "credit $5.00"))
	})
}

func TestAnAdministratorGivesPlansAndExtendsTrials(t *testing.T) {
	onBoth(t, func(t *testing.T, origin string) {
		ann, bob, admin := newClient(t, origin, nil), newClient(t, origin, nil), administrator(t, origin)
		ann.signUp("ann@example.com")
		bob.signUp("bob@example.com")
		page := admin.userPage("ann@example.com")
		until := time.Now().AddDate(0, 0, 40).UTC().Format(time.DateOnly)
		for _, wrong := range []url.Values{
			{"plan": {"gold"}, "until": {until}, "reason": {"a friend"}}, {"plan": {"free"}, "until": {until}, "reason": {"a friend"}},
			{"plan": {"business"}, "until": {"tomorrow"}, "reason": {"a friend"}}, {"plan": {"business"}, "until": {"2020-01-01"}, "reason": {"a friend"}},
		} {
			require.Contains(t, admin.post(page+"/comp", admin.deed(page, "comp", wrong), 422), "field-error", "%v", wrong)
		}
		form := admin.deed(page, "comp", url.Values{"plan": {"business"}, "until": {until}, "reason": {"a friend"}})
		admin.post(page+"/comp", form, 200)
		require.Contains(t, admin.post(page+"/comp", form, 200), "done before")
		require.Equal(t, "business", ann.do("GET", "/api/v1/subscriptions/current", nil, 200)["plan"])
		require.EqualValues(t, 1000, ann.do("GET", "/api/v1/usage", nil, 200)["limit"])
		require.Contains(t, ann.read("/account", 200), "Given to you")
		require.Contains(t, ann.read("/pricing", 200), "Choose Business", "what was given can be bought")
		admin.post(page+"/uncomp", admin.deed(page, "uncomp", url.Values{"reason": {"no friend"}}), 200)
		require.Equal(t, "free", ann.do("GET", "/api/v1/subscriptions/current", nil, 200)["plan"])
		admin.post(page+"/uncomp", url.Values{"reason": {"no friend"}}, 404)

		// Bob tries Enterprise. Ann has no trial to extend.
		bob.subscribe("enterprise")
		admin.post(page+"/extend", url.Values{"until": {until}, "reason": {"more time"}}, 404)
		page = admin.userPage("bob@example.com")
		require.Contains(t, bob.read("/account", 200), "Trial until")
		require.Contains(t, admin.post(page+"/extend", admin.deed(page, "extend", url.Values{"until": {"2020-01-01"}, "reason": {"more time"}}), 422), "field-error")
		admin.post(page+"/extend", admin.deed(page, "extend", url.Values{"until": {until}, "reason": {"more time"}}), 200)
		end, err := time.Parse(time.DateOnly, until)
		require.NoError(t, err)
		require.Contains(t, bob.read("/account", 200), "Trial until "+end.AddDate(0, 0, 1).Format("2 January 2006"))
	})
}

func TestTheConsoleIsForAdministratorsAndNotForOtherSites(t *testing.T) {
	origin := start(t, nil)
	ann, admin := newClient(t, origin, nil), administrator(t, origin)
	ann.signUp("ann@example.com")
	page := admin.userPage("ann@example.com")
	nobody := newClient(t, origin, nil)
	nobody.http.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	for _, path := range []string{page, "/admin", "/admin/users", "/admin/usage", "/admin/health", "/admin/drift", "/admin/audit", "/admin/behind/mrr", "/admin/projections", "/admin/projections.csv"} {
		admin.read(path, 200)
		ann.read(path, 404)
		nobody.read(path, 303)
	}
	admin.read("/admin/behind/nothing", 404)
	admin.read("/admin/users/usr_nobody", 404)
	ann.read("/admin/events", 404)
	nobody.read("/admin/events", 401)
	nobody.read("/account/events?page=account", 401)
	ann.read("/account/events?page=nothing", 404)
	for _, path := range []string{page + "/credit", "/admin/health/replay/evt_1", "/admin/health/resend/ml_1", "/admin/health/reconcile"} {
		ann.post(path, nil, 404)
	}
	admin.post("/admin/health/replay/evt_none", nil, 404)
	admin.post("/admin/health/resend/none", nil, 404)

	// A form of another site comes to nothing, whoever is logged in.
	for c, paths := range map[*client][]string{
		admin: {page + "/credit", "/admin/health/replay/evt_1", "/admin/health/resend/ml_1", "/admin/health/reconcile", "/dev/faults", "/dev/faults/clear", "/dev/clock"},
		ann:   {"/account/mail", "/account/privacy/consents", "/account/cancel"},
	} {
		for _, path := range paths {
			r, err := http.NewRequest(http.MethodPost, origin+path, nil)
			require.NoError(t, err)
			r.Header.Set("Sec-Fetch-Site", "cross-site")
			r.Header.Set("Origin", "https://evil.example")
			resp, err := c.http.Do(r)
			require.NoError(t, err)
			c.body(resp, 403)
		}
	}
}

func TestEachNumberOfTheConsoleLeadsToItsDefinitionAndItsRows(t *testing.T) {
	origin := start(t, nil)
	ann, admin := newClient(t, origin, nil), administrator(t, origin)
	ann.signUp("ann@example.com")
	ann.subscribe("business")
	definitions := admin.read("/definitions", 200)
	links := regexp.MustCompile(`href="(/definitions#[a-z]+|/admin/behind/[a-z-]+|#[a-z-]+|/admin/drift)"`)
	seen := map[string]bool{}
	for _, path := range []string{"/admin", "/admin/usage", "/admin/health", "/account", "/account/limits", admin.userPage("ann@example.com")} {
		text := admin.read(path, 200)
		for _, m := range links.FindAllStringSubmatch(text, -1) {
			seen[m[1]] = true
			switch target := m[1]; {
			case strings.HasPrefix(target, "/definitions#"):
				require.Contains(t, definitions, `id="`+strings.TrimPrefix(target, "/definitions#")+`"`, path)
			case target[0] == '#':
				require.Contains(t, text, `id="`+target[1:]+`"`, "%s: %s leads nowhere", path, target)
			default:
				admin.read(target, 200)
			}
		}
	}
	require.Greater(t, len(seen), 20)
	require.Contains(t, admin.read("/admin/behind/mrr", 200), "ann@example.com")
	require.Contains(t, admin.read("/admin/behind/received", 200), "$29.99")
	require.Contains(t, admin.read("/admin/behind/movements", 200), "New")
}

func TestRefusalsAreCountedForADayAndShown(t *testing.T) {
	onBoth(t, func(t *testing.T, origin string) {
		ann := newClient(t, origin, nil)
		ann.signUp("ann@example.com")
		n := 0
		for range 30 { // the free plan has ten a minute
			resp, err := ann.http.Get(origin + "/api/v1/usage")
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
			if resp.StatusCode == http.StatusTooManyRequests {
				n++
			}
		}
		require.Greater(t, n, 10)
		page := ann.read("/account/limits", 200)
		require.Regexp(t, `(?s)Throttled requests.*?>`+regexp.QuoteMeta(itoa(n))+`<`, page)
		require.Contains(t, page, "Choose Pro")
		require.Contains(t, ann.read("/account", 200), itoa(n)+" requests were refused in the last 24 hours")
		admin := administrator(t, origin)
		require.Regexp(t, `(?s)id="refused".*ann@example.com.*Too fast.*Free.*>`+itoa(n)+`<`, admin.read("/admin/usage", 200))
		counted := admin.do("GET", "/api/v1/admin/usage", nil, 200)["refused_24h"].([]any)
		require.EqualValues(t, n, counted[0].(map[string]any)["n"])
	})
}

func itoa(n int) string { b, _ := json.Marshal(n); return string(b) }

func TestPeopleChooseTheirMail(t *testing.T) {
	origin := start(t, nil)
	ann := newClient(t, origin, nil)
	ann.signUp("ann@example.com")
	on := regexp.MustCompile(`name="tips" checked`)
	require.Regexp(t, on, ann.read("/account/mail", 200))
	require.NotRegexp(t, on, ann.post("/account/mail", nil, 200))
	use := func(n int) {
		ann.subscribe("pro") // the free plan's rate would be in the way
		for range n {
			ann.do("POST", "/api/v1/kolekts", map[string]any{"text": "A short thought."}, 201)
		}
	}
	use(80)
	require.Eventually(t, func() bool {
		page := ann.read("/account/mail", 200)
		return regexp.MustCompile(`(?s)upgrade reminder.*?Dropped`).MatchString(page)
	}, 20*time.Second, 50*time.Millisecond, "the reminder isn't wanted")
	require.Regexp(t, on, ann.post("/account/mail", url.Values{"tips": {"on"}, "billing": {"off"}}, 200))

	// The link of a mail that ends everything, and back on this page.
	ann.post("/account/mail", nil, 200)
	require.NotRegexp(t, on, ann.read("/account/mail", 200))
}

func TestFaultsAreSwitchedOnAndOffAndLoseNothing(t *testing.T) {
	origin := start(t, nil)
	ann := newClient(t, origin, nil)
	ann.signUp("ann@example.com")
	for _, wrong := range []url.Values{{"kind": {"meteor"}, "times": {"1"}}, {"kind": {"429"}, "times": {"0"}}, {"kind": {"429"}, "times": {"x"}}, {"kind": {"429"}, "times": {"1"}, "match": {strings.Repeat("x", 101)}}} {
		require.Contains(t, ann.post("/dev/faults", wrong, 422), "Choose what goes wrong")
	}
	require.Contains(t, ann.post("/dev/faults", url.Values{"kind": {"429"}, "times": {"-1"}}, 200), "until it is switched off")
	require.NotContains(t, ann.post("/dev/faults/clear", nil, 200), "until it is switched off")

	// Every webhook comes twice and in the wrong order, and a call's answer is lost.
	for _, kind := range []string{"duplicate", "reorder"} {
		ann.post("/dev/faults", url.Values{"kind": {kind}, "times": {"3"}}, 200)
	}
	ann.post("/dev/faults", url.Values{"kind": {"reset after effect"}, "match": {"POST /v1/customers"}, "times": {"1"}}, 200)
	require.Eventually(t, func() bool {
		resp, err := ann.http.Post(origin+"/api/v1/payments/create-checkout-session", "application/json", strings.NewReader(`{"plan_type":"pro"}`))
		require.NoError(t, err)
		defer resp.Body.Close()
		var session map[string]any
		require.NoError(t, json.NewDecoder(resp.Body).Decode(&session))
		if resp.StatusCode != http.StatusCreated {
			return false // the outcome was unknown: the next try finds it
		}
		ann.pay(session["url"].(string))
		return true
	}, 20*time.Second, 100*time.Millisecond)
	require.Equal(t, "pro", ann.do("GET", "/api/v1/subscriptions/current", nil, 200)["plan"])
	require.Equal(t, 1, strings.Count(ann.read("/account", 200), `<span class="badge good">Paid</span>`), "charged once")
}

// Development's screens and switches don't exist in production, whoever asks.
func TestProductionHasNoDevelopmentScreens(t *testing.T) {
	// A production that is all there but for Stripe, which nothing here calls.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	_, port, err := net.SplitHostPort(l.Addr().String())
	require.NoError(t, err)
	require.NoError(t, l.Close())
	require.Equal(t, "https://kolekt.example.com", start(t, map[string]string{
		"PORT": port, "SECRET_KEY": "0123456789abcdef0123456789abcdef", "PUBLIC_URL": "https://kolekt.example.com", "HOST": "127.0.0.1",
		"DATABASE_URL": migrated(t), "REDIS_URL": redistest.URL(t), "EXPORT_DIR": t.TempDir(),
		"STRIPE_SECRET_KEY": "sk_live_of_nobody", "STRIPE_WEBHOOK_SECRET": "whsec_of_nobody",
		"SMTP_SERVER": "127.0.0.1", "SMTP_PORT": "1", "FROM_EMAIL": "hello@kolekt.example.com",
		"ADMIN_EMAIL": "root@example.com", "ADMIN_PASSWORD": "a password of some length",
	}))
	c := newClient(t, "http://127.0.0.1:"+port, nil)
	resp, err := c.http.Post(c.origin+"/api/v1/auth/login", "application/json", strings.NewReader(`{"email":"root@example.com","password":"a password of some length"}`))
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Len(t, resp.Cookies(), 1)
	require.True(t, resp.Cookies()[0].Secure)
	// The proxy that speaks TLS is missing here, so the cookie is sent by hand.
	c.http.Transport = withCookie{resp.Cookies()[0].Name + "=" + resp.Cookies()[0].Value}
	c.read("/admin", 200)
	for _, path := range []string{"/dev/clock", "/dev/mail", "/dev/mail/1", "/dev/faults", "/dev/kinds/", "/stripe/", "/stripe/v1/customers"} {
		c.read(path, 404)
	}
	for _, path := range []string{"/dev/clock", "/dev/faults", "/dev/faults/clear", "/stripe/v1/customers"} {
		c.post(path, url.Values{"by": {"day"}, "kind": {"429"}, "times": {"1"}}, 404)
	}
	first := c.read("/pricing", 200)
	require.NotContains(t, first, "/dev/")
	require.NotContains(t, first, "Development")
}

type withCookie struct{ cookie string }

func (c withCookie) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Cookie", c.cookie)
	return (&http.Transport{DisableKeepAlives: true}).RoundTrip(r)
}

func migrated(t *testing.T) string {
	url := pgtest.URL(t)
	require.NoError(t, run(t.Context(), []string{"migrate"}, func(name string) string { return map[string]string{"DATABASE_URL": url}[name] }, io.Discard))
	return url
}

// stream reads a page's events until f is content.
func (c *client) stream(path string, f func(event, data string) bool) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.(*testing.T).Context(), 20*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, c.origin+path, nil)
	require.NoError(c.t, err)
	resp, err := c.http.Do(r)
	require.NoError(c.t, err)
	defer resp.Body.Close()
	require.Equal(c.t, http.StatusOK, resp.StatusCode)
	lines, event := bufio.NewScanner(resp.Body), ""
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), ": ")
		switch name {
		case "event":
			event = value
		case "data":
			if f(event, value) {
				return
			}
		}
	}
	require.Fail(c.t, "the stream ended before it said so", "%s: %v", path, lines.Err())
}

func TestOpenPagesHearWhatChanges(t *testing.T) {
	onBoth(t, func(t *testing.T, origin string) {
		ann := newClient(t, origin, nil)
		ann.signUp("ann@example.com")
		made, paid := false, false
		ann.stream("/account/events?page=account", func(event, data string) bool {
			require.Equal(t, "part", event)
			var p struct{ ID, HTML string }
			require.NoError(t, json.Unmarshal([]byte(data), &p))
			switch {
			case !made && p.ID == "usage-card":
				require.Contains(t, p.HTML, "<b>0</b> of 10")
				ann.do("POST", "/api/v1/kolekts", map[string]any{"text": "A short thought."}, 201)
				made = true
			case made && !paid && p.ID == "usage-card":
				require.Contains(t, p.HTML, "<b>1</b> of 10")
				ann.subscribe("pro")
				paid = true
			}
			return paid && p.ID == "plan-card" && strings.Contains(p.HTML, "$9.99 a month")
		})
		// A page that shows what is no longer so is told at once.
		ann.stream("/account/events?page=return&plan=free", func(event, _ string) bool { return event == "reload" })
		ann.stream("/account/events?page=limits", func(_, data string) bool { return strings.Contains(data, "of 100") })
		ann.stream("/account/events?page=write", func(_, data string) bool { return strings.Contains(data, "meter-card") })
		administrator(t, origin).stream("/admin/events", func(_, data string) bool { return strings.Contains(data, "Webhook lag") })
	})
}

func TestOpenPagesAreBounded(t *testing.T) {
	origin := start(t, nil)
	ann := newClient(t, origin, nil)
	ann.signUp("ann@example.com")
	var open []*http.Response
	for {
		resp, err := ann.http.Get(origin + "/account/events?page=account")
		require.NoError(t, err)
		if resp.StatusCode != http.StatusOK {
			require.Equal(t, http.StatusServiceUnavailable, resp.StatusCode)
			require.Equal(t, "30", resp.Header.Get("Retry-After"))
			require.NoError(t, resp.Body.Close())
			break
		}
		open = append(open, resp)
		require.LessOrEqual(t, len(open), 8)
	}
	for _, resp := range open {
		require.NoError(t, resp.Body.Close())
	}
	require.Eventually(t, func() bool {
		resp, err := ann.http.Get(origin + "/account/events?page=account")
		require.NoError(t, err)
		return resp.Body.Close() == nil && resp.StatusCode == http.StatusOK
	}, 10*time.Second, 50*time.Millisecond, "places come back")
	// The last one stays open: the end of the process ends it, and start's
	// clean-up fails if it doesn't.
	resp, err := ann.http.Get(origin + "/account/events?page=account")
	require.NoError(t, err)
	t.Cleanup(func() { _ = resp.Body.Close() })
}

func TestUsageAsCSVIsPartOfSomePlans(t *testing.T) {
	origin := start(t, nil)
	ann := newClient(t, origin, nil)
	ann.signUp("ann@example.com")
	require.Contains(t, ann.read("/account/usage.csv", 200), "comes with Business and above")
	ann.subscribe("business")
	require.NotContains(t, ann.read("/account/usage.csv", 200), "<html")
	require.Contains(t, ann.read("/account", 200), "/account/usage.csv")
}

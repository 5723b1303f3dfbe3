package main

import (
	"archive/zip"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/kolekt/commerce/internal/pgtest"
	"github.com/kolekt/commerce/internal/redistest"
)

// start runs the whole program and returns its address. It ends with the test,
// in good order and without a goroutine left.
func start(t testing.TB, env map[string]string) string {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	out, in := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		ended <- run(ctx, nil, func(name string) string {
			if name == "PORT" && env[name] == "" {
				return "0"
			}
			return env[name]
		}, in)
		_ = in.Close()
	}()
	text := make(chan string, 1)
	go func() {
		b := make([]byte, 4096)
		n, _ := out.Read(b)
		text <- string(b[:n])
		_, _ = io.Copy(io.Discard, out)
	}()
	t.Cleanup(func() {
		stop()
		require.NoError(t, <-ended)
	})
	select {
	case first := <-text:
		m := regexp.MustCompile(`https?://\S+`).FindString(first)
		require.NotEmpty(t, m, first)
		return m
	case err := <-ended:
		ended <- err
		require.NoError(t, err)
	}
	return ""
}

// description is the OpenAPI document as the server gives it.
type description struct {
	t        *testing.T
	doc      any
	compiler *jsonschema.Compiler
	Paths    map[string]map[string]struct {
		RequestBody struct {
			Content map[string]json.RawMessage `json:"content"`
		} `json:"requestBody"`
		Responses map[string]struct {
			Content map[string]json.RawMessage `json:"content"`
		} `json:"responses"`
	} `json:"paths"`
	seen map[string]bool
}

func describe(t *testing.T, origin string) *description {
	resp, err := http.Get(origin + "/api/v1/openapi.json")
	require.NoError(t, err)
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	d := &description{t: t, compiler: jsonschema.NewCompiler(), seen: map[string]bool{}}
	require.NoError(t, json.Unmarshal(raw, d))
	d.doc, err = jsonschema.UnmarshalJSON(bytes.NewReader(raw))
	require.NoError(t, err)
	require.NoError(t, d.compiler.AddResource("openapi.json", d.doc))
	return d
}

func pointer(s string) string {
	return url.PathEscape(strings.NewReplacer("~", "~0", "/", "~1").Replace(s))
}

// check asserts that a request and its answer are as described.
func (d *description) check(method, path string, sent []byte, status int, contentType string, body []byte) {
	d.t.Helper()
	template, op := path, strings.ToLower(method)
	if _, ok := d.Paths[template]; !ok {
		template = regexp.MustCompile(`/(kol|key|gdr)_[^/]+`).ReplaceAllString(path, "/{id}")
	}
	o, ok := d.Paths[template][op]
	require.True(d.t, ok, "%s %s isn't described", method, path)
	d.seen[op+" "+template] = true
	at := fmt.Sprintf("openapi.json#/paths/%s/%s", pointer(template), op)
	if sent != nil && status < 400 {
		d.valid(at+"/requestBody/content/"+pointer("application/json")+"/schema", sent)
	}
	key := fmt.Sprint(status)
	if status >= 400 {
		key = "default"
		require.Equal(d.t, "application/problem+json", contentType)
	}
	r, ok := o.Responses[key]
	require.True(d.t, ok, "%s %s: status %d isn't described: %s", method, path, status, body)
	if len(r.Content) == 0 {
		return
	}
	media, _, _ := strings.Cut(contentType, ";")
	d.valid(at+"/responses/"+key+"/content/"+pointer(media)+"/schema", body)
}

func (d *description) valid(at string, body []byte) {
	d.t.Helper()
	schema, err := d.compiler.Compile(at)
	require.NoError(d.t, err)
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(body))
	require.NoError(d.t, err, "%s", body)
	require.NoError(d.t, schema.Validate(v), "%s", body)
}

// client is a program that uses the API, with a session or a key.
type client struct {
	t      testing.TB
	origin string
	http   http.Client
	key    string
	d      *description
}

func newClient(t testing.TB, origin string, d *description) *client {
	jar, err := cookiejar.New(nil)
	require.NoError(t, err)
	return &client{t: t, origin: origin, http: http.Client{Jar: jar, Timeout: 20 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}, d: d}
}

// do sends a request, expects the status and an answer as described, and
// returns the answer.
func (c *client) do(method, path string, body any, status int) map[string]any {
	c.t.Helper()
	var sent []byte
	if body != nil {
		var err error
		sent, err = json.Marshal(body)
		require.NoError(c.t, err)
	}
	r, err := http.NewRequest(method, c.origin+path, bytes.NewReader(sent))
	require.NoError(c.t, err)
	if c.key != "" {
		r.Header.Set("Authorization", "Bearer "+c.key)
	}
	resp, err := c.http.Do(r)
	require.NoError(c.t, err)
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	require.NoError(c.t, err)
	require.Equal(c.t, status, resp.StatusCode, "%s %s: %s", method, path, raw)
	path, _, _ = strings.Cut(path, "?")
	if c.d != nil {
		c.d.check(method, path, sent, status, resp.Header.Get("Content-Type"), raw)
	}
	out := map[string]any{}
	if len(raw) > 0 && raw[0] == '{' {
		require.NoError(c.t, json.Unmarshal(raw, &out))
	}
	return out
}

// pay does what a person does on the payment page.
func (c *client) pay(address string) {
	c.t.Helper()
	resp, err := c.http.PostForm(address, url.Values{"do": {"pay"}, "email": {"ann@example.com"}, "name": {"Ann"}, "number": {"4242424242424242"}, "exp": {"12/40"}, "cvc": {"123"}})
	require.NoError(c.t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(c.t, err)
	require.Contains(c.t, string(b), "You are on")
}

// waits asserts that the event stream begins at once, through every layer.
func (c *client) waits() {
	c.t.Helper()
	resp, err := c.http.Get(c.origin + "/account/events?page=account")
	require.NoError(c.t, err)
	defer resp.Body.Close()
	require.Equal(c.t, "text/event-stream", resp.Header.Get("Content-Type"))
	line := make([]byte, len("retry: 2000\n: still waiting"))
	_, err = io.ReadFull(resp.Body, line)
	require.NoError(c.t, err)
	require.Equal(c.t, "retry: 2000\n: still waiting", string(line))
}

// paid asserts that the account's page lists an invoice of this amount.
func (c *client) paid(amount string) {
	c.t.Helper()
	resp, err := c.http.Get(c.origin + "/account")
	require.NoError(c.t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(c.t, err)
	require.Contains(c.t, regexp.MustCompile(`\$\d+\.\d\d`).FindAllString(string(b), -1), amount)
}

func TestTheAPIInMemory(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent(),
		// Started by scs.New; it can't be stopped without a race.
		goleak.IgnoreAnyFunction("github.com/alexedwards/scs/v2/memstore.(*MemStore).startCleanup"))
	t.Run("journey", func(t *testing.T) { journey(t, nil) })
}

func TestTheAPIOnPostgreSQLAndRedis(t *testing.T) {
	journey(t, map[string]string{"DATABASE_URL": pgtest.URL(t), "REDIS_URL": redistest.URL(t)})
}

func journey(t *testing.T, env map[string]string) {
	origin := start(t, env)
	d := describe(t, origin)
	c := newClient(t, origin, d)
	type m = map[string]any
	c.do("GET", "/health", nil, 200)
	c.do("GET", "/ready", nil, 200)

	// Nobody gets in without an account.
	require.Equal(t, "unauthenticated", c.do("GET", "/api/v1/usage", nil, 401)["code"])
	ann := m{"email": "ann@example.com", "password": "a password of some length", "name": "Ann"}
	require.Equal(t, "invalid", c.do("POST", "/api/v1/auth/signup", m{"email": "ann", "password": "a password of some length", "name": "Ann"}, 422)["code"])
	c.do("POST", "/api/v1/auth/signup", ann, 201)
	require.Equal(t, "email_taken", c.do("POST", "/api/v1/auth/signup", ann, 409)["code"])
	c.do("POST", "/api/v1/auth/logout", nil, 204)
	require.Equal(t, "bad_credentials", c.do("POST", "/api/v1/auth/login", m{"email": "ann@example.com", "password": "a wrong password"}, 401)["code"])
	c.do("POST", "/api/v1/auth/login", m{"email": "ann@example.com", "password": "a password of some length"}, 200)

	// The free plan has ten kolekts and no keys.
	require.Equal(t, "bad_json", c.do("POST", "/api/v1/kolekts", m{"txt": "x"}, 400)["code"])
	require.Equal(t, "plan_required", c.do("POST", "/api/v1/api-keys", m{"name": "ci", "permissions": []string{"write"}}, 402)["code"])
	require.Equal(t, "not_subscribed", c.do("POST", "/api/v1/payments/cancel", nil, 409)["code"])
	limits := c.do("GET", "/api/v1/limits", nil, 200)
	require.Equal(t, m{"kolekts": "10/period", "requests": "10/minute"}, limits["limits"])

	// Paying makes room at once.
	require.Equal(t, "invalid", c.do("POST", "/api/v1/payments/create-checkout-session", m{"plan_type": "gold"}, 422)["code"])
	checkout := c.do("POST", "/api/v1/payments/create-checkout-session", m{"plan_type": "pro"}, 201)
	c.pay(checkout["url"].(string))
	require.Equal(t, "subscribed", c.do("POST", "/api/v1/payments/create-checkout-session", m{"plan_type": "pro"}, 409)["code"])
	sub := c.do("GET", "/api/v1/subscriptions/current", nil, 200)
	require.Equal(t, "pro", sub["plan"])

	c.waits()

	// A key makes kolekts against the same quota.
	issued := c.do("POST", "/api/v1/api-keys", m{"name": "ci", "permissions": []string{"read", "write"}}, 201)
	reader := c.do("POST", "/api/v1/api-keys", m{"name": "reader", "permissions": []string{"read"}}, 201)
	program := newClient(t, origin, d)
	program.key = issued["token"].(string)
	long := strings.Repeat("A sentence of the text. ", 60)
	k := program.do("POST", "/api/v1/kolekts", m{"text": long, "tone": "friendly", "images": []string{"https://example.com/a.png"}}, 201)
	require.Len(t, k["posts"], 4)
	require.Equal(t, "invalid", program.do("POST", "/api/v1/kolekts", m{"text": " "}, 422)["code"])
	require.Equal(t, k["id"], program.do("GET", "/api/v1/kolekts/"+k["id"].(string), nil, 200)["id"])
	for i := range 9 {
		program.do("POST", "/api/v1/kolekts", m{"text": fmt.Sprintf("Short text number %d.", i)}, 201)
	}
	require.Len(t, c.do("GET", "/api/v1/kolekts", nil, 200)["kolekts"], 10)
	require.EqualValues(t, 10, c.do("GET", "/api/v1/usage", nil, 200)["used"])
	analytics := c.do("GET", "/api/v1/analytics", nil, 200)
	require.EqualValues(t, 10, analytics["kolekts"])
	require.EqualValues(t, 13, analytics["posts"])
	require.EqualValues(t, 1, analytics["by_tone"].(m)["friendly"])
	require.Equal(t, "bad_json", c.do("GET", "/api/v1/analytics?from=yesterday", nil, 400)["code"])

	// A key that only reads doesn't write, nobody reads what isn't theirs, and
	// keys don't touch money.
	program.key = reader["token"].(string)
	require.Equal(t, "insufficient_scope", program.do("POST", "/api/v1/kolekts", m{"text": "No."}, 403)["code"])
	program.do("GET", "/api/v1/subscriptions/current", nil, 401)
	bob := newClient(t, origin, d)
	bob.do("POST", "/api/v1/auth/signup", m{"email": "bob@example.com", "password": "a password of some length", "name": "Bob"}, 201)
	require.Equal(t, "not_found", bob.do("GET", "/api/v1/kolekts/"+k["id"].(string), nil, 404)["code"])
	require.Equal(t, "not_found", bob.do("GET", "/api/v1/admin/revenue", nil, 404)["code"])

	// Rotation keeps the old key for a day, revocation doesn't.
	rotated := c.do("POST", "/api/v1/api-keys/"+issued["id"].(string)+"/rotate", nil, 201)
	program.key = issued["token"].(string)
	program.do("GET", "/api/v1/usage", nil, 200)
	program.key = rotated["token"].(string)
	program.do("GET", "/api/v1/usage", nil, 200)
	c.do("DELETE", "/api/v1/api-keys/"+rotated["id"].(string), nil, 204)
	program.do("GET", "/api/v1/usage", nil, 401)
	require.Len(t, c.do("GET", "/api/v1/api-keys", nil, 200)["api_keys"], 3)
	c.do("DELETE", "/api/v1/kolekts/"+k["id"].(string), nil, 204)
	require.EqualValues(t, 10, c.do("GET", "/api/v1/usage", nil, 200)["used"], "deleting gives nothing back")

	// A change is previewed, confirmed, and cancelled again.
	change := c.do("POST", "/api/v1/payments/change-plan", m{"plan_type": "business"}, 200)
	confirm := change["preview"].(m)["confirm"]
	require.Equal(t, "business", c.do("POST", "/api/v1/payments/change-plan", m{"plan_type": "business", "confirm": confirm}, 200)["plan"])
	require.EqualValues(t, 1000, c.do("GET", "/api/v1/usage", nil, 200)["limit"])
	require.Equal(t, true, c.do("POST", "/api/v1/payments/cancel", nil, 200)["subscription"].(m)["cancel_at_period_end"])
	require.Equal(t, false, c.do("POST", "/api/v1/payments/resume", nil, 200)["subscription"].(m)["cancel_at_period_end"])
	// A smaller plan waits for the end of what is paid, and can be withdrawn.
	change = c.do("POST", "/api/v1/payments/change-plan", m{"plan_type": "pro"}, 200)
	c.do("POST", "/api/v1/payments/change-plan", m{"plan_type": "pro", "confirm": change["preview"].(m)["confirm"]}, 200)
	require.EqualValues(t, 1000, c.do("GET", "/api/v1/usage", nil, 200)["limit"])
	require.Contains(t, c.read("/account", 200), "you move to Pro")
	require.Contains(t, c.post("/account/keep", nil, 200), "You stay on Business.")
	require.NotContains(t, c.read("/account", 200), "you move to Pro")
	c.do("POST", "/api/v1/payments/portal-session", nil, 201)
	c.do("POST", "/api/v1/payments/webhook", m{"forged": true}, 400)

	// Bob is on the free plan: ten kolekts, ten requests a minute, and a
	// refusal that names what would help.
	var refused m
	for i := range 12 {
		r, err := json.Marshal(m{"text": fmt.Sprintf("Kolekt %d.", i)})
		require.NoError(t, err)
		resp, err := bob.http.Post(origin+"/api/v1/kolekts", "application/json", bytes.NewReader(r))
		require.NoError(t, err)
		raw, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		if resp.StatusCode != http.StatusCreated {
			require.Equal(t, 429, resp.StatusCode)
			require.NotEmpty(t, resp.Header.Get("Retry-After"))
			require.NoError(t, json.Unmarshal(raw, &refused))
			break
		}
	}
	require.Equal(t, "rate_limited", refused["code"])
	require.Equal(t, "pro", refused["upgrade"].(m)["plan"], "%v", refused)

	// Gail begins a subscription with a card form of her own: the secret is what
	// it needs, asking again makes no second one, and nothing is paid yet.
	gail := newClient(t, origin, d)
	gail.do("POST", "/api/v1/auth/signup", m{"email": "gail@example.com", "password": "a password of some length", "name": "Gail"}, 201)
	begun := gail.do("POST", "/api/v1/subscriptions", m{"plan_type": "pro"}, 201)
	require.Equal(t, "incomplete", begun["status"])
	require.NotEmpty(t, begun["client_secret"])
	require.Equal(t, begun, gail.do("POST", "/api/v1/subscriptions", m{"plan_type": "pro"}, 201))
	require.Equal(t, "invalid", gail.do("POST", "/api/v1/subscriptions", m{"plan_type": "gold"}, 422)["code"])
	require.Equal(t, "free", gail.do("GET", "/api/v1/subscriptions/current", nil, 200)["plan"])

	admin := newClient(t, origin, d)
	admin.do("POST", "/api/v1/auth/login", m{"email": developmentAdmin, "password": developmentPassword}, 200)
	for _, what := range []string{"revenue", "users", "usage", "health", "drift"} {
		require.NotEmpty(t, admin.do("GET", "/api/v1/admin/"+what, nil, 200))
	}
	require.EqualValues(t, 249, admin.do("GET", "/api/v1/admin/projections", nil, 200)["break_even_users_of_the_mix"])
	adminRoutes(t, origin)

	// Ann's code is half a first month to Carl, and not to Ann.
	code := c.do("GET", "/api/v1/referrals", nil, 200)["code"].(string)
	require.Equal(t, "code_refused", c.do("POST", "/api/v1/referrals/apply", m{"code": code}, 409)["code"])
	carl := newClient(t, origin, d)
	carl.do("POST", "/api/v1/auth/signup", m{"email": "carl@example.com", "password": "a password of some length", "name": "Carl", "referral_code": code}, 201)
	carl.do("POST", "/api/v1/referrals/apply", m{"code": code}, 200) // the same once more
	dora := newClient(t, origin, d)
	dora.do("POST", "/api/v1/auth/signup", m{"email": "dora@example.com", "password": "a password of some length", "name": "Dora"}, 201)
	dora.do("POST", "/api/v1/referrals/apply", m{"code": code}, 200)
	half := carl.do("POST", "/api/v1/payments/create-checkout-session", m{"plan_type": "pro"}, 201)
	carl.pay(half["url"].(string))
	carl.paid("$4.99")
	require.EqualValues(t, 2, c.do("GET", "/api/v1/referrals", nil, 200)["uses"])

	privacy(t, c)

	for path, ops := range d.Paths {
		for op := range ops {
			require.True(t, d.seen[op+" "+path], "%s %s is described and was not tried", op, path)
		}
	}
}

// privacy asks for a copy, reads it, agrees to something, and has the account
// erased, but for the grace period.
func privacy(t *testing.T, c *client) {
	type m = map[string]any
	c.do("POST", "/api/v1/gdpr/consents", m{"purpose": "tips", "granted": true}, 201)
	require.NotEmpty(t, c.do("GET", "/api/v1/gdpr/consents", nil, 200)["history"])
	asked := c.do("POST", "/api/v1/gdpr/export", m{"kind": "access"}, 202)
	id := asked["id"].(string)
	require.Eventually(t, func() bool {
		for _, r := range c.do("GET", "/api/v1/gdpr/requests", nil, 200)["requests"].([]any) {
			if r.(m)["id"] == id && r.(m)["state"] == "ready" {
				return true
			}
		}
		return false
	}, 30*time.Second, 50*time.Millisecond)
	link := c.do("GET", "/api/v1/gdpr/requests/"+id+"/link", nil, 200)["url"].(string)
	base, err := url.Parse(c.origin + "/api/v1/gdpr/requests/" + id + "/link")
	require.NoError(t, err)
	archive, err := base.Parse(link)
	require.NoError(t, err)
	resp, err := c.http.Get(archive.String())
	require.NoError(t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	z, err := zip.NewReader(bytes.NewReader(b), int64(len(b)))
	require.NoError(t, err)
	var names []string
	for _, f := range z.File {
		names = append(names, f.Name)
	}
	all := strings.Join(names, " ")
	for _, source := range []string{"kolekts", "usage", "apikeys", "billing", "mailer", "users"} {
		require.Contains(t, all, source)
	}
	require.Equal(t, "cooling", c.do("POST", "/api/v1/gdpr/erasure", nil, 202)["state"])
	require.Equal(t, "cancelled", c.do("DELETE", "/api/v1/gdpr/erasure", nil, 200)["state"])
}

// adminRoutes asserts that machines of the own network get metrics, and others
// nothing.
func adminRoutes(t *testing.T, origin string) {
	for forwarded, want := range map[string]int{"": 200, "203.0.113.9": 404} {
		r, err := http.NewRequest(http.MethodGet, origin+"/metrics", nil)
		require.NoError(t, err)
		if forwarded != "" {
			r.Header.Set("X-Forwarded-For", forwarded)
		}
		resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(r)
		require.NoError(t, err)
		b, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, want, resp.StatusCode)
		require.Equal(t, want == 200, strings.Contains(string(b), "kolekt_kolekts_total "))
	}
}

func TestMigrateNeedsADatabase(t *testing.T) {
	err := run(t.Context(), []string{"migrate"}, func(string) string { return "" }, io.Discard)
	require.ErrorContains(t, err, "DATABASE_URL")
	url := pgtest.URL(t)
	var out bytes.Buffer
	for range 2 {
		require.NoError(t, run(t.Context(), []string{"migrate"}, func(name string) string {
			return map[string]string{"DATABASE_URL": url}[name]
		}, &out))
	}
	require.Contains(t, out.String(), "billing  is at its newest version")
}

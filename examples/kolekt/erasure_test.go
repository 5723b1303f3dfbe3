package main

import (
	"archive/zip"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/apikeys"
	"github.com/kolekt/commerce/billing"
	"github.com/kolekt/commerce/billing/stripesim"
	"github.com/kolekt/commerce/examples/kolekt/internal/users"
	"github.com/kolekt/commerce/examples/kolekt/internal/web"
	"github.com/kolekt/commerce/gdpr"
	"github.com/kolekt/commerce/internal/pgtest"
	"github.com/kolekt/commerce/internal/redistest"
	"github.com/kolekt/commerce/internal/services"
	"github.com/kolekt/commerce/mailer/mailertest"
	"github.com/kolekt/commerce/ratelimit"
	"github.com/kolekt/commerce/usage"
	"github.com/kolekt/commerce/usage/usagepg"
)

// canaries are values that stand in one place each, and that nothing but the
// person's own data can hold.
type canaries map[string]string

func word() string { return "zq" + strings.ToLower(rand.Text()[:14]) }

// needles returns every form in which a text may lie somewhere, in lower case
// but for base64.
func needles(text string) (folded, exact []string) {
	lower := strings.ToLower(text)
	folded = []string{lower, strings.ToLower(url.QueryEscape(text)), strings.ToLower(url.PathEscape(text)), hex.EncodeToString([]byte(text)), hex.EncodeToString([]byte(lower))}
	var ascii strings.Builder
	for _, r := range lower {
		if r < 0x80 {
			ascii.WriteRune(r)
		} else {
			fmt.Fprintf(&ascii, `\u%04x`, r)
		}
	}
	quoted, _ := json.Marshal(lower)
	folded = append(folded, ascii.String(), strings.Trim(string(quoted), `"`))
	for _, text := range []string{text, lower} {
		for _, e := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
			for shift := range 3 {
				// What surrounds the text changes the characters at its ends.
				s := e.EncodeToString(append(make([]byte, shift), text...))
				exact = append(exact, s[(shift*8+5)/6:len(s)-2])
			}
		}
	}
	slices.Sort(folded)
	slices.Sort(exact)
	return slices.Compact(folded), slices.Compact(exact)
}

var (
	hexRun    = regexp.MustCompile(`(?i)\\x((?:[0-9a-f]{2}){6,})`)
	base64Run = regexp.MustCompile(`[A-Za-z0-9+/_-]{24,}`)
)

// search returns the names of the canaries that lie in the bytes: as they are,
// escaped or encoded, in PostgreSQL's hexadecimal bytea, in base64, or in gzip.
func (c canaries) search(b []byte) []string {
	found := map[string]bool{}
	c.look(b, found, 0)
	names := []string{}
	for name := range found {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func (c canaries) look(b []byte, found map[string]bool, depth int) {
	lower := bytes.ToLower(b)
	for name, text := range c {
		folded, exact := needles(text)
		for _, n := range folded {
			if bytes.Contains(lower, []byte(n)) {
				found[name] = true
			}
		}
		for _, n := range exact {
			if bytes.Contains(b, []byte(n)) {
				found[name] = true
			}
		}
	}
	if depth == 3 {
		return
	}
	for _, m := range hexRun.FindAllSubmatch(b, -1) {
		if inner, err := hex.DecodeString(string(m[1])); err == nil {
			c.look(inner, found, depth+1)
		}
	}
	for rest := b; ; {
		i := bytes.Index(rest, []byte{0x1f, 0x8b, 8})
		if i < 0 {
			break
		}
		rest = rest[i:]
		if r, err := gzip.NewReader(bytes.NewReader(rest)); err == nil {
			inner, _ := io.ReadAll(io.LimitReader(r, 16<<20)) // what isn't gzip after all ends early
			c.look(inner, found, depth+1)
		}
		rest = rest[1:]
	}
	if depth > 0 {
		return // base64 of text within base64 is what the shifted needles find
	}
	for _, m := range base64Run.FindAll(b, -1) {
		if bytes.HasPrefix(m, []byte("H4sI")) { // of gzip
			if inner, err := base64.StdEncoding.DecodeString(string(m[:len(m)/4*4])); err == nil {
				c.look(inner, found, depth+1)
			}
		}
	}
}

func TestTheSearchFindsEveryForm(t *testing.T) {
	c := canaries{"name": "Zoë " + word(), "other": word()}
	text := c["name"]
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	_, err := z.Write([]byte("before " + text + " after"))
	require.NoError(t, err)
	require.NoError(t, z.Close())
	quoted, err := json.Marshal(text)
	require.NoError(t, err)
	for form, b := range map[string]string{
		"plain": text, "upper": strings.ToUpper(text), "query": url.QueryEscape(text), "path": url.PathEscape(text), "json": string(quoted),
		"ascii": strings.ReplaceAll(text, "ë", `\u00eb`), "hex": hex.EncodeToString([]byte("x" + text)), "bytea": `\x` + hex.EncodeToString([]byte("x"+text)),
		"base64": base64.StdEncoding.EncodeToString([]byte(text)), "base64 shifted": base64.StdEncoding.EncodeToString([]byte("a" + text + "b")),
		"base64 url": base64.URLEncoding.EncodeToString([]byte("ab" + text + "\xff")), "gzip": "x" + zipped.String(), "gzip in bytea": `\x` + hex.EncodeToString(zipped.Bytes()),
		"gzip in base64": base64.StdEncoding.EncodeToString(zipped.Bytes()),
	} {
		require.Equal(t, []string{"name"}, c.search([]byte("before "+b+" after")), form)
	}
	require.Empty(t, c.search([]byte(strings.Repeat("nothing of it "+word(), 100))))
}

// stand is everything that a deployment consists of, with its storage in reach.
type stand struct {
	t      *testing.T
	origin string
	env    map[string]string
	pool   *pgxpool.Pool
	redis  *redis.Client
	smtp   *mailertest.SMTP
	folder string // of archives, the journal and temporary files
	logs   string
}

func newStand(t *testing.T) *stand {
	s := &stand{t: t, folder: t.TempDir(), logs: filepath.Join(t.TempDir(), "log")}
	database := pgtest.URL(t)
	var err error
	s.pool, err = pgxpool.New(t.Context(), database)
	require.NoError(t, err)
	t.Cleanup(s.pool.Close)
	server := redistest.Server(t, services.RedisConfig{})
	options, err := redis.ParseURL(server.URL())
	require.NoError(t, err)
	s.redis = redis.NewClient(options)
	t.Cleanup(func() { _ = s.redis.Close() })
	s.smtp = mailertest.NewSMTP(t, mailertest.SMTPConfig{TLS: true})
	trust(t, s.smtp)
	t.Setenv("TMPDIR", s.folder) // where archives are prepared; the servers are elsewhere
	s.env = map[string]string{
		"DATABASE_URL": database, "REDIS_URL": server.URL(), "SMTP_SERVER": s.smtp.Host, "SMTP_PORT": strconv.Itoa(s.smtp.Port),
		"FROM_EMAIL": "hello@kolekt.example", "EXPORT_DIR": s.folder, "TRUSTED_PROXIES": "127.0.0.0/8, ::1/128",
	}
	s.origin = s.run(s.env)
	return s
}

// run starts the program with its log in the stand's file.
func (s *stand) run(env map[string]string) string {
	s.t.Helper()
	f, err := os.OpenFile(s.logs, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	require.NoError(s.t, err)
	s.t.Cleanup(func() { _ = f.Close() })
	stderr := os.Stderr
	os.Stderr = f // what the program takes when it starts
	defer func() { os.Stderr = stderr }()
	return start(s.t, env)
}

// trust makes the certificate of a server one that this process trusts.
func trust(t *testing.T, server *mailertest.SMTP) {
	t.Helper()
	conn, err := net.Dial("tcp", net.JoinHostPort(server.Host, strconv.Itoa(server.Port)))
	require.NoError(t, err)
	defer conn.Close()
	buf := make([]byte, 1024)
	say := func(line string) {
		if line != "" {
			_, err := fmt.Fprintf(conn, "%s\r\n", line)
			require.NoError(t, err)
		}
		_, err := conn.Read(buf)
		require.NoError(t, err)
	}
	say("")
	say("EHLO test")
	say("STARTTLS")
	secure := tls.Client(conn, &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // to learn the certificate, on the loopback interface
	require.NoError(t, secure.Handshake())
	file := filepath.Join(t.TempDir(), "roots.pem")
	require.NoError(t, os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: secure.ConnectionState().PeerCertificates[0].Raw}), 0o600))
	t.Setenv("SSL_CERT_FILE", file)
}

// from sends requests as a browser or program of an address.
type from struct{ address, agent string }

func (f from) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("X-Forwarded-For", f.address)
	r.Header.Set("User-Agent", f.agent)
	transport := http.Transport{DisableKeepAlives: true}
	return transport.RoundTrip(r)
}

func (s *stand) client(address, agent string) *client {
	c := newClient(s.t, s.origin, nil)
	c.http.Transport = from{address, agent}
	return c
}

// advance moves the simulated clock, with all that falls due on the way.
func (s *stand) advance(by string) {
	s.t.Helper()
	resp, err := (&http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}).PostForm(s.origin+"/dev/clock", url.Values{"by": {by}})
	require.NoError(s.t, err)
	require.NoError(s.t, resp.Body.Close())
	require.Equal(s.t, http.StatusSeeOther, resp.StatusCode)
}

// stripe calls the simulator's API.
func (s *stand) stripe(method, path string, form url.Values) []byte {
	s.t.Helper()
	r, err := http.NewRequest(method, s.origin+"/stripe"+path, strings.NewReader(form.Encode()))
	require.NoError(s.t, err)
	r.Header.Set("Authorization", "Bearer "+stripesim.DefaultSecretKey)
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := http.DefaultClient.Do(r)
	require.NoError(s.t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(s.t, err)
	require.Equal(s.t, http.StatusOK, resp.StatusCode, "%s %s: %s", method, path, b)
	return b
}

// pays pays on the payment page as somebody.
func (s *stand) pays(c *client, name, email string) {
	s.t.Helper()
	page := c.do("POST", "/api/v1/payments/create-checkout-session", map[string]any{"plan_type": "pro"}, 201)["url"].(string)
	resp, err := c.http.PostForm(page, url.Values{"do": {"pay"}, "email": {email}, "name": {name}, "number": {"4242424242424242"}, "exp": {"12/40"}, "cvc": {"123"}})
	require.NoError(s.t, err)
	b, err := io.ReadAll(resp.Body)
	require.NoError(s.t, err)
	require.NoError(s.t, resp.Body.Close())
	require.Contains(s.t, string(b), "You are on")
}

// late sends events of a customer again, as Stripe does for days, and under new
// IDs, as those that were never delivered.
func (s *stand) late(origin, secret, mark string, events [][]byte) {
	s.t.Helper()
	now := s.now(origin)
	for i, e := range events {
		require.Equal(s.t, http.StatusOK, s.webhook(origin, secret, e, now))
		anew := bytes.Replace(e, []byte(`"evt_`), fmt.Appendf(nil, `"evt_%s%d`, mark, i), 1)
		require.Equal(s.t, http.StatusOK, s.webhook(origin, secret, anew, now))
	}
}

// webhook sends an event as the simulator would.
func (s *stand) webhook(origin, secret string, body []byte, now time.Time) int {
	s.t.Helper()
	r, err := http.NewRequest(http.MethodPost, origin+"/api/v1/payments/webhook", bytes.NewReader(body))
	require.NoError(s.t, err)
	r.Header.Set("Stripe-Signature", stripesim.Sign(secret, now, body))
	resp, err := http.DefaultClient.Do(r)
	require.NoError(s.t, err)
	require.NoError(s.t, resp.Body.Close())
	return resp.StatusCode
}

// now is the time at which an instance lives.
func (s *stand) now(origin string) time.Time {
	if origin != s.origin {
		return time.Now()
	}
	var n int64
	for _, o := range s.objects() {
		n = max(n, o.Created)
	}
	return time.Unix(n, 0).Add(time.Minute)
}

// object is one of the simulator's.
type object struct {
	ID      string `json:"id"`
	Object  string `json:"object"`
	Created int64  `json:"created"`
	raw     []byte
}

var idText = regexp.MustCompile(`"((?:cus|sub|si|in|ii|il|pi|pm|ch|re|cn|dp|cs_test|seti|cbtxn|evt|di|promo)_[A-Za-z0-9_]+)"`)

// objects reads everything that the simulator's API shows: every list, and every
// object whose ID is named anywhere.
func (s *stand) objects() []object {
	s.t.Helper()
	seen := map[string]object{}
	paths := map[string]string{}
	add := func(raw json.RawMessage) {
		var o object
		require.NoError(s.t, json.Unmarshal(raw, &o))
		if o.ID != "" {
			o.raw = raw
			seen[o.ID] = o
		}
	}
	get := func(path string) (json.RawMessage, int) {
		r, err := http.NewRequest(http.MethodGet, s.origin+"/stripe"+path, nil)
		require.NoError(s.t, err)
		r.Header.Set("Authorization", "Bearer "+stripesim.DefaultSecretKey)
		resp, err := http.DefaultClient.Do(r)
		require.NoError(s.t, err)
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		require.NoError(s.t, err)
		return b, resp.StatusCode
	}
	for _, e := range stripesim.Coverage() {
		if e.Method != http.MethodGet {
			continue
		}
		if list, ok := strings.CutSuffix(e.Path, "/{id}"); ok {
			paths[strings.TrimPrefix(list, "/v1/")] = list
		}
		if strings.Contains(e.Path, "{") || strings.Contains(e.Path, "upcoming") || strings.Contains(e.Path, "search") || strings.Contains(e.Path, "preview") {
			continue
		}
		for after := ""; ; {
			query := "?limit=100"
			if e.Path == "/v1/subscriptions" {
				query += "&status=all"
			}
			b, status := get(e.Path + query + after)
			if bytes.Contains(b, []byte("parameter_missing")) {
				break // a list within an object that is read itself
			}
			require.Equal(s.t, http.StatusOK, status, "%s: %s", e.Path, b)
			var page struct {
				Data    []json.RawMessage `json:"data"`
				HasMore bool              `json:"has_more"`
			}
			require.NoError(s.t, json.Unmarshal(b, &page))
			var last object
			for _, raw := range page.Data {
				add(raw)
				require.NoError(s.t, json.Unmarshal(raw, &last))
			}
			if !page.HasMore {
				break
			}
			after = "&starting_after=" + last.ID
		}
	}
	of := map[string]string{
		"cus": "/v1/customers", "sub": "/v1/subscriptions", "in": "/v1/invoices", "ii": "/v1/invoiceitems", "pi": "/v1/payment_intents", "pm": "/v1/payment_methods",
		"ch": "/v1/charges", "re": "/v1/refunds", "cn": "/v1/credit_notes", "cs_test": "/v1/checkout/sessions", "seti": "/v1/setup_intents", "evt": "/v1/events", "promo": "/v1/promotion_codes",
	}
	asked := map[string]bool{}
	for more := true; more; {
		more = false
		for _, o := range seen {
			for _, m := range idText.FindAllSubmatch(o.raw, -1) {
				id := string(m[1])
				prefix := id[:strings.LastIndexByte(id, '_')]
				if asked[id] || seen[id].raw != nil || of[prefix] == "" || strings.Contains(id, "_secret_") {
					continue
				}
				asked[id], more = true, true
				if b, status := get(of[prefix] + "/" + id); status == http.StatusOK {
					add(b)
				}
				if prefix == "cus" {
					if b, status := get("/v1/customers/" + id + "/balance_transactions?limit=100"); status == http.StatusOK {
						add(json.RawMessage(`{"id":"` + id + `/balance","object":"balance","data":` + string(b) + `}`))
					}
				}
			}
		}
	}
	list := make([]object, 0, len(seen))
	for _, o := range seen {
		list = append(list, o)
	}
	return list
}

// dump is what pg_dump writes of a database's schema, as text.
func (s *stand) dump(database string) []byte {
	s.t.Helper()
	return s.postgres("pg_dump", database, "--no-owner", "--no-privileges", "--schema="+s.schema())
}

func (s *stand) schema() string {
	return s.pool.Config().ConnConfig.RuntimeParams["search_path"]
}

// postgres runs one of PostgreSQL's programs on a database.
func (s *stand) postgres(program, database string, args ...string) []byte {
	s.t.Helper()
	binary, err := services.Binary(program)
	if err != nil {
		pgtest.Missing(s.t, err)
	}
	c := s.pool.Config().ConnConfig
	cmd := exec.Command(binary, append([]string{"-h", c.Host, "-p", strconv.Itoa(int(c.Port)), "-U", c.User, "-d", database}, args...)...)
	cmd.Env = append(os.Environ(), "PGPASSWORD="+c.Password)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(s.t, err, "%s: %s", program, stderr.Bytes())
	return out
}

// restore makes a new database of a dump and returns its name and address.
func (s *stand) restore(dump []byte) (name, address string) {
	s.t.Helper()
	name = "restored_" + strings.ToLower(rand.Text()[:10])
	_, err := s.pool.Exec(s.t.Context(), "create database "+name)
	require.NoError(s.t, err)
	s.t.Cleanup(func() {
		ctx := context.Background()
		conn, err := pgx.Connect(ctx, s.env["DATABASE_URL"])
		if err == nil {
			_, err = conn.Exec(ctx, "drop database "+name+" with (force)")
			_ = conn.Close(ctx)
		}
		if err != nil {
			s.t.Errorf("drop %s: %v", name, err)
		}
	})
	file := filepath.Join(s.t.TempDir(), "dump.sql")
	require.NoError(s.t, os.WriteFile(file, dump, 0o600))
	s.postgres("psql", name, "-q", "-v", "ON_ERROR_STOP=1", "-f", file)
	u, err := url.Parse(s.env["DATABASE_URL"])
	require.NoError(s.t, err)
	u.Path = "/" + name
	return name, u.String()
}

// dumpRedis is every key and value, as DUMP has them and by type.
func (s *stand) dumpRedis() []byte {
	s.t.Helper()
	ctx := s.t.Context()
	var out bytes.Buffer
	keys := s.redis.Scan(ctx, 0, "*", 1000).Iterator()
	for keys.Next(ctx) {
		key := keys.Val()
		raw, err := s.redis.Dump(ctx, key).Result()
		if errors.Is(err, redis.Nil) {
			continue // expired meanwhile
		}
		require.NoError(s.t, err)
		fmt.Fprintf(&out, "%s\n%s\n", key, raw)
		switch s.redis.Type(ctx, key).Val() {
		case "string":
			fmt.Fprintln(&out, s.redis.Get(ctx, key).Val())
		case "hash":
			fmt.Fprintln(&out, s.redis.HGetAll(ctx, key).Val())
		case "list":
			fmt.Fprintln(&out, s.redis.LRange(ctx, key, 0, -1).Val())
		case "set":
			fmt.Fprintln(&out, s.redis.SMembers(ctx, key).Val())
		case "zset":
			fmt.Fprintln(&out, s.redis.ZRange(ctx, key, 0, -1).Val())
		case "stream":
			fmt.Fprintln(&out, s.redis.XRange(ctx, key, "-", "+").Val())
		}
	}
	require.NoError(s.t, keys.Err())
	return out.Bytes()
}

// dumpFiles is every file below the folder, with its name.
func (s *stand) dumpFiles() []byte {
	s.t.Helper()
	var out bytes.Buffer
	require.NoError(s.t, filepath.WalkDir(s.folder, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		out.WriteString(path + "\n")
		out.Write(b)
		return err
	}))
	return out.Bytes()
}

// request waits until the newest request of a kind is in a state.
func (s *stand) request(pool *pgxpool.Pool, kind gdpr.Kind, state gdpr.State) (id string, body []byte) {
	s.t.Helper()
	require.Eventually(s.t, func() bool {
		var now string
		err := pool.QueryRow(s.t.Context(), `select id, state, body from gdpr_requests where kind = $1 order by received_at desc limit 1`, kind).Scan(&id, &now, &body)
		return err == nil && now == string(state)
	}, 60*time.Second, 100*time.Millisecond, "%s never was %s: %s", kind, state, body)
	return id, body
}

// The whole way of a person through the product, out of it, and not back.
func TestAPersonIsExportedWholeAndErasedEverywhere(t *testing.T) {
	s := newStand(t)
	ctx := t.Context()
	type m = map[string]any

	// Three people: who invited, the person, and who was invited.
	mail := word()
	c := canaries{
		"name": "Zoë " + word(), "email": mail + "@" + word() + ".example", "kolekt": word(), "image": word(), "key name": word(), "address": "198.51.100.77",
		"user agent": word(), "usage property": word(), "usage event": word(), "consent": word(), "card owner": word(), "card mail": word() + "@" + word() + ".example",
		"phone": "+49" + strconv.Itoa(int(time.Now().UnixNano()%1e9)+1e9), "street": word(), "town": word(), "note": word(),
	}
	others := canaries{"bob's name": "Bob " + word(), "bob's email": word() + "@" + word() + ".example", "carl's name": "Carl " + word(), "carl's email": word() + "@" + word() + ".example", "bob's kolekt": word(), "carl's kolekt": word()}
	password := "a password " + word()

	bob := s.client("203.0.113.5", "Browser of Bob")
	bob.do("POST", "/api/v1/auth/signup", m{"email": others["bob's email"], "password": "a password of Bob's", "name": others["bob's name"], "referral_code": "NOSUCHCODE"}, 201)
	s.pays(bob, others["bob's name"], others["bob's email"])
	bob.do("POST", "/api/v1/kolekts", m{"text": others["bob's kolekt"]}, 201)
	code := bob.do("GET", "/api/v1/referrals", nil, 200)["code"].(string)

	zoe := s.client(c["address"], "Browser of "+c["user agent"])
	zoe.do("POST", "/api/v1/auth/signup", m{"email": c["email"], "password": password, "name": c["name"], "referral_code": code}, 201)
	s.pays(zoe, c["card owner"], c["card mail"])
	var account, customer, hash string
	require.NoError(t, s.pool.QueryRow(ctx, `select u.id, b.customer_id, u.hash from users u join billing_accounts b on b.account = u.id where email = $1`, c["email"]).Scan(&account, &customer, &hash))
	c["account"] = account
	s.stripe("POST", "/v1/customers/"+customer, url.Values{
		"phone": {c["phone"]}, "address[line1]": {c["street"]}, "shipping[name]": {c["name"]}, "shipping[address][city]": {c["town"]}, "description": {c["note"]},
	})
	issued := zoe.do("POST", "/api/v1/api-keys", m{"name": c["key name"], "permissions": []string{"read", "write"}}, 201)
	program := s.client(c["address"], "Program of "+c["user agent"])
	program.key = issued["token"].(string)
	program.do("POST", "/api/v1/kolekts", m{"text": "A thought: " + c["kolekt"], "images": []string{"https://images.example/" + c["image"] + ".png"}}, 201)
	zoe.do("POST", "/api/v1/gdpr/consents", m{"purpose": "tips", "granted": true, "method": "form " + c["consent"], "locale": "de"}, 201)
	meters, err := usage.New(usagepg.New(s.pool), usage.Config{Meters: []usage.Meter{{Name: "imports"}}})
	require.NoError(t, err)
	require.NoError(t, meters.Record(ctx, usage.Event{ID: c["usage event"], Account: account, Meter: "imports", Properties: usage.Properties{usage.String("document", c["usage property"])}}))
	forgot, err := zoe.http.PostForm(s.origin+"/forgot", url.Values{"email": {c["email"]}})
	require.NoError(t, err)
	require.NoError(t, forgot.Body.Close())

	carl := s.client("203.0.113.9", "Browser of Carl")
	carl.do("POST", "/api/v1/auth/signup", m{
		"email": others["carl's email"], "password": "a password of Carl's", "name": others["carl's name"], "referral_code": zoe.do("GET", "/api/v1/referrals", nil, 200)["code"],
	}, 201)
	s.pays(carl, others["carl's name"], others["carl's email"])
	carl.do("POST", "/api/v1/kolekts", m{"text": others["carl's kolekt"]}, 201)
	stripeEvents := s.eventsOf(customer)
	s.advance("week")
	s.advance("month") // a renewal, and the reward for Carl

	// The copy: everything of hers, nothing of anybody else, no key to anything.
	zoe.do("POST", "/api/v1/auth/login", m{"email": c["email"], "password": password}, 200)
	var session string
	u, err := url.Parse(s.origin)
	require.NoError(t, err)
	for _, cookie := range zoe.http.Jar.Cookies(u) {
		session = cookie.Value
	}
	require.NotEmpty(t, session)
	require.Eventually(t, func() bool { // the last use of a key is written down now and then
		var used *string
		err := s.pool.QueryRow(ctx, `select k::text from apikeys_keys k where k::text like '%' || $1 || '%'`, c["user agent"]).Scan(&used)
		return err == nil
	}, 90*time.Second, 200*time.Millisecond)
	zoe.do("POST", "/api/v1/gdpr/export", m{"kind": "access"}, 202)
	id, _ := s.request(s.pool, gdpr.Access, gdpr.Ready)
	link, err := url.Parse(s.origin + "/api/v1/gdpr/requests/" + id + "/link")
	require.NoError(t, err)
	link, err = link.Parse(zoe.do("GET", link.Path, nil, 200)["url"].(string))
	require.NoError(t, err)
	resp, err := zoe.http.Get(link.String())
	require.NoError(t, err)
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	copied := unzipped(t, b)
	for name := range c {
		require.Contains(t, c.search(copied), name, "in the copy")
	}
	require.Empty(t, others.search(copied), "others in the copy")
	secrets := canaries{"password": password, "hash": hash, "key": program.key, "session": session, "secret": developmentSecret}
	for what, re := range map[string]string{"link to a new password": `/reset\?token=([\w-]+)`, "link that proves the address": `/verify\?token=([\w-]+)`} {
		require.Eventually(t, func() bool { // the mail may still be on its way
			for _, r := range s.smtp.Received() {
				if text := plain(r.Data); strings.Contains(r.To, mail) {
					if found := regexp.MustCompile(re).FindStringSubmatch(text); found != nil {
						secrets[what] = found[1]
					}
				}
			}
			return secrets[what] != ""
		}, time.Minute, 50*time.Millisecond, what)
	}
	require.Empty(t, secrets.search(copied), "secrets in the copy")
	require.NotRegexp(t, `\$argon2|_secret_[A-Za-z0-9]|whsec_|sk_test_`, string(copied))
	t.Logf("the copy has %d KB, %d canaries in it and nothing of others", len(copied)>>10, len(c))

	// The control of the search: before, everything is everywhere.
	backup := s.dump(s.database())
	for name := range c {
		require.Contains(t, c.search(backup), name, "in the database before")
	}
	program.do("GET", "/api/v1/usage", nil, 200)
	require.NotEmpty(t, c.search(s.dumpRedis()), "in Redis before")
	stripeEvents = append(stripeEvents, s.eventsOf(customer)...)
	require.Greater(t, len(stripeEvents), 15)

	// The erasure, to its end.
	require.Equal(t, "cooling", zoe.do("POST", "/api/v1/gdpr/erasure", nil, 202)["state"])
	s.request(s.pool, gdpr.Erasure, gdpr.Cooling)
	s.advance("week")
	_, body := s.request(s.pool, gdpr.Erasure, gdpr.Done)
	s.settled(s.pool) // what the end itself led to at Stripe comes back as events
	kept := retained(t, body)
	for record, r := range kept {
		t.Logf("retained: %d %s until %s: %s (Art. %s)", r.Count, record, r.Until.Format(time.DateOnly), r.Ground, r.Article)
	}
	s.nothingLeft(c, s.database(), kept)
	require.Contains(t, plain(s.smtp.Received()[len(s.smtp.Received())-1].Data), "erased", "the last mail")
	for _, where := range [][]byte{s.dump(s.database())} {
		for name := range others {
			require.Contains(t, others.search(where), name, "others keep their data")
		}
	}

	// Nothing that comes late brings her back: the old key, the old session, a
	// message of a queue, what Stripe sends again and what it never sent.
	program.do("POST", "/api/v1/kolekts", m{"text": "late " + c["kolekt"]}, 401)
	zoe.do("GET", "/api/v1/usage", nil, 401)
	s.late(s.origin, "whsec_simulator", "late", stripeEvents)
	s.settled(s.pool)
	s.nothingLeft(c, s.database(), kept)

	// Whoever gets the address later is somebody else.
	heir := s.client("203.0.113.77", "Browser of an heir")
	heir.do("POST", "/api/v1/auth/signup", m{"email": c["email"], "password": "a password of the heir", "name": "The Heir"}, 201)
	heir.do("POST", "/api/v1/kolekts", m{"text": "The heir's own words."}, 201)
	other := s.run(s.with("DATABASE_URL", s.env["DATABASE_URL"])) // a start at which the journal is compared
	require.NotEqual(t, s.origin, other)
	require.Len(t, heir.do("GET", "/api/v1/kolekts", nil, 200)["kolekts"], 1)

	// A backup that still has her is restored, and the program started on it.
	name, address := s.restore(backup)
	require.Contains(t, c.search(s.dump(name)), "email", "the control: the backup has her")
	second := s.run(s.with("DATABASE_URL", address))
	restored, err := pgxpool.New(ctx, address)
	require.NoError(t, err)
	defer restored.Close()
	_, body = s.request(restored, gdpr.Erasure, gdpr.Done)
	s.late(second, "whsec_second", "again", stripeEvents)
	s.settled(restored)
	s.nothingLeft(c, name, retained(t, body))
	leftOut(s, c, backup, account)

	s.origin = second
	heir = s.client("203.0.113.77", "Browser of an heir")
	heir.do("POST", "/api/v1/auth/signup", m{"email": c["email"], "password": "a password of the heir", "name": "The Heir"}, 201)
	third := s.run(s.with("DATABASE_URL", address))
	require.NotEqual(t, second, third)
	heir.do("GET", "/api/v1/usage", nil, 200)
}

// leftOut is the control: with any source left out, the search finds what it
// would have erased. (Kolekts aren't among them: they go with the login.)
func leftOut(s *stand, c canaries, backup []byte, account string) {
	t, ctx := s.t, s.t.Context()
	names := []string{"usage", "mailer"}
	if os.Getenv("COMMERCE_PROVE") != "" {
		names = []string{"apikeys", "billing", "consents", "ledger", "mailer", "referral", "usage", "users"}
	}
	for _, name := range append(names, "") {
		database, address := s.restore(backup)
		env := s.with("DATABASE_URL", address)
		cfg, err := LoadConfig(func(key string) string { return env[key] })
		require.NoError(t, err)
		stores, err := openStores(ctx, cfg)
		require.NoError(t, err)
		h := assemble(t, cfg, stores)
		sources := h.sources(time.Now)
		for i, source := range sources {
			if source.Describe().Name == name {
				sources[i] = absent{source}
			}
		}
		store := stores.Privacy
		if name == "consents" { // gdpr's own source
			store = forgetful{store}
		}
		privacy, err := gdpr.New(store, gdpr.Config{
			Pepper: cfg.Derive("gdpr"), Sources: sources, Files: gdpr.DirFiles(t.TempDir()), Grace: -1,
			Subject: func(ctx context.Context, id string) (gdpr.Subject, error) {
				u, err := h.users.Store().ByID(ctx, id)
				return subject(u), err
			},
		})
		require.NoError(t, err)
		r, err := privacy.Ask(ctx, gdpr.Erasure, account, true)
		require.NoError(t, err)
		_, err = privacy.Work(ctx)
		require.NoError(t, err)
		r, err = privacy.Request(ctx, r.ID)
		require.NoError(t, err)
		require.Equal(t, gdpr.Done, r.State, "without %q: %+v", name, r.Steps)
		found := c.search(s.dump(database))
		if name == "" {
			require.Empty(t, found, "with all sources")
		} else {
			require.NotEmpty(t, found, "without %q", name)
			t.Logf("without %s the search finds %v", name, found)
		}
		stores.Close()
	}
}

// absent is a source that does nothing.
type absent struct{ gdpr.Source }

func (absent) Export(context.Context, gdpr.Subject, *gdpr.Sink) error { return nil }

func (absent) Erase(context.Context, gdpr.Subject, string) (gdpr.Outcome, error) {
	return gdpr.Outcome{Done: true}, nil
}

// forgetful is a store that keeps consents for ever, and shows none.
type forgetful struct{ gdpr.Store }

func (forgetful) DeleteConsents(context.Context, string) (int64, error) { return 0, nil }

func (forgetful) Consents(context.Context, string) ([]gdpr.ConsentEvent, error) { return nil, nil }

// assemble makes the holders of personal data as serve does.
func assemble(t *testing.T, cfg Config, stores *Stores) holders {
	t.Helper()
	must := func(err error) { t.Helper(); require.NoError(t, err) }
	log := slog.New(slog.DiscardHandler)
	catalog, err := billing.LoadCatalog(files, "plans.yaml")
	must(err)
	stripe, err := openStripe(cfg, catalog, nil, log)
	must(err)
	h := holders{kolekts: stores.Kolekts, ledger: stores.Ledger, stores: stores}
	h.users, err = users.New(stores.Users, cfg.SecretKey, users.Config{})
	must(err)
	h.mail, err = newMails(cfg, stores, h.users, time.Now, log)
	must(err)
	h.billing, err = billing.New(catalog, stores.Billing, stripe.Gateway, billing.Config{Customer: h.mail.Person})
	must(err)
	h.usage, err = usage.New(stores.Usage, usage.Config{Meters: []usage.Meter{{Name: "kolekts"}, {Name: "imports"}}})
	must(err)
	h.keys, err = apikeys.New(stores.Keys, apikeys.Config{
		Prefix: "kolekt", Environment: cfg.Environment(), Scopes: web.Scopes(), Bus: stores.KeyBus, Peppers: []apikeys.Pepper{{ID: 1, Secret: cfg.Derive("apikeys")}},
	})
	must(err)
	h.requests, err = ratelimit.New(stores.Limits, ratelimit.Config{Name: "requests"})
	must(err)
	h.logins, err = ratelimit.New(stores.Limits, ratelimit.Config{Name: "logins"})
	must(err)
	h.referral, err = newReferrals(cfg, stores, h.billing, h.mail, time.Now, log)
	must(err)
	return h
}

// with is the environment of a further instance beside the first one's Stripe.
func (s *stand) with(name, value string) map[string]string {
	env := map[string]string{"STRIPE_SECRET_KEY": stripesim.DefaultSecretKey, "STRIPE_WEBHOOK_SECRET": "whsec_second", "STRIPE_API_URL": s.origin + "/stripe"}
	for k, v := range s.env {
		env[k] = v
	}
	env[name] = value
	return env
}

func (s *stand) database() string { return s.pool.Config().ConnConfig.Database }

// eventsOf returns the simulator's events about a customer, as it sends them.
func (s *stand) eventsOf(customer string) [][]byte {
	var list [][]byte
	for _, o := range s.objects() {
		if o.Object == "event" && bytes.Contains(o.raw, []byte(customer)) {
			list = append(list, o.raw)
		}
	}
	return list
}

// settled waits until the simulator has delivered all of its events, and none
// is pending in the inbox.
func (s *stand) settled(pool *pgxpool.Pool) {
	s.t.Helper()
	require.Eventually(s.t, func() bool {
		if bytes.Contains(s.stripe(http.MethodGet, "/v1/events?limit=1&delivery_success=false", nil), []byte(`"evt_`)) {
			return false
		}
		var n int
		err := pool.QueryRow(s.t.Context(), `select count(*) from billing_events where status = 'pending'`).Scan(&n)
		return err == nil && n == 0
	}, 60*time.Second, 100*time.Millisecond)
}

// retained are the records that a finished request reports as retained.
func retained(t *testing.T, body []byte) map[string]gdpr.Retained {
	t.Helper()
	var r struct{ Steps []gdpr.Step }
	require.NoError(t, json.Unmarshal(body, &r))
	all := map[string]gdpr.Retained{}
	for _, step := range r.Steps {
		for _, k := range step.Retained {
			require.NotEmpty(t, k.Ground)
			require.NotEmpty(t, k.Article)
			require.False(t, k.Until.IsZero())
			all[k.Record] = k
		}
	}
	return all
}

// nothingLeft searches everything for the canaries. Only Stripe may have some, in
// the kinds of objects that are reported as retained.
func (s *stand) nothingLeft(c canaries, database string, kept map[string]gdpr.Retained) {
	s.t.Helper()
	dump := s.dump(database)
	s.clean(c, "the database", dump)
	s.clean(c, "Redis", s.dumpRedis())
	s.clean(c, "files", s.dumpFiles())
	logs, err := os.ReadFile(s.logs)
	require.NoError(s.t, err)
	require.Contains(s.t, string(logs), "code at sign-up", "the control: the log is this one")
	s.clean(c, "the log", logs)
	kinds := map[string]int{}
	for _, o := range s.objects() {
		found := c.search(o.raw)
		if len(found) == 0 {
			continue
		}
		record := map[string]string{"invoice": "provider_invoice", "charge": "provider_charge", "checkout.session": "provider_checkout", "subscription": "provider_subscription", "event": "provider_event_log"}[o.Object]
		kinds[o.Object]++
		if kept[record].Ground == "" {
			s.t.Errorf("%s in Stripe's %s %s, which isn't reported as retained: %s", found, o.Object, o.ID, o.raw)
		}
	}
	s.t.Logf("database %d KB, log %d KB: none; at Stripe, as reported: %v", len(dump)>>10, len(logs)>>10, kinds)
}

// clean asserts that nothing is found, and names the lines where something is.
func (s *stand) clean(c canaries, where string, b []byte) {
	s.t.Helper()
	found := c.search(b)
	if len(found) == 0 {
		return
	}
	s.t.Errorf("%s in %s", found, where)
	for _, line := range bytes.Split(b, []byte("\n")) {
		if found := c.search(line); len(found) > 0 {
			s.t.Errorf("%s in %s: %.300s", found, where, line)
		}
	}
}

// unzipped is every file of an archive, one after the other.
func unzipped(t *testing.T, b []byte) []byte {
	t.Helper()
	z, err := zip.NewReader(bytes.NewReader(b), int64(len(b)))
	require.NoError(t, err)
	var out bytes.Buffer
	for _, f := range z.File {
		r, err := f.Open()
		require.NoError(t, err)
		_, err = io.Copy(&out, r) //nolint:gosec // our own archive
		require.NoError(t, err)
		require.NoError(t, r.Close())
	}
	return out.Bytes()
}

// plain undoes quoted-printable as far as a search for links wants it.
func plain(b []byte) string {
	return strings.NewReplacer("=\r\n", "", "=3D", "=").Replace(string(b))
}

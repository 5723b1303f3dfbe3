package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os/exec"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/internal/pgtest"
	"github.com/kolekt/commerce/internal/redistest"
)

// program uses the JSON API.
type program struct {
	t      *testing.T
	origin string
	key    string
	http   *http.Client
}

func newProgram(t *testing.T, origin string) *program {
	jar, err := cookiejar.New(nil)
	require.NoError(t, err)
	return &program{t: t, origin: origin, http: &http.Client{Jar: jar, Timeout: 20 * time.Second}}
}

// send returns the status and the answer; the error is that of a connection.
func (p *program) send(method, path string, body any) (int, map[string]any, error) {
	b, err := json.Marshal(body)
	if err != nil {
		return 0, nil, err
	}
	r, err := http.NewRequest(method, p.origin+path, bytes.NewReader(b))
	if err != nil {
		return 0, nil, err
	}
	if p.key != "" {
		r.Header.Set("Authorization", "Bearer "+p.key)
	}
	resp, err := p.http.Do(r)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, nil, err
	}
	out := map[string]any{}
	_ = json.Unmarshal(raw, &out) // an answer without JSON has no fields
	return resp.StatusCode, out, nil
}

func (p *program) must(method, path string, body any, status int) map[string]any {
	p.t.Helper()
	got, out, err := p.send(method, path, body)
	require.NoError(p.t, err)
	require.Equal(p.t, status, got, "%s %s: %v", method, path, out)
	return out
}

func TestAKilledInstanceLosesNothingAndCountsExactly(t *testing.T) {
	one, two := port(t), port(t)
	const secret = "whsec_of_this_test"
	// Events go to either instance, as through nginx: one that was answered is
	// the deployment's, whoever of the two dies then.
	stripe := simulator(t, alternately(t, "http://localhost:"+one, "http://localhost:"+two)+"/api/v1/payments/webhook", secret)
	env := []string{
		"DEBUG=true", "SECRET_KEY=0123456789abcdef0123456789abcdef", "DATABASE_URL=" + pgtest.URL(t), "REDIS_URL=" + redistest.URL(t), "EXPORT_DIR=" + t.TempDir(),
		"STRIPE_SECRET_KEY=sk_test_simulator", "STRIPE_WEBHOOK_SECRET=" + secret, "STRIPE_API_URL=" + stripe,
	}
	serve(t, append(env, "PORT="+two)...)
	victim := exec.Command(binary)
	victim.Env = append(env, "PORT="+one, "HOME="+t.TempDir())
	require.NoError(t, victim.Start())
	origins := []string{"http://localhost:" + one, "http://localhost:" + two}
	answers(t, origins[0]+"/ready")

	ann := newProgram(t, origins[1])
	ann.must("POST", "/api/v1/auth/signup", map[string]any{"email": "ann@example.com", "password": password, "name": "Ann"}, 201)
	page := ann.must("POST", "/api/v1/payments/create-checkout-session", map[string]any{"plan_type": "enterprise"}, 201)["url"].(string)
	resp, err := ann.http.PostForm(page, url.Values{"do": {"pay"}, "email": {"ann@example.com"}, "name": {"Ann"}, "number": {good}, "exp": {"12/40"}, "cvc": {"123"}})
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	key := ann.must("POST", "/api/v1/api-keys", map[string]any{"name": "load", "permissions": []string{"read", "write"}}, 201)["token"].(string)

	var mu sync.Mutex
	acknowledged := map[string]bool{}
	var broken atomic.Int64
	var killed atomic.Bool
	var wg sync.WaitGroup
	const workers, each = 8, 60
	for w := range workers {
		wg.Go(func() {
			p := newProgram(t, origins[w%2])
			p.key = key
			for i := range each {
				status, k, err := p.send("POST", "/api/v1/kolekts", map[string]any{"text": fmt.Sprintf("Worker %d says number %d.", w, i)})
				switch {
				case err == nil && status == http.StatusCreated:
					mu.Lock()
					acknowledged[k["id"].(string)] = true
					mu.Unlock()
				case err == nil:
					t.Errorf("status %d: %v", status, k)
					return
				case !killed.Load():
					t.Errorf("before the kill: %v", err)
					return
				default:
					broken.Add(1)
					p.origin = origins[1]
				}
				if w == 0 && i == each/3 {
					killed.Store(true)
					if err := victim.Process.Kill(); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	// Meanwhile people sign up and pay.
	var joined, paid []string
	const signers, people = 2, 10
	for s := range signers {
		wg.Go(func() {
			for i := range people {
				mail := fmt.Sprintf("signer%d-%d@example.com", s, i)
				at := origins[(s+i)%2]
				if killed.Load() {
					at = origins[1]
				}
				in, out := join(t, at, mail, stripe)
				mu.Lock()
				if in {
					joined = append(joined, mail)
				}
				if out {
					paid = append(paid, mail)
				}
				mu.Unlock()
				if !in || !out {
					broken.Add(1)
					if !killed.Load() {
						t.Errorf("before the kill: %s", mail)
					}
				}
			}
		})
	}
	wg.Wait()
	_ = victim.Wait() // it was killed
	require.Positive(t, broken.Load(), "the kill broke no request: it proves nothing")

	reader := newProgram(t, origins[1])
	reader.key = key
	stored := map[string]bool{}
	for before := ""; ; {
		list := reader.must("GET", "/api/v1/kolekts?before="+before, nil, 200)
		for _, k := range list["kolekts"].([]any) {
			stored[k.(map[string]any)["id"].(string)] = true
		}
		next, more := list["before"].(string)
		if before = next; !more {
			break
		}
	}
	for id := range acknowledged {
		require.True(t, stored[id], "%s was acknowledged and is lost", id)
	}
	used := int(reader.must("GET", "/api/v1/usage", nil, 200)["used"].(float64))
	require.Equal(t, len(stored), used, "what is counted is what is there")
	// A request that broke may have been done; none was done twice.
	require.LessOrEqual(t, len(stored), len(acknowledged)+int(broken.Load()))

	for _, mail := range joined {
		p := newProgram(t, origins[1])
		p.must("POST", "/api/v1/auth/login", map[string]any{"email": mail, "password": password}, 200)
		if slices.Contains(paid, mail) {
			require.Eventually(t, func() bool { return p.must("GET", "/api/v1/subscriptions/current", nil, 200)["plan"] == "business" }, 30*time.Second, 200*time.Millisecond, "%s has paid", mail)
		}
	}
	require.NotEmpty(t, paid)
	t.Logf("%d of %d sign-ups and %d payments acknowledged, none lost", len(joined), signers*people, len(paid))
	t.Logf("%d acknowledged, %d stored, %d counted, %d requests broken by the kill", len(acknowledged), len(stored), used, broken.Load())
}

// join signs somebody up and pays; it reports what was acknowledged.
func join(t *testing.T, origin, mail, stripe string) (joined, paid bool) {
	p := newProgram(t, origin)
	p.http.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	status, out, err := p.send("POST", "/api/v1/auth/signup", map[string]any{"email": mail, "password": password, "name": "Somebody"})
	if err != nil {
		return false, false
	}
	if status != http.StatusCreated {
		t.Errorf("%s: %d %v", mail, status, out)
		return false, false
	}
	status, out, err = p.send("POST", "/api/v1/payments/create-checkout-session", map[string]any{"plan_type": "business"})
	if err != nil {
		return true, false
	}
	if status != http.StatusCreated {
		t.Errorf("%s: %d %v", mail, status, out)
		return true, false
	}
	resp, err := p.http.PostForm(out["url"].(string), url.Values{"do": {"pay"}, "email": {mail}, "name": {"Somebody"}, "number": {good}, "exp": {"12/40"}, "cvc": {"123"}})
	if err != nil {
		t.Errorf("%s: the simulator isn't killed: %v", stripe, err)
		return true, false
	}
	return true, resp.Body.Close() == nil && resp.StatusCode == http.StatusSeeOther
}

// alternately passes requests on to the instances in turn, and to the next one
// when one isn't there.
func alternately(t *testing.T, origins ...string) string {
	var turn atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		first := int(turn.Add(1))
		for i := range origins {
			to, err := http.NewRequestWithContext(r.Context(), r.Method, origins[(first+i)%len(origins)]+r.URL.RequestURI(), bytes.NewReader(body))
			if err != nil {
				return
			}
			to.Header = r.Header.Clone()
			resp, err := http.DefaultTransport.RoundTrip(to)
			if err != nil {
				continue
			}
			defer resp.Body.Close()
			w.WriteHeader(resp.StatusCode)
			_, _ = io.Copy(w, resp.Body) // the simulator reads the status alone
			return
		}
		w.WriteHeader(http.StatusBadGateway)
	}))
	t.Cleanup(s.Close)
	return s.URL
}

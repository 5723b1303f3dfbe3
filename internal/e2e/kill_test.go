package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os/exec"
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
	// Events go to the instance that lives on.
	stripe := simulator(t, "http://localhost:"+two+"/api/v1/payments/webhook", secret)
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
	t.Logf("%d acknowledged, %d stored, %d counted, %d requests broken by the kill", len(acknowledged), len(stored), used, broken.Load())
}

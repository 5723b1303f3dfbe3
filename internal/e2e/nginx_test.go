package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/internal/pgtest"
	"github.com/kolekt/commerce/internal/redistest"
)

// certificate makes one for localhost.
func certificate(t *testing.T, dir string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"localhost"}}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	for name, block := range map[string]*pem.Block{"fullchain.pem": {Type: "CERTIFICATE", Bytes: cert}, "privkey.pem": {Type: "PRIVATE KEY", Bytes: private}} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600))
	}
}

// port returns a free one.
func port(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	return fmt.Sprint(l.Addr().(*net.TCPAddr).Port)
}

// nginx runs the deployment's own configuration, but for names, ports and
// folders.
func nginx(t *testing.T, http, https string, apps ...string) {
	t.Helper()
	path, err := exec.LookPath("nginx")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("no nginx: %v: apt-get install nginx", err)
		}
		t.Skipf("skipped, no nginx: %v: apt-get install nginx", err)
	}
	dir := t.TempDir()
	certificate(t, dir)
	b, err := os.ReadFile(filepath.Join("..", "..", "examples", "kolekt", "deploy", "nginx.conf"))
	require.NoError(t, err)
	conf := strings.NewReplacer(
		"listen 80;", "listen 127.0.0.1:"+http+";", "listen 443 ssl http2;", "listen 127.0.0.1:"+https+" ssl http2;",
		"/etc/nginx/tls/", dir+"/", "/var/run/nginx.pid", dir+"/nginx.pid",
		"app1:8000", apps[0], "app2:8000", apps[1],
		"http {\n", "daemon off;\nhttp {\n    client_body_temp_path "+dir+"/body; proxy_temp_path "+dir+"/proxy; fastcgi_temp_path "+dir+"/fastcgi; uwsgi_temp_path "+dir+"/uwsgi; scgi_temp_path "+dir+"/scgi;\n",
		"https://$host$request_uri", "https://$host:"+https+"$request_uri",
	).Replace(string(b))
	file := filepath.Join(dir, "nginx.conf")
	require.NoError(t, os.WriteFile(file, []byte(conf), 0o600))
	// As the tests run, and not as another user who can't read the folder.
	args := []string{"-p", dir, "-c", file, "-e", filepath.Join(dir, "error.log"), "-g", "user root;"}
	if os.Getuid() != 0 {
		args = args[:len(args)-2]
	}
	out, err := exec.Command(path, append(args, "-t")...).CombinedOutput()
	require.NoError(t, err, "nginx -t: %s", out)
	cmd := exec.Command(path, args...)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait()
	})
}

// simulator runs the simulated Stripe as a process of its own, so that two
// instances share one.
func simulator(t *testing.T, webhook, secret string) string {
	t.Helper()
	type price struct {
		LookupKey  string
		UnitAmount int64
		Interval   string
	}
	type product struct {
		Name   string
		Prices []price
	}
	var products []product
	for plan, amount := range map[string]int64{"pro": 999, "business": 2999, "enterprise": 9999} {
		products = append(products, product{"Kolekt " + strings.ToUpper(plan[:1]) + plan[1:], []price{{plan + "_month_usd", amount, "month"}, {plan + "_year_usd", 10 * amount, "year"}}})
	}
	b, err := json.Marshal(products)
	require.NoError(t, err)
	file := filepath.Join(t.TempDir(), "catalog.json")
	require.NoError(t, os.WriteFile(file, b, 0o600))
	addr := "127.0.0.1:" + port(t)
	cmd := exec.Command(stripesim, "-addr", addr, "-base", "http://localhost:"+addr[strings.LastIndexByte(addr, ':')+1:], "-webhook", webhook, "-secret", secret, "-catalog", file)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait()
	})
	origin := "http://localhost:" + addr[strings.LastIndexByte(addr, ':')+1:]
	answers(t, origin+"/")
	return origin
}

// insecure accepts the test's own certificate, and follows no redirect.
var insecure = &http.Client{
	Timeout:       10 * time.Second,
	Transport:     &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true}, //nolint:gosec // see above
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// answers waits until somebody does.
func answers(t *testing.T, address string) {
	t.Helper()
	require.Eventually(t, func() bool {
		resp, err := insecure.Get(address)
		if err != nil {
			return false
		}
		return resp.Body.Close() == nil && resp.StatusCode != http.StatusBadGateway
	}, 20*time.Second, 20*time.Millisecond, address)
}

func TestTwoInstancesBehindNginxShareEverything(t *testing.T) {
	plain, secure, one, two := port(t), port(t), port(t), port(t)
	origin := "https://localhost:" + secure
	const secret = "whsec_of_this_test"
	stripe := simulator(t, "http://localhost:"+one+"/api/v1/payments/webhook", secret)
	env := []string{
		"DEBUG=true", "SECRET_KEY=0123456789abcdef0123456789abcdef", "PUBLIC_URL=" + origin, "TRUSTED_PROXIES=127.0.0.1/32",
		"DATABASE_URL=" + pgtest.URL(t), "REDIS_URL=" + redistest.URL(t), "EXPORT_DIR=" + t.TempDir(),
		"STRIPE_SECRET_KEY=sk_test_simulator", "STRIPE_WEBHOOK_SECRET=" + secret, "STRIPE_API_URL=" + stripe,
	}
	serve(t, append(env, "PORT="+one)...)
	serve(t, append(env, "PORT="+two)...)
	nginx(t, plain, secure, "127.0.0.1:"+one, "127.0.0.1:"+two)
	answers(t, origin+"/health")

	t.Run("TLSHeadersAndLimits", func(t *testing.T) { edge(t, "http://localhost:"+plain, origin) })
	t.Run("Walk", func(t *testing.T) {
		b := newBrowser(t, origin)
		b.friends = []string{stripe}
		walk(t, b, "", false)
	})
	for name, f := range map[string]func(*testing.T, *browser){"WithoutJavaScript": plainPath, "AFriend": friend, "ADeclinedCard": declinedCard, "LivePages": livePages} {
		t.Run(name, func(t *testing.T) {
			b := newBrowser(t, origin)
			b.friends = []string{stripe}
			f(t, b)
		})
	}
}

// edge asserts what nginx is there for.
func edge(t *testing.T, plain, origin string) {
	get := func(address string) *http.Response {
		t.Helper()
		resp, err := insecure.Get(address)
		require.NoError(t, err)
		b, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		resp.Body = io.NopCloser(strings.NewReader(string(b)))
		return resp
	}
	redirect := get(plain + "/pricing?interval=year")
	require.Equal(t, http.StatusMovedPermanently, redirect.StatusCode)
	require.Equal(t, origin+"/pricing?interval=year", redirect.Header.Get("Location"))

	page := get(origin + "/pricing")
	require.Equal(t, 2, page.ProtoMajor)
	require.Equal(t, []string{"max-age=63072000; includeSubDomains"}, page.Header["Strict-Transport-Security"])
	for name, want := range map[string]string{"X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "Referrer-Policy": "same-origin"} {
		require.Equal(t, []string{want}, page.Header[name], name)
	}
	require.NotContains(t, page.Header.Get("Content-Security-Policy"), "unsafe")
	html, err := io.ReadAll(page.Body)
	require.NoError(t, err)

	asset := regexp.MustCompile(`/static/app\.[0-9a-f]+\.css`).FindString(string(html))
	require.NotEmpty(t, asset)
	css := get(origin + asset)
	require.Equal(t, http.StatusOK, css.StatusCode)
	require.Contains(t, strings.Join(css.Header["Cache-Control"], ", "), "immutable")
	require.Contains(t, strings.Join(css.Header["Cache-Control"], ", "), "max-age=31536000")
	require.Equal(t, http.StatusNotFound, get(origin+"/metrics").StatusCode)

	old := &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS11} //nolint:gosec // it must be refused
	u, err := url.Parse(origin)
	require.NoError(t, err)
	_, err = tls.Dial("tcp", u.Host, old)
	require.Error(t, err, "TLS 1.1")

	limited := 0
	for range 60 {
		if get(origin+"/api/v1/usage").StatusCode == http.StatusTooManyRequests {
			limited++
		}
	}
	require.Positive(t, limited, "60 requests in a row stay below 10 a second with a burst of 20")
}

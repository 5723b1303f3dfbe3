package main

import (
	"errors"
	"fmt"
	"net"
	"net/mail"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// Config is what the environment says. With nothing set everything runs inside
// the process: stores in memory, a simulated Stripe, captured mail.
type Config struct {
	Development bool

	Host      string // HOST
	Port      int    // PORT
	PublicURL string // PUBLIC_URL: how browsers reach us

	DatabaseURL string // DATABASE_URL: empty is memory
	RedisURL    string // REDIS_URL: empty is memory

	SecretKey     string // SECRET_KEY
	AdminEmail    string // ADMIN_EMAIL
	AdminPassword string // ADMIN_PASSWORD

	TrustedProxies []netip.Prefix // TRUSTED_PROXIES: networks whose X-Forwarded-For counts

	StripeSecretKey     string   // STRIPE_SECRET_KEY: empty is the simulator
	StripeWebhookSecret []string // STRIPE_WEBHOOK_SECRET, several with commas while one is rotated

	StripeURL string // STRIPE_API_URL: a simulator of its own, with a test key only

	SMTPServer   string // SMTP_SERVER: empty is captured mail
	SMTPPort     int    // SMTP_PORT
	SMTPUsername string // SMTP_USERNAME
	SMTPPassword string // SMTP_PASSWORD
	FromEmail    string // FROM_EMAIL

	ExportDir string // EXPORT_DIR: where archives wait, shared by all instances; empty is the system's temporary folder
}

const (
	developmentSecret   = "kolekt-development-secret-that-everybody-knows"
	developmentAdmin    = "admin@kolekt.example"
	developmentPassword = "kolekt admin"
)

// Simulated reports whether payments are simulated.
func (c Config) Simulated() bool { return c.StripeSecretKey == "" }

// LoadConfig reads the environment. It refuses what can't be meant, all of it
// at once, with words that say what to do.
func LoadConfig(getenv func(string) string) (Config, error) {
	env := func(name string) string { return strings.TrimSpace(getenv(name)) }
	var problems []error
	refuse := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	number := func(name string, standard int) int {
		text := env(name)
		if text == "" {
			return standard
		}
		n, err := strconv.Atoi(text)
		if err != nil || n < 0 || n > 65535 {
			refuse("%s is %q: set it to a port from 0 to 65535", name, text)
		}
		return n
	}
	c := Config{
		Host: env("HOST"), Port: number("PORT", 8000), PublicURL: strings.TrimSuffix(env("PUBLIC_URL"), "/"),
		DatabaseURL: env("DATABASE_URL"), RedisURL: env("REDIS_URL"),
		SecretKey: env("SECRET_KEY"), AdminEmail: env("ADMIN_EMAIL"), AdminPassword: env("ADMIN_PASSWORD"),
		StripeSecretKey: env("STRIPE_SECRET_KEY"), StripeURL: strings.TrimSuffix(env("STRIPE_API_URL"), "/"),
		SMTPServer: env("SMTP_SERVER"), SMTPPort: number("SMTP_PORT", 587), SMTPUsername: env("SMTP_USERNAME"), SMTPPassword: env("SMTP_PASSWORD"),
		FromEmail: env("FROM_EMAIL"), ExportDir: env("EXPORT_DIR"),
	}
	for s := range strings.SplitSeq(env("STRIPE_WEBHOOK_SECRET"), ",") {
		if s = strings.TrimSpace(s); s != "" {
			c.StripeWebhookSecret = append(c.StripeWebhookSecret, s)
		}
	}

	for p := range strings.SplitSeq(env("TRUSTED_PROXIES"), ",") {
		if p = strings.TrimSpace(p); p == "" {
			continue
		}
		network, err := netip.ParsePrefix(p)
		if err != nil {
			refuse("TRUSTED_PROXIES has %q: set it to networks such as 10.0.0.0/8, with commas between them", p)
			continue
		}
		c.TrustedProxies = append(c.TrustedProxies, network)
	}

	live := strings.HasPrefix(c.StripeSecretKey, "sk_live_") || strings.HasPrefix(c.StripeSecretKey, "rk_live_")
	switch debug := strings.ToLower(env("DEBUG")); debug {
	case "":
		// A secret of one's own is the sign of a real deployment.
		c.Development = c.SecretKey == "" && !live
	case "true", "1", "yes", "on":
		c.Development = true
		if live {
			refuse("DEBUG is on beside a live STRIPE_SECRET_KEY: development screens move clocks and show mail; turn DEBUG off, or use a test key (sk_test_…)")
		}
	case "false", "0", "no", "off":
	default:
		refuse("DEBUG is %q: set it to true or false", debug)
	}

	switch {
	case c.SecretKey == "" && c.Development:
		c.SecretKey = developmentSecret
	case c.SecretKey == "" || c.SecretKey == developmentSecret && !c.Development:
		refuse("SECRET_KEY is missing or the one that everybody knows: it signs links and hashes API keys; make one with: openssl rand -hex 32")
	case len(c.SecretKey) < 32:
		refuse("SECRET_KEY has %d characters and needs 32: make one with: openssl rand -hex 32", len(c.SecretKey))
	}
	c.stripe(refuse)
	c.mail(refuse)
	if c.Development {
		c.development(refuse)
	} else {
		c.production(refuse)
	}
	return c, errors.Join(problems...)
}

func (c *Config) stripe(refuse func(string, ...any)) {
	switch {
	case c.StripeSecretKey == "" && len(c.StripeWebhookSecret) > 0:
		refuse("STRIPE_WEBHOOK_SECRET is set and STRIPE_SECRET_KEY isn't: set both for Stripe, or none for the simulator")
	case c.StripeSecretKey == "":
	case strings.HasPrefix(c.StripeSecretKey, "pk_"):
		refuse("STRIPE_SECRET_KEY begins with pk_: that is the publishable key; take the secret one (sk_…)")
	case c.StripeURL != "" && !c.Development:
		refuse("STRIPE_API_URL leads away from Stripe: outside development unset it")
	case len(c.StripeWebhookSecret) == 0:
		refuse("STRIPE_WEBHOOK_SECRET is missing: without it anybody can forge events; take it (whsec_…) from the webhook endpoint for /api/v1/payments/webhook in Stripe's dashboard, or from: stripe listen --forward-to localhost:%d/api/v1/payments/webhook", c.Port)
	}
}

func (c *Config) mail(refuse func(string, ...any)) {
	if c.SMTPServer == "" {
		if c.SMTPUsername != "" || c.SMTPPassword != "" {
			refuse("SMTP_USERNAME or SMTP_PASSWORD is set and SMTP_SERVER isn't: name the server too")
		}
		if c.FromEmail == "" {
			c.FromEmail = "hello@kolekt.example"
		}
		return
	}
	if c.FromEmail == "" {
		refuse("FROM_EMAIL is missing: mail by SMTP needs a sender, such as hello@example.com")
	} else if _, err := mail.ParseAddress(c.FromEmail); err != nil {
		refuse("FROM_EMAIL is not a mail address: set it to one such as hello@example.com")
	}
}

func (c *Config) development(refuse func(string, ...any)) {
	if c.Host == "" {
		c.Host = "127.0.0.1"
	}
	if c.PublicURL == "" {
		c.PublicURL = "http://" + net.JoinHostPort(browserHost(c.Host), strconv.Itoa(c.Port))
	}
	if c.AdminEmail == "" {
		c.AdminEmail = developmentAdmin
	}
	if c.AdminPassword == "" {
		c.AdminPassword = developmentPassword
		if ip := net.ParseIP(c.Host); c.Host != "localhost" && (ip == nil || !ip.IsLoopback()) {
			refuse("development listens on %s with an administrator's password that everybody knows: set ADMIN_PASSWORD, or HOST=127.0.0.1", c.Host)
		}
	}
}

func (c *Config) production(refuse func(string, ...any)) {
	if c.Host == "" {
		c.Host = "0.0.0.0"
	}
	if u, err := url.Parse(c.PublicURL); err != nil || u.Scheme != "https" || u.Host == "" || u.Path != "" {
		refuse("PUBLIC_URL is %q: outside development set it to the address that browsers use, such as https://kolekt.example.com", c.PublicURL)
	}
	if c.DatabaseURL == "" {
		refuse("DATABASE_URL is missing: subscriptions in memory are lost with the process; set it to a PostgreSQL, or DEBUG=true to try things out")
	}
	if c.Simulated() {
		refuse("STRIPE_SECRET_KEY is missing: the simulator takes no money; set it, or DEBUG=true to try things out")
	}
	if c.SMTPServer == "" {
		refuse("SMTP_SERVER is missing: captured mail reaches nobody; set it, or DEBUG=true to try things out")
	}
	if c.AdminEmail != "" && c.AdminPassword == "" {
		refuse("ADMIN_PASSWORD is missing beside ADMIN_EMAIL: it is needed for the first start, and ignored when the user exists")
	}
}

// browserHost is a name under which a browser on this machine finds a listener.
func browserHost(host string) string {
	if ip := net.ParseIP(host); ip == nil || ip.IsLoopback() || ip.IsUnspecified() {
		return "localhost"
	}
	return host
}

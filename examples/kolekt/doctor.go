package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/smtp"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"

	"github.com/kolekt/commerce/billing"
	"github.com/kolekt/commerce/billing/billingstripe"
)

// finding is one thing that the doctor looked at. An empty Fix is good news.
type finding struct{ what, found, fix string }

// doctor looks at everything that can be wrong outside this program, and says
// what to do about it.
func doctor(ctx context.Context, cfg Config, out io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var all []finding
	all = append(all, examineDatabase(ctx, cfg)...)
	all = append(all, examineRedis(ctx, cfg)...)
	all = append(all, examineStripe(ctx, cfg)...)
	all = append(all, examineMail(ctx, cfg)...)
	sick := 0
	for _, f := range all {
		mark := "ok  "
		if f.fix != "" {
			mark = "FIX "
			sick++
		}
		fmt.Fprintf(out, "%s %-12s %s\n", mark, f.what, f.found)
		if f.fix != "" {
			fmt.Fprintf(out, "     %-12s → %s\n", "", f.fix)
		}
	}
	if sick > 0 {
		return fmt.Errorf("%d of %d checks found something to fix", sick, len(all))
	}
	return nil
}

func examineDatabase(ctx context.Context, cfg Config) []finding {
	if cfg.DatabaseURL == "" {
		return []finding{{"database", "in memory: nothing survives a restart", ""}}
	}
	pool, err := pgxpool.New(ctx, cfg.DatabaseURL)
	if err == nil {
		defer pool.Close()
		err = pool.Ping(ctx)
	}
	if err != nil {
		return []finding{{"database", err.Error(), "check DATABASE_URL, and that PostgreSQL runs and lets us in"}}
	}
	var version string
	var skew float64
	before := time.Now()
	if err := pool.QueryRow(ctx, `select current_setting('server_version'), extract(epoch from clock_timestamp())`).Scan(&version, &skew); err != nil {
		return []finding{{"database", err.Error(), "check the rights of the database user"}}
	}
	list := []finding{{"database", "PostgreSQL " + version, ""}, clock("database", time.Unix(0, int64(skew*1e9)).Sub(before))}
	if err := verifyAll(ctx, pool); err != nil {
		list = append(list, finding{"migrations", err.Error(), "run: kolekt migrate"})
	} else {
		list = append(list, finding{"migrations", "newest", ""})
	}
	return list
}

func examineRedis(ctx context.Context, cfg Config) []finding {
	if cfg.RedisURL == "" {
		return []finding{{"redis", "not set: each instance counts rate limits for itself", ""}}
	}
	options, err := redis.ParseURL(cfg.RedisURL)
	if err != nil {
		return []finding{{"redis", err.Error(), "set REDIS_URL to redis://host:6379/0"}}
	}
	client := redis.NewClient(options)
	defer client.Close()
	if err := client.Ping(ctx).Err(); err != nil {
		return []finding{{"redis", err.Error(), "check REDIS_URL, and that Redis runs"}}
	}
	list := []finding{{"redis", "answers", ""}}
	policy, err := client.ConfigGet(ctx, "maxmemory-policy").Result()
	switch {
	case err != nil:
		list = append(list, finding{"eviction", "can't be read here (a hosted Redis?)", ""})
	case strings.HasPrefix(policy["maxmemory-policy"], "allkeys-"):
		list = append(list, finding{"eviction", policy["maxmemory-policy"], "set maxmemory-policy to noeviction or volatile-ttl: counters that are evicted forget what was used"})
	default:
		list = append(list, finding{"eviction", policy["maxmemory-policy"], ""})
	}
	return list
}

func examineStripe(ctx context.Context, cfg Config) []finding {
	if cfg.Simulated() {
		return []finding{{"stripe", "simulated: no money moves", ""}}
	}
	gateway, err := billingstripe.New(billingstripe.Config{SecretKey: cfg.StripeSecretKey, WebhookSecrets: cfg.StripeWebhookSecret, URL: cfg.StripeURL})
	if err != nil {
		return []finding{{"stripe", err.Error(), "check STRIPE_SECRET_KEY and STRIPE_WEBHOOK_SECRET"}}
	}
	mode := "test mode"
	if gateway.Livemode() {
		mode = "live mode"
	}
	catalog, err := billing.LoadCatalog(files, "plans.yaml")
	if err != nil {
		return []finding{{"plans.yaml", err.Error(), "correct the file"}}
	}
	var keys []string
	for _, plan := range catalog.Plans() {
		for _, p := range plan.Prices {
			keys = append(keys, p.LookupKey)
		}
	}
	prices, err := gateway.Prices(ctx, keys)
	if err != nil {
		return []finding{{"stripe", err.Error(), "check that STRIPE_SECRET_KEY is valid and may read prices"}}
	}
	list := []finding{{"stripe", mode + ", the key works", ""}}
	have := map[string]billing.Price{}
	for _, p := range prices {
		have[p.LookupKey] = p
	}
	for _, plan := range catalog.Plans() {
		for _, want := range plan.Prices {
			p, ok := have[want.LookupKey]
			switch {
			case !ok:
				list = append(list, finding{"price", want.LookupKey + " isn't at Stripe", fmt.Sprintf("make a price of %s a %s with this lookup key", want.Amount, want.Interval)})
			case p.UnitAmount != want.Amount:
				list = append(list, finding{"price", fmt.Sprintf("%s is %s at Stripe and %s in plans.yaml", want.LookupKey, p.UnitAmount, want.Amount), "make them agree: people are charged what Stripe has"})
			}
		}
	}
	if len(list) == 1 {
		list = append(list, finding{"prices", "all of plans.yaml are there, at the same amounts", ""})
	}
	list = append(list, examineEndpoint(ctx, stripeAt(cfg), cfg)...)
	return append(list, examinePortal(ctx, stripeAt(cfg)), examineClock(ctx, cfg))
}

// examineClock compares our clock with Stripe's: signatures are refused when
// they differ by more than five minutes.
func examineClock(ctx context.Context, cfg Config) finding {
	address := cfg.StripeURL
	if address == "" {
		address = "https://api.stripe.com"
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodHead, address+"/", nil)
	if err != nil {
		return finding{"clock", err.Error(), "check STRIPE_API_URL"}
	}
	resp, err := (&http.Client{Timeout: 10 * time.Second}).Do(r)
	if err != nil {
		return finding{"clock", err.Error(), "let this machine reach " + address}
	}
	defer resp.Body.Close()
	at, err := http.ParseTime(resp.Header.Get("Date"))
	if err != nil {
		return finding{"clock", "Stripe gives no date here", ""}
	}
	return clock("stripe", time.Until(at))
}

func clock(whose string, skew time.Duration) finding {
	if skew.Abs() > 30*time.Second {
		return finding{"clock", fmt.Sprintf("differs from %s's by %s", whose, skew.Round(time.Second)), "set the clock (NTP): periods end and signatures expire by it"}
	}
	return finding{"clock", "agrees with " + whose + "'s", ""}
}

func examineMail(ctx context.Context, cfg Config) []finding {
	if cfg.SMTPServer == "" {
		return []finding{{"mail", "captured: none is sent", ""}}
	}
	address := net.JoinHostPort(cfg.SMTPServer, strconv.Itoa(cfg.SMTPPort))
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return []finding{{"mail", err.Error(), "check SMTP_SERVER and SMTP_PORT, and that a firewall lets us out"}}
	}
	defer conn.Close() // nothing is under way
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(deadline) // without one it waits as long as the doctor may
	}
	c, err := smtp.NewClient(conn, cfg.SMTPServer)
	if err != nil {
		return []finding{{"mail", address + " is no mail server for us: " + err.Error(), "check SMTP_SERVER and SMTP_PORT"}}
	}
	if ok, _ := c.Extension("STARTTLS"); !ok {
		return []finding{{"mail", address + " has no STARTTLS", "take a port with STARTTLS, 587 as a rule: mail isn't sent unencrypted"}}
	}
	if err := c.StartTLS(&tls.Config{ServerName: cfg.SMTPServer, MinVersion: tls.VersionTLS12}); err != nil {
		return []finding{{"mail", address + ": " + err.Error(), "correct the certificate, or SMTP_SERVER to the name in it"}}
	}
	if cfg.SMTPUsername != "" {
		if err := c.Auth(smtp.PlainAuth("", cfg.SMTPUsername, cfg.SMTPPassword, cfg.SMTPServer)); err != nil {
			return []finding{{"mail", address + " doesn't let us in: " + err.Error(), "check SMTP_USERNAME and SMTP_PASSWORD"}}
		}
	}
	_ = c.Quit() // it has said all that we wanted
	return []finding{{"mail", address + " takes our mail, encrypted", ""}}
}

// healthcheck asks the instance on this machine, for containers without a
// shell.
func healthcheck(ctx context.Context, cfg Config) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+net.JoinHostPort("127.0.0.1", strconv.Itoa(cfg.Port))+"/health", nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return errors.New("not healthy: " + resp.Status)
	}
	return nil
}

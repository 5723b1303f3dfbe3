// Command kolekt is the reference deployment of commerce: a product that splits
// long texts into posts, with plans, payments, limits, metering, API keys and
// mail. With nothing set everything runs inside the process.
//
//	go run ./examples/kolekt
package main

import (
	"context"
	"embed"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sync/errgroup"

	"github.com/kolekt/commerce/apikeys"
	"github.com/kolekt/commerce/billing"
	"github.com/kolekt/commerce/examples/kolekt/internal/users"
	"github.com/kolekt/commerce/examples/kolekt/internal/web"
	"github.com/kolekt/commerce/ratelimit"
	"github.com/kolekt/commerce/usage"
)

//go:embed plans.yaml mail
var files embed.FS

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Getenv, os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "kolekt: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, getenv func(string) string, out io.Writer) error {
	cfg, err := LoadConfig(getenv)
	if err != nil {
		return fmt.Errorf("the environment can't be meant:\n%w", err)
	}
	switch {
	case len(args) == 0:
		return serve(ctx, cfg, out)
	case args[0] == "migrate":
		return migrate(ctx, cfg, out)
	case args[0] == "doctor":
		return doctor(ctx, cfg, out)
	case args[0] == "catalog":
		return applyCatalog(ctx, cfg, args[1:], out)
	case args[0] == "healthcheck":
		return healthcheck(ctx, cfg)
	}
	return fmt.Errorf("unknown command %q: want none (to serve), migrate, doctor, catalog or healthcheck", args[0])
}

// serve wires everything and runs until ctx ends.
func serve(ctx context.Context, cfg Config, out io.Writer) error {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	listener, err := listen(ctx, &cfg)
	if err != nil {
		return err
	}
	catalog, err := billing.LoadCatalog(files, "plans.yaml")
	if err != nil {
		return err
	}
	stores, err := openStores(ctx, cfg) // in memory, or PostgreSQL and Redis
	if err != nil {
		return err
	}
	defer stores.Close()
	stripe, err := openStripe(cfg, catalog, listener.Addr(), log) // simulated, or Stripe
	if err != nil {
		return err
	}

	people, err := users.New(stores.Users, cfg.SecretKey, users.Config{Now: stripe.Now})
	if err != nil {
		return err
	}
	post, err := newMails(cfg, stores, people, stripe.Now, log) // captured, or SMTP
	if err != nil {
		return err
	}
	subscriptions, err := billing.New(catalog, stores.Billing, stripe.Gateway, billing.Config{
		Customer: post.Person, Handle: post.Billing, Now: stripe.Now, Logger: log,
	})
	if err != nil {
		return err
	}
	feed, err := subscriptions.NewFeed(billing.FeedConfig{}) // what accounts may do, from memory
	if err != nil {
		return err
	}
	meters, err := usage.New(stores.Usage, usage.Config{
		Meters: web.Meters(), Quota: usage.QuotaFrom(feed.Quota), Now: stripe.Now, Logger: log,
	})
	if err != nil {
		return err
	}
	keys, err := apikeys.New(stores.Keys, apikeys.Config{
		Prefix: "kolekt", Environment: cfg.Environment(), Scopes: web.Scopes(), Now: stripe.Now, Logger: log,
		Bus: stores.KeyBus, Peppers: []apikeys.Pepper{{ID: 1, Secret: cfg.Derive("apikeys")}},
	})
	if err != nil {
		return err
	}
	requests, err := ratelimit.New(stores.Limits, ratelimit.Config{Name: "requests"})
	if err != nil {
		return err
	}
	logins, err := ratelimit.New(stores.Limits, ratelimit.Config{Name: "logins"})
	if err != nil {
		return err
	}
	referrals, err := newReferrals(cfg, stores, subscriptions, post, stripe.Now, log)
	if err != nil {
		return err
	}
	post.Plans = subscriptions
	post.Refer = func(ctx context.Context, n billing.Notice) error { return refer(ctx, referrals, subscriptions, n) }

	privacy, err := newPrivacy(cfg, stores, holders{people, stores.Kolekts, stores.Ledger, subscriptions, meters, keys, post, requests, logins, referrals, stores}, stripe.Now, log)
	if err != nil {
		return err
	}
	if err := eraseAgain(ctx, privacy, people, log); err != nil {
		return err
	}

	app, err := web.New(web.Config{
		PublicURL: cfg.PublicURL, Users: people, Sessions: newSessions(cfg, stores), Kolekts: stores.Kolekts, Atomically: stores.Atomically(meters),
		Billing: subscriptions, Accounts: stores.Billing, Ledger: stores.Ledger, Usage: meters, Requests: requests, Logins: logins, Keys: keys, Mail: post, Outbox: post.Service,
		Feed: feed, Referrals: referrals, Privacy: privacy, Purposes: purposes(), Stopping: ctx.Done(),
		Ready: stores.Ready, Trusted: cfg.TrustedProxies, Now: stripe.Now, Log: log,
		Dev: development(cfg, stores, stripe, post, subscriptions), FormTargets: stripe.Origins,
	})
	if err != nil {
		return err
	}
	stripe.SendTo(subscriptions.Webhook())
	if cfg.AdminEmail != "" {
		if _, err := people.Seed(ctx, cfg.AdminEmail, cfg.AdminPassword, "Administrator"); err != nil {
			return err
		}
	}

	background, end := context.WithCancel(context.WithoutCancel(ctx))
	var group errgroup.Group
	for _, work := range []func(context.Context) error{
		subscriptions.Run, feed.Run, referrals.Run, keys.Run, post.Run, privacy.Run, stripe.Run, stores.Clean,
		func(ctx context.Context) error { return meters.Run(ctx, usage.RunConfig{Notify: post.Usage}) },
	} {
		group.Go(func() error { return untilDone(background, log, work) })
	}
	greet(out, cfg)
	err = listenUntil(ctx, listener, app, log) // drains requests first,
	end()                                      // then the work behind them
	return firstError(err, group.Wait())
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/alexedwards/scs/v2"

	"github.com/kolekt/commerce/billing"
	"github.com/kolekt/commerce/examples/kolekt/internal/web"
)

// drain is how long requests that have begun may take after the end was asked
// for.
const drain = 20 * time.Second

// listen opens the port, so that everything else knows the address. Port 0
// takes a free one.
func listen(ctx context.Context, cfg *Config) (net.Listener, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", net.JoinHostPort(cfg.Host, strconv.Itoa(cfg.Port)))
	if err != nil {
		return nil, fmt.Errorf("can't listen: %w: set PORT to a free one", err)
	}
	if cfg.Port == 0 {
		cfg.Port = l.Addr().(*net.TCPAddr).Port
		if u, err := url.Parse(cfg.PublicURL); err == nil && u.Port() == "0" {
			u.Host = net.JoinHostPort(u.Hostname(), strconv.Itoa(cfg.Port))
			cfg.PublicURL = u.String()
		}
	}
	return l, nil
}

// listenUntil serves until ctx ends, and then lets requests finish.
func listenUntil(ctx context.Context, l net.Listener, h http.Handler, log *slog.Logger) error {
	server := &http.Server{
		Handler: h, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 60 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(l) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), drain)
	defer cancel()
	if err := server.Shutdown(last); err != nil {
		return fmt.Errorf("requests were cut off after %s: %w", drain, err)
	}
	return nil
}

// untilDone runs work, for which the end of ctx is no failure. Any other end is
// said at once: requests are still served, but something isn't done any more.
func untilDone(ctx context.Context, log *slog.Logger, work func(context.Context) error) error {
	if err := work(ctx); err != nil && !errors.Is(err, context.Canceled) {
		log.ErrorContext(ctx, "kolekt: background work ended", "err", err)
		return err
	}
	return nil
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func newSessions(cfg Config, stores *Stores) *scs.SessionManager {
	s := scs.New() // with a store in memory that cleans itself up
	if stores.Sessions != nil {
		s.Store = stores.Sessions
	}
	s.HashTokenInStore = true // a dump of the store opens no session
	s.Lifetime, s.IdleTimeout = 30*24*time.Hour, 7*24*time.Hour
	s.Cookie.Name = "kolekt_session"
	s.Cookie.HttpOnly = true
	// Lax, because the payment page sends people back from another site.
	s.Cookie.SameSite = http.SameSiteLaxMode
	if s.Cookie.Secure = strings.HasPrefix(cfg.PublicURL, "https://"); s.Cookie.Secure {
		s.Cookie.Name = "__Host-kolekt_session"
	}
	return s
}

// development is what only development has, and nil otherwise.
func development(cfg Config, stores *Stores, stripe *Stripe, post *Mails, subscriptions *billing.Service) *web.Dev {
	if !cfg.Development {
		return nil
	}
	d := &web.Dev{Ephemeral: stores.Ephemeral(), Simulated: cfg.Simulated(), Kinds: post.PreviewHandler()}
	if sim := stripe.Simulator; sim != nil {
		d.Simulator, d.Inject, d.Faults, d.Clear = sim.Handler(), sim.Inject, sim.Faults, sim.ClearFaults
		d.Advance = func(ctx context.Context, by time.Duration) error {
			if err := sim.Advance(ctx, by); err != nil {
				return err
			}
			// As it happens every hour, and handles what waits first.
			_, err := subscriptions.Reconcile(ctx)
			return err
		}
	}
	if post.Captured != nil {
		d.Mails = post.Captured
	}
	return d
}

// greet prints where to go.
func greet(out io.Writer, cfg Config) {
	fmt.Fprintf(out, "Kolekt is at %s\n", cfg.PublicURL)
	if cfg.Development {
		fmt.Fprintf(out, "  administrator   %s, password %q\n", cfg.AdminEmail, cfg.AdminPassword)
		if cfg.Simulated() {
			fmt.Fprintf(out, "  payments        simulated: pay with 4242 4242 4242 4242, be declined with 4000 0000 0000 0002\n")
		}
		if cfg.DatabaseURL == "" {
			fmt.Fprintf(out, "  data            in memory: nothing survives a restart\n")
		}
	}
}

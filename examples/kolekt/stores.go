package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/alexedwards/scs/v2"
	"github.com/alexedwards/scs/v2/memstore"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/kolekt/commerce/apikeys"
	"github.com/kolekt/commerce/apikeys/apikeysmem"
	"github.com/kolekt/commerce/billing"
	"github.com/kolekt/commerce/billing/billingmem"
	"github.com/kolekt/commerce/examples/kolekt/internal/kolekts"
	"github.com/kolekt/commerce/examples/kolekt/internal/users"
	"github.com/kolekt/commerce/mailer"
	"github.com/kolekt/commerce/mailer/mailermem"
	"github.com/kolekt/commerce/ratelimit"
	"github.com/kolekt/commerce/ratelimit/ratelimitmem"
	"github.com/kolekt/commerce/usage"
	"github.com/kolekt/commerce/usage/usagemem"
)

// Stores are where everything is kept. This is the only place that chooses
// backends.
type Stores struct {
	Billing  billing.Store
	Usage    usage.Store
	Keys     apikeys.Store
	Limits   ratelimit.Store
	Mail     mailer.Store
	Users    users.Store
	Kolekts  kolekts.Store
	Sessions scs.Store

	pool *pgxpool.Pool // nil in memory
}

func openStores(_ context.Context, cfg Config) (*Stores, error) {
	if cfg.DatabaseURL != "" || cfg.RedisURL != "" {
		return nil, errors.New("DATABASE_URL and REDIS_URL aren't supported yet")
	}
	mail, err := mailermem.New(mailermem.Config{})
	if err != nil {
		return nil, err
	}
	return &Stores{
		Billing: billingmem.New(), Usage: usagemem.New(), Keys: apikeysmem.New(), Limits: ratelimitmem.New(ratelimitmem.Config{}),
		Mail: mail, Users: &users.Memory{}, Kolekts: &kolekts.Memory{}, Sessions: memstore.New(),
	}, nil
}

// Close closes connections.
func (s *Stores) Close() {
	if s.pool != nil {
		s.pool.Close()
	}
}

// Ephemeral reports whether a restart loses everything.
func (s *Stores) Ephemeral() bool { return s.pool == nil }

// Ready asks the stores whether they answer.
func (s *Stores) Ready(ctx context.Context) error {
	if s.pool == nil {
		return nil
	}
	return s.pool.Ping(ctx)
}

// Atomically makes changes of usage and kolekts come together.
func (s *Stores) Atomically(meters *usage.Service) func(context.Context, func(*usage.Service, kolekts.Store) error) error {
	return func(_ context.Context, f func(*usage.Service, kolekts.Store) error) error {
		return f(meters, s.Kolekts)
	}
}

func migrate(_ context.Context, cfg Config, out io.Writer) error {
	if cfg.DatabaseURL == "" {
		return errors.New("DATABASE_URL is missing: there is nothing to migrate in memory")
	}
	fmt.Fprintln(out, "nothing to do")
	return nil
}

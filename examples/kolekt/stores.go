package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	"github.com/alexedwards/scs/pgxstore"
	"github.com/alexedwards/scs/v2"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"

	"github.com/kolekt/commerce/apikeys"
	"github.com/kolekt/commerce/apikeys/apikeysmem"
	"github.com/kolekt/commerce/apikeys/apikeyspg"
	"github.com/kolekt/commerce/billing"
	"github.com/kolekt/commerce/billing/billingmem"
	"github.com/kolekt/commerce/billing/billingpg"
	"github.com/kolekt/commerce/examples/kolekt/internal/audit"
	"github.com/kolekt/commerce/examples/kolekt/internal/kolekts"
	"github.com/kolekt/commerce/examples/kolekt/internal/ledger"
	"github.com/kolekt/commerce/examples/kolekt/internal/refusals"
	"github.com/kolekt/commerce/examples/kolekt/internal/users"
	"github.com/kolekt/commerce/gdpr"
	"github.com/kolekt/commerce/gdpr/gdprmem"
	"github.com/kolekt/commerce/gdpr/gdprpg"
	"github.com/kolekt/commerce/mailer"
	"github.com/kolekt/commerce/mailer/mailermem"
	"github.com/kolekt/commerce/mailer/mailerpg"
	"github.com/kolekt/commerce/ratelimit"
	"github.com/kolekt/commerce/ratelimit/ratelimitmem"
	"github.com/kolekt/commerce/ratelimit/ratelimitredis"
	"github.com/kolekt/commerce/referral"
	"github.com/kolekt/commerce/referral/referralmem"
	"github.com/kolekt/commerce/referral/referralpg"
	"github.com/kolekt/commerce/usage"
	"github.com/kolekt/commerce/usage/usagemem"
	"github.com/kolekt/commerce/usage/usagepg"
)

// Stores are where everything is kept. This is the only place that chooses
// backends.
type Stores struct {
	Billing  billing.Store
	Usage    usage.Store
	Keys     apikeys.Store
	KeyBus   apikeys.Bus
	Limits   ratelimit.Store
	Mail     mailer.Store
	Users    users.Store
	Kolekts  kolekts.Store
	Ledger   ledger.Store
	Privacy  gdpr.Store
	Referral referral.Store
	Refusals refusals.Store
	Audit    audit.Store
	Guard    *ratelimit.Guard // nil without Redis
	Sessions scs.Store        // nil in memory: scs has a store of its own

	pool  *pgxpool.Pool  // nil in memory
	usage *usagepg.Store // nil in memory
	redis redis.UniversalClient
}

// openStores keeps everything in memory but what DATABASE_URL and REDIS_URL
// make durable or shared.
func openStores(ctx context.Context, cfg Config) (*Stores, error) {
	mail, err := mailermem.New(mailermem.Config{})
	if err != nil {
		return nil, err
	}
	local := ratelimitmem.New(ratelimitmem.Config{})
	s := &Stores{
		Billing: billingmem.New(), Usage: usagemem.New(), Keys: apikeysmem.New(), Limits: local,
		Mail: mail, Users: &users.Memory{}, Kolekts: &kolekts.Memory{}, Ledger: &ledger.Memory{}, Privacy: gdprmem.New(), Referral: referralmem.New(),
		Refusals: &refusals.Memory{}, Audit: &audit.Memory{},
	}
	if cfg.RedisURL != "" {
		if err := s.useRedis(ctx, cfg.RedisURL, local); err != nil {
			s.Close()
			return nil, err
		}
	}
	if cfg.DatabaseURL != "" {
		if err := s.usePostgres(ctx, cfg); err != nil {
			s.Close()
			return nil, err
		}
	}
	return s, nil
}

// useRedis shares rate limits among instances. While Redis is away each
// instance enforces them by itself.
func (s *Stores) useRedis(ctx context.Context, url string, local ratelimit.Store) error {
	options, err := redis.ParseURL(url)
	if err != nil {
		return fmt.Errorf("REDIS_URL can't be read: %w: set it to redis://host:6379/0", err)
	}
	s.redis = redis.NewClient(options)
	if err := s.redis.Ping(ctx).Err(); err != nil {
		return fmt.Errorf("the Redis of REDIS_URL doesn't answer: %w", err)
	}
	shared, err := ratelimitredis.New(s.redis, ratelimitredis.Config{Prefix: "kolekt"})
	if err != nil {
		return err
	}
	s.Guard, err = ratelimit.NewGuard(shared, local, ratelimit.GuardConfig{})
	s.Limits = s.Guard
	return err
}

func (s *Stores) usePostgres(ctx context.Context, cfg Config) error {
	options, err := pgxpool.ParseConfig(cfg.DatabaseURL)
	if err != nil {
		return fmt.Errorf("DATABASE_URL can't be read: %w", err)
	}
	// Some connections listen and never come back, and a transaction of a
	// request needs one: pgx's four would be none.
	if !strings.Contains(cfg.DatabaseURL, "pool_max_conns") {
		options.MaxConns = max(16, options.MaxConns)
	}
	pool, err := pgxpool.NewWithConfig(ctx, options)
	if err != nil {
		return fmt.Errorf("DATABASE_URL: %w", err)
	}
	s.pool = pool
	if err := pool.Ping(ctx); err != nil {
		return fmt.Errorf("the PostgreSQL of DATABASE_URL doesn't answer: %w", err)
	}
	if cfg.Development {
		if err := migrateAll(ctx, pool, io.Discard); err != nil {
			return err
		}
	} else if err := verifyAll(ctx, pool); err != nil {
		return fmt.Errorf("%w: run: kolekt migrate", err)
	}
	s.usage = usagepg.New(pool)
	s.Billing, s.Usage, s.Keys, s.KeyBus = billingpg.New(pool), s.usage, apikeyspg.New(pool), apikeyspg.NewBus(pool)
	s.Mail, s.Users, s.Kolekts, s.Ledger = mailerpg.New(pool), users.NewPostgres(pool), kolekts.NewPostgres(pool), ledger.NewPostgres(pool)
	s.Privacy, s.Referral = gdprpg.New(pool), referralpg.New(pool)
	s.Refusals, s.Audit = refusals.NewPostgres(pool), audit.NewPostgres(pool)
	s.Sessions = pgxstore.NewWithCleanupInterval(pool, 0) // Clean does it
	return nil
}

// Close closes connections.
func (s *Stores) Close() {
	if s.pool != nil {
		s.pool.Close()
	}
	if s.redis != nil {
		_ = s.redis.Close() // nothing is written that a close could lose
	}
}

// Clean removes sessions that are over, once an hour, until ctx ends.
func (s *Stores) Clean(ctx context.Context) error {
	if s.pool == nil {
		<-ctx.Done()
		return nil
	}
	for {
		if _, err := s.pool.Exec(ctx, `delete from sessions where expiry < now()`); err != nil && ctx.Err() == nil {
			slog.WarnContext(ctx, "kolekt: sessions weren't cleaned", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(time.Hour):
		}
	}
}

// Ephemeral reports whether a restart loses everything.
func (s *Stores) Ephemeral() bool { return s.pool == nil }

// Ready asks whether the database answers. Redis may be away: see useRedis.
func (s *Stores) Ready(ctx context.Context) error {
	if s.pool == nil {
		return nil
	}
	return s.pool.Ping(ctx)
}

// Make counts a kolekt and stores it, together or not at all: with PostgreSQL
// in one commit, in memory one after the other, where nothing survives a crash
// anyway.
func (s *Stores) Make(ctx context.Context, meters *usage.Service, r usage.Request, k kolekts.Kolekt) (usage.Decision, error) {
	if s.usage != nil {
		d, err := meters.With(s.usage.Along(func(b *pgx.Batch) { kolekts.Insert(b, k) })).Consume(ctx, r)
		if kolekts.IsGone(err) {
			err = kolekts.ErrGone
		}
		return d, err
	}
	d, err := meters.Consume(ctx, r)
	if err == nil && d.Allowed && !d.Replayed {
		err = s.Kolekts.Add(ctx, k)
	}
	return d, err
}

// schema is the migrations of one package.
type schema struct {
	name       string
	up, verify func(context.Context, *pgxpool.Pool) error
}

var schemas = []schema{
	{"users", users.Schema.Migrate, users.Schema.Verify},
	{"kolekts", kolekts.Schema.Migrate, kolekts.Schema.Verify},
	{"ledger", ledger.Schema.Migrate, ledger.Schema.Verify},
	{"refusals", refusals.Schema.Migrate, refusals.Schema.Verify},
	{"audit", audit.Schema.Migrate, audit.Schema.Verify},
	{"billing", billingpg.Migrate, billingpg.Verify},
	{"usage", usagepg.Migrate, usagepg.Verify},
	{"apikeys", apikeyspg.Migrate, apikeyspg.Verify},
	{"gdpr", gdprpg.Migrate, gdprpg.Verify},
	{"referral", referralpg.Migrate, referralpg.Verify},
	{"mailer", mailerpg.Migrate, mailerpg.Verify},
}

func migrateAll(ctx context.Context, pool *pgxpool.Pool, out io.Writer) error {
	for _, s := range schemas {
		if err := s.up(ctx, pool); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		fmt.Fprintf(out, "%-8s is at its newest version\n", s.name)
	}
	return nil
}

func verifyAll(ctx context.Context, pool *pgxpool.Pool) error {
	for _, s := range schemas {
		if err := s.verify(ctx, pool); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	return nil
}

// migrate is the command.
func migrate(ctx context.Context, cfg Config, out io.Writer) error {
	if cfg.DatabaseURL == "" {
		return errors.New("DATABASE_URL is missing: there is nothing to migrate in memory")
	}
	pool, err := pgxpool.New(ctx, cfg.DatabaseURL)
	if err != nil {
		return fmt.Errorf("DATABASE_URL can't be read: %w", err)
	}
	defer pool.Close()
	return migrateAll(ctx, pool, out)
}

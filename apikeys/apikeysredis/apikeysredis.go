// Package apikeysredis carries the news of changed API keys through Redis, and
// shares what processes have read of the store.
//
//	keys, err := apikeys.New(apikeyspg.New(pool), apikeys.Config{
//		Prefix:  "acme",
//		Peppers: peppers,
//		Bus:     apikeysredis.NewBus(client, apikeysredis.Config{}),
//		Shared:  apikeysredis.NewCache(client, apikeysredis.CacheConfig{}),
//	})
//
// Either works without the other. The bus is for those whose PostgreSQL stands
// behind a pooler that allows no LISTEN. The truth about keys stays in the
// store.
package apikeysredis

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kolekt/commerce/apikeys"
)

// Config sets a bus up; its zero value is good.
type Config struct {
	// Channel is the pub/sub channel. Empty is "apikeys:changed". Services on
	// one store use one channel.
	Channel string
}

// Bus is an apikeys.Bus on Redis pub/sub. Messages are empty: whoever can
// publish can make the others look at their store, and nothing more.
type Bus struct {
	client  redis.UniversalClient
	channel string
}

var _ apikeys.Bus = (*Bus)(nil)

// NewBus returns a bus on a server, a sentinel group or a cluster.
func NewBus(client redis.UniversalClient, cfg Config) *Bus {
	if cfg.Channel == "" {
		cfg.Channel = "apikeys:changed"
	}
	return &Bus{client: client, channel: cfg.Channel}
}

// Announce implements apikeys.Bus.
func (b *Bus) Announce(ctx context.Context) error {
	if err := b.client.Publish(ctx, b.channel, "").Err(); err != nil {
		return fmt.Errorf("apikeysredis: publish: %w", err)
	}
	return nil
}

const heartbeat = 5 * time.Second

// Listen implements apikeys.Bus. A connection that has died in silence is
// noticed within 10 seconds.
func (b *Bus) Listen(ctx context.Context, wake func()) error {
	sub := b.client.Subscribe(ctx, b.channel)
	// Of no more use either way, and closing it ends the wait below.
	stop := context.AfterFunc(ctx, func() { _ = sub.Close() })
	defer func() {
		stop()
		_ = sub.Close()
	}()
	pinged := false
	for {
		message, err := sub.ReceiveTimeout(ctx, heartbeat)
		var timeout interface{ Timeout() bool }
		switch {
		case err == nil:
			pinged = false
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.As(err, &timeout) && timeout.Timeout() && !pinged:
			pinged = true
			if err := sub.Ping(ctx); err != nil {
				return fmt.Errorf("apikeysredis: ping: %w", err)
			}
		default:
			return fmt.Errorf("apikeysredis: listen: %w", err)
		}
		switch message.(type) {
		case *redis.Subscription, *redis.Message:
			wake() // a new subscription may have missed something
		}
	}
}

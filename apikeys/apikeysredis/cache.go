package apikeysredis

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kolekt/commerce/apikeys"
)

// CacheConfig sets a cache up; its zero value is good.
type CacheConfig struct {
	// Prefix begins every key in Redis. Empty is "apikeys:key:".
	Prefix string
	// TTL is how long an entry stays. It bounds memory, not staleness. 0 is an
	// hour.
	TTL time.Duration
}

// Cache is an apikeys.SharedCache in Redis. Entries are encrypted by the
// service and each stands alone, so that a cluster serves as well.
type Cache struct {
	client redis.UniversalClient
	cfg    CacheConfig
}

var _ apikeys.SharedCache = (*Cache)(nil)

// NewCache returns a cache on a server, a sentinel group or a cluster.
func NewCache(client redis.UniversalClient, cfg CacheConfig) *Cache {
	if cfg.Prefix == "" {
		cfg.Prefix = "apikeys:key:"
	}
	if cfg.TTL <= 0 {
		cfg.TTL = time.Hour
	}
	return &Cache{client: client, cfg: cfg}
}

// Get implements apikeys.SharedCache.
func (c *Cache) Get(ctx context.Context, name string) ([]byte, error) {
	value, err := c.client.Get(ctx, c.cfg.Prefix+name).Bytes()
	switch {
	case errors.Is(err, redis.Nil):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("apikeysredis: get: %w", err)
	}
	return value, nil
}

// Set implements apikeys.SharedCache.
func (c *Cache) Set(ctx context.Context, name string, value []byte) error {
	if err := c.client.Set(ctx, c.cfg.Prefix+name, value, c.cfg.TTL).Err(); err != nil {
		return fmt.Errorf("apikeysredis: set: %w", err)
	}
	return nil
}

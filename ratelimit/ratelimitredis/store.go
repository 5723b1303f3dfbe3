package ratelimitredis

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kolekt/commerce/ratelimit"
)

// Config configures a Store. The zero value is good.
type Config struct {
	// Prefix begins every key; empty means "ratelimit:".
	Prefix string
	// Timeout bounds a round trip that decides for several callers at once; one
	// for a single caller is bounded by the caller's context. The client must
	// honour contexts for that (redis.Options.ContextTimeoutEnabled), or its own
	// timeouts count. 0 means a second.
	Timeout time.Duration
	// DenialTTL is how long at most this process answers for Redis that a key
	// is refused, without asking: a flooding client then costs Redis next to
	// nothing. Never longer than the key has to wait, but a reset or a refund by
	// another process, or time that a test's Redis skips, is seen only after it.
	// 0 always asks; a second is a good value.
	DenialTTL time.Duration
	// AheadTTL lets this process take units of hot keys ahead, several callers'
	// worth in one round trip, and spend them for this long. It never admits
	// more than the limit, but up to MaxAhead requests' units of each batch that
	// took ahead, and there may be several at a time, stay charged unused when a
	// key cools down suddenly, and a reset by another process can let as many
	// more through. Keep it far below the windows. 0 takes none.
	AheadTTL time.Duration
	// MaxAhead bounds the requests that are paid for ahead, for each key; 0 means
	// 64.
	MaxAhead int
	// MaxDenials bounds the refused keys that are remembered; 0 means 10,000.
	MaxDenials int
}

// Store is a ratelimit.Store and a ratelimit.LeaseStore. It owns no goroutine
// that outlives the decisions it was started for.
type Store struct {
	client  redis.UniversalClient
	cfg     Config
	batcher batcher
	denials denials
	aheads  aheads
	plains  plains

	mu    sync.Mutex
	names map[int64]string // of states, by ID
}

var (
	_ ratelimit.Store      = (*Store)(nil)
	_ ratelimit.LeaseStore = (*Store)(nil)
)

// New returns a Store on a client that the caller keeps and closes. It does no
// I/O.
func New(client redis.UniversalClient, cfg Config) (*Store, error) {
	if client == nil {
		return nil, errors.New("ratelimitredis: New needs a client")
	}
	if cfg.Timeout < 0 || cfg.DenialTTL < 0 || cfg.MaxDenials < 0 || cfg.AheadTTL < 0 || cfg.MaxAhead < 0 {
		return nil, errors.New("ratelimitredis: Config.Timeout, DenialTTL, MaxDenials, AheadTTL and MaxAhead can't be negative")
	}
	if cfg.MaxAhead == 0 {
		cfg.MaxAhead = 64
	}
	if cfg.MaxDenials == 0 {
		cfg.MaxDenials = 10_000
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = time.Second
	}
	if cfg.Prefix == "" {
		cfg.Prefix = "ratelimit:"
	}
	s := &Store{client: client, cfg: cfg, names: map[int64]string{}, plains: plains{scripts: map[shape]*script{}}}
	_, single := client.(*redis.Client)
	s.batcher = batcher{client: client, timeout: cfg.Timeout, single: single, aheads: &s.aheads}
	s.aheads = aheads{ttl: cfg.AheadTTL, max: int64(cfg.MaxAhead), keys: map[denied]*ahead{}}
	s.denials = denials{ttl: cfg.DenialTTL, max: cfg.MaxDenials, entries: map[denied]denial{}}
	return s, nil
}

// HonoursContext reports whether the client ends a call when its context does,
// so that a ratelimit.Guard need not wait in the caller's stead.
func (s *Store) HonoursContext() bool {
	switch c := s.client.(type) {
	case *redis.Client:
		return c.Options().ContextTimeoutEnabled
	case *redis.ClusterClient:
		return c.Options().ContextTimeoutEnabled
	}
	return false
}

func (s *Store) stateKey(scope, key string) string { return s.cfg.Prefix + "s:" + scope + ":" + key }
func (s *Store) leaseKey(scope, key string) string { return s.cfg.Prefix + "c:" + scope + ":" + key }

// decider is a plan as arguments of the scripts.
type decider struct {
	store  *Store
	prefix string
	rules  []ratelimit.Rule
	ids    []int64
	merges bool    // equal requests can be decided together
	plain  *script // nil if plain.lua can't take by this plan
	pack   atomic.Pointer[planArgs]
	list   atomic.Pointer[planArgs]
}

// Prepare implements ratelimit.Store.
func (s *Store) Prepare(scope string, plan *ratelimit.Plan) (ratelimit.Decider, error) {
	if plan == nil || plan.Unlimited() {
		return nil, errors.New("ratelimitredis: Prepare needs a plan with a window")
	}
	d := &decider{store: s, prefix: s.stateKey(scope, ""), rules: plan.Rules(), merges: true}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range d.rules {
		id := r.StateID()
		if other, ok := s.names[id]; ok && other != r.State {
			return nil, fmt.Errorf("ratelimitredis: windows %q and %q have one ID: rename one", other, r.State)
		}
		s.names[id] = r.State
		d.ids = append(d.ids, id)
		d.merges = d.merges && !r.Shadow
	}
	if shape, ok := shapeOf(d.rules); ok {
		d.plain = s.plains.of(shape)
	}
	return d, nil
}

// Decide implements ratelimit.Decider.
func (d *decider) Decide(ctx context.Context, op ratelimit.Op, req ratelimit.Request) (ratelimit.Outcome, ratelimit.Used, error) {
	known := &d.store.denials
	if out, used, ok := known.find(d, op, &req); ok {
		return out, used, nil
	}
	out, used, ok, giveBack := d.store.aheads.spend(d, op, &req)
	if ok {
		return out, used, nil
	}
	if giveBack > 0 {
		back := ratelimit.Request{Key: req.Key, Cost: -giveBack, Spans: req.Spans}
		if _, _, err := d.store.batcher.do(ctx, d, ratelimit.Adjust, &back); err != nil {
			return out, used, fmt.Errorf("%w: %w", ratelimit.ErrUnavailable, err)
		}
	}
	out, used, err := d.store.batcher.do(ctx, d, op, &req)
	if op == ratelimit.Adjust {
		known.forget(d.prefix, req.Key)
	}
	if err != nil {
		return ratelimit.Outcome{}, ratelimit.Used{}, fmt.Errorf("%w: %w", ratelimit.ErrUnavailable, err)
	}
	known.learn(d, op, &req, out, used)
	return out, used, nil
}

// Reset implements ratelimit.Store. Leases are no state of a plan and stay.
func (s *Store) Reset(ctx context.Context, scope, key string) (bool, error) {
	n, err := s.client.Del(ctx, s.stateKey(scope, key)).Result()
	s.denials.forget(s.stateKey(scope, ""), key)
	s.aheads.forget(s.stateKey(scope, ""), key)
	if err != nil {
		return false, fmt.Errorf("%w: %w", ratelimit.ErrUnavailable, err)
	}
	return n > 0, nil
}

// Inspect implements ratelimit.Store. A state whose plan this process doesn't
// know is named by its number.
func (s *Store) Inspect(ctx context.Context, scope, key string) ([]ratelimit.Held, error) {
	v, err := s.client.Get(ctx, s.stateKey(scope, key)).Result()
	if errors.Is(err, redis.Nil) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ratelimit.ErrUnavailable, err)
	}
	now, err := s.client.Time(ctx).Result()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ratelimit.ErrUnavailable, err)
	}
	numbers, err := decode(v)
	if err != nil {
		return nil, err
	}
	return s.held(numbers, now.UnixMicro())
}

var errFormat = errors.New("ratelimitredis: a key holds something else: give the store a Prefix of its own")

// decode reads a key's numbers, as decide.lua writes them.
func decode(v string) ([]int64, error) {
	var numbers []int64
	if v != "" && v[0] >= '0' && v[0] <= '9' { // a packed count of states begins with a zero byte
		for _, digits := range strings.Fields(v) {
			n, err := strconv.ParseInt(digits, 10, 64)
			if err != nil {
				return nil, errFormat
			}
			numbers = append(numbers, n)
		}
		return numbers, nil
	}
	if len(v)%8 != 0 {
		return nil, errFormat
	}
	for ; v != ""; v = v[8:] {
		f := math.Float64frombits(binary.LittleEndian.Uint64([]byte(v[:8])))
		if f < 0 || f > 1<<53 || f != math.Trunc(f) {
			return nil, errFormat
		}
		numbers = append(numbers, int64(f))
	}
	return numbers, nil
}

func (s *Store) held(numbers []int64, now int64) ([]ratelimit.Held, error) {
	if len(numbers) == 0 || int64(len(numbers)) < 1+numbers[0] {
		return nil, errFormat
	}
	ids, words := numbers[1:1+numbers[0]], numbers[1+numbers[0]:]
	s.mu.Lock()
	defer s.mu.Unlock()
	var held []ratelimit.Held
	for _, id := range ids {
		n := map[ratelimit.Algorithm]int{ratelimit.Bucket: 1, ratelimit.Period: 2, ratelimit.Rolling: ratelimit.RollingSlots + 3}[ratelimit.Algorithm(id%4)]
		if n == 0 || len(words) < n {
			return nil, errFormat
		}
		var used, until int64
		switch w := words[:n]; ratelimit.Algorithm(id % 4) {
		case ratelimit.Bucket:
			used, until = w[0]-now, w[0]
		case ratelimit.Period:
			used, until = w[0], w[1]
		case ratelimit.Rolling:
			until = (w[0] + ratelimit.RollingSlots + 1) * w[1]
			for _, n := range w[2:] {
				used += n
			}
		}
		words = words[n:]
		if until > now && used > 0 {
			name := s.names[id]
			if name == "" {
				name = "#" + strconv.FormatInt(id, 10)
			}
			held = append(held, ratelimit.Held{State: name, Used: used, Until: time.UnixMicro(until).UTC()})
		}
	}
	return held, nil
}

// Acquire implements ratelimit.LeaseStore.
func (s *Store) Acquire(ctx context.Context, scope, key, id string, limit int64, ttl time.Duration) (bool, int64, time.Duration, error) {
	cmd, err := run(ctx, s.client, redis.NewIntSliceCmd, acquireScript, s.leaseKey(scope, key), id, limit, ttl.Microseconds())
	if err == nil && len(cmd.Val()) != 3 {
		err = errReply
	}
	if err != nil {
		return false, 0, 0, fmt.Errorf("%w: %w", ratelimit.ErrUnavailable, err)
	}
	reply := cmd.Val()
	return reply[0] == 1, reply[1], time.Duration(reply[2]) * time.Microsecond, nil
}

// Release implements ratelimit.LeaseStore.
func (s *Store) Release(ctx context.Context, scope, key, id string) (bool, error) {
	cmd, err := run(ctx, s.client, redis.NewIntCmd, releaseScript, s.leaseKey(scope, key), id)
	if err != nil {
		return false, fmt.Errorf("%w: %w", ratelimit.ErrUnavailable, err)
	}
	return cmd.Val() == 1, nil
}

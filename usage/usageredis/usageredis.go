// Package usageredis decides about quotas in Redis 6 or newer, or a Redis
// Cluster: one round trip and one slot for a step. It is a usage.QuotaStore;
// events, queries and notices stay in another store:
//
//	pg := usagepg.New(pool)
//	svc, err := usage.New(pg, usage.Config{
//		Quotas: usageredis.NewWith(client, usageredis.Config{Durable: pg}),
//		…
//	})
//
// With Config.Durable a Redis that loses its data never gives a quota back:
// Redis admits only units that the durable store has handed to it in blocks
// and counts as used already. What is lost is the rest of a block, which is
// small, and near a limit a single unit; the account can't use it in that
// period. Without Durable a step is as durable as Redis is configured to be.
package usageredis

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kolekt/commerce/internal/ident"
	"github.com/kolekt/commerce/usage"
)

// Durable is the store behind Redis, such as usagepg.
type Durable interface {
	usage.QuotaStore
	PutNotices(ctx context.Context, notices []usage.Notice) error
}

// Config has a good default for everything.
type Config struct {
	// Prefix is before all keys: "usage:" when empty.
	Prefix string
	// Durable is the store that Redis gets its units and gives its notices
	// to. Nil makes Redis the only one, without notices.
	Durable Durable
	// Block is how many units Redis gets at once, less near a limit: 64 when
	// zero.
	Block int64
	// KeyRetention is how long keys are remembered beyond their period: 36
	// days when zero.
	KeyRetention time.Duration
}

// Store is a usage.QuotaStore.
type Store struct {
	client redis.UniversalClient
	cfg    Config
	// resends says that the client may send a command again whose answer was
	// lost, so that every step needs a key.
	resends bool
}

var _ usage.QuotaStore = (*Store)(nil)

//go:embed step.lua
var stepSource string

//go:embed extend.lua
var extendSource string

var (
	stepScript   = redis.NewScript(stepSource)
	extendScript = redis.NewScript(extendSource)
)

// resendWindow is how long a step that has no key of its own is remembered,
// for clients that send again.
const resendWindow = time.Minute

// New returns a store without a durable one behind it.
func New(client redis.UniversalClient) *Store { return NewWith(client, Config{}) }

// NewWith returns a store.
func NewWith(client redis.UniversalClient, cfg Config) *Store {
	if cfg.Prefix == "" {
		cfg.Prefix = "usage:"
	}
	if cfg.Block <= 0 {
		cfg.Block = 64
	}
	if cfg.KeyRetention == 0 {
		cfg.KeyRetention = 36 * 24 * time.Hour
	}
	s := &Store{client: client, cfg: cfg, resends: true}
	if c, ok := client.(*redis.Client); ok && c.Options().MaxRetries <= 0 {
		s.resends = false
	}
	return s
}

// base is what an account's keys begin with. A brace in the account would end
// the hash tag early, so it is spelled otherwise.
func (s *Store) base(account string) string {
	if !strings.ContainsAny(account, "%{}") {
		return s.cfg.Prefix + "{" + account + "}:"
	}
	return s.cfg.Prefix + "{" + strings.NewReplacer("%", "%25", "{", "%7b", "}", "%7d").Replace(account) + "}:"
}

func counterName(base, meter string, p usage.Period) string {
	return base + "c:" + meter + ":" + strconv.FormatInt(p.From.UnixMicro(), 10)
}

// Apply implements usage.QuotaStore.
func (s *Store) Apply(ctx context.Context, op usage.Op) (usage.Decision, error) {
	if err := ctx.Err(); err != nil {
		return usage.Decision{}, err
	}
	if op.Kind == usage.Reserve || op.Kind == usage.Consume {
		if op.N <= 0 || op.N > usage.MaxValue {
			return usage.Decision{}, fmt.Errorf("%w: %d units: ask for 1 to 2^53", usage.ErrInvalid, op.N)
		}
	} else if op.N < 0 || op.N > usage.MaxValue {
		return usage.Decision{}, fmt.Errorf("%w: %d units: commit 0 to 2^53", usage.ErrInvalid, op.N)
	}
	if d, done, err := s.fast(ctx, op); done || err != nil {
		return d, err
	}
	st := s.newStep(op)
	// Each turn but the last one changes what the step has run into.
	for range 10 {
		res, err := st.run(ctx)
		if err != nil {
			return usage.Decision{}, err
		}
		switch res.status {
		case "ok", "no":
			if s.cfg.Durable != nil {
				if err := s.settle(ctx, st, res); err != nil {
					return usage.Decision{}, &usage.UnknownOutcomeError{Key: op.Key, Err: err}
				}
			}
			return st.decision(res), nil
		case "reused":
			return usage.Decision{}, usage.ErrKeyReused
		case "settled":
			return usage.Decision{}, usage.ErrSettled
		case "notfound":
			return usage.Decision{}, usage.ErrNotFound
		case "overflow":
			return usage.Decision{}, usage.ErrOverflow
		case "cold":
			if err := s.warm(ctx, st); err != nil {
				return usage.Decision{}, err
			}
		case "lease":
			need := res.used + res.held + op.N - res.ceiling
			got, err := s.lease(ctx, st, need, false)
			if err != nil {
				return usage.Decision{}, err
			}
			if !got {
				res.status = "no"
				return st.decision(res), nil
			}
		default:
			return usage.Decision{}, fmt.Errorf("usageredis: unknown answer %q", res.status)
		}
	}
	return usage.Decision{}, fmt.Errorf("%w: usageredis: the counter keeps losing its units", usage.ErrUnavailable)
}

// step is a step as the script takes it.
type step struct {
	store      *Store
	op         usage.Op
	keys       []string
	args       []any
	thresholds []int // percent, of the script's thresholds
	keepFor    int64 // ms
}

func (s *Store) newStep(op usage.Op) *step {
	base := s.base(op.Account)
	counter := counterName(base, op.Meter, op.Period)
	key, forget := op.Key, int64(0)
	if key == "" && s.resends {
		key, forget = ident.New("once", op.Now), resendWindow.Milliseconds()
	}
	hold := counter
	if key != "" {
		hold = base + "h:" + key
	}
	st := &step{store: s, op: op, keepFor: max(op.Period.To.Add(s.cfg.KeyRetention).Sub(op.Now), time.Minute).Milliseconds()}
	st.keys = []string{counter, base + "o:" + op.Meter, hold}
	event := 0
	if op.Entry != nil {
		event = 1
	}
	durable := 0
	if s.cfg.Durable != nil {
		durable = 1
	}
	st.args = []any{
		int(op.Kind), op.N, op.Limit, op.Cap, op.Now.UnixMicro(), max(0, op.Expires.UnixMicro()),
		op.Period.From.UnixMicro(), op.Period.To.UnixMicro(), key, op.Meter, base, st.keepFor, durable, event, forget,
	}
	if durable == 1 {
		st.args, st.thresholds = appendThresholds(st.args, st.thresholds, op)
	}
	return st
}

// result is the script's answer.
type result struct {
	status              string
	used, held, ceiling int64
	replayed, late      bool
	period              usage.Period
	crossed             []int // indices into thresholds
}

func (st *step) run(ctx context.Context) (result, error) {
	raw, err := stepScript.Run(ctx, st.store.client, st.keys, st.args...).Slice()
	if err != nil {
		return result{}, kindOf(err, st.op.Key)
	}
	res := result{}
	ok := len(raw) > 0
	if ok {
		res.status, ok = raw[0].(string)
	}
	if len(raw) < 9 || !ok {
		return res, nil
	}
	var bad error
	num := func(i int) int64 {
		text, isText := raw[i].(string)
		if !isText {
			n, _ := raw[i].(int64)
			return n
		}
		n, err := strconv.ParseInt(text, 10, 64)
		bad = errors.Join(bad, err)
		return n
	}
	res.used, res.held, res.replayed, res.late, res.ceiling = num(1), num(2), num(3) == 1, num(4) == 1, num(7)
	res.period = usage.Period{From: time.UnixMicro(num(5)).UTC(), To: time.UnixMicro(num(6)).UTC()}
	list, _ := raw[8].([]any)
	for _, x := range list {
		i, _ := x.(int64)
		if i < 1 || int(i) > len(st.thresholds) {
			bad = errors.Join(bad, fmt.Errorf("threshold %d", i))
			continue
		}
		res.crossed = append(res.crossed, int(i)-1)
	}
	if bad != nil {
		return res, fmt.Errorf("usageredis: answer of the script: %w", bad)
	}
	return res, nil
}

func (st *step) decision(res result) usage.Decision {
	op := st.op
	d := usage.Decision{
		Allowed: res.status == "ok", Account: op.Account, Meter: op.Meter, Key: op.Key, N: op.N,
		Used: res.used, Held: res.held, Limit: op.Limit, Remaining: usage.Unlimited, Period: op.Period,
		Replayed: res.replayed, Late: res.late,
	}
	if res.replayed {
		d.Period = res.period
	}
	if op.Cap != usage.Unlimited {
		d.Remaining = max(0, op.Cap-res.used-res.held)
	}
	if op.Limit != usage.Unlimited {
		d.Overage = max(0, res.used-op.Limit)
	}
	return d
}

// warm begins the counter at what the durable store says is used.
func (s *Store) warm(ctx context.Context, st *step) error {
	c, err := s.cfg.Durable.Counter(ctx, st.op.Account, st.op.Meter, st.op.Period)
	if err != nil {
		return err
	}
	return kindOf(extendScript.Run(ctx, s.client, st.keys[:1], 0, c.Used, st.keepFor, st.op.Period.To.UnixMicro()).Err(), st.op.Key)
}

// lease gets at least need units from the durable store, and a block if there
// are as many. It is false when there aren't enough.
func (s *Store) lease(ctx context.Context, st *step, need int64, force bool) (bool, error) {
	op := usage.Op{
		Kind: usage.Consume, Account: st.op.Account, Meter: st.op.Meter, Charge: st.op.Charge, Now: st.op.Now,
		N: max(need, s.cfg.Block),
	}
	op.Thresholds = nil // crossed by what Redis admits, not by what it gets
	if force {
		op.Cap = usage.Unlimited
		op.N = need
	} else if op.Cap != usage.Unlimited {
		c, err := s.cfg.Durable.Counter(ctx, op.Account, op.Meter, op.Period)
		if err != nil {
			return false, err
		}
		op.N = max(need, min(s.cfg.Block, (op.Cap-c.Used-c.Held)/16))
	}
	// Without a key: an unknown outcome leaves units to nobody, and that is
	// the safe side.
	d, err := s.cfg.Durable.Apply(ctx, op)
	if err == nil && !d.Allowed && op.N > need {
		op.N = need
		d, err = s.cfg.Durable.Apply(ctx, op)
	}
	if err != nil || !d.Allowed {
		return false, err
	}
	err = extendScript.Run(ctx, s.client, st.keys[:1], op.N, d.Used, st.keepFor, st.op.Period.To.UnixMicro()).Err()
	return true, kindOf(err, st.op.Key)
}

// settle makes the durable store know what Redis has let happen: use beyond
// the units that Redis had, and crossed thresholds.
func (s *Store) settle(ctx context.Context, st *step, res result) error {
	if over := res.used + res.held - res.ceiling; over > 0 && res.status == "ok" {
		if _, err := s.lease(ctx, st, over, true); err != nil {
			return err
		}
	}
	if len(res.crossed) == 0 {
		return nil
	}
	notices := make([]usage.Notice, len(res.crossed))
	stored := make([]any, 0, 2*len(res.crossed))
	for i, x := range res.crossed {
		percent := st.thresholds[x]
		notices[i] = usage.Notice{
			ID:      usage.NoticeID(st.op.Account, st.op.Meter, st.op.Period.From, percent),
			Account: st.op.Account, Meter: st.op.Meter, Period: st.op.Period, Percent: percent,
			Used: res.used, Limit: st.op.Limit, At: st.op.Now,
		}
		stored = append(stored, "n"+strconv.FormatInt(usage.Threshold(st.op.Limit, percent), 10), "1")
	}
	if err := s.cfg.Durable.PutNotices(ctx, notices); err != nil {
		return err
	}
	// Until this is said, every step of the account stores them again.
	return s.client.HSet(ctx, st.keys[0], stored...).Err()
}

// kindOf gives a Redis error its kind: a command that was sent may have been
// executed.
func kindOf(err error, key string) error {
	var redisErr redis.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &redisErr):
		return fmt.Errorf("%w: usageredis: %w", usage.ErrUnavailable, err)
	case errors.Is(err, redis.ErrPoolTimeout), errors.Is(err, redis.ErrClosed), isDial(err):
		return fmt.Errorf("%w: usageredis: %w", usage.ErrUnavailable, err)
	}
	return &usage.UnknownOutcomeError{Key: key, Err: err}
}

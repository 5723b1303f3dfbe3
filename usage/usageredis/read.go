package usageredis

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kolekt/commerce/usage"
)

func isDial(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

func parse(fields map[string]string, name string) int64 {
	n, err := strconv.ParseInt(fields[name], 10, 64)
	if err != nil {
		return 0 // not there
	}
	return n
}

// Counter implements usage.QuotaStore.
func (s *Store) Counter(ctx context.Context, account, meter string, p usage.Period) (usage.Counter, error) {
	c := usage.Counter{Account: account, Meter: meter, Period: p}
	fields, err := s.client.HGetAll(ctx, counterName(s.base(account), meter, p)).Result()
	if err != nil {
		return c, unavailable(err)
	}
	if len(fields) == 0 && s.cfg.Durable != nil {
		return s.cfg.Durable.Counter(ctx, account, meter, p)
	}
	c.Used, c.Held, c.Bare, c.Limit = parse(fields, "used"), parse(fields, "held"), parse(fields, "used")-parse(fields, "stored"), parse(fields, "limit")
	return c, nil
}

func holdOf(account, key string, fields map[string]string) usage.Hold {
	at := func(name string) time.Time {
		if n := parse(fields, name); n != 0 {
			return time.UnixMicro(n).UTC()
		}
		return time.Time{}
	}
	return usage.Hold{
		Account: account, Key: key, Meter: fields["meter"], Period: usage.Period{From: at("from"), To: at("to")},
		Kind: usage.OpKind(parse(fields, "kind")), N: parse(fields, "n"), Actual: parse(fields, "actual"),
		State: usage.HoldState(parse(fields, "state")), At: at("at"), Expires: at("expires"),
	}
}

// Hold implements usage.QuotaStore.
func (s *Store) Hold(ctx context.Context, account, key string) (usage.Hold, error) {
	fields, err := s.client.HGetAll(ctx, s.base(account)+"h:"+key).Result()
	if err != nil {
		return usage.Hold{}, unavailable(err)
	}
	if len(fields) == 0 {
		return usage.Hold{}, usage.ErrNotFound
	}
	return holdOf(account, key, fields), nil
}

// Holds implements usage.QuotaStore.
func (s *Store) Holds(ctx context.Context, account, meter string, n int) ([]usage.Hold, error) {
	keys, err := s.client.ZRange(ctx, s.base(account)+"o:"+meter, 0, int64(n)-1).Result()
	if err != nil {
		return nil, unavailable(err)
	}
	var out []usage.Hold
	for _, key := range keys {
		h, err := s.Hold(ctx, account, key)
		if errors.Is(err, usage.ErrNotFound) {
			continue // settled and forgotten in the meantime
		}
		if err != nil {
			return nil, err
		}
		if h.State == usage.Held {
			out = append(out, h)
		}
	}
	slices.SortFunc(out, func(a, b usage.Hold) int { return a.At.Compare(b.At) })
	return out, nil
}

// NearLimit implements usage.QuotaStore. Redis can't list counters: the durable
// store can, and has counted at least as much, so that the exact counters of
// its candidates are looked up here.
func (s *Store) NearLimit(ctx context.Context, meter string, now time.Time, percent, n int) ([]usage.Counter, error) {
	if s.cfg.Durable == nil {
		return nil, fmt.Errorf("%w: usageredis can't list counters without Config.Durable", usage.ErrUnsupported)
	}
	candidates, err := s.cfg.Durable.NearLimit(ctx, meter, now, percent, 4*n+100)
	if err != nil {
		return nil, err
	}
	var out []usage.Counter
	for _, c := range candidates {
		exact, err := s.Counter(ctx, c.Account, meter, c.Period)
		if err != nil {
			return nil, err
		}
		if exact.Limit > 0 && exact.Used >= usage.Threshold(exact.Limit, percent) {
			out = append(out, exact)
		}
	}
	slices.SortFunc(out, func(a, b usage.Counter) int {
		share := func(c usage.Counter) float64 { return float64(c.Used) / float64(c.Limit) }
		return cmp.Or(cmp.Compare(share(b), share(a)), cmp.Compare(a.Account, b.Account))
	})
	return out[:min(n, len(out))], nil
}

// ExportSubject emits the account's counters and reservations that Redis has.
func (s *Store) ExportSubject(ctx context.Context, account string, emit func(record string, fields map[string]any) error) error {
	base := s.base(account)
	keys, err := s.keys(ctx, base)
	if err != nil {
		return err
	}
	for _, name := range keys {
		rest := strings.TrimPrefix(name, base)
		key, isHold := strings.CutPrefix(rest, "h:")
		counter, isCounter := strings.CutPrefix(rest, "c:")
		if !isHold && !isCounter {
			continue
		}
		fields, err := s.client.HGetAll(ctx, name).Result()
		if err != nil {
			return unavailable(err)
		}
		if isHold {
			err = emit("reservation", holdOf(account, key, fields).Record())
		} else {
			i := strings.LastIndexByte(counter, ':')
			from, parseErr := strconv.ParseInt(counter[i+1:], 10, 64)
			if i < 0 || parseErr != nil {
				return fmt.Errorf("usageredis: unexpected key %q", rest)
			}
			err = emit("counter", usage.Counter{
				Account: account, Meter: counter[:i], Used: parse(fields, "used"), Held: parse(fields, "held"), Limit: parse(fields, "limit"),
				Period: usage.Period{From: time.UnixMicro(from).UTC(), To: time.UnixMicro(parse(fields, "to")).UTC()},
			}.Record())
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// EraseSubject deletes what Redis has on the account.
func (s *Store) EraseSubject(ctx context.Context, account string) (map[string]int64, error) {
	base := s.base(account)
	keys, err := s.keys(ctx, base)
	if err != nil {
		return nil, err
	}
	counts := map[string]int64{"counter": 0, "reservation": 0}
	for part := range slices.Chunk(keys, 500) {
		for _, name := range part {
			switch {
			case strings.HasPrefix(name, base+"h:"):
				counts["reservation"]++
			case strings.HasPrefix(name, base+"c:"):
				counts["counter"]++
			}
		}
		if err := s.client.Unlink(ctx, part...).Err(); err != nil { // one slot
			return counts, unavailable(err)
		}
	}
	return counts, nil
}

// keys finds an account's keys. It walks the whole keyspace in small steps:
// for the rights of an account, not for requests.
func (s *Store) keys(ctx context.Context, base string) ([]string, error) {
	pattern := strings.NewReplacer(`\`, `\\`, "*", `\*`, "?", `\?`, "[", `\[`).Replace(base) + "*"
	var mu sync.Mutex
	var out []string
	scan := func(ctx context.Context, c redis.Cmdable) error {
		it := c.Scan(ctx, 0, pattern, 1000).Iterator()
		for it.Next(ctx) {
			mu.Lock()
			out = append(out, it.Val())
			mu.Unlock()
		}
		return it.Err()
	}
	var err error
	if cluster, ok := s.client.(*redis.ClusterClient); ok {
		err = cluster.ForEachMaster(ctx, func(ctx context.Context, c *redis.Client) error { return scan(ctx, c) })
	} else {
		err = scan(ctx, s.client)
	}
	if err != nil {
		return nil, unavailable(err)
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

func unavailable(err error) error {
	return fmt.Errorf("%w: usageredis: %w", usage.ErrUnavailable, err)
}

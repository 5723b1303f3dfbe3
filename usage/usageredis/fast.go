package usageredis

import (
	"context"
	_ "embed"
	"errors"

	"github.com/redis/go-redis/v9"

	"github.com/kolekt/commerce/usage"
)

//go:embed fast.lua
var fastSource string

var fastScript = redis.NewScript(fastSource)

// fast decides a step that is nothing but units of a counter. It is false when
// the step has to go the whole way.
func (s *Store) fast(ctx context.Context, op usage.Op) (usage.Decision, bool, error) {
	if op.Kind != usage.Consume || op.Key != "" || op.Entry != nil || s.resends {
		return usage.Decision{}, false, nil
	}
	durable := 0
	args := make([]any, 3, 8)
	args[0], args[1], args[2] = op.N, op.Limit, op.Cap
	if s.cfg.Durable != nil {
		durable = 1
	}
	args = append(args, durable)
	if durable == 1 {
		args, _ = appendThresholds(args, nil, op)
	}
	keys := []string{counterName(s.base(op.Account), op.Meter, op.Period)}
	out, err := fastScript.Run(ctx, s.client, keys, args...).Int64Slice()
	switch {
	case err != nil:
		return usage.Decision{}, false, kindOf(err, "")
	case len(out) != 3:
		return usage.Decision{}, false, errors.New("usageredis: fast.lua answered something else")
	case out[0] < 0:
		return usage.Decision{}, false, nil
	}
	st := step{op: op}
	res := result{status: "no", used: out[1], held: out[2]}
	if out[0] == 1 {
		res.status = "ok"
	}
	return st.decision(res), true, nil
}

// appendThresholds adds the units of the thresholds to a script's arguments.
// Equal ones are one crossing, of the higher percentage.
func appendThresholds(args []any, percents []int, op usage.Op) ([]any, []int) {
	if op.Limit <= 0 {
		return args, percents
	}
	last := int64(0)
	for i, percent := range op.Thresholds {
		t := usage.Threshold(op.Limit, percent)
		if i > 0 && t == last {
			percents[len(percents)-1] = percent
			continue
		}
		last = t
		percents, args = append(percents, percent), append(args, t)
	}
	return args, percents
}

package ratelimitredis

import (
	"context"
	"crypto/sha1"
	_ "embed" // the scripts
	"encoding/hex"
	"fmt"
	"strings"
	"sync"
	"text/template"

	"github.com/redis/go-redis/v9"

	"github.com/kolekt/commerce/ratelimit"
)

var (
	//go:embed general.lua
	generalSource string
	//go:embed decide.lua
	decideSource string
	//go:embed plain.lua
	plainSource string
	//go:embed acquire.lua
	acquireSource string
	//go:embed release.lua
	releaseSource string

	decideScript  = newScript(strings.Replace(decideSource, "{{.General}}\n", generalSource, 1))
	acquireScript = newScript(acquireSource)
	releaseScript = newScript(releaseSource)
	plainTemplate = template.Must(template.New("plain").Parse(plainSource))
)

// script is a Lua script with the name that Redis gives it. It is no
// redis.Script because a pipeline must handle NOSCRIPT itself.
type script struct {
	source string
	sha    any // a string
}

func newScript(source string) *script {
	sum := sha1.Sum([]byte(source)) // Redis names scripts so: no secret
	return &script{source: source, sha: hex.EncodeToString(sum[:])}
}

// Words of commands that needn't become interfaces again and again.
var (
	wordEval    any = "eval"
	wordEvalSHA any = "evalsha"
)

// args returns the script and a number of keys, with room for these and n
// arguments. With whole, the source goes along and Redis keeps it.
func (s *script) args(whole bool, keys, n int) []any {
	args := make([]any, 0, 3+keys+n)
	if whole {
		return append(args, wordEval, s.source, keys)
	}
	return append(args, wordEvalSHA, s.sha, keys)
}

// run runs a script on one key, in one round trip, or in two on a server that
// doesn't know it yet.
func run[C redis.Cmder](ctx context.Context, client redis.UniversalClient, newCmd func(context.Context, ...any) C, s *script, key string, rest ...any) (C, error) {
	cmd := newCmd(ctx, append(append(s.args(false, 1, len(rest)), key), rest...)...)
	err := client.Process(ctx, cmd)
	if isNoScript(err) {
		// Redis says so before it does anything.
		cmd = newCmd(ctx, append(append(s.args(true, 1, len(rest)), key), rest...)...)
		err = client.Process(ctx, cmd)
	}
	return cmd, err
}

func isNoScript(err error) bool {
	return err != nil && strings.HasPrefix(err.Error(), "NOSCRIPT")
}

// shape is the algorithms of a plan's windows in their order, as far as a plain
// script must know them. There are 30, so that a server isn't filled with the
// scripts of ever new plans.
type shape struct {
	n       int
	periods uint8 // bit i: window i is a period, and otherwise a bucket
}

// shapeOf returns the shape of a plan, and false if plain.lua doesn't know its
// kind of windows.
func shapeOf(rules []ratelimit.Rule) (s shape, ok bool) {
	for i, r := range rules {
		if r.Shadow || r.Algorithm == ratelimit.Rolling {
			return shape{}, false
		}
		if r.Algorithm == ratelimit.Period {
			s.periods |= 1 << i
		}
	}
	s.n = len(rules)
	return s, true
}

// plains are the plain scripts that were needed so far.
type plains struct {
	mu      sync.Mutex
	scripts map[shape]*script
}

func (p *plains) of(s shape) *script {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.scripts[s] == nil {
		p.scripts[s] = newScript(s.source())
	}
	return p.scripts[s]
}

// source writes plain.lua out for a shape.
func (s shape) source() string {
	type window struct {
		I, Used int // Used is where general's reply has the use
		Bucket  bool
	}
	var windows []window
	var kinds, plan, ids, states, words, zeros, instants, stale []string
	list := func(l *[]string, i int, names ...string) {
		for _, n := range names {
			*l = append(*l, fmt.Sprintf(n, i))
		}
	}
	for i := range s.n {
		bucket := s.periods>>i&1 == 0
		w := i + 1 // as Lua counts
		windows = append(windows, window{I: w, Used: 1 + 2*w, Bucket: bucket})
		list(&ids, w, "id%d")
		list(&states, w, "state%d")
		if bucket {
			kinds = append(kinds, "a bucket")
			list(&plan, w, "id%d", "limit%d", "interval%d")
			list(&words, w, "word%d")
			list(&instants, w, "word%d")
			zeros = append(zeros, "0")
		} else {
			kinds = append(kinds, "a period")
			list(&plan, w, "id%d", "limit%d", "from%d", "to%d")
			list(&words, w, "word%d", "end%d")
			list(&instants, w, "end%d")
			zeros = append(zeros, "0", "0")
			stale = append(stale, fmt.Sprintf("now < from%d or now >= to%[1]d", w))
		}
	}
	if len(stale) == 0 {
		stale = append(stale, "false")
	}
	join := func(l []string) string { return strings.Join(l, ", ") }
	var b strings.Builder
	err := plainTemplate.Execute(&b, map[string]any{
		"Shape": join(kinds), "N": s.n, "Windows": windows, "General": generalSource,
		"Plan": join(plan), "PlanFormat": strings.Repeat("d", len(plan)),
		"IDs": join(ids), "States": join(states), "StatesFormat": strings.Repeat("d", s.n),
		"Words": join(words), "WordsFormat": strings.Repeat("d", len(words)), "Zeros": join(zeros),
		"Instants": instants, "Stale": strings.Join(stale, " or "),
		"Offset": 8 * (1 + s.n), "Size": 8 * (1 + s.n + len(words)),
	})
	if err != nil {
		panic(err) // the template is part of this package: not of any input
	}
	return b.String()
}

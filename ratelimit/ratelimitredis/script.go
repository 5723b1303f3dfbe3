package ratelimitredis

import (
	"context"
	"crypto/sha1"
	_ "embed" // the scripts
	"encoding/hex"
	"strings"

	"github.com/redis/go-redis/v9"
)

var (
	//go:embed decide.lua
	decideSource string
	//go:embed acquire.lua
	acquireSource string
	//go:embed release.lua
	releaseSource string

	decideScript  = newScript(decideSource)
	acquireScript = newScript(acquireSource)
	releaseScript = newScript(releaseSource)
)

// script is a Lua script with the name that Redis gives it. It is no
// redis.Script because a pipeline must handle NOSCRIPT itself.
type script struct{ source, sha string }

func newScript(source string) script {
	sum := sha1.Sum([]byte(source)) // Redis names scripts so: no secret
	return script{source: source, sha: hex.EncodeToString(sum[:])}
}

// args puts a script in front of numkeys, keys and arguments. With whole, the
// source goes along and Redis keeps it.
func (s script) args(whole bool, keys []string, rest []any) []any {
	args := make([]any, 0, 3+len(keys)+len(rest))
	if whole {
		args = append(args, "eval", s.source)
	} else {
		args = append(args, "evalsha", s.sha)
	}
	args = append(args, len(keys))
	for _, k := range keys {
		args = append(args, k)
	}
	return append(args, rest...)
}

// run runs the script in one round trip, or in two on a server that doesn't
// know it yet.
func (s script) run(ctx context.Context, client redis.UniversalClient, keys []string, rest []any) ([]int64, error) {
	cmd := redis.NewIntSliceCmd(ctx, s.args(false, keys, rest)...)
	err := client.Process(ctx, cmd)
	if isNoScript(err) {
		// Redis says so before it does anything.
		cmd = redis.NewIntSliceCmd(ctx, s.args(true, keys, rest)...)
		err = client.Process(ctx, cmd)
	}
	if err != nil {
		return nil, err
	}
	return cmd.Val(), nil
}

func isNoScript(err error) bool {
	return err != nil && strings.HasPrefix(err.Error(), "NOSCRIPT")
}

package usageredis

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/internal/redistest"
)

// Hand-overs may come in any order, and twice: the units that Redis may admit
// are those that it was handed, once each.
func TestHandOversComeInAnyOrderAndTwice(t *testing.T) {
	_, client := redistest.Mini(t)
	left := func() int64 {
		ceiling, err := client.HGet(t.Context(), "c", "ceil").Int64()
		require.NoError(t, err)
		used, err := client.HGet(t.Context(), "c", "used").Int64()
		require.NoError(t, err)
		return ceiling - used
	}
	for _, step := range []struct{ block, top, left int64 }{
		{0, 100, 0},
		{0, 50, 0},    // begun already
		{10, 110, 10}, // the next in line
		{10, 110, 10}, // again
		{10, 150, 20}, // 110 to 140 are missing
		{10, 130, 30}, // the middle of them
		{10, 130, 30}, // again
		{10, 120, 40}, // before it
		{10, 140, 50}, // behind it
		{30, 140, 50}, // of no gap
		{10, 100, 50}, // from before the beginning
		{5, 155, 55},
	} {
		require.NoError(t, extendScript.Run(t.Context(), client, []string{"c"}, step.block, step.top, 60_000, 0).Err())
		require.Equal(t, step.left, left(), "%+v", step)
	}
	require.NoError(t, client.Del(t.Context(), "c").Err())
	require.NoError(t, extendScript.Run(t.Context(), client, []string{"c"}, 10, 200, 60_000, 0).Err())
	require.Zero(t, client.Exists(t.Context(), "c").Val(), "a lost counter begins at what the durable store says")
}

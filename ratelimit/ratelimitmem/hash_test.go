package ratelimitmem

import (
	"fmt"
	"math/bits"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/ratelimit"
)

// Keys that an application makes look alike; their hashes must not.
func TestHashTellsKeysApart(t *testing.T) {
	s := newSecret()
	for _, pattern := range []string{"%d", "acct_%010d", "10.0.0.%d", "user:%d:requests", "%064d", "tenant-%d-0123456789-0123456789"} {
		const n = 200_000
		seen := make(map[uint64]bool, n)
		var shard [shards]int
		slots := map[uint64]int{}
		for i := range n {
			h := s.hash(fmt.Sprintf(pattern, i))
			require.False(t, seen[h], pattern)
			seen[h] = true
			shard[h%shards]++
			slots[h>>32*1024>>32]++
		}
		// Chi-square over 255 and 1023 degrees of freedom: ten deviations above
		// what chance makes of it.
		require.Less(t, chiSquare(shard[:], n), 255+10*22.6, pattern)
		parts := make([]int, 1024)
		for i, c := range slots {
			parts[i] = c
		}
		require.Less(t, chiSquare(parts, n), 1023+10*45.2, pattern)
	}
}

func chiSquare(counts []int, n int) (sum float64) {
	want := float64(n) / float64(len(counts))
	for _, c := range counts {
		sum += (float64(c) - want) * (float64(c) - want) / want
	}
	return sum
}

// Every byte of a key counts, at every length, and changes half of the bits.
func TestHashFeelsEveryByte(t *testing.T) {
	s := newSecret()
	for n := range 70 {
		key := strings.Repeat("k", n)
		h := s.hash(key)
		require.NotEqual(t, h, s.hash(key+"k"), "length %d", n)
		require.NotEqual(t, h, newSecret().hash(key), "the secret counts, length %d", n)
		flipped := 0
		for i := range n {
			for bit := range 8 {
				other := []byte(key)
				other[i] ^= 1 << bit
				o := s.hash(string(other))
				require.NotEqual(t, h, o, "length %d, byte %d", n, i)
				flipped += bits.OnesCount64(h ^ o)
			}
		}
		if n > 0 {
			require.InDelta(t, 32, float64(flipped)/float64(8*n), 8, "length %d", n)
		}
	}
}

// Buckets that are full again before their key comes back must not make a
// rebuild of each visit.
func TestKeysThatComeBackHaveTheirPlace(t *testing.T) {
	var now time.Time
	store := New(Config{Now: func() time.Time { return now }})
	limiter, err := ratelimit.New(store, ratelimit.Config{})
	require.NoError(t, err)
	plan, err := ratelimit.NewPlan("p", ratelimit.Rate("fast", 100, 100*time.Millisecond))
	require.NoError(t, err)
	now = time.UnixMicro(1_800_000_000_000_000)
	round := func() {
		for i := range 20_000 {
			now = now.Add(time.Microsecond)
			_, err := limiter.Allow(t.Context(), fmt.Sprint("k", i), plan, 1)
			require.NoError(t, err)
		}
	}
	round()
	entries, _ := store.Len("default")
	require.Equal(t, 20_000, entries, "one visit makes a key known")
	for range 20 {
		round()
	}
	tables := func() (all [shards]*table) {
		for i := range all {
			all[i] = store.lookup("default").tables[i].Load()
		}
		return all
	}
	before := tables()
	for range 5 {
		round()
	}
	for i, after := range tables() {
		require.Same(t, before[i], after, "part %d was rebuilt", i)
	}
}

package apikeys

import (
	"bytes"
	"crypto/subtle"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
	"time"
	"unsafe"
)

// welch measures two classes of inputs in random order, drops the slowest
// tenth, and returns Welch's t and the difference of the means in nanoseconds.
// Prepare puts an input where run finds it, so that where inputs lie in memory
// tells nothing.
func welch(n int, prepare func(class int, i int), run func()) (t, effect float64) {
	var samples [2][]float64
	const batch = 16 // one clock reading for so many calls
	for i := range 2 * n {
		class := rand.IntN(2)
		prepare(class, i)
		start := time.Now()
		for range batch {
			run()
		}
		samples[class] = append(samples[class], float64(time.Since(start).Nanoseconds())/batch)
	}
	var mean, variance, count [2]float64
	for c := range samples {
		slices.Sort(samples[c])
		kept := samples[c][:len(samples[c])*9/10]
		count[c] = float64(len(kept))
		for _, x := range kept {
			mean[c] += x / count[c]
		}
		for _, x := range kept {
			variance[c] += (x - mean[c]) * (x - mean[c]) / (count[c] - 1)
		}
	}
	effect = math.Abs(mean[0] - mean[1])
	return effect / math.Sqrt(variance[0]/count[0]+variance[1]/count[1]), effect
}

// TestTimingTellsNothing compares verifications of keys that share nothing
// with a stored one, and of keys that differ from it in the last random
// character alone: both refused. The controls, comparisons that end at the
// first difference, must show. It runs under COMMERCE_PROVE, on an idle
// machine: it is about nanoseconds.
func TestTimingTellsNothing(t *testing.T) {
	if os.Getenv("COMMERCE_PROVE") == "" {
		t.Skip("skipped: a measurement; set COMMERCE_PROVE=1")
	}
	const population, n, runs = 4096, 25_000, 5
	h := testHasher()
	_, stored := h.mint("acme_live_", randomPart())
	var near, far [population]Hash
	for i := range population {
		near[i] = stored
		near[i][HashLen-1] ^= byte(1 + i%255)
		_, far[i] = h.mint("acme_live_", randomPart())
	}
	var sink int
	var input Hash
	compare := func(name string, same func(a, b *Hash) int, fires bool) {
		var ts, effects []float64
		for range runs {
			x, effect := welch(n, func(class, i int) {
				a, b := &near[i%population], &far[i%population] // both come into the processor's cache
				for j := range input {
					pair := [2]byte{a[j], b[j]}
					input[j] = pair[class]
				}
			}, func() { sink += same(&stored, &input) })
			ts, effects = append(ts, x), append(effects, effect)
		}
		slices.Sort(ts)
		slices.Sort(effects)
		x, effect := ts[runs/2], effects[runs/2]
		t.Logf("%-44s median t %7.1f, effect %5.2f ns", name, x, effect)
		if fires && x < 50 {
			t.Errorf("%s: the control doesn't show (t %.1f): this measures nothing", name, x)
		}
		if !fires && x > 4.5 && effect > 5 {
			t.Errorf("%s: t %.1f, %.1f ns", name, x, effect)
		}
	}
	compare("control: loop that ends at a difference", func(a, b *Hash) int {
		for i := range a {
			if a[i] != b[i] {
				return 0
			}
		}
		return 1
	}, true)
	compare("the comparison that is used", func(a, b *Hash) int { return subtle.ConstantTimeCompare(a[:], b[:]) }, false)

	s, err := New(nothing{}, Config{Prefix: "acme", Peppers: []Pepper{{ID: 1, Secret: bytes.Repeat([]byte("p"), 32)}}})
	if err != nil {
		t.Fatal(err)
	}
	token, rec := s.mint(Key{ID: "key_1", Environment: "live", ActivatedAt: time.Now()})
	c, _ := s.identify(token.Reveal())
	s.cache.insert(s.newEntry(&c, rec.Key, 0), 0)
	var texts [2][population]string
	base := token.Reveal()
	for i := range population {
		random := []byte(base[10:48])
		random[randomLen-1] = base62[(int(digits[random[randomLen-1]])+1+i%61)%62]
		texts[0][i] = forgeTail(base[:10] + string(random))
		texts[1][i] = forgeTail(base[:10] + randomPart())
	}
	var ts, effects []float64
	text := []byte(base)
	for range runs {
		x, effect := welch(n, func(class, i int) { copy(text, texts[class][i%population]) }, func() {
			if _, reason := s.identify(unsafe.String(&text[0], len(text))); reason == ReasonNone {
				sink++
			}
		})
		ts, effects = append(ts, x), append(effects, effect)
	}
	slices.Sort(ts)
	slices.Sort(effects)
	t.Logf("%-44s median t %7.1f, effect %5.2f ns", "verification: near miss against random", ts[runs/2], effects[runs/2])
	if ts[runs/2] > 4.5 && effects[runs/2] > 5 {
		t.Errorf("verification tells near misses apart: t %.1f, %.1f ns", ts[runs/2], effects[runs/2])
	}
}

// nothing is a store that is never asked.
type nothing struct{ Store }

// forgeTail appends a tag that is wrong but for luck, and the right checksum.
func forgeTail(head string) string {
	token, _ := newHasher(Pepper{}).mint(head[:10], head[10:])
	return token.Reveal()
}

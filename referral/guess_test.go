package referral_test

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/referral"
)

// A million tokens and cookies that were altered at random: none is accepted
// but the ones that were issued.
func TestAMillionForgedTokensAreRefused(t *testing.T) {
	w := newWorld(t)
	r := rand.New(rand.NewPCG(1, 2))
	tokens := []string{w.service.Token("K7QMXG4P"), w.service.Token("ADA2026"), "", ".", "..", "K7QMXG4P.0.x"}
	issued := map[string]bool{tokens[0]: true, tokens[1]: true}
	const bytes = "ACDEFGHJKMNPQRTUVWXY34679abcdefghijklmnopqrstuvwxyz0123456789._-\x00=é "
	n := 1_000_000
	if testing.Short() {
		n = 10_000
	}
	for range n {
		forged := []byte(tokens[r.IntN(len(tokens))])
		for range 1 + r.IntN(3) {
			c := bytes[r.IntN(len(bytes))]
			switch at := r.IntN(len(forged) + 1); {
			case at == len(forged) || r.IntN(3) == 0:
				forged = slices.Insert(forged, at, c)
			case r.IntN(2) == 0:
				forged = slices.Delete(forged, at, at+1)
			default:
				forged[at] = c
			}
		}
		if a, ok := w.service.ReadToken(string(forged)); ok && !issued[string(forged)] {
			t.Fatalf("%q is accepted as %+v", forged, a)
		}
	}
}

// A million texts as codes: what is accepted is one spelling of letters and
// digits, and the same again for what differs in case and separators only.
func TestAMillionCodesHaveOneSpelling(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	alphabet := []rune("ABCxyz019 -_\t.é/%\x00ſK")
	n := 1_000_000
	if testing.Short() {
		n = 10_000
	}
	accepted := 0
	for range n {
		text := make([]rune, r.IntN(40))
		for i := range text {
			text[i] = alphabet[r.IntN(11+r.IntN(9))]
		}
		norm, err := referral.Normalise(string(text))
		if err != nil {
			if !errors.Is(err, referral.ErrUnknownCode) {
				t.Fatalf("%q: %v", string(text), err)
			}
			continue
		}
		accepted++
		if len(norm) < 4 || len(norm) > 32 || strings.Trim(norm, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789") != "" {
			t.Fatalf("%q became %q", string(text), norm)
		}
		again, err := referral.Normalise(strings.ToLower(norm[:2]) + " - " + norm[2:])
		if err != nil || again != norm {
			t.Fatalf("%q became %q and %q, %v", string(text), norm, again, err)
		}
	}
	require.Greater(t, accepted, n/100)
}

// How long a look-up takes says nothing about how much of a guess is right:
// guesses that share seven of eight characters with a live code, and guesses
// that share none, in random order, can't be told apart by Welch's t-test (as
// in dudect, Reparaz, Balasch and Verbauwhede, 2017).
func TestLookUpsDoNotTellHowMuchOfAGuessIsRight(t *testing.T) {
	w := newWorld(t)
	live := w.code("ada")
	links := w.service.Links(referral.LinkConfig{Target: "/"})
	guess := func(near bool, r *rand.Rand) string {
		const letters = "ACDEFGHJKMNPQRTUVWXY34679"
		code := make([]byte, 8)
		for i := range code {
			for code[i] = live[i]; code[i] == live[i] && (!near || i == 7); {
				code[i] = letters[r.IntN(len(letters))]
			}
		}
		return string(code)
	}
	var t1 float64
	for seed := range uint64(5) { // another process may disturb one class for a while
		r := rand.New(rand.NewPCG(seed, 9))
		var times [2][]float64
		for range 30_000 {
			class := r.IntN(2)
			req := httptest.NewRequestWithContext(context.Background(), http.MethodGet, "/r/"+guess(class == 1, r), nil)
			rec := httptest.NewRecorder()
			start := time.Now()
			links.ServeHTTP(rec, req)
			times[class] = append(times[class], float64(time.Since(start)))
		}
		t1 = math.Abs(welch(times[0], times[1]))
		if t1 < 4.5 {
			break
		}
	}
	require.Less(t, t1, 4.5, "t")

	// The control: a look-up that compares character by character does tell.
	var times [2][]float64
	r := rand.New(rand.NewPCG(7, 7))
	for range 30_000 {
		class := r.IntN(2)
		g := guess(class == 1, r)
		start := time.Now()
		for i := range g {
			if g[i] != live[i] {
				break
			}
			for range 200 {
				_ = strings.ToUpper(g)
			}
		}
		times[class] = append(times[class], float64(time.Since(start)))
	}
	require.Greater(t, math.Abs(welch(times[0], times[1])), 4.5, "the control must be told apart")
}

// welch is the statistic of Welch's t-test, without the slowest tenth.
func welch(a, b []float64) float64 {
	cut := slices.Sorted(slices.Values(slices.Concat(a, b)))[(len(a)+len(b))*9/10]
	stats := func(all []float64) (mean, variance, n float64) {
		for _, x := range all {
			if x < cut {
				n++
				d := x - mean
				mean += d / n
				variance += d * (x - mean)
			}
		}
		return mean, variance / (n - 1), n
	}
	ma, va, na := stats(a)
	mb, vb, nb := stats(b)
	return (ma - mb) / math.Sqrt(va/na+vb/nb)
}

package ratelimitredis

import (
	"testing"

	"github.com/kolekt/commerce/ratelimit"
)

// FuzzHeld reads keys as a foreign hand may have written them.
func FuzzHeld(f *testing.F) {
	f.Add("")
	f.Add("1 5 100")
	f.Add("\x00\x00\x00\x00\x00\x00\xf0\x3f")
	f.Fuzz(func(t *testing.T, v string) {
		s := &Store{names: map[int64]string{}}
		numbers, err := decode(v)
		if err != nil {
			return
		}
		held, err := s.held(numbers, 0)
		if err != nil {
			return
		}
		for _, h := range held {
			if h.Used <= 0 || h.State == "" {
				t.Fatalf("%+v of %q", h, v)
			}
		}
	})
}

func TestStateIDsFitALuaNumber(t *testing.T) {
	for _, state := range []string{"", "b:minute", "p:month", "r1:x"} {
		for alg := ratelimit.Bucket; alg <= ratelimit.Rolling; alg++ {
			id := ratelimit.Rule{State: state, Algorithm: alg}.StateID()
			if id < 0 || id >= 1<<53 || ratelimit.Algorithm(id%4) != alg {
				t.Fatalf("%q %v: %d", state, alg, id)
			}
		}
	}
}

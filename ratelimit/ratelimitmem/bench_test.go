package ratelimitmem_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/kolekt/commerce/ratelimit"
	"github.com/kolekt/commerce/ratelimit/ratelimitmem"
)

func BenchmarkAllow(b *testing.B) {
	for _, coarse := range []bool{false, true} {
		for windows := 1; windows <= 2; windows++ {
			for _, keys := range []int{1, 10_000, 1_000_000} {
				b.Run(fmt.Sprintf("coarse=%t/windows=%d/keys=%d", coarse, windows, keys), func(b *testing.B) {
					store := ratelimitmem.New(ratelimitmem.Config{CoarseClock: coarse})
					defer store.Close()
					limiter, err := ratelimit.New(store, ratelimit.Config{})
					if err != nil {
						b.Fatal(err)
					}
					plan, err := ratelimit.NewPlan("p", []ratelimit.Window{ratelimit.PerMinute(600_000).WithBurst(1<<32 - 1), ratelimit.PerMonth(4_000_000_000)}[:windows]...)
					if err != nil {
						b.Fatal(err)
					}
					names := make([]string, keys)
					for i := range names {
						names[i] = fmt.Sprintf("acct_%010d", i)
						if _, err := limiter.Allow(context.Background(), names[i], plan, 1); err != nil {
							b.Fatal(err)
						}
					}
					b.ReportAllocs()
					b.ResetTimer()
					i := 0
					for range b.N {
						if _, err := limiter.Allow(context.Background(), names[i], plan, 1); err != nil {
							b.Fatal(err)
						}
						if i += 7919; i >= keys {
							i %= keys
						}
					}
				})
			}
		}
	}
}

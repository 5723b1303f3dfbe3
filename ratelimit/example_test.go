package ratelimit_test

import (
	"context"
	"fmt"
	"time"

	"github.com/kolekt/commerce/ratelimit"
	"github.com/kolekt/commerce/ratelimit/ratelimitmem"
)

// One decision covers all windows of a plan.
func Example() {
	ctx := context.Background()
	limiter, err := ratelimit.New(ratelimitmem.New(ratelimitmem.Config{}), ratelimit.Config{Name: "api"})
	if err != nil {
		panic(err)
	}
	free, err := ratelimit.NewPlan("free", ratelimit.PerMinute(2), ratelimit.PerMonth(1000))
	if err != nil {
		panic(err)
	}
	for range 3 {
		d, err := limiter.Allow(ctx, "acct_1", free, 1)
		if err != nil {
			panic(err)
		}
		fmt.Printf("%t %d %q\n", d.Allowed(), d.Window(1).Remaining, d.Violated())
	}
	// Output:
	// true 999 ""
	// true 998 ""
	// false 998 "minute"
}

// Work whose cost is known afterwards reserves an estimate and settles it.
func ExampleLimiter_Reserve() {
	ctx := context.Background()
	limiter, err := ratelimit.New(ratelimitmem.New(ratelimitmem.Config{}), ratelimit.Config{Name: "tokens"})
	if err != nil {
		panic(err)
	}
	plan, err := ratelimit.NewPlan("pro", ratelimit.PerMonth(10_000))
	if err != nil {
		panic(err)
	}
	r, err := limiter.Reserve(ctx, ratelimit.Call{Key: "acct_1", Plan: plan, Cost: 4000})
	if err != nil || !r.Allowed() {
		panic("no room")
	}
	if err := r.Commit(ctx, 1234); err != nil { // what it took
		panic(err)
	}
	d, err := limiter.Peek(ctx, "acct_1", plan, 1)
	if err != nil {
		panic(err)
	}
	fmt.Println(d.Window(0).Remaining)
	// Output: 8766
}

// A plan says what it promises in the worst case.
func ExamplePlan_Bounds() {
	plan, err := ratelimit.NewPlan("pro", ratelimit.PerMinute(100).WithBurst(20), ratelimit.PerMonth(5000))
	if err != nil {
		panic(err)
	}
	fmt.Print(plan.Bounds())
	// Output:
	// minute: at most 20 at once and 120 in any 1m0s, then one each 600ms
	// month: at most 5000 in a calendar period of 1 month; at most 10000 around a border
}

// Refused requests of each account over the last day, for a dashboard: a second
// limiter whose only window never fills counts them. Its memory is the store's,
// and with a shared store the count is that of all instances. OnDecision of a
// MiddlewareConfig is the place to call refused from.
func ExampleStrict_countRefused() {
	ctx := context.Background()
	store := ratelimitmem.New(ratelimitmem.Config{})
	limiter, err := ratelimit.New(store, ratelimit.Config{Name: "api"})
	if err != nil {
		panic(err)
	}
	counter, err := ratelimit.New(store, ratelimit.Config{Name: "refused"})
	if err != nil {
		panic(err)
	}
	day, err := ratelimit.NewPlan("day", ratelimit.Strict("day", ratelimit.MaxRollingLimit, 24*time.Hour))
	if err != nil {
		panic(err)
	}
	refused := func(account string, d ratelimit.Decision) {
		if !d.Allowed() {
			_, _ = counter.Allow(ctx, account, day, 1) // a figure may miss one
		}
	}
	free, err := ratelimit.NewPlan("free", ratelimit.PerHour(2))
	if err != nil {
		panic(err)
	}
	for range 5 {
		d, err := limiter.Allow(ctx, "acct_1", free, 1)
		if err != nil {
			panic(err)
		}
		refused("acct_1", d)
	}
	d, err := counter.Peek(ctx, "acct_1", day, 1)
	if err != nil {
		panic(err)
	}
	w := d.Window(0)
	fmt.Println(w.Limit - w.Remaining)
	// Output: 3
}

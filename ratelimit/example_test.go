package ratelimit_test

import (
	"context"
	"fmt"

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
		fmt.Printf("%t %d %q\n", d.Allowed, d.Window(1).Remaining, d.Violated)
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
	if err != nil || !r.Allowed {
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

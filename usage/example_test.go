package usage_test

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/kolekt/commerce/usage"
	"github.com/kolekt/commerce/usage/usagemem"
)

func clock(text string) func() time.Time {
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		panic(err)
	}
	return func() time.Time { return t }
}

// A quota of two units: the third request is refused and charges nothing.
func Example() {
	ctx := context.Background()
	svc, err := usage.New(usagemem.New(), usage.Config{
		Meters: []usage.Meter{{
			Name:       "kolekts",
			Measures:   []usage.Measure{{Property: "characters"}, {Property: "engagement", Scale: 2}},
			Dimensions: []string{"tone"},
		}},
		Quota: func(context.Context, string, string) (usage.Quota, error) { return usage.Calendar(2), nil },
		Now:   clock("2026-03-10T12:00:00Z"),
	})
	if err != nil {
		panic(err)
	}
	for _, work := range []usage.Properties{
		{usage.Int("characters", 512), usage.Float("engagement", 7.25), usage.String("tone", "casual")},
		{usage.Int("characters", 388), usage.Float("engagement", 6.5), usage.String("tone", "formal")},
		{usage.Int("characters", 100)},
	} {
		r, err := svc.Reserve(ctx, usage.Request{Account: "acct_1", Meter: "kolekts"})
		if err != nil {
			panic(err)
		}
		if !r.Allowed {
			fmt.Printf("refused: %d of %d used until %s\n", r.Used, r.Limit, r.Reset().Format(time.DateOnly))
			continue
		}
		if _, err := r.CommitEvent(ctx, 1, work...); err != nil {
			panic(err)
		}
	}
	sum, err := svc.Summary(ctx, usage.Query{Account: "acct_1", Meter: "kolekts", GroupBy: "tone"})
	if err != nil {
		panic(err)
	}
	fmt.Println(sum.Number, "kolekts,", sum.Measures["characters"].Sum, "characters, engagement", sum.Measures["engagement"].Average())
	for _, g := range sum.Groups {
		fmt.Println(g.Name, g.Number)
	}
	// Output:
	// refused: 2 of 2 used until 2026-04-01
	// 2 kolekts, 900 characters, engagement 6.875
	// casual 1
	// formal 1
}

// The same ID is counted once, and a bad event doesn't hinder the others.
func ExampleService_RecordBatch() {
	svc, err := usage.New(usagemem.New(), usage.Config{
		Meters: []usage.Meter{{Name: "tokens", Aggregation: usage.Sum, Unit: "token"}},
	})
	if err != nil {
		panic(err)
	}
	res, err := svc.RecordBatch(context.Background(), []usage.Event{
		{ID: "req-1", Account: "acct_1", Meter: "tokens", Value: 120},
		{ID: "req-1", Account: "acct_1", Meter: "tokens", Value: 120},
		{ID: "req-2", Account: "acct_1", Meter: "words", Value: 9},
	})
	if err != nil {
		panic(err)
	}
	fmt.Println(res.Stored, "stored,", res.Duplicates, "duplicate")
	fmt.Println(res.Rejected[0])
	// Output:
	// 1 stored, 1 duplicate
	// usage: event 2 (ID "req-2"): usage: unknown meter "words" (have tokens)
}

// A crossing of 80 % makes one notice, which DeliverNotices hands over.
func ExampleService_DeliverNotices() {
	ctx := context.Background()
	svc, err := usage.New(usagemem.New(), usage.Config{
		Meters: []usage.Meter{{Name: "kolekts"}},
		Quota:  func(context.Context, string, string) (usage.Quota, error) { return usage.Calendar(10), nil },
		Now:    clock("2026-03-10T12:00:00Z"),
	})
	if err != nil {
		panic(err)
	}
	for range 9 {
		if _, err := svc.Consume(ctx, usage.Request{Account: "acct_1", Meter: "kolekts"}); err != nil {
			panic(err)
		}
	}
	n, err := svc.DeliverNotices(ctx, func(_ context.Context, n usage.Notice) error {
		fmt.Printf("mail: %d of %d used this month\n", n.Used, n.Limit)
		return nil
	})
	fmt.Println(n, err)
	f, err := svc.Forecast(ctx, "acct_1", "kolekts")
	fmt.Println("limit reached on", f.LimitReached.Format(time.DateOnly), err)
	// Output:
	// mail: 8 of 10 used this month
	// 1 <nil>
	// limit reached on 2026-03-11 <nil>
}

func ExampleService_WriteCSV() {
	svc, err := usage.New(usagemem.New(), usage.Config{
		Meters: []usage.Meter{{Name: "kolekts"}},
		Now:    clock("2026-03-10T12:00:00Z"),
	})
	if err != nil {
		panic(err)
	}
	ctx := context.Background()
	if err := svc.Record(ctx, usage.Event{Account: "acct_1", Meter: "kolekts"}); err != nil {
		panic(err)
	}
	err = svc.WriteCSV(ctx, os.Stdout, usage.Query{
		Account: "acct_1", Meter: "kolekts", From: time.Date(2026, 3, 9, 0, 0, 0, 0, time.UTC),
	})
	if err != nil {
		panic(err)
	}
	// Output:
	// from,to,group,number,count,sum,average,min,max
	// 2026-03-09T00:00:00Z,2026-03-10T00:00:00Z,,0,0,0,0,0,0
	// 2026-03-10T00:00:00Z,2026-03-11T00:00:00Z,,1,1,1,1,1,1
}

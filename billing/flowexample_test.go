package billing_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/kolekt/commerce/billing"
	"github.com/kolekt/commerce/billing/billingmem"
	"github.com/kolekt/commerce/billing/billingtest"
)

// A plan for nothing, by an administrator: with a key, so that two clicks are
// one, and a reason for whoever asks later.
func ExampleService_Comp() {
	now := time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)
	catalog, err := billing.ParseCatalog("plans.yaml", []byte(plansYAML))
	if err != nil {
		panic(err)
	}
	svc, err := billing.New(catalog, billingmem.New(), billingtest.NewGateway(catalog, nil), billing.Config{Now: func() time.Time { return now }})
	if err != nil {
		panic(err)
	}
	ctx := context.Background()
	why := billing.Audit{Key: "ticket-42", By: "admin:ada", Reason: "helped us find a bug"}
	d, err := svc.Comp(ctx, "alice", "pro", now.AddDate(0, 3, 0), why)
	if err != nil {
		panic(err)
	}
	fmt.Println(d.Plan, d.Reason, "until", d.Until.Format(time.DateOnly))
	_, err = svc.Comp(ctx, "alice", "business", now.AddDate(1, 0, 0), why)
	fmt.Println(errors.Is(err, billing.ErrInvalid))
	// Output:
	// pro comp until 2026-05-01
	// true
}

// Dunning by what the card's bank said: a stolen card suspends at once, a card
// that no retry will charge gets three days, all others two weeks.
func ExamplePolicy_dunning() {
	policy := billing.Policy{Dunning: []billing.Step{
		{Level: billing.Suspended, Suspicious: true},
		{Level: billing.Limited, Remedy: billing.RemedyNewMethod, After: 3 * 24 * time.Hour},
		{Level: billing.Limited, After: 14 * 24 * time.Hour},
	}}
	for _, code := range []string{"stolen_card", "expired_card", "insufficient_funds", "authentication_required"} {
		fmt.Println(code, billing.RemedyFor(code), billing.Suspicious(code))
	}
	fmt.Println(len(policy.Dunning))
	// Output:
	// stolen_card new_method true
	// expired_card new_method false
	// insufficient_funds wait false
	// authentication_required authenticate false
	// 3
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/kolekt/commerce/billing"
	"github.com/kolekt/commerce/billing/billingstripe"
)

// applyCatalog prints what must be done for Stripe's products and prices to be
// those of plans.yaml, and does it when it is told so: "kolekt catalog" is a
// dry run, "kolekt catalog apply" isn't.
func applyCatalog(ctx context.Context, cfg Config, args []string, out io.Writer) error {
	apply := len(args) == 1 && args[0] == "apply"
	if len(args) > 0 && !apply {
		return fmt.Errorf("unknown argument %q: want none (to look) or apply", args)
	}
	if cfg.Simulated() {
		return errors.New("STRIPE_SECRET_KEY isn't set: the simulator takes its products from plans.yaml by itself")
	}
	catalog, err := billing.LoadCatalog(files, "plans.yaml")
	if err != nil {
		return err
	}
	gateway, err := billingstripe.New(billingstripe.Config{SecretKey: cfg.StripeSecretKey, WebhookSecrets: cfg.StripeWebhookSecret, URL: cfg.StripeURL})
	if err != nil {
		return err
	}
	diff, err := gateway.PlanCatalog(ctx, catalog)
	if err != nil {
		return err
	}
	fmt.Fprintln(out, diff)
	if !apply {
		return nil
	}
	return gateway.ApplyCatalog(ctx, diff, func(s billingstripe.Step) { fmt.Fprintln(out, "done:", s) })
}

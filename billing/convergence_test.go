package billing_test

import (
	"os"
	"testing"

	"github.com/kolekt/commerce/billing"
	"github.com/kolekt/commerce/billing/billingmem"
	"github.com/kolekt/commerce/billing/billingtest"
)

func TestEveryOrderOfEventsConverges(t *testing.T) {
	size := billingtest.Convergence{Every: stride}
	if os.Getenv("COMMERCE_PROVE") != "" {
		size.Every = 1
	}
	billingtest.TestConvergence(t, func(*testing.T) billing.Store { return billingmem.New() }, size)
}

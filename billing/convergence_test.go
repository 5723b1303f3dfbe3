package billing_test

import (
	"testing"

	"github.com/kolekt/commerce/billing"
	"github.com/kolekt/commerce/billing/billingmem"
	"github.com/kolekt/commerce/billing/billingtest"
)

func TestEveryOrderOfEventsConverges(t *testing.T) {
	billingtest.TestConvergence(t, func(*testing.T) billing.Store { return billingmem.New() }, billingtest.Convergence{})
}

package billingmem_test

import (
	"testing"

	"github.com/kolekt/commerce/billing"
	"github.com/kolekt/commerce/billing/billingmem"
	"github.com/kolekt/commerce/billing/billingtest"
)

func TestStore(t *testing.T) {
	billingtest.TestStore(t, func(*testing.T) billing.Store { return billingmem.New() })
}

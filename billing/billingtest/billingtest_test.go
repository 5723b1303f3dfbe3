package billingtest_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/billing"
	"github.com/kolekt/commerce/billing/billingtest"
)

func TestGatewayHoldsItsOwnContract(t *testing.T) {
	billingtest.TestGateway(t, func(t *testing.T) billingtest.GatewayHarness {
		catalog, err := billing.ParseCatalog("plans.yaml", []byte(`
plans:
  - {id: pro, prices: [{amount: 9.99 USD, every: month}]}
  - {id: business, prices: [{amount: 29.99 USD, every: month}]}
`))
		require.NoError(t, err)
		g := billingtest.NewGateway(catalog, nil)
		return billingtest.GatewayHarness{
			Gateway: g, Monthly: "pro_month_usd", Other: "business_month_usd",
			Pay: func(t *testing.T, s billing.Subscribed) {
				t.Helper()
				require.NoError(t, g.PayFirst(s.Subscription.ID))
			},
		}
	})
}

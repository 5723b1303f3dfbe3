package billingstripe_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/kolekt/commerce/billing"
	"github.com/kolekt/commerce/billing/billingstripe"
)

// TestStripesUnitsBecomeMinorUnits lists what Stripe calls special, beside one
// currency of each number of decimals (docs.stripe.com/currencies).
func TestStripesUnitsBecomeMinorUnits(t *testing.T) {
	for _, c := range []struct {
		currency string
		stripe   int64
		want     int64
		text     string
	}{
		{"usd", 999, 999, "$9.99"},
		{"jpy", 999, 999, "¥999"},
		{"kwd", 9990, 9990, "9.990"},
		{"isk", 150000, 1500, "1.500"},
		{"ugx", 150000, 1500, "1,500"},
		{"huf", 150000, 150000, "1.500"},
		{"twd", 150000, 150000, "1,500"},
		{"mga", 15, 1500, "15"},
	} {
		inv, err := billingstripe.DecodeInvoice(fmt.Appendf(nil, `{"currency":%q,"total":%d,"amount_due":"%d"}`, c.currency, c.stripe, c.stripe))
		require.NoError(t, err)
		assert.Equal(t, c.want, inv.Total, c.currency)
		assert.Equal(t, c.want, inv.AmountDue, c.currency)
		assert.Contains(t, billing.Money{Amount: inv.Total, Currency: inv.Currency}.String(), c.text, c.currency)
	}
}

func TestAmountsComeBackAsTheyWent(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		m := billing.Money{
			Amount:   rapid.Int64Range(-1e12, 1e12).Draw(rt, "amount"),
			Currency: rapid.SampledFrom([]string{"USD", "JPY", "KWD", "ISK", "UGX", "BHD", "XOF"}).Draw(rt, "currency"),
		}
		sent, err := billingstripe.ToStripe(m)
		if err != nil {
			rt.Fatal(err)
		}
		inv, err := billingstripe.DecodeInvoice(fmt.Appendf(nil, `{"currency":%q,"total":%d}`, m.Currency, sent))
		if err != nil || inv.Total != m.Amount {
			rt.Fatalf("%v went as %d and came back as %d: %v", m, sent, inv.Total, err)
		}
	})
}

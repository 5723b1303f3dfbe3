package billing_test

import (
	"math"
	"math/big"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/kolekt/commerce/billing"
)

func TestMoneyFormatsZeroTwoAndThreeDecimals(t *testing.T) {
	for want, m := range map[string]billing.Money{
		"$9.99":     {Amount: 999, Currency: "USD"},
		"¥999":      {Amount: 999, Currency: "JPY"},
		"-$1.00":    {Amount: -100, Currency: "USD"},
		"€1,234.56": {Amount: 123456, Currency: "EUR"},
	} {
		require.Equal(t, want, m.String())
	}
	require.Contains(t, billing.Money{Amount: 9990, Currency: "KWD"}.String(), "9.990")
	require.Equal(t, 3, billing.Money{Currency: "KWD"}.Exponent())
	require.NoError(t, billing.Money{Currency: "USD"}.Validate())
	require.ErrorIs(t, billing.Money{Currency: "usd"}.Validate(), billing.ErrMoney)
	require.ErrorIs(t, billing.Money{Currency: "XQQ"}.Validate(), billing.ErrMoney)
}

func TestMoneyNeverMixesCurrenciesAndNeverOverflows(t *testing.T) {
	_, err := billing.Money{Amount: 1, Currency: "USD"}.Add(billing.Money{Amount: 1, Currency: "EUR"})
	require.ErrorIs(t, err, billing.ErrMoney)
	_, err = billing.Money{Amount: math.MaxInt64, Currency: "USD"}.Add(billing.Money{Amount: 1, Currency: "USD"})
	require.ErrorIs(t, err, billing.ErrMoney)
	_, err = billing.Money{Amount: math.MaxInt64, Currency: "USD"}.Times(2)
	require.ErrorIs(t, err, billing.ErrMoney)
}

func TestAllocationSumsToTheWhole(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := billing.Money{Amount: rapid.Int64().Draw(t, "amount"), Currency: "USD"}
		weights := rapid.SliceOfN(rapid.Int64Range(0, 1<<40), 1, 8).Draw(t, "weights")
		parts, err := m.Allocate(weights...)
		total := int64(0)
		for _, w := range weights {
			total += w
		}
		if total == 0 {
			require.ErrorIs(t, err, billing.ErrMoney)
			return
		}
		require.NoError(t, err)
		var sum int64
		for i, p := range parts {
			sum += p.Amount
			if weights[i] == 0 {
				require.Zero(t, p.Amount)
			}
		}
		require.Equal(t, m.Amount, sum)
	})
}

func TestShareIsExactRationalRounding(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		amount := rapid.Int64Range(-1<<50, 1<<50).Draw(t, "amount")
		part := rapid.Int64Range(-1<<40, 1<<40).Draw(t, "part")
		whole := rapid.Int64Range(1, 1<<40).Draw(t, "whole")
		want := new(big.Rat).SetFrac(new(big.Int).Mul(big.NewInt(amount), big.NewInt(part)), big.NewInt(whole))
		got, err := billing.Money{Amount: amount, Currency: "USD"}.Share(part, whole)
		if err != nil {
			require.ErrorIs(t, err, billing.ErrMoney)
			return
		}
		// Within half a unit of the exact value, away from zero on a tie.
		diff := new(big.Rat).Sub(new(big.Rat).SetInt64(got.Amount), want)
		require.LessOrEqual(t, new(big.Rat).Abs(diff).Cmp(big.NewRat(1, 2)), 0)
		if new(big.Rat).Abs(diff).Cmp(big.NewRat(1, 2)) == 0 {
			require.Equal(t, want.Sign(), diff.Sign())
		}
	})
}

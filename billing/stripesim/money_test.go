package stripesim

import (
	"math/big"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestAmountsAreWrittenForPeople(t *testing.T) {
	for _, c := range []struct {
		amount   int64
		currency string
		want     string
	}{
		{999, "usd", "$9.99"}, {5, "usd", "$0.05"}, {0, "eur", "€0.00"}, {-123456789, "gbp", "−£1,234,567.89"},
		{1500, "jpy", "¥1,500"}, {1234, "kwd", "KWD 1.234"}, {100000, "krw", "KRW 100,000"},
	} {
		require.Equal(t, c.want, moneyText(c.amount, c.currency))
	}
}

func TestRoundingIsHalfAwayFromZero(t *testing.T) {
	for text, want := range map[string]int64{"0.5": 1, "0.49": 0, "-0.5": -1, "-1.4": -1, "2.5": 3, "-2.5": -3, "7": 7} {
		r, ok := new(big.Rat).SetString(text)
		require.True(t, ok)
		require.Equal(t, want, round(r), text)
	}
}

// TestAllocationSumsExactly: the shares of an amount sum to it, are never
// negative, and never exceed the weight when the amount doesn't.
func TestAllocationSumsExactly(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		weights := rapid.SliceOfN(rapid.Int64Range(0, 1_000_000_000), 1, 12).Draw(t, "weights")
		var sum int64
		for _, w := range weights {
			sum += w
		}
		if sum == 0 {
			return
		}
		amount := rapid.Int64Range(0, sum).Draw(t, "amount")
		var got int64
		for i, share := range allocate(amount, weights) {
			if share < 0 || share > weights[i] {
				t.Fatalf("share %d of weight %d", share, weights[i])
			}
			got += share
		}
		if got != amount {
			t.Fatalf("shares sum to %d, want %d", got, amount)
		}
	})
}

// TestProrationSumsToTheExactPrice: what a period used and what it has left
// are the price, wherever the period is cut; and cutting again never makes
// money.
func TestProrationSumsToTheExactPrice(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		price := rapid.Int64Range(0, maxAmount).Draw(t, "price")
		length := rapid.Int64Range(1, 366*86400).Draw(t, "length")
		cut := rapid.Int64Range(0, length).Draw(t, "cut")
		left := portion(price, cut, 0, length)
		if left < 0 || left > price {
			t.Fatalf("%d is left of %d", left, price)
		}
		if cut == 0 && left != price || cut == length && left != 0 {
			t.Fatalf("at the ends all or nothing is left, not %d", left)
		}
		later := rapid.Int64Range(cut, length).Draw(t, "later")
		if portion(price, later, 0, length) > left {
			t.Fatal("more is left later")
		}
		if -portion(price, cut, 0, length) != portion(-price, cut, 0, length) {
			t.Fatal("a credit is not what the charge was")
		}
	})
}

// TestUpgradeAndBackCostsNothing: a change that is undone in the same second
// leaves the renewal as it was.
func TestUpgradeAndBackCostsNothing(t *testing.T) {
	r := newRig(t)
	cus := r.customer("visa")
	sub := r.subscribe(cus, "price_pro")
	item := text(sub, "items", "data", 0, "id")
	r.advanceTo(2025, 2, 11, 7)
	r.post("/v1/subscriptions/"+text(sub, "id"), "items[0][id]="+item, "items[0][price]=price_business")
	r.post("/v1/subscriptions/"+text(sub, "id"), "items[0][id]="+item, "items[0][price]=price_pro")
	r.advanceTo(2025, 3, 1, 0)
	require.Equal(t, map[string]int64{"usd": 2 * 999}, r.sim.Collected(cus))
}

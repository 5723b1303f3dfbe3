package ledger_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/billing"
	"github.com/kolekt/commerce/billing/revenue"
	"github.com/kolekt/commerce/examples/kolekt/internal/ledger"
	"github.com/kolekt/commerce/internal/pgtest"
)

func TestMemory(t *testing.T) { testStore(t, &ledger.Memory{}) }

func TestPostgres(t *testing.T) {
	pool := pgtest.Pool(t)
	require.NoError(t, ledger.Schema.Migrate(t.Context(), pool))
	require.NoError(t, ledger.Schema.Verify(t.Context(), pool))
	testStore(t, ledger.NewPostgres(pool))
}

func testStore(t *testing.T, s ledger.Store) {
	ctx := t.Context()
	at := time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)
	ann := revenue.Change{At: at, Account: "ann", Subscription: billing.Subscription{
		ID: "sub_1", Account: "ann", CustomerID: "cus_1", Status: billing.StatusActive, Metadata: map[string]string{billing.MetadataAccount: "ann"},
		Items: []billing.Item{{ID: "si_1", Quantity: 1, Price: billing.Price{ID: "price_1", LookupKey: "pro_month_usd", UnitAmount: billing.Money{Amount: 999, Currency: "USD"}, Interval: billing.Month, IntervalCount: 1}}},
	}}
	require.NoError(t, s.Append(ctx, "started:1", ann))
	require.NoError(t, s.Append(ctx, "started:1", revenue.Change{Account: "bob"}), "a second one with the ID changes nothing")
	list, err := s.Changes(ctx)
	require.NoError(t, err)
	require.Equal(t, []revenue.Change{ann}, list)

	n, err := s.Forget(ctx, "ann", "erased_1")
	require.NoError(t, err)
	require.EqualValues(t, 1, n)
	list, err = s.Changes(ctx)
	require.NoError(t, err)
	require.Equal(t, "erased_1", list[0].Account)
	require.Empty(t, list[0].Subscription.Metadata)
	require.Equal(t, ann.Subscription.Items, list[0].Subscription.Items)
	n, err = s.Forget(ctx, "ann", "erased_1")
	require.NoError(t, err)
	require.Zero(t, n)
}

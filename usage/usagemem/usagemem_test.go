package usagemem_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/usage"
	"github.com/kolekt/commerce/usage/usagemem"
	"github.com/kolekt/commerce/usage/usagetest"
)

func TestStore(t *testing.T) {
	usagetest.TestStore(t, func(*testing.T) usage.Store { return usagemem.New() })
}

func TestMemoryIsBounded(t *testing.T) {
	svc, err := usage.New(usagemem.NewWith(usagemem.Config{MaxEvents: 2}), usage.Config{
		Meters: []usage.Meter{{Name: "m"}},
	})
	require.NoError(t, err)
	for range 2 {
		require.NoError(t, svc.Record(t.Context(), usage.Event{ID: "same", Account: "a", Meter: "m"}))
	}
	require.NoError(t, svc.Record(t.Context(), usage.Event{Account: "a", Meter: "m"}))
	require.ErrorIs(t, svc.Record(t.Context(), usage.Event{Account: "a", Meter: "m"}), usage.ErrUnavailable)
}

func TestRetentionDropsWhatIsOld(t *testing.T) {
	now := time.Date(2026, 3, 10, 0, 0, 0, 0, time.UTC)
	svc, err := usage.New(usagemem.NewWith(usagemem.Config{Retention: 48 * time.Hour}), usage.Config{
		Meters: []usage.Meter{{Name: "m"}}, Now: func() time.Time { return now },
	})
	require.NoError(t, err)
	require.NoError(t, svc.Record(t.Context(), usage.Event{Account: "a", Meter: "m"}))
	now = now.Add(72 * time.Hour)
	require.NoError(t, svc.Record(t.Context(), usage.Event{Account: "a", Meter: "m"}))
	require.NoError(t, svc.Maintain(t.Context()))
	sum, err := svc.Summary(t.Context(), usage.Query{Account: "a", Meter: "m"})
	require.NoError(t, err)
	require.EqualValues(t, 1, sum.Value.Count)
}

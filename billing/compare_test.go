package billing_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/billing"
)

func TestCompareFindsWhatDiffersAndChangesNothing(t *testing.T) {
	r := newRig(t)
	same, err := r.svc.Compare(r.ctx, "acct_1")
	require.NoError(t, err)
	require.Empty(t, same.What, "an account without a customer")
	sub := r.subscribe("acct_1", "pro")
	same, err = r.svc.Compare(r.ctx, "acct_1")
	require.NoError(t, err)
	require.Empty(t, same.What)

	// A renewal fails, and no webhook tells.
	r.clock.Advance(31 * 24 * time.Hour)
	require.NoError(t, r.gateway.Renew(sub.ID, false))
	before, err := r.svc.Account(r.ctx, "acct_1")
	require.NoError(t, err)
	d, err := r.svc.Compare(r.ctx, "acct_1")
	require.NoError(t, err)
	require.Equal(t, "acct_1", d.Account)
	require.Contains(t, d.What, "subscription "+sub.ID+": active, is past_due")
	require.Len(t, d.What, 2, "and its invoice")
	after, err := r.svc.Account(r.ctx, "acct_1")
	require.NoError(t, err)
	require.Equal(t, before, after)

	// What is mended differs no more; who can't be asked isn't said to agree.
	_, err = r.svc.Sync(r.ctx, "acct_1")
	require.NoError(t, err)
	same, err = r.svc.Compare(r.ctx, "acct_1")
	require.NoError(t, err)
	require.Empty(t, same.What)
	r.gateway.Down(true)
	_, err = r.svc.Compare(r.ctx, "acct_1")
	require.ErrorIs(t, err, billing.ErrUnavailable)
}

package apikeyspg_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/apikeys"
	"github.com/kolekt/commerce/apikeys/apikeyspg"
	"github.com/kolekt/commerce/apikeys/apikeystest"
	"github.com/kolekt/commerce/internal/pgtest"
)

func TestStore(t *testing.T) {
	apikeystest.TestStore(t, func(t testing.TB) apikeys.Store {
		pool := pgtest.Pool(t)
		require.NoError(t, apikeyspg.Migrate(context.Background(), pool))
		require.NoError(t, apikeyspg.Verify(context.Background(), pool))
		return apikeyspg.New(pool)
	})
}

package main

import (
	"context"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/billing/stripesim"
)

func TestTheCatalogueIsShownThenAppliedThenDone(t *testing.T) {
	server, err := stripesim.NewServer(stripesim.Config{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, server.Close()) })
	env := map[string]string{"STRIPE_SECRET_KEY": stripesim.DefaultSecretKey, "STRIPE_WEBHOOK_SECRET": "whsec_test", "STRIPE_API_URL": server.URL}
	kolekt := func(args ...string) string {
		var out strings.Builder
		require.NoError(t, run(context.Background(), args, func(name string) string { return env[name] }, &out))
		return out.String()
	}
	looked := kolekt("catalog")
	require.Contains(t, looked, "pro_month_usd")
	require.Equal(t, looked, kolekt("catalog"), "looking changes nothing")
	require.Contains(t, kolekt("catalog", "apply"), "done: ")
	require.NotContains(t, kolekt("catalog", "apply"), "done: ", "the second time there is nothing to do")
	require.Contains(t, kolekt("doctor"), "all of plans.yaml are there, at the same amounts")

	err = run(context.Background(), []string{"catalog", "destroy"}, func(name string) string { return env[name] }, &strings.Builder{})
	require.ErrorContains(t, err, "destroy")
	err = run(context.Background(), []string{"catalog"}, func(string) string { return "" }, &strings.Builder{})
	require.ErrorContains(t, err, "STRIPE_SECRET_KEY")
}

package main

import (
	"bytes"
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/gdpr/gdprpg"
	"github.com/kolekt/commerce/internal/pgtest"
)

// A table that somebody adds and no source covers fails this test.
func TestEveryTableThatCanHoldAPersonIsCovered(t *testing.T) {
	ctx := context.Background()
	url := pgtest.URL(t)
	var out bytes.Buffer
	require.NoError(t, run(ctx, []string{"migrate"}, func(name string) string { return map[string]string{"DATABASE_URL": url}[name] }, &out))
	pool, err := pgxpool.New(ctx, url)
	require.NoError(t, err)
	defer pool.Close()
	ignore := gdprpg.Ignored()
	ignore["gdpr_consents"] = "gdpr's own source covers it"
	gaps, err := gdprpg.Cover(ctx, pool, gdprpg.Coverage{Subjects: []string{"users"}, Sources: holders{mail: &Mails{}}.sources(time.Now), Ignore: ignore})
	require.NoError(t, err)
	for _, g := range gaps {
		t.Errorf("not covered: %s", g)
	}
}

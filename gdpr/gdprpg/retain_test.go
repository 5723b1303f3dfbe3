package gdprpg_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/gdpr"
	"github.com/kolekt/commerce/gdpr/gdprpg"
	"github.com/kolekt/commerce/internal/pgtest"
)

func TestRetainedRowsGoInPagesWhenTheirTimeHasEnded(t *testing.T) {
	ctx := context.Background()
	pool := pgtest.Pool(t)
	_, err := pool.Exec(ctx, `create table bills (id bigint generated always as identity primary key, customer text, name text, at timestamptz)`)
	require.NoError(t, err)
	now := time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC)
	var open time.Time
	retention := gdpr.Retention{Years: 8, EndOfYear: true, ExtendUntil: func(time.Time) time.Time { return open }}
	source, err := gdprpg.NewTable(pool, gdprpg.Table{
		Descriptor: described("bills"), Table: "bills", By: "customer", Columns: []string{"id", "name"},
		Set:    map[string]string{"name": "null", "customer": gdprpg.Pseudonym},
		Retain: &gdpr.Retain{Ground: "tax law", Article: "17(3)(b)"}, Retention: retention, Dated: "at", Page: 2, Now: func() time.Time { return now },
	})
	require.NoError(t, err)
	_, err = pool.Exec(ctx, `insert into bills (customer, name, at) select c, 'somebody', '2025-06-01' from unnest(array['ada', 'bob']) c, generate_series(1, 5)`)
	require.NoError(t, err)

	_, err = source.Erase(ctx, gdpr.Subject{ID: "ada"}, "")
	require.ErrorIs(t, err, gdpr.ErrInvalid, "without a pseudonym")
	ada := gdpr.Subject{ID: "ada", Pseudonym: "erased_abc"}
	var kept gdpr.Retained
	for cursor := ""; ; {
		out, err := source.Erase(ctx, ada, cursor)
		require.NoError(t, err)
		for _, k := range out.Retained {
			kept = k
		}
		if out.Done {
			break
		}
		cursor = out.Next
	}
	require.Equal(t, "erased_abc", kept.Ref)
	require.Equal(t, time.Date(2034, 1, 1, 0, 0, 0, 0, time.UTC), kept.Until)
	left := func(customer string) (n int) {
		require.NoError(t, pool.QueryRow(ctx, `select count(*) from bills where customer = $1`, customer).Scan(&n))
		return n
	}
	require.Equal(t, 5, left("erased_abc"), "still one customer's")
	require.Zero(t, left("ada"))

	now = kept.Until
	open = now.AddDate(1, 0, 0) // the assessment isn't closed
	out, err := source.Expire(ctx, kept, "")
	require.NoError(t, err)
	require.True(t, out.Done)
	require.Equal(t, open, out.Retained[0].Until)
	require.Equal(t, 5, left("erased_abc"))
	now = open
	pages := 0
	for cursor, done := "", false; !done; pages++ {
		out, err := source.Expire(ctx, kept, cursor)
		require.NoError(t, err)
		cursor, done = out.Next, out.Done
	}
	require.Equal(t, 3, pages)
	require.Zero(t, left("erased_abc"))
	require.Equal(t, 5, left("bob"))
	out, err = source.Expire(ctx, kept, "")
	require.NoError(t, err)
	require.True(t, out.Done, "again")
	kept.Ref = ""
	_, err = source.Expire(ctx, kept, "")
	require.ErrorIs(t, err, errors.ErrUnsupported, "rows without a pseudonym can't be found again")
}

func TestOldRowsAreSweptWithNoRequest(t *testing.T) {
	ctx := context.Background()
	pool := pgtest.Pool(t)
	_, err := pool.Exec(ctx, `create table visits (id bigint generated always as identity primary key, who text, at timestamptz)`)
	require.NoError(t, err)
	source, err := gdprpg.NewTable(pool, gdprpg.Table{
		Descriptor: described("visits"), Table: "visits", By: "who", Columns: []string{"at"}, Dated: "at", Keep: 30 * 24 * time.Hour, Page: 2,
	})
	require.NoError(t, err)
	now := time.Date(2026, 3, 31, 0, 0, 0, 0, time.UTC)
	_, err = pool.Exec(ctx, `insert into visits (who, at) select 'ada', $1::timestamptz - n * interval '10 days' from generate_series(0, 9) n`, now)
	require.NoError(t, err)
	n, err := source.Sweep(ctx, now)
	require.NoError(t, err)
	require.Equal(t, int64(6), n, "older than thirty days, in pages of two")
	n, err = source.Sweep(ctx, now)
	require.NoError(t, err)
	require.Zero(t, n)
	_, err = gdprpg.NewTable(pool, gdprpg.Table{Descriptor: described("visits"), Table: "visits", By: "who", Columns: []string{"at"}, Keep: time.Hour})
	require.ErrorIs(t, err, gdpr.ErrInvalid, "Keep without Dated")
}

func TestColumnsAreRectifiedThatMayBe(t *testing.T) {
	ctx := context.Background()
	pool := pgtest.Pool(t)
	_, err := pool.Exec(ctx, `create table people (id text primary key, name text, born date, score int);
		insert into people values ('ada', 'Adda', '1815-12-01', 5), ('bob', 'Bob', '1990-01-01', 6)`)
	require.NoError(t, err)
	source, err := gdprpg.NewTable(pool, gdprpg.Table{Descriptor: described("people"), Table: "people", By: "id", Columns: []string{"name", "born", "score"}, Correct: []string{"name", "born"}})
	require.NoError(t, err)
	ada := gdpr.Subject{ID: "ada"}
	n, err := source.Rectify(ctx, ada, map[string]string{"name": "Ada", "born": "1815-12-10", "score": "100"})
	require.NoError(t, err)
	require.Equal(t, int64(1), n)
	b, err := dump(pool, "people")(ctx)
	require.NoError(t, err)
	require.Contains(t, string(b), "(ada,Ada,1815-12-10,5)", "the score isn't the subject's to set")
	require.Contains(t, string(b), "(bob,Bob,1990-01-01,6)")
	n, err = source.Rectify(ctx, ada, map[string]string{"score": "100"})
	require.NoError(t, err)
	require.Zero(t, n)
	_, err = source.Rectify(ctx, ada, map[string]string{"born": "yesterday's child"})
	require.ErrorIs(t, err, gdpr.ErrInvalid)
	_, err = gdprpg.NewTable(pool, gdprpg.Table{Descriptor: described("people"), Table: "people", By: "id", Columns: []string{"name"}, Correct: []string{"score"}})
	require.ErrorIs(t, err, gdpr.ErrInvalid)
}

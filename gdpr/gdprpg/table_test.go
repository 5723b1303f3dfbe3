package gdprpg_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/gdpr"
	"github.com/kolekt/commerce/gdpr/gdprpg"
	"github.com/kolekt/commerce/gdpr/gdprtest"
	"github.com/kolekt/commerce/internal/pgtest"
)

func described(name string) gdpr.Descriptor {
	return gdpr.Descriptor{Name: name, Categories: []string{"content"}, Purpose: "the product", Basis: gdpr.Contract, Retention: "until erased"}
}

func dump(pool *pgxpool.Pool, table string) func(context.Context) ([]byte, error) {
	return func(ctx context.Context) ([]byte, error) {
		var s string
		err := pool.QueryRow(ctx, `select coalesce(string_agg(t::text, e'\n'), '') from `+table+` t`).Scan(&s)
		return []byte(s), err
	}
}

func TestTableThatIsDeletedInPages(t *testing.T) {
	pool := pgtest.Pool(t)
	_, err := pool.Exec(context.Background(), `create table posts (id bigint generated always as identity, author text, body text, big bigint)`)
	require.NoError(t, err)
	source, err := gdprpg.NewTable(pool, gdprpg.Table{Descriptor: described("posts"), Table: "posts", By: "author", Columns: []string{"id", "body", "big"}, Page: 3})
	require.NoError(t, err)
	gdprtest.TestSource(t, gdprtest.Harness{
		Source: source,
		Plant: func(ctx context.Context, s gdpr.Subject, canary string) error {
			_, err := pool.Exec(ctx, `insert into posts (author, body, big) select $1, $2 || e' \\ "\n', 9223372036854775807 from generate_series(1, 10)`, s.ID, canary)
			return err
		},
		Dump: dump(pool, "posts"),
	})
}

func TestTableThatIsRetainedWithThePersonDetached(t *testing.T) {
	pool := pgtest.Pool(t)
	_, err := pool.Exec(context.Background(), `create table bills (id bigint generated always as identity primary key, email text, name text, amount bigint, at timestamptz)`)
	require.NoError(t, err)
	retention, rule, ok := gdpr.InvoiceRetention("DE")
	require.True(t, ok)
	source, err := gdprpg.NewTable(pool, gdprpg.Table{
		Descriptor: described("bills"), Table: "bills", By: "email", Kind: "email", Fold: true, Columns: []string{"id", "name", "amount"},
		Set:    map[string]string{"name": "null", "email": "'erased-' || gen_random_uuid()"},
		Retain: &gdpr.Retain{Ground: "tax law", Article: "Art. 17(3)(b), " + rule}, Retention: retention, Dated: "at", Page: 2,
	})
	require.NoError(t, err)
	gdprtest.TestSource(t, gdprtest.Harness{
		Source: source,
		Plant: func(ctx context.Context, s gdpr.Subject, canary string) error {
			_, err := pool.Exec(ctx, `insert into bills (email, name, amount, at) select upper($1), $2, 5, '2026-03-02' from generate_series(1, 5)`, s.Values("email")[0], canary)
			return err
		},
		Dump: dump(pool, "bills"),
	})

	ctx := context.Background()
	_, err = pool.Exec(ctx, `insert into bills (email, name, amount, at) select 'eve@example.test', 'Eve', 5, '2026-03-02' from generate_series(1, 3)`)
	require.NoError(t, err)
	out, err := source.Erase(ctx, gdpr.Subject{ID: "eve", Identifiers: []gdpr.Identifier{{Kind: "email", Value: "eve@example.test"}}}, "")
	require.NoError(t, err)
	require.Equal(t, time.Date(2035, 1, 1, 0, 0, 0, 0, time.UTC), out.Retained[0].Until, "8 years from the end of 2026")
}

func TestTableThatReachesTheSubjectThroughAnother(t *testing.T) {
	pool := pgtest.Pool(t)
	_, err := pool.Exec(context.Background(), `
		create table comments (id bigint primary key, author text);
		create table attachments (id bigint generated always as identity primary key, comment bigint, content text, shared_with text)`)
	require.NoError(t, err)
	source, err := gdprpg.NewTable(pool, gdprpg.Table{
		Descriptor: described("attachments"), Table: "attachments", Where: "t.comment in (select id from comments where author = any ($1))",
		Columns: []string{"content", "shared_with"}, Others: []string{"shared_with"},
	})
	require.NoError(t, err)
	n := 0
	gdprtest.TestSource(t, gdprtest.Harness{
		Source: source,
		Plant: func(ctx context.Context, s gdpr.Subject, canary string) error {
			n++
			_, err := pool.Exec(ctx, `insert into comments values ($1, $2)`, n, s.ID)
			if err != nil {
				return err
			}
			_, err = pool.Exec(ctx, `insert into attachments (comment, content, shared_with) values ($1, $2, 'mallory')`, n, canary)
			return err
		},
		Dump: dump(pool, "attachments"),
	})
}

// A page that loses a row to a concurrent update must not count as the last.
func TestErasureIsCompleteUnderAConcurrentUpdate(t *testing.T) {
	ctx := context.Background()
	pool := pgtest.Pool(t)
	_, err := pool.Exec(ctx, `create table posts (id int primary key, author text, likes int);
		insert into posts select g, 'ada', 0 from generate_series(1, 1000) g`)
	require.NoError(t, err)
	source, err := gdprpg.NewTable(pool, gdprpg.Table{Descriptor: described("posts"), Table: "posts", By: "author", Columns: []string{"id"}, Page: 100})
	require.NoError(t, err)
	other, err := pool.Begin(ctx)
	require.NoError(t, err)
	_, err = other.Exec(ctx, `update posts set likes = 1 where id = 50`)
	require.NoError(t, err)

	type result struct {
		out gdpr.Outcome
		err error
	}
	first := make(chan result, 1)
	go func() {
		out, err := source.Erase(ctx, gdpr.Subject{ID: "ada"}, "")
		first <- result{out, err}
	}()
	require.Eventually(t, func() bool {
		var waiting bool
		err := pool.QueryRow(ctx, `select exists (select from pg_stat_activity where wait_event_type = 'Lock' and query like '%with page as%')`).Scan(&waiting)
		return err == nil && waiting
	}, 30*time.Second, time.Millisecond)
	require.NoError(t, other.Commit(ctx))
	r := <-first
	require.NoError(t, r.err)
	require.False(t, r.out.Done, "99 of 100 were deleted, and 901 rows are left")
	removed := r.out.Removed
	for cursor, done := r.out.Next, false; !done; {
		out, err := source.Erase(ctx, gdpr.Subject{ID: "ada"}, cursor)
		require.NoError(t, err)
		removed += out.Removed
		cursor, done = out.Next, out.Done
	}
	require.Equal(t, int64(1000), removed)
}

func TestTableOfAnotherTypeHoldsNothingOfTheSubject(t *testing.T) {
	ctx := context.Background()
	pool := pgtest.Pool(t)
	_, err := pool.Exec(ctx, `create table things (id bigint primary key, owner uuid)`)
	require.NoError(t, err)
	source, err := gdprpg.NewTable(pool, gdprpg.Table{Descriptor: described("things"), Table: "things", By: "owner", Columns: []string{"id"}})
	require.NoError(t, err)
	out, err := source.Erase(ctx, gdpr.Subject{ID: "not-a-uuid"}, "")
	require.NoError(t, err)
	require.Equal(t, gdpr.Outcome{Done: true}, out)
}

func TestNewTableRefusesWhatCannotBeRight(t *testing.T) {
	pool := pgtest.Pool(t)
	for name, table := range map[string]gdprpg.Table{
		"no columns":             {Table: "t", By: "id"},
		"no subject":             {Table: "t", Columns: []string{"a"}},
		"two ways to find it":    {Table: "t", By: "id", Where: "true", Columns: []string{"a"}},
		"another not exported":   {Table: "t", By: "id", Columns: []string{"a"}, Others: []string{"b"}},
		"retained and attached":  {Table: "t", By: "id", Columns: []string{"a"}, Retain: &gdpr.Retain{Ground: "x", Article: "y"}},
		"retained without until": {Table: "t", By: "id", Columns: []string{"a"}, Set: map[string]string{"a": "null"}, Retain: &gdpr.Retain{Ground: "x", Article: "y"}},
	} {
		_, err := gdprpg.NewTable(pool, table)
		require.ErrorIs(t, err, gdpr.ErrInvalid, name)
	}
	missing, err := gdprpg.NewTable(pool, gdprpg.Table{Descriptor: described("t"), Table: "pg_class", By: "relname", Columns: []string{"no_such"}})
	require.NoError(t, err)
	_, err = missing.Erase(context.Background(), gdpr.Subject{ID: "x"}, "")
	require.ErrorContains(t, err, fmt.Sprintf("has no column %q", "no_such"))
}

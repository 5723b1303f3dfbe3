package gdprpg_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/gdpr"
	"github.com/kolekt/commerce/gdpr/gdprpg"
	"github.com/kolekt/commerce/internal/pgtest"
)

// planted is a schema of 40 tables: 16 covered, 12 harmless, 12 gaps.
func planted() (ddl string, coverage gdprpg.Coverage, gaps []string) {
	var b strings.Builder
	b.WriteString(`create table users (id uuid primary key default gen_random_uuid(), email text, created_at timestamptz);`)
	covered := []string{"users"}
	for i := range 15 {
		fmt.Fprintf(&b, "create table covered_%02d (id bigint primary key, user_id uuid references users, note text);", i)
		covered = append(covered, fmt.Sprintf("covered_%02d", i))
	}
	for i := range 9 {
		fmt.Fprintf(&b, "create table harmless_%02d (id bigint primary key, code text, amount bigint, active boolean, product_id uuid);", i)
	}
	b.WriteString(`
		create table plans (id text primary key, name text, price bigint);
		create table settings (key text primary key, value jsonb);
		insert into settings values ('theme', '{"color":"blue","size":3}');
		create table webhooks_log (id bigint primary key, status int, took_ms int);

		create table orders (id bigint primary key, user_id uuid references users);
		create table order_lines (id bigint primary key, order_id bigint references orders, amount bigint);
		create table group_chats (id bigint primary key, member_ids uuid[]);
		create table audit_trail (id bigint primary key, payload jsonb);
		insert into audit_trail values (1, '{"actor":{"email":"x@example.test"}}');
		create table events (id bigint, account_id uuid, at date not null) partition by range (at);
		create table events_2026 partition of events for values from ('2026-01-01') to ('2027-01-01');
		create materialized view top_users as select id as user_id, email from users;
		create table users_backup_2024 (id uuid, email text, created_at timestamptz);
		create table categories (id bigint primary key, parent_id bigint references categories, created_by uuid);
		create table teams (id bigint primary key, lead_ref uuid references users);
		create table team_seats (id bigint primary key, team_id bigint references teams);
		alter table teams add column first_seat bigint references team_seats;
		create table free_text (id bigint primary key, content text);
		insert into free_text select g, 'write to person' || g || '@example.test please' from generate_series(1, 200) g;
		create table visits (id bigint primary key, remote_addr inet);
		analyze;`)
	coverage = gdprpg.Coverage{Subjects: []string{"users"}, Sources: []gdpr.Source{tables(covered)}}
	return b.String(), coverage, []string{
		"orders", "order_lines", "group_chats", "audit_trail", "events", "top_users", "users_backup_2024",
		"categories", "teams", "team_seats", "free_text", "visits",
	}
}

// tables is a source that only says which tables it covers.
type tables []string

func (t tables) Describe() gdpr.Descriptor { return gdpr.Descriptor{Name: "app", Tables: t} }
func (tables) Export(context.Context, gdpr.Subject, *gdpr.Sink) error {
	return nil
}
func (tables) Erase(context.Context, gdpr.Subject, string) (gdpr.Outcome, error) {
	return gdpr.Outcome{Done: true}, nil
}

func TestCoverFindsEveryPlantedGap(t *testing.T) {
	ctx := context.Background()
	pool := pgtest.Pool(t)
	ddl, coverage, want := planted()
	_, err := pool.Exec(ctx, ddl)
	require.NoError(t, err)
	gaps, err := gdprpg.Cover(ctx, pool, coverage)
	require.NoError(t, err)
	found := map[string]bool{}
	for _, g := range gaps {
		found[g.Table] = true
	}
	for _, table := range want {
		require.True(t, found[table], "%s wasn't found; found %v", table, gaps)
		delete(found, table)
	}
	require.LessOrEqual(t, len(found), 2, "false alarms: %v", gaps)

	// With the gaps covered and what is harmless ignored, there is none.
	coverage.Sources = append(coverage.Sources, tables(want))
	coverage.Ignore = map[string]string{}
	for table := range found {
		coverage.Ignore[table] = "harmless"
	}
	gaps, err = gdprpg.Cover(ctx, pool, coverage)
	require.NoError(t, err)
	require.Empty(t, gaps)
}

func TestCoverFindsAColumnThatIsAddedToACoveredTable(t *testing.T) {
	ctx := context.Background()
	pool := pgtest.Pool(t)
	_, err := pool.Exec(ctx, `create table users (id text primary key, email text, created_at timestamptz)`)
	require.NoError(t, err)
	users, err := gdprpg.NewTable(pool, gdprpg.Table{Descriptor: described("users"), Table: "users", By: "id", Columns: []string{"id", "email", "created_at"}})
	require.NoError(t, err)
	coverage := gdprpg.Coverage{Subjects: []string{"users"}, Sources: []gdpr.Source{users}}
	gaps, err := gdprpg.Cover(ctx, pool, coverage)
	require.NoError(t, err)
	require.Empty(t, gaps)
	_, err = pool.Exec(ctx, `alter table users add column phone text`)
	require.NoError(t, err)
	gaps, err = gdprpg.Cover(ctx, pool, coverage)
	require.NoError(t, err)
	require.Len(t, gaps, 1)
	require.Equal(t, "phone", gaps[0].Column)
}

func TestOwnTablesAreAllCovered(t *testing.T) {
	ctx := context.Background()
	pool := migrated(t)
	_, err := pool.Exec(ctx, `create table users (id text primary key)`)
	require.NoError(t, err)
	gaps, err := gdprpg.Cover(ctx, pool, gdprpg.Coverage{
		Subjects: []string{"users"},
		Sources:  []gdpr.Source{tables{"users", "gdpr_consents"}},
		Ignore:   gdprpg.Ignored(),
	})
	require.NoError(t, err)
	require.Empty(t, gaps)
}

func TestPlanPutsChildrenFirstAndNamesCycles(t *testing.T) {
	ctx := context.Background()
	pool := pgtest.Pool(t)
	_, err := pool.Exec(ctx, `
		create table users (id bigint primary key, manager bigint references users);
		create index on users (manager);
		create table posts (id bigint primary key, author bigint not null references users on delete cascade);
		create table comments (id bigint primary key, post bigint references posts, author bigint references users);
		create table teams (id bigint primary key, owner bigint references users);
		create table seats (id bigint primary key, team bigint not null references teams);
		alter table teams add column first_seat bigint references seats;
		create table other (id bigint primary key)`)
	require.NoError(t, err)
	plan, err := gdprpg.PlanDeletion(ctx, pool, "", "users")
	require.NoError(t, err)
	at := map[string]int{}
	for i, table := range plan.Order {
		at[table] = i
	}
	require.Len(t, plan.Order, 5)
	require.Less(t, at["comments"], at["posts"])
	require.Less(t, at["posts"], at["users"])
	require.Equal(t, "users", plan.Order[4])
	require.Equal(t, []gdprpg.Cycle{
		{Tables: []string{"seats", "teams"}, Break: "teams.first_seat"},
		{Tables: []string{"users"}, Break: "users.manager"},
	}, plan.Cycles)
	require.Equal(t, []string{"posts.author"}, plan.Cascades)
	require.Contains(t, plan.Unindexed, "comments.post")
	require.NotContains(t, plan.Unindexed, "users.manager")
}

package mailerpg

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/internal/pgtest"
	"github.com/kolekt/commerce/mailer"
)

// TestNoStatementReadsTheHistory asks for the plans that hold for any
// parameters, of an outbox full of sent mail and, for the control, of one
// statement that must read it.
func TestNoStatementReadsTheHistory(t *testing.T) {
	pool := pgtest.Pool(t)
	ctx := t.Context()
	require.NoError(t, Migrate(ctx, pool))
	conn, err := pool.Acquire(ctx)
	require.NoError(t, err)
	defer conn.Release()
	exec := func(sql string) {
		_, err := conn.Exec(ctx, sql)
		require.NoError(t, err)
	}
	exec(`insert into mailer_outbox (id, key_hash, kind, stream, class, guarded, account, topic, email, domain, address_hash, data, created_at, run_at, expires_at)
select 'mail_' || lpad(i::text, 9, '0'), md5(i::text)::uuid, 'k', 's', 2, false, 'acct_' || i % 1000, '', 'u@example.org', 'example.org', sha256(i::text::bytea), '{}', now(), now(), now()
from generate_series(1, 30000) i`)
	exec(`insert into mailer_delivery (id, key_hash, state, domain, run_at, at)
select id, key_hash, 3, domain, run_at, now() from mailer_outbox`)
	exec(`insert into mailer_event (provider, event_id, type, reason, mail_id, address_hash, code, enhanced, at)
select 'p', id, 'delivered', '', id, address_hash, 250, '', now() from mailer_outbox`)
	exec(`insert into mailer_suppression (address_hash, stream, reason, blocks, source, at)
select sha256(('s' || i)::bytea), '', 'bounced', 2, '', now() from generate_series(1, 20000) i`)
	plan := func(sql string) string {
		exec("prepare asked as " + sql)
		defer exec("deallocate asked")
		var params int
		require.NoError(t, conn.QueryRow(ctx, "select cardinality(parameter_types) from pg_prepared_statements where name = 'asked'").Scan(&params))
		args := ""
		if params > 0 {
			args = "(" + strings.TrimSuffix(strings.Repeat("null, ", params), ", ") + ")"
		}
		rows, err := conn.Query(ctx, "explain execute asked"+args)
		require.NoError(t, err)
		var out strings.Builder
		for rows.Next() {
			var line string
			require.NoError(t, rows.Scan(&line))
			out.WriteString(line + "\n")
		}
		require.NoError(t, rows.Err())
		return out.String()
	}
	listed := func(q mailer.Query) string {
		q.Limit = 10
		sql, _ := list(q)
		return sql
	}
	statements := map[string]string{
		"enqueue a batch": enqueuePlain, "enqueue one": enqueueOne, "enqueue by rules": enqueueRules, "claim": claim, "contents": contents,
		"extend": extend, "ack": ack, "recover": recoverLeases, "release": release, "stats": stats, "scrub": scrub, "purge": purge, "erase": erase,
		"lookup": selectMail + "where d.id = $1", "export": exportMails, "list": listed(mailer.Query{}),
		"list an account": listed(mailer.Query{Account: "a"}),
		"list the dead":   listed(mailer.Query{States: []mailer.State{mailer.Dead}}),
		"list the open":   listed(mailer.Query{States: []mailer.State{mailer.Claimed, mailer.Sending}}),
	}
	for _, c := range []struct {
		name string
		set  []string
	}{
		{"with one due mail", nil},
		{"with many due mails", []string{"update mailer_delivery set state = 0, at = run_at where id < 'mail_000008000'"}},
	} {
		for _, sql := range c.set {
			exec(sql)
		}
		exec("analyze mailer_outbox")
		exec("analyze mailer_delivery")
		exec("analyze mailer_event")
		exec("analyze mailer_suppression")
		exec("set plan_cache_mode = force_generic_plan")
		for name, sql := range statements {
			p := plan(sql)
			for _, table := range []string{"mailer_outbox", "mailer_delivery", "mailer_event", "mailer_suppression"} {
				require.NotContains(t, p, "Seq Scan on "+table, "%s, %s", name, c.name)
			}
			if strings.HasPrefix(name, "list the") {
				require.Regexp(t, `using mailer_delivery_pkey on mailer_delivery d.*\n +Index Cond: \(id = ANY`, p, "%s walks through the history:\n%s", name, p)
			}
		}
		require.Contains(t, plan("select count(*) from mailer_outbox where email = $1"), "Seq Scan on mailer_outbox", "the control")
	}
}

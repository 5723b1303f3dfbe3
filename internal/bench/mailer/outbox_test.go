package mailer

import (
	"context"
	"fmt"
	"os"
	"reflect"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/kolekt/commerce/internal/pgtest"
	"github.com/kolekt/commerce/internal/services"
	"github.com/kolekt/commerce/mailer"
	"github.com/kolekt/commerce/mailer/mailerpg"
)

type note struct{ N int }

// TestTableOutbox measures the outbox on a durable PostgreSQL with rows of
// history: a million of them with COMMERCE_PROVE=1.
func TestTableOutbox(t *testing.T) {
	ctx := context.Background()
	pg := pgtest.Server(t, services.PostgresConfig{Durable: true, Settings: map[string]string{"shared_buffers": "256MB", "max_wal_size": "4GB"}})
	pool, err := pgxpool.New(ctx, pg.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	if err := mailerpg.Migrate(ctx, pool); err != nil {
		t.Fatal(err)
	}
	kind, err := mailer.Define(mailer.Spec[note]{Name: "test.note", Stream: "notes", Class: mailer.Transactional, Sample: note{1},
		Templates: fstest.MapFS{"test.note.en.txt": {Data: []byte("Subject: Note {{.Data.N}}\nPreheader: A note.\n\nNumber {{.Data.N}}.\n")}}})
	if err != nil {
		t.Fatal(err)
	}
	store := mailerpg.New(pool)
	svc, err := mailer.New(store, mailer.NewCapture(), mailer.Config{From: mailer.Address{Email: "a@example.com"}, Secret: make([]byte, 32), Kinds: []mailer.AnyKind{kind}})
	if err != nil {
		t.Fatal(err)
	}
	history := 50_000
	if os.Getenv("COMMERCE_PROVE") == "1" {
		history = 1_000_000
	}
	exec := func(sql string, args ...any) {
		if _, err := pool.Exec(ctx, sql, args...); err != nil {
			t.Fatal(err)
		}
	}
	exec(`insert into mailer_outbox (id, key_hash, kind, stream, class, guarded, account, topic, email, name, locale, time_zone, domain, address_hash, data, created_at, run_at, expires_at)
select 'mail_0' || i, substr(sha256(('h' || i)::bytea)::text, 3, 32)::uuid, 'test.note', 'notes', 2, false, 'acct_' || i % 10000, '', 'u@example.org', '', '', '', 'example.org', sha256('a'), '{"N":1}', now(), now(), now()
from generate_series(1, $1) i`, history)
	exec(`insert into mailer_delivery (id, key_hash, state, attempts, domain, run_at, at)
select id, key_hash, 3, 1, domain, run_at, now() from mailer_outbox`)
	exec("create table bare (id text primary key, key_hash bytea not null unique, body json, state smallint not null, at timestamptz not null)")
	// The same rows and indexes as what a mail says, without rules and delivery.
	exec("create table twin (like mailer_outbox including all)")
	exec("insert into twin select * from mailer_outbox")
	exec("vacuum analyze twin")
	exec("create table orders (id bigint generated always as identity primary key, note text)")
	exec("vacuum analyze mailer_outbox")
	exec("vacuum analyze mailer_delivery")
	n := 0
	prepare := func(count int) []mailer.Enqueue {
		out := make([]mailer.Enqueue, count)
		for i := range out {
			n++
			e, err := kind.Prepare(svc, mailer.To{Account: fmt.Sprint("acct_", n%10000), Email: fmt.Sprintf("u%d@example.org", n)}, note{n}, fmt.Sprint(n))
			if err != nil {
				t.Fatal(err)
			}
			out[i] = e
		}
		return out
	}

	// One mail in the caller's transaction, beside the transaction alone, the
	// same with a statement that does nothing, and with the bare insert of what a
	// mail says.
	transaction := func(inside func(pgx.Tx) error) time.Duration {
		start := time.Now()
		err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, "insert into orders (note) values ($1)", "order"); err != nil {
				return err
			}
			return inside(tx)
		})
		if err != nil {
			t.Fatal(err)
		}
		return time.Since(start)
	}
	// The order's insert and the mail in one round trip, in a transaction and as
	// one.
	order := func(b *pgx.Batch) { b.Queue("insert into orders (note) values ($1)", "order") }
	along := func(db mailerpg.DB, mail []mailer.Enqueue) error {
		_, err := svc.WithStore(mailerpg.New(db).Along(order)).EnqueueAll(ctx, mail)
		return err
	}
	var alone, trip, row, with, riding, single []time.Duration
	for range 1500 {
		alone = append(alone, transaction(func(pgx.Tx) error { return nil }))
		trip = append(trip, transaction(func(tx pgx.Tx) error {
			_, err := tx.Exec(ctx, "select 1")
			return err
		}))
		args := turned(prepare(1))
		row = append(row, transaction(func(tx pgx.Tx) error {
			_, err := tx.Exec(ctx, insertTwinOne, first(args)...)
			return err
		}))
		mail := prepare(1)
		with = append(with, transaction(func(tx pgx.Tx) error {
			_, err := svc.WithStore(mailerpg.New(tx)).EnqueueAll(ctx, mail)
			return err
		}))
		mail = prepare(1)
		start := time.Now()
		if err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error { return along(tx, mail) }); err != nil {
			t.Fatal(err)
		}
		riding = append(riding, time.Since(start))
		mail = prepare(1)
		start = time.Now()
		if err := along(pool, mail); err != nil {
			t.Fatal(err)
		}
		single = append(single, time.Since(start))
	}
	t.Logf("history %d rows, fsync on", history)
	t.Logf("transaction alone median %.3f ms, with a mail %.3f ms: +%.3f ms (best %.3f and %.3f: +%.3f)", ms(median(alone)), ms(median(with)), ms(median(with)-median(alone)), ms(fastest(alone)), ms(fastest(with)), ms(fastest(with)-fastest(alone)))
	for _, w := range []struct {
		name string
		took []time.Duration
	}{{"with a mail that the order goes along with", riding}, {"both on the pool, without a transaction of the caller's", single}} {
		t.Logf("  %s: %.3f ms, %+.3f ms (best %+.3f)", w.name, ms(median(w.took)), ms(median(w.took)-median(alone)), ms(fastest(w.took)-fastest(alone)))
	}
	t.Logf("  with select 1: +%.3f ms (best +%.3f); with a bare INSERT of the same columns into the same indexes: +%.3f ms (best +%.3f)", ms(median(trip)-median(alone)), ms(fastest(trip)-fastest(alone)), ms(median(row)-median(alone)), ms(fastest(row)-fastest(alone)))

	// Eight at a time, which share the writes of their commits.
	const callers, each = 8, 150
	crowd := func(mail bool) time.Duration {
		mails := prepare(callers * each)
		start := time.Now()
		var wg sync.WaitGroup
		for c := range callers {
			wg.Go(func() {
				for i := range each {
					err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
						if _, err := tx.Exec(ctx, "insert into orders (note) values ($1)", "order"); err != nil || !mail {
							return err
						}
						at := c*each + i
						_, err := svc.WithStore(mailerpg.New(tx)).EnqueueAll(ctx, mails[at:at+1])
						return err
					})
					if err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		return time.Since(start)
	}
	var crowdAlone, crowdWith []time.Duration
	for range 5 {
		crowdAlone, crowdWith = append(crowdAlone, crowd(false)), append(crowdWith, crowd(true))
	}
	t.Logf("%d callers: transactions alone median %.0f/s, with a mail %.0f/s", callers, per(callers*each, median(crowdAlone)), per(callers*each, median(crowdWith)))

	// A thousand at once, beside a bare INSERT of a thousand.
	const batch, rounds = 1000, 40
	var bare, wide, ours []time.Duration
	for range rounds {
		mails := prepare(batch)
		ids, keys, bodies := make([]string, batch), make([][]byte, batch), make([]string, batch)
		for i, e := range mails {
			ids[i], keys[i], bodies[i] = e.Mail.ID, e.Mail.KeyHash, string(e.Mail.Data)
		}
		start := time.Now()
		exec("insert into bare select id, key_hash, body, 0, now() from unnest($1::text[], $2::bytea[], $3::json[]) as i (id, key_hash, body) on conflict (key_hash) do nothing", ids, keys, bodies)
		bare = append(bare, time.Since(start))
		c := turned(mails)
		start = time.Now()
		exec(insertTwin, c...)
		wide = append(wide, time.Since(start))
		start = time.Now()
		if _, err := svc.EnqueueAll(ctx, mails); err != nil {
			t.Fatal(err)
		}
		ours = append(ours, time.Since(start))
	}
	t.Logf("enqueue in batches of %d: median %.0f/s, best %.0f/s; bare INSERT median %.0f/s, best %.0f/s; ratio %.2f, of the best %.2f", batch, per(batch, median(ours)), per(batch, fastest(ours)),
		per(batch, median(bare)), per(batch, fastest(bare)), float64(median(bare))/float64(median(ours)), float64(fastest(bare))/float64(fastest(ours)))
	t.Logf("  a bare INSERT of the same columns into the same indexes and history: median %.0f/s, best %.0f/s; ratio %.2f, of the best %.2f", per(batch, median(wide)), per(batch, fastest(wide)),
		float64(median(wide))/float64(median(ours)), float64(fastest(wide))/float64(fastest(ours)))

	// The same from several callers at once, which is how an outbox is filled.
	for _, callers := range []int{2, 4} {
		var wide, ours []time.Duration
		for range 6 {
			lots := make([][]mailer.Enqueue, callers)
			for c := range lots {
				lots[c] = prepare(4 * batch)
			}
			wide = append(wide, together(callers, func(c int) {
				for from := 0; from < len(lots[c]); from += batch {
					exec(insertTwin, turned(lots[c][from:from+batch])...)
				}
			}))
			ours = append(ours, together(callers, func(c int) {
				for from := 0; from < len(lots[c]); from += batch {
					if _, err := svc.EnqueueAll(ctx, lots[c][from:from+batch]); err != nil {
						t.Error(err)
					}
				}
			}))
		}
		t.Logf("  %d callers: median %.0f/s, best %.0f/s; the bare INSERT of the same columns median %.0f/s, best %.0f/s", callers, per(callers*4*batch, median(ours)),
			per(callers*4*batch, fastest(ours)), per(callers*4*batch, median(wide)), per(callers*4*batch, fastest(wide)))
	}

	// Claim and ack a hundred, beside a bare claim and ack of the same table shape.
	exec("create index bare_open on bare (at, id) where state = 0")
	exec("analyze bare")
	bareLot := func(lot int) {
		rows, err := pool.Query(ctx, "update bare u set state = 1 from (select id from bare where state = 0 order by at, id limit $1 for update skip locked) d where u.id = d.id returning u.id, u.body", lot)
		if err != nil {
			t.Error(err)
			return
		}
		ids, err := pgx.CollectRows(rows, func(r pgx.CollectableRow) (string, error) {
			var id, body string
			err := r.Scan(&id, &body)
			return id, err
		})
		if err != nil || len(ids) != lot {
			t.Errorf("claimed %d: %v", len(ids), err)
		}
		exec("update bare set state = 2 where id = any ($1)", ids)
	}
	ourLot := func(lot int) {
		leased, err := store.Claim(ctx, mailer.Claim{Now: time.Now().Add(time.Hour), Limit: lot, Lease: time.Minute})
		if err != nil || len(leased) != lot {
			t.Errorf("claimed %d: %v", len(leased), err)
		}
		acks := make([]mailer.Ack, len(leased))
		for i, m := range leased {
			acks[i] = mailer.Ack{ID: m.ID, Attempt: m.Attempts, State: mailer.Done, At: time.Now(), Transport: "smtp", Code: 250}
		}
		if got, err := store.Ack(ctx, acks); err != nil || got != len(leased) {
			t.Errorf("ack %d: %v", got, err)
		}
	}
	for _, lot := range []int{100, 1000} { // Config.Batch by default, and at most
		var bareWork, ourWork []time.Duration
		for range 17_000 / lot {
			bareWork, ourWork = append(bareWork, timed(func() { bareLot(lot) })), append(ourWork, timed(func() { ourLot(lot) }))
		}
		t.Logf("claim and ack, %d at a time: median %.0f/s, best %.0f/s; bare UPDATEs median %.0f/s, best %.0f/s; ratio %.2f, of the best %.2f", lot, per(lot, median(ourWork)), per(lot, fastest(ourWork)),
			per(lot, median(bareWork)), per(lot, fastest(bareWork)), float64(median(bareWork))/float64(median(ourWork)), float64(fastest(bareWork))/float64(fastest(ourWork)))
	}
}

func timed(f func()) time.Duration {
	start := time.Now()
	f()
	return time.Since(start)
}

// together runs f in several goroutines and returns how long all took.
func together(n int, f func(i int)) time.Duration {
	var wg sync.WaitGroup
	start := time.Now()
	for i := range n {
		wg.Go(func() { f(i) })
	}
	wg.Wait()
	return time.Since(start)
}

const insertTwin = `
insert into twin (id, key_hash, kind, stream, class, guarded, account, topic, email, name, locale, time_zone, domain, address_hash, data, created_at, run_at, expires_at)
select *
from unnest($1::text[], $2::uuid[], $3::text[], $4::text[], $5::smallint[], $6::boolean[], $7::text[], $8::text[], $9::text[], $10::text[],
    $11::text[], $12::text[], $13::text[], $14::bytea[], $15::json[], $16::timestamptz[], $17::timestamptz[], $18::timestamptz[])
on conflict (key_hash) do nothing`

const insertTwinOne = `
insert into twin (id, key_hash, kind, stream, class, guarded, account, topic, email, name, locale, time_zone, domain, address_hash, data, created_at, run_at, expires_at)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18)
on conflict (key_hash) do nothing`

// first are the arguments of insertTwinOne: the first of each array.
func first(args []any) []any {
	out := make([]any, len(args))
	for i, a := range args {
		out[i] = reflect.ValueOf(a).Index(0).Interface()
	}
	return out
}

// turned are mails as insertTwin takes them.
func turned(mails []mailer.Enqueue) []any {
	n := len(mails)
	var text [11][]string
	for i := range text {
		text[i] = make([]string, n)
	}
	keys, addresses, class, guarded := make([]pgtype.UUID, n), make([][]byte, n), make([]int16, n), make([]bool, n)
	var times [3][]pgtype.Timestamptz
	for i := range times {
		times[i] = make([]pgtype.Timestamptz, n)
	}
	for i, e := range mails {
		m := e.Mail
		for j, s := range []string{m.ID, m.Kind, m.Stream, m.Account, m.Topic, m.Email, m.Name, m.Locale, m.TimeZone, m.Domain, string(m.Data)} {
			text[j][i] = s
		}
		keys[i], addresses[i], class[i], guarded[i] = pgtype.UUID{Bytes: [16]byte(m.KeyHash), Valid: true}, m.AddressHash, int16(m.Class), m.Guarded
		for j, at := range []time.Time{m.CreatedAt, m.RunAt, m.ExpiresAt} {
			times[j][i] = pgtype.Timestamptz{Time: at, Valid: true}
		}
	}
	return []any{text[0], keys, text[1], text[2], class, guarded, text[3], text[4], text[5], text[6], text[7], text[8], text[9], addresses, text[10], times[0], times[1], times[2]}
}

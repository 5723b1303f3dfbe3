// Package gdpr measures exports and erasures beside what PostgreSQL does bare.
package gdpr

import (
	"archive/zip"
	"context"
	"fmt"
	"io"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/kolekt/commerce/gdpr"
	"github.com/kolekt/commerce/gdpr/gdprpg"
	"github.com/kolekt/commerce/internal/pgtest"
	"github.com/kolekt/commerce/internal/services"
)

const million = 1_000_000

func pool(b *testing.B) *pgxpool.Pool {
	b.Helper()
	server := pgtest.Server(b, services.PostgresConfig{Durable: true, Settings: map[string]string{"shared_buffers": "512MB", "max_wal_size": "4GB"}})
	return pgtest.PoolOn(b, server.URL())
}

func fill(b *testing.B, p *pgxpool.Pool) {
	b.Helper()
	_, err := p.Exec(context.Background(), `
		create table posts (id bigint primary key, author text not null, title text, body text, likes bigint, at timestamptz);
		insert into posts select g, 'ada', 'Title ' || g, repeat('some text that a person wrote, ', 8) || g, g * 7, now()
			from generate_series(1, 1000000) g;
		insert into posts select g, 'bob', 'Title ' || g, repeat('some text that a person wrote, ', 8) || g, g * 7, now()
			from generate_series(1000001, 1010000) g;
		create index on posts (author);
		analyze posts`)
	if err != nil {
		b.Fatal(err)
	}
}

func source(b *testing.B, p *pgxpool.Pool) *gdprpg.TableSource {
	b.Helper()
	s, err := gdprpg.NewTable(p, gdprpg.Table{
		Descriptor: gdpr.Descriptor{Name: "posts", Categories: []string{"content"}, Purpose: "x", Basis: gdpr.Contract, Retention: "x"},
		Table:      "posts", By: "author", Columns: []string{"id", "title", "body", "likes", "at"},
	})
	if err != nil {
		b.Fatal(err)
	}
	return s
}

// BenchmarkExport compares the export of a million rows with the floor: the
// server renders the same rows as JSON, COPY streams them, and the same
// compressor takes them.
func BenchmarkExport(b *testing.B) {
	ctx := context.Background()
	p := pool(b)
	fill(b, p)
	src := source(b, p)
	var ours, floor []time.Duration
	var peak atomic.Uint64
	for range 3 {
		start := time.Now()
		conn, err := p.Acquire(ctx)
		if err != nil {
			b.Fatal(err)
		}
		z := zip.NewWriter(io.Discard)
		w, err := z.Create("posts.jsonl")
		if err != nil {
			b.Fatal(err)
		}
		_, err = conn.Conn().PgConn().CopyTo(ctx, w, `copy (select row_to_json(r) from (select id, title, body, likes, at from posts where author = 'ada') r)
			to stdout with (format csv, quote e'\x01', escape e'\x01', delimiter e'\x02')`)
		conn.Release()
		if err != nil {
			b.Fatal(err)
		}
		if err := z.Close(); err != nil {
			b.Fatal(err)
		}
		floor = append(floor, time.Since(start))

		runtime.GC()
		var idle runtime.MemStats
		runtime.ReadMemStats(&idle)
		stop := make(chan struct{})
		go func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(20 * time.Millisecond):
					var m runtime.MemStats
					runtime.ReadMemStats(&m)
					if m.HeapInuse > idle.HeapInuse {
						peak.Store(max(peak.Load(), m.HeapInuse-idle.HeapInuse))
					}
				}
			}
		}()
		start = time.Now()
		if err := gdpr.ExportSource(ctx, io.Discard, src, gdpr.Subject{ID: "ada"}); err != nil {
			b.Fatal(err)
		}
		ours = append(ours, time.Since(start))
		close(stop)
	}
	b.ReportMetric(million/best(ours).Seconds(), "rows/s")
	b.ReportMetric(million/best(floor).Seconds(), "floor-rows/s")
	b.ReportMetric(best(floor).Seconds()/best(ours).Seconds(), "x-floor")
	b.ReportMetric(float64(peak.Load())/(1<<20), "MB-peak")
}

// BenchmarkErase measures how long another writer of the same table waits
// while a million rows are erased, in pages and, as the control, at once.
func BenchmarkErase(b *testing.B) {
	ctx := context.Background()
	for _, tt := range []struct {
		name string
		do   func(p *pgxpool.Pool) error
	}{
		{"pages", func(p *pgxpool.Pool) error {
			src, cursor := source(b, p), ""
			for {
				out, err := src.Erase(ctx, gdpr.Subject{ID: "ada"}, cursor)
				if err != nil || out.Done {
					return err
				}
				cursor = out.Next
			}
		}},
		{"one-delete", func(p *pgxpool.Pool) error {
			_, err := p.Exec(ctx, "delete from posts where author = 'ada'")
			return err
		}},
	} {
		b.Run(tt.name, func(b *testing.B) {
			p := pool(b)
			fill(b, p)
			stop, worst := make(chan struct{}), make(chan time.Duration)
			// A writer on rows of the erased account itself: a late like.
			go func() {
				var longest time.Duration
				for i := 0; ; i++ {
					select {
					case <-stop:
						worst <- longest
						return
					default:
					}
					start := time.Now()
					if _, err := p.Exec(ctx, "update posts set likes = likes + 1 where id = $1", i*7919%million+1); err != nil {
						b.Error(err)
					}
					longest = max(longest, time.Since(start))
				}
			}()
			start := time.Now()
			if err := tt.do(p); err != nil {
				b.Fatal(err)
			}
			took := time.Since(start)
			close(stop)
			var left int
			if err := p.QueryRow(ctx, "select count(*) from posts where author = 'ada'").Scan(&left); err != nil || left > 0 {
				b.Fatalf("%d rows left, error %v", left, err)
			}
			b.ReportMetric(float64((<-worst).Microseconds())/1000, "ms-worst-stall")
			b.ReportMetric(million/took.Seconds(), "rows/s")
		})
	}
}

// BenchmarkCover reads the catalogue of a thousand tables.
func BenchmarkCover(b *testing.B) {
	ctx := context.Background()
	p := pool(b)
	if _, err := p.Exec(ctx, "create table users (id uuid primary key, email text)"); err != nil {
		b.Fatal(err)
	}
	for i := range 1000 {
		if _, err := p.Exec(ctx, fmt.Sprintf(`create table t%04d (id bigint primary key, user_id uuid references users, a text, b text, c int, d jsonb, e timestamptz, f boolean)`, i)); err != nil {
			b.Fatal(err)
		}
	}
	var times []time.Duration
	for range 3 {
		start := time.Now()
		gaps, err := gdprpg.Cover(ctx, p, gdprpg.Coverage{Subjects: []string{"users"}})
		if err != nil {
			b.Fatal(err)
		}
		if len(gaps) < 1000 {
			b.Fatalf("found %d gaps in 1,000 uncovered tables", len(gaps))
		}
		times = append(times, time.Since(start))
	}
	b.ReportMetric(best(times).Seconds(), "s/1000-tables")
}

func best(ds []time.Duration) time.Duration {
	least := ds[0]
	for _, d := range ds {
		least = min(least, d)
	}
	return least
}

package usage_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/kolekt/commerce/usage"
	"github.com/kolekt/commerce/usage/usagemem"
	"github.com/kolekt/commerce/usage/usagepg"
)

// discard stores nothing, so that Track is measured and not the store.
type discard struct{ usage.Store }

func (discard) Append(_ context.Context, _ time.Time, entries []usage.Entry) ([]usage.AppendOutcome, error) {
	return make([]usage.AppendOutcome, len(entries)), nil
}

func service(b *testing.B, store usage.Store) *usage.Service {
	b.Helper()
	svc, err := usage.New(store, usage.Config{Meters: []usage.Meter{{Name: "tokens", Aggregation: usage.Sum}}})
	if err != nil {
		b.Fatal(err)
	}
	return svc
}

// file is a bare file with group commit: the floor of a journal.
type file struct {
	f       *os.File
	mu      sync.Mutex
	next    *group
	writing bool
}

type group struct {
	buf  []byte
	done chan struct{}
	err  error
}

func (f *file) append(record []byte) error {
	f.mu.Lock()
	g := f.next
	g.buf = append(g.buf, record...)
	if !f.writing {
		f.writing = true
		go f.write()
	}
	f.mu.Unlock()
	<-g.done
	return g.err
}

func (f *file) write() {
	for {
		f.mu.Lock()
		g := f.next
		if len(g.buf) == 0 {
			f.writing = false
			f.mu.Unlock()
			return
		}
		f.next = &group{done: make(chan struct{})}
		f.mu.Unlock()
		if _, g.err = f.f.Write(g.buf); g.err == nil {
			g.err = f.f.Sync()
		}
		close(g.done)
	}
}

// Track into memory, and into the journal beside a bare file.
func BenchmarkTrackJournal(b *testing.B) {
	f, err := os.Create(filepath.Join(b.TempDir(), "bare"))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	bare := &file{f: f, next: &group{done: make(chan struct{})}}
	record := make([]byte, 75)
	r, err := usage.NewRecorder(service(b, discard{usagemem.New()}), usage.RecorderConfig{Journal: b.TempDir(), Max: 1 << 30})
	if err != nil {
		b.Fatal(err)
	}
	ctx := context.Background()
	contest(b, "journal with group fsync", 64, 3, 2*time.Second,
		contender{name: "bare file, group commit", do: func(context.Context, int, int) error { return bare.append(record) }},
		contender{name: "Track with a journal", do: func(ctx context.Context, _, _ int) error {
			return r.Track(ctx, usage.Event{Account: "acct_000001", Meter: "tokens", Value: 1})
		}},
	)
	if err := r.Close(ctx); err != nil {
		b.Fatal(err)
	}
}

// Track with a full buffer before a durable PostgreSQL, until everything is
// stored, beside the bare statement.
func BenchmarkBufferedIngest(b *testing.B) {
	pool := durable(b, 8)
	exec(b, pool, bareTable)
	for _, writers := range []int{2, 4} {
		r, err := usage.NewRecorder(service(b, usagepg.New(pool)), usage.RecorderConfig{Max: 20_000, Writers: writers})
		if err != nil {
			b.Fatal(err)
		}
		contest(b, fmt.Sprintf("buffered ingest, durable and deduplicated, 1000 accounts, %d connections", writers), writers, 3, 3*time.Second,
			contender{name: "bare unnest … ON CONFLICT DO NOTHING", per: batchSize, do: func(ctx context.Context, w, i int) error {
				_, err := pool.Exec(ctx, bareInsert, bareArgs(batchOf(w, i, 1000, nil, usage.Charge{}))...)
				return err
			}},
			contender{name: "Recorder, with rollups", per: batchSize, done: r.Flush, do: func(ctx context.Context, w, i int) error {
				for _, e := range batchOf(w, i, 1000, nil, usage.Charge{}) {
					if err := r.Track(ctx, usage.Event{Account: e.Account, Meter: "tokens", Value: e.Value}); err != nil {
						return err
					}
				}
				return nil
			}},
		)
		if err := r.Close(context.Background()); err != nil {
			b.Fatal(err)
		}
	}
}

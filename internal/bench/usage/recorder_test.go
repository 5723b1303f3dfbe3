package usage_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
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

func service(b *testing.B, store usage.Store, quota usage.QuotaFunc) *usage.Service {
	b.Helper()
	svc, err := usage.New(store, usage.Config{Meters: []usage.Meter{{Name: "tokens", Aggregation: usage.Sum, Quota: quota != nil}}, Quota: quota})
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
	r, err := usage.NewRecorder(service(b, discard{usagemem.New()}, nil), usage.RecorderConfig{Journal: b.TempDir(), Max: 1 << 30})
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

// Track into memory, beside a reading of the clock. What is tracked is stored
// between the bursts, which fit into the room that is there, while the clock of
// the benchmark stands still.
func BenchmarkTrackMemory(b *testing.B) {
	store := &gated{Store: usagemem.New()}
	r, err := usage.NewRecorder(service(b, store, nil), usage.RecorderConfig{Every: time.Hour})
	if err != nil {
		b.Fatal(err)
	}
	const burst = 900
	event := usage.Event{Account: "acct_000001", Meter: "tokens", Value: 1}
	ctx := context.Background()
	var clock, track []float64
	for range 5000 {
		start := time.Now()
		for range burst {
			now = time.Now()
		}
		clock = append(clock, float64(time.Since(start))/burst)
		store.gate.Lock()
		start = time.Now()
		for range burst {
			if err := r.Track(ctx, event); err != nil {
				b.Fatal(err)
			}
		}
		track = append(track, float64(time.Since(start))/burst)
		store.gate.Unlock()
		if err := r.Flush(ctx); err != nil {
			b.Fatal(err)
		}
	}
	if err := r.Close(ctx); err != nil {
		b.Fatal(err)
	}
	fmt.Fprintf(os.Stdout, "\ntrack: best %.0f ns, median %.0f ns; time.Now: best %.0f ns, median %.0f ns\n",
		slices.Min(track), middle(track), slices.Min(clock), middle(clock))
}

var now time.Time

// gated stores nothing, and only while the gate is open.
type gated struct {
	usage.Store
	gate sync.RWMutex
}

func (g *gated) Append(_ context.Context, _ time.Time, entries []usage.Entry) ([]usage.AppendOutcome, error) {
	g.gate.RLock()
	defer g.gate.RUnlock()
	return make([]usage.AppendOutcome, len(entries)), nil
}

// Track with a full buffer before a durable PostgreSQL, until everything is
// stored, beside the bare statement. Each contest has a server of its own: who
// had stored more in one before would search in larger indexes.
func BenchmarkBufferedIngest(b *testing.B) {
	props := usage.Properties{usage.Bool("cached", false), usage.String("model", "gpt"), usage.String("region", "eu-west")}
	month := func(context.Context, string, string) (usage.Quota, error) { return usage.Calendar(plenty), nil }
	for _, accounts := range []int{1000, 100_000} {
		for _, writers := range []int{2, 4} {
			pool := durable(b, 8)
			exec(b, pool, bareTable)
			list := []contender{{name: "bare unnest … ON CONFLICT DO NOTHING", per: batchSize, do: func(ctx context.Context, w, i int) error {
				_, err := pool.Exec(ctx, bareInsert, bareArgs(batchOf(w, i, accounts, nil, usage.Charge{}))...)
				return err
			}}}
			for _, x := range []struct {
				name  string
				quota usage.QuotaFunc
			}{{"Recorder, with rollups", nil}, {"Recorder, with rollups, counters, thresholds", month}} {
				r, err := usage.NewRecorder(service(b, usagepg.New(pool), x.quota), usage.RecorderConfig{Max: 20_000, Writers: writers})
				if err != nil {
					b.Fatal(err)
				}
				b.Cleanup(func() {
					if err := r.Close(context.Background()); err != nil {
						b.Error(err)
					}
				})
				list = append(list, contender{name: x.name, per: batchSize, done: r.Flush, do: func(ctx context.Context, w, i int) error {
					for _, e := range batchOf(w, i, accounts, nil, usage.Charge{}) {
						if err := r.Track(ctx, usage.Event{Account: e.Account, Meter: "tokens", Value: e.Value, Properties: props}); err != nil {
							return err
						}
					}
					return nil
				}})
			}
			contest(b, fmt.Sprintf("buffered ingest, durable and deduplicated, %d accounts, %d connections", accounts, writers), writers, 3, 3*time.Second, list...)
		}
	}
}

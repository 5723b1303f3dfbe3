package mailer_test

import (
	"context"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/mailer"
	"github.com/kolekt/commerce/mailer/mailermem"
)

// opened is a store, and its transport, that note what a worker did first.
type opened struct {
	mailer.Store
	together sync.WaitGroup // ends when so many ask at once

	mu    sync.Mutex
	order []string
}

func (o *opened) note(what string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.order = append(o.order, what)
}

func (o *opened) Ack(ctx context.Context, acks []mailer.Ack) (int, error) {
	if len(acks) == 0 {
		o.note("open")
		o.together.Done()
		o.together.Wait()
	}
	return o.Store.Ack(ctx, acks)
}

func (o *opened) Send(context.Context, *mailer.Message) mailer.Result {
	o.note("send")
	return mailer.Result{Outcome: mailer.Sent}
}

// TestResultsHaveAWayBeforeAnythingIsSent asks for one connection for each
// writer and one for the claims beside them, all at the same time.
func TestResultsHaveAWayBeforeAnythingIsSent(t *testing.T) {
	kind, err := mailer.Define(mailer.Spec[note]{Name: "test.note", Stream: "notes", Class: mailer.Transactional, Sample: note{Text: "text", URL: "https://example.com"},
		Templates: fstest.MapFS{"test.note.en.txt": noteFiles["test.note.en.txt"]}})
	require.NoError(t, err)
	store, err := mailermem.New(mailermem.Config{})
	require.NoError(t, err)
	o := &opened{Store: store}
	o.together.Add(3)
	svc, err := mailer.New(o, o, mailer.Config{From: mailer.Address{Email: "hello@example.com"}, Secret: make([]byte, 32), Kinds: []mailer.AnyKind{kind}, Concurrency: 2})
	require.NoError(t, err)
	_, err = svc.Flush(t.Context())
	require.NoError(t, err)
	require.Empty(t, o.order, "a worker with nothing to send needs no way")
	_, err = kind.Enqueue(t.Context(), svc, mailer.To{Email: "ada@example.org"}, note{Text: "text", URL: "https://example.com"}, "k")
	require.NoError(t, err)
	n, err := svc.Flush(t.Context())
	require.NoError(t, err)
	require.Equal(t, 1, n)
	require.Equal(t, []string{"open", "open", "open", "send"}, o.order)
}

package gdpr_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/gdpr"
	"github.com/kolekt/commerce/gdpr/gdprmem"
)

func TestErasureWaitsRunsInOrderVerifiesAndCertifies(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t, nil)
	r, err := w.service.Ask(ctx, gdpr.Erasure, "ada", true)
	require.NoError(t, err)
	require.Equal(t, gdpr.Cooling, r.State)
	require.True(t, w.frozen["ada"], "the account is locked from the request on")
	w.work()
	require.Equal(t, 20, w.leftOf("ada"), "nothing goes within the grace period")
	_, err = w.service.Ask(ctx, gdpr.Erasure, "ada", true)
	require.ErrorIs(t, err, gdpr.ErrActive)

	w.advance(72 * time.Hour)
	w.work()
	require.Equal(t, gdpr.Done, w.state(r.ID))
	require.Zero(t, w.leftOf("ada"))
	require.Equal(t, 20, w.leftOf("bob"))

	done, err := w.service.Request(ctx, r.ID)
	require.NoError(t, err)
	require.Nil(t, done.Sealed, "the frozen identifiers are shredded last")
	cert, err := gdpr.ReadCertificate(done.Certificate, w.public)
	require.NoError(t, err)
	order := map[string]int{}
	for i, s := range cert.Sources {
		order[s.Source] = i
		switch s.Source {
		case "invoices":
			require.Equal(t, int64(5), s.Retained[0].Count)
			require.Equal(t, "tax law", s.Retained[0].Ground)
		case "consents":
		default:
			require.Equal(t, int64(5), s.Removed, s.Source)
		}
	}
	require.Greater(t, order["profile"], order["texts"])
	require.Greater(t, order["texts"], order["keys"])
	require.NotContains(t, string(done.Certificate), "ada")
	tampered := strings.Replace(string(done.Certificate), `"count":5`, `"count":6`, 1)
	_, err = gdpr.ReadCertificate([]byte(tampered), w.public)
	require.Error(t, err)
	require.Equal(t, map[string]int{r.ID + ":erasure_scheduled": 1, r.ID + ":erasure_done": 1}, w.notices)
}

func TestErasureCanBeCancelledUntilItBegins(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t, nil)
	r, err := w.service.Ask(ctx, gdpr.Erasure, "ada", true)
	require.NoError(t, err)
	_, err = w.service.Cancel(ctx, r.ID)
	require.NoError(t, err)
	require.False(t, w.frozen["ada"])
	w.advance(100 * time.Hour)
	w.work()
	require.Equal(t, 20, w.leftOf("ada"))
	_, err = w.service.Cancel(ctx, r.ID)
	require.ErrorIs(t, err, gdpr.ErrState)
	require.Equal(t, 1, w.notices[r.ID+":erasure_cancelled"])

	again, err := w.service.Ask(ctx, gdpr.Erasure, "ada", true)
	require.NoError(t, err)
	w.advance(73 * time.Hour)
	w.work()
	_, err = w.service.Cancel(ctx, again.ID)
	require.ErrorIs(t, err, gdpr.ErrState)
}

func TestAnUnverifiedRequestDoesNothing(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t, nil)
	r, err := w.service.Ask(ctx, gdpr.Erasure, "ada", false)
	require.NoError(t, err)
	w.advance(300 * time.Hour)
	w.work()
	require.Equal(t, 20, w.leftOf("ada"))
	require.False(t, w.frozen["ada"])
	_, err = w.service.Verify(ctx, r.ID)
	require.NoError(t, err)
	w.work()
	require.Equal(t, gdpr.Cooling, w.state(r.ID))
	w.advance(72 * time.Hour)
	w.work()
	require.Equal(t, gdpr.Done, w.state(r.ID))
}

func TestAFailingSourceDelaysOnlyItself(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t, nil)
	keys, texts, profile := w.tables[0], w.tables[2], w.tables[3]
	texts.failing = 3
	r, err := w.service.Ask(ctx, gdpr.Erasure, "ada", true)
	require.NoError(t, err)
	w.advance(72 * time.Hour)
	w.work()
	require.Equal(t, gdpr.Running, w.state(r.ID))
	require.NotContains(t, keys.dump(), "canary-ada", "others go on")
	require.NotContains(t, w.tables[1].dump(), "canary-ada")
	require.Contains(t, profile.dump(), "canary-ada", "what comes after it waits")
	stored, err := w.service.Request(ctx, r.ID)
	require.NoError(t, err)
	require.NotContains(t, fmt.Sprintf("%+v", stored.Steps), "ada@example.test", "a source's error may name the person")

	for range 3 {
		w.advance(time.Hour)
		w.work()
	}
	require.Equal(t, gdpr.Done, w.state(r.ID))
	require.Zero(t, w.leftOf("ada"))
}

func TestResidueSendsAStepBack(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t, nil)
	texts := w.tables[2]
	texts.half = true
	r, err := w.service.Ask(ctx, gdpr.Erasure, "ada", true)
	require.NoError(t, err)
	w.advance(72 * time.Hour)
	w.work()
	require.Equal(t, gdpr.Running, w.state(r.ID), "a source that erases half doesn't get a certificate")
	texts.half = false
	w.advance(time.Hour)
	w.work()
	require.Equal(t, gdpr.Done, w.state(r.ID))
	require.Zero(t, w.leftOf("ada"))
}

func TestAHoldStopsAnErasureAndNotAnExport(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t, nil)
	r, err := w.service.Ask(ctx, gdpr.Erasure, "ada", true)
	require.NoError(t, err)
	_, err = w.service.Hold(ctx, r.ID, "claim 17/26")
	require.NoError(t, err)
	w.advance(1000 * time.Hour)
	w.work()
	require.Equal(t, 20, w.leftOf("ada"))
	e, err := w.service.Ask(ctx, gdpr.Access, "ada", true)
	require.NoError(t, err)
	w.work()
	require.Equal(t, gdpr.Ready, w.state(e.ID))
	_, err = w.service.Release(ctx, r.ID)
	require.NoError(t, err)
	w.work()
	require.Equal(t, gdpr.Done, w.state(r.ID))
}

func TestTheLastNoticeIsSentBeforeTheAddressIsGone(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t, nil)
	w.deaf = 2 // at once, and at the worker's first look
	r, err := w.service.Ask(ctx, gdpr.Erasure, "ada", true)
	require.NoError(t, err)
	w.advance(72 * time.Hour)
	w.work() // the schedule's notice fails: nothing begins without it
	require.Equal(t, gdpr.Cooling, w.state(r.ID))
	w.advance(time.Minute)
	w.work()
	require.Equal(t, gdpr.Done, w.state(r.ID))

	r, err = w.service.Ask(ctx, gdpr.Erasure, "bob", true)
	require.NoError(t, err)
	w.advance(72 * time.Hour)
	w.config.Notify = func(_ context.Context, n gdpr.Notice) error {
		if n.Event == "erasure_done" && w.deaf < 3 {
			w.deaf++
			return errors.New("mail is down")
		}
		w.notices[n.ID]++
		return nil
	}
	w.rebuild()
	for range 4 {
		w.work()
		w.advance(time.Minute)
	}
	require.Equal(t, gdpr.Done, w.state(r.ID))
	require.Equal(t, 1, w.notices[r.ID+":erasure_done"])
}

func TestLateMessagesDoNotBringASubjectBack(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t, nil)
	epoch := w.subjects["ada"].Epoch
	id := gdpr.Identifier{Kind: "id", Value: "ada"}
	mail := gdpr.Identifier{Kind: "email", Value: " Ada@Example.test"}
	require.NoError(t, w.service.Guard(ctx, id, epoch, w.now))
	_, err := w.service.Ask(ctx, gdpr.Erasure, "ada", true)
	require.NoError(t, err)
	w.advance(72 * time.Hour)
	w.work()
	require.ErrorIs(t, w.service.Guard(ctx, id, epoch, w.now), gdpr.ErrErased)
	require.ErrorIs(t, w.service.Guard(ctx, mail, epoch, w.now), gdpr.ErrErased, "another spelling")
	require.ErrorIs(t, w.service.Guard(ctx, id, time.Time{}, start), gdpr.ErrErased, "a queued event from before")
	require.NoError(t, w.service.Guard(ctx, mail, w.now.Add(time.Hour), w.now), "a newcomer with the same address")
	require.NoError(t, w.service.Guard(ctx, gdpr.Identifier{Kind: "id", Value: "bob"}, epoch, w.now))
	w.advance(401 * 24 * time.Hour)
	n, err := w.service.Purge(ctx)
	require.NoError(t, err)
	require.Equal(t, int64(2), n)
}

func TestARestoredBackupIsNoticedAndErasedAgain(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t, nil)
	w.config.Journal = gdpr.NewFileJournal(filepath.Join(t.TempDir(), "erasures.jsonl"))
	w.rebuild()
	_, err := w.service.Ask(ctx, gdpr.Erasure, "ada", true)
	require.NoError(t, err)
	w.advance(72 * time.Hour)
	w.work()
	require.NoError(t, w.service.CheckJournal(ctx))

	// The backup from before: a store without tombstones, Ada's data again,
	// and meanwhile a newcomer with her old number and address.
	w.store = gdprmem.New()
	w.rebuild()
	w.populate("ada")
	require.ErrorIs(t, w.service.CheckJournal(ctx), gdpr.ErrBehind)
	newcomer := gdpr.Subject{ID: "eve", Epoch: w.now, Identifiers: []gdpr.Identifier{{Kind: "email", Value: "ada@example.test"}}}
	w.populate("eve")
	w.subjects["eve"] = newcomer
	each := func(_ context.Context, yield func(gdpr.Subject) error) error {
		for _, id := range []string{"ada", "bob", "eve"} {
			if err := yield(w.subjects[id]); err != nil {
				return err
			}
		}
		return nil
	}
	n, err := w.service.Reapply(ctx, each)
	require.NoError(t, err)
	require.Equal(t, 1, n)
	require.Zero(t, w.leftOf("ada"))
	require.Equal(t, 20, w.leftOf("bob"))
	require.Equal(t, 20, w.leftOf("eve"), "an innocent newcomer is never erased")
	require.NoError(t, w.service.CheckJournal(ctx))
}

// dying is a store that dies at its nth call: before the call's effect, or
// after it.
type dying struct {
	gdpr.Store
	calls, at int
	after     bool
}

var errDied = errors.New("the process died")

func (d *dying) step(do func() error) error {
	d.calls++
	if d.calls == d.at && !d.after || d.at > 0 && d.calls > d.at {
		return errDied
	}
	err := do()
	if d.calls == d.at {
		return errDied
	}
	return err
}

func (d *dying) UpdateRequest(ctx context.Context, r gdpr.Request, ts []gdpr.Tombstone, audit ...gdpr.Entry) error {
	return d.step(func() error { return d.Store.UpdateRequest(ctx, r, ts, audit...) })
}

func (d *dying) DestroyKey(ctx context.Context, ref string, at time.Time) error {
	return d.step(func() error { return d.Store.DestroyKey(ctx, ref, at) })
}

func (d *dying) Request(ctx context.Context, id string) (r gdpr.Request, err error) {
	if d.at > 0 && d.calls >= d.at {
		return r, errDied // a dead process reads nothing either
	}
	return d.Store.Request(ctx, id)
}

func TestACrashAtAnyStepIsResumed(t *testing.T) {
	for _, kind := range []gdpr.Kind{gdpr.Erasure, gdpr.Access} {
		ctx := context.Background()
		probe := newWorld(t, nil)
		counter := &dying{Store: probe.store}
		probe.store = counter
		probe.rebuild()
		_, err := probe.service.Ask(ctx, kind, "ada", true)
		require.NoError(t, err)
		probe.advance(72 * time.Hour)
		probe.work()
		require.GreaterOrEqual(t, counter.calls, 3)

		for at := 1; at <= counter.calls; at++ {
			for _, after := range []bool{false, true} {
				w := newWorld(t, nil)
				healthy := w.store
				r, err := w.service.Ask(ctx, kind, "ada", true)
				require.NoError(t, err)
				w.advance(72 * time.Hour)
				w.store = &dying{Store: healthy, at: at, after: after}
				w.rebuild()
				_, _ = w.service.Work(ctx) // dies

				w.store = healthy
				w.rebuild()
				for range 3 {
					w.advance(6 * time.Minute) // past the dead worker's lease
					w.work()
				}
				name := fmt.Sprintf("%s, crash at call %d, after its effect: %v", kind, at, after)
				if kind == gdpr.Access {
					require.Equal(t, gdpr.Ready, w.state(r.ID), name)
					require.Equal(t, "canary-ada", exported(t, w, r.ID), name)
					continue
				}
				require.Equal(t, gdpr.Done, w.state(r.ID), name)
				require.Zero(t, w.leftOf("ada"), name)
				require.Equal(t, 20, w.leftOf("bob"), name)
				stones, err := healthy.CountTombstones(ctx)
				require.NoError(t, err)
				require.Equal(t, int64(2), stones, name)
				_, err = w.service.VerifyAudit(ctx)
				require.NoError(t, err, name)
			}
		}
	}
}

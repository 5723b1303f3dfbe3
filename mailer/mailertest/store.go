// Package mailertest is the contract of package mailer's backends, and the kit
// for testing code that sends mail: [TestStore] for stores, [NewSMTP] for
// transports, [NewInbox] for applications.
package mailertest

import (
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/kolekt/commerce/mailer"
)

// TestStore runs the contract of mailer.Store against a backend. newStore
// returns an empty store each time it is called.
func TestStore(t *testing.T, newStore func(t *testing.T) mailer.Store) {
	for _, c := range []struct {
		name string
		test func(*testing.T, *fixture)
	}{
		{"EnqueueKeepsTheMail", testEnqueueKeeps},
		{"KeyIsUsedOnce", testKeyOnce},
		{"KeyIsUsedOnceUnderConcurrency", testKeyOnceConcurrently},
		{"KeyIsUsedOnceWithRulesUnderConcurrency", testKeyOnceWithRules},
		{"SuppressionIsDecidedAtEnqueue", testSuppressedAtEnqueue},
		{"SuppressionIsSeenAtClaim", testSuppressedAtClaim},
		{"SuppressionReplacesOnlyOlder", testSuppressionOrder},
		{"UnsuppressIsExact", testUnsuppress},
		{"CoalescingReplacesThePendingMail", testCoalesce},
		{"CoalescedKeysStayUsed", testCoalescedKeys},
		{"TriedMailIsNotCoalesced", testCoalesceTried},
		{"ClaimedMailSaysWhatCoalescedLast", testCoalesceClaimed},
		{"CapCountsTheAccountsStream", testCap},
		{"CapHoldsUnderConcurrency", testCapConcurrently},
		{"SupersedingDropsThePendingMail", testSupersede},
		{"RefusedMailSupersedesNothing", testSupersedeRefused},
		{"ClaimTakesDueMailInOrder", testClaimOrder},
		{"ClaimPassesOverPausedDomains", testClaimDomains},
		{"NoMailIsLeasedTwice", testClaimConcurrently},
		{"AckIsFencedByTheAttempt", testAckFence},
		{"AckPutsBack", testAckPending},
		{"BeginMarksOnce", testBegin},
		{"ExtendKeepsTheLease", testExtend},
		{"RecoverTakesLostLeasesBack", testRecover},
		{"ReleaseStartsAnew", testRelease},
		{"CancelDropsWhatIsNotUnderWay", testCancel},
		{"EventsAreKeptOnce", testEvents},
		{"ListAndStatsAgree", testListStats},
		{"LookupOfNothingIsNotFound", testLookup},
		{"ScrubRemovesPeopleAndKeepsKeys", testScrub},
		{"PurgeForgetsKeys", testPurge},
		{"ExportGivesEverything", testExport},
		{"EraseRemovesPeopleAndStopsMail", testErase},
		{"EndedContextChangesNothing", testContext},
		{"AnyHistoryKeepsTheInvariants", testHistory},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, &fixture{t: t, store: newStore(t), ctx: t.Context()}) })
	}
}

var epoch = time.Date(2026, time.March, 1, 12, 0, 0, 123456000, time.UTC)

type fixture struct {
	t     require.TestingT
	store mailer.Store
	ctx   context.Context
	n     int
	mu    sync.Mutex
}

func hash(s string) []byte {
	sum := sha256.Sum256([]byte(s))
	return sum[:]
}

// keyHash has the length of a Mail's KeyHash.
func keyHash(s string) []byte { return hash(s)[:16] }

// mail makes an enqueueable mail with a key of its own.
func (f *fixture) mail(change ...func(*mailer.Enqueue)) mailer.Enqueue {
	f.mu.Lock()
	f.n++
	n := f.n
	f.mu.Unlock()
	e := mailer.Enqueue{Mail: mailer.Mail{
		ID: fmt.Sprintf("mail_%08d", n), KeyHash: keyHash(fmt.Sprint("key", n)), Kind: "test.kind", Stream: "tips", Class: mailer.Lifecycle,
		Account: "acct_1", Email: "ada@example.org", Name: "Ada", Locale: "en", TimeZone: "Europe/Berlin", Domain: "example.org",
		AddressHash: hash("ada@example.org"), Data: []byte(`{"Used":8}`), CreatedAt: epoch, RunAt: epoch, ExpiresAt: epoch.Add(24 * time.Hour),
	}}
	for _, c := range change {
		c(&e)
	}
	return e
}

func (f *fixture) enqueue(mails ...mailer.Enqueue) []mailer.Receipt {
	receipts, err := f.store.Enqueue(f.ctx, mails)
	require.NoError(f.t, err)
	require.Len(f.t, receipts, len(mails))
	return receipts
}

func (f *fixture) claim(now time.Time, limit int, not ...string) []mailer.Leased {
	leased, err := f.store.Claim(f.ctx, mailer.Claim{Now: now, Limit: limit, Lease: time.Minute, NotDomains: not})
	require.NoError(f.t, err)
	return leased
}

func (f *fixture) ack(a ...mailer.Ack) int {
	n, err := f.store.Ack(f.ctx, a)
	require.NoError(f.t, err)
	return n
}

func (f *fixture) lookup(id string) mailer.Mail {
	m, err := f.store.Lookup(f.ctx, id)
	require.NoError(f.t, err)
	return m
}

func done(m mailer.Leased) mailer.Ack {
	return mailer.Ack{ID: m.ID, Attempt: m.Attempts, State: mailer.Done, At: epoch}
}

func ids(leased []mailer.Leased) []string {
	out := make([]string, len(leased))
	for i, m := range leased {
		out[i] = m.ID
	}
	return out
}

func testEnqueueKeeps(t *testing.T, f *fixture) {
	e := f.mail(func(e *mailer.Enqueue) { e.Mail.Guarded, e.Mail.Topic = true, "inv_1" })
	require.Equal(t, []mailer.Receipt{{ID: e.Mail.ID, Status: mailer.Queued}}, f.enqueue(e))
	got := f.lookup(e.Mail.ID)
	require.JSONEq(t, string(e.Mail.Data), string(got.Data))
	got.Data = e.Mail.Data
	require.Equal(t, e.Mail, got)
}

func testKeyOnce(t *testing.T, f *fixture) {
	first := f.mail()
	again := f.mail(func(e *mailer.Enqueue) { e.Mail.KeyHash = first.Mail.KeyHash })
	other := f.mail()
	got := f.enqueue(first, again, other)
	require.Equal(t, []mailer.Receipt{{ID: first.Mail.ID, Status: mailer.Queued}, {ID: first.Mail.ID, Status: mailer.Duplicate}, {ID: other.Mail.ID, Status: mailer.Queued}}, got)
	require.Equal(t, mailer.Receipt{ID: first.Mail.ID, Status: mailer.Duplicate}, f.enqueue(again)[0])
	for _, m := range f.claim(epoch, 10) {
		f.ack(done(m))
	}
	require.Equal(t, mailer.Duplicate, f.enqueue(again)[0].Status, "a sent mail's key must stay used")
	require.Empty(t, f.claim(epoch, 10))
}

func testKeyOnceConcurrently(t *testing.T, f *fixture) {
	sameKey(t, f, func(*mailer.Enqueue) {})
}

func testKeyOnceWithRules(t *testing.T, f *fixture) {
	sameKey(t, f, func(e *mailer.Enqueue) { e.Group, e.Supersedes, e.CapCount, e.CapSince = "g", []string{"x"}, 5, epoch })
}

// sameKey enqueues one key from many goroutines.
func sameKey(t *testing.T, f *fixture, change func(*mailer.Enqueue)) {
	const n = 16
	statuses := concurrently(f, n, func(e *mailer.Enqueue) {
		e.Mail.KeyHash = keyHash("the one key")
		change(e)
	})
	require.Equal(t, 1, statuses[mailer.Queued], "statuses: %v", statuses)
	require.Equal(t, n-1, statuses[mailer.Duplicate], "statuses: %v", statuses)
	require.Len(t, f.claim(epoch, 100), 1)
}

// concurrently enqueues n mails at once, and counts what became of them.
func concurrently(f *fixture, n int, change func(*mailer.Enqueue)) map[mailer.Status]int {
	statuses := map[mailer.Status]int{}
	var wg sync.WaitGroup
	start := make(chan struct{})
	var mu sync.Mutex
	for range n {
		e := f.mail(change)
		wg.Go(func() {
			<-start
			receipts, err := f.store.Enqueue(f.ctx, []mailer.Enqueue{e})
			if assert.NoError(f.t.(*testing.T), err) {
				mu.Lock()
				statuses[receipts[0].Status]++
				mu.Unlock()
			}
		})
	}
	close(start)
	wg.Wait()
	return statuses
}

func (f *fixture) suppress(s ...mailer.Suppression) {
	require.NoError(f.t, f.store.Suppress(f.ctx, s))
}

func testSuppressedAtEnqueue(t *testing.T, f *fixture) {
	ada, bob := hash("ada@example.org"), hash("bob@example.org")
	f.suppress(mailer.Suppression{AddressHash: ada, Stream: "tips", Blocks: mailer.Lifecycle, Reason: "unsubscribed", At: epoch},
		mailer.Suppression{AddressHash: bob, Blocks: mailer.Transactional, Reason: "bounced", At: epoch})
	for _, c := range []struct {
		address []byte
		stream  string
		class   mailer.Class
		want    mailer.Status
	}{
		{ada, "tips", mailer.Lifecycle, mailer.Suppressed},
		{ada, "news", mailer.Lifecycle, mailer.Queued},
		{ada, "tips", mailer.Transactional, mailer.Queued},
		{bob, "tips", mailer.Lifecycle, mailer.Suppressed},
		{bob, "billing", mailer.Transactional, mailer.Suppressed},
		{bob, "security", mailer.Security, mailer.Queued},
		{hash("eve@example.org"), "tips", mailer.Lifecycle, mailer.Queued},
	} {
		for name, rules := range map[string]func(*mailer.Enqueue){"plain": func(*mailer.Enqueue) {}, "with rules": func(e *mailer.Enqueue) { e.Supersedes = []string{"x"} }} {
			e := f.mail(func(e *mailer.Enqueue) {
				e.Mail.AddressHash, e.Mail.Stream, e.Mail.Class = c.address, c.stream, c.class
				rules(e)
			})
			require.Equal(t, c.want, f.enqueue(e)[0].Status, "%s mail of stream %s, %s", c.class, c.stream, name)
			m := f.lookup(e.Mail.ID)
			if c.want == mailer.Suppressed {
				require.Equal(t, mailer.Dropped, m.State)
				require.Equal(t, mailer.ReasonSuppressed, m.Reason)
				require.False(t, m.FinishedAt.IsZero())
				require.Equal(t, mailer.Duplicate, f.enqueue(e)[0].Status)
			}
		}
	}
}

func testSuppressedAtClaim(t *testing.T, f *fixture) {
	e, other := f.mail(), f.mail(func(e *mailer.Enqueue) { e.Mail.AddressHash = hash("bob@example.org") })
	f.enqueue(e, other)
	f.suppress(mailer.Suppression{AddressHash: e.Mail.AddressHash, Stream: "tips", Blocks: mailer.Lifecycle, Reason: "unsubscribed", At: epoch})
	leased := f.claim(epoch, 10)
	require.Len(t, leased, 2)
	require.True(t, leased[0].Suppressed)
	require.False(t, leased[1].Suppressed)
}

func testSuppressionOrder(t *testing.T, f *fixture) {
	s := mailer.Suppression{AddressHash: hash("a"), Stream: "", Blocks: mailer.Transactional, Reason: "bounced", Source: "new", At: epoch}
	older := s
	older.Source, older.At, older.Blocks = "old", epoch.Add(-time.Hour), mailer.Lifecycle
	f.suppress(s)
	f.suppress(older)
	got, err := f.store.Suppressions(f.ctx, hash("a"))
	require.NoError(t, err)
	require.Equal(t, []mailer.Suppression{s}, got)
	newer := s
	newer.Source, newer.At = "newest", epoch.Add(time.Hour)
	f.suppress(newer, s)
	got, err = f.store.Suppressions(f.ctx, hash("a"))
	require.NoError(t, err)
	require.Equal(t, []mailer.Suppression{newer}, got)
}

func testUnsuppress(t *testing.T, f *fixture) {
	base := mailer.Suppression{AddressHash: hash("a"), Blocks: mailer.Lifecycle, At: epoch}
	var all []mailer.Suppression
	for _, k := range [][2]string{{"", "bounced"}, {"", "complained"}, {"tips", "unsubscribed"}} {
		s := base
		s.Stream, s.Reason = k[0], k[1]
		all = append(all, s)
	}
	f.suppress(all...)
	n, err := f.store.Unsuppress(f.ctx, hash("a"), "", []string{"bounced", "unsubscribed"})
	require.NoError(t, err)
	require.Equal(t, 1, n)
	got, err := f.store.Suppressions(f.ctx, hash("a"))
	require.NoError(t, err)
	require.Equal(t, all[1:], got)
}

func grouped(e *mailer.Enqueue) { e.Group = "usage" }

func testCoalesce(t *testing.T, f *fixture) {
	first := f.mail(grouped, func(e *mailer.Enqueue) { e.Mail.RunAt = epoch.Add(time.Hour) })
	second := f.mail(grouped, func(e *mailer.Enqueue) {
		e.Mail.RunAt, e.Mail.Data, e.Mail.Kind = epoch.Add(2*time.Hour), []byte(`{"Used":9}`), "test.other"
	})
	otherTopic := f.mail(grouped, func(e *mailer.Enqueue) { e.Mail.Topic = "inv_2" })
	otherAccount := f.mail(grouped, func(e *mailer.Enqueue) { e.Mail.Account = "acct_2" })
	otherGroup := f.mail(func(e *mailer.Enqueue) { e.Group = "else" })
	got := f.enqueue(first, second, otherTopic, otherAccount, otherGroup)
	require.Equal(t, mailer.Receipt{ID: first.Mail.ID, Status: mailer.Coalesced}, got[1])
	for _, r := range got[2:] {
		require.Equal(t, mailer.Queued, r.Status)
	}
	m := f.lookup(first.Mail.ID)
	require.JSONEq(t, `{"Used":9}`, string(m.Data))
	require.Equal(t, "test.other", m.Kind)
	require.Equal(t, first.Mail.RunAt, m.RunAt)
	require.Len(t, f.claim(epoch.Add(3*time.Hour), 10), 4)
}

func testCoalescedKeys(t *testing.T, f *fixture) {
	first, second := f.mail(grouped), f.mail(grouped)
	f.enqueue(first)
	f.enqueue(second)
	for _, e := range []mailer.Enqueue{first, second} {
		require.Equal(t, mailer.Receipt{ID: first.Mail.ID, Status: mailer.Duplicate}, f.enqueue(e)[0])
	}
}

func testCoalesceTried(t *testing.T, f *fixture) {
	first := f.mail(grouped)
	f.enqueue(first)
	m := f.claim(epoch, 1)[0]
	require.Equal(t, mailer.Queued, f.enqueue(f.mail(grouped))[0].Status, "a claimed mail must not be replaced")
	f.ack(mailer.Ack{ID: m.ID, Attempt: 1, State: mailer.Pending, RunAt: epoch.Add(time.Hour), At: epoch})
	require.JSONEq(t, string(first.Mail.Data), string(f.lookup(m.ID).Data))
}

// testCoalesceClaimed lets a claim and a mail that takes the place meet: who is
// told that it took the place must be what the claim hands out.
func testCoalesceClaimed(t *testing.T, f *fixture) {
	for range 60 {
		first, second := f.mail(grouped), f.mail(grouped, func(e *mailer.Enqueue) { e.Mail.Data = []byte(`{"Used":9}`) })
		f.enqueue(first)
		var leased []mailer.Leased
		var receipts []mailer.Receipt
		var claimErr, enqueueErr error
		var wg sync.WaitGroup
		start := make(chan struct{})
		wg.Go(func() {
			<-start
			leased, claimErr = f.store.Claim(f.ctx, mailer.Claim{Now: epoch, Limit: 10, Lease: time.Minute})
		})
		wg.Go(func() {
			<-start
			receipts, enqueueErr = f.store.Enqueue(f.ctx, []mailer.Enqueue{second})
		})
		close(start)
		wg.Wait()
		require.NoError(t, claimErr)
		require.NoError(t, enqueueErr)
		for _, m := range append(leased, f.claim(epoch, 10)...) {
			if receipts[0].Status == mailer.Coalesced || m.ID == second.Mail.ID {
				require.JSONEq(t, `{"Used":9}`, string(m.Data))
			}
			require.Equal(t, 1, f.ack(done(m)))
		}
	}
}

func capped(n int) func(*mailer.Enqueue) {
	return func(e *mailer.Enqueue) { e.CapCount, e.CapSince = n, epoch.Add(-24*time.Hour) }
}

func testCap(t *testing.T, f *fixture) {
	old := f.mail(func(e *mailer.Enqueue) { e.Mail.CreatedAt = epoch.Add(-25 * time.Hour) })
	otherStream := f.mail(func(e *mailer.Enqueue) { e.Mail.Stream = "news" })
	otherClass := f.mail(func(e *mailer.Enqueue) { e.Mail.Class = mailer.Transactional })
	otherAccount := f.mail(func(e *mailer.Enqueue) { e.Mail.Account = "acct_2" })
	f.enqueue(old, otherStream, otherClass, otherAccount)
	require.Equal(t, mailer.Queued, f.enqueue(f.mail(capped(2)))[0].Status)
	require.Equal(t, mailer.Queued, f.enqueue(f.mail(capped(2)))[0].Status)
	third := f.mail(capped(2))
	require.Equal(t, mailer.Receipt{ID: third.Mail.ID, Status: mailer.Capped}, f.enqueue(third)[0])
	m := f.lookup(third.Mail.ID)
	require.Equal(t, mailer.Dropped, m.State)
	require.Equal(t, mailer.ReasonCapped, m.Reason)
	require.Equal(t, mailer.Queued, f.enqueue(f.mail(capped(3)))[0].Status, "dropped mail must not count")
}

func testCapConcurrently(t *testing.T, f *fixture) {
	statuses := concurrently(f, 20, capped(3))
	require.Equal(t, 3, statuses[mailer.Queued], "statuses: %v", statuses)
	require.Equal(t, 17, statuses[mailer.Capped], "statuses: %v", statuses)
}

func testSupersede(t *testing.T, f *fixture) {
	kind := func(kind, account, topic string) mailer.Enqueue {
		return f.mail(func(e *mailer.Enqueue) { e.Mail.Kind, e.Mail.Account, e.Mail.Topic = kind, account, topic })
	}
	failed, other, stranger, third := kind("payment.failed", "acct_1", "inv_1"), kind("payment.failed", "acct_1", "inv_2"),
		kind("payment.failed", "acct_2", "inv_1"), kind("welcome", "acct_1", "inv_1")
	f.enqueue(failed, other, stranger, third)
	recovered := kind("payment.recovered", "acct_1", "inv_1")
	recovered.Supersedes = []string{"payment.failed"}
	require.Equal(t, mailer.Queued, f.enqueue(recovered)[0].Status)
	m := f.lookup(failed.Mail.ID)
	require.Equal(t, mailer.Dropped, m.State)
	require.Equal(t, mailer.ReasonSuperseded, m.Reason)
	for _, e := range []mailer.Enqueue{other, stranger, third} {
		require.Equal(t, mailer.Pending, f.lookup(e.Mail.ID).State)
	}
	all := kind("payment.recovered", "acct_1", "")
	all.Supersedes = []string{"payment.failed"}
	f.enqueue(all)
	require.Equal(t, mailer.Dropped, f.lookup(other.Mail.ID).State, "without a topic, every topic is superseded")
	require.Equal(t, mailer.Pending, f.lookup(stranger.Mail.ID).State)
}

func testSupersedeRefused(t *testing.T, f *fixture) {
	pending := f.mail(func(e *mailer.Enqueue) { e.Mail.Kind = "old" })
	f.enqueue(pending)
	f.suppress(mailer.Suppression{AddressHash: hash("x"), Blocks: mailer.Security, Reason: "manual", At: epoch})
	refused := f.mail(func(e *mailer.Enqueue) { e.Supersedes, e.Mail.AddressHash = []string{"old"}, hash("x") })
	over := f.mail(capped(1), func(e *mailer.Enqueue) { e.Supersedes = []string{"old"} })
	got := f.enqueue(refused, over)
	require.Equal(t, mailer.Suppressed, got[0].Status)
	require.Equal(t, mailer.Capped, got[1].Status)
	require.Equal(t, mailer.Pending, f.lookup(pending.Mail.ID).State)
}

func testClaimOrder(t *testing.T, f *fixture) {
	at := func(d time.Duration) mailer.Enqueue {
		return f.mail(func(e *mailer.Enqueue) { e.Mail.RunAt = epoch.Add(d) })
	}
	c, b, a, future := at(0), at(-time.Minute), at(-time.Hour), at(time.Microsecond)
	f.enqueue(c, b, a, future)
	leased := f.claim(epoch, 2)
	require.Equal(t, []string{a.Mail.ID, b.Mail.ID}, ids(leased))
	require.Equal(t, 1, leased[0].Attempts)
	require.Equal(t, mailer.Claimed, leased[0].State)
	require.Equal(t, []string{c.Mail.ID}, ids(f.claim(epoch, 10)), "a mail that is due later must wait")
	require.Equal(t, []string{future.Mail.ID}, ids(f.claim(epoch.Add(time.Microsecond), 10)))
}

func testClaimDomains(t *testing.T, f *fixture) {
	slow := f.mail(func(e *mailer.Enqueue) { e.Mail.Domain = "slow.example" })
	quick := f.mail()
	f.enqueue(slow, quick)
	require.Equal(t, []string{quick.Mail.ID}, ids(f.claim(epoch, 10, "slow.example", "other.example")))
	require.Equal(t, []string{slow.Mail.ID}, ids(f.claim(epoch, 10)))
}

func testClaimConcurrently(t *testing.T, f *fixture) {
	const total = 200
	var batch []mailer.Enqueue
	for range total {
		batch = append(batch, f.mail())
	}
	f.enqueue(batch...)
	var mu sync.Mutex
	seen := map[string]int{}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for {
				leased, err := f.store.Claim(f.ctx, mailer.Claim{Now: epoch, Limit: 7, Lease: time.Minute})
				if err != nil {
					t.Errorf("claim: %v", err)
					return
				}
				mu.Lock()
				for _, m := range leased {
					seen[m.ID]++
				}
				n := len(seen)
				mu.Unlock()
				// Another worker's rows can hide from a claim; only the count tells the end.
				if n == total {
					return
				}
			}
		})
	}
	wg.Wait()
	for id, n := range seen {
		require.Equal(t, 1, n, "mail %s was leased %d times", id, n)
	}
}

func testAckFence(t *testing.T, f *fixture) {
	f.enqueue(f.mail())
	m := f.claim(epoch, 1)[0]
	require.Zero(t, f.ack(), "there was nothing to acknowledge")
	require.Equal(t, mailer.Claimed, f.lookup(m.ID).State)
	wrong := done(m)
	wrong.Attempt = 9
	require.Zero(t, f.ack(wrong))
	lost := m
	n, err := f.store.Recover(f.ctx, epoch.Add(time.Hour))
	require.NoError(t, err)
	require.Equal(t, 1, n)
	require.Zero(t, f.ack(done(lost)), "an attempt that lost its lease must change nothing")
	again := f.claim(epoch, 1)[0]
	require.Equal(t, 2, again.Attempts)
	require.Zero(t, f.ack(done(lost)))
	full := done(again)
	full.Code, full.Enhanced, full.Transport, full.ProviderID, full.Reason = 250, "2.0.0", "smtp", "4C1D2", "because"
	require.Equal(t, 1, f.ack(wrong, full), "the good one of a batch applies")
	got := f.lookup(m.ID)
	require.Equal(t, mailer.Done, got.State)
	require.Equal(t, full.Code, got.Code)
	require.Equal(t, full.Enhanced, got.Enhanced)
	require.Equal(t, full.Transport, got.Transport)
	require.Equal(t, full.ProviderID, got.ProviderID)
	require.Equal(t, full.Reason, got.Reason)
	require.Equal(t, epoch, got.FinishedAt)
	require.Zero(t, f.ack(full), "an acknowledged attempt is over")
}

func testAckPending(t *testing.T, f *fixture) {
	f.enqueue(f.mail())
	m := f.claim(epoch, 1)[0]
	back := mailer.Ack{ID: m.ID, Attempt: 1, State: mailer.Pending, RunAt: epoch.Add(time.Minute), At: epoch}
	require.Equal(t, 1, f.ack(back))
	require.Empty(t, f.claim(epoch, 1))
	m = f.claim(epoch.Add(time.Minute), 1)[0]
	require.Equal(t, 2, m.Attempts)
	back = mailer.Ack{ID: m.ID, Attempt: 2, State: mailer.Pending, RunAt: epoch, At: epoch, Refund: true}
	require.Equal(t, 1, f.ack(back))
	require.Equal(t, 1, f.lookup(m.ID).Attempts)
	require.Equal(t, 2, f.claim(epoch, 1)[0].Attempts)
}

func testBegin(t *testing.T, f *fixture) {
	f.enqueue(f.mail())
	m := f.claim(epoch, 1)[0]
	for _, c := range []struct {
		attempt int
		want    bool
	}{{2, false}, {1, true}, {1, false}} {
		ok, err := f.store.Begin(f.ctx, m.ID, c.attempt)
		require.NoError(t, err)
		require.Equal(t, c.want, ok)
	}
	require.Equal(t, mailer.Sending, f.lookup(m.ID).State)
	require.Equal(t, 1, f.ack(done(m)))
}

func testExtend(t *testing.T, f *fixture) {
	f.enqueue(f.mail(), f.mail())
	leased := f.claim(epoch, 2)
	n, err := f.store.Extend(f.ctx, []mailer.Lease{{ID: leased[0].ID, Attempt: 1}, {ID: leased[1].ID, Attempt: 7}, {ID: "mail_none", Attempt: 1}}, epoch.Add(time.Hour))
	require.NoError(t, err)
	require.Equal(t, 1, n)
	n, err = f.store.Recover(f.ctx, epoch.Add(30*time.Minute))
	require.NoError(t, err)
	require.Equal(t, 1, n, "only the lease that was not renewed ends")
	require.Equal(t, mailer.Claimed, f.lookup(leased[0].ID).State)
}

func testRecover(t *testing.T, f *fixture) {
	f.enqueue(f.mail(), f.mail(), f.mail())
	leased := f.claim(epoch, 2)
	ok, err := f.store.Begin(f.ctx, leased[1].ID, 1)
	require.NoError(t, err)
	require.True(t, ok)
	n, err := f.store.Recover(f.ctx, epoch.Add(time.Minute))
	require.NoError(t, err)
	require.Zero(t, n, "a lease holds until its end")
	n, err = f.store.Recover(f.ctx, epoch.Add(time.Minute+time.Microsecond))
	require.NoError(t, err)
	require.Equal(t, 2, n)
	require.Equal(t, mailer.Pending, f.lookup(leased[0].ID).State)
	held := f.lookup(leased[1].ID)
	require.Equal(t, mailer.Held, held.State)
	require.Equal(t, mailer.ReasonAmbiguous, held.Reason)
	require.Len(t, f.claim(epoch, 10), 2)
}

func testRelease(t *testing.T, f *fixture) {
	f.enqueue(f.mail(), f.mail(), f.mail(), f.mail())
	states := []mailer.State{mailer.Dead, mailer.Held, mailer.Done}
	leased := f.claim(epoch, 3)
	var all []string
	for i, m := range leased {
		f.ack(mailer.Ack{ID: m.ID, Attempt: 1, State: states[i], At: epoch, Reason: "x"})
		all = append(all, m.ID)
	}
	n, err := f.store.Release(f.ctx, append(all, "mail_none"), epoch.Add(time.Hour), epoch.Add(2*time.Hour))
	require.NoError(t, err)
	require.Equal(t, 2, n)
	m := f.lookup(all[0])
	require.Equal(t, mailer.Pending, m.State)
	require.Zero(t, m.Attempts)
	require.Empty(t, m.Reason)
	require.True(t, m.FinishedAt.IsZero())
	require.Equal(t, epoch.Add(time.Hour), m.RunAt)
	require.Equal(t, epoch.Add(2*time.Hour), m.ExpiresAt)
}

func testCancel(t *testing.T, f *fixture) {
	f.enqueue(f.mail(), f.mail())
	m := f.claim(epoch, 1)[0]
	for id, want := range map[string]bool{m.ID: false, "mail_00000002": true, "mail_none": false} {
		ok, err := f.store.Cancel(f.ctx, id, epoch)
		require.NoError(t, err)
		require.Equal(t, want, ok, "cancel %s", id)
	}
	require.Equal(t, mailer.ReasonCancelled, f.lookup("mail_00000002").Reason)
	require.Empty(t, f.claim(epoch, 1))
}

func (f *fixture) record(e mailer.Stored) bool {
	fresh, err := f.store.Record(f.ctx, e)
	require.NoError(f.t, err)
	return fresh
}

func testEvents(t *testing.T, f *fixture) {
	e := mailer.Stored{Provider: "p", ID: "evt_1", Type: mailer.EventSoftBounced, MailID: "mail_1", AddressHash: hash("a"), At: epoch}
	require.True(t, f.record(e))
	require.False(t, f.record(e))
	other := e
	other.Provider = "q"
	require.True(t, f.record(other))
	nameless := e
	nameless.ID = ""
	require.True(t, f.record(nameless))
	require.True(t, f.record(nameless))
	for _, c := range []struct {
		address []byte
		t       mailer.EventType
		since   time.Time
		want    int
	}{{hash("a"), mailer.EventSoftBounced, epoch, 4}, {hash("a"), mailer.EventSoftBounced, epoch.Add(1000), 0},
		{hash("a"), mailer.EventBounced, epoch, 0}, {hash("b"), mailer.EventSoftBounced, epoch, 0}} {
		n, err := f.store.CountEvents(f.ctx, c.address, c.t, c.since)
		require.NoError(t, err)
		require.Equal(t, c.want, n)
	}
}

func testListStats(t *testing.T, f *fixture) {
	st, err := f.store.Stats(f.ctx, epoch)
	require.NoError(t, err)
	require.Equal(t, mailer.Stats{}, st)
	for range 6 {
		f.enqueue(f.mail())
	}
	f.enqueue(f.mail(func(e *mailer.Enqueue) { e.Mail.Account, e.Mail.RunAt = "acct_2", epoch.Add(-time.Minute) }))
	leased := f.claim(epoch, 5)
	for i, state := range []mailer.State{mailer.Done, mailer.Dead, mailer.Held, mailer.Dropped} {
		f.ack(mailer.Ack{ID: leased[i].ID, Attempt: 1, State: state, At: epoch})
	}
	st, err = f.store.Stats(f.ctx, epoch)
	require.NoError(t, err)
	require.Equal(t, mailer.Stats{Pending: 2, Claimed: 1, Dead: 1, Held: 1, Oldest: epoch}, st)
	st, err = f.store.Stats(f.ctx, epoch.Add(-time.Second))
	require.NoError(t, err)
	require.True(t, st.Oldest.IsZero(), "nothing is due yet")

	list := func(q mailer.Query) []string {
		mails, err := f.store.List(f.ctx, q)
		require.NoError(t, err)
		var out []string
		for _, m := range mails {
			out = append(out, m.ID)
		}
		return out
	}
	require.Equal(t, []string{"mail_00000007", "mail_00000006", "mail_00000005"}, list(mailer.Query{Limit: 3}))
	require.Equal(t, []string{"mail_00000004", "mail_00000003"}, list(mailer.Query{Limit: 2, Before: "mail_00000005"}))
	require.Equal(t, []string{"mail_00000007"}, list(mailer.Query{Limit: 9, Account: "acct_2"}))
	require.Len(t, list(mailer.Query{Limit: 9, States: []mailer.State{mailer.Dead, mailer.Held}}), 2)
}

func testLookup(t *testing.T, f *fixture) {
	_, err := f.store.Lookup(f.ctx, "mail_none")
	require.ErrorIs(t, err, mailer.ErrNotFound)
}

// end sends the fixture's mails to their end at the time.
func (f *fixture) end(n int, at time.Time) {
	for range n {
		e := f.mail()
		f.enqueue(e)
	}
	for _, m := range f.claim(epoch, n) {
		f.ack(mailer.Ack{ID: m.ID, Attempt: m.Attempts, State: mailer.Done, At: at})
	}
}

func testScrub(t *testing.T, f *fixture) {
	f.end(3, epoch)
	open := f.mail()
	f.enqueue(open)
	n, err := f.store.Scrub(f.ctx, epoch, 10)
	require.NoError(t, err)
	require.Zero(t, n, "half-open: what ended at the time stays")
	n, err = f.store.Scrub(f.ctx, epoch.Add(time.Second), 2)
	require.NoError(t, err)
	require.Equal(t, 2, n)
	n, err = f.store.Scrub(f.ctx, epoch.Add(time.Second), 2)
	require.NoError(t, err)
	require.Equal(t, 1, n)
	m := f.lookup("mail_00000001")
	requireNobody(t, m)
	require.Equal(t, mailer.Done, m.State)
	again := f.mail(func(e *mailer.Enqueue) { e.Mail.KeyHash = keyHash("key1") })
	require.Equal(t, mailer.Duplicate, f.enqueue(again)[0].Status)
	require.Equal(t, "ada@example.org", f.lookup(open.Mail.ID).Email)
}

func requireNobody(t *testing.T, m mailer.Mail) {
	t.Helper()
	require.Empty(t, m.Account+m.Email+m.Name+m.Topic+m.Locale+m.TimeZone+m.Domain+m.ProviderID)
	require.Empty(t, m.Data)
	require.Empty(t, m.AddressHash)
}

func testPurge(t *testing.T, f *fixture) {
	f.end(3, epoch)
	f.record(mailer.Stored{Provider: "p", ID: "1", Type: mailer.EventBounced, AddressHash: hash("a"), At: epoch})
	n, err := f.store.PurgeKeys(f.ctx, epoch.Add(time.Second), 10)
	require.NoError(t, err)
	require.Equal(t, 1, n, "mails that were not scrubbed stay; the event goes")
	_, err = f.store.Scrub(f.ctx, epoch.Add(time.Second), 10)
	require.NoError(t, err)
	n, err = f.store.PurgeKeys(f.ctx, epoch, 10)
	require.NoError(t, err)
	require.Zero(t, n)
	n, err = f.store.PurgeKeys(f.ctx, epoch.Add(time.Second), 2)
	require.NoError(t, err)
	require.Equal(t, 2, n)
	again := f.mail(func(e *mailer.Enqueue) { e.Mail.KeyHash = keyHash("key1") })
	require.Equal(t, mailer.Queued, f.enqueue(again)[0].Status)
	require.True(t, f.record(mailer.Stored{Provider: "p", ID: "1", Type: mailer.EventBounced, At: epoch}))
}

func testExport(t *testing.T, f *fixture) {
	mine, other := f.mail(), f.mail(func(e *mailer.Enqueue) { e.Mail.Account = "acct_2" })
	f.enqueue(mine, other)
	f.record(mailer.Stored{Provider: "p", ID: "1", Type: mailer.EventDelivered, MailID: mine.Mail.ID, At: epoch})
	f.record(mailer.Stored{Provider: "p", ID: "2", Type: mailer.EventDelivered, MailID: other.Mail.ID, At: epoch})
	var records []string
	var fields []map[string]any
	require.NoError(t, f.store.Export(f.ctx, "acct_1", func(record string, m map[string]any) error {
		records, fields = append(records, record), append(fields, m)
		return nil
	}))
	require.Equal(t, []string{"mail", "mail_event"}, records)
	require.Equal(t, "ada@example.org", fields[0]["email"])
	require.Equal(t, "Ada", fields[0]["name"])
	require.JSONEq(t, `{"Used":8}`, fields[0]["variables"].(string))
	require.Equal(t, mine.Mail.ID, fields[1]["mail_id"])
	stop := fmt.Errorf("stop")
	require.ErrorIs(t, f.store.Export(f.ctx, "acct_1", func(string, map[string]any) error { return stop }), stop)
	require.NoError(t, f.store.Export(f.ctx, "", func(string, map[string]any) error { return stop }))
}

func testErase(t *testing.T, f *fixture) {
	f.end(1, epoch)
	f.enqueue(f.mail(), f.mail(), f.mail(func(e *mailer.Enqueue) { e.Mail.Account = "acct_2" }))
	leased := f.claim(epoch, 1)[0]
	f.suppress(mailer.Suppression{AddressHash: hash("ada@example.org"), Stream: "tips", Blocks: mailer.Lifecycle, Reason: "unsubscribed", At: epoch})
	f.record(mailer.Stored{Provider: "p", ID: "1", Type: mailer.EventDelivered, MailID: "mail_00000001", At: epoch})
	counts, err := f.store.Erase(f.ctx, "acct_1", epoch, 2)
	require.NoError(t, err)
	require.Equal(t, map[string]int64{"mail": 2, "mail_event": 1}, counts)
	counts, err = f.store.Erase(f.ctx, "acct_1", epoch, 2)
	require.NoError(t, err)
	require.Equal(t, map[string]int64{"mail": 1}, counts)
	counts, err = f.store.Erase(f.ctx, "acct_1", epoch, 2)
	require.NoError(t, err)
	require.Empty(t, counts)
	for i, want := range []mailer.State{mailer.Done, mailer.Dropped, mailer.Dropped} {
		m := f.lookup(fmt.Sprintf("mail_%08d", i+1))
		require.Equal(t, want, m.State)
		requireNobody(t, m)
	}
	require.Zero(t, f.ack(mailer.Ack{ID: leased.ID, Attempt: 1, State: mailer.Pending, RunAt: epoch, At: epoch}), "an erased mail must not come back")
	require.Equal(t, []string{"mail_00000004"}, ids(f.claim(epoch, 10)))
	list, err := f.store.Suppressions(f.ctx, hash("ada@example.org"))
	require.NoError(t, err)
	require.Len(t, list, 1, "the objection must survive")
	n, err := f.store.Release(f.ctx, []string{leased.ID}, epoch, epoch)
	require.NoError(t, err)
	require.Zero(t, n)
	counts, err = f.store.Erase(f.ctx, "", epoch, 2)
	require.NoError(t, err)
	require.Empty(t, counts)
}

func testContext(t *testing.T, f *fixture) {
	ctx, cancel := context.WithCancel(f.ctx)
	cancel()
	e := f.mail()
	_, err := f.store.Enqueue(ctx, []mailer.Enqueue{e})
	require.ErrorIs(t, err, context.Canceled)
	_, err = f.store.Claim(ctx, mailer.Claim{Now: epoch, Limit: 1, Lease: time.Minute})
	require.ErrorIs(t, err, context.Canceled)
	_, err = f.store.Lookup(f.ctx, e.Mail.ID)
	require.ErrorIs(t, err, mailer.ErrNotFound)
}

// testHistory drives the store at random beside a plain model of what each
// mail's state must be.
func testHistory(t *testing.T, f *fixture) {
	run := 0
	rapid.Check(t, func(rt *rapid.T) {
		run++
		prefix := fmt.Sprintf("mail_%04d_", run)
		now := epoch.Add(time.Duration(run) * 1000 * time.Hour)
		states := map[string]mailer.State{}
		keys := map[string]string{}
		leased := map[string]int{}
		pick := func(label string, want mailer.State) string {
			var have []string
			for id, s := range states {
				if s == want {
					have = append(have, id)
				}
			}
			if len(have) == 0 {
				return ""
			}
			slices.Sort(have)
			return rapid.SampledFrom(have).Draw(rt, label)
		}
		for range rapid.IntRange(1, 15).Draw(rt, "steps") {
			now = now.Add(time.Second)
			switch rapid.SampledFrom([]string{"enqueue", "enqueue", "claim", "ack", "back", "late", "recover", "release"}).Draw(rt, "step") {
			case "enqueue":
				key := fmt.Sprint(run, "/", rapid.IntRange(0, 5).Draw(rt, "key"))
				id := fmt.Sprint(prefix, len(states))
				e := f.mail(func(e *mailer.Enqueue) {
					e.Mail.ID, e.Mail.KeyHash, e.Mail.CreatedAt, e.Mail.RunAt = id, keyHash(key), now, now
				})
				r := f.enqueue(e)[0]
				if first, used := keys[key]; used {
					require.Equal(rt, mailer.Receipt{ID: first, Status: mailer.Duplicate}, r)
				} else {
					require.Equal(rt, mailer.Receipt{ID: id, Status: mailer.Queued}, r)
					keys[key], states[id] = id, mailer.Pending
				}
			case "claim":
				pending := 0
				for _, s := range states {
					if s == mailer.Pending {
						pending++
					}
				}
				limit := rapid.IntRange(1, 3).Draw(rt, "limit")
				got := f.claim(now, limit)
				require.Len(rt, got, min(limit, pending))
				for _, m := range got {
					require.Equal(rt, mailer.Pending, states[m.ID], "claimed %s", m.ID)
					states[m.ID], leased[m.ID] = mailer.Claimed, m.Attempts
				}
			case "ack":
				if id := pick("sent", mailer.Claimed); id != "" {
					require.Equal(rt, 1, f.ack(mailer.Ack{ID: id, Attempt: leased[id], State: mailer.Dead, At: now}))
					states[id] = mailer.Dead
				}
			case "back":
				if id := pick("back", mailer.Claimed); id != "" {
					require.Equal(rt, 1, f.ack(mailer.Ack{ID: id, Attempt: leased[id], State: mailer.Pending, RunAt: now, At: now}))
					states[id] = mailer.Pending
				}
			case "late":
				if id := pick("late", mailer.Pending); id != "" {
					require.Zero(rt, f.ack(mailer.Ack{ID: id, Attempt: leased[id], State: mailer.Done, At: now}))
				}
			case "recover":
				now = now.Add(2 * time.Minute)
				want := 0
				for id, s := range states {
					if s == mailer.Claimed {
						states[id] = mailer.Pending
						want++
					}
				}
				n, err := f.store.Recover(f.ctx, now)
				require.NoError(rt, err)
				require.Equal(rt, want, n)
			case "release":
				if id := pick("release", mailer.Dead); id != "" {
					n, err := f.store.Release(f.ctx, []string{id}, now, now.Add(time.Hour))
					require.NoError(rt, err)
					require.Equal(rt, 1, n)
					states[id] = mailer.Pending
				}
			}
		}
		for id, want := range states {
			require.Equal(rt, want, f.lookup(id).State, id)
			// Nothing of this run is left for the next.
			if want == mailer.Claimed {
				f.ack(mailer.Ack{ID: id, Attempt: leased[id], State: mailer.Done, At: now})
			}
			_, err := f.store.Cancel(f.ctx, id, now)
			require.NoError(rt, err)
		}
	})
}

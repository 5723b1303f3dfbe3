package billingtest

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/billing"
)

// epoch is the time of the suite: stores take every instant from the caller.
var epoch = time.Date(2026, 1, 31, 12, 0, 0, 123456000, time.UTC)

// TestStore checks every sentence of the contract of billing.Store. NewStore
// returns an empty store for each of the subtests.
func TestStore(t *testing.T, newStore func(t *testing.T) billing.Store) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, billing.Store)
	}{
		{"AnUnsavedAccountIsTheZeroOne", unsavedAccount},
		{"AnAccountComesBackAsItWasSaved", accountRoundTrip},
		{"SaveRefusesAnotherVersion", saveRefusesAnotherVersion},
		{"SaveRefusesACustomerOfAnotherAccount", saveRefusesForeignCustomer},
		{"OfConcurrentSavesOneWins", concurrentSaves},
		{"ARefusedSaveWritesNothing", refusedSaveWritesNothing},
		{"SaveMarksEventsAsDone", saveMarksEvents},
		{"ANoticeIsAddedOnce", noticeOnce},
		{"AccountsAreListedInOrder", accountsListed},
		{"AnEventIsPutOnce", eventOnce},
		{"AnEventComesBackWithItsExactBytes", eventRoundTrip},
		{"AClaimHidesAnEventForItsLease", claimHides},
		{"AClaimTakesThoseDueFirst", claimOrder},
		{"ConcurrentClaimsShareNoEvent", concurrentClaims},
		{"AFailedEventComesAgain", failedEvent},
		{"ADeadEventIsReplayed", deadEvent},
		{"AFinishedEventNeverFails", finishedEvent},
		{"EventsAreListedInOrder", eventsListed},
		{"NoticesAreDeliveredInOrder", noticesInOrder},
		{"AFailedNoticeComesAgain", failedNotice},
		{"PruneKeepsWhatIsPendingAndTheIDsOfNotices", prune},
		{"DetachReplacesAnAccountByAnother", detach},
		{"ScrubLeavesIDs", scrub},
		{"RemoveDeletesOneVersion", remove},
		{"AClaimIsTheFirstOnesForGood", claims},
		{"ACursorNeverGoesBack", cursor},
		{"AnEndedContextWritesNothing", endedContext},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.run(t, newStore(t))
		})
	}
}

func sample(id, customer string) billing.Account {
	return billing.Account{
		ID: id, CustomerID: customer, SyncedAt: epoch, DueAt: epoch.Add(time.Hour), Created: epoch, Provisional: true,
		Subscriptions: []billing.Subscription{{
			ID: "sub_1", CustomerID: customer, Status: "a status of the future", Metadata: map[string]string{"ключ": "\"значение\"\u2028"},
			Items:  []billing.Item{{ID: "si_1", Quantity: 3, Price: billing.Price{ID: "price_1", UnitAmount: billing.Money{Amount: 1 << 60, Currency: "JPY"}}}},
			Period: billing.Period{From: epoch, To: epoch.AddDate(0, 1, 0)},
		}},
		Invoices: []billing.Invoice{{ID: "in_1", Status: billing.InvoiceOpen, Total: -5, Created: epoch}},
		Trails:   map[string]billing.Trail{"sub_1": {{At: epoch, ID: "evt_1", Status: billing.StatusActive, Items: "price_1:3"}}},
		Marks:    map[string]billing.Mark{"payment.failed:in_1:1": {At: epoch, Subject: "in_1", Kind: billing.KindPaymentFailed, Attempt: 1}},
		Intents:  []billing.Intent{{Op: "update", Key: "commerce:1", Request: []byte(`{"a":1}`), Print: "p", Started: epoch, Called: epoch}},
		Sequence: 7, TrialUsed: epoch, TrialCards: map[string]string{"sub_1": "pm_1"}, PaymentMethod: "pm_2", Retry: true, OnPage: epoch,
		Seats:       []billing.Seat{{Member: "ä@example.com", State: billing.SeatInvited, Since: epoch}},
		SeatOrder:   &billing.SeatOrder{Quantity: 9, First: epoch, Due: epoch.Add(time.Minute)},
		Comp:        &billing.Comp{Plan: "pro", From: epoch, Until: epoch.AddDate(1, 0, 0)},
		Adjustments: []billing.Adjustment{{Audit: billing.Audit{Key: "k", By: "ada", Reason: "r"}, At: epoch, What: "w", Amount: billing.Money{Amount: 1, Currency: "USD"}}},
	}
}

func put(t *testing.T, s billing.Store, id string, next time.Time) {
	t.Helper()
	added, err := s.PutEvent(t.Context(), billing.InboxEvent{ID: id, Type: "t", CustomerID: "cus_" + id, Created: epoch, Received: next, Next: next, Body: []byte(id)})
	require.NoError(t, err)
	require.True(t, added)
}

func claim(t *testing.T, s billing.Store, now time.Time, limit int) []string {
	t.Helper()
	events, err := s.ClaimEvents(t.Context(), now, time.Minute, limit)
	require.NoError(t, err)
	return eventIDs(events)
}

func eventIDs(events []billing.InboxEvent) []string {
	ids := []string{}
	for _, e := range events {
		ids = append(ids, e.ID)
	}
	return ids
}

func noticeIDs(list []billing.Delivery) []string {
	ids := []string{}
	for _, d := range list {
		ids = append(ids, d.ID)
	}
	return ids
}

func notices(account string, ids ...string) []billing.Notice {
	var list []billing.Notice
	for _, id := range ids {
		list = append(list, billing.Notice{ID: id, Kind: billing.KindInvoicePaid, Account: account, At: epoch, Amount: billing.Money{Amount: 999, Currency: "USD"}})
	}
	return list
}

func unsavedAccount(t *testing.T, s billing.Store) {
	ctx := t.Context()
	a, err := s.Account(ctx, "nobody")
	require.NoError(t, err)
	require.Equal(t, billing.Account{ID: "nobody"}, a)
	_, err = s.AccountOf(ctx, "cus_none")
	require.ErrorIs(t, err, billing.ErrNotFound)
}

func accountRoundTrip(t *testing.T, s billing.Store) {
	ctx := t.Context()
	want := sample("alice", "cus_1")
	require.NoError(t, s.Save(ctx, billing.Change{Account: want}))
	got, err := s.Account(ctx, "alice")
	require.NoError(t, err)
	want.Version = 1
	require.Equal(t, want, got)
	owner, err := s.AccountOf(ctx, "cus_1")
	require.NoError(t, err)
	require.Equal(t, "alice", owner)

	// What a caller does with what it got changes nothing.
	got.Subscriptions[0].Items[0].Quantity = 99
	got.Trails["sub_1"][0].ID = "other"
	again, err := s.Account(ctx, "alice")
	require.NoError(t, err)
	require.Equal(t, want, again)

	empty := billing.Account{ID: "alice", Version: 1}
	require.NoError(t, s.Save(ctx, billing.Change{Account: empty}))
	empty.Version = 2
	got, err = s.Account(ctx, "alice")
	require.NoError(t, err)
	require.Equal(t, empty, got)
	_, err = s.AccountOf(ctx, "cus_1")
	require.ErrorIs(t, err, billing.ErrNotFound)
}

func saveRefusesAnotherVersion(t *testing.T, s billing.Store) {
	ctx := t.Context()
	a := sample("alice", "cus_1")
	a.Version = 3
	require.ErrorIs(t, s.Save(ctx, billing.Change{Account: a}), billing.ErrConflict, "an account that was never saved")
	a.Version = 0
	require.NoError(t, s.Save(ctx, billing.Change{Account: a}))
	for _, version := range []int64{0, 2, 3} {
		a.Version = version
		require.ErrorIs(t, s.Save(ctx, billing.Change{Account: a}), billing.ErrConflict, "version %d", version)
	}
	a.Version = 1
	require.NoError(t, s.Save(ctx, billing.Change{Account: a}))
}

func saveRefusesForeignCustomer(t *testing.T, s billing.Store) {
	ctx := t.Context()
	require.NoError(t, s.Save(ctx, billing.Change{Account: sample("alice", "cus_1")}))
	require.ErrorIs(t, s.Save(ctx, billing.Change{Account: sample("bob", "cus_1")}), billing.ErrConflict)
	bob, err := s.Account(ctx, "bob")
	require.NoError(t, err)
	require.Zero(t, bob.Version)
	require.NoError(t, s.Save(ctx, billing.Change{Account: sample("bob", "")}), "no customer is nobody's")
	require.NoError(t, s.Save(ctx, billing.Change{Account: sample("carol", "")}))
}

func concurrentSaves(t *testing.T, s billing.Store) {
	ctx := t.Context()
	const writers, rounds = 8, 5
	for version := range int64(rounds) {
		var mu sync.Mutex
		var wg sync.WaitGroup
		won := 0
		for i := range writers {
			wg.Go(func() {
				a := sample("alice", "cus_1")
				a.Version, a.Sequence = version, int64(i)
				err := s.Save(ctx, billing.Change{Account: a, Notices: notices("alice", fmt.Sprintf("n:%d:%d", version, i))})
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					won++
				} else {
					assert.ErrorIs(t, err, billing.ErrConflict)
				}
			})
		}
		wg.Wait()
		require.Equal(t, 1, won)
	}
	list, err := s.Notices(ctx, "alice", "", 100)
	require.NoError(t, err)
	require.Len(t, list, rounds)
}

func refusedSaveWritesNothing(t *testing.T, s billing.Store) {
	ctx := t.Context()
	require.NoError(t, s.Save(ctx, billing.Change{Account: sample("alice", "cus_1")}))
	put(t, s, "evt_1", epoch)
	for _, a := range []billing.Account{sample("alice", "cus_1"), sample("bob", "cus_1")} {
		require.ErrorIs(t, s.Save(ctx, billing.Change{Account: a, Done: []string{"evt_1"}, Notices: notices(a.ID, "n1")}), billing.ErrConflict)
	}
	require.Equal(t, []string{"evt_1"}, claim(t, s, epoch, 10))
	list, err := s.ClaimNotices(ctx, epoch, time.Minute, 10)
	require.NoError(t, err)
	require.Empty(t, list)
}

func saveMarksEvents(t *testing.T, s billing.Store) {
	ctx := t.Context()
	put(t, s, "evt_1", epoch)
	put(t, s, "evt_2", epoch)
	require.NoError(t, s.Save(ctx, billing.Change{Account: sample("alice", "cus_1"), Done: []string{"evt_1", "evt_unknown"}}))
	require.Equal(t, []string{"evt_2"}, claim(t, s, epoch, 10))
	done, err := s.Events(ctx, billing.EventQuery{Status: billing.EventDone, Limit: 10})
	require.NoError(t, err)
	require.Equal(t, []string{"evt_1"}, eventIDs(done))
	a := sample("alice", "cus_1")
	a.Version = 1
	require.NoError(t, s.Save(ctx, billing.Change{Account: a, Done: []string{"evt_1"}}), "done twice")
}

func noticeOnce(t *testing.T, s billing.Store) {
	ctx := t.Context()
	a := sample("alice", "cus_1")
	require.NoError(t, s.Save(ctx, billing.Change{Account: a, Notices: notices("alice", "n1", "n1", "n2")}))
	a.Version = 1
	require.NoError(t, s.Save(ctx, billing.Change{Account: a, Notices: notices("alice", "n2", "n3")}))
	list, err := s.Notices(ctx, "alice", "", 10)
	require.NoError(t, err)
	require.Equal(t, []string{"n1", "n2", "n3"}, noticeIDs(list))
	require.Equal(t, notices("alice", "n1")[0], list[0].Notice)
	list, err = s.Notices(ctx, "alice", "n1", 1)
	require.NoError(t, err)
	require.Equal(t, []string{"n2"}, noticeIDs(list))
	list, err = s.Notices(ctx, "bob", "", 10)
	require.NoError(t, err)
	require.Empty(t, list)
	_, err = s.Notices(ctx, "alice", "unknown", 10)
	require.ErrorIs(t, err, billing.ErrNotFound)
}

func accountsListed(t *testing.T, s billing.Store) {
	ctx := t.Context()
	for i, id := range []string{"c", "a", "b"} {
		a := sample(id, "cus_"+id)
		a.DueAt, a.SyncedAt = epoch.Add(time.Duration(i)*time.Minute), epoch.Add(time.Duration(i)*time.Minute)
		require.NoError(t, s.Save(ctx, billing.Change{Account: a}))
	}
	require.NoError(t, s.Save(ctx, billing.Change{Account: billing.Account{ID: "d"}}))
	require.NoError(t, s.Save(ctx, billing.Change{Account: billing.Account{ID: "e", CustomerID: "cus_e"}}))
	for _, test := range []struct {
		query billing.AccountQuery
		want  []string
	}{
		{billing.AccountQuery{Limit: 10}, []string{"a", "b", "c", "d", "e"}},
		{billing.AccountQuery{Limit: 2}, []string{"a", "b"}},
		{billing.AccountQuery{After: "b", Limit: 2}, []string{"c", "d"}},
		{billing.AccountQuery{DueBefore: epoch.Add(time.Minute), Limit: 10}, []string{"a", "c"}},
		{billing.AccountQuery{SyncedBefore: epoch.Add(time.Minute), Limit: 10}, []string{"c", "e"}},
		{billing.AccountQuery{DueBefore: epoch.Add(-1), Limit: 10}, []string{}},
	} {
		got, err := s.Accounts(ctx, test.query)
		require.NoError(t, err)
		require.Equal(t, test.want, append([]string{}, got...), "%+v", test.query)
	}
}

func eventOnce(t *testing.T, s billing.Store) {
	ctx := t.Context()
	put(t, s, "evt_1", epoch)
	require.NoError(t, s.FinishEvents(ctx, []string{"evt_1"}))
	added, err := s.PutEvent(ctx, billing.InboxEvent{ID: "evt_1", Type: "other", Created: epoch, Received: epoch, Next: epoch, Body: []byte("x")})
	require.NoError(t, err)
	require.False(t, added)
	require.Empty(t, claim(t, s, epoch, 10))

	var mu sync.Mutex
	var wg sync.WaitGroup
	n := 0
	for range 16 {
		wg.Go(func() {
			added, err := s.PutEvent(ctx, billing.InboxEvent{ID: "evt_2", Type: "t", Created: epoch, Received: epoch, Next: epoch, Body: []byte("x")})
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			if added {
				n++
			}
		})
	}
	wg.Wait()
	require.Equal(t, 1, n)
}

func eventRoundTrip(t *testing.T, s billing.Store) {
	ctx := t.Context()
	want := billing.InboxEvent{
		ID: "evt_1", Type: "invoice.paid", CustomerID: "cus_1", Account: "alice", Created: epoch, Received: epoch.Add(time.Second),
		Body: []byte("{\"a\": \"\\u0000\xff\x00\"}\n"), Next: epoch.Add(2 * time.Second),
	}
	_, err := s.PutEvent(ctx, want)
	require.NoError(t, err)
	got, err := s.Events(ctx, billing.EventQuery{Limit: 10})
	require.NoError(t, err)
	want.Status = billing.EventPending
	require.Equal(t, []billing.InboxEvent{want}, got)
	require.Empty(t, claim(t, s, epoch, 10), "it isn't due yet")
}

func claimHides(t *testing.T, s billing.Store) {
	ctx := t.Context()
	put(t, s, "evt_1", epoch)
	got, err := s.ClaimEvents(ctx, epoch, time.Minute, 10)
	require.NoError(t, err)
	require.Len(t, got, 1)
	require.Equal(t, 1, got[0].Attempts)
	require.Equal(t, []byte("evt_1"), got[0].Body)
	require.Empty(t, claim(t, s, epoch.Add(59*time.Second), 10))
	got, err = s.ClaimEvents(ctx, epoch.Add(time.Minute), time.Minute, 10)
	require.NoError(t, err)
	require.Len(t, got, 1)
	require.Equal(t, 2, got[0].Attempts)
	require.NoError(t, s.FinishEvents(ctx, []string{"evt_1"}))
	require.Empty(t, claim(t, s, epoch.Add(time.Hour), 10))
}

func claimOrder(t *testing.T, s billing.Store) {
	put(t, s, "evt_b", epoch)
	put(t, s, "evt_c", epoch.Add(-time.Second))
	put(t, s, "evt_a", epoch)
	require.Equal(t, []string{"evt_c", "evt_a"}, claim(t, s, epoch, 2))
	require.Equal(t, []string{"evt_b"}, claim(t, s, epoch, 2))
}

func concurrentClaims(t *testing.T, s billing.Store) {
	ctx := t.Context()
	const n = 60
	for i := range n {
		put(t, s, fmt.Sprintf("evt_%02d", i), epoch)
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	seen := map[string]int{}
	for range 8 {
		wg.Go(func() {
			for empty := 0; empty < 3; {
				events, err := s.ClaimEvents(ctx, epoch, time.Minute, 7)
				if err != nil {
					t.Error(err)
					return
				}
				if len(events) == 0 {
					empty++
				}
				mu.Lock()
				for _, e := range events {
					seen[e.ID]++
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	require.Len(t, seen, n)
	for id, times := range seen {
		require.Equal(t, 1, times, id)
	}
}

func failedEvent(t *testing.T, s billing.Store) {
	ctx := t.Context()
	put(t, s, "evt_1", epoch)
	claim(t, s, epoch, 10)
	require.NoError(t, s.FailEvents(ctx, []billing.Failure{{ID: "evt_1", Next: epoch.Add(time.Hour), Error: "no luck"}, {ID: "unknown"}}))
	require.Empty(t, claim(t, s, epoch.Add(59*time.Minute), 10))
	got, err := s.ClaimEvents(ctx, epoch.Add(time.Hour), time.Minute, 10)
	require.NoError(t, err)
	require.Len(t, got, 1)
	require.Equal(t, "no luck", got[0].LastError)
	require.Equal(t, 2, got[0].Attempts)
}

func deadEvent(t *testing.T, s billing.Store) {
	ctx := t.Context()
	put(t, s, "evt_1", epoch)
	claim(t, s, epoch, 10)
	require.NoError(t, s.FailEvents(ctx, []billing.Failure{{ID: "evt_1", Error: "no use", Dead: true}}))
	require.Empty(t, claim(t, s, epoch.AddDate(1, 0, 0), 10))
	dead, err := s.Events(ctx, billing.EventQuery{Status: billing.EventDead, Limit: 10})
	require.NoError(t, err)
	require.Len(t, dead, 1)
	require.Equal(t, "no use", dead[0].LastError)

	n, err := s.ReplayEvents(ctx, []string{"evt_1", "unknown"}, epoch.Add(time.Hour))
	require.NoError(t, err)
	require.Equal(t, 1, n)
	got, err := s.ClaimEvents(ctx, epoch.Add(time.Hour), time.Minute, 10)
	require.NoError(t, err)
	require.Len(t, got, 1)
	require.Equal(t, 1, got[0].Attempts)
	require.Empty(t, got[0].LastError)
	n, err = s.ReplayEvents(ctx, []string{"evt_1"}, epoch)
	require.NoError(t, err)
	require.Zero(t, n, "a pending event has nothing to replay")
}

func finishedEvent(t *testing.T, s billing.Store) {
	ctx := t.Context()
	put(t, s, "evt_1", epoch)
	claim(t, s, epoch, 10)
	require.NoError(t, s.FinishEvents(ctx, []string{"evt_1"}))
	// The one who was slow, and failed.
	require.NoError(t, s.FailEvents(ctx, []billing.Failure{{ID: "evt_1", Next: epoch, Error: "late"}}))
	require.NoError(t, s.FailEvents(ctx, []billing.Failure{{ID: "evt_1", Error: "late", Dead: true}}))
	require.Empty(t, claim(t, s, epoch.Add(time.Hour), 10))
	n, err := s.ReplayEvents(ctx, []string{"evt_1"}, epoch)
	require.NoError(t, err)
	require.Equal(t, 1, n)
	require.Equal(t, []string{"evt_1"}, claim(t, s, epoch, 10))
}

func eventsListed(t *testing.T, s billing.Store) {
	ctx := t.Context()
	put(t, s, "evt_b", epoch)
	put(t, s, "evt_c", epoch.Add(-time.Second))
	put(t, s, "evt_a", epoch)
	require.NoError(t, s.FinishEvents(ctx, []string{"evt_a"}))
	for _, test := range []struct {
		query billing.EventQuery
		want  []string
	}{
		{billing.EventQuery{Limit: 10}, []string{"evt_c", "evt_a", "evt_b"}},
		{billing.EventQuery{Limit: 1, After: "evt_c"}, []string{"evt_a"}},
		{billing.EventQuery{Limit: 10, After: "evt_a"}, []string{"evt_b"}},
		{billing.EventQuery{Limit: 10, Status: billing.EventPending}, []string{"evt_c", "evt_b"}},
		{billing.EventQuery{Limit: 10, CustomerID: "cus_evt_a"}, []string{"evt_a"}},
	} {
		got, err := s.Events(ctx, test.query)
		require.NoError(t, err)
		require.Equal(t, test.want, eventIDs(got), "%+v", test.query)
	}
	_, err := s.Events(ctx, billing.EventQuery{After: "unknown", Limit: 1})
	require.ErrorIs(t, err, billing.ErrNotFound)
}

func noticesInOrder(t *testing.T, s billing.Store) {
	ctx := t.Context()
	ids := []string{"n9", "n3", "n7"}
	require.NoError(t, s.Save(ctx, billing.Change{Account: sample("alice", "cus_1"), Notices: notices("alice", ids...)}))
	got, err := s.ClaimNotices(ctx, epoch, time.Minute, 2)
	require.NoError(t, err)
	require.Equal(t, ids[:2], noticeIDs(got))
	require.Equal(t, 1, got[0].Attempts)
	require.NoError(t, s.SettleNotices(ctx, []string{"n9"}, nil, epoch))
	got, err = s.ClaimNotices(ctx, epoch.Add(time.Minute), time.Minute, 10)
	require.NoError(t, err)
	require.Equal(t, ids[1:], noticeIDs(got))
	list, err := s.Notices(ctx, "alice", "", 10)
	require.NoError(t, err)
	require.Equal(t, ids, noticeIDs(list))
	require.Equal(t, epoch, list[0].Delivered)
}

func failedNotice(t *testing.T, s billing.Store) {
	ctx := t.Context()
	require.NoError(t, s.Save(ctx, billing.Change{Account: sample("alice", "cus_1"), Notices: notices("alice", "n1", "n2")}))
	_, err := s.ClaimNotices(ctx, epoch, time.Minute, 10)
	require.NoError(t, err)
	require.NoError(t, s.SettleNotices(ctx, nil, []billing.Failure{
		{ID: "n1", Next: epoch.Add(time.Hour), Error: "no luck"}, {ID: "n2", Error: "no use", Dead: true},
	}, epoch))
	got, err := s.ClaimNotices(ctx, epoch.Add(59*time.Minute), time.Minute, 10)
	require.NoError(t, err)
	require.Empty(t, got)
	got, err = s.ClaimNotices(ctx, epoch.Add(time.Hour), time.Minute, 10)
	require.NoError(t, err)
	require.Equal(t, []string{"n1"}, noticeIDs(got))
	require.Equal(t, "no luck", got[0].LastError)
	require.NoError(t, s.SettleNotices(ctx, []string{"n1"}, nil, epoch))
	require.NoError(t, s.SettleNotices(ctx, nil, []billing.Failure{{ID: "n1", Next: epoch, Error: "late"}}, epoch))
	got, err = s.ClaimNotices(ctx, epoch.Add(24*time.Hour), time.Minute, 10)
	require.NoError(t, err)
	require.Empty(t, got)
	list, err := s.Notices(ctx, "alice", "", 10)
	require.NoError(t, err)
	require.True(t, list[1].Dead)
}

func prune(t *testing.T, s billing.Store) {
	ctx := t.Context()
	put(t, s, "evt_done", epoch)
	put(t, s, "evt_pending", epoch)
	put(t, s, "evt_young", epoch.Add(time.Hour))
	require.NoError(t, s.Save(ctx, billing.Change{
		Account: sample("alice", "cus_1"), Done: []string{"evt_done", "evt_young"}, Notices: notices("alice", "n1", "n2"),
	}))
	require.NoError(t, s.SettleNotices(ctx, []string{"n1"}, nil, epoch))
	n, err := s.Prune(ctx, epoch.Add(time.Minute), 10)
	require.NoError(t, err)
	require.Equal(t, 2, n)
	events, err := s.Events(ctx, billing.EventQuery{Limit: 10})
	require.NoError(t, err)
	require.Equal(t, []string{"evt_pending", "evt_young"}, eventIDs(events))
	a := sample("alice", "cus_1")
	a.Version = 1
	require.NoError(t, s.Save(ctx, billing.Change{Account: a, Notices: notices("alice", "n1")}))
	list, err := s.ClaimNotices(ctx, epoch, time.Minute, 10)
	require.NoError(t, err)
	require.Equal(t, []string{"n2"}, noticeIDs(list))
	n, err = s.Prune(ctx, epoch.Add(time.Minute), 10)
	require.NoError(t, err)
	require.Zero(t, n)
}

func detach(t *testing.T, s billing.Store) {
	ctx := t.Context()
	a := sample("alice", "cus_1")
	require.NoError(t, s.Save(ctx, billing.Change{Account: a}))
	as := sample("erased_1", "cus_1")
	require.ErrorIs(t, s.Detach(ctx, "alice", as), billing.ErrConflict, "version 0")
	require.ErrorIs(t, s.Detach(ctx, "nobody", as), billing.ErrConflict)
	as.Version = 1
	require.NoError(t, s.Detach(ctx, "alice", as))
	old, err := s.Account(ctx, "alice")
	require.NoError(t, err)
	require.Equal(t, billing.Account{ID: "alice"}, old)
	as.Version = 2
	got, err := s.Account(ctx, "erased_1")
	require.NoError(t, err)
	require.Equal(t, as, got)
	owner, err := s.AccountOf(ctx, "cus_1")
	require.NoError(t, err)
	require.Equal(t, "erased_1", owner)
	require.NoError(t, s.Save(ctx, billing.Change{Account: billing.Account{ID: "alice", CustomerID: "cus_2"}}), "the ID can be used anew")
}

// remove is for stores that have billing.Remover.
func remove(t *testing.T, s billing.Store) {
	r, ok := s.(billing.Remover)
	if !ok {
		t.Skip("the store has no billing.Remover")
	}
	ctx := t.Context()
	require.NoError(t, r.Remove(ctx, "nobody", 1))
	require.NoError(t, s.Save(ctx, billing.Change{Account: sample("erased_1", "cus_1")}))
	require.NoError(t, s.Save(ctx, billing.Change{Account: sample("bob", "cus_2")}))
	require.ErrorIs(t, r.Remove(ctx, "erased_1", 2), billing.ErrConflict)
	require.NoError(t, r.Remove(ctx, "erased_1", 1))
	require.NoError(t, r.Remove(ctx, "erased_1", 1), "again")
	a, err := s.Account(ctx, "erased_1")
	require.NoError(t, err)
	require.Zero(t, a.Version)
	_, err = s.AccountOf(ctx, "cus_1")
	require.ErrorIs(t, err, billing.ErrNotFound)
	bob, err := s.Account(ctx, "bob")
	require.NoError(t, err)
	require.EqualValues(t, 1, bob.Version)
	done, cancel := context.WithCancel(ctx)
	cancel()
	require.Error(t, r.Remove(done, "bob", 1))
}

func scrub(t *testing.T, s billing.Store) {
	ctx := t.Context()
	for _, id := range []string{"evt_1", "evt_2", "evt_3"} {
		_, err := s.PutEvent(ctx, billing.InboxEvent{ID: id, Type: "t", CustomerID: "cus_1", Account: "alice", Created: epoch, Received: epoch, Next: epoch, Body: []byte(id)})
		require.NoError(t, err)
	}
	put(t, s, "evt_other", epoch)
	require.NoError(t, s.Save(ctx, billing.Change{
		Account: sample("alice", "cus_1"), Done: []string{"evt_1", "evt_2", "evt_other"}, Notices: notices("alice", "n1", "n2", "n3"),
	}))
	require.NoError(t, s.Save(ctx, billing.Change{Account: sample("bob", "cus_2"), Notices: notices("bob", "n4")}))
	events, emptied, err := s.Scrub(ctx, "alice", "cus_1", 1)
	require.NoError(t, err)
	require.Equal(t, []int{1, 1}, []int{events, emptied})
	events, emptied, err = s.Scrub(ctx, "alice", "cus_1", 10)
	require.NoError(t, err)
	require.Equal(t, []int{1, 2}, []int{events, emptied})

	list, err := s.Notices(ctx, "alice", "", 10)
	require.NoError(t, err)
	require.Empty(t, list)
	pending, err := s.ClaimNotices(ctx, epoch, time.Minute, 10)
	require.NoError(t, err)
	require.Equal(t, []string{"n4"}, noticeIDs(pending))
	n, err := s.ReplayEvents(ctx, []string{"evt_1", "evt_other"}, epoch)
	require.NoError(t, err)
	require.Equal(t, 1, n)
	added, err := s.PutEvent(ctx, billing.InboxEvent{ID: "evt_1", Type: "t", Created: epoch, Received: epoch, Next: epoch, Body: []byte("x")})
	require.NoError(t, err)
	require.False(t, added)
	all, err := s.Events(ctx, billing.EventQuery{CustomerID: "cus_1", Limit: 10})
	require.NoError(t, err)
	require.Empty(t, all[0].Body)
	require.Empty(t, all[0].Account)
	require.Equal(t, []byte("evt_3"), all[2].Body, "pending: it has yet to be handled")
	events, emptied, err = s.Scrub(ctx, "alice", "", 10)
	require.NoError(t, err)
	require.Equal(t, []int{0, 0}, []int{events, emptied})
}

func claims(t *testing.T, s billing.Store) {
	ctx := t.Context()
	none, err := s.Claims(ctx, "alice")
	require.NoError(t, err)
	assert.Empty(t, none)
	const callers = 32
	holders := make([]string, callers)
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			var err error
			holders[i], err = s.Claim(ctx, "trial:b", fmt.Sprintf("acc_%02d", i), epoch)
			assert.NoError(t, err)
		})
	}
	wg.Wait()
	for _, holder := range holders {
		require.Equal(t, holders[0], holder, "all are told of the same holder")
	}
	first := holders[0]
	again, err := s.Claim(ctx, "trial:b", first, epoch.Add(time.Hour))
	require.NoError(t, err)
	assert.Equal(t, first, again)
	other, err := s.Claim(ctx, "trial:a", first, epoch)
	require.NoError(t, err)
	assert.Equal(t, first, other)
	held, err := s.Claims(ctx, first)
	require.NoError(t, err)
	assert.Equal(t, []billing.Claimed{{Name: "trial:a", At: epoch}, {Name: "trial:b", At: epoch}}, held)

	// Whoever is erased takes the claim along, without the name.
	require.NoError(t, s.Save(ctx, billing.Change{Account: billing.Account{ID: first, Created: epoch}}))
	require.ErrorIs(t, s.Detach(ctx, first, billing.Account{ID: "nobody", Version: 5}), billing.ErrConflict)
	held, err = s.Claims(ctx, first)
	require.NoError(t, err)
	assert.Len(t, held, 2, "a refused Detach moves nothing")
	require.NoError(t, s.Detach(ctx, first, billing.Account{ID: "nobody", Version: 1}))
	held, err = s.Claims(ctx, first)
	require.NoError(t, err)
	assert.Empty(t, held)
	holder, err := s.Claim(ctx, "trial:b", "bob", epoch)
	require.NoError(t, err)
	assert.Equal(t, "nobody", holder)

	ended, cancel := context.WithCancel(ctx)
	cancel()
	_, err = s.Claim(ended, "trial:c", "bob", epoch)
	require.Error(t, err)
	holder, err = s.Claim(ctx, "trial:c", "eve", epoch)
	require.NoError(t, err)
	assert.Equal(t, "eve", holder)
}

func cursor(t *testing.T, s billing.Store) {
	ctx := t.Context()
	at, err := s.Cursor(ctx, "events")
	require.NoError(t, err)
	require.True(t, at.IsZero())
	require.NoError(t, s.SetCursor(ctx, "events", epoch))
	require.NoError(t, s.SetCursor(ctx, "events", epoch.Add(-time.Hour)))
	require.NoError(t, s.SetCursor(ctx, "other", epoch.Add(time.Hour)))
	at, err = s.Cursor(ctx, "events")
	require.NoError(t, err)
	require.Equal(t, epoch, at)
}

func endedContext(t *testing.T, s billing.Store) {
	ctx := t.Context()
	ended, cancel := context.WithCancel(ctx)
	cancel()
	require.ErrorIs(t, s.Save(ended, billing.Change{Account: sample("alice", "cus_1")}), context.Canceled)
	_, err := s.PutEvent(ended, billing.InboxEvent{ID: "evt_1", Created: epoch, Received: epoch, Next: epoch})
	require.ErrorIs(t, err, context.Canceled)
	a, err := s.Account(ctx, "alice")
	require.NoError(t, err)
	require.Zero(t, a.Version)
	require.Empty(t, claim(t, s, epoch, 10))
}

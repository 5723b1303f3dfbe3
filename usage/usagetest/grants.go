package usagetest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/kolekt/commerce/usage"
)

// TestGrants runs the part of the contract that is about grants. newStore
// returns an empty store that has the methods of usage.GrantStore.
func TestGrants(t *testing.T, newStore func(t *testing.T) usage.Store) {
	run := func(name string, f func(t *testing.T, k *grantKit)) {
		t.Run(name, func(t *testing.T) { f(t, newGrantKit(t, newStore(t))) })
	}
	run("AGrantAddsToTheQuota", grantAdds)
	run("TheSameGrantIsGivenOnce", grantOnce)
	run("GrantsAreUsedByPriorityThenExpiryThenAge", burnOrder)
	run("UnitsGoBackWhereTheyCameFrom", unitsGoBack)
	run("AnExpiredReservationGivesGrantsBack", expiredHold)
	run("HeldUnitsOutliveTheirGrant", heldBeyondExpiry)
	run("ARevokedGrantIsVoid", revokedGrant)
	run("ARecurringGrantRollsOver", recurringGrant)
	run("RecordedEventsDrawOnGrants", recordedDraws)
	run("ThresholdsCountGrantsIn", grantThresholds)
	run("AnEndingGrantCrossesThresholds", lapsingThresholds)
	run("GrantsAndQuotaAreExactTogether", grantsExact)
	run("GrantsAreExportedAndErased", grantsErased)
	run("AnyHistoryIsAsTheModelHasIt", grantHistories)
}

// grantKit is a service whose quota a test can change.
type grantKit struct {
	kit
	store usage.Store
	mu    sync.Mutex
	quota usage.Quota
}

func newGrantKit(t testing.TB, s usage.Store) *grantKit {
	t.Helper()
	clock := &fakeClock{t: start}
	k := &grantKit{store: s, quota: usage.Calendar(10)}
	svc, err := usage.New(s, usage.Config{
		Meters: meters,
		Quota: func(context.Context, string, string) (usage.Quota, error) {
			k.mu.Lock()
			defer k.mu.Unlock()
			return k.quota, nil
		},
		MaxAge:  -1,
		HoldTTL: 1000 * time.Hour,
		Now:     clock.Now,
		Logger:  slog.New(slog.DiscardHandler),
	})
	require.NoError(t, err)
	k.kit = kit{ctx: t.Context(), svc: svc, now: clock}
	return k
}

func (k *grantKit) set(q usage.Quota) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.quota = q
}

func (k *grantKit) grant(t testing.TB, g usage.Grant) usage.Grant {
	t.Helper()
	g.Account, g.Meter = "acct", "credits"
	out, err := k.svc.Grant(k.ctx, g)
	require.NoError(t, err)
	return out
}

func (k *grantKit) consume(t testing.TB, n int64) usage.Decision {
	t.Helper()
	d, err := k.svc.Consume(k.ctx, usage.Request{Account: "acct", Meter: "credits", N: n})
	require.NoError(t, err)
	return d
}

func (k *grantKit) reserve(t testing.TB, n int64, ttl time.Duration) *usage.Reservation {
	t.Helper()
	r, err := k.svc.Reserve(k.ctx, usage.Request{Account: "acct", Meter: "credits", N: n, TTL: ttl})
	require.NoError(t, err)
	return r
}

func (k *grantKit) balance(t testing.TB) usage.Units {
	t.Helper()
	u, err := k.svc.Balance(k.ctx, "acct", "credits", k.now.Now())
	require.NoError(t, err)
	return u
}

// left returns what remains of each open grant.
func (k *grantKit) left(t testing.TB) map[string]int64 {
	t.Helper()
	lots, err := k.svc.Grants(k.ctx, "acct", "credits")
	require.NoError(t, err)
	out := map[string]int64{}
	for _, l := range lots {
		out[l.Key] += l.Remaining()
	}
	return out
}

func grantAdds(t *testing.T, k *grantKit) {
	k.grant(t, usage.Grant{Key: "gift", Amount: 5, Note: "sorry for the outage"})
	d, err := k.svc.Quota(k.ctx, "acct", "credits")
	require.NoError(t, err)
	require.EqualValues(t, 15, d.Limit)
	require.EqualValues(t, 15, d.Remaining)
	require.EqualValues(t, 5, d.Granted)
	require.True(t, k.consume(t, 8).Allowed)
	require.Equal(t, map[string]int64{"gift": 5}, k.left(t), "the quota's own come first")
	d = k.consume(t, 4)
	require.True(t, d.Allowed)
	require.EqualValues(t, 12, d.Used)
	require.EqualValues(t, 15, d.Limit)
	require.EqualValues(t, 3, d.Remaining)
	require.False(t, k.consume(t, 4).Allowed)
	require.True(t, k.consume(t, 3).Allowed)
	d = k.consume(t, 1)
	require.False(t, d.Allowed)
	require.Zero(t, d.Overage)
	require.Equal(t, usage.Units{Issued: 5, Burned: 5}, k.balance(t))
	// The next period has the quota's own again, and nothing of the gift.
	k.now.Add(march.To.Sub(start))
	d, err = k.svc.Quota(k.ctx, "acct", "credits")
	require.NoError(t, err)
	require.EqualValues(t, 10, d.Limit)
	require.Zero(t, d.Granted)
	d, err = k.svc.QuotaAt(k.ctx, "acct", "credits", start)
	require.NoError(t, err)
	require.EqualValues(t, 15, d.Limit, "what March has drawn")
	// Soft quotas use grants before overage.
	k.set(usage.Quota{Limit: 2, Overage: usage.Unlimited})
	k.grant(t, usage.Grant{Key: "more", Amount: 3})
	d = k.consume(t, 6)
	require.EqualValues(t, 1, d.Overage)
	require.EqualValues(t, usage.Unlimited, d.Remaining)
	// An unlimited quota leaves them alone.
	k.set(usage.Quota{Limit: usage.Unlimited})
	k.grant(t, usage.Grant{Key: "unneeded", Amount: 3})
	require.True(t, k.consume(t, 100).Allowed)
	require.Equal(t, map[string]int64{"unneeded": 3}, k.left(t))
	k.clean(t)
}

func grantOnce(t *testing.T, k *grantKit) {
	var wg sync.WaitGroup
	errs := make([]error, 16)
	for i := range errs {
		wg.Go(func() {
			_, errs[i] = k.svc.Grant(k.ctx, usage.Grant{Account: "acct", Meter: "credits", Key: "order-1", Amount: 5, Every: usage.Monthly})
		})
	}
	wg.Wait()
	require.NoError(t, errors.Join(errs...))
	k.now.Add(time.Hour)
	first := k.grant(t, usage.Grant{Key: "order-1", Amount: 5, Every: usage.Monthly})
	require.Equal(t, start, first.GrantedAt, "the first one's")
	require.Equal(t, map[string]int64{"order-1": 5}, k.left(t))
	for _, other := range []usage.Grant{{Amount: 6, Every: usage.Monthly}, {Amount: 5}, {Amount: 5, Every: usage.Monthly, Priority: 1}} {
		other.Account, other.Meter, other.Key = "acct", "credits", "order-1"
		_, err := k.svc.Grant(k.ctx, other)
		require.ErrorIs(t, err, usage.ErrKeyReused)
	}
	for _, scope := range []usage.Grant{{Account: "other", Meter: "credits"}, {Account: "acct", Meter: "kolekts"}} {
		scope.Key, scope.Amount = "order-1", 1
		_, err := k.svc.Grant(k.ctx, scope)
		require.NoError(t, err)
	}
	require.NotEmpty(t, k.grant(t, usage.Grant{Amount: 1}).Key, "one is made")
	for i := range usage.MaxGrants - 2 {
		k.grant(t, usage.Grant{Key: fmt.Sprint("many", i), Amount: 1})
	}
	_, err := k.svc.Grant(k.ctx, usage.Grant{Account: "acct", Meter: "credits", Amount: 1})
	require.ErrorIs(t, err, usage.ErrInvalid, "too many")
	k.clean(t)
}

func burnOrder(t *testing.T, k *grantKit) {
	k.set(usage.Calendar(0))
	day := 24 * time.Hour
	k.grant(t, usage.Grant{Key: "old", Amount: 1})
	k.now.Add(time.Second)
	k.grant(t, usage.Grant{Key: "young", Amount: 1})
	k.grant(t, usage.Grant{Key: "last", Amount: 1, Priority: 1, Expires: start.Add(day)})
	k.grant(t, usage.Grant{Key: "later", Amount: 1, Expires: start.Add(3 * day)})
	k.grant(t, usage.Grant{Key: "soon", Amount: 1, Expires: start.Add(2 * day)})
	k.grant(t, usage.Grant{Key: "first", Amount: 1, Priority: -1})
	k.grant(t, usage.Grant{Key: "to come", Amount: 1, Priority: -9, From: start.Add(time.Hour)})
	for _, want := range []string{"first", "soon", "later", "old", "young", "last"} {
		before := k.left(t)
		require.True(t, k.consume(t, 1).Allowed)
		after := k.left(t)
		require.Zero(t, after[want], want)
		delete(before, want)
		delete(after, want)
		require.Equal(t, before, after, want)
	}
	require.False(t, k.consume(t, 1).Allowed)
	k.now.Add(time.Hour)
	require.True(t, k.consume(t, 1).Allowed)
	k.clean(t)
}

func unitsGoBack(t *testing.T, k *grantKit) {
	k.set(usage.Calendar(2))
	k.grant(t, usage.Grant{Key: "a", Amount: 3, Expires: start.Add(time.Hour)})
	k.grant(t, usage.Grant{Key: "b", Amount: 4})
	r := k.reserve(t, 8, 0)
	require.True(t, r.Allowed)
	require.Equal(t, usage.Units{Issued: 7, Held: 6}, k.balance(t))
	require.NoError(t, r.Release(k.ctx))
	require.NoError(t, r.Release(k.ctx))
	require.Equal(t, map[string]int64{"a": 3, "b": 4}, k.left(t))

	r = k.reserve(t, 8, 0)
	found, err := k.svc.Reservation(k.ctx, "acct", r.Key)
	require.NoError(t, err)
	require.EqualValues(t, 9, found.Limit)
	d, err := found.Commit(k.ctx, 4)
	require.NoError(t, err)
	require.EqualValues(t, 4, d.Used)
	require.EqualValues(t, 5, d.Remaining)
	require.Equal(t, map[string]int64{"a": 1, "b": 4}, k.left(t), "the last ones drawn go back")

	r = k.reserve(t, 1, 0)
	d, err = r.Commit(k.ctx, 7)
	require.NoError(t, err)
	require.EqualValues(t, 2, d.Overage, "more than held draws on what there is, and the rest is beyond")
	require.Empty(t, k.left(t))
	require.Equal(t, usage.Units{Issued: 7, Burned: 7}, k.balance(t))
	k.clean(t)
}

func expiredHold(t *testing.T, k *grantKit) {
	k.set(usage.Calendar(0))
	k.grant(t, usage.Grant{Key: "a", Amount: 3})
	crashed := k.reserve(t, 3, time.Minute)
	require.False(t, k.consume(t, 1).Allowed)
	k.now.Add(time.Minute)
	require.True(t, k.consume(t, 2).Allowed)
	require.Equal(t, usage.Units{Issued: 3, Burned: 2}, k.balance(t))
	d, err := crashed.Commit(k.ctx, 2)
	require.NoError(t, err)
	require.True(t, d.Late)
	require.EqualValues(t, 1, d.Overage)
	k.grant(t, usage.Grant{Key: "b", Amount: 2})
	k.reserve(t, 2, time.Minute)
	k.now.Add(time.Minute)
	require.NoError(t, k.svc.Maintain(k.ctx))
	require.Equal(t, map[string]int64{"b": 2}, k.left(t))
	k.clean(t)
}

func heldBeyondExpiry(t *testing.T, k *grantKit) {
	k.set(usage.Calendar(0))
	k.grant(t, usage.Grant{Key: "a", Amount: 5, Expires: start.Add(time.Hour)})
	used, released := k.reserve(t, 2, 0), k.reserve(t, 1, 0)
	k.now.Add(time.Hour)
	require.Equal(t, usage.Units{Issued: 5, Held: 3, Expired: 2}, k.balance(t))
	d, err := used.Commit(k.ctx, 2)
	require.NoError(t, err)
	require.Zero(t, d.Overage)
	require.NoError(t, released.Release(k.ctx))
	require.Equal(t, usage.Units{Issued: 5, Burned: 2, Expired: 3}, k.balance(t))
	require.False(t, k.consume(t, 1).Allowed)
	past, err := k.svc.Balance(k.ctx, "acct", "credits", start.Add(time.Hour-time.Microsecond))
	require.NoError(t, err)
	require.Equal(t, usage.Units{Issued: 5, Held: 3}, past)
	past, err = k.svc.Balance(k.ctx, "acct", "credits", start.Add(-time.Microsecond))
	require.NoError(t, err)
	require.Zero(t, past)
	k.clean(t)
}

func revokedGrant(t *testing.T, k *grantKit) {
	k.set(usage.Calendar(0))
	k.grant(t, usage.Grant{Key: "a", Amount: 6, Every: usage.Daily, Rollover: usage.Unlimited})
	require.True(t, k.consume(t, 1).Allowed)
	held := k.reserve(t, 2, 0)
	for _, want := range []int64{3, 0} {
		voided, err := k.svc.Revoke(k.ctx, "acct", "credits", "a")
		require.NoError(t, err)
		require.Equal(t, want, voided)
	}
	require.False(t, k.consume(t, 1).Allowed)
	require.NoError(t, held.Release(k.ctx))
	require.Equal(t, usage.Units{Issued: 6, Burned: 1, Voided: 5}, k.balance(t))
	k.now.Add(72 * time.Hour)
	require.False(t, k.consume(t, 1).Allowed, "it doesn't recur")
	_, err := k.svc.Revoke(k.ctx, "acct", "credits", "never")
	require.ErrorIs(t, err, usage.ErrNotFound)
	// A grant that is used up can be revoked, and a correction doesn't revive it.
	k.grant(t, usage.Grant{Key: "b", Amount: 2})
	require.NoError(t, k.svc.Record(k.ctx, usage.Event{Account: "acct", Meter: "credits", Value: 2}))
	_, err = k.svc.Revoke(k.ctx, "acct", "credits", "b")
	require.NoError(t, err)
	require.NoError(t, k.svc.Record(k.ctx, usage.Event{Account: "acct", Meter: "credits", Value: -2}))
	require.False(t, k.consume(t, 1).Allowed)
	k.clean(t)
}

func recurringGrant(t *testing.T, k *grantKit) {
	k.set(usage.Calendar(0))
	day := 24 * time.Hour
	k.grant(t, usage.Grant{Key: "daily", Amount: 10, Every: usage.Daily, Rollover: 4, Expires: start.Add(4*day + time.Hour)})
	require.True(t, k.consume(t, 3).Allowed)
	r := k.reserve(t, 2, 0)
	k.now.Add(day) // 5 left and 2 held: 4 roll over, 1 is gone
	require.Equal(t, map[string]int64{"daily": 14}, k.left(t))
	require.NoError(t, r.Release(k.ctx))
	require.Equal(t, map[string]int64{"daily": 14}, k.left(t), "no more rolls over than if it had never been held")
	k.now.Add(2 * day) // nobody looks for a day
	require.Equal(t, usage.Units{Issued: 40, Carried: 12, Burned: 3, Expired: 23, Rolled: 12}, k.balance(t))
	require.False(t, k.consume(t, 15).Allowed)
	require.True(t, k.consume(t, 14).Allowed)
	k.now.Add(day) // nothing rolls over, and this one lasts an hour
	require.Equal(t, map[string]int64{"daily": 10}, k.left(t))
	k.now.Add(time.Hour)
	require.Empty(t, k.left(t))
	require.False(t, k.consume(t, 1).Allowed)
	require.NoError(t, k.svc.Maintain(k.ctx))
	audit := k.clean(t)
	require.Positive(t, audit.Counters)
	var expired []time.Time
	for e, err := range k.svc.GrantHistory(k.ctx, "acct", "credits", start, start.Add(9*day)) {
		require.NoError(t, err)
		if e.Move == usage.MoveExpire {
			expired = append(expired, e.At)
		}
	}
	require.Contains(t, expired, start.Add(2*day), "however late it was noticed")
}

func recordedDraws(t *testing.T, k *grantKit) {
	k.set(usage.Calendar(2))
	k.grant(t, usage.Grant{Key: "a", Amount: 3, Priority: -1})
	k.grant(t, usage.Grant{Key: "b", Amount: 4})
	record := func(v int64) {
		require.NoError(t, k.svc.Record(k.ctx, usage.Event{Account: "acct", Meter: "credits", Value: v}))
	}
	record(6)
	require.Equal(t, map[string]int64{"b": 3}, k.left(t))
	record(5) // 2 beyond everything
	d, err := k.svc.Quota(k.ctx, "acct", "credits")
	require.NoError(t, err)
	require.EqualValues(t, 2, d.Overage)
	require.Zero(t, d.Remaining)
	record(-1)
	require.Empty(t, k.left(t), "first what was beyond")
	record(-6) // 1 beyond, 4 of b, 1 of a
	require.Equal(t, map[string]int64{"a": 1, "b": 4}, k.left(t))
	record(-3) // 2 of a, 1 of the quota's own
	require.Equal(t, map[string]int64{"a": 3, "b": 4}, k.left(t))
	d, err = k.svc.Quota(k.ctx, "acct", "credits")
	require.NoError(t, err)
	require.EqualValues(t, 1, d.Used)
	require.EqualValues(t, 8, d.Remaining)
	d, err = k.svc.Consume(k.ctx, usage.Request{Account: "acct", Meter: "credits", N: 3, Key: "x", Record: true})
	require.NoError(t, err)
	require.True(t, d.Allowed)
	require.Equal(t, map[string]int64{"a": 1, "b": 4}, k.left(t))
	k.clean(t)
}

func (k *grantKit) told(t testing.TB) (out []string) {
	t.Helper()
	_, err := k.svc.DeliverNotices(k.ctx, func(_ context.Context, n usage.Notice) error {
		out = append(out, fmt.Sprintf("%d%% of %d at %d", n.Percent, n.Limit, n.Used))
		return nil
	})
	require.NoError(t, err)
	return out
}

func (k *grantKit) near(t testing.TB) (out []string) {
	t.Helper()
	counters, err := k.svc.NearLimit(k.ctx, "credits", 80, 10)
	require.NoError(t, err)
	for _, c := range counters {
		out = append(out, fmt.Sprintf("%d of %d", c.Used, c.Limit))
	}
	return out
}

func grantThresholds(t *testing.T, k *grantKit) {
	k.consume(t, 8)
	require.Equal(t, []string{"80% of 10 at 8"}, k.told(t))
	require.Equal(t, []string{"8 of 10"}, k.near(t))
	k.grant(t, usage.Grant{Key: "a", Amount: 10})
	require.Empty(t, k.near(t), "the grant counts in at once")
	k.consume(t, 5)
	require.Empty(t, k.told(t))
	require.NoError(t, k.svc.Record(k.ctx, usage.Event{Account: "acct", Meter: "credits", Value: 4}))
	require.Empty(t, k.told(t), "80% has been told for this period")
	require.Equal(t, []string{"17 of 20"}, k.near(t))
	require.NoError(t, k.svc.Record(k.ctx, usage.Event{Account: "acct", Meter: "credits", Value: 3}))
	require.Equal(t, []string{"100% of 20 at 20"}, k.told(t))
	k.clean(t)
}

func lapsingThresholds(t *testing.T, k *grantKit) {
	k.grant(t, usage.Grant{Key: "a", Amount: 90, Expires: start.Add(time.Hour)})
	k.consume(t, 9)
	require.Empty(t, k.told(t))
	k.now.Add(time.Hour)
	require.NoError(t, k.svc.Maintain(k.ctx))
	require.Equal(t, []string{"80% of 10 at 9"}, k.told(t))
	require.Equal(t, []string{"9 of 10"}, k.near(t))
	// A revoked one too.
	k.grant(t, usage.Grant{Key: "b", Amount: 5})
	k.consume(t, 3)
	require.Empty(t, k.told(t))
	_, err := k.svc.Revoke(k.ctx, "acct", "credits", "b")
	require.NoError(t, err)
	require.Equal(t, []string{"100% of 12 at 12"}, k.told(t))
	// And the next step, where nobody has maintained.
	k.now.Add(march.To.Sub(k.now.Now()))
	k.grant(t, usage.Grant{Key: "c", Amount: 90, Expires: march.To.Add(time.Hour)})
	k.consume(t, 8)
	k.now.Add(time.Hour)
	k.consume(t, 1)
	require.Equal(t, []string{"80% of 10 at 9"}, k.told(t))
	k.clean(t)
}

func grantsExact(t *testing.T, k *grantKit) {
	const limit = 100
	k.set(usage.Calendar(limit))
	var granted, admitted atomic.Int64
	race(t, func(ctx context.Context, w, i int) error {
		n := int64(1 + (w+i)%3)
		if i%5 == 0 {
			_, err := k.svc.Grant(ctx, usage.Grant{Account: "acct", Meter: "credits", Key: fmt.Sprint(w, ".", i), Amount: n, Priority: int32(w)})
			granted.Add(n)
			return err
		}
		if i%5 == 1 {
			r, err := k.svc.Reserve(ctx, usage.Request{Account: "acct", Meter: "credits", N: 5})
			if err != nil || !r.Allowed {
				return err
			}
			if w%2 == 0 {
				return r.Release(ctx)
			}
			_, err = r.Commit(ctx, n)
			admitted.Add(n)
			return err
		}
		d, err := k.svc.Consume(ctx, usage.Request{Account: "acct", Meter: "credits", N: n})
		if err == nil && d.Allowed {
			admitted.Add(n)
		}
		return err
	})
	for k.consume(t, 1).Allowed {
		admitted.Add(1)
	}
	require.Equal(t, limit+granted.Load(), admitted.Load())
	require.Equal(t, usage.Units{Issued: granted.Load(), Burned: granted.Load()}, k.balance(t))
	c, err := k.store.Counter(k.ctx, "acct", "credits", march)
	require.NoError(t, err)
	require.Equal(t, admitted.Load(), c.Used)
	require.Equal(t, granted.Load(), c.Drawn)
	require.Zero(t, c.DrawnHeld)
	k.clean(t)
}

func grantsErased(t *testing.T, k *grantKit) {
	k.set(usage.Calendar(0))
	k.grant(t, usage.Grant{Key: "a", Amount: 3})
	k.reserve(t, 2, 0)
	_, err := k.svc.Grant(k.ctx, usage.Grant{Account: "other", Meter: "credits", Amount: 3})
	require.NoError(t, err)
	got := map[string]int64{}
	require.NoError(t, k.svc.ExportSubject(k.ctx, "acct", func(record string, fields map[string]any) error {
		got[record]++
		require.NotEmpty(t, fields)
		return nil
	}))
	want := map[string]int64{"counter": 1, "reservation": 1, "grant": 1, "grant_entry": 2}
	require.Equal(t, want, got)
	erased, err := k.svc.EraseSubject(k.ctx, "acct")
	require.NoError(t, err)
	for record, n := range want {
		require.Equal(t, n, erased[record], record)
	}
	require.Zero(t, k.balance(t))
	require.False(t, k.consume(t, 1).Allowed)
	lots, err := k.svc.Grants(k.ctx, "other", "credits")
	require.NoError(t, err)
	require.Len(t, lots, 1)
	k.clean(t)
}

// grantHistories runs random histories beside a model that moves each unit by
// itself and each border at its time.
func grantHistories(t *testing.T, k *grantKit) {
	n := 0
	rapid.Check(t, func(t *rapid.T) {
		n++
		k.now.Add(start.Sub(k.now.Now()))
		h := &grantHistory{t: t, k: k, m: newGrantModel(start), account: fmt.Sprint("acct", n)}
		h.run()
	})
	k.clean(t)
}

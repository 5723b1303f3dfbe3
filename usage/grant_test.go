package usage_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/usage"
	"github.com/kolekt/commerce/usage/usagemem"
)

// quotasOnly is a store that decides about quotas without grants.
type quotasOnly struct{ usage.QuotaStore }

func granting(t testing.TB, quota usage.Quota, now func() time.Time) *usage.Service {
	t.Helper()
	svc, err := usage.New(usagemem.New(), usage.Config{
		Meters: []usage.Meter{{Name: "credits", Aggregation: usage.Sum, Quota: true}, {Name: "level", Aggregation: usage.Latest}},
		Quota:  func(context.Context, string, string) (usage.Quota, error) { return quota, nil },
		Now:    now,
	})
	require.NoError(t, err)
	return svc
}

func TestGrantsAreChecked(t *testing.T) {
	now := at("2026-03-10T12:00:00Z")
	svc := granting(t, usage.Calendar(1), func() time.Time { return now })
	good := usage.Grant{Account: "a", Meter: "credits", Key: "k", Amount: 1}
	for text, change := range map[string]func(*usage.Grant){
		"Amount":           func(g *usage.Grant) { g.Amount = 0 },
		"2^53":             func(g *usage.Grant) { g.Amount = usage.MaxValue + 1 },
		"account":          func(g *usage.Grant) { g.Account = "" },
		"Key":              func(g *usage.Grant) { g.Key = "\xff" },
		"Note":             func(g *usage.Grant) { g.Note = strings.Repeat("x", 201) },
		"has passed":       func(g *usage.Grant) { g.From, g.Expires = now.AddDate(0, -2, 0), now },
		"not before":       func(g *usage.Grant) { g.From, g.Expires = now.AddDate(0, 2, 0), now.AddDate(0, 1, 0) },
		"unknown interval": func(g *usage.Grant) { g.Every = "fortnight" },
		"with Every":       func(g *usage.Grant) { g.Rollover = 1 },
		"neither":          func(g *usage.Grant) { g.Every, g.Rollover = usage.Daily, -2 },
		"count or sum":     func(g *usage.Grant) { g.Meter = "level" },
	} {
		g := good
		change(&g)
		_, err := svc.Grant(t.Context(), g)
		require.ErrorIs(t, err, usage.ErrInvalid, text)
		require.ErrorContains(t, err, text)
	}
	good.Meter = "none"
	_, err := svc.Grant(t.Context(), good)
	require.ErrorIs(t, err, usage.ErrUnknownMeter)
	_, err = svc.Revoke(t.Context(), "a", "none", "k")
	require.ErrorIs(t, err, usage.ErrUnknownMeter)
	_, err = svc.Grants(t.Context(), "a", "none")
	require.ErrorIs(t, err, usage.ErrUnknownMeter)
	_, err = svc.Balance(t.Context(), "a", "none", now)
	require.ErrorIs(t, err, usage.ErrUnknownMeter)
}

func TestAStoreWithoutGrantsSaysSo(t *testing.T) {
	svc, err := usage.New(usagemem.New(), usage.Config{
		Meters: []usage.Meter{{Name: "credits", Aggregation: usage.Sum}},
		Quota:  func(context.Context, string, string) (usage.Quota, error) { return usage.Calendar(5), nil },
		Quotas: quotasOnly{usagemem.New()},
	})
	require.NoError(t, err)
	ctx, now := t.Context(), time.Now()
	_, err = svc.Grant(ctx, usage.Grant{Account: "a", Meter: "credits", Amount: 1})
	require.ErrorIs(t, err, usage.ErrUnsupported)
	_, err = svc.Revoke(ctx, "a", "credits", "k")
	require.ErrorIs(t, err, usage.ErrUnsupported)
	_, err = svc.Grants(ctx, "a", "credits")
	require.ErrorIs(t, err, usage.ErrUnsupported)
	_, err = svc.Balance(ctx, "a", "credits", now)
	require.ErrorIs(t, err, usage.ErrUnsupported)
	for _, err := range svc.GrantHistory(ctx, "a", "credits", now, now) {
		require.ErrorIs(t, err, usage.ErrUnsupported)
	}
	d, err := svc.Quota(ctx, "a", "credits")
	require.NoError(t, err)
	require.EqualValues(t, 5, d.Limit)
	require.NoError(t, svc.Maintain(ctx))
}

// A billing year on the 31st, with credits that roll over, in milliseconds.
func TestABillingYearOfGrants(t *testing.T) {
	ctx := t.Context()
	clock := &movable{t: at("2026-01-31T09:30:00Z")}
	svc := granting(t, usage.Quota{Limit: 5, Anchor: clock.now()}, clock.now)
	_, err := svc.Grant(ctx, usage.Grant{Account: "a", Meter: "credits", Key: "plan credits", Amount: 20, Every: usage.Monthly, Rollover: 30})
	require.NoError(t, err)
	var resets []string
	var left []int64
	for range 12 {
		d, err := svc.Quota(ctx, "a", "credits")
		require.NoError(t, err)
		resets = append(resets, d.Reset().Format("Jan 2 15:04"))
		left = append(left, d.Remaining)
		d, err = svc.Consume(ctx, usage.Request{Account: "a", Meter: "credits", N: 10})
		require.NoError(t, err)
		require.True(t, d.Allowed)
		lots, err := svc.Grants(ctx, "a", "credits")
		require.NoError(t, err)
		require.Len(t, lots, 1)
		require.Equal(t, d.Reset(), lots[0].End, "quota and grant start anew together")
		clock.set(d.Reset())
	}
	require.Equal(t, []string{
		"Feb 28 09:30", "Mar 31 09:30", "Apr 30 09:30", "May 31 09:30", "Jun 30 09:30", "Jul 31 09:30",
		"Aug 31 09:30", "Sep 30 09:30", "Oct 31 09:30", "Nov 30 09:30", "Dec 31 09:30", "Jan 31 09:30",
	}, resets)
	// 15 of 20 are left at the end of the first month, then as many as may stay.
	require.Equal(t, []int64{25, 40, 55, 55, 55, 55, 55, 55, 55, 55, 55, 55}, left)
	u, err := svc.Balance(ctx, "a", "credits", clock.now())
	require.NoError(t, err)
	require.Equal(t, usage.Units{Issued: 260, Carried: 15 + 11*30, Rolled: 15 + 11*30, Burned: 60, Expired: 150}, u)
	require.EqualValues(t, 50, u.Remaining())
	u, err = svc.Balance(ctx, "a", "credits", at("2026-03-31T09:29:59Z"))
	require.NoError(t, err)
	require.EqualValues(t, 30, u.Remaining(), "at a past instant")
	audit, err := svc.Audit(ctx)
	require.NoError(t, err)
	require.Empty(t, audit.Differences)
}

func TestExplainShowsGrants(t *testing.T) {
	ctx := t.Context()
	clock := &movable{t: at("2026-02-10T12:00:00Z")}
	svc := granting(t, usage.Quota{Limit: 10, Anchor: at("2025-12-31T00:00:00Z")}, clock.now)
	for _, g := range []usage.Grant{
		{Key: "welcome", Amount: 5, Expires: at("2026-02-20T00:00:00Z"), Note: "a welcome"},
		{Key: "pack", Amount: 100, Priority: 1},
		{Key: "daily", Amount: 3, Priority: 2, Every: usage.Daily, Rollover: 2},
		{Key: "kept", Amount: 3, Priority: 3, Every: usage.Daily, Rollover: usage.Unlimited},
	} {
		g.Account, g.Meter = "a", "credits"
		_, err := svc.Grant(ctx, g)
		require.NoError(t, err)
	}
	clock.set(at("2026-02-11T12:00:00Z"))
	_, err := svc.Consume(ctx, usage.Request{Account: "a", Meter: "credits", N: 12})
	require.NoError(t, err)
	r, err := svc.Reserve(ctx, usage.Request{Account: "a", Meter: "credits", Key: "r1", N: 1})
	require.NoError(t, err)
	e, err := svc.Explain(ctx, "a", "credits")
	require.NoError(t, err)
	require.Equal(t, `credits: 12 of 126 used, by 0 events (0) and 12 without an event; 1 held by 1 reservations
the limit is 10 of the quota and 116 of grants, of which 3 are drawn
starts anew at 2026-02-28T00:00:00Z, because the anchor is the 31. and the month is shorter
grant welcome has 2 left of 5 until 2026-02-20T00:00:00Z: a welcome
grant pack has 100 left of 100, which last
grant daily has 5 left of 5 (2 carried over) until 2026-02-12T12:00:00Z, when 3 more come and at most 2 of these stay
grant kept has 6 left of 6 (3 carried over) until 2026-02-12T12:00:00Z, when 3 more come and all of these stay
reservation r1 holds 1 until 2026-02-11T12:15:00Z`, e.String())
	require.NoError(t, r.Release(ctx))
}

func TestTheQuotaEndpointShowsGrants(t *testing.T) {
	svc, h := web(t, 10)
	_, err := svc.Grant(t.Context(), usage.Grant{Account: "acct_1", Meter: "kolekts", Key: "gift", Amount: 5, Note: "thanks", Every: usage.Monthly, Rollover: 2})
	require.NoError(t, err)
	status, got, body := ask(t, h, "GET", "/quota?meter=kolekts", "")
	require.Equal(t, 200, status, body)
	require.EqualValues(t, 15, got["limit"])
	require.EqualValues(t, 5, got["granted"])
	want := `[{"key":"gift","note":"thanks","remaining":5,"held":0,"start":"2026-03-10T12:00:00Z","end":"2026-04-10T12:00:00Z","next":5,"rollover":2}]`
	grants, err := json.Marshal(got["grants"])
	require.NoError(t, err)
	require.JSONEq(t, want, string(grants))
	_, got, _ = ask(t, h, "GET", "/quota?meter=kolekts", "", "X-Account", "acct_2")
	require.Equal(t, []any{}, got["grants"])
}

func TestGrantMovesHaveNames(t *testing.T) {
	text, err := json.Marshal(usage.GrantEntry{Move: usage.MoveExpire})
	require.NoError(t, err)
	require.Contains(t, string(text), `"move":"expire"`)
	require.Equal(t, "GrantMove(99)", usage.GrantMove(99).String())
}

// A quota that can't be looked up doesn't undo a grant, nor keep others from
// ending.
func TestGrantsWithoutAQuota(t *testing.T) {
	ctx := t.Context()
	clock := &movable{t: at("2026-03-10T12:00:00Z")}
	broken := errors.New("out of reach")
	var answer error
	svc, err := usage.New(usagemem.New(), usage.Config{
		Meters: []usage.Meter{{Name: "credits"}},
		Quota:  func(context.Context, string, string) (usage.Quota, error) { return usage.Calendar(1), answer },
		Now:    clock.now,
		Logger: slog.New(slog.DiscardHandler),
	})
	require.NoError(t, err)
	answer = broken
	_, err = svc.Grant(ctx, usage.Grant{Account: "a", Meter: "credits", Key: "k", Amount: 1, Expires: clock.now().Add(time.Hour)})
	require.NoError(t, err)
	clock.set(clock.now().Add(time.Hour))
	require.ErrorIs(t, svc.Maintain(ctx), broken)
	answer = fmt.Errorf("%w for it", usage.ErrNoQuota)
	require.NoError(t, svc.Maintain(ctx))
	u, err := svc.Balance(ctx, "a", "credits", clock.now())
	require.NoError(t, err)
	require.Equal(t, usage.Units{Issued: 1, Expired: 1}, u)
}

// Credits beside a plan's quota: the plan's own are used first.
func ExampleService_Grant() {
	ctx := context.Background()
	svc, err := usage.New(usagemem.New(), usage.Config{
		Meters: []usage.Meter{{Name: "kolekts"}},
		Quota:  func(context.Context, string, string) (usage.Quota, error) { return usage.Calendar(10), nil },
		Now:    clock("2026-03-10T12:00:00Z"),
	})
	if err != nil {
		panic(err)
	}
	_, err = svc.Grant(ctx, usage.Grant{Account: "acct_1", Meter: "kolekts", Key: "order-17", Amount: 50, Note: "pack of 50"})
	if err != nil {
		panic(err)
	}
	d, err := svc.Consume(ctx, usage.Request{Account: "acct_1", Meter: "kolekts", N: 12})
	if err != nil {
		panic(err)
	}
	u, err := svc.Balance(ctx, "acct_1", "kolekts", d.Period.To)
	if err != nil {
		panic(err)
	}
	fmt.Printf("%d of %d used, %d of the pack are left\n", d.Used, d.Limit, u.Remaining())
	// Output: 12 of 60 used, 48 of the pack are left
}

// Package referraltest is the contract of package referral's stores as tests:
// run TestStore on a store of your own.
package referraltest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kolekt/commerce/referral"
)

var start = time.Date(2026, 3, 2, 9, 0, 0, 123456000, time.UTC)

// campaign is what the attempts of the suite are of.
const campaign = "friends"

func code(text, account string, maxUses int64) referral.Code {
	return referral.Code{Text: text, Campaign: campaign, Account: account, Active: true, MaxUses: maxUses, CreatedAt: start}
}

func attempt(text, referee string, signals ...referral.Signal) referral.Attempt {
	id := "rdm_" + text + "_" + referee
	r := referral.Redemption{
		ID: id, Campaign: campaign, Code: text, Referee: referee, State: referral.RedemptionPending,
		Terms: referral.Campaign{ID: campaign, Version: 3, Referrer: referral.Benefit{FreeMonths: 1}}, CreatedAt: start, ChangedAt: start, ClosesAt: start.AddDate(0, 3, 0),
	}
	return referral.Attempt{
		Redemption: r, Signals: signals, Now: start,
		Rewards: []referral.Reward{
			{ID: id + "_e", Redemption: id, Campaign: campaign, Account: referee, Side: referral.Referee, Benefit: referral.Benefit{PercentOff: 50}, State: referral.RewardPending, CreatedAt: start, ChangedAt: start},
			{ID: id + "_r", Redemption: id, Campaign: campaign, Side: referral.Referrer, Benefit: referral.Benefit{FreeMonths: 1}, State: referral.RewardPending, CreatedAt: start, ChangedAt: start, MonthsLeft: 1},
		},
	}
}

// TestStore checks that a store keeps the contract of referral.Store. NewStore
// returns an empty store for each subtest.
func TestStore(t *testing.T, newStore func(t *testing.T) referral.Store) {
	ctx := context.Background()
	must := func(t *testing.T, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("unexpected error: %v", err)
		}
	}
	is := func(t *testing.T, err, want error) {
		t.Helper()
		if !errors.Is(err, want) {
			t.Fatalf("error: got %v, want %v", err, want)
		}
	}
	same := func(t *testing.T, what string, got, want any) {
		t.Helper()
		if g, w := fmt.Sprintf("%+v", got), fmt.Sprintf("%+v", want); g != w {
			t.Fatalf("%s:\n got %s\nwant %s", what, g, w)
		}
	}
	create := func(t *testing.T, s referral.Store, c referral.Code) {
		t.Helper()
		_, err := s.CreateCode(ctx, c)
		must(t, err)
	}
	parallel := func(n int, do func(i int) error) []error {
		errs := make([]error, n)
		var wg sync.WaitGroup
		gate := make(chan struct{})
		for i := range n {
			wg.Go(func() { <-gate; errs[i] = do(i) })
		}
		close(gate)
		wg.Wait()
		return errs
	}
	successes := func(t *testing.T, errs []error, refusal error) (n int) {
		t.Helper()
		for _, err := range errs {
			if err == nil {
				n++
			} else {
				is(t, err, refusal)
			}
		}
		return n
	}

	t.Run("AnAccountHasOneActiveCodeInACampaign", func(t *testing.T) {
		s := newStore(t)
		texts := make([]string, 16)
		errs := parallel(16, func(i int) error {
			c, err := s.CreateCode(ctx, code(fmt.Sprintf("CODE%02d", i), "ada", 10))
			texts[i] = c.Text
			return err
		})
		for i, err := range errs {
			must(t, err)
			same(t, "code", texts[i], texts[0])
		}
		got, err := s.CodeOf(ctx, campaign, "ada")
		must(t, err)
		same(t, "stored", got, code(texts[0], "ada", 10))
		_, err = s.CreateCode(ctx, code(texts[0], "bob", 10))
		is(t, err, referral.ErrCodeTaken)
		_, err = s.CodeOf(ctx, campaign, "bob")
		is(t, err, referral.ErrUnknownCode)
		other := code("OTHER", "ada", 0)
		other.Campaign = "other"
		create(t, s, other)
	})

	t.Run("RotationDisablesTheOldCodeAndNeverReusesIt", func(t *testing.T) {
		s := newStore(t)
		create(t, s, code("FIRST", "ada", 10))
		_, err := s.RotateCode(ctx, code("SECOND", "ada", 10))
		must(t, err)
		old, err := s.Code(ctx, "FIRST")
		must(t, err)
		same(t, "old is active", old.Active, false)
		_, err = s.RotateCode(ctx, code("FIRST", "bob", 10))
		is(t, err, referral.ErrCodeTaken)
		_, err = s.RotateCode(ctx, code("FIRST", "ada", 10))
		is(t, err, referral.ErrCodeTaken)
		now, err := s.CodeOf(ctx, campaign, "ada")
		must(t, err)
		same(t, "a refused rotation changes nothing", now.Text, "SECOND")
		must(t, s.DisableCode(ctx, "SECOND"))
		is(t, s.DisableCode(ctx, "NONE"), referral.ErrUnknownCode)
		errs := parallel(8, func(i int) error { _, err := s.RotateCode(ctx, code(fmt.Sprintf("R%d000", i), "ada", 10)); return err })
		for _, err := range errs {
			must(t, err)
		}
		_, err = s.CodeOf(ctx, campaign, "ada")
		must(t, err)
	})

	t.Run("ARedemptionIsStoredAsItWasDecided", func(t *testing.T) {
		s := newStore(t)
		create(t, s, code("CODE", "ada", 10))
		a := attempt("CODE", "bob", referral.Signal{Kind: "card", Hash: "1"})
		got, err := s.Redeem(ctx, a)
		must(t, err)
		want := a.Redemption
		want.Referrer, want.Version = "ada", 1
		same(t, "returned", got, want)
		for _, find := range []func() (referral.Redemption, error){
			func() (referral.Redemption, error) { return s.Redemption(ctx, want.ID) },
			func() (referral.Redemption, error) { return s.RedemptionOf(ctx, "bob") },
		} {
			got, err = find()
			must(t, err)
			same(t, "stored", got, want)
		}
		rewards, err := s.Rewards(ctx, referral.RewardFilter{Redemption: want.ID})
		must(t, err)
		same(t, "rewards", len(rewards), 2)
		wr := a.Rewards[1]
		wr.Account, wr.Version = "ada", 1
		same(t, "the referrer's", rewards[1], wr)
		c, err := s.Code(ctx, "CODE")
		must(t, err)
		same(t, "uses", c.Uses, 1)
		_, err = s.Redemption(ctx, "none")
		is(t, err, referral.ErrNotFound)
		_, err = s.RedemptionOf(ctx, "ada")
		is(t, err, referral.ErrNotFound)
	})

	for _, uses := range []int64{1, 10} {
		t.Run(fmt.Sprintf("ParallelRedemptionsNeverExceed%dUses", uses), func(t *testing.T) {
			s := newStore(t)
			create(t, s, code("CODE", "ada", uses))
			errs := parallel(100, func(i int) error {
				_, err := s.Redeem(ctx, attempt("CODE", fmt.Sprintf("user%03d", i), referral.Signal{Kind: "card", Hash: fmt.Sprint(i)}))
				return err
			})
			same(t, "redeemed", successes(t, errs, referral.ErrExhausted), uses)
			list, err := s.Redemptions(ctx, referral.RedemptionFilter{Campaign: campaign, Limit: 1000})
			must(t, err)
			same(t, "redemptions", len(list), uses)
			rewards, err := s.Rewards(ctx, referral.RewardFilter{Limit: 1000})
			must(t, err)
			same(t, "rewards", len(rewards), 2*uses)
			c, err := s.Code(ctx, "CODE")
			must(t, err)
			same(t, "uses", c.Uses, uses)
		})
	}

	t.Run("TheSameAttemptAgainIsTheFirstOne", func(t *testing.T) {
		s := newStore(t)
		create(t, s, code("CODE", "ada", 10))
		errs := parallel(32, func(int) error {
			r, err := s.Redeem(ctx, attempt("CODE", "bob"))
			if err == nil && r.Referrer != "ada" {
				return errors.New("another redemption")
			}
			return err
		})
		for _, err := range errs {
			must(t, err)
		}
		c, err := s.Code(ctx, "CODE")
		must(t, err)
		same(t, "uses", c.Uses, 1)
		must(t, s.DisableCode(ctx, "CODE"))
		_, err = s.Redeem(ctx, attempt("CODE", "bob"))
		must(t, err)
	})

	t.Run("AnAccountIsReferredOnceEver", func(t *testing.T) {
		s := newStore(t)
		for i := range 16 {
			create(t, s, code(fmt.Sprintf("CODE%02d", i), fmt.Sprintf("owner%02d", i), 10))
		}
		errs := parallel(16, func(i int) error {
			_, err := s.Redeem(ctx, attempt(fmt.Sprintf("CODE%02d", i), "bob"))
			return err
		})
		same(t, "redeemed", successes(t, errs, referral.ErrAlreadyReferred), 1)
		var uses int64
		for i := range 16 {
			c, err := s.Code(ctx, fmt.Sprintf("CODE%02d", i))
			must(t, err)
			uses += c.Uses
		}
		same(t, "a refusal uses nothing up; uses", uses, 1)
	})

	t.Run("RefusalsSayWhyAndStoreNothing", func(t *testing.T) {
		s := newStore(t)
		card := referral.Signal{Kind: "card", Hash: "adas"}
		create(t, s, code("CODE", "ada", 10))
		must(t, s.PutSignals(ctx, "ada", []referral.Signal{card}, start))
		must(t, s.PutSignals(ctx, "ada", []referral.Signal{card}, start))
		ended := code("ENDED", "eve", 10)
		ended.ExpiresAt = start
		create(t, s, ended)
		create(t, s, code("OFF", "dan", 10))
		must(t, s.DisableCode(ctx, "OFF"))
		for name, tt := range map[string]struct {
			attempt referral.Attempt
			want    error
		}{
			"unknown":              {attempt("NONE", "bob"), referral.ErrUnknownCode},
			"own code":             {attempt("CODE", "ada"), referral.ErrSelf},
			"own card":             {attempt("CODE", "ada2", card), referral.ErrSelf},
			"ended":                {attempt("ENDED", "bob"), referral.ErrExpired},
			"disabled":             {attempt("OFF", "bob"), referral.ErrDisabled},
			"another's card is ok": {attempt("CODE", "zoe", referral.Signal{Kind: "card", Hash: "zoes"}), nil},
		} {
			_, err := s.Redeem(ctx, tt.attempt)
			if tt.want == nil {
				must(t, err)
				continue
			}
			if !errors.Is(err, tt.want) {
				t.Fatalf("%s: got %v, want %v", name, err, tt.want)
			}
			if _, err := s.Redemption(ctx, tt.attempt.Redemption.ID); !errors.Is(err, referral.ErrNotFound) {
				t.Fatalf("%s: stored in spite of the refusal", name)
			}
		}
	})

	t.Run("AccountsDoNotReferEachOther", func(t *testing.T) {
		s := newStore(t)
		for _, who := range []string{"a", "b", "c"} {
			create(t, s, code(strings.ToUpper(who)+"CODE", who, 10))
		}
		errs := parallel(2, func(i int) error {
			_, err := s.Redeem(ctx, attempt([]string{"ACODE", "BCODE"}[i], []string{"b", "a"}[i]))
			return err
		})
		same(t, "of two that click at once", successes(t, errs, referral.ErrCycle), 1)

		s = newStore(t)
		for _, who := range []string{"a", "b", "c", "d"} {
			create(t, s, code(strings.ToUpper(who)+"CODE", who, 10))
		}
		for _, step := range [][2]string{{"ACODE", "b"}, {"BCODE", "c"}, {"CCODE", "d"}} {
			_, err := s.Redeem(ctx, attempt(step[0], step[1]))
			must(t, err)
		}
		_, err := s.Redeem(ctx, attempt("DCODE", "a"))
		is(t, err, referral.ErrCycle)
	})

	t.Run("CapsAndBudgetsHoldAndARefusalUsesNothingUp", func(t *testing.T) {
		s := newStore(t)
		create(t, s, code("CODE", "ada", 0))
		errs := parallel(40, func(i int) error {
			a := attempt("CODE", fmt.Sprintf("user%02d", i))
			a.CapKey, a.Cap = "friends:2026", 7
			_, err := s.Redeem(ctx, a)
			return err
		})
		same(t, "within the cap", successes(t, errs, referral.ErrCapped), 7)
		c, err := s.Code(ctx, "CODE")
		must(t, err)
		same(t, "uses", c.Uses, 7)

		s = newStore(t)
		create(t, s, code("CODE", "ada", 0))
		errs = parallel(40, func(i int) error {
			a := attempt("CODE", fmt.Sprintf("user%02d", i))
			a.Budget, a.Cost = 1000, 300
			_, err := s.Redeem(ctx, a)
			return err
		})
		same(t, "within the budget", successes(t, errs, referral.ErrBudget), 3)
	})

	t.Run("ASharedSignalAsksForAReviewHoweverManyComeAtOnce", func(t *testing.T) {
		s := newStore(t)
		create(t, s, code("CODE", "ada", 0))
		card := referral.Signal{Kind: "card", Hash: "x"}
		errs := parallel(20, func(i int) error {
			_, err := s.Redeem(ctx, attempt("CODE", fmt.Sprintf("user%02d", i), card))
			return err
		})
		same(t, "redeemed", successes(t, errs, nil), 20)
		review, err := s.Redemptions(ctx, referral.RedemptionFilter{State: referral.RedemptionReview})
		must(t, err)
		same(t, "under review", len(review), 19)
		same(t, "reasons", review[0].Reasons, []string{"same card"})
		n, err := s.ExpireSignals(ctx, start.Add(time.Second))
		must(t, err)
		same(t, "expired", n, 1)
	})

	t.Run("AMoveStartsFromItsStateAndTakesTheRewardsAlong", func(t *testing.T) {
		s := newStore(t)
		create(t, s, code("CODE", "ada", 10))
		r, err := s.Redeem(ctx, attempt("CODE", "bob"))
		must(t, err)
		r.State, r.ChangedAt, r.PaidBy, r.PaidAmount, r.Currency, r.Reasons = referral.RedemptionQualified, start.Add(time.Minute), "in_1", 999, "USD", []string{"x"}
		r.Refunded = 5
		tier := referral.Benefit{FreeMonths: 3}
		moves := []referral.RewardMove{{Side: referral.Referrer, From: []referral.RewardState{referral.RewardPending}, To: referral.RewardQualified, VestsAt: start.AddDate(0, 1, 0), Benefit: func(int64) referral.Benefit { return tier }}}
		errs := parallel(16, func(int) error {
			return s.MoveRedemption(ctx, r, moves)
		})
		same(t, "moved", successes(t, errs, referral.ErrConflict), 1)
		got, err := s.Redemption(ctx, r.ID)
		must(t, err)
		r.Version = 2
		same(t, "redemption", got, r)
		r.Version = 1
		rw, err := s.Reward(ctx, r.ID, referral.Referrer)
		must(t, err)
		same(t, "reward", []any{rw.State, rw.VestsAt, rw.Benefit, rw.MonthsLeft, rw.Version}, []any{referral.RewardQualified, start.AddDate(0, 1, 0), tier, 3, 2})
		other, err := s.Reward(ctx, r.ID, referral.Referee)
		must(t, err)
		same(t, "the other side", other.State, referral.RewardPending)
		is(t, s.MoveRedemption(ctx, r, nil), referral.ErrConflict)
		r.Version = 2
		r.State = referral.RedemptionReview
		must(t, s.MoveRedemption(ctx, r, nil))
		r.ID = "none"
		is(t, s.MoveRedemption(ctx, r, nil), referral.ErrNotFound)
		_, err = s.Reward(ctx, "none", referral.Referrer)
		is(t, err, referral.ErrNotFound)
	})

	t.Run("ARewardIsSavedOnceForEachVersionWithItsLedger", func(t *testing.T) {
		s := newStore(t)
		create(t, s, code("CODE", "ada", 10))
		r, err := s.Redeem(ctx, attempt("CODE", "bob"))
		must(t, err)
		rw, err := s.Reward(ctx, r.ID, referral.Referrer)
		must(t, err)
		rw.State, rw.MonthsLeft, rw.Amount, rw.Reversed, rw.Currency, rw.Attempts, rw.Corrected = referral.RewardGranted, 0, 999, 9, "USD", 2, 3
		rw.VestsAt, rw.NextTry, rw.ChangedAt = start, start.Add(time.Hour), start.Add(time.Minute)
		rw.Call = &referral.Call{ID: "c", Invoice: "in_1", Amount: 5, Less: 2}
		rw.Grants = []referral.Grant{{ID: "g", Ref: "co_1", Invoice: "in_1", Amount: 999, Currency: "USD", At: start}}
		errs := parallel(16, func(i int) error {
			return s.SaveReward(ctx, rw, referral.Entry{ID: fmt.Sprint("e", i), Kind: referral.EntryGrant, Reward: rw.ID, Account: "ada", Amount: 999, Currency: "USD", Cause: "in_1", At: start})
		})
		same(t, "saved", successes(t, errs, referral.ErrConflict), 1)
		got, err := s.Reward(ctx, rw.Redemption, rw.Side)
		must(t, err)
		rw.Version = 2
		if got.Call == nil {
			t.Fatal("the call that is under way got lost")
		}
		same(t, "call", *got.Call, *rw.Call)
		got.Call, rw.Call = nil, nil
		same(t, "reward", got, rw)
		ledger, err := s.Ledger(ctx, "ada")
		must(t, err)
		same(t, "the losers enter nothing; rows", len(ledger), 1)
		same(t, "row", ledger[0], referral.Entry{ID: fmt.Sprint("e", slices.Index(errs, nil)), Kind: referral.EntryGrant, Reward: rw.ID, Account: "ada", Amount: 999, Currency: "USD", Cause: "in_1", At: start})
		must(t, s.SaveReward(ctx, got, ledger[0]))
		ledger, err = s.Ledger(ctx, "ada")
		must(t, err)
		same(t, "the same row again", len(ledger), 1)
	})

	t.Run("RedemptionsThatQualifyAtOnceHaveNumbersOfTheirOwn", func(t *testing.T) {
		s := newStore(t)
		create(t, s, code("CODE", "ada", 0))
		list := make([]referral.Redemption, 16)
		for i := range list {
			r, err := s.Redeem(ctx, attempt("CODE", fmt.Sprintf("user%02d", i)))
			must(t, err)
			r.State = referral.RedemptionQualified
			list[i] = r
		}
		nth := func(n int64) referral.Benefit { return referral.Benefit{Credit: n, Currency: "USD"} }
		move := []referral.RewardMove{{Side: referral.Referrer, From: []referral.RewardState{referral.RewardPending}, To: referral.RewardQualified, VestsAt: start, Benefit: nth}}
		for _, err := range parallel(len(list), func(i int) error { return s.MoveRedemption(ctx, list[i], move) }) {
			must(t, err)
		}
		credits := map[int64]bool{}
		for _, r := range list {
			rw, err := s.Reward(ctx, r.ID, referral.Referrer)
			must(t, err)
			credits[rw.Benefit.Credit] = true
		}
		for n := range int64(16) {
			if !credits[n+1] {
				t.Fatalf("no redemption is number %d: %v", n+1, credits)
			}
		}
		// One that leaves makes room for its number.
		list[3].State, list[3].Version = referral.RedemptionVoided, 2
		must(t, s.MoveRedemption(ctx, list[3], nil))
		leaders, err := s.Leaders(ctx, campaign, 10)
		must(t, err)
		same(t, "leaders", leaders, []referral.Leader{{Account: "ada", Qualified: 15}})
		r, err := s.Redeem(ctx, attempt("CODE", "late"))
		must(t, err)
		r.State = referral.RedemptionQualified
		must(t, s.MoveRedemption(ctx, r, move))
		rw, err := s.Reward(ctx, r.ID, referral.Referrer)
		must(t, err)
		same(t, "number", rw.Benefit.Credit, 16)
	})

	t.Run("CallsThatBeginAtOnceShareWhatIsCarried", func(t *testing.T) {
		s := newStore(t)
		create(t, s, code("CODE", "ada", 0))
		rewards := make([]referral.Reward, 9)
		for i := range rewards {
			r, err := s.Redeem(ctx, attempt("CODE", fmt.Sprintf("user%02d", i)))
			must(t, err)
			rewards[i], err = s.Reward(ctx, r.ID, referral.Referrer)
			must(t, err)
		}
		first := rewards[8]
		first.Amount, first.Reversed, first.Currency = 1000, 1000, "USD"
		entry := func(id string, kind referral.EntryKind, amount int64) referral.Entry {
			return referral.Entry{ID: id, Kind: kind, Reward: first.ID, Account: "ada", Amount: amount, Currency: "USD", At: start}
		}
		must(t, s.SaveReward(ctx, first, entry("g", referral.EntryGrant, 1000), entry("r", referral.EntryReversal, -1000), entry("r", referral.EntryReversal, -1000)))
		begun := make([]referral.Reward, 8)
		for _, err := range parallel(8, func(i int) (err error) {
			rw := rewards[i]
			rw.Call = &referral.Call{ID: fmt.Sprint("c", i), Currency: "USD"}
			if i%2 == 0 {
				rw.Call.Currency = "" // the one that it carries
			}
			begun[i], err = s.Begin(ctx, rw, 300)
			return err
		}) {
			must(t, err)
		}
		var sum int64
		most := 0
		for i, rw := range begun {
			stored, err := s.Reward(ctx, rw.Redemption, rw.Side)
			must(t, err)
			same(t, "the call as it is stored", *stored.Call, *rw.Call)
			same(t, "version", stored.Version, rw.Version)
			sum += rw.Call.Less
			if rw.Call.Less > begun[most].Call.Less {
				most = i
			}
		}
		same(t, "taken by all", sum, 1000)
		same(t, "taken by one", begun[most].Call.Less, 300)
		_, err := s.Begin(ctx, begun[0], 300)
		is(t, err, referral.ErrConflict)
		// One recovers a part, gives the rest back, and the next takes it.
		done := begun[most]
		done.Call = nil
		must(t, s.SaveReward(ctx, done, entry("y", referral.EntryRecovery, 100)))
		done.Version++
		again := done
		again.Call = &referral.Call{ID: "again", Currency: "EUR"}
		again, err = s.Begin(ctx, again, 1000)
		must(t, err)
		same(t, "in another currency", again.Call.Less, 0)
		again.Call = nil
		must(t, s.SaveReward(ctx, again))
		again.Version++
		again.Call = &referral.Call{ID: "again"}
		again, err = s.Begin(ctx, again, 1000)
		must(t, err)
		same(t, "what was given back", *again.Call, referral.Call{ID: "again", Less: 200, Currency: "USD"})
		accounts, err := s.Accounts(ctx, "", 10)
		must(t, err)
		same(t, "accounts", accounts, []string{"ada"})
		accounts, err = s.Accounts(ctx, "ada", 10)
		must(t, err)
		same(t, "accounts after it", len(accounts), 0)
		_, err = s.Begin(ctx, referral.Reward{ID: "none", Call: &referral.Call{}}, 1)
		is(t, err, referral.ErrNotFound)
		// Whoever is erased takes it along.
		must(t, s.SaveReward(ctx, func() referral.Reward { r := again; r.Call = nil; return r }()))
		_, err = s.Detach(ctx, "ada", "erased")
		must(t, err)
		again, err = s.Reward(ctx, again.Redemption, again.Side)
		must(t, err)
		again.Call = &referral.Call{ID: "erased", Currency: "USD"}
		again, err = s.Begin(ctx, again, 1000)
		must(t, err)
		same(t, "after the erasure", again.Call.Less, 200)
	})

	t.Run("DueRewardsAreQualifiedVestedAndWithoutMonths", func(t *testing.T) {
		s := newStore(t)
		create(t, s, code("CODE", "ada", 10))
		for i, change := range []func(*referral.Reward){
			func(r *referral.Reward) { r.State, r.VestsAt = referral.RewardQualified, start },
			func(r *referral.Reward) { r.State, r.VestsAt = referral.RewardQualified, start.Add(time.Second) },
			func(r *referral.Reward) { r.State, r.VestsAt, r.MonthsLeft = referral.RewardQualified, start, 1 },
			func(r *referral.Reward) { r.State, r.VestsAt = referral.RewardGranted, start },
			func(r *referral.Reward) {
				r.State, r.VestsAt, r.NextTry = referral.RewardQualified, start, start.Add(time.Second)
			},
		} {
			r, err := s.Redeem(ctx, attempt("CODE", fmt.Sprint("user", i)))
			must(t, err)
			rw, err := s.Reward(ctx, r.ID, referral.Referrer)
			must(t, err)
			rw.MonthsLeft = 0
			change(&rw)
			must(t, s.SaveReward(ctx, rw))
		}
		due, err := s.DueRewards(ctx, start, 10)
		must(t, err)
		same(t, "due", len(due), 1)
		due, err = s.DueRewards(ctx, start.Add(time.Second), 2)
		must(t, err)
		same(t, "limit", len(due), 2)
	})

	t.Run("TheFunnelCountsWhatHappened", func(t *testing.T) {
		s := newStore(t)
		create(t, s, code("CODE", "ada", 10))
		create(t, s, code("BOBS", "bob", 10))
		for range 3 {
			must(t, s.Click(ctx, "CODE", start))
		}
		is(t, s.Click(ctx, "NONE", start), referral.ErrUnknownCode)
		r, err := s.Redeem(ctx, attempt("CODE", "zoe"))
		must(t, err)
		_, err = s.Redeem(ctx, attempt("BOBS", "yan"))
		must(t, err)
		r.State, r.PaidAmount, r.Currency = referral.RedemptionQualified, 999, "USD"
		must(t, s.MoveRedemption(ctx, r, nil))
		rw, err := s.Reward(ctx, r.ID, referral.Referrer)
		must(t, err)
		rw.Amount, rw.Reversed, rw.Currency = 500, 100, "USD"
		must(t, s.SaveReward(ctx, rw))
		f, err := s.Funnel(ctx, campaign, "ada")
		must(t, err)
		same(t, "ada's", f, referral.Funnel{Clicks: 3, SignUps: 1, Qualified: 1, Granted: map[string]int64{"USD": 400}, Revenue: map[string]int64{"USD": 999}})
		f, err = s.Funnel(ctx, campaign, "")
		must(t, err)
		same(t, "sign-ups of all", f.SignUps, 2)
		leaders, err := s.Leaders(ctx, campaign, 10)
		must(t, err)
		same(t, "leaders", leaders, []referral.Leader{{Account: "ada", Qualified: 1}})
	})

	t.Run("DetachingOneSideKeepsTheOthersMoney", func(t *testing.T) {
		s := newStore(t)
		create(t, s, code("CODE", "ada", 10))
		must(t, s.PutSignals(ctx, "ada", []referral.Signal{{Kind: "card", Hash: "adas"}}, start))
		r, err := s.Redeem(ctx, attempt("CODE", "bob", referral.Signal{Kind: "card", Hash: "bobs"}))
		must(t, err)
		rw, err := s.Reward(ctx, r.ID, referral.Referrer)
		must(t, err)
		must(t, s.SaveReward(ctx, rw, referral.Entry{ID: "e", Kind: referral.EntryGrant, Reward: rw.ID, Account: "ada", Amount: 5, Currency: "USD", At: start}))
		n, err := s.Detach(ctx, "bob", "erased_1")
		must(t, err)
		same(t, "changed", n, map[string]int64{"redemptions": 1, "rewards": 1})
		again, err := s.Detach(ctx, "bob", "erased_1")
		must(t, err)
		same(t, "again", len(again), 0)
		got, err := s.Redemption(ctx, r.ID)
		must(t, err)
		same(t, "referee", got.Referee, "erased_1")
		ledger, err := s.Ledger(ctx, "ada")
		must(t, err)
		same(t, "the referrer's ledger", len(ledger), 1)
		back, err := s.Redeem(ctx, attempt("CODE", "bob2", referral.Signal{Kind: "card", Hash: "bobs"}))
		must(t, err)
		same(t, "one who comes back with the same card", back.State, referral.RedemptionReview)
		n, err = s.Detach(ctx, "ada", "erased_2")
		must(t, err)
		same(t, "the referrer", n, map[string]int64{"codes": 1, "redemptions": 2, "rewards": 2, "ledger": 1, "signals": 1})
		_, err = s.CodeOf(ctx, campaign, "ada")
		is(t, err, referral.ErrUnknownCode)
	})

	t.Run("ACancelledContextIsAnError", func(t *testing.T) {
		s := newStore(t)
		create(t, s, code("CODE", "ada", 10))
		done, cancel := context.WithCancel(ctx)
		cancel()
		_, err := s.Redeem(done, attempt("CODE", "bob"))
		is(t, err, context.Canceled)
		c, err := s.Code(ctx, "CODE")
		must(t, err)
		same(t, "uses", c.Uses, 0)
	})
}

package referral_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/kolekt/commerce/referral"
	"github.com/kolekt/commerce/referral/referralmem"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var start = time.Date(2026, 3, 2, 9, 0, 0, 0, time.UTC)

func TestAFreeMonthReachesTheNextRenewalAfterTheHold(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	code := w.code("ada")
	require.Equal(t, code, w.code("ada"), "one code for an account")
	w.redeem(" "+strings.ToLower(code[:4])+"-"+code[4:], "bob")

	coupon, err := w.service.CheckoutCoupon(ctx, "bob", referral.Price{Amount: 999, Currency: "USD", Months: 1})
	require.NoError(t, err)
	again, err := w.service.CheckoutCoupon(ctx, "bob", referral.Price{Amount: 999, Currency: "USD", Months: 1})
	require.NoError(t, err)
	require.Equal(t, coupon, again)
	require.Len(t, w.biller.coupons, 1)
	none, err := w.service.CheckoutCoupon(ctx, "zoe", referral.Price{Amount: 999, Currency: "USD", Months: 1})
	require.NoError(t, err)
	require.Empty(t, none)

	w.paid("bob", 0)
	require.Equal(t, referral.RewardPending, w.reward("ada").State, "a trial's invoice is no payment")
	w.paid("bob", 499)
	w.paid("bob", 499)
	require.Equal(t, referral.RewardQualified, w.reward("ada").State)
	require.Equal(t, referral.RewardGranted, w.reward("bob").State)
	require.Equal(t, int64(499), w.reward("bob").Amount)

	require.NoError(t, w.service.HandleDraft(ctx, referral.Draft{Invoice: "in_early", Account: "ada"}))
	require.Empty(t, w.biller.invoices, "it vests first")
	w.now = w.now.Add(30 * day)
	w.biller.final["in_final"] = true
	require.NoError(t, w.service.HandleDraft(ctx, referral.Draft{Invoice: "in_final", Account: "ada"}))
	require.Equal(t, int64(1), w.reward("ada").MonthsLeft, "a final invoice waits for the next")
	for range 3 {
		require.NoError(t, w.service.HandleDraft(ctx, referral.Draft{Invoice: "in_2", Account: "ada"}))
	}
	require.Equal(t, map[string]int64{"in_2": 999}, w.biller.invoices)
	require.NoError(t, w.service.HandleDraft(ctx, referral.Draft{Invoice: "in_3", Account: "ada"}))
	require.Equal(t, map[string]int64{"in_2": 999}, w.biller.invoices, "one month, once")
	ledger, err := w.service.Ledger(ctx, "ada")
	require.NoError(t, err)
	require.Len(t, ledger, 1)
	require.Equal(t, int64(999), ledger[0].Amount)
	require.Equal(t, map[string]int{"reward_qualified ada": 1, "reward_granted ada": 1}, w.notices)
}

func TestSeveralMonthsGoToSeveralRenewals(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	code := w.code("ada")
	for i := range 3 {
		who := fmt.Sprint("friend", i)
		w.redeem(code, who)
		w.paid(who, 999)
		w.now = w.now.Add(time.Second)
	}
	w.now = w.now.Add(31 * day)
	for i := range 5 {
		require.NoError(t, w.service.HandleDraft(ctx, referral.Draft{Invoice: fmt.Sprint("in_", i), Account: "ada"}))
	}
	require.Equal(t, map[string]int64{"in_0": 999, "in_1": 999, "in_2": 999}, w.biller.invoices)
}

func TestADiscountOnTheFirstMonthIsForMonthsWhateverTheInterval(t *testing.T) {
	for _, tt := range []struct {
		benefit referral.Benefit
		price   referral.Price
		want    string
	}{
		{referral.Benefit{PercentOff: 50}, referral.Price{Amount: 999, Currency: "USD", Months: 1}, "50%x1 or 0 USD"},
		{referral.Benefit{PercentOff: 50, Months: 3}, referral.Price{Amount: 999, Currency: "USD", Months: 1}, "50%x3 or 0 USD"},
		{referral.Benefit{PercentOff: 50}, referral.Price{Amount: 12000, Currency: "USD", Months: 12}, "0%x0 or 500 USD"},
		{referral.Benefit{PercentOff: 50}, referral.Price{Amount: 9990, Currency: "USD", Months: 12}, "0%x0 or 416 USD"},
		{referral.Benefit{PercentOff: 100}, referral.Price{Amount: 12000, Currency: "EUR", Months: 12}, "0%x0 or 1000 EUR"},
		{referral.Benefit{PercentOff: 50}, referral.Price{Amount: 3000, Currency: "USD", Months: 3}, "0%x0 or 500 USD"},
		{referral.Benefit{PercentOff: 50}, referral.Price{Amount: 12000, Quantity: 5, Currency: "USD", Months: 12}, "0%x0 or 2500 USD"},
		{referral.Benefit{PercentOff: 50, Months: 24}, referral.Price{Amount: 12000, Currency: "USD", Months: 12}, "0%x0 or 6000 USD"},
		{referral.Benefit{PercentOff: 100, Months: 24}, referral.Price{Amount: 12000, Currency: "USD", Months: 12}, "0%x0 or 12000 USD"},
		{referral.Benefit{PercentOff: 50}, referral.Price{Amount: 12000, Currency: "JPY", Months: 12}, "0%x0 or 500 JPY"},
	} {
		c := friends()
		c.Referee = tt.benefit
		w := newWorld(t, c)
		w.redeem(w.code("ada"), "bob")
		_, err := w.service.CheckoutCoupon(context.Background(), "bob", tt.price)
		require.NoError(t, err)
		for _, got := range w.biller.coupons {
			require.Equal(t, tt.want, got, "%+v on %+v", tt.benefit, tt.price)
		}
		require.Len(t, w.biller.coupons, 1)
	}
}

func TestSelfReferralInSevenDisguises(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	c, err := w.service.Code(ctx, "friends", referral.Person{Account: "ada", Email: "ada.love@gmail.com", Card: "fp_1"})
	require.NoError(t, err)
	for name, p := range map[string]referral.Person{
		"the same account":         {Account: "ada"},
		"the same address":         {Account: "a1", Email: "ada.love@gmail.com"},
		"another case":             {Account: "a2", Email: " Ada.Love@GMAIL.com "},
		"a tag":                    {Account: "a3", Email: "ada.love+2@gmail.com"},
		"dots":                     {Account: "a4", Email: "a.d.a.love@gmail.com"},
		"the other Gmail":          {Account: "a5", Email: "adalove@googlemail.com"},
		"another address and card": {Account: "a6", Email: "else@example.com", Card: "fp_1"},
	} {
		_, err := w.service.Redeem(ctx, c.Text, p)
		require.ErrorIs(t, err, referral.ErrSelf, name)
	}
	_, err = w.service.Redeem(ctx, c.Text, referral.Person{Account: "bob", Email: "ada.love@example.com", Card: "fp_2"})
	require.NoError(t, err, "dots count elsewhere")
}

func TestNormaliseEmail(t *testing.T) {
	for in, want := range map[string]string{
		"Ada@Example.COM":       "ada@example.com",
		"ada+x@example.com":     "ada@example.com",
		"a.b.c@googlemail.com.": "abc@gmail.com",
		"ada@bücher.example":    "ada@xn--bcher-kva.example",
		"":                      "",
		"ada":                   "",
		"@example.com":          "",
		"+x@example.com":        "",
		"ada@":                  "",
		strings.Repeat("a", 400) + "@example.com": "",
	} {
		require.Equal(t, want, referral.NormaliseEmail(in), in)
	}
}

func TestRefusalsComeFromTheCampaignToo(t *testing.T) {
	ctx := context.Background()
	c := friends()
	c.Starts, c.Ends = start.Add(day), start.Add(3*day)
	w := newWorld(t, c)
	code := w.code("ada")
	bob := referral.Person{Account: "bob"}
	_, err := w.service.Redeem(ctx, code, bob)
	require.ErrorIs(t, err, referral.ErrNotStarted)
	w.now = start.Add(3 * day)
	_, err = w.service.Redeem(ctx, code, bob)
	require.ErrorIs(t, err, referral.ErrExpired)
	w.now = start.Add(2 * day)
	_, err = w.service.Redeem(ctx, "x", bob)
	require.ErrorIs(t, err, referral.ErrUnknownCode)
	_, err = w.service.Redeem(ctx, code, referral.Person{})
	require.ErrorIs(t, err, referral.ErrInvalid)
	require.NoError(t, w.service.Disable(ctx, code))
	_, err = w.service.Redeem(ctx, code, bob)
	require.ErrorIs(t, err, referral.ErrDisabled)
	fresh, err := w.service.Rotate(ctx, "friends", referral.Person{Account: "ada"})
	require.NoError(t, err)
	_, err = w.service.Redeem(ctx, fresh.Text, bob)
	require.NoError(t, err)
}

func TestGuardsDenyOrAskForAReviewAndFailClosed(t *testing.T) {
	ctx := context.Background()
	verdict, failure := referral.Verdict{}, error(nil)
	w := newWorld(t)
	w.config.Guards = []referral.Guard{func(context.Context, referral.Code, referral.Person) (referral.Verdict, error) {
		return verdict, failure
	}}
	w.rebuild()
	code := w.code("ada")
	verdict = referral.Verdict{Deny: true, Reason: "not in this country"}
	_, err := w.service.Redeem(ctx, code, referral.Person{Account: "bob"})
	require.ErrorIs(t, err, referral.ErrNotEligible)
	verdict, failure = referral.Verdict{}, errors.New("the list can't be reached")
	r := w.redeem(code, "bob")
	require.Equal(t, referral.RedemptionReview, r.State)
	failure = nil
	verdict = referral.Verdict{Review: true, Reason: "disposable address"}
	r2 := w.redeem(code, "eve")
	require.Equal(t, []string{"disposable address"}, r2.Reasons)

	// Paid while somebody was looking at it: nothing is lost.
	w.paid("bob", 999)
	require.Equal(t, referral.RewardPending, w.reward("ada").State)
	approved, err := w.service.Approve(ctx, r.ID)
	require.NoError(t, err)
	require.Equal(t, referral.RedemptionQualified, approved.State)
	_, err = w.service.Approve(ctx, r.ID)
	require.ErrorIs(t, err, referral.ErrConflict)
	_, err = w.service.Reject(ctx, r2.ID, "ten accounts of one device")
	require.NoError(t, err)
	w.paid("eve", 999)
	rejected, err := w.service.Redemption(ctx, r2.ID)
	require.NoError(t, err)
	require.Equal(t, referral.RedemptionVoided, rejected.State)
}

func TestRefundsTakeBackInProportionAndNeverMore(t *testing.T) {
	ctx := context.Background()
	refund := func(w *world, id string, amount int64) {
		w.t.Helper()
		require.NoError(w.t, w.service.HandleRefunded(ctx, referral.Refunded{ID: id, Account: "bob", Amount: amount, Currency: "USD"}))
	}
	t.Run("WithinTheHold", func(t *testing.T) {
		w := newWorld(t)
		w.redeem(w.code("ada"), "bob")
		w.paid("bob", 999)
		refund(w, "re_1", 999)
		refund(w, "re_1", 999)
		require.Equal(t, referral.RewardReversed, w.reward("ada").State)
		w.now = w.now.Add(60 * day)
		require.NoError(t, w.service.HandleDraft(ctx, referral.Draft{Invoice: "in_2", Account: "ada"}))
		require.Empty(t, w.biller.invoices)
	})
	t.Run("BeforeTheGrantHoweverOftenTheEventComes", func(t *testing.T) {
		c := friends()
		c.Referrer = referral.Benefit{Credit: 1000, Currency: "USD"}
		w := newWorld(t, c)
		w.redeem(w.code("ada"), "bob")
		w.paid("bob", 1000)
		for range 3 {
			refund(w, "re_1", 400)
		}
		w.now = w.now.Add(30 * day)
		w.work()
		for range 3 {
			refund(w, "re_1", 400)
		}
		require.Equal(t, int64(600), w.biller.balance["ada"])
		require.Equal(t, int64(400), w.reward("ada").Reversed)
		refund(w, "re_2", 500)
		require.Equal(t, int64(500), w.biller.balance["ada"])
	})
	credit := friends()
	credit.Referrer = referral.Benefit{Credit: 1000, Currency: "USD"}
	t.Run("UnspentCreditGoesSpentIsCarried", func(t *testing.T) {
		w := newWorld(t, credit)
		code := w.code("ada")
		w.redeem(code, "bob")
		w.paid("bob", 999)
		w.now = w.now.Add(30 * day)
		w.work()
		require.Equal(t, int64(1000), w.biller.balance["ada"])
		w.biller.balance["ada"] = 300 // 700 are spent
		refund(w, "re_1", 500)
		refund(w, "re_1", 500)
		require.Equal(t, int64(0), w.biller.balance["ada"], "501 to take back, 300 there")
		require.Equal(t, int64(501), w.reward("ada").Reversed)
		refund(w, "re_2", 999)
		require.Equal(t, int64(1000), w.reward("ada").Reversed, "never above the grant")
		require.Equal(t, referral.RewardReversed, w.reward("ada").State)

		// The next reward makes 700 good first.
		w.redeem(code, "cleo")
		w.paid("cleo", 999)
		w.now = w.now.Add(30 * day)
		w.work()
		require.Equal(t, int64(300), w.biller.balance["ada"])
	})
	t.Run("LessThanHalfLeavesMonthsAlone", func(t *testing.T) {
		w := newWorld(t)
		w.redeem(w.code("ada"), "bob")
		w.paid("bob", 999)
		refund(w, "re_1", 100)
		require.Equal(t, int64(1), w.reward("ada").MonthsLeft)
		refund(w, "re_2", 600)
		require.Equal(t, int64(0), w.reward("ada").MonthsLeft)
	})
	t.Run("AMonthThatReachedTheInvoiceIsCarried", func(t *testing.T) {
		w := newWorld(t)
		code := w.code("ada")
		w.redeem(code, "bob")
		w.paid("bob", 999)
		w.now = w.now.Add(30 * day)
		require.NoError(t, w.service.HandleDraft(ctx, referral.Draft{Invoice: "in_1", Account: "ada"}))
		refund(w, "re_1", 999)
		w.redeem(code, "cleo")
		w.paid("cleo", 999)
		w.now = w.now.Add(30 * day)
		require.NoError(t, w.service.HandleDraft(ctx, referral.Draft{Invoice: "in_2", Account: "ada"}))
		require.Equal(t, map[string]int64{"in_1": 999, "in_2": 0}, w.biller.invoices, "the second month pays for the first")
	})
}

func TestDisputesAndEarlyEndsStopTheVesting(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	code := w.code("ada")
	for _, who := range []string{"bob", "cleo", "dan"} {
		w.redeem(code, who)
		w.paid(who, 999)
	}
	require.NoError(t, w.service.HandleDisputed(ctx, "bob"))
	require.NoError(t, w.service.HandleDisputed(ctx, "bob"))
	require.NoError(t, w.service.HandleEnded(ctx, "cleo"))
	w.now = w.now.Add(31 * day)
	require.NoError(t, w.service.HandleEnded(ctx, "dan"))
	states := map[referral.RewardState]int{}
	list, err := w.service.Rewards(ctx, referral.RewardFilter{Account: "ada"})
	require.NoError(t, err)
	for _, r := range list {
		states[r.State]++
	}
	require.Equal(t, map[referral.RewardState]int{referral.RewardPending: 1, referral.RewardExpired: 1, referral.RewardQualified: 1}, states)
	review, err := w.service.Redemptions(ctx, referral.RedemptionFilter{State: referral.RedemptionReview})
	require.NoError(t, err)
	require.Len(t, review, 1)
	_, err = w.service.Approve(ctx, review[0].ID)
	require.NoError(t, err)
}

func TestAnOutageGrantsLaterAndALostAnswerGrantsOnce(t *testing.T) {
	ctx := context.Background()
	c := friends()
	c.Referrer = referral.Benefit{Credit: 1000, Currency: "USD"}
	for _, fault := range []func(*biller, bool){
		func(b *biller, on bool) { b.down = on },
		func(b *biller, on bool) { b.lost = on },
	} {
		w := newWorld(t, c)
		w.redeem(w.code("ada"), "bob")
		w.paid("bob", 999)
		w.now = w.now.Add(30 * day)
		fault(w.biller, true)
		w.work()
		require.Equal(t, referral.RewardQualified, w.reward("ada").State)
		fault(w.biller, false)
		for range 3 {
			w.now = w.now.Add(73 * time.Hour)
			w.work()
		}
		require.Equal(t, referral.RewardGranted, w.reward("ada").State)
		require.Equal(t, int64(1000), w.biller.balance["ada"])
		ledger, err := w.service.Ledger(ctx, "ada")
		require.NoError(t, err)
		require.Len(t, ledger, 1)
	}
}

func TestARefundBetweenALostAnswerAndItsRetryIsTakenOffWhatWasGranted(t *testing.T) {
	ctx := context.Background()
	c := friends()
	c.Referrer = referral.Benefit{Credit: 700, Currency: "USD"}
	w := newWorld(t, c)
	w.redeem(w.code("ada"), "bob")
	w.paid("bob", 999)
	w.now = w.now.Add(30 * day)
	w.biller.lost = true
	w.work() // 700 lie at the provider, and nobody here knows
	refund := referral.Refunded{ID: "re_1", Account: "bob", Amount: 100, Currency: "USD"}
	require.ErrorIs(t, w.service.HandleRefunded(ctx, refund), errDown, "what may have been granted can't be judged yet")
	w.biller.lost = false
	require.NoError(t, w.service.HandleRefunded(ctx, refund))
	w.now = w.now.Add(2 * time.Hour)
	w.work()
	require.Equal(t, int64(700), w.reward("ada").Amount)
	require.Equal(t, int64(70), w.reward("ada").Reversed)
	require.Equal(t, int64(630), w.biller.balance["ada"])
}

func TestUnqualifiedRedemptionsLapseAndSignUpsQualifyAtOnce(t *testing.T) {
	w := newWorld(t)
	w.redeem(w.code("ada"), "bob")
	w.now = w.now.Add(91 * day)
	w.work()
	require.Equal(t, referral.RewardExpired, w.reward("ada").State)
	w.paid("bob", 999)
	require.Equal(t, referral.RewardExpired, w.reward("ada").State)

	c := friends()
	c.Qualify, c.Hold = referral.SignUp, -1
	c.Referrer = referral.Benefit{Custom: "a mug"}
	w = newWorld(t, c)
	r := w.redeem(w.code("ada"), "bob")
	require.Equal(t, referral.RedemptionQualified, r.State)
	w.work()
	require.Equal(t, referral.RewardGranted, w.reward("ada").State)
	require.Equal(t, 1, w.notices["reward_granted ada"])
}

func TestTiersAndTermsOfThen(t *testing.T) {
	ctx := context.Background()
	c := friends()
	c.Tiers = []referral.Tier{{From: 3, Benefit: referral.Benefit{FreeMonths: 2}}}
	w := newWorld(t, c)
	code := w.code("ada")
	for i := range 3 {
		w.redeem(code, fmt.Sprint("f", i))
	}
	// The campaign gets meaner; the running redemptions keep their terms.
	c.Version, c.Referrer, c.Tiers = 2, referral.Benefit{Credit: 1, Currency: "USD"}, nil
	w.config.Campaigns = []referral.Campaign{c}
	w.rebuild()
	for i := range 3 {
		w.paid(fmt.Sprint("f", i), 999)
	}
	list, err := w.service.Rewards(ctx, referral.RewardFilter{Account: "ada"})
	require.NoError(t, err)
	var months int64
	for _, r := range list {
		months += r.MonthsLeft
	}
	require.Equal(t, int64(4), months, "1 + 1 + 2")
}

func TestCodesAreUniformAndFreeOfBadWords(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	counts := map[rune]int{}
	const n = 4000
	for i := range n {
		c, err := w.service.Code(ctx, "friends", referral.Person{Account: fmt.Sprint("a", i)})
		require.NoError(t, err)
		require.Regexp(t, `^[A-Z0-9]{8}$`, c.Text)
		require.NotRegexp(t, `[0O1IL5S8B2Z]`, c.Text)
		for _, r := range c.Text {
			counts[r]++
		}
	}
	mean := float64(n*8) / float64(len(counts))
	chi := 0.0
	for _, k := range counts {
		chi += (float64(k) - mean) * (float64(k) - mean) / mean
	}
	require.Len(t, counts, 25)
	require.Less(t, chi, 60.0, "chi-square with 24 degrees of freedom; 59.7 is one in 15,000")

	for _, bad := range []string{"abc", "SUPPORT1", "5UPP0RT", "n4z1boy", strings.Repeat("A", 33), "né-code", "FUCKYOU"} {
		_, err := w.service.Vanity(ctx, "friends", referral.Person{Account: "ada"}, bad)
		require.ErrorIs(t, err, referral.ErrInvalid, bad)
	}
	v, err := w.service.Vanity(ctx, "friends", referral.Person{Account: "ada"}, "ada-2026")
	require.NoError(t, err)
	require.Equal(t, "ADA2026", v.Text)
	_, err = w.service.Vanity(ctx, "friends", referral.Person{Account: "bob"}, "ADA 2026")
	require.ErrorIs(t, err, referral.ErrCodeTaken)
	_, err = w.service.Code(ctx, "no such", referral.Person{Account: "ada"})
	require.ErrorIs(t, err, referral.ErrNotFound)
}

func TestLinksAttributeWithoutACookieAndCountClicks(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	code := w.code("ada")
	blocked := false
	follow := func(cfg referral.LinkConfig, method, path string, cookies ...*http.Cookie) *httptest.ResponseRecorder {
		rec := httptest.NewRecorder()
		r := httptest.NewRequest(method, path, nil)
		for _, c := range cookies {
			r.AddCookie(c)
		}
		w.service.Links(cfg).ServeHTTP(rec, r)
		return rec
	}
	cfg := referral.LinkConfig{Target: "/signup?lang=en", Allow: func(*http.Request) bool { return !blocked }}
	rec := follow(cfg, "GET", "/r/"+strings.ToLower(code))
	require.Equal(t, 303, rec.Code)
	require.Empty(t, rec.Result().Cookies())
	to, err := url.Parse(rec.Header().Get("Location"))
	require.NoError(t, err)
	token := to.Query().Get("ref")
	a, ok := w.service.ReadToken(token)
	require.True(t, ok)
	require.Equal(t, referral.Attribution{Code: code, At: start}, a)
	for i := range len(token) {
		forged := []byte(token)
		forged[i] ^= 1
		if _, ok := w.service.ReadToken(string(forged)); ok {
			t.Fatalf("a token with byte %d changed is accepted", i)
		}
	}
	require.Equal(t, "/signup?lang=en", follow(cfg, "GET", "/r/NOSUCH99").Header().Get("Location"))
	require.Equal(t, 405, follow(cfg, "POST", "/r/"+code).Code)
	require.Equal(t, 303, follow(cfg, "HEAD", "/r/"+code).Code)
	blocked = true
	require.Equal(t, 429, follow(cfg, "GET", "/r/"+code).Code)
	f, err := w.service.Funnel(ctx, "friends", "ada")
	require.NoError(t, err)
	require.Equal(t, int64(1), f.Clicks)

	other := w.code("bob")
	for first, want := range map[bool]string{true: code, false: other} {
		c := referral.LinkConfig{Target: "/", Cookie: "ref", FirstTouch: first}
		kept := follow(c, "GET", "/r/"+code).Result().Cookies()[0]
		require.True(t, kept.HttpOnly)
		if later := follow(c, "GET", "/r/"+other, kept).Result().Cookies(); len(later) > 0 {
			kept = later[0]
		}
		a, ok := w.service.ReadToken(kept.Value)
		require.True(t, ok)
		require.Equal(t, want, a.Code)
	}
	w.now = w.now.Add(31 * day)
	_, ok = w.service.ReadToken(token)
	require.False(t, ok, "the window has passed")
}

func TestExportNamesNoFriendAndErasureKeepsTheOthersMoney(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	w.redeem(w.code("ada"), "bob")
	w.paid("bob", 999)
	export := func(account string) string {
		var b strings.Builder
		require.NoError(t, w.service.ExportSubject(ctx, account, func(record string, fields map[string]any) error {
			fmt.Fprintln(&b, record, fields)
			return nil
		}))
		return b.String()
	}
	require.NotContains(t, export("ada"), "bob")
	require.NotContains(t, export("bob"), "ada")
	require.Contains(t, export("bob"), "referred")
	counts, err := w.service.EraseSubject(ctx, "bob")
	require.NoError(t, err)
	require.Equal(t, map[string]int64{"referral_redemptions": 1, "referral_rewards": 1}, counts)
	require.Empty(t, export("bob"))
	counts, err = w.service.EraseSubject(ctx, "bob")
	require.NoError(t, err)
	require.Empty(t, counts)
	w.now = w.now.Add(30 * day)
	require.NoError(t, w.service.HandleDraft(ctx, referral.Draft{Invoice: "in_2", Account: "ada"}))
	require.Equal(t, int64(999), w.biller.invoices["in_2"])
	r, err := w.service.Redeem(ctx, w.code("cleo"), referral.Person{Account: "bob-again", Email: "bob@example.net", Card: "card-bob"})
	require.NoError(t, err)
	require.Equal(t, referral.RedemptionReview, r.State, "erase-and-return is noticed")
}

func TestNewRefusesCampaignsThatCannotBeMeant(t *testing.T) {
	for name, change := range map[string]func(*referral.Campaign){
		"no ID":                func(c *referral.Campaign) { c.ID = "" },
		"no version":           func(c *referral.Campaign) { c.Version = 0 },
		"two kinds":            func(c *referral.Campaign) { c.Referrer.Credit, c.Referrer.Currency = 5, "USD" },
		"percent for referrer": func(c *referral.Campaign) { c.Referrer = referral.Benefit{PercentOff: 10} },
		"months for referee":   func(c *referral.Campaign) { c.Referee = referral.Benefit{FreeMonths: 1} },
		"above 100 percent":    func(c *referral.Campaign) { c.Referee.PercentOff = 101 },
		"credit of nothing":    func(c *referral.Campaign) { c.Referrer = referral.Benefit{Credit: 5} },
		"falling tiers":        func(c *referral.Campaign) { c.Tiers = []referral.Tier{{From: 3}, {From: 2}} },
		"budget without cost":  func(c *referral.Campaign) { c.Budget = 100 },
		"ends first":           func(c *referral.Campaign) { c.Starts, c.Ends = start, start },
		"qualification":        func(c *referral.Campaign) { c.Qualify = "smile" },
	} {
		c := friends()
		change(&c)
		_, err := referral.New(referralmem.New(), referral.Config{Pepper: bytes.Repeat([]byte("p"), 32), Campaigns: []referral.Campaign{c}})
		require.ErrorIs(t, err, referral.ErrInvalid, name)
	}
	_, err := referral.New(referralmem.New(), referral.Config{Pepper: []byte("short"), Campaigns: []referral.Campaign{friends()}})
	require.ErrorContains(t, err, "Pepper")
	_, err = referral.New(nil, referral.Config{})
	require.ErrorIs(t, err, referral.ErrInvalid)
}

func TestRunEndsWithItsContext(t *testing.T) {
	w := newWorld(t)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.service.Run(ctx) }()
	cancel()
	require.ErrorIs(t, <-done, context.Canceled)
}

func FuzzNormalise(f *testing.F) {
	f.Add("k7qm-xg4p")
	f.Fuzz(func(t *testing.T, s string) {
		norm, err := referral.Normalise(s)
		if err != nil {
			require.ErrorIs(t, err, referral.ErrUnknownCode)
			return
		}
		require.Regexp(t, `^[A-Z0-9]{4,32}$`, norm)
		again, err := referral.Normalise(norm)
		require.NoError(t, err)
		require.Equal(t, norm, again)
	})
}

func FuzzReadToken(f *testing.F) {
	service, err := referral.New(referralmem.New(), referral.Config{Pepper: bytes.Repeat([]byte("p"), 32), Campaigns: []referral.Campaign{friends()}, Now: func() time.Time { return start }})
	if err != nil {
		f.Fatal(err)
	}
	good := service.Token("K7QMXG4P")
	f.Add(good)
	f.Fuzz(func(t *testing.T, s string) {
		if _, ok := service.ReadToken(s); ok && s != good {
			t.Fatalf("forged token %q is accepted", s)
		}
	})
}

func Example() {
	ctx := context.Background()
	service, err := referral.New(referralmem.New(), referral.Config{
		Pepper: bytes.Repeat([]byte("k"), 32), // from your secret store
		Campaigns: []referral.Campaign{{
			ID: "friends", Version: 1, MaxUses: 10,
			Referrer: referral.Benefit{FreeMonths: 1},
			Referee:  referral.Benefit{PercentOff: 50},
		}},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	code, _ := service.Code(ctx, "friends", referral.Person{Account: "ada", Email: "ada@example.com"})
	_, err = service.Redeem(ctx, code.Text, referral.Person{Account: "ada2", Email: "Ada+2@example.com"})
	fmt.Println(errors.Is(err, referral.ErrSelf))
	r, _ := service.Redeem(ctx, code.Text, referral.Person{Account: "bob", Email: "bob@example.com"})
	fmt.Println(r.State)
	_ = service.HandlePaid(ctx, referral.Paid{ID: "in_1", Account: "bob", Amount: 500, Currency: "USD"})
	rewards, _ := service.Rewards(ctx, referral.RewardFilter{Account: "ada"})
	fmt.Println(rewards[0].State, rewards[0].MonthsLeft)
	// Output:
	// true
	// pending
	// qualified 1
}

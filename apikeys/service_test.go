package apikeys_test

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/apikeys"
)

func TestNewNamesTheFieldThatIsWrong(t *testing.T) {
	short := []apikeys.Pepper{{ID: 1, Secret: []byte("short")}}
	for name, tc := range map[string]struct {
		cfg   apikeys.Config
		field string
	}{
		"no prefix":        {apikeys.Config{}, "Prefix"},
		"prefix with _":    {apikeys.Config{Prefix: "my_company"}, "Prefix"},
		"digit first":      {apikeys.Config{Prefix: "1acme"}, "Prefix"},
		"long environment": {apikeys.Config{Prefix: "acme", Environment: "productionlive"}, "Environment"},
		"environment":      {apikeys.Config{Prefix: "acme", Environment: "Live"}, "Environment"},
		"short pepper":     {apikeys.Config{Prefix: "acme", Peppers: short}, "Peppers[0].Secret"},
		"pepper twice":     {apikeys.Config{Prefix: "acme", Peppers: []apikeys.Pepper{peppers[0], peppers[0]}}, "Peppers[1].ID"},
		"secret in plain":  {apikeys.Config{Prefix: "acme", Peppers: []apikeys.Pepper{{Secret: peppers[0].Secret}}}, "Peppers[0].ID"},
		"tag only first":   {apikeys.Config{Prefix: "acme", Peppers: []apikeys.Pepper{{ID: 1, Secret: peppers[0].Secret, TagOnly: true}}}, "TagOnly"},
		"scope":            {apikeys.Config{Prefix: "acme", Scopes: []string{"ok", "not ok"}}, "Scopes[1]"},
		"scheme":           {apikeys.Config{Prefix: "acme", Schemes: []apikeys.Scheme{{Name: "x"}}}, "Schemes[0]"},
		"lifetime":         {apikeys.Config{Prefix: "acme", MaxLifetime: -1}, "MaxLifetime"},
		"cache":            {apikeys.Config{Prefix: "acme", CacheSize: -1}, "CacheSize"},
	} {
		_, err := apikeys.New(mem(), tc.cfg)
		require.ErrorIs(t, err, apikeys.ErrInvalid, name)
		require.ErrorContains(t, err, tc.field, name)
	}
	_, err := apikeys.New(nil, apikeys.Config{Prefix: "acme"})
	require.Error(t, err, "a missing store is noticed at once")
}

func TestIssuedKeyVerifiesAndNothingElseDoes(t *testing.T) {
	for name, p := range map[string][]apikeys.Pepper{"peppered": peppers, "plain": nil} {
		t.Run(name, func(t *testing.T) {
			store := mem()
			s := newService(t, store, func(c *apikeys.Config) { c.Peppers = p })
			token, k := issue(t, s, apikeys.NewKey{Scopes: []string{"write"}, Metadata: map[string]string{"plan": "pro"}})
			d := verify(t, s, token)
			require.Equal(t, k.ID, d.Principal.KeyID())
			require.Equal(t, owner, d.Principal.Owner())
			require.Equal(t, "pro", d.Principal.Metadata("plan"))
			require.True(t, d.Principal.Can("read"))
			require.False(t, d.Principal.Can("invoices:read"))

			// Whatever the store holds, or a page shows, is no key.
			rec := record(t, store, k.ID)
			hash := rec.Hash[:]
			whole := sha256.Sum256([]byte(token))
			for name, text := range map[string]string{
				"hash": string(hash), "hash hex": hex.EncodeToString(hash), "hash base64": base64.StdEncoding.EncodeToString(hash),
				"sha256 hex": hex.EncodeToString(whole[:]), "hint": k.Hint, "id": k.ID, "lineage": k.Lineage,
				"hash as body": "acme_live_" + hex.EncodeToString(hash)[:49],
				"upper":        strings.ToUpper(token), "lower": strings.ToLower(token), "space": token + " ", "newline": token + "\n",
				"nul": token + "\x00", "nul first": "\x00" + token, "twice": token + token, "quoted": `"` + token + `"`,
				"cyrillic": strings.Replace(token, "a", "а", 1), "full width": strings.Replace(token, "e", "ｅ", 1),
				"empty": "", "prefix": "acme_live_", "body": token[10:], "other prefix": "acmf" + token[4:], "long": strings.Repeat("a", 1<<16),
			} {
				require.False(t, verify(t, s, text).Allowed(), name)
			}
		})
	}
}

func record(t testing.TB, store apikeys.Store, id string) apikeys.Record {
	t.Helper()
	var out apikeys.Record
	require.NoError(t, store.Change(ctx, apikeys.Selection{IDs: []string{id}}, func(found []apikeys.Record) (apikeys.Delta, error) {
		require.Len(t, found, 1)
		out = found[0]
		return apikeys.Delta{}, nil
	}))
	return out
}

// forge makes a text whose checksum is right and whose tag is a guess.
func forge(head string, i int) string {
	body := head + fmt.Sprintf("%043d", i)
	crc := crc32.ChecksumIEEE([]byte(body))
	const digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	var tail [6]byte
	for j := 5; j >= 0; j-- {
		tail[j] = digits[crc%62]
		crc /= 62
	}
	return body + string(tail[:])
}

func TestForgedKeysAskTheStoreNothing(t *testing.T) {
	store := mem()
	s := newService(t, store)
	n := proof(5_000, 1_000_000)
	for i := range n {
		require.False(t, verify(t, s, forge("acme_live_", i)).Allowed())
	}
	require.Zero(t, store.finds.Load())
	// The control: without a pepper the same texts do reach the store.
	plain := newService(t, store, func(c *apikeys.Config) { c.Peppers = nil })
	token, _ := issue(t, plain, apikeys.NewKey{})
	require.True(t, verify(t, plain, token).Allowed())
	require.EqualValues(t, 1, store.finds.Load())
}

func TestUnknownKeyAsksTheStoreOnceInTwoSeconds(t *testing.T) {
	store, c := mem(), newClock()
	s := newService(t, store, at(c))
	token, k := issue(t, s, apikeys.NewKey{})
	require.NoError(t, store.Store.Change(ctx, apikeys.Selection{}, func([]apikeys.Record) (apikeys.Delta, error) {
		return apikeys.Delta{Delete: []string{k.ID}}, nil
	}))
	for range 10 {
		require.Equal(t, apikeys.ReasonUnknown, verify(t, s, token).Reason)
	}
	require.EqualValues(t, 1, store.finds.Load())
	c.advance(2100 * time.Millisecond)
	require.Equal(t, apikeys.ReasonUnknown, verify(t, s, token).Reason)
	require.EqualValues(t, 2, store.finds.Load())
}

func TestManyWhoAskAtOnceAskTheStoreOnce(t *testing.T) {
	store := mem()
	s := newService(t, store)
	token, _ := issue(t, s, apikeys.NewKey{})
	entered, release := make(chan struct{}, 50), make(chan struct{})
	store.after = func() { entered <- struct{}{}; <-release }
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			d, err := s.Verify(ctx, token, apikeys.Client{})
			if err != nil || !d.Allowed() {
				t.Error("refused", d.Reason, err)
			}
		})
	}
	<-entered
	close(release)
	wg.Wait()
	verify(t, s, token)
	require.EqualValues(t, 1, store.finds.Load())
	require.EqualValues(t, 1, s.Stats().Lookups)
}

func TestStateDecides(t *testing.T) {
	c := newClock()
	store := mem()
	s := newService(t, store, at(c))
	yes, no := true, false
	for name, tc := range map[string]struct {
		do   func(k apikeys.Key) error
		want apikeys.Reason
	}{
		"revoked": {func(k apikeys.Key) error { return s.Revoke(ctx, person, k.ID, "gone") }, apikeys.ReasonRevoked},
		"disabled": {func(k apikeys.Key) error {
			_, err := s.Update(ctx, person, k.ID, apikeys.Update{Disabled: &yes})
			return err
		}, apikeys.ReasonDisabled},
		"enabled again": {func(k apikeys.Key) error {
			_, err := s.Update(ctx, person, k.ID, apikeys.Update{Disabled: &yes})
			_, err2 := s.Update(ctx, person, k.ID, apikeys.Update{Disabled: &no})
			return errors.Join(err, err2)
		}, apikeys.ReasonNone},
		"expired": {func(k apikeys.Key) error {
			now := c.now()
			_, err := s.Update(ctx, person, k.ID, apikeys.Update{ExpiresAt: &now})
			return err
		}, apikeys.ReasonExpired},
		"rotated at once": {func(k apikeys.Key) error {
			_, _, err := s.Rotate(ctx, person, k.ID, apikeys.Rotation{})
			return err
		}, apikeys.ReasonReplaced},
		"owner": {func(k apikeys.Key) error {
			n, err := s.RevokeOwner(ctx, op, k.Owner, "left")
			if n == 0 {
				return errors.New("nothing revoked")
			}
			return err
		}, apikeys.ReasonRevoked},
		"everybody": {func(k apikeys.Key) error {
			c.advance(time.Second)
			return s.RevokeBefore(ctx, op, c.now())
		}, apikeys.ReasonRevoked},
		"erased": {func(k apikeys.Key) error {
			_, err := s.EraseSubject(ctx, k.Owner.ID)
			return err
		}, apikeys.ReasonUnknown},
	} {
		c.advance(time.Minute)
		token, k := issue(t, s, apikeys.NewKey{Scopes: []string{"read"}})
		require.True(t, verify(t, s, token).Allowed(), name)
		require.NoError(t, tc.do(k), name)
		require.Equal(t, tc.want, verify(t, s, token).Reason, name)
	}
	head, err := s.VerifyAudit(ctx, apikeys.Head{})
	require.NoError(t, err)
	require.NotZero(t, head.Seq)
}

func TestExpiryIsAnInstant(t *testing.T) {
	c := newClock()
	s := newService(t, mem(), at(c))
	token, _ := issue(t, s, apikeys.NewKey{ExpiresAt: c.now().Add(time.Hour)})
	c.advance(time.Hour - 1)
	require.True(t, verify(t, s, token).Allowed())
	c.advance(1)
	require.Equal(t, apikeys.ReasonExpired, verify(t, s, token).Reason)
}

func TestTestKeyNeverOpensLive(t *testing.T) {
	store := mem()
	live := newService(t, store)
	testing := newService(t, store, func(c *apikeys.Config) { c.Environment = "test" })
	token, _ := issue(t, testing, apikeys.NewKey{})
	require.True(t, verify(t, testing, token).Allowed())
	d := verify(t, live, token)
	require.Equal(t, apikeys.ReasonEnvironment, d.Reason)
	// Somebody who turns one into the other gets no hint that it was a key.
	turned := "acme_live_" + token[len("acme_test_"):]
	require.Equal(t, apikeys.ReasonMalformed, verify(t, live, turned).Reason)
	require.Equal(t, apikeys.ReasonUnknown, verify(t, live, forge("acme_test_", 1)).Reason)
	finds := store.finds.Load()
	verify(t, live, token)
	require.Equal(t, finds, store.finds.Load())
}

func TestNetworks(t *testing.T) {
	s := newService(t, mem())
	token, _ := issue(t, s, apikeys.NewKey{Networks: []netip.Prefix{
		netip.MustParsePrefix("203.0.113.9/24"), netip.MustParsePrefix("2001:db8::/32"), netip.MustParsePrefix("::ffff:198.51.100.1/128"),
	}})
	for text, want := range map[string]bool{
		"203.0.113.200": true, "::ffff:203.0.113.1": true, "2001:db8::1": true, "2001:db8::1%eth0": true, "198.51.100.1": true,
		"203.0.114.1": false, "2001:db9::1": false, "198.51.100.2": false, "": false,
	} {
		var addr netip.Addr
		if text != "" {
			addr = netip.MustParseAddr(text)
		}
		d, err := s.Verify(ctx, token, apikeys.Client{Addr: addr})
		require.NoError(t, err)
		require.Equal(t, want, d.Allowed(), "from %q", text)
		if !want {
			require.Equal(t, apikeys.ReasonNetwork, d.Reason)
		}
	}
}

func TestNobodyGrantsMoreThanTheyHold(t *testing.T) {
	s := newService(t, mem())
	_, k := issue(t, s, apikeys.NewKey{Scopes: []string{"invoices:*", "orders:read"}})
	reader := apikeys.Holder("acct_1", owner, "read", "*")
	for name, do := range map[string]func() error{
		"issue": func() error {
			_, _, err := s.Issue(ctx, apikeys.Holder("acct_1", owner, "read"), apikeys.NewKey{Name: "n", Scopes: []string{"write"}})
			return err
		},
		"issue with nothing held": func() error {
			_, _, err := s.Issue(ctx, apikeys.Holder("acct_1", owner), apikeys.NewKey{Name: "n", Scopes: []string{"read"}})
			return err
		},
		"a wildcard makes no key that makes keys": func() error {
			_, _, err := s.Issue(ctx, reader, apikeys.NewKey{Name: "n", Scopes: []string{"apikeys:write"}})
			return err
		},
		"update": func() error {
			more := []string{"apikeys:read"}
			_, err := s.Update(ctx, reader, k.ID, apikeys.Update{Scopes: &more})
			return err
		},
		"rotate": func() error {
			_, _, err := s.Rotate(ctx, apikeys.Holder("acct_1", owner, "read"), k.ID, apikeys.Rotation{})
			return err
		},
	} {
		require.ErrorIs(t, do(), apikeys.ErrScope, name)
	}
}

func TestOthersKeysDoNotExist(t *testing.T) {
	s := newService(t, mem())
	token, k := issue(t, s, apikeys.NewKey{})
	stranger := apikeys.Holder("acct_2", apikeys.Account("acct_2"), "*")
	sameID := apikeys.Holder("acct_1", apikeys.Organisation("acct_1"), "*")
	name := "mine"
	for _, by := range []apikeys.Actor{stranger, sameID} {
		for what, do := range map[string]func() error{
			"key":     func() error { _, err := s.Key(ctx, by, k.ID); return err },
			"list":    func() error { _, err := s.List(ctx, by, owner, "", 0); return err },
			"lineage": func() error { _, err := s.Lineage(ctx, by, k.ID); return err },
			"history": func() error { _, err := s.History(ctx, by, k.ID, 0); return err },
			"update":  func() error { _, err := s.Update(ctx, by, k.ID, apikeys.Update{Name: &name}); return err },
			"revoke":  func() error { return s.Revoke(ctx, by, k.ID, "") },
			"rotate":  func() error { _, _, err := s.Rotate(ctx, by, k.ID, apikeys.Rotation{}); return err },
			"owner":   func() error { _, err := s.RevokeOwner(ctx, by, owner, ""); return err },
			"issue":   func() error { _, _, err := s.Issue(ctx, by, apikeys.NewKey{Owner: owner, Name: "n"}); return err },
			"no key":  func() error { return s.Revoke(ctx, by, "key_none", "") },
			"no id":   func() error { return s.Revoke(ctx, by, "", "") },
			"bad id":  func() error { return s.Revoke(ctx, by, "key\x00", "") },
		} {
			require.ErrorIs(t, do(), apikeys.ErrNotFound, what)
		}
	}
	require.ErrorIs(t, s.RevokeBefore(ctx, stranger, epoch), apikeys.ErrInvalid)
	require.ErrorIs(t, s.Revoke(ctx, apikeys.Actor{}, k.ID, ""), apikeys.ErrInvalid)
	require.ErrorIs(t, s.Revoke(ctx, apikeys.Actor{ID: "x"}, k.ID, ""), apikeys.ErrInvalid)
	require.True(t, verify(t, s, token).Allowed())
}

func TestIssueRefusesWhatCannotBeKept(t *testing.T) {
	c := newClock()
	s := newService(t, mem(), at(c), func(cfg *apikeys.Config) {
		cfg.Scopes, cfg.MaxLifetime = []string{"read", "write"}, time.Hour
	})
	good := apikeys.NewKey{Owner: owner, Name: "n"}
	for field, change := range map[string]func(*apikeys.NewKey){
		"Name":       func(k *apikeys.NewKey) { k.Name = " " },
		"Name: want": func(k *apikeys.NewKey) { k.Name = "two\nlines" },
		"Scopes":     func(k *apikeys.NewKey) { k.Scopes = []string{"delete"} },
		"Scopes: ":   func(k *apikeys.NewKey) { k.Scopes = []string{"not a scope"} },
		"Networks":   func(k *apikeys.NewKey) { k.Networks = []netip.Prefix{{}} },
		"Metadata":   func(k *apikeys.NewKey) { k.Metadata = map[string]string{"a": strings.Repeat("x", 501)} },
		"ExpiresAt":  func(k *apikeys.NewKey) { k.ExpiresAt = c.now().Add(2 * time.Hour) },
		"ExpiresAt:": func(k *apikeys.NewKey) { k.ExpiresAt = c.now().Add(-time.Hour) },
		"Owner.Kind": func(k *apikeys.NewKey) { k.Owner.Kind = "robot" },
		"Owner.ID":   func(k *apikeys.NewKey) { k.Owner.ID = "a\x00" },
	} {
		in := good
		change(&in)
		_, _, err := s.Issue(ctx, op, in)
		require.ErrorIs(t, err, apikeys.ErrInvalid, field)
		require.ErrorContains(t, err, strings.TrimSpace(strings.Split(field, ":")[0]))
	}
	_, k, err := s.Issue(ctx, op, good)
	require.NoError(t, err)
	require.Equal(t, c.now().Add(time.Hour), k.ExpiresAt, "the longest life is the default one")
}

func TestMaxKeysCountsLiveOnes(t *testing.T) {
	c := newClock()
	s := newService(t, mem(), at(c), func(cfg *apikeys.Config) { cfg.MaxKeys = 2 })
	issue(t, s, apikeys.NewKey{ExpiresAt: c.now().Add(time.Second)})
	_, k := issue(t, s, apikeys.NewKey{})
	_, _, err := s.Issue(ctx, op, apikeys.NewKey{Owner: owner, Name: "n"})
	require.ErrorIs(t, err, apikeys.ErrLimit)
	c.advance(time.Second)
	issue(t, s, apikeys.NewKey{})
	require.NoError(t, s.Revoke(ctx, person, k.ID, ""))
	issue(t, s, apikeys.NewKey{})
	_, _, err = s.Issue(ctx, op, apikeys.NewKey{Owner: owner, Name: "n"})
	require.ErrorIs(t, err, apikeys.ErrLimit)
}

func TestStoreFailureSaysNothingAboutTheKey(t *testing.T) {
	c, store := newClock(), mem()
	s := newService(t, store, at(c))
	token, k := issue(t, s, apikeys.NewKey{})
	store.cut.Store(true)
	_, err := s.Verify(ctx, token, apikeys.Client{})
	require.ErrorIs(t, err, apikeys.ErrUnavailable)
	require.ErrorIs(t, err, errCut)
	require.ErrorIs(t, s.Revoke(ctx, op, k.ID, ""), apikeys.ErrUnavailable)
	store.cut.Store(false)
	require.True(t, verify(t, s, token).Allowed(), "a failure is not remembered")

	store.cut.Store(true)
	c.advance(5 * time.Second)
	require.True(t, verify(t, s, token).Allowed(), "within MaxStaleness")
	c.advance(1)
	_, err = s.Verify(ctx, token, apikeys.Client{})
	require.ErrorIs(t, err, apikeys.ErrUnavailable)
}

func TestServeStaleServesSoLongAndNoLonger(t *testing.T) {
	c, store := newClock(), mem()
	s := newService(t, store, at(c), func(cfg *apikeys.Config) { cfg.ServeStale = time.Minute })
	token, _ := issue(t, s, apikeys.NewKey{ExpiresAt: c.now().Add(50 * time.Second)})
	lasting, _ := issue(t, s, apikeys.NewKey{})
	verify(t, s, token)
	verify(t, s, lasting)
	store.cut.Store(true)
	c.advance(40 * time.Second)
	d := verify(t, s, token)
	require.True(t, d.Allowed() && d.Stale)
	require.EqualValues(t, 1, s.Stats().ServedStale)
	c.advance(10 * time.Second)
	_, err := s.Verify(ctx, token, apikeys.Client{})
	require.ErrorIs(t, err, apikeys.ErrUnavailable, "never past its expiry")
	c.advance(15 * time.Second)
	require.True(t, verify(t, s, lasting).Stale)
	c.advance(1)
	_, err = s.Verify(ctx, lasting, apikeys.Client{})
	require.ErrorIs(t, err, apikeys.ErrUnavailable)
}

// TestUnknownOutcomeOfARevocation commits a revocation and loses the answer:
// the caller learns that it doesn't know, and the key is dead here too.
func TestUnknownOutcomeOfARevocation(t *testing.T) {
	store := mem()
	s := newService(t, store)
	token, k := issue(t, s, apikeys.NewKey{})
	verify(t, s, token)
	store.lost = true
	require.ErrorIs(t, s.Revoke(ctx, op, k.ID, ""), apikeys.ErrUnavailable)
	require.Equal(t, apikeys.ReasonRevoked, verify(t, s, token).Reason)
	store.lost = false
	require.NoError(t, s.Revoke(ctx, op, k.ID, ""), "again changes nothing")
}

func TestLookupsAreBounded(t *testing.T) {
	store := mem()
	s := newService(t, store, func(c *apikeys.Config) { c.MaxLookups = 1; c.LookupTimeout = time.Millisecond })
	token, _ := issue(t, s, apikeys.NewKey{})
	other, _ := issue(t, s, apikeys.NewKey{})
	entered, release, done := make(chan struct{}, 2), make(chan struct{}), make(chan struct{})
	store.after = func() { entered <- struct{}{}; <-release }
	go func() { _, _ = s.Verify(ctx, token, apikeys.Client{}); close(done) }()
	<-entered
	_, err := s.Verify(ctx, other, apikeys.Client{})
	require.ErrorIs(t, err, apikeys.ErrUnavailable)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	close(release)
	<-done
}

func TestCallersWhoLeaveDoNotSpoilOthers(t *testing.T) {
	store := mem()
	s := newService(t, store)
	token, _ := issue(t, s, apikeys.NewKey{})
	entered, release := make(chan struct{}, 1), make(chan struct{})
	store.after = func() { entered <- struct{}{}; <-release }
	leaving, leave := context.WithCancel(ctx)
	left := make(chan error, 1)
	go func() { _, err := s.Verify(leaving, token, apikeys.Client{}); left <- err }()
	<-entered
	stays := make(chan bool, 1)
	go func() { d, err := s.Verify(ctx, token, apikeys.Client{}); stays <- err == nil && d.Allowed() }()
	leave()
	err := <-left
	require.ErrorIs(t, err, apikeys.ErrUnavailable)
	require.ErrorIs(t, err, context.Canceled)
	close(release)
	require.True(t, <-stays)
}

func TestPepperRotation(t *testing.T) {
	store := mem()
	plain := newService(t, store, func(c *apikeys.Config) { c.Peppers = nil })
	tokens := map[string]string{}
	tokens["plain"], _ = issue(t, plain, apikeys.NewKey{})
	one := apikeys.Pepper{ID: 1, Secret: peppers[0].Secret}
	two := apikeys.Pepper{ID: 2, Secret: []byte(strings.Repeat("2", 32))}
	with := func(list ...apikeys.Pepper) *apikeys.Service {
		return newService(t, store, func(c *apikeys.Config) { c.Peppers = list })
	}
	tokens["one"], _ = issue(t, with(one, apikeys.Pepper{}), apikeys.NewKey{})
	all := with(two, one, apikeys.Pepper{})
	tokens["two"], _ = issue(t, all, apikeys.NewKey{})
	counts := func() map[int16][2]int64 {
		uses, err := all.Peppers(ctx)
		require.NoError(t, err)
		out := map[int16][2]int64{}
		for _, u := range uses {
			out[u.Pepper] = [2]int64{u.Hashed, u.Tagged}
		}
		return out
	}
	require.Equal(t, map[int16][2]int64{0: {1, 1}, 1: {1, 1}, 2: {1, 1}}, counts())
	for name, token := range tokens {
		require.True(t, verify(t, all, token).Allowed(), name)
		require.True(t, verify(t, all, token).Allowed(), name)
	}
	require.Equal(t, map[int16][2]int64{0: {0, 1}, 1: {0, 1}, 2: {3, 1}}, counts())
	// The old ones hash nothing any more; their tags still say who is genuine.
	last := with(two, apikeys.Pepper{ID: 1, Secret: one.Secret, TagOnly: true}, apikeys.Pepper{TagOnly: true})
	for name, token := range tokens {
		require.True(t, verify(t, last, token).Allowed(), name)
	}
	before := store.finds.Load()
	alone := with(two)
	require.Equal(t, apikeys.ReasonUnknown, verify(t, alone, tokens["one"]).Reason)
	require.Equal(t, before, store.finds.Load(), "a tag that nobody knows asks nothing")
}

// TestPepperRotatedUnderLoad verifies while keys are rehashed by several
// processes: nobody is refused.
func TestPepperRotatedUnderLoad(t *testing.T) {
	store := mem()
	old := newService(t, store)
	var tokens []string
	for range proof(200, 5_000) {
		token, _ := issue(t, old, apikeys.NewKey{})
		tokens = append(tokens, token)
	}
	two := apikeys.Pepper{ID: 2, Secret: []byte(strings.Repeat("2", 32))}
	stages := []*apikeys.Service{
		old,
		newService(t, store, func(c *apikeys.Config) { c.Peppers = []apikeys.Pepper{peppers[0], two} }),
		newService(t, store, func(c *apikeys.Config) { c.Peppers = []apikeys.Pepper{two, peppers[0]} }),
	}
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			// One pass by those who know the new pepper while others rehash.
			s := stages[1+i%2]
			for _, token := range tokens {
				d, err := s.Verify(ctx, token, apikeys.Client{})
				if err != nil || !d.Allowed() {
					t.Error("refused", d.Reason, err)
				}
			}
		})
	}
	wg.Wait()
}

func TestLastUseCostsNoWriteAndArrives(t *testing.T) {
	c, store := newClock(), mem()
	s := newService(t, store, at(c))
	token, k := issue(t, s, apikeys.NewKey{})
	client := apikeys.Client{Addr: netip.MustParseAddr("203.0.113.7"), Agent: "curl/8\r\nX-Evil: 1 " + strings.Repeat("é", 100)}
	for range 100 {
		_, err := s.Verify(ctx, token, client)
		require.NoError(t, err)
		c.advance(100 * time.Millisecond)
	}
	require.Equal(t, 1, s.Stats().UsesWaiting)
	store.cut.Store(true)
	require.ErrorIs(t, s.FlushUses(ctx), apikeys.ErrUnavailable)
	require.Equal(t, 1, s.Stats().UsesWaiting, "it waits for the next time")
	store.cut.Store(false)
	require.NoError(t, s.FlushUses(ctx))
	got, err := s.Key(ctx, person, k.ID)
	require.NoError(t, err)
	require.Equal(t, epoch.Add(5*time.Second), got.LastUsed.At)
	require.Equal(t, client.Addr, got.LastUsed.Addr)
	require.True(t, strings.HasPrefix(got.LastUsed.Agent, "curl/8X-Evil: 1 é"), got.LastUsed.Agent)
	require.LessOrEqual(t, len(got.LastUsed.Agent), 120)
	require.Zero(t, s.Stats().UsesWaiting)
}

func TestVerifyAllocatesNothing(t *testing.T) {
	if raceDetector {
		t.Skip("skipped: the race detector allocates")
	}
	s := newService(t, mem())
	token, _ := issue(t, s, apikeys.NewKey{Scopes: []string{"write"}})
	d := verify(t, s, token)
	require.Zero(t, testing.AllocsPerRun(1000, func() {
		if d, err := s.Verify(ctx, token, apikeys.Client{}); err != nil || !d.Allowed() {
			panic("refused")
		}
	}))
	forged := forge("acme_live_", 1)
	require.Zero(t, testing.AllocsPerRun(1000, func() { _, _ = s.Verify(ctx, forged, apikeys.Client{}) }))
	require.Zero(t, testing.AllocsPerRun(1000, func() { d.Principal.Can("read") }))
}

func TestGarbageKeepsMemoryBounded(t *testing.T) {
	store := mem()
	s := newService(t, store, func(c *apikeys.Config) { c.Peppers = nil; c.CacheSize = 16 })
	for range 100 {
		token, _ := issue(t, s, apikeys.NewKey{})
		require.True(t, verify(t, s, token).Allowed())
	}
	require.LessOrEqual(t, s.Stats().Cached, 16)

	// Well-formed inventions. The tag refuses them without a question; without
	// a pepper each asks once, and leaves no more behind.
	heap := func() int64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	for name, s := range map[string]*apikeys.Service{"pepper": newService(t, mem()), "plain": s} {
		n := proof(5_000, 1_000_000)
		before, lookups, refused := heap(), s.Stats().Lookups, 0
		for range n {
			if !verify(t, s, apikeys.Invented()).Allowed() {
				refused++
			}
		}
		grown := heap() - before
		t.Logf("%s: %d keys of garbage, %d bytes kept, %d questions", name, n, grown, s.Stats().Lookups-lookups)
		require.Equal(t, n, refused)
		require.Less(t, grown, int64(32<<20))
		if name == "pepper" {
			require.Zero(t, s.Stats().Lookups-lookups)
		}
	}
}

// TestRevokingAgainIsEffectiveHere revokes a key that another process has
// revoked: nothing changes, and yet it must be dead here when Revoke returns.
func TestRevokingAgainIsEffectiveHere(t *testing.T) {
	store := mem()
	a, b := newService(t, store), newService(t, store)
	token, k := issue(t, a, apikeys.NewKey{})
	require.True(t, verify(t, b, token).Allowed())
	require.NoError(t, a.Revoke(ctx, op, k.ID, ""))
	require.True(t, verify(t, b, token).Allowed(), "within MaxStaleness")
	require.NoError(t, b.Revoke(ctx, op, k.ID, ""))
	require.Equal(t, apikeys.ReasonRevoked, verify(t, b, token).Reason)
}

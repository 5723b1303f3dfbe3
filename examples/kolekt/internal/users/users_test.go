package users_test

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alexedwards/argon2id"
	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/examples/kolekt/internal/users"
	"github.com/kolekt/commerce/internal/pgtest"
)

// Fast enough for tests; the form of the hash is the same.
var weak = &argon2id.Params{Memory: 64, Iterations: 1, Parallelism: 1, SaltLength: 16, KeyLength: 32}

const secret = "0123456789abcdef0123456789abcdef"

type clock struct{ now time.Time }

func newService(t *testing.T, store users.Store) (*users.Service, *clock) {
	c := &clock{time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)}
	s, err := users.New(store, secret, users.Config{Now: func() time.Time { return c.now }, Params: weak})
	require.NoError(t, err)
	return s, c
}

func TestMemory(t *testing.T) {
	testService(t, func(*testing.T) users.Store { return &users.Memory{} })
}

func TestPostgres(t *testing.T) {
	testService(t, func(t *testing.T) users.Store {
		pool := pgtest.Pool(t)
		require.NoError(t, users.Schema.Migrate(t.Context(), pool))
		require.NoError(t, users.Schema.Verify(t.Context(), pool))
		return users.NewPostgres(pool)
	})
}

func testService(t *testing.T, newStore func(*testing.T) users.Store) {
	ctx := t.Context()
	const password = "correct horse battery"
	t.Run("LogInTakesTheAddressInAnyCaseAndTheRightPasswordOnly", func(t *testing.T) {
		s, _ := newService(t, newStore(t))
		u, err := s.SignUp(ctx, " Ann@Example.COM ", password, "Ann  Lee")
		require.NoError(t, err)
		require.Equal(t, "Ann Lee", u.Name)
		require.False(t, u.Admin)
		require.NotContains(t, u.Hash, password)
		got, err := s.LogIn(ctx, "ann@example.com", password)
		require.NoError(t, err)
		require.Equal(t, u, got)
		_, err = s.LogIn(ctx, "ann@example.com", password+"!")
		require.ErrorIs(t, err, users.ErrCredentials)
		_, err = s.LogIn(ctx, "bob@example.com", password)
		require.ErrorIs(t, err, users.ErrCredentials)
		_, err = s.LogIn(ctx, "not an address", password)
		require.ErrorIs(t, err, users.ErrCredentials)
	})
	t.Run("OfManySignUpsWithOneAddressOneWins", func(t *testing.T) {
		s, _ := newService(t, newStore(t))
		var won atomic.Int64
		var wg sync.WaitGroup
		for range 16 {
			wg.Go(func() {
				_, err := s.SignUp(ctx, "ann@example.com", password, "Ann")
				if err == nil {
					won.Add(1)
				} else {
					require.ErrorIs(t, err, users.ErrTaken)
				}
			})
		}
		wg.Wait()
		require.EqualValues(t, 1, won.Load())
	})
	t.Run("SignUpRefusesBadInput", func(t *testing.T) {
		s, _ := newService(t, newStore(t))
		for _, email := range []string{"", "ann", "ann@", "ann@host", "Ann <ann@example.com>", "a@b.c\r\nBcc: x@y.z", strings.Repeat("a", 250) + "@b.cd"} {
			_, err := s.SignUp(ctx, email, password, "Ann")
			require.ErrorIs(t, err, users.ErrEmail, email)
		}
		_, err := s.SignUp(ctx, "ann@example.com", "short", "Ann")
		require.ErrorIs(t, err, users.ErrPassword)
		_, err = s.SignUp(ctx, "ann@example.com", password, " ")
		require.ErrorIs(t, err, users.ErrName)
	})
	t.Run("ResetWorksOnceAndForAnHour", func(t *testing.T) {
		s, c := newService(t, newStore(t))
		u, err := s.SignUp(ctx, "ann@example.com", password, "Ann")
		require.NoError(t, err)
		token, mark := s.ResetToken(u), s.SessionMark(u)
		c.now = c.now.Add(time.Hour)
		_, err = s.Reset(ctx, token, "another long password")
		require.ErrorIs(t, err, users.ErrToken, "too old")
		c.now = c.now.Add(-time.Second)
		_, err = s.Reset(ctx, token, "another long password")
		require.NoError(t, err)
		_, err = s.Reset(ctx, token, "a third long password")
		require.ErrorIs(t, err, users.ErrToken, "again")
		u, err = s.LogIn(ctx, "ann@example.com", "another long password")
		require.NoError(t, err)
		require.NotEqual(t, mark, s.SessionMark(u), "old sessions have ended")
		require.False(t, u.VerifiedAt.IsZero())
	})
	t.Run("ATokenIsForOnePurposeAndOneUser", func(t *testing.T) {
		s, _ := newService(t, newStore(t))
		u, err := s.SignUp(ctx, "ann@example.com", password, "Ann")
		require.NoError(t, err)
		_, err = s.Reset(ctx, s.VerifyToken(u), "another long password")
		require.ErrorIs(t, err, users.ErrToken)
		_, err = s.Verify(ctx, s.VerifyToken(u)+"AA")
		require.ErrorIs(t, err, users.ErrToken)
		v, err := s.Verify(ctx, s.VerifyToken(u))
		require.NoError(t, err)
		require.False(t, v.VerifiedAt.IsZero())
		_, err = s.Verify(ctx, s.VerifyToken(u))
		require.NoError(t, err, "a second click is no error")
	})
	t.Run("SeedMakesOneAdminAndKeepsThePassword", func(t *testing.T) {
		s, _ := newService(t, newStore(t))
		_, err := s.Seed(ctx, "Admin@example.com", password, "Admin")
		require.NoError(t, err)
		_, err = s.Seed(ctx, "admin@example.com", "some other password", "Admin")
		require.NoError(t, err)
		u, err := s.LogIn(ctx, "admin@example.com", password)
		require.NoError(t, err)
		require.True(t, u.Admin)
	})
	t.Run("ListSearchesNamesAndAddresses", func(t *testing.T) {
		s, c := newService(t, newStore(t))
		for i, name := range []string{"Ann", "Bob", "Joanna", "100% Carl"} {
			c.now = c.now.Add(time.Second)
			_, err := s.SignUp(ctx, fmt.Sprintf("p%d@example.com", i), password, name)
			require.NoError(t, err)
		}
		found := func(text string) (names []string) {
			list, err := s.Store().List(ctx, text, "", 10)
			require.NoError(t, err)
			for _, u := range list {
				names = append(names, u.Name)
			}
			return names
		}
		require.Equal(t, []string{"Joanna", "Ann"}, found("ANN"))
		require.Equal(t, []string{"Bob"}, found("p1@"))
		require.Equal(t, []string{"100% Carl"}, found("%"), "no wildcards")
		require.Empty(t, found("\x00\xff"), "no text at all")
		n, err := s.Store().Count(ctx)
		require.NoError(t, err)
		require.EqualValues(t, 4, n)
	})
	t.Run("EraseSubjectRemovesTheLogin", func(t *testing.T) {
		s, _ := newService(t, newStore(t))
		u, err := s.SignUp(ctx, "ann@example.com", password, "Ann")
		require.NoError(t, err)
		records := 0
		emit := func(_ string, fields map[string]any) error {
			require.NotContains(t, fields, "hash")
			records++
			return nil
		}
		require.NoError(t, s.ExportSubject(ctx, u.ID, emit))
		counts, err := s.EraseSubject(ctx, u.ID)
		require.NoError(t, err)
		require.EqualValues(t, 1, counts["user"])
		_, err = s.LogIn(ctx, "ann@example.com", password)
		require.ErrorIs(t, err, users.ErrCredentials)
		require.NoError(t, s.ExportSubject(ctx, u.ID, emit))
		require.Equal(t, 1, records)
	})
}

func TestNewRefusesAShortSecret(t *testing.T) {
	_, err := users.New(&users.Memory{}, "short", users.Config{})
	require.ErrorContains(t, err, "32")
}

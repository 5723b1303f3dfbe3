package mailermem_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/mailer"
	"github.com/kolekt/commerce/mailer/mailermem"
	"github.com/kolekt/commerce/mailer/mailertest"
)

func newStore(t *testing.T) mailer.Store {
	s, err := mailermem.New(mailermem.Config{})
	require.NoError(t, err)
	return s
}

func TestStore(t *testing.T) { mailertest.TestStore(t, newStore) }

func TestLimitDropsWhatHasEndedFirst(t *testing.T) {
	s, err := mailermem.New(mailermem.Config{Limit: 2})
	require.NoError(t, err)
	now := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	enqueue := func(id string) error {
		_, err := s.Enqueue(context.Background(), []mailer.Enqueue{{Mail: mailer.Mail{ID: id, KeyHash: []byte(id), RunAt: now, ExpiresAt: now.Add(time.Hour)}}})
		return err
	}
	require.NoError(t, enqueue("a"))
	require.NoError(t, enqueue("b"))
	require.ErrorIs(t, enqueue("c"), mailer.ErrFull)
	ok, err := s.Cancel(context.Background(), "a", now)
	require.NoError(t, err)
	require.True(t, ok)
	require.NoError(t, enqueue("c"))
	_, err = s.Lookup(context.Background(), "a")
	require.ErrorIs(t, err, mailer.ErrNotFound)
	_, err = mailermem.New(mailermem.Config{Limit: -1})
	require.Error(t, err)
}

package billingstripe_test

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/billing"
	"github.com/kolekt/commerce/billing/billingmem"
)

// countedStore counts what a webhook request could write.
type countedStore struct {
	billing.Store
	writes atomic.Int64
}

func (s *countedStore) PutEvent(ctx context.Context, e billing.InboxEvent) (bool, error) {
	s.writes.Add(1)
	return s.Store.PutEvent(ctx, e)
}

func (s *countedStore) Save(ctx context.Context, c billing.Change) error {
	s.writes.Add(1)
	return s.Store.Save(ctx, c)
}

// TestForgedRequestsWriteNothing sends forgeries to the handler of a service, beside a genuine event that is stored.
func TestForgedRequestsWriteNothing(t *testing.T) {
	store := &countedStore{Store: billingmem.New()}
	service, err := billing.New(before(t), store, newGateway(t, nil), billing.Config{Now: func() time.Time { return clock }})
	require.NoError(t, err)
	post := func(value string, body io.Reader) int {
		t.Helper()
		req := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/webhook", body)
		if value != "" {
			req.Header.Set("Stripe-Signature", value)
		}
		w := httptest.NewRecorder()
		service.Webhook().ServeHTTP(w, req)
		return w.Code
	}
	good := header(clock, sign(testSecret, clock, smallEvent)).Get("Stripe-Signature")
	late := clock.Add(-10 * time.Minute)
	early := clock.Add(10 * time.Minute)
	for name, value := range map[string]string{
		"no header":         "",
		"wrong secret":      header(clock, sign("whsec_other", clock, smallEvent)).Get("Stripe-Signature"),
		"empty secret":      header(clock, sign("", clock, smallEvent)).Get("Stripe-Signature"),
		"no v1":             header(clock).Get("Stripe-Signature"),
		"50,000 signatures": good + strings.Repeat(",v1="+strings.Repeat("0", 64), 50_000), // more than a net/http server lets through
		"ten minutes ago":   header(late, sign(testSecret, late, smallEvent)).Get("Stripe-Signature"),
		"ten minutes ahead": header(early, sign(testSecret, early, smallEvent)).Get("Stripe-Signature"),
	} {
		assert.Equal(t, http.StatusBadRequest, post(value, strings.NewReader(smallEvent)), name)
	}
	flipped := []byte(smallEvent)
	for i := range flipped {
		flipped[i] ^= 1 << (i % 8)
		require.Equal(t, http.StatusBadRequest, post(good, bytes.NewReader(flipped)), "byte %d", i)
		flipped[i] ^= 1 << (i % 8)
	}
	huge := bytes.Repeat([]byte(" "), 10<<20)
	assert.Equal(t, http.StatusRequestEntityTooLarge, post(good, bytes.NewReader(huge)), "10 MB")
	assert.Equal(t, http.StatusRequestEntityTooLarge, post(good, io.MultiReader(bytes.NewReader(huge))), "10 MB of unknown length")
	assert.Zero(t, store.writes.Load())

	assert.Equal(t, http.StatusOK, post(good, strings.NewReader(smallEvent)), "the control: it is genuine")
	assert.EqualValues(t, 1, store.writes.Load())
}

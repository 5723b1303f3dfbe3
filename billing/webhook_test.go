package billing_test

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/billing"
	"github.com/kolekt/commerce/billing/billingmem"
	"github.com/kolekt/commerce/billing/billingtest"
)

// counting counts the writes of a store, and fails them when told to.
type counting struct {
	billing.Store
	mu     sync.Mutex
	writes int
	err    error
}

func (s *counting) PutEvent(ctx context.Context, e billing.InboxEvent) (bool, error) {
	s.mu.Lock()
	s.writes++
	err := s.err
	s.mu.Unlock()
	if err != nil {
		return false, err
	}
	return s.Store.PutEvent(ctx, e)
}

func TestWebhookRefusesWithoutAWrite(t *testing.T) {
	r := newRig(t)
	store := &counting{Store: r.store}
	webhook := r.service(store, r.gateway).Webhook()
	e := r.gateway.Emit("product.updated", "", "prod_1")
	signed := func() *http.Request { return billingtest.Request(e) }
	for name, test := range map[string]struct {
		request func() *http.Request
		status  int
		code    string
	}{
		"another method": {func() *http.Request {
			return httptest.NewRequest(http.MethodGet, "/webhook", nil)
		}, 405, "method_not_allowed"},
		"no signature": {func() *http.Request {
			return httptest.NewRequest(http.MethodPost, "/webhook", bytes.NewReader(e.Raw))
		}, 400, "signature_refused"},
		"no event": {func() *http.Request {
			r := signed()
			r.Body = http.NoBody
			return r
		}, 400, "payload_refused"},
		"an event without ID": {func() *http.Request {
			return billingtest.Request(billing.Event{Raw: []byte(`{}`)})
		}, 400, "payload_refused"},
		"10 MB, announced": {func() *http.Request {
			return billingtest.Request(billing.Event{Raw: bytes.Repeat([]byte("x"), 10<<20)})
		}, 413, "body_too_large"},
		"10 MB, unannounced": {func() *http.Request {
			r := billingtest.Request(billing.Event{Raw: bytes.Repeat([]byte("x"), 10<<20)})
			r.ContentLength = -1
			return r
		}, 413, "body_too_large"},
		"a body that breaks off": {func() *http.Request {
			r := signed()
			r.Body, r.ContentLength = http.NoBody, -1
			return httptest.NewRequest(http.MethodPost, "/webhook", iotest.ErrReader(errors.New("reset")))
		}, 400, "body_unreadable"},
	} {
		t.Run(name, func(t *testing.T) {
			w := httptest.NewRecorder()
			webhook.ServeHTTP(w, test.request())
			require.Equal(t, test.status, w.Code)
			require.Equal(t, "application/problem+json", w.Header().Get("Content-Type"))
			require.Contains(t, w.Body.String(), test.code)
		})
	}
	require.Zero(t, store.writes)
	require.Equal(t, 200, billingtest.Send(webhook, e))
	require.Equal(t, 1, store.writes)
}

func TestWebhookReadsUpToOneMebibyte(t *testing.T) {
	r := newRig(t)
	e := r.gateway.Emit("product.updated", "", "prod_1")
	e.Raw = append(e.Raw, bytes.Repeat([]byte(" "), billing.MaxWebhookBody-len(e.Raw))...)
	require.Equal(t, 200, billingtest.Send(r.svc.Webhook(), e))
	stored, err := r.store.Events(r.ctx, billing.EventQuery{Limit: 1})
	require.NoError(t, err)
	require.Equal(t, e.Raw, stored[0].Body, "the exact bytes")
	e.Raw = append(e.Raw, ' ')
	require.Equal(t, 413, billingtest.Send(r.svc.Webhook(), e))
}

func TestWebhookAsksForTheEventAgainWhenTheStoreFails(t *testing.T) {
	r := newRig(t)
	store := &counting{Store: r.store, err: errors.New("the disk is full")}
	svc := r.service(store, r.gateway)
	e := r.gateway.Emit("product.updated", "", "prod_1")
	require.Equal(t, 503, billingtest.Send(svc.Webhook(), e))
	store.err = nil
	require.Equal(t, 200, billingtest.Send(svc.Webhook(), e))
	p, err := svc.ProcessPending(r.ctx)
	require.NoError(t, err)
	require.Equal(t, 1, p.Events)
}

func TestABurstOfEventsIsOneFetch(t *testing.T) {
	r := newRig(t)
	s := r.subscribe("alice", "pro")
	for range 10 {
		require.NoError(t, r.gateway.Renew(s.ID, true))
	}
	before := r.gateway.Calls("State")
	p := r.settle()
	require.Equal(t, 20, p.Events)
	require.Equal(t, 1, r.gateway.Calls("State")-before)
}

func TestAnOrphanWaitsForItsAccount(t *testing.T) {
	r := newRig(t)
	cus := r.gateway.AddCustomer("") // nobody knows whose
	_, err := r.gateway.AddSubscription(cus.ID, "pro_month_usd")
	require.NoError(t, err)
	p := r.settle()
	require.Equal(t, billing.Processed{Retried: 2}, p)

	// Somebody links them.
	require.NoError(t, r.store.Save(r.ctx, billing.Change{Account: billing.Account{ID: "alice", CustomerID: cus.ID}}))
	r.clock.Advance(time.Minute)
	p, err = r.svc.ProcessPending(r.ctx)
	require.NoError(t, err)
	require.Equal(t, 2, p.Events)
	require.Equal(t, "pro", r.access("alice").Plan)
}

func TestACustomerIsKnownByItsMetadataAndNeverByItsAddress(t *testing.T) {
	r := newRig(t)
	cus := r.gateway.AddCustomer("bob")
	_, err := r.gateway.AddSubscription(cus.ID, "pro_month_usd")
	require.NoError(t, err)
	r.settle()
	require.Equal(t, "pro", r.access("bob").Plan)

	// A second customer that names bob isn't taken for his.
	other := r.gateway.AddCustomer("bob")
	_, err = r.gateway.AddSubscription(other.ID, "business_month_usd")
	require.NoError(t, err)
	p := r.settle()
	require.Equal(t, 2, p.Retried)
	require.Equal(t, "pro", r.access("bob").Plan)
}

func TestAnEventThatCannotBeHandledDiesAndIsReplayed(t *testing.T) {
	r := newRig(t)
	cus := r.gateway.AddCustomer("")
	_, err := r.gateway.AddSubscription(cus.ID, "pro_month_usd")
	require.NoError(t, err)
	r.settle()
	for range 25 {
		r.clock.Advance(6 * time.Hour)
		_, err = r.svc.ProcessPending(r.ctx)
		require.NoError(t, err)
	}
	dead, err := r.svc.DeadEvents(r.ctx, "", 0)
	require.NoError(t, err)
	require.Len(t, dead, 2)
	require.Equal(t, 20, dead[0].Attempts)
	require.Contains(t, dead[0].LastError, "no account for this customer")

	require.NoError(t, r.store.Save(r.ctx, billing.Change{Account: billing.Account{ID: "alice", CustomerID: cus.ID}}))
	n, err := r.svc.Replay(r.ctx, dead[0].ID, dead[1].ID)
	require.NoError(t, err)
	require.Equal(t, 2, n)
	p, err := r.svc.ProcessPending(r.ctx)
	require.NoError(t, err)
	require.Equal(t, 2, p.Events)
	require.Equal(t, "pro", r.access("alice").Plan)
}

func TestAnOutageIsNoReasonToGiveUp(t *testing.T) {
	r := newRig(t)
	s := r.subscribe("alice", "pro")
	r.gateway.Down(true)
	require.NoError(t, r.gateway.Renew(s.ID, false))
	require.NoError(t, r.gateway.Deliver(r.svc.Webhook()))
	for range 40 {
		_, err := r.svc.ProcessPending(r.ctx)
		require.NoError(t, err)
		r.clock.Advance(6 * time.Hour)
	}
	dead, err := r.svc.DeadEvents(r.ctx, "", 0)
	require.NoError(t, err)
	require.Empty(t, dead)
	// The snapshots are at work meanwhile.
	d := r.access("alice")
	require.Equal(t, billing.StatusPastDue, d.Status)
	require.True(t, d.Stale)
	require.Contains(t, r.kinds(), billing.KindPaymentFailed)

	r.gateway.Down(false)
	require.NoError(t, r.gateway.PayByHand(s.ID))
	_, err = r.svc.ProcessPending(r.ctx)
	require.NoError(t, err)
	require.Equal(t, billing.ReasonActive, r.access("alice").Reason)
	require.Contains(t, r.kinds(), billing.KindPaymentRecovered)
}

func TestReconcileFindsWhatNeverCame(t *testing.T) {
	r := newRig(t)
	s := r.subscribe("alice", "pro")
	require.NoError(t, r.gateway.Renew(s.ID, false)) // its webhooks are lost
	report, err := r.svc.Reconcile(r.ctx)
	require.NoError(t, err)
	require.Equal(t, 2, report.Missing)
	require.Empty(t, report.Drift)
	require.Equal(t, billing.ReasonGrace, r.access("alice").Reason)
	report, err = r.svc.Reconcile(r.ctx)
	require.NoError(t, err)
	require.Zero(t, report.Missing)

	// Longer ago than the provider keeps events: the sweep sees it.
	require.NoError(t, r.gateway.PayByHand(s.ID))
	r.clock.Advance(60 * 24 * time.Hour)
	report, err = r.svc.Reconcile(r.ctx)
	require.NoError(t, err)
	require.Zero(t, report.Missing)
	require.Equal(t, 1, report.Swept)
	require.Equal(t, []billing.Drift{{Account: "alice", What: []string{
		"subscription " + s.ID + ": past_due, is active", "invoice " + r.gateway.AllInvoices()[1].ID + ": open, is paid",
	}}}, report.Drift)
	require.Contains(t, r.kinds(), billing.KindInvoicePaid)
}

func TestADeletedCustomerEndsEverythingAndCanComeBack(t *testing.T) {
	r := newRig(t)
	r.subscribe("alice", "pro")
	former := r.gateway.Customers()[0].ID
	require.NoError(t, r.gateway.DeleteCustomer(former))
	r.settle()
	require.False(t, r.access("alice").Paid)
	require.Equal(t, billing.ReasonAccountDeleted, r.access("alice").Reason)

	r.clock.Advance(time.Hour)
	s := r.subscribe("alice", "pro")
	require.NotEqual(t, former, s.CustomerID)
	require.Equal(t, "pro", r.access("alice").Plan)
	// A last word of the former customer changes nothing and isn't an error.
	e := r.gateway.Emit("customer.updated", former, former)
	require.Equal(t, 200, billingtest.Send(r.svc.Webhook(), e))
	p, err := r.svc.ProcessPending(r.ctx)
	require.NoError(t, err)
	require.Zero(t, p.Retried)
	require.Equal(t, "pro", r.access("alice").Plan)
}

func TestLogsHoldNoPayload(t *testing.T) {
	r := newRig(t)
	var log strings.Builder
	svc := r.service(billingmem.New(), r.gateway, func(c *billing.Config) { c.Logger = textLogger(&log) })
	cus := r.gateway.AddCustomer("")
	_, err := r.gateway.AddSubscription(cus.ID, "pro_month_usd")
	require.NoError(t, err)
	require.NoError(t, r.gateway.Deliver(svc.Webhook()))
	req := httptest.NewRequest(http.MethodPost, "/webhook", strings.NewReader("card 4242424242424242"))
	req.Header.Set("Stripe-Signature", "t=1,v1=secret")
	svc.Webhook().ServeHTTP(httptest.NewRecorder(), req)
	_, err = svc.ProcessPending(r.ctx)
	require.NoError(t, err)
	require.Contains(t, log.String(), "event comes again")
	require.NotContains(t, log.String(), "4242")
	require.NotContains(t, log.String(), "secret")
	require.NotContains(t, log.String(), "unit_amount")
}

package billing_test

import (
	"context"
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/billing"
	"github.com/kolekt/commerce/billing/billingtest"
)

// erasing is a provider that can erase.
type erasing struct {
	*billingtest.Gateway
	erased []string
}

func (g *erasing) EraseCustomer(_ context.Context, id string) (map[string]int64, error) {
	g.erased = append(g.erased, id)
	return map[string]int64{"invoice": 1}, nil
}

func TestErasureTakesThePersonAndKeepsTheMoney(t *testing.T) {
	r := newRig(t)
	g := &erasing{Gateway: r.gateway}
	r.svc = r.service(r.store, g, func(c *billing.Config) {
		c.Customer = func(context.Context, string) (billing.Person, error) {
			return billing.Person{Email: "alice@example.com", Name: "Alice"}, nil
		}
	})
	s := r.subscribe("alice", "pro")
	customer := r.gateway.Customers()[0].ID

	records := map[string]int{}
	var all string
	require.NoError(t, r.svc.ExportSubject(r.ctx, "alice", func(record string, fields map[string]any) error {
		records[record]++
		text, err := json.Marshal(fields)
		all += string(text)
		if record == "invoice" {
			require.IsType(t, int64(0), fields["total"])
		}
		return err
	}))
	require.Equal(t, map[string]int{"account": 1, "subscription": 1, "invoice": 1, "notice": 3, "event": 4}, records)
	require.Contains(t, all, "alice@example.com") // in the event that made the customer

	counts, err := r.svc.EraseSubject(r.ctx, "alice")
	require.NoError(t, err)
	require.Equal(t, map[string]int64{"account": 1, "customer": 1, "subscription": 1, "event": 4, "invoice": 1, "notice": 4, "provider_invoice": 1}, counts)
	require.Equal(t, []string{customer}, g.erased)
	require.Equal(t, billing.StatusCanceled, r.gateway.Subscriptions()[0].Status)

	// Nothing under the old name, and what comes later doesn't bring it back.
	r.settle()
	_, err = r.svc.Replay(r.ctx, r.gateway.Emitted()[0].ID, r.gateway.Emitted()[1].ID)
	require.NoError(t, err)
	r.settle()
	a, err := r.svc.Account(r.ctx, "alice")
	require.NoError(t, err)
	require.Zero(t, a.Version)
	require.NoError(t, r.svc.ExportSubject(r.ctx, "alice", func(record string, _ map[string]any) error {
		t.Errorf("a %s is left", record)
		return nil
	}))

	// The money is there, without the person.
	id, err := r.store.AccountOf(r.ctx, customer)
	require.NoError(t, err)
	a, err = r.svc.Account(r.ctx, id)
	require.NoError(t, err)
	require.True(t, a.Erased)
	require.Equal(t, int64(999), a.Invoices[0].AmountPaid)
	require.Equal(t, s.ID, a.Subscriptions[0].ID)
	text, err := json.Marshal(a)
	require.NoError(t, err)
	require.NotContains(t, string(text), "alice")

	// Nor do the late events themselves stay.
	events, err := r.store.Events(r.ctx, billing.EventQuery{CustomerID: customer, Limit: 100})
	require.NoError(t, err)
	require.NotEmpty(t, events)
	for _, e := range events {
		require.Empty(t, e.Body, e.Type)
	}

	counts, err = r.svc.EraseSubject(r.ctx, "alice")
	require.NoError(t, err)
	require.Empty(t, counts)

	// The money goes when its time has ended, and not before.
	counts, err = r.svc.ExpireErased(r.ctx, a.Invoices[0].Created)
	require.NoError(t, err)
	require.Empty(t, counts)
	r.subscribe("bob", "pro")
	counts, err = r.svc.ExpireErased(r.ctx, a.Invoices[0].Created.AddDate(8, 0, 0))
	require.NoError(t, err)
	require.Equal(t, map[string]int64{"account": 1, "subscription": 1, "invoice": 1}, counts)
	_, err = r.store.AccountOf(r.ctx, customer)
	require.ErrorIs(t, err, billing.ErrNotFound)
	bob, err := r.svc.Account(r.ctx, "bob")
	require.NoError(t, err)
	require.NotEmpty(t, bob.Invoices, "whoever lives keeps theirs")
}

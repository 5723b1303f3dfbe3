package billing_test

import (
	"context"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/billing"
)

// inArrears is an account whose renewal failed with the card that is saved and
// then declined.
func inArrears(t *testing.T, r *simRig, account string) billing.Invoice {
	t.Helper()
	r.paidFor(account, "pro", 0)
	_, err := r.svc.UsePaymentMethod(r.ctx, account, r.card(account, "chargeCustomerFail"))
	require.NoError(t, err)
	r.pass(29 * day)
	require.Equal(t, billing.ReasonGrace, r.access(account).Reason)
	inv := r.newest(account)
	require.Equal(t, billing.InvoiceOpen, inv.Status)
	return inv
}

func TestANewPaymentMethodPaysWhatIsOpen(t *testing.T) {
	r := newSimRig(t)
	inv := inArrears(t, r, "alice")
	pm := r.card("alice", "mastercard")
	// One that is declined is tried once.
	attempts := r.newest("alice").AttemptCount
	_, err := r.svc.UsePaymentMethod(r.ctx, "alice", r.card("alice", "chargeCustomerFail"))
	require.ErrorIs(t, err, billing.ErrDeclined)
	r.settle()
	require.Equal(t, attempts+1, r.newest("alice").AttemptCount)

	paid, err := r.svc.UsePaymentMethod(r.ctx, "alice", pm)
	require.NoError(t, err)
	require.Len(t, paid, 1)
	require.Equal(t, inv.ID, paid[0].ID)
	require.Equal(t, billing.InvoicePaid, paid[0].Status)
	require.Equal(t, billing.ReasonActive, r.access("alice").Reason)
	again, err := r.svc.UsePaymentMethod(r.ctx, "alice", pm)
	require.NoError(t, err)
	require.Empty(t, again)
	r.settle()
	require.Equal(t, []int64{1000, 1000}, r.moved("alice"))
	require.Len(t, r.noticesOf(billing.KindPaymentRecovered), 1)
	a, err := r.svc.Account(r.ctx, "alice")
	require.NoError(t, err)
	require.Equal(t, pm, a.PaymentMethod)
	require.Equal(t, pm, a.Subscriptions[0].DefaultPaymentMethod)
	require.False(t, a.Retry)
	require.Empty(t, a.Intents)

	r.paidFor("bob", "pro", 0)
	_, err = r.svc.UsePaymentMethod(r.ctx, "bob", pm)
	require.ErrorIs(t, err, billing.ErrNotFound, "somebody else's card")
	_, err = r.svc.PayInvoice(r.ctx, "bob", inv.ID)
	require.ErrorIs(t, err, billing.ErrNotFound, "somebody else's invoice")
	got, err := r.svc.PayInvoice(r.ctx, "alice", inv.ID)
	require.NoError(t, err)
	require.Equal(t, billing.InvoicePaid, got.Status, "paid is paid")

	mem := newRig(t)
	_, err = mem.svc.SetupPayment(mem.ctx, "alice")
	require.ErrorIs(t, err, billing.ErrUnsupported)
	_, err = mem.svc.UsePaymentMethod(mem.ctx, "alice", "pm_1")
	require.ErrorIs(t, err, billing.ErrUnsupported)
}

// TestACardThatComesByThePortalPaysToo: nobody calls; the news that there is
// another default payment method is enough, and one attempt is made for it.
func TestACardThatComesByThePortalPaysToo(t *testing.T) {
	for name, test := range map[string]struct {
		card   string
		reason billing.Reason
		moved  []int64
	}{
		"and pays":     {"visa", billing.ReasonActive, []int64{1000, 1000}},
		"and does not": {"chargeCustomerFail", billing.ReasonGrace, []int64{1000}},
		"and asks":     {"authenticationRequired", billing.ReasonGrace, []int64{1000}},
	} {
		t.Run(name, func(t *testing.T) {
			r := newSimRig(t)
			inv := inArrears(t, r, "alice")
			pm := r.api("POST", "/v1/payment_methods/pm_card_"+test.card+"/attach", "customer="+r.customer("alice"))["id"].(string)
			r.api("POST", "/v1/customers/"+r.customer("alice"), "invoice_settings[default_payment_method]="+pm)
			before := r.newest("alice").AttemptCount
			for range 3 {
				r.settle()
			}
			require.Equal(t, test.reason, r.access("alice").Reason)
			require.Equal(t, test.moved, r.moved("alice"))
			require.LessOrEqual(t, r.newest("alice").AttemptCount, before+1)
			a, err := r.svc.Account(r.ctx, "alice")
			require.NoError(t, err)
			require.False(t, a.Retry)
			require.Equal(t, inv.ID, r.newest("alice").ID)
		})
	}
}

func TestAPaymentIsAuthenticatedByTheCustomer(t *testing.T) {
	r := newSimRig(t)
	inv := inArrears(t, r, "alice")
	_, err := r.svc.UsePaymentMethod(r.ctx, "alice", r.card3DS("alice"))
	require.ErrorIs(t, err, billing.ErrActionRequired)
	var action *billing.ActionRequiredError
	require.ErrorAs(t, err, &action)
	require.Equal(t, inv.ID, action.InvoiceID)
	require.NotEmpty(t, action.ClientSecret)
	require.NotEmpty(t, action.URL)
	require.NotContains(t, err.Error(), action.ClientSecret)

	d := r.access("alice")
	require.Equal(t, billing.RemedyAuthenticate, d.Remedy)
	require.Equal(t, []int64{1000}, r.moved("alice"))
	// Asked for again, it is the same payment that waits.
	_, err = r.svc.PayInvoice(r.ctx, "alice", inv.ID)
	var same *billing.ActionRequiredError
	require.ErrorAs(t, err, &same)
	require.Equal(t, action.ClientSecret, same.ClientSecret)

	// The client goes on with the secret, on the bank's page.
	r.authenticate(action.ClientSecret)
	r.settle()
	require.Equal(t, billing.ReasonActive, r.access("alice").Reason)
	require.Empty(t, r.access("alice").Remedy)
	require.Equal(t, []int64{1000, 1000}, r.moved("alice"))
	require.Len(t, r.noticesOf(billing.KindPaymentRecovered), 1)
}

// card3DS sets a card up that asks for 3-D Secure at each payment.
func (r *simRig) card3DS(account string) string {
	r.t.Helper()
	setup, err := r.svc.SetupPayment(r.ctx, account)
	require.NoError(r.t, err)
	got := r.api("POST", "/v1/setup_intents/"+setup.ID+"/confirm", "payment_method=pm_card_authenticationRequired")
	require.Equal(r.t, "requires_action", got["status"])
	r.challenge(setup.ID)
	return r.api("GET", "/v1/setup_intents/"+setup.ID)["payment_method"].(string)
}

func (r *simRig) authenticate(secret string) {
	r.t.Helper()
	id, _, _ := strings.Cut(secret, "_secret_")
	r.challenge(id)
}

// challenge passes the page that stands in for the bank.
func (r *simRig) challenge(id string) {
	r.t.Helper()
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	res, err := client.PostForm(r.sim.URL+"/3ds/"+id, url.Values{"do": {"authorize"}})
	require.NoError(r.t, err)
	require.NoError(r.t, res.Body.Close())
	require.Less(r.t, res.StatusCode, 400)
}

// TestNoMailWhileThePersonIsOnThePage: what fails there is seen there.
func TestNoMailWhileThePersonIsOnThePage(t *testing.T) {
	for name, test := range map[string]struct {
		page func(ctx context.Context, svc *billing.Service) error
		wait time.Duration
		want bool
	}{
		"on the portal": {func(ctx context.Context, svc *billing.Service) error {
			_, err := svc.Portal(ctx, "alice", "https://app.example")
			return err
		}, time.Minute, true},
		"on a page of ours":    {func(ctx context.Context, svc *billing.Service) error { return svc.OnPage(ctx, "alice") }, 14 * time.Minute, true},
		"gone for an hour":     {func(ctx context.Context, svc *billing.Service) error { return svc.OnPage(ctx, "alice") }, time.Hour, false},
		"never on any of them": {func(context.Context, *billing.Service) error { return nil }, 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			r := newSimRig(t)
			r.paidFor("alice", "pro", 0)
			pm := r.api("POST", "/v1/payment_methods/pm_card_chargeCustomerFail/attach", "customer="+r.customer("alice"))["id"].(string)
			sub, err := r.svc.Subscription(r.ctx, "alice")
			require.NoError(t, err)
			r.api("POST", "/v1/subscriptions/"+sub.ID, "default_payment_method="+pm)
			require.NoError(t, r.sim.AdvanceTo(r.ctx, sub.Period.To.Add(time.Hour-test.wait-time.Second)))
			r.settle()
			require.NoError(t, test.page(r.ctx, r.svc))
			require.NoError(t, r.sim.Advance(r.ctx, test.wait+2*time.Second))
			r.settle()
			failed := r.noticesOf(billing.KindPaymentFailed)
			require.Len(t, failed, 1)
			require.Equal(t, test.want, failed[0].OnPage)
			require.Equal(t, billing.RemedyIssuer, failed[0].Remedy)
			require.Equal(t, "generic_decline", failed[0].DeclineCode)
		})
	}
}

// TestAPageThatExpiredUnheardIsNotHandedOutAgain: the event that tells of it
// may never come.
func TestAPageThatExpiredUnheardIsNotHandedOutAgain(t *testing.T) {
	r := newSimRig(t)
	first, err := r.svc.Checkout(r.ctx, "alice", checkoutOf("pro"))
	require.NoError(t, err)
	require.NoError(t, r.sim.Advance(r.ctx, 25*time.Hour))
	second, err := r.svc.Checkout(r.ctx, "alice", checkoutOf("pro"))
	require.NoError(t, err)
	require.NotEqual(t, first.ID, second.ID)
	require.Equal(t, "open", second.Status)
	again, err := r.svc.Checkout(r.ctx, "alice", checkoutOf("pro"))
	require.NoError(t, err)
	require.Equal(t, second.ID, again.ID)
}

package billing_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/billing"
	"github.com/kolekt/commerce/billing/billingstripe"
)

// The sources of declineSteps:
//
//	C  https://docs.stripe.com/declines/codes: the code and its next step
//	R  https://docs.stripe.com/billing/revenue-recovery/smart-retries: codes
//	   after which no retry is made without another payment method
//	T  https://docs.stripe.com/testing: the test card that gives the code
//	A  https://docs.stripe.com/billing/subscriptions/overview#requires-action:
//	   a payment that the customer has to authenticate
var declineSteps = []struct {
	code   string
	card   string // of the simulator, where Stripe has a test card
	source string
	remedy billing.Remedy
	// level is what declinePolicy makes of it at once.
	level billing.Level
	// notice is what the customer is asked for beside payment.failed.
	notice billing.Kind
	public string
}{
	{"generic_decline", "chargeDeclined", "C T", billing.RemedyIssuer, billing.Warned, "", "generic_decline"},
	{"insufficient_funds", "chargeDeclinedInsufficientFunds", "C T", billing.RemedyWait, billing.Warned, "", "insufficient_funds"},
	{"lost_card", "chargeDeclinedLostCard", "C R T", billing.RemedyNewMethod, billing.Suspended, billing.KindPaymentMethodNeeded, "generic_decline"},
	{"stolen_card", "chargeDeclinedStolenCard", "C R T", billing.RemedyNewMethod, billing.Suspended, billing.KindPaymentMethodNeeded, "generic_decline"},
	{"expired_card", "chargeDeclinedExpiredCard", "C R T", billing.RemedyNewMethod, billing.Limited, billing.KindPaymentMethodNeeded, "expired_card"},
	{"incorrect_cvc", "chargeDeclinedIncorrectCvc", "C T", billing.RemedyCorrect, billing.Warned, billing.KindPaymentMethodNeeded, "incorrect_cvc"},
	{"processing_error", "chargeDeclinedProcessingError", "C T", billing.RemedyWait, billing.Warned, "", "processing_error"},
	{"fraudulent", "radarBlock", "C R T", billing.RemedyNewMethod, billing.Suspended, billing.KindPaymentMethodNeeded, "generic_decline"},
	{"card_velocity_exceeded", "chargeDeclinedVelocityLimitExceeded", "C T", billing.RemedyWait, billing.Warned, "", "card_velocity_exceeded"},
	{"authentication_required", "authenticationRequired", "C A T", billing.RemedyAuthenticate, billing.Warned, billing.KindPaymentActionRequired, "authentication_required"},

	{"do_not_honor", "", "C", billing.RemedyIssuer, billing.Warned, "", "do_not_honor"},
	{"call_issuer", "", "C", billing.RemedyIssuer, billing.Warned, "", "call_issuer"},
	{"try_again_later", "", "C", billing.RemedyWait, billing.Warned, "", "try_again_later"},
	{"issuer_not_available", "", "C", billing.RemedyWait, billing.Warned, "", "issuer_not_available"},
	{"withdrawal_count_limit_exceeded", "", "C", billing.RemedyWait, billing.Warned, "", "withdrawal_count_limit_exceeded"},
	{"pickup_card", "", "C R", billing.RemedyNewMethod, billing.Suspended, billing.KindPaymentMethodNeeded, "generic_decline"},
	{"merchant_blacklist", "", "C", billing.RemedyNewMethod, billing.Suspended, billing.KindPaymentMethodNeeded, "generic_decline"},
	{"highest_risk_level", "", "C R", billing.RemedyNewMethod, billing.Suspended, billing.KindPaymentMethodNeeded, "generic_decline"},
	{"security_violation", "", "C", billing.RemedyIssuer, billing.Suspended, "", "generic_decline"},
	{"revocation_of_authorization", "", "C R", billing.RemedyNewMethod, billing.Limited, billing.KindPaymentMethodNeeded, "revocation_of_authorization"},
	{"revocation_of_all_authorizations", "", "C R", billing.RemedyNewMethod, billing.Limited, billing.KindPaymentMethodNeeded, "revocation_of_all_authorizations"},
	{"stop_payment_order", "", "C", billing.RemedyNewMethod, billing.Limited, billing.KindPaymentMethodNeeded, "stop_payment_order"},
	{"transaction_not_allowed", "", "C R", billing.RemedyNewMethod, billing.Limited, billing.KindPaymentMethodNeeded, "transaction_not_allowed"},
	{"card_not_supported", "", "C", billing.RemedyNewMethod, billing.Limited, billing.KindPaymentMethodNeeded, "card_not_supported"},
	{"invalid_account", "", "C", billing.RemedyNewMethod, billing.Limited, billing.KindPaymentMethodNeeded, "invalid_account"},
	{"new_account_information_available", "", "C", billing.RemedyNewMethod, billing.Limited, billing.KindPaymentMethodNeeded, "new_account_information_available"},
	{"incorrect_number", "", "C R", billing.RemedyCorrect, billing.Warned, billing.KindPaymentMethodNeeded, "incorrect_number"},
	{"invalid_expiry_year", "", "C", billing.RemedyCorrect, billing.Warned, billing.KindPaymentMethodNeeded, "invalid_expiry_year"},
	{"a_code_of_the_future", "", "C (left open)", billing.RemedyIssuer, billing.Warned, "", "a_code_of_the_future"},
}

// declinePolicy suspends a card that isn't its owner's at once, limits an
// account whose card no retry will charge, and gives all others two weeks.
var declinePolicy = billing.Policy{Dunning: []billing.Step{
	{Level: billing.Suspended, Suspicious: true},
	{Level: billing.Limited, Remedy: billing.RemedyNewMethod},
	{Level: billing.Limited, After: 14 * day},
}}

func TestADeclineCodeDrivesItsDunningStep(t *testing.T) {
	reasons := map[billing.Level]billing.Reason{billing.Warned: billing.ReasonGrace, billing.Limited: billing.ReasonPastDue, billing.Suspended: billing.ReasonSuspended}
	for _, test := range declineSteps {
		t.Run(test.code, func(t *testing.T) {
			require.NotEmpty(t, test.source)
			a := of(pro(billing.StatusPastDue))
			a.Invoices = []billing.Invoice{{
				ID: "in_1", SubscriptionID: "sub_1", Status: billing.InvoiceOpen, BillingReason: "subscription_cycle", Currency: "USD",
				AmountRemaining: 999, Created: noon, DeclineCode: test.code, FailedMethod: "pm_1",
			}}
			d := billing.Access(plans(t), declinePolicy, &a, noon)
			require.Equal(t, test.level, d.Dunning)
			require.Equal(t, reasons[test.level], d.Reason)
			require.Equal(t, test.remedy, d.Remedy)
			require.Equal(t, test.public, billing.PublicDeclineCode(test.code))
			if test.level == billing.Warned {
				require.Equal(t, noon.Add(14*day), d.Until, "the code shortens nothing for others")
			}
			// Without such steps, a code takes nothing away.
			require.Equal(t, billing.Warned, billing.Access(plans(t), billing.Policy{}, &a, noon).Dunning)
		})
	}
}

// TestADeclinedCardLeadsToItsStep charges a renewal to each of Stripe's cards.
func TestADeclinedCardLeadsToItsStep(t *testing.T) {
	for _, test := range declineSteps {
		if test.card == "" {
			continue
		}
		t.Run(test.code, func(t *testing.T) {
			r := newSimRig(t, func(c *billing.Config) { c.Policy = declinePolicy })
			inv := inArrears(t, r, "alice")
			// The card is refused where it is saved; charging it is what counts.
			_, err := r.stripe.PayInvoice(r.ctx, inv.ID, billing.PayRequest{PaymentMethod: "pm_card_" + test.card, OffSession: true}, "k")
			if test.remedy != billing.RemedyAuthenticate {
				require.ErrorIs(t, err, billing.ErrDeclined)
			}
			require.Error(t, err)
			r.settle()
			d := r.access("alice")
			require.Equal(t, test.remedy, d.Remedy)
			require.Equal(t, test.level, d.Dunning)
			require.Equal(t, []int64{1000}, r.moved("alice"))
			for _, kind := range []billing.Kind{billing.KindPaymentMethodNeeded, billing.KindPaymentActionRequired} {
				told := r.noticesOf(kind)
				if kind != test.notice {
					require.Empty(t, told)
					continue
				}
				require.Len(t, told, 1)
				require.Equal(t, inv.ID, told[0].InvoiceID)
				require.Equal(t, test.remedy, told[0].Remedy)
				require.Equal(t, test.public, told[0].DeclineCode)
				r.settle()
				require.Len(t, r.noticesOf(kind), 1)
			}

			before := r.newest("alice").AttemptCount
			// Another card ends it all.
			_, err = r.svc.UsePaymentMethod(r.ctx, "alice", r.card("alice", "visa"))
			require.NoError(t, err)
			r.settle()
			require.Equal(t, billing.Settled, r.access("alice").Dunning)
			require.Equal(t, "pro", r.access("alice").Plan)
			require.Equal(t, []int64{1000, 1000}, r.moved("alice"))
			require.Equal(t, before+1, r.newest("alice").AttemptCount)
			require.Len(t, r.noticesOf(billing.KindPaymentRecovered), 1)
		})
	}
}

// lostCard is a Stripe on which the card of a customer has been lost.
type lostCard struct {
	*billingstripe.Gateway
	method string
	pays   int
}

func (g *lostCard) Invoice(ctx context.Context, id string) (billing.Invoice, error) {
	inv, err := g.Gateway.Invoice(ctx, id)
	inv.DeclineCode, inv.FailedMethod = "lost_card", g.method
	return inv, err
}

func (g *lostCard) PayInvoice(ctx context.Context, id string, req billing.PayRequest, key string) (billing.Invoice, error) {
	g.pays++
	return g.Gateway.PayInvoice(ctx, id, req, key)
}

func TestACardThatNoRetryWillChargeIsNotTriedAgain(t *testing.T) {
	r := newSimRig(t)
	inv := inArrears(t, r, "alice")
	a, err := r.svc.Account(r.ctx, "alice")
	require.NoError(t, err)
	g := &lostCard{Gateway: r.stripe, method: a.PaymentMethod}
	svc := r.serviceOn(r.store, g)
	_, err = svc.PayInvoice(r.ctx, "alice", inv.ID)
	require.ErrorIs(t, err, billing.ErrDeclined)
	require.ErrorContains(t, err, "ask for another one")
	require.Zero(t, g.pays)
	g.method = "pm_of_before"
	_, err = svc.PayInvoice(r.ctx, "alice", inv.ID)
	require.ErrorIs(t, err, billing.ErrDeclined)
	require.Equal(t, 1, g.pays, "with another card it is worth a try")
}

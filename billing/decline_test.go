package billing_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/billing"
)

// The next steps are those of https://docs.stripe.com/declines/codes; that
// lost, stolen, revoked and forbidden cards aren't retried is also in
// https://docs.stripe.com/billing/revenue-recovery/smart-retries.
func TestADeclineLeadsToItsRemedy(t *testing.T) {
	for code, want := range map[string]billing.Remedy{
		"insufficient_funds":          billing.RemedyWait,
		"try_again_later":             billing.RemedyWait,
		"processing_error":            billing.RemedyWait,
		"issuer_not_available":        billing.RemedyWait,
		"expired_card":                billing.RemedyNewMethod,
		"lost_card":                   billing.RemedyNewMethod,
		"stolen_card":                 billing.RemedyNewMethod,
		"pickup_card":                 billing.RemedyNewMethod,
		"revocation_of_authorization": billing.RemedyNewMethod,
		"transaction_not_allowed":     billing.RemedyNewMethod,
		"incorrect_cvc":               billing.RemedyCorrect,
		"invalid_expiry_year":         billing.RemedyCorrect,
		"authentication_required":     billing.RemedyAuthenticate,
		"do_not_honor":                billing.RemedyIssuer,
		"generic_decline":             billing.RemedyIssuer,
		"call_issuer":                 billing.RemedyIssuer,
		"a_code_of_the_future":        billing.RemedyIssuer,
		"":                            billing.RemedyIssuer,
	} {
		require.Equal(t, want, billing.RemedyFor(code), code)
	}
}

func TestAThiefIsNotToldThatTheCardIsKnown(t *testing.T) {
	for _, code := range []string{"lost_card", "stolen_card", "pickup_card", "fraudulent", "merchant_blacklist"} {
		require.Equal(t, "generic_decline", billing.PublicDeclineCode(code))
	}
	require.Equal(t, "insufficient_funds", billing.PublicDeclineCode("insufficient_funds"))

	r := newRig(t)
	r.subscribe("alice", "pro")
	r.gateway.Refuse(&billing.GatewayError{Kind: billing.ErrDeclined, DeclineCode: "stolen_card"})
	status, _, got := newClient(r, t).do("POST", "/change", `{"plan":"business"}`)
	require.Equal(t, 402, status)
	require.Equal(t, "generic_decline", got["decline_code"])
	require.Equal(t, "new_method", got["remedy"])
}

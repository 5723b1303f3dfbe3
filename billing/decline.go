package billing

// Remedy is what helps after a payment that was declined.
type Remedy string

// The remedies.
const (
	RemedyWait         Remedy = "wait"           // the same method may work later: the gateway's retries take care
	RemedyNewMethod    Remedy = "new_method"     // no retry helps: ask for another payment method at once
	RemedyCorrect      Remedy = "correct"        // a number, date or code was entered wrong: let the customer correct it
	RemedyAuthenticate Remedy = "authenticate"   // the customer must confirm, on the invoice's page
	RemedyIssuer       Remedy = "contact_issuer" // only the card's bank knows: ask the customer to call it, or for another method
)

// declines is Stripe's table of decline codes, read for what a business does
// next: https://docs.stripe.com/declines/codes. Codes that it leaves open, and
// those that aren't here, are the issuer's affair.
var declines = map[string]Remedy{
	"approve_with_id":                 RemedyWait,
	"card_velocity_exceeded":          RemedyWait,
	"insufficient_funds":              RemedyWait,
	"issuer_not_available":            RemedyWait,
	"processing_error":                RemedyWait,
	"reenter_transaction":             RemedyWait,
	"try_again_later":                 RemedyWait,
	"withdrawal_count_limit_exceeded": RemedyWait,

	"card_not_supported":                RemedyNewMethod,
	"currency_not_supported":            RemedyNewMethod,
	"do_not_try_again":                  RemedyNewMethod,
	"expired_card":                      RemedyNewMethod,
	"fraudulent":                        RemedyNewMethod,
	"highest_risk_level":                RemedyNewMethod,
	"invalid_account":                   RemedyNewMethod,
	"lost_card":                         RemedyNewMethod,
	"merchant_blacklist":                RemedyNewMethod,
	"new_account_information_available": RemedyNewMethod,
	"pickup_card":                       RemedyNewMethod,
	"restricted_card":                   RemedyNewMethod,
	"revocation_of_all_authorizations":  RemedyNewMethod,
	"revocation_of_authorization":       RemedyNewMethod,
	"stolen_card":                       RemedyNewMethod,
	"stop_payment_order":                RemedyNewMethod,
	"testmode_decline":                  RemedyNewMethod,
	"transaction_not_allowed":           RemedyNewMethod,

	"incorrect_address":    RemedyCorrect,
	"incorrect_cvc":        RemedyCorrect,
	"incorrect_number":     RemedyCorrect,
	"incorrect_pin":        RemedyCorrect,
	"incorrect_zip":        RemedyCorrect,
	"invalid_cvc":          RemedyCorrect,
	"invalid_expiry_month": RemedyCorrect,
	"invalid_expiry_year":  RemedyCorrect,
	"invalid_number":       RemedyCorrect,

	"authentication_required":        RemedyAuthenticate,
	"authentication_not_handled":     RemedyAuthenticate,
	"offline_pin_required":           RemedyAuthenticate,
	"online_or_offline_pin_required": RemedyAuthenticate,

	"call_issuer":         RemedyIssuer,
	"do_not_honor":        RemedyIssuer,
	"generic_decline":     RemedyIssuer,
	"no_action_taken":     RemedyIssuer,
	"not_permitted":       RemedyIssuer,
	"security_violation":  RemedyIssuer,
	"service_not_allowed": RemedyIssuer,
}

// RemedyFor returns what helps after a decline with the given code, such as
// GatewayError.DeclineCode.
func RemedyFor(declineCode string) Remedy {
	if r, ok := declines[declineCode]; ok {
		return r
	}
	return RemedyIssuer
}

func (r Remedy) known() bool {
	switch r {
	case RemedyWait, RemedyNewMethod, RemedyCorrect, RemedyAuthenticate, RemedyIssuer:
		return true
	}
	return false
}

// Suspicious reports whether a decline says that the card was lost, stolen, or
// used by somebody else than its owner: see Step.Suspicious.
func Suspicious(declineCode string) bool {
	switch declineCode {
	case "fraudulent", "highest_risk_level", "lost_card", "merchant_blacklist", "pickup_card", "security_violation", "stolen_card":
		return true
	}
	return false
}

// PublicDeclineCode returns the code as the payer may see it: one that tells
// whoever holds a stolen card that it is known as that is "generic_decline".
func PublicDeclineCode(declineCode string) string {
	switch declineCode {
	case "fraudulent", "highest_risk_level", "lost_card", "merchant_blacklist", "pickup_card", "security_violation", "stolen_card":
		return "generic_decline"
	}
	return declineCode
}

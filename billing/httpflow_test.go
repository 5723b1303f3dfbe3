package billing_test

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/billing"
)

func TestHandlerChangesPaymentMethodsSeatsAndPauses(t *testing.T) {
	r := newSimRig(t)
	c := newClient(&r.rig, t)
	want := func(status int, code, method, path, body string) map[string]any {
		t.Helper()
		got, _, answer := c.do(method, path, body)
		require.Equal(t, status, got, "%s %s: %v", method, path, answer)
		if code != "" {
			require.Equal(t, code, answer["code"])
		}
		return answer
	}
	inv := inArrears(t, r, "alice")
	require.NotEmpty(t, want(200, "", "POST", "/setup", "")["client_secret"])
	want(422, "invalid", "POST", "/method", `{}`)
	want(404, "not_found", "POST", "/method", `{"payment_method":"pm_none"}`)
	declined := want(402, "payment_declined", "POST", "/pay", `{"invoice":"`+inv.ID+`"}`)
	require.Equal(t, "contact_issuer", declined["remedy"])
	action := want(402, "action_required", "POST", "/method", `{"payment_method":"`+r.card3DS("alice")+`"}`)
	require.NotEmpty(t, action["client_secret"])
	require.NotEmpty(t, action["url"])
	current := want(200, "", "GET", "/current", "")["access"].(map[string]any)
	require.Equal(t, "authenticate", current["remedy"])
	r.authenticate(action["client_secret"].(string))
	r.settle()
	require.Equal(t, "paid", want(200, "", "POST", "/pay", `{"invoice":"`+inv.ID+`"}`)["status"])
	want(422, "invalid", "POST", "/pay", `{}`)

	want(200, "", "POST", "/pause", `{}`)
	want(422, "invalid", "POST", "/pause", `{"until":"2001-01-01T00:00:00Z"}`)
	want(200, "", "POST", "/unpause", "")
	want(422, "invalid", "POST", "/convert", "")
	want(422, "invalid", "POST", "/seats", `{"seats":3}`)

	r.paidFor("acme", "team", 2)
	c.account = "acme"
	require.EqualValues(t, 4, want(http.StatusOK, "", "POST", "/seats", `{"seats":4}`)["ordered"])
	require.EqualValues(t, 2, want(http.StatusOK, "", "GET", "/seats", "")["paid"])

	// With a provider that can do less, it says so.
	mem := newRig(t)
	c = newClient(mem, t)
	want(http.StatusNotImplemented, "unsupported", "POST", "/setup", "")
	_, err := mem.svc.Refund(mem.ctx, "alice", billing.RefundOrder{InvoiceID: "in_1"}, r.why())
	require.ErrorIs(t, err, billing.ErrUnsupported)
	_, err = mem.svc.GrantCredit(mem.ctx, "alice", usd(1), r.why())
	require.ErrorIs(t, err, billing.ErrUnsupported)
}

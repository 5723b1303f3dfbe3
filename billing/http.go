package billing

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"mime"
	"net/http"
	"strconv"
	"time"

	"github.com/kolekt/commerce/internal/problem"
)

// HandlerConfig is what Handler wants to know.
type HandlerConfig struct {
	// Account says who asks; required. Its error is a 401.
	Account func(*http.Request) (account string, err error)
	// SuccessURL, CancelURL and ReturnURL are where the gateway's pages lead
	// back to; required. They come from here, and not from the request, so
	// that nobody is sent elsewhere. SuccessURL is that of CheckoutOrder.
	SuccessURL, CancelURL, ReturnURL string
	// AllowPromotionCodes is that of CheckoutOrder.
	AllowPromotionCodes bool
}

// maxRequest is the greatest body of a request, in bytes.
const maxRequest = 16 << 10

// Handler answers the requests of a page about one's own subscription, as
// JSON. Mount it under any prefix with http.StripPrefix:
//
//	GET  /plans     the catalogue
//	GET  /current   what the account may do now, and its subscription
//	GET  /invoices  the newest invoices; "fresh" is false when they are stored ones
//	POST /checkout  {"plan", "currency", "interval", "seats"} → the page to pay on
//	POST /portal    → the gateway's page for payment methods
//	POST /preview   {"plan", …} → what a change would cost
//	POST /change    {"plan", …, "confirm"} → the subscription
//	POST /cancel    {"now", "reason"} → the subscription
//	POST /resume    → the subscription, whose end is withdrawn
//	POST /pause     {"until"} → the subscription
//	POST /unpause   → the subscription
//	POST /convert   → the subscription, whose trial ends now
//	GET  /seats     who sits where
//	POST /seats     {"seats"} → who sits where, and the number that is ordered
//	POST /setup     → {"client_secret"}: to enter a payment method with
//	POST /method    {"payment_method"} → the open invoices that it paid
//	POST /pay       {"invoice"} → the invoice
//
// Only "plan" is required, and "confirm" is that of a preview. Requests of
// other sites are refused. Errors are RFC 9457 problems whose code is one of
// unauthenticated, cross_origin, body_unreadable, body_too_large, invalid,
// unknown_plan, not_found, subscribed, no_subscription, amount_changed,
// payment_declined (with "decline_code" and "remedy"), action_required (with
// "client_secret" and "url"), trial_used, no_seat, conflict, unavailable,
// unsupported and internal.
func (s *Service) Handler(cfg HandlerConfig) (http.Handler, error) {
	for name, missing := range map[string]bool{
		"Account": cfg.Account == nil, "SuccessURL": cfg.SuccessURL == "", "CancelURL": cfg.CancelURL == "", "ReturnURL": cfg.ReturnURL == "",
	} {
		if missing {
			return nil, fmt.Errorf("%w: HandlerConfig.%s is required", ErrInvalid, name)
		}
	}
	h := &handler{svc: s, cfg: cfg}
	mux := http.NewServeMux()
	for pattern, do := range map[string]func(r *http.Request, account string) (any, error){
		"GET /plans":     func(*http.Request, string) (any, error) { return map[string]any{"plans": s.catalog.Plans()}, nil },
		"GET /current":   h.current,
		"GET /invoices":  h.invoices,
		"POST /checkout": h.checkout,
		"POST /portal":   h.portal,
		"POST /preview":  h.preview,
		"POST /change":   h.change,
		"POST /cancel":   h.cancel,
		"POST /resume":   h.resume,
		"POST /pause":    h.pause,
		"POST /unpause":  func(r *http.Request, account string) (any, error) { return h.changed(s.Unpause(r.Context(), account)) },
		"POST /convert": func(r *http.Request, account string) (any, error) {
			return h.changed(s.ConvertTrial(r.Context(), account))
		},
		"GET /seats":   func(r *http.Request, account string) (any, error) { return s.Seats(r.Context(), account) },
		"POST /seats":  h.seats,
		"POST /setup":  func(r *http.Request, account string) (any, error) { return s.SetupPayment(r.Context(), account) },
		"POST /method": h.method,
		"POST /pay":    h.pay,
	} {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) { h.serve(w, r, do) })
	}
	guard := http.NewCrossOriginProtection()
	guard.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		problem.Write(w, problem.Details{Status: http.StatusForbidden, Code: "cross_origin", Detail: "Send the request from the application's own pages."})
	}))
	return guard.Handler(mux), nil
}

type handler struct {
	svc *Service
	cfg HandlerConfig
}

func (h *handler) serve(w http.ResponseWriter, r *http.Request, do func(r *http.Request, account string) (any, error)) {
	account, err := h.cfg.Account(r)
	if err != nil || account == "" {
		problem.Write(w, problem.Details{Status: http.StatusUnauthorized, Code: "unauthenticated", Detail: "Sign in first."})
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxRequest)
	answer, err := do(r, account)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	body, err := json.Marshal(answer)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	_, _ = w.Write(append(body, '\n')) // the client has gone: nobody to tell
}

// orderRequest is an order as JSON.
type orderRequest struct {
	Plan     string   `json:"plan"`
	Currency string   `json:"currency,omitempty"`
	Interval Interval `json:"interval,omitempty"`
	Seats    int64    `json:"seats,omitempty"`
	// Addons are how many of each; Current leaves an older version or price.
	Addons  map[string]int64 `json:"addons,omitempty"`
	Current bool             `json:"current,omitempty"`

	Confirm *Confirm `json:"confirm,omitempty"`
}

func (o orderRequest) order() Order {
	return Order{Plan: o.Plan, Currency: o.Currency, Interval: o.Interval, Seats: o.Seats, Addons: o.Addons, Current: o.Current}
}

// read decodes a body strictly.
func read(r *http.Request, into any) error {
	if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != "application/json" {
		return &requestError{"body_unreadable", http.StatusUnsupportedMediaType, "Send application/json."}
	}
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	err := d.Decode(into)
	if err == nil {
		if _, err = d.Token(); errors.Is(err, io.EOF) {
			return nil
		}
		err = errors.New("more than one value")
	}
	var large *http.MaxBytesError
	if errors.As(err, &large) {
		return &requestError{"body_too_large", http.StatusRequestEntityTooLarge, fmt.Sprintf("A request has at most %d bytes.", maxRequest)}
	}
	return &requestError{"body_unreadable", http.StatusBadRequest, "The body is not the JSON that this endpoint reads: " + err.Error()}
}

// requestError is a request that never reached the service.
type requestError struct {
	code   string
	status int
	detail string
}

func (e *requestError) Error() string { return "billing: " + e.code + ": " + e.detail }

// SubscriptionView is a subscription as its account sees it.
type SubscriptionView struct {
	ID        string    `json:"id"`
	Status    Status    `json:"status"`
	Plan      string    `json:"plan,omitempty"`
	Price     Money     `json:"price"` // of one seat and interval
	Interval  Interval  `json:"interval,omitempty"`
	Seats     int64     `json:"seats"`
	Period    Period    `json:"period"`
	TrialEnd  time.Time `json:"trial_end,omitzero"`
	EndsAt    time.Time `json:"ends_at,omitzero"` // scheduled
	EndedAt   time.Time `json:"ended_at,omitzero"`
	CreatedAt time.Time `json:"created_at,omitzero"`
	// Scheduled is the change that comes when the period ends.
	Scheduled *ScheduledView `json:"scheduled,omitempty"`
}

// ScheduledView is a change that is scheduled, as its account may see it.
type ScheduledView struct {
	At   time.Time `json:"at"`
	Plan string    `json:"plan,omitempty"`
}

func (s *Service) view(sub *Subscription) *SubscriptionView {
	v := &SubscriptionView{
		ID: sub.ID, Status: sub.Status, Period: sub.Period, TrialEnd: sub.TrialEnd, EndsAt: sub.endsAt(), EndedAt: sub.EndedAt, CreatedAt: sub.Created,
	}
	h := s.catalog.hold(sub)
	if h.plan >= 0 {
		v.Plan = s.catalog.plans[h.plan].ID
	}
	if h.item >= 0 {
		it := sub.Items[h.item]
		v.Price, v.Interval, v.Seats = it.Price.UnitAmount, it.Price.Interval, h.seats(sub)
	}
	if next := sub.Scheduled; next != nil && !next.At.IsZero() {
		v.Scheduled = &ScheduledView{At: next.At, Plan: next.Plan}
	}
	return v
}

func (h *handler) current(r *http.Request, account string) (any, error) {
	a, err := h.svc.Account(r.Context(), account)
	if err != nil {
		return nil, err
	}
	d := Access(h.svc.catalog, h.svc.cfg.Policy, &a, h.svc.now())
	answer := map[string]any{"access": d}
	if d.plan != nil {
		answer["plan"] = clonePlan(*d.plan)
	}
	if sub, ok := a.Current(); ok {
		answer["subscription"] = h.svc.view(&sub)
	}
	return answer, nil
}

// InvoiceView is an invoice as its account sees it.
type InvoiceView struct {
	ID        string        `json:"id"`
	Number    string        `json:"number,omitempty"`
	Status    InvoiceStatus `json:"status"`
	Total     Money         `json:"total"`
	Paid      Money         `json:"paid"`
	Refunded  Money         `json:"refunded,omitzero"`
	Created   time.Time     `json:"created"`
	HostedURL string        `json:"hosted_url,omitempty"`
	PDFURL    string        `json:"pdf_url,omitempty"`
}

func (h *handler) invoices(r *http.Request, account string) (any, error) {
	list, fresh, err := h.svc.Invoices(r.Context(), account)
	if err != nil {
		return nil, err
	}
	return map[string]any{"invoices": viewInvoices(list), "fresh": fresh}, nil
}

func viewInvoices(list []Invoice) []InvoiceView {
	views := make([]InvoiceView, 0, len(list))
	for _, inv := range list {
		v := InvoiceView{
			ID: inv.ID, Number: inv.Number, Status: inv.Status, Total: Money{inv.Total, inv.Currency}, Paid: Money{inv.AmountPaid, inv.Currency},
			Created: inv.Created, HostedURL: inv.HostedURL, PDFURL: inv.PDFURL,
		}
		if inv.AmountRefunded > 0 {
			v.Refunded = Money{inv.AmountRefunded, inv.Currency}
		}
		views = append(views, v)
	}
	return views
}

func (h *handler) checkout(r *http.Request, account string) (any, error) {
	var o orderRequest
	if err := read(r, &o); err != nil {
		return nil, err
	}
	c, err := h.svc.Checkout(r.Context(), account, CheckoutOrder{
		Order: o.order(), SuccessURL: h.cfg.SuccessURL, CancelURL: h.cfg.CancelURL, AllowPromotionCodes: h.cfg.AllowPromotionCodes,
	})
	return map[string]any{"id": c.ID, "url": c.URL}, err
}

func (h *handler) portal(r *http.Request, account string) (any, error) {
	url, err := h.svc.Portal(r.Context(), account, h.cfg.ReturnURL)
	return map[string]any{"url": url}, err
}

func (h *handler) preview(r *http.Request, account string) (any, error) {
	var o orderRequest
	if err := read(r, &o); err != nil {
		return nil, err
	}
	return h.svc.Preview(r.Context(), account, o.order())
}

func (h *handler) change(r *http.Request, account string) (any, error) {
	var o orderRequest
	if err := read(r, &o); err != nil {
		return nil, err
	}
	sub, err := h.svc.ChangePlan(r.Context(), account, o.order(), o.Confirm)
	return h.svc.view(&sub), err
}

func (h *handler) cancel(r *http.Request, account string) (any, error) {
	var o struct {
		Now    bool   `json:"now"`
		Reason string `json:"reason"`
	}
	if err := read(r, &o); err != nil {
		return nil, err
	}
	sub, err := h.svc.Cancel(r.Context(), account, CancelOptions{Now: o.Now, Reason: o.Reason})
	return h.svc.view(&sub), err
}

func (h *handler) resume(r *http.Request, account string) (any, error) {
	sub, err := h.svc.Resume(r.Context(), account)
	return h.svc.view(&sub), err
}

// changed shows a subscription after a change.
func (h *handler) changed(sub Subscription, err error) (any, error) { return h.svc.view(&sub), err }

func (h *handler) pause(r *http.Request, account string) (any, error) {
	var o struct {
		Until time.Time `json:"until"`
	}
	if err := read(r, &o); err != nil {
		return nil, err
	}
	return h.changed(h.svc.Pause(r.Context(), account, PauseOptions{Until: o.Until}))
}

func (h *handler) seats(r *http.Request, account string) (any, error) {
	var o struct {
		Seats int64 `json:"seats"`
	}
	if err := read(r, &o); err != nil {
		return nil, err
	}
	return h.svc.SetSeats(r.Context(), account, o.Seats)
}

func (h *handler) method(r *http.Request, account string) (any, error) {
	var o struct {
		PaymentMethod string `json:"payment_method"`
	}
	if err := read(r, &o); err != nil {
		return nil, err
	}
	if o.PaymentMethod == "" {
		return nil, fmt.Errorf("%w: no payment method", ErrInvalid)
	}
	paid, err := h.svc.UsePaymentMethod(r.Context(), account, o.PaymentMethod)
	return map[string]any{"paid": viewInvoices(paid)}, err
}

func (h *handler) pay(r *http.Request, account string) (any, error) {
	var o struct {
		Invoice string `json:"invoice"`
	}
	if err := read(r, &o); err != nil {
		return nil, err
	}
	if o.Invoice == "" {
		return nil, fmt.Errorf("%w: no invoice", ErrInvalid)
	}
	inv, err := h.svc.PayInvoice(r.Context(), account, o.Invoice)
	return viewInvoices([]Invoice{inv})[0], err
}

// fail answers an error. Its text is for the developer who reads the log;
// people get what they can do about it.
func (h *handler) fail(w http.ResponseWriter, r *http.Request, err error) {
	d := problem.Details{Status: http.StatusInternalServerError, Code: "internal", Detail: "Something went wrong on our side."}
	var refused *requestError
	var gateway *GatewayError
	var action *ActionRequiredError
	switch {
	case errors.As(err, &action):
		d = problem.Details{Status: http.StatusPaymentRequired, Code: "action_required", Detail: "The payment is to be confirmed with the bank.",
			Extra: map[string]any{"client_secret": action.ClientSecret, "url": action.URL}}
	case errors.Is(err, ErrTrialUsed):
		d = problem.Details{Status: http.StatusConflict, Code: "trial_used", Detail: "There was a trial before: order without one."}
	case errors.Is(err, ErrNoSeat):
		d = problem.Details{Status: http.StatusConflict, Code: "no_seat", Detail: "All seats are taken: release one or order more."}
	case errors.Is(err, ErrUnsupported):
		d = problem.Details{Status: http.StatusNotImplemented, Code: "unsupported", Detail: "This payment provider can't do it."}
	case errors.As(err, &refused):
		d = problem.Details{Status: refused.status, Code: refused.code, Detail: refused.detail}
	case errors.Is(err, ErrUnknownPlan):
		d = problem.Details{Status: http.StatusUnprocessableEntity, Code: "unknown_plan", Detail: "This plan can't be bought like this.",
			Errors: []problem.FieldError{{Field: "plan", Code: "unknown_plan", Detail: "No such plan, or no price in this currency and interval."}}}
	case errors.Is(err, ErrSubscribed):
		d = problem.Details{Status: http.StatusConflict, Code: "subscribed", Detail: "There is a subscription already: change its plan, or pay its open invoice."}
	case errors.Is(err, ErrNoSubscription):
		d = problem.Details{Status: http.StatusConflict, Code: "no_subscription", Detail: "There is no subscription that this could change."}
	case errors.Is(err, ErrAmountChanged):
		d = problem.Details{Status: http.StatusConflict, Code: "amount_changed", Detail: "The amount has changed since it was shown: look at it again."}
	case errors.Is(err, ErrDeclined):
		d = problem.Details{Status: http.StatusPaymentRequired, Code: "payment_declined", Detail: "The payment was declined, and nothing has changed: use another payment method."}
		if errors.As(err, &gateway) && gateway.DeclineCode != "" {
			d.Extra = map[string]any{"decline_code": PublicDeclineCode(gateway.DeclineCode), "remedy": RemedyFor(gateway.DeclineCode)}
		}
	case errors.Is(err, ErrConflict):
		d = problem.Details{Status: http.StatusConflict, Code: "conflict", Detail: "Another change is under way: try again in a minute."}
	case errors.Is(err, ErrNotFound):
		d = problem.Details{Status: http.StatusNotFound, Code: "not_found", Detail: "It doesn't exist."}
	case errors.Is(err, ErrInvalid):
		d = problem.Details{Status: http.StatusUnprocessableEntity, Code: "invalid", Detail: "This can't be done as the subscription stands."}
	case retryable(err):
		wait := 5 * time.Second
		if errors.As(err, &gateway) && gateway.RetryAfter > 0 {
			wait = gateway.RetryAfter
		}
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(wait.Seconds()))))
		d = problem.Details{Status: http.StatusServiceUnavailable, Code: "unavailable", Detail: "The payment provider can't be reached: try again in a moment."}
	}
	if d.Status >= http.StatusInternalServerError {
		h.svc.cfg.Logger.ErrorContext(r.Context(), "billing: request failed", "path", r.URL.Path, "error", err)
	}
	problem.Write(w, d)
}

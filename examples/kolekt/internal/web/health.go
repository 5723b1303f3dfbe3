package web

import (
	"context"
	"net/http"
	"time"

	"github.com/kolekt/commerce/apikeys"
	"github.com/kolekt/commerce/billing"
	"github.com/kolekt/commerce/examples/kolekt/internal/pages"
	"github.com/kolekt/commerce/mailer"
)

// health is what waits and what failed.
type health struct {
	Dead    []billing.InboxEvent `json:"dead_events"`
	Pending int                  `json:"pending_events"`
	Lag     time.Duration        `json:"webhook_lag_ns"`
	Mail    mailer.Stats         `json:"mail"`
	Keys    apikeys.Stats        `json:"api_keys"`
	Feed    billing.FeedState    `json:"feed"`
	Stale   int                  `json:"stale_accounts"` // that nothing was heard of for a day
	Streams int                  `json:"open_pages"`
	Limits  *limitsHealth        `json:"rate_limits,omitempty"` // nil without Redis

	waiting []billing.InboxEvent
}

// limitsHealth is how shared rate limits fare.
type limitsHealth struct {
	Healthy bool      `json:"healthy"`
	Since   time.Time `json:"since,omitzero"`
	Local   int64     `json:"local_decisions"`
}

// manyPending is up to where events that wait are counted.
const manyPending = 1000

func (a *App) health(ctx context.Context) (h health, err error) {
	if h.Dead, err = a.Billing.DeadEvents(ctx, "", 100); err != nil {
		return h, err
	}
	pending, err := a.Accounts.Events(ctx, billing.EventQuery{Status: billing.EventPending, Limit: manyPending})
	if err != nil {
		return h, err
	}
	if h.Pending = len(pending); h.Pending > 0 {
		h.Lag = max(0, a.Now().Sub(pending[0].Received))
		h.waiting = pending[:min(10, h.Pending)]
	}
	stale, err := a.Accounts.Accounts(ctx, billing.AccountQuery{SyncedBefore: a.Now().Add(-25 * time.Hour), Limit: manyPending})
	if err != nil {
		return h, err
	}
	h.Stale = len(stale)
	if h.Mail, err = a.Outbox.Stats(ctx); err != nil {
		return h, err
	}
	h.Keys, h.Feed, h.Streams = a.Keys.Stats(), a.Feed.State(), a.streams.count()
	if a.Guard != nil {
		s := a.Guard.State()
		h.Limits = &limitsHealth{Healthy: s.Healthy, Since: s.Since, Local: s.Local}
	}
	return h, nil
}

// healthPage is the page of it, but for the tables that need more look-ups.
func (a *App) healthPage(h health) pages.AdminHealth {
	now := a.Now()
	oldest := "none waits"
	if !h.Mail.Oldest.IsZero() {
		oldest = "the oldest was due " + ago(h.Mail.Oldest, now)
	}
	waiting := number(int64(h.Pending))
	if h.Pending == manyPending {
		waiting += " and more"
	}
	lag := "none"
	if h.Pending > 0 {
		lag = h.Lag.Round(time.Second).String()
	}
	data := pages.AdminHealth{Tab: "health", Now: pages.HealthNow{Stats: []pages.Stat{
		{Label: "Webhook lag", Value: lag, Note: waiting + " events wait", Help: "/definitions#lag", Rows: "#pending", Alarm: h.Lag > time.Minute},
		{Label: "Dead events", Value: number(int64(len(h.Dead))), Note: "given up after 20 attempts", Help: "/definitions#dead", Rows: "#dead", Alarm: len(h.Dead) > 0},
		{Label: "Mail waiting", Value: number(h.Mail.Pending + h.Mail.Claimed), Note: oldest, Help: "/definitions#outbox"},
		{Label: "Dead mail", Value: number(h.Mail.Dead + h.Mail.Held), Help: "/definitions#outbox", Rows: "#dead-mail", Alarm: h.Mail.Dead+h.Mail.Held > 0},
		{Label: "Not heard of", Value: number(int64(h.Stale)), Note: "accounts, for more than a day", Help: "/definitions#staleness", Rows: "/admin/drift", Alarm: h.Stale > 0},
		{Label: "Open pages", Value: number(int64(h.Streams)), Note: "that hear changes, in this process"},
	}}}
	data.Now.Checks = a.checks(h)
	data.Dead = pages.Table{Caption: "With the error of the last attempt", Heads: []string{"Received", "Type", "Error"}, Empty: "None: every event was handled."}
	for _, e := range h.Dead {
		data.Dead.Rows = append(data.Dead.Rows, pages.Row{Cells: []string{moment(e.Received), e.Type, e.LastError}, Post: &pages.Action{Text: "Replay", Post: true, Href: "/admin/health/replay/" + e.ID, Quiet: true}})
	}
	data.Notices = pages.Table{Caption: "Webhook events, the oldest first", Heads: []string{"Received", "Type", "Attempts", "Next", "Error"}, Numeric: map[int]bool{2: true}, Empty: "Nothing: every event was handled."}
	for _, e := range h.waiting {
		data.Notices.Rows = append(data.Notices.Rows, pages.Row{Cells: []string{moment(e.Received), e.Type, number(int64(e.Attempts)), moment(e.Next), e.LastError}})
	}
	return data
}

// checks are the parts, each in a line.
func (a *App) checks(h health) []pages.Check {
	good, warn := pages.Badge{Text: "Well", Kind: "good"}, pages.Badge{Text: "Look", Kind: "warn"}
	now := a.Now()
	feed := pages.Check{Name: "Access decisions", Badge: good, Text: count(int64(h.Feed.Accounts), "account") + " in memory"}
	switch {
	case h.Feed.Unread > 0:
		feed.Badge = warn
		feed.Text += ", " + number(int64(h.Feed.Unread)) + " of them as last known: the store can't be read"
	case h.Feed.Hearing:
		feed.Text += "; changes of other processes are heard at once, since " + moment(h.Feed.Since)
	case !h.Feed.Since.IsZero():
		feed.Badge = warn
		feed.Text += "; changes of other processes are seen after 10 seconds, since " + moment(h.Feed.Since)
	default:
		feed.Text += "; this process is alone"
	}
	keys := pages.Check{Name: "API keys", Badge: good, Text: number(int64(h.Keys.Cached)) + " cached"}
	if h.Keys.Unavailable > 0 {
		keys.Badge = warn
		keys.Text += ", " + number(h.Keys.Unavailable) + " look-ups failed since the start"
	}
	limits := pages.Check{Name: "Rate limits", Badge: good, Text: "in this process"}
	if l := h.Limits; l != nil {
		limits.Text = "shared by Redis"
		if !l.Healthy {
			limits.Badge = warn
			limits.Text = "Redis is away since " + moment(l.Since) + ": each instance limits by itself"
		}
		if l.Local > 0 {
			limits.Text += "; " + number(l.Local) + " decisions were taken without it since the start"
		}
	}
	refused := pages.Check{Name: "Counts of refusals", Badge: good, Text: "written every two seconds"}
	if n := a.Refused.Lost(); n > 0 {
		refused.Badge = warn
		refused.Text = number(n) + " didn't fit into the memory and count for nobody"
	}
	mail := pages.Check{Name: "Mail", Badge: good, Text: "goes out as it comes"}
	if !h.Mail.Oldest.IsZero() && now.Sub(h.Mail.Oldest) > 5*time.Minute {
		mail.Badge = warn
		mail.Text = "the oldest has been due since " + moment(h.Mail.Oldest)
	}
	return []pages.Check{feed, keys, limits, refused, mail}
}

func (a *App) adminHealth(w http.ResponseWriter, r *http.Request, v *visit) error {
	h, err := a.health(r.Context())
	if err != nil {
		return err
	}
	data := a.healthPage(h)
	dead, err := a.Outbox.List(r.Context(), mailer.Query{States: []mailer.State{mailer.Dead, mailer.Held}, Limit: 50})
	if err != nil {
		return err
	}
	data.Mail = pages.Table{Caption: "The newest first", Heads: []string{"When", "Mail", "Why", "State"}, Empty: "None: every mail was taken or isn't wanted any more."}
	for _, m := range dead {
		data.Mail.Rows = append(data.Mail.Rows, pages.Row{Cells: []string{moment(m.CreatedAt), mailName(m.Kind), m.Reason}, Badge: mailBadge(m.State), Post: &pages.Action{Text: "Send again", Post: true, Href: "/admin/health/resend/" + m.ID, Quiet: true}})
	}
	return a.show(w, r, v, http.StatusOK, "admin-health", pages.Page{Title: "Health", Nav: "admin", Data: data})
}

func (a *App) adminReplay(w http.ResponseWriter, r *http.Request, v *visit) error {
	n, err := a.Billing.Replay(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	if n == 0 {
		return errNoPage
	}
	a.Log.InfoContext(r.Context(), "kolekt: replay", "event", r.PathValue("id"), "by", v.user.ID)
	a.tell(r, "good", count(int64(n), "event")+" will be handled again.")
	http.Redirect(w, r, "/admin/health", http.StatusSeeOther)
	return nil
}

func (a *App) adminResend(w http.ResponseWriter, r *http.Request, v *visit) error {
	n, err := a.Outbox.Release(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	if n == 0 {
		return errNoPage
	}
	a.Log.InfoContext(r.Context(), "kolekt: resend", "mail", r.PathValue("id"), "by", v.user.ID)
	a.tell(r, "good", "The mail will be sent again.")
	http.Redirect(w, r, "/admin/health", http.StatusSeeOther)
	return nil
}

package web

import (
	"net/http"
	"strings"

	"github.com/kolekt/commerce/examples/kolekt/internal/pages"
	"github.com/kolekt/commerce/mailer"
)

// MailStream is a kind of mail as a person chooses it.
type MailStream struct {
	ID, Name, Text string
	Always         bool // it can't be switched off
}

func (a *App) mailPage(w http.ResponseWriter, r *http.Request, v *visit) error {
	held, err := a.Outbox.Suppressions(r.Context(), v.user.Email)
	if err != nil {
		return err
	}
	data := pages.MailPage{Address: v.user.Email}
	for _, s := range a.Streams {
		row := pages.MailStream{ID: s.ID, Name: s.Name, Text: s.Text, On: true}
		if s.Always {
			data.Always = append(data.Always, row)
			continue
		}
		for _, h := range held {
			row.On = row.On && !h.Covers(s.ID, mailer.Lifecycle)
		}
		data.Streams = append(data.Streams, row)
	}
	for _, h := range held {
		if h.Reason != mailer.SuppressUnsubscribed {
			data.Blocked = "Mail to this address came back, or was called spam: we send only what we must. Write to us when it works again."
		}
	}
	list, err := a.Outbox.List(r.Context(), mailer.Query{Account: v.user.ID, Limit: 20})
	if err != nil {
		return err
	}
	data.Log = pages.Table{Caption: "The newest first", Heads: []string{"When", "Mail", "State"}, Empty: "None yet."}
	for _, m := range list {
		data.Log.Rows = append(data.Log.Rows, pages.Row{Cells: []string{ago(m.CreatedAt, a.Now()), mailName(m.Kind)}, Badge: mailBadge(m.State)})
	}
	return a.show(w, r, v, http.StatusOK, "mail", pages.Page{Title: "Mail", Nav: "account", Data: data})
}

// mailName makes words of a kind: "usage.upgrade_reminder".
func mailName(kind string) string {
	return sentenceCase(strings.NewReplacer(".", ": ", "_", " ").Replace(kind))
}

// plain makes words of a name such as "subscription.plan_changed".
func plain(name string) string { return strings.NewReplacer(".", " ", "_", " ").Replace(name) }

func sentenceCase(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

func mailBadge(s mailer.State) *pages.Badge {
	b := pages.Badge{Text: sentenceCase(s.String()), Kind: "mute"}
	switch s {
	case mailer.Done:
		b.Kind = "good"
	case mailer.Dead, mailer.Held:
		b.Kind = "bad"
	case mailer.Pending, mailer.Claimed, mailer.Sending:
		b.Kind = "info"
	}
	return &b
}

func (a *App) mailChoose(w http.ResponseWriter, r *http.Request, v *visit) error {
	// Who had ended everything chooses anew, one by one.
	if err := a.Outbox.Resubscribe(r.Context(), v.user.Email, ""); err != nil {
		return err
	}
	for _, s := range a.Streams {
		if s.Always {
			continue
		}
		change := a.Outbox.Unsubscribe
		if r.FormValue(s.ID) == "on" {
			change = a.Outbox.Resubscribe
		}
		if err := change(r.Context(), v.user.Email, s.ID); err != nil {
			return err
		}
	}
	a.tell(r, "good", "Your choices are kept.")
	http.Redirect(w, r, "/account/mail", http.StatusSeeOther)
	return nil
}

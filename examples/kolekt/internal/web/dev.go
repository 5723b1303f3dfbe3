package web

import (
	"context"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/kolekt/commerce/billing/stripesim"
	"github.com/kolekt/commerce/examples/kolekt/internal/pages"
)

// Dev is what only development has. In production there is none, and its pages
// don't exist.
type Dev struct {
	Ephemeral bool // nothing survives a restart
	Simulated bool
	// Advance moves the simulated clock on, with all that falls due on the
	// way; nil without a simulator.
	Advance func(ctx context.Context, d time.Duration) error
	// Inject switches a fault of the simulator on, and Clear all of them off;
	// nil without a simulator. Faults are what was switched on and isn't used
	// up.
	Inject func(faults ...stripesim.Fault)
	Faults func() []stripesim.Fault
	Clear  func()
	// Simulator serves the simulated Stripe under /stripe/; nil without one.
	Simulator http.Handler
	// Mails are captured mails, the newest first; nil when mail is sent.
	Mails func() []CapturedMail
	// Kinds shows every kind of mail, made of samples.
	Kinds http.Handler
}

// CapturedMail is a mail that was sent to nobody.
type CapturedMail struct {
	ID, To, Subject, Text string
	At                    time.Time
}

func (d *Dev) routes(a *App, mux *http.ServeMux, page func(string, handler)) {
	if d.Advance != nil {
		page("GET /dev/clock", a.clockPage)
		page("POST /dev/clock", a.clockMove)
	}
	if d.Inject != nil {
		page("GET /dev/faults", a.faultsPage)
		page("POST /dev/faults", a.faultOn)
		page("POST /dev/faults/clear", a.faultsOff)
	}
	if d.Mails != nil {
		page("GET /dev/mail", a.mailbox)
		page("GET /dev/mail/{id}", a.mailbox)
	}
	mux.Handle("GET /dev/kinds/", http.StripPrefix("/dev/kinds", d.Kinds))
	if d.Simulator != nil {
		mux.Handle("/stripe/", d.Simulator)
	}
}

func (d *Dev) bar(a *App) *pages.Dev {
	bar := &pages.Dev{Ephemeral: d.Ephemeral, Simulated: d.Simulated, Mailbox: d.Mails != nil, Faults: -1}
	if d.Faults != nil {
		bar.Faults = len(d.Faults())
	}
	if now := a.Now(); time.Until(now) > time.Minute {
		bar.Clock = date(now)
	}
	if d.Mails != nil {
		bar.Mails = len(d.Mails())
	}
	return bar
}

func (a *App) clockPage(w http.ResponseWriter, r *http.Request, v *visit) error {
	data := pages.Clock{Now: moment(a.Now())}
	if time.Until(a.Now()) > time.Minute {
		data.Real = moment(time.Now())
	}
	return a.show(w, r, v, http.StatusOK, "clock", pages.Page{Title: "Clock", Data: data})
}

func (a *App) clockMove(w http.ResponseWriter, r *http.Request, _ *visit) error {
	now := a.Now()
	then, ok := map[string]time.Time{"day": now.AddDate(0, 0, 1), "week": now.AddDate(0, 0, 7), "month": now.AddDate(0, 1, 0)}[r.FormValue("by")]
	if !ok {
		return errNoPage
	}
	if err := a.Dev.Advance(r.Context(), then.Sub(now)); err != nil {
		return err
	}
	a.tell(r, "good", "It is "+moment(a.Now())+" now.")
	http.Redirect(w, r, "/dev/clock", http.StatusSeeOther)
	return nil
}

var address = regexp.MustCompile(`https?://[^\s<>"]+`)

func (a *App) mailbox(w http.ResponseWriter, r *http.Request, v *visit) error {
	var data pages.Mailbox
	open := r.PathValue("id")
	for i, m := range a.Dev.Mails() {
		row := pages.Mail{ID: m.ID, To: m.To, Subject: m.Subject, When: ago(m.At, a.Now()), Text: m.Text}
		data.Mails = append(data.Mails, row)
		if open == m.ID || open == "" && i == 0 {
			for n, link := range address.FindAllString(m.Text, 3) {
				if path, ours := strings.CutPrefix(link, a.PublicURL); ours {
					row.Links = append(row.Links, pages.Link{Href: path, Text: "Open link " + strconv.Itoa(n+1)})
				}
			}
			data.Open = &row
		}
	}
	return a.show(w, r, v, http.StatusOK, "mailbox", pages.Page{Title: "Mailbox", Data: data})
}

package web

import (
	"strings"
	"time"

	"golang.org/x/text/language"
	"golang.org/x/text/message"

	"github.com/kolekt/commerce/billing"
	"github.com/kolekt/commerce/examples/kolekt/internal/pages"
)

var english = message.NewPrinter(language.English)

// number is a count with separators.
func number(n int64) string { return english.Sprintf("%d", n) }

// date is a day in words.
func date(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return t.UTC().Format("2 January 2006")
}

// moment is a day and a time.
func moment(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return t.UTC().Format("2 Jan 2006, 15:04 UTC")
}

// ago is how long ago something was, roughly.
func ago(t, now time.Time) string {
	switch d := now.Sub(t); {
	case t.IsZero():
		return "never"
	case d < time.Minute:
		return "just now"
	case d < time.Hour:
		return count(int64(d.Minutes()), "minute") + " ago"
	case d < 24*time.Hour:
		return count(int64(d.Hours()), "hour") + " ago"
	case d < 14*24*time.Hour:
		return count(int64(d.Hours()/24), "day") + " ago"
	}
	return "on " + date(t)
}

// count is a number of things.
func count(n int64, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return number(n) + " " + thing + "s"
}

// limitText is a limit as a person says it: "100 kolekts a month".
func limitText(l billing.Limit, thing string) string {
	if l.Unlimited() {
		return "Unlimited " + thing
	}
	per := "month"
	switch l.Per {
	case time.Second:
		per = "second"
	case time.Minute:
		per = "minute"
	case time.Hour:
		per = "hour"
	case 24 * time.Hour:
		per = "day"
	}
	return number(l.N) + " " + thing + " a " + per
}

// things are the names of the catalogue's limits, as a person says them.
var things = []struct{ limit, name string }{{"kolekts", "kolekts"}, {"requests", "requests"}}

// features are what a plan has, in lines.
func (a *App) features(p billing.Plan) []string {
	var lines []string
	for _, t := range things {
		lines = append(lines, limitText(p.Limits[t.limit], t.name))
	}
	for _, f := range p.Features {
		if text, ok := a.Billing.Catalog().Feature(f); ok {
			lines = append(lines, text)
		}
	}
	return lines
}

// statusBadge says where a subscription stands.
func statusBadge(s billing.Subscription) pages.Badge {
	switch {
	case s.Status == billing.StatusActive && (s.CancelAtPeriodEnd || !s.CancelAt.IsZero()):
		return pages.Badge{Text: "Ends on " + date(endOf(s)), Kind: "warn"}
	case s.Status == billing.StatusActive:
		return pages.Badge{Text: "Active", Kind: "good"}
	case s.Status == billing.StatusTrialing:
		return pages.Badge{Text: "Trial until " + date(s.TrialEnd), Kind: "info"}
	case s.Status == billing.StatusPastDue:
		return pages.Badge{Text: "Payment failed", Kind: "bad"}
	case s.Status == billing.StatusUnpaid:
		return pages.Badge{Text: "Unpaid", Kind: "bad"}
	case s.Status == billing.StatusIncomplete:
		return pages.Badge{Text: "Waiting for payment", Kind: "warn"}
	case s.Status == billing.StatusCanceled, s.Status == billing.StatusIncompleteExpired:
		return pages.Badge{Text: "Ended", Kind: "mute"}
	}
	return pages.Badge{Text: strings.ReplaceAll(string(s.Status), "_", " "), Kind: "mute"}
}

// endOf is when a subscription that was cancelled ends.
func endOf(s billing.Subscription) time.Time {
	if !s.CancelAt.IsZero() {
		return s.CancelAt
	}
	return s.Period.To
}

func invoiceBadge(s billing.InvoiceStatus) pages.Badge {
	switch s {
	case billing.InvoicePaid:
		return pages.Badge{Text: "Paid", Kind: "good"}
	case billing.InvoiceOpen:
		return pages.Badge{Text: "Open", Kind: "bad"}
	case billing.InvoiceVoid:
		return pages.Badge{Text: "Void", Kind: "mute"}
	case billing.InvoiceUncollectible:
		return pages.Badge{Text: "Written off", Kind: "mute"}
	}
	return pages.Badge{Text: "Draft", Kind: "info"}
}

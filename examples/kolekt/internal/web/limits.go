package web

import (
	"context"
	"net/http"
	"time"

	"github.com/kolekt/commerce/billing"
	"github.com/kolekt/commerce/examples/kolekt/internal/pages"
	"github.com/kolekt/commerce/examples/kolekt/internal/refusals"
)

// refused is how often something was refused in 24 hours.
type refused struct {
	Rate  int64 `json:"rate"`  // requests, for their pace
	Quota int64 `json:"quota"` // kolekts, over the period's quota

	hours []refusals.Count
}

// refusedOf counts what an account was refused.
func (a *App) refusedOf(ctx context.Context, account string) (r refused, err error) {
	const enough = 200 // two reasons, 25 hours, and a plan or three
	r.hours, err = a.Refused.Since(ctx, account, enough)
	for _, c := range r.hours {
		switch c.Reason {
		case refusals.Rate:
			r.Rate += c.N
		case refusals.Quota:
			r.Quota += c.N
		}
	}
	return r, err
}

func (r refused) text() string {
	switch {
	case r.Rate > 0 && r.Quota > 0:
		return count(r.Rate, "request") + " and " + count(r.Quota, "kolekt") + " were refused in the last 24 hours."
	case r.Rate > 0:
		return count(r.Rate, "request") + was(r.Rate) + " refused in the last 24 hours: too many in a minute."
	case r.Quota > 0:
		return count(r.Quota, "kolekt") + was(r.Quota) + " refused in the last 24 hours: over the quota."
	}
	return ""
}

func was(n int64) string {
	if n == 1 {
		return " was"
	}
	return " were"
}

// limitsNow is where an account stands.
func (a *App) limitsNow(ctx context.Context, v *visit) (now pages.LimitsNow, r refused, err error) {
	kolekts, err := a.meter(ctx, v)
	if err != nil {
		return now, r, err
	}
	rate := pages.Meter{Name: "Requests", Limit: -1, UsedText: "0", LimitText: "unlimited", Note: "By page and by key together"}
	if p := a.plans[v.access.Plan]; p != nil {
		d, err := a.Requests.Peek(ctx, v.user.ID, p, 1)
		if err != nil {
			return now, r, err
		}
		if s, ok := d.Nearest(); ok {
			rate.Used, rate.Limit = s.Limit-s.Remaining, s.Limit
			rate.UsedText, rate.LimitText = number(rate.Used), number(s.Limit)+" at a time"
			rate.Note = "Room comes back little by little"
		}
	}
	if r, err = a.refusedOf(ctx, v.user.ID); err != nil {
		return now, r, err
	}
	now.Meters = []pages.Meter{kolekts, rate}
	now.Stats = []pages.Stat{
		{Label: "Throttled requests", Value: number(r.Rate), Note: "in 24 hours", Help: "/definitions#throttled", Rows: "#throttled", Alarm: r.Rate > 0},
		{Label: "Refused kolekts", Value: number(r.Quota), Note: "in 24 hours, over the quota", Help: "/definitions#throttled", Rows: "#throttled", Alarm: r.Quota > 0},
	}
	return now, r, nil
}

// refusedChart draws the last 24 hours.
func refusedChart(r refused, now time.Time) *pages.Chart {
	c := &pages.Chart{ID: "throttled", Title: "Refused in the last 24 hours", Takeway: "Nothing: there was room for every request.", Help: "/definitions#throttled"}
	if text := r.text(); text != "" {
		c.Takeway = text
	}
	fast, over := pages.Series{Name: "Requests, too fast", Class: "d"}, pages.Series{Name: "Kolekts, over the quota", Class: "e"}
	first := now.UTC().Add(-23 * time.Hour).Truncate(time.Hour)
	for h := range 24 {
		at := first.Add(time.Duration(h) * time.Hour)
		c.Labels = append(c.Labels, at.Format("15:04"))
		var n [2]float64
		for _, x := range r.hours {
			switch {
			case !x.Hour.Equal(at):
			case x.Reason == refusals.Rate:
				n[0] += float64(x.N)
			default:
				n[1] += float64(x.N)
			}
		}
		fast.Values, over.Values = append(fast.Values, n[0]), append(over.Values, n[1])
	}
	c.Series = []pages.Series{fast, over}
	return c
}

func (a *App) limitsPage(w http.ResponseWriter, r *http.Request, v *visit) error {
	now, refused, err := a.limitsNow(r.Context(), v)
	if err != nil {
		return err
	}
	data := pages.Limits{Now: now, Chart: refusedChart(refused, a.Now())}
	data.Table = pages.Table{Caption: "Of plan " + a.planName(v.access.Plan), Heads: []string{"Limit", "Allows"}}
	for _, t := range things {
		l, err := v.access.Limit(t.limit)
		if err != nil {
			return err
		}
		data.Table.Rows = append(data.Table.Rows, pages.Row{Cells: []string{sentenceCase(t.name), limitText(l, t.name)}})
	}
	data.Table.Rows = append(data.Table.Rows, pages.Row{Cells: []string{"Text", "50,000 characters a kolekt"}}, pages.Row{Cells: []string{"Body", "1 MiB a request"}})
	if l, err := v.access.Limit(meterKolekts); err == nil && !l.Unlimited() {
		if better, ok := v.access.Upgrade(meterKolekts, l.N+1); ok {
			card := a.planCard(better, billing.Month, v.access)
			card.Featured = true
			if card.Action != nil {
				card.Action.Quiet = false
			}
			data.Better = &card
		}
	}
	return a.show(w, r, v, http.StatusOK, "limits", pages.Page{Title: "Limits", Nav: "account", Data: data})
}

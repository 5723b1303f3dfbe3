package web

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"unicode/utf8"

	"github.com/kolekt/commerce/billing"
	"github.com/kolekt/commerce/examples/kolekt/internal/kolekts"
	"github.com/kolekt/commerce/examples/kolekt/internal/pages"
	"github.com/kolekt/commerce/examples/kolekt/internal/refusals"
	"github.com/kolekt/commerce/examples/kolekt/internal/thread"
	"github.com/kolekt/commerce/ratelimit"
	"github.com/kolekt/commerce/usage"
)

const meterKolekts = "kolekts"

// Meters are what the application counts.
func Meters() []usage.Meter {
	return []usage.Meter{{
		Name: meterKolekts, Unit: "kolekt", Quota: true,
		Measures:   []usage.Measure{{Property: "posts"}, {Property: "characters"}, {Property: "engagement_score"}},
		Dimensions: []string{"tone", "has_images"},
	}}
}

// quotaError says that the period's kolekts are used up.
type quotaError struct{ usage.Decision }

func (e *quotaError) Error() string {
	return fmt.Sprintf("kolekt: %d of %d kolekts are used until %s", e.Used, e.Limit, date(e.Reset()))
}

// rateError says that the minute's requests are used up.
type rateError struct{ ratelimit.Decision }

func (e *rateError) Error() string { return "kolekt: too many requests" }

// pace counts a request against the account's rate.
func (a *App) pace(ctx context.Context, account, plan string) error {
	p := a.plans[plan]
	if p == nil {
		return fmt.Errorf("kolekt: no rate limit for plan %q", plan)
	}
	d, err := a.Requests.Allow(ctx, account, p, 1)
	if err == nil && !d.Allowed() {
		a.throttled(account, plan)
		err = &rateError{d}
	}
	return err
}

// throttled notes a request that was refused for its pace.
func (a *App) throttled(account, plan string) {
	a.counts.throttled.Add(1)
	a.Refused.Note(account, plan, refusals.Rate)
}

// make makes a kolekt: it counts and is stored in one step, or neither.
func (a *App) make(ctx context.Context, account, plan string, draft kolekts.Draft) (kolekts.Kolekt, error) {
	k, err := kolekts.Make(account, draft, a.Now())
	if err != nil {
		return kolekts.Kolekt{}, err
	}
	// Without a key: each try has a text and an ID of its own, so there is
	// nothing to recognise again, and a row less to write.
	d, err := a.Make(ctx, a.Usage, usage.Request{Account: account, Meter: meterKolekts, Record: true, Properties: k.Properties()}, k)
	if err != nil {
		return k, err
	}
	if !d.Allowed {
		a.counts.overQuota.Add(1)
		a.Refused.Note(account, plan, refusals.Quota)
		return k, &quotaError{d}
	}
	a.counts.kolekts.Add(1)
	a.streams.poke(account)
	return k, nil
}

// refusedText reports whether an error is about what was written, and at which
// field.
func refusedText(err error) (field string, ok bool) {
	switch {
	case errors.Is(err, thread.ErrEmpty), errors.Is(err, thread.ErrTooLong):
		return "text", true
	case errors.Is(err, kolekts.ErrImage):
		return "images", true
	case err != nil && strings.Contains(err.Error(), "unknown tone"):
		return "", true
	}
	return "", false
}

func (a *App) compose(w http.ResponseWriter, r *http.Request, v *visit) error {
	return a.composePage(w, r, v, http.StatusOK, pages.Form{Values: map[string]string{}})
}

const sampleText = `Some ideas don't fit in one post. They arrive with their reasons, their examples and their doubts, and each of them wants a little room.

For years the advice was to cut them down. Say less, say it louder, and leave the rest to the replies. It works for jokes and for news. It doesn't work for anything that you had to think about.

So write the whole thing first. Don't count. Let a sentence be as long as its thought, and a paragraph as long as its breath. When it stands, and only then, look for the places where a reader would nod: those are the ends of your posts.

A good cut is invisible. Nobody notices that a thread has parts when each part ends where the voice would have dropped anyway. A bad cut is all that anybody notices: half a name here, the point of the joke there, a number without what it counts.

That is all that this does. It looks for the ends of sentences, falls back to the gaps between words, and leaves every letter where you put it.

What would you write if nobody counted?`

func (a *App) composePage(w http.ResponseWriter, r *http.Request, v *visit, status int, form pages.Form) error {
	const perPage = 20
	list, err := a.Kolekts.List(r.Context(), v.user.ID, r.FormValue("before"), perPage)
	if err != nil {
		return err
	}
	m, err := a.meter(r.Context(), v)
	if err != nil {
		return err
	}
	data := pages.Compose{Form: form, Meter: m, Sample: sampleText}
	for i, t := range thread.Tones() {
		name := string(t)
		data.Tones = append(data.Tones, pages.Tone{
			ID: name, Name: strings.ToUpper(name[:1]) + name[1:], Example: t.Example(),
			Selected: form.Value("tone") == name || form.Value("tone") == "" && i == 0,
		})
	}
	for _, k := range list {
		data.List = append(data.List, pages.KolektRow{ID: k.ID, Title: title(k.Text), When: ago(k.CreatedAt, a.Now()), Posts: len(k.Posts), Score: k.Score})
	}
	if len(list) == perPage {
		data.More = "/kolekts?before=" + list[perPage-1].ID
	}
	return a.show(w, r, v, status, "compose", pages.Page{Title: "Write", Nav: "kolekts", Data: data})
}

// title is the beginning of a text.
func title(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	if r := []rune(line); len(r) > 90 {
		return strings.TrimSpace(string(r[:89])) + "…"
	}
	return line
}

func (a *App) makePage(w http.ResponseWriter, r *http.Request, v *visit) error {
	draft := kolekts.Draft{Text: r.FormValue("text"), Tone: r.FormValue("tone"), Images: strings.Fields(r.FormValue("images"))}
	err := a.pace(r.Context(), v.user.ID, v.access.Plan)
	var k kolekts.Kolekt
	if err == nil {
		k, err = a.make(r.Context(), v.user.ID, v.access.Plan, draft)
	}
	var quota *quotaError
	var fast *rateError
	switch field, refused := refusedText(err); {
	case refused:
		form := pages.Form{
			Values: map[string]string{"text": draft.Text, "tone": draft.Tone, "images": strings.Join(draft.Images, "\n")},
			Errors: map[string]string{field: sentence(err)},
		}
		return a.composePage(w, r, v, http.StatusUnprocessableEntity, form)
	case errors.As(err, &quota):
		return a.quotaPage(w, r, v, quota)
	case errors.As(err, &fast):
		// Of two reasons, the one that seconds won't cure.
		d, err := a.Usage.Quota(r.Context(), v.user.ID, meterKolekts)
		if err != nil {
			return err
		}
		if d.Remaining == 0 {
			return a.quotaPage(w, r, v, &quotaError{d})
		}
		return a.ratePage(w, r, v, fast)
	case err != nil:
		return err
	}
	http.Redirect(w, r, "/kolekts/"+k.ID, http.StatusSeeOther)
	return nil
}

func (a *App) kolekt(w http.ResponseWriter, r *http.Request, v *visit) error {
	k, err := a.Kolekts.Find(r.Context(), v.user.ID, r.PathValue("id"))
	if err != nil {
		return err
	}
	data := pages.Kolekt{
		ID: k.ID, When: date(k.CreatedAt), Characters: number(int64(k.Characters)), Tone: string(k.Tone), Score: k.Score,
	}
	for i, text := range k.Posts {
		p := pages.Post{Number: i + 1, Text: text, Characters: utf8.RuneCountInString(text)}
		if i < len(k.Images) {
			p.Image = k.Images[i]
		}
		data.Posts = append(data.Posts, p)
	}
	for _, f := range k.Factors {
		data.Factors = append(data.Factors, pages.ScoreFactor{Name: f.Name, Points: f.Points, Max: f.Max, Advice: f.Advice})
	}
	return a.show(w, r, v, http.StatusOK, "kolekt", pages.Page{Title: title(k.Text), Nav: "kolekts", Data: data})
}

func (a *App) deletePage(w http.ResponseWriter, r *http.Request, v *visit) error {
	if err := a.Kolekts.Delete(r.Context(), v.user.ID, r.PathValue("id")); err != nil {
		return err
	}
	a.tell(r, "good", "The kolekt is deleted. It still counts for this period.")
	http.Redirect(w, r, "/kolekts", http.StatusSeeOther)
	return nil
}

// meter is the account's bar of kolekts.
func (a *App) meter(ctx context.Context, v *visit) (pages.Meter, error) {
	f, err := a.Usage.Forecast(ctx, v.user.ID, meterKolekts)
	if err != nil {
		return pages.Meter{}, err
	}
	d := f.Decision
	m := pages.Meter{Name: "Kolekts", Used: d.Used, Limit: d.Limit, UsedText: number(d.Used), LimitText: number(d.Limit), Note: "Starts again on " + date(d.Reset())}
	if d.Limit == usage.Unlimited {
		m.LimitText = "unlimited"
	}
	if end := int64(f.AtEnd + 0.5); d.Used > 0 && end > d.Used && d.Used < d.Limit {
		m.ForecastN = end
		m.Forecast = "About " + number(end) + " by then, at this pace"
		if !f.LimitReached.IsZero() {
			m.Forecast = "At this pace used up on " + date(f.LimitReached)
		}
	}
	return m, nil
}

// quotaPage offers the plan that would help.
func (a *App) quotaPage(w http.ResponseWriter, r *http.Request, v *visit, e *quotaError) error {
	m, err := a.meter(r.Context(), v)
	if err != nil {
		return err
	}
	data := pages.Limit{Reason: "You have made all " + number(e.Limit) + " kolekts of this month", Until: "They start again on " + date(e.Reset()) + ".", Now: m}
	a.offer(&data, v.access, meterKolekts, e.Limit+1)
	return a.show(w, r, v, http.StatusPaymentRequired, "limit", pages.Page{Title: "Limit reached", Nav: "kolekts", Data: data})
}

// ratePage says when to come back, and which plan is faster.
func (a *App) ratePage(w http.ResponseWriter, r *http.Request, v *visit, e *rateError) error {
	limit, err := v.access.Limit("requests")
	if err != nil {
		return err
	}
	wait := int64(e.RetryAfter().Seconds()) + 1
	w.Header().Set("Retry-After", fmt.Sprint(wait))
	data := pages.Limit{
		Reason: "That was faster than " + limitText(limit, "requests"), Until: "Try again in " + count(wait, "second") + ". Your text is still in the form if you go back.",
		Now: pages.Meter{Name: "Requests this minute", Used: limit.N, Limit: limit.N, UsedText: number(limit.N), LimitText: number(limit.N), Note: "Room comes back little by little"},
	}
	a.offer(&data, v.access, "requests", limit.N+1)
	return a.show(w, r, v, http.StatusTooManyRequests, "limit", pages.Page{Title: "Limit reached", Nav: "kolekts", Data: data})
}

func (a *App) offer(data *pages.Limit, access billing.Decision, limit string, needed int64) {
	plan, ok := access.Upgrade(limit, needed)
	if !ok {
		return
	}
	card := a.planCard(plan, billing.Month, access)
	card.Featured = true
	if card.Action != nil {
		card.Action.Quiet = false
	}
	data.Plan = &card
	for _, t := range things {
		now, err := access.Limit(t.limit)
		if then := plan.Limits[t.limit]; err == nil && then != now {
			data.Gain = append(data.Gain, limitText(then, t.name)+" instead of "+number(now.N))
		}
	}
}

package web

import (
	"net/http"

	"github.com/kolekt/commerce/examples/kolekt/internal/pages"
)

// glossary says how each number is computed.
var glossary = []pages.Definition{
	{ID: "mrr", Name: "MRR, monthly recurring revenue", Text: "What all subscriptions that are active or past due bring in a month, at their list price less coupons that last for ever; a yearly price counts a twelfth. Trials, unpaid and ended subscriptions, taxes and one-off amounts don't count."},
	{ID: "committed", Name: "Committed MRR", Text: "MRR without the subscriptions that were cancelled and run to the end of their period."},
	{ID: "risk", Name: "MRR at risk", Text: "The part of MRR whose last payment has failed: what the dunning queue is about."},
	{ID: "movements", Name: "Movements", Text: "New: an account's MRR from zero, for the first time. Reactivation: from zero, again. Expansion and contraction: up and down. Churn: to zero. Their sum is exactly the difference of MRR."},
	{ID: "arr", Name: "ARR, annual recurring revenue", Text: "Twelve times MRR."},
	{ID: "arpa", Name: "ARPA, average revenue per account", Text: "MRR divided by the accounts that bring it."},
	{ID: "ltv", Name: "LTV, lifetime value", Text: "ARPA at the start of the 30 days, divided by the share of customers who left in them, by the month. Without anybody who left it isn't defined."},
	{ID: "churn", Name: "Customer churn", Text: "Customers who left in the 30 days, of those who were there at their start and those who came."},
	{ID: "nrr", Name: "NRR and GRR, net and gross revenue retention", Text: "Of the customers with MRR 30 days ago: what they bring now, divided by what they brought then. Gross retention counts no increase of any of them."},
	{ID: "cohorts", Name: "Cohorts", Text: "Customers by the month of their first MRR, and the share of them with MRR at the end of each month after. Who comes back is in the first cohort again."},
	{ID: "trial", Name: "Trial conversion", Text: "Trials that were paid for, of the trials that ended."},
	{ID: "received", Name: "Received", Text: "What was paid in the 30 days, less refunds. Yearly payments count in full."},
	{ID: "usage", Name: "Usage", Text: "Kolekts that were made, by day in UTC. Deleting one gives nothing back. The comparison is with the 30 days before. The forecast is what was used in the period, by the time that has passed of it, taken to its end."},
	{ID: "near", Name: "Near a limit", Text: "Accounts that have used 80 % and more of the period's kolekts."},
	{ID: "throttled", Name: "Refused", Text: "Throttled: requests that came faster than the plan's rate and were answered with 429. Over the quota: kolekts after the last one of the period, answered with 402. Counted by account and hour, for 24 hours."},
	{ID: "drift", Name: "Drift", Text: "The status, price, dates and invoices of each subscription as we hold them, beside those that the payment provider holds at this moment. A webhook that is on its way shows until it has come."},
	{ID: "lag", Name: "Webhook lag", Text: "How long the oldest event that waits has been waiting. Events are stored before they are answered, and handled after."},
	{ID: "dead", Name: "Dead events", Text: "Events that couldn't be handled in 20 attempts over two days. They are kept, and can be replayed when the reason is gone."},
	{ID: "outbox", Name: "Outbox", Text: "Mail that waits for its time, and mail that was refused for good or whose outcome isn't known."},
	{ID: "staleness", Name: "Staleness", Text: "How old what is known of an account may be. Every account of which nothing was heard for a day is fetched again within the hour; requests are decided by what is in memory, at most 10 seconds old."},
	{ID: "score", Name: "Engagement score", Text: "From 0 to 100: up to 25 points for a short first sentence and 25 for few posts, 20 for short paragraphs, 15 for a question at the end, 15 for an image. The page of a kolekt lists its own."},
}

func definition(id string) string {
	for _, d := range glossary {
		if d.ID == id {
			return d.Text
		}
	}
	return ""
}

func (a *App) definitions(w http.ResponseWriter, r *http.Request, v *visit) error {
	return a.show(w, r, v, http.StatusOK, "definitions", pages.Page{Title: "How numbers are computed", Data: glossary})
}

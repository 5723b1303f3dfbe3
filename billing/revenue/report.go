package revenue

import (
	"math/big"
	"time"

	"github.com/kolekt/commerce/billing"
)

// Report is what happened in a window [From, To). The amounts of its movements
// are positive.
type Report struct {
	From     time.Time `json:"from"`
	To       time.Time `json:"to"`
	Currency string    `json:"currency"`
	Plan     string    `json:"plan,omitempty"`

	// Opening + New + Reactivation + Expansion − Contraction − Churn = Closing.
	Opening      Figure `json:"opening"`
	New          Figure `json:"new"`
	Reactivation Figure `json:"reactivation"`
	Expansion    Figure `json:"expansion"`
	Contraction  Figure `json:"contraction"`
	Churn        Figure `json:"churn"`
	Closing      Figure `json:"closing"`
	Involuntary  Figure `json:"involuntary"` // the part of Churn after a failed payment

	CustomersAtStart Count `json:"customers_at_start"`
	CustomersAtEnd   Count `json:"customers_at_end"`
	Came             Count `json:"came"`    // new and reactivated
	Churned          Count `json:"churned"` // went to zero, perhaps to return
	Asked            Count `json:"asked"`   // asked for an end

	TrialsEnded     Count `json:"trials_ended"`
	TrialsConverted Count `json:"trials_converted"`
	PastDueEntered  Count `json:"past_due_entered"`
	PastDueSaved    Count `json:"past_due_saved"` // of those, by all that is known

	// Ratios; each is undefined where its whole is zero.
	LogoChurn        Ratio `json:"logo_churn"`        // see ChurnRule
	GrossChurn       Ratio `json:"gross_churn"`       // (churn + contraction) / opening
	NetChurn         Ratio `json:"net_churn"`         // (churn + contraction − expansion − reactivation) / opening
	GRR              Ratio `json:"grr"`               // Σ min(closing, opening) / Σ opening, of those there at the start
	NRR              Ratio `json:"nrr"`               // Σ closing / Σ opening, of those there at the start
	QuickRatio       Ratio `json:"quick_ratio"`       // (new + expansion + reactivation) / (contraction + churn)
	InvoluntaryShare Ratio `json:"involuntary_share"` // of churn
	TrialConversion  Ratio `json:"trial_conversion"`
	Recovery         Ratio `json:"recovery"` // of the past due

	// Revenue is what was paid in the window, less refunds; zero when payments
	// aren't known.
	Revenue billing.Money `json:"revenue"`

	arpa     *big.Rat // at the start
	margin   int64
	observed Ratio
}

// Between reports on a window [from, to). What happens at from belongs to it,
// and what happens at to doesn't.
func (b *Book) Between(from, to time.Time, selection Selection) Report {
	currency := selection.Currency
	r := Report{
		From: from, To: to, Currency: currency, Plan: selection.Plan, margin: b.config.GrossMargin,
		New: newFigure(currency), Reactivation: newFigure(currency), Expansion: newFigure(currency),
		Contraction: newFigure(currency), Churn: newFigure(currency), Involuntary: newFigure(currency),
	}
	r.Opening, r.CustomersAtStart = b.recurring(from, true, selection)
	r.Closing, r.CustomersAtEnd = b.recurring(to, true, selection)
	if r.CustomersAtStart.N > 0 {
		r.arpa = new(big.Rat).Quo(r.Opening.Exact, r.CustomersAtStart.rat())
	}
	came, churned := map[string]bool{}, map[string]bool{}
	for _, m := range b.Movements(from, to, selection) {
		switch m.Kind {
		case KindNew:
			r.New.take(m.Delta, 1)
			came[m.Account] = true
		case KindReactivation:
			r.Reactivation.take(m.Delta, 1)
			came[m.Account] = true
		case KindExpansion:
			r.Expansion.take(m.Delta, 1)
		case KindContraction:
			r.Contraction.take(m.Delta, -1)
		case KindChurn:
			r.Churn.take(m.Delta, -1)
			churned[m.Account] = true
			if m.Involuntary {
				r.Involuntary.take(m.Delta, -1)
			}
		}
	}
	r.Came, r.Churned = countOf(came), countOf(churned)
	b.count(&r, selection)
	r.rate(b.config.Convention.Churn)
	r.retention()
	b.cash(&r)
	return r
}

// take adds the parts of a movement, with their sign turned for losses.
func (f *Figure) take(delta Figure, sign int64) {
	for _, p := range delta.Parts {
		f.add(p.Account, p.SubscriptionID, new(big.Rat).Mul(p.Exact, big.NewRat(sign, 1)))
	}
}

// count counts requests to end, trials, and payments that failed.
func (b *Book) count(r *Report, selection Selection) {
	asked, ended, converted := map[string]bool{}, map[string]bool{}, map[string]bool{}
	entered, saved := map[string]bool{}, map[string]bool{}
	within := func(t time.Time) bool { return !t.Before(r.From) && t.Before(r.To) }
	for i := range b.series {
		life := &b.series[i]
		for j := range life.segments {
			g := &life.segments[j]
			if g.amount(selection).Sign() == 0 {
				continue
			}
			now := &life.changes[g.change].Subscription
			if within(now.CanceledAt) {
				asked[life.account] = true
			}
			if j == 0 || !within(g.at) {
				continue
			}
			last := life.changes[life.segments[j-1].change].Subscription.Status
			if last == billing.StatusTrialing && now.Status != billing.StatusTrialing {
				ended[life.account] = true
				if b.converted(life, j) {
					converted[life.account] = true
				}
			}
			if now.Status == billing.StatusPastDue && last != billing.StatusPastDue && last != billing.StatusUnpaid {
				entered[life.account] = true
				if recovered(life, j) {
					saved[life.account] = true
				}
			}
		}
	}
	r.Asked, r.TrialsEnded, r.TrialsConverted = countOf(asked), countOf(ended), countOf(converted)
	r.PastDueEntered, r.PastDueSaved = countOf(entered), countOf(saved)
}

// converted reports whether a trial that ended with a segment was paid for. To
// be active isn't enough when payments are known: Stripe makes a subscription
// active when its trial ends and collects an hour later.
func (b *Book) converted(life *series, ended int) bool {
	if b.paid {
		last, ok := b.lastPaid[life.id]
		return ok && !last.Before(life.segments[ended].at)
	}
	for _, g := range life.segments[ended:] {
		if life.changes[g.change].Subscription.Status == billing.StatusActive {
			return true
		}
	}
	return false
}

// recovered reports whether a subscription that became past due was paid
// later.
func recovered(life *series, entered int) bool {
	for _, g := range life.segments[entered:] {
		status := life.changes[g.change].Subscription.Status
		if status == billing.StatusActive {
			return true
		}
		if status.Terminal() {
			return false
		}
	}
	return false
}

// rate computes the ratios of movements and counts.
func (r *Report) rate(rule ChurnRule) {
	lost := new(big.Rat).Add(r.Churn.Exact, r.Contraction.Exact)
	won := new(big.Rat).Add(r.Expansion.Exact, r.Reactivation.Exact)
	r.GrossChurn = Ratio{lost, r.Opening.Exact}
	r.NetChurn = Ratio{new(big.Rat).Sub(lost, won), r.Opening.Exact}
	r.QuickRatio = Ratio{new(big.Rat).Add(won, r.New.Exact), lost}
	r.InvoluntaryShare = Ratio{r.Involuntary.Exact, r.Churn.Exact}
	r.TrialConversion = Ratio{r.TrialsConverted.rat(), r.TrialsEnded.rat()}
	r.Recovery = Ratio{r.PastDueSaved.rat(), r.PastDueEntered.rat()}
	start := setOf(r.CustomersAtStart)
	switch rule {
	case ChurnOfAll:
		r.LogoChurn = Ratio{r.Churned.rat(), countOf(union(start, setOf(r.Came))).rat()}
	case ChurnOfStart:
		gone, end := map[string]bool{}, setOf(r.CustomersAtEnd)
		for account := range start {
			gone[account] = !end[account]
		}
		r.LogoChurn = Ratio{countOf(gone).rat(), r.CustomersAtStart.rat()}
	case ChurnByIntent:
		r.LogoChurn = Ratio{r.Asked.rat(), r.CustomersAtStart.rat()}
	}
}

// retention computes GRR and NRR by customer.
func (r *Report) retention() {
	kept, net := new(big.Rat), new(big.Rat)
	closing := r.Closing.Parts // both are in order of accounts
	for opening := r.Opening.Parts; len(opening) > 0; {
		account, was, is := opening[0].Account, new(big.Rat), new(big.Rat)
		for len(closing) > 0 && closing[0].Account < account {
			closing = closing[1:]
		}
		for ; len(opening) > 0 && opening[0].Account == account; opening = opening[1:] {
			was.Add(was, opening[0].Exact)
		}
		for ; len(closing) > 0 && closing[0].Account == account; closing = closing[1:] {
			is.Add(is, closing[0].Exact)
		}
		net.Add(net, is)
		if is.Cmp(was) > 0 {
			is = was
		}
		kept.Add(kept, is)
	}
	r.GRR, r.NRR = Ratio{kept, r.Opening.Exact}, Ratio{net, r.Opening.Exact}
}

// cash sums the payments of the window, and what the customers who churned in
// it have paid in all.
func (b *Book) cash(r *Report) {
	r.Revenue = billing.Money{Currency: r.Currency}
	sum, lifetime := new(big.Rat), new(big.Rat)
	gone := setOf(r.Churned)
	for _, account := range r.CustomersAtEnd.Accounts {
		delete(gone, account)
	}
	for _, p := range b.payments {
		if p.Amount.Currency != r.Currency || !p.At.Before(r.To) {
			continue
		}
		if !p.At.Before(r.From) {
			sum.Add(sum, new(big.Rat).SetInt64(p.Amount.Amount))
		}
		if gone[p.Account] {
			lifetime.Add(lifetime, new(big.Rat).SetInt64(p.Amount.Amount))
		}
	}
	r.Revenue.Amount = rounded(sum)
	if b.paid {
		r.observed = Ratio{lifetime, countOf(gone).rat()}
	}
}

// LTV returns what a customer is expected to be worth: ARPA at the start × gross
// margin / logo churn a month. It is undefined, false, without customers and
// without churn: never infinite.
func (r Report) LTV() (billing.Money, bool) {
	if _, ok := r.LogoChurn.Value(); !ok || r.LogoChurn.Part.Sign() == 0 || r.arpa == nil {
		return billing.Money{}, false
	}
	value := new(big.Rat).Mul(r.arpa, big.NewRat(r.margin, 100))
	value.Mul(value, months(r.From, r.To))
	value.Quo(value, r.LogoChurn.rat())
	return billing.Money{Amount: rounded(value), Currency: r.Currency}, true
}

// ObservedLTV returns what the customers who churned in the window, and stayed
// away, had paid on average, less refunds; false if there are none, or if
// payments aren't known. Payments have no plan: it is over all plans.
func (r Report) ObservedLTV() (billing.Money, bool) {
	if _, ok := r.observed.Value(); !ok {
		return billing.Money{}, false
	}
	return billing.Money{Amount: rounded(r.observed.rat()), Currency: r.Currency}, true
}

// months returns the length of a window in months: whole ones between the same
// days of two months, and else a month for each 30 days.
func months(from, to time.Time) *big.Rat {
	from, to = from.UTC(), to.UTC()
	n := (to.Year()-from.Year())*12 + int(to.Month()) - int(from.Month())
	if n > 0 && from.AddDate(0, n, 0).Equal(to) {
		return big.NewRat(int64(n), 1)
	}
	return big.NewRat(int64(to.Sub(from)/time.Second), 30*24*60*60)
}

// Months reports on each of n calendar months (UTC), the last of which holds
// the instant end; that one ends just after it.
func (b *Book) Months(end time.Time, n int, selection Selection) []Report {
	reports := make([]Report, 0, max(n, 0))
	for i := n - 1; i >= 0; i-- {
		from := month(end).AddDate(0, -i, 0)
		to := from.AddDate(0, 1, 0)
		if i == 0 {
			to = end.Add(1)
		}
		reports = append(reports, b.Between(from, to, selection))
	}
	return reports
}

// month returns the start of the month of an instant.
func month(t time.Time) time.Time {
	t = t.UTC()
	return time.Date(t.Year(), t.Month(), 1, 0, 0, 0, 0, time.UTC)
}

func setOf(c Count) map[string]bool {
	set := make(map[string]bool, c.N)
	for _, account := range c.Accounts {
		set[account] = true
	}
	return set
}

func union(a, b map[string]bool) map[string]bool {
	set := make(map[string]bool, len(a)+len(b))
	for _, s := range []map[string]bool{a, b} {
		for account := range s {
			set[account] = true
		}
	}
	return set
}

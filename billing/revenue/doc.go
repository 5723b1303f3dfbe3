// Package revenue computes what a subscription business is asked about, from a
// list of what happened to its subscriptions: pure functions without I/O.
//
//	book, err := revenue.New(changes, payments, revenue.Config{})
//	now := book.AsOf(time.Now(), revenue.Selection{Currency: "USD"})
//	fmt.Println(now.MRR.Money(), now.Customers.N)
//	month := book.Between(from, to, revenue.Selection{Currency: "USD"})
//	fmt.Println(month.NRR.Percent(1))
//
// The application appends a [Change] whenever a subscription changes, and never
// edits one. The list holds facts and no metrics, so that each question can be
// asked as of any instant and by any convention, and the answer doesn't change
// afterwards. Who has subscriptions and no list begins with [Reconstruct].
//
// Amounts are exact fractions until [Figure.Money] rounds them for display.
// Currencies are never added together: every question is about one, and can be
// narrowed down to a plan. Every figure lists the subscriptions behind it,
// every count its accounts. A ratio whose whole is zero is undefined, never
// infinite. Instants are UTC and windows half-open, [from, to).
//
// # Definitions
//
// Where sources differ, [Convention] chooses; its zero value is Stripe's way.
//
//   - MRR: of each item, amount × quantity × (365 days, 52 weeks, 12 months or
//     1 year) / interval count / 12, of subscriptions that are active or past
//     due. Not: trials, unpaid, paused, incomplete and ended subscriptions,
//     metered and one-off prices, tax. Discounts: see [DiscountRule]. Source:
//     docs.stripe.com/billing/subscriptions/analytics/glossary.
//   - Committed MRR: MRR without subscriptions whose end is asked for. Trial MRR:
//     what trials would add. At-risk MRR: the past-due part. ARR: 12 × MRR.
//   - Movements: a customer's MRR from zero (new, or reactivation if it was above
//     zero before), up (expansion), down (contraction), to zero (churn). Their
//     sum is the difference of MRR. Source: ChartMogul's help, 203299912 and
//     4416682609426.
//   - Logo churn: see [ChurnRule].
//   - Gross churn: (churn + contraction) / MRR at the start. Net churn: less
//     expansion and reactivation.
//   - GRR and NRR: of the customers with MRR at the start, Σ min(then, now) and
//     Σ now, over Σ then. New customers have no part in either; GRR is at most
//     100 %.
//   - Quick ratio: (new + expansion + reactivation) / (contraction + churn).
//   - ARPA: MRR / customers with MRR.
//   - LTV: ARPA at the start × gross margin / logo churn a month. Undefined
//     without churn. Observed LTV: what those who left had paid on average.
//   - Cohort: customers by the month of their first MRR; who returns is back in
//     the first cohort. Source:
//     support.stripe.com/questions/subscriber-cohorts-and-cohort-retention-in-billing.
//   - Trial conversion: trials that were paid for / trials that ended. Recovery:
//     of the subscriptions that became past due, those that became active again.
//     Involuntary share: the part of churn after a payment failed for good.
//
// [Scenario] is the other direction: revenue, costs and break-even of a
// business that doesn't exist yet.
//
// Complexity: a [Book] takes memory in proportion to its changes; AsOf is
// linear in the subscriptions and logarithmic in their changes, Between linear
// in the changes.
package revenue

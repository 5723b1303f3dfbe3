// Package billing gives an application plans, subscriptions and payments: a
// catalogue, a service over a payment provider, and the answer to the question
// that every request asks, which is what this account may do now.
//
// # Most of it
//
//	catalog, err := billing.LoadCatalog(files, "plans.yaml")
//	store := billingpg.New(pool)            // or billingmem.New()
//	gateway, err := billingstripe.New(...)  // or billingtest.NewGateway(catalog, nil)
//	svc, err := billing.New(catalog, store, gateway, billing.Config{
//		Handle: func(ctx context.Context, n billing.Notice) error { … },
//	})
//	go svc.Run(ctx)
//	mux.Handle("POST /webhook", svc.Webhook())
//
//	page, err := svc.Checkout(ctx, account, billing.CheckoutOrder{…}) // redirect to page.URL
//	decision, err := svc.Access(ctx, account)                         // decision.Plan, .Limit, .Has, .Upgrade
//
// The catalogue is a file, read strictly: plans in the order of upgrade, the
// one without prices for everybody without a subscription, each limit stated by
// every plan.
//
//	features:
//	  api: API access
//	plans:
//	  - id: free
//	    limits: {requests: 10/minute, documents: 10/period}
//	  - id: pro
//	    name: Pro
//	    features: [api]
//	    limits: {requests: 100/minute, documents: unlimited}
//	    prices:
//	      - {amount: 9.99 USD, every: month}   # lookup key pro_month_usd
//
// It may also have what is counted and billed when a period ends, seats, add-ons
// whose limits are added to the plan's, coupons, the rules by which a
// subscription changes, and the older versions of a plan that still have
// subscribers, who keep their price, limits and features until they move:
//
//	meters:
//	  - {id: emails, name: E-mails}
//	plans:
//	  - id: team
//	    version: 2
//	    limits: {requests: 200/minute, documents: 2000/period}
//	    seats: {included: 3, maximum: 50, prices: [{amount: 5.00 USD, every: month}]}
//	    prices: [{amount: 20.00 USD, every: month}]
//	    metered:
//	      - {meter: emails, amount: 0.002 USD, every: month}   # or tiers
//	    versions:
//	      - {version: 1, limits: {documents: 3000/period}, prices: [{amount: 15.00 USD, every: month}]}
//	addons:
//	  - {id: storage, plans: [team], limits: {documents: 500/period}, maximum: 10, prices: [{amount: 3.00 USD, every: month}]}
//	coupons:
//	  - {id: SPRING, off: 20%, duration: 3 months, redeem_by: 2027-05-31}
//	changes:   # the first one that fits decides; see ChangeRule for those behind them
//	  - {from: team, to: pro, when: never, reason: "write to us: your seats would be lost"}
//	  - {kind: upgrade, when: now}
//	  - {kind: downgrade, when: period_end}
//
// billingstripe's PlanCatalog shows how Stripe differs from it, and ApplyCatalog
// makes Stripe the same.
//
// # What is guaranteed
//
// The provider is the truth, and a webhook is a hint. A webhook request is
// verified, stored with its exact bytes, and answered 200 only then. Run reads
// the inbox, fetches the state of each customer once for all of its events,
// and stores it, with the mark that the events are done and the notices that
// follow from it, in one atomic step. So events that are duplicated, reordered
// or late lead to the same state and the same notices; an event whose handling
// fails comes again, at last as a dead one that Replay brings back; one that
// never came is found by Reconcile. While the provider can't be reached, the
// events' own snapshots are merged, and replaced as soon as it can.
//
// Writes to the provider are stored as intents, with their idempotency key,
// before they are made. A process that dies anywhere leaves an intent that Run
// takes up, with one effect. An account has one customer and one live
// subscription, from however many clicks, processes and pages.
//
// Access, Limit and Quota read the store alone: they go on working while the
// provider is down, and Decision.Stale says so. A Feed answers them from
// memory, for request paths, and goes on while the store is down too.
//
// What somebody of the application does by hand (ExtendTrial, GrantCredit, Comp,
// Refund) takes an Audit: a key that gives it one effect for good, who, and why;
// it stands in the account's Timeline. Of an invoice, no more is ever given back
// than was paid. Seats are taken in the store's one step, never more than are
// paid for, and any number of changes reach the gateway as one.
//
// Why a payment was declined decides what helps (RemedyFor): nothing but
// waiting, another payment method, the customer's own confirmation. It drives
// Policy's steps, Decision.Remedy and the notices; a new payment method is
// charged at once for what is open, and once.
//
// Notices come at least once, in Config.Handle, with IDs derived from what
// they are about; see Notice.
//
// # More
//
// Handler serves the requests of a page about one's own subscription. Policy
// says what becomes of an account that doesn't pay. Timeline tells what
// happened to an account, and why it may do what it may. ExportSubject and
// EraseSubject are for the rights of a person: an erasure takes the person
// away and keeps the amounts.
//
// # A store, a gateway of one's own
//
// Implement Store and run billingtest.TestStore on it; implement Gateway for
// another provider. No type of a provider appears in this package.
package billing

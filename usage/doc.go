// Package usage counts what accounts use: events that are never lost or
// counted twice, quotas that are never exceeded, and statistics that stay fast.
//
// Meters declare what is counted, New makes a Service on a store, and that is
// all there is to set up:
//
//	svc, err := usage.New(usagemem.New(), usage.Config{
//		Meters: []usage.Meter{{
//			Name:       "kolekts",
//			Measures:   []usage.Measure{{Property: "characters"}, {Property: "engagement", Scale: 2}},
//			Dimensions: []string{"tone"},
//			Quota:      true,
//		}},
//		Quota: func(ctx context.Context, account, meter string) (usage.Quota, error) {
//			return usage.Calendar(10), nil
//		},
//	})
//
//	r, err := svc.Reserve(ctx, usage.Request{Account: account, Meter: "kolekts", Key: requestID})
//	if err != nil || !r.Allowed {
//		return // 402: r.Used of r.Limit, r.Reset()
//	}
//	// … the work …
//	_, err = r.CommitEvent(ctx, 1, usage.Int("characters", 512), usage.String("tone", "casual"))
//
//	sum, err := svc.Summary(ctx, usage.Query{Account: account, Meter: "kolekts"})
//
// # Events
//
// Record and RecordBatch return when an event is as durable as the store. A
// Recorder takes events in nanoseconds and writes them in batches, from memory
// or from a journal that survives a crash. The ID of an event is its
// idempotency key within account and meter. An event is counted by its own
// time, however late it comes, within Config.MaxAge.
//
// # Quotas
//
// Reserve, then Commit, CommitEvent or Release; or Consume in one step. The
// store decides in one atomic step, so that no number of processes exceeds a
// limit. A refusal is a Decision, not an error, and charges nothing. A
// reservation whose holder has died comes back after its TTL. Quota says how a
// period is found and what a change of plan does. Of a meter with Quota,
// recorded events count too: what is used is always the stored events plus
// what was consumed without one, and Audit proves it.
//
// # Grants
//
// Grant gives an account units beside its quota: a gift, a pack that was paid
// for, credits that come every month and roll over. They are decided in the same
// atomic step as the quota. The quota's own units are used first, then grants by
// priority, expiry and age, then overage; what a reservation gives back goes to
// where it came from. Decision.Limit and Remaining, NearLimit, the thresholds and
// Explain count them in. Each movement is in a ledger that is only appended to:
// Balance tells what there was at any past instant, GrantHistory why, and Audit
// proves that no unit was lost or made. No job runs when a grant recurs or ends:
// it is the same whenever somebody looks. usageredis knows no grants: with it as
// Config.Quotas, Grant returns ErrUnsupported.
//
// # Notices
//
// When use crosses a threshold (80 % and 100 % unless Meter.Thresholds says
// otherwise), the same commit stores one Notice for account, meter, period and
// percentage. Run, or DeliverNotices, hands it to the application.
//
// # Reports
//
// A Reporter tells a payment provider, through a function, what was recorded of
// the meters with Report: a report for each account, meter and hour that has
// ended, and a further one for what comes late. Reports are cut from the stored
// events and committed with a lasting ID before the provider is called, so that
// a crash, an outage or a lost answer loses nothing and counts nothing twice.
// What the provider refuses for ever, or is too old for it, is kept with its
// reason. Reconcile compares both sides.
//
// # Queries
//
// Summary, Series, Compare, Top, Active, Retention, NearLimit, Forecast and
// Explain are exact: they read rollups where these have the answer, the events
// for the rest, and always come to what a full scan would. Sums are whole
// numbers; floats appear only where a number is for showing.
//
// # Stores
//
// usagemem keeps everything in memory, usagepg in PostgreSQL. usageredis
// decides about quotas in front of one of them; see Config.Quotas. A store of
// one's own implements Store, leaves the decision to Counter.Step, and passes
// usagetest.TestStore. GrantStore and ReportStore are what it may do beyond.
package usage

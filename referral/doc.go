// Package referral runs referral campaigns whose rewards reach the invoice: an
// account shares a code, a new account redeems it and pays, and both get what
// the campaign says, once.
//
//	service, err := referral.New(referralpg.New(pool), referral.Config{
//		Pepper: pepper,
//		Campaigns: []referral.Campaign{{
//			ID: "friends", Version: 1, MaxUses: 10,
//			Referrer: referral.Benefit{FreeMonths: 1},
//			Referee:  referral.Benefit{PercentOff: 50}, // of the first month
//		}},
//		Biller: biller, // billing, behind four methods
//	})
//	code, err := service.Code(ctx, "friends", referral.Person{Account: ada})
//	redemption, err := service.Redeem(ctx, "K7QMXG4P", referral.Person{Account: bob, Email: …})
//	coupon, err := service.CheckoutCoupon(ctx, bob, price) // for bob's checkout
//	err = service.HandlePaid(ctx, paid)                    // from billing's events
//	err = service.HandleDraft(ctx, draft)                  // ada's next renewal is free
//	go service.Run(ctx)
//
// # Redemption
//
// A redemption is decided and stored in one step of the store (in PostgreSQL
// one statement): the code's cap and end, self-referral by account, mailbox or
// card, one referral for each account ever, no cycles, the referrer's cap, the
// campaign's budget. A refusal says why, by its error, and uses nothing up.
// The same attempt again is the first one. A card or mailbox that another
// referee has used leads to a review, not to a refusal: a person decides, and
// [Service.Approve] loses nothing of what happened meanwhile.
//
// # Rewards
//
// Money comes after money: a reward starts with a payment above zero, and vests
// for the campaign's Hold. A free month is kept in months and given to a draft
// renewal invoice when that is due ([Service.HandleDraft]), one for each
// invoice, at the price of the plan of then, a twelfth of it for a yearly plan.
// Half of the first month of a yearly plan is half a twelfth, not half a year.
//
// A refund takes back in proportion, never more than was granted. What isn't
// granted yet lapses, unspent credit goes, the rest is carried against later
// rewards; no card is charged. A dispute, or an end within the hold, stops the
// vesting.
//
// Each redemption that qualifies has a number of its own for [Campaign.Tiers],
// and calls that begin at once share what is carried. [Service.Reconcile]
// compares the ledger with the provider, and repairs what differs.
//
// # Guarantees
//
// The handlers may be called with the same event any number of times, in any
// order. Each transition is a conditional step of the store; each grant has an
// ID by which [Biller] is idempotent for good, not only for the day that a
// payment provider keeps idempotency keys. The ledger is append-only, each
// cause entered once.
//
// # Privacy
//
// Signals are keyed hashes. Clicks are counted, addresses aren't looked at;
// attribution needs no cookie ([Service.Token]). Friends are never named to each
// other. [Service.EraseSubject] puts a pseudonym where an account stood, and
// keeps the hashes for Config.SignalTTL, so that erasing oneself isn't a way to
// be referred again.
//
// # Stores
//
// referralmem and referralpg; a store of your own passes referraltest.TestStore.
// New starts no goroutine; Run runs in the caller's.
package referral

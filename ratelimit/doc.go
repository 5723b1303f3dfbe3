// Package ratelimit decides how fast an account may go: every window of its
// plan (ten a minute and a thousand a month) in one exact decision.
//
//	store := ratelimitmem.New(ratelimitmem.Config{})
//	limiter, err := ratelimit.New(store, ratelimit.Config{Name: "api"})
//	free, err := ratelimit.NewPlan("free", ratelimit.PerMinute(10), ratelimit.PerMonth(1000))
//
//	d, err := limiter.Allow(ctx, "acct_1", free, 1)
//	if err == nil && !d.Allowed() {
//		// d.Violated() names the window, d.RetryAfter() says when to come back.
//	}
//
// # Plans
//
// A [Plan] is a name and up to [MaxWindows] windows. A request passes when all
// of them have room, and is then charged to all of them; when one has none, it
// is charged to none. Three algorithms serve three promises:
//
//   - [Bucket] (PerSecond, PerMinute, PerHour, Rate): a bucket of Burst units
//     that refills evenly. No edges, no synchronised resets.
//   - [Period] (PerDay, PerMonth, Calendar, Billing): an exact count in a
//     calendar or billing period.
//   - [Rolling] (Strict): never more than the limit in any stretch of time as
//     long as the window, in constant space.
//
// [Plan.Bounds] prints what each of them promises in the worst case.
//
// What a key has used belongs to the limiter's name, the key and the window's
// name, not to the plan: a change of plan keeps it and applies at once. Buckets
// keep their debt as time, so an upgrade keeps the used fraction; periods keep
// their count. Use one Limiter for each kind of key.
//
// # Stores
//
// ratelimitmem serves one process, ratelimitredis many; ratelimittest proves a
// store of your own. The clock is the store's, never the caller's: a monotonic
// one in memory, the server's in Redis. A [Guard] bounds how long a decision
// may wait for a store, and enforces limits locally while the store is away.
//
// # HTTP
//
// [Middleware] limits an http.Handler, with the RateLimit and RateLimit-Policy
// fields of draft-ietf-httpapi-ratelimit-headers-10, Retry-After and an RFC
// 9457 body. It fits http.ServeMux and chi as it is, echo by
// echo.WrapMiddleware, and gin by a handler that calls c.Next inside it and
// c.Abort when it wasn't reached. [Transport] is the client's side of it: it paces itself by those
// fields.
//
// # Errors
//
// A refused request is a [Decision] and not an error. An error means that
// nobody knows: [ErrUnavailable] when the store can't be asked.
//
// # Privacy
//
// Stores hold what a key has used for as long as it matters, and the key
// itself (Redis) or a seeded hash of it (memory). [Limiter.ExportSubject] and
// [Limiter.EraseSubject] answer a privacy request for a key that is an account.
package ratelimit

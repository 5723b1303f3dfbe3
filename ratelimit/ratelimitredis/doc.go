// Package ratelimitredis keeps rate limits in Redis (or Valkey), for many
// processes. It works on a single server, behind Sentinel, and on Redis
// Cluster.
//
// One key holds all windows of an account, so that a decision is one round
// trip to one slot. A script decides by the server's clock in whole
// microseconds; no clock of an application server matters. The key expires
// when nothing that it holds matters any more.
//
// A caller that is alone sends its decision at once. While it is on the way,
// others gather, and go together in the next round trip; those that ask the
// same of the same key are decided as one. Nothing waits for a timer.
//
// Give Redis a maxmemory-policy of noeviction or volatile-ttl: an evicted key is
// a customer whose month starts anew. A decision whose answer got lost, and
// which the client sent again, may be charged twice: it errs on the side of the
// limit.
//
// Put a ratelimit.Guard in front, so that requests don't wait for a Redis that
// hangs.
package ratelimitredis

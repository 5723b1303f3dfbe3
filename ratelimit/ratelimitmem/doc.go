// Package ratelimitmem keeps rate limits in the memory of one process.
//
// Look-ups take no lock and allocate nothing; a decision holds a single
// entry for a few nanoseconds. Entries hold no pointers, so the garbage
// collector doesn't scan them, and a key costs 16 bytes and 8 for each further
// window, at 1/2 to 3/4 occupancy.
//
// A bucket that is full again, or a period that is over, is the same as no
// entry. So there is no sweeper and no pause: when one of 256 parts is full of
// entries, that part alone is rebuilt, without those that died over a second ago.
//
// The time is monotonic and right to some microseconds. On amd64 it is mostly
// read from the processor's counter, which the clock corrects every 5 ms, and
// that is also the most by which an instant can be wrong if the counter jumps.
// Config.CoarseClock saves that reading too.
//
// Keys are told apart by a 64-bit hash with a random secret. Two keys of the same
// scope share one entry with a probability of n²/2⁶⁵ among n live keys: 3 in 10⁸
// for a million. Nobody can aim for it without the secret.
package ratelimitmem

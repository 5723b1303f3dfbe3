// Package ratelimit measures this module's rate limits beside other limiters
// and beside the bare floor. Each table is one run: the cases take turns in
// short slices, so that a busy machine is busy for all of them, and the best
// and the median slice are printed.
//
//	go test -run '^$' -bench . ./ratelimit
package ratelimit

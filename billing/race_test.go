//go:build race

package billing_test

// The race detector makes a proof ten times as slow and shows nothing more by
// its last order than by its first sixty.
const stride = 12

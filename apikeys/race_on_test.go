//go:build race

package apikeys_test

// The race detector makes sync.Pool forget at random, and so allocate.
const raceDetector = true

// Package v185 pins the release 0.185 of stripe-mock, which describes API version
// 2024-04-10, for the tests of billingstripe: they build and start it. It is a module of
// its own to keep stripe-mock out of users' module graph.
package v185

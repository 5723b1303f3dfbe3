// Package v183 pins the release 0.183 of stripe-mock, which describes API version
// 2023-10-16, for the tests of billingstripe: they build and start it. It is a module of
// its own to keep stripe-mock out of users' module graph.
package v183

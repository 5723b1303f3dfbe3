// Package billingtest is for tests of what is built on billing: Gateway, a
// payment provider in memory, and TestStore, the contract of billing.Store as
// a suite that every store passes.
package billingtest

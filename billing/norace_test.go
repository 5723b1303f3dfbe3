//go:build !race

package billing_test

const stride = 1

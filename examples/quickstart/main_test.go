package main

import (
	"context"
	"os"
)

func Example() {
	if err := run(context.Background(), os.Stdout); err != nil {
		panic(err)
	}
	// Output:
	// at first:              plan free  10/period kolekts, paid: false
	// after the payment:     plan pro   100/period kolekts, paid: true
	// a month later:         2 invoices paid
	// after cancelling:      plan free  10/period kolekts, paid: false
}

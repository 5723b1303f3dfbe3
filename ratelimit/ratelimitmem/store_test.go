package ratelimitmem_test

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/kolekt/commerce/ratelimit/ratelimitmem"
	"github.com/kolekt/commerce/ratelimit/ratelimittest"
)

func TestStore(t *testing.T) {
	ratelimittest.TestStore(t, func(*testing.T) ratelimittest.Harness {
		var now atomic.Pointer[time.Time]
		return ratelimittest.Harness{
			Store:  ratelimitmem.New(ratelimitmem.Config{Now: func() time.Time { return *now.Load() }}),
			SetNow: func(t time.Time) { now.Store(&t) },
		}
	})
}

func TestStoreOnTheRealClock(t *testing.T) {
	ratelimittest.TestStore(t, func(*testing.T) ratelimittest.Harness {
		return ratelimittest.Harness{Store: ratelimitmem.New(ratelimitmem.Config{})}
	})
}

func TestStoreOnTheCoarseClock(t *testing.T) {
	ratelimittest.TestStore(t, func(t *testing.T) ratelimittest.Harness {
		store := ratelimitmem.New(ratelimitmem.Config{CoarseClock: true})
		t.Cleanup(store.Close)
		return ratelimittest.Harness{Store: store}
	})
}

package ratelimit

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/kolekt/commerce/internal/clientip"
)

// ByIP keys requests by the client's network: an IPv4 address, or the /64 that
// one IPv6 customer holds. X-Forwarded-For counts only behind the trusted
// proxies, from the right; without any, the connection's address counts.
func ByIP(trusted ...netip.Prefix) func(*http.Request) (string, error) {
	return func(r *http.Request) (string, error) {
		addr := clientip.From(r, trusted)
		if !addr.IsValid() {
			return "", errors.New("ratelimit: the connection has no address: name the proxy in front of it as trusted")
		}
		if addr.Is4() {
			return addr.String(), nil
		}
		return clientip.Network(addr).String(), nil
	}
}

// ByHeader keys requests by a hash of a header's value, such as an API key:
// the value itself is never stored. Only a value that has been checked before
// should pay for a key, or a client makes itself a new one with each request.
func ByHeader(name string) func(*http.Request) (string, error) {
	name = http.CanonicalHeaderKey(name)
	return func(r *http.Request) (string, error) {
		v := r.Header.Get(name)
		if v == "" {
			return "", fmt.Errorf("ratelimit: header %s is missing", name)
		}
		sum := sha256.Sum256([]byte(v))
		return base64.RawURLEncoding.EncodeToString(sum[:16]), nil
	}
}

// Limits says what an account may do, as a service of plans and subscriptions
// does: n units per time. A negative n means no limit.
type Limits interface {
	Limit(ctx context.Context, account, name string) (n int64, per time.Duration, err error)
}

// maxPlans bounds the plans that PlansFrom keeps. Catalogues have a handful;
// beyond the bound they are made anew.
const maxPlans = 4096

// PlansFrom makes plans of what limits says about the key, which must be the
// account: one bucket for each name. Plans are made once for each set of
// limits, so that this costs a look-up in a map beside the call of limits.
func PlansFrom(limits Limits, names ...string) (func(*http.Request, string) (*Plan, error), error) {
	if limits == nil {
		return nil, errors.New("ratelimit: PlansFrom needs limits")
	}
	if len(names) == 0 || len(names) > MaxWindows {
		return nil, fmt.Errorf("ratelimit: PlansFrom takes 1 to %d names, got %d", MaxWindows, len(names))
	}
	// Names that make no plan are found now, instead of at the first request.
	var check []Window
	for _, name := range names {
		check = append(check, Rate(name, 1, time.Minute))
	}
	if _, err := NewPlan("", check...); err != nil {
		return nil, err
	}
	type limit struct {
		n   int64
		per time.Duration
	}
	var mu sync.RWMutex
	plans := map[[MaxWindows]limit]*Plan{}
	return func(r *http.Request, account string) (*Plan, error) {
		var key [MaxWindows]limit
		for i, name := range names {
			n, per, err := limits.Limit(r.Context(), account, name)
			if err != nil {
				return nil, err
			}
			if n < 0 {
				n, per = -1, 0
			}
			key[i] = limit{n, per}
		}
		mu.RLock()
		p := plans[key]
		mu.RUnlock()
		if p != nil {
			return p, nil
		}
		var windows []Window
		for i, name := range names {
			if key[i].n >= 0 {
				windows = append(windows, Rate(name, key[i].n, key[i].per))
			}
		}
		p, err := NewPlan("", windows...)
		if err != nil {
			return nil, err
		}
		mu.Lock()
		defer mu.Unlock()
		if other := plans[key]; other != nil {
			return other, nil
		}
		if len(plans) >= maxPlans {
			clear(plans)
		}
		plans[key] = p
		return p, nil
	}, nil
}

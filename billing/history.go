package billing

import (
	"fmt"
	"maps"
	"math/big"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// MetadataHistory is the metadata name under which a subscription carries what
// it had before it was changed within its period. It is written with the
// change itself, in one request, so that it is there exactly if the change is,
// whatever becomes of events and stores.
const MetadataHistory = "commerce_history"

// maxHistory is the gateway's bound on a metadata value.
const maxHistory = 500

// had is what a subscription had until an instant.
type had struct {
	until time.Time
	what  string // plan@version+addon*n, each ID escaped
}

// entitles is what a subscription has, as text.
func (c *Catalog) entitles(h *holding) string {
	if h.plan < 0 {
		return ""
	}
	text := url.QueryEscape(c.plans[h.plan].ID) + "@" + strconv.FormatInt(h.terms.Version, 10)
	for _, a := range h.addons {
		text += fmt.Sprintf("+%s*%d", url.QueryEscape(c.addons[a.addon].ID), a.quantity)
	}
	return text
}

// entitled is the plan of such a text, with its add-ons; nil when the
// catalogue doesn't have it any more.
func (c *Catalog) entitled(text string) *Plan {
	name, addons, _ := strings.Cut(text, "+")
	id, version, _ := strings.Cut(name, "@")
	id, err := url.QueryUnescape(id)
	i, ok := c.byID[id]
	if err != nil || !ok {
		return nil
	}
	n, _ := strconv.ParseInt(version, 10, 64)
	terms := c.termsOf(i, n)
	var held []heldAddon
	for part := range strings.SplitSeq(addons, "+") {
		id, count, _ := strings.Cut(part, "*")
		if id, err = url.QueryUnescape(id); err != nil {
			continue
		}
		if a, ok := c.addonByID[id]; ok {
			n, _ := strconv.ParseInt(count, 10, 64)
			held = append(held, heldAddon{addon: a, quantity: n})
		}
	}
	if len(held) > 0 {
		terms = terms.with(c, held)
	}
	return terms
}

// history reads what a subscription had, the oldest first.
func (s *Subscription) history() []had {
	text := s.Metadata[MetadataHistory]
	if text == "" {
		return nil
	}
	var all []had
	for part := range strings.FieldsSeq(text) {
		at, what, ok := strings.Cut(part, "=")
		seconds, err := strconv.ParseInt(at, 10, 64)
		if !ok || err != nil {
			continue
		}
		all = append(all, had{time.Unix(seconds, 0).UTC(), what})
	}
	slices.SortStableFunc(all, func(x, y had) int { return x.until.Compare(y.until) })
	return all
}

// historyWith is the history after a change at an instant, without what lies
// before the period, and the oldest entries when it gets too long.
func (s *Subscription) historyWith(what string, at time.Time, p Period) string {
	var parts []string
	for _, h := range append(s.history(), had{at, what}) {
		if h.until.After(p.From) {
			parts = append(parts, fmt.Sprintf("%d=%s", h.until.Unix(), h.what))
		}
	}
	text := strings.Join(parts, " ")
	for len(text) > maxHistory {
		_, text, _ = strings.Cut(text, " ")
	}
	return text
}

// prorated is a plan whose quotas are those of a period in which the
// subscription was changed: each one is the sum of what was allowed at each
// time, weighed by how long that was. The money is prorated in the same way, so
// that no order of upgrades and downgrades allows more than was paid for.
// Without a change in the period it is the plan itself.
func (c *Catalog) prorated(now *Plan, s *Subscription, p Period) *Plan {
	var within []had
	for _, h := range s.history() {
		if h.until.After(p.From) && h.until.Before(p.To) {
			within = append(within, h)
		}
	}
	if len(within) == 0 {
		return now
	}
	sum := clonePlan(*now)
	for _, name := range slices.Sorted(maps.Keys(now.Limits)) {
		l := now.Limits[name]
		if l.Per != 0 || l.Unlimited() {
			continue // of each instant alone
		}
		weighed, from := new(big.Int), p.From
		add := func(n int64, to time.Time) {
			weighed.Add(weighed, new(big.Int).Mul(big.NewInt(n), big.NewInt(int64(to.Sub(from)/time.Second))))
			from = to
		}
		for _, h := range within {
			n := l.N // one that is unknown, or without a limit, counts as what there is now
			if then := c.entitled(h.what); then != nil {
				if old, ok := then.Limits[name]; ok && old.Per == 0 && !old.Unlimited() {
					n = old.N
				}
			}
			add(n, h.until)
		}
		add(l.N, p.To)
		whole := big.NewInt(int64(p.To.Sub(p.From) / time.Second))
		weighed.Add(weighed.Lsh(weighed, 1), whole) // to the nearest unit, as money is
		sum.Limits[name] = Limit{N: weighed.Quo(weighed, whole.Lsh(whole, 1)).Int64()}
	}
	return &sum
}

package billingtest

import (
	"context"
	"maps"
	"strconv"
	"time"

	"github.com/kolekt/commerce/billing"
)

var (
	_ billing.Scheduler     = (*Gateway)(nil)
	_ billing.UsageReporter = (*Gateway)(nil)
)

// sell gives the provider the prices of a catalogue.
func (g *Gateway) sell(catalog *billing.Catalog) {
	add := func(prices []billing.PlanPrice, product string, metadata map[string]string) {
		for _, p := range prices {
			g.prices[p.LookupKey] = billing.Price{
				ID: "price_" + p.LookupKey, LookupKey: p.LookupKey, ProductID: "prod_" + product, UnitAmount: p.Amount,
				Interval: p.Interval, IntervalCount: p.IntervalCount, Active: true, Metadata: metadata,
			}
		}
	}
	for _, plan := range catalog.Plans() {
		var marks map[string]string
		if plan.Version > 1 {
			marks = map[string]string{billing.MetadataPlan: plan.ID, billing.MetadataVersion: strconv.FormatInt(plan.Version, 10)}
		}
		add(plan.Prices, plan.ID, marks)
		if plan.Seats != nil {
			add(plan.Seats.Prices, plan.ID+"_seat", map[string]string{billing.MetadataPlan: plan.ID, billing.MetadataPart: "seat"})
		}
		for _, m := range plan.Metered {
			g.prices[m.LookupKey] = billing.Price{
				ID: "price_" + m.LookupKey, LookupKey: m.LookupKey, ProductID: "prod_" + plan.ID + "_" + m.Meter, UnitAmount: billing.Money{Currency: m.Currency},
				UnitAmountDecimal: m.UnitAmount, Interval: m.Interval, IntervalCount: m.IntervalCount, Metered: true, MeterID: "meter_" + m.Meter, Active: true,
				Metadata: map[string]string{billing.MetadataPlan: plan.ID, billing.MetadataMeter: m.Meter},
			}
		}
	}
	for _, a := range catalog.Addons() {
		add(a.Prices, "addon_"+a.ID, map[string]string{billing.MetadataAddon: a.ID})
	}
}

// Schedule implements billing.Scheduler.
func (g *Gateway) Schedule(ctx context.Context, id string, req billing.ScheduleRequest, key string) (billing.Subscription, error) {
	return write(ctx, g, "Schedule", key, []any{id, req}, func() (billing.Subscription, error) {
		s := g.subs[id]
		switch {
		case s == nil:
			return billing.Subscription{}, missing("Schedule", "subscription", id)
		case s.Status.Terminal() || !s.Period.To.Equal(req.At):
			return billing.Subscription{}, invalid("Schedule", "the period has ended")
		}
		for _, it := range req.Items {
			if _, ok := g.price(it.PriceID); !ok {
				return billing.Subscription{}, missing("Schedule", "price", it.PriceID)
			}
		}
		s.Scheduled = &billing.Scheduled{ID: g.id("sched"), At: req.At, Items: req.Items, Plan: req.Metadata[billing.MetadataPlan]}
		g.waiting[id] = maps.Clone(req.Metadata)
		g.emitSubscription("customer.subscription.updated", key, s)
		return clone(*s), nil
	})
}

// Unschedule implements billing.Scheduler.
func (g *Gateway) Unschedule(ctx context.Context, id, key string) (billing.Subscription, error) {
	return write(ctx, g, "Unschedule", key, id, func() (billing.Subscription, error) {
		s := g.subs[id]
		if s == nil {
			return billing.Subscription{}, missing("Unschedule", "subscription", id)
		}
		if s.Scheduled != nil {
			s.Scheduled = nil
			g.emitSubscription("customer.subscription.updated", key, s)
		}
		return clone(*s), nil
	})
}

// enter puts a subscription whose period ends on what is scheduled.
func (g *Gateway) enter(s *billing.Subscription) {
	if s.Scheduled == nil {
		return
	}
	var items []billing.Item
	for i, it := range s.Scheduled.Items {
		p, _ := g.price(it.PriceID)
		item := billing.Item{Price: p, Quantity: it.Quantity, Period: s.Period}
		if i < len(s.Items) {
			item.ID = s.Items[i].ID
		} else {
			item.ID = g.id("si")
		}
		items = append(items, item)
	}
	if items[0].Price.Interval != s.Items[0].Price.Interval {
		s.BillingCycleAnchor = s.Period.To
	}
	s.Items, s.Scheduled = items, nil
	if s.Metadata == nil {
		s.Metadata = map[string]string{}
	}
	maps.Copy(s.Metadata, g.waiting[s.ID])
}

// ReportUsage implements billing.UsageReporter.
func (g *Gateway) ReportUsage(ctx context.Context, u billing.UsageReport) error {
	_, err := write(ctx, g, "ReportUsage", u.Identifier, u.Identifier, func() (struct{}, error) {
		g.used = append(g.used, u)
		return struct{}{}, nil
	})
	return err
}

// ReportedUsage implements billing.UsageReporter.
func (g *Gateway) ReportedUsage(ctx context.Context, u billing.UsageReport, from, to time.Time) (int64, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.read(ctx, "ReportedUsage"); err != nil {
		return 0, err
	}
	var n int64
	for _, r := range g.used {
		if r.CustomerID == u.CustomerID && r.Event == u.Event && !r.At.Before(from) && r.At.Before(to) {
			if r.Aggregate == billing.Count {
				n++
			} else {
				n += r.Quantity
			}
		}
	}
	return n, nil
}

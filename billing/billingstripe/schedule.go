package billingstripe

import (
	"context"
	"errors"

	"github.com/stripe/stripe-go/v76"

	"github.com/kolekt/commerce/billing"
)

var _ billing.Scheduler = (*Gateway)(nil)

// Schedule makes a subscription change when its period ends, by a schedule of
// two phases: what there is until then, and one period of what comes, after
// which Stripe releases the subscription from it; see billing.Scheduler. A
// schedule that a process made and died over is taken up.
func (g *Gateway) Schedule(ctx context.Context, id string, req billing.ScheduleRequest, key string) (billing.Subscription, error) {
	const op = "schedule change"
	n, err := g.scheduled(ctx, op, id)
	if err != nil {
		return billing.Subscription{}, err
	}
	s, err := g.subscription(ctx, op, "", n)
	switch {
	case err != nil:
		return s, err
	case len(req.Items) == 0:
		return s, invalid(op, "a subscription needs at least one item")
	case !s.Period.To.Equal(req.At):
		return s, invalid(op, "the period that the change was to end with has ended")
	}
	schedule := n.at("schedule")
	if !schedule.object() {
		schedule, err = g.call(ctx, post(op, "/v1/subscription_schedules", &stripe.SubscriptionScheduleParams{FromSubscription: &s.ID}, key+":from"))
		if err != nil {
			return s, err
		}
	}
	path, err := objectPath(op, "/v1/subscription_schedules/%s", schedule.id())
	if err != nil {
		return s, err
	}
	start := schedule.at("current_phase", "start_date").number()
	now := &stripe.SubscriptionSchedulePhaseParams{StartDate: &start, EndDate: instant(req.At)}
	then := &stripe.SubscriptionSchedulePhaseParams{Iterations: stripe.Int64(1), ProrationBehavior: stripe.String("none"), Metadata: req.Metadata}
	for _, it := range s.Items {
		phase := &stripe.SubscriptionSchedulePhaseItemParams{Price: stripe.String(it.Price.ID)}
		if !it.Price.Metered {
			phase.Quantity = stripe.Int64(it.Quantity)
		}
		now.Items = append(now.Items, phase)
	}
	for _, it := range req.Items {
		then.Items = append(then.Items, &stripe.SubscriptionSchedulePhaseItemParams{Price: stripe.String(it.PriceID), Quantity: quantity(it.Quantity)})
	}
	for _, d := range s.Discounts {
		if d.ID != "" { // a phase without them would take them away
			keep := &stripe.SubscriptionSchedulePhaseDiscountParams{Discount: stripe.String(d.ID)}
			now.Discounts, then.Discounts = append(now.Discounts, keep), append(then.Discounts, keep)
		}
	}
	params := &stripe.SubscriptionScheduleParams{EndBehavior: stripe.String("release"), Phases: []*stripe.SubscriptionSchedulePhaseParams{now, then}}
	if _, err := g.call(ctx, post(op, path, params, key)); err != nil {
		return s, err
	}
	return g.afterSchedule(ctx, op, id, key)
}

// Unschedule releases a subscription from its schedule; see billing.Scheduler.
func (g *Gateway) Unschedule(ctx context.Context, id, key string) (billing.Subscription, error) {
	const op = "withdraw scheduled change"
	n, err := g.scheduled(ctx, op, id)
	if err != nil {
		return billing.Subscription{}, err
	}
	if schedule := n.at("schedule").id(); schedule != "" {
		path, err := objectPath(op, "/v1/subscription_schedules/%s/release", schedule)
		if err != nil {
			return billing.Subscription{}, err
		}
		_, err = g.call(ctx, post(op, path, nil, key))
		if err != nil && !errors.Is(err, billing.ErrInvalid) { // released, or at its end, meanwhile
			return billing.Subscription{}, err
		}
		if invalid := err; invalid != nil {
			s, err := g.afterSchedule(ctx, op, id, key)
			if err == nil && s.Scheduled != nil {
				err = invalid
			}
			return s, err
		}
	}
	return g.afterSchedule(ctx, op, id, key)
}

// scheduled fetches a subscription with its schedule.
func (g *Gateway) scheduled(ctx context.Context, op, id string) (node, error) {
	path, err := objectPath(op, "/v1/subscriptions/%s", id)
	if err != nil {
		return node{}, err
	}
	return g.call(ctx, get(op, path, &stripe.SubscriptionParams{Expand: stripe.StringSlice([]string{"schedule"})}))
}

// afterSchedule reads what a write led to; a failure leaves its outcome
// unknown.
func (g *Gateway) afterSchedule(ctx context.Context, op, id, key string) (billing.Subscription, error) {
	n, err := g.scheduled(ctx, op, id)
	var failure *billing.GatewayError
	if errors.As(err, &failure) {
		failure.Kind, failure.IdempotencyKey = billing.ErrUnknownOutcome, key
	}
	if err != nil {
		return billing.Subscription{}, err
	}
	return g.subscription(ctx, op, key, n)
}

// decodeScheduled reads what is to come of a subscription's schedule: the
// phase that begins when the period ends. An event has only the schedule's ID.
func decodeScheduled(n node, s *billing.Subscription) *billing.Scheduled {
	if n.id() == "" {
		return nil
	}
	scheduled := &billing.Scheduled{ID: n.id()}
	phases, _ := n.at("phases").list()
	for _, p := range phases {
		at := p.at("start_date").time()
		if at.IsZero() || at.Before(s.Period.To) {
			continue
		}
		scheduled.At = at
		scheduled.Plan = p.at("metadata").dict()[billing.MetadataPlan]
		items, _ := p.at("items").list()
		for _, it := range items {
			n, _ := decodeQuantity(it)
			scheduled.Items = append(scheduled.Items, billing.LineItem{PriceID: it.at("price").id(), Quantity: n})
		}
		break
	}
	return scheduled
}

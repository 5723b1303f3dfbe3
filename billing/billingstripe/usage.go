package billingstripe

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/stripe/stripe-go/v76"

	"github.com/kolekt/commerce/billing"
)

var _ billing.UsageReporter = (*Gateway)(nil)

// ReportUsage tells Stripe of use: by a meter event, where the price is of a
// meter, else by a usage record; see billing.UsageReporter. Stripe takes a
// meter event's identifier once in 24 hours or more, and keeps the idempotency
// key of a usage record as long.
func (g *Gateway) ReportUsage(ctx context.Context, u billing.UsageReport) error {
	const op = "report usage"
	if u.MeterID == "" {
		path, err := objectPath(op, "/v1/subscription_items/%s/usage_records", u.ItemID)
		if err != nil {
			return err
		}
		n := u.Quantity
		if u.Aggregate == billing.Count {
			n = 1
		}
		_, err = g.call(ctx, post(op, path, &stripe.UsageRecordParams{Quantity: &n, Timestamp: instant(u.At), Action: stripe.String("increment")}, u.Identifier))
		return err
	}
	params := &stripe.BillingMeterEventParams{
		EventName: stripe.String(u.Event), Identifier: stripe.String(u.Identifier), Timestamp: instant(u.At),
		Payload: map[string]string{"stripe_customer_id": u.CustomerID, "value": strconv.FormatInt(u.Quantity, 10)},
	}
	_, err := g.call(ctx, post(op, "/v1/billing/meter_events", params, u.Identifier))
	var failure *billing.GatewayError
	if errors.As(err, &failure) && errors.Is(err, billing.ErrInvalid) && failure.Param == "identifier" && strings.Contains(failure.Message, "exists") {
		return nil // it was counted before
	}
	return err
}

// ReportedUsage asks Stripe what it has counted; see billing.UsageReporter. Of
// a meter it is what lies between two whole minutes, of usage records the
// billing periods that begin in the range.
func (g *Gateway) ReportedUsage(ctx context.Context, u billing.UsageReport, from, to time.Time) (int64, error) {
	const op = "read usage"
	root := node{doc: &document{}}
	if u.MeterID == "" {
		path, err := objectPath(op, "/v1/subscription_items/%s/usage_record_summaries", u.ItemID)
		if err != nil {
			return 0, err
		}
		params := &stripe.UsageRecordSummaryListParams{}
		list, err := g.all(ctx, root, op, "", path, params, &params.ListParams)
		if err != nil {
			return 0, err
		}
		var total int64
		for i, n := range list {
			start := n.at("period", "start").time()
			if start.IsZero() && i+1 < len(list) { // the running one begins where the one before ended
				start = list[i+1].at("period", "end").time()
			}
			if !start.Before(to) || start.Before(from) && !start.IsZero() {
				continue
			}
			total += n.at("total_usage").number()
		}
		return total, check(op, "", root, true)
	}
	path, err := objectPath(op, "/v1/billing/meters/%s/event_summaries", u.MeterID)
	if err != nil {
		return 0, err
	}
	from, to = from.Truncate(time.Minute), to.Truncate(time.Minute)
	if !from.Before(to) {
		return 0, nil
	}
	params := &stripe.BillingMeterEventSummaryListParams{Customer: &u.CustomerID, StartTime: instant(from), EndTime: instant(to)}
	list, err := g.all(ctx, root, op, "", path, params, &params.ListParams)
	if err != nil {
		return 0, err
	}
	var total int64
	for _, n := range list {
		value := n.at("aggregated_value").rat()
		if value == nil || !value.IsInt() || !value.Num().IsInt64() {
			return 0, check(op, "", n, false)
		}
		total += value.Num().Int64()
	}
	return total, check(op, "", root, true)
}

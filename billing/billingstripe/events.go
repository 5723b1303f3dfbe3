package billingstripe

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"github.com/stripe/stripe-go/v76"

	"github.com/kolekt/commerce/billing"
)

// Events lists events oldest first; see billing.Gateway. Stripe lists the
// newest first and can go forwards only from an event that it still has: when
// after is empty or older than 30 days, the oldest events since then are found
// by halving the time in which there are too many for a page.
func (g *Gateway) Events(ctx context.Context, since time.Time, after string) ([]billing.Event, bool, error) {
	if after != "" {
		params := &stripe.EventListParams{}
		params.EndingBefore = &after
		events, more, err := g.events(ctx, params)
		if !errors.Is(err, billing.ErrNotFound) {
			return events, more, err
		}
	}
	end := g.now().Unix() + 1
	oldest := end - 31*24*60*60
	from := max(since.Unix(), oldest)
	to := end
	for from < end {
		params := &stripe.EventListParams{CreatedRange: &stripe.RangeQueryParams{GreaterThanOrEqual: from, LesserThan: to}}
		events, more, err := g.events(ctx, params)
		switch {
		case err != nil:
			return nil, false, err
		case more && to-from > 1:
			to = from + (to-from)/2
		case more:
			// More than a page within one second.
			events, err = g.oldest(ctx, params, events)
			return events, true, err
		case len(events) > 0:
			return events, to < end, nil
		default:
			from, to = to, min(end, to+2*(to-from))
		}
	}
	return nil, false, nil
}

// oldest pages backwards to the oldest events of a range.
func (g *Gateway) oldest(ctx context.Context, params *stripe.EventListParams, page []billing.Event) ([]billing.Event, error) {
	for {
		params.StartingAfter = &page[0].ID
		older, more, err := g.events(ctx, params)
		if err != nil {
			return nil, err
		}
		if len(older) > 0 {
			page = older
		}
		if !more || len(older) == 0 {
			return page, nil
		}
	}
}

// events fetches one page, oldest first.
func (g *Gateway) events(ctx context.Context, params *stripe.EventListParams) ([]billing.Event, bool, error) {
	const op = "list events"
	params.Limit = stripe.Int64(pageSize)
	n, err := g.call(ctx, get(op, "/v1/events", params))
	if err != nil {
		return nil, false, err
	}
	// The exact bytes of each event are kept, as those of a delivered one are.
	var page struct {
		Data    []json.RawMessage `json:"data"`
		HasMore bool              `json:"has_more"`
	}
	if err := json.Unmarshal(n.doc.body, &page); err != nil {
		return nil, false, check(op, "", n, false)
	}
	events := make([]billing.Event, 0, len(page.Data))
	for _, body := range page.Data {
		event, _, err := decodeEvent(body)
		if err != nil {
			return nil, false, &billing.GatewayError{Op: op, Kind: billing.ErrUnavailable, Message: "an event can't be read", Err: err}
		}
		events = append(events, event)
	}
	slices.Reverse(events)
	return events, page.HasMore, nil
}

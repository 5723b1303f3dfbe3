package billingstripe

import (
	"context"
	"slices"
	"strconv"

	"github.com/stripe/stripe-go/v76"

	"github.com/kolekt/commerce/billing"
)

// remoteMeter is a meter at Stripe.
type remoteMeter struct {
	id, name, event, formula string
	active                   bool
}

func (g *Gateway) fetchMeters(ctx context.Context, root node) ([]remoteMeter, error) {
	params := &stripe.BillingMeterListParams{}
	list, err := g.all(ctx, root, "list meters", "", "/v1/billing/meters", params, &params.ListParams)
	if err != nil {
		return nil, err
	}
	var meters []remoteMeter
	for _, n := range list {
		meters = append(meters, remoteMeter{
			id: n.at("id").text(), name: n.at("display_name").text(), event: n.at("event_name").text(),
			formula: n.at("default_aggregation", "formula").text(), active: n.at("status").text() == "active",
		})
	}
	return meters, nil
}

// meterOf finds the meter of an event name: the active one, or else the newest.
func (r *remoteCatalog) meterOf(event string) *remoteMeter {
	i := slices.IndexFunc(r.meters, func(m remoteMeter) bool { return m.event == event && m.active })
	if i < 0 {
		i = slices.IndexFunc(r.meters, func(m remoteMeter) bool { return m.event == event })
	}
	if i < 0 {
		return nil
	}
	return &r.meters[i]
}

// planMeters compares the meters. What a meter counts never changes.
func (p *planner) planMeters(catalog *billing.Catalog) error {
	if p.usageRecords {
		return nil
	}
	events := map[string]bool{}
	for _, want := range catalog.Meters() {
		events[want.Event] = true
		have := p.remote.meterOf(want.Event)
		if have == nil {
			p.meters = append(p.meters, Step{
				Action: Create, Object: "meter", Name: want.Event, method: "POST", path: "/v1/billing/meters",
				Changes: changes(FieldChange{"name", "", want.Name}, FieldChange{"aggregate", "", string(want.Aggregate)}),
				params: &stripe.BillingMeterParams{
					DisplayName: stripe.String(want.Name), EventName: stripe.String(want.Event),
					DefaultAggregation: &stripe.BillingMeterDefaultAggregationParams{Formula: stripe.String(string(want.Aggregate))},
				},
			})
			continue
		}
		p.remote.ids["meter "+want.Event] = have.id
		if have.formula != string(want.Aggregate) {
			return &ConflictError{Object: "meter", Name: want.Event, ID: have.id, Changes: []FieldChange{{"aggregate", have.formula, string(want.Aggregate)}}}
		}
		path := "/v1/billing/meters/" + have.id
		if !have.active {
			p.meters = append(p.meters, Step{
				Action: Update, Object: "meter", Name: want.Event, ID: have.id, method: "POST", path: path + "/reactivate",
				Changes: []FieldChange{{"active", "false", "true"}},
			})
		}
		if have.name != want.Name {
			p.meters = append(p.meters, Step{
				Action: Update, Object: "meter", Name: want.Event, ID: have.id, method: "POST", path: path,
				Changes: []FieldChange{{"name", have.name, want.Name}}, params: &stripe.BillingMeterParams{DisplayName: stripe.String(want.Name)},
			})
		}
	}
	// Meters carry no metadata: those that prices of this catalogue use are its
	// own.
	for _, have := range p.remote.meters {
		used := slices.ContainsFunc(p.remote.prices, func(r remotePrice) bool {
			return r.MeterID == have.id && r.Metadata[billing.MetadataMeter] != "" && r.Metadata[billing.MetadataCatalog] == catalog.Name()
		})
		if used && have.active && !events[have.event] {
			p.archived = append(p.archived, Step{
				Action: Archive, Object: "meter", Name: have.event, ID: have.id, method: "POST", path: "/v1/billing/meters/" + have.id + "/deactivate",
				Changes: []FieldChange{{"active", strconv.FormatBool(true), strconv.FormatBool(false)}},
			})
		}
	}
	return nil
}

package billingstripe

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/big"
	"regexp"
	"strconv"
	"strings"

	"github.com/stripe/stripe-go/v76"

	"github.com/kolekt/commerce/billing"
)

// offer is what has a product at Stripe: a plan, its seats above the included
// ones, one of its meters, or an add-on.
type offer struct {
	key               string // of its metadata: the same for the product and its prices
	id                string // of the product, when it is made
	name, description string
	metadata          map[string]string // of the product
	prices            []offeredPrice
	older             map[int64]bool // versions that still have subscribers
	version           func(billing.Price) int64
}

type offeredPrice struct {
	lookupKey string
	currency  string
	interval  billing.Interval
	count     int64
	amount    string // as amountOf writes that of a price
	unit      string // in Stripe's unit; empty with tiers
	tiers     []offeredTier
	meter     *billing.Meter // nil: licensed
	metadata  map[string]string
	keep      []string // prices that stay beside it
	// want is the version of the plan, for prices that have one.
	want      int64
	versioned bool
}

type offeredTier struct{ upTo, unit string }

// keyOf names what a product or a price is for, by its metadata.
func keyOf(metadata map[string]string) string {
	switch plan := metadata[billing.MetadataPlan]; {
	case metadata[billing.MetadataAddon] != "":
		return "addon " + metadata[billing.MetadataAddon]
	case plan == "":
		return ""
	case metadata[billing.MetadataMeter] != "":
		return plan + " meter " + metadata[billing.MetadataMeter]
	case metadata[billing.MetadataPart] != "":
		return plan + " " + metadata[billing.MetadataPart]
	default:
		return plan
	}
}

// offers lists what a catalogue sells.
func offers(catalog *billing.Catalog) ([]offer, error) {
	var all []offer
	add := func(o offer) *offer {
		if catalog.Name() != "" {
			o.metadata[billing.MetadataCatalog] = catalog.Name()
		}
		o.key = keyOf(o.metadata)
		o.id = productID(catalog.Name(), o.key)
		all = append(all, o)
		return &all[len(all)-1]
	}
	meters := map[string]*billing.Meter{}
	for _, m := range catalog.Meters() {
		meters[m.ID] = &m
	}
	for _, plan := range catalog.Plans() {
		if len(plan.Prices) == 0 {
			continue
		}
		o := add(offer{name: plan.Name, description: plan.Description, metadata: map[string]string{billing.MetadataPlan: plan.ID}})
		if err := o.addPrices(plan.Prices); err != nil {
			return nil, err
		}
		o.version = func(price billing.Price) int64 { return catalog.VersionOf(plan.ID, price) }
		o.older = map[int64]bool{}
		for _, v := range plan.Versions {
			o.older[v.Version] = true
		}
		for i := range o.prices {
			p := &o.prices[i]
			p.want, p.versioned = plan.Version, true
			if plan.Version > 1 {
				p.metadata[billing.MetadataVersion] = strconv.FormatInt(plan.Version, 10)
			}
			for _, v := range plan.Versions {
				for _, old := range v.Prices {
					p.keep = append(p.keep, old.PriceIDs...)
				}
			}
		}
		if plan.Seats != nil && len(plan.Seats.Prices) > 0 {
			o := add(offer{name: plan.Name + ": seat", metadata: map[string]string{billing.MetadataPlan: plan.ID, billing.MetadataPart: "seat"}})
			if err := o.addPrices(plan.Seats.Prices); err != nil {
				return nil, err
			}
		}
		at := map[string]int{}
		for _, m := range plan.Metered {
			i, ok := at[m.Meter]
			if !ok {
				add(offer{name: plan.Name + ": " + meters[m.Meter].Name, metadata: map[string]string{billing.MetadataPlan: plan.ID, billing.MetadataMeter: m.Meter}})
				i = len(all) - 1
				at[m.Meter] = i
			}
			if err := all[i].addMetered(m, meters[m.Meter]); err != nil {
				return nil, err
			}
		}
	}
	for _, a := range catalog.Addons() {
		o := add(offer{name: a.Name, description: a.Description, metadata: map[string]string{billing.MetadataAddon: a.ID}})
		if err := o.addPrices(a.Prices); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// marks are the metadata of a price, which may get more.
func (o *offer) marks() map[string]string {
	marks := map[string]string{}
	for k, v := range o.metadata {
		marks[k] = v
	}
	return marks
}

func (o *offer) addPrices(prices []billing.PlanPrice) error {
	for _, p := range prices {
		amount, err := toStripe(p.Amount)
		if err != nil {
			return fmt.Errorf("%s, price %q: %w", o.key, p.LookupKey, err)
		}
		o.prices = append(o.prices, offeredPrice{
			lookupKey: p.LookupKey, currency: p.Amount.Currency, interval: p.Interval, count: p.IntervalCount, amount: p.Amount.String(),
			unit: strconv.FormatInt(amount, 10), metadata: o.marks(), keep: p.PriceIDs,
		})
	}
	return nil
}

func (o *offer) addMetered(m billing.MeteredPrice, meter *billing.Meter) error {
	p := offeredPrice{
		lookupKey: m.LookupKey, currency: m.Currency, interval: m.Interval, count: m.IntervalCount, meter: meter, metadata: o.marks(), keep: m.PriceIDs,
	}
	var err error
	if len(m.Tiers) == 0 {
		if p.unit, err = unitToStripe(m.UnitAmount, m.Currency); err != nil {
			return fmt.Errorf("%s, price %q: %w", o.key, m.LookupKey, err)
		}
		p.amount = unitText(p.unit, m.Currency)
	}
	for _, t := range m.Tiers {
		tier := offeredTier{upTo: "inf"}
		if t.UpTo > 0 {
			tier.upTo = strconv.FormatInt(t.UpTo, 10)
		}
		if tier.unit, err = unitToStripe(t.UnitAmount, m.Currency); err != nil {
			return fmt.Errorf("%s, price %q: %w", o.key, m.LookupKey, err)
		}
		p.tiers = append(p.tiers, tier)
	}
	if len(p.tiers) > 0 {
		p.amount = tiersText(p.tiers)
	}
	o.prices = append(o.prices, p)
	return nil
}

// unitToStripe returns a decimal of minor units as Stripe's API counts it.
func unitToStripe(unit, currency string) (string, error) {
	rat, ok := new(big.Rat).SetString(unit)
	if !ok {
		return "", fmt.Errorf("%w: unit amount %q", billing.ErrMoney, unit)
	}
	rat.Quo(rat, scale(currency))
	text := plain(rat)
	if _, decimals, _ := strings.Cut(text, "."); len(decimals) > 12 {
		return "", fmt.Errorf("%w: Stripe takes up to 12 decimals, not %s", billing.ErrMoney, text)
	}
	return text, nil
}

// unitText writes a unit's price: an amount, if it is whole.
func unitText(unit, currency string) string {
	rat, ok := new(big.Rat).SetString(unit)
	if ok {
		if rat.Mul(rat, scale(currency)); rat.IsInt() && rat.Num().IsInt64() {
			return billing.Money{Amount: rat.Num().Int64(), Currency: currency}.String()
		}
		unit = plain(rat)
	}
	return unit + " minor units"
}

func tiersText(tiers []offeredTier) string {
	parts := make([]string, len(tiers))
	for i, t := range tiers {
		parts[i] = t.unit + " to " + t.upTo
	}
	return "tiers: " + strings.Join(parts, ", ")
}

// params are those of the price at Stripe, but for its meter.
func (p *offeredPrice) params(product string, usageRecords bool) *stripe.PriceParams {
	params := &stripe.PriceParams{
		Product: &product, Currency: stripe.String(strings.ToLower(p.currency)), LookupKey: stripe.String(p.lookupKey), Metadata: p.metadata,
		Recurring: &stripe.PriceRecurringParams{Interval: stripe.String(string(p.interval)), IntervalCount: stripe.Int64(p.count)},
	}
	if p.meter != nil {
		params.Recurring.UsageType = stripe.String("metered")
		if usageRecords {
			params.Recurring.AggregateUsage = stripe.String("sum") // a count is a sum of ones: see ReportUsage
		}
	}
	switch n, err := strconv.ParseInt(p.unit, 10, 64); {
	case len(p.tiers) > 0:
		params.BillingScheme, params.TiersMode = stripe.String("tiered"), stripe.String("graduated")
		for i, t := range p.tiers {
			params.AddExtra(fmt.Sprintf("tiers[%d][up_to]", i), t.upTo)
			params.AddExtra(fmt.Sprintf("tiers[%d][unit_amount_decimal]", i), t.unit)
		}
	case err == nil:
		params.UnitAmount = &n
	default:
		params.AddExtra("unit_amount_decimal", p.unit) // stripe-go's is a float
	}
	return params
}

var plainID = regexp.MustCompile(`^[0-9A-Za-z_-]{1,100}$`)

// productID is the ID of the product that is made for an offer: always the
// same, so that it is made once.
func productID(catalog, key string) string {
	text := strings.Trim(catalog+"_"+strings.ReplaceAll(key, " ", "_"), "_")
	if catalog == "" && !strings.Contains(key, " ") {
		text = key
	}
	if plainID.MatchString(text) {
		return "commerce_" + text
	}
	sum := sha256.Sum256([]byte(catalog + "\x00" + key))
	if catalog == "" {
		sum = sha256.Sum256([]byte(key))
	}
	return "commerce_" + hex.EncodeToString(sum[:8])
}

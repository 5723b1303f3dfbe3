package billing

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// The catalogue's file; doc.go shows one.
type catalogFile struct {
	Name     string            `yaml:"name"`
	Features map[string]string `yaml:"features"`
	Meters   []struct {
		ID        string `yaml:"id"`
		Name      string `yaml:"name"`
		Event     string `yaml:"event"`
		Aggregate string `yaml:"aggregate"`
	} `yaml:"meters"`
	Plans   []planInFile   `yaml:"plans"`
	Addons  []addonInFile  `yaml:"addons"`
	Coupons []couponInFile `yaml:"coupons"`
	Changes []struct {
		From      string `yaml:"from"`
		To        string `yaml:"to"`
		Kind      string `yaml:"kind"`
		Trial     *bool  `yaml:"trial"`
		When      string `yaml:"when"`
		Proration string `yaml:"proration"`
		Reason    string `yaml:"reason"`
	} `yaml:"changes"`
}

type planInFile struct {
	ID          string            `yaml:"id"`
	Name        string            `yaml:"name"`
	Description string            `yaml:"description"`
	Version     int64             `yaml:"version"`
	Features    []string          `yaml:"features"`
	Limits      map[string]string `yaml:"limits"`
	TrialDays   int64             `yaml:"trial_days"`
	Seats       *struct {
		Minimum  int64         `yaml:"minimum"`
		Maximum  int64         `yaml:"maximum"`
		Included int64         `yaml:"included"`
		Prices   []priceInFile `yaml:"prices"`
	} `yaml:"seats"`
	Prices  []priceInFile `yaml:"prices"`
	Metered []struct {
		Meter     string   `yaml:"meter"`
		Amount    string   `yaml:"amount"`
		Every     string   `yaml:"every"`
		LookupKey string   `yaml:"lookup_key"`
		PriceIDs  []string `yaml:"price_ids"`
		Tiers     []struct {
			UpTo   int64  `yaml:"up_to"`
			Amount string `yaml:"amount"`
		} `yaml:"tiers"`
	} `yaml:"metered"`
	Versions []struct {
		Version  int64             `yaml:"version"`
		Features []string          `yaml:"features"`
		Limits   map[string]string `yaml:"limits"`
		Prices   []priceInFile     `yaml:"prices"`
	} `yaml:"versions"`
}

type priceInFile struct {
	Amount    string   `yaml:"amount"`
	Every     string   `yaml:"every"`
	LookupKey string   `yaml:"lookup_key"`
	PriceIDs  []string `yaml:"price_ids"`
}

type addonInFile struct {
	ID          string            `yaml:"id"`
	Name        string            `yaml:"name"`
	Description string            `yaml:"description"`
	Plans       []string          `yaml:"plans"`
	Features    []string          `yaml:"features"`
	Limits      map[string]string `yaml:"limits"`
	Maximum     int64             `yaml:"maximum"`
	Prices      []priceInFile     `yaml:"prices"`
}

type couponInFile struct {
	ID             string   `yaml:"id"`
	Name           string   `yaml:"name"`
	Off            string   `yaml:"off"` // "20%" or "5.00 USD"
	Duration       string   `yaml:"duration"`
	MaxRedemptions int64    `yaml:"max_redemptions"`
	RedeemBy       string   `yaml:"redeem_by"`
	Plans          []string `yaml:"plans"`
}

// LoadCatalog reads a catalogue from a YAML file, strictly: what NewCatalog
// refuses, an unknown or repeated field, and an amount or a limit that can't
// be read are each a *CatalogError with file and line.
func LoadCatalog(fsys fs.FS, name string) (*Catalog, error) {
	data, err := fs.ReadFile(fsys, name)
	if err != nil {
		return nil, fmt.Errorf("billing: catalogue: %w", err)
	}
	return ParseCatalog(name, data)
}

// ParseCatalog is LoadCatalog on bytes; the name is for errors.
func ParseCatalog(name string, data []byte) (*Catalog, error) {
	var file catalogFile
	if err := yaml.UnmarshalWithOptions(data, &file, yaml.DisallowUnknownField()); err != nil {
		return nil, yamlError(name, err)
	}
	tree, err := parser.ParseBytes(data, 0)
	if err != nil {
		return nil, yamlError(name, err)
	}
	spec, errs := file.spec()
	var c *Catalog
	if len(errs) == 0 {
		c, err = NewCatalog(spec)
		if joined, ok := err.(interface{ Unwrap() []error }); ok { //nolint:errorlint // NewCatalog joins
			errs = joined.Unwrap()
		}
	}
	if len(errs) == 0 {
		return c, nil
	}
	for _, err := range errs {
		var problem *CatalogError
		if errors.As(err, &problem) {
			problem.File, problem.Line = name, lineOf(tree, inFile.Replace(problem.Path))
		}
	}
	return nil, errors.Join(errs...)
}

// fileReader reads the amounts, intervals and limits of the file, and gathers
// what it can't read.
type fileReader struct{ errs []error }

func (r *fileReader) bad(path string, err error) {
	if err != nil {
		r.errs = append(r.errs, &CatalogError{Path: path, Problem: strings.TrimPrefix(err.Error(), ErrInvalid.Error()+": ")})
	}
}

func (f *catalogFile) spec() (CatalogSpec, []error) {
	r := &fileReader{}
	spec := CatalogSpec{Name: f.Name, Features: f.Features}
	for _, m := range f.Meters {
		spec.Meters = append(spec.Meters, Meter{ID: m.ID, Name: m.Name, Event: m.Event, Aggregate: Aggregate(m.Aggregate)})
	}
	for i := range f.Plans {
		spec.Plans = append(spec.Plans, r.plan(fmt.Sprintf("plans[%d]", i), &f.Plans[i]))
	}
	for i, a := range f.Addons {
		at := fmt.Sprintf("addons[%d]", i)
		spec.Addons = append(spec.Addons, Addon{
			ID: a.ID, Name: a.Name, Description: a.Description, Plans: a.Plans, Features: a.Features, Maximum: a.Maximum,
			Limits: r.limits(at, a.Limits), Prices: r.prices(at, a.Prices),
		})
	}
	for i, k := range f.Coupons {
		spec.Coupons = append(spec.Coupons, r.coupon(fmt.Sprintf("coupons[%d]", i), k))
	}
	for _, c := range f.Changes {
		spec.Changes = append(spec.Changes, ChangeRule{
			From: c.From, To: c.To, Kind: ChangeKind(c.Kind), Trial: c.Trial, When: When(c.When), Proration: c.Proration, Reason: c.Reason,
		})
	}
	return spec, r.errs
}

func (r *fileReader) plan(at string, p *planInFile) Plan {
	plan := Plan{
		ID: p.ID, Name: p.Name, Description: p.Description, Version: p.Version, Features: p.Features, TrialDays: p.TrialDays,
		Limits: r.limits(at, p.Limits), Prices: r.prices(at, p.Prices),
	}
	if plan.Limits == nil {
		plan.Limits = map[string]Limit{}
	}
	if p.Seats != nil {
		plan.Seats = &Seats{Minimum: p.Seats.Minimum, Maximum: p.Seats.Maximum, Included: p.Seats.Included, Prices: r.prices(at+".seats", p.Seats.Prices)}
	}
	for j, m := range p.Metered {
		at := fmt.Sprintf("%s.metered[%d]", at, j)
		price := MeteredPrice{Meter: m.Meter, LookupKey: m.LookupKey, PriceIDs: m.PriceIDs}
		price.IntervalCount, price.Interval = r.every(at, m.Every)
		if m.Amount != "" || len(m.Tiers) == 0 {
			price.UnitAmount, price.Currency = r.unit(at, m.Amount)
		}
		for k, t := range m.Tiers {
			at := fmt.Sprintf("%s.tiers[%d]", at, k)
			unit, currency := r.unit(at, t.Amount)
			if price.Currency == "" {
				price.Currency = currency
			} else if currency != "" && currency != price.Currency {
				r.bad(at+".amount", fmt.Errorf("%w: the tiers of a price have one currency, not %s and %s", ErrInvalid, price.Currency, currency))
			}
			price.Tiers = append(price.Tiers, Tier{UpTo: t.UpTo, UnitAmount: unit})
		}
		plan.Metered = append(plan.Metered, price)
	}
	for j, v := range p.Versions {
		at := fmt.Sprintf("%s.versions[%d]", at, j)
		plan.Versions = append(plan.Versions, PlanVersion{Version: v.Version, Features: v.Features, Limits: r.limits(at, v.Limits), Prices: r.prices(at, v.Prices)})
	}
	return plan
}

func (r *fileReader) limits(at string, texts map[string]string) map[string]Limit {
	var limits map[string]Limit
	for _, name := range slices.Sorted(maps.Keys(texts)) {
		l, err := ParseLimit(texts[name])
		r.bad(at+".limits."+name, err)
		if limits == nil {
			limits = map[string]Limit{}
		}
		limits[name] = l
	}
	return limits
}

func (r *fileReader) prices(at string, prices []priceInFile) []PlanPrice {
	var read []PlanPrice
	for j, p := range prices {
		at := fmt.Sprintf("%s.prices[%d]", at, j)
		price := PlanPrice{LookupKey: p.LookupKey, PriceIDs: p.PriceIDs}
		var err error
		price.Amount, err = parseAmount(p.Amount)
		r.bad(at+".amount", err)
		price.IntervalCount, price.Interval = r.every(at, p.Every)
		read = append(read, price)
	}
	return read
}

func (r *fileReader) every(at, text string) (int64, Interval) {
	count, interval, err := parseEvery(text)
	r.bad(at+".every", err)
	return count, interval
}

func (r *fileReader) unit(at, text string) (amount, currency string) {
	amount, currency, err := parseUnit(text)
	r.bad(at+".amount", err)
	return amount, currency
}

func (r *fileReader) coupon(at string, k couponInFile) Coupon {
	coupon := Coupon{ID: k.ID, Name: k.Name, MaxRedemptions: k.MaxRedemptions, Plans: k.Plans}
	if percent, ok := strings.CutSuffix(k.Off, "%"); ok {
		coupon.PercentOff = percent
	} else {
		var err error
		coupon.AmountOff, err = parseAmount(k.Off)
		if err != nil {
			err = fmt.Errorf(`%w: off %q: want "20%%" or "5.00 USD"`, ErrInvalid, k.Off)
		}
		r.bad(at+".off", err)
	}
	switch k.Duration {
	case "", string(Once), string(Forever):
		coupon.Duration = Duration(k.Duration)
	default:
		count, unit, err := parseEvery(k.Duration)
		if err != nil || unit != Month {
			r.bad(at+".duration", fmt.Errorf(`%w: duration %q: want "once", "forever" or "3 months"`, ErrInvalid, k.Duration))
		}
		coupon.Duration, coupon.Months = Repeating, count
	}
	if k.RedeemBy != "" {
		t, err := time.Parse(time.DateOnly, k.RedeemBy)
		if err != nil {
			r.bad(at+".redeem_by", fmt.Errorf("%w: redeem_by %q: want a day, such as 2027-01-31", ErrInvalid, k.RedeemBy))
		}
		coupon.RedeemBy = t
	}
	return coupon
}

// parseAmount reads "9.99 USD": exactly the decimals of the currency, or none.
func parseAmount(text string) (Money, error) {
	wrong := func(why string) (Money, error) {
		return Money{}, fmt.Errorf(`%w: amount %q: %s (want "9.99 USD")`, ErrInvalid, text, why)
	}
	number, currency, ok := strings.Cut(text, " ")
	m := Money{Currency: currency}
	if !ok {
		return wrong("no currency")
	}
	if err := m.Validate(); err != nil {
		return wrong("no ISO 4217 currency code in upper case")
	}
	whole, decimals, point := strings.Cut(number, ".")
	switch {
	case !point:
		decimals = strings.Repeat("0", m.Exponent())
	case len(decimals) != m.Exponent() || decimals == "":
		return wrong(fmt.Sprintf("%s has %d decimals", currency, m.Exponent()))
	}
	n, err := strconv.ParseUint(whole+decimals, 10, 63)
	if err != nil || whole == "" {
		return wrong("no number")
	}
	m.Amount = int64(n)
	return m, nil
}

// parseUnit reads "0.002 USD": any number of decimals, as minor units.
func parseUnit(text string) (amount, currency string, err error) {
	wrong := func(why string) (string, string, error) {
		return "", "", fmt.Errorf(`%w: amount %q: %s (want "0.002 USD")`, ErrInvalid, text, why)
	}
	number, currency, ok := strings.Cut(text, " ")
	m := Money{Currency: currency}
	if !ok {
		return wrong("no currency")
	}
	if err := m.Validate(); err != nil {
		return wrong("no ISO 4217 currency code in upper case")
	}
	whole, decimals, point := strings.Cut(number, ".")
	if whole == "" || point && decimals == "" || strings.Trim(whole+decimals, "0123456789") != "" {
		return wrong("no number")
	}
	n := min(m.Exponent(), len(decimals))
	whole += decimals[:n] + strings.Repeat("0", m.Exponent()-n)
	if whole = strings.TrimLeft(whole, "0"); whole == "" {
		whole = "0"
	}
	if decimals = strings.TrimRight(decimals[n:], "0"); decimals != "" {
		whole += "." + decimals
	}
	if !decimal.MatchString(whole) {
		return wrong("too many digits")
	}
	return whole, currency, nil
}

// parseEvery reads "month" or "3 months".
func parseEvery(text string) (int64, Interval, error) {
	count, unit := int64(1), text
	if number, rest, ok := strings.Cut(text, " "); ok {
		n, err := strconv.ParseInt(number, 10, 64)
		if err != nil || n < 1 {
			n = -1
		}
		count, unit = n, strings.TrimSuffix(rest, "s")
	}
	if interval := Interval(unit); interval.rank() > 0 && count > 0 {
		return count, interval, nil
	}
	return 0, "", fmt.Errorf(`%w: every %q: want "day", "week", "month", "year" or "3 months"`, ErrInvalid, text)
}

// inFile names fields as the file does.
var inFile = strings.NewReplacer(".amount_off", ".off", ".percent_off", ".off", ".interval_count", ".every", ".interval", ".every")

// lineOf returns the line of a path, or of the nearest part of it that the
// file has.
func lineOf(tree *ast.File, path string) int {
	for path != "" {
		p, err := yaml.PathString("$." + path)
		if err == nil {
			if node, err := p.FilterFile(tree); err == nil && node != nil {
				return firstLine(node)
			}
		}
		cut := max(strings.LastIndexByte(path, '.'), strings.LastIndexByte(path, '['))
		path = path[:max(cut, 0)]
	}
	return 1
}

// firstLine is that of a mapping's first key: the token of a mapping is the
// colon of its first entry, that of a sequence its first dash.
func firstLine(node ast.Node) int {
	return max(node.GetToken().Position.Line, 1)
}

// yamlError gives a syntax error, an unknown field or a wrong type its place.
func yamlError(name string, err error) error {
	var place yaml.Error
	if !errors.As(err, &place) {
		return &CatalogError{File: name, Line: 1, Path: "file", Problem: err.Error()}
	}
	line := 1
	if t := place.GetToken(); t != nil {
		line = t.Position.Line
	}
	return &CatalogError{File: name, Line: line, Problem: place.GetMessage()}
}

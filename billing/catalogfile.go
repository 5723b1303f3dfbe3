package billing

import (
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// The catalogue's file; doc.go shows one.
type catalogFile struct {
	Features map[string]string `yaml:"features"`
	Plans    []struct {
		ID          string            `yaml:"id"`
		Name        string            `yaml:"name"`
		Description string            `yaml:"description"`
		Features    []string          `yaml:"features"`
		Limits      map[string]string `yaml:"limits"`
		TrialDays   int64             `yaml:"trial_days"`
		Seats       *struct {
			Minimum int64 `yaml:"minimum"`
			Maximum int64 `yaml:"maximum"`
		} `yaml:"seats"`
		Prices []struct {
			Amount    string   `yaml:"amount"`
			Every     string   `yaml:"every"`
			LookupKey string   `yaml:"lookup_key"`
			PriceIDs  []string `yaml:"price_ids"`
		} `yaml:"prices"`
	} `yaml:"plans"`
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
			problem.File, problem.Line = name, lineOf(tree, problem.Path)
		}
	}
	return nil, errors.Join(errs...)
}

// spec reads the amounts, intervals and limits of the file.
func (f *catalogFile) spec() (CatalogSpec, []error) {
	var errs []error
	bad := func(path string, err error) {
		errs = append(errs, &CatalogError{Path: path, Problem: strings.TrimPrefix(err.Error(), ErrInvalid.Error()+": ")})
	}
	spec := CatalogSpec{Features: f.Features}
	for i, p := range f.Plans {
		plan := Plan{ID: p.ID, Name: p.Name, Description: p.Description, Features: p.Features, TrialDays: p.TrialDays, Limits: map[string]Limit{}}
		if p.Seats != nil {
			plan.Seats = &Seats{Minimum: p.Seats.Minimum, Maximum: p.Seats.Maximum}
		}
		for name, text := range p.Limits {
			l, err := ParseLimit(text)
			if err != nil {
				bad(fmt.Sprintf("plans[%d].limits.%s", i, name), err)
			}
			plan.Limits[name] = l
		}
		for j, pr := range p.Prices {
			at := fmt.Sprintf("plans[%d].prices[%d]", i, j)
			price := PlanPrice{LookupKey: pr.LookupKey, PriceIDs: pr.PriceIDs}
			var err error
			if price.Amount, err = parseAmount(pr.Amount); err != nil {
				bad(at+".amount", err)
			}
			if price.IntervalCount, price.Interval, err = parseEvery(pr.Every); err != nil {
				bad(at+".every", err)
			}
			plan.Prices = append(plan.Prices, price)
		}
		spec.Plans = append(spec.Plans, plan)
	}
	return spec, errs
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

package simcheck

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/stripe/stripe-mock/embedded"
	"github.com/stripe/stripe-mock/spec"
)

// Description is Stripe's OpenAPI description.
type Description struct{ spec spec.Spec }

// Load reads the description that stripe-mock embeds: API version 2024-04-10.
func Load() (*Description, error) {
	d := &Description{}
	if err := json.Unmarshal(embedded.OpenAPISpec, &d.spec); err != nil {
		return nil, err
	}
	return d, nil
}

// Version is the API version that is described.
func (d *Description) Version() string { return d.spec.Info.Version }

// operation finds an endpoint by its method and a path in which identifiers
// are {id} or anything else in braces.
func (d *Description) operation(method, path string) (*spec.Operation, error) {
	for p, verbs := range d.spec.Paths {
		if samePath(string(p), path) {
			if op := verbs[spec.HTTPVerb(strings.ToLower(method))]; op != nil {
				return op, nil
			}
		}
	}
	return nil, fmt.Errorf("the description has no %s %s", method, path)
}

func samePath(a, b string) bool {
	x, y := strings.Split(a, "/"), strings.Split(b, "/")
	if len(x) != len(y) {
		return false
	}
	for i := range x {
		wild := strings.HasPrefix(x[i], "{") && strings.HasPrefix(y[i], "{")
		if !wild && x[i] != y[i] {
			return false
		}
	}
	return true
}

// Response checks a successful response of an endpoint and returns what is
// wrong with it.
func (d *Description) Response(method, path string, body []byte) []string {
	op, err := d.operation(method, path)
	if err != nil {
		return []string{err.Error()}
	}
	var v any
	if err := json.Unmarshal(body, &v); err != nil {
		return []string{err.Error()}
	}
	c := &checker{d: d}
	c.check(op.Responses["200"].Content["application/json"].Schema, v, "")
	return c.faults
}

// Object checks an object by the name that its "object" field has.
func (d *Description) Object(v map[string]any) []string {
	name, _ := v["object"].(string)
	schema := d.spec.Components.Schemas[name]
	if schema == nil {
		return []string{"the description has no object " + name}
	}
	c := &checker{d: d}
	c.check(schema, v, "")
	return c.faults
}

// Error checks the body of a failed response.
func (d *Description) Error(body []byte) []string {
	var v any
	if err := json.Unmarshal(body, &v); err != nil {
		return []string{err.Error()}
	}
	c := &checker{d: d}
	c.check(d.spec.Components.Schemas["error"], v, "")
	return c.faults
}

// Parameter reports whether an endpoint has a parameter, written as on the
// wire with empty brackets for elements of arrays.
func (d *Description) Parameter(method, path, name string) bool {
	op, err := d.operation(method, path)
	if err != nil {
		return false
	}
	parts := strings.Split(strings.ReplaceAll(name, "]", ""), "[")
	if method == "GET" {
		for _, p := range op.Parameters {
			if p.Name == parts[0] {
				return d.has(p.Schema, parts[1:])
			}
		}
		return false
	}
	if op.RequestBody != nil {
		for _, content := range op.RequestBody.Content {
			if d.has(content.Schema, parts) {
				return true
			}
		}
	}
	return false
}

func (d *Description) has(s *spec.Schema, parts []string) bool {
	if s == nil {
		return false
	}
	if len(parts) == 0 {
		return true
	}
	if s.Ref != "" {
		return d.has(d.resolve(s), parts)
	}
	for _, branch := range s.AnyOf {
		if d.has(branch, parts) {
			return true
		}
	}
	if parts[0] == "" {
		return d.has(s.Items, parts[1:])
	}
	return d.has(s.Properties[parts[0]], parts[1:])
}

func (d *Description) resolve(s *spec.Schema) *spec.Schema {
	return d.spec.Components.Schemas[strings.TrimPrefix(s.Ref, "#/components/schemas/")]
}

// checker walks a value along its schema.
type checker struct {
	d      *Description
	faults []string
}

func (c *checker) fault(path, format string, args ...any) {
	c.faults = append(c.faults, strings.TrimPrefix(path, ".")+": "+fmt.Sprintf(format, args...))
}

// undescribed are fields that Stripe sends and its description leaves out.
var undescribed = []string{
	"plan", "type", "quantity", "dispute", "order", "source", "destination", "invoice_settings", "default_tax_rates", "amount_tax", "trial_period_days",
}

func (c *checker) check(s *spec.Schema, v any, path string) {
	if s == nil {
		c.fault(path, "the description has no schema here")
		return
	}
	if s.Ref != "" {
		c.check(c.d.resolve(s), v, path)
		return
	}
	if v == nil {
		if !s.Nullable {
			c.fault(path, "is null and must not be")
		}
		return
	}
	if len(s.AnyOf) > 0 {
		c.anyOf(s, v, path)
		return
	}
	switch v := v.(type) {
	case map[string]any:
		if s.Type != spec.TypeObject && s.Type != "" {
			c.fault(path, "is an object and must be a %s", s.Type)
			return
		}
		c.object(s, v, path)
	case []any:
		if s.Type != spec.TypeArray {
			c.fault(path, "is an array and must be a %s", s.Type)
			return
		}
		for i, x := range v {
			c.check(s.Items, x, fmt.Sprintf("%s.%d", path, i))
		}
	case string:
		if s.Type != spec.TypeString {
			c.fault(path, "is the text %q and must be a %s", v, s.Type)
			return
		}
		if len(s.Enum) > 0 && !slices.Contains(s.Enum, any(v)) {
			c.fault(path, "is %q, which is none of %v", v, s.Enum)
		}
		if s.MaxLength > 0 && len(v) > s.MaxLength {
			c.fault(path, "is longer than %d", s.MaxLength)
		}
	case float64:
		if s.Type != spec.TypeInteger && s.Type != spec.TypeNumber {
			c.fault(path, "is the number %v and must be a %s", v, s.Type)
		} else if s.Type == spec.TypeInteger && v != float64(int64(v)) {
			c.fault(path, "is %v and must be an integer", v)
		}
	case bool:
		if s.Type != spec.TypeBoolean {
			c.fault(path, "is %v and must be a %s", v, s.Type)
		} else if len(s.Enum) > 0 && !slices.Contains(s.Enum, any(v)) {
			c.fault(path, "is %v, which is none of %v", v, s.Enum)
		}
	}
}

// anyOf wants one branch without a fault; it reports those of the branch that
// comes closest.
func (c *checker) anyOf(s *spec.Schema, v any, path string) {
	var best []string
	for i, branch := range s.AnyOf {
		try := &checker{d: c.d}
		try.check(branch, v, path)
		if len(try.faults) == 0 {
			return
		}
		if i == 0 || len(try.faults) < len(best) {
			best = try.faults
		}
	}
	c.faults = append(c.faults, best...)
}

func (c *checker) object(s *spec.Schema, v map[string]any, path string) {
	for _, name := range s.Required {
		if _, ok := v[name]; !ok {
			c.fault(path+"."+name, "is required and missing")
		}
	}
	for _, name := range slices.Sorted(maps.Keys(v)) {
		schema, described := s.Properties[name]
		switch {
		case described:
			c.check(schema, v[name], path+"."+name)
		case s.AdditionalProperties != nil:
			c.check(s.AdditionalProperties, v[name], path+"."+name)
		case len(s.Properties) > 0 && !slices.Contains(undescribed, name):
			c.fault(path+"."+name, "is in no description")
		}
	}
}

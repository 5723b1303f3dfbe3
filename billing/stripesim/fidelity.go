package stripesim

import "strings"

// Fidelity says what the simulator does of one endpoint of Stripe's API.
type Fidelity struct {
	Method     string
	Path       string   // with {id} for identifiers
	Parameters []string // accepted, as they stand on the wire: "items[][price]"; anything else is 501
	Differs    string   // how it differs from Stripe; empty: not within what is simulated
}

// Coverage lists every endpoint that the simulator has, in the order of the
// package documentation's table. Any other endpoint is 501 with its name.
func Coverage() []Fidelity {
	var out []Fidelity
	for _, rt := range newRoutes() {
		f := Fidelity{Method: rt.method, Path: rt.pattern, Differs: rt.note}
		for _, spec := range rt.specs {
			name := spec.path[0]
			for _, part := range spec.path[1:] {
				name += "[" + strings.Trim(part, "[]") + "]"
			}
			f.Parameters = append(f.Parameters, name)
		}
		out = append(out, f)
	}
	return out
}

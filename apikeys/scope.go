package apikeys

import (
	"slices"
	"strings"
)

// A scope is what a key may do: an action, such as "read", or an action on a
// resource, such as "invoices:write" or "project/42:read".
//
//   - "write" implies "read" on the same resource (Config.Implies changes that);
//   - "invoices:*" is every action on invoices;
//   - "project:read" covers "project/42:read": a resource holds those beneath it;
//   - "*" is everything, except the reserved resource "apikeys", which manages
//     keys and is granted by name alone.

// reserved is the resource that no wildcard covers: a leaked key must not be
// able to make others unless somebody decided so.
const reserved = "apikeys"

// maxScopes bounds the scopes of one key.
const maxScopes = 64

// grant is a compiled scope.
type grant struct {
	resource string // "" for a bare action
	action   string // "*" for every action
	all      bool   // the scope "*"
	implied  []string
}

// scopeSet is the scopes of one key, ready to be asked. It is immutable.
type scopeSet []grant

// validScope says whether the text has the form of a scope.
func validScope(s string) bool {
	if s == "" || len(s) > 100 {
		return false
	}
	if s == "*" {
		return true
	}
	resource, action := splitScope(s)
	if strings.Contains(s, ":") && (resource == "" || !scopeChars(resource, "/")) {
		return false
	}
	return action == "*" && resource != "" || scopeChars(action, "")
}

func scopeChars(s, more string) bool {
	if s == "" || strings.HasPrefix(s, "/") || strings.HasSuffix(s, "/") || strings.Contains(s, "//") {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '_' && c != '-' && c != '.' && !strings.Contains(more, string(rune(c))) {
			return false
		}
	}
	return true
}

func splitScope(s string) (resource, action string) {
	if i := strings.LastIndexByte(s, ':'); i >= 0 {
		return s[:i], s[i+1:]
	}
	return "", s
}

// defaultImplies is the implication of actions that needs no configuration.
var defaultImplies = map[string][]string{"write": {"read"}}

// compileScopes makes a set of well-formed scopes; others grant nothing.
func compileScopes(scopes []string, implies map[string][]string) scopeSet {
	set := make(scopeSet, 0, len(scopes))
	for _, s := range scopes {
		if !validScope(s) {
			continue
		}
		if s == "*" {
			set = append(set, grant{all: true})
			continue
		}
		resource, action := splitScope(s)
		set = append(set, grant{resource: resource, action: action, implied: closure(action, implies)})
	}
	return set
}

// closure lists what an action implies, directly and by way of others.
func closure(action string, implies map[string][]string) []string {
	var out []string
	todo := slices.Clone(implies[action])
	for len(todo) > 0 {
		a := todo[0]
		todo = todo[1:]
		if a == action || slices.Contains(out, a) {
			continue
		}
		out = append(out, a)
		todo = append(todo, implies[a]...)
	}
	return out
}

// covers says whether the set allows all that the scope names. It allocates
// nothing.
func (set scopeSet) covers(scope string) bool {
	if !validScope(scope) {
		return false
	}
	return set.coversValid(splitScope(scope))
}

// coversValid is covers for a scope that is known to be well-formed.
func (set scopeSet) coversValid(resource, action string) bool {
	for i := range set {
		if set[i].covers(resource, action) {
			return true
		}
	}
	return false
}

func (g *grant) covers(resource, action string) bool {
	if g.all {
		return !within(resource, reserved)
	}
	if !within(resource, g.resource) {
		return false
	}
	return g.action == "*" || g.action == action || slices.Contains(g.implied, action)
}

// within says whether resource is outer or lies beneath it.
func within(resource, outer string) bool {
	if outer == "" || !strings.HasPrefix(resource, outer) {
		return resource == outer
	}
	return len(resource) == len(outer) || resource[len(outer)] == '/'
}

// normalScopes checks scopes that somebody wants to grant, sorts them and
// drops repetitions.
func normalScopes(scopes, known []string) ([]string, error) {
	if len(scopes) > maxScopes {
		return nil, &FieldError{"Scopes", "at most 64 for one key"}
	}
	out := slices.Clone(scopes)
	slices.Sort(out)
	out = slices.Compact(out)
	for _, s := range out {
		if !validScope(s) {
			return nil, &FieldError{"Scopes", "want an action or resource:action, such as \"read\" or \"invoices:write\""}
		}
		if len(known) > 0 && !slices.Contains(known, s) {
			return nil, &FieldError{"Scopes", "unknown scope (have " + strings.Join(known, ", ") + ")"}
		}
	}
	return out, nil
}

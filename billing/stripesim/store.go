package stripesim

import (
	"cmp"
	"slices"
	"strings"
)

// object is a JSON object on its way out.
type object = map[string]any

// entity is something that the simulator keeps.
type entity interface {
	base() *head
	// render returns the object as API version 2023-10-16 shows it, with ref
	// and lazy values where it can be expanded.
	render(s *Simulator) object
}

// head is what all entities have.
type head struct {
	kind     string // "object" on the wire
	id       string
	seq      int64 // order of creation: two objects may share a second
	created  int64
	metadata map[string]string
	clock    string // the test clock that it follows
}

func (h *head) base() *head { return h }

// store holds all entities by kind.
type store struct {
	byID   map[string]entity   // kind/id
	byKind map[string][]entity // oldest first
}

func newStore() store {
	return store{byID: map[string]entity{}, byKind: map[string][]entity{}}
}

// add stores a new entity and completes its head.
func (s *Simulator) add(kind, id, clock string, e entity) {
	h := e.base()
	s.seq++
	h.kind, h.id, h.seq, h.clock, h.created = kind, id, s.seq, clock, s.at(clock)
	if h.metadata == nil {
		h.metadata = map[string]string{}
	}
	s.db.byID[kind+"/"+id] = e
	s.db.byKind[kind] = append(s.db.byKind[kind], e)
}

func (s *Simulator) remove(e entity) {
	h := e.base()
	delete(s.db.byID, h.kind+"/"+h.id)
	s.db.byKind[h.kind] = slices.DeleteFunc(s.db.byKind[h.kind], func(x entity) bool { return x == e })
}

// get returns an entity, or false.
func get[T entity](s *Simulator, kind, id string) (T, bool) {
	e, ok := s.db.byID[kind+"/"+id].(T)
	return e, ok
}

// must returns an entity that another one names: the simulator never removes
// what is named.
func must[T entity](s *Simulator, kind, id string) T {
	e, ok := get[T](s, kind, id)
	if !ok {
		panic("stripesim: " + kind + " " + id + " is named and doesn't exist")
	}
	return e
}

// find returns an entity, or the API's error for one that doesn't exist.
func find[T entity](s *Simulator, kind, id, param string) (T, error) {
	e, ok := get[T](s, kind, id)
	if !ok {
		return e, missing(wireKind(kind), id, param)
	}
	return e, nil
}

func wireKind(kind string) string {
	switch kind {
	case "payment_method":
		return "PaymentMethod"
	case "promotion_code":
		return "promotion code"
	case "subscription_item":
		return "subscription item"
	}
	return kind
}

// all returns the entities of a kind, oldest first.
func all[T entity](s *Simulator, kind string, keep func(T) bool) []T {
	var out []T
	for _, e := range s.db.byKind[kind] {
		if t, ok := e.(T); ok && (keep == nil || keep(t)) {
			out = append(out, t)
		}
	}
	return out
}

// newest returns the entities of a kind, newest first.
func newest[T entity](s *Simulator, kind string, keep func(T) bool) []T {
	out := all(s, kind, keep)
	slices.Reverse(out)
	return out
}

func entities[T entity](list []T) []entity {
	out := make([]entity, len(list))
	for i, e := range list {
		out[i] = e
	}
	return out
}

// page is a list answer: the items of all pages, and the request's window.
type page struct {
	url    string
	items  []entity
	search bool
	window *form
}

// cut returns the requested window of a list, and whether more follow.
func (p *page) cut() ([]entity, bool, error) {
	items, limit := p.items, 10
	f := p.window
	if f == nil {
		return items, false, nil
	}
	if f.has("limit") && !f.cleared("limit") {
		n := f.int("limit")
		if n < 1 || n > 100 {
			return nil, false, badRequest("parameter_invalid_integer", "limit", "This value must be between 1 and 100 (it was %d).", n)
		}
		limit = int(n)
	}
	after, before := f.str("starting_after"), f.str("ending_before")
	if after != "" && before != "" {
		return nil, false, badRequest("", "ending_before", "You cannot parameterize both starting_after and ending_before.")
	}
	index := func(id, param string) (int, error) {
		i := slices.IndexFunc(items, func(e entity) bool { return e.base().id == id })
		if i < 0 {
			return 0, missing("object", id, param)
		}
		return i, nil
	}
	if p.search {
		if token := f.str("page"); token != "" {
			i, err := index(strings.TrimPrefix(token, "after_"), "page")
			if err != nil {
				return nil, false, err
			}
			items = items[i+1:]
		}
	}
	if after != "" {
		i, err := index(after, "starting_after")
		if err != nil {
			return nil, false, err
		}
		items = items[i+1:]
	}
	if before != "" {
		i, err := index(before, "ending_before")
		if err != nil {
			return nil, false, err
		}
		items = items[:i]
		from := max(0, len(items)-limit)
		return items[from:], from > 0, nil
	}
	return items[:min(limit, len(items))], len(items) > limit, nil
}

// within keeps entities whose creation lies in a created[gte]-like range.
func within(f *form, items []entity) []entity {
	n := f.at("created")
	if n == nil {
		return items
	}
	return slices.DeleteFunc(slices.Clone(items), func(e entity) bool {
		t := e.base().created
		if n.leaf {
			return t != f.int("created")
		}
		return n.has("gt") && t <= n.int("gt") || n.has("gte") && t < n.int("gte") ||
			n.has("lt") && t >= n.int("lt") || n.has("lte") && t > n.int("lte")
	})
}

// inline is a list inside an object: the first ten items, as Stripe cuts it.
func inline(url string, items []entity, newestFirst bool) object {
	sorted := slices.Clone(items)
	slices.SortStableFunc(sorted, func(a, b entity) int {
		if newestFirst {
			a, b = b, a
		}
		return cmp.Compare(a.base().seq, b.base().seq)
	})
	data := make([]any, 0, len(sorted))
	for _, e := range sorted[:min(10, len(sorted))] {
		data = append(data, e)
	}
	return object{"object": "list", "data": data, "has_more": len(sorted) > 10, "url": url}
}

func copyMeta(m map[string]string) object {
	out := object{}
	for k, v := range m {
		out[k] = v
	}
	return out
}

package stripesim

import (
	"maps"
	"slices"
	"strings"
)

// ref is a field that names another object: its ID on the wire, or the object
// itself where the request expands it. An empty ID is null.
type ref struct{ kind, id string }

// lazy is a field that is there only when the request expands it, and when it
// isn't nil.
type lazy func() any

// fixed is a part that has been rendered already: an event keeps the version
// in which it was made, whatever version a request asks for.
type fixed struct{ value any }

// tree is the set of paths that a request expands.
type tree map[string]tree

// maxExpandDepth is Stripe's.
const maxExpandDepth = 4

func parseExpand(paths []string) (tree, error) {
	root := tree{}
	for _, path := range paths {
		parts := strings.Split(path, ".")
		depth := len(parts)
		if parts[0] == "data" {
			depth--
		}
		if depth > maxExpandDepth {
			return nil, badRequest("", "expand", "You cannot expand more than %d levels of a property. Property: %s", maxExpandDepth, clip(path))
		}
		at := root
		for _, part := range parts {
			if part == "" {
				return nil, badRequest("", "expand", "Invalid expand path: %q", clip(path))
			}
			if at[part] == nil {
				at[part] = tree{}
			}
			at = at[part]
		}
	}
	return root, nil
}

// present turns a handler's result into plain JSON values of an API version,
// with the requested parts expanded.
func (s *Simulator) present(v any, version string, expand tree, path string) (any, error) {
	switch v := v.(type) {
	case entity:
		return s.present(v.render(s), version, expand, path)
	case *page:
		items, more, err := v.cut()
		if err != nil {
			return nil, err
		}
		data := make([]any, len(items))
		for i, e := range items {
			data[i] = e
		}
		out := object{"object": "list", "data": data, "has_more": more, "url": v.url}
		if v.search {
			out["object"], out["next_page"] = "search_result", nil
			if more {
				out["next_page"] = "after_" + items[len(items)-1].base().id
			}
		}
		return s.present(out, version, expand, path)
	case object:
		return s.presentObject(v, version, expand, path)
	case []any:
		out := make([]any, len(v))
		for i, x := range v {
			var err error
			if out[i], err = s.present(x, version, expand, path); err != nil {
				return nil, err
			}
		}
		return out, nil
	case ref:
		if v.id == "" {
			return nil, nil
		}
		return v.id, nil
	case fixed:
		return v.value, nil
	}
	return v, nil
}

func (s *Simulator) presentObject(in object, version string, expand tree, path string) (any, error) {
	in = translate(in, version)
	out := make(object, len(in))
	for _, name := range slices.Sorted(maps.Keys(in)) {
		value := in[name]
		below, wanted := expand[name]
		here := name
		if path != "" {
			here = path + "." + name
		}
		switch v := value.(type) {
		case lazy:
			if !wanted {
				continue
			}
			if value = v(); value == nil {
				continue // one that this object doesn't have
			}
		case ref:
			if wanted && v.id != "" {
				e, ok := s.db.byID[v.kind+"/"+v.id]
				if !ok {
					return nil, unsupported("expand " + here)
				}
				value = e
			}
		case []any:
			if wanted {
				value = s.resolveAll(v)
			}
		case object, entity, nil:
			// Walked below. A null that could be an object stays null.
		default:
			if wanted {
				return nil, badRequest("", "expand", "This property cannot be expanded (%s).", here)
			}
		}
		var err error
		if out[name], err = s.present(value, version, below, here); err != nil {
			return nil, err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(expand)) {
		if _, ok := in[name]; !ok {
			return nil, unsupported("expand " + strings.TrimPrefix(path+"."+name, "."))
		}
	}
	return out, nil
}

func (s *Simulator) resolveAll(list []any) []any {
	out := slices.Clone(list)
	for i, x := range out {
		if r, ok := x.(ref); ok {
			if e, found := s.db.byID[r.kind+"/"+r.id]; found {
				out[i] = e
			}
		}
	}
	return out
}

// snapshot renders an object as it is now, with the fields of all versions
// and nothing expanded.
func (s *Simulator) snapshot(e entity) object { return s.shown(e.render(s), "") }

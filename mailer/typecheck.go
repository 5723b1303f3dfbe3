package mailer

import (
	"fmt"
	"reflect"
	"strings"
	"text/template/parse"
)

// checker follows a template's parse tree with the static type of the dot and
// refuses fields that don't exist, in every branch, taken or not. Where a type
// can't be known (a function's result, an interface) it says nothing.
type checker struct {
	trees map[string]*parse.Tree
	data  reflect.Type // of .Data
	err   error
	seen  map[string]bool
}

var viewType = reflect.TypeFor[view]()

func checkTypes(trees map[string]*parse.Tree, root string, data reflect.Type) error {
	c := &checker{trees: trees, data: data, seen: map[string]bool{}}
	c.template(root, viewType)
	return c.err
}

func (c *checker) template(name string, dot reflect.Type) {
	tree := c.trees[name]
	if tree == nil || tree.Root == nil || c.seen[name] {
		return
	}
	c.seen[name] = true
	c.node(tree.Root, dot, map[string]reflect.Type{"$": dot})
}

func (c *checker) node(n parse.Node, dot reflect.Type, vars map[string]reflect.Type) {
	switch n := n.(type) {
	case *parse.ListNode:
		if n == nil {
			return
		}
		for _, child := range n.Nodes {
			c.node(child, dot, vars)
		}
	case *parse.ActionNode:
		c.pipe(n.Pipe, dot, vars)
	case *parse.IfNode:
		inner := clone(vars)
		c.pipe(n.Pipe, dot, inner)
		c.node(n.List, dot, inner)
		c.node(n.ElseList, dot, clone(vars))
	case *parse.WithNode:
		inner := clone(vars)
		t := c.pipe(n.Pipe, dot, inner)
		c.node(n.List, t, inner)
		c.node(n.ElseList, dot, clone(vars))
	case *parse.RangeNode:
		inner := clone(vars)
		t := elem(c.pipe(n.Pipe, dot, inner))
		if decl := n.Pipe.Decl; len(decl) > 0 {
			inner[decl[len(decl)-1].Ident[0]] = t
			if len(decl) == 2 {
				inner[decl[0].Ident[0]] = nil
			}
		}
		c.node(n.List, t, inner)
		c.node(n.ElseList, dot, clone(vars))
	case *parse.TemplateNode:
		c.template(n.Name, c.pipe(n.Pipe, dot, vars))
	}
}

func (c *checker) pipe(p *parse.PipeNode, dot reflect.Type, vars map[string]reflect.Type) reflect.Type {
	if p == nil {
		return nil
	}
	var t reflect.Type
	for _, cmd := range p.Cmds {
		for i, arg := range cmd.Args {
			got := c.arg(arg, dot, vars)
			if i == 0 {
				t = got
			}
		}
	}
	for _, v := range p.Decl {
		vars[v.Ident[0]] = t
	}
	return t
}

func (c *checker) arg(n parse.Node, dot reflect.Type, vars map[string]reflect.Type) reflect.Type {
	switch n := n.(type) {
	case *parse.DotNode:
		return dot
	case *parse.FieldNode:
		return c.fields(dot, n.Ident, n)
	case *parse.VariableNode:
		return c.fields(vars[n.Ident[0]], n.Ident[1:], n)
	case *parse.ChainNode:
		return c.fields(c.arg(n.Node, dot, vars), n.Field, n)
	case *parse.PipeNode:
		return c.pipe(n, dot, clone(vars))
	}
	return nil
}

func (c *checker) fields(t reflect.Type, names []string, n parse.Node) reflect.Type {
	for _, name := range names {
		if t == nil {
			return nil
		}
		next, known := c.field(t, name)
		if !known {
			if c.err == nil {
				c.err = fmt.Errorf("variable %s is unknown: %s has %s", n, t, strings.Join(fieldNames(t), ", "))
			}
			return nil
		}
		t = next
	}
	return t
}

// field returns the type of a field, method or map entry; nil when it can't be
// known, and false when there is no such thing.
func (c *checker) field(t reflect.Type, name string) (reflect.Type, bool) {
	if t == viewType && name == "Data" {
		return c.data, true
	}
	for _, withMethods := range []reflect.Type{t, reflect.PointerTo(t)} {
		if m, ok := withMethods.MethodByName(name); ok && m.Type.NumOut() > 0 {
			return m.Type.Out(0), true
		}
	}
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch t.Kind() {
	case reflect.Struct:
		f, ok := t.FieldByName(name)
		return f.Type, ok && f.IsExported()
	case reflect.Map:
		return t.Elem(), true
	case reflect.Interface:
		return nil, true
	}
	return nil, false
}

func fieldNames(t reflect.Type) []string {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct {
		return []string{"no fields"}
	}
	names := []string{}
	for i := range t.NumField() {
		if t.Field(i).IsExported() {
			names = append(names, t.Field(i).Name)
		}
	}
	return names
}

func elem(t reflect.Type) reflect.Type {
	if t == nil {
		return nil
	}
	switch t.Kind() {
	case reflect.Slice, reflect.Array, reflect.Map, reflect.Chan:
		return t.Elem()
	case reflect.Pointer:
		return elem(t.Elem())
	}
	return nil
}

func clone(m map[string]reflect.Type) map[string]reflect.Type {
	out := make(map[string]reflect.Type, len(m))
	for k, v := range m {
		out[k] = v
	}
	return out
}

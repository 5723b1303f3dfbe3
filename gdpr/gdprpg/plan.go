package gdprpg

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/kolekt/commerce/gdpr"
)

// Plan is how the rows of a subject can be deleted without breaking a foreign
// key.
type Plan struct {
	// Order lists the tables that reach a subject, children before parents,
	// the subjects' own tables last.
	Order []string
	// Cycles are groups of tables that reference each other, and tables that
	// reference themselves, each with the column to set to null first.
	Cycles []Cycle
	// Unindexed are foreign keys without an index on the child: deleting a
	// parent scans the whole child.
	Unindexed []string
	// Cascades are foreign keys that delete children by themselves, which no
	// source counts or reports.
	Cascades []string
}

// Cycle is a group of tables without an order.
type Cycle struct {
	Tables []string
	// Break is a nullable column of the cycle, "table.column", that frees the
	// others when it is set to null; empty when there is none, and the keys
	// must be made deferrable.
	Break string
}

type edge struct {
	Child, Parent string
	Column        string
	Nullable      bool
	Indexed       bool
	Cascade       bool
	IsSubject     bool // the child is a subjects' table
}

const planSQL = `
with recursive
subjects as (
    select c.oid from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where n.nspname = coalesce(nullif($1::text, ''), current_schema()) and c.relname = any ($2::text[])
),
keys as (select * from pg_constraint where contype = 'f' and conparentid = 0),
reaches as (
    select oid from subjects
    union
    select keys.conrelid from keys join reaches on keys.confrelid = reaches.oid
)
select c.relname::text, p.relname::text, a.attname::text, not a.attnotnull,
    exists (select from pg_index i where i.indrelid = k.conrelid and i.indkey[0] = k.conkey[1]),
    k.confdeltype = 'c',
    k.conrelid in (select oid from subjects)
from keys k
join pg_class c on c.oid = k.conrelid
join pg_class p on p.oid = k.confrelid
join pg_attribute a on a.attrelid = k.conrelid and a.attnum = k.conkey[1]
where k.conrelid in (select oid from reaches) and k.confrelid in (select oid from reaches)
order by 1, 2, 3`

// PlanDeletion reads the foreign keys of the schema (empty: the current one)
// and returns the order in which a subject's rows can be deleted.
func PlanDeletion(ctx context.Context, db DB, schema string, subjects ...string) (Plan, error) {
	if len(subjects) == 0 {
		return Plan{}, fmt.Errorf("%w: name the tables whose rows are persons", gdpr.ErrInvalid)
	}
	rows, err := db.Query(ctx, planSQL, schema, subjects)
	if err != nil {
		return Plan{}, fmt.Errorf("gdprpg: plan: %w", err)
	}
	edges, err := pgx.CollectRows(rows, pgx.RowToStructByPos[edge])
	if err != nil {
		return Plan{}, fmt.Errorf("gdprpg: plan: %w", err)
	}
	var p Plan
	children := map[string][]string{} // parent → children
	tables := slices.Clone(subjects)
	for _, e := range edges {
		tables = append(tables, e.Child, e.Parent)
		if e.Child == e.Parent {
			p.Cycles = append(p.Cycles, Cycle{[]string{e.Child}, breakOf(e)})
		} else {
			children[e.Parent] = append(children[e.Parent], e.Child)
		}
		if !e.Indexed {
			p.Unindexed = append(p.Unindexed, e.Child+"."+e.Column)
		}
		if e.Cascade {
			p.Cascades = append(p.Cascades, e.Child+"."+e.Column)
		}
	}
	slices.Sort(tables)
	tables = slices.Compact(tables)
	// Tarjan's algorithm emits a component after all that are reachable from
	// it: from parents to children, so children come first.
	for _, component := range components(tables, children) {
		if len(component) > 1 {
			slices.Sort(component)
			c := Cycle{Tables: component}
			for _, e := range edges {
				if c.Break == "" && e.Child != e.Parent && slices.Contains(component, e.Child) && slices.Contains(component, e.Parent) {
					c.Break = breakOf(e)
				}
			}
			p.Cycles = append(p.Cycles, c)
		}
		p.Order = append(p.Order, component...)
	}
	slices.SortFunc(p.Cycles, func(a, b Cycle) int { return cmp.Compare(a.Tables[0], b.Tables[0]) })
	return p, nil
}

func breakOf(e edge) string {
	if e.Nullable {
		return e.Child + "." + e.Column
	}
	return ""
}

// components returns the strongly connected components, each after those that
// it leads to (Tarjan, Depth-first search and linear graph algorithms, 1972).
func components(nodes []string, next map[string][]string) [][]string {
	var (
		index   = map[string]int{}
		low     = map[string]int{}
		onStack = map[string]bool{}
		stack   []string
		found   [][]string
		visit   func(string)
	)
	visit = func(n string) {
		index[n] = len(index) + 1
		low[n] = index[n]
		stack = append(stack, n)
		onStack[n] = true
		for _, m := range next[n] {
			if index[m] == 0 {
				visit(m)
				low[n] = min(low[n], low[m])
			} else if onStack[m] {
				low[n] = min(low[n], index[m])
			}
		}
		if low[n] == index[n] {
			i := slices.Index(stack, n)
			component := slices.Clone(stack[i:])
			stack = stack[:i]
			for _, m := range component {
				onStack[m] = false
			}
			found = append(found, component)
		}
	}
	for _, n := range nodes {
		if index[n] == 0 {
			visit(n)
		}
	}
	return found
}

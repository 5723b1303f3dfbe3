package gdprpg

import (
	"cmp"
	"context"
	_ "embed"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/kolekt/commerce/gdpr"
)

// Coverage says what Cover compares.
type Coverage struct {
	// Subjects are the tables whose rows are persons: "users".
	Subjects []string
	// Sources cover tables by their Descriptor.Tables.
	Sources []gdpr.Source
	// Ignore names tables, or columns as "table.column", that hold nothing
	// personal although they look like it, each with the reason.
	Ignore map[string]string
	// Schema is looked at; empty means the current one.
	Schema string
}

// Gap is a table or column that can hold or reference a person and that no
// source covers.
type Gap struct {
	Table  string
	Column string // empty: the whole table
	Why    string
}

// String names the gap and the reason.
func (g Gap) String() string {
	if g.Column == "" {
		return g.Table + ": " + g.Why
	}
	return g.Table + "." + g.Column + ": " + g.Why
}

//go:embed cover.sql
var coverSQL string

var (
	// personNames are columns that refer to a person by their name.
	personNames = regexp.MustCompile(`(?i)(^|_)(users?|accounts?|members?|persons?|people|customers?|owners?|authors?|creators?|editors?|subjects?|employees?|contacts?|invitees?|inviter|referrer|referee|sender|recipients?|assignees?|reviewers?|participants?|followers?|guests?|profiles?)(_?(ids?|refs?|keys?|uuids?))?$|(^|_)(created|updated|deleted|modified|invited|approved|uploaded|assigned|requested|reported)_by(_id)?$`)
	// personalNames are columns that hold something about a person.
	personalNames = regexp.MustCompile(`(?i)(^|_)(e?mails?|mail_?address|phones?|mobile|telephone|fax|ip|ip_?addr(ess)?|remote_addr|user_?agent|first_?name|last_?name|full_?name|display_?name|nick_?name|surname|user_?name|screen_name|birth_?(day|date)|date_of_birth|dob|gender|street|postal_?code|zip_?code|home_address|billing_address|shipping_address|iban|bic|card_?(number|last4|fingerprint)|tax_?id|vat_?id|passport|ssn|national_id|latitude|longitude|geolocation|avatar(_url)?|signature|recipient|to_address|from_address|device_?(id|fingerprint))$`)
)

type column struct {
	Table, Column, Type string
	Kind                string // relkind
	ReachesSubject      bool   // by foreign keys
	Subject             bool   // the column's foreign key leads towards a subject
	SubjectType         bool   // its type is that of a subject's key
	Opaque              bool   // json, xml, hstore
	Rows                float64
	Addresses           bool // the planner's statistics hold e-mail addresses
}

// Cover reads the catalogue of the database and returns what no source covers,
// sorted: tables that reach a subject by foreign keys, columns that look like
// a reference to a person or like personal data by name and type, columns
// whose statistics hold e-mail addresses, and documents (json, xml, hstore)
// that hold such keys in a sample or can't be sampled. Partitions count as
// their parent. For a table of NewTable, each personal column must be named by
// it as well, so that a column that is added later is found.
//
// Statistics are there after ANALYZE, for tables that the role may read. Views
// hold no data of their own and are left out; materialised ones do.
func Cover(ctx context.Context, db DB, c Coverage) ([]Gap, error) {
	if len(c.Subjects) == 0 {
		return nil, fmt.Errorf("%w: Coverage.Subjects is empty: name the tables whose rows are persons", gdpr.ErrInvalid)
	}
	rows, err := db.Query(ctx, coverSQL, c.Schema, c.Subjects)
	if err != nil {
		return nil, fmt.Errorf("gdprpg: cover: %w", err)
	}
	columns, err := pgx.CollectRows(rows, pgx.RowToStructByPos[column])
	if err != nil {
		return nil, fmt.Errorf("gdprpg: cover: %w", err)
	}
	covered := map[string]bool{}
	known := map[string]map[string]bool{}
	for _, src := range c.Sources {
		for _, t := range src.Describe().Tables {
			covered[t] = true
		}
		if ts, ok := src.(*TableSource); ok {
			table, names := ts.columns()
			if known[table] == nil {
				known[table] = map[string]bool{}
			}
			for _, n := range names {
				known[table][n] = true
			}
		}
	}
	var gaps []Gap
	reported := map[string]bool{}
	for _, col := range columns {
		if _, ok := c.Ignore[col.Table]; ok {
			continue
		}
		if _, ok := c.Ignore[col.Table+"."+col.Column]; ok {
			continue
		}
		if covered[col.Table] {
			byColumn := known[col.Table]
			if byColumn == nil || byColumn[col.Column] {
				continue
			}
			if why := col.why(); why != "" {
				gaps = append(gaps, Gap{col.Table, col.Column, why + "; its source neither exports nor omits it"})
			}
			continue
		}
		why := col.why()
		if why == "" && col.Opaque {
			if why, err = sample(ctx, db, c.Schema, col); err != nil {
				return nil, err
			}
		}
		if why == "" && col.ReachesSubject && !reported[col.Table] {
			// The table as a whole, unless a column says it better.
			if !slices.ContainsFunc(columns, func(o column) bool { return o.Table == col.Table && o.why() != "" }) {
				gaps = append(gaps, Gap{col.Table, "", "reaches a subject by foreign keys"})
				reported[col.Table] = true
			}
		}
		if why != "" {
			gaps = append(gaps, Gap{col.Table, col.Column, why})
		}
	}
	slices.SortFunc(gaps, func(a, b Gap) int {
		return cmp.Or(cmp.Compare(a.Table, b.Table), cmp.Compare(a.Column, b.Column))
	})
	return slices.CompactFunc(gaps, func(a, b Gap) bool { return a.Table == b.Table && a.Column == b.Column }), nil
}

func (c column) why() string {
	switch {
	case c.Subject:
		return "references a subject"
	case c.SubjectType && personNames.MatchString(c.Column):
		return "looks like a reference to a person"
	case personalNames.MatchString(c.Column) && !strings.HasPrefix(c.Type, "bool"):
		return "looks like personal data"
	case c.Addresses:
		return "holds e-mail addresses"
	}
	return ""
}

// sample looks at the keys of a hundred documents.
func sample(ctx context.Context, db DB, schema string, col column) (string, error) {
	if !strings.HasPrefix(col.Type, "json") {
		return "is a document that can't be looked into", nil
	}
	parts := pgx.Identifier{col.Table}
	if schema != "" {
		parts = pgx.Identifier{schema, col.Table}
	}
	c := quote(col.Column)
	rows, err := db.Query(ctx, `
		select distinct k from (select `+c+`::jsonb as d from `+parts.Sanitize()+` where `+c+` is not null limit 100) s,
			lateral jsonb_path_query(d, '$.** ? (@.type() == "object").keyvalue().key') k`)
	if err != nil {
		return "", fmt.Errorf("gdprpg: cover %s: %w", col.Table, err)
	}
	keys, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return "", fmt.Errorf("gdprpg: cover %s: %w", col.Table, err)
	}
	for _, k := range keys {
		k = strings.Trim(k, `"`)
		if personalNames.MatchString(k) || personNames.MatchString(k) {
			return fmt.Sprintf("holds documents with the key %q", k), nil
		}
	}
	if len(keys) == 0 {
		return "is a document, and there is none to look into", nil
	}
	return "", nil
}

package gdprpg

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/kolekt/commerce/gdpr"
)

// Table describes a table that holds personal data, for NewTable. Names are
// written as SQL identifiers are meant, without quotes; a schema goes before
// the table's name with a dot.
type Table struct {
	gdpr.Descriptor // Tables is filled in when it is empty

	Table string
	// By is the column that says whose row it is. It holds identifiers of
	// Kind, "id" by default; Fold compares without regard to case.
	By   string
	Kind string
	Fold bool
	// Where replaces By for tables that reach the subject through another
	// one: an SQL condition over t, the table, in which $1 is the text[] of
	// the subject's identifiers: "t.comment_id in (select id from comments
	// where author = any ($1))".
	Where string

	// Columns are exported. There is no way to say "all": a column that is
	// added later must be thought about.
	Columns []string
	// Others are those of Columns that name other persons: they are exported
	// as "person-1".
	Others []string
	// Omit names columns that aren't exported, each with the reason.
	Omit map[string]string

	// Correct names those of Columns that a request for rectification may
	// change.
	Correct []string

	// Set anonymises instead of deleting: column → SQL expression, such as
	// "null" or "'erased'", or Pseudonym. Key is the table's unique column for paging, "id"
	// by default.
	Set map[string]string
	Key string
	// Retain, with Set, reports the rows as retained on this ground. Dated is
	// the column from which the time counts; the latest row decides. Rows in
	// which a column is set to Pseudonym are deleted when the time has ended.
	Retain    *gdpr.Retain
	Retention gdpr.Retention
	Dated     string
	// Keep is how long rows stay after Dated, whosesoever they are, with no
	// request: gdpr.Service.Purge deletes older ones. 0 means for ever.
	Keep time.Duration

	Page int              // rows a transaction erases; 0 means 2,000
	Now  func() time.Time // nil means time.Now
}

// Pseudonym is a value of Table.Set: it puts the subject's random pseudonym into
// a column. Rows that are kept are still one person's, and are found again when
// their time has ended.
const Pseudonym = "$pseudonym"

// TableSource is a gdpr.Source of one table.
type TableSource struct {
	db    DB
	t     Table
	ident string // the table as SQL

	mu    sync.Mutex
	types map[string]string
}

var _ gdpr.Source = (*TableSource)(nil)

// NewTable returns a source of a table. It does no I/O.
func NewTable(db DB, t Table) (*TableSource, error) {
	if db == nil || t.Table == "" || (t.By == "") == (t.Where == "") || len(t.Columns) == 0 {
		return nil, fmt.Errorf("%w: table %q needs a database, Columns, and either By or Where", gdpr.ErrInvalid, t.Table)
	}
	for _, o := range t.Others {
		if !slices.Contains(t.Columns, o) {
			return nil, fmt.Errorf("%w: table %q: Others names %q, which isn't in Columns", gdpr.ErrInvalid, t.Table, o)
		}
	}
	if t.Retain != nil && len(t.Set) == 0 {
		return nil, fmt.Errorf("%w: table %q: Retain needs Set, to detach the person from what is kept", gdpr.ErrInvalid, t.Table)
	}
	if t.Retain != nil && (t.Retain.Ground == "" || t.Retain.Article == "" || (t.Retain.Until == nil && t.Dated == "")) {
		return nil, fmt.Errorf("%w: table %q: Retain needs a ground, an article, and Until or Dated", gdpr.ErrInvalid, t.Table)
	}
	for _, c := range t.Correct {
		if !slices.Contains(t.Columns, c) {
			return nil, fmt.Errorf("%w: table %q: Correct names %q, which isn't in Columns", gdpr.ErrInvalid, t.Table, c)
		}
	}
	if t.Keep < 0 || t.Keep > 0 && t.Dated == "" {
		return nil, fmt.Errorf("%w: table %q: Keep needs Dated, and isn't negative", gdpr.ErrInvalid, t.Table)
	}
	if t.Now == nil {
		t.Now = time.Now
	}
	if t.Name == "" {
		t.Name = strings.ReplaceAll(t.Table, ".", "_")
	}
	if t.Kind == "" {
		t.Kind = "id"
	}
	if t.Key == "" {
		t.Key = "id"
	}
	if t.Page == 0 {
		t.Page = 2000
	}
	if len(t.Tables) == 0 {
		t.Tables = []string{t.Table}
	}
	return &TableSource{db: db, t: t, ident: pgx.Identifier(strings.Split(t.Table, ".")).Sanitize()}, nil
}

// Describe implements gdpr.Source.
func (s *TableSource) Describe() gdpr.Descriptor { return s.t.Descriptor }

// columns returns the columns of each table that the source has decided about.
func (s *TableSource) columns() (table string, known []string) {
	known = slices.Clone(s.t.Columns)
	known = append(known, s.t.By, s.t.Key)
	for c := range s.t.Omit {
		known = append(known, c)
	}
	for c := range s.t.Set {
		known = append(known, c)
	}
	return s.t.Table, known
}

// typesOf reads the types of the table's columns once: the subject's
// identifiers are cast to the column's type, not the column to text, so that
// its index is used.
func (s *TableSource) typesOf(ctx context.Context) (map[string]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.types != nil {
		return s.types, nil
	}
	rows, err := s.db.Query(ctx, `
		select attname, format_type(atttypid, atttypmod) from pg_attribute
		where attrelid = $1::regclass and attnum > 0 and not attisdropped`, s.ident)
	if err != nil {
		return nil, fmt.Errorf("gdprpg: table %s: %w", s.t.Table, err)
	}
	types := map[string]string{}
	var name, typ string
	if _, err := pgx.ForEachRow(rows, []any{&name, &typ}, func() error { types[name] = typ; return nil }); err != nil {
		return nil, fmt.Errorf("gdprpg: table %s: %w", s.t.Table, err)
	}
	for _, c := range append(slices.Clone(s.t.Columns), s.t.By) {
		if _, ok := types[c]; !ok && c != "" {
			return nil, fmt.Errorf("%w: table %s has no column %q", gdpr.ErrInvalid, s.t.Table, c)
		}
	}
	s.types = types
	return types, nil
}

func quote(name string) string { return pgx.Identifier{name}.Sanitize() }

// condition returns the SQL that finds the subject's rows, over t and $1.
func (s *TableSource) condition(types map[string]string) string {
	switch {
	case s.t.Where != "":
		return "(" + s.t.Where + ")"
	case s.t.Fold:
		return "lower(t." + quote(s.t.By) + ") = any (select lower(v) from unnest($1::text[]) v)"
	}
	return "t." + quote(s.t.By) + " = any ($1::text[]::" + types[s.t.By] + "[])"
}

func (s *TableSource) identifiers(subject gdpr.Subject) []string {
	values := subject.Values(s.t.Kind)
	if values == nil {
		values = []string{}
	}
	return values
}

// notOfType reports that an identifier can't be a value of the column, such as
// a name where the column holds a uuid: then no row is the subject's.
func notOfType(err error) bool {
	var pgErr interface{ SQLState() string }
	return errors.As(err, &pgErr) && pgErr.SQLState() == "22P02"
}

// Export implements gdpr.Source. The database renders the rows as JSON, which
// pass through without being decoded; only a table with Others is decoded.
func (s *TableSource) Export(ctx context.Context, subject gdpr.Subject, sink *gdpr.Sink) error {
	types, err := s.typesOf(ctx)
	if err != nil {
		return err
	}
	list := make([]string, len(s.t.Columns))
	for i, c := range s.t.Columns {
		list[i] = "t." + quote(c)
		if types[c] == "bigint" || strings.HasPrefix(types[c], "numeric") {
			// Numbers that a float64 can't hold go as text.
			list[i] = fmt.Sprintf("case when abs(t.%[1]s) > 9007199254740992 then to_json(t.%[1]s::text) else to_json(t.%[1]s) end as %[1]s", quote(c))
		}
	}
	sql := "select row_to_json(r)::text from (select " + strings.Join(list, ", ") + " from " + s.ident + " t where " + s.condition(types) + ") r"
	rows, err := s.db.Query(ctx, sql, s.identifiers(subject))
	if err != nil {
		return fmt.Errorf("gdprpg: export %s: %w", s.t.Table, err)
	}
	defer rows.Close()
	record := s.t.Name
	if len(s.t.Others) > 0 {
		err = s.decoded(rows, record, sink)
	} else {
		err = lines(rows, record, sink)
	}
	if err == nil {
		err = rows.Err()
	}
	if err != nil && !notOfType(err) {
		return fmt.Errorf("gdprpg: export %s: %w", s.t.Table, err)
	}
	return nil
}

// lines passes the JSON of the database on in large writes.
func lines(rows pgx.Rows, record string, sink *gdpr.Sink) error {
	const chunk = 64 << 10
	buf := make([]byte, 0, 2*chunk)
	var out interface{ Write([]byte) (int, error) }
	flush := func() error {
		if len(buf) == 0 {
			return nil
		}
		if out == nil {
			w, err := sink.Lines(record)
			if err != nil {
				return err
			}
			out = w
		}
		_, err := out.Write(buf)
		buf = buf[:0]
		return err
	}
	for rows.Next() {
		buf = append(append(buf, rows.RawValues()[0]...), '\n')
		if len(buf) >= chunk {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	return flush()
}

func (s *TableSource) decoded(rows pgx.Rows, record string, sink *gdpr.Sink) error {
	for rows.Next() {
		dec := json.NewDecoder(strings.NewReader(string(rows.RawValues()[0])))
		dec.UseNumber()
		var fields map[string]any
		if err := dec.Decode(&fields); err != nil {
			return err
		}
		for _, c := range s.t.Others {
			if v := fields[c]; v != nil {
				fields[c] = sink.Other(fmt.Sprint(v))
			}
		}
		if err := sink.Row(record, fields); err != nil {
			return err
		}
	}
	return nil
}

// Erase implements gdpr.Source: a page of rows in one statement.
func (s *TableSource) Erase(ctx context.Context, subject gdpr.Subject, cursor string) (gdpr.Outcome, error) {
	types, err := s.typesOf(ctx)
	if err != nil {
		return gdpr.Outcome{}, err
	}
	if len(s.t.Set) > 0 {
		return s.anonymise(ctx, types, subject, cursor)
	}
	// By ctid: deleting needs no key, and what is deleted doesn't come again.
	// A row that another transaction updated meanwhile is locked in its new
	// version, which this statement's snapshot can't see: it is found, not
	// deleted, and belongs to the next page.
	var found, gone int64
	err = s.db.QueryRow(ctx, `
		with page as materialized (
			select t.ctid as id from `+s.ident+` t where `+s.condition(types)+` limit $2 for update
		), gone as (
			delete from `+s.ident+` where ctid = any (array(select id from page)) returning 1
		)
		select (select count(*) from page), (select count(*) from gone)`,
		s.identifiers(subject), s.t.Page).Scan(&found, &gone)
	if notOfType(err) {
		return gdpr.Outcome{Done: true}, nil
	}
	if err != nil {
		return gdpr.Outcome{}, fmt.Errorf("gdprpg: erase %s: %w", s.t.Table, err)
	}
	return gdpr.Outcome{Removed: gone, Done: found < int64(s.t.Page) && gone == found, Next: "more"}, nil
}

func (s *TableSource) anonymise(ctx context.Context, types map[string]string, subject gdpr.Subject, cursor string) (gdpr.Outcome, error) {
	args := []any{s.identifiers(subject), s.t.Page, cursor}
	ref := ""
	set := make([]string, 0, len(s.t.Set))
	for c, expr := range s.t.Set {
		if expr == Pseudonym {
			if subject.Pseudonym == "" {
				return gdpr.Outcome{}, fmt.Errorf("%w: table %s: the subject has no pseudonym", gdpr.ErrInvalid, s.t.Table)
			}
			expr, ref = "$4::text::"+types[c], subject.Pseudonym
		}
		set = append(set, quote(c)+" = "+expr)
	}
	if ref != "" {
		args = append(args, ref)
	}
	slices.Sort(set)
	dated := "null::timestamptz"
	if s.t.Dated != "" {
		dated = "max(t." + quote(s.t.Dated) + "::timestamptz)"
	}
	key := quote(s.t.Key)
	after := "true"
	if cursor != "" {
		after = "t." + key + " > $3::text::" + types[s.t.Key]
	}
	sql := `
		with page as (
			select t.` + key + ` as k from ` + s.ident + ` t
			where ` + s.condition(types) + ` and ` + after + ` and ($3::text is not null)
			order by t.` + key + ` limit $2 for update
		), done as (
			update ` + s.ident + ` t set ` + strings.Join(set, ", ") + ` from page where t.` + key + ` = page.k returning t.*
		)
		select (select count(*) from page), count(*), (select k::text from page order by k desc limit 1), ` + dated + ` from done t`
	var found, n int64
	var last *string
	var latest *time.Time
	err := s.db.QueryRow(ctx, sql, args...).Scan(&found, &n, &last, &latest)
	if notOfType(err) {
		return gdpr.Outcome{Done: true}, nil
	}
	if err != nil {
		return gdpr.Outcome{}, fmt.Errorf("gdprpg: erase %s: %w", s.t.Table, err)
	}
	if n != found {
		return gdpr.Outcome{}, fmt.Errorf("gdprpg: erase %s: %d of %d rows were changed meanwhile", s.t.Table, found-n, found)
	}
	out := gdpr.Outcome{Done: n < int64(s.t.Page)}
	if last != nil {
		out.Next = *last
	}
	if s.t.Retain == nil {
		out.Anonymised = n
		return out, nil
	}
	if n > 0 {
		kept := gdpr.Retained{Record: s.t.Name, Count: n, Ground: s.t.Retain.Ground, Article: s.t.Retain.Article, Ref: ref}
		switch {
		case latest != nil:
			kept.Until = s.t.Retention.Until(*latest)
		case s.t.Retain.Until != nil:
			kept.Until = s.t.Retain.Until(s.t.Now())
		}
		out.Retained = []gdpr.Retained{kept}
	}
	return out, nil
}

package gdprpg

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/kolekt/commerce/gdpr"
)

var (
	_ gdpr.Expirer   = (*TableSource)(nil)
	_ gdpr.Sweeper   = (*TableSource)(nil)
	_ gdpr.Rectifier = (*TableSource)(nil)
)

// Expire implements gdpr.Expirer: a page of the rows under a pseudonym whose
// time has ended. The time is computed again, so that it may have been extended
// meanwhile.
func (s *TableSource) Expire(ctx context.Context, kept gdpr.Retained, _ string) (gdpr.Outcome, error) {
	var column string
	for c, expr := range s.t.Set {
		if expr == Pseudonym {
			column = c
		}
	}
	if column == "" || kept.Ref == "" || s.t.Retain == nil {
		return gdpr.Outcome{}, errors.ErrUnsupported
	}
	types, err := s.typesOf(ctx)
	if err != nil {
		return gdpr.Outcome{}, err
	}
	mine := "t." + quote(column) + " = $1::text::" + types[column]
	var until time.Time
	if s.t.Dated == "" {
		until = s.t.Retain.Until(kept.At)
	} else {
		var latest *time.Time
		err := s.db.QueryRow(ctx, "select max(t."+quote(s.t.Dated)+"::timestamptz) from "+s.ident+" t where "+mine, kept.Ref).Scan(&latest)
		if err != nil {
			return gdpr.Outcome{}, fmt.Errorf("gdprpg: expire %s: %w", s.t.Table, err)
		}
		if latest == nil {
			return gdpr.Outcome{Done: true}, nil
		}
		until = s.t.Retention.Until(*latest)
	}
	if until.After(s.t.Now()) {
		kept.Until = until
		return gdpr.Outcome{Done: true, Retained: []gdpr.Retained{kept}}, nil
	}
	n, err := s.deletePage(ctx, mine, kept.Ref)
	return gdpr.Outcome{Removed: n, Done: n < int64(s.t.Page), Next: "more"}, err
}

// Sweep implements gdpr.Sweeper: rows that are older than Table.Keep go, page by
// page.
func (s *TableSource) Sweep(ctx context.Context, now time.Time) (int64, error) {
	if s.t.Keep == 0 {
		return 0, nil
	}
	var total int64
	for {
		n, err := s.deletePage(ctx, "t."+quote(s.t.Dated)+" < $1", now.Add(-s.t.Keep))
		total += n
		if err != nil || n < int64(s.t.Page) {
			return total, err
		}
	}
}

func (s *TableSource) deletePage(ctx context.Context, condition string, arg any) (int64, error) {
	tag, err := s.db.Exec(ctx, `delete from `+s.ident+` where ctid = any (array(
		select t.ctid from `+s.ident+` t where `+condition+` limit $2 for update skip locked))`, arg, s.t.Page)
	if err != nil {
		return 0, fmt.Errorf("gdprpg: retention of %s: %w", s.t.Table, err)
	}
	return tag.RowsAffected(), nil
}

// Rectify implements gdpr.Rectifier for the columns of Table.Correct, in one
// statement.
func (s *TableSource) Rectify(ctx context.Context, subject gdpr.Subject, changes map[string]string) (int64, error) {
	types, err := s.typesOf(ctx)
	if err != nil {
		return 0, err
	}
	args := []any{s.identifiers(subject)}
	var set []string
	for _, c := range s.t.Correct {
		if v, ok := changes[c]; ok {
			args = append(args, v)
			set = append(set, fmt.Sprintf("%s = $%d::text::%s", quote(c), len(args), types[c]))
		}
	}
	if len(set) == 0 {
		return 0, nil
	}
	slices.Sort(set)
	tag, err := s.db.Exec(ctx, "update "+s.ident+" t set "+strings.Join(set, ", ")+" where "+s.condition(types), args...)
	var pgErr interface{ SQLState() string }
	if errors.As(err, &pgErr) && strings.HasPrefix(pgErr.SQLState(), "22") { // "data exception"
		return 0, fmt.Errorf("%w: table %s: a value isn't one of its column's type", gdpr.ErrInvalid, s.t.Table)
	}
	if err != nil {
		return 0, fmt.Errorf("gdprpg: rectify %s: %w", s.t.Table, err)
	}
	return tag.RowsAffected(), nil
}

package usage

import (
	"context"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"strconv"
	"strings"
	"time"
)

const pageSize = 500

// Events iterates over an account's events of the query's range, oldest first,
// page by page. A meter that is empty means all. An error ends the iteration.
func (s *Service) Events(ctx context.Context, q Query) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		meter := q.Meter
		if meter == "" {
			for q.Meter = range s.meters { // any: complete wants one
				break
			}
		}
		if err := s.complete(ctx, &q); err != nil {
			yield(Event{}, err)
			return
		}
		if q.Account == "" || q.GroupBy != "" || len(q.Filter) > 0 {
			yield(Event{}, invalid("events want an Account, and neither GroupBy nor Filter"))
			return
		}
		page := EventPage{Account: q.Account, Meter: meter, From: q.From.UTC(), To: q.To.UTC()}
		for {
			entries, err := s.store.Events(ctx, page, pageSize)
			if err != nil {
				yield(Event{}, err)
				return
			}
			for _, e := range entries {
				if !yield(e.Event, nil) {
					return
				}
			}
			if len(entries) < pageSize {
				return
			}
			last := entries[len(entries)-1]
			page.AfterTime, page.AfterKey = last.Time, last.Key
		}
	}
}

// WriteJSONLines writes the events of Events, one JSON object a line.
func (s *Service) WriteJSONLines(ctx context.Context, w io.Writer, q Query) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	for e, err := range s.Events(ctx, q) {
		if err != nil {
			return err
		}
		if err := enc.Encode(e); err != nil {
			return fmt.Errorf("usage: write events: %w", err)
		}
	}
	return nil
}

// WriteCSV writes the points of Series as CSV with a heading: from, to, group,
// number, count, sum, average, min, max. Numbers are in whole units.
func (s *Service) WriteCSV(ctx context.Context, w io.Writer, q Query) error {
	points, err := s.Series(ctx, q)
	if err != nil {
		return err
	}
	out := csv.NewWriter(w)
	rows := [][]string{{"from", "to", "group", "number", "count", "sum", "average", "min", "max"}}
	float := func(f float64) string { return strconv.FormatFloat(f, 'f', -1, 64) }
	for _, p := range points {
		rows = append(rows, []string{
			p.From.Format(time.RFC3339), p.To.Format(time.RFC3339), cell(p.Group), float(p.Number),
			strconv.FormatInt(p.Count, 10), decimal(p.Sum, p.Scale), float(p.Average()), decimal(p.Min, p.Scale), decimal(p.Max, p.Scale),
		})
	}
	if err := out.WriteAll(rows); err != nil {
		return fmt.Errorf("usage: write CSV: %w", err)
	}
	return nil
}

// cell keeps a spreadsheet from taking a text for a formula.
func cell(s string) string {
	if s != "" && strings.ContainsRune("=+-@\t\r", rune(s[0])) {
		return "'" + s
	}
	return s
}

// decimal spells v units of 10^-scale exactly.
func decimal(v int64, scale int) string {
	if scale == 0 {
		return strconv.FormatInt(v, 10)
	}
	p := pow10(scale)
	sign := ""
	if v < 0 {
		sign, v = "-", -v
	}
	return fmt.Sprintf("%s%d.%0*d", sign, v/p, scale, v%p)
}

package usage

import (
	"context"
	"maps"
	"slices"
	"time"
)

// Query says which events of a meter to look at, and how.
type Query struct {
	// Account is whose events; empty means the whole platform's.
	Account string
	Meter   string
	// From and To are the half-open range. Both zero means 30 days: today and
	// the 29 days before, in Location. To zero means until the end of today.
	From time.Time
	To   time.Time
	// Location is the time zone of days, weeks and months. Nil means
	// Config.Location of the account, or UTC.
	Location *time.Location
	// GroupBy keeps the figures of each value of a property apart; events
	// without the property are left out of the groups. Declared dimensions
	// are read from rollups, other properties from the events.
	GroupBy string
	// Filter leaves out events whose properties don't have these texts; bools
	// are "true" and "false".
	Filter map[string]string
	// Step is the length of a point of a Series: Day when empty.
	Step Step
	// Measure, in a Series or Top, is the measure instead of the value.
	Measure string
}

// Summary is what a meter's events of a range come to.
type Summary struct {
	Account  string           `json:"account,omitempty"`
	Meter    string           `json:"meter"`
	Unit     string           `json:"unit,omitempty"`
	From     time.Time        `json:"from"`
	To       time.Time        `json:"to"`
	Number   float64          `json:"number"` // by the meter's aggregation; for showing
	Value    Stats            `json:"value"`
	Measures map[string]Stats `json:"measures,omitempty"`
	Groups   []Group          `json:"groups,omitempty"`
}

// Group is a Summary's share of one value of the property it is grouped by.
type Group struct {
	Name     string           `json:"name"`
	Number   float64          `json:"number"`
	Value    Stats            `json:"value"`
	Measures map[string]Stats `json:"measures,omitempty"`
}

// Number returns the one number that a meter makes of its events.
func (m Meter) Number(s Stats) float64 {
	switch m.Aggregation {
	case Sum:
		return s.Total()
	case Max:
		return floatOf(s.Max, s.Scale)
	case Min:
		return floatOf(s.Min, s.Scale)
	case Average:
		return s.Average()
	case Latest:
		return floatOf(s.Last, s.Scale)
	case Unique:
		return float64(s.Unique)
	}
	return float64(s.Count)
}

// Summary returns totals, averages, least and greatest of a range, of the
// value and of each measure, grouped by a property if asked.
func (s *Service) Summary(ctx context.Context, q Query) (Summary, error) {
	sums, err := s.summaries(ctx, &q, nil)
	if err != nil {
		return Summary{}, err
	}
	return sums[0], nil
}

// Comparison is a summary beside that of the range before.
type Comparison struct {
	Now    Summary `json:"now"`
	Before Summary `json:"before"`
}

// Change returns by what part the number has changed: 0.25 is a quarter more.
// It is false when there was nothing before.
func (c Comparison) Change() (float64, bool) {
	if c.Before.Number == 0 {
		return 0, false
	}
	return (c.Now.Number - c.Before.Number) / c.Before.Number, true
}

// Compare returns the summary of the range and that of the equally long range
// before it: as many calendar days where the range consists of whole days.
func (s *Service) Compare(ctx context.Context, q Query) (Comparison, error) {
	if err := s.complete(ctx, &q); err != nil {
		return Comparison{}, err
	}
	before := q.From.Add(-q.To.Sub(q.From))
	if isMidnight(q.From, q.Location) && isMidnight(q.To, q.Location) {
		days := daysBetween(q.From, q.To, q.Location)
		before = addDays(q.From, -days, q.Location)
	}
	sums, err := s.summaries(ctx, &q, []time.Time{before, q.From, q.To})
	if err != nil {
		return Comparison{}, err
	}
	return Comparison{Before: sums[0], Now: sums[1]}, nil
}

// summaries returns a summary of each span of the bounds, which are the
// query's own range when nil.
func (s *Service) summaries(ctx context.Context, q *Query, bounds []time.Time) ([]Summary, error) {
	if err := s.complete(ctx, q); err != nil {
		return nil, err
	}
	if bounds == nil {
		bounds = []time.Time{q.From, q.To}
	}
	m := s.meters[q.Meter]
	out := make([]Summary, len(bounds)-1)
	for i := range out {
		out[i] = Summary{Account: q.Account, Meter: m.Name, Unit: m.Unit, From: bounds[i].UTC(), To: bounds[i+1].UTC()}
	}
	groups := make([]map[string]*Group, len(out))
	figures := append([]Measure{{}}, m.Measures...)
	for _, figure := range figures {
		sel := s.selection(*q, m, figure, bounds)
		// The totals come from a selection of their own: events without the
		// property are in no group.
		total := sel
		total.GroupBy = ""
		total.Declared = declared(m, total)
		points, err := s.store.Aggregate(ctx, total)
		if err != nil {
			return nil, err
		}
		for _, p := range points {
			put(&out[p.Span].Value, &out[p.Span].Measures, figure.Property, p.Stats)
		}
		if q.GroupBy == "" {
			continue
		}
		if points, err = s.store.Aggregate(ctx, sel); err != nil {
			return nil, err
		}
		for _, p := range points {
			if groups[p.Span] == nil {
				groups[p.Span] = map[string]*Group{}
			}
			g := groups[p.Span][p.Group]
			if g == nil {
				g = &Group{Name: p.Group}
				groups[p.Span][p.Group] = g
			}
			put(&g.Value, &g.Measures, figure.Property, p.Stats)
		}
	}
	for i := range out {
		out[i].Number = m.Number(out[i].Value)
		for _, name := range slices.Sorted(maps.Keys(groups[i])) {
			g := groups[i][name]
			g.Number = m.Number(g.Value)
			out[i].Groups = append(out[i].Groups, *g)
		}
	}
	return out, nil
}

func put(value *Stats, measures *map[string]Stats, figure string, stats Stats) {
	if figure == "" {
		*value = stats
		return
	}
	if *measures == nil {
		*measures = map[string]Stats{}
	}
	(*measures)[figure] = stats
}

// TimePoint is one step of a series.
type TimePoint struct {
	From   time.Time `json:"from"` // in the query's time zone
	To     time.Time `json:"to"`
	Group  string    `json:"group,omitempty"`
	Number float64   `json:"number"`
	Stats
}

// Series returns a point for each step of the range, also for those without
// events; with GroupBy, for each step and group that has any.
func (s *Service) Series(ctx context.Context, q Query) ([]TimePoint, error) {
	if err := s.complete(ctx, &q); err != nil {
		return nil, err
	}
	bounds, err := q.Step.bounds(q.From, q.To, q.Location)
	if err != nil {
		return nil, err
	}
	m := s.meters[q.Meter]
	figure, err := figureOf(m, q.Measure)
	if err != nil {
		return nil, err
	}
	points, err := s.store.Aggregate(ctx, s.selection(q, m, figure, bounds))
	if err != nil {
		return nil, err
	}
	number := m
	if q.Measure != "" {
		number.Aggregation = Sum
	}
	var out []TimePoint
	at := func(span int) TimePoint {
		return TimePoint{From: bounds[span].In(q.Location), To: bounds[span+1].In(q.Location), Stats: Stats{Scale: figure.Scale}}
	}
	next := 0
	for _, p := range points {
		if q.GroupBy == "" {
			for ; next < p.Span; next++ {
				out = append(out, at(next))
			}
			next = p.Span + 1
		}
		t := at(p.Span)
		t.Group, t.Stats, t.Number = p.Group, p.Stats, number.Number(p.Stats)
		out = append(out, t)
	}
	if q.GroupBy == "" {
		for ; next < len(bounds)-1; next++ {
			out = append(out, at(next))
		}
	}
	return out, nil
}

// Top returns the n accounts with the greatest sums in the range.
func (s *Service) Top(ctx context.Context, q Query, n int) ([]AccountStats, error) {
	if err := s.complete(ctx, &q); err != nil {
		return nil, err
	}
	m := s.meters[q.Meter]
	figure, err := figureOf(m, q.Measure)
	if err != nil {
		return nil, err
	}
	if q.Account != "" || q.GroupBy != "" || n <= 0 {
		return nil, invalid("Top wants no Account and no GroupBy, and n above 0")
	}
	return s.store.Accounts(ctx, s.selection(q, m, figure, []time.Time{q.From, q.To}), n)
}

// NearLimit returns counters of running periods whose use is at least percent
// of their limit, by descending share, at most n.
func (s *Service) NearLimit(ctx context.Context, meter string, percent, n int) ([]Counter, error) {
	if _, err := s.Meter(meter); err != nil {
		return nil, err
	}
	return s.quotas.NearLimit(ctx, meter, s.now(), percent, n)
}

// ActivePoint says how many accounts had events in a range.
type ActivePoint struct {
	From     time.Time `json:"from"`
	To       time.Time `json:"to"`
	Accounts int64     `json:"accounts"`
}

// Active returns how many different accounts had events in each step of the
// range: with Day, Week and Month, the active accounts of a day, week, month.
func (s *Service) Active(ctx context.Context, q Query) ([]ActivePoint, error) {
	bounds, err := s.platformBounds(ctx, &q)
	if err != nil {
		return nil, err
	}
	counts, err := s.store.Active(ctx, q.Meter, bounds)
	if err != nil {
		return nil, err
	}
	out := make([]ActivePoint, len(counts))
	for i, n := range counts {
		out[i] = ActivePoint{From: bounds[i].In(q.Location), To: bounds[i+1].In(q.Location), Accounts: n}
	}
	return out, nil
}

// Cohort is the accounts whose first event of the range lies in one step.
type Cohort struct {
	From time.Time `json:"from"`
	// Active has, for the cohort's own step and each later one, how many of
	// them had events; Active[0] is the cohort's size.
	Active []int64 `json:"active"`
}

// Retention returns a cohort for each step of the range.
func (s *Service) Retention(ctx context.Context, q Query) ([]Cohort, error) {
	bounds, err := s.platformBounds(ctx, &q)
	if err != nil {
		return nil, err
	}
	matrix, err := s.store.Retention(ctx, q.Meter, bounds)
	if err != nil {
		return nil, err
	}
	out := make([]Cohort, len(matrix))
	for i, row := range matrix {
		out[i] = Cohort{From: bounds[i].In(q.Location), Active: row[i:]}
	}
	return out, nil
}

func (s *Service) platformBounds(ctx context.Context, q *Query) ([]time.Time, error) {
	if q.Account != "" || q.GroupBy != "" || len(q.Filter) > 0 || q.Measure != "" {
		return nil, invalid("active accounts and retention want neither Account, GroupBy, Filter nor Measure")
	}
	if err := s.complete(ctx, q); err != nil {
		return nil, err
	}
	return q.Step.bounds(q.From, q.To, q.Location)
}

// complete checks a query and fills in its defaults.
func (s *Service) complete(ctx context.Context, q *Query) error {
	if _, err := s.Meter(q.Meter); err != nil {
		return err
	}
	if q.Account != "" {
		if err := checkAccount(q.Account); err != nil {
			return err
		}
	}
	if q.Location == nil {
		loc, err := s.location(ctx, q.Account)
		if err != nil {
			return err
		}
		q.Location = loc
	}
	if q.Step == "" {
		q.Step = Day
	}
	if q.To.IsZero() {
		q.To = addDays(s.now(), 1, q.Location)
		if q.From.IsZero() {
			q.From = addDays(q.To, -30, q.Location)
		}
	}
	q.From, q.To = q.From.Truncate(time.Microsecond), q.To.Truncate(time.Microsecond)
	if q.From.IsZero() || !q.From.Before(q.To) {
		return invalid("the range is empty: From %v, To %v", q.From, q.To)
	}
	for name := range q.Filter {
		if !validProperty(name) {
			return invalid("Filter names no property: %q", name)
		}
	}
	return nil
}

func (s *Service) selection(q Query, m Meter, figure Measure, bounds []time.Time) Selection {
	sel := Selection{
		Account: q.Account, Meter: m.Name, Figure: figure.Property, Scale: figure.Scale,
		Bounds: make([]time.Time, len(bounds)), GroupBy: q.GroupBy, Filter: q.Filter,
	}
	for i, b := range bounds {
		sel.Bounds[i] = b.UTC()
	}
	if m.Aggregation == Unique && figure.Property == "" {
		sel.Unique = m.Property
	}
	sel.Declared = declared(m, sel)
	return sel
}

// declared reports whether rollups have the answer.
func declared(m Meter, sel Selection) bool {
	names := slices.Collect(maps.Keys(sel.Filter))
	if sel.GroupBy != "" {
		names = append(names, sel.GroupBy)
	}
	return len(names) == 0 || len(names) == 1 && slices.Contains(m.Dimensions, names[0])
}

func figureOf(m Meter, measure string) (Measure, error) {
	if measure == "" {
		return Measure{}, nil
	}
	figure, ok := m.measure(measure)
	if !ok {
		return Measure{}, invalid("meter %q has no measure %q", m.Name, measure)
	}
	return figure, nil
}

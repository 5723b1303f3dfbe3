package gdpr

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// Breach is what is known of a breach of personal data (Art. 33). What isn't
// known yet may follow in a later report (Art. 33(4)).
type Breach struct {
	// From and To are when somebody had access: [From, To).
	From, To time.Time
	// NoticedAt is when the controller became aware of it: the 72 hours begin.
	NoticedAt time.Time
	// Sources, and sources that hold one of Categories, are affected. With
	// neither all are.
	Sources, Categories []string

	Nature       string // what happened
	Contact      string // who answers questions, such as the data protection officer
	Consequences string // what is likely to follow
	Measures     string // what was done and will be
	HighRisk     bool   // for the rights of people: then they are told as well (Art. 34)
	DelayReason  string // why the report comes after 72 hours
}

// BreachReport is a breach with those whom it concerns.
type BreachReport struct {
	Breach
	NotifyBy time.Time // the authority, 72 hours after NoticedAt; holidays count
	MadeAt   time.Time
	Subjects int64 // affected
	Records  int64
	// BySource and ByCategory count the affected, each once.
	BySource   []BreachPart
	ByCategory []BreachPart
	// Missing names the fields that Art. 33(3) wants and that are still empty.
	Missing []string
}

// BreachPart is a part of a breach.
type BreachPart struct {
	Name     string
	Subjects int64
	Records  int64
}

// Affected is one subject of a breach, with the records by source.
type Affected struct {
	Subject    Subject
	Sources    map[string]int64
	Categories []string
}

// BreachReport finds out whom a breach concerns: it walks over the subjects and
// counts in the affected sources the records that were there. A record that
// only has instants from To on came later and doesn't count; one without an
// instant does. What was erased or changed since can't be seen.
//
// Yield, which may be nil, is given each affected subject, for the message of
// Art. 34. Nothing is kept in memory but the counts. The report is noted in the
// audit log by its hash (Art. 33(5)).
func (s *Service) BreachReport(
	ctx context.Context, b Breach, subjects func(ctx context.Context, yield func(Subject) error) error, yield func(Affected) error,
) (BreachReport, error) {
	if b.NoticedAt.IsZero() || b.From.IsZero() || !b.To.After(b.From) {
		return BreachReport{}, fmt.Errorf("%w: a breach needs NoticedAt, and From before To", ErrInvalid)
	}
	var sources []Source
	for _, src := range s.sources {
		d := src.Describe()
		all := len(b.Sources) == 0 && len(b.Categories) == 0
		if all || slices.Contains(b.Sources, d.Name) || slices.ContainsFunc(d.Categories, func(c string) bool { return slices.Contains(b.Categories, c) }) {
			sources = append(sources, src)
		}
	}
	for _, name := range b.Sources {
		if s.source(name) == nil {
			return BreachReport{}, fmt.Errorf("%w: there is no source %q", ErrInvalid, name)
		}
	}
	if len(sources) == 0 {
		return BreachReport{}, fmt.Errorf("%w: no source holds any of %q", ErrInvalid, b.Categories)
	}
	r := BreachReport{Breach: b, NotifyBy: b.NoticedAt.Add(72 * time.Hour), MadeAt: s.now(), Missing: b.missing(s.now())}
	bySource, byCategory := map[string]*BreachPart{}, map[string]*BreachPart{}
	err := subjects(ctx, func(subject Subject) error {
		if !subject.Epoch.IsZero() && !subject.Epoch.Before(b.To) {
			return nil
		}
		one := Affected{Subject: subject, Sources: map[string]int64{}}
		categories := map[string]int64{}
		for _, src := range sources {
			d := src.Describe()
			n, err := recordsBefore(ctx, src, subject, b.To)
			if err != nil {
				return fmt.Errorf("%s: %w", d.Name, err)
			}
			if n == 0 {
				continue
			}
			one.Sources[d.Name] = n
			count(bySource, d.Name, n)
			for _, c := range d.Categories {
				categories[c] += n
			}
			r.Records += n
		}
		if len(one.Sources) == 0 {
			return nil
		}
		r.Subjects++
		for c, n := range categories {
			count(byCategory, c, n)
		}
		if one.Categories = sortedKeys(categories); yield != nil {
			return yield(one)
		}
		return nil
	})
	if err != nil {
		return BreachReport{}, fmt.Errorf("gdpr: breach: %w", err)
	}
	r.BySource, r.ByCategory = parts(bySource), parts(byCategory)
	text, err := json.Marshal(r)
	if err != nil {
		return BreachReport{}, fmt.Errorf("gdpr: breach: %w", err)
	}
	sum := sha256.Sum256(text)
	if err := s.store.AppendAudit(ctx, Entry{At: r.MadeAt, Action: "breach report", Detail: hex.EncodeToString(sum[:])}); err != nil {
		return BreachReport{}, fmt.Errorf("gdpr: breach: %w", err)
	}
	return r, nil
}

func (b Breach) missing(now time.Time) []string {
	var missing []string
	for _, f := range []struct {
		name string
		ok   bool
	}{
		{"Nature", b.Nature != ""},
		{"Contact", b.Contact != ""},
		{"Consequences", b.Consequences != ""},
		{"Measures", b.Measures != ""},
		{"DelayReason", b.DelayReason != "" || !now.After(b.NoticedAt.Add(72*time.Hour))},
	} {
		if !f.ok {
			missing = append(missing, f.name)
		}
	}
	return missing
}

func count(in map[string]*BreachPart, name string, records int64) {
	p := in[name]
	if p == nil {
		p = &BreachPart{Name: name}
		in[name] = p
	}
	p.Subjects++
	p.Records += records
}

func parts(of map[string]*BreachPart) []BreachPart {
	list := []BreachPart{}
	for _, p := range of {
		list = append(list, *p)
	}
	slices.SortFunc(list, func(a, b BreachPart) int { return cmp.Compare(a.Name, b.Name) })
	return list
}

// recordsBefore counts a subject's records that existed before an instant.
func recordsBefore(ctx context.Context, src Source, subject Subject, to time.Time) (int64, error) {
	var n int64
	lines := &lineReader{each: func(line []byte) error {
		var fields map[string]any
		if err := json.Unmarshal(line, &fields); err != nil {
			return err
		}
		if existed(fields, to) {
			n++
		}
		return nil
	}}
	err := src.Export(ctx, subject, &Sink{
		row: func(_ string, fields map[string]any) error {
			if existed(fields, to) {
				n++
			}
			return ctx.Err()
		},
		raw:  func(string) (io.Writer, error) { return lines, ctx.Err() },
		file: func(string, io.Reader) error { n++; return ctx.Err() },
		name: func(id string) string { return id },
	})
	return n, err
}

// existed reports whether a record has an instant before to, or none at all.
func existed(fields map[string]any, to time.Time) bool {
	dated := false
	for _, v := range fields {
		t, ok := v.(time.Time)
		if text, isText := v.(string); isText {
			var err error
			t, err = time.Parse(time.RFC3339Nano, text)
			if err != nil {
				t, err = time.Parse("2006-01-02T15:04:05.999999999", text) // without a time zone, as a database has it
			}
			ok = err == nil
		}
		if ok && t.Before(to) {
			return true
		}
		dated = dated || ok
	}
	return !dated
}

// lineReader hands over whole lines of what is written to it.
type lineReader struct {
	each func(line []byte) error
	rest []byte
}

func (l *lineReader) Write(p []byte) (int, error) {
	l.rest = append(l.rest, p...)
	left := l.rest
	for {
		line, after, ended := bytes.Cut(left, []byte{'\n'})
		if !ended {
			l.rest = append(l.rest[:0], left...)
			return len(p), nil
		}
		if len(bytes.TrimSpace(line)) > 0 {
			if err := l.each(line); err != nil {
				return 0, err
			}
		}
		left = after
	}
}

// WriteMarkdown writes the report as a draft of the notification to the
// authority. It names no subject.
func (r BreachReport) WriteMarkdown(w io.Writer) error {
	var b strings.Builder
	at := func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") }
	or := func(text string) string {
		if text == "" {
			return "(not known yet, follows)"
		}
		return text
	}
	fmt.Fprintf(&b, "# Breach of personal data (Art. 33 GDPR)\n\n")
	fmt.Fprintf(&b, "Noticed %s, to be notified by %s, this report made %s.\n\n", at(r.NoticedAt), at(r.NotifyBy), at(r.MadeAt))
	if r.MadeAt.After(r.NotifyBy) {
		fmt.Fprintf(&b, "Reason for the delay: %s\n\n", or(r.DelayReason))
	}
	fmt.Fprintf(&b, "- Nature: %s\n- Access from %s until %s\n- Persons concerned: %d\n- Records: %d\n- Contact: %s\n- Likely consequences: %s\n- Measures: %s\n",
		or(r.Nature), at(r.From), at(r.To), r.Subjects, r.Records, or(r.Contact), or(r.Consequences), or(r.Measures))
	told := "not needed: no high risk"
	if r.HighRisk {
		told = "without delay (Art. 34)"
	}
	fmt.Fprintf(&b, "- Message to the persons: %s\n", told)
	for _, part := range []struct {
		title string
		list  []BreachPart
	}{{"Category of data", r.ByCategory}, {"Source", r.BySource}} {
		fmt.Fprintf(&b, "\n| %s | Persons | Records |\n|---|---:|---:|\n", part.title)
		for _, p := range part.list {
			fmt.Fprintf(&b, "| %s | %d | %d |\n", p.Name, p.Subjects, p.Records)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

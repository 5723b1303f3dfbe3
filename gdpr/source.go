package gdpr

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// Subject is the natural person of a request, with everything that sources
// need to find that person.
type Subject struct {
	// ID is the application's own ID of the person, the account of the other
	// packages.
	ID string `json:"id"`
	// Epoch is when the person came, such as the account's creation. It tells
	// the person apart from a later one who got the same number or address.
	Epoch time.Time `json:"epoch"`
	// Identifiers are all others by which sources hold the person: addresses,
	// past ones too, and the IDs of processors.
	Identifiers []Identifier `json:"identifiers,omitempty"`
	// Pseudonym is set for an erasure: a random name, the same for all sources
	// and attempts, for rows that are kept and must still be one person's.
	// Nobody can trace it back.
	Pseudonym string `json:"pseudonym,omitempty"`
}

// Identifier is one name of a subject, such as {"email", "ada@example.com"}.
type Identifier struct {
	Kind  string `json:"kind"`
	Value string `json:"value"`
}

// Values returns the subject's identifiers of a kind; "id" is the ID itself.
func (s Subject) Values(kind string) []string {
	if kind == "id" {
		return []string{s.ID}
	}
	var values []string
	for _, i := range s.Identifiers {
		if i.Kind == kind {
			values = append(values, i.Value)
		}
	}
	return values
}

// Source holds personal data: a table, a bucket, a processor, a package of
// this module. Implementations are safe for concurrent use.
type Source interface {
	// Describe says what the source holds. It is constant.
	Describe() Descriptor
	// Export hands everything about the subject to the sink. It may be called
	// again from the start; nothing about the subject is not an error.
	Export(ctx context.Context, subject Subject, sink *Sink) error
	// Erase does one bounded page of the erasure, in one transaction where
	// the source has such, and says where the next one begins. It is
	// idempotent: after a crash the same page comes again, and what is gone
	// already counts as erased. What it can't erase is an error, never an
	// outcome.
	Erase(ctx context.Context, subject Subject, cursor string) (Outcome, error)
}

// Descriptor declares what a source holds and why: the register of processing
// (Art. 30) and the information of Art. 15(1) are made of it.
type Descriptor struct {
	Name       string   // unique, "billing"; names its files in an export
	Categories []string // of data: "contact", "payment", "usage"
	Purpose    string   // what it is processed for
	Basis      Basis    // on what legal ground
	Recipients []string // processors and others who receive it
	Transfer   string   // third countries and the safeguard; empty: none
	Retention  string   // in words: "until the account is erased"
	Origin     string   // where it comes from; empty: from the subject
	// Portable says that the subject gave the data or was observed by it, so
	// that it belongs to an export under Art. 20 as well as Art. 15.
	Portable bool
	// Tables are the database tables that the source covers, for the coverage
	// check.
	Tables []string
	// After names sources that must be erased before this one: the login goes
	// last.
	After []string
	// Allow names fields that look like credentials and are none, each with
	// the reason. "*" allows all values of the source, such as texts that
	// users wrote themselves, and no names.
	Allow map[string]string
}

// Basis is a legal ground of Art. 6(1).
type Basis string

// The legal grounds of Art. 6(1) GDPR.
const (
	Consent            Basis = "consent"              // (a)
	Contract           Basis = "contract"             // (b)
	LegalObligation    Basis = "legal obligation"     // (c)
	VitalInterests     Basis = "vital interests"      // (d)
	PublicTask         Basis = "public task"          // (e)
	LegitimateInterest Basis = "legitimate interests" // (f)
)

// Outcome says what a page of an erasure did.
type Outcome struct {
	Removed    int64      `json:"removed,omitempty"`
	Anonymised int64      `json:"anonymised,omitempty"`
	Retained   []Retained `json:"retained,omitempty"`
	Next       string     `json:"next,omitempty"` // the cursor of the next page
	Done       bool       `json:"done"`           // there is no next page
}

// Retained is data that the law obliges or allows to keep, with the person
// detached as far as the law lets.
type Retained struct {
	Record  string    `json:"record"` // "invoices"
	Count   int64     `json:"count"`
	Ground  string    `json:"ground"`  // "tax law"
	Article string    `json:"article"` // "Art. 17(3)(b) GDPR, § 147 AO"
	Until   time.Time `json:"until"`
	// Ref is how the source finds the records again: the subject's pseudonym,
	// for example. It must not name the person.
	Ref string `json:"ref,omitempty"`
	// At is when they were retained, RemovedAt when they were removed for
	// good. The service sets both.
	At        time.Time `json:"at,omitzero"`
	RemovedAt time.Time `json:"removed_at,omitzero"`
	ToldAt    time.Time `json:"told_at,omitzero"` // when somebody was told to remove them by hand
}

// Expirer is a Source that removes what it retained when its time has ended.
// What a source without it retains is removed by a person: see Config.Remind
// and Service.Removed.
type Expirer interface {
	// Expire does one bounded page of the removal of what Erase reported as
	// retained, like Erase. An outcome with Retained says that the time was
	// extended, to its Until. Records that aren't the source's to remove, such
	// as those of a processor, are errors.ErrUnsupported.
	Expire(ctx context.Context, kept Retained, cursor string) (Outcome, error)
}

// Sweeper is a Source that removes what is older than it declares, of whomever,
// with no request: Service.Purge calls it.
type Sweeper interface {
	Sweep(ctx context.Context, now time.Time) (removed int64, err error)
}

// Rectifier is a Source that can correct data of a subject, under the names
// under which it exports them. It returns how many records it changed; names
// that it doesn't hold are not an error.
type Rectifier interface {
	Rectify(ctx context.Context, subject Subject, changes map[string]string) (int64, error)
}

// Sink takes the export of one source.
type Sink struct {
	row  func(record string, fields map[string]any) error
	raw  func(record string) (io.Writer, error)
	file func(name string, r io.Reader) error
	name func(id string) string
}

// Row adds one record of a kind, such as ("invoices", {"number": …}). Values
// are what encoding/json takes; integers beyond 2^53 become strings, so that
// no reader rounds them. A field whose name or value looks like a credential
// stops the export with ErrSecret.
func (s *Sink) Row(record string, fields map[string]any) error { return s.row(record, fields) }

// Lines returns a writer for a kind of record that takes JSON Lines as they
// are, one object a line: for sources that stream millions of rows which their
// database has rendered. Credentials are looked for in the stream, too.
func (s *Sink) Lines(record string) (io.Writer, error) { return s.raw(record) }

// File adds a file, such as a picture that the subject uploaded. The name is
// used for display only; the path in the archive is ours.
func (s *Sink) File(name string, r io.Reader) error { return s.file(name, r) }

// Other returns a name for another person, the same for the same ID within
// this export and without a meaning outside of it: "person-3".
func (s *Sink) Other(id string) string { return s.name(id) }

// ExportEraser is the shape in which this module's other packages offer their
// personal data, in built-in types only.
type ExportEraser interface {
	ExportSubject(ctx context.Context, account string, emit func(record string, fields map[string]any) error) error
	// EraseSubject returns how many records of each kind it erased, or keeps:
	// the kinds that it keeps are those that Adapt is told a ground for.
	EraseSubject(ctx context.Context, account string) (map[string]int64, error)
}

// Retain says why and until when a kind of record outlives the erasure.
type Retain struct {
	Ground  string
	Article string
	Until   func(now time.Time) time.Time
	// ByHand says that the records are a processor's: when their time has
	// ended, a person has them removed there. Itself says that they go there
	// by themselves, as logs do.
	ByHand, Itself bool
}

// Adapt makes a Source of a package's personal data. The records named in
// retain are reported as retained on their ground, all others as removed. Data
// that has ExpireErased, as package billing has, removes them when their time
// has ended. A day is added to the time, for what the end of a contract itself
// leads to.
func Adapt(d Descriptor, data ExportEraser, retain map[string]Retain, now func() time.Time) Source {
	if now == nil {
		now = time.Now
	}
	return adapted{d, data, retain, now}
}

type adapted struct {
	descriptor Descriptor
	data       ExportEraser
	retain     map[string]Retain
	now        func() time.Time
}

func (a adapted) Describe() Descriptor { return a.descriptor }

func (a adapted) Export(ctx context.Context, s Subject, sink *Sink) error {
	return a.data.ExportSubject(ctx, s.ID, sink.Row)
}

func (a adapted) Erase(ctx context.Context, s Subject, _ string) (Outcome, error) {
	counts, err := a.data.EraseSubject(ctx, s.ID)
	if err != nil {
		return Outcome{}, err
	}
	out := Outcome{Done: true}
	for _, record := range sortedKeys(counts) {
		n := counts[record]
		rule, kept := a.retain[record]
		if !kept {
			out.Removed += n
			continue
		}
		if n > 0 {
			now := a.now().UTC()
			out.Retained = append(out.Retained, Retained{
				Record: record, Count: n, Ground: rule.Ground, Article: rule.Article, Until: rule.Until(now.AddDate(0, 0, 1)), At: now,
			})
		}
	}
	return out, nil
}

// Expire implements Expirer.
func (a adapted) Expire(ctx context.Context, kept Retained, _ string) (Outcome, error) {
	data, ok := a.data.(interface {
		ExpireErased(ctx context.Context, before time.Time) (map[string]int64, error)
	})
	rule, known := a.retain[kept.Record]
	if known && rule.Itself {
		return Outcome{Done: true}, nil
	}
	if !ok || !known || rule.ByHand {
		return Outcome{}, errors.ErrUnsupported
	}
	before := kept.At.AddDate(0, 0, 1)
	if until := rule.Until(before); until.After(a.now()) {
		kept.Until = until
		return Outcome{Done: true, Retained: []Retained{kept}}, nil
	}
	counts, err := data.ExpireErased(ctx, before)
	return Outcome{Done: true, Removed: counts[kept.Record]}, err
}

// arrange checks the sources and returns them in the order in which they are
// erased: each after all that its descriptor names, else by name.
func arrange(sources []Source) ([]Source, error) {
	byName := map[string]Source{}
	for _, s := range sources {
		d := s.Describe()
		if !validName(d.Name) {
			return nil, fmt.Errorf("%w: source name %q: use lower-case letters, digits and _", ErrInvalid, d.Name)
		}
		if _, dup := byName[d.Name]; dup {
			return nil, fmt.Errorf("%w: two sources are named %q", ErrInvalid, d.Name)
		}
		if d.Purpose == "" || d.Basis == "" || len(d.Categories) == 0 || d.Retention == "" {
			return nil, fmt.Errorf("%w: source %q must declare categories, purpose, basis and retention (Art. 30)", ErrInvalid, d.Name)
		}
		byName[d.Name] = s
	}
	ordered := make([]Source, 0, len(sources))
	const visiting, done = 1, 2
	state := map[string]int{}
	var visit func(name string, path []string) error
	visit = func(name string, path []string) error {
		switch state[name] {
		case done:
			return nil
		case visiting:
			return fmt.Errorf("%w: sources wait for each other: %s", ErrInvalid, strings.Join(append(path, name), " → "))
		}
		state[name] = visiting
		for _, dep := range sorted(byName[name].Describe().After) {
			if byName[dep] == nil {
				return fmt.Errorf("%w: source %q comes after %q, which isn't registered", ErrInvalid, name, dep)
			}
			if err := visit(dep, append(path, name)); err != nil {
				return err
			}
		}
		state[name] = done
		ordered = append(ordered, byName[name])
		return nil
	}
	for _, name := range sortedKeys(byName) {
		if err := visit(name, nil); err != nil {
			return nil, err
		}
	}
	return ordered, nil
}

func validName(s string) bool {
	if s == "" || len(s) > 63 {
		return false
	}
	for _, r := range s {
		if (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '_' {
			return false
		}
	}
	return true
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K {
	keys := make([]K, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func sorted(s []string) []string {
	s = slices.Clone(s)
	slices.Sort(s)
	return s
}

package mailer

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"reflect"
	"regexp"
	"slices"
	"time"
)

// Class says how much a mail matters, and so what may keep it back.
type Class int

// The classes. The zero value is none of them: a kind has to say.
const (
	// Lifecycle mail is wanted by us (tips, reminders, news). It carries a
	// one-click unsubscribe, obeys caps and quiet hours, and every suppression
	// stops it.
	Lifecycle Class = iota + 1
	// Transactional mail answers something that the person did or has to
	// know: receipts, failed payments, exports. An unsubscribe does not stop
	// it; a hard bounce or a complaint does.
	Transactional
	// Security mail is sent whatever happened before: keys, erasure.
	Security
)

func (c Class) String() string {
	switch c {
	case Lifecycle:
		return "lifecycle"
	case Transactional:
		return "transactional"
	case Security:
		return "security"
	}
	return "unclassified"
}

// OnAmbiguous says what to do when nobody can know whether a mail went out:
// the connection broke after its last byte, or the worker died while sending.
type OnAmbiguous int

// What to do on an ambiguous outcome.
const (
	// Resend sends again, with the same Message-ID: never lost, hardly ever twice.
	Resend OnAmbiguous = iota
	// Hold keeps the mail for somebody to decide: never twice, and not lost
	// either. It costs one more write to the store for each send.
	Hold
)

// Cap bounds the mails of one account in one stream. Lifecycle only.
type Cap struct {
	Count int // at least 1
	Per   time.Duration
}

// QuietHours is a range of the recipient's clock in which no lifecycle mail is
// sent: From 22, To 8 means from ten at night to eight in the morning. From
// equal to To means none.
type QuietHours struct {
	From, To int // 0 to 23
}

// Spec declares a kind of mail. T is the type of its variables: a struct that
// survives JSON, with exported fields.
type Spec[T any] struct {
	// Name is the kind's stable name, such as "usage.upgrade_reminder":
	// lower-case words with dots and underscores, at most 60 characters.
	Name string
	// Title says in a few words what it is, for previews. Optional.
	Title string
	// Stream is what a person unsubscribes from, such as "tips".
	Stream string
	Class  Class

	// Templates holds, for each locale, Name.locale.txt, and optionally
	// Name.locale.html and a layout.html. See the package documentation.
	Templates fs.FS
	// Locales in order of preference: the first one is used for people whose
	// locale isn't there. Empty means "en".
	Locales []string
	// Sample feeds previews, lints and the checks at definition. Every branch
	// of the templates deserves a sample: put further ones in Samples.
	Sample  T
	Samples map[string]T

	// TTL is how long the mail is worth sending. Zero means 72 hours.
	TTL time.Duration
	// OnAmbiguous is Resend by default.
	OnAmbiguous OnAmbiguous
	// Coalesce holds a mail back for a while; a further one about the same
	// account and topic takes its place. Zero means send at once.
	Coalesce time.Duration
	// Group is what coalesces; empty means kinds of this Name.
	Group string
	// Supersedes are kinds that have become pointless: "payment.recovered"
	// supersedes "payment.failed".
	Supersedes []string
	// Cap and QuietHours are for Lifecycle only.
	Cap        Cap
	QuietHours QuietHours

	// StillRelevant, if set, is asked right before the mail is sent. False
	// drops it; an error puts it off.
	StillRelevant func(ctx context.Context, account string, data T) (bool, error)
}

// Kind is a defined kind of mail. It is immutable and safe for concurrent use.
type Kind[T any] struct {
	spec Spec[T]
	def  *definition
}

// AnyKind is a *Kind of any type.
type AnyKind interface {
	// Name returns the kind's name.
	Name() string
	definition() *definition
}

// definition is a kind without its type parameter.
type definition struct {
	name, title, stream string
	class               Class
	locales             []string
	parsed              map[string]*parsed // by locale
	samples             []sample
	ttl, coalesce       time.Duration
	group               string
	supersedes          []string
	onAmbiguous         OnAmbiguous
	cap                 Cap
	quiet               QuietHours
	decode              func([]byte) (any, error)
	relevant            func(ctx context.Context, account string, data any) (bool, error)
}

type sample struct {
	name string
	data any
}

var (
	kindName   = regexp.MustCompile(`^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*$`)
	streamName = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,39}$`)
	localeName = regexp.MustCompile(`^[a-z]{2,3}(-[A-Z]{2})?$`)
)

// Define checks a kind and compiles its templates. Whatever could go wrong
// when it is sent goes wrong here: a missing part, an unknown variable in any
// branch, a lifecycle mail whose layout shows no unsubscribe link, a sample that
// doesn't survive JSON, every finding of [Lint]. The errors match
// [ErrDefinition].
func Define[T any](spec Spec[T]) (*Kind[T], error) {
	fail := func(format string, args ...any) (*Kind[T], error) {
		return nil, &DefinitionError{Kind: spec.Name, Reason: fmt.Sprintf(format, args...)}
	}
	if !kindName.MatchString(spec.Name) || len(spec.Name) > 60 {
		return fail("Name must be lower-case words with dots and underscores")
	}
	if !streamName.MatchString(spec.Stream) {
		return fail("Stream must be a lower-case word of at most 40 characters")
	}
	if spec.Class < Lifecycle || spec.Class > Security {
		return fail("Class must be Lifecycle, Transactional or Security")
	}
	if spec.TTL < 0 || spec.Coalesce < 0 {
		return fail("TTL and Coalesce can't be negative")
	}
	if spec.TTL == 0 {
		spec.TTL = 72 * time.Hour
	}
	if spec.Coalesce >= spec.TTL {
		return fail("Coalesce must be shorter than TTL")
	}
	if spec.OnAmbiguous != Resend && spec.OnAmbiguous != Hold {
		return fail("OnAmbiguous must be Resend or Hold")
	}
	if spec.Class != Lifecycle && (spec.Cap != Cap{} || spec.QuietHours != QuietHours{}) {
		return fail("Cap and QuietHours are for Lifecycle mail")
	}
	if (spec.Cap != Cap{}) && (spec.Cap.Count < 1 || spec.Cap.Per <= 0) {
		return fail("Cap needs a Count of at least 1 and a Per above zero")
	}
	if q := spec.QuietHours; q.From < 0 || q.From > 23 || q.To < 0 || q.To > 23 {
		return fail("QuietHours are hours from 0 to 23")
	}
	if spec.Templates == nil {
		return fail("Templates is missing")
	}
	if len(spec.Locales) == 0 {
		spec.Locales = []string{"en"}
	}
	if slices.Contains(spec.Supersedes, spec.Name) {
		return fail("a kind can't supersede itself: use Coalesce")
	}
	samples, err := samplesOf(spec)
	if err != nil {
		return fail("%v", err)
	}

	def := &definition{
		name: spec.Name, title: spec.Title, stream: spec.Stream, class: spec.Class, locales: slices.Clone(spec.Locales),
		parsed: make(map[string]*parsed, len(spec.Locales)), samples: samples, ttl: spec.TTL,
		coalesce: spec.Coalesce, group: spec.Group, supersedes: slices.Clone(spec.Supersedes),
		onAmbiguous: spec.OnAmbiguous, cap: spec.Cap, quiet: spec.QuietHours, decode: decodeAs[T],
	}
	if def.group == "" {
		def.group = def.name
	}
	if spec.StillRelevant != nil {
		def.relevant = func(ctx context.Context, account string, data any) (bool, error) {
			return spec.StillRelevant(ctx, account, data.(T))
		}
	}
	for _, locale := range spec.Locales {
		if !localeName.MatchString(locale) {
			return fail("locale %q is not of the form en or en-GB", locale)
		}
		p, err := parseKind(spec.Templates, spec.Name, locale, reflect.TypeFor[T]())
		if err != nil {
			return nil, err
		}
		def.parsed[locale] = p
	}
	if err := def.prove(); err != nil {
		return nil, err
	}
	return &Kind[T]{spec: spec, def: def}, nil
}

// With defines the kind again with a change, such as a shipped kind with a
// StillRelevant of one's own. The receiver stays as it is.
func (k *Kind[T]) With(change func(*Spec[T])) (*Kind[T], error) {
	spec := k.spec
	change(&spec)
	return Define(spec)
}

// Name returns the kind's name.
func (k *Kind[T]) Name() string { return k.def.name }

func (k *Kind[T]) definition() *definition { return k.def }

// samplesOf collects the samples and checks that T survives the outbox.
func samplesOf[T any](spec Spec[T]) ([]sample, error) {
	if reflect.TypeFor[T]().Kind() != reflect.Struct {
		return nil, fmt.Errorf("%s is not a struct", reflect.TypeFor[T]())
	}
	names := make([]string, 0, len(spec.Samples))
	for name := range spec.Samples {
		names = append(names, name)
	}
	slices.Sort(names)
	out := []sample{{"sample", spec.Sample}}
	for _, name := range names {
		out = append(out, sample{name, spec.Samples[name]})
	}
	for _, s := range out {
		b, err := json.Marshal(s.data)
		if err != nil {
			return nil, fmt.Errorf("%s can't be written as JSON: %w", s.name, err)
		}
		back, err := decodeAs[T](b)
		if err != nil {
			return nil, fmt.Errorf("%s can't be read back from JSON: %w", s.name, err)
		}
		again, err := json.Marshal(back)
		if err != nil || !bytes.Equal(b, again) || hiddenFields(reflect.TypeFor[T]()) {
			return nil, fmt.Errorf("%s does not survive JSON: every field must be exported, and none left out", s.name)
		}
	}
	return out, nil
}

// hiddenFields reports whether JSON would lose a field of the struct.
func hiddenFields(t reflect.Type) bool {
	for i := range t.NumField() {
		f := t.Field(i)
		if !f.IsExported() || f.Tag.Get("json") == "-" {
			return true
		}
	}
	return false
}

func decodeAs[T any](b []byte) (any, error) {
	var v T
	if err := json.Unmarshal(b, &v); err != nil {
		return nil, fmt.Errorf("mailer: stored variables: %w", err)
	}
	return v, nil
}

// locale picks the best of a kind's locales: exact, then the language, then
// the first.
func (d *definition) locale(want string) string {
	if _, ok := d.parsed[want]; ok {
		return want
	}
	language, _, _ := cutLocale(want)
	for _, l := range d.locales {
		if have, _, _ := cutLocale(l); have == language && language != "" {
			return l
		}
	}
	return d.locales[0]
}

func cutLocale(s string) (language, region string, ok bool) {
	for i := range len(s) {
		if s[i] == '-' || s[i] == '_' {
			return s[:i], s[i+1:], true
		}
	}
	return s, "", false
}

func language(locale string) string {
	l, _, _ := cutLocale(locale)
	return l
}

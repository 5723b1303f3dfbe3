package gdpr

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/csv"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash"
	"html/template"
	"io"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
)

// ExportTo writes everything that the sources hold about the subject as a ZIP
// archive: for each source and kind of record a file of JSON Lines and one of
// CSV, the information of Art. 15(1), a manifest with the hash of each file,
// and an index that a person can read. Memory use doesn't depend on the amount
// of data; records are spooled to temporary files, which are gone at the end.
// With Portability only the sources that are portable are included.
//
// It returns the rows of each source. An error leaves an archive that can't be
// opened.
func (s *Service) ExportTo(ctx context.Context, w io.Writer, kind Kind, subject Subject) (map[string]int64, error) {
	rows := map[string]int64{}
	err := s.export(ctx, w, kind, subject, func(source string, n int64) error { rows[source] = n; return nil })
	if err != nil {
		return nil, err
	}
	return rows, nil
}

// export is ExportTo with word of each source that is done.
func (s *Service) export(ctx context.Context, w io.Writer, kind Kind, subject Subject, done func(source string, rows int64) error) error {
	a := &archive{zip: zip.NewWriter(w), date: s.now(), others: map[string]string{}}
	defer a.discard()
	m := manifest{Format: 1, ExportDate: a.date, Kind: kind, Subject: subject.ID}
	for _, src := range s.sources {
		d := src.Describe()
		if kind == Portability && !d.Portable {
			continue
		}
		part := manifestSource{
			Name: d.Name, Purpose: d.Purpose, Basis: d.Basis, Categories: d.Categories, Recipients: d.Recipients,
			Transfer: d.Transfer, Retention: d.Retention, Origin: d.Origin,
		}
		n, files, err := a.source(ctx, src, d, subject)
		if err != nil {
			return fmt.Errorf("gdpr: export %s: %w", d.Name, err)
		}
		part.Rows, part.Files = n, files
		m.Sources = append(m.Sources, part)
		if err := done(d.Name, n); err != nil {
			return err
		}
	}
	if err := a.finish(m); err != nil {
		return fmt.Errorf("gdpr: export: %w", err)
	}
	return nil
}

// ExportSource writes the archive of one source alone, unaccompanied by the
// others: for tests of sources, and for a look at what one holds.
func ExportSource(ctx context.Context, w io.Writer, src Source, subject Subject) error {
	a := &archive{zip: zip.NewWriter(w), others: map[string]string{}}
	defer a.discard()
	d := src.Describe()
	n, files, err := a.source(ctx, src, d, subject)
	if err != nil {
		return fmt.Errorf("gdpr: export %s: %w", d.Name, err)
	}
	return a.finish(manifest{Format: 1, Kind: Access, Subject: subject.ID, Sources: []manifestSource{{Name: d.Name, Rows: n, Files: files}}})
}

type manifest struct {
	Format     int              `json:"format"`
	ExportDate time.Time        `json:"export_date"`
	Kind       Kind             `json:"kind"`
	Subject    string           `json:"subject"`
	Sources    []manifestSource `json:"sources"`
}

type manifestSource struct {
	Name       string         `json:"name"`
	Purpose    string         `json:"purpose"`
	Basis      Basis          `json:"basis"`
	Categories []string       `json:"categories"`
	Recipients []string       `json:"recipients,omitempty"`
	Transfer   string         `json:"transfer,omitempty"`
	Retention  string         `json:"retention"`
	Origin     string         `json:"origin,omitempty"`
	Rows       int64          `json:"rows"`
	Files      []manifestFile `json:"files,omitempty"`
}

type manifestFile struct {
	Path   string   `json:"path"`
	Title  string   `json:"title,omitempty"` // the name that the source gave
	Rows   int64    `json:"rows,omitempty"`
	Bytes  int64    `json:"bytes"`
	SHA256 string   `json:"sha256"`
	Fields []string `json:"fields,omitempty"`
}

// archive writes a ZIP. A ZIP takes one file at a time, sources emit kinds of
// records in any order: rows are spooled, lines and files go straight through.
type archive struct {
	zip    *zip.Writer
	date   time.Time
	others map[string]string
	temp   []*os.File
}

// spool collects the rows of one kind of record.
type spool struct {
	json, csv *os.File
	enc       *json.Encoder
	table     *csv.Writer
	fields    []string
	rows      int64
}

// entry is an open file of the ZIP.
type entry struct {
	meta manifestFile
	to   io.Writer
	sum  hash.Hash
}

func (e *entry) Write(p []byte) (int, error) {
	n, err := e.to.Write(p)
	e.sum.Write(p[:n])
	e.meta.Bytes += int64(n)
	e.meta.Rows += int64(bytes.Count(p[:n], []byte{'\n'}))
	return n, err
}

func (e *entry) done() manifestFile {
	e.meta.SHA256 = hex.EncodeToString(e.sum.Sum(nil))
	return e.meta
}

func (a *archive) create(name string) (*entry, error) {
	w, err := a.zip.CreateHeader(&zip.FileHeader{Name: name, Method: zip.Deflate, Modified: a.date})
	if err != nil {
		return nil, err
	}
	return &entry{meta: manifestFile{Path: name}, to: w, sum: sha256.New()}, nil
}

func (a *archive) source(ctx context.Context, src Source, d Descriptor, subject Subject) (int64, []manifestFile, error) {
	var (
		files  []manifestFile
		rows   int64
		open   *entry
		spools = map[string]*spool{}
		nFiles int
		used   = map[string]bool{}
	)
	closeOpen := func() {
		if open != nil {
			meta := open.done()
			rows += meta.Rows
			files = append(files, meta)
			open = nil
		}
	}
	kindOf := func(record string) error {
		if !validName(record) {
			return fmt.Errorf("%w: record name %q: use lower-case letters, digits and _", ErrInvalid, record)
		}
		return ctx.Err()
	}
	_, allowAll := d.Allow["*"]
	sink := &Sink{
		row: func(record string, fields map[string]any) error {
			if err := kindOf(record); err != nil {
				return err
			}
			sp := spools[record]
			if sp == nil {
				var err error
				if sp, err = a.spool(fields); err != nil {
					return err
				}
				spools[record] = sp
			}
			return sp.add(d, fields)
		},
		raw: func(record string) (io.Writer, error) {
			if err := kindOf(record); err != nil {
				return nil, err
			}
			if used[record] {
				return nil, fmt.Errorf("%w: Lines(%q) was called before", ErrInvalid, record)
			}
			used[record] = true
			closeOpen()
			e, err := a.create(path.Join("data", d.Name, record+".jsonl"))
			if err != nil {
				return nil, err
			}
			open = e
			return &tripwire{to: e, source: d.Name, off: allowAll}, nil
		},
		file: func(name string, r io.Reader) error {
			closeOpen()
			nFiles++
			// The path is ours: a name from outside could climb out of the
			// folder into which somebody unpacks.
			e, err := a.create(fmt.Sprintf("files/%s/%06d%s", d.Name, nFiles, extension(name)))
			if err != nil {
				return err
			}
			if _, err := io.Copy(e, r); err != nil {
				return err
			}
			meta := e.done()
			meta.Rows, meta.Title = 0, name
			files = append(files, meta)
			return ctx.Err()
		},
		name: func(id string) string {
			if id == subject.ID {
				return id
			}
			if a.others[id] == "" {
				a.others[id] = "person-" + strconv.Itoa(len(a.others)+1)
			}
			return a.others[id]
		},
	}
	if err := src.Export(ctx, subject, sink); err != nil {
		return 0, nil, err
	}
	closeOpen()
	for _, record := range sortedKeys(spools) {
		if used[record] {
			return 0, nil, fmt.Errorf("%w: source emits %q both as rows and as lines", ErrInvalid, record)
		}
		sp := spools[record]
		if err := sp.flush(); err != nil {
			return 0, nil, err
		}
		for ext, f := range map[string]*os.File{".jsonl": sp.json, ".csv": sp.csv} {
			meta, err := a.copy(path.Join("data", d.Name, record+ext), f)
			if err != nil {
				return 0, nil, err
			}
			meta.Rows, meta.Fields = sp.rows, sp.fields
			files = append(files, meta)
		}
		rows += sp.rows
	}
	slices.SortFunc(files, func(x, y manifestFile) int { return strings.Compare(x.Path, y.Path) })
	return rows, files, nil
}

func (a *archive) spool(fields map[string]any) (*spool, error) {
	sp := &spool{fields: sortedKeys(fields)}
	for _, f := range []**os.File{&sp.json, &sp.csv} {
		file, err := os.CreateTemp("", "export-*")
		if err != nil {
			return nil, err
		}
		a.temp = append(a.temp, file)
		*f = file
	}
	sp.enc = json.NewEncoder(sp.json)
	sp.enc.SetEscapeHTML(false)
	sp.table = csv.NewWriter(sp.csv)
	// Fields that later rows have and the first one lacks go into the last
	// column as JSON: nothing is lost in the table either.
	return sp, sp.table.Write(append(slices.Clone(sp.fields), "more"))
}

func (sp *spool) add(d Descriptor, fields map[string]any) error {
	clean := make(map[string]any, len(fields))
	for name, v := range fields {
		if _, ok := d.Allow[name]; !ok && secretName(name) {
			return fmt.Errorf("%w: field %q of source %q: leave it out, or list it under Descriptor.Allow", ErrSecret, name, d.Name)
		}
		clean[name] = exact(v)
	}
	for name, v := range clean {
		_, all := d.Allow["*"]
		if _, ok := d.Allow[name]; ok || all {
			continue
		}
		b, err := json.Marshal(v)
		if err != nil {
			return fmt.Errorf("field %q: %w", name, err)
		}
		if mark := secretMark(b); mark != "" {
			return fmt.Errorf("%w: field %q of source %q holds %q", ErrSecret, name, d.Name, mark)
		}
	}
	if err := sp.enc.Encode(clean); err != nil {
		return err
	}
	line := make([]string, 0, len(sp.fields)+1)
	for _, f := range sp.fields {
		line = append(line, cell(clean[f]))
		delete(clean, f)
	}
	more := ""
	if len(clean) > 0 {
		more = cell(clean)
	}
	sp.rows++
	return sp.table.Write(append(line, more))
}

func (sp *spool) flush() error {
	sp.table.Flush()
	return sp.table.Error()
}

func (a *archive) copy(name string, f *os.File) (manifestFile, error) {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return manifestFile{}, err
	}
	e, err := a.create(name)
	if err != nil {
		return manifestFile{}, err
	}
	if _, err := io.Copy(e, f); err != nil {
		return manifestFile{}, err
	}
	return e.done(), nil
}

func (a *archive) discard() {
	for _, f := range a.temp {
		_ = f.Close()
		_ = os.Remove(f.Name())
	}
}

//go:embed index.html
var indexHTML string

var indexTemplate = template.Must(template.New("index.html").Parse(indexHTML))

func (a *archive) finish(m manifest) error {
	e, err := a.create("manifest.json")
	if err != nil {
		return err
	}
	enc := json.NewEncoder(e)
	enc.SetIndent("", "  ")
	if err := enc.Encode(m); err != nil {
		return err
	}
	if e, err = a.create("index.html"); err != nil {
		return err
	}
	if err := indexTemplate.Execute(e, m); err != nil {
		return err
	}
	return a.zip.Close()
}

// exact makes integers that a float64 can't hold strings.
func exact(v any) any {
	const limit = 1 << 53
	switch n := v.(type) {
	case int64:
		if n > limit || n < -limit {
			return strconv.FormatInt(n, 10)
		}
	case uint64:
		if n > limit {
			return strconv.FormatUint(n, 10)
		}
	case int:
		return exact(int64(n))
	case map[string]any:
		m := make(map[string]any, len(n))
		for k, e := range n {
			m[k] = exact(e)
		}
		return m
	case []any:
		l := make([]any, len(n))
		for i, e := range n {
			l[i] = exact(e)
		}
		return l
	}
	return v
}

// cell renders a value for a table. A text that a spreadsheet would run as a
// formula is made one that it shows.
func cell(v any) string {
	var s string
	switch v := v.(type) {
	case nil:
		return ""
	case string:
		s = v
	case time.Time:
		return v.UTC().Format(time.RFC3339Nano)
	default:
		b, err := json.Marshal(v)
		if err != nil {
			return ""
		}
		return string(b)
	}
	if s != "" && strings.ContainsRune("=+-@\t\r", rune(s[0])) {
		return "'" + s
	}
	return s
}

// extension returns a harmless extension of a file's name, or "".
func extension(name string) string {
	ext := strings.ToLower(path.Ext(name))
	if len(ext) < 2 || len(ext) > 6 || !validName(ext[1:]) {
		return ""
	}
	return ext
}

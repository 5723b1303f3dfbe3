package gdprtest

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kolekt/commerce/gdpr"
)

// Harness is a source under test.
type Harness struct {
	Source gdpr.Source
	// Plant stores data of the subject in the source, with the canary in
	// every field that may hold personal data. It is called for two subjects.
	Plant func(ctx context.Context, subject gdpr.Subject, canary string) error
	// Dump returns everything that the source's storage holds, as bytes, to
	// be searched for canaries: what an export shows is not all that may be
	// left. Nil leaves this search out.
	Dump func(ctx context.Context) ([]byte, error)
}

// TestSource checks that a source exports everything about one subject and
// nothing of another, and erases the same: see CheckSource.
func TestSource(t *testing.T, harness Harness) {
	t.Helper()
	if err := CheckSource(context.Background(), harness); err != nil {
		t.Fatal(err)
	}
}

// CheckSource returns an error for each rule of gdpr.Source that the source
// breaks. The source must be empty.
func CheckSource(ctx context.Context, h Harness) error {
	d := h.Source.Describe()
	var errs []error
	fail := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("gdprtest: source "+d.Name+": "+format, args...))
	}
	if d.Purpose == "" || d.Basis == "" || len(d.Categories) == 0 || d.Retention == "" {
		fail("Describe must declare categories, purpose, basis and retention")
	}
	epoch := time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)
	ada := gdpr.Subject{ID: "ada-" + strings.ToLower(rand.Text()[:8]), Epoch: epoch, Identifiers: []gdpr.Identifier{{Kind: "email", Value: "ada@example.test"}}}
	bob := gdpr.Subject{ID: "bob-" + strings.ToLower(rand.Text()[:8]), Epoch: epoch, Identifiers: []gdpr.Identifier{{Kind: "email", Value: "bob@example.test"}}}
	adas, bobs := "canary"+strings.ToLower(rand.Text()), "canary"+strings.ToLower(rand.Text())
	if err := errors.Join(h.Plant(ctx, ada, adas), h.Plant(ctx, bob, bobs)); err != nil {
		return fmt.Errorf("gdprtest: plant: %w", err)
	}

	before, err := export(ctx, h.Source, bob)
	if err != nil {
		fail("export: %v", err)
	}
	got, err := export(ctx, h.Source, ada)
	if err != nil {
		fail("export: %v", err)
	}
	if !bytes.Contains(got, []byte(adas)) {
		fail("export misses what was planted")
	}
	if bytes.Contains(got, []byte(bobs)) {
		fail("export shows another subject's data")
	}
	if again, err := export(ctx, h.Source, ada); err != nil || !bytes.Equal(got, again) {
		fail("a second export differs from the first")
	}
	if nobody, err := export(ctx, h.Source, gdpr.Subject{ID: "nobody", Epoch: epoch}); err != nil || len(nobody) > 0 {
		fail("export of an unknown subject: got %d bytes and error %v, want nothing", len(nobody), err)
	}

	outcome, err := erase(ctx, h.Source, ada)
	if err != nil {
		fail("erase: %v", err)
		return errors.Join(errs...)
	}
	kept := map[string]bool{}
	for _, r := range outcome.Retained {
		if r.Record == "" || r.Ground == "" || r.Article == "" || r.Until.IsZero() {
			fail("retained record %+v must say its ground, article and end", r)
		}
		kept[r.Record] = true
	}
	if outcome.Removed+outcome.Anonymised == 0 && len(kept) == 0 {
		fail("erase reports that it did nothing")
	}
	rest, err := exportKinds(ctx, h.Source, ada)
	if err != nil {
		fail("export after erase: %v", err)
	}
	for kind, b := range rest {
		if !kept[kind] {
			fail("erase left %q behind, which it doesn't report as retained", kind)
		} else if bytes.Contains(b, []byte(adas)) {
			fail("retained %q still names the person", kind)
		}
	}
	if h.Dump != nil {
		dump, err := h.Dump(ctx)
		if err != nil {
			fail("dump: %v", err)
		}
		if bytes.Contains(dump, []byte(adas)) {
			fail("the storage still holds what was planted")
		}
		if !bytes.Contains(dump, []byte(bobs)) {
			fail("the storage lost another subject's data")
		}
	}
	if after, err := export(ctx, h.Source, bob); err != nil || !bytes.Equal(before, after) {
		fail("erase changed another subject's data")
	}
	if _, err := erase(ctx, h.Source, ada); err != nil {
		fail("a second erase: %v", err)
	}
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := h.Source.Erase(cancelled, bob, ""); err == nil {
		fail("erase under a cancelled context reports success")
	}
	return errors.Join(errs...)
}

func erase(ctx context.Context, src gdpr.Source, subject gdpr.Subject) (gdpr.Outcome, error) {
	var total gdpr.Outcome
	cursor := ""
	for range 10_000 {
		out, err := src.Erase(ctx, subject, cursor)
		if err != nil {
			return total, err
		}
		total.Removed += out.Removed
		total.Anonymised += out.Anonymised
		total.Retained = append(total.Retained, out.Retained...)
		if out.Done {
			return total, nil
		}
		if out.Next == "" {
			return total, errors.New("not done, and no cursor to go on")
		}
		cursor = out.Next
	}
	return total, errors.New("not done after 10,000 pages")
}

func export(ctx context.Context, src gdpr.Source, subject gdpr.Subject) ([]byte, error) {
	kinds, err := exportKinds(ctx, src, subject)
	if err != nil {
		return nil, err
	}
	var all bytes.Buffer
	for _, name := range slices.Sorted(maps.Keys(kinds)) {
		all.WriteString(name)
		all.Write(kinds[name])
	}
	return all.Bytes(), nil
}

// exportKinds runs the real export and returns the lines of each kind of
// record, and the bytes of files under "files".
func exportKinds(ctx context.Context, src gdpr.Source, subject gdpr.Subject) (map[string][]byte, error) {
	var buf bytes.Buffer
	if err := gdpr.ExportSource(ctx, &buf, src, subject); err != nil {
		return nil, err
	}
	r, err := zip.NewReader(bytes.NewReader(buf.Bytes()), int64(buf.Len()))
	if err != nil {
		return nil, err
	}
	kinds := map[string][]byte{}
	for _, f := range r.File {
		var kind string
		switch {
		case strings.HasPrefix(f.Name, "data/") && strings.HasSuffix(f.Name, ".jsonl"):
			kind = strings.TrimSuffix(f.Name[strings.LastIndexByte(f.Name, '/')+1:], ".jsonl")
		case strings.HasPrefix(f.Name, "files/"):
			kind = "files"
		default:
			continue
		}
		rc, err := f.Open()
		if err != nil {
			return nil, err
		}
		b, err := io.ReadAll(rc)
		if err := errors.Join(err, rc.Close()); err != nil {
			return nil, err
		}
		if len(b) > 0 {
			kinds[kind] = append(kinds[kind], b...)
		}
	}
	return kinds, nil
}

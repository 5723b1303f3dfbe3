package gdpr_test

import (
	"archive/zip"
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"io"
	"math"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/gdpr"
)

// exported downloads the archive of a ready request and returns the one canary
// that its texts hold.
func exported(t *testing.T, w *world, id string) string {
	t.Helper()
	files := unzip(t, download(t, w, id))
	var row struct{ Who string }
	require.NoError(t, json.Unmarshal([]byte(strings.SplitN(files["data/texts/rows.jsonl"], "\n", 2)[0]), &row))
	return row.Who
}

func download(t *testing.T, w *world, id string) []byte {
	t.Helper()
	r, err := w.service.Request(context.Background(), id)
	require.NoError(t, err)
	rc, err := w.service.OpenArchive(context.Background(), r)
	require.NoError(t, err)
	defer rc.Close()
	b, err := io.ReadAll(rc)
	require.NoError(t, err)
	return b
}

func unzip(t *testing.T, b []byte) map[string]string {
	t.Helper()
	r, err := zip.NewReader(bytes.NewReader(b), int64(len(b)))
	require.NoError(t, err)
	files := map[string]string{}
	for _, f := range r.File {
		rc, err := f.Open()
		require.NoError(t, err)
		body, err := io.ReadAll(rc)
		require.NoError(t, err)
		files[f.Name] = string(body)
	}
	return files
}

func TestExportHoldsEverythingOfOnePersonTwice(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t, nil)
	w.tables[2].add("ada", map[string]any{"n": int64(math.MaxInt64), "who": "=HYPERLINK(1)", "extra": []string{"x"}})
	_, err := w.service.Consent(ctx, "ada", "newsletter", true, "form", "de")
	require.NoError(t, err)
	r, err := w.service.Ask(ctx, gdpr.Access, "ada", true)
	require.NoError(t, err)
	w.work()
	require.Equal(t, 1, w.notices[r.ID+":export_ready"])

	files := unzip(t, download(t, w, r.ID))
	for _, source := range []string{"keys", "invoices", "texts", "profile"} {
		require.Equal(t, 5, strings.Count(files["data/"+source+"/rows.jsonl"], "canary-ada"), source)
		require.Equal(t, 5, strings.Count(files["data/"+source+"/rows.csv"], "canary-ada"), source)
	}
	require.Contains(t, files["data/consents/consents.jsonl"], "newsletter")
	for name, body := range files {
		require.NotContains(t, body, "canary-bob", name)
	}
	require.Contains(t, files["data/texts/rows.jsonl"], `"n":"9223372036854775807"`, "no reader rounds it")
	table, err := csv.NewReader(strings.NewReader(files["data/texts/rows.csv"])).ReadAll()
	require.NoError(t, err)
	require.Equal(t, []string{"at", "n", "who", "more"}, table[0])
	require.Equal(t, []string{"", "9223372036854775807", "'=HYPERLINK(1)", `{"extra":["x"]}`}, table[6])

	var m struct {
		ExportDate time.Time `json:"export_date"`
		Sources    []struct {
			Name  string
			Rows  int64
			Files []struct{ Path, SHA256 string }
		}
	}
	require.NoError(t, json.Unmarshal([]byte(files["manifest.json"]), &m))
	require.Equal(t, w.now, m.ExportDate)
	listed := 0
	for _, s := range m.Sources {
		listed += len(s.Files)
	}
	require.Equal(t, len(files)-2, listed, "every file but the manifest and the index is listed with its hash")
	require.Contains(t, files["index.html"], "testing texts")
}

func TestPortabilityLeavesOutWhatTheSubjectDidNotProvide(t *testing.T) {
	var buf bytes.Buffer
	w := newWorld(t, nil)
	_, err := w.service.ExportTo(context.Background(), &buf, gdpr.Portability, w.subjects["ada"])
	require.NoError(t, err)
	files := unzip(t, buf.Bytes())
	require.Contains(t, files, "data/texts/rows.jsonl")
	require.NotContains(t, files, "data/profile/rows.jsonl")
}

func TestAnArchiveIsEncryptedAndGoesWhenItExpires(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t, nil)
	dir := t.TempDir()
	w.config.Files = gdpr.DirFiles(dir)
	w.rebuild()
	r, err := w.service.Ask(ctx, gdpr.Access, "ada", true)
	require.NoError(t, err)
	w.work()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, entries, 1)
	raw, err := os.ReadFile(dir + "/" + entries[0].Name())
	require.NoError(t, err)
	require.True(t, bytes.HasPrefix(raw, []byte("age-encryption.org/")))
	_, err = zip.NewReader(bytes.NewReader(raw), int64(len(raw)))
	require.Error(t, err)

	ready, err := w.service.Request(ctx, r.ID)
	require.NoError(t, err)
	query, err := w.service.DownloadQuery(ready, time.Hour)
	require.NoError(t, err)
	values, err := url.ParseQuery(query)
	require.NoError(t, err)
	_, err = w.service.CheckLink(ctx, values)
	require.NoError(t, err)
	for _, field := range []string{"request", "until", "signature"} {
		forged, _ := url.ParseQuery(query)
		forged.Set(field, forged.Get(field)+"1")
		_, err = w.service.CheckLink(ctx, forged)
		require.ErrorIs(t, err, gdpr.ErrToken, field)
	}
	w.advance(time.Hour)
	_, err = w.service.CheckLink(ctx, values)
	require.ErrorIs(t, err, gdpr.ErrToken, "the link has ended")

	w.advance(7 * 24 * time.Hour)
	w.work()
	require.Equal(t, gdpr.Done, w.state(r.ID))
	entries, err = os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, entries)
}

func TestSecretsStopAnExport(t *testing.T) {
	ctx := context.Background()
	tests := map[string]map[string]any{
		"a field's name":      {"password_hash": "x"},
		"a key":               {"note": "sk_live_abc"},
		"a nested hash":       {"note": map[string]any{"deep": "$2b$10$abc"}},
		"a private key":       {"note": "-----BEGIN PRIVATE KEY-----"},
		"a JWT":               {"note": "eyJhbGciOiJIUzI1NiJ9.e30.x"},
		"an argon2 parameter": {"note": "$argon2id$v=19"},
	}
	for name, fields := range tests {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, nil)
			w.tables[0].add("ada", fields)
			_, err := w.service.ExportTo(ctx, io.Discard, gdpr.Access, w.subjects["ada"])
			require.ErrorIs(t, err, gdpr.ErrSecret)
			for _, v := range fields {
				if s, ok := v.(string); ok && len(s) > 8 {
					require.NotContains(t, err.Error(), s, "the error doesn't repeat the secret")
				}
			}
			w.tables[0].allow = map[string]string{"*": "written by users", "password_hash": "of a demo"}
			_, err = w.service.ExportTo(ctx, io.Discard, gdpr.Access, w.subjects["ada"])
			require.NoError(t, err)
		})
	}
}

// stream is a source that emits lines in given chunks.
type stream struct{ chunks []string }

func (stream) Describe() gdpr.Descriptor {
	return gdpr.Descriptor{Name: "stream", Categories: []string{"x"}, Purpose: "x", Basis: gdpr.Contract, Retention: "x"}
}

func (s stream) Export(_ context.Context, _ gdpr.Subject, sink *gdpr.Sink) error {
	w, err := sink.Lines("lines")
	if err != nil {
		return err
	}
	for _, c := range s.chunks {
		if _, err := io.WriteString(w, c); err != nil {
			return err
		}
	}
	return sink.File("../../etc/cron.d/evil.SH", strings.NewReader("payload"))
}

func (stream) Erase(context.Context, gdpr.Subject, string) (gdpr.Outcome, error) {
	return gdpr.Outcome{Done: true}, nil
}

func TestLinesGoThroughAndSecretsAcrossChunksDoNot(t *testing.T) {
	ctx := context.Background()
	var buf bytes.Buffer
	require.NoError(t, gdpr.ExportSource(ctx, &buf, stream{[]string{"{\"a\":1}\n{\"a\"", ":2}\n"}}, gdpr.Subject{ID: "x"}))
	files := unzip(t, buf.Bytes())
	require.Equal(t, "{\"a\":1}\n{\"a\":2}\n", files["data/stream/lines.jsonl"])
	require.Equal(t, "payload", files["files/stream/000001.sh"], "the path in the archive is ours")
	for cut := 1; cut < len("sk_live_"); cut++ {
		err := gdpr.ExportSource(ctx, io.Discard, stream{[]string{"{\"a\":\"", "sk_live_"[:cut], "sk_live_"[cut:], "\"}\n"}}, gdpr.Subject{ID: "x"})
		require.ErrorIs(t, err, gdpr.ErrSecret, "cut at %d", cut)
	}
}

func FuzzSecretsAcrossChunks(f *testing.F) {
	f.Add("abc", "whsec_", "def", uint8(3), uint8(5))
	f.Fuzz(func(t *testing.T, before, _, after string, a, b uint8) {
		if strings.Contains(before+after, "\x00") {
			return
		}
		text := before + "whsec_" + after
		i, j := min(int(a), len(text)), min(int(b), len(text))
		i, j = min(i, j), max(i, j)
		err := gdpr.ExportSource(context.Background(), io.Discard, stream{[]string{text[:i], text[i:j], text[j:]}}, gdpr.Subject{ID: "x"})
		require.ErrorIs(t, err, gdpr.ErrSecret)
	})
}

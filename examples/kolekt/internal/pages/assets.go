package pages

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"strings"
)

//go:embed static
var static embed.FS

type asset struct {
	contentType string
	body        []byte
}

// assets are files under names that change with their content, so that
// browsers may keep them for ever.
type assets struct {
	byURL map[string]asset
	urls  map[string]string // "app.css" to "/static/app.0123456789abcdef.css"
}

func loadAssets() (*assets, error) {
	a := &assets{byURL: map[string]asset{}, urls: map[string]string{}}
	files, err := fs.Glob(static, "static/*")
	if err != nil {
		return nil, err
	}
	// Style sheets name fonts: they come last and get the fonts' new names.
	for _, late := range []bool{false, true} {
		for _, f := range files {
			name, ext := path.Base(f), path.Ext(f)
			if (ext == ".css") != late || ext == ".txt" {
				continue
			}
			body, err := static.ReadFile(f)
			if err != nil {
				return nil, err
			}
			if late {
				for old, url := range a.urls {
					body = []byte(strings.ReplaceAll(string(body), "url("+old+")", "url("+url+")"))
				}
			}
			sum := sha256.Sum256(body)
			url := "/static/" + strings.TrimSuffix(name, ext) + "." + hex.EncodeToString(sum[:8]) + ext
			a.urls[name] = url
			a.byURL[url] = asset{contentType(ext), body}
		}
	}
	return a, nil
}

func contentType(ext string) string {
	switch ext {
	case ".woff2":
		return "font/woff2"
	case ".js":
		return "text/javascript; charset=utf-8"
	}
	return mime.TypeByExtension(ext)
}

// ServeHTTP serves /static/.
func (a *assets) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f, ok := a.byURL[r.URL.Path]
	if !ok {
		http.NotFound(w, r)
		return
	}
	h := w.Header()
	h.Set("Content-Type", f.contentType)
	h.Set("Cache-Control", "public, max-age=31536000, immutable")
	h.Set("X-Content-Type-Options", "nosniff")
	_, _ = w.Write(f.body) // the client has gone: nobody to tell
}

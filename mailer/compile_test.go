package mailer

import (
	"html"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"
)

// What a brand decides beforehand must come out as if it were decided for each
// mail, in the shipped kinds and where the dot is another one.
func TestTemplatesSayTheSameForABrandAsForAny(t *testing.T) {
	kinds, err := Shipped(nil)
	require.NoError(t, err)
	type variables struct {
		Locale string
		Brand  Brand
		Lines  []Brand
	}
	own, err := Define(Spec[variables]{
		Name: "own.layout", Stream: "own", Class: Transactional, Locales: []string{"en", "de"},
		Sample: variables{"mine", Brand{Name: "not the sender"}, []Brand{{Name: "a"}, {Name: "b"}}},
		Templates: fstest.MapFS{
			"own.layout.en.txt": {Data: []byte("Subject: {{.Brand.Name}} says {{.Locale}}\nPreheader: {{if .Brand.Logo}}with{{else}}without{{end}}\n\n{{with .Data}}{{.Locale}} {{.Brand.Name}}{{end}}.\n")},
			"own.layout.de.txt": {Data: []byte("Subject: {{.Brand.Name}} sagt {{.Locale}}\nPreheader: {{if eq .Language \"de\"}}ja{{else}}nein{{end}}\n\n{{range .Data.Lines}}{{.Name}}{{end}}.\n")},
			"layout.html": {Data: []byte(`<html lang="{{.Locale}}"><body style="color: {{.Accent}}">{{if .Brand.URL}}<a href="{{.Brand.URL}}">{{if .Brand.Logo}}<img src="{{.Brand.Logo}}" alt="{{.Brand.Name}}">{{else}}{{.Brand.Name}}{{end}}</a>{{end}}
{{if eq .Brand.Name "A & B"}}the very{{else if eq .Language "de"}}Firma{{else}}some{{end}}{{if and .Brand.Postal .Brand.Support}}both{{end}}
{{with .Data}}{{.Locale}} {{.Brand.Name}}{{if .Brand.URL}}url{{end}}{{end}}{{range .Data.Lines}}<p>{{.Name}}</p>{{end}}{{template "content" .}}</body></html>`)},
			"layout.txt": {Data: []byte(`{{template "content" .}}{{if .Brand.Name}}{{.Brand.Name}}{{end}}{{if .Brand.Postal}}, {{.Brand.Postal}}{{end}}`)},
		},
	})
	require.NoError(t, err)
	brands := []Brand{
		{}, sampleBrand,
		{Name: `A & B`, URL: "https://example.com/?a=1&b=2", Logo: "https://example.com/logo.png", Accent: "#123abc", Postal: `"The <House>", 1 Street's End`, Support: "help@example.com"},
	}
	for _, kind := range append(kinds.All(), own) {
		def := kind.definition()
		for locale, parsed := range def.parsed {
			anyBrand, err := parsed.compile(nil)
			require.NoError(t, err)
			for _, brand := range brands {
				brand = brand.withDefaults()
				folded, err := parsed.compile(&brand)
				require.NoError(t, err)
				for _, s := range def.samples {
					want, err := anyBrand.render(def.sampleView(s.data, locale, brand))
					require.NoError(t, err)
					got, err := folded.render(def.sampleView(s.data, locale, brand))
					require.NoError(t, err)
					want.HTML, got.HTML = html.UnescapeString(want.HTML), html.UnescapeString(got.HTML)
					require.Equal(t, want, got, "%s.%s", kind.Name(), locale)
				}
			}
		}
	}
}

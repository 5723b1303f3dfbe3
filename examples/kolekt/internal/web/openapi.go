package web

import (
	_ "embed"
	"net/http"
)

//go:embed openapi.json
var openapi []byte

func (a *App) description(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "public, max-age=300")
	_, _ = w.Write(openapi) // the client has gone: nobody to tell
}

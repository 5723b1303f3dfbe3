package gdpr

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/kolekt/commerce/internal/problem"
)

const maxBody = 16 << 10

// SelfServiceConfig configures SelfService.
type SelfServiceConfig struct {
	// Subject says who asks, or "" for nobody. Answer for a browser session
	// only: an API key must not be able to take everything or erase it.
	Subject func(r *http.Request) (string, error)
	// Recent reports whether the person signed in within the last minutes: it
	// stands for the identity check (Art. 12(6)). Nil counts every session as
	// recent.
	Recent func(r *http.Request) bool
	// LinkTTL is how long a download link works; 0 means 15 minutes.
	LinkTTL time.Duration
}

// SelfService returns the JSON endpoints of a subject, relative to where they
// are mounted (with http.StripPrefix):
//
//	POST   /export              {"kind": "access" | "portability"}
//	POST   /erasure
//	DELETE /erasure             while it can still be cancelled
//	POST   /requests            {"kind": "rectification" | "restriction" | "objection", "words": …}
//	GET    /requests
//	GET    /requests/{id}/link  a download link for a ready archive
//	GET    /download            what such a link opens
//	POST   /confirm             with the query of ConfirmQuery: "it was me who asked"
//	GET    /consents
//	POST   /consents            {"purpose": …, "granted": true, "method": …}
//
// The host protects them against cross-site requests
// (http.CrossOriginProtection).
func (s *Service) SelfService(cfg SelfServiceConfig) http.Handler {
	setDefault(&cfg.LinkTTL, 15*time.Minute)
	h := selfService{s, cfg}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /export", h.as(h.export))
	mux.HandleFunc("POST /erasure", h.as(h.erase))
	mux.HandleFunc("DELETE /erasure", h.as(h.cancel))
	mux.HandleFunc("POST /requests", h.as(h.ask))
	mux.HandleFunc("GET /requests", h.as(h.requests))
	mux.HandleFunc("GET /requests/{id}/link", h.as(h.link))
	mux.HandleFunc("GET /download", h.download)
	mux.HandleFunc("POST /confirm", func(w http.ResponseWriter, r *http.Request) {
		req, err := h.Confirm(r.Context(), r.URL.Query())
		h.answer(w, http.StatusOK, req, err)
	})
	mux.HandleFunc("GET /consents", h.as(h.consents))
	mux.HandleFunc("POST /consents", h.as(h.consent))
	return mux
}

type selfService struct {
	*Service
	http SelfServiceConfig
}

// requestView is what a subject sees of a request.
type requestView struct {
	ID         string     `json:"id"`
	Kind       Kind       `json:"kind"`
	State      State      `json:"state"`
	ReceivedAt time.Time  `json:"received_at"`
	DueAt      time.Time  `json:"due_at"`
	StartsAt   *time.Time `json:"starts_at,omitempty"`
	ExpiresAt  *time.Time `json:"expires_at,omitempty"`
	Size       int64      `json:"size,omitempty"`
	Note       string     `json:"note,omitempty"`
	Steps      []Step     `json:"steps,omitempty"`
}

func view(r Request) requestView {
	v := requestView{ID: r.ID, Kind: r.Kind, State: r.State, ReceivedAt: r.ReceivedAt, DueAt: r.DueAt, Size: r.Archive.Size, Note: r.Note, Steps: r.Steps}
	if r.State == Cooling {
		v.StartsAt = &r.StartAt
	}
	if r.State == Ready {
		v.ExpiresAt = &r.Archive.ExpiresAt
	}
	return v
}

func (h selfService) as(do func(w http.ResponseWriter, r *http.Request, subject string)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		subject, err := h.http.Subject(r)
		if err != nil {
			answerError(w, err)
			return
		}
		if subject == "" {
			problem.Write(w, problem.Details{Status: http.StatusUnauthorized, Code: "signed_out", Detail: "Sign in first."})
			return
		}
		do(w, r, subject)
	}
}

func (h selfService) recent(w http.ResponseWriter, r *http.Request) bool {
	if h.http.Recent == nil || h.http.Recent(r) {
		return true
	}
	problem.Write(w, problem.Details{Status: http.StatusForbidden, Code: "sign_in_again", Detail: "Sign in again to confirm that it is you."})
	return false
}

func (h selfService) export(w http.ResponseWriter, r *http.Request, subject string) {
	if !h.recent(w, r) {
		return
	}
	body := struct {
		Kind Kind `json:"kind"`
	}{Access}
	if !decode(w, r, &body) {
		return
	}
	if !body.Kind.exports() {
		problem.Write(w, problem.Details{Status: http.StatusUnprocessableEntity, Code: "invalid", Errors: []problem.FieldError{{Field: "kind", Code: "unknown", Detail: "must be access or portability"}}})
		return
	}
	req, err := h.Ask(r.Context(), body.Kind, subject, true)
	h.answer(w, http.StatusAccepted, req, err)
}

func (h selfService) erase(w http.ResponseWriter, r *http.Request, subject string) {
	if !h.recent(w, r) {
		return
	}
	req, err := h.Ask(r.Context(), Erasure, subject, true)
	h.answer(w, http.StatusAccepted, req, err)
}

// ask opens a request that a person answers.
func (h selfService) ask(w http.ResponseWriter, r *http.Request, subject string) {
	var body struct {
		Kind  Kind   `json:"kind"`
		Words string `json:"words"`
	}
	if !decode(w, r, &body) {
		return
	}
	if !body.Kind.valid() || body.Kind == Erasure || body.Kind.exports() {
		problem.Write(w, problem.Details{Status: http.StatusUnprocessableEntity, Code: "invalid", Errors: []problem.FieldError{{Field: "kind", Code: "unknown", Detail: "must be rectification, restriction or objection"}}})
		return
	}
	if len(body.Words) > maxWords {
		problem.Write(w, problem.Details{Status: http.StatusUnprocessableEntity, Code: "invalid", Errors: []problem.FieldError{{Field: "words", Code: "too_long", Detail: "may have 4096 bytes"}}})
		return
	}
	req, err := h.Ask(r.Context(), body.Kind, subject, true)
	if err == nil && body.Words != "" {
		req, err = h.AddWords(r.Context(), req.ID, body.Words)
	}
	h.answer(w, http.StatusAccepted, req, err)
}

func (h selfService) cancel(w http.ResponseWriter, r *http.Request, subject string) {
	open, err := h.Requests(r.Context(), Filter{SubjectRef: h.ref(subject), Kind: Erasure, Open: true})
	if err == nil && len(open) == 0 {
		err = ErrNotFound
	}
	if err != nil {
		answerError(w, err)
		return
	}
	req, err := h.Cancel(r.Context(), open[0].ID)
	h.answer(w, http.StatusOK, req, err)
}

func (h selfService) answer(w http.ResponseWriter, status int, req Request, err error) {
	if err != nil {
		answerError(w, err)
		return
	}
	writeJSON(w, status, view(req))
}

func (h selfService) requests(w http.ResponseWriter, r *http.Request, subject string) {
	list, err := h.RequestsOf(r.Context(), subject)
	if err != nil {
		answerError(w, err)
		return
	}
	writeJSON(w, http.StatusOK, map[string]any{"requests": views(list)})
}

func views(list []Request) []requestView {
	vs := make([]requestView, len(list))
	for i, r := range list {
		vs[i] = view(r)
	}
	return vs
}

func (h selfService) link(w http.ResponseWriter, r *http.Request, subject string) {
	if !h.recent(w, r) {
		return
	}
	req, err := h.Request(r.Context(), r.PathValue("id"))
	if err == nil && !h.Owns(req, subject) {
		err = ErrNotFound // whose it is, is nobody else's business
	}
	if err != nil {
		answerError(w, err)
		return
	}
	query, err := h.DownloadQuery(req, h.http.LinkTTL)
	if err != nil {
		answerError(w, err)
		return
	}
	// Relative to this endpoint, so that it works under any prefix.
	writeJSON(w, http.StatusOK, map[string]string{"url": "../../download?" + query})
}

func (h selfService) download(w http.ResponseWriter, r *http.Request) {
	req, err := h.CheckLink(r.Context(), r.URL.Query())
	if err != nil {
		answerError(w, err)
		return
	}
	archive, err := h.OpenArchive(r.Context(), req)
	if err != nil {
		answerError(w, err)
		return
	}
	defer archive.Close()
	header := w.Header()
	header.Set("Content-Type", "application/zip")
	header.Set("Content-Disposition", `attachment; filename="your-data-`+req.ReceivedAt.Format(time.DateOnly)+`.zip"`)
	header.Set("Cache-Control", "no-store")
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Referrer-Policy", "no-referrer")
	if _, err := io.Copy(w, archive); err != nil {
		h.cfg.Logger.WarnContext(r.Context(), "gdpr: download", "request", req.ID, "err", err)
		// The client must not take half an archive for a whole one.
		panic(http.ErrAbortHandler)
	}
}

func (h selfService) consents(w http.ResponseWriter, r *http.Request, subject string) {
	history, err := h.Consents(r.Context(), subject)
	if err != nil {
		answerError(w, err)
		return
	}
	type state struct {
		Purpose string `json:"purpose"`
		Version int    `json:"version"`
		Text    string `json:"text"`
		Granted bool   `json:"granted"`
	}
	purposes := []state{}
	for _, id := range sortedKeys(h.purposes) {
		granted, err := h.Allowed(r.Context(), subject, id)
		if err != nil {
			answerError(w, err)
			return
		}
		p := h.purposes[id]
		purposes = append(purposes, state{id, p.Version, p.Text, granted})
	}
	writeJSON(w, http.StatusOK, map[string]any{"purposes": purposes, "history": history})
}

func (h selfService) consent(w http.ResponseWriter, r *http.Request, subject string) {
	var body struct {
		Purpose string `json:"purpose"`
		Granted *bool  `json:"granted"`
		Method  string `json:"method"`
		Locale  string `json:"locale"`
	}
	if !decode(w, r, &body) {
		return
	}
	if body.Granted == nil {
		problem.Write(w, problem.Details{Status: http.StatusUnprocessableEntity, Code: "invalid", Errors: []problem.FieldError{{Field: "granted", Code: "required", Detail: "must be true or false"}}})
		return
	}
	if body.Method == "" {
		body.Method = "privacy page"
	}
	c, err := h.Consent(r.Context(), subject, body.Purpose, *body.Granted, body.Method, body.Locale)
	if err != nil {
		answerError(w, err)
		return
	}
	writeJSON(w, http.StatusCreated, c)
}

// AdminConfig configures Admin.
type AdminConfig struct {
	// Allow reports whether the one who asks may decide on requests.
	Allow func(r *http.Request) bool
}

// Admin returns the JSON endpoints of those who answer requests:
//
//	GET  /requests                ?open=1&due_days=7
//	GET  /requests/{id}
//	GET  /requests/{id}/certificate
//	GET  /requests/{id}/words     who asks for what, which the audit log notes
//	POST /requests/{id}/{action}  {"reason": …} verify, deny, extend, hold, release, complete, lift, cancel;
//	                              rectify with {"changes": {…}}, removed with {"source": …, "record": …}
//	GET  /register                the record of processing activities (Art. 30)
func (s *Service) Admin(cfg AdminConfig) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /requests", func(w http.ResponseWriter, r *http.Request) {
		f := Filter{Open: r.URL.Query().Get("open") != ""}
		if days, err := strconv.Atoi(r.URL.Query().Get("due_days")); err == nil {
			f.DueBefore = s.now().AddDate(0, 0, days)
		}
		list, err := s.Requests(r.Context(), f)
		if err != nil {
			answerError(w, err)
			return
		}
		writeJSON(w, http.StatusOK, map[string]any{"requests": views(list)})
	})
	mux.HandleFunc("GET /requests/{id}", func(w http.ResponseWriter, r *http.Request) {
		req, err := s.Request(r.Context(), r.PathValue("id"))
		if err != nil {
			answerError(w, err)
			return
		}
		writeJSON(w, http.StatusOK, view(req))
	})
	mux.HandleFunc("GET /requests/{id}/words", func(w http.ResponseWriter, r *http.Request) {
		words, subject, err := s.Words(r.Context(), r.PathValue("id"))
		if err != nil {
			answerError(w, err)
			return
		}
		writeJSON(w, http.StatusOK, map[string]any{"words": words, "subject": subject})
	})
	mux.HandleFunc("GET /requests/{id}/certificate", func(w http.ResponseWriter, r *http.Request) {
		req, err := s.Request(r.Context(), r.PathValue("id"))
		if err == nil && req.Certificate == nil {
			err = ErrNotFound
		}
		if err != nil {
			answerError(w, err)
			return
		}
		writeJSON(w, http.StatusOK, json.RawMessage(req.Certificate))
	})
	mux.HandleFunc("POST /requests/{id}/{action}", func(w http.ResponseWriter, r *http.Request) {
		var body struct {
			Reason  string            `json:"reason"`
			Changes map[string]string `json:"changes"`
			Source  string            `json:"source"`
			Record  string            `json:"record"`
		}
		if !decode(w, r, &body) {
			return
		}
		actions := map[string]func(ctx context.Context, id string) (Request, error){
			"verify":   s.Verify,
			"cancel":   s.Cancel,
			"release":  s.Release,
			"deny":     func(ctx context.Context, id string) (Request, error) { return s.Deny(ctx, id, body.Reason) },
			"extend":   func(ctx context.Context, id string) (Request, error) { return s.Extend(ctx, id, body.Reason) },
			"hold":     func(ctx context.Context, id string) (Request, error) { return s.Hold(ctx, id, body.Reason) },
			"complete": func(ctx context.Context, id string) (Request, error) { return s.Complete(ctx, id, body.Reason) },
			"lift":     func(ctx context.Context, id string) (Request, error) { return s.Lift(ctx, id, body.Reason) },
			"rectify":  func(ctx context.Context, id string) (Request, error) { return s.Rectify(ctx, id, body.Changes) },
			"removed": func(ctx context.Context, id string) (Request, error) {
				return s.Removed(ctx, id, body.Source, body.Record, body.Reason)
			},
		}
		do, ok := actions[r.PathValue("action")]
		if !ok {
			answerError(w, ErrNotFound)
			return
		}
		req, err := do(r.Context(), r.PathValue("id"))
		if err != nil {
			answerError(w, err)
			return
		}
		writeJSON(w, http.StatusOK, view(req))
	})
	mux.HandleFunc("GET /register", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = s.WriteRegisterJSON(w) // the client has gone: nobody to tell
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if cfg.Allow == nil || !cfg.Allow(r) {
			problem.Write(w, problem.Details{Status: http.StatusForbidden, Code: "forbidden", Detail: "Only administrators answer requests."})
			return
		}
		mux.ServeHTTP(w, r)
	})
}

func decode(w http.ResponseWriter, r *http.Request, into any) bool {
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
	dec.DisallowUnknownFields()
	err := dec.Decode(into)
	if err == nil || errors.Is(err, io.EOF) {
		return true
	}
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		problem.Write(w, problem.Details{Status: http.StatusRequestEntityTooLarge, Code: "too_large", Detail: "The body may have at most 16 KiB."})
		return false
	}
	problem.Write(w, problem.Details{Status: http.StatusBadRequest, Code: "invalid_json", Detail: "The body must be a JSON object with the documented fields only."})
	return false
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the client has gone: nobody to tell
}

func answerError(w http.ResponseWriter, err error) {
	d := problem.Details{Status: http.StatusServiceUnavailable, Code: "unavailable", Detail: "Try again in a moment."}
	switch {
	case errors.Is(err, ErrNotFound):
		d = problem.Details{Status: http.StatusNotFound, Code: "not_found", Detail: "There is no such request."}
	case errors.Is(err, ErrActive):
		d = problem.Details{Status: http.StatusConflict, Code: "request_open", Detail: "A request of this kind is open already."}
	case errors.Is(err, ErrState):
		d = problem.Details{Status: http.StatusConflict, Code: "wrong_state", Detail: err.Error()}
	case errors.Is(err, ErrInvalid):
		d = problem.Details{Status: http.StatusUnprocessableEntity, Code: "invalid", Detail: err.Error()}
	case errors.Is(err, ErrToken):
		d = problem.Details{Status: http.StatusGone, Code: "link_expired", Detail: "The link doesn't work any more. Ask for a new one."}
	}
	problem.Write(w, d)
}

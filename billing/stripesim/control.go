package stripesim

import (
	crand "crypto/rand"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"time"
)

// NewSecret returns a random signing secret for an Endpoint.
func NewSecret() string { return "whsec_" + crand.Text() }

// Control returns a handler with which a program that isn't in this process
// moves the clock and injects faults. It takes and answers JSON, and requires
// the API key as a bearer token:
//
//	GET    /clock                 {"now": "2025-01-31T12:00:00Z"}
//	POST   /clock                 {"advance": "720h"} or {"to": "2025-03-01T00:00:00Z"}
//	POST   /faults                {"kind": "503", "match": "POST /v1/*", "times": 2}
//	DELETE /faults
//	GET    /ledger?customer=cus_…
//
// Don't mount it where strangers can reach it.
func (s *Simulator) Control() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /clock", func(w http.ResponseWriter, _ *http.Request) {
		answerJSON(w, http.StatusOK, object{"now": s.Now()})
	})
	mux.HandleFunc("POST /clock", func(w http.ResponseWriter, r *http.Request) {
		var in struct {
			Advance string    `json:"advance"`
			To      time.Time `json:"to"`
		}
		if err := readJSON(r, &in); err != nil {
			answerJSON(w, http.StatusBadRequest, object{"error": err.Error()})
			return
		}
		to := in.To
		if in.Advance != "" {
			d, err := time.ParseDuration(in.Advance)
			if err != nil {
				answerJSON(w, http.StatusBadRequest, object{"error": err.Error()})
				return
			}
			to = s.Now().Add(d)
		}
		if err := s.AdvanceTo(r.Context(), to); err != nil {
			answerJSON(w, http.StatusBadRequest, object{"error": err.Error()})
			return
		}
		answerJSON(w, http.StatusOK, object{"now": s.Now()})
	})
	mux.HandleFunc("POST /faults", func(w http.ResponseWriter, r *http.Request) {
		var in struct {
			Kind  FaultKind `json:"kind"`
			Match string    `json:"match"`
			Times int       `json:"times"`
			Delay string    `json:"delay"`
		}
		err := readJSON(r, &in)
		f := Fault{Kind: in.Kind, Match: in.Match, Times: in.Times}
		if err == nil && in.Delay != "" {
			f.Delay, err = time.ParseDuration(in.Delay)
		}
		if err == nil && !f.Kind.known() {
			err = invalid("no fault %q", in.Kind)
		}
		if err != nil {
			answerJSON(w, http.StatusBadRequest, object{"error": err.Error()})
			return
		}
		s.Inject(f)
		answerJSON(w, http.StatusOK, object{"injected": in.Kind})
	})
	mux.HandleFunc("DELETE /faults", func(w http.ResponseWriter, _ *http.Request) {
		s.ClearFaults()
		answerJSON(w, http.StatusOK, object{})
	})
	mux.HandleFunc("GET /ledger", func(w http.ResponseWriter, r *http.Request) {
		entries := []any{}
		for _, e := range s.Ledger(r.URL.Query().Get("customer")) {
			entries = append(entries, object{
				"at": e.At, "kind": e.Kind, "amount": e.Amount, "currency": e.Currency, "customer": e.CustomerID, "invoice": e.InvoiceID, "object": e.ObjectID,
			})
		}
		answerJSON(w, http.StatusOK, object{"entries": entries})
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := s.authorize(r); err != nil {
			answerJSON(w, http.StatusUnauthorized, object{"error": err.Error()})
			return
		}
		mux.ServeHTTP(w, r)
	})
}

func readJSON(r *http.Request, into any) error {
	dec := json.NewDecoder(io.LimitReader(r.Body, maxForm))
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		return err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return invalid("the body holds more than one JSON value")
	}
	return nil
}

func answerJSON(w http.ResponseWriter, status int, v any) {
	body, err := encode(v)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	w.Write(body)
}

package web

import (
	"fmt"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/kolekt/commerce/internal/clientip"
)

// counts are of this process, since its start.
type counts struct {
	requests  [6]atomic.Int64 // by the first digit of the status
	kolekts   atomic.Int64
	overQuota atomic.Int64
	throttled atomic.Int64
}

type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap lets http.ResponseController through.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (a *App) counted(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s := &statusWriter{ResponseWriter: w}
		next.ServeHTTP(s, r)
		a.counts.requests[min(5, max(s.status, 200)/100)].Add(1)
	})
}

// metrics answers in Prometheus' text format, to machines of the own network
// only: others see no page. Behind a proxy the connection's address is the
// proxy's, so a forwarded request is never answered.
func (a *App) metrics(w http.ResponseWriter, r *http.Request) {
	addr := clientip.From(r, []netip.Prefix{})
	if r.Header.Get("X-Forwarded-For") != "" || !addr.IsLoopback() && !addr.IsPrivate() {
		http.NotFound(w, r)
		return
	}
	h, err := a.health(r.Context())
	if err != nil {
		http.Error(w, "a store doesn't answer", http.StatusServiceUnavailable)
		return
	}
	var b strings.Builder
	write := func(name, kind, help string, samples ...string) {
		fmt.Fprintf(&b, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind)
		for _, s := range samples {
			fmt.Fprintf(&b, "%s%s\n", name, s)
		}
	}
	value := func(n int64) string { return " " + strconv.FormatInt(n, 10) }
	var byStatus []string
	for i := 1; i <= 5; i++ {
		byStatus = append(byStatus, fmt.Sprintf(`{status="%dxx"} %d`, i, a.counts.requests[i].Load()))
	}
	write("kolekt_http_requests_total", "counter", "Requests by status.", byStatus...)
	write("kolekt_kolekts_total", "counter", "Kolekts made.", value(a.counts.kolekts.Load()))
	write("kolekt_refused_total", "counter", "Refusals by reason.", `{reason="quota"}`+value(a.counts.overQuota.Load()), `{reason="rate"}`+value(a.counts.throttled.Load()))
	write("kolekt_webhook_events_pending", "gauge", "Webhook events that wait.", value(int64(h.Pending)))
	write("kolekt_webhook_events_dead", "gauge", "Webhook events that were given up.", value(int64(len(h.Dead))))
	write("kolekt_webhook_lag_seconds", "gauge", "Age of the oldest event that waits.", fmt.Sprintf(" %.3f", h.Lag.Seconds()))
	write("kolekt_mail", "gauge", "Mail by state.", `{state="pending"}`+value(h.Mail.Pending), `{state="claimed"}`+value(h.Mail.Claimed), `{state="dead"}`+value(h.Mail.Dead), `{state="held"}`+value(h.Mail.Held))
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = w.Write([]byte(b.String())) // the client has gone: nobody to tell
}

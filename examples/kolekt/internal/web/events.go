package web

import (
	"fmt"
	"net/http"
	"time"
)

// events tells a page that waits for its payment when the plan has changed: an
// event stream that ends by itself after a minute, since browsers ask again.
func (a *App) events(w http.ResponseWriter, r *http.Request) {
	v, err := a.visit(r)
	if err != nil || !v.known() {
		http.Error(w, "log in first", http.StatusUnauthorized)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no")
	flush := http.NewResponseController(w)
	deadline := time.Now().Add(time.Minute)
	if err := flush.SetWriteDeadline(deadline.Add(5 * time.Second)); err != nil {
		http.Error(w, "no stream here", http.StatusNotImplemented)
		return
	}
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for beat := 0; time.Now().Before(deadline); beat++ {
		now, err := a.Billing.Access(r.Context(), v.user.ID)
		if err == nil && (now.Plan != v.access.Plan || now.Paid != v.access.Paid) {
			fmt.Fprintf(w, "event: changed\ndata: %s\n\n", now.Plan)
			_ = flush.Flush() // the visitor has gone: nobody to tell
			return
		}
		if beat%20 == 0 {
			fmt.Fprint(w, ": still waiting\n\n")
			if flush.Flush() != nil {
				return
			}
		}
		select {
		case <-r.Context().Done():
			return
		case <-a.Stopping:
			return
		case <-tick.C:
		}
	}
}

package web

import (
	"net/http"
	"strconv"
	"time"

	"github.com/kolekt/commerce/billing/stripesim"
	"github.com/kolekt/commerce/examples/kolekt/internal/pages"
)

// faultKinds are what can be switched on, in words.
var faultKinds = []struct {
	kind       stripesim.FaultKind
	name, text string
	delay      time.Duration
}{
	{stripesim.DuplicateEvent, "Duplicate", "A webhook comes twice.", 0},
	{stripesim.ReorderEvent, "Reorder", "A webhook comes after the one that follows it.", 0},
	{stripesim.DelayEvent, "Delay", "A webhook comes a day late, on the simulated clock.", 24 * time.Hour},
	{stripesim.DropEvent, "Drop", "A webhook never comes. Reconciling finds it.", 0},
	{stripesim.RateLimited, "429", "A call is refused: too many requests.", 0},
	{stripesim.ServerError, "500", "A call breaks without any effect.", 0},
	{stripesim.Unavailable, "503", "A call finds nobody there.", 0},
	{stripesim.Reset, "Connection lost", "A call's connection breaks without any effect.", 0},
	{stripesim.ResetAfter, "Connection lost after the effect", "A call works, and its answer is lost.", 0},
	{stripesim.TimeoutAfter, "Timeout after the effect", "A call works, and its answer comes too late: after 35 seconds.", 35 * time.Second},
}

func (a *App) faultsPage(w http.ResponseWriter, r *http.Request, v *visit) error {
	return a.showFaults(w, r, v, http.StatusOK, pages.Form{})
}

func (a *App) showFaults(w http.ResponseWriter, r *http.Request, v *visit, status int, form pages.Form) error {
	data := pages.Faults{Form: form}
	names := map[stripesim.FaultKind]string{}
	for i, k := range faultKinds {
		names[k.kind] = k.name
		data.Kinds = append(data.Kinds, pages.FaultKind{ID: string(k.kind), Name: k.name, Text: k.text, Selected: form.Value("kind") == string(k.kind) || form.Value("kind") == "" && i == 0})
	}
	data.Active = pages.Table{Caption: "Each goes when it is used up", Heads: []string{"What", "Where", "How often"}, Empty: "None: everything works."}
	for _, f := range a.Dev.Faults() {
		where, times := f.Match, count(int64(f.Times), "more time")
		if where == "" {
			where = "everywhere"
		}
		if f.Times < 0 {
			times = "until it is switched off"
		}
		data.Active.Rows = append(data.Active.Rows, pages.Row{Cells: []string{names[f.Kind], where, times}})
	}
	return a.show(w, r, v, status, "faults", pages.Page{Title: "Faults", Data: data})
}

func (a *App) faultOn(w http.ResponseWriter, r *http.Request, v *visit) error {
	const most = 100 // characters of a match
	f := stripesim.Fault{Match: r.FormValue("match")}
	times, err := strconv.Atoi(r.FormValue("times"))
	f.Times = times
	for _, k := range faultKinds {
		if string(k.kind) == r.FormValue("kind") {
			f.Kind, f.Delay = k.kind, k.delay
		}
	}
	if f.Kind == "" || err != nil || times == 0 || times < -1 || times > 1000 || len(f.Match) > most {
		form := pages.Form{Values: map[string]string{"kind": r.FormValue("kind"), "match": f.Match}, Errors: map[string]string{"": "Choose what goes wrong, and how often."}}
		return a.showFaults(w, r, v, http.StatusUnprocessableEntity, form)
	}
	a.Dev.Inject(f)
	http.Redirect(w, r, "/dev/faults", http.StatusSeeOther)
	return nil
}

func (a *App) faultsOff(w http.ResponseWriter, r *http.Request, _ *visit) error {
	a.Dev.Clear()
	http.Redirect(w, r, "/dev/faults", http.StatusSeeOther)
	return nil
}

package usage

import (
	"slices"
	"strings"
)

// Record returns an event as fields of built-in types, for an export.
func (e Entry) Record() map[string]any {
	var props map[string]any
	for _, p := range e.Properties {
		if props == nil {
			props = make(map[string]any, len(e.Properties))
		}
		props[p.Name] = p.Value()
	}
	return map[string]any{
		"id": e.ID, "meter": e.Meter, "value": e.Value, "time": e.Time, "properties": props,
	}
}

// Anonymous returns the event without account, ID and all properties but the
// declared measures and dimensions: it still adds to the platform's totals.
func (e Entry) Anonymous() Entry {
	var keep Properties
	for _, p := range e.Properties {
		figure := slices.ContainsFunc(e.Figures[1:], func(f Figure) bool { return f.Name == p.Name })
		group := slices.ContainsFunc(e.Groups, func(g string) bool { return strings.HasPrefix(g, p.Name+"=") })
		if figure || group {
			keep = append(keep, p)
		}
	}
	e.Account, e.ID, e.Properties, e.Hash, e.Own = "", "", keep, 0, true
	e.Charge, e.Report = Charge{}, false
	e.Key = newKey(e.Time) // the old one could be linked to the ID
	return e
}

// Record returns a counter as fields of built-in types, for an export.
func (c Counter) Record() map[string]any {
	return map[string]any{
		"meter": c.Meter, "from": c.Period.From, "to": c.Period.To,
		"used": c.Used, "held": c.Held, "limit": c.Limit,
	}
}

// Record returns a hold as fields of built-in types, for an export.
func (h Hold) Record() map[string]any {
	states := map[HoldState]string{Held: "held", Committed: "committed", Released: "released", Expired: "expired"}
	return map[string]any{
		"key": h.Key, "meter": h.Meter, "from": h.Period.From, "to": h.Period.To,
		"n": h.N, "actual": h.Actual, "state": states[h.State], "at": h.At, "expires": h.Expires,
	}
}

// Record returns a notice as fields of built-in types, for an export.
func (n Notice) Record() map[string]any {
	return map[string]any{
		"id": n.ID, "meter": n.Meter, "from": n.Period.From, "to": n.Period.To,
		"percent": n.Percent, "used": n.Used, "limit": n.Limit, "at": n.At,
	}
}

// Record returns a lot of a grant as fields of built-in types, for an export.
func (l Lot) Record() map[string]any {
	return map[string]any{
		"meter": l.Meter, "key": l.Key, "seq": l.Seq, "amount": l.Amount, "priority": l.Priority, "from": l.Start, "to": l.End,
		"every": string(l.Every), "rollover": l.Rollover, "note": l.Note, "granted_at": l.GrantedAt, "revoked_at": l.RevokedAt,
		"issued": l.Issued, "carried": l.Carried, "burned": l.Burned, "held": l.Held, "expired": l.Expired,
		"voided": l.Voided, "rolled": l.Rolled, "remaining": l.Remaining(),
	}
}

// Record returns an entry of the ledger of grants as fields of built-in types,
// for an export.
func (e GrantEntry) Record() map[string]any {
	return map[string]any{
		"meter": e.Meter, "key": e.Key, "seq": e.Seq, "at": e.At, "move": e.Move.String(), "units": e.Units,
		"period": e.Period, "step": e.Step,
	}
}

// Record returns a report as fields of built-in types, for an export.
func (r Report) Record() map[string]any {
	return map[string]any{
		"id": r.ID, "meter": r.Meter, "from": r.Hour.From, "to": r.Hour.To, "quantity": r.Quantity,
		"state": r.State.String(), "reason": r.Reason, "cut_at": r.CutAt, "tries": r.Tries,
	}
}

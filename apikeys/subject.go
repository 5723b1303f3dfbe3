package apikeys

import (
	"context"
	"time"
)

// eraseBatch bounds one step of an erasure.
const eraseBatch = 500

// ExportSubject gives everything that is held on the account to emit: its keys
// (records "api_key", without hashes), and the log entries in which it is
// owner or actor ("api_key_event").
func (s *Service) ExportSubject(ctx context.Context, account string, emit func(record string, fields map[string]any) error) error {
	if !validName(account) {
		return &FieldError{"account", "want 1 to 200 bytes of printable UTF-8"}
	}
	for _, kind := range []string{KindAccount, KindOrganisation, KindService} {
		q := Query{Owner: Owner{Kind: kind, ID: account}, Limit: 1000}
		for {
			keys, err := s.store.List(ctx, q)
			if err != nil {
				return unavailable("list keys", err)
			}
			for i := range keys {
				if err := emit("api_key", exported(&keys[i])); err != nil {
					return err
				}
				q.Before = keys[i].ID
			}
			if len(keys) < q.Limit {
				break
			}
		}
	}
	q := LogQuery{Account: account, Limit: 1000}
	for {
		entries, err := s.store.Log(ctx, q)
		if err != nil {
			return unavailable("read the log", err)
		}
		for i := range entries {
			e := &entries[i]
			detail := map[string]any{}
			for k, v := range e.Detail {
				detail[k] = v
			}
			if err := emit("api_key_event", map[string]any{
				"at": e.At, "action": e.Action, "key": e.Key, "actor": e.Actor, "detail": detail,
			}); err != nil {
				return err
			}
			q.After = e.Seq
		}
		if len(entries) < q.Limit {
			return nil
		}
	}
}

func exported(k *Key) map[string]any {
	networks := []any{}
	for _, n := range k.Networks {
		networks = append(networks, n.String())
	}
	scopes := []any{}
	for _, sc := range k.Scopes {
		scopes = append(scopes, sc)
	}
	metadata := map[string]any{}
	for name, v := range k.Metadata {
		metadata[name] = v
	}
	f := map[string]any{
		"id": k.ID, "lineage": k.Lineage, "owner_kind": k.Owner.Kind, "name": k.Name,
		"environment": k.Environment, "hint": k.Hint, "scopes": scopes, "networks": networks,
		"metadata": metadata, "created_by": k.CreatedBy,
	}
	for name, t := range map[string]time.Time{
		"created_at": k.CreatedAt, "expires_at": k.ExpiresAt, "disabled_at": k.DisabledAt,
		"revoked_at": k.RevokedAt, "replaced_at": k.ReplacedAt, "sunset_at": k.SunsetAt, "last_used_at": k.LastUsed.At,
	} {
		if !t.IsZero() {
			f[name] = t
		}
	}
	if k.RevokedFor != "" {
		f["revoked_for"] = k.RevokedFor
	}
	if k.LastUsed.Addr.IsValid() {
		f["last_used_address"] = k.LastUsed.Addr.String()
	}
	if k.LastUsed.Agent != "" {
		f["last_used_agent"] = k.LastUsed.Agent
	}
	return f
}

// EraseSubject deletes the account's keys, which end at once, and removes it
// from the log and from other owners' keys that it made. The log keeps the keys' IDs, and its chain still holds. It
// works in batches and may be called again; it reports what it erased by kind
// of record.
func (s *Service) EraseSubject(ctx context.Context, account string) (map[string]int64, error) {
	if !validName(account) {
		return nil, &FieldError{"account", "want 1 to 200 bytes of printable UTF-8"}
	}
	counts := map[string]int64{"api_key": 0, "api_key_event": 0}
	for _, kind := range []string{KindAccount, KindOrganisation, KindService} {
		sel := Selection{Owner: Owner{Kind: kind, ID: account}, Limit: eraseBatch, Revoked: true}
		for {
			n := 0
			err := s.change(ctx, sel, func(found []Record) (Delta, error) {
				var d Delta
				now := s.stamp()
				for i := range found {
					d.Delete = append(d.Delete, found[i].ID)
					d.Log = append(d.Log, Entry{At: now, Action: ActionErased, Key: found[i].ID})
				}
				n = len(found)
				return d, nil
			})
			if err != nil {
				return counts, err
			}
			counts["api_key"] += int64(n)
			if n < eraseBatch {
				break
			}
		}
	}
	for {
		n, err := s.store.Forget(ctx, account, eraseBatch)
		if err != nil {
			return counts, unavailable("erase log entries", err)
		}
		counts["api_key_event"] += n
		if n < eraseBatch {
			return counts, nil
		}
	}
}

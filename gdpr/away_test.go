package gdpr_test

import (
	"context"
	"errors"
	"iter"
	"time"

	"github.com/kolekt/commerce/gdpr"
)

var errAway = errors.New("the database is away")

// away is a store whose database doesn't answer.
type away struct{}

func (away) CreateRequest(context.Context, gdpr.Request, ...gdpr.Entry) error { return errAway }
func (away) Request(context.Context, string) (gdpr.Request, error) {
	return gdpr.Request{}, errAway
}
func (away) Requests(context.Context, gdpr.Filter) ([]gdpr.Request, error) { return nil, errAway }
func (away) UpdateRequest(context.Context, gdpr.Request, []gdpr.Tombstone, ...gdpr.Entry) error {
	return errAway
}
func (away) Claim(context.Context, time.Time, time.Duration, int) ([]gdpr.Request, error) {
	return nil, errAway
}
func (away) Tombstoned(context.Context, []string) ([]gdpr.Tombstone, error) { return nil, errAway }
func (away) PutTombstones(context.Context, []gdpr.Tombstone) error          { return errAway }
func (away) CountTombstones(context.Context) (int64, error)                 { return 0, errAway }
func (away) ExpireTombstones(context.Context, time.Time) (int64, error)     { return 0, errAway }
func (away) AppendConsent(context.Context, gdpr.ConsentEvent) error         { return errAway }
func (away) Consents(context.Context, string) ([]gdpr.ConsentEvent, error)  { return nil, errAway }
func (away) DeleteConsents(context.Context, string) (int64, error)          { return 0, errAway }
func (away) PutKey(context.Context, string, []byte) ([]byte, error)         { return nil, errAway }
func (away) Key(context.Context, string) ([]byte, error)                    { return nil, errAway }
func (away) DestroyKey(context.Context, string, time.Time) error            { return errAway }
func (away) AppendAudit(context.Context, ...gdpr.Entry) error               { return errAway }
func (away) Audit(context.Context, int64) iter.Seq2[gdpr.Entry, error] {
	return func(yield func(gdpr.Entry, error) bool) { yield(gdpr.Entry{}, errAway) }
}

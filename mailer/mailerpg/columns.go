package mailerpg

import (
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/kolekt/commerce/mailer"
)

// uuid is a key as it is stored: 128 bits, half the index of a whole HMAC.
func uuid(key []byte) (pgtype.UUID, error) {
	if len(key) != 16 {
		return pgtype.UUID{}, fmt.Errorf("mailerpg: KeyHash has %d bytes, must have 16", len(key))
	}
	return pgtype.UUID{Bytes: [16]byte(key), Valid: true}, nil
}

// columns are mails turned on their side: one array for each column.
type columns struct {
	id, kind, stream, account, topic, email, name, locale, zone, domain []string
	key                                                                 []pgtype.UUID
	address                                                             [][]byte
	data                                                                []string
	class                                                               []int16
	guarded                                                             []bool
	created, run, expires                                               []pgtype.Timestamptz
}

func newColumns(n int) *columns {
	text := make([]string, 11*n)
	part := func(i int) []string { return text[i*n : (i+1)*n : (i+1)*n] }
	times := make([]pgtype.Timestamptz, 3*n)
	return &columns{
		id: part(0), kind: part(1), stream: part(2), account: part(3), topic: part(4), email: part(5), name: part(6),
		locale: part(7), zone: part(8), domain: part(9), data: part(10), key: make([]pgtype.UUID, n), address: make([][]byte, n),
		class: make([]int16, n), guarded: make([]bool, n), created: times[:n], run: times[n : 2*n], expires: times[2*n:],
	}
}

func (c *columns) set(i int, m *mailer.Mail) (err error) {
	c.id[i], c.kind[i], c.stream[i], c.class[i], c.guarded[i] = m.ID, m.Kind, m.Stream, int16(m.Class), m.Guarded
	c.account[i], c.topic[i], c.email[i], c.name[i], c.locale[i], c.zone[i] = m.Account, m.Topic, m.Email, m.Name, m.Locale, m.TimeZone
	c.domain[i], c.address[i], c.data[i] = m.Domain, m.AddressHash, string(m.Data)
	c.created[i], c.run[i], c.expires[i] = at(m.CreatedAt), at(m.RunAt), at(m.ExpiresAt)
	c.key[i], err = uuid(m.KeyHash)
	return err
}

func at(t time.Time) pgtype.Timestamptz { return pgtype.Timestamptz{Time: t, Valid: true} }

// args stand in the order of enqueuePlain's parameters.
func (c *columns) args() []any {
	return []any{c.id, c.key, c.kind, c.stream, c.class, c.guarded, c.account, c.topic, c.email, c.name, c.locale, c.zone,
		c.domain, c.address, c.data, c.created, c.run, c.expires}
}

// contentColumns and deliveryColumns are the two halves of a mail, as a record
// reads them.
const (
	contentColumns = `o.key_hash, o.kind, o.stream, o.class, o.guarded, coalesce(o.account, ''), coalesce(o.topic, ''),
    coalesce(o.email, ''), coalesce(o.name, ''), coalesce(o.locale, ''), coalesce(o.time_zone, ''), coalesce(o.domain, ''),
    o.address_hash, o.data, o.created_at, o.expires_at`
	deliveryColumns = `d.id, d.state, d.attempts, d.run_at, d.at, d.reason, d.code, d.enhanced, d.transport, d.provider_id`

	// selectMail begins at deliveries, selectContents at contents: each joins
	// the other half by its primary key.
	halves         = "select " + deliveryColumns + ", " + contentColumns + " from mailer_delivery d join mailer_outbox o "
	selectMail     = halves + "on o.key_hash = d.key_hash\n"
	selectContents = halves + "on d.id = o.id\n"
)

// record is a mail on its way out of the database.
type record struct {
	mailer.Mail
	key          pgtype.UUID
	class, state int16
	at           time.Time
}

// scrubbed is what the state of a mail has gained when it was scrubbed.
const scrubbed = 10

func (r *record) content(more ...any) []any {
	return append([]any{&r.key, &r.Kind, &r.Stream, &r.class, &r.Guarded, &r.Account, &r.Topic, &r.Email, &r.Name, &r.Locale,
		&r.TimeZone, &r.Domain, &r.AddressHash, &r.Data, &r.CreatedAt, &r.ExpiresAt}, more...)
}

func (r *record) delivery(more ...any) []any {
	return append([]any{&r.ID, &r.state, &r.Attempts, &r.RunAt, &r.at, &r.Reason, &r.Code, &r.Enhanced, &r.Transport,
		&r.ProviderID}, more...)
}

func (r *record) mail() mailer.Mail {
	m := r.Mail
	m.KeyHash, m.Class, m.State = r.key.Bytes[:], mailer.Class(r.class), mailer.State(r.state%scrubbed)
	m.CreatedAt, m.RunAt, m.ExpiresAt = m.CreatedAt.UTC(), m.RunAt.UTC(), m.ExpiresAt.UTC()
	if m.State >= mailer.Done {
		m.FinishedAt = r.at.UTC()
	}
	return m
}

// scanMail reads a row of selectMail.
func scanMail(row pgx.CollectableRow) (mailer.Mail, error) {
	var r record
	err := row.Scan(r.delivery(r.content()...)...)
	return r.mail(), err
}

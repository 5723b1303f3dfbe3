package mailerpg

import (
	"time"

	"github.com/kolekt/commerce/mailer"
)

// columns are mails turned on their side: one array for each column.
type columns struct {
	id, kind, stream, account, topic, email, name, locale, zone, domain []string
	key, address                                                        [][]byte
	data                                                                []string
	class                                                               []int16
	guarded                                                             []bool
	created, run, expires                                               []time.Time
}

func newColumns(n int) *columns {
	text := make([]string, 11*n)
	part := func(i int) []string { return text[i*n : (i+1)*n : (i+1)*n] }
	hashes := make([][]byte, 2*n)
	times := make([]time.Time, 3*n)
	return &columns{
		id: part(0), kind: part(1), stream: part(2), account: part(3), topic: part(4), email: part(5), name: part(6),
		locale: part(7), zone: part(8), domain: part(9), data: part(10), key: hashes[:n], address: hashes[n:],
		class: make([]int16, n), guarded: make([]bool, n), created: times[:n], run: times[n : 2*n], expires: times[2*n:],
	}
}

func (c *columns) set(i int, m mailer.Mail) {
	c.id[i], c.key[i], c.kind[i], c.stream[i], c.class[i], c.guarded[i] = m.ID, m.KeyHash, m.Kind, m.Stream, int16(m.Class), m.Guarded
	c.account[i], c.topic[i], c.email[i], c.name[i], c.locale[i], c.zone[i] = m.Account, m.Topic, m.Email, m.Name, m.Locale, m.TimeZone
	c.domain[i], c.address[i], c.data[i] = m.Domain, m.AddressHash, string(m.Data)
	c.created[i], c.run[i], c.expires[i] = m.CreatedAt, m.RunAt, m.ExpiresAt
}

// args stand in the order of enqueuePlain's parameters.
func (c *columns) args() []any {
	return []any{c.id, c.key, c.kind, c.stream, c.class, c.guarded, c.account, c.topic, c.email, c.name, c.locale, c.zone,
		c.domain, c.address, c.data, c.created, c.run, c.expires}
}

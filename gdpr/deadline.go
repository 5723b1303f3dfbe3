package gdpr

import (
	"time"

	"github.com/kolekt/commerce/internal/period"
)

// Calendar says on which days an office works. The zero Calendar knows
// Saturdays and Sundays only.
type Calendar struct {
	// Holidays reports whether a day, given at midnight UTC, is a public
	// holiday. Nil means none is.
	Holidays func(day time.Time) bool
}

// Due returns the end of the time limit for an answer that Art. 12(3) gives:
// months after receipt, until the end of the day with the same number, or of
// the month's last day when it is shorter; a limit that ends on a Saturday, a
// Sunday or a holiday ends with the next working day (Regulation 1182/71,
// Art. 3). The returned instant is the first one after the limit, midnight
// UTC.
func (c Calendar) Due(received time.Time, months int) time.Time {
	r := received.UTC()
	day := time.Date(r.Year(), r.Month(), r.Day(), 0, 0, 0, 0, time.UTC)
	day = period.AddMonths(day, months)
	for day.Weekday() == time.Saturday || day.Weekday() == time.Sunday || c.Holidays != nil && c.Holidays(day) {
		day = day.AddDate(0, 0, 1)
	}
	return day.AddDate(0, 0, 1)
}

// Retention is a statutory time for which records must be kept.
type Retention struct {
	Years int
	// EndOfYear counts the years from the end of the calendar year of the
	// record, as German and Austrian tax law do.
	EndOfYear bool
	// ExtendUntil, if set, returns a later end: the time doesn't run out while
	// a tax assessment is open.
	ExtendUntil func(from time.Time) time.Time
}

// Until returns when a record of the given instant may be deleted.
func (r Retention) Until(from time.Time) time.Time {
	from = from.UTC()
	if r.EndOfYear {
		from = time.Date(from.Year()+1, 1, 1, 0, 0, 0, 0, time.UTC)
	}
	until := period.AddMonths(from, 12*r.Years)
	if r.ExtendUntil != nil {
		if later := r.ExtendUntil(from); later.After(until) {
			return later
		}
	}
	return until
}

// InvoiceRetention returns how long issued invoices must be kept in a country,
// by its ISO 3166 code, and the rule that says so. It is an engineer's reading
// and no legal advice: have it checked, and pass a Retention of your own where
// it differs.
func InvoiceRetention(country string) (r Retention, rule string, ok bool) {
	for _, c := range invoiceRetention {
		if c.country == country {
			return c.retention, c.rule, true
		}
	}
	return Retention{}, "", false
}

var invoiceRetention = [...]struct {
	country   string
	retention Retention
	rule      string
}{
	{"AT", Retention{Years: 7, EndOfYear: true}, "§ 132 BAO"},
	{"DE", Retention{Years: 8, EndOfYear: true}, "§ 147 AO, § 14b UStG (8 years since 2025)"},
	{"ES", Retention{Years: 6}, "Art. 30 Código de Comercio"},
	{"FR", Retention{Years: 10}, "Art. L123-22 Code de commerce"},
	{"GB", Retention{Years: 6}, "VAT Notice 700/21"},
	{"IT", Retention{Years: 10}, "Art. 2220 Codice civile"},
	{"NL", Retention{Years: 7}, "Art. 52 AWR"},
	{"PL", Retention{Years: 5, EndOfYear: true}, "Art. 86 Ordynacja podatkowa"},
}

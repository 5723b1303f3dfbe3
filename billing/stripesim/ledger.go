package stripesim

import (
	"cmp"
	"slices"
	"time"
)

// EntryKind is what moved money.
type EntryKind string

// The kinds of ledger entries. Charged, Refunded, Disputed and Reinstated are
// real money; Balance is credit or debit on a customer's account.
const (
	Charged    EntryKind = "charged"
	Refunded   EntryKind = "refunded"
	Disputed   EntryKind = "disputed"
	Reinstated EntryKind = "reinstated"
	Balance    EntryKind = "balance"
)

// Entry is one movement of money, from the merchant's view: a charge is
// positive, a refund negative. A Balance entry is positive when the customer
// owes more and negative when they have more credit.
type Entry struct {
	At         time.Time
	Kind       EntryKind
	Amount     int64 // minor units, never 0
	Currency   string
	CustomerID string
	InvoiceID  string
	ObjectID   string // the charge, refund, dispute or balance transaction
}

// Ledger returns every movement of money of a customer, or of all customers
// for "", oldest first.
func (s *Simulator) Ledger(customerID string) []Entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	type row struct {
		seq int64
		Entry
	}
	var rows []row
	add := func(h *head, kind EntryKind, amount int64, currency, customer, inv string) {
		if customerID != "" && customer != customerID || amount == 0 {
			return
		}
		rows = append(rows, row{h.seq, Entry{
			At: time.Unix(h.created, 0).UTC(), Kind: kind, Amount: amount, Currency: currency, CustomerID: customer, InvoiceID: inv, ObjectID: h.id,
		}})
	}
	for _, ch := range all(s, kindCharge, func(c *charge) bool { return c.status == "succeeded" }) {
		add(&ch.head, Charged, ch.amount, ch.currency, ch.customer, ch.invoice)
	}
	for _, r := range all[*refund](s, kindRefund, nil) {
		ch := must[*charge](s, kindCharge, r.charge)
		add(&r.head, Refunded, -r.amount, r.currency, ch.customer, ch.invoice)
	}
	for _, d := range all[*dispute](s, kindDispute, nil) {
		ch := must[*charge](s, kindCharge, d.charge)
		add(&d.head, Disputed, -d.amount, d.currency, ch.customer, ch.invoice)
		if d.status == "won" {
			add(&d.head, Reinstated, d.amount, d.currency, ch.customer, ch.invoice)
		}
	}
	for _, b := range all[*balanceTransaction](s, kindBalance, nil) {
		add(&b.head, Balance, b.amount, b.currency, b.customer, b.invoice)
	}
	slices.SortStableFunc(rows, func(a, b row) int { return cmp.Compare(a.seq, b.seq) })
	out := make([]Entry, len(rows))
	for i, r := range rows {
		out[i] = r.Entry
	}
	return out
}

// Collected is what a customer, or all for "", has paid and not got back, by
// currency.
func (s *Simulator) Collected(customerID string) map[string]int64 {
	out := map[string]int64{}
	for _, e := range s.Ledger(customerID) {
		if e.Kind != Balance {
			out[e.Currency] += e.Amount
		}
	}
	return out
}

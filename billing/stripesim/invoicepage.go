package stripesim

import (
	"bytes"
	"fmt"
	"strings"
)

func (s *Simulator) invoiceByToken(token string) *invoice {
	for _, v := range newest[*invoice](s, kindInvoice, nil) {
		if v.token == token && v.status != "draft" {
			return v
		}
	}
	return nil
}

// invoicePage is the hosted page of an invoice, on which it can be paid.
func (s *Simulator) invoicePage(v *visit) {
	inv := s.invoiceByToken(v.id)
	if inv == nil {
		v.gone("No such invoice", "This link is wrong, or the simulator has been started anew since it was made.")
		return
	}
	f := s.formOf(v)
	problem := ""
	if v.posted("pay") && inv.status == "open" {
		var done bool
		if done, problem = s.payByHand(inv, f, v); done {
			return
		}
	}
	data := view{
		Title: "Invoice " + inv.number, Number: inv.number, Status: inv.status, PDF: v.up + "i/" + inv.token + "/pdf", Error: problem, Form: f,
		Price: moneyText(inv.due, inv.currency), Lead: s.invoiceLead(inv), Payable: inv.status == "open", Cards: shownCards(),
		Button: "Pay " + moneyText(inv.remaining, inv.currency),
	}
	for _, l := range inv.lines {
		data.Lines = append(data.Lines, viewLine{Name: l.description, Note: dateText(l.start) + " – " + dateText(l.end), Amount: moneyText(l.amount, inv.currency)})
	}
	data.Sums = invoiceSums(inv)
	v.show("invoice", data)
}

func (s *Simulator) invoiceLead(inv *invoice) string {
	to := "Billed to " + inv.billedTo(s) + " on " + dateText(inv.finalizedAt)
	if inv.paidAt > 0 {
		return to + ", paid on " + dateText(inv.paidAt) + "."
	}
	return to + "."
}

func (v *invoice) billedTo(s *Simulator) string {
	to := v.billed(s)
	for _, text := range []string{to.name, to.email} {
		if text != "" {
			return text
		}
	}
	return v.customer
}

func invoiceSums(inv *invoice) []viewLine {
	out := []viewLine{{Name: "Subtotal", Amount: moneyText(inv.subtotal, inv.currency)}}
	for _, d := range inv.discountAmounts {
		out = append(out, viewLine{Name: "Discount " + d.discount.coupon.id, Amount: moneyText(-d.amount, inv.currency)})
	}
	if used := inv.due - inv.total; used != 0 && inv.total > 0 {
		out = append(out, viewLine{Name: "Balance", Amount: moneyText(used, inv.currency)})
	}
	return append(out, viewLine{Name: "Total", Amount: moneyText(inv.total, inv.currency)}, viewLine{Name: "Amount due", Amount: moneyText(inv.due, inv.currency)})
}

// payByHand pays an open invoice with a card that is typed in.
func (s *Simulator) payByHand(inv *invoice, f cardForm, v *visit) (bool, string) {
	in, problem := s.readCard(f, s.at(inv.clock))
	if problem != "" {
		return false, problem
	}
	pm := s.newCard(in.card, inv.clock)
	pm.expMonth, pm.expYear = in.month, in.year
	if no := s.collect(inv, pm, false); no != nil {
		return false, no.message
	}
	p := must[*intent](s, kindIntent, inv.intent)
	if p.status == "requires_action" {
		p.returnURL = s.link("/i/" + inv.token)
		v.redirect = v.up + "3ds/" + p.id
		return true, ""
	}
	s.keepCard(p, pm, must[*customer](s, kindCustomer, inv.customer))
	v.redirect = "?"
	return true, ""
}

// invoicePDF is a plain one-page PDF of an invoice.
func (s *Simulator) invoicePDF(v *visit) {
	inv := s.invoiceByToken(v.id)
	if inv == nil {
		v.gone("No such invoice", "This link is wrong, or the simulator has been started anew since it was made.")
		return
	}
	text := []string{
		s.cfg.MerchantName + " (simulator: no real money)", "", "Invoice " + inv.number + "  -  " + inv.status, s.invoiceLead(inv), "",
	}
	for _, l := range inv.lines {
		text = append(text, l.description+":  "+moneyText(l.amount, inv.currency))
	}
	text = append(text, "")
	for _, sum := range invoiceSums(inv) {
		text = append(text, sum.Name+":  "+sum.Amount)
	}
	v.file = pdf(text)
}

// maxPDFLines fit on the one page.
const maxPDFLines = 50

// pdf writes lines of text as a PDF of one page.
func pdf(lines []string) []byte {
	var page bytes.Buffer
	page.WriteString("BT /F1 11 Tf 56 780 Td 15 TL\n")
	for _, l := range lines[:min(len(lines), maxPDFLines)] {
		fmt.Fprintf(&page, "(%s) Tj T*\n", pdfText(l))
	}
	page.WriteString("ET")
	objects := []string{
		"<< /Type /Catalog /Pages 2 0 R >>",
		"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
		"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents 4 0 R /Resources << /Font << /F1 5 0 R >> >> >>",
		fmt.Sprintf("<< /Length %d >>\nstream\n%s\nendstream", page.Len(), page.String()),
		"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
	}
	var out bytes.Buffer
	out.WriteString("%PDF-1.4\n")
	offsets := make([]int, len(objects))
	for i, body := range objects {
		offsets[i] = out.Len()
		fmt.Fprintf(&out, "%d 0 obj\n%s\nendobj\n", i+1, body)
	}
	table := out.Len()
	fmt.Fprintf(&out, "xref\n0 %d\n0000000000 65535 f \n", len(objects)+1)
	for _, at := range offsets {
		fmt.Fprintf(&out, "%010d 00000 n \n", at)
	}
	fmt.Fprintf(&out, "trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n", len(objects)+1, table)
	return out.Bytes()
}

// pdfText escapes a text for a PDF string in the WinAnsi encoding.
func pdfText(text string) string {
	var b strings.Builder
	for _, c := range text {
		switch {
		case c == '(' || c == ')' || c == '\\':
			b.WriteByte('\\')
			b.WriteRune(c)
		case c == '−' || c == '–':
			b.WriteByte('-')
		case c == '€':
			b.WriteString(`\200`)
		case c >= ' ' && c < 0x7f:
			b.WriteRune(c)
		case c >= 0xa0 && c <= 0xff:
			fmt.Fprintf(&b, `\%03o`, c)
		default:
			b.WriteByte('?')
		}
	}
	return b.String()
}

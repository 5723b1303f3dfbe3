package stripesim

import "net/http"

const kindCreditNote = "credit_note"

func priceText(p *price) string { return p.decimal }
func dateText(t int64) string   { return "" }
func (s *Simulator) servePage(w http.ResponseWriter, r *http.Request, path string) {
	http.NotFound(w, r)
}

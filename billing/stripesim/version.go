package stripesim

import (
	"maps"
	"slices"
	"strconv"
)

// firstVersion is the API version that the simulator thinks in.
const firstVersion = "2023-10-16"

// The places of versions that changed the shape of objects.
const (
	v2024April = 1
	vBasil     = 4
	vClover    = 5
	vDahlia    = 6
)

// Versions returns the API versions that the simulator renders, oldest first.
func Versions() []string {
	return []string{
		firstVersion, "2024-04-10", "2024-06-20", "2024-09-30.acacia", "2025-03-31.basil", "2025-09-30.clover", "2026-03-25.dahlia",
	}
}

// versionRank is a version's place among Versions, or -1.
func versionRank(version string) int { return slices.Index(Versions(), version) }

// translate renders an object in an API version. What render returns has the
// fields of all versions; this takes away and moves what the version doesn't
// have. The empty version keeps everything: that of snapshots.
func translate(in object, version string) object {
	if version == "" {
		return in
	}
	kind, ok := in["object"].(string)
	if !ok {
		return in
	}
	rank := versionRank(version)
	out := maps.Clone(in)
	switch kind {
	case kindProduct:
		if rank >= v2024April {
			move(out, "features", "marketing_features")
		}
	case kindInvoice:
		translateInvoice(out, rank)
	case "line_item":
		translateLine(out, rank)
	case kindInvoiceItem:
		translateInvoiceItem(out, rank)
	case kindSubscription:
		if rank >= vBasil {
			drop(out, "current_period_start", "current_period_end", "discount", "billing_thresholds")
		}
		if rank < vClover {
			drop(out, "billing_mode")
		}
	case kindItem:
		if rank < vBasil {
			drop(out, "current_period_start", "current_period_end")
		} else {
			drop(out, "billing_thresholds")
		}
		quantityDecimal(out, rank)
	case kindIntent:
		if rank >= vBasil {
			drop(out, "invoice")
		}
	case kindCharge:
		if rank >= vBasil {
			drop(out, "invoice")
		}
	case kindCreditNote:
		if rank >= vBasil {
			out["refunds"] = []any{}
			if id := idOf(out["refund"]); id != "" {
				out["refunds"] = []any{object{"amount_refunded": out["amount"], "refund": out["refund"]}}
			}
			move(out, "tax_amounts", "total_taxes")
			drop(out, "refund")
		}
	case "credit_note_line_item":
		if rank >= vBasil {
			move(out, "tax_amounts", "taxes")
			drop(out, "amount_excluding_tax", "unit_amount_excluding_tax")
		}
	case kindSession:
		if rank >= vBasil {
			out["collected_information"] = object{"shipping_details": out["shipping_details"]}
			drop(out, "shipping_details")
		}
	case kindSchedule:
		if rank >= vBasil {
			phases := []any{}
			for _, x := range out["phases"].([]any) {
				p := maps.Clone(x.(object))
				drop(p, "coupon", "billing_thresholds")
				phases = append(phases, p)
			}
			out["phases"] = phases
		}
	case kindDiscount:
		if rank >= vClover {
			out["source"] = object{"type": "coupon", "coupon": nameOf(out["coupon"])}
			drop(out, "coupon")
		}
	case kindPromotion:
		if rank >= vClover {
			out["promotion"] = object{"type": "coupon", "coupon": nameOf(out["coupon"])}
			drop(out, "coupon")
		}
	}
	return out
}

func translateInvoice(out object, rank int) {
	if rank >= v2024April {
		drop(out, "rendering_options")
	}
	if rank < vBasil {
		drop(out, "payments", "confirmation_secret")
		return
	}
	out["parent"] = nil
	if out["subscription"] != nil && idOf(out["subscription"]) != "" {
		details := object{"subscription": out["subscription"], "metadata": nil}
		if d, ok := out["subscription_details"].(object); ok {
			details["metadata"] = d["metadata"]
		}
		if date, ok := out["subscription_proration_date"]; ok {
			details["subscription_proration_date"] = date
		}
		out["parent"] = object{"type": "subscription_details", "quote_details": nil, "subscription_details": details}
	}
	out["total_taxes"] = []any{}
	drop(out, "subscription", "subscription_details", "subscription_proration_date", "quote", "payment_intent", "charge", "paid", "paid_out_of_band",
		"tax", "total_tax_amounts", "transfer_data", "application_fee_amount", "discount")
}

func translateLine(out object, rank int) {
	quantityDecimal(out, rank)
	if rank < vBasil {
		return
	}
	out["pricing"] = pricing(out["price"])
	sub := idOf(out["subscription"])
	// A proration is of a subscription's item too, and names its invoice item.
	if idOf(out["subscription_item"]) != "" {
		out["parent"] = object{
			"type": "subscription_item_details", "invoice_item_details": nil,
			"subscription_item_details": object{
				"invoice_item": optional(idOf(out["invoice_item"])), "proration": out["proration"], "proration_details": out["proration_details"],
				"subscription": optional(sub), "subscription_item": out["subscription_item"],
			},
		}
	} else {
		out["parent"] = object{
			"type": "invoice_item_details", "subscription_item_details": nil,
			"invoice_item_details": object{
				"invoice_item": out["invoice_item"], "proration": out["proration"], "proration_details": out["proration_details"], "subscription": optional(sub),
			},
		}
	}
	out["taxes"], out["pretax_credit_amounts"] = []any{}, []any{}
	drop(out, "price", "plan", "proration", "proration_details", "subscription_item", "invoice_item", "type", "tax_amounts", "tax_rates",
		"amount_excluding_tax", "unit_amount_excluding_tax")
}

func translateInvoiceItem(out object, rank int) {
	quantityDecimal(out, rank)
	if rank < vBasil {
		return
	}
	out["pricing"] = pricing(out["price"])
	out["parent"] = nil
	if sub := idOf(out["subscription"]); sub != "" {
		out["parent"] = object{
			"type": "subscription_details", "subscription_details": object{"subscription": sub, "subscription_item": out["subscription_item"]},
		}
	}
	drop(out, "price", "plan", "subscription", "subscription_item", "unit_amount", "unit_amount_decimal")
}

// pricing is the newer form of a line's price.
func pricing(v any) any {
	id := idOf(v)
	if id == "" {
		return nil
	}
	out := object{"type": "price_details", "price_details": object{"price": id, "product": nil}, "unit_amount_decimal": nil}
	switch p := v.(type) {
	case *price:
		out["price_details"], out["unit_amount_decimal"] = object{"price": id, "product": p.product}, optional(p.decimal)
	case object:
		out["price_details"], out["unit_amount_decimal"] = object{"price": id, "product": idOf(p["product"])}, p["unit_amount_decimal"]
	}
	return out
}

// quantityDecimal adds the decimal form of a quantity.
func quantityDecimal(out object, rank int) {
	if rank < vDahlia {
		return
	}
	if n, ok := out["quantity"].(int64); ok {
		out["quantity_decimal"] = strconv.FormatInt(n, 10)
	}
}

// nameOf is a field that was an object and became an ID that can be expanded.
func nameOf(v any) any {
	if e, ok := v.(entity); ok {
		return ref{e.base().kind, e.base().id}
	}
	return optional(idOf(v))
}

// idOf is the ID of an object, however much of it is there.
func idOf(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case ref:
		return v.id
	case entity:
		return v.base().id
	case object:
		id, _ := v["id"].(string)
		return id
	}
	return ""
}

func drop(out object, names ...string) {
	for _, name := range names {
		delete(out, name)
	}
}

func move(out object, from, to string) {
	if v, ok := out[from]; ok {
		out[to] = v
		delete(out, from)
	}
}

package e2e

import (
	_ "embed"
	"strings"

	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"
)

//go:embed testdata/axe-core/axe.min.js
var axe string

// accessible asserts that axe-core has no serious or critical finding.
func (b *browser) accessible(name string) {
	b.t.Helper()
	_, err := chromedp.Run(b.ctx, chromedp.Evaluate[bool](axe+"\n;true"))
	require.NoError(b.t, err)
	found, err := chromedp.Run(b.ctx, chromedp.Evaluate[[]string](`(async () => {
		const r = await axe.run(document, {resultTypes: ["violations"]});
		return r.violations.filter(v => v.impact === "serious" || v.impact === "critical")
			.map(v => v.impact + " " + v.id + ": " + v.nodes.map(n => n.target.join(" ") + " " + (n.any[0] ? n.any[0].message : "")).slice(0, 4).join(" | "));
	})()`, chromedp.EvalAwaitPromise))
	require.NoError(b.t, err)
	require.Empty(b.t, strings.Join(found, "\n"), "%s: findings of axe-core", name)
}

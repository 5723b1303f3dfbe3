package stripesim

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// table renders the endpoints as they stand in the package documentation.
func table() string {
	var b strings.Builder
	for _, f := range Coverage() {
		line := fmt.Sprintf("%-6s %s", f.Method, f.Path)
		if f.Differs != "" {
			line = fmt.Sprintf("%-66s %s", line, f.Differs)
		}
		b.WriteString("//\t" + line + "\n")
	}
	return b.String()
}

func TestDocumentationListsEveryEndpoint(t *testing.T) {
	doc, err := os.ReadFile("doc.go")
	require.NoError(t, err)
	require.Contains(t, string(doc), table(), "the table in doc.go is:\n%s", table())
	seen := map[string]bool{}
	for _, f := range Coverage() {
		require.False(t, seen[f.Method+f.Path], "%s %s is there twice", f.Method, f.Path)
		seen[f.Method+f.Path] = true
		for _, p := range f.Parameters {
			require.False(t, seen[f.Method+f.Path+p], "%s %s has %s twice", f.Method, f.Path, p)
			seen[f.Method+f.Path+p] = true
		}
	}
}

// Package arch holds the tests of the module's shape: who may import whom.
package arch

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const module = "github.com/kolekt/commerce/"

var concerns = []string{"billing", "ratelimit", "usage", "apikeys", "gdpr", "referral", "mailer"}

// drivers are modules that only the backend with the suffix may pull in.
var drivers = map[string]string{
	"github.com/jackc/pgx/v5":          "pg",
	"github.com/redis/go-redis/v9":     "redis",
	"github.com/stripe/stripe-go/v76":  "stripe",
	"github.com/wneessen/go-mail":      "",
	"github.com/stretchr/testify":      "test",
	"github.com/alicebob/miniredis/v2": "-",
	"go.uber.org/goleak":               "-",
	"pgregory.net/rapid":               "test",
	"github.com/alexedwards/scs/v2":    "-",
	"github.com/jackc/tern/v2":         "pg",
	"golang.org/x/crypto":              "",
	"github.com/Masterminds/sprig/v3":  "pg",
}

type pkg struct {
	ImportPath string
	Name       string
	Imports    []string
	Deps       []string
	Standard   bool
}

func list(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-deps=false", "-json=ImportPath,Name,Imports,Deps", module+"...")
	out, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		t.Fatalf("go list: %v: %s", err, exit.Stderr)
	}
	require.NoError(t, err)
	var pkgs []pkg
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		pkgs = append(pkgs, p)
	}
	require.NotEmpty(t, pkgs)
	return pkgs
}

// concernOf returns the concern that a package belongs to, and the rest of its
// path: ("usage", "usagepg") for usage/usagepg, ("usage", "") for usage.
func concernOf(importPath string) (concern, rest string) {
	p, ok := strings.CutPrefix(importPath, module)
	if !ok {
		return "", ""
	}
	concern, rest, _ = strings.Cut(p, "/")
	if !slices.Contains(concerns, concern) {
		return "", ""
	}
	return concern, rest
}

func TestConcernsDoNotImportEachOther(t *testing.T) {
	for _, p := range list(t) {
		concern, _ := concernOf(p.ImportPath)
		if concern == "" {
			continue
		}
		for _, imp := range p.Imports {
			other, _ := concernOf(imp)
			assert.True(t, other == "" || other == concern, "%s imports %s: concerns meet only in the application", p.ImportPath, imp)
		}
	}
}

func TestDriversStayInTheirBackends(t *testing.T) {
	for _, p := range list(t) {
		concern, rest := concernOf(p.ImportPath)
		if concern == "" {
			continue
		}
		for _, dep := range p.Deps {
			for driver, suffix := range drivers {
				if suffix == "" || dep != driver && !strings.HasPrefix(dep, driver+"/") {
					continue
				}
				assert.True(t, strings.HasSuffix(rest, suffix), "%s depends on %s, which belongs in %s%s", p.ImportPath, dep, concern, suffix)
			}
		}
	}
}

func TestRatelimitIsLight(t *testing.T) {
	for _, p := range list(t) {
		if p.ImportPath != module+"ratelimit" && p.ImportPath != module+"ratelimit/ratelimitmem" {
			continue
		}
		for _, dep := range p.Deps {
			first, _, _ := strings.Cut(dep, "/")
			if !strings.Contains(first, ".") || strings.HasPrefix(dep, module) {
				continue
			}
			assert.True(t, strings.HasPrefix(dep, "golang.org/x/sync/"), "%s depends on %s", p.ImportPath, dep)
		}
	}
}

func TestInternalImportsNoConcern(t *testing.T) {
	for _, p := range list(t) {
		if !strings.HasPrefix(p.ImportPath, module+"internal/") {
			continue
		}
		for _, imp := range p.Imports {
			concern, _ := concernOf(imp)
			assert.Empty(t, concern, "%s imports %s", p.ImportPath, imp)
		}
	}
}

func TestTestHelpersStayOutOfProduction(t *testing.T) {
	for _, p := range list(t) {
		concern, rest := concernOf(p.ImportPath)
		if concern == "" || strings.HasSuffix(rest, "test") || strings.HasSuffix(rest, "sim") {
			continue
		}
		for _, dep := range p.Deps {
			assert.False(t, dep == "testing" || dep == "net/http/httptest", "%s depends on %s", p.ImportPath, dep)
		}
	}
}

func TestPackageNamesAreUnique(t *testing.T) {
	seen := map[string]string{}
	for _, p := range list(t) {
		if p.Name == "main" {
			continue
		}
		assert.Equal(t, path.Base(p.ImportPath), p.Name, "%s: the folder names the package", p.ImportPath)
		other, dup := seen[p.Name]
		assert.False(t, dup, "%s and %s have one name: main.go would need an alias", p.ImportPath, other)
		seen[p.Name] = p.ImportPath
	}
}

package arch

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const root = "../../"

var (
	snippet  = regexp.MustCompile("(?s)(?:<!-- from (\\S+) -->\n)?```(\\w+)\n(.*?)```")
	relative = regexp.MustCompile(`\]\(([^)#:]+)\)`)
	runs     = regexp.MustCompile("`go test (\\./\\S+) -run (\\w+)`")
)

// Each snippet of Go or YAML in the README stands in a file that is compiled
// or loaded by a test.
func TestSnippetsOfTheReadmeStandInTheCode(t *testing.T) {
	readme, err := os.ReadFile(root + "README.md")
	require.NoError(t, err)
	found := snippet.FindAllStringSubmatch(string(readme), -1)
	require.NotEmpty(t, found)
	for _, m := range found {
		file, language, text := m[1], m[2], m[3]
		if language == "sh" {
			continue
		}
		if !assert.NotEmpty(t, file, "a snippet of %s says from which file it is:\n%s", language, text) {
			continue
		}
		code, err := os.ReadFile(root + file)
		require.NoError(t, err)
		assert.Contains(t, string(code), text, "%s has changed", file)
	}
}

func TestLinksAndTestsOfTheReadmeExist(t *testing.T) {
	for _, name := range []string{"README.md", "CONTRIBUTING.md", "CHANGELOG.md"} {
		text, err := os.ReadFile(root + name)
		require.NoError(t, err)
		for _, m := range relative.FindAllStringSubmatch(string(text), -1) {
			_, err := os.Stat(root + m[1])
			require.NoError(t, err, "%s links to it", name)
		}
		for _, m := range runs.FindAllStringSubmatch(string(text), -1) {
			assert.True(t, hasTest(t, root+m[1], m[2]), "%s: no test in %s matches %s", name, m[1], m[2])
		}
	}
}

func hasTest(t *testing.T, dir, pattern string) bool {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	test := regexp.MustCompile(`(?m)^func Test\w*` + pattern)
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), "_test.go") {
			continue
		}
		code, err := os.ReadFile(dir + "/" + e.Name())
		require.NoError(t, err)
		if test.Match(code) {
			return true
		}
	}
	return false
}

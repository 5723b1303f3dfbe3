package e2e

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The programs under test.
var binary, stripesim string

func TestMain(m *testing.M) { os.Exit(run(m)) }

// run builds the reference deployment and the simulator once.
func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "commerce-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	binary = filepath.Join(dir, "kolekt")
	stripesim = filepath.Join(dir, "stripesim")
	// Built as the image's, so that both share what is compiled.
	build := exec.Command("go", "build", "-trimpath", "-o", dir, "./examples/kolekt", "./billing/stripesim/cmd/stripesim")
	build.Dir = filepath.Join("..", "..")
	build.Env = append(os.Environ(), "GOWORK=off", "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "go build: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

var greeting = regexp.MustCompile(`Kolekt is at (http\S+)`)

// serve starts the reference deployment with nothing but the given
// environment, and returns its address.
func serve(t *testing.T, env ...string) string {
	t.Helper()
	cmd := exec.Command(binary)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "PORT=0"}, env...)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	require.NoError(t, err)
	cmd.Stderr = log
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		require.NoError(t, cmd.Process.Signal(os.Interrupt))
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		select {
		case err := <-ended:
			require.NoError(t, err, "an interrupt ends it in good order")
		case <-time.After(30 * time.Second):
			_ = cmd.Process.Kill()
			t.Error("it didn't end after an interrupt")
		}
		b, _ := os.ReadFile(log.Name())
		for line := range strings.Lines(string(b)) {
			if strings.Contains(line, "level=ERROR") || strings.Contains(line, "panic") || t.Failed() {
				t.Log(line)
			}
		}
		require.NotContains(t, string(b), "level=ERROR")
	})
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if m := greeting.FindStringSubmatch(lines.Text()); m != nil {
			go func() {
				for lines.Scan() { // so that it never waits for us
				}
			}()
			return m[1]
		}
	}
	b, _ := os.ReadFile(log.Name())
	t.Fatalf("it didn't start: %s", b)
	return ""
}

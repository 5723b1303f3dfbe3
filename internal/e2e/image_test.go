package e2e

import (
	"context"
	"debug/elf"
	"encoding/json"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// instruction is one line of a Dockerfile.
type instruction struct{ name, args string }

// stages reads a Dockerfile: the instructions of each stage, FROM first.
func stages(t *testing.T, path string) (all [][]instruction) {
	t.Helper()
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	for line := range strings.Lines(strings.ReplaceAll(string(b), "\\\n", " ")) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, args, _ := strings.Cut(line, " ")
		if name == "FROM" {
			all = append(all, nil)
		}
		require.NotEmpty(t, all, "an instruction before FROM: %s", line)
		all[len(all)-1] = append(all[len(all)-1], instruction{name, strings.TrimSpace(args)})
	}
	return all
}

// last returns the arguments of the last instruction of a name, which counts.
func last(t *testing.T, stage []instruction, name string) string {
	t.Helper()
	for _, i := range slices.Backward(stage) {
		if i.name == name {
			return i.args
		}
	}
	t.Fatalf("the Dockerfile has no %s", name)
	return ""
}

// command reads the exec form: ["/kolekt", "healthcheck"].
func command(t *testing.T, args string) (words []string) {
	t.Helper()
	_, list, ok := strings.Cut(args, "[")
	require.True(t, ok, "not the exec form, and the image has no shell: %s", args)
	require.NoError(t, json.Unmarshal([]byte("["+list), &words))
	return words
}

// buildContext copies what Docker would be sent.
func buildContext(t *testing.T, root, to string) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root, ".dockerignore"))
	require.NoError(t, err)
	ignored := strings.Fields(string(b))
	for _, i := range ignored {
		require.NotContains(t, i, "*", "this test knows plain names only")
	}
	require.NoError(t, filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		switch {
		case slices.Contains(ignored, name) && d.IsDir():
			return filepath.SkipDir
		case slices.Contains(ignored, name):
			return nil
		case d.IsDir():
			return os.MkdirAll(filepath.Join(to, name), 0o755)
		case !d.Type().IsRegular():
			return nil
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, name), b, 0o644)
	}))
}

// TestTheImagesStepsBuildAndRunWithoutDocker takes the Dockerfile's own
// instructions: it runs the build stage on what Docker would be sent, and the
// result as the final stage says, as its user and with its health check.
func TestTheImagesStepsBuildAndRunWithoutDocker(t *testing.T) {
	root, err := filepath.Abs(filepath.Join("..", ".."))
	require.NoError(t, err)
	all := stages(t, filepath.Join(root, "examples", "kolekt", "deploy", "Dockerfile"))
	require.Len(t, all, 2, "a stage that builds and a stage that runs")
	build, final := all[0], all[1]

	// Somebody else runs the program, so every folder above must be open.
	dir, err := os.MkdirTemp("", "kolekt-image-")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	require.NoError(t, os.Chmod(dir, 0o755))
	src, out := filepath.Join(dir, "src"), filepath.Join(dir, "out")
	require.Equal(t, "/src", last(t, build, "WORKDIR"))
	inside := strings.NewReplacer("/src", src, "/out", out)
	buildContext(t, root, src)
	require.NoFileExists(t, filepath.Join(src, ".env"))
	for _, i := range build {
		if i.name != "RUN" {
			continue
		}
		cmd := exec.Command("sh", "-c", inside.Replace(i.args))
		cmd.Dir = src
		cmd.Env = append(os.Environ(), "GOWORK=off")
		o, err := cmd.CombinedOutput()
		require.NoError(t, err, "RUN %s: %s", i.args, o)
	}

	// The image has no loader: the program must need none.
	files := map[string]string{}
	for _, i := range final {
		if i.name != "COPY" {
			continue
		}
		words := strings.Fields(i.args)
		require.Contains(t, words, "--from=build")
		files[words[len(words)-1]] = inside.Replace(words[len(words)-2])
	}
	program := files["/kolekt"]
	exe, err := elf.Open(program)
	require.NoError(t, err)
	defer exe.Close()
	for _, p := range exe.Progs {
		require.NotEqual(t, elf.PT_INTERP, p.Type, "the program is linked dynamically")
	}
	needs, err := exe.ImportedLibraries()
	require.NoError(t, err)
	require.Empty(t, needs)

	require.Equal(t, "8000", last(t, final, "EXPOSE"))
	require.Equal(t, "65532:65532", last(t, final, "USER"), "a number, so that Kubernetes can see that it isn't root")
	if os.Getuid() != 0 {
		t.Log("not root: the program runs as the user of this test and not as 65532")
	} else {
		require.NoError(t, os.Chown(files["/exports"], 65532, 65532))
	}
	asUser := func(ctx context.Context, words []string, env []string) *exec.Cmd {
		require.Equal(t, "/kolekt", words[0])
		cmd := exec.CommandContext(ctx, program, words[1:]...)
		cmd.Env, cmd.Dir = env, "/"
		if os.Getuid() == 0 {
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65532, Gid: 65532}}
		}
		return cmd
	}
	env := []string{"DEBUG=true", "ADMIN_PASSWORD=of this test only"}
	for _, i := range final {
		if i.name == "ENV" {
			env = append(env, strings.Fields(strings.ReplaceAll(i.args, "/exports", files["/exports"]))...)
		}
	}
	env = append(env, "PORT="+port(t)) // the last one counts: 8000 may be taken here
	check := command(t, last(t, final, "HEALTHCHECK"))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	require.Error(t, asUser(ctx, check, env).Run(), "nobody is there yet: the check must say so")

	server := asUser(ctx, command(t, last(t, final, "ENTRYPOINT")), env)
	log := &strings.Builder{}
	server.Stdout, server.Stderr = log, log
	require.NoError(t, server.Start())
	t.Cleanup(func() { _ = server.Process.Kill() })
	require.Eventually(t, func() bool { return asUser(ctx, check, env).Run() == nil }, 20*time.Second, 100*time.Millisecond)
	require.NoError(t, server.Process.Signal(syscall.SIGTERM)) // as docker stop does
	require.NoError(t, server.Wait(), "%s", log)
	require.Error(t, asUser(ctx, check, env).Run())
}

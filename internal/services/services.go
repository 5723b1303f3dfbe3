// Package services starts throw-away PostgreSQL and Redis servers from the
// binaries that are on this machine, for tests and benchmarks.
//
// A server listens on a unix socket (PostgreSQL) or on a free loopback port
// (Redis), keeps its data in a directory of its own under the system's
// temporary directory, and dies with the process that started it. Servers can
// be killed, stopped and started again, so that tests see what a crash leaves.
package services

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// ErrMissing says that a server's binary is not on this machine.
var ErrMissing = errors.New("services: binary not found")

// startTimeout bounds how long a server may take to accept connections. It is
// generous because test machines are shared.
const startTimeout = 60 * time.Second

// find returns the path of a binary from PATH or from the directories in which
// Debian and Homebrew keep server binaries.
func find(name string) (string, error) {
	if p, err := exec.LookPath(name); err == nil {
		return p, nil
	}
	for _, pattern := range []string{
		"/usr/lib/postgresql/*/bin/",
		"/usr/pgsql-*/bin/",
		"/opt/homebrew/opt/postgresql@*/bin/",
		"/usr/local/opt/postgresql@*/bin/",
		"/opt/homebrew/bin/",
		"/usr/sbin/",
	} {
		found, _ := filepath.Glob(pattern + name)
		sort.Strings(found)
		if len(found) > 0 {
			return found[len(found)-1], nil
		}
	}
	return "", fmt.Errorf("%w: %s (run internal/testenv/install.sh, or put it on PATH)", ErrMissing, name)
}

// unprivileged returns the credential under which servers run: PostgreSQL
// refuses to run as root, so root hands over to postgres or nobody. It is nil
// when the process is not root.
func unprivileged() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
		if err := errors.Join(err1, err2); err != nil {
			return nil, fmt.Errorf("services: user %s: %w", name, err)
		}
		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
	}
	return nil, errors.New("services: running as root and neither user postgres nor nobody exists")
}

// dataDir makes a directory that the unprivileged user owns and can reach.
func dataDir(prefix string, cred *syscall.Credential) (string, error) {
	dir, err := os.MkdirTemp("", prefix)
	if err != nil {
		return "", fmt.Errorf("services: %w", err)
	}
	if cred != nil {
		if err := os.Chown(dir, int(cred.Uid), int(cred.Gid)); err != nil {
			return "", fmt.Errorf("services: %w", err)
		}
	}
	return dir, nil
}

// process is a server's process with its log.
type process struct {
	cmd  *exec.Cmd
	done chan struct{}
	log  string
}

func startProcess(cred *syscall.Credential, logPath, path string, args ...string) (*process, error) {
	logFile, err := os.OpenFile(logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("services: %w", err)
	}
	defer logFile.Close()
	cmd := exec.Command(path, args...)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C", "TZ=UTC"}
	cmd.Stdout, cmd.Stderr = logFile, logFile
	cmd.SysProcAttr = procAttr(cred)
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("services: start %s: %w", filepath.Base(path), err)
	}
	p := &process{cmd: cmd, done: make(chan struct{}), log: logPath}
	go func() {
		_ = cmd.Wait() // the exit status of a killed server says nothing
		close(p.done)
	}()
	return p, nil
}

// ready polls until probe succeeds, the process ends, or the time is up.
func (p *process) ready(probe func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	for {
		err := probe(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-p.done:
			return fmt.Errorf("services: %s ended before it was ready: %s", filepath.Base(p.cmd.Path), tail(p.log))
		case <-ctx.Done():
			return fmt.Errorf("services: %s not ready: %w: %s", filepath.Base(p.cmd.Path), err, tail(p.log))
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func (p *process) signal(s syscall.Signal) error {
	if p == nil {
		return nil
	}
	select {
	case <-p.done:
		return nil
	default:
	}
	if err := p.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("services: %w", err)
	}
	return nil
}

// stop sends a signal and waits for the end; a server that ignores it is
// killed.
func (p *process) stop(s syscall.Signal) error {
	if p == nil {
		return nil
	}
	if err := p.signal(s); err != nil {
		return err
	}
	select {
	case <-p.done:
		return nil
	case <-time.After(20 * time.Second):
	}
	err := p.signal(syscall.SIGKILL)
	<-p.done
	return err
}

// tail returns the end of a server's log, for error messages.
func tail(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return "(no log)"
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 1<<20))
	if err != nil {
		return "(no log)"
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	if len(lines) > 12 {
		lines = lines[len(lines)-12:]
	}
	return strings.Join(lines, "\n")
}

// children returns the process IDs of a process's children.
func children(pid int) []int {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		// No /proc: macOS and the BSDs have pgrep in the base system.
		b, _ = exec.Command("pgrep", "-P", strconv.Itoa(pid)).Output()
	}
	var pids []int
	for _, field := range strings.Fields(string(b)) {
		if n, err := strconv.Atoi(field); err == nil {
			pids = append(pids, n)
		}
	}
	return pids
}

// Binary returns the path of a program that comes with a server, such as
// pg_dump, or ErrMissing.
func Binary(name string) (string, error) { return find(name) }

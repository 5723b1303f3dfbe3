package services

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// PostgresConfig says how a throw-away PostgreSQL is run.
type PostgresConfig struct {
	// Durable turns fsync and synchronous commit on, for tests that kill the
	// server and for benchmarks that state durable figures. Without it the
	// server is faster and loses its data with a crash of the machine.
	Durable bool
	// Settings are further server settings, by name.
	Settings map[string]string
}

// Postgres is a running throw-away PostgreSQL server.
type Postgres struct {
	dir  string
	bin  string
	cred *syscall.Credential
	args []string
	proc *process
}

// StartPostgres makes a cluster and starts a server on it. It returns an error
// that is ErrMissing when this machine has no PostgreSQL.
func StartPostgres(cfg PostgresConfig) (*Postgres, error) {
	initdb, err := find("initdb")
	if err != nil {
		return nil, err
	}
	bin, err := find("postgres")
	if err != nil {
		return nil, err
	}
	cred, err := unprivileged()
	if err != nil {
		return nil, err
	}
	dir, err := dataDir("commerce-pg-", cred)
	if err != nil {
		return nil, err
	}
	p := &Postgres{dir: dir, bin: bin, cred: cred}

	data := filepath.Join(dir, "data")
	cmd := exec.Command(initdb, "-D", data, "-A", "trust", "-U", "postgres", "-E", "UTF8",
		"--no-locale", "--no-sync", "--no-instructions")
	cmd.Dir = "/"
	cmd.SysProcAttr = procAttr(cred)
	if out, err := cmd.CombinedOutput(); err != nil {
		_ = os.RemoveAll(dir)
		return nil, fmt.Errorf("services: initdb: %w: %s", err, out)
	}

	settings := map[string]string{
		"listen_addresses":        "",
		"unix_socket_directories": dir,
		"max_connections":         "300",
		"shared_buffers":          "64MB",
		"timezone":                "UTC",
		"log_min_messages":        "warning",
	}
	if cfg.Durable {
		settings["fsync"] = "on"
		settings["synchronous_commit"] = "on"
	} else {
		settings["fsync"] = "off"
		settings["synchronous_commit"] = "off"
		settings["full_page_writes"] = "off"
	}
	for k, v := range cfg.Settings {
		settings[k] = v
	}
	p.args = []string{"-D", data}
	for k, v := range settings {
		p.args = append(p.args, "-c", k+"="+v)
	}
	if err := p.Start(); err != nil {
		_ = os.RemoveAll(dir)
		return nil, err
	}
	return p, nil
}

// URL returns the connection string.
func (p *Postgres) URL() string {
	return "postgres:///postgres?" + url.Values{"host": {p.dir}, "user": {"postgres"}}.Encode()
}

// Start starts the server again after Kill or Stop.
func (p *Postgres) Start() error {
	// A killed server leaves its lock files behind; a new one takes the data
	// directory over by itself, but only once the last back-end of the old one
	// is gone from the kernel's list: until then it ends at once, and is
	// started again.
	for attempt := 0; ; attempt++ {
		err := p.start()
		if err == nil || attempt == 40 || !strings.Contains(err.Error(), "pre-existing shared memory block") {
			return err
		}
		if err := os.Truncate(p.log(), 0); err != nil {
			return fmt.Errorf("services: %w", err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func (p *Postgres) log() string { return filepath.Join(p.dir, "log") }

func (p *Postgres) start() error {
	proc, err := startProcess(p.cred, p.log(), p.bin, p.args...)
	if err != nil {
		return err
	}
	p.proc = proc
	return proc.ready(func(ctx context.Context) error {
		conn, err := pgx.Connect(ctx, p.URL())
		if err != nil {
			return err
		}
		return conn.Close(ctx)
	})
}

// PID returns the process ID of the server.
func (p *Postgres) PID() int { return p.proc.cmd.Process.Pid }

// Kill ends the server and its back-ends as a power cut would (SIGKILL).
func (p *Postgres) Kill() error {
	// Each back-end is a session of its own and would finish its statement
	// after the postmaster's death. The postmaster is frozen first, so that it
	// forks no further one while the list is read.
	if err := p.proc.signal(syscall.SIGSTOP); err != nil {
		return err
	}
	for _, pid := range children(p.PID()) {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && err != syscall.ESRCH {
			return fmt.Errorf("services: kill back-end: %w", err)
		}
	}
	return p.proc.stop(syscall.SIGKILL)
}

// Stop ends the server quickly and in order.
func (p *Postgres) Stop() error { return p.proc.stop(syscall.SIGINT) }

// Close ends the server and removes its data.
func (p *Postgres) Close() error {
	err := p.proc.stop(syscall.SIGQUIT)
	if rmErr := os.RemoveAll(p.dir); err == nil && rmErr != nil {
		err = fmt.Errorf("services: %w", rmErr)
	}
	return err
}

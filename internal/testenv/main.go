// Command testenv runs a command with a throw-away PostgreSQL and Redis, which
// it names in DATABASE_URL and REDIS_URL. A server that the environment names
// already is used as it is.
//
//	go run ./internal/testenv go test ./...
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"github.com/kolekt/commerce/internal/services"
)

func main() {
	code, err := run(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "testenv:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

func run(args []string) (code int, err error) {
	if len(args) == 0 {
		return 2, errors.New("usage: testenv COMMAND [ARGUMENT ...]")
	}
	env := os.Environ()
	if os.Getenv("DATABASE_URL") == "" {
		p, err := services.StartPostgres(services.PostgresConfig{})
		if err != nil {
			return 1, err
		}
		defer func() { err = errors.Join(err, p.Close()) }()
		env = append(env, "DATABASE_URL="+p.URL())
	}
	if os.Getenv("REDIS_URL") == "" {
		r, err := services.StartRedis(services.RedisConfig{})
		if err != nil {
			return 1, err
		}
		defer func() { err = errors.Join(err, r.Close()) }()
		env = append(env, "REDIS_URL="+r.URL())
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = env
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	// The command gets the terminal's signals too; this process only waits
	// for it, so that the servers end after it.
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(signals)
	if err := cmd.Start(); err != nil {
		return 1, err
	}
	go func() {
		for s := range signals {
			_ = cmd.Process.Signal(s)
		}
	}()
	err = cmd.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return max(exit.ExitCode(), 1), nil
	}
	return 0, err
}

package stripesim

import (
	"context"
	"errors"
	"net"
	"net/http"
	"time"
)

// Server is a Simulator that listens on a port of its own, for tests.
type Server struct {
	*Simulator
	// URL is the server's address, "http://127.0.0.1:34567": the base URL for
	// the application's Stripe client.
	URL  string
	http *http.Server
	done chan error
}

// NewServer starts a simulator on a free port of the loopback interface. Call
// Close when done. Config.BaseURL is set to the server's URL when it is
// empty.
func NewServer(cfg Config) (*Server, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	url := "http://" + l.Addr().String()
	if cfg.BaseURL == "" {
		cfg.BaseURL = url
	}
	sim, err := New(cfg)
	if err != nil {
		l.Close()
		return nil, err
	}
	s := &Server{Simulator: sim, URL: url, done: make(chan error, 1)}
	s.http = &http.Server{Handler: sim.Handler(), ReadHeaderTimeout: 10 * time.Second}
	go func() { s.done <- s.http.Serve(l) }()
	return s, nil
}

// Close ends deliveries and the server.
func (s *Server) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	err := s.Simulator.Close(ctx)
	if stop := s.http.Close(); err == nil {
		err = stop
	}
	if served := <-s.done; err == nil && !errors.Is(served, http.ErrServerClosed) {
		err = served
	}
	return err
}

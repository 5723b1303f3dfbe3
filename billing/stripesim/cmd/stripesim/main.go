// Command stripesim runs the simulator on its own, for programs in any
// language:
//
//	stripesim -addr 127.0.0.1:12111 -webhook http://localhost:8000/webhooks/stripe -secret whsec_dev
//
// It listens on the loopback interface unless told otherwise, starts with a
// small catalogue (lookup keys pro_monthly and business_monthly) unless
// -catalog names a JSON file with products, and has a control endpoint for
// its clock and its faults: see stripesim.Simulator.Control.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"time"

	"github.com/kolekt/commerce/billing/stripesim"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// run serves until ctx ends.
func run(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("stripesim", flag.ContinueOnError)
	addr := flags.String("addr", "127.0.0.1:12111", "address to listen on")
	base := flags.String("base", "", "URL under which browsers reach it; empty is the address")
	key := flags.String("key", stripesim.DefaultSecretKey, "API key to accept; a live key is refused")
	webhook := flags.String("webhook", "", "URL that receives events")
	secret := flags.String("secret", "", "signing secret of the webhook; empty takes a random one and prints it")
	version := flags.String("version", "", "API version of the account")
	start := flags.String("start", "", "stand the clock at this instant (RFC 3339); empty follows the machine's")
	catalog := flags.String("catalog", "", "JSON file with products")
	if err := flags.Parse(args); err != nil {
		return err
	}
	cfg := stripesim.Config{
		SecretKey: *key, BaseURL: *base, APIVersion: *version, Products: demo(), Log: slog.New(slog.NewTextHandler(out, nil)),
	}
	if *start != "" {
		at, err := time.Parse(time.RFC3339, *start)
		if err != nil {
			return fmt.Errorf("stripesim: -start: %w", err)
		}
		cfg.Start = at
	}
	if *catalog != "" {
		text, err := os.ReadFile(*catalog)
		if err != nil {
			return err
		}
		cfg.Products = nil
		if err := json.Unmarshal(text, &cfg.Products); err != nil {
			return fmt.Errorf("stripesim: %s: %w", *catalog, err)
		}
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", *addr)
	if err != nil {
		return err
	}
	defer l.Close()
	if cfg.BaseURL == "" {
		cfg.BaseURL = "http://" + l.Addr().String()
	}
	sim, err := stripesim.New(cfg)
	if err != nil {
		return err
	}
	if *webhook != "" {
		if *secret == "" {
			*secret = stripesim.NewSecret()
		}
		if _, err := sim.AddEndpoint(stripesim.Endpoint{URL: *webhook, Secret: *secret}); err != nil {
			return err
		}
		fmt.Fprintf(out, "events go to %s, signed with %s\n", *webhook, *secret)
	}
	mux := http.NewServeMux()
	mux.Handle("/", sim.Handler())
	mux.Handle("/control/", http.StripPrefix("/control", sim.Control()))
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	fmt.Fprintf(out, "stripesim: API at %s with the key %s, control at %s/control/\n", cfg.BaseURL, *key, cfg.BaseURL)

	done := make(chan error, 2)
	go func() { done <- srv.Serve(l) }()
	go func() { done <- sim.Run(ctx) }()
	<-ctx.Done()
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	err = errors.Join(srv.Shutdown(stop), sim.Close(stop))
	for range 2 {
		if e := <-done; e != nil && !errors.Is(e, http.ErrServerClosed) && !errors.Is(e, context.Canceled) {
			err = errors.Join(err, e)
		}
	}
	return err
}

// demo is a catalogue to begin with.
func demo() []stripesim.Product {
	plan := func(name, key string, amount int64) stripesim.Product {
		return stripesim.Product{Name: name, Prices: []stripesim.Price{
			{LookupKey: key + "_monthly", UnitAmount: amount},
			{LookupKey: key + "_yearly", UnitAmount: 10 * amount, Interval: "year"},
		}}
	}
	return []stripesim.Product{plan("Pro", "pro", 999), plan("Business", "business", 2999)}
}

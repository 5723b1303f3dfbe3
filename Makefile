# make run    the reference deployment, offline, at http://localhost:8000
# make test   everything, with the race detector, on throw-away servers
# make e2e    the reference deployment in a browser (Debian's Chromium)
# make bench  our figures beside our peers', in one run
# make lint   golangci-lint and the formatting
# make fuzz   each fuzz target for FUZZTIME
# make cover  coverage for each concern
# make prove  the long proofs: kills, millions of events, chaos

SHELL    := /bin/bash
FUZZTIME ?= 30s
MODULES  := . internal/bench internal/e2e internal/simcheck internal/stripemock/v183 internal/stripemock/v185
export GOWORK := off

.PHONY: run test e2e bench lint fuzz cover prove setup modules tidy

run:
	go run ./examples/kolekt

setup:
	@internal/testenv/install.sh

test: setup
	go run ./internal/testenv go test -race ./...
	cd internal/simcheck && go test ./...

e2e:
	@internal/testenv/install.sh browser
	cd internal/e2e && go test -count 1 -timeout 25m ./...

bench: setup
	cd internal/bench && go test -run '^$$' -bench . -benchmem ./...

lint:
	@test -z "$$(gofmt -l .)" || { gofmt -l .; echo "run gofmt"; exit 1; }
	go vet ./...
	go tool -modfile=internal/tools/go.mod golangci-lint run ./...

fuzz:
	@for pkg in $$(go list ./...); do \
		for target in $$(go test -list '^Fuzz' $$pkg | grep '^Fuzz'); do \
			echo "$$pkg $$target"; go test -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) $$pkg || exit 1; \
		done; \
	done

cover: setup
	go run ./internal/testenv internal/testenv/cover.sh

prove: setup
	COMMERCE_PROVE=1 go run ./internal/testenv go test -timeout 60m ./...

modules:
	@for m in $(MODULES); do echo "build $$m"; (cd $$m && go build ./... && go vet ./...) || exit 1; done

tidy:
	@for m in $(MODULES); do (cd $$m && go mod tidy) || exit 1; done

#!/usr/bin/env bash
# Prints the statement coverage of each concern: what its own tests cover of
# all of its packages together, conformance suites included.
set -eu
for concern in billing ratelimit usage apikeys gdpr referral mailer; do
	[ -d "$concern" ] || continue
	profile=$(mktemp)
	go test -coverpkg="./$concern/..." -coverprofile="$profile" "./$concern/..." >/dev/null
	printf '%-10s %s\n' "$concern" "$(go tool cover -func="$profile" | tail -n 1 | awk '{print $3}')"
	rm -f "$profile"
done

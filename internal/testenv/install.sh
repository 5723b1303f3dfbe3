#!/usr/bin/env bash
# Installs the servers that the tests need where it can (Debian as root,
# Homebrew), and says what is missing where it can't. The tests themselves run
# without them and say by name what they skipped, except under CI=true.
set -eu

have() { command -v "$1" >/dev/null 2>&1; }
have_postgres() { have postgres || ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1; }

missing=()
have redis-server || missing+=(redis-server)
have_postgres || missing+=(postgresql)
if [ "${1:-}" = browser ]; then
	have chromium || missing+=(chromium fonts-dejavu-core)
	have nginx || [ -x /usr/sbin/nginx ] || missing+=(nginx-light)
fi
[ ${#missing[@]} -eq 0 ] && exit 0

if have apt-get && [ "$(id -u)" = 0 ]; then
	echo "installing: ${missing[*]}"
	export DEBIAN_FRONTEND=noninteractive
	apt-get update -qq
	# The packages' own services are not wanted: tests start servers of their own.
	if [ ! -e /usr/sbin/policy-rc.d ]; then
		trap 'rm -f /usr/sbin/policy-rc.d' EXIT
		install -m 755 /dev/stdin /usr/sbin/policy-rc.d <<< $'#!/bin/sh\nexit 101'
	fi
	apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
	exit 0
fi
if have brew; then
	for p in "${missing[@]}"; do
		case $p in
			redis-server) brew install redis ;;
			postgresql) brew install postgresql@15 ;;
			chromium) brew install --cask chromium ;;
			nginx-light) brew install nginx ;;
		esac
	done
	exit 0
fi
echo "missing: ${missing[*]}; install them with your package manager (Debian: sudo apt-get install ${missing[*]})" >&2

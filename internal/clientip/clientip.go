// Package clientip finds the address of the client behind trusted proxies.
package clientip

import (
	"net/http"
	"net/netip"
	"strings"
)

// From returns the client's address: that of the connection, or, when it
// belongs to a trusted proxy, the right-most address of X-Forwarded-For that
// doesn't. Entries to the left of it were written by the client and prove
// nothing. A malformed entry ends the walk at the last address that is known.
// The result is invalid when the connection has no address, as on a unix
// socket without a trusted proxy in front.
func From(r *http.Request, trusted []netip.Prefix) netip.Addr {
	addr := parse(r.RemoteAddr)
	if !contains(trusted, addr) {
		return addr
	}
	headers := r.Header["X-Forwarded-For"]
	for i := len(headers) - 1; i >= 0; i-- {
		rest := headers[i]
		for rest != "" {
			entry := rest
			if j := strings.LastIndexByte(rest, ','); j >= 0 {
				rest, entry = rest[:j], rest[j+1:]
			} else {
				rest = ""
			}
			next := parse(strings.TrimSpace(entry))
			if !next.IsValid() {
				return addr
			}
			addr = next
			if !contains(trusted, addr) {
				return addr
			}
		}
	}
	return addr
}

// Network returns the part of an address that one customer holds: the whole
// of an IPv4 address, the /64 of an IPv6 address.
func Network(addr netip.Addr) netip.Prefix {
	bits := 32
	if addr.Is6() {
		bits = 64
	}
	p, err := addr.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}

func contains(prefixes []netip.Prefix, addr netip.Addr) bool {
	if !addr.IsValid() {
		return false
	}
	for _, p := range prefixes {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}

// parse reads an address with or without a port, unmaps IPv4 in IPv6 and
// drops the zone: neither may make two keys of one client.
func parse(s string) netip.Addr {
	if a, err := netip.ParseAddr(s); err == nil {
		return a.Unmap().WithZone("")
	}
	if ap, err := netip.ParseAddrPort(s); err == nil {
		return ap.Addr().Unmap().WithZone("")
	}
	if len(s) > 1 && s[0] == '[' && s[len(s)-1] == ']' {
		if a, err := netip.ParseAddr(s[1 : len(s)-1]); err == nil {
			return a.Unmap().WithZone("")
		}
	}
	return netip.Addr{}
}

package clientip_test

import (
	"net/http"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/internal/clientip"
)

func TestFrom(t *testing.T) {
	trusted := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}
	tests := []struct {
		name, remote string
		forwarded    []string
		want         string
	}{
		{"direct", "203.0.113.7:1234", nil, "203.0.113.7"},
		{"direct client can't choose its address", "203.0.113.7:1234", []string{"1.2.3.4"}, "203.0.113.7"},
		{"one proxy", "10.0.0.1:1", []string{"203.0.113.7"}, "203.0.113.7"},
		{"forged entry on the left", "10.0.0.1:1", []string{"1.2.3.4, 203.0.113.7"}, "203.0.113.7"},
		{"two proxies", "10.0.0.1:1", []string{"203.0.113.7, 10.0.0.2"}, "203.0.113.7"},
		{"several header lines", "10.0.0.1:1", []string{"1.2.3.4", "203.0.113.7", "10.0.0.2"}, "203.0.113.7"},
		{"garbage ends the walk", "10.0.0.1:1", []string{"203.0.113.7, evil, 10.0.0.2"}, "10.0.0.2"},
		{"empty entry ends the walk", "10.0.0.1:1", []string{"203.0.113.7,"}, "10.0.0.1"},
		{"only proxies", "10.0.0.1:1", []string{"10.0.0.3"}, "10.0.0.3"},
		{"IPv4 in IPv6", "[::ffff:203.0.113.7]:1", nil, "203.0.113.7"},
		{"zone is dropped", "[fe80::1%eth0]:1", nil, "fe80::1"},
		{"IPv6 with port in header", "10.0.0.1:1", []string{"[2001:db8::1]:443"}, "2001:db8::1"},
		{"IPv6 in brackets", "10.0.0.1:1", []string{"[2001:db8::1]"}, "2001:db8::1"},
		{"unix socket", "@", []string{"1.2.3.4"}, "invalid IP"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := &http.Request{RemoteAddr: tt.remote, Header: http.Header{"X-Forwarded-For": tt.forwarded}}
			require.Equal(t, tt.want, clientip.From(r, trusted).String())
		})
	}
}

func TestNetworkOfOneCustomer(t *testing.T) {
	require.Equal(t, "203.0.113.7/32", clientip.Network(netip.MustParseAddr("203.0.113.7")).String())
	require.Equal(t, "2001:db8:1:2::/64", clientip.Network(netip.MustParseAddr("2001:db8:1:2:3:4:5:6")).String())
	require.False(t, clientip.Network(netip.Addr{}).IsValid())
}

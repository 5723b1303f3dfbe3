package apikeys

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestPublicKeysAreFetchedOncePerHour(t *testing.T) {
	public := func(curve elliptic.Curve) string {
		key, err := ecdsa.GenerateKey(curve, rand.Reader)
		require.NoError(t, err)
		der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
		require.NoError(t, err)
		return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	}
	type item struct {
		ID  string `json:"key_identifier"`
		Key string `json:"key"`
	}
	answer := map[string][]item{"public_keys": {{"good", public(elliptic.P256())}, {"other curve", public(elliptic.P384())}, {"no key", "x"}}}
	fetches, status := 0, http.StatusOK
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fetches++
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(answer) // the test's own client reads it
	}))
	defer server.Close()
	client := server.Client()
	defer client.CloseIdleConnections()
	now := time.Now()
	fetch := newKeyFetcher(client, server.URL, func() time.Time { return now })
	for range 3 {
		keys, err := fetch(context.Background())
		require.NoError(t, err)
		require.Len(t, keys, 1)
		require.NotNil(t, keys["good"])
	}
	require.Equal(t, 1, fetches)
	now = now.Add(time.Hour)
	status = http.StatusInternalServerError
	_, err := fetch(context.Background())
	require.ErrorContains(t, err, "500")
	status, answer = http.StatusOK, map[string][]item{}
	_, err = fetch(context.Background())
	require.ErrorContains(t, err, "no usable public key")
	require.Equal(t, 3, fetches)
}

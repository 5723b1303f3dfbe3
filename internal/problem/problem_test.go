package problem_test

import (
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/internal/problem"
)

func TestWriteAnswersWithStableMembers(t *testing.T) {
	w := httptest.NewRecorder()
	w.Header().Set("Retry-After", "3")
	problem.Write(w, problem.Details{Status: 429, Code: "rate_limited", Detail: "slow down", Extra: map[string]any{"plan": "pro", "code": "forged"}})
	require.Equal(t, 429, w.Code)
	require.Equal(t, "application/problem+json", w.Header().Get("Content-Type"))
	require.Equal(t, "3", w.Header().Get("Retry-After"))
	require.JSONEq(t, `{"type":"about:blank","title":"Too Many Requests","status":429,"code":"rate_limited","detail":"slow down","plan":"pro"}`, w.Body.String())
}

func TestWriteSendsTheProblemWhenAnExtraCannotBeEncoded(t *testing.T) {
	w := httptest.NewRecorder()
	problem.Write(w, problem.Details{Status: 422, Code: "invalid", Extra: map[string]any{"f": func() {}}, Errors: []problem.FieldError{{Field: "text", Code: "required", Detail: "text is missing"}}})
	require.JSONEq(t, `{"type":"about:blank","title":"Unprocessable Entity","status":422,"code":"invalid","errors":[{"field":"text","code":"required","detail":"text is missing"}]}`, w.Body.String())
}

package gdprmem_test

import (
	"testing"

	"github.com/kolekt/commerce/gdpr"
	"github.com/kolekt/commerce/gdpr/gdprmem"
	"github.com/kolekt/commerce/gdpr/gdprtest"
)

func TestStore(t *testing.T) {
	gdprtest.TestStore(t, func(*testing.T) gdpr.Store { return gdprmem.New() })
}

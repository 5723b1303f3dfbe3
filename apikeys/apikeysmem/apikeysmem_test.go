package apikeysmem_test

import (
	"testing"

	"github.com/kolekt/commerce/apikeys"
	"github.com/kolekt/commerce/apikeys/apikeysmem"
	"github.com/kolekt/commerce/apikeys/apikeystest"
)

func TestStore(t *testing.T) {
	apikeystest.TestStore(t, func(testing.TB) apikeys.Store { return apikeysmem.New() })
}

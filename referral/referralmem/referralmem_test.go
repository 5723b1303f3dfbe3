package referralmem_test

import (
	"testing"

	"github.com/kolekt/commerce/referral"
	"github.com/kolekt/commerce/referral/referralmem"
	"github.com/kolekt/commerce/referral/referraltest"
)

func TestStore(t *testing.T) {
	referraltest.TestStore(t, func(*testing.T) referral.Store { return referralmem.New() })
}

//go:build !unix

package usage

import (
	"os"
	"path/filepath"
)

// lockDir only opens the lock file: this system has no advisory locks in the
// standard library, so that keeping folders apart is left to the caller.
func lockDir(dir string) (*os.File, error) {
	return os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
}

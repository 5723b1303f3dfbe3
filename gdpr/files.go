package gdpr

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// Files keeps finished archives, encrypted, until they expire: a folder, or an
// object store. Names are ours and safe as file names.
type Files interface {
	// Create stores a file. It exists, whole, once Close returned nil; a file
	// of that name from an attempt that failed is replaced.
	Create(ctx context.Context, name string) (io.WriteCloser, error)
	// Open returns a file, or an error that is fs.ErrNotExist.
	Open(ctx context.Context, name string) (io.ReadCloser, error)
	// Remove deletes a file; none is not an error.
	Remove(ctx context.Context, name string) error
}

// DirFiles is a Files in a local folder, which must exist.
type DirFiles string

// Create implements Files.
func (d DirFiles) Create(_ context.Context, name string) (io.WriteCloser, error) {
	f, err := os.CreateTemp(string(d), ".new-*")
	if err != nil {
		return nil, fmt.Errorf("gdpr: files: %w", err)
	}
	return &newFile{f, filepath.Join(string(d), name)}, nil
}

// newFile takes its name when it is complete and on the disk.
type newFile struct {
	*os.File
	path string
}

func (f *newFile) Close() error {
	err := f.Sync()
	if closeErr := f.File.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(f.Name(), f.path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return fmt.Errorf("gdpr: files: %w", err)
	}
	return nil
}

// Abandon removes a file that won't be completed.
func (f *newFile) Abandon() error {
	_ = f.File.Close()
	if err := os.Remove(f.Name()); err != nil {
		return fmt.Errorf("gdpr: files: %w", err)
	}
	return nil
}

// Open implements Files.
func (d DirFiles) Open(_ context.Context, name string) (io.ReadCloser, error) {
	f, err := os.Open(filepath.Join(string(d), name))
	if err != nil {
		return nil, fmt.Errorf("gdpr: files: %w", err)
	}
	return f, nil
}

// Remove implements Files.
func (d DirFiles) Remove(_ context.Context, name string) error {
	err := os.Remove(filepath.Join(string(d), name))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("gdpr: files: %w", err)
	}
	return nil
}

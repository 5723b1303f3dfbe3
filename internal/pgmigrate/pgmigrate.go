// Package pgmigrate applies a concern's embedded SQL migrations with
// github.com/jackc/tern: in order, each in a transaction, under an advisory
// lock, with a version table of the concern's own in the schema that the
// connection's search_path names first.
package pgmigrate

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/tern/v2/migrate"
)

// ErrBehind says that a schema lacks migrations.
var ErrBehind = errors.New("schema is behind: run Migrate")

// Files returns the SQL files of a package that embeds them in a folder named
// migrations.
func Files(embedded embed.FS) fs.FS {
	files, err := fs.Sub(embedded, "migrations")
	if err != nil {
		panic(err) // the folder is embedded: only a broken build gets here
	}
	return files
}

// Migrate brings the schema to the newest version. It is safe to call from
// several processes at once, and does nothing when there is nothing to do.
func Migrate(ctx context.Context, pool *pgxpool.Pool, concern string, files fs.FS) error {
	return with(ctx, pool, concern, files, func(m *migrate.Migrator) error {
		return m.Migrate(ctx)
	})
}

// Verify returns an error that is ErrBehind when the schema lacks migrations.
// It changes nothing but the empty version table that it may have to make.
func Verify(ctx context.Context, pool *pgxpool.Pool, concern string, files fs.FS) error {
	return with(ctx, pool, concern, files, func(m *migrate.Migrator) error {
		have, err := m.GetCurrentVersion(ctx)
		if err != nil {
			return err
		}
		if want := int32(len(m.Migrations)); have < want {
			return fmt.Errorf("%w (has version %d, wants %d)", ErrBehind, have, want)
		}
		return nil
	})
}

// Schema is the migrations of a concern whose package embeds them in a folder
// named migrations.
type Schema struct {
	Concern  string
	Embedded embed.FS
}

// Migrate is the function of that name.
func (s Schema) Migrate(ctx context.Context, pool *pgxpool.Pool) error {
	return Migrate(ctx, pool, s.Concern, Files(s.Embedded))
}

// Verify is the function of that name.
func (s Schema) Verify(ctx context.Context, pool *pgxpool.Pool) error {
	return Verify(ctx, pool, s.Concern, Files(s.Embedded))
}

func with(ctx context.Context, pool *pgxpool.Pool, concern string, files fs.FS, do func(*migrate.Migrator) error) error {
	err := pool.AcquireFunc(ctx, func(c *pgxpool.Conn) error {
		m, err := load(ctx, c.Conn(), concern, files)
		if err != nil {
			return err
		}
		return do(m)
	})
	if err != nil {
		return fmt.Errorf("%spg: migrate: %w", concern, err)
	}
	return nil
}

func load(ctx context.Context, conn *pgx.Conn, concern string, files fs.FS) (*migrate.Migrator, error) {
	m, err := migrate.NewMigrator(ctx, conn, concern+"_schema_version")
	if err != nil {
		return nil, err
	}
	if err := m.LoadMigrations(files); err != nil {
		return nil, err
	}
	return m, nil
}

package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"

	"rebound/migrations"
)

// ErrSchemaBehind is returned by CheckSchema when this program needs migrations that the database has not had.
var ErrSchemaBehind = errors.New("the database schema is behind this program: run `rebound migrate up`")

// MigrationState is one line of `rebound migrate status`.
type MigrationState struct {
	Name    string
	Applied bool
	At      time.Time
}

// Migrate brings the schema up to this program, the job queue's own included. Any number may run at once: one does it,
// the others find nothing left.
func Migrate(ctx context.Context, dsn string) error {
	return withMigrator(ctx, dsn, func(p *goose.Provider, r *rivermigrate.Migrator[pgx.Tx]) error {
		if _, err := r.Migrate(ctx, rivermigrate.DirectionUp, nil); err != nil { // first: a step of ours changes it
			return fmt.Errorf("migrating the job queue: %w", err)
		}
		if _, err := p.Up(ctx); err != nil {
			return fmt.Errorf("migrating the schema: %w", err)
		}
		return nil
	})
}

// MigrateDown takes back the newest step of the schema. With the first step it takes the job queue's tables too.
func MigrateDown(ctx context.Context, dsn string) error {
	return withMigrator(ctx, dsn, func(p *goose.Provider, r *rivermigrate.Migrator[pgx.Tx]) error {
		result, err := p.Down(ctx)
		if err != nil {
			return fmt.Errorf("taking back the newest migration: %w", err)
		}
		if result.Source.Version != 1 {
			return nil
		}
		if _, err := r.Migrate(ctx, rivermigrate.DirectionDown, &rivermigrate.MigrateOpts{TargetVersion: -1}); err != nil {
			return fmt.Errorf("taking back the job queue: %w", err)
		}
		return nil
	})
}

// MigrationStatus lists every step with whether and when it was applied.
func MigrationStatus(ctx context.Context, dsn string) (states []MigrationState, err error) {
	err = withMigrator(ctx, dsn, func(p *goose.Provider, r *rivermigrate.Migrator[pgx.Tx]) error {
		steps, err := p.Status(ctx)
		if err != nil {
			return fmt.Errorf("reading the migration status: %w", err)
		}
		for _, s := range steps {
			states = append(states, MigrationState{Name: s.Source.Path, Applied: s.State == goose.StateApplied, At: s.AppliedAt})
		}
		// Which are left, not which were done: that list is refused where a newer program has done more.
		left, err := r.Migrate(ctx, rivermigrate.DirectionUp, &rivermigrate.MigrateOpts{DryRun: true})
		if err != nil {
			return fmt.Errorf("reading the job queue's migration status: %w", err)
		}
		pending := make(map[int]bool, len(left.Versions))
		for _, v := range left.Versions {
			pending[v.Version] = true
		}
		for _, v := range r.AllVersions() {
			states = append(states, MigrationState{Name: fmt.Sprintf("river %03d_%s", v.Version, v.Name), Applied: !pending[v.Version]})
		}
		return nil
	})
	return states, err
}

// CheckSchema returns ErrSchemaBehind unless every step has been applied.
func CheckSchema(ctx context.Context, dsn string) error {
	states, err := MigrationStatus(ctx, dsn)
	if err != nil {
		return err
	}
	for _, s := range states {
		if !s.Applied {
			return ErrSchemaBehind
		}
	}
	return nil
}

// migrationLock is the advisory lock of whoever migrates: "rebound" as a number.
const migrationLock = 0x7265626f756e64

func withMigrator(ctx context.Context, dsn string, do func(*goose.Provider, *rivermigrate.Migrator[pgx.Tx]) error) error {
	pool, err := connect(ctx, dsn, 4)
	if err != nil {
		return err
	}
	defer closePool(ctx, pool)
	// One lock over both migrators: the job queue's own takes none.
	locked, err := pool.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("connecting to Postgres: %w", err)
	}
	defer locked.Release()
	if _, err := locked.Exec(ctx, `SELECT pg_advisory_lock($1)`, migrationLock); err != nil {
		return fmt.Errorf("waiting for the migration lock: %w", err)
	}
	defer func() { _, _ = locked.Exec(ctx, `SELECT pg_advisory_unlock($1)`, migrationLock) }() // else it goes with its session

	db := stdlib.OpenDBFromPool(pool)
	defer db.Close()
	provider, err := goose.NewProvider(goose.DialectPostgres, db, migrations.Files)
	if err != nil {
		return fmt.Errorf("reading the migrations: %w", err)
	}
	migrator, err := rivermigrate.New(riverpgxv5.New(pool), nil)
	if err != nil {
		return fmt.Errorf("making the job queue's migrator: %w", err)
	}
	return do(provider, migrator)
}

package main

import (
	"context"
	"fmt"
	"text/tabwriter"

	"rebound/store"
)

type migrateCommand struct {
	Up         migrateUp     `cmd:"" help:"Bring the schema up to this program, the job queue's included."`
	Down       migrateDown   `cmd:"" help:"Take back the newest step."`
	Status     migrateStatus `cmd:"" help:"List the steps with when they were applied."`
	NoDownload bool          `help:"Never fetch Postgres when there is none."`
}

type (
	migrateUp     struct{}
	migrateDown   struct{}
	migrateStatus struct{}
)

// Run migrates up and says how the schema stands.
func (migrateUp) Run(ctx context.Context, p *program, all *commands) error {
	return p.withDatabase(ctx, all.Migrate.NoDownload, func(dsn string) error {
		if err := store.Migrate(ctx, dsn); err != nil {
			return err
		}
		return p.printMigrations(ctx, dsn)
	})
}

// Run takes back one step.
func (migrateDown) Run(ctx context.Context, p *program, all *commands) error {
	return p.withDatabase(ctx, all.Migrate.NoDownload, func(dsn string) error {
		if err := store.MigrateDown(ctx, dsn); err != nil {
			return err
		}
		return p.printMigrations(ctx, dsn)
	})
}

// Run lists the steps.
func (migrateStatus) Run(ctx context.Context, p *program, all *commands) error {
	return p.withDatabase(ctx, all.Migrate.NoDownload, func(dsn string) error { return p.printMigrations(ctx, dsn) })
}

func (p *program) withDatabase(ctx context.Context, noDownload bool, do func(dsn string) error) error {
	c, err := loadConfig(p.environ, forDatabase)
	if err != nil {
		return err
	}
	note := func(format string, args ...any) { fmt.Fprintf(p.stderr, format+"\n", args...) }
	db, err := openDatabase(ctx, c, noDownload, note, p.stderr)
	if err != nil {
		return err
	}
	defer db.stop()
	return do(db.dsn)
}

func (p *program) printMigrations(ctx context.Context, dsn string) error {
	states, err := store.MigrationStatus(ctx, dsn)
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(p.stdout, 0, 0, 2, ' ', 0)
	for _, s := range states {
		applied := "pending"
		switch {
		case s.Applied && s.At.IsZero():
			applied = "applied"
		case s.Applied:
			applied = "applied " + s.At.UTC().Format("2006-01-02 15:04:05")
		}
		fmt.Fprintf(w, "%s\t%s\n", s.Name, applied)
	}
	return w.Flush()
}

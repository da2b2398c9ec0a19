package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"rebound/store"
	"rebound/store/localpg"
)

// database is where the data lives: the operator's own Postgres, or a private one that ends with the program.
type database struct {
	dsn    string
	about  string          // one line for people, without secrets
	failed <-chan struct{} // closed when a private server ends by itself; nil for the operator's own
	stop   func()
}

// openStore opens the store. That its keys are not the database's is a fault of the configuration: no second try mends it.
func openStore(ctx context.Context, c store.Config) (*store.Store, error) {
	s, err := store.Open(ctx, c)
	if errors.Is(err, store.ErrKeys) {
		return nil, configFaults{"ENCRYPTION_KEY: " + err.Error()}
	}
	return s, err
}

// openDatabase uses DATABASE_URL when it is given, and starts or fetches nothing then. Else it runs a private Postgres
// under DATA_DIR.
func openDatabase(ctx context.Context, c *config, noDownload bool, log func(string, ...any), progress io.Writer) (*database, error) {
	if c.DatabaseURL != "" {
		return &database{dsn: c.DatabaseURL, about: "the one of DATABASE_URL", stop: func() {}}, nil
	}
	server, err := localpg.Start(ctx, localpg.Config{
		DataDir: c.DataDir, NoDownload: noDownload, SourceURL: c.PostgresSource, Log: log, Progress: progress,
	})
	if err != nil {
		return nil, fmt.Errorf("starting a private Postgres: %w", err)
	}
	return &database{
		dsn: server.DSN(localpg.Database), failed: server.Done(),
		about: fmt.Sprintf("private %s, data in %s (not for production)", server.Found(), server.DataDir()),
		stop: func() {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			if err := server.Stop(ctx); err != nil {
				log("stopping the private Postgres: %v", err)
			}
		},
	}, nil
}

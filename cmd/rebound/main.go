// Rebound receives a payment provider's failure webhooks, works out what each failure means, keeps it in Postgres, and
// tells the right person the right thing once. This package is its program: one file for each command, and the only
// place where the parts are put together.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	err := run(ctx, os.Args[1:], os.Environ(), os.Stdout, os.Stderr)
	stop()
	if err != nil {
		printError(os.Stderr, err)
	}
	os.Exit(exitCode(err))
}

// commands is the command line.
type commands struct {
	Serve    serveCommand    `cmd:"" help:"Receive webhooks, keep failures, notify customers."`
	Dev      devCommand      `cmd:"" help:"Run the whole system on this machine with nothing set up."`
	Migrate  migrateCommand  `cmd:"" help:"Change or show the database schema."`
	Simulate simulateCommand `cmd:"" help:"Sign sample events and post them to a running server."`
	Explain  explainCommand  `cmd:"" help:"Say what a decline code means."`
	Erase    eraseCommand    `cmd:"" help:"Forget a customer: failures stay, without whose they were."`
}

// program is what every command gets of the outside.
type program struct {
	environ        []string
	stdout, stderr io.Writer
}

// exited carries kong's wish to end the program (after --help) up to run.
type exited int

// run is the whole program but signals and exit code. It returns when the command has ended or, for a server, when ctx
// is done and everything has been shut down.
func run(ctx context.Context, args, environ []string, stdout, stderr io.Writer) (err error) {
	defer func() {
		switch cause := recover().(type) {
		case nil:
		case exited:
			if cause != 0 {
				err = usageError{errors.New("ended by the command line")}
			}
		default:
			panic(cause)
		}
	}()
	tuneMemory(environ)
	parser, err := kong.New(&commands{},
		kong.Name("rebound"),
		kong.Description("Failed payments, understood and answered: from a provider's webhook to the right message.\n\n"+
			"Settings come from the environment; try `rebound dev` first."),
		kong.Writers(stdout, stderr),
		kong.Exit(func(code int) { panic(exited(code)) }),
		kong.BindTo(ctx, (*context.Context)(nil)),
		kong.Bind(&program{environ: environ, stdout: stdout, stderr: stderr}),
		kong.Vars{"sample_cases": strings.Join(caseNames(), ", ")},
		kong.UsageOnError(),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
	)
	if err != nil {
		return fmt.Errorf("building the command line: %w", err)
	}
	command, err := parser.Parse(args)
	if err != nil {
		return usageError{err}
	}
	return command.Run()
}

// unlessEnded is nil for the error of a server whose start was cut short because it was told to end: that is no failure.
func unlessEnded(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// usageError is a command line that cannot be understood.
type usageError struct{ error }

// Unwrap gives the parser's own error.
func (e usageError) Unwrap() error { return e.error }

// exitCode is 0 for success, 2 for a bad configuration or command line, 1 for everything else.
func exitCode(err error) int {
	var usage usageError
	var faults configFaults
	switch {
	case err == nil:
		return 0
	case errors.As(err, &usage), errors.As(err, &faults):
		return 2
	default:
		return 1
	}
}

func printError(w io.Writer, err error) {
	var faults configFaults
	if errors.As(err, &faults) {
		for _, line := range faults {
			fmt.Fprintln(w, line)
		}
		return
	}
	fmt.Fprintln(w, "rebound:", err)
}

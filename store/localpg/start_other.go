//go:build !linux && !darwin

package localpg

import (
	"context"
	"errors"
	"runtime"
)

type binaries struct{}

func (b binaries) String() string { return "none" }

func start(context.Context, Config) (*Server, error) {
	return nil, &MissingError{Reason: errors.New("a private server needs Unix sockets and runs on Linux and macOS, not on " + runtime.GOOS)}
}

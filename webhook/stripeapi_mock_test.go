package webhook

import (
	"bufio"
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"rebound/store/job"
)

// stripeMock is Stripe's own double of its API, which checks that calls are well-formed. It is a program, not a library.
const stripeMock = "github.com/stripe/stripe-mock@v0.203.0"

// startStripeMock builds it from its module, which Go caches, and returns where it listens.
func startStripeMock(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	build := exec.CommandContext(ctx, "go", "install", stripeMock)
	build.Dir = dir // outside this module, so that it is built with its own versions
	build.Env = append(os.Environ(), "GOBIN="+dir, "GOFLAGS=")
	if out, err := build.CombinedOutput(); err != nil {
		if os.Getenv("CI") != "" {
			require.NoError(t, err, "building stripe-mock: %s", out)
		}
		t.Skipf("stripe-mock cannot be built here: %v: %s", err, bytes.TrimSpace(out))
	}

	mock := exec.CommandContext(t.Context(), filepath.Join(dir, "stripe-mock"), "-http-addr", "127.0.0.1:0")
	out, err := mock.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, mock.Start())
	t.Cleanup(func() { _ = mock.Process.Kill(); _ = mock.Wait() })
	listening := regexp.MustCompile(`127\.0\.0\.1:\d+`)
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if at := listening.FindString(lines.Text()); at != "" {
			return "http://" + at
		}
	}
	require.Fail(t, "stripe-mock does not say where it listens")
	return ""
}

func TestStripesOwnDoubleUnderstandsEveryCall(t *testing.T) {
	t.Parallel()
	a, err := NewStripeAPI(APIConfig{Key: "sk_test_123", Base: startStripeMock(t), Now: func() time.Time { return testNow }})
	require.NoError(t, err)

	ask := job.LookUpContact{PaymentID: "pi_1", Source: "stripe", Account: "acct_1", Intent: "pi_1"}
	d, err := a.LookUp(t.Context(), ask)
	require.NoError(t, err)
	require.NotEmpty(t, d.Facts)
	require.Equal(t, "payment_intent", d.Facts[0].Object)

	ask = job.LookUpContact{PaymentID: "pi_1", Source: "stripe", Customer: "cus_123", Invoice: "in_123", Intent: "pi_1"}
	d, err = a.LookUp(t.Context(), ask)
	require.NoError(t, err)
	require.Equal(t, "cus_123", d.Customer.CustomerID)
	require.Equal(t, "in_123", d.Facts[0].Invoice)
}

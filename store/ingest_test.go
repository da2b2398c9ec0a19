package store_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"rebound/store"
)

func TestAQueryOfABatchThatFailsIsAnErrorAndNoPanic(t *testing.T) {
	t.Parallel()
	s := openStore(t)
	// Postgres refuses the parameter before it says what the rows are like; a connection that breaks there looks the same.
	require.Error(t, s.InIngest(t.Context(), func(in *store.Ingest) error {
		_, err := in.Load(t.Context(), []store.PaymentKey{{PaymentID: "\x00", Source: "stripe"}}, nil, nil, false)
		return err
	}))
}

package store_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"rebound/store"
	"rebound/store/seal"
	"rebound/store/storetest"
)

func TestAQueryOfABatchThatFailsIsAnErrorAndNoPanic(t *testing.T) {
	t.Parallel()
	keys, err := seal.ParseKeys(seal.GenerateKey())
	require.NoError(t, err)
	s, err := store.Open(t.Context(), store.Config{DSN: storetest.New(t), Keys: keys, MaxConns: 1})
	require.NoError(t, err)
	t.Cleanup(s.Close)
	// Postgres refuses the parameter before it says what the rows are like; a connection that breaks there looks the same.
	require.Error(t, s.InIngest(t.Context(), func(in *store.Ingest) error {
		_, err := in.Load(t.Context(), []store.PaymentKey{{PaymentID: "\x00", Source: "stripe"}}, nil, nil, false)
		return err
	}))
}

package handler

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"rebound/decline"
	"rebound/store"
	"rebound/store/seal"
	"rebound/store/storetest"
)

// BenchmarkRecord stores pairs of events from 64 waiting senders; an iteration is one event.
func BenchmarkRecord(b *testing.B) {
	keys, err := seal.ParseKeys(seal.GenerateKey())
	require.NoError(b, err)
	s, err := store.Open(context.Background(), store.Config{DSN: storetest.New(b), Keys: keys})
	require.NoError(b, err)
	defer s.Close()
	p := testPolicy()
	p.Hold = 24 * time.Hour
	r := NewRecorder(s, p, zap.NewNop(), prometheus.NewRegistry())
	defer r.Close()
	var n atomic.Int64
	b.SetParallelism(32)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			i := n.Add(1)
			f := chargeFailed(1, "insufficient_funds")
			if i%2 == 0 {
				f = intentFailed(1, "insufficient_funds")
			}
			f.PaymentID = fmt.Sprintf("pi_%d", i/2)
			f.PaymentIntent, f.Customer, f.Charge, f.ReceivedAt = f.PaymentID, "cus_"+f.PaymentID, "ch_"+f.PaymentID, time.Time{}
			f.Created = time.Now().Unix()
			f.Addresses = &Contact{Billing: "buyer@example.com"}
			if err := r.Record(context.Background(), Delivery{Facts: []Fact{f}}); err != nil {
				b.Error(err)
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
}

// BenchmarkDerive works out a payment that a card tester has tried a thousand times.
func BenchmarkDerive(b *testing.B) {
	var facts []Fact
	for i := range 1000 {
		charge, intent := chargeFailed(i, "insufficient_funds"), intentFailed(i, "insufficient_funds")
		for _, f := range []*Fact{&charge, &intent} {
			f.Created, f.MethodID, f.RequestOrigin = testCreated+int64(i), fmt.Sprint("pm_", i), "api"
		}
		facts = append(facts, charge, intent)
	}
	for b.Loop() {
		if d := Derive(testKey, facts, nil, decline.Rules{}); len(d.Failed) != 1000 {
			b.Fatal(len(d.Failed))
		}
	}
}

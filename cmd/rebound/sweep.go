package main

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/riverqueue/river"
	"go.uber.org/zap"

	"rebound/store"
	"rebound/store/job"
)

// sweepWorker takes away what is older than the retention allows.
type sweepWorker struct {
	river.WorkerDefaults[job.Sweep]
	store     *store.Store
	retention store.Retention
	interval  time.Duration
	log       *zap.Logger
	ending    chan struct{}
	end       func() // cuts a sweep short, so that it does not hold up a shutdown
}

func newSweepWorker(s *store.Store, c *config, log *zap.Logger) *sweepWorker {
	ending := make(chan struct{})
	return &sweepWorker{
		store: s, interval: c.SweepInterval, log: log, ending: ending, end: sync.OnceFunc(func() { close(ending) }),
		retention: store.Retention{Failures: c.RetentionFailures, Addresses: c.RetentionAddresses, Quarantine: c.RetentionQuarantine},
	}
}

// periodic is the job's timetable; River keeps it once over all replicas.
func (w *sweepWorker) periodic() *river.PeriodicJob {
	return river.NewPeriodicJob(river.PeriodicInterval(w.interval), func() (river.JobArgs, *river.InsertOpts) {
		return job.Sweep{}, &river.InsertOpts{Queue: job.QueueSweep, MaxAttempts: 1}
	}, &river.PeriodicJobOpts{RunOnStart: true})
}

// Work sweeps once. What it does not come to is left to the next sweep.
func (w *sweepWorker) Work(ctx context.Context, _ *river.Job[job.Sweep]) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan struct{})
	defer close(done)
	go func() {
		select {
		case <-w.ending:
			cancel()
		case <-done:
		}
	}()
	swept, err := w.store.Sweep(ctx, w.retention)
	if swept != (store.Swept{}) {
		w.log.Info("retention.swept", zap.Int("payments", swept.Payments), zap.Int("invoices", swept.Invoices),
			zap.Int("addresses", swept.Addresses), zap.Int("quarantined", swept.Quarantined), zap.Bool("finished", err == nil))
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return nil
	}
	return err
}

// Timeout leaves a long sweep the time until the next one.
func (w *sweepWorker) Timeout(*river.Job[job.Sweep]) time.Duration {
	return max(w.interval, time.Minute)
}

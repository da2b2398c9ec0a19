package notify

import (
	"context"
	"time"

	"github.com/riverqueue/river"

	"rebound/store/job"
)

// jobMargin is what a mail's job may take beyond the mail itself: the claim before it, the mark after it.
const jobMargin = time.Minute

// AddWorkers registers the jobs that a Sender does.
func (s *Sender) AddWorkers(workers *river.Workers) {
	river.AddWorker(workers, &deliverWorker{sender: s})
	river.AddWorker(workers, &dueWorker{sender: s})
	river.AddWorker(workers, &wakeWorker{sender: s})
}

// PeriodicJobs are the Sender's regular jobs; River runs each once over all replicas.
func PeriodicJobs() []*river.PeriodicJob {
	return []*river.PeriodicJob{
		river.NewPeriodicJob(river.PeriodicInterval(time.Minute), func() (river.JobArgs, *river.InsertOpts) {
			return job.WakeHeld{}, &river.InsertOpts{Queue: job.QueueMail, MaxAttempts: 1}
		}, &river.PeriodicJobOpts{RunOnStart: true}),
	}
}

type deliverWorker struct {
	river.WorkerDefaults[job.DeliverMail]
	sender *Sender
}

// Work is River's alarm going off. The job itself holds no state: a stale one finds nothing to claim.
func (w *deliverWorker) Work(ctx context.Context, j *river.Job[job.DeliverMail]) error {
	again, err := w.sender.Deliver(ctx, j.Args.NotificationID)
	if err == nil && again > 0 {
		return river.JobSnooze(again)
	}
	return err
}

// deliverRetry is when a mail's job that failed comes again. River's own wait grows to days, and the look for lost mails passes
// over a mail that has a job.
const deliverRetry = time.Minute

// NextRetry is River's question.
func (w *deliverWorker) NextRetry(*river.Job[job.DeliverMail]) time.Time {
	return w.sender.Store.Now().Add(deliverRetry)
}

// Timeout must exceed the longest wait for a server's answer: a job cut off in that wait would send twice.
func (w *deliverWorker) Timeout(*river.Job[job.DeliverMail]) time.Duration {
	return w.sender.JobTimeout()
}

// JobTimeout is how long one mail's job may run; River's rescue of stuck jobs must not come sooner.
func (s *Sender) JobTimeout() time.Duration {
	if s.Mailer == nil {
		return jobMargin
	}
	return s.Mailer.MaxDuration() + jobMargin
}

type dueWorker struct {
	river.WorkerDefaults[job.DeliverDue]
	sender *Sender
}

// dueRetry is when a moment's job that failed comes again. River's own wait grows to weeks, and all mails of the moment would
// share it.
const dueRetry = 10 * time.Second

// NextRetry is River's question.
func (w *dueWorker) NextRetry(*river.Job[job.DeliverDue]) time.Time {
	return w.sender.Store.Now().Add(dueRetry)
}

func (w *dueWorker) Work(ctx context.Context, j *river.Job[job.DeliverDue]) error {
	return w.sender.Store.QueueDue(ctx, j.Args)
}

type wakeWorker struct {
	river.WorkerDefaults[job.WakeHeld]
	sender *Sender
}

func (w *wakeWorker) Work(ctx context.Context, _ *river.Job[job.WakeHeld]) error {
	return w.sender.Wake(ctx)
}

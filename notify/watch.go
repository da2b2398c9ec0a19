package notify

import (
	"context"
	"time"

	"go.uber.org/zap"

	"rebound/store"
)

const (
	lookEvery = 5 * time.Second
	// deadAfter is how far apart the two looks are that both must find a process's lock free.
	deadAfter = 20 * time.Second
	// overdue is how long a due mail may wait unclaimed before its job is taken to be lost with its process.
	overdue = 20 * time.Second
	// lookPatience is how long a look may take: the next one is to take lost locks again before others take this process for dead.
	lookPatience = 10 * time.Second
	requeue      = time.Minute
	// wakeAtOnce is how many held mails of one reason are looked at again every minute.
	wakeAtOnce = 500
)

// Watch looks after the mails of processes that have died, until the context ends: every replica looks every 5 s, so
// that a killed sender's work goes on within a minute.
func (s *Sender) Watch(ctx context.Context) {
	look := s.Watcher()
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	for {
		look(ctx)
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// Watcher returns the look that Watch repeats, for a caller that keeps its own time.
func (s *Sender) Watcher() (look func(context.Context)) {
	return newWatch(s).look
}

func newWatch(s *Sender) *watch {
	return &watch{sender: s, patience: lookPatience, freeSince: make(map[int64]time.Time)}
}

type watch struct {
	sender    *Sender
	patience  time.Duration
	freeSince map[int64]time.Time
	looked    store.MailPlace // how far the walk over the overdue mails has come
}

func (w *watch) look(ctx context.Context) {
	s := w.sender
	if err := s.keep(ctx); err != nil {
		w.failed(ctx, err)
	}
	patient, cancel := context.WithTimeout(ctx, w.patience)
	defer cancel()
	idle, err := s.Store.IdleOwners(patient)
	if err != nil {
		clear(w.freeSince) // while this process saw nothing, others may have been unable to take their locks again
		w.failed(ctx, err)
		return
	}
	now := s.Store.Now()
	still := make(map[int64]time.Time, len(idle))
	for _, number := range idle {
		since, seen := w.freeSince[number]
		if !seen || since.After(now) { // or the clock was set back
			still[number] = now
			continue
		}
		if now.Sub(since) < deadAfter || s.stillSettling(number) {
			still[number] = since
			continue
		}
		ids, err := s.Store.TakeOver(patient, number, !s.AtMost, mostUndecided)
		if err != nil {
			still[number] = since
			w.failed(ctx, err)
			continue
		}
		s.Log.Warn("owner.dead", zap.Int64("owner", number), zap.Int("mails", len(ids)), zap.Bool("sent_again", !s.AtMost))
	}
	w.freeSince = still
	if s.Mailer == nil || s.paused() > 0 {
		return
	}
	ids, looked, err := s.Store.RequeueOverdue(patient, w.looked, overdue, requeue, refusalPause)
	if err != nil {
		w.failed(ctx, err)
		return
	}
	w.looked = looked
	if len(ids) > 0 {
		s.Log.Info("mails.requeued", zap.Int("mails", len(ids)))
	}
}

func (w *watch) failed(ctx context.Context, err error) {
	if ctx.Err() == nil {
		w.sender.Log.Warn("watch.failed", zap.Error(err))
	}
}

// stillSettling tells whether a number is this process's own, with outcomes that it is still to write down.
func (s *Sender) stillSettling(number int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for o := range s.unsettled {
		if o.Number == number {
			return true
		}
	}
	return false
}

// Wake makes jobs for held mails whose reason has gone, and ends those held for too long.
func (s *Sender) Wake(ctx context.Context) error {
	if s.Mailer != nil && s.paused() == 0 {
		// No more of a storm than the fuse could let through. Where it lets nobody through, those who have become known go out.
		storm := wakeAtOnce
		if fuse := s.Limits.NewMailboxesPerHour; fuse > 0 {
			storm = min(storm, fuse)
		}
		for reason, limit := range map[string]int{
			store.ReasonNoAddress: wakeAtOnce, store.ReasonSMTPNotConfigured: wakeAtOnce, store.ReasonDailyLimit: wakeAtOnce,
			store.ReasonMailStorm: storm,
		} {
			n, err := s.Store.WakeHeld(ctx, reason, limit)
			if err != nil {
				return err
			}
			if n > 0 && (reason == store.ReasonMailStorm || reason == store.ReasonDailyLimit) {
				s.Log.Error("sending.limited", zap.String("limit", reason), zap.Int("held", n))
			}
		}
	}
	ended, err := s.Store.ExpireHeld(ctx, s.MaxAge)
	if ended > 0 {
		s.Log.Info("mails.expired", zap.Int64("mails", ended), zap.Duration("after", s.MaxAge))
	}
	return err
}

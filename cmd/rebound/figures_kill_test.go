//go:build figures

package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"rebound/notify/email/smtptest"
)

// TestFigureKills kills serving processes with kill -9, two at work on one Postgres, while failures come in and mails go
// out:
//
//	go test -tags figures -run TestFigureKills -v -timeout 30m ./cmd/rebound
//
// It runs twice: on a mail server that refuses a Message-ID it has accepted before, and on a plain one, where only a kill
// between the server's 250 and our commit may double a mail. KILLS (50), FAILURES (10000) and EVERY (3 seconds for each
// kill) set the size, HOLD (100ms) how long mails wait; SEED repeats a run's failures and the moments of its kills.
func TestFigureKills(t *testing.T) {
	t.Run("rejecting", func(t *testing.T) { figureKills(t, true) })
	t.Run("plain", func(t *testing.T) { figureKills(t, false) })
}

// life is one process from its start to its kill. Its sender's address tells its mails from those of the others.
type life struct {
	*replica
	cmd    *exec.Cmd
	sender string
	killed time.Time // zero while it lives
}

// settled lists the notifications whose outcome the process has committed, as its log tells.
func (l *life) settled() map[string]bool {
	ids := make(map[string]bool)
	l.log.mu.Lock()
	defer l.log.mu.Unlock()
	for _, line := range l.log.lines {
		if line["settled"] == true {
			ids[line["notification"].(string)] = true
		}
	}
	return ids
}

func figureKills(t *testing.T, rejects bool) {
	kills, count := number(t, "KILLS", 50), number(t, "FAILURES", 10_000)
	every := time.Duration(number(t, "EVERY", 3)) * time.Second
	hold := cmp.Or(os.Getenv("HOLD"), "100ms")
	random, seed := dice(t)
	a := newArena(t)
	peer := smtptest.New(t, smtptest.Options{RejectRepeats: rejects})
	var lives []*life
	start := func(address string) *life {
		sender := fmt.Sprintf("payments+%d@shop.example", len(lives))
		l := &life{sender: sender}
		l.replica, l.cmd = spawn(t, serveEnv(a.dsn, a.key, peer, setting{"LISTEN_ADDR", address}, setting{"MAIL_FROM", sender},
			setting{"NOTIFY_HOLD", hold}, setting{"NOTIFY_HOLD_WEAK", hold},
			setting{"MAIL_NEW_MAILBOXES_PER_HOUR", "-1"}, setting{"MAIL_PER_DAY", "-1"}))
		lives = append(lives, l)
		return l
	}
	addresses := [2]string{freeAddress(t), freeAddress(t)}
	serving := [2]*life{start(addresses[0]), start(addresses[1])}
	load := &posting{urls: []string{"http://" + addresses[0], "http://" + addresses[1]}}

	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
	defer cancel()
	payments := mailedFailures(t, seed, count)
	begun := time.Now()
	for k := range kills {
		posted := make(chan error, 1)
		share := eventsOf(payments[k*count/kills : (k+1)*count/kills])
		go func() { posted <- load.spread(ctx, share, every) }()
		require.True(t, wait(ctx, time.Duration(random.Int64N(int64(every)))))
		// Half of the run each, first the one that started second: the other lives to take over what the dead leave, and
		// to be the leader without whom River rings no alarm.
		victim := 1 - 2*k/kills
		serving[victim].killed = kill(t, serving[victim].cmd)
		serving[victim] = start(addresses[victim])
		require.NoError(t, <-posted)
	}
	took, mailed := time.Since(begun), len(peer.Held())

	db, err := pgx.Connect(ctx, a.dsn)
	require.NoError(t, err)
	defer db.Close(context.WithoutCancel(ctx))
	require.Eventually(t, func() bool {
		var open int
		return db.QueryRow(ctx, `SELECT count(*) FROM notifications WHERE status = 'held'`).Scan(&open) == nil && open == 0
	}, 5*time.Minute, 200*time.Millisecond, "some mails never came to an end")

	events, failures := eventsOf(payments), everyFailure(t, serving[0].replica)
	lost := missing(events, failures)
	open := 0
	for _, f := range failures {
		status, _, _ := strings.Cut(f.told()["email"], ":")
		if !slices.Contains([]string{"sent", "failed", "unknown", "suppressed", "canceled"}, status) {
			open++
		}
	}
	copies := make(map[string][]smtptest.Mail)
	for _, m := range peer.Held() {
		copies[m.To] = append(copies[m.To], m)
	}
	unmailed := 0
	for _, p := range payments {
		if len(copies[p.Email]) == 0 {
			unmailed++
		}
	}
	doubles := doublesOf(copies, lives)
	t.Logf("\n| mail server | kills | failures | tries to post / acknowledged | acknowledged events missing | without a final state | never mailed | repeats refused | doubles (explained by a kill) | most per kill | longest from 250 to kill |\n"+
		"|---|---|---|---|---|---|---|---|---|---|---|\n| %s | %d in %.0f s | %d (%d mailed before the last kill) | %d / %d | %d | %d | %d | %d | %d (%d) | %d | %s |",
		map[bool]string{true: "rejects a known Message-ID", false: "plain"}[rejects], kills, took.Seconds(), len(failures), mailed,
		load.tries.Load(), load.acked.Load(), len(lost), open, unmailed, len(peer.Refused()),
		doubles.mails, doubles.explained, doubles.most, doubles.longest.Round(time.Millisecond))

	require.EqualValues(t, len(events), load.acked.Load())
	require.Empty(t, lost)
	require.Len(t, failures, count)
	require.Zero(t, open)
	require.Zero(t, unmailed)
	if rejects {
		require.Zero(t, doubles.mails)
		return
	}
	require.Equal(t, doubles.mails, doubles.explained, "a mail went out twice without a kill between its 250 and our commit")
	require.LessOrEqual(t, doubles.most, 1, "one kill doubled more than one mail")
}

type doubles struct {
	mails, explained int
	most             int // by one kill
	longest          time.Duration
}

// doublesOf counts the mails beyond the first to each recipient. One is explained when the process that sent the copy
// before it was killed, and had not seen its commit.
func doublesOf(copies map[string][]smtptest.Mail, lives []*life) (d doubles) {
	bySender, byKill := make(map[string]*life, len(lives)), make(map[string]int)
	for _, l := range lives {
		bySender[l.sender] = l
	}
	for _, mails := range copies {
		for i := range len(mails) - 1 {
			d.mails++
			first := bySender[mails[i].From]
			id, _, _ := strings.Cut(mails[i].MessageID, "@")
			if first.killed.IsZero() || first.settled()[id] || mails[i+1].MessageID != mails[i].MessageID || mails[i+1].From == mails[i].From {
				continue
			}
			d.explained++
			byKill[first.sender]++
			d.most = max(d.most, byKill[first.sender])
			d.longest = max(d.longest, first.killed.Sub(mails[i].At))
		}
	}
	return d
}

package checkout_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"rebound/decline"
	"rebound/notify/checkout"
)

func TestAStreamOutlivesTheServersTimeoutsAndIsPinged(t *testing.T) {
	t.Parallel()
	for _, http2 := range []bool{false, true} {
		bubbleOver(t, http2, func(t *testing.T, w *world) {
			r := w.listen(secret)
			defer r.close()
			require.Equal(t, http2, r.res.ProtoMajor == 2)
			require.Equal(t, "text/event-stream; charset=utf-8", r.res.Header.Get("Content-Type"))
			require.Equal(t, "no-store", r.res.Header.Get("Cache-Control"))
			pass(time.Millisecond)
			require.Equal(t, 1, r.pinged(), "the stream is flushed at once")
			pass(15 * time.Second)
			require.Equal(t, 2, r.pinged())
			pass(15 * time.Minute)
			require.Equal(t, 62, r.pinged())
			require.False(t, r.over())
			require.Empty(t, r.all())
		})
	}
}

func TestAnUnconfirmedSecretGetsNothingAndIsNobodysPresence(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, w *world) {
		pass(time.Minute)
		require.Zero(t, w.store.askedFor(), "nobody waits, nothing is looked up")
		w.store.set(failing("fl_1", "insufficient_funds"))
		r := w.listen(secret)
		other := w.listen("pi_2_secret_b")
		defer other.close()
		defer r.close()
		pass(10*time.Second + time.Millisecond)
		require.Empty(t, r.all())
		require.Zero(t, w.store.presence())
		require.InDelta(t, 21, w.store.askedFor(), 1, "both secrets in one look-up every half second")

		w.store.confirm(payment, secret)
		pass(500 * time.Millisecond)
		require.Equal(t, 1, w.store.presence())
		require.Len(t, r.all(), 1, "the present state comes first")
		require.Empty(t, other.all())
	})
}

func TestAWrongSecretEndsTheStream(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, w *world) {
		w.store.set(failing("fl_1", "insufficient_funds"))
		w.store.confirm(payment, secret)
		r := w.listen("pi_1_secret_b")
		defer r.close()
		pass(time.Second)
		require.True(t, r.over())
		require.Empty(t, r.all())
		require.Zero(t, w.store.presence())
		unconfirmed, confirmed := w.hub.Open()
		require.Zero(t, unconfirmed+confirmed)
	})
}

func TestAPaymentOfTheOtherModeIsNeverToldOf(t *testing.T) {
	t.Parallel()
	for _, mode := range []bool{true, false} {
		bubble(t, func(t *testing.T, w *world) {
			w.store.confirm(payment, secret) // a live one
			w.store.set(failing("fl_1", "insufficient_funds"))
			r := w.listen(secret)
			defer r.close()
			pass(time.Minute)
			require.False(t, r.over())
			require.Equal(t, mode, len(r.all()) == 1)
			require.Equal(t, mode, w.store.presence() == 1)
		}, func(c *checkout.Config) { c.Livemode = &mode })
	}
}

func TestOneIntentIdUnderTwoAccountsIsToldBySecretApart(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, w *world) {
		theirs := payment
		theirs.Account = "acct_1"
		w.store.confirm(theirs, "pi_1_secret_other")
		w.store.confirm(payment, secret)
		w.store.set(failing("fl_1", "insufficient_funds"))
		s := failing("fl_2", "expired_card")
		s.Key = theirs
		w.store.set(s)
		r := w.listen(secret)
		defer r.close()
		pass(time.Second)
		require.Len(t, r.all(), 1)
		require.Equal(t, "insufficient_funds", codeOf(t, r.all()[0]))
	})
}

func TestAFailureIsToldWithExactlyTheMembersOfTheContract(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, w *world) {
		w.store.confirm(payment, secret)
		r := w.listen(secret)
		defer r.close()
		pass(time.Second)
		require.Empty(t, r.all())

		s := failing("fl_1", "insufficient_funds")
		w.store.tell(s)
		synctest.Wait()
		require.Len(t, r.all(), 1)
		text, err := json.Marshal(s.Public.Message("en").Text)
		require.NoError(t, err)
		step, err := json.Marshal(s.Public.NextStep)
		require.NoError(t, err)
		retry, err := json.Marshal(s.Public.RetrySameMethod)
		require.NoError(t, err)
		require.Equal(t, `{"payment_intent":"pi_1","code":"insufficient_funds","message":`+string(text)+`,"next_step":`+
			string(step)+`,"field":null,"retry_same_method":`+string(retry)+`,"locale":"en"}`, r.all()[0].Data)
		require.Equal(t, "payment_failed", r.all()[0].Event)
		require.Regexp(t, `^[0-9a-f]{32}$`, r.all()[0].ID)

		s = failing("fl_2", "incorrect_cvc")
		w.store.tell(s)
		synctest.Wait()
		require.Len(t, r.all(), 2)
		require.Contains(t, r.all()[1].Data, `"field":"cvc"`)
		pass(time.Millisecond)
		require.Len(t, w.store.shown, 2)
		require.Equal(t, "fl_2", w.store.shown[1].AttemptID)
		require.Equal(t, "incorrect_cvc", w.store.shown[1].Code)
		require.Equal(t, "en", w.store.shown[1].Locale)
		require.Equal(t, payment, w.store.shown[1].Key)
	})
}

func TestTheSameStateIsToldOnce(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, w *world) {
		w.store.confirm(payment, secret)
		r := w.listen(secret)
		defer r.close()
		pass(time.Second)
		s := failing("fl_1", "insufficient_funds")
		for range 3 {
			w.store.tell(s)
			pass(time.Minute)
		}
		require.Len(t, r.all(), 1)

		pending := s
		pending.Status = "pending"
		w.store.tell(pending)
		pass(time.Second)
		w.store.tell(s)
		pass(time.Second)
		require.Len(t, r.all(), 1, "back to a failure that was told already")

		w.store.tell(failing("fl_2", "insufficient_funds"))
		pass(time.Second)
		require.Len(t, r.all(), 2, "another attempt that fails alike is news")
		require.Equal(t, r.all()[0].Data, r.all()[1].Data)
		require.NotEqual(t, r.all()[0].ID, r.all()[1].ID)
	})
}

func TestASuccessIsToldAndTheStreamStaysOpen(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, w *world) {
		w.store.confirm(payment, secret)
		s := failing("fl_1", "insufficient_funds")
		s.Status = "recovered"
		w.store.set(s)
		r := w.listen(secret)
		defer r.close()
		pass(time.Minute)
		require.Len(t, r.all(), 1)
		require.Equal(t, "payment_succeeded", r.all()[0].Event)
		require.Equal(t, `{"payment_intent":"pi_1"}`, r.all()[0].Data)
		require.False(t, r.over())
		require.Empty(t, w.store.shown)

		s.Status = "canceled"
		w.store.tell(s)
		pass(time.Second)
		require.Len(t, r.all(), 1)
	})
}

func TestAReconnectResumesAfterTheLastMessage(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, w *world) {
		w.store.confirm(payment, secret)
		w.store.set(failing("fl_1", "insufficient_funds"))
		r := w.listen(secret)
		pass(time.Second)
		require.Len(t, r.all(), 1)
		r.close()
		pass(time.Second)
		require.Zero(t, w.store.presence())

		again := w.listen(secret, "Last-Event-ID", r.all()[0].ID)
		defer again.close()
		pass(time.Minute)
		require.Equal(t, 1, w.store.presence())
		require.Empty(t, again.all(), "nothing has happened since")
		w.store.tell(failing("fl_2", "expired_card"))
		pass(time.Second)
		require.Len(t, again.all(), 1)

		late := w.listen(secret)
		defer late.close()
		pass(time.Second)
		require.Equal(t, again.all(), late.all(), "ids are the same for everyone")
	})
}

func TestAnAttemptThatAwaitsItsChargeIsToldGenericallyForFiveSeconds(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, w *world) {
		w.store.confirm(payment, secret)
		r := w.listen(secret)
		defer r.close()
		pass(time.Second)
		w.store.tell(awaiting(failing("fl_1", "insufficient_funds")))
		pass(4999 * time.Millisecond)
		require.Len(t, r.all(), 1)
		require.Equal(t, "generic_decline", codeOf(t, r.all()[0]))
		pass(time.Millisecond)
		require.Len(t, r.all(), 2)
		require.Equal(t, "insufficient_funds", codeOf(t, r.all()[1]))
		require.NotEqual(t, r.all()[0].ID, r.all()[1].ID)
		pass(time.Minute)
		require.Len(t, r.all(), 2)
		require.Len(t, w.store.shown, 2)
		require.Equal(t, "generic_decline", w.store.shown[0].Code)
		require.Equal(t, "insufficient_funds", w.store.shown[1].Code)
	})
}

// Else a page that is loaded again and again would never be told.
func TestThoseSecondsCountFromTheAttemptForWhoeverComesLater(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, w *world) {
		w.store.confirm(payment, secret)
		w.store.set(awaiting(failing("fl_1", "insufficient_funds")))
		pass(3 * time.Second)
		late := w.listen(secret)
		defer late.close()
		pass(time.Second)
		require.Len(t, late.all(), 1)
		require.Equal(t, "generic_decline", codeOf(t, late.all()[0]))
		pass(time.Second)
		require.Len(t, late.all(), 2)
		require.Equal(t, "insufficient_funds", codeOf(t, late.all()[1]))
	})
}

func TestTheChargesEventSharpensTheMessageAtOnce(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, w *world) {
		w.store.confirm(payment, secret)
		r := w.listen(secret)
		defer r.close()
		pass(time.Second)
		w.store.tell(awaiting(failing("fl_1", "insufficient_funds")))
		pass(time.Second)
		w.store.tell(failing("fl_1", "insufficient_funds"))
		synctest.Wait()
		require.Len(t, r.all(), 2)
		require.Equal(t, "insufficient_funds", codeOf(t, r.all()[1]))
	})
}

func TestAnAttemptFromTheFutureProlongsTheGenericMessageByFiveSecondsAtMost(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, w *world) {
		w.store.confirm(payment, secret)
		r := w.listen(secret)
		defer r.close()
		pass(time.Second)
		s := awaiting(failing("fl_1", "insufficient_funds"))
		s.Age = -time.Hour
		w.store.tell(s)
		pass(5 * time.Second)
		require.Len(t, r.all(), 2)
	})
}

// The whole transcript counts: what is said, under which id, and when.
func TestAFraudSignalCannotBeToldFromAGenericDecline(t *testing.T) {
	t.Parallel()
	transcript := func(t *testing.T, code string, awaits bool) (raw string) {
		bubble(t, func(t *testing.T, w *world) {
			w.store.confirm(payment, secret)
			r := w.listen(secret)
			pass(time.Second)
			s := failing("fl_1", code)
			if awaits {
				w.store.tell(awaiting(s))
				pass(4 * time.Second)
			}
			w.store.tell(s)
			pass(20 * time.Second)
			r.close()
			synctest.Wait()
			raw = r.transcript()
		})
		return raw
	}
	for _, awaits := range []bool{false, true} {
		want := transcript(t, "generic_decline", awaits)
		require.Contains(t, want, `"code":"generic_decline"`)
		for _, code := range []string{"fraudulent", "lost_card", "stolen_card", "pickup_card", "merchant_blacklist", "restricted_card", "security_violation"} {
			require.Equal(t, want, transcript(t, code, awaits), "%s, awaiting its charge: %v", code, awaits)
		}
		require.NotEqual(t, want, transcript(t, "insufficient_funds", awaits))
	}
}

func TestAGenericDeclineStoredByAnOlderProgramIsToldLikeAnyOther(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, w *world) {
		w.store.confirm(payment, secret)
		s := failing("fl_1", "generic_decline")
		w.store.set(s)
		r := w.listen(secret)
		defer r.close()
		pass(time.Second)
		s.Public = decline.Public{Code: "generic_decline", NextStep: "something_else", Field: decline.FieldCVC, RetrySameMethod: !s.Public.RetrySameMethod}
		w.store.tell(s)
		pass(time.Minute)
		require.Len(t, r.all(), 1)
	})
}

func TestTheMerchantsLocaleComesBeforeTheBrowsers(t *testing.T) {
	t.Parallel()
	locales := decline.Locales()
	other := locales[len(locales)-1]
	for name, c := range map[string]struct{ metadata, browser, want string }{
		"the browser's, where the merchant says nothing":         {"", other + ", en;q=0.5", other},
		"the merchant's, whatever the browser says":              {"en", other, "en"},
		"the browser's, where the merchant's is not a language":  {"!!", other, other},
		"English, where neither is known":                        {"tlh", "tlh", "en"},
		"English, where neither says anything":                   {"", "", "en"},
		"the merchant's other language, whatever browser prefer": {other, "en", other},
	} {
		bubble(t, func(t *testing.T, w *world) {
			w.store.confirm(payment, secret)
			s := failing("fl_1", "insufficient_funds")
			s.Locale = c.metadata
			w.store.set(s)
			r := w.listen(secret, "Accept-Language", c.browser)
			defer r.close()
			pass(time.Second)
			require.Len(t, r.all(), 1, name)
			require.Contains(t, r.all()[0].Data, `"locale":"`+c.want+`"`, name)
		})
	}
}

func TestAFullProcessTurnsStreamsAwayUntilOneEnds(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, w *world) {
		a, b := w.listen("pi_1_secret_a"), w.listen("pi_2_secret_a")
		defer b.close()
		res := w.request(http.MethodGet, checkout.EventsPath, "Authorization", "Bearer pi_3_secret_a", "Origin", shopOrigin)
		require.Equal(t, http.StatusServiceUnavailable, res.StatusCode)
		require.Equal(t, "5", res.Header.Get("Retry-After"))
		require.Equal(t, shopOrigin, res.Header.Get("Access-Control-Allow-Origin"))
		body, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		require.JSONEq(t, `{"type":"about:blank","title":"Service Unavailable","status":503}`, string(body))
		a.close()
		pass(time.Second)
		w.listen("pi_3_secret_a").close()
	}, func(c *checkout.Config) { c.MaxStreams = 2 })
}

func TestOneSecretsNewestStreamsReplaceItsOldest(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, w *world) {
		w.store.confirm(payment, secret)
		first, second := w.listen(secret), w.listen(secret)
		pass(time.Second)
		require.Equal(t, 2, w.store.presence())
		third := w.listen(secret)
		defer second.close()
		defer third.close()
		pass(time.Second)
		require.True(t, first.over())
		require.False(t, second.over())
		require.False(t, third.over())
		require.Equal(t, 2, w.store.presence())
	}, func(c *checkout.Config) { c.MaxPerSecret = 2 })
}

func TestAReaderThatStopsReadingIsDroppedAndHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, w *world) {
		w.store.confirm(payment, secret)
		r := w.listen(secret)
		defer r.close()
		stuck := w.request(http.MethodGet, checkout.EventsPath, "Authorization", "Bearer "+secret) // its body is never read
		defer stuck.Body.Close()
		pass(time.Second)
		require.Equal(t, 2, w.store.presence())
		for i := range 100 { // more than the client's own buffer holds
			w.store.tell(failing("fl_"+string(rune('a'+i%26))+string(rune('a'+i/26)), "insufficient_funds"))
			pass(time.Millisecond)
		}
		require.Len(t, r.all(), 100)
		pass(10 * time.Second)
		require.Equal(t, 1, w.store.presence())
		unconfirmed, confirmed := w.hub.Open()
		require.Equal(t, []int{0, 1}, []int{unconfirmed, confirmed})
	})
}

func TestAShutdownEndsStreamsAndTakesTheirPresence(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, w *world) {
		w.store.confirm(payment, secret)
		r, waiting := w.listen(secret), w.listen("pi_2_secret_b")
		pass(time.Second)
		require.Equal(t, 1, w.store.presence())
		w.stop()
		synctest.Wait()
		require.True(t, r.over())
		require.True(t, waiting.over())
		require.Zero(t, w.store.presence())
		res := w.request(http.MethodGet, checkout.EventsPath, "Authorization", "Bearer "+secret)
		require.Equal(t, http.StatusServiceUnavailable, res.StatusCode)
	})
}

// The page has the message, and is not told it again by whichever replica it comes to.
func TestWhatAStreamShowedAsItsHubEndedIsRecorded(t *testing.T) {
	t.Parallel()
	var recorded chan struct{}
	core, _ := observer.New(zap.InfoLevel)
	core = zapcore.RegisterHooks(core, func(e zapcore.Entry) error {
		if e.Message == "checkout.sent" { // written, and not yet marked as shown
			<-recorded
		}
		return nil
	})
	bubble(t, func(t *testing.T, w *world) {
		recorded = make(chan struct{})
		w.store.confirm(payment, secret)
		r := w.listen(secret)
		pass(time.Second)
		w.store.tell(failing("fl_1", "insufficient_funds"))
		synctest.Wait()
		require.Len(t, r.all(), 1)
		w.stop()
		synctest.Wait()
		close(recorded)
		synctest.Wait()
		require.True(t, r.over())
		require.Len(t, w.store.shown, 1)
	}, func(c *checkout.Config) { c.Log = zap.New(core) })
}

func TestStreamsOutliveAnAbsentDatabase(t *testing.T) {
	t.Parallel()
	core, logs := observer.New(zap.WarnLevel)
	bubble(t, func(t *testing.T, w *world) {
		w.store.confirm(payment, secret)
		r := w.listen(secret)
		defer r.close()
		pass(time.Second)
		w.store.setAway(true)
		w.store.tell(failing("fl_1", "insufficient_funds"))
		late := w.listen("pi_2_secret_b")
		defer late.close()
		pass(8 * time.Second) // less than a heartbeat, which would heal the rest
		require.Empty(t, r.all())
		require.False(t, r.over())
		require.Equal(t, 1, logs.Len(), "the same failure is logged once")

		w.store.setAway(false)
		s := failing("fl_2", "insufficient_funds")
		s.PaymentID = "pi_2"
		w.store.set(s)
		w.store.confirm(s.Key, "pi_2_secret_b")
		pass(500 * time.Millisecond)
		require.Len(t, r.all(), 1)
		require.Len(t, late.all(), 1)
		pass(500 * time.Millisecond)
		require.Len(t, w.store.shown, 2)
	}, func(c *checkout.Config) { c.Log = zap.New(core) })
}

func TestNoLogLineHoldsASecretOrAHiddenReason(t *testing.T) {
	t.Parallel()
	core, logs := observer.New(zap.DebugLevel)
	bubble(t, func(t *testing.T, w *world) {
		w.store.confirm(payment, "pi_1_secret_KEEPME")
		w.store.set(failing("fl_1", "stolen_card"))
		r, wrong := w.listen("pi_1_secret_KEEPME"), w.listen("pi_1_secret_KEEPMETOO")
		pass(time.Second)
		require.Len(t, r.all(), 1)
		r.close()
		wrong.close()
		pass(time.Second)
		require.Len(t, logs.FilterMessage("checkout.ended").All(), 2)
		require.Len(t, logs.FilterMessage("checkout.sent").All(), 1)
		for _, line := range logs.All() {
			text := fmt.Sprint(line.Message, line.ContextMap())
			require.NotContains(t, text, "KEEPME")
			require.NotContains(t, text, "stolen")
		}
	}, func(c *checkout.Config) { c.Log = zap.New(core) })
}

func TestWhatNobodyNotifiedIsFoundInTime(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, w *world) {
		w.store.confirm(payment, secret)
		w.store.set(checkout.State{Key: payment, Status: "pending"})
		r := w.listen(secret)
		defer r.close()
		pass(100 * time.Millisecond)
		// Its transaction looked for streams before ours had its row.
		w.store.set(failing("fl_1", "insufficient_funds"))
		pass(time.Second)
		require.Len(t, r.all(), 1)

		w.store.set(failing("fl_2", "insufficient_funds"))
		w.store.onListen() // the listener's connection was lost, and with it a notification
		synctest.Wait()
		require.Len(t, r.all(), 2)

		w.store.set(failing("fl_3", "insufficient_funds"))
		pass(10 * time.Second)
		require.Len(t, r.all(), 3, "the heartbeat heals everything else")
	})
}

// A disk that stalls may keep a transaction for as long as the recorder waits for it.
func TestWhatATransactionOfSecondsDidNotNotifyIsFoundInTime(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, w *world) {
		w.store.confirm(payment, secret)
		w.store.set(checkout.State{Key: payment, Status: "pending"})
		r := w.listen(secret)
		defer r.close()
		pass(3900 * time.Millisecond)
		w.store.set(failing("fl_1", "insufficient_funds"))
		pass(1200 * time.Millisecond)
		require.Len(t, r.all(), 1)
	})
}

func TestARowThatWasSweptComesBackWithTheNextHeartbeat(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, w *world) {
		w.store.confirm(payment, secret)
		r := w.listen(secret)
		pass(time.Second)
		require.NoError(t, w.store.call(func() { clear(w.store.rows) }))
		pass(10 * time.Second)
		require.Equal(t, 1, w.store.presence())
		r.close()
		pass(time.Second)
		require.Zero(t, w.store.presence())
	})
}

func codeOf(t *testing.T, e event) string {
	t.Helper()
	var data struct{ Code string }
	require.NoError(t, json.Unmarshal([]byte(e.Data), &data))
	return data.Code
}

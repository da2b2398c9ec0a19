package webhook

import (
	"errors"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics counts what comes through the door. Every label has a fixed set of values: a sender cannot mint series.
type metrics struct {
	deliveries *prometheus.CounterVec   // source, type, result
	duration   *prometheus.HistogramVec // source
	secrets    *prometheus.CounterVec   // source, secret: its place in the configured list
	misfits    *prometheus.CounterVec   // source, field
	masked     *prometheus.CounterVec   // source
}

// newMetrics registers with reg, or finds what another endpoint has registered there before. A nil reg counts unseen.
func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	if reg == nil {
		reg = prometheus.NewRegistry()
	}
	m := &metrics{
		deliveries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rebound_webhook_deliveries_total", Help: "Webhook requests by what became of them.",
		}, []string{"source", "type", "result"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "rebound_webhook_duration_seconds", Help: "Time from a request's header to its answer.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5},
		}, []string{"source"}),
		secrets: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rebound_webhook_secret_used_total", Help: "Verified requests by which signing secret verified them, counted from 1.",
		}, []string{"source", "secret"}),
		misfits: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rebound_misfit_fields_total", Help: "Fields of the wrong kind, left empty.",
		}, []string{"source", "field"}),
		masked: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rebound_masked_card_numbers_total", Help: "Card numbers found in an event's texts, and masked.",
		}, []string{"source"}),
	}
	return m, errors.Join(
		register(reg, &m.deliveries), register(reg, &m.duration), register(reg, &m.secrets), register(reg, &m.misfits),
		register(reg, &m.masked),
	)
}

func register[C prometheus.Collector](reg prometheus.Registerer, c *C) error {
	var again prometheus.AlreadyRegisteredError
	switch err := reg.Register(*c); {
	case errors.As(err, &again):
		if existing, ok := again.ExistingCollector.(C); ok {
			*c = existing
			return nil
		}
		return err
	default:
		return err
	}
}

func (m *metrics) decoded(source string, secret int, out Outcome) {
	m.secrets.WithLabelValues(source, strconv.Itoa(secret+1)).Inc()
	for _, field := range out.Misfits {
		m.misfits.WithLabelValues(source, field).Inc()
	}
	if out.Masked > 0 {
		m.masked.WithLabelValues(source).Add(float64(out.Masked))
	}
}

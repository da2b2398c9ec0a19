package checkout_test

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"rebound/notify/checkout"
)

func TestOnlyABearerOfTheRightFormOpensAStream(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, w *world) {
		for name, headers := range map[string][]string{
			"none":                 {},
			"empty":                {"Authorization", "Bearer "},
			"another scheme":       {"Authorization", "Basic " + secret},
			"no scheme":            {"Authorization", secret},
			"a setup intent's":     {"Authorization", "Bearer seti_1_secret_a"},
			"no secret part":       {"Authorization", "Bearer pi_1_secret_"},
			"no intent":            {"Authorization", "Bearer pi__secret_"},
			"an intent alone":      {"Authorization", "Bearer pi_1"},
			"two words":            {"Authorization", "Bearer " + secret + " x"},
			"odd bytes":            {"Authorization", "Bearer pi_1_secret_a%00"},
			"too long":             {"Authorization", "Bearer pi_1_secret_" + strings.Repeat("a", 300)},
			"two of them":          {"Authorization", "Bearer " + secret, "Authorization", "Bearer pi_2_secret_a"},
			"from an allowed page": {"Origin", shopOrigin},
		} {
			res := w.request(http.MethodGet, checkout.EventsPath+"?client_secret="+secret, headers...)
			body, err := io.ReadAll(res.Body)
			require.NoError(t, err)
			require.Equal(t, http.StatusUnauthorized, res.StatusCode, name)
			require.Equal(t, `{"type":"about:blank","title":"Unauthorized","status":401}`, string(body), name)
			require.Equal(t, "application/problem+json", res.Header.Get("Content-Type"), name)
			require.Equal(t, `Bearer realm="checkout"`, res.Header.Get("WWW-Authenticate"), name)
			require.Equal(t, []string{"Origin"}, res.Header.Values("Vary"), name)
			if len(headers) > 0 && headers[0] == "Origin" {
				require.Equal(t, shopOrigin, res.Header.Get("Access-Control-Allow-Origin"))
			}
		}
		w.request(http.MethodGet, checkout.EventsPath, "Authorization", "bearer "+secret).Body.Close()
	})
}

func TestOnlyListedOriginsGetAnAnswer(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, w *world) {
		for _, path := range []string{checkout.EventsPath, checkout.ScriptPath} {
			for _, method := range []string{http.MethodGet, http.MethodOptions} {
				for _, origin := range []string{"https://evil.example", "null", "http://shop.example", "https://shop.example:444", "https://shop.example.evil.example"} {
					res := w.request(method, path, "Origin", origin, "Authorization", "Bearer "+secret, "Access-Control-Request-Method", "GET")
					require.Equal(t, http.StatusForbidden, res.StatusCode, "%s %s from %s", method, path, origin)
					require.Empty(t, res.Header.Get("Access-Control-Allow-Origin"))
					require.Equal(t, "Origin", res.Header.Get("Vary"))
					require.NoError(t, res.Body.Close())
				}
			}
			res := w.request(http.MethodOptions, path, "Origin", shopOrigin, "Access-Control-Request-Method", "GET", "Access-Control-Request-Headers", "authorization,last-event-id")
			require.Equal(t, http.StatusNoContent, res.StatusCode)
			require.Equal(t, shopOrigin, res.Header.Get("Access-Control-Allow-Origin"))
			require.Equal(t, "GET", res.Header.Get("Access-Control-Allow-Methods"))
			require.Contains(t, res.Header.Get("Access-Control-Allow-Headers"), "Authorization")
			require.Contains(t, res.Header.Get("Access-Control-Allow-Headers"), "Last-Event-ID")
			require.Empty(t, res.Header.Get("Access-Control-Allow-Credentials"))
		}
		r := w.listen(secret, "Origin", shopOrigin)
		defer r.close()
		require.Equal(t, shopOrigin, r.res.Header.Get("Access-Control-Allow-Origin"))
		unconfirmed, _ := w.hub.Open()
		require.Equal(t, 1, unconfirmed, "a page that is not listed opens nothing")
	})
}

func TestTheModuleIsServedOnceAndRevalidated(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, w *world) {
		res := w.request(http.MethodGet, checkout.ScriptPath, "Origin", shopOrigin)
		require.Equal(t, http.StatusOK, res.StatusCode)
		require.Equal(t, "text/javascript; charset=utf-8", res.Header.Get("Content-Type"))
		require.Equal(t, shopOrigin, res.Header.Get("Access-Control-Allow-Origin"))
		require.Contains(t, res.Header.Get("Cache-Control"), "max-age=")
		body, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		require.Contains(t, string(body), "export async function listen(")
		require.NotContains(t, string(body), "innerHTML")

		again := w.request(http.MethodGet, checkout.ScriptPath, "Origin", shopOrigin, "If-None-Match", `"x", W/`+res.Header.Get("ETag"))
		require.Equal(t, http.StatusNotModified, again.StatusCode)
		require.Equal(t, shopOrigin, again.Header.Get("Access-Control-Allow-Origin"))
		pass(time.Millisecond)
	})
}

package console

import (
	_ "embed"
	"net/http"

	"github.com/labstack/echo/v4"
)

//go:embed openapi.json
var openAPIDocument []byte

// openAPI describes the API. Its text is written by hand; a test holds every route and answer against it.
func (s *server) openAPI(c echo.Context) error {
	return c.JSONBlob(http.StatusOK, openAPIDocument)
}

package store_test

import (
	"testing"

	"rebound/store/storetest"
)

func TestMain(m *testing.M) { storetest.Main(m) }

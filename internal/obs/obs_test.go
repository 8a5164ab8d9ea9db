package obs

import (
	"bytes"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestLogger(t *testing.T) {
	var b bytes.Buffer
	log, level, err := NewLogger(&b, "warn", "json")
	if err != nil {
		t.Fatal(err)
	}
	log.Info("hidden")
	if err := SetLevel(level, "info"); err != nil {
		t.Fatal(err)
	}
	log.Info("shown", "user", "u1")
	if got := b.String(); strings.Contains(got, "hidden") || !strings.Contains(got, `"msg":"shown","user":"u1"`) {
		t.Error(got)
	}
	if _, _, err := NewLogger(&b, "loud", "text"); err == nil {
		t.Error("an unknown level was accepted")
	}
	if _, _, err := NewLogger(&b, "info", "xml"); err == nil {
		t.Error("an unknown format was accepted")
	}
}

func TestMetrics(t *testing.T) {
	w := httptest.NewRecorder()
	MetricsHandler(NewRegistry("v1.2.3")).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	for _, want := range []string{`murder_build_info{`, `version="v1.2.3"`, "go_goroutines", "process_open_fds"} {
		if !strings.Contains(w.Body.String(), want) {
			t.Errorf("/metrics has no %s", want)
		}
	}
}

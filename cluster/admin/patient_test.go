package admin

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"testing"
	"time"

	"murder/internal/mbox"
)

// Whoever waits hears of it, and the answer has its own status all the same.
func TestPatient(t *testing.T) {
	t.Parallel()
	heard := make(chan int, 100)
	s := httptest.NewServer(patient(time.Millisecond, func(w http.ResponseWriter, r *http.Request) {
		for range 3 {
			select {
			case <-heard:
			case <-r.Context().Done():
				return
			}
		}
		writeError(w, mbox.ErrUnavailable)
	}))
	defer s.Close()
	c, err := NewClient(s.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{Got1xxResponse: func(code int, _ textproto.MIMEHeader) error {
		select {
		case heard <- code:
		default:
		}
		return nil
	}})
	var e *Error
	if err := c.Join(ctx, "token"); !errors.As(err, &e) || e.Code != http.StatusServiceUnavailable || e.Hint == "" {
		t.Errorf("got %v", err)
	}
}

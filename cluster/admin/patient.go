package admin

import (
	"net/http"
	"sync"
	"time"
)

// workEvery is how often a client that waits for a long answer hears that it is being worked on.
const workEvery = 3 * time.Second

// patient sends "102 Processing" from time to time until h begins to answer: a client can tell a long work
// from a node that hangs, and the status of the answer is still open.
func patient(every time.Duration, h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		done, ended := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(ended)
			tick := time.NewTicker(every)
			defer tick.Stop()
			for {
				select {
				case <-tick.C:
					w.WriteHeader(http.StatusProcessing)
				case <-done:
					return
				}
			}
		}()
		p := &patientWriter{w, sync.OnceFunc(func() { close(done); <-ended })}
		defer p.begin()
		h(p, r)
	}
}

// patientWriter ends the signs of work before the first part of the answer.
type patientWriter struct {
	http.ResponseWriter
	begin func()
}

func (w *patientWriter) Header() http.Header {
	w.begin()
	return w.ResponseWriter.Header()
}

func (w *patientWriter) WriteHeader(code int) {
	w.begin()
	w.ResponseWriter.WriteHeader(code)
}

func (w *patientWriter) Write(p []byte) (int, error) {
	w.begin()
	return w.ResponseWriter.Write(p)
}

// Unwrap is for http.ResponseController.
func (w *patientWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

package lb

import (
	"encoding/json"
	"errors"
	"net/http"
)

// AdminHandler shows the state of every backend as JSON (GET /), and drains and undrains (POST /drain?id=, POST
// /undrain?id=) when auth allows the request. A nil auth refuses all changes. Draining by HTTP returns at once; watch
// in_flight. Mount it with http.StripPrefix, and on loopback or behind authorisation: it names your servers.
func (b *Balancer) AdminHandler(auth func(*http.Request) bool) http.Handler {
	change := func(drained bool) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if auth == nil || !auth(r) {
				http.Error(w, "forbidden", http.StatusForbidden)
				return
			}
			_, err := b.setDrained(r.FormValue("id"), drained)
			switch {
			case errors.Is(err, ErrUnknownBackend):
				http.Error(w, "no such backend", http.StatusNotFound)
			case err != nil:
				http.Error(w, "failed", http.StatusInternalServerError)
			default:
				w.WriteHeader(http.StatusNoContent)
			}
		}
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		json.NewEncoder(w).Encode(b.Stats())
	})
	mux.Handle("POST /drain", change(true))
	mux.Handle("POST /undrain", change(false))
	protect := http.NewCrossOriginProtection()
	return protect.Handler(mux)
}

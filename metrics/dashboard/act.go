package dashboard

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"
)

// act carries out an action: POST with the form values "target" and "action", and the secret in X-Dashboard-Secret. It
// answers 204, 404 for what is not offered at present, and 409 with the error of Act.
func (d *Dashboard) act(w http.ResponseWriter, r *http.Request) {
	if d.o.Act == nil {
		http.NotFound(w, r)
		return
	}
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", "POST")
		http.Error(w, "POST an action here", http.StatusMethodNotAllowed)
		return
	}
	have, want := sha256.Sum256([]byte(r.Header.Get("X-Dashboard-Secret"))), sha256.Sum256([]byte(d.o.Secret))
	if subtle.ConstantTimeCompare(have[:], want[:]) != 1 {
		d.refuse(w, r, "the header X-Dashboard-Secret does not hold the secret of this run")
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, 4096)
	target, action := r.PostFormValue("target"), r.PostFormValue("action")
	if !d.offers(target, action) {
		http.Error(w, fmt.Sprintf("action %q is not offered for %q", action, target), http.StatusNotFound)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), time.Minute)
	defer cancel()
	err := errors.New("the action panicked")
	d.guard("Act", func() { err = d.o.Act(ctx, target, action) })
	if err != nil {
		http.Error(w, err.Error(), http.StatusConflict)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// offers reports whether the page shows the action at present.
func (d *Dashboard) offers(target, action string) bool {
	named := func(a Action) bool { return a.Name == action }
	if target == "" {
		return slices.ContainsFunc(d.actions(), named)
	}
	return slices.ContainsFunc(d.topology().Nodes, func(n Node) bool {
		return n.ID == target && slices.ContainsFunc(n.Actions, named)
	})
}

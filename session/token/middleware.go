package token

import (
	"context"
	"net/http"
	"strings"
)

type contextKey struct{}

// Middleware lets requests with a valid "Authorization: Bearer" token pass, with the claims in the context
// ([FromContext]); others get 401 with a WWW-Authenticate header (RFC 6750) that does not say why.
func (a *Authority) Middleware(next http.Handler) http.Handler {
	return bearer(next, func(ctx context.Context, t string, c *Claims) error {
		err := a.verify(t, c)
		if err != nil {
			_ = a.refused(ctx, c, err)
		}
		return err
	})
}

func bearer(next http.Handler, verify func(context.Context, string, *Claims) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		auth := r.Header["Authorization"]
		if len(auth) == 1 && len(auth[0]) > 7 && strings.EqualFold(auth[0][:7], "Bearer ") {
			var c Claims
			if verify(r.Context(), strings.TrimSpace(auth[0][7:]), &c) == nil {
				next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), contextKey{}, c)))
				return
			}
			w.Header().Set("WWW-Authenticate", `Bearer error="invalid_token"`)
		} else {
			w.Header().Set("WWW-Authenticate", "Bearer")
		}
		http.Error(w, "unauthorized", http.StatusUnauthorized)
	})
}

// FromContext returns the claims that Middleware verified.
func FromContext(ctx context.Context) (Claims, bool) {
	c, ok := ctx.Value(contextKey{}).(Claims)
	return c, ok
}

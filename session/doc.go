// Package session lets any web server answer any user: what is known about a visitor stands in a store that all servers share, not in the memory of one.
//
// The cookie carries 256 random bits; the store knows only their SHA-256. Data is typed. An update is a compare-and-swap that is
// run again on conflict, so parallel requests lose nothing, and it exists only as long as the session does, so a slow
// request cannot bring back a session that was logged out. A request that does not use its session does not touch the store.
//
//	type Visitor struct{ Name string; Cart []string }
//
//	func main() {
//		sessions, err := session.New[Visitor](session.NewMemory(), session.Options{})
//		if err != nil {
//			log.Fatal(err)
//		}
//		mux := http.NewServeMux()
//		mux.HandleFunc("POST /login", func(w http.ResponseWriter, r *http.Request) {
//			s := sessions.From(r.Context())
//			if err := s.Login(r.Context(), "ada", func(v *Visitor) error { v.Name = "Ada"; return nil }); err != nil {
//				http.Error(w, "try again", http.StatusServiceUnavailable)
//			}
//		})
//		mux.HandleFunc("GET /", func(w http.ResponseWriter, r *http.Request) {
//			v, _ := sessions.From(r.Context()).Get(r.Context())
//			fmt.Fprintf(w, "hello %q", v.Name)
//		})
//		log.Fatal(http.ListenAndServe("localhost:8080", sessions.Middleware(mux)))
//	}
package session

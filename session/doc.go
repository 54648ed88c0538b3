// Package session lets any web server answer any user: what is known about a visitor stands in a store that all servers
// share, not in the memory of one.
//
// The cookie carries 256 random bits; the store knows only their SHA-256. Data is typed. An update is a
// compare-and-swap that is run again on conflict, so parallel requests lose nothing, and it exists only as long as the
// session does, so a slow request cannot bring back a session that was logged out. A request that does not use its
// session does not touch the store.
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
//
// # Three ways to a stateless tier
//
// The login has to be somewhere: in one server's memory, with the balancer sending each visitor back to it; in a store
// that all servers ask; or in a signed token that the client brings along.
//
//	                         sticky: lb.Sticky     central: redisstore, sqlstore  token: session/token
//	a server is lost         visitors logged out   nobody notices                 nobody notices
//	the store is lost        -                     Options.OnFailure              access goes on
//	logout, revocation       at once               at once                        at expiry, or by Revocations
//	data                     any size              any size                       small, seen by the client
//	parallel changes         none lost             none lost                      there is nothing to change
//	load                     uneven                even                           even
//	a new server takes load  only of new visitors  at once                        at once
//	time per request         0.9 µs                17 µs, one trip (Redis)        0.34 µs, JWT 0.6 µs
//	the same elsewhere       scs, memory: 15 µs    scs: 60 µs, two trips          golang-jwt: 5.1 µs
//
// Measured with "go test -bench . ./session" in benchmarks/, idle timeouts on. Browsers: take the central store, and
// stickiness on top of it if at all, as an optimization that may fail. APIs and mobile apps: tokens, with a
// [github.com/tierkit/tierkit/session/token.Refresher] whose families stand in the same store.
//
// # Security
//
// By default: 256-bit ids, stored as their hash; a __Host- cookie, Secure, HttpOnly, SameSite=Lax; a new id at login
// without grace for the old one; idle and absolute timeouts (ASVS 5.0 V7.3); unsafe cross-origin requests refused;
// records bound to their id. Options.EncryptionKeys encrypts at rest, RequireCSRF adds form tokens, Hooks.Event tells
// monitoring.
package session

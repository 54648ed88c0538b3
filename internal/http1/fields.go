package http1

// Field is a header field that a proxy treats specially. All others are Other.
type Field uint8

// The fields of the table.
const (
	Other Field = iota
	Connection
	ContentLength
	Date
	Expect
	Forwarded
	Host
	HTTP2Settings
	IdempotencyKey
	KeepAlive
	ProxyAuthenticate
	ProxyAuthorization
	ProxyConnection
	TE
	Trailer
	TransferEncoding
	Upgrade
	XForwardedFor
	XForwardedHost
	XForwardedProto
	XForwardedOther // every other name that begins with X-Forwarded-
	XIdempotencyKey
	XRealIP
)

// Rule is what a proxy does with a field in one direction.
type Rule uint8

const (
	// Pass forwards the field as it is.
	Pass Rule = iota
	// Drop does not forward the field: it is meant for this hop (RFC 9110 section 7.6.1), or the proxy writes its own.
	Drop
	// Trusted forwards the field of a peer in TrustedProxies and drops that of all others: it says where the request
	// came from.
	Trusted
)

// rules is the table of header rules, one row per field and one column per direction. What names a field of the hop in
// Connection is dropped as well.
var rules = [...]struct {
	name     string // in lower case
	request  Rule   // from the client to the backend
	response Rule   // from the backend to the client, informational answers included
}{
	Other:              {"", Pass, Pass},
	Connection:         {"connection", Drop, Drop},
	ContentLength:      {"content-length", Drop, Pass}, // written anew where bytes are copied
	Date:               {"date", Pass, Pass},
	Expect:             {"expect", Drop, Pass}, // written anew when it is forwarded
	Forwarded:          {"forwarded", Trusted, Pass},
	Host:               {"host", Drop, Pass}, // the handler writes it from the request
	HTTP2Settings:      {"http2-settings", Drop, Pass},
	IdempotencyKey:     {"idempotency-key", Pass, Pass},
	KeepAlive:          {"keep-alive", Drop, Drop},
	ProxyAuthenticate:  {"proxy-authenticate", Drop, Drop},
	ProxyAuthorization: {"proxy-authorization", Drop, Pass},
	ProxyConnection:    {"proxy-connection", Drop, Drop},
	TE:                 {"te", Drop, Drop}, // written anew if it lists trailers
	Trailer:            {"trailer", Drop, Pass},
	TransferEncoding:   {"transfer-encoding", Drop, Drop},
	Upgrade:            {"upgrade", Drop, Drop}, // written anew when the connection switches
	XForwardedFor:      {"x-forwarded-for", Drop, Pass},
	XForwardedHost:     {"x-forwarded-host", Drop, Pass},
	XForwardedProto:    {"x-forwarded-proto", Drop, Pass},
	XForwardedOther:    {"x-forwarded-", Trusted, Pass},
	XIdempotencyKey:    {"x-idempotency-key", Pass, Pass},
	XRealIP:            {"x-real-ip", Trusted, Pass},
}

// byLength lists the fields of the table by the length of their names. Most names have a length that no field has.
var byLength = func() (t [20][]Field) {
	for f, r := range rules {
		if Field(f) != Other && Field(f) != XForwardedOther {
			t[len(r.name)] = append(t[len(r.name)], Field(f))
		}
	}
	return t
}()

// FieldOf returns the field with this name, in whatever letter case.
func FieldOf[T string | []byte](name T) Field {
	if len(name) < len(byLength) {
		for _, f := range byLength[len(name)] {
			if equalFold(name, rules[f].name) {
				return f
			}
		}
	}
	const prefix = "x-forwarded-"
	if len(name) > len(prefix) && name[0]|0x20 == 'x' && equalFold(name[:len(prefix)], prefix) {
		return XForwardedOther
	}
	return Other
}

// InRequest returns the rule for f in a request.
func (f Field) InRequest() Rule { return rules[f].request }

// InResponse returns the rule for f in an answer.
func (f Field) InResponse() Rule { return rules[f].response }

// forwards reports whether a field with this rule goes on.
func (r Rule) forwards(trusted bool) bool { return r == Pass || r == Trusted && trusted }

// ForwardsRequest reports whether a proxy forwards a request's field of this name. trusted says that the peer is in
// TrustedProxies.
func ForwardsRequest(name string, trusted bool) bool {
	return FieldOf(name).InRequest().forwards(trusted)
}

// ForwardsResponse reports whether a proxy forwards an answer's field of this name.
func ForwardsResponse(name string) bool { return FieldOf(name).InResponse() == Pass }

// equalFold reports whether b equals s, which is in lower case, in whatever letter case.
func equalFold[T string | []byte](b T, s string) bool {
	if len(b) != len(s) {
		return false
	}
	for i := range len(b) {
		c := b[i]
		if c >= 'A' && c <= 'Z' {
			c |= 0x20
		}
		if c != s[i] {
			return false
		}
	}
	return true
}

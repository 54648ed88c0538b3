package lb

// field is what a header field means to a front.
type field uint8

const (
	fieldNone field = iota
	fieldHost
	fieldContentLength
	fieldTransferEncoding
	fieldConnection
	fieldUpgrade
	fieldExpect
	fieldTrailer
	fieldTE
	fieldIdempotencyKey
	fieldHop // dropped without a look
	fieldForwardedFor
	fieldForwardedHost
	fieldForwardedProto
	fieldForwardedOther
)

// knownField tells the fields apart that are not just copied; the length alone says no to most. The list is that of
// exchange.dropped.
func knownField(name []byte) field {
	is := func(s string, f field) field {
		if equalFold(name, s) {
			return f
		}
		return fieldNone
	}
	switch len(name) {
	case 2:
		return is("te", fieldTE)
	case 4:
		return is("host", fieldHost)
	case 6:
		return is("expect", fieldExpect)
	case 7:
		return max(is("upgrade", fieldUpgrade), is("trailer", fieldTrailer))
	case 9:
		return max(is("forwarded", fieldForwardedOther), is("x-real-ip", fieldForwardedOther))
	case 10:
		return max(is("connection", fieldConnection), is("keep-alive", fieldHop))
	}
	if len(name) < 14 {
		if len(name) == 13 {
			return forwardedOther(name)
		}
		return fieldNone
	}
	switch len(name) {
	case 14:
		if f := max(is("content-length", fieldContentLength), is("http2-settings", fieldHop)); f != fieldNone {
			return f
		}
	case 15:
		if f := max(is("x-forwarded-for", fieldForwardedFor),
			is("idempotency-key", fieldIdempotencyKey)); f != fieldNone {
			return f
		}
	case 16:
		if f := max(is("x-forwarded-host", fieldForwardedHost), is("proxy-connection", fieldHop)); f != fieldNone {
			return f
		}
	case 17:
		if f := max(is("transfer-encoding", fieldTransferEncoding), is("x-forwarded-proto", fieldForwardedProto),
			is("x-idempotency-key", fieldIdempotencyKey)); f != fieldNone {
			return f
		}
	case 18:
		if f := is("proxy-authenticate", fieldHop); f != fieldNone {
			return f
		}
	case 19:
		if f := is("proxy-authorization", fieldHop); f != fieldNone {
			return f
		}
	}
	return forwardedOther(name)
}

func forwardedOther(name []byte) field {
	if equalFold(name[:12], "x-forwarded-") {
		return fieldForwardedOther
	}
	return fieldNone
}

// equalFold compares with s, which is in lower case.
func equalFold(b []byte, s string) bool {
	if len(b) != len(s) {
		return false
	}
	for i, c := range b {
		if c >= 'A' && c <= 'Z' {
			c |= 0x20
		}
		if c != s[i] {
			return false
		}
	}
	return true
}

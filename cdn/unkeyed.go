package cdn

import (
	"net/http"
	"strings"
)

// Fields that make many origins answer something else, although they are part of no key: with one of them a single
// request could shape the answer that all others get (cache poisoning, Kettle 2018; denial of service by cached errors,
// Nguyen et al. 2019).

// isForwarding is whether a field claims where a request came from or what was really asked for.
func isForwarding(k string) bool {
	if strings.HasPrefix(k, "X-Forwarded") || strings.HasPrefix(k, "X-Original-") ||
		strings.HasPrefix(k, "X-Rewrite-") {
		return true
	}
	switch k {
	case "Forwarded", "X-Real-Ip", "X-Host", "X-Http-Host-Override", "X-Url-Scheme", "X-Scheme", "Front-End-Https",
		"X-Client-Ip", "True-Client-Ip", "Cf-Connecting-Ip",
		"X-Cluster-Client-Ip":
		return true
	}
	return false
}

// isOverride is whether a field changes the method.
func isOverride(k string) bool {
	return k == "X-Http-Method-Override" || k == "X-Http-Method" || k == "X-Method-Override"
}

// dropUnkeyed takes them out of a fill's request for a handler.
func (c *Cache) dropUnkeyed(h http.Header) {
	for k := range h {
		if (isForwarding(k) || isOverride(k)) && !c.unkeyed[k] {
			delete(h, k)
		}
	}
}

// blamesRequest is whether an error may be the fault of this one request, whose header is larger than browsers make it:
// an origin that refuses it would be cached as broken for everybody.
func blamesRequest(status int, h http.Header) bool {
	if status < 400 {
		return false
	}
	n := 0
	for k, vs := range h {
		for _, v := range vs {
			n += len(k) + len(v) + 4
		}
	}
	return n > 4<<10
}

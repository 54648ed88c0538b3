package front

import (
	"fmt"
	"log"
	"time"

	"github.com/tierkit/tierkit/lb"
)

// Options configure a [Server]. The zero value of every field is a good default; negative switches a limit off.
type Options struct {
	// Proxy holds what the server has in common with lb.Handler.
	Proxy lb.ProxyOptions
	// HeaderTimeout bounds the time from a request's first byte to the end of its head. Zero means 10 s.
	HeaderTimeout time.Duration
	// IdleTimeout bounds the time between two requests of a connection. Zero means 2 minutes.
	IdleTimeout time.Duration
	// MaxHeaderBytes bounds the head of a request; a larger one is answered with 431. Zero means 64 KiB; negative is
	// an error.
	MaxHeaderBytes int
	// ErrorLog gets panics and the errors of the http.Server behind. Nil means the log package's logger.
	ErrorLog *log.Logger
}

func (o Options) withDefaults() (Options, error) {
	if o.MaxHeaderBytes < 0 {
		return o, fmt.Errorf("front: Options.MaxHeaderBytes %d: want 0 or more", o.MaxHeaderBytes)
	}
	if o.MaxHeaderBytes == 0 {
		o.MaxHeaderBytes = 64 << 10
	}
	if o.HeaderTimeout == 0 {
		o.HeaderTimeout = 10 * time.Second
	}
	if o.IdleTimeout == 0 {
		o.IdleTimeout = 2 * time.Minute
	}
	return o, nil
}

// Stats are the counters of a [Server].
type Stats struct {
	Connections int64  `metric:"front_connections,gauge,Client connections that the front holds itself"`
	Requests    uint64 `metric:"front_requests_total,counter,Requests that the front forwarded itself"`
	HandedOver  uint64 `metric:"front_handed_over_total,counter,Requests and connections that net/http got"`
	Refused     uint64 `metric:"front_refused_total,counter,Malformed requests"`
	Expired     uint64 `metric:"front_expired_total,counter,Connections and requests ended by a limit of time"`
}

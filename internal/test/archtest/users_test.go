package archtest

// core lists the packages that a service imports on their own.
var core = []string{"lb", "autoscale", "cache", "cdn", "geodns", "metrics", "queue", "replica", "session",
	"session/token", "shard"}

// olderClients are clients that a service may already have, in a version older than ours, with the adapter that needs
// them.
var olderClients = []struct{ module, version, imports, adapter string }{
	{"github.com/redis/go-redis/v9", "v9.7.0", "github.com/redis/go-redis/v9", "session/redisstore"},
	{"github.com/nats-io/nats.go", "v1.37.0", "github.com/nats-io/nats.go", "queue/jetstream"},
	{"github.com/miekg/dns", "v1.1.62", "github.com/miekg/dns", "geodns"},
	{"github.com/prometheus/client_golang", "v1.20.5", "github.com/prometheus/client_golang/prometheus", "metrics"},
}

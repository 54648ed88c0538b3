// Command coredns is CoreDNS with the few plugins that the comparison needs. It is a module of its own: CoreDNS pins
// many modules that nothing else here wants.
package main

import (
	"github.com/coredns/coredns/coremain"

	_ "github.com/coredns/coredns/core/dnsserver"
	_ "github.com/coredns/coredns/plugin/bind"
	_ "github.com/coredns/coredns/plugin/file"
	_ "github.com/coredns/coredns/plugin/geoip"
	_ "github.com/coredns/coredns/plugin/metadata"
	_ "github.com/coredns/coredns/plugin/view"
)

func main() { coremain.Run() }

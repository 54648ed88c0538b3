package archtest

// core lists the packages that a service imports on their own.
var core = []string{}

// olderClients are clients that a service may already have, in a version older than ours.
var olderClients = []struct{ module, version, imports, adapter string }{}

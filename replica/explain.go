package replica

// class returns what is known of a query text.
func (c *Cluster) class(query string) *classEntry {
	v := c.version()
	if e := c.classes.get(query, v); e != nil {
		return e
	}
	c.n.classMisses.Add(1)
	e := &classEntry{query: query, verdict: c.dialect.Classify(query), version: v}
	c.classes.put(e)
	return e
}

// Explanation says where a statement goes and why.
type Explanation struct {
	Class  Class
	Reason string
	// Learned: the statement was once refused by a replica and goes to the primary since.
	Learned bool
	// Nodes it may run on now, the usual first choice first.
	Nodes []string
}

// Explain says where a statement would go without a session or override.
func (c *Cluster) Explain(query string) Explanation {
	e := c.class(query)
	x := Explanation{Class: e.verdict.Class, Reason: e.verdict.Reason, Learned: e.learned}
	t := c.topo.Load()
	if x.Class == ClassRead {
		for i := range t.readable {
			x.Nodes = append(x.Nodes, t.readable[i].node.Name)
		}
	}
	if len(x.Nodes) == 0 && t.primary != nil {
		x.Nodes = []string{t.primary.Name}
	}
	return x
}

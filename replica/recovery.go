package replica

import (
	"fmt"
	"strings"
)

// RecoveryPlan is what to do on the host of a lost or diverged node; it is printed, never run.
type RecoveryPlan struct {
	Node string
	// Diverged is the position up to which the node and the present primary share their history.
	Diverged Position
	// LossBytes is how much the node is known to hold beyond that.
	LossBytes int64
	// Steps in order, commands for the database host's shell.
	Steps []RecoveryStep
}

// RecoveryStep is one command with the reason for it.
type RecoveryStep struct {
	Why, Command string
	// Fallback steps are for when the step before failed.
	Fallback bool
}

// String prints the plan as a commented shell script.
func (p RecoveryPlan) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# Bring %s back as a replica. It holds %d bytes of log that the present primary does not have.\n# Run on its host as the database's user, with PGDATA, PGPORT and PATH set for it.\n", p.Node, p.LossBytes)
	for _, s := range p.Steps {
		mark := ""
		if s.Fallback {
			mark = "# "
		}
		fmt.Fprintf(&b, "\n# %s\n%s%s\n", s.Why, mark, s.Command)
	}
	return b.String()
}

// RecoveryPlan returns the steps that bring a former primary back as a replica: export what only it has, then rewind
// it, else copy it anew. Printing is all it does. ErrUnknownNode when there is no such node.
func (c *Cluster) RecoveryPlan(node string) (RecoveryPlan, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := c.member(node)
	if m == nil {
		return RecoveryPlan{}, fmt.Errorf("%w: %s", ErrUnknownNode, node)
	}
	primary := c.topo.Load().primary
	if primary == nil {
		return RecoveryPlan{}, ErrNoPrimary
	}
	plan := RecoveryPlan{Node: node, Diverged: c.forked}
	if m.state.Replayed.Offset > c.forked.Offset && !c.forked.IsZero() {
		plan.LossBytes = int64(m.state.Replayed.Offset - c.forked.Offset)
	}
	if r, ok := c.dialect.(interface {
		recoverySteps(node, primary Node, diverged Position) []RecoveryStep
	}); ok {
		plan.Steps = r.recoverySteps(m.Node, primary.Node, plan.Diverged)
	}
	return plan, nil
}

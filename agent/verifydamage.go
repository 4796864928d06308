package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/tharsis-backup/tharsis/vault/backend"
	"github.com/tharsis-backup/tharsis/vault/key"
	"github.com/tharsis-backup/tharsis/vault/pack"
)

// bad reports a damaged or missing object.
func (c *verify) bad(name string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.damaged++
	if len(c.damage) < MaxDamageReports {
		c.damage = append(c.damage, Damage{Object: name, Text: damageText(err)})
	}
}

func damageText(err error) string {
	if errors.Is(err, backend.ErrNotFound) {
		return "missing"
	}
	return strings.TrimPrefix(err.Error(), key.ErrDamaged.Error()+": ")
}

// isFinding tells damage and absence, which a check reports, from errors that
// end it: those say nothing about the vault.
func isFinding(err error) bool {
	return errors.Is(err, key.ErrDamaged) || errors.Is(err, key.ErrNewer) || errors.Is(err, backend.ErrNotFound)
}

// found reports err if it is a finding, and returns it otherwise.
func (c *verify) found(name string, err error) error {
	if err == nil {
		return nil
	}
	if isFinding(err) {
		c.bad(name, err)
		return nil
	}
	return fmt.Errorf("check %s: %w", name, err)
}

// sweptBy is what becomes of what is damaged and needed by nothing.
const sweptBy = "nothing needs it: agent prune removes it"

// reportPacks reports the packs that are not whole, once it is known whether
// anything needs them. A check of one point leaves out those in quarantine: what
// the point lacks by them is named, and else it has it from elsewhere.
func (c *verify) reportPacks(context.Context) error {
	type report struct {
		name string
		p    *packState
		held bool
	}
	var all []report
	for id, p := range c.packs {
		held := c.quarantined[id]
		quiet := held && (c.point != nil || c.mends && !p.needed)
		if p.wrong != nil && !quiet {
			all = append(all, report{pack.Name(id), p, held})
		}
	}
	slices.SortFunc(all, func(a, b report) int { return cmp.Compare(a.name, b.name) })
	before := c.damage
	c.damage = nil
	for _, r := range all {
		err := r.p.wrong
		switch {
		case r.held && r.p.needed:
			err = fmt.Errorf("%s; it is in quarantine", damageText(err))
		case r.held:
			err = fmt.Errorf("%s; it is in quarantine, %s", damageText(err), sweptBy)
			c.harmless++
		}
		c.bad(r.name, err)
	}
	c.damage = append(before, c.damage...)
	slices.SortStableFunc(c.damage, func(a, b Damage) int { return cmp.Compare(damageRank(a), damageRank(b)) })
	c.damage = c.damage[:min(len(c.damage), MaxDamageReports)]
	return nil
}

// damageRank sorts objects before what they hurt.
func damageRank(d Damage) int {
	if d.Object != "" {
		return 0
	}
	return 1
}

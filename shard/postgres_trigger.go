package shard

import (
	"context"
	"database/sql"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
)

// guarded is what the guards of a shard's tables know of the slots when they are written.
type guarded struct {
	bits  bitmap // slots that are not simply owned, or of which a key is pinned elsewhere
	quick bitmap // of these, slots of tk_quick
	busy  bool   // some of them have rows here, or a pinned key's name
	pins  bool
}

// bitmap has a bit for each slot up to the last one of the shard.
type bitmap []byte

func (b *bitmap) set(s Slot, on bool) {
	for len(*b) <= int(s)/8 {
		*b = append(*b, 0)
	}
	if on {
		(*b)[s/8] |= 1 << (s % 8)
	}
}

// test is a condition: the slot has this bit. It is false of slots beyond the bitmap and of NULL.
func (b bitmap) test(slot string, bit int) string {
	return fmt.Sprintf(`(case when %s between 0 and %d then get_bit('\x%s'::bytea, %s) = %d else false end)`, slot,
		8*len(b)-1, hex.EncodeToString(b), slot, bit)
}

func guardedSlots(ctx context.Context, tx *sql.Tx) (g guarded, err error) {
	rows, err := tx.QueryContext(ctx, `select slot, state, exists (select 1 from tk_quick q where q.slot = s.slot) and not exists (select 1 from tk_pin where hashed = s.slot) from tk_slot s
union all select hashed, 'pin', false from tk_pin`)
	return g, each(rows, err, func() error {
		var s Slot
		var state string
		var quick bool
		if err := rows.Scan(&s, &state, &quick); err != nil {
			return err
		}
		g.bits.set(s, state != stateOwned)
		if quick && state == stateCapture {
			g.quick.set(s, true)
		}
		g.busy = g.busy || state != stateOwned && state != stateGone
		g.pins = g.pins || state == "pin"
		return nil
	})
}

type guardBody struct{ event, body string }

// bodies are the functions of a table's triggers. What most writes do comes first, with as few expressions as possible:
// plpgsql sets up each of them once per transaction.
func (g guarded) bodies(t *tableInfo, schema string) []guardBody {
	old, new := "old."+quote(t.SlotColumn), "new."+quote(t.SlotColumn)
	same := []string{old + ` = ` + new}
	for _, k := range append(slices.Clone(t.keys), t.by...) {
		if c := `old.` + quote(k.name) + ` is not distinct from new.` + quote(k.name); !slices.Contains(same, c) {
			same = append(same, c)
		}
	}
	unchanged := strings.Join(same, " and ")
	// Rows of slots that stay, then those of slots in tk_quick: the mover itself writes none of these.
	pass := func(record, condition, quickly string) string {
		open := condition + g.bits.test(record+"."+quote(t.SlotColumn), 0)
		const mover = `current_setting('tk.mover', true) = '1'`
		if quickly == "" {
			return `if ` + open + ` or ` + mover + ` then return ` + record + `; end if;
`
		}
		return `if ` + open + ` then return ` + record + `; end if;
` + quickly + `if ` + mover + ` then return ` + record + `; end if;
`
	}
	return []guardBody{
		{"insert", pass("new", "", g.quickly(t, schema, "new", "")) + g.check(t, schema, "new") + ` return new;`},
		{"update", pass("new", old+` = `+new+` and `, g.quickly(t, schema, "new", ` and `+unchanged)) +
			`if not (` + unchanged + `) then ` + g.check(t, schema, "old") + ` end if; ` + g.check(t, schema, "new") +
			` return new;`},
		{"reslot", pass("new", "", "") + g.check(t, schema, "new") + ` return new;`},
		{"delete", pass("old", "", g.quickly(t, schema, "old", "")) + g.check(t, schema, "old") + ` return old;`},
	}
}

// note is an INSERT up to where its values come from.
func (g guarded) note(t *tableInfo, schema, record, slot string) string {
	return `insert into ` + schema + `.tk_dirty (tbl, slot, pk) select ` + literal(t.Name) + `, ` + slot +
		`, jsonb_build_array(` + names(t.keys, func(c string) string {
		return record + "." + c
	}) + `)`
}

// quickly notes the key of a row whose slot is in tk_quick and asks nothing.
func (g guarded) quickly(t *tableInfo, schema, record, condition string) string {
	if len(g.quick) == 0 {
		return ""
	}
	slot := record + "." + quote(t.SlotColumn)
	return `if ` + g.quick.test(slot, 1) + condition + ` then
  ` + g.note(t, schema, record, slot) + `;
  return ` + record + `;
end if;
`
}

// check locks the slot's state and notes the key, in one statement, or refuses the row.
func (g guarded) check(t *tableInfo, schema, record string) string {
	slot := record + "." + quote(t.SlotColumn)
	pinned := ""
	if g.pins {
		by := names(t.by, func(c string) string { return "to_jsonb(" + record + "." + c + ") #>> '{}'" })
		pinned = `if exists (select 1 from ` + schema + `.tk_pin p where p.hashed = ` + slot + ` and p.by = jsonb_build_array(` + by + `)) then
  raise exception 'tierkit: the key is pinned and not in slot % any more', ` + slot + ` using errcode = '55006';
end if;
`
	}
	return pinned + g.note(t, schema, record, "s.slot") + `
  from (select slot from ` + schema + `.tk_slot where slot = ` + slot + ` and state = 'capture' for share) s;
if not found then
  select state into st from ` + schema + `.tk_slot where slot = ` + slot + ` for share;
  if st is null or st <> 'owned' then
    raise exception 'tierkit: slot % is %', ` + slot + `, coalesce(st, 'unknown') using errcode = '55006';
  end if;
end if;
`
}

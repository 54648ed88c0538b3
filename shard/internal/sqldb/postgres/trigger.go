package postgres

import (
	"context"
	"database/sql"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/tierkit/tierkit/shard/internal/sqldb"
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

func (b *bitmap) set(s sqldb.Slot, on bool) {
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

const selectGuarded = `
select slot, state,
  exists (select 1 from tk_quick q where q.slot = s.slot)
  and not exists (select 1 from tk_pin where hashed = s.slot)
from tk_slot s
union all
select hashed, 'pin', false
from tk_pin`

func guardedSlots(ctx context.Context, tx *sql.Tx) (g guarded, err error) {
	rows, err := tx.QueryContext(ctx, selectGuarded)
	err = sqldb.Each(rows, err, func() error {
		var s sqldb.Slot
		var state sqldb.SlotState
		var quick bool
		if err := rows.Scan(&s, &state, &quick); err != nil {
			return err
		}
		g.bits.set(s, state != sqldb.Owned)
		if quick && state == sqldb.Capture {
			g.quick.set(s, true)
		}
		g.busy = g.busy || state != sqldb.Owned && state != sqldb.Gone
		g.pins = g.pins || state == "pin"
		return nil
	})
	return g, err
}

type guardBody struct{ event, body string }

// bodies are the functions of a table's triggers. What most writes do comes first, with as few expressions as possible:
// plpgsql sets up each of them once per transaction.
func (g guarded) bodies(t *sqldb.Table, schema string) []guardBody {
	old, new := "old."+sqldb.Quote(t.SlotColumn), "new."+sqldb.Quote(t.SlotColumn)
	same := []string{old + ` = ` + new}
	for _, k := range append(slices.Clone(t.Keys), t.Bys...) {
		c := `old.` + sqldb.Quote(k.Name) + ` is not distinct from new.` + sqldb.Quote(k.Name)
		if !slices.Contains(same, c) {
			same = append(same, c)
		}
	}
	unchanged := strings.Join(same, " and ")
	return []guardBody{
		{"insert", g.pass(t, "new", "", g.noteQuickly(t, schema, "new", "")) +
			g.check(t, schema, "new") + ` return new;`},
		{"update", g.pass(t, "new", old+` = `+new+` and `, g.noteQuickly(t, schema, "new", ` and `+unchanged)) +
			`if not (` + unchanged + `) then ` + g.check(t, schema, "old") + ` end if; ` +
			g.check(t, schema, "new") + ` return new;`},
		{"reslot", g.pass(t, "new", "", "") + g.check(t, schema, "new") + ` return new;`},
		{"delete", g.pass(t, "old", "", g.noteQuickly(t, schema, "old", "")) +
			g.check(t, schema, "old") + ` return old;`},
	}
}

const (
	isMover = `current_setting('tk.mover', true) = '1'`

	passOpenOrMover = `if {open} or ` + isMover + ` then
  return {record};
end if;
`
	passOpen = `if {open} then
  return {record};
end if;
{quickly}if ` + isMover + ` then
  return {record};
end if;
`
	noteKey = `insert into {schema}.tk_dirty (tbl, slot, pk)
  select {table}, {slot}, jsonb_build_array({keys})`

	noteAndReturn = `if {quick}{condition} then
  {note};
  return {record};
end if;
`
	refusePinned = `if exists (
  select 1
  from {schema}.tk_pin p
  where p.hashed = {slot}
  and p.by = jsonb_build_array({by})
) then
  raise exception 'tierkit: the key is pinned and not in slot % any more', {slot} using errcode = '55006';
end if;
`
	noteOrRefuse = `{note}
  from (select slot from {schema}.tk_slot where slot = {slot} and state = 'capture' for share) s;
if not found then
  select state into st from {schema}.tk_slot where slot = {slot} for share;
  if st is null or st <> 'owned' then
    raise exception 'tierkit: slot % is %', {slot}, coalesce(st, 'unknown') using errcode = '55006';
  end if;
end if;
`
)

// pass returns at once for rows of slots that stay, then for those of slots in tk_quick, which the mover itself does
// not write, and then for the mover.
func (g guarded) pass(t *sqldb.Table, record, condition, quickly string) string {
	open := condition + g.bits.test(record+"."+sqldb.Quote(t.SlotColumn), 0)
	if quickly == "" {
		return sqldb.Fill(passOpenOrMover, "open", open, "record", record)
	}
	return sqldb.Fill(passOpen, "open", open, "record", record, "quickly", quickly)
}

// note is an INSERT up to where its values come from.
func note(t *sqldb.Table, schema, record, slot string) string {
	keys := sqldb.Names(t.Keys, func(c string) string { return record + "." + c })
	return sqldb.Fill(noteKey, "schema", schema, "table", sqldb.Literal(t.Name), "slot", slot, "keys", keys)
}

// noteQuickly notes the key of a row whose slot is in tk_quick, and reads nothing.
func (g guarded) noteQuickly(t *sqldb.Table, schema, record, condition string) string {
	if len(g.quick) == 0 {
		return ""
	}
	slot := record + "." + sqldb.Quote(t.SlotColumn)
	return sqldb.Fill(noteAndReturn, "quick", g.quick.test(slot, 1), "condition", condition, "note",
		note(t, schema, record, slot), "record", record)
}

// check locks the slot's state and notes the key, in one statement, or refuses the row.
func (g guarded) check(t *sqldb.Table, schema, record string) string {
	slot := record + "." + sqldb.Quote(t.SlotColumn)
	pinned := ""
	if g.pins {
		by := sqldb.Names(t.Bys, func(c string) string { return "to_jsonb(" + record + "." + c + ") #>> '{}'" })
		pinned = sqldb.Fill(refusePinned, "schema", schema, "slot", slot, "by", by)
	}
	return pinned + sqldb.Fill(noteOrRefuse, "note", note(t, schema, record, "s.slot"), "schema", schema, "slot", slot)
}

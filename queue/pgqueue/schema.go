package pgqueue

import "strings"

// statements are the texts for one set of tables.
//
// A row is in one of these states:
//
//	ready                   deliverable, unless another of its key is before it or in flight
//	not ready, no token     waits for due
//	not ready, with token   leased until due
//	died                    a dead letter
type statements struct {
	schema, lockTopic, lockKeys, publish, addGroup, findGroup, adopt string
	wake, bury, drop, fetch, fetchOldest, next                       string
	ack, nack, term, release, extend                                 string
	lag, dead, redrive, purge, forget, peek, purgeAll                string
}

func newStatements(table string) statements {
	base := table[strings.IndexByte(table, '.')+1:]
	q := func(s string) string {
		return strings.NewReplacer("{q}", table, "{i}", base).Replace(s)
	}
	// busy: another message of the key comes first or is in a consumer's hands.
	const busy = `(m.key <> '' and exists (select from {q} o where o.grp = m.grp and o.key = m.key and o.key <> '' and o.died is null and o.seq <> m.seq
  and (o.seq < m.seq or o.token is not null)))`
	take := func(order string) string {
		return q(`with picked as (
  select m.grp, m.seq from {q} m where m.grp = $1 and m.ready and m.died is null and (m.expires is null or m.attempts > 0 or m.expires > now()) and not ` + busy + `
  order by ` + order + ` limit $2 for update of m skip locked)
update {q} m set ready = false, token = nextval('{q}_token'), due = now() + $3, attempts = m.attempts + 1
from picked p where m.grp = p.grp and m.seq = p.seq
returning m.seq, m.token, m.attempts, m.due, m.published, m.kind, m.id, m.key, m.priority, m.not_before, m.ttl, m.header, m.body`)
	}
	// settled rows are those whose lease is still the caller's.
	const mine = ` from unnest($2::bigint[], $3::bigint[]) as s(seq, token) where m.grp = $1 and m.seq = s.seq and m.token = s.token and m.died is null and m.due > now() returning m.seq`
	return statements{
		schema: q(`create sequence if not exists {q}_seq;
create sequence if not exists {q}_token;
create table if not exists {q} (
  grp int not null, -- of {i}_group; 0 while the topic has none
  seq bigint not null,
  topic text not null,
  ready bool not null,
  due timestamptz not null,
  token bigint,
  attempts int not null default 0,
  died timestamptz,
  reason text not null default '',
  published timestamptz not null,
  expires timestamptz,
  kind text not null, id text not null, key text not null, priority smallint not null,
  not_before timestamptz, ttl bigint not null,
  header text[] not null, body bytea not null,
  primary key (grp, seq)
);
create index if not exists {i}_ready on {q} (grp, priority desc, seq) where ready and died is null;
create index if not exists {i}_due on {q} (grp, due) where not ready and died is null;
create index if not exists {i}_key on {q} (grp, key, seq) where key <> '' and died is null;
create index if not exists {i}_expires on {q} (grp, expires) where expires is not null;
create index if not exists {i}_dead on {q} (grp, died) where died is not null;
create table if not exists {q}_group (id serial primary key, topic text not null, name text not null, unique (topic, name));
create table if not exists {q}_seen (topic text not null, id text not null, at timestamptz not null, primary key (topic, id));
create index if not exists {i}_seen_at on {q}_seen (at)`),
		lockTopic: `select pg_advisory_xact_lock_shared(k) from unnest($1::bigint[]) k`,
		lockKeys:  `select pg_advisory_xact_lock(k) from unnest($1::bigint[]) k`,
		publish: q(`with input as (
  select * from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::smallint[], $6::timestamptz[], $7::bigint[], $8::text[], $9::bytea[], $10::text[])
    with ordinality as i(topic, kind, id, key, priority, not_before, ttl, header, body, dedupe, ord) order by ord),
fresh as (
  insert into {q}_seen as s (topic, id, at) select topic, dedupe, now() from input where dedupe <> '' order by topic, dedupe
  on conflict (topic, id) do update set at = excluded.at where s.at < now() - $11::interval returning s.topic, s.id),
numbered as materialized (
  select nextval('{q}_seq') as seq, i.* from (select * from input i where dedupe = '' or exists (select from fresh f where f.topic = i.topic and f.id = i.dedupe) order by ord) i),
stored as (
  insert into {q} (grp, seq, topic, ready, due, published, expires, kind, id, key, priority, not_before, ttl, header, body)
  select coalesce(g.id, 0), n.seq, n.topic, coalesce(n.not_before <= now(), true), coalesce(n.not_before, now()), $12::timestamptz,
    case when n.ttl > 0 then $12::timestamptz + n.ttl * interval '1 microsecond' end, n.kind, n.id, n.key, n.priority, n.not_before, n.ttl, n.header::text[], n.body
  from numbered n left join {q}_group g on g.topic = n.topic)
select ord, seq from numbered`),
		findGroup: q(`select id, (select count(*) from {q}_group where topic = $1) from {q}_group where topic = $1 and name = $2`),
		addGroup:  q(`insert into {q}_group (topic, name) values ($1, $2) returning id, (select count(*) from {q}_group where topic = $1)`),
		adopt:     q(`update {q} set grp = $1 where grp = 0 and topic = $2`),

		// What is due becomes ready, except leases that were the last.
		bury: q(`with late as (select grp, seq from {q} where grp = $1 and not ready and died is null and due <= now() and token is not null and $2::int > 0 and attempts >= $2::int limit 1000 for update skip locked)
update {q} m set died = now(), token = null, reason = 'max deliveries' from late l where m.grp = l.grp and m.seq = l.seq`),
		wake: q(`with late as (select grp, seq from {q} where grp = $1 and not ready and died is null and due <= now() limit 1000 for update skip locked),
was as (select count(*) filter (where token is not null) as n from {q} m join late l using (grp, seq)),
up as (update {q} m set ready = true, token = null from late l where m.grp = l.grp and m.seq = l.seq)
select n from was`),
		drop:        q(`delete from {q} where (grp, seq) in (select grp, seq from {q} where grp = $1 and expires <= now() and attempts = 0 and died is null limit 1000 for update skip locked)`),
		fetch:       take("m.priority desc, m.seq"),
		fetchOldest: take("m.seq"),
		next:        q(`select coalesce(extract(epoch from min(due) - clock_timestamp()), -1)::float8 from {q} where grp = $1 and not ready and died is null`),

		ack: q(`delete from {q} m using unnest($2::bigint[], $3::bigint[]) as s(seq, token) where m.grp = $1 and m.seq = s.seq and m.token = s.token and m.died is null and m.due > now() returning m.seq`),
		nack: q(`update {q} m set token = null, ready = s.wait <= 0 and not s.last, due = now() + s.wait * interval '1 microsecond',
  died = case when s.last then now() end, reason = case when s.last then $6 else '' end
from unnest($2::bigint[], $3::bigint[], $4::bigint[], $5::bool[]) as s(seq, token, wait, last)
where m.grp = $1 and m.seq = s.seq and m.token = s.token and m.died is null and m.due > now() returning m.seq`),
		term:    q(`update {q} m set token = null, died = now(), reason = $4` + mine),
		release: q(`update {q} m set token = null, ready = $4 <= interval '0', due = now() + $4, attempts = m.attempts - 1` + mine),
		extend:  q(`update {q} m set due = greatest(m.due, now() + $4)` + mine),

		lag: q(`select count(*) filter (where died is null and ready and not ` + busy + `), count(*) filter (where died is null and token is null and (not ready or ` + busy + `)),
  count(*) filter (where token is not null), count(*) filter (where died is not null),
  coalesce(extract(epoch from clock_timestamp() - min(published) filter (where died is null and ready and not ` + busy + `)), 0)::float8 from {q} m where grp = $1`),
		dead: q(`select seq, attempts, reason, published, died, kind, id, key, priority, not_before, ttl, header, body from {q} where grp = $1 and died is not null order by died, seq limit $2`),
		peek: q(`select seq, attempts, case when token is not null then 'in flight' when not ready then 'delayed' when ` + busy + ` then 'behind' else 'ready' end as state,
  case when not ready then due end, published, kind, id, key, priority, not_before, ttl, header, body
from {q} m where grp = $1 and died is null order by not ready, ` + busy + `, priority desc, seq limit $2`),
		purgeAll: q(`delete from {q} where grp = $1 and died is null and token is null`),
		redrive: q(`update {q} set died = null, reason = '', attempts = 0, ready = true, token = null, due = now(), expires = null
where (grp, seq) in (select grp, seq from {q} where grp = $1 and died is not null order by died, seq limit $2 for update skip locked)`),
		purge:  q(`delete from {q} where (grp, seq) in (select grp, seq from {q} where grp = $1 and died is not null order by died, seq limit $2 for update skip locked)`),
		forget: q(`delete from {q}_seen where (topic, id) in (select topic, id from {q}_seen where at < now() - $1::interval limit 10000)`),
	}
}

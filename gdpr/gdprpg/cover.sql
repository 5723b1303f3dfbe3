with recursive
relations as (
    select c.oid, c.relname, c.relkind, c.reltuples, c.relispartition
    from pg_class c
    join pg_namespace n on n.oid = c.relnamespace
    where n.nspname = coalesce(nullif($1::text, ''), current_schema())
        and c.relkind in ('r', 'p', 'm', 'f')
        and not c.relispartition
),
subjects as (
    select oid from relations where relname = any ($2::text[])
),
keys as (
    select conrelid as child, confrelid as parent, conkey
    from pg_constraint where contype = 'f' and conparentid = 0
),
reaches as (
    select oid from subjects
    union
    select keys.child from keys join reaches on keys.parent = reaches.oid
),
subject_types as (
    select distinct a.atttypid
    from subjects s
    join pg_index i on i.indrelid = s.oid and i.indisprimary
    join pg_attribute a on a.attrelid = s.oid and a.attnum = any (i.indkey)
),
addresses as (
    select tablename, attname
    from pg_stats
    where schemaname = coalesce(nullif($1::text, ''), current_schema())
        and (array_to_string(most_common_vals::text::text[], ' ') ~ '[^\s@]@[^\s@]+\.[a-z]'
            or array_to_string(histogram_bounds::text::text[], ' ') ~ '[^\s@]@[^\s@]+\.[a-z]')
)
select
    r.relname::text,
    a.attname::text,
    format_type(a.atttypid, a.atttypmod),
    r.relkind::text,
    r.oid in (select oid from reaches) and r.oid not in (select oid from subjects),
    exists (
        select from keys
        where keys.child = r.oid and a.attnum = any (keys.conkey) and keys.parent in (select oid from subjects)
    ),
    -- The subject's type, a domain over it, an array of it, or text, which
    -- holds any key.
    coalesce(nullif(t.typelem, 0), nullif(t.typbasetype, 0), t.oid) in (select atttypid from subject_types)
        or coalesce(nullif(case when t.typcategory = 'A' then t.typelem end, 0), t.oid)
            in ('text'::regtype, 'varchar'::regtype, 'uuid'::regtype),
    t.typname in ('json', 'jsonb', 'xml', 'hstore'),
    greatest(r.reltuples, 0)::float8,
    exists (select from addresses ad where ad.tablename = r.relname and ad.attname = a.attname)
from relations r
join pg_attribute a on a.attrelid = r.oid and a.attnum > 0 and not a.attisdropped
join pg_type t on t.oid = a.atttypid
order by r.relname, a.attnum

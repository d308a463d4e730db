-- what: whose a job is (tenant), and the worker's own claim under a name of its own
-- why: one claim for a tenant must not return another's; pgtask.claim is now what any SQL client calls
-- previous release: none was published; workers of before must be stopped, their claim is gone
-- oldest release: 0.1.0

alter table pgtask._job    add column tenant text;
alter table pgtask.waiting add column tenant text;
alter table pgtask.ready   add column tenant text;
alter table pgtask.running add column tenant text;
alter table pgtask.done    add column tenant text;

-- They come back with more parameters; two of one name would leave calls undecided.
drop function if exists pgtask.claim(uuid, integer, text[], text[], double precision, integer[], integer[], bigint[]);
drop function if exists pgtask._enqueue(text, json[], json[], text, integer, double precision, timestamptz, text[], text,
  text[], integer, integer, double precision, timestamptz, text, json, json, text[]);

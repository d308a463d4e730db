-- what: ages are intervals, as all durations; triggers make their jobs in one query; policies can be read
-- why: one way to say how long in SQL; and two functions take other arguments now, or nobody calls them
-- previous release: none was published; workers of before must be stopped, they say ages in seconds
-- oldest release: 0.1.0
drop function if exists pgtask._enqueue_rows(pgtask.job_spec, text, text[], json[]);
drop function if exists pgtask._check_specs(pgtask.job_spec[]);
drop function if exists pgtask.purge(double precision, integer, timestamptz, bigint[]);
drop function if exists pgtask.maintain(double precision, timestamptz);

-- Every claim reads the policies of what it finds: one that cannot be read would stop them all.
alter table pgtask.ready   add constraint ready_policy   check (policy is null or strpos(policy::text, E'\\u0000') = 0) not valid;
alter table pgtask.waiting add constraint waiting_policy check (policy is null or strpos(policy::text, E'\\u0000') = 0) not valid;

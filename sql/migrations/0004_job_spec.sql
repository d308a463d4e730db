-- what: the type of one job among many, as pgtask.enqueue_many takes it; enqueue with headers and tenant
-- why: one call, one round trip and one wake-up for many jobs that share nothing but the caller
-- previous release: none was published; the enqueue of before is dropped for one with more parameters
-- oldest release: 0.1.0

-- The parameters of pgtask.enqueue, in its order. NULL means the default in every field.
create type pgtask.job_spec as (
  task         text,
  args         json,
  kwargs       json,
  queue        text,
  priority     integer,
  run_at       timestamptz,
  delay        interval,
  key          text,
  on_conflict  text,
  serial       text,
  max_attempts integer,
  backoff      json,
  timeout      interval,
  expires      interval,
  keep         text,
  tags         text[],
  headers      json,
  tenant       text
);
comment on type pgtask.job_spec is 'One job of pgtask.enqueue_many: what pgtask.enqueue takes, NULL for the default.';

drop function if exists pgtask.enqueue(text, json, json, text, integer, timestamptz, interval, text, text, text,
  integer, json, interval, interval, text, text[]);

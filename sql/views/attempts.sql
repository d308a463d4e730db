-- Attempts that did not succeed, with what went wrong; its words are for those who may read pgtask.payload.
create or replace view pgtask.attempts as
select a.job, a.attempt, a.epoch, a.outcome, a.type as error_type,
       case when (select has_table_privilege('pgtask.payload'::regclass, 'select')) then a.message end as error_message,
       case when (select has_table_privilege('pgtask.payload'::regclass, 'select')) then a.traceback end as error_traceback,
       a.worker, a.claimed_at, a.ended_at
from pgtask.attempt_error a;
comment on view pgtask.attempts is
  'Unsuccessful attempts of jobs, with error and traceback; a monitor sees NULL for the words of these two.';

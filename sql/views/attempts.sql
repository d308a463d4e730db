-- Attempts that did not succeed, with what went wrong.
create or replace view pgtask.attempts as
select a.job, a.attempt, a.epoch, a.outcome, a.type as error_type, a.message as error_message,
       a.traceback as error_traceback, a.worker, a.claimed_at, a.ended_at
from pgtask.attempt_error a;
comment on view pgtask.attempts is 'Unsuccessful attempts of jobs, with error and traceback.';

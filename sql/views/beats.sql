-- Processes that fire ticks.
create or replace view pgtask.beats as
select b.id, b.host, b.pid, b.version, b.started_at, b.seen_at, b.seen_at > clock_timestamp() - interval '30 s' as live
from pgtask.beat b;
comment on view pgtask.beats is 'Beat processes of the last day; live: seen within 30 s.';

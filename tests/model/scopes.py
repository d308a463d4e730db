"""What is explored, and what is broken on purpose."""

from __future__ import annotations

from dataclasses import dataclass

from tests.model.state import Job, Rules, Scope

SCOPES = {
    "plain": Scope((Job(max_attempts=2), Job(max_attempts=1)), faults=2),
    "one job": Scope((Job(max_attempts=3, max_crashes=2),), faults=3, cancels=1),
    "serial": Scope((Job(serial=True), Job(serial=True)), faults=2),
    "serial, cancelled": Scope((Job(serial=True), Job(serial=True)), faults=1, cancels=2),
    "key": Scope((Job(key=True), Job(key=True, later=True)), faults=2, orders=1),
    "key, cancelled": Scope(
        (Job(key=True), Job(key=True, later=True)), faults=1, orders=1, cancels=1
    ),
    "cancel": Scope((Job(), Job(max_attempts=1)), faults=1, cancels=2),
    "transaction": Scope((Job(transaction=True), Job(once=True)), faults=2),
    "server crash": Scope((Job(serial=True, max_attempts=1), Job()), faults=2, server_crashes=True),
    "once": Scope((Job(once=True),), faults=3, server_crashes=True),
}


@dataclass(frozen=True)
class Mutation:
    """A rule taken away, where that shows, and the promise that it breaks."""

    rules: Rules
    scope: str
    breaks: str


MUTATIONS = {
    "fence removed": Mutation(Rules(finish_is_fenced=False), "plain", "I3"),
    "epoch not raised by a claim": Mutation(Rules(claim_raises_the_epoch=False), "plain", "I3"),
    "claim without a look at the lease": Mutation(
        Rules(claim_asks_for_the_lease=False), "plain", "lease"
    ),
    "rescue without compare-and-swap": Mutation(
        Rules(rescue_compares_the_beat=False), "plain", "lease"
    ),
    "rescue only of the newly dead": Mutation(
        Rules(rescue_sweeps_the_known_dead=False), "once", "I2"
    ),
    "reconcile omitted": Mutation(Rules(reconcile_releases_the_unknown=False), "once", "I2"),
    "a reconnect goes unnoticed": Mutation(
        Rules(a_reconnect_means_doubt=False), "server crash", "I3"
    ),
    "reconcile keeps what has no row": Mutation(
        Rules(reconcile_drops_what_has_no_row=False), "server crash", "I3"
    ),
    "finish leaves the slot": Mutation(Rules(finish_frees_the_slot=False), "serial", "I8"),
    "release counts": Mutation(Rules(release_is_not_counted=False), "plain", "I7"),
    "retry without the key": Mutation(Rules(retry_needs_the_key=False), "key", "key"),
    "outcomes ignore a wish to cancel": Mutation(Rules(settle_heeds_cancels=False), "cancel", "I8"),
    "serial claims may be lost": Mutation(
        Rules(serial_claims_are_durable=False), "server crash", "I5"
    ),
    "at-most-once claims may be lost": Mutation(
        Rules(once_claims_are_durable=False), "once", "once"
    ),
}

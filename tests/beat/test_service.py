"""systemd and its like: what a beat tells them through NOTIFY_SOCKET."""

from __future__ import annotations

import signal
from pathlib import Path

from tests.beat.test_declare import write
from tests.beats import StartBeat
from tests.clockwork import put, ticks
from tests.conditions import eventually
from tests.standing import Connection
from tests.worker.test_service import Manager


def test_a_service_manager_hears_the_life_of_a_beat(
    start_beat: StartBeat, connection: Connection, tmp_path: Path
) -> None:
    write(tmp_path, '@app.periodic("@hourly")\n')
    put(connection, "s", overlap="queue")
    with Manager(str(tmp_path / "notify")) as manager:
        beat = start_beat(
            app="shop:app",
            directory=tmp_path,
            NOTIFY_SOCKET=manager.address,
            WATCHDOG_USEC="400000",
        )

        # ready once it has looked, and alive again and again
        manager.wait_for("READY=1")
        assert "READY=1" in manager.heard[0]
        manager.wait_for("WATCHDOG=1", 3)
        eventually(lambda: ticks(connection, "s"))
        eventually(lambda: any(" fired" in word for each in manager.listen() for word in each))

        # it tells when it reads the code anew, and when that is over
        beat.signal(signal.SIGHUP)
        manager.wait_for("RELOADING=1")
        manager.wait_for("READY=1", 2)

        # and when it ends
        beat.signal(signal.SIGTERM)
        manager.wait_for("STOPPING=1")
        assert beat.wait() == 0


def test_hup_without_an_app_changes_nothing(start_beat: StartBeat, connection: Connection) -> None:
    put(connection, "s", overlap="queue")
    beat = start_beat()

    beat.signal(signal.SIGHUP)

    eventually(lambda: "no app to load anew" in beat.log)
    seen = len(ticks(connection, "s"))
    eventually(lambda: len(ticks(connection, "s")) > seen)

"""What the stories share: a business table."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.standing import Connection


@pytest.fixture
def effects(connection: Connection) -> Callable[[], list[int]]:
    """The table that transactional tasks write to, empty; read by calling."""
    connection.execute("create table if not exists public.effect (value integer not null)")
    connection.execute("truncate public.effect")
    return lambda: [
        value for (value,) in connection.execute("select value from public.effect order by value")
    ]

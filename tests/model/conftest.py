"""The engine of the tests of the SQL functions, for those that hold the model against them."""

from tests.sql.conftest import engine

__all__ = ["engine"]

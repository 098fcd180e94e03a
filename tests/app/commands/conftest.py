"""The commands are run as an operator runs them."""

from tests.app.doctor.conftest import flask

__all__ = ["flask"]

"""Commands: in this process, and each once as an operator runs it."""

from tests.app.doctor.conftest import flask, flask_process

__all__ = ["flask", "flask_process"]

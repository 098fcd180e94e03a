"""gunicorn's settings, as the worker reads them."""

from typing import Any


class PlainSettings:
    """gunicorn's settings as plain attributes. Its own object takes three calls for each, and a
    request reads almost thirty."""

    def __init__(self, settings: Any) -> None:
        self._settings = settings
        computed = dir(type(settings))
        plain = (name for name in settings.settings if name not in computed)
        vars(self).update({name: getattr(settings, name) for name in plain})

    def __getattr__(self, name: str) -> Any:
        return getattr(self._settings, name)

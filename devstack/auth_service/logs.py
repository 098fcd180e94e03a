"""Logging to stderr, with no key in it, whoever writes the line."""

import logging
import re

from devstack.auth_service.keys import LIVE_PREFIX, TEST_PREFIX

_KEY = re.compile(f"({LIVE_PREFIX}|{TEST_PREFIX})[A-Za-z0-9]+")
_FORMATTER = logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s")


class RedactKeys(logging.Filter):
    """Keeps the prefix of a key and hides the rest.

    Our own lines hold no key. gunicorn's may: it quotes the header line that it cannot parse, and
    the path of a request that failed.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Rewrite message and traceback of `record`; it is always kept."""
        record.msg, record.args = _redact(record.getMessage()), ()
        if record.exc_info:
            record.exc_text = _redact(_FORMATTER.formatException(record.exc_info))
        return True


def configure(level: str) -> None:
    """Write this package's lines from `level` on to stderr; redact them and gunicorn's."""
    handler = logging.StreamHandler()
    handler.setFormatter(_FORMATTER)
    handler.addFilter(RedactKeys())
    logger = logging.getLogger(__package__)
    logger.setLevel(level.upper())
    logger.addHandler(handler)
    logging.getLogger("gunicorn.error").addFilter(RedactKeys())


def _redact(text: str) -> str:
    return _KEY.sub(r"\1[redacted]", text)

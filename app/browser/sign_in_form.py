"""The body of the sign-in form. It comes without a key, so its size, time and number are bounded.

The time is the server's (CLIENT_REQUEST_TIMEOUT). Once a worker reads MOST_AT_ONCE forms, it gives
up the oldest for a new one. A person's form takes milliseconds, so a client that sends many slowly
keeps nobody from signing in.
"""

from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs

from app.request.body import whole_body
from app.request.errors import BadRequest, ClientGone, Overloaded, RequestTimeout

#: Bytes of a form: three for each character of the longest accepted address, and a key.
MAX_FORM = 32 * 1024

#: Forms read at once, and seconds until the next attempt.
MOST_AT_ONCE = 64
RETRY_AFTER = 5

#: Fields of a form; ours has three.
MOST_FIELDS = 10


class SignInForms:
    """The forms that this worker is reading."""

    def __init__(self) -> None:
        #: Their clients, as app/server/client_socket.py knows them; the oldest first.
        self._being_read: list[Any] = []

    def read(self, environ: Mapping[str, Any]) -> tuple[str, str]:
        """(key, path to open afterwards).

        Raises BadRequest for a body that our own form does not send, RequestTimeout for one that
        is too slow, Overloaded for one that is given up for others.
        """
        client = environ.get("gunicorn.socket")
        self._being_read.append(client)
        others = [one for one in self._being_read if one is not None and not one.is_given_up]
        if len(others) > MOST_AT_ONCE:
            others[0].give_up()
        try:
            return _parsed(whole_body(environ, _length(environ)))
        except RequestTimeout:
            raise RequestTimeout("The form took too long; sign in again.") from None
        except ClientGone:
            if client is not None and client.is_given_up:
                message = "Too many people sign in at once; sign in again."
                raise Overloaded(message, RETRY_AFTER) from None
            raise
        finally:
            self._being_read.remove(client)


def _length(environ: Mapping[str, Any]) -> int:
    length = environ.get("CONTENT_LENGTH", "0") or "0"
    is_a_form = environ.get("CONTENT_TYPE", "").startswith("application/x-www-form-urlencoded")
    if not is_a_form or "HTTP_TRANSFER_ENCODING" in environ or int(length) > MAX_FORM:
        raise BadRequest("This is not what the sign-in form sends.")
    return int(length)


def _parsed(body: bytes) -> tuple[str, str]:
    try:
        fields = parse_qs(body.decode(errors="replace"), max_num_fields=MOST_FIELDS)
    except ValueError:
        raise BadRequest("This is not what the sign-in form sends.") from None
    return _bare(fields.get("key", [""])[0]), fields.get("next", [""])[0]


def _bare(pasted: str) -> str:
    """The key without what may be pasted with it: blanks, quotes, the name of the scheme."""
    return pasted.strip(" \t\r\n\"'\u200b\ufeff").removeprefix("Bearer ")

"""What can go wrong with a request, each with its HTTP status and its code.

    ServiceError
    ├── MalformedRequest    400
    ├── InvalidKey          401  unknown, revoked or expired
    ├── AddressNotAllowed   403  the key is good, but not from this address
    └── StoreUnavailable    503  the database cannot be read or written

`responses.py` turns them into HTTP.
"""

from typing import ClassVar


class ServiceError(Exception):
    """A request that gets no positive answer; the message is meant for the caller."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "INTERNAL_ERROR"


class MalformedRequest(ServiceError):
    """The body is not what the contract says."""

    status = 400
    code = "BAD_REQUEST"


class InvalidKey(ServiceError):
    """There is no key, or it is unknown, revoked or expired."""

    status = 401
    code = "INVALID_KEY"


class AddressNotAllowed(ServiceError):
    """The key may not be used from the client's address."""

    status = 403
    code = "ADDRESS_NOT_ALLOWED"


class StoreUnavailable(ServiceError):
    """The SQLite database failed. Says nothing about the key, so never answer 401 for it."""

    status = 503
    code = "STORE_UNAVAILABLE"

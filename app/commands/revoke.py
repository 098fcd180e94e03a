"""`flask revoke KEY_ID`: ends a key on all proxies."""

import click

from app.auth.revocations import NotAnnounced, Revocations
from app.health.faults import FAULTS
from app.observability.record import without_keys
from app.state.redis_client import CHANNEL
from app.state.redis_faults import word


def revoke(revocations: Revocations, lifetime: float, stale: float) -> click.Command:
    """The command `revoke`. A cached decision lives for `lifetime` seconds, and for `stale` seconds
    more while the auth service does not answer."""

    @click.command("revoke")
    @click.argument("key_id")
    def command(key_id: str) -> None:
        """End all cached decisions about the key KEY_ID, on all proxies, within a second.

        Revoke it at the auth service first: the proxies ask there again.
        """
        key_id = key_id.strip()  # as the subscribers do
        if not key_id:
            raise click.ClickException("The key id is empty; nothing is revoked.")
        if without_keys(key_id) != key_id:
            raise click.ClickException(
                "That is a key. Give its id instead, and do not share the key."
            )
        try:
            workers = revocations.announce(key_id)
        except NotAnnounced as why:
            raise click.ClickException(
                f"{key_id} was not announced to all proxies. {why}{_remedy(why)}\n"
                "Without the announcement, a proxy's cached decision about the key "
                f"ends {lifetime:g} s after it asked the auth service, or {lifetime + stale:g} s "
                "in an outage of that; a browser's session ends when it expires."
            ) from None
        announced = f"Announced on {CHANNEL}; workers that heard it: {workers}."
        if not workers:
            raise click.ClickException(
                f"{announced}\nNo proxy listens there. Check that REDIS_URL is the one that the "
                "proxies use. Right after a failover, repeat the command in a minute."
            )
        click.echo(announced)
        click.echo(f"They ask the auth service again before they accept {key_id}.")

    return command


def _remedy(why: NotAnnounced) -> str:
    """The catalogue's entry for such a Redis, if there is one."""
    if why.__cause__ is None:
        return ""
    name = word(why.__cause__)
    if name == "permission":
        return f"\nThe user's ACL needs +publish +subscribe &{CHANNEL} (docs/deployment.md)."
    key = f"redis.{name}"
    return f"\n{FAULTS[key]}" if key in FAULTS else ""

"""`flask revoke KEY_ID`: ends a key on all proxies."""

import click

from app.record import without_keys
from app.revocations import CHANNEL, NotAnnounced, Revocations


def revoke(revocations: Revocations, lifetime: float, stale: float) -> click.Command:
    """The command `revoke`. A cached answer lives for `lifetime` seconds, and `stale` seconds more
    while the auth service gives none."""

    @click.command("revoke")
    @click.argument("key_id")
    def command(key_id: str) -> None:
        """End what all proxies remember of the key KEY_ID, within a second.

        Revoke it at the auth service first: the proxies ask there again.
        """
        if without_keys(key_id) != key_id:
            raise click.ClickException("That is a key. Give its id; nobody is to see the key.")
        try:
            workers = revocations.announce(key_id)
        except NotAnnounced as why:
            raise click.ClickException(
                f"{key_id} was not announced. {why}\nWithout it, what a proxy remembers of a key "
                f"ends {lifetime:g} s after it asked the auth service, or {lifetime + stale:g} s "
                "where that gives no answer; a browser's session goes on until it ends by itself."
            ) from None
        click.echo(f"Announced on {CHANNEL}; workers that heard it: {workers}.")
        click.echo(
            f"They let {key_id} in only if the auth service, asked again, says so."
            if workers
            else "No proxy listens there: is REDIS_URL the one that the proxies use?"
        )

    return command

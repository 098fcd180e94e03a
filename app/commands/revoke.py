"""`flask revoke KEY_ID`: ends a key on all proxies."""

import click

from app.auth.revocations import NotAnnounced, Revocations
from app.health import messages
from app.observability.record import without_keys
from app.state.redis_faults import word
from app.state.redis_rights import CHANNEL


def revoke(revocations: Revocations, lifetime: float, stale: float) -> click.Command:
    """The command `revoke`. A cached answer lives for `lifetime` seconds, and `stale` seconds more
    while the auth service gives none."""

    @click.command("revoke")
    @click.argument("key_id")
    def command(key_id: str) -> None:
        """End what all proxies remember of the key KEY_ID, within a second.

        Revoke it at the auth service first: the proxies ask there again.
        """
        key_id = key_id.strip()  # as those who hear it read it
        if not key_id:
            raise click.ClickException("That is no key id, but empty; nothing is revoked.")
        if without_keys(key_id) != key_id:
            raise click.ClickException("That is a key. Give its id; nobody is to see the key.")
        try:
            workers = revocations.announce(key_id)
        except NotAnnounced as why:
            raise click.ClickException(
                f"{key_id} was not announced to all. {why}{_remedy(why)}\n"
                "Without it, what a proxy remembers of a key "
                f"ends {lifetime:g} s after it asked the auth service, or {lifetime + stale:g} s "
                "where that gives no answer; a browser's session goes on until it ends by itself."
            ) from None
        announced = f"Announced on {CHANNEL}; workers that heard it: {workers}."
        if not workers:
            raise click.ClickException(
                f"{announced}\nNo proxy listens there: is REDIS_URL the one that the proxies use? "
                "Right after a fail-over, repeat the command in a minute."
            )
        click.echo(announced)
        click.echo(f"They let {key_id} in only if the auth service, asked again, says so.")

    return command


def _remedy(why: NotAnnounced) -> str:
    """What health says of such a Redis, if it says anything."""
    if why.__cause__ is None:
        return ""
    name = word(why.__cause__)
    if name == "permission":
        return f"\nThe user's ACL needs +publish +subscribe &{CHANNEL} (docs/deployment.md)."
    return f"\n{messages.REDIS[name]}" if name in messages.REDIS else ""

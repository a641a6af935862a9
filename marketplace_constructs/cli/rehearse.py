"""``sellable rehearse``."""

from __future__ import annotations

import json
import signal
import textwrap
import threading
import time
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import click

from marketplace_constructs.cli.group import common_options

if TYPE_CHECKING:
    from marketplace_constructs.rehearsal.journey import Journey, Scenario, Step
    from marketplace_constructs.rehearsal.stage import Stage

_WIDTH = 80
_INDENT = " " * 19


@click.command("rehearse")
@click.option(
    "--app",
    "directory",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=".",
    help="Directory of app.py; this one if left out.",
)
@click.option("--scenario", "names", multiple=True, metavar="NAME", help="Play this one; may be repeated.")
@click.option("--list", "lists", is_flag=True, help="List the scenarios.")
@click.option("--serve", is_flag=True, help="Keep everything up; print addresses and ids as one JSON line.")
@click.option(
    "--serve-for",
    "seconds",
    type=click.IntRange(1, 86_400),
    default=3600,
    show_default=True,
    metavar="SECONDS",
    help="How long --serve goes on at most.",
)
@click.option("--install", is_flag=True, help="Install the local AWS and build the bundles, nothing else.")
@common_options
def command(
    *,
    directory: Path,
    names: tuple[str, ...],
    lists: bool,
    serve: bool,
    seconds: int,
    install: bool,
    output: str,
) -> int:
    """Sell the API of an app once, on this machine.

    Deploys the stacks of app.py into a local AWS, sets AWS Marketplace beside
    it, and lets buyers subscribe, register, call and cancel. Exits with 1 when
    a promise is broken, and says which. A pass shows that everything is wired
    together, not how AWS behaves.

    With --serve, GET the control_url for the calls that make buyers, agreements,
    events, faults and time.
    """
    if install:
        return _install()
    from marketplace_constructs.rehearsal.scenarios import SCENARIOS

    if lists:
        return _list(SCENARIOS, output)
    unknown = [name for name in names if name not in SCENARIOS]
    if unknown:
        message = f"no scenario {', '.join(unknown)}; expected {', '.join(SCENARIOS)}"
        raise click.BadParameter(message, param_hint="--scenario")
    chosen = [SCENARIOS[name] for name in dict.fromkeys(names)]
    signal.signal(signal.SIGTERM, _interrupt)
    return _rehearse(directory, chosen, output=output, serve_seconds=seconds if serve else 0)


def _install() -> int:
    from marketplace_constructs.bundles import BUNDLES, bundle_path, this_machine
    from marketplace_constructs.rehearsal import emulator

    click.echo(f"local AWS: {emulator.install()}", err=True)
    for bundle in BUNDLES:
        click.echo(f"{bundle}: {bundle_path(bundle, this_machine())}", err=True)
    return 0


def _list(scenarios: dict[str, Scenario], output: str) -> int:
    if output == "json":
        described = [{"name": s.name, "title": s.title, "default": s.is_default} for s in scenarios.values()]
        click.echo(json.dumps({"schema_version": 1, "scenarios": described}))
        return 0
    for scenario in scenarios.values():
        click.echo(f"{scenario.name:16}{scenario.title}{' (default)' if scenario.is_default else ''}")
    return 0


def _rehearse(directory: Path, chosen: list[Scenario], *, output: str, serve_seconds: int) -> int:
    from marketplace_constructs.rehearsal.stage import Stage

    begun = time.monotonic()
    with Stage(directory, say=lambda line: _echo_wrapped(line, "", err=True)) as stage:
        journeys = []
        for scenario in chosen or _defaults(stage, serves=bool(serve_seconds)):
            if output == "text":
                click.echo(f"\n{scenario.name}: {scenario.title}", err=bool(serve_seconds))
            said = _say_step if output == "text" else lambda _: None
            journeys.append(scenario.run(stage, said))
        if serve_seconds:
            _serve(stage, serve_seconds)
        elif output == "json":
            click.echo(json.dumps(_report(stage, journeys, time.monotonic() - begun)))
    if output == "text" and not serve_seconds:
        _summarize(journeys, time.monotonic() - begun)
    return 0 if all(journey.is_kept for journey in journeys) else 1


def _defaults(stage: Stage, *, serves: bool) -> list[Scenario]:
    from marketplace_constructs.rehearsal.scenarios import SCENARIOS

    return [s for s in SCENARIOS.values() if s.is_default and not serves and stage.sales_of(s.needs)]


def _report(stage: Stage, journeys: list[Journey], seconds: float) -> dict[str, object]:
    from marketplace_constructs.rehearsal.journey import SCHEMA_VERSION

    return {
        "schema_version": SCHEMA_VERSION,
        "kept": all(journey.is_kept for journey in journeys),
        "seconds": round(seconds, 3),
        "phases": [{"phase": phase, "seconds": round(took, 3)} for phase, took in stage.phases.items()],
        "left_out": stage.left_out,
        "scenarios": [journey.to_json() for journey in journeys],
    }


def _serve(stage: Stage, seconds: int) -> None:
    from marketplace_constructs.rehearsal.journey import SCHEMA_VERSION

    click.echo(json.dumps({"schema_version": SCHEMA_VERSION, "seconds": seconds, **stage.to_json()}))
    click.echo(f"GET {stage.server.control_url} lists the control calls; stop with Ctrl-C", err=True)
    try:
        threading.Event().wait(seconds)
    except KeyboardInterrupt:
        click.echo("stopping", err=True)


def _say_step(step: Step) -> None:
    outcome = click.style("BROKEN", fg="red", bold=True) if step.broken else click.style("kept  ", fg="green")
    head = f"{step.seconds:7.2f} s  {outcome}  "
    first, *rest = textwrap.wrap(step.promise, _WIDTH - len(_INDENT))
    click.echo(head + first)
    for line in rest:
        click.echo(_INDENT + line)
    for text in (step.broken, step.note):
        if text:
            _echo_wrapped(text, _INDENT)


def _summarize(journeys: list[Journey], seconds: float) -> None:
    promises = sum(len(journey.steps) for journey in journeys)
    broken = [(journey, step) for journey in journeys for step in journey.steps if step.broken]
    click.echo("")
    if not broken:
        click.echo(f"all {promises} promises of {len(journeys)} scenarios kept, {seconds:.0f} s in all")
    for journey, step in broken:
        _echo_wrapped(f"broken in {journey.scenario}: {step.promise}", "")


def _echo_wrapped(text: str, indent: str, *, err: bool = False) -> None:
    for line in textwrap.wrap(text, _WIDTH, initial_indent=indent, subsequent_indent=indent or "  "):
        click.echo(line, err=err)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    del signum, frame
    raise KeyboardInterrupt

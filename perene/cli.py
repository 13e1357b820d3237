"""The `perene` command. Data goes to stdout, talk to stderr; exit codes: 0 done, 1 refused, 2 wrong use."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from perene import __version__
from perene.backtest_commands import add_to as add_backtest_command
from perene.config import Settings, load
from perene.erase_commands import add_to as add_erase_command
from perene.events_commands import app as events_app
from perene.experiment_commands import app as experiment_app
from perene.explain_commands import add_to as add_explain_command
from perene.job_commands import app as jobs_app
from perene.key_commands import app as keys_app
from perene.label_commands import add_to as add_label_commands
from perene.label_commands import told
from perene.options import Config, Home, Json
from perene.options import examples as _examples
from perene.output import emit, fail, progress, say
from perene.registry_commands import add_to
from perene.report_commands import add_to as add_report_commands
from perene.retrain_commands import add_to as add_retrain_commands
from perene.route_command import route
from perene.usage_commands import add_to as add_usage_command
from perene.version_commands import add_to as add_version_commands
from registry.errors import ConfigInvalid, NameInvalid, PereneError

if TYPE_CHECKING:
    from perene.client import Client

app = typer.Typer(
    no_args_is_help=True, add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False
)
grafana_app = typer.Typer(no_args_is_help=True, help="Dashboards for Grafana.")
app.add_typer(grafana_app, name="grafana")
app.add_typer(keys_app, name="keys")
app.add_typer(jobs_app, name="jobs")
app.add_typer(events_app, name="events")
app.add_typer(experiment_app, name="experiment")
app.command()(route)
add_label_commands(events_app)
add_version_commands(app)

Url = Annotated[str, typer.Option(help="The server; by default the one on this machine's port.", envvar="PERENE_URL")]
Key = Annotated[str, typer.Option(help="API key; by default this machine's own.", envvar="PERENE_KEY")]


def main() -> None:
    """Entry point: every error of ours becomes a message with the fix and an exit code."""
    os.environ["DO_NOT_TRACK"] = "true"  # mlflow and evidently report usage otherwise
    as_json = "--json" in sys.argv
    try:
        app(standalone_mode=True)
    except PereneError as error:
        fail(error, as_json=as_json)
        sys.exit(2 if isinstance(error, (ConfigInvalid, NameInvalid)) else 1)


def _settings(home: Path | None, config: Path | None) -> Settings:
    return load(config, home=home)


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    """Perene keeps classic ML models alive: log, certify, serve, watch, retrain, promote."""
    if version:
        sys.stdout.write(f"{__version__}\n")
        raise typer.Exit


@app.command()
@_examples("perene up", "perene up --demo flights")
def up(
    demo: Annotated[str | None, typer.Option(help="Play a demo into it: flights.")] = None,
    home: Home = None,
    config: Config = None,
) -> None:
    """Run server and worker on this machine until Ctrl-C."""
    from perene.up import run

    run(demo_name=demo, home=home, config=config, until_promoted=False, as_json=False)


@app.command()
@_examples("perene demo flights", "perene demo flights --until-promoted --json")
def demo(
    name: Annotated[str, typer.Argument(help="flights")] = "flights",
    until_promoted: Annotated[bool, typer.Option(help="Stop at the first promotion and exit.")] = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Play a real year into the whole loop, report, and exit."""
    from perene.up import run

    run(demo_name=name, home=home, config=None, until_promoted=until_promoted, as_json=as_json, exit_after=True)


@app.command()
@_examples("perene serve", "perene serve --home /var/lib/perene", "perene serve --workers 4")
def serve(
    home: Home = None,
    config: Config = None,
    workers: Annotated[
        int | None, typer.Option(min=1, max=64, help="Processes that answer; before [serving] workers.")
    ] = None,
) -> None:
    """Run the server alone (public port 8000)."""
    from perene.up import exec_program, serve_program

    exec_program(serve_program(_settings(home, config), workers=workers))


@app.command()
@_examples("perene worker", "perene worker --config perene.toml")
def worker(home: Home = None, config: Config = None) -> None:
    """Run the worker alone: monitoring, retraining, trials (metrics on port 8002)."""
    from perene.up import exec_program, worker_program

    exec_program(worker_program(_settings(home, config)))


@app.command()
@_examples("perene log flight-time --from 2013-01-01 --to 2013-04-01")
def log(
    name: Annotated[str, typer.Argument(help="A model of perene.toml.")],
    start: Annotated[str, typer.Option("--from", help="First day of the training window.")],
    end: Annotated[str, typer.Option("--to", help="Day after the last one.")],
    home: Home = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Train, certify and register a version; the first one of a model is deployed."""
    from perene.train import day, train_and_log

    version = train_and_log(_settings(home, config), name, day(start), day(end), progress=progress)
    emit(
        {"model": version.model, "version": version.version, "digest": version.digest, "verdict": version.verdict},
        as_json=as_json,
    )
    say(f"next: perene status {name}")


@app.command()
@_examples("perene models", "perene models flight-time --json")
def models(
    name: Annotated[str | None, typer.Argument(help="Only this model's versions.")] = None,
    home: Home = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """List registered versions with their certificates' verdicts."""
    from perene.versions import version_rows

    rows = version_rows(_settings(home, config), name)
    emit(rows, as_json=as_json, columns=("model", "version", "verdict", "role"))


@app.command()
@_examples(
    "perene promote flight-time 3 --reason 'asked for by the product team'",
    "perene promote flight-time 4 --breaking --reason 'all callers send the new column'",
)
def promote(
    name: str,
    version: int,
    reason: Annotated[str, typer.Option(help="Goes to the ledger.")] = "by hand",
    breaking: Annotated[bool, typer.Option("--breaking", help="Although callers of the champion would break.")] = False,
    home: Home = None,
    config: Config = None,
    dry_run: Annotated[bool, typer.Option(help="Say what would happen.")] = False,
    as_json: Json = False,
) -> None:
    """Make a version the champion, once it is found certified, loadable and allowed."""
    from perene.api import promote as move

    settings = _settings(home, config)
    if dry_run:
        say(f"would make version {version} of {name} the champion; the earlier one stays for rollback")
        return
    moved = move(name, version, reason=reason, breaking=breaking, settings=settings)
    emit({"model": name, "champion": moved.champion, "revision": moved.revision}, as_json=as_json)
    say(f"next: perene rollback {name} puts the earlier champion back")


@app.command()
@_examples("perene rollback flight-time", "perene rollback flight-time --reason 'errors since noon'")
def rollback(
    name: str,
    reason: Annotated[str, typer.Option(help="Goes to the ledger.")] = "by hand",
    home: Home = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Put the earlier champion back and end any trial."""
    from perene.api import project_aliases
    from perene.api import rollback as move

    settings = _settings(home, config)
    moved = move(name, reason=reason, settings=settings)
    emit({"model": name, "champion": moved.champion, "revision": moved.revision}, as_json=as_json)
    try:
        project_aliases(settings, name)
    except PereneError as error:  # the row stands, and serving follows it
        say(f"MLflow's aliases follow later: {error.message}")
    say(f"next: perene status {name}")


@app.command()
@_examples(
    """perene predict iris '{"petal_length": 4.7}'""",
    "perene predict flight-time - < row.json",
    "perene predict --batch flights.parquet --out minutes.parquet --model flight-time --keep tailnum",
)
def predict(
    name: Annotated[str | None, typer.Argument(help="A deployed model.")] = None,
    rows: Annotated[str | None, typer.Argument(help="A row or list of rows as JSON, or - to read stdin.")] = None,
    *,
    batch: Annotated[Path | None, typer.Option(help="Answer this .parquet or .csv file, without a server.")] = None,
    out: Annotated[Path | None, typer.Option(help="The new .parquet or .csv file of answers.")] = None,
    model: Annotated[str | None, typer.Option(help="NAME or NAME@VERSION of --batch, else the champion.")] = None,
    keep: Annotated[list[str] | None, typer.Option(help="A column of the file to put out too; repeatable.")] = None,
    errors: Annotated[str, typer.Option(help="Rows that do not fit: refuse the file, skip them, or null.")] = "refuse",
    rows_per_part: Annotated[int, typer.Option(min=1, max=10_000_000, help="What a crash can cost.")] = 100_000,
    entity: Annotated[str | None, typer.Option(help="Whom the rows are about.")] = None,
    url: Url = "",
    key: Key = "",
    home: Home = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Ask the server for a prediction, or answer a whole file."""
    if batch is not None:
        if out is None or name is not None:
            raise ConfigInvalid("--batch goes with --out, and names its model by --model", where="--out")
        from perene.batch_commands import run
        from serving.batch.job import Asked

        asked = Asked(batch, out, errors, tuple(dict.fromkeys(keep or ())), rows_per_part)
        run(asked, model, home=home, config=config, as_json=as_json)
        return
    if name is None or rows is None or out is not None or model is not None:
        raise ConfigInvalid("a model and rows are needed, or --batch and --out", where="NAME ROWS")
    with _client(url, key, home) as client:
        emit(client.predict(name, _parse(rows), entity=entity), as_json=True)


@app.command()
@_examples("perene stub flight-time > flight_time.py")
def stub(name: str, url: Url = "", key: Key = "", home: Home = None) -> None:
    """Write a deployed model's rows, answers and labels as Python types, for editors and type checkers."""
    from perene.client.stub import module

    with _client(url, key, home) as client:
        sys.stdout.write(module(client.model(name).contract))


@app.command()
@_examples("perene feedback flight-time 0198c0de-… 142.5", "perene feedback churn 0198c0de-… --outcome revenue=12.5")
def feedback(
    name: str,
    prediction_id: str,
    label: Annotated[str | None, typer.Argument()] = None,
    outcome: Annotated[list[str] | None, typer.Option(help="What came of it, as NAME=NUMBER; repeatable.")] = None,
    url: Url = "",
    key: Key = "",
    home: Home = None,
) -> None:
    """Tell the server what really happened after a prediction."""
    item = told(prediction_id, label, outcome or [])
    with _client(url, key, home) as client:
        emit(client.feedback(name, [item]), as_json=True)


@app.command()
@_examples("perene status", "perene status flight-time --history", "perene status flight-time --as-of 2026-05-01")
def status(
    name: Annotated[str | None, typer.Argument()] = None,
    history: Annotated[bool, typer.Option(help="Every row of the ledger.")] = False,
    as_of: Annotated[str | None, typer.Option(help="What served then?")] = None,
    home: Home = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """What serves, what is on trial, what was found."""
    from perene import status as read
    from perene.train import day

    settings = _settings(home, config)
    if history and name:
        columns = ("revision", "champion", "candidate", "mode", "weight", "at", "actor", "reason")
        emit(read.history(settings, name), as_json=as_json, columns=columns)
        return
    now = ("finding", "run", "trial") if as_of is None else ("actor", "reason")
    shown = ("model", "champion", "candidate", "mode", "weight", *now, "at")
    rows = read.overview(settings, name, day(as_of) if as_of else None)
    emit(rows, as_json=as_json, columns=shown)
    for row in rows if not as_json else ():
        for line in row.get("told", ()):
            say(f"{row['model']}: {line}")


@app.command()
@_examples("perene doctor", "perene doctor --json")
def doctor(home: Home = None, config: Config = None, as_json: Json = False) -> None:
    """Check what the processes need; exit code 1 when something is wrong."""
    from perene.doctor import examine

    checks = examine(_settings(home, config))
    emit([asdict(c) for c in checks], as_json=as_json, columns=("name", "ok", "found", "fix"))
    if not all(check.ok for check in checks):
        raise typer.Exit(1)


@grafana_app.command("apply")
def grafana_apply(
    url: Annotated[str, typer.Option(help="Grafana's address.", envvar="GRAFANA_URL")],
    token: Annotated[str, typer.Option(help="Service account token.", envvar="GRAFANA_TOKEN")],
    prometheus: Annotated[str | None, typer.Option(help="Prometheus as Grafana reaches it.")] = None,
    as_json: Json = False,
) -> None:
    """Push folder, data source and dashboard."""
    from grafana.apply import PROMETHEUS_URL, apply

    emit(asdict(apply(url, token, prometheus_url=prometheus or PROMETHEUS_URL)), as_json=as_json)


def _client(url: str, key: str, home: Path | None) -> Client:
    """A client of the server on this machine, with this machine's key, unless others are given."""
    from perene.client import Client
    from perene.keyring import stored_key

    settings = _settings(home, None)
    return Client(url or f"http://127.0.0.1:{settings.serving.port}", key or stored_key(settings.home))


def _parse(text: str) -> Any:
    try:
        return json.loads(sys.stdin.read() if text == "-" else text)
    except ValueError as error:
        raise ConfigInvalid("the rows are not JSON", expected='{"feature": 1.5} or a list of such rows') from error


add_explain_command(app)
add_usage_command(app)
add_report_commands(app)
add_retrain_commands(app)
add_backtest_command(app)
add_to(app)  # after those above: `--help` lists commands in this order
add_erase_command(app)

if __name__ == "__main__":
    main()

"""`perene experiment`: ask for a trial, see how it stands, approve or end it, and make its decisions again."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from perene.config import Settings, load
from perene.options import Config, Home, Json, examples
from perene.output import emit, say
from registry.errors import ConfigInvalid

if TYPE_CHECKING:
    from perene.experiments import Experiment

app = typer.Typer(no_args_is_help=True, help="Trials of a version against the champion.")

Identifier = Annotated[str, typer.Argument(help="A trial's id, or a model for its last trial.")]
Reason = Annotated[str, typer.Option(help="Goes to the ledger.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check, and say what would be done.")]
_LISTED = ("experiment_id", "model", "state", "stage", "champion", "candidate", "needed", "started_at")


@app.command("start")
@examples(
    "perene experiment start flight-time 4 --reason 'weather columns'",
    "perene experiment start flight-time 4 --reason 'quick' --option limit=7d --option margin=0.02 --dry-run",
)
def start(
    model: str,
    candidate: Annotated[int, typer.Argument(help="A registered version.")],
    *,
    reason: Reason = "by hand",
    option: Annotated[list[str] | None, typer.Option(help="Instead of a setting, NAME=VALUE; repeatable.")] = None,
    dry_run: DryRun = False,
    home: Home = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Ask for a trial of a version against the champion; the worker begins it in its next turn."""
    from perene.experiment_calls import start as ask

    made = ask(
        load(config, home=home), model, candidate, reason=reason, options=_options(option or []), dry_run=dry_run
    )
    emit(made, as_json=as_json)
    if not dry_run:
        say(f"next: perene experiment show {made['experiment_id']}, once the worker has looked (perene worker)")


@app.command("list")
@examples("perene experiment list", "perene experiment list flight-time --json")
def list_(
    model: Annotated[str | None, typer.Argument(help="One model; else all.")] = None,
    *,
    home: Home = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """List trials, newest first; `needed` is how many more labels the stage asks for."""
    from perene.experiments import experiments

    settings = load(config, home=home)
    if model is not None:
        _known(settings, model)
    rows = [trial.to_dict() for trial in experiments(model, settings=settings)]
    emit(rows, as_json=as_json, columns=_LISTED)
    if not rows:
        say("no trial yet; next: perene experiment start MODEL VERSION")


@app.command("show")
@examples("perene experiment show flight-time", "perene experiment show x-20260301-9f3a2c4b --plot trial.png")
def show(
    identifier: Identifier,
    *,
    plot: Annotated[Path | None, typer.Option(help="Draw effect and interval over time: .png, .svg or .pdf.")] = None,
    home: Home = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Say how a trial stands: stage, interval, what it needs, guardrails, decisions."""
    from perene.experiments import experiment

    if plot is not None:
        from retrain.plot_name import plot_path

        plot_path(plot, example="trial.png")
    trial = experiment(identifier, settings=load(config, home=home))
    if as_json:
        emit(trial.to_dict(), as_json=True)
    else:
        emit(_told(trial), as_json=False)
        for made in trial.decisions:
            say(f"{made['at'][:19]} {made['stage']}: {made['action']}: {made['reason']} (evidence {made['evidence']})")
    if plot is not None:
        say(f"drawn: {trial.plot(plot)}")
    say(_next(trial))


@app.command("approve")
@examples("perene experiment approve x-20260301-9f3a2c4b --reason 'read the card'")
def approve(
    identifier: Identifier,
    *,
    reason: Reason = "by hand",
    dry_run: DryRun = False,
    home: Home = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Approve a trial's candidate for promotion, as the account you are logged in with."""
    from perene.experiment_calls import approve as record

    made = record(load(config, home=home), identifier, reason=reason, dry_run=dry_run)
    emit(made, as_json=as_json)
    say(f"next: perene experiment show {made['experiment_id']}; the worker promotes it when the trial is won")


@app.command("abort")
@examples("perene experiment abort x-20260301-9f3a2c4b --reason 'wrong features' --dry-run")
def abort(
    identifier: Identifier,
    *,
    reason: Annotated[str, typer.Option(help="Goes to the ledger; needed.")],
    dry_run: DryRun = False,
    home: Home = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """End a trial at once: its candidate answers nobody any more, and the champion stays."""
    from perene.experiment_calls import abort as end

    made = end(load(config, home=home), identifier, reason=reason, dry_run=dry_run)
    emit(made, as_json=as_json)
    say(f"next: perene status {made['model']} --history")


@app.command("replay")
@examples("perene experiment replay x-20260301-9f3a2c4b")
def replay(identifier: Identifier, *, home: Home = None, config: Config = None, as_json: Json = False) -> None:
    """Make each decision of a trial again from its evidence alone; exit code 1 when one comes out otherwise."""
    from perene.experiments import replay as again

    made = [asdict(each) for each in again(identifier, settings=load(config, home=home))]
    emit(
        [{**row, "agrees": "agrees" if row["agrees"] else "differs"} for row in made] if not as_json else made,
        as_json=as_json,
        columns=("evidence", "at", "action", "agrees", "reason"),
    )
    differs = [row["evidence"] for row in made if not row["agrees"]]
    if differs:
        say(f"evidence {', '.join(map(str, differs))}: another decision follows from what was recorded")
        raise typer.Exit(1)
    say(f"{len(made)} decisions, each follows from its evidence" if made else "nothing was decided yet")


def _options(given: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise ConfigInvalid("an option is not NAME=VALUE", where="--option", expected="for example margin=0.02")
        if name in found:
            raise ConfigInvalid("an option is given twice", where="--option", got=name[:40])
        several = name in ("stages", "others") and not value.startswith("[")
        found[name] = [_value(part) for part in value.split(",")] if several else _value(value)
    return found


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _known(settings: Settings, model: str) -> None:
    from registry.errors import ModelUnknown
    from registry.experiment_facts import did_you_mean
    from registry.ledger import Ledger

    with closing(Ledger.open(settings.places.ledger_url)) as ledger:
        deployed = ledger.deployments()
    if model not in deployed:
        raise ModelUnknown(
            f"model '{model}' has no deployment", hint=did_you_mean(model, deployed) or "perene status lists them"
        )


def _told(trial: Experiment) -> dict[str, Any]:
    """What a person reads, as lines; decisions follow."""
    told: dict[str, Any] = {
        "trial": trial.id,
        "model": f"{trial.model}: version {trial.candidate} against champion {trial.champion}, {trial.reason}",
        "state": f"{trial.state.replace('_', ' ')}, {trial.stage}",
    }
    if trial.why:
        told["why"] = trial.why
    if trial.looks:
        told |= _stands(trial, trial.looks[-1])
    needed = trial.forecast
    if trial.waits:
        told["waits"] = "it is won; somebody must approve it"
    elif needed is not None:
        when = f", about {needed.at:%Y-%m-%d %H:%M} at {needed.per_day:,.0f} a day" if needed.at else ""
        told["needed"] = f"{needed.needed:,} more labels in the smaller arm{when}"
    if trial.approved_by:
        told["approved by"] = ", ".join(trial.approved_by)
    return told


def _stands(trial: Experiment, look: dict[str, Any]) -> dict[str, Any]:
    margin = f", margin {-trial.margin:g}" if trial.margin is not None else ""
    told = {
        "looked at": f"{look['at'][:19]}, stage {look['stage']}",
        "labels": f"{look['n_champion']:,} of the champion, {look['n_candidate']:,} of the candidate",
        "effect": f"{look['effect']:+.4g}, interval {look['lower']:+.4g} to {look['upper']:+.4g}"
        f"{margin}; above 0 the candidate is better",
    }
    guards = {**look.get("guardrails", {}), "harm": look.get("log_e_harm", 0.0), "split": look.get("log_e_srm", 0.0)}
    told["guardrails"] = ", ".join(f"{name} {value:.2f}" for name, value in guards.items()) + " (log e; 4.6 rolls back)"
    return told


def _next(trial: Experiment) -> str:
    if trial.state == "requested":
        return "next: the worker begins it in its next turn; start one with perene worker"
    if trial.ended:
        return f"next: perene experiment replay {trial.id} · perene status {trial.model} --history"
    if trial.stage == "watch":
        back = f"perene rollback {trial.model} takes the promotion back"
        return f"next: {back} · perene experiment abort {trial.id} ends the watch"
    waits = bool(trial.policy) and not trial.approved_by
    approve = f" · perene experiment approve {trial.id}" if waits and trial.by_people else ""
    return f"next: perene experiment show {trial.id} --plot trial.png{approve} · perene experiment abort {trial.id}"

"""The ledger: who serves what, who decided it and on what evidence. Rows are only ever added.

The database refuses to change or remove them. What was done behind its back is found by `verify`: deployments and
evidence are hash chains with seals (`registry/ledger/chain.py` says what that shows and what it cannot).
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import Connection, Engine, func, insert, select
from sqlalchemy.exc import IntegrityError

from registry.errors import LedgerConflict, ModelUnknown
from registry.keys import KeyRecord
from registry.ledger import leases, records
from registry.ledger import tables as t
from registry.ledger.chain import EVIDENCE, chain_problems, evidence_hash, move_hash, of_model, seal_row
from registry.ledger.database import connect, reading, snapshot, writing
from registry.ledger.rows import (
    Deployment,
    Evidence,
    Experiment,
    Mode,
    Run,
    check_trial,
    dump,
    iso,
    parse_time,
    previous_champion,
    to_deployment,
    utc_now,
)
from registry.ledger.schema import prepare
from registry.names import check_name
from registry.routing import Routing, follow, read_routing, write_routing

__all__ = ["LEADER", "Deployment", "Evidence", "Experiment", "Ledger", "Mode", "Run"]

LEADER = "leader"
"""Name of the worker's lease; a `token` given to a write is checked against it."""


class Ledger:
    """Append-only store on SQLite or PostgreSQL. Safe for many threads and processes."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @classmethod
    def open(cls, url: str) -> Ledger:
        """Open the ledger at a SQLAlchemy `url`, migrating its schema where that is behind.

        Raises:
            ConfigInvalid: the url cannot be understood or names another kind of file, or the ledger is from a
                newer Perene.
            StoreUnavailable: the database does not answer.
        """
        engine = connect(url)
        try:
            prepare(engine)
        except BaseException:
            engine.dispose()
            raise
        return cls(engine)

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    # deployments ------------------------------------------------------------------------------------------

    def deployment(self, model: str, as_of: datetime | None = None) -> Deployment | None:
        """The deployment of `model` now, or as it was at `as_of` (aware); None if there was none."""
        query = select(t.deployments).where(t.deployments.c.model == model)
        if as_of is not None:
            query = query.where(t.deployments.c.at <= iso(as_of))
        with reading(self._engine) as connection:
            row = connection.execute(query.order_by(t.deployments.c.revision.desc()).limit(1)).mappings().first()
        return to_deployment(row) if row else None

    def deployments(self) -> dict[str, Deployment]:
        """The current deployment of every model."""
        d = t.deployments
        newest = select(func.max(d.c.id)).group_by(d.c.model)
        with reading(self._engine) as connection:
            rows = connection.execute(select(d).where(d.c.id.in_(newest))).mappings().all()
        return {row["model"]: to_deployment(row) for row in rows}

    def history(self, model: str) -> list[Deployment]:
        """Every deployment of `model`, oldest first."""
        query = select(t.deployments).where(t.deployments.c.model == model).order_by(t.deployments.c.revision)
        with reading(self._engine) as connection:
            return [to_deployment(row) for row in connection.execute(query).mappings()]

    def move(
        self,
        model: str,
        *,
        expected_revision: int,
        champion: int,
        actor: str,
        reason: str,
        candidate: int | None = None,
        mode: Mode | None = None,
        weight: float = 0.0,
        salt: str = "",
        evidence_id: int | None = None,
        routing: Routing | None = None,
        token: int | None = None,
    ) -> Deployment:
        """Append the next deployment of `model` if its revision still is `expected_revision` (0: none yet).

        Segments stay as they are unless `routing` gives others: they are no part of a trial.

        Raises:
            LedgerConflict: the revision is another one by now, or the trial or the routing cannot be.
            LeaseLost: `token` is given and is not the leader's newest.
        """
        check_name(model)
        check_trial(champion, candidate, mode, weight, salt, routing)
        with self._fenced(token) as connection:
            row = self._append_deployment(
                connection,
                model,
                expected_revision,
                {
                    "champion": champion,
                    "candidate": candidate,
                    "mode": mode,
                    "weight": float(weight),
                    "salt": salt,
                    "actor": actor,
                    "reason": reason,
                    "evidence_id": evidence_id,
                },
                routing or Routing(),
            )
        return to_deployment(row)

    def rollback(self, model: str, *, actor: str, reason: str) -> Deployment:
        """Put the previous, different champion back and end any trial, as a new row.

        Raises:
            ModelUnknown: the model was never deployed.
            LedgerConflict: there is no earlier champion, or somebody moved at the same time.
        """
        history = self.history(model)
        if not history:
            raise ModelUnknown(f"model '{model}' has no deployment", where="model")
        current = history[-1]
        target = previous_champion(history)
        if target is None:
            raise LedgerConflict(
                f"model '{model}' has no earlier champion to go back to",
                hint="perene status shows its history",
            )
        return self.move(model, expected_revision=current.revision, champion=target, actor=actor, reason=reason)

    def _append_deployment(
        self, connection: Connection, model: str, expected_revision: int, fields: dict[str, Any], routing: Routing
    ) -> Mapping[str, Any]:
        d = t.deployments
        query = (
            select(d.c.revision, d.c.hash, d.c.routing).where(d.c.model == model).order_by(d.c.revision.desc()).limit(1)
        )
        last = connection.execute(query).first()
        revision = last.revision if last else 0
        if revision != expected_revision:
            raise LedgerConflict(
                f"the deployment of '{model}' moved meanwhile",
                where="revision",
                expected=str(expected_revision),
                got=str(revision),
                hint="look at perene status and decide again",
            )
        before = read_routing(last.routing) if last else None
        row: dict[str, Any] = {"model": model, "revision": revision + 1, "at": iso(utc_now()), **fields}
        row["routing"] = write_routing(follow(before, routing))
        row["previous"] = last.hash if last else ""
        row["hash"] = move_hash(row["previous"], row)
        try:
            identifier = connection.execute(insert(d).values(**row).returning(d.c.id)).scalar_one()
        except IntegrityError as error:
            raise LedgerConflict(
                f"the deployment of '{model}' moved meanwhile", hint="look at perene status and decide again"
            ) from error
        seal_row(connection, of_model(model), identifier, row["hash"])
        return row

    # evidence, runs, experiments --------------------------------------------------------------------------

    def record_evidence(self, model: str, kind: str, body: dict[str, Any], *, token: int | None = None) -> int:
        """Append a row of evidence; returns its id."""
        return self.append_evidence(model, kind, [body], token=token)[0]

    def append_evidence(
        self, model: str, kind: str, bodies: Sequence[dict[str, Any]], *, token: int | None = None
    ) -> list[int]:
        """Append rows of evidence, all or none; returns their ids."""
        texts = [dump(body) for body in bodies]
        identifiers = []
        with self._fenced(token) as connection:
            if self._engine.dialect.name == "postgresql":
                connection.execute(select(func.pg_advisory_xact_lock(7_265_432)))
            last = connection.execute(select(t.evidence.c.hash).order_by(t.evidence.c.id.desc()).limit(1)).scalar()
            for text in texts:
                values = {"model": model, "kind": kind, "body": text, "at": iso(utc_now()), "previous": last or ""}
                last = values["hash"] = evidence_hash(values["previous"], values)
                added = insert(t.evidence).values(**values).returning(t.evidence.c.id)
                identifiers.append(int(connection.execute(added).scalar_one()))
                seal_row(connection, EVIDENCE, identifiers[-1], last)
        return identifiers

    def evidence(self, model: str | None = None, kind: str | None = None, limit: int = 100) -> list[Evidence]:
        """Rows of evidence, newest first."""
        query = select(t.evidence).order_by(t.evidence.c.id.desc()).limit(limit)
        if model is not None:
            query = query.where(t.evidence.c.model == model)
        if kind is not None:
            query = query.where(t.evidence.c.kind == kind)
        with reading(self._engine) as connection:
            return [
                Evidence(r.id, r.model, r.kind, json.loads(r.body), parse_time(r.at), r.hash)
                for r in connection.execute(query)
            ]

    def record_run(
        self,
        run_id: str,
        model: str,
        *,
        status: Literal["running", "done", "failed", "abandoned", "cancelled"],
        step: str,
        body: dict[str, Any],
        token: int | None = None,
    ) -> None:
        """Append what a retraining has come to."""
        values = {"run_id": run_id, "model": model, "status": status, "step": step}
        with self._fenced(token) as connection:
            records.append(connection, t.runs, values, body)

    def runs(self, model: str | None = None, limit: int = 100) -> list[Run]:
        """The latest row of each run, newest run first."""
        with reading(self._engine) as connection:
            found = records.latest(connection, t.runs, "run_id", model, limit)
        return [
            Run(r["run_id"], r["model"], r["status"], r["step"], json.loads(r["body"]), start, parse_time(r["at"]))
            for r, start in found
        ]

    def run_steps(self, run_id: str) -> list[Run]:
        """Every row of one run, oldest first: each step with the time at which it began."""
        with reading(self._engine) as connection:
            found = connection.execute(select(t.runs).where(t.runs.c.run_id == run_id).order_by(t.runs.c.id)).all()
        start = parse_time(found[0].at) if found else utc_now()
        return [Run(r.run_id, r.model, r.status, r.step, json.loads(r.body), start, parse_time(r.at)) for r in found]

    def record_experiment(
        self,
        experiment_id: str,
        model: str,
        *,
        state: Literal["running", "promoted", "rejected", "rolled_back", "inconclusive", "aborted"],
        stage: Literal["shadow", "canary", "ab", "watch", "done"],
        body: dict[str, Any],
        token: int | None = None,
    ) -> None:
        """Append what a trial has come to.

        Raises:
            LedgerConflict: it is over, and this row would have it go on.
            LeaseLost: `token` is given and is not the leader's newest.
        """
        values = {"experiment_id": experiment_id, "model": model, "state": state, "stage": stage}
        with self._fenced(token) as connection:
            if stage != "done" and records.is_over(connection, experiment_id):
                raise LedgerConflict("the trial has ended meanwhile", where="experiment", hint="perene experiment list")
            records.append(connection, t.experiments, values, body)

    def experiments(self, model: str | None = None, limit: int = 100) -> list[Experiment]:
        """The latest row of each trial, newest trial first."""
        with reading(self._engine) as connection:
            found = records.latest(connection, t.experiments, "experiment_id", model, limit)
        return [
            Experiment(
                r["experiment_id"],
                r["model"],
                r["state"],
                r["stage"],
                json.loads(r["body"]),
                start,
                parse_time(r["at"]),
            )
            for r, start in found
        ]

    @contextmanager
    def _fenced(self, token: int | None) -> Iterator[Connection]:
        """A transaction of the leader's, if `token` is given: refused once another leads."""
        with writing(self._engine) as connection:
            leases.fence(connection, LEADER, token)
            yield connection

    # leases -----------------------------------------------------------------------------------------------

    def acquire(self, name: str, holder: str, ttl_seconds: float) -> int | None:
        """Take the lease if it is free or run out; returns a fencing token larger than every one before it."""
        with writing(self._engine) as connection:
            return leases.acquire(connection, name, holder, ttl_seconds, time.time())

    def renew(self, name: str, holder: str, token: int, ttl_seconds: float) -> bool:
        """Extend the lease; False when it belongs to somebody else by now."""
        with writing(self._engine) as connection:
            return leases.extend(connection, name, holder, token, time.time() + ttl_seconds)

    def release(self, name: str, holder: str, token: int) -> None:
        """Give the lease back at once; the token stays used."""
        with writing(self._engine) as connection:
            leases.extend(connection, name, holder, token, 0.0)

    # state and keys ---------------------------------------------------------------------------------------

    def save_state(self, name: str, body: bytes, *, token: int | None = None) -> None:
        """Keep `body` under `name`, replacing what was there."""
        with self._fenced(token) as connection:
            records.save_state(connection, name, body)

    def load_state(self, name: str) -> bytes | None:
        """What `save_state` kept under `name`."""
        with reading(self._engine) as connection:
            body = connection.execute(select(t.states.c.body).where(t.states.c.name == name)).scalar()
        return bytes(body) if body is not None else None

    def add_key(self, key: KeyRecord) -> None:
        """Append an API key's record."""
        with writing(self._engine) as connection:
            records.add_key(connection, key)

    def keys(self) -> list[KeyRecord]:
        """The latest record of every key, the revoked ones too."""
        with reading(self._engine) as connection:
            return records.keys(connection)

    def revoke_key(self, identifier: str) -> None:
        """Append a revocation.

        Raises:
            ModelUnknown: no key has this id.
        """
        for key in self.keys():
            if key.id == identifier:
                self.add_key(replace(key, revoked=True))
                return
        raise ModelUnknown("no key has this id", where="id")

    # whole ledger -----------------------------------------------------------------------------------------

    def revision(self) -> int:
        """A number that grows with every deployment and every key row: cheap to poll.

        Of rows, since PostgreSQL commits in another order than it gives out ids: the largest one tells nothing of a
        smaller one that is committed after it.
        """
        query = select(
            select(func.count()).select_from(t.deployments).scalar_subquery()
            + select(func.count()).select_from(t.keys).scalar_subquery()
        )
        with reading(self._engine) as connection:
            return int(connection.execute(query).scalar() or 0)

    def verify(self, kept: Mapping[str, Mapping[str, Any]] | None = None) -> list[str]:
        """Recompute chains and seals; one line for each thing that does not hold, naming where.

        Args:
            kept: what `seals` gave earlier and was kept elsewhere: those rows must all still be there, unchanged.
        """
        with snapshot(self._engine) as connection:
            moves = connection.execute(select(t.deployments).order_by(t.deployments.c.id)).mappings().all()
            evidence = connection.execute(select(t.evidence).order_by(t.evidence.c.id)).mappings().all()
            sealed = connection.execute(select(t.seals)).mappings().all()
        return chain_problems(moves, evidence, sealed, kept or {})

    def seals(self) -> dict[str, dict[str, Any]]:
        """Number of rows and seal of each chain: a receipt for `verify`."""
        with reading(self._engine) as connection:
            found = connection.execute(select(t.seals).order_by(t.seals.c.chain))
            return {row.chain: {"rows": row.rows, "seal": row.seal} for row in found}

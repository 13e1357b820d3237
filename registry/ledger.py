"""The ledger: who serves what, who decided it and on what evidence. Rows are only ever added.

Deployments and evidence form a hash chain each (a row's hash covers its fields and the hash before it), so a
row changed, removed or inserted behind the ledger's back is found by `verify`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import Connection, Engine, RowMapping, Table, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from registry import ledger_leases as leases
from registry import ledger_tables as t
from registry.errors import ConfigInvalid, LedgerConflict, ModelUnknown
from registry.keys import KeyRecord
from registry.ledger_database import connect, reading, writing
from registry.ledger_rows import (
    CHAINED,
    Deployment,
    Evidence,
    Experiment,
    Mode,
    Run,
    chain_hash,
    chain_problems,
    check_trial,
    dump,
    iso,
    parse_time,
    previous_champion,
    to_deployment,
    utc_now,
)
from registry.names import check_name

__all__ = ["LEADER", "Deployment", "Evidence", "Experiment", "Ledger", "Mode", "Run"]

LEADER = "leader"
"""Name of the worker's lease; a `token` given to a write is checked against it."""


class Ledger:
    """Append-only store on SQLite or PostgreSQL. Safe for many threads and processes."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @classmethod
    def open(cls, url: str) -> Ledger:
        """Open the ledger at a SQLAlchemy `url`, creating its tables where they are missing.

        Raises:
            ConfigInvalid: the url cannot be understood, or the ledger is from a newer Perene.
            StoreUnavailable: the database does not answer.
        """
        ledger = cls(connect(url))
        try:
            ledger._create()
        except BaseException:
            ledger.close()
            raise
        return ledger

    def _create(self) -> None:
        with writing(self._engine) as connection:
            if self._engine.dialect.name == "postgresql":
                # two processes starting at once must not both create the tables
                connection.execute(select(func.pg_advisory_xact_lock(7_265_431)))
            t.metadata.create_all(connection)
            found = connection.execute(select(func.max(t.schema_version.c.version))).scalar()
            if found is None:
                connection.execute(insert(t.schema_version).values(version=t.SCHEMA_VERSION))
            elif found > t.SCHEMA_VERSION:
                raise ConfigInvalid(
                    "the ledger was written by a newer Perene",
                    where="ledger.url",
                    expected=f"schema {t.SCHEMA_VERSION} or older",
                    got=f"schema {found}",
                    hint="upgrade Perene",
                )

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
        token: int | None = None,
    ) -> Deployment:
        """Append the next deployment of `model` if its revision still is `expected_revision` (0: none yet).

        Raises:
            LedgerConflict: the revision is another one by now.
            LeaseLost: `token` is given and is not the leader's newest.
        """
        check_name(model)
        check_trial(champion, candidate, mode, weight)
        with writing(self._engine) as connection:
            leases.fence(connection, LEADER, token)
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
        self, connection: Connection, model: str, expected_revision: int, fields: dict[str, Any]
    ) -> Mapping[str, Any]:
        d = t.deployments
        query = select(d.c.revision, d.c.hash).where(d.c.model == model).order_by(d.c.revision.desc()).limit(1)
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
        row: dict[str, Any] = {"model": model, "revision": revision + 1, "at": iso(utc_now()), **fields}
        row["previous"] = last.hash if last else ""
        row["hash"] = chain_hash(row["previous"], [row[name] for name in CHAINED], row["evidence_id"])
        try:
            connection.execute(insert(d).values(**row))
        except IntegrityError as error:
            raise LedgerConflict(
                f"the deployment of '{model}' moved meanwhile", hint="look at perene status and decide again"
            ) from error
        return row

    # evidence, runs, experiments --------------------------------------------------------------------------

    def record_evidence(self, model: str, kind: str, body: dict[str, Any], *, token: int | None = None) -> int:
        """Append a row of evidence; returns its id."""
        text = dump(body)
        with writing(self._engine) as connection:
            leases.fence(connection, LEADER, token)
            if self._engine.dialect.name == "postgresql":
                connection.execute(select(func.pg_advisory_xact_lock(7_265_432)))
            last = connection.execute(select(t.evidence.c.hash).order_by(t.evidence.c.id.desc()).limit(1)).scalar()
            at = iso(utc_now())
            values = {"model": model, "kind": kind, "body": text, "at": at, "previous": last or ""}
            values["hash"] = chain_hash(values["previous"], [model, kind, text, at], None)
            result = connection.execute(insert(t.evidence).values(**values))
            key = result.inserted_primary_key
        return int(key[0]) if key else 0

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
        status: Literal["running", "done", "failed", "abandoned"],
        step: str,
        body: dict[str, Any],
        token: int | None = None,
    ) -> None:
        """Append what a retraining has come to."""
        values = {"run_id": run_id, "model": model, "status": status, "step": step}
        self._record(t.runs, values, body, token)

    def runs(self, model: str | None = None, limit: int = 100) -> list[Run]:
        """The latest row of each run, newest run first."""
        return [
            Run(r["run_id"], r["model"], r["status"], r["step"], json.loads(r["body"]), start, parse_time(r["at"]))
            for r, start in self._latest(t.runs, "run_id", model, limit)
        ]

    def record_experiment(
        self,
        experiment_id: str,
        model: str,
        *,
        state: Literal["running", "promoted", "rejected", "rolled_back", "inconclusive", "aborted"],
        stage: Literal["shadow", "ab", "watch", "done"],
        body: dict[str, Any],
        token: int | None = None,
    ) -> None:
        """Append what a trial has come to."""
        values = {"experiment_id": experiment_id, "model": model, "state": state, "stage": stage}
        self._record(t.experiments, values, body, token)

    def experiments(self, model: str | None = None, limit: int = 100) -> list[Experiment]:
        """The latest row of each trial, newest trial first."""
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
            for r, start in self._latest(t.experiments, "experiment_id", model, limit)
        ]

    def _record(self, table: Table, values: dict[str, Any], body: dict[str, Any], token: int | None) -> None:
        with writing(self._engine) as connection:
            leases.fence(connection, LEADER, token)
            connection.execute(insert(table).values(**values, body=dump(body), at=iso(utc_now())))

    def _latest(
        self, table: Table, identifier: str, model: str | None, limit: int
    ) -> list[tuple[RowMapping, datetime]]:
        spans = select(
            func.min(table.c.id).label("first"),
            func.max(table.c.id).label("last"),
            func.min(table.c.at).label("start"),
        ).group_by(table.c[identifier])
        if model is not None:
            spans = spans.where(table.c.model == model)
        span = spans.subquery()
        query = (
            select(table, span.c.start).join(span, table.c.id == span.c.last).order_by(span.c.first.desc()).limit(limit)
        )
        with reading(self._engine) as connection:
            return [(row, parse_time(row["start"])) for row in connection.execute(query).mappings()]

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
        with writing(self._engine) as connection:
            leases.fence(connection, LEADER, token)
            result = connection.execute(update(t.states).where(t.states.c.name == name).values(body=body))
            if result.rowcount == 0:
                connection.execute(insert(t.states).values(name=name, body=body))

    def load_state(self, name: str) -> bytes | None:
        """What `save_state` kept under `name`."""
        with reading(self._engine) as connection:
            body = connection.execute(select(t.states.c.body).where(t.states.c.name == name)).scalar()
        return bytes(body) if body is not None else None

    def add_key(self, key: KeyRecord) -> None:
        """Append an API key's record."""
        with writing(self._engine) as connection:
            connection.execute(
                insert(t.keys).values(
                    id=key.id,
                    sha256=key.sha256,
                    scopes=dump(sorted(key.scopes)),
                    models=dump(sorted(key.models)),
                    label=key.label,
                    revoked=key.revoked,
                    at=iso(utc_now()),
                )
            )

    def keys(self) -> list[KeyRecord]:
        """The latest record of every key, the revoked ones too."""
        newest = select(func.max(t.keys.c.row)).group_by(t.keys.c.id)
        with reading(self._engine) as connection:
            rows = connection.execute(select(t.keys).where(t.keys.c.row.in_(newest)).order_by(t.keys.c.row))
            return [
                KeyRecord(
                    r.id,
                    r.sha256,
                    frozenset(json.loads(r.scopes)),
                    frozenset(json.loads(r.models)),
                    r.label,
                    bool(r.revoked),
                )
                for r in rows
            ]

    def revoke_key(self, identifier: str) -> None:
        """Append a revocation.

        Raises:
            ModelUnknown: no key has this id.
        """
        for key in self.keys():
            if key.id == identifier:
                self.add_key(KeyRecord(key.id, key.sha256, key.scopes, key.models, key.label, revoked=True))
                return
        raise ModelUnknown("no key has this id", where="id")

    # whole ledger -----------------------------------------------------------------------------------------

    def revision(self) -> int:
        """A number that grows with every deployment and every key row: cheap to poll."""
        query = select(
            select(func.coalesce(func.max(t.deployments.c.id), 0)).scalar_subquery()
            + select(func.coalesce(func.max(t.keys.c.row), 0)).scalar_subquery()
        )
        with reading(self._engine) as connection:
            return int(connection.execute(query).scalar() or 0)

    def verify(self) -> list[str]:
        """Recompute both hash chains; returns one line per row that does not hold."""
        with reading(self._engine) as connection:
            moves = connection.execute(select(t.deployments).order_by(t.deployments.c.id)).mappings().all()
            evidence = connection.execute(select(t.evidence).order_by(t.evidence.c.id)).mappings().all()
        return chain_problems(moves, evidence)

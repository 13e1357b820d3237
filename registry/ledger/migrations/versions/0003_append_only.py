"""The database itself refuses to change or remove rows of the append-only tables."""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"

KEYS = {
    "perene_deployments": "id = NEW.id OR (model = NEW.model AND revision = NEW.revision)",
    "perene_evidence": "id = NEW.id OR hash = NEW.hash",
    "perene_runs": "id = NEW.id",
    "perene_experiments": "id = NEW.id",
    "perene_keys": "row = NEW.row",
}


def upgrade() -> None:
    """Triggers in the database's own language."""
    if op.get_bind().dialect.name == "postgresql":
        _postgresql()
    else:
        _sqlite()


def _sqlite() -> None:
    for table, same in KEYS.items():
        refuse = f"SELECT RAISE(ABORT, '{table} is append-only')"
        for verb in ("UPDATE", "DELETE"):
            op.execute(f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table} BEGIN {refuse}; END")
        # INSERT OR REPLACE removes a row without asking the trigger on DELETE
        op.execute(
            f"CREATE TRIGGER {table}_no_replace BEFORE INSERT ON {table} WHEN EXISTS "  # noqa: S608
            f"(SELECT 1 FROM {table} WHERE {same}) BEGIN {refuse}; END"
        )


def _postgresql() -> None:
    op.execute(
        "CREATE FUNCTION perene_append_only() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "RAISE EXCEPTION '% is append-only', TG_TABLE_NAME USING ERRCODE = 'restrict_violation'; END $$"
    )
    for table in KEYS:
        call = "EXECUTE FUNCTION perene_append_only()"
        op.execute(f"CREATE TRIGGER {table}_no_change BEFORE UPDATE OR DELETE ON {table} FOR EACH ROW {call}")
        op.execute(f"CREATE TRIGGER {table}_no_truncate BEFORE TRUNCATE ON {table} FOR EACH STATEMENT {call}")

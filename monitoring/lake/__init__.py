"""The event lake: its files, tables, revisions, tombstones and upkeep."""

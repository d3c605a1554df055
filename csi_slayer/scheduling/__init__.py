"""Patterns of access and what they make worth fetching ahead. Pure decisions, no I/O."""

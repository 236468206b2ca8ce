"""Fixtures of the tests of this folder."""

from __future__ import annotations

from tests.support.command_line import run_tritone

__all__ = ["run_tritone"]

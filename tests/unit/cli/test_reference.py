"""The reference page names every command and option, and no other."""

from __future__ import annotations

import re
from pathlib import Path

import typer.main

from kubegym.cli.main import app

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "reference" / "cli.md").read_text(encoding="utf-8")
GROUPS = {"serve": "model", "sandbox": "exec"}  # whose last section is compared


def test_the_page_has_every_option_and_no_other() -> None:
    root = typer.main.get_command(app)
    sections = dict(re.findall(r"^## kubegym (\w+)[^\n]*\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
    commands = root.commands  # type: ignore[attr-defined]  # a group
    assert set(sections) == set(commands)
    for name, command in commands.items():
        command = command.commands[GROUPS[name]] if name in GROUPS else command
        options = {option for parameter in command.params for option in parameter.opts if option.startswith("--")}
        heading = re.search(rf"^## kubegym {name}.*$", PAGE, re.MULTILINE)
        assert heading is not None
        written = set(re.findall(r"--[a-z][a-z-]*", heading.group() + sections[name]))
        shared = {"--log-level", "--log-format", "--log-file"} if name == "retry" else set()
        assert options - {"--help"} == (written | shared), name

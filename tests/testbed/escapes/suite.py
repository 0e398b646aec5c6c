"""The suite's verdicts here, as root's child or as nobody."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from kubegym.sandbox.check import examine
from testbed.required import unavailable

ROOT = Path(__file__).resolve().parents[3]
SECONDS = 900
_NOBODY = 65534


@dataclass(frozen=True)
class Verdict:
    """What came of an escape: whether it was contained, and what it did to others."""

    contained: bool
    detail: str
    damage: list[str]


def verdicts(*, nobody: bool, module: str = "run", arguments: tuple[str, ...] = ()) -> dict[str, Verdict]:
    """Run the suite (or another module beside it) once; by escape. Skips where this user cannot."""
    missing = [found for found in examine().findings if found.needed and not found.holds]
    if missing:
        unavailable(f"no sandbox here: {'; '.join(found.text for found in missing)}")
    command = [f"testbed.escapes.{module}", *arguments]
    done = subprocess.run(
        [*(_as_nobody() if nobody else _as_root()), "-m", *command],
        cwd="/",
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "tests"), *filter(None, sys.path)])},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert done.returncode == 0, done.stderr[-4000:]
    return {each["name"]: Verdict(each["contained"], each["detail"], each["damage"]) for each in found}


def _as_root() -> list[str]:
    if os.geteuid() != 0:
        unavailable("not root here")
    return [sys.executable]


def _as_nobody() -> list[str]:
    """An interpreter without any power; where ours lies in a folder of root's, the system's of the same version."""
    if os.geteuid() != 0:
        return [sys.executable]
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        unavailable("no setpriv here (util-linux)")
    other = shutil.which(f"python{sys.version_info.major}.{sys.version_info.minor}", path="/usr/bin:/usr/local/bin")
    drop = [setpriv, f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups", "--bounding-set=-all"]
    for python in (sys.executable, other):
        trial = [
            *drop,
            "--no-new-privs",
            str(python),
            "-c",
            "import subprocess, sys; subprocess.run([sys.executable, '-c', ''], check=True)",
        ]
        if python and subprocess.run(trial, capture_output=True, check=False).returncode == 0:
            return trial[:-2]
    unavailable("no interpreter here that nobody may start")

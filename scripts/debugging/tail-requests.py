#!/usr/bin/env python3
"""Requests as they finish: `aigw tail` of this checkout's environment, else the one on PATH. Takes the same options."""

import os
import sys
from pathlib import Path

LOCAL = Path(__file__).resolve().parents[2] / ".venv" / "bin" / "aigw"

program = str(LOCAL) if LOCAL.exists() else "aigw"
try:
    os.execvp(program, [program, "tail", *sys.argv[1:]])
except FileNotFoundError:
    sys.exit("aigw is not installed: run scripts/quickstart")

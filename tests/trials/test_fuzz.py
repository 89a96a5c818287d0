"""The short form of `make fuzz`."""

import os
import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).with_name("fuzz.py")


def test_random_command_lines_are_composed_or_end_in_three_lines(tmp_path: Path) -> None:
    command = [sys.executable, str(PROGRAM), "--composed", "40", "--processes", "2"]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=os.environ)
    assert (ended.returncode, ended.stderr) == (0, ""), ended.stdout + ended.stderr
    in_one_process, in_their_own = ended.stdout.splitlines()[:2]
    assert "user error" in in_one_process
    assert "composed" in in_one_process
    assert "in processes of their own: " in in_their_own
    assert not list(tmp_path.iterdir()), "a command with an error leaves nothing behind"

"""A training in a process of its own ends with the process that started it."""

import json
import signal
import subprocess
import sys
from pathlib import Path

from triptych.distributed.processes import restore_numbers

ENDLESS = """
import signal, sys, time
from pathlib import Path
from triptych.distributed import processes
signal.signal(signal.SIGTERM, signal.SIG_IGN)
processes.SAVE_SECONDS = 0.2
processes.work = lambda *_: print("working", flush=True) or time.sleep(300)
processes.main(Path(sys.argv[1]))
"""


def test_a_job_that_cannot_stop_is_killed_some_time_after_its_sweep_is_gone(
    tmp_path: Path,
) -> None:
    (tmp_path / "job.json").write_text(json.dumps([{}, []]))
    command = [sys.executable, "-c", ENDLESS, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes) as job:  # type: ignore[call-overload]
        assert job.stdout.readline() == b"working\n"
        job.stdin.close()
        assert job.wait(60) == -signal.SIGKILL


def test_numbers_stay_keys_of_a_jobs_settings() -> None:
    config = {"trainer": {"callbacks": [{"scheduling": {4: 2, "a": {"b": 1}}}]}}
    assert json.loads(json.dumps(config), object_hook=restore_numbers) == config

import sys

from tests.trials.child import run


def test_a_command_is_charged_with_its_time_and_its_largest_process() -> None:
    grandchild = "held = b'x' * 200_000_000; sum(range(10**6))"
    program = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {grandchild!r}])"
    ended = run([sys.executable, "-c", program])
    assert (ended.code, ended.output) == (0, "")
    assert ended.megabytes > 200
    assert min(ended.seconds, ended.cpu_seconds) > 0

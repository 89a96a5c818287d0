import sys

from tests.trials.child import run


def test_a_command_is_charged_with_its_time_and_its_largest_process() -> None:
    grandchild = "held = b'x' * 200_000_000; sum(range(10**6))"
    program = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {grandchild!r}])"
    ended = run([sys.executable, "-c", program])
    assert (ended.code, ended.said) == (0, "")
    assert ended.megabytes > 200
    assert ended.seconds > 0
    assert ended.cpu_seconds > 0


def test_a_command_may_end_at_a_line_of_its_own() -> None:
    program = "import time; print('one'); print('two', flush=True); time.sleep(600)"
    ended = run([sys.executable, "-c", program], until="two")
    assert ended.said == "one\ntwo\n"
    assert ended.code < 0
    assert ended.seconds < 600

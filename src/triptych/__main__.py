"""`python -m triptych <command> ...`."""

from triptych.cli import run

if __name__ == "__main__":
    run()

"""Compare finished runs: a page, a text and a table."""

from triptych.cli import main

if __name__ == "__main__":
    main("compare")

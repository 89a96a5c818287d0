"""Train one network, or sweep over several with -m."""

from triptych.cli import main

if __name__ == "__main__":
    main("train")

"""Score finished runs again, from their folders alone."""

from triptych.cli import main

if __name__ == "__main__":
    main("evaluate")

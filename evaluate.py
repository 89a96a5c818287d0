"""Score finished runs again, from their folders alone."""

from triptych.door import open_door

if __name__ == "__main__":
    open_door("evaluate", "triptych.evaluate:evaluate")

"""Compare finished runs: a page, a text and a table."""

from triptych.door import open_door

if __name__ == "__main__":
    open_door("compare", "triptych.compare:compare")

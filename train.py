"""Train one network, or sweep over several with -m."""

from triptych.door import open_door

if __name__ == "__main__":
    open_door("train", "triptych.run:train")

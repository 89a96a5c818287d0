"""Seconds, in words: no more precise than an estimate is."""

import time
from datetime import datetime

END_FILE = "TRIPTYCH_END_FILE"  # in the environment of a sweep's job: where it writes its end
PROGRESS_FILE = ".progress"  # of a run at work: when it ends (seconds), and what share is done


def format_left(seconds: float, word: str = "about") -> str:
    """As `about 1 h 20 min left, ends 14:10`; of at least so much nobody knows when it ends."""
    end = "" if word == "at least" else format_end(seconds)
    return f"{word} {format_duration(seconds)} left{end}"


def format_end(seconds: float) -> str:
    """As `, ends 14:10`, with the day where it is not today; empty within a minute."""
    if seconds < 60:
        return ""
    now, end = datetime.now(), datetime.fromtimestamp(time.time() + seconds)
    day = "" if end.date() == now.date() else f"{end:%a} "
    if (end.date() - now.date()).days > 6:
        day = f"{end:%d %b} "
    return f", ends {day}{end:%H:%M}"


def format_duration(seconds: float) -> str:
    """In words, as precise as an estimate is: 40 s, 1 min 20 s, 1 h 20 min, 25 h, 3 days."""
    if seconds < 57.5:
        return f"{max(5, 5 * round(seconds / 5))} s"
    if seconds < 295:
        minutes, rest = divmod(10 * round(seconds / 10), 60)
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 595:
        hours, rest = divmod(10 * round(minutes / 10), 60)
        return f"{hours} h {rest} min" if rest else f"{hours} h"
    hours = round(minutes / 60)
    return f"{hours} h" if hours < 72 else f"{round(hours / 24)} days"

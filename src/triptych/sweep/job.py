"""One job of a sweep: a frozen config on standard input, the run's folder written to a file."""

import json
import sys
from pathlib import Path

from triptych import Refused
from triptych.door import refuse, speak


def main(report: Path) -> int:
    asked = json.load(sys.stdin)
    speak()
    try:
        from triptych.run import train

        train(asked["config"], asked["overrides"], started=lambda folder: report.write_text(folder))
    except Refused as error:
        return refuse(error)
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))

"""Image backbones side by side: fine-tune, compare, and say what holds."""

import sys

if sys.argv[:1] == ["-m"]:  # `python -m triptych...`, before its module is looked for
    from triptych.cli import check_module_name

    check_module_name(sys.orig_argv)

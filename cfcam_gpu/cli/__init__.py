"""The command `cfcam`: one file a command; `app` loads the one that is asked for."""

from __future__ import annotations

import atexit
import sys

from cfcam_gpu.cli.interrupt import end_at_once, last_steps, leave_interrupted

__all__ = ["main"]


def main() -> None:
    """Entry point of the command `cfcam`: runs it and exits, by SystemExit with its status."""
    end_at_once()  # importing the rest takes a while
    try:
        from cfcam_gpu._utils import json_lines

        if json_lines.asked(sys.argv):
            json_lines.begin()
            last_steps.append(json_lines.finish)
            atexit.register(json_lines.finish)  # registered first, it runs last
        from cfcam_gpu.cli.app import app

        app.main(prog_name="cfcam")
    except SystemExit as ending:
        leave_interrupted(ending.code)
        raise
    finally:
        end_at_once()  # so does the end of the process

"""The command `cfcam`: one file a command; `app` loads the one that is asked for."""

from __future__ import annotations

from cfcam_gpu.cli.interrupt import end_at_once, leave_interrupted

__all__ = ["main"]


def main() -> None:
    """Entry point of the command `cfcam`: runs it and exits, by SystemExit with its status."""
    end_at_once()  # importing the rest takes a while
    try:
        from cfcam_gpu.cli.app import app

        app.main(prog_name="cfcam")
    except SystemExit as ending:
        leave_interrupted(ending.code)
        raise
    finally:
        end_at_once()  # so does the end of the process

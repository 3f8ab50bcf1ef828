"""``wsgi-tracker``, or ``python -m wsgi_tracker``: the command line, if its packages are there."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; ends the process with its exit code."""
    try:
        from .cli import main as command_line
    except ModuleNotFoundError as error:
        if str(error.name).partition(".")[0] not in ("click", "rich"):
            raise
        sys.exit("the command line needs click and rich: pip install 'wsgi-tracker[cli]'")
    command_line(prog_name="wsgi-tracker")


if __name__ == "__main__":
    main()

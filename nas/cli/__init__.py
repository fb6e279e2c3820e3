"""The command `edgenas`.  Each command says what it takes; the work is elsewhere and loaded on first use.

Exit codes: 0 done, 1 a check failed, 2 bad input, 3 nothing fits the limits, 4 a device cannot be reached, 130 interrupted.
"""

from __future__ import annotations

import sys

import typer

from nas.cli import bench, data, devices, job, proxies, steps, study
from nas.cli.common import BAD_INPUT, INTERRUPTED, NOTHING_FITS, UNREACHABLE

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Searches, trains, quantizes, compiles and verifies object detectors within a device's limits.",
)
app.add_typer(job.app)
app.add_typer(steps.app)
app.add_typer(proxies.app, name="proxies")
app.add_typer(devices.app, name="devices")
app.add_typer(data.app, name="data")
app.add_typer(bench.app, name="bench")
app.add_typer(study.app, name="study")


def main() -> None:
    """Entry point: a user's mistake becomes one line and an exit code, never a traceback (-v shows it)."""
    verbose = bool({"-v", "--verbose"} & set(sys.argv))
    try:
        app(standalone_mode=False)
    except typer.Exit as stop:
        sys.exit(stop.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        print("edgenas: interrupted; edgenas resume goes on with a run, the same command with a study or a training", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except Exception as fault:
        if verbose:
            raise
        sys.exit(_explain(fault))


def _explain(fault: Exception) -> int:
    """Print what went wrong; the exit code."""
    code = BAD_INPUT
    if type(fault).__name__ in ("Infeasible", "NothingFits"):
        code = NOTHING_FITS
    if type(fault).__name__ == "Unreachable":
        code = UNREACHABLE
    if hasattr(fault, "format_message"):  # click's own errors: unknown options and the like
        text = fault.format_message()
    elif isinstance(fault, ValueError | OSError):
        text = str(fault)
    else:
        raise fault
    print(f"edgenas: {text}", file=sys.stderr)
    return code

"""What all programs share. They import it first, so that signals and errors during other imports print one line.

The handler of SIGINT stays until `app.run` handles signals. It ends the process at once, because no work has begun and
an exception during an import could be turned into another one, or be lost in a callback.
"""

import os
import signal
import sys
from types import TracebackType


def _stop(number: int, _: object) -> None:
    os.write(2, b"stopped: by SIGINT; run the same command to resume\n")
    os._exit(128 + number)


def _tell(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    from smoothout.common.errors import missing_package  # noqa: PLC0415 -- nothing else comes before the handler

    if isinstance(error, ModuleNotFoundError):
        sys.stderr.write(f"error: {missing_package(error)}\n")
    else:
        sys.__excepthook__(kind, error, trace)


# Only in the process that the user started: those of a local pool import the script too.
_main = getattr(sys.modules["__main__"], "__file__", None) or ""
if os.path.abspath(_main).split(os.sep)[-2] == "scripts":  # noqa: PTH100, PTH206 -- pathlib takes long to import
    signal.signal(signal.SIGINT, _stop)
    sys.excepthook = _tell

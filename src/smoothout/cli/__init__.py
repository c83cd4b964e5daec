"""What all programs share. They import it first: what ends them during their other imports is then told in one line.

The handler stays until `app.run` takes signals over. It ends the process, in which nothing has begun: an exception in
the middle of an import may be turned into another one, or be printed and lost in a callback.
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


# The processes of a local pool import the script too, and leave this to the one that the user started.
_main = getattr(sys.modules["__main__"], "__file__", None) or ""
if os.path.abspath(_main).split(os.sep)[-2] == "scripts":  # noqa: PTH100, PTH206 -- pathlib takes long to import
    signal.signal(signal.SIGINT, _stop)
    sys.excepthook = _tell

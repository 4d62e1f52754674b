"""Scripts in a process that has imported PyTorch already."""

import os
import runpy
import sys
from pathlib import Path
from typing import Any, NamedTuple

from tools_support import ROOT


class Ended(NamedTuple):
    code: int
    out: str
    err: str
    seconds: float  #: Of CPU time.


def run_in_fork(tool: str, words: list[str], folder: Path) -> Ended:
    """Run a script of tools/ inside of a folder, which gets its output."""
    outputs = [folder / 'stdout.txt', folder / 'stderr.txt']
    child = os.fork()
    if child == 0:
        code: Any = 1
        try:
            for number, output in enumerate(outputs, 1):
                flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
                os.dup2(os.open(output, flags), number)
            sys.stdout = os.fdopen(1, 'w', closefd=False)
            sys.stderr = os.fdopen(2, 'w', closefd=False)
            os.chdir(folder)
            path = str(ROOT / 'tools' / f'{tool}.py')
            sys.argv = [path, *words]
            runpy.run_path(path, run_name='__main__')
            code = 0
        except SystemExit as end:
            code = end.code or 0
            if isinstance(code, str):
                print(code, file=sys.stderr)
                code = 1
        finally:
            sys.stdout.flush(), sys.stderr.flush()
            os._exit(code)
    _, status, used = os.wait4(child, 0)
    texts = [output.read_text('utf-8', 'replace') for output in outputs]
    code = os.waitstatus_to_exitcode(status)
    return Ended(code, *texts, used.ru_utime + used.ru_stime)

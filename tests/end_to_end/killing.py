"""Run `visiontune` and kill it: python killing.py MOMENT NUMBER train ... (or compress ...)

The process sends itself SIGKILL when it reaches the moment for the NUMBER-th time.
"""

import sys

from visiontune.cli import main
from visiontune.config.imports import import_verb

if __name__ == "__main__":
    _, moment, count, *arguments = sys.argv
    import_verb(arguments[0])
    from kill_moments import MOMENTS

    MOMENTS[moment](int(count))
    sys.argv = ["visiontune", *arguments]
    main()

"""`python -m visiontune` is the command `visiontune`."""

from visiontune.cli import main

main()

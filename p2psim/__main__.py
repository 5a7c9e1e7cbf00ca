"""python -m p2psim."""

from p2psim.cli import main

main()

"""The fork server of one node: imports torch once, then forks every rank that a stub asks for.

A rank forked here costs a tenth of the memory and time of one that imports torch itself, since it
shares what was there before the fork. See launcher/stub.py for the other side.
"""

"""Fork server of one node: it imports torch once and forks every rank that a stub requests.

A forked rank takes a tenth of the memory and time of a rank that imports torch itself, because it
shares the memory pages that the server had filled before the fork. launcher/stub.py is the client.
"""

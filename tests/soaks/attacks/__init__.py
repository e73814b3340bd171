"""Attacks on a gRPC port, each followed by normal calls: `make attack`.

wire.py      one HTTP/2 connection that sends any frame, valid or not
bodies.py    attacks by what calls carry: compressed, large and slow bodies, no and wrong tokens
floods.py    attacks by frames and connections: resets, CONTINUATION, PING, idle connections, clients that never read
catalogue.py every attack by name
load.py      normal calls meanwhile, and a stream
target.py    what is attacked: a service process, or containers; memory, restarts, lines of the log
__main__.py  the command: attacks one after the other under a constant load, and one table
"""

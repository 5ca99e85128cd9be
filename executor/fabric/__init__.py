"""How the front reaches its workers: the messages, and the ways they travel.

A worker is a process that owns one device. Jobs go to it and events come back, as the values in
``messages``; ``local`` starts workers on this machine. The front never calls into an engine.
"""

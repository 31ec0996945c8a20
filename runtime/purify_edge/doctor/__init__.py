"""purify-doctor: what this machine has for purify-edge, what is missing, and what to do about it.

Nothing here imports an engine, nor numpy, in this process: what may be broken is looked at from child processes.
"""

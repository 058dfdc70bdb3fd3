"""What a run's code does durably: waits, children, steps, metadata.

ops         what it asks of the worker, and what it is told: plain values, so that they can go through a pipe
port        who is asked: the worker that executes the current run
pending     something to await in an ``async def``, or to ask for the ``.result()`` of in a ``def``
children    runs and batches of runs
waits       times and tokens
steps       code that runs once
metadata    what a run shows of itself while it runs
tags        words by which it is found
"""

"""The worker: claims runs, executes them, reports how they ended.

main        a worker process: loads tasks, opens the engine, minds signals
worker      one worker: at its post in every store
stations    the stores beside home, as they come and go
post        the life of a worker in one store: register, claim and execute, drain, retire
machine     what all posts share: threads, child processes, and
slots         how many runs there are at a time, and whose
tenure      the lease under which it works now, and the next one where that is lost
claimer     takes runs into free slots
executor    executes them: on the loop, in a thread, or through
processes     a process of their own, which runs
child         this
executions  one attempt under way: its code reaches through
ports         (its thread, its task, its process) the
conductor     that keeps its journal and replays it, with
outbox          what is on its way into it,
deeds           what is done at a point,
answers         what the code is told of it,
pages           outcomes of batches as they came,
tracking        and which asyncio tasks are its own
watcher     looks whether what runs in memory wait for has come
put_downs   gives slots back of runs that wait for long
recalls     ends runs that were canceled
versions    which code this is
completer   reports results by the chunk
heartbeat   renews the lease where no claim did
retries     from an exception to what is reported
loading     from a target on the command line to tasks
"""

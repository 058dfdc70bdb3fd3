"""The worker: claims runs, executes them, reports how they ended.

main        a worker process: loads tasks, opens the engine, minds signals
worker      the life of one worker: register, claim and execute, drain, retire
tenure      the lease under which it works now, and the next one where that is lost
claimer     takes runs into free slots
executor    executes them: on the loop, in a thread, or through
processes     a process of their own, which runs
child         this
completer   reports results by the chunk
heartbeat   renews the lease where no claim did
retries     from an exception to what is reported
loading     from a target on the command line to tasks
"""

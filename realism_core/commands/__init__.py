"""The commands of `realism`, one a file: `add(commands)` declares it, and its `run(args)` returns the exit
code.
"""

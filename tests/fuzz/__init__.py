"""Fuzzing: broken, odd and hostile input to everything that reads a file or takes an argument.

`python -m tests.fuzz --seconds 7200` runs it; `test_fuzz.py` runs a few seeds of each target, and those in `seeds.txt`,
which found something once. A target (`targets`) is a function of a `Case`: it makes input from the case's seed, gives
it to public functions of this package, and raises if what comes back is neither right nor an error in one sentence.
"""

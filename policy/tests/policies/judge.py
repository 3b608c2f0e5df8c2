"""Runs traces through libcachesim and prints hit ratios. It must not know what they are compared with.

Standard input has a line for each run: the file of a trace (libcachesim's oracleGeneral), a capacity in bytes and a policy.
Standard output has a line for each: hits by requests and by bytes, as parts of one.
"""

import sys

import libcachesim

readers = {}
for line in sys.stdin:
    path, capacity, policy = line.split()
    if path not in readers:
        readers[path] = libcachesim.TraceReader(path, libcachesim.TraceType.ORACLE_GENERAL_TRACE)
    reader = readers[path]
    reader.reset()
    cache = getattr(libcachesim, policy)(int(capacity), hashpower=16)
    miss_ratio, byte_miss_ratio = cache.process_trace(reader)
    print(1 - miss_ratio, 1 - byte_miss_ratio, flush=True)

"""plait beside its peers: what a spawn, a switch, a parked thread and an echo cost, measured in one run.

    pip install . -r bench/requirements.txt
    python -m bench all                      # every benchmark, five rounds, some hours
    python -m bench spawn --rounds 9         # or another of those listed below
    python -m bench echo --contenders plait,uvloop --cases '1 KiB x 100'
    python -m bench echo --retries 3         # repeat the turns that others disturb
    python -m bench all --json results.json
    python -m bench all --quick              # does it run at all? Its figures mean nothing.

How a figure comes about. Each contender of each round is a fresh process of the same interpreter, so that no event
loop policy, monkey patch or runtime meets another. A round runs every contender once; the next round starts with
another contender and goes the other way round. A ratio compares two contenders of the same round, and the table shows
the median of these ratios with the smallest and the largest. A shared machine may be twice as slow a minute later:
trust the ratios of one run, never figures from two runs.

A map of the package, each module using only those above it:

    _model      the words: Benchmark, Case, Contender, Metric
    _child      the child process: runs one contender, reports one line of JSON
    _process    the parent's side of a child: started with its environment, bounded in time, always ended
    _programs   programs in other languages, compiled once in a run
    _facts      the machine and the versions, for the header
    _disturbance
                what disturbs a turn: other processes, and neighbours on a core
    _load       the clients of servers (_load.c, or Python where there is no C compiler)
    _loops      how the loops of others are started
    _server     the servers of clients (peers/*.c)
    peers/      servers in C, Go and Java
    _sizes      the same work at growing sizes: the cost per thread, and its growth
    _switch     a bare PyGreenlet_Switch, the yardstick of switch (_switch.c)
    spawn limited cancel switch deep depths parked waves timers locks hops echo shares churn fanout http wsgi files
    scale scale_spawn neutral neutral_files
                the benchmarks: one function per contender
    _runner     rounds in alternating order
    _stats      medians, spreads, ratios
    _report     the table, the sentence where plait loses, the JSON
    __main__    the command line

Beside them, ``python -m bench.instructions`` counts the instructions of a spawn, a switch and an echo (``_counted``), and
compares them with the recorded ones (``instructions.json``): what a noisy machine hides, that shows. And
``python -m bench.publish`` makes the page of ``docs/benchmarks`` of what runs have written with ``--json``:

    _results    a run, read back from its JSON
    _bars       the bars that plait has set itself, as data
    _plots      a case as a plot
    publish     the page

To add a benchmark, write a module with a ``BENCHMARK`` and name it in ``_model.BENCHMARKS``. A contender is any
function that runs in the child and reports its figures, so it may just as well start a program in another language.
"""

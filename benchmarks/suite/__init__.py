"""Speed beside other libraries: the same workloads at equal hyper-parameters, side by side, each in its own process.

    make bench                    everything: over an hour
    make bench-quick              shorter runs, fewer of them: ten minutes
    make bench-gpu                native environments on a CUDA device
    make bench ONLY="dqn-zoo"     one workload

or, in an environment that has the peers, `PYTHONPATH=benchmarks python -P -m suite --only dqn-zoo`. Writes a JSON file
for each workload into docs/results/bench, and from all that are there docs/benchmarks.md and its pictures.
"""

"""`make train-cartpole` for several seeds: the table and the picture of README.md.

As control_seeds.py, which it calls, but of `tfppo train cartpole`; writes cartpole_seeds.md, cartpole_seeds.png and
cartpole_seeds.jsonl into benchmarks/results.

    python benchmarks/cartpole_seeds.py --seeds 1 2 3 4 5 6 7 8 9 10
"""

import control_seeds

if __name__ == "__main__":
    control_seeds.main(["cartpole"], "cartpole_seeds")

"""Trains `make train-cartpole` with several seeds, and writes the table and the picture of README.md.

The script runs control_seeds.py with `tfppo train cartpole`. It writes cartpole_seeds.md, cartpole_seeds.png and
cartpole_seeds.jsonl to benchmarks/results.

    python benchmarks/cartpole_seeds.py --seeds 1 2 3 4 5 6 7 8 9 10
"""

import control_seeds

if __name__ == "__main__":
    control_seeds.main(["cartpole"], "cartpole_seeds")

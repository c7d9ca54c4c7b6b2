"""How fast tokenred is: against its peers, against the released formulation, against the machine.

``python -m benchmarks.speed`` measures everything on one core and writes ``results/cpu.json``;
``python -m benchmarks.speed.page`` puts those figures into ``docs/reference/speed.md``.
"""

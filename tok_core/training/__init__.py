"""The training engine: one loop for every tokenizer, a few files that each hold one idea.

    config.py          what a run is made of          engine.py       the loop itself
    schedule.py        learning rate per step         ema.py          the averaged weights
    data_order.py      which sample at which position checkpoint.py   the complete state on disk
    freezing.py        what trains, what stands still distributed.py  what processes share
    progress.py        bar and plain lines            logging.py      metrics.jsonl, trackers
    objective.py       losses and discriminator       weight_decay.py which parameters decay
"""

from __future__ import annotations

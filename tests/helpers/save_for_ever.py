"""Save one checkpoint after the other to one path until killed, each full of its own number.

PYTHONPATH=. python tests/helpers/save_for_ever.py PATH
"""

import itertools
import sys

import torch

from reliability_balance import ReliabilityBalancer
from reliability_balance.checkpoint import save

if __name__ == "__main__":
    balancer = ReliabilityBalancer(64, 2, num_anchors=500, attention="off")
    for number in itertools.count():
        with torch.no_grad():
            balancer.anchors.fill_(number)
        save(sys.argv[1], balancer, class_names=[str(number), "other"])
        if number == 0:
            print("saved", flush=True)

"""The cost of the out-of-distribution score."""

import numpy as np
import torch
from torchvision.models import resnet18

from benchmarks.cost.paired import alternate
from reliability_balance import BalancerOutput
from reliability_balance.calibration import Familiarity


def cost(seed: int) -> dict[str, float]:
    """CPU time of the score, in % of that of a ResNet-18's forward pass, a batch of 16."""
    torch.manual_seed(seed)
    encoder = resnet18().eval()
    images, embedding = torch.randn(16, 3, 224, 224), torch.rand(16, 512)
    stored = BalancerOutput(torch.zeros(2000, 2), torch.zeros(2000, 2), torch.rand(2000, 512))
    familiarity = Familiarity(512).fit(stored)
    output = BalancerOutput(torch.zeros(16, 2), torch.zeros(16, 2), embedding)
    with torch.inference_mode():
        seconds = alternate(
            {"encoder": lambda: encoder(images), "score": lambda: familiarity.distance(output)}, 10
        )
    median = {name: float(np.median(each)) for name, each in seconds.items()}
    return {"share": 100 * median["score"] / median["encoder"]}

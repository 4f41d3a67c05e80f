"""Settings of every test and every docstring example."""

import signal

import hypothesis
import pytest
import torch

# A shell that starts the tests in the background has them ignore Ctrl-C, and children inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The same inputs in each run, so that a verdict is one; `--hypothesis-profile search` draws others.
hypothesis.settings.register_profile("repeatable", deadline=None, max_examples=50, derandomize=True)
hypothesis.settings.register_profile("search", deadline=None, max_examples=500)
hypothesis.settings.load_profile("repeatable")


class TorchRandom:
    """Torch's generator as hypothesis wants it: seeded anew for each example, then put back."""

    seed = staticmethod(torch.manual_seed)
    getstate = staticmethod(torch.get_rng_state)
    setstate = staticmethod(torch.set_rng_state)


TORCH_RANDOM = TorchRandom()  # hypothesis keeps a weak reference only
hypothesis.register_random(TORCH_RANDOM)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)

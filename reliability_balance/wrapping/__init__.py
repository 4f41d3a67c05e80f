"""Put a balancer on a classifier: find the classifier's embedding, and prove that it is the one."""

from reliability_balance.wrapping.classifier import WrappedClassifier, attach, wrap

__all__ = [
    "WrappedClassifier",
    "attach",
    "wrap",
]

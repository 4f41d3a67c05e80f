"""Reference backbones: modules with an ``embedding_dim`` whose forward gives an embedding.

The balancer knows nothing of them; they are one way among others to get a (B, D) or (B, T, D)
embedding.
"""

if __name__ != "reliability_balance.backbones":
    # Two import paths would make two classes of each backbone, and isinstance would split.
    raise ImportError(f"import reliability_balance.backbones, not {__name__}")

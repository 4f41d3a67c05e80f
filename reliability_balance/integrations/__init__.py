"""Integrations that need an extra; importing this package imports none of them.

Import :mod:`reliability_balance.integrations.transformers` or
:mod:`reliability_balance.integrations.sklearn`.
"""

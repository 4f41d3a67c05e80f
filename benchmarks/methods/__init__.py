"""The compared methods: ours, and losses and methods of others written from their papers."""

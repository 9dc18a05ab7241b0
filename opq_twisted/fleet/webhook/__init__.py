"""The webhook: it tells another program what the engine noticed and did."""

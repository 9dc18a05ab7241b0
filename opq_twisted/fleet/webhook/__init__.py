"""The webhook: it tells another program about decisions and problems of the engine."""

"""The parts that both HTTP servers share: bounded connections, endpoints, and plain replies."""

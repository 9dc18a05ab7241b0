"""What the two HTTP servers share: bounded connections, listening, and plain answers."""

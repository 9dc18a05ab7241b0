"""The parts that several HTTP servers and clients share: connections, requests and replies."""
